//! Receipts that are honest, late, forged, or meant for a copy.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tributary_contract::id::{GatewayId, Namespace, SegmentId};
use tributary_contract::key::SegmentKey;
use tributary_contract::receipt::Quarantined;
use tributary_contract::table::Table;
use tributary_contract::time::Day;

use super::*;

const EPOCH: Epoch = Epoch(7);
const NOW: Timestamp = Timestamp(1_000_000_000);
const DELIVERED: Progress = Progress::Delivered { at: Timestamp(0) };

fn number(n: u64) -> Number {
    Number::new(n).unwrap()
}

fn digest(n: u64) -> Digest {
    Digest::of(&n.to_be_bytes())
}

fn entry(n: u64, state: Progress) -> Entry {
    let id = SegmentId { gateway: GatewayId::new("gw-1").unwrap(), epoch: EPOCH, number: number(n) };
    let key = SegmentKey { id, namespace: Namespace::default(), table: Table::Readings, day: Day(0) };
    let next_at = NOW.plus(1);
    Entry {
        number: number(n),
        epoch: EPOCH,
        key,
        digest: digest(n),
        size: 1,
        rows: 1,
        state,
        attempts: 0,
        next_at,
    }
}

fn facts(last: u64) -> BTreeMap<Epoch, EpochFacts> {
    BTreeMap::from([(EPOCH, EpochFacts { last, void: Ranges::new() })])
}

fn said(registered: impl IntoIterator<Item = u64>, highest: Option<u64>) -> EpochReceipt {
    let highest = highest.map(|n| Link { number: number(n), digest: digest(n) });
    EpochReceipt { registered: registered.into_iter().collect(), highest, ..Default::default() }
}

fn receipt(revision: u64, said: EpochReceipt) -> Receipt {
    Receipt {
        version: 1,
        gateway: GatewayId::new("gw-1").unwrap(),
        revision,
        written_at: NOW,
        epochs: BTreeMap::from([(EPOCH, said)]),
        snapshots: BTreeMap::new(),
    }
}

fn take(
    receipt: &Receipt,
    memory: &Memory,
    entries: &[Entry],
    epochs: &BTreeMap<Epoch, EpochFacts>,
) -> Verdict {
    let content = Digest::of(receipt.to_json().as_bytes());
    read(receipt, content, memory, &Known { entries, epochs }, NOW)
}

fn release(n: u64) -> ReceiptAction {
    ReceiptAction::Release { epoch: EPOCH, number: number(n) }
}

fn look(n: u64) -> ReceiptAction {
    ReceiptAction::LookFirst { epoch: EPOCH, number: number(n) }
}

fn is_fork(verdict: &Verdict) -> bool {
    matches!(verdict.actions[..], [ReceiptAction::Fork { .. }])
}

#[test]
fn what_is_delivered_and_registered_and_vouched_for_may_go() {
    let entries = [entry(1, DELIVERED), entry(2, DELIVERED), entry(3, DELIVERED)];
    let verdict = take(&receipt(1, said([1, 2], Some(2))), &Memory::default(), &entries, &facts(3));
    assert_eq!(verdict.actions, [release(1), release(2)]);
    assert_eq!((verdict.memory.revision, verdict.memory.taken_at), (1, Some(NOW)));
}

#[test]
fn numbers_above_the_one_that_vouches_stay() {
    let entries = [entry(1, DELIVERED), entry(2, DELIVERED)];
    let verdict = take(&receipt(1, said([1, 2], Some(1))), &Memory::default(), &entries, &facts(2));
    assert_eq!(verdict.actions, [release(1)]);
    let verdict = take(&receipt(1, said([1, 2], None)), &Memory::default(), &entries, &facts(2));
    assert_eq!(verdict.actions, []);
}

#[test]
fn a_released_segment_vouches_again_by_memory_and_an_unknown_one_vouches_for_nothing() {
    let first = take(&receipt(1, said([2], Some(2))), &Memory::default(), &[entry(2, DELIVERED)], &facts(2));
    assert_eq!(first.actions, [release(2)]);
    // Number 1 was delivered late; number 2 has left the outbox.
    let late = [entry(1, DELIVERED)];
    let receipt = receipt(2, said([1, 2], Some(2)));
    assert_eq!(take(&receipt, &first.memory, &late, &facts(2)).actions, [release(1)]);
    assert_eq!(take(&receipt, &Memory::default(), &late, &facts(2)).actions, []);
}

#[test]
fn registered_but_not_known_as_delivered_is_looked_for() {
    let held = Progress::Held { reason: "r".into() };
    let uploading = Progress::Uploading { upload_id: "u".into(), part_size: 1, parts: vec![] };
    let entries = [entry(1, Progress::Sealed), entry(2, uploading), entry(3, held)];
    let honest = receipt(1, said([1, 2, 3], Some(3)));
    let verdict = take(&honest, &Memory::default(), &entries, &facts(3));
    assert_eq!(verdict.actions, [look(1), look(2), look(3)]);
    // After the look the same receipt lets them go, though no newer one may come for a long time.
    let delivered = [entry(1, DELIVERED), entry(2, DELIVERED), entry(3, DELIVERED)];
    let again = take(&honest, &verdict.memory, &delivered, &facts(3));
    assert_eq!(again.actions, [release(1), release(2), release(3)]);
    assert_eq!(
        take(&honest, &verdict.memory, &entries, &facts(3)).actions,
        [],
        "one look a receipt is enough"
    );
}

