//! Readings that are kept back: never offered unasked, sent once when they are asked for, and only those that were meant.

use super::*;
use crate::config::Selection;

const HOUR: i64 = 3_600_000_000;

fn asked(metrics: &[&str], from: i64, to: i64) -> Backfill {
    let metrics = metrics.iter().map(|m| (*m).to_owned()).collect();
    let at = |value: i64| Timestamp(START + value * HOUR);
    Backfill { of: Selection { metrics, ..Selection::default() }, from: at(from), to: at(to) }
}

fn offered(buffer: &Buffer) -> u64 {
    buffer.rows_to_seal().iter().map(|group| group.rows).sum()
}

#[test]
fn what_lies_in_a_deadband_is_sent_once_when_it_is_asked_for_and_nothing_else_of_it() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 40).unwrap();
    let sent: Vec<i64> = world.drain(&mut buffer).into_iter().map(|r| r.0).collect();
    assert_eq!(sent, (0..40).step_by(2).collect::<Vec<_>>());
    assert_eq!(offered(&buffer), 0);
    world.check(&mut buffer);

    // Days before and behind keep theirs; a start in the middle forgets nothing of the wish.
    assert_eq!(buffer.backfill(asked(&[], 10, 31)).unwrap(), 10);
    assert_eq!(buffer.backfill(asked(&["t"], 0, 40)).unwrap(), 0, "even values have that metric");
    assert_eq!(buffer.backfill(asked(&["p"], 20, 33)).unwrap(), 1, "those that weren't asked for before");
    world.seal(&mut buffer).unwrap();
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert!(!buffer.end_backfills().unwrap(), "a day is left");
    let all: Vec<i64> = world.drain(&mut buffer).into_iter().map(|r| r.0).collect();
    let expected = (0..40).filter(|v| v % 2 == 0 || (10..32).contains(v));
    assert_eq!(all, expected.collect::<Vec<_>>());
    assert!(buffer.end_backfills().unwrap() && !buffer.end_backfills().unwrap());
    assert_eq!(buffer.backfill(asked(&[], 10, 31)).unwrap(), 0, "it was sent");
    world.check(&mut buffer);
}

#[test]
fn what_comes_after_the_wish_is_kept_back_as_ever() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 6).unwrap();
    assert_eq!(buffer.backfill(asked(&[], 0, 1000)).unwrap(), 3);
    world.append_kept(&mut buffer, 6).unwrap();
    let sent: Vec<i64> = world.drain(&mut buffer).into_iter().map(|r| r.0).collect();
    assert_eq!(sent, [0, 1, 2, 3, 4, 5, 6, 8, 10]);
}

#[test]
fn of_a_source_that_is_kept_back_whole_a_metric_is_asked_for_and_the_rest_ends_as_it_would_have() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let kept = || [sources()[0].name.clone()].into();
    buffer.keep_back(kept());
    let facts = vec![SourceFacts { kept: true, ..sources()[0].clone() }];
    let batch = world.batch(8);
    let id = buffer.append(batch, &facts).unwrap().batch.unwrap().id;
    world.append_kept(&mut buffer, 1).unwrap();
    assert_eq!(offered(&buffer), 0);
    assert_eq!(buffer.backfill(asked(&["t"], 0, 8)).unwrap(), 4);
    drop(buffer);
    let (mut buffer, _) = world.open();
    buffer.keep_back(kept());
    assert_eq!(offered(&buffer), 4);
    let sent: Vec<i64> = world.drain(&mut buffer).into_iter().map(|r| r.0).collect();
    assert_eq!(sent, [0, 2, 4, 6]);
    assert_eq!(buffer.waits(id).unwrap(), None, "a part of it is in the outbox");
    world.release(&mut buffer).unwrap();
    let waits = buffer.waits(id).unwrap().unwrap();
    let recall = Recall { since: Timestamp(i64::MAX), readings: 0, in_flight: 0 };
    let cut = Cut { batch: id, fates: vec![Fate::Expired; waits.rows.len()] };
    assert_eq!(buffer.give_up(&[cut], recall, world.now).unwrap().expired, 4);
    world.check(&mut buffer);
}

#[test]
fn there_may_be_many_wishes_but_not_without_end() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_kept(&mut buffer, 240).unwrap();
    for wish in 0..100 {
        assert_eq!(buffer.backfill(asked(&[], wish * 2, wish * 2 + 2)).unwrap(), 1);
    }
    let more = buffer.backfill(asked(&[], 200, 202));
    assert!(matches!(more, Err(BufferError::Backfills(100))), "{more:?}");
    world.drain(&mut buffer);
    assert!(buffer.end_backfills().unwrap());
    assert_eq!(buffer.backfill(asked(&[], 200, 202)).unwrap(), 1);
}
