//! The steps one by one, and then all of them against a bucket in memory that fails at random.

use std::path::Path;

use proptest::prelude::*;
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number, SegmentId};
use tributary_contract::key::{Prefix, SegmentKey};
use tributary_contract::table::Table;
use tributary_contract::time::Day;

use super::*;
use crate::upload::answer::{Code, Got, Operation, Transport};
use crate::upload::bucket::{Bucket, Content};
use crate::upload::classify::classify;
use crate::upload::memory::{Fault, MemoryBucket, Moment, Reply};
use crate::upload::perform::perform;

const NOW: Timestamp = Timestamp(1_000_000_000);
const HALF: Jitter = Jitter::new(0.5);

fn entry(bytes: &[u8]) -> Entry {
    let (epoch, number) = (Epoch(7), Number::FIRST);
    Entry {
        number,
        epoch,
        key: SegmentKey {
            id: SegmentId { gateway: GatewayId::new("gw-1").unwrap(), epoch, number },
            namespace: Namespace::default(),
            table: Table::Readings,
            day: Day(20_000),
        },
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        rows: 1,
        state: Progress::Sealed,
        attempts: 0,
        next_at: NOW,
    }
}

fn uploading(parts: &[u32]) -> Progress {
    let parts = parts.iter().map(|n| part(*n, 4)).collect();
    Progress::Uploading { upload_id: "u".into(), part_size: 4, parts }
}

fn part(number: u32, size: u64) -> PartDone {
    PartDone { number, size, etag: format!("e{number}"), checksum: String::new() }
}

fn task(state: Progress, doubt: Doubt) -> Task {
    Task { entry: Entry { state, ..entry(b"0123456789") }, doubt }
}

fn failure(operation: Operation, got: Got) -> Event {
    let answer = Answer { operation, got, detail: String::new() };
    Event::Failed { outcome: classify(&answer), answer }
}

fn status(operation: Operation, status: u16, code: Option<Code>) -> Event {
    failure(operation, Got::Reply { status, code })
}

fn after(task: &Task, event: &Event) -> Task {
    advance(task, event, NOW, HALF)
}

fn found(bytes: &[u8]) -> Event {
    Event::Found(Found { digest: Some(Digest::of(bytes)), size: bytes.len() as u64 })
}

const DELIVERED: Progress = Progress::Delivered { at: NOW };

#[test]
fn what_was_looked_for_and_is_absent_is_sent_when_its_pause_is_over() {
    // After several failures an absent object has a pause before it is sent.
    let failed = Entry { attempts: 3, ..entry(b"0123456789") };
    let looking = Task::resume(failed);
    assert_eq!(next_step(&looking, 100), Step::Look);
    let absent = after(&looking, &status(Operation::Head, 404, None));
    assert!(absent.entry.next_at > NOW);
    // As the deliverer takes it up again.
    let kept = absent.kept();
    let due = match kept {
        Some(doubt) => Task { entry: absent.entry, doubt },
        None => Task::resume(absent.entry),
    };
    assert_eq!(next_step(&due, 100), Step::Put);
    assert_eq!(task(DELIVERED, Doubt::None).kept(), None);
}

#[test]
fn a_segment_that_fits_one_request_is_put_and_a_greater_one_goes_in_parts() {
    let sealed = task(Progress::Sealed, Doubt::None);
    assert_eq!(next_step(&sealed, 10), Step::Put);
    assert_eq!(next_step(&sealed, 9), Step::CreateMultipart { part_size: 9 });
    let huge = Task { entry: Entry { size: 1 << 40, ..entry(b"") }, doubt: Doubt::None };
    let Step::CreateMultipart { part_size } = next_step(&huge, 5 << 20) else { panic!("no multipart") };
    assert!((1u64 << 40).div_ceil(part_size) <= 10_000, "more parts than a store takes");
}