#[test]
fn delivered_and_named_missing_or_a_day_without_receipt_is_looked_for() {
    let mut entries = [entry(1, DELIVERED), entry(2, Progress::Sealed)];
    let missing = EpochReceipt { missing: [1, 2].into_iter().collect(), ..Default::default() };
    assert_eq!(take(&receipt(1, missing), &Memory::default(), &entries, &facts(2)).actions, [look(1)]);
    assert_eq!(unreceipted(&entries, NOW), []);
    entries[0].next_at = NOW;
    entries[1].next_at = NOW;
    assert_eq!(unreceipted(&entries, NOW), [look(1)]);
}

#[test]
fn quarantine_is_taken_over_with_its_reason_and_never_releases() {
    let entries = [entry(1, DELIVERED), entry(2, Progress::Sealed)];
    let mut refused = said([1], Some(1));
    let why = Quarantined { reason: QuarantineReason::Unreadable, detail: "no footer".into() };
    refused.quarantined = BTreeMap::from([(1, why.clone()), (2, why)]);
    let verdict = take(&receipt(1, refused), &Memory::default(), &entries, &facts(2));
    let quarantine = ReceiptAction::Quarantine {
        epoch: EPOCH,
        number: number(1),
        reason: QuarantineReason::Unreadable,
        detail: "no footer".into(),
    };
    assert_eq!(verdict.actions, [quarantine, look(2)]);
}

#[test]
fn what_only_a_copy_of_this_buffer_can_have_caused_is_a_fork_and_releases_nothing() {
    let entries = [entry(1, DELIVERED), entry(2, DELIVERED)];
    let above = said([1, 2, 3], Some(2));
    let mut other = said([1, 2], Some(2));
    other.highest = Some(Link { number: number(2), digest: digest(99) });
    let mut missing = said([1], Some(1));
    missing.missing.insert(9);
    let mut branch = said([1], Some(1));
    let why = Quarantined { reason: QuarantineReason::Forked, detail: "second branch".into() };
    branch.quarantined = BTreeMap::from([(2, why)]);
    for forged in [above, other, missing, branch] {
        let verdict = take(&receipt(1, forged), &Memory::default(), &entries, &facts(2));
        assert!(is_fork(&verdict), "{:?}", verdict.actions);
        // Nor does any later one, however honest it looks.
        let honest = take(&receipt(2, said([1, 2], Some(2))), &verdict.memory, &entries, &facts(2));
        assert_eq!(honest.actions, []);
    }
    let mut with_void = facts(3);
    with_void.get_mut(&EPOCH).unwrap().void.insert(2);
    let verdict = take(&receipt(1, said([1, 2, 3], Some(3))), &Memory::default(), &entries, &with_void);
    assert!(is_fork(&verdict), "{:?}", verdict.actions);
}

#[test]
fn of_a_fork_only_what_can_never_be_registered_is_to_go_again() {
    let mut other = said([1, 2], Some(2));
    other.highest = Some(Link { number: number(2), digest: digest(99) });
    let taken = |state: Progress| {
        let entries = [entry(1, DELIVERED), entry(2, state)];
        match take(&receipt(1, other.clone()), &Memory::default(), &entries, &facts(2)).actions[..] {
            [ReceiptAction::Fork { taken, .. }] => taken,
            ref actions => panic!("{actions:?}"),
        }
    };
    assert_eq!(taken(DELIVERED), Some(number(2)));
    assert_eq!(taken(Progress::Sealed), Some(number(2)));
    assert_eq!(taken(Progress::Superseded { reason: "before".into() }), None, "once is enough");
    let entries = [entry(1, DELIVERED), entry(2, DELIVERED)];
    let mut branch = said([1], Some(1));
    let why = Quarantined { reason: QuarantineReason::Forked, detail: "second branch".into() };
    branch.quarantined = BTreeMap::from([(2, why)]);
    let aside = take(&receipt(1, branch), &Memory::default(), &entries, &facts(2));
    let second = Some(number(2));
    assert!(matches!(aside.actions[..], [ReceiptAction::Fork { taken, .. }] if taken == second), "{aside:?}");
    let above = take(&receipt(1, said([1, 2, 3], Some(3))), &Memory::default(), &entries, &facts(2));
    assert!(matches!(above.actions[..], [ReceiptAction::Fork { taken: None, .. }]), "{:?}", above.actions);
}

#[test]
fn a_fork_of_one_epoch_does_not_hold_another() {
    let other = Epoch(8);
    let entries = [entry(1, DELIVERED), Entry { epoch: other, ..entry(1, DELIVERED) }];
    let mut epochs = facts(1);
    epochs.insert(other, EpochFacts { last: 1, void: Ranges::new() });
    let mut both = receipt(1, said([1, 5], Some(5)));
    both.epochs.insert(other, said([1], Some(1)));
    both.epochs.insert(Epoch(99), said([1, 2, 3], Some(3)));
    let verdict = take(&both, &Memory::default(), &entries, &epochs);
    assert!(matches!(verdict.actions[0], ReceiptAction::Fork { epoch: EPOCH, number: 5, .. }));
    assert_eq!(verdict.actions[1..], [ReceiptAction::Release { epoch: other, number: number(1) }]);
}

