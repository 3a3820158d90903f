//! Readings that are given up: exact gaps, the right ones first, and room that is really there.

use super::*;

fn priority(name: &str) -> u8 {
    sources().iter().find(|s| s.name == name).map_or(9, |s| s.priority)
}

const FORGET: Recall = Recall { since: Timestamp(i64::MAX), readings: 0, in_flight: 0 };

#[test]
fn a_batch_of_two_priorities_is_two_rows_in_one_commit_and_the_lesser_goes_first() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let before = buffer.stats().unwrap().commits;
    let rows = world.append_mixed(&mut buffer, 9).unwrap().rows;
    world.append_mixed(&mut buffer, 3).unwrap();
    world.append(&mut buffer, 1).unwrap();
    assert_eq!(buffer.stats().unwrap().commits, before + 3);
    let value = |row: &Row| if let Value::Int(v) = row.value { v } else { -1 };
    assert_eq!(rows.iter().map(value).collect::<Vec<_>>(), [0, 3, 6, 1, 2, 4, 5, 7, 8]);
    let order = buffer.first_to_go(&priority);
    let of = |buffer: &mut Buffer, batch| -> Vec<i64> {
        buffer.waits(batch).unwrap().unwrap().rows.iter().map(value).collect()
    };
    let values: Vec<_> = order.iter().map(|batch| of(&mut buffer, *batch)).collect();
    assert_eq!(values, [vec![0, 3, 6], vec![9], vec![1, 2, 4, 5, 7, 8], vec![10, 11]]);
    let (newest, _) = (12, ());
    assert!(!values.concat().contains(&newest), "ids and counters go on from the newest batch");
    let order_after = {
        drop(buffer);
        world.open().0.first_to_go(&priority)
    };
    assert_eq!(order, order_after, "a start forgets nothing of it");
}

#[test]
fn gaps_are_exact_to_the_reading_and_fold_until_they_are_handed_out() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for _ in 0..6 {
        world.append_mixed(&mut buffer, 12).unwrap();
    }
    world.append(&mut buffer, 1).unwrap();
    let first = world.give_up(&mut buffer, 2).unwrap();
    let second = world.give_up(&mut buffer, 2).unwrap();
    assert_eq!((first.summarised, first.shed), (4, 4));
    assert_eq!(second, GivenUp { bytes: second.bytes, ..first });
    let gaps = buffer.gaps_to_seal().unwrap();
    // Values 0 to 47 are hours: hall has each third of them, in four days, of which one reason may have no part.
    assert!(gaps.len() <= 4, "{gaps:#?}");
    assert!(gaps.iter().all(|g| g.source.as_deref() == Some("hall")));
    let of = |reason| gaps.iter().filter(|g| g.reason == reason).filter_map(|g| g.readings).sum::<u64>();
    use tributary_contract::reject::GapReason;
    assert_eq!((of(GapReason::Summarised), of(GapReason::Shed)), (8, 8));
    assert_eq!(gaps.iter().map(|g| g.from_ts).min(), Some(Timestamp(START)));
    assert!(gaps.iter().all(|g| g.first_seq <= g.last_seq && g.bytes > Some(0)));
    let counters = buffer.stats().unwrap().books.counters;
    assert_eq!((counters.readings.summarised, counters.readings.shed), (8, 8));
    world.check(&mut buffer);
    // Handed out: the next ones stand in rows of their own.
    let more = world.give_up(&mut buffer, 2).unwrap();
    let all = buffer.gaps_to_seal().unwrap();
    assert_eq!(&all.iter().filter(|g| gaps.contains(g)).count(), &gaps.len(), "none of these has grown");
    let readings: u64 = all.iter().filter_map(|g| g.readings).sum();
    assert_eq!(readings, 16 + more.summarised + more.shed);
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(buffer.gaps_to_seal().unwrap(), all);
    world.check(&mut buffer);
}

#[test]
fn what_is_given_up_makes_pages_free_that_are_used_before_the_file_grows() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for _ in 0..200 {
        world.append(&mut buffer, 400).unwrap();
    }
    let full = buffer.sizes().unwrap();
    while world.give_up(&mut buffer, 50).unwrap().bytes > 0 {}
    let empty = buffer.sizes().unwrap();
    assert_eq!(empty.database, full.database, "the file doesn't shrink");
    let in_use = |sizes: &quota::Sizes| sizes.database - sizes.reusable;
    assert!(in_use(&empty) < in_use(&full) / 4, "{full:?} {empty:?}");
    for _ in 0..190 {
        world.append(&mut buffer, 400).unwrap();
    }
    let again = buffer.sizes().unwrap();
    assert!(again.database <= full.database, "{full:?} {again:?}");
}