#[test]
fn parts_cover_the_segment_once_and_in_order_and_then_it_is_completed() {
    let mut now = task(uploading(&[]), Doubt::None);
    let mut sent = Vec::new();
    while let Step::UploadPart { number, offset, length, .. } = next_step(&now, 4) {
        sent.push((number, offset, length));
        now = after(&now, &Event::PartStored(part(number, length)));
    }
    assert_eq!(sent, [(1, 0, 4), (2, 4, 4), (3, 8, 2)]);
    assert!(matches!(next_step(&now, 4), Step::Complete { parts, .. } if parts.len() == 3));
}

#[test]
fn an_open_upload_keeps_its_part_size_when_the_setting_changes() {
    let now = task(uploading(&[1]), Doubt::None);
    assert!(matches!(next_step(&now, 100), Step::UploadPart { number: 2, offset: 4, length: 4, .. }));
}

#[test]
fn after_a_restart_parts_that_the_bucket_has_are_not_sent_again_and_others_are() {
    let resumed = Task::resume(task(uploading(&[1, 2]), Doubt::None).entry);
    assert_eq!(next_step(&resumed, 4), Step::ListParts { upload_id: "u".into() });
    // The bucket has 2 and 3; a part 1 of another size counts for nothing.
    let listed = after(&resumed, &Event::Parts(vec![part(1, 3), part(2, 4), part(3, 2), part(9, 4)]));
    assert!(matches!(next_step(&listed, 4), Step::UploadPart { number: 1, .. }));
    let whole = after(&listed, &Event::PartStored(part(1, 4)));
    assert!(matches!(next_step(&whole, 4), Step::Complete { .. }));
}

#[test]
fn a_taken_name_is_looked_at_and_our_digest_there_is_success() {
    for (before, operation) in [
        (task(Progress::Sealed, Doubt::None), Operation::PutNew),
        (task(uploading(&[1, 2, 3]), Doubt::None), Operation::Complete),
    ] {
        let taken = after(&before, &status(operation, 412, Some(Code::PreconditionFailed)));
        assert_eq!((next_step(&taken, 100), taken.entry.next_at), (Step::Look, NOW));
        let done = after(&taken, &found(b"0123456789"));
        assert_eq!((&done.entry.state, done.doubt, done.entry.attempts), (&DELIVERED, Doubt::None, 0));
        assert_eq!(next_step(&done, 100), Step::Nothing);
    }
}

#[test]
fn another_digest_under_our_name_supersedes_the_segment() {
    let taken = task(Progress::Sealed, Doubt::Look(Why::NameTaken));
    let done = after(&taken, &found(b"another"));
    let Progress::Superseded { reason } = &done.entry.state else { panic!("{:?}", done.entry.state) };
    assert!(reason.contains(&Digest::of(b"another").to_string()), "{reason}");
    assert_eq!(next_step(&done, 100), Step::Nothing);
}

#[test]
fn an_object_without_a_digest_is_neither_called_ours_nor_called_anothers() {
    let blind = Event::Found(Found { digest: None, size: 10 });
    let held = after(&task(Progress::Sealed, Doubt::Look(Why::NameTaken)), &blind);
    assert!(matches!(held.entry.state, Progress::Held { .. }));
    let kept = after(&task(DELIVERED, Doubt::Look(Why::NoReceipt)), &blind);
    assert_eq!(kept.entry.state, DELIVERED);
}

#[test]
fn a_conflict_of_two_requests_repeats_a_put_and_looks_after_a_complete() {
    let conflict = |op| status(op, 409, Some(Code::ConditionalRequestConflict));
    let put = after(&task(Progress::Sealed, Doubt::None), &conflict(Operation::PutNew));
    assert_eq!(next_step(&put, 100), Step::Put);
    assert!(put.entry.next_at > NOW);
    let complete = after(&task(uploading(&[1, 2, 3]), Doubt::None), &conflict(Operation::Complete));
    assert_eq!(next_step(&complete, 100), Step::Look);
}