#[test]
fn an_older_revision_is_ignored_and_reported_after_ten_minutes() {
    let entries = [entry(1, DELIVERED)];
    let memory = Memory { revision: 5, ..Memory::default() };
    for revision in [0, 4, 5] {
        let verdict = take(&receipt(revision, said([1], Some(1))), &memory, &entries, &facts(1));
        assert_eq!((verdict.taken, &verdict.actions[..]), (false, &[][..]));
        assert!(!verdict.memory.is_stale(NOW.plus(STALE_AFTER - 1)));
        assert!(verdict.memory.is_stale(NOW.plus(STALE_AFTER)));
        let newer = take(&receipt(6, said([1], Some(1))), &verdict.memory, &entries, &facts(1));
        assert!(newer.taken && !newer.memory.is_stale(NOW.plus(STALE_AFTER)));
    }
}

#[test]
fn memory_reads_back_from_its_stored_form() {
    let verdict =
        take(&receipt(3, said([1], Some(1))), &Memory::default(), &[entry(1, DELIVERED)], &facts(1));
    let json = serde_json::to_string(&verdict.memory).unwrap();
    assert_eq!(serde_json::from_str::<Memory>(&json).unwrap(), verdict.memory);
}

const LAST: u64 = 6;

fn any_state() -> impl Strategy<Value = Progress> {
    prop_oneof![
        1 => Just(Progress::Sealed),
        1 => Just(Progress::Uploading { upload_id: "u".into(), part_size: 1, parts: vec![] }),
        3 => Just(DELIVERED),
        1 => Just(Progress::Held { reason: "r".into() }),
        1 => Just(Progress::Quarantined { reason: "r".into() }),
        1 => Just(Progress::Superseded { reason: "r".into() }),
    ]
}

/// Anything that someone with write access to the bucket could put there, digests of ours included.
fn any_receipt() -> impl Strategy<Value = Receipt> {
    let numbers = || prop::collection::btree_set(1..LAST + 2, 0..6);
    let highest = prop::option::of((1..LAST + 2, prop_oneof![9 => Just(0u64), 1 => 90u64..99]));
    (0u64..5, numbers(), numbers(), prop::collection::btree_set(1..LAST + 2, 0..2), highest).prop_map(
        |(revision, registered, missing, quarantined, highest)| {
            let why = Quarantined { reason: QuarantineReason::WrongRows, detail: String::new() };
            receipt(
                revision,
                EpochReceipt {
                    registered: registered.into_iter().collect(),
                    highest: highest.map(|(n, other)| Link {
                        number: number(n),
                        digest: digest(if other == 0 { n } else { other }),
                    }),
                    quarantined: quarantined.into_iter().map(|n| (n, why.clone())).collect(),
                    missing: missing.into_iter().collect(),
                    void: Ranges::new(),
                },
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_receipts_releases_what_was_not_delivered(
        states in prop::collection::vec(any_state(), LAST as usize),
        receipts in prop::collection::vec(any_receipt(), 1..8),
    ) {
        let mut entries: Vec<_> = (1..).zip(states).map(|(n, state)| entry(n, state)).collect();
        let delivered: BTreeSet<_> =
            entries.iter().filter(|e| e.state == DELIVERED).map(|e| e.number.get()).collect();
        let mut memory = Memory::default();
        let mut forked = false;
        for receipt in receipts {
            let before = memory.revision;
            let verdict = take(&receipt, &memory, &entries, &facts(LAST));
            for action in &verdict.actions {
                match action {
                    ReceiptAction::Release { number, .. } => {
                        let (n, said) = (number.get(), &receipt.epochs[&EPOCH]);
                        prop_assert!(delivered.contains(&n), "{n} wasn't delivered");
                        prop_assert!(said.registered.contains(n), "{n} isn't registered");
                        prop_assert!(!said.quarantined.contains_key(&n), "{n} is quarantined");
                        prop_assert!(!forked, "{n} goes after a fork");
                        prop_assert!(receipt.revision >= before);
                        let highest = said.highest.unwrap();
                        prop_assert!(n <= highest.number.get());
                        prop_assert_eq!(highest.digest, digest(highest.number.get()));
                    }
                    ReceiptAction::Fork { .. } => forked = true,
                    ReceiptAction::LookFirst { .. } | ReceiptAction::Quarantine { .. } => {}
                }
            }
            let gone: BTreeSet<_> = verdict.actions.iter().filter_map(|a| match a {
                ReceiptAction::Release { number, .. } => Some(*number),
                _ => None,
            }).collect();
            prop_assert!(verdict.memory.revision >= before, "the revision went back");
            entries.retain(|e| !gone.contains(&e.number));
            memory = verdict.memory;
        }
    }
}
