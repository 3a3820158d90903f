//! Backfill requests of the object `desired`: each worked on once, counted exactly, and over when the lake has what it meant.

use tributary_contract::desired::Backfill as Request;
use tributary_contract::status::BackfillStatus;

use super::*;
use crate::config::Selection;

const HOUR: i64 = 3_600_000_000;

fn at(value: i64) -> Timestamp {
    Timestamp(START + value * HOUR)
}

/// Asks for the values from `from` to `to` without that, of one metric if it is named.
fn request(id: &str, metric: Option<&str>, from: i64, to: i64) -> Request {
    Request {
        id: id.into(),
        namespace: Namespace::default(),
        device: Some("boiler".into()),
        metric: metric.map(Into::into),
        from: at(from),
        to: at(to),
    }
}

fn taking(revision: u64, requests: Vec<Request>) -> Taking {
    let taken = Taken { revision, ..Taken::default() };
    Taking { taken, requests: requests.into_iter().map(|request| (request, None)).collect() }
}

/// Takes the requests as the whole document, and begins all that can be.
fn ask(buffer: &mut Buffer, revision: u64, requests: Vec<Request>) -> Vec<(String, u64)> {
    buffer.take_desired(&taking(revision, requests)).unwrap();
    begin(buffer)
}

/// Looks for the first pending request, two batches at a time, and begins it.
pub(super) fn begin_one(buffer: &mut Buffer) -> Result<Option<(String, u64)>, BufferError> {
    let Some(mut look) = buffer.look() else { return Ok(None) };
    while !buffer.look_on(&mut look, 2)? {}
    let id = look.id().to_owned();
    Ok(buffer.begin_request(look)?.map(|asked| (id, asked)))
}

fn begin(buffer: &mut Buffer) -> Vec<(String, u64)> {
    std::iter::from_fn(|| begin_one(buffer).unwrap()).collect()
}

fn shown(buffer: &Buffer, id: &str) -> BackfillStatus {
    let status = buffer.desired_status().unwrap();
    status.backfills.into_iter().find(|one| one.id == id).unwrap_or_else(|| panic!("no request {id}"))
}

/// State, asked for, waiting, given up, there before.
fn counts(buffer: &Buffer, id: &str) -> (String, [u64; 4]) {
    let one = shown(buffer, id);
    (one.state, [one.asked, one.waiting, one.given_up, one.already])
}

fn lake(world: &mut World, buffer: &mut Buffer) -> Vec<i64> {
    world.drain(buffer).into_iter().map(|row| row.0).collect()
}

fn evens_and(range: std::ops::Range<i64>) -> Vec<i64> {
    (0..40).filter(|v| v % 2 == 0 || range.contains(v)).collect()
}

#[test]
fn a_request_is_counted_exactly_and_ends_when_the_lake_has_what_it_asked_for() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 40).unwrap();
    lake(&mut world, &mut buffer);
    // Of the hours 10 to 29 the odd ones are kept back, the others are sealed; behind 40 nothing was ever measured.
    let all =
        vec![request("a", None, 10, 30), request("far", None, 36, 50), request("none", Some("x"), 0, 40)];
    let begun = ask(&mut buffer, 1, all.clone());
    assert_eq!(begun, [("a".into(), 10), ("far".into(), 2), ("none".into(), 0)]);
    assert_eq!(counts(&buffer, "a"), ("sending".into(), [10, 10, 0, 10]));
    assert_eq!(shown(&buffer, "far").absent, [(at(40), at(50))]);
    assert_eq!(counts(&buffer, "none"), ("done".into(), [0, 0, 0, 0]));
    assert_eq!(shown(&buffer, "none").absent, [(at(0), at(40))]);

    while world.seal(&mut buffer).unwrap().is_some() {}
    assert_eq!(counts(&buffer, "a"), ("sending".into(), [10, 0, 0, 10]));
    assert_eq!(buffer.end_requests().unwrap(), [""; 0], "nothing of it is in the lake");
    world.deliver(&mut buffer).unwrap();
    assert_eq!(buffer.end_requests().unwrap(), [""; 0], "no receipt says so");
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(begin(&mut buffer), [], "it was worked on");
    world.release(&mut buffer).unwrap();
    assert_eq!(buffer.end_requests().unwrap(), ["a", "far"]);
    assert_eq!(counts(&buffer, "a"), ("done".into(), [10, 0, 0, 10]));

    // The same range under another name, the same document, an older local way: nothing is sent again.
    let again = [all, vec![request("b", None, 10, 30)]].concat();
    assert_eq!(ask(&mut buffer, 2, again), [("b".into(), 0)]);
    let of = Selection { metrics: vec!["p".into()], ..Selection::default() };
    assert_eq!(buffer.backfill(Backfill { of, from: at(10), to: at(30) }).unwrap(), 0);
    let sent: Vec<i64> = lake(&mut world, &mut buffer);
    assert_eq!(sent, (0..40).filter(|v| v % 2 == 0 || (10..30).contains(v) || *v >= 36).collect::<Vec<_>>());
    world.check(&mut buffer);
}