#[test]
fn a_batch_of_which_the_outbox_holds_a_part_stays_and_what_was_seen_otherwise_is_refused() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    // Two days, of which one is sealed.
    let batch = world.append(&mut buffer, 30).unwrap().batch.unwrap().id;
    world.append(&mut buffer, 1).unwrap();
    let waits = buffer.waits(batch).unwrap().unwrap();
    world.seal(&mut buffer).unwrap();
    assert_eq!(buffer.waits(batch).unwrap(), None);
    let cut = Cut { batch, fates: vec![Fate::Shed; waits.rows.len()] };
    assert!(matches!(buffer.give_up(&[cut], FORGET, world.now), Err(BufferError::RowsTaken(_))));
    assert!(!buffer.is_poisoned());
    assert_eq!(buffer.gaps_to_seal().unwrap(), [], "nothing was counted");
    world.check(&mut buffer);
    world.deliver(&mut buffer).unwrap();
    world.release(&mut buffer).unwrap();
    let waits = buffer.waits(batch).unwrap().unwrap();
    assert_eq!(waits.rows.len(), 6, "the sealed ones have their end");
    let cut = Cut { batch, fates: vec![Fate::Expired; 6] };
    assert_eq!(buffer.give_up(&[cut], FORGET, world.now).unwrap().expired, 6);
    world.check(&mut buffer);
}

/// Two batches of two readings with a memory each, `old` and `new`, and one more.
fn remember(world: &mut World, buffer: &mut Buffer) {
    for memory in [b"old".as_slice(), b"new"] {
        let batch = NewBatch { memory: memory.to_vec(), ..world.batch(2) };
        buffer.append(batch, &sources()).unwrap();
    }
    world.append(buffer, 1).unwrap();
}

fn shed_all(buffer: &mut Buffer, recall: Recall, now: Timestamp) {
    let order = buffer.first_to_go(&priority);
    let cuts: Vec<Cut> =
        order.iter().map(|batch| Cut { batch: *batch, fates: vec![Fate::Shed; 2] }).collect();
    buffer.give_up(&cuts, recall, now).unwrap();
}

#[test]
fn what_a_broker_may_have_on_the_way_is_remembered_however_old_and_though_its_readings_are_gone() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    remember(&mut world, &mut buffer);
    shed_all(&mut buffer, Recall { in_flight: 1, ..FORGET }, world.now);
    assert_eq!(buffer.memories(Timestamp(i64::MAX), 1).unwrap(), [b"new".to_vec()]);
    world.check(&mut buffer);
}

#[test]
fn the_memory_of_redeliveries_outlives_the_readings_as_long_as_it_is_asked_for() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    remember(&mut world, &mut buffer);
    let since = world.now.plus(-1_000_000);
    shed_all(&mut buffer, Recall { since, readings: 100, in_flight: 0 }, world.now);
    assert_eq!(buffer.memories(Timestamp(0), 0).unwrap(), [b"new".to_vec()]);
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(buffer.memories(Timestamp(0), 0).unwrap(), [b"new".to_vec()]);
    world.check(&mut buffer);
    assert_eq!(buffer.trim(9, &|_| false).unwrap(), 1, "it goes like any batch without readings");
    assert_eq!(world.drain(&mut buffer), once(4..5));
}

#[test]
fn aggregates_are_shed_only_where_it_is_sure_that_they_never_arrive() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let seal = |buffer: &mut Buffer, table: Table| {
        let sealing = buffer.begin_seal().unwrap();
        let manifest = world.manifest(&sealing, &Namespace::default(), table, Timestamp(START).day(), 1);
        let contents = Contents::Aggregates { decisions: b"d".to_vec(), newest: Timestamp(START + 60) };
        finish_seal(buffer, &sealing, &manifest.key(), &[1; 100], &manifest, &contents).unwrap();
        sealing.number
    };
    let numbers: Vec<Number> = (0..5).map(|_| seal(&mut buffer, Table::Aggregates)).collect();
    let epoch = buffer.epoch();
    // The second was tried.
    buffer.save_progress(epoch, numbers[1], &Progress::Sealed, 1, world.now).unwrap();
    assert_eq!(buffer.sizes().unwrap().aggregates, 400);
    assert_eq!(buffer.shed_aggregates(1, world.now).unwrap(), 100);
    assert_eq!(buffer.shed_aggregates(1_000, world.now).unwrap(), 200);
    assert_eq!(buffer.shed_aggregates(1_000, world.now).unwrap(), 0, "the oldest may have been on its way");
    let check = |buffer: &mut Buffer| {
        let left: Vec<Number> = buffer.entries().unwrap().iter().map(|e| e.number).collect();
        assert_eq!(left, numbers[..2]);
        let stats = buffer.stats().unwrap();
        assert_eq!(stats.void.iter().collect::<Vec<_>>(), [(3, 5)]);
        assert_eq!(stats.outstanding.iter().collect::<Vec<_>>(), [(1, 2)]);
        assert_eq!(buffer.sizes().unwrap().segments, 200);
        assert_eq!(buffer.decisions().unwrap().len(), 5, "they aren't taken again");
        let gaps = buffer.gaps_to_seal().unwrap();
        assert_eq!(gaps.iter().map(|g| (g.readings, g.bytes)).collect::<Vec<_>>(), [(None, Some(100)); 3]);
        assert_eq!(gaps[0].to_ts, Timestamp(START + 60));
    };
    check(&mut buffer);
    assert_eq!(std::fs::read_dir(world.path("segments")).unwrap().count(), 2);
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(buffer.pending_readback(), []);
    let (void, outstanding) = {
        let stats = buffer.stats().unwrap();
        (stats.void, stats.outstanding)
    };
    assert!((3..=5).all(|n| void.contains(n)) && outstanding.iter().eq([(1, 2)]));
}
