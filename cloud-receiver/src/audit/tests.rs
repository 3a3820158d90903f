//! What the audit finds, and what it has to leave in peace.

use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::Counters;
use tributary_contract::receipt::{EpochReceipt, Quarantined};
use tributary_contract::reject::QuarantineReason;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::judge::judge;
use super::*;
use crate::fixture::{Forge, Sealed};

const EPOCH: Epoch = Epoch(1);

/// Counters after so many sealed readings, of which so many are registered.
fn counted(sealed: u64, registered: u64) -> Counters {
    let mut counters = Counters::default();
    (counters.messages.received, counters.messages.accepted) = (sealed, sealed);
    (counters.readings.journaled, counters.readings.sealed) = (sealed, sealed);
    counters.readings.registered = registered;
    counters
}

fn gateway() -> GatewayId {
    GatewayId::new("gw-1").unwrap()
}

/// Segments 1 to 3 of readings with ten rows each and 4 of gaps with two: all in their tables, with receipt and status.
fn sound() -> Evidence {
    let mut forge = Forge::new("gw-1", EPOCH.0);
    let mut sealed: Vec<Sealed> = (1..=3)
        .map(|n| forge.seal_with(Table::Readings, 10, |m| m.counters = counted(10 * n, 10 * (n - 1))))
        .collect();
    sealed.push(forge.seal_with(Table::Gaps, 2, |m| m.counters = counted(30, 20)));
    let mut evidence = Evidence::default();
    let mut receipt = EpochReceipt::default();
    for s in &sealed {
        let name = format!("{}.{}", s.key.namespace, s.key.table);
        evidence.held.entry(s.key.id.clone()).or_default().insert(name, s.manifest.rows);
        evidence.segments.insert(s.key.id.clone(), Ok(s.manifest.clone()));
        receipt.registered.insert(s.key.id.number.get());
    }
    let receipt = Receipt {
        version: FORMAT_VERSION,
        gateway: gateway(),
        revision: 1,
        written_at: Timestamp(1),
        epochs: [(EPOCH, receipt)].into(),
        snapshots: BTreeMap::new(),
    };
    evidence.receipts.insert(gateway(), receipt);
    let status = r#"{"version":1,"gateway":"gw-1","epoch":"0000000000000001","at":5,"agent":"1"}"#;
    let mut status: GatewayStatus = serde_json::from_str(status).unwrap();
    status.counters = counted(30, 30);
    status.segments.last_number = 4;
    evidence.statuses.insert(gateway(), status);
    evidence
}

/// The id of segment `number`.
fn id(evidence: &Evidence, number: u64) -> SegmentId {
    evidence.segments.keys().find(|id| id.number.get() == number).unwrap().clone()
}

/// Kind and number of each finding.
fn found(evidence: &Evidence) -> Vec<(Kind, Option<u64>)> {
    judge(evidence).findings.into_iter().map(|f| (f.kind, f.number)).collect()
}

fn receipt(evidence: &mut Evidence) -> &mut EpochReceipt {
    evidence.receipts.get_mut(&gateway()).unwrap().epochs.get_mut(&EPOCH).unwrap()
}

#[test]
fn a_lake_that_fits_has_no_findings_and_its_segments_and_readings_are_counted() {
    let verdict = judge(&sound());
    assert_eq!(verdict.findings, []);
    let [epoch] = &verdict.epochs[..] else { panic!("{verdict:?}") };
    assert_eq!((epoch.registered, epoch.readings, epoch.waiting), (4, 30, 0));
    assert!(verdict.text().ends_with("0 findings"), "{}", verdict.text());
}

#[test]
fn a_removed_segment_is_found_unless_a_gap_says_that_it_was_left_out() {
    let mut evidence = sound();
    let second = id(&evidence, 2);
    evidence.held.remove(&second);
    assert_eq!(
        found(&evidence),
        [(Kind::Counter, None), (Kind::Removed, Some(2))],
        "the status knows of it too"
    );
    evidence.left_out.entry((gateway(), EPOCH)).or_default().insert(2);
    assert_eq!(found(&evidence), []);
}