#[test]
fn a_vanished_upload_is_looked_for_and_begun_anew_only_if_the_object_is_absent() {
    let gone = status(Operation::Complete, 404, Some(Code::NoSuchUpload));
    let looking = after(&task(uploading(&[1, 2, 3]), Doubt::None), &gone);
    assert_eq!(next_step(&looking, 4), Step::Look);
    assert_eq!(after(&looking, &found(b"0123456789")).entry.state, DELIVERED);
    let anew = after(&looking, &status(Operation::Head, 404, None));
    assert_eq!(
        (&anew.entry.state, next_step(&anew, 4)),
        (&Progress::Sealed, Step::CreateMultipart { part_size: 4 })
    );
}

#[test]
fn a_lost_reply_to_complete_is_looked_for_and_then_the_parts_are_listed() {
    let lost = failure(Operation::Complete, Got::Nothing(Transport::NoReply));
    let looking = after(&task(uploading(&[1, 2, 3]), Doubt::None), &lost);
    assert_eq!(next_step(&looking, 4), Step::Look);
    let absent = after(&looking, &status(Operation::Head, 404, None));
    assert_eq!(next_step(&absent, 4), Step::ListParts { upload_id: "u".into() });
}

#[test]
fn a_look_that_is_forbidden_never_stops_an_upload() {
    let forbidden = status(Operation::Head, 403, None);
    // It may be absent: a create-only request settles it.
    for why in [Why::ReplyLost, Why::UploadGone, Why::Receipt] {
        let now = after(&task(Progress::Sealed, Doubt::Look(why)), &forbidden);
        assert_eq!(next_step(&now, 100), Step::Put, "{why:?}");
    }
    // It is there; whose it is can't be seen: wait, and keep everything.
    let taken = after(&task(Progress::Sealed, Doubt::Look(Why::NameTaken)), &forbidden);
    assert_eq!((next_step(&taken, 100), &taken.entry.state), (Step::Look, &Progress::Sealed));
    assert!(taken.entry.next_at > NOW);
    // Nothing hints that it is gone.
    let kept = after(&task(DELIVERED, Doubt::Look(Why::NoReceipt)), &forbidden);
    assert_eq!((next_step(&kept, 100), &kept.entry.state), (Step::Nothing, &DELIVERED));
}

#[test]
fn a_delivered_segment_that_is_gone_is_sent_again() {
    for why in [Why::NoReceipt, Why::Receipt] {
        let looking = Task::look(task(DELIVERED, Doubt::None).entry, why, NOW);
        assert_eq!(next_step(&looking, 100), Step::Look);
        let absent = after(&looking, &status(Operation::Head, 404, None));
        assert_eq!((next_step(&absent, 100), &absent.entry.state), (Step::Put, &Progress::Sealed));
        let there = after(&looking, &found(b"0123456789"));
        assert_eq!((&there.entry.state, there.entry.next_at), (&DELIVERED, NOW.plus(DAY_MICROS)));
    }
}

#[test]
fn a_segment_that_is_refused_is_held_and_a_start_tries_it_once_more() {
    let refused = status(Operation::PutNew, 400, Some(Code::EntityTooLarge));
    let held = after(&task(Progress::Sealed, Doubt::None), &refused);
    assert!(matches!(&held.entry.state, Progress::Held { reason } if reason.contains("EntityTooLarge")));
    assert_eq!(next_step(&held, 100), Step::Nothing);
    let again = Task::retry_held(held.entry, NOW);
    assert_eq!(next_step(&again, 100), Step::Look);
    let put = after(&again, &status(Operation::Head, 404, None));
    assert_eq!(next_step(&put, 100), Step::Put);
}

#[test]
fn a_store_that_takes_nothing_changes_no_entry_and_is_asked_again_at_the_longest_pause() {
    let before = task(uploading(&[1]), Doubt::None);
    let now = after(&before, &status(Operation::UploadPart, 403, Some(Code::AccessDenied)));
    assert_eq!((&now.entry.state, now.entry.attempts, now.doubt), (&before.entry.state, 0, before.doubt));
    assert_eq!(now.entry.next_at, NOW.plus(BACKOFF.longest()));
}