#[test]
fn of_requests_that_overlap_each_reading_counts_for_the_first_over_restarts() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 40).unwrap();
    lake(&mut world, &mut buffer);
    let own = Backfill { of: Selection::default(), from: at(0), to: at(6) };
    let first = vec![request("a", None, 4, 20)];
    assert_eq!(ask(&mut buffer, 1, first.clone()), [("a".into(), 8)]);
    assert_eq!(buffer.backfill(own).unwrap(), 2, "of three one was asked for");
    let both = [first, vec![request("b", None, 0, 30)]].concat();
    assert_eq!(ask(&mut buffer, 2, both), [("b".into(), 5)]);
    for _ in 0..2 {
        assert_eq!(counts(&buffer, "a").1, [8, 8, 0, 8]);
        assert_eq!(counts(&buffer, "b").1, [5, 5, 0, 25]);
        drop(buffer);
        buffer = world.open().0;
    }
    assert_eq!(lake(&mut world, &mut buffer), evens_and(0..30));
    world.release(&mut buffer).unwrap();
    assert_eq!(buffer.end_requests().unwrap(), ["a", "b"]);
    assert!(buffer.end_backfills().unwrap());
}

#[test]
fn a_request_that_the_document_has_no_more_is_taken_back_and_others_keep_theirs() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 40).unwrap();
    lake(&mut world, &mut buffer);
    ask(&mut buffer, 1, vec![request("a", None, 0, 30), request("b", None, 20, 40)]);
    assert_eq!(counts(&buffer, "b").1, [5, 5, 0, 15]);
    ask(&mut buffer, 2, vec![request("b", None, 20, 40)]);
    // What both had asked for is the second's now.
    assert_eq!(counts(&buffer, "b").1[..2], [10, 10]);
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(lake(&mut world, &mut buffer), evens_and(20..40));
    // Under the same name it may be asked for again.
    let again = vec![request("b", None, 20, 40), request("a", None, 0, 30)];
    assert_eq!(ask(&mut buffer, 3, again), [("a".into(), 10)]);
    assert_eq!(lake(&mut world, &mut buffer).len(), 40);
}

#[test]
fn what_goes_before_it_is_sealed_is_said_to_be_given_up() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 40).unwrap();
    lake(&mut world, &mut buffer);
    world.append(&mut buffer, 1).unwrap();
    ask(&mut buffer, 1, vec![request("a", None, 0, 40)]);
    assert_eq!(world.give_up(&mut buffer, 9).unwrap().summarised, 10);
    for _ in 0..2 {
        assert_eq!(counts(&buffer, "a"), ("sending".into(), [20, 0, 20, 20]));
        drop(buffer);
        buffer = world.open().0;
    }
    assert_eq!(buffer.end_requests().unwrap(), ["a"]);
    assert_eq!(counts(&buffer, "a"), ("done".into(), [20, 0, 20, 20]));
    let said: u64 = buffer.gaps_to_seal().unwrap().iter().filter_map(|gap| gap.readings).sum();
    assert_eq!(said, 20, "the lake has it in gaps");
}

#[test]
fn what_was_asked_for_goes_again_under_a_new_epoch_when_its_segment_was_superseded() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 20).unwrap();
    lake(&mut world, &mut buffer);
    world.release(&mut buffer).unwrap();
    ask(&mut buffer, 1, vec![request("a", None, 0, 20)]);
    world.seal(&mut buffer).unwrap();
    let taken = buffer.due(world.now, 1).unwrap().remove(0);
    buffer.supersede(taken.epoch, taken.number, "another object", world.now).unwrap();
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(counts(&buffer, "a"), ("sending".into(), [10, 10, 0, 10]));
    assert_eq!(buffer.end_requests().unwrap(), [""; 0]);
    assert_eq!(lake(&mut world, &mut buffer), (0..20).collect::<Vec<_>>());
    world.release(&mut buffer).unwrap();
    assert_eq!(buffer.end_requests().unwrap(), ["a"]);
    let refused = buffer.refused_segments(9).unwrap();
    let [refused] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!((refused.number, refused.state.as_str()), (taken.number.get(), "superseded"));
    assert_eq!(
        (refused.epoch.as_str(), refused.reason.as_str()),
        (&*taken.epoch.to_string(), "another object")
    );
}