#[test]
fn a_removed_row_a_doubled_row_and_a_segment_in_two_tables_are_found() {
    for (rows, kind) in [(9, Kind::Rows), (11, Kind::Doubled)] {
        let mut evidence = sound();
        let of = id(&evidence, 4);
        evidence.held.get_mut(&of).unwrap().insert("tributary.gaps".into(), rows - 8);
        assert_eq!(found(&evidence), [(kind, Some(4))]);
    }
    let mut evidence = sound();
    let of = id(&evidence, 4);
    evidence.held.get_mut(&of).unwrap().insert("other.gaps".into(), 1);
    assert_eq!(found(&evidence), [(Kind::Doubled, Some(4)), (Kind::Doubled, Some(4))]);
    let mut evidence = sound();
    evidence.doubled.push((gateway(), EPOCH, 77));
    let findings = judge(&evidence).findings;
    assert!(findings.len() == 1 && findings[0].detail.contains("seq 77"), "{findings:?}");
}

#[test]
fn a_forged_counter_is_found_where_the_rows_contradict_it() {
    let forge = |evidence: &mut Evidence, number, change: &dyn Fn(&mut Counters)| {
        let of = id(evidence, number);
        change(&mut evidence.segments.get_mut(&of).unwrap().as_mut().unwrap().counters);
    };
    // It keeps both laws and still can't be: one more sealed than there are rows.
    let mut evidence = sound();
    forge(&mut evidence, 2, &|c| *c = counted(21, 10));
    let kinds = found(&evidence);
    assert!(kinds.contains(&(Kind::Counter, Some(2))), "{kinds:?}");
    let mut evidence = sound();
    forge(&mut evidence, 4, &|c| c.messages.received = 29);
    assert_eq!(found(&evidence), [(Kind::Counter, Some(4))], "a counter shrank");
    for change in [
        |c: &mut Counters| c.readings.registered = 31,
        |c: &mut Counters| c.readings.sealed = 29,
        |c: &mut Counters| c.messages.redelivered = 1,
    ] {
        let mut evidence = sound();
        change(&mut evidence.statuses.get_mut(&gateway()).unwrap().counters);
        let kinds = found(&evidence);
        assert!(!kinds.is_empty() && kinds.iter().all(|k| *k == (Kind::Counter, None)), "{kinds:?}");
    }
}

#[test]
fn a_number_that_nobody_accounts_for_is_a_hole() {
    let mut evidence = sound();
    let third = id(&evidence, 3);
    evidence.held.remove(&third);
    evidence.segments.remove(&third);
    receipt(&mut evidence).registered.remove(3);
    let newest = id(&evidence, 4);
    evidence.segments.get_mut(&newest).unwrap().as_mut().unwrap().outstanding.remove(3);
    evidence.statuses.clear();
    assert_eq!(found(&evidence), [(Kind::Hole, Some(3))]);
    // Each of these accounts for it.
    let mut missing = evidence.clone();
    receipt(&mut missing).missing.insert(3);
    let mut void = evidence.clone();
    receipt(&mut void).void.insert(3);
    let mut refused = evidence.clone();
    let why = Quarantined { reason: QuarantineReason::WrongRows, detail: "test".into() };
    receipt(&mut refused).quarantined.insert(3, why);
    let mut outstanding = evidence;
    outstanding.segments.get_mut(&newest).unwrap().as_mut().unwrap().outstanding.insert(3);
    for accounted in [missing, void, refused, outstanding] {
        assert_eq!(found(&accounted), []);
    }
}

#[test]
fn what_is_on_its_way_is_no_finding() {
    let mut evidence = sound();
    let newest = id(&evidence, 4);
    evidence.held.remove(&newest);
    receipt(&mut evidence).registered.remove(4);
    let verdict = judge(&evidence);
    assert_eq!((verdict.findings.len(), verdict.epochs[0].waiting), (0, 1), "{verdict:?}");
}

#[test]
fn an_object_that_cannot_be_read_and_rows_of_nobody_are_found() {
    let mut evidence = sound();
    let newest = id(&evidence, 4);
    evidence.segments.insert(newest, Err("cut off".into()));
    evidence.foreign.insert("tributary.readings".into(), 5);
    assert_eq!(found(&evidence), [(Kind::Foreign, None), (Kind::Unreadable, Some(4))]);
}