#[test]
fn a_failed_attempt_before_a_restart_is_looked_for_instead_of_sent_again() {
    let mut tried = task(Progress::Sealed, Doubt::None).entry;
    assert_eq!(next_step(&Task::resume(tried.clone()), 100), Step::Put);
    tried.attempts = 1;
    assert_eq!(next_step(&Task::resume(tried), 100), Step::Look);
}

#[test]
fn nothing_moves_what_is_a_persons_or_another_epochs_business() {
    let forbidden = status(Operation::Head, 403, None);
    for state in [Progress::Quarantined { reason: "r".into() }, Progress::Superseded { reason: "r".into() }] {
        for doubt in [Doubt::None, Doubt::Parts, Doubt::Look(Why::Receipt)] {
            let before = task(state.clone(), doubt);
            assert_eq!(next_step(&before, 100), Step::Nothing);
            for event in [Event::Stored, found(b"another"), forbidden.clone()] {
                assert_eq!(after(&before, &event).entry, before.entry);
            }
        }
    }
}

/// Drives one segment until it is delivered, with a script of faults and with deaths between steps.
async fn drive(
    bucket: &MemoryBucket,
    file: &Path,
    bytes: &[u8],
    deaths: &[bool],
) -> Result<Task, TestCaseError> {
    let prefix = Prefix::default();
    let mut deaths = deaths.iter().copied();
    let mut now = NOW;
    let mut task = Task::resume(entry(bytes));
    for _ in 0..400 {
        now = now.max(task.entry.next_at);
        let step = next_step(&task, 4);
        let Some(event) = perform(bucket, &prefix, &task.entry, file, &step, false).await else {
            return Ok(task);
        };
        let next = advance(&task, &event, now, HALF);
        prop_assert!(
            task.entry.state.may_become(&next.entry.state),
            "{:?} became {:?} by {event:?}",
            task.entry.state,
            next.entry.state
        );
        task = match deaths.next() {
            // Dead after the request, before the entry is saved; or after it, and the doubt is forgotten.
            Some(true) => Task::resume(task.entry),
            Some(false) => Task::resume(next.entry),
            None => next,
        };
    }
    Err(TestCaseError::fail(format!("not delivered after 400 steps: {task:?}, {:?}", bucket.log())))
}