#[test]
fn a_quarantined_segment_says_why_and_does_not_keep_its_request_from_ending() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 20).unwrap();
    ask(&mut buffer, 1, vec![request("a", None, 0, 20)]);
    lake(&mut world, &mut buffer);
    let entry = buffer.entries().unwrap().remove(0);
    buffer.quarantine(entry.epoch, entry.number, &"w".repeat(9_000)).unwrap();
    let refused = buffer.refused_segments(9).unwrap();
    assert_eq!((refused.len(), refused[0].state.as_str()), (1, "quarantined"));
    assert!(refused[0].reason.starts_with('w') && refused[0].reason.len() < 1000, "others write it");
    world.release(&mut buffer).unwrap();
    assert_eq!(buffer.end_requests().unwrap(), ["a"]);
}

#[test]
fn only_so_many_requests_are_in_the_status_and_what_is_under_way_comes_first() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 40).unwrap();
    lake(&mut world, &mut buffer);
    let of = |n: i64| request(&format!("r{n}"), None, if n == 3 { 0 } else { 1000 }, 1010);
    ask(&mut buffer, 7, (0..100).map(of).collect());
    let status = buffer.desired_status().unwrap();
    assert_eq!((status.revision, status.backfills.len(), status.more_backfills), (7, 20, 80));
    let ids: Vec<&str> = status.backfills.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids[..3], ["r3", "r99", "r98"]);
}

/// Every step of taking, beginning, sealing and ending dies at each of its points in turn.
#[test]
fn wherever_we_die_a_request_is_worked_on_once_and_ends() {
    let mut died = std::collections::BTreeSet::new();
    for points in 0.. {
        let mut world = World::new();
        let (mut buffer, _) = world.open();
        world.append_kept(&mut buffer, 40).unwrap();
        lake(&mut world, &mut buffer);
        world.release(&mut buffer).unwrap();
        world.script.die_after(points);
        let requests = vec![request("a", None, 0, 20), request("b", None, 10, 30)];
        let story = |world: &mut World, buffer: &mut Buffer| -> Result<(), BufferError> {
            if buffer.desired().0.revision < 1 {
                buffer.take_desired(&taking(1, requests.clone()))?;
            }
            while begin_one(buffer)?.is_some() {}
            while world.seal(buffer)?.is_some() {}
            world.deliver(buffer)?;
            world.release(buffer)?;
            buffer.end_requests().map(drop)
        };
        let dead = story(&mut world, &mut buffer).is_err();
        world.script.live();
        if dead {
            died.insert(*world.script.seen.lock().unwrap().last().unwrap());
            drop(buffer);
            buffer = world.open().0;
            world.read_back(&mut buffer).unwrap();
            story(&mut world, &mut buffer).unwrap();
        }
        assert_eq!(lake(&mut world, &mut buffer), evens_and(0..30), "died after {points}");
        assert_eq!(counts(&buffer, "a").0, "done");
        assert_eq!(counts(&buffer, "a").1[..3], [10, 0, 0]);
        assert_eq!(counts(&buffer, "b").1[..3], [5, 0, 0]);
        world.check(&mut buffer);
        if !dead {
            break;
        }
    }
    for point in [
        "desired: after",
        "request: before",
        "request: after",
        "seal: file renamed",
        "request: after its end",
    ] {
        assert!(died.contains(point), "no run died at {point}: {died:?}");
    }
}

#[test]
fn what_comes_while_it_is_looked_for_is_not_meant_and_what_comes_between_begins_the_look_anew() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for _ in 0..4 {
        world.append_kept(&mut buffer, 10).unwrap();
    }
    lake(&mut world, &mut buffer);
    let own = |from, to| Backfill { of: Selection::default(), from: at(from), to: at(to) };
    buffer.take_desired(&taking(1, vec![request("a", None, 0, 100), request("b", None, 0, 100)])).unwrap();
    let mut look = buffer.look().unwrap();
    assert!(!buffer.look_on(&mut look, 3).unwrap());
    world.append_kept(&mut buffer, 10).unwrap();
    while !buffer.look_on(&mut look, 3).unwrap() {}
    assert_eq!(buffer.begin_request(look).unwrap(), Some(20));
    assert_eq!(counts(&buffer, "a").1, [20, 20, 0, 20]);

    // A wish at the gateway that asks for nothing new, and a document that has the request no more.
    let mut look = buffer.look().unwrap();
    while !buffer.look_on(&mut look, 3).unwrap() {}
    assert_eq!(buffer.backfill(own(0, 2)).unwrap(), 0);
    assert_eq!(buffer.begin_request(look).unwrap(), None);
    assert_eq!(counts(&buffer, "b").0, "pending");
    let mut look = buffer.look().unwrap();
    while !buffer.look_on(&mut look, 3).unwrap() {}
    buffer.take_desired(&taking(2, vec![request("a", None, 0, 100)])).unwrap();
    assert_eq!(buffer.begin_request(look).unwrap(), None);
    assert_eq!(counts(&buffer, "a").1, [20, 20, 0, 20]);
    let sent = lake(&mut world, &mut buffer);
    assert_eq!(sent, (0..50).filter(|v| *v < 40 || v % 2 == 0).collect::<Vec<_>>());
}