fn a_fault() -> impl Strategy<Value = Option<Fault>> {
    let moment = prop_oneof![Just(Moment::Before), Just(Moment::After), Just(Moment::Delayed)];
    let reply = prop_oneof![
        Just(Reply::Nothing(Transport::NoReply)),
        Just(Reply::Status(500, Some(Code::InternalError))),
        Just(Reply::Status(502, None)),
        Just(Reply::Status(200, None)),
    ];
    // These are only ever said by a store that did nothing.
    let honest = prop_oneof![
        Just(Reply::Nothing(Transport::NoConnection)),
        Just(Reply::Status(503, Some(Code::SlowDown))),
        Just(Reply::Status(409, Some(Code::ConditionalRequestConflict))),
        Just(Reply::Status(403, Some(Code::AccessDenied))),
        Just(Reply::Status(403, None)),
        Just(Reply::Status(400, Some(Code::BadDigest))),
        Just(Reply::Status(400, Some(Code::SlowBody))),
    ];
    prop_oneof![
        2 => Just(None),
        2 => (moment, reply).prop_map(|(moment, reply)| Some(Fault { moment, reply })),
        1 => honest.prop_map(|reply| Some(Fault::before(reply))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_bucket_answers_and_whenever_we_die_a_segment_is_delivered_once(
        length in 1usize..14,
        faults in prop::collection::vec(a_fault(), 0..25),
        deaths in prop::collection::vec(any::<bool>(), 0..12),
        hides in any::<bool>(),
    ) {
        let bytes = &b"0123456789abcdef"[..length];
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("segment");
        std::fs::write(&file, bytes).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bucket = if hides { MemoryBucket::that_hides_absence() } else { MemoryBucket::new() };
            bucket.script(faults);
            let done = drive(&bucket, &file, bytes, &deaths).await?;
            let delivered = matches!(done.entry.state, Progress::Delivered { .. });
            prop_assert!(delivered, "{:?}", done.entry.state);
            let key = done.entry.key.object_key(&Prefix::default());
            prop_assert!(bucket.object(&key).is_some_and(|o| o == bytes));
            prop_assert_eq!(bucket.creations(&key), 1);
            // Deleted behind our back: the look finds out, it is sent again, and that once too.
            bucket.delete(&key);
            let mut again = Task::look(done.entry, Why::Receipt, NOW);
            while let Some(event) =
                perform(&bucket, &Prefix::default(), &again.entry, &file, &next_step(&again, 4), false).await
            {
                again = advance(&again, &event, NOW, HALF);
            }
            prop_assert!(bucket.object(&key).is_some_and(|o| o == bytes));
            prop_assert_eq!(bucket.creations(&key), 2);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_file_damaged_on_our_disk_is_held_and_never_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("segment");
    std::fs::write(&file, b"damaged!!").unwrap();
    for sealed in [&b"as sealed"[..], b"as sealed, but longer"] {
        for part_size in [4, 100] {
            let bucket = MemoryBucket::new();
            let mut task = Task::resume(entry(sealed));
            loop {
                let step = next_step(&task, part_size);
                let Some(event) =
                    perform(&bucket, &Prefix::default(), &task.entry, &file, &step, false).await
                else {
                    break;
                };
                task = advance(&task, &event, NOW, HALF);
            }
            assert!(matches!(task.entry.state, Progress::Held { .. }), "{:?}", task.entry.state);
            assert_eq!(bucket.keys(), Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn a_name_taken_by_another_object_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("segment");
    std::fs::write(&file, b"0123456789").unwrap();
    for part_size in [4, 100] {
        let bucket = MemoryBucket::new();
        let mut task = Task::resume(entry(b"0123456789"));
        let key = task.entry.key.object_key(&Prefix::default());
        let theirs = bytes::Bytes::from_static(b"theirs");
        bucket.put_new(&key, Content::Bytes(theirs.clone()), Digest::of(&theirs)).await.unwrap();
        loop {
            let step = next_step(&task, part_size);
            let Some(event) = perform(&bucket, &Prefix::default(), &task.entry, &file, &step, false).await
            else {
                break;
            };
            task = advance(&task, &event, NOW, HALF);
        }
        assert!(matches!(task.entry.state, Progress::Superseded { .. }), "{:?}", task.entry.state);
        assert_eq!(bucket.object(&key), Some(theirs));
    }
}

#[tokio::test]
async fn a_restart_in_the_middle_of_parts_sends_no_part_twice() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("segment");
    std::fs::write(&file, b"0123456789").unwrap();
    let bucket = MemoryBucket::new();
    let mut task = Task::resume(entry(b"0123456789"));
    let mut saved = task.entry.clone();
    loop {
        let step = next_step(&task, 4);
        let Some(event) = perform(&bucket, &Prefix::default(), &task.entry, &file, &step, false).await else {
            break;
        };
        task = advance(&task, &event, NOW, HALF);
        match step {
            Step::CreateMultipart { .. } => saved = task.entry.clone(),
            // Dead with the reply in hand and nothing saved since the upload was opened.
            Step::UploadPart { number: 2, .. } => task = Task::resume(saved.clone()),
            _ => {}
        }
    }
    assert!(matches!(task.entry.state, Progress::Delivered { .. }), "{:?}", task.entry.state);
    let operations: Vec<_> = bucket.log().into_iter().map(|(operation, _)| operation).collect();
    use Operation::{Complete, CreateMultipart, ListParts, UploadPart};
    assert_eq!(operations, [CreateMultipart, UploadPart, UploadPart, ListParts, UploadPart, Complete]);
    assert_eq!(bucket.received(), 10);
}
