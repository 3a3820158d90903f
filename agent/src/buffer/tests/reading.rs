//! What reading for people promises: all is there, nothing is changed, damage is named.

use std::fs;
use std::path::Path;

use tributary_contract::reject::RejectReason;

use super::*;
use crate::buffer::reader::{Ask, BatchFacts, Page, Stopped};
use crate::clock::Moment;

type Bytes = Vec<(String, Vec<u8>)>;

fn gateway() -> GatewayId {
    GatewayId::new(GATEWAY).unwrap()
}

fn folder(dir: &Path) -> Bytes {
    let mut found: Bytes = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            found.extend(folder(&entry.path()).into_iter().map(|(n, b)| (format!("{name}/{n}"), b)));
        } else {
            found.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

fn all_batches(mut look: impl FnMut(&Ask) -> Page) -> Vec<BatchFacts> {
    let (mut all, mut after) = (Vec::new(), i64::MIN);
    loop {
        let ask = Ask::Batches { after, from: Timestamp(i64::MIN), to: Timestamp(i64::MAX) };
        let Page::Batches { batches, faults, next } = look(&ask) else { panic!("another page") };
        assert_eq!(faults, []);
        all.extend(batches);
        match next {
            Some(next) => after = next,
            None => return all,
        }
    }
}

fn rows(batches: &[BatchFacts]) -> usize {
    batches.iter().map(|b| b.read().unwrap().len()).sum()
}

#[test]
fn a_stopped_buffer_is_read_whole_and_not_a_byte_of_its_folder_changes() {
    for clean in [true, false] {
        let mut world = World::new();
        let (mut buffer, _) = world.open();
        for _ in 0..30 {
            world.append(&mut buffer, 7).unwrap();
        }
        assert!(Stopped::open(&world.path(""), &gateway()).unwrap().is_none(), "the buffer is open");
        let live = all_batches(|ask| buffer.read(ask).unwrap());
        if clean {
            buffer.stop().unwrap();
        } else {
            drop(buffer);
        }
        let before = folder(&world.path(""));
        let stopped = Stopped::open(&world.path(""), &gateway()).unwrap().unwrap();
        let read = all_batches(|ask| stopped.read(ask).unwrap());
        assert_eq!((rows(&read), &read), (210, &live));
        for ask in [
            Ask::Facts,
            Ask::Series { after: -1 },
            Ask::Segments { after: (0, 0) },
            Ask::Strays,
            Ask::Rejects { after: 0 },
            Ask::Others,
        ] {
            stopped.read(&ask).unwrap();
        }
        assert_eq!(stopped.structure().unwrap(), None);
        drop(stopped);
        assert_eq!(folder(&world.path("")), before, "clean: {clean}");
        let (_, events) = world.open();
        assert!(events.iter().all(|e| !matches!(e, OpenEvent::Damaged { .. })), "{events:?}");
    }
}

#[test]
fn a_lost_log_stays_lost_for_the_next_start_to_see() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 3).unwrap();
    drop(buffer);
    fs::remove_file(world.path("buffer.db-wal")).unwrap();
    let stopped = Stopped::open(&world.path(""), &gateway()).unwrap();
    drop(stopped.map(|s| s.read(&Ask::Facts)));
    assert!(!world.path("buffer.db-wal").exists());
}

#[test]
fn pages_end_where_the_next_begins_both_ways() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for _ in 0..5 {
        // Texts that don't shrink fill a page.
        let mut batch = world.batch(600);
        let mut random = fastrand::Rng::with_seed(5);
        for reading in &mut batch.accepted[0].readings {
            let text: String = (0..600).map(|_| random.alphanumeric()).collect();
            reading.value = Value::Text(text);
        }
        buffer.append(batch, &sources()).unwrap();
    }
    let forth = all_batches(|ask| buffer.read(ask).unwrap());
    let (mut back, mut before, mut pages) = (Vec::new(), i64::MAX, 0);
    loop {
        let page = buffer.read(&Ask::BatchesBefore { before }).unwrap();
        let Page::Batches { batches, next, .. } = page else { panic!("another page") };
        back.extend(batches);
        pages += 1;
        match next {
            Some(next) => before = next,
            None => break,
        }
    }
    back.reverse();
    assert_eq!(back, forth);
    assert!(pages > 2, "{pages}");
    assert_eq!(rows(&forth), 3000);
    // Over the wire, too.
    let page = buffer.read(&Ask::BatchesBefore { before: i64::MAX }).unwrap();
    let json = serde_json::to_string(&page).unwrap();
    assert_eq!(serde_json::from_str::<Page>(&json).unwrap(), page);
}

#[test]
fn a_damaged_batch_is_named_and_the_others_are_read() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for _ in 0..3 {
        world.append(&mut buffer, 3).unwrap();
    }
    let ids: Vec<i64> = all_batches(|ask| buffer.read(ask).unwrap()).iter().map(|b| b.id).collect();
    buffer.sql.execute("UPDATE batch SET block = x'00ff' WHERE id = ?1", [ids[1]]).unwrap();
    let read = all_batches(|ask| buffer.read(ask).unwrap());
    let faulty: Vec<i64> = read.iter().filter(|b| b.read().is_err()).map(|b| b.id).collect();
    assert_eq!(faulty, [ids[1]]);
    assert!(!buffer.is_poisoned(), "a look changes nothing");
}

#[test]
fn a_segment_whose_file_is_gone_or_whose_rows_are_not_marked_is_contradicted() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 4).unwrap();
    assert!(world.seal(&mut buffer).unwrap().is_some());
    let segments = |buffer: &mut Buffer| {
        let Page::Segments { segments, faults, next } =
            buffer.read(&Ask::Segments { after: (0, 0) }).unwrap()
        else {
            panic!("another page")
        };
        assert_eq!((faults, next), (Vec::new(), None));
        segments
    };
    let found = segments(&mut buffer);
    assert!(found.iter().all(|s| s.contradicted.is_empty() && s.file == Some(s.size)), "{found:?}");
    assert_eq!(buffer.read(&Ask::Strays).unwrap(), Page::Strays(Vec::new()));
    let first = found.iter().find(|s| s.table == "readings").unwrap();
    let name = format!("{}-{}.parquet", first.epoch, Number::new(first.number).unwrap());
    let path = world.path("segments").join(name);
    fs::rename(&path, path.with_file_name("0000000000000001-0000000009.parquet")).unwrap();
    buffer.sql.execute("DELETE FROM mark", []).unwrap();
    let found = segments(&mut buffer);
    let first = found.iter().find(|s| s.number == first.number).unwrap();
    assert!(first.contradicted.iter().any(|w| w == "its file is gone"), "{first:?}");
    assert!(first.contradicted.iter().any(|w| w.contains("aren't marked as sealed")), "{first:?}");
    let strays = Page::Strays(vec!["0000000000000001-0000000009.parquet".into()]);
    assert_eq!(buffer.read(&Ask::Strays).unwrap(), strays);
}

/// A buffer with three rejects of the source `plant`; their ids.
fn rejects(world: &mut World, buffer: &mut Buffer) -> Vec<i64> {
    for payload in ["one", "two", "two", "three"] {
        let reject = Rejected {
            source: 0,
            received_at: world.now,
            topic: "a/b".into(),
            reason: RejectReason::Malformed,
            detail: "expected a number".into(),
            size: payload.len() as u64,
            payload: payload.into(),
        };
        let batch = NewBatch {
            rejected: vec![reject],
            messages: MessageCounters { received: 1, rejected: 1, ..Default::default() },
            committed_at: world.now,
            ..Default::default()
        };
        buffer.append(batch, &sources()).unwrap();
    }
    let Page::Rejects { rejects, .. } = buffer.read(&Ask::Rejects { after: 0 }).unwrap() else {
        panic!("another page")
    };
    assert_eq!(rejects.iter().map(|r| r.occurrences).collect::<Vec<_>>(), [1, 2, 1]);
    rejects.iter().map(|r| r.id).collect()
}

#[test]
fn a_reject_that_is_tried_again_puts_its_readings_in_once_whatever_dies_and_both_laws_hold() {
    // As many points as one retry passes, and one that dies nowhere.
    for points in 0..12 {
        let mut world = World::new();
        let (mut buffer, _) = world.open();
        let ids = rejects(&mut world, &mut buffer);
        let at = world.now;
        let decode = |row: &RejectRow| match row.payload.as_deref() {
            Some(b"three") => Err("rejected again".to_owned()),
            _ => Ok((0, vec![reading("t", Value::Int(row.id), row.received_at)])),
        };
        world.script.die_after(points);
        let first = buffer.retry(&ids, &sources(), Moment::believed(at), decode);
        world.script.live();
        drop(buffer);
        let (mut buffer, _) = world.open();
        let again = buffer.retry(&ids, &sources(), Moment::believed(at), decode).unwrap();
        let done = |outcomes: &[(RetryOutcome, Appended)]| {
            outcomes.iter().filter_map(|(o, _)| o.readings.clone().ok()).sum::<u64>()
        };
        if let Ok(first) = &first {
            assert_eq!((done(first), done(&again)), (2, 0));
            assert!(again[0].0.readings.clone().unwrap_err().contains("before"));
        }
        assert_eq!(again[2].0.readings, Err("rejected again".into()));
        let books = buffer.stats().unwrap().books;
        assert_eq!(books.counters.check(), Ok(()));
        assert_eq!((books.counters.messages.received, books.counters.messages.rejected), (4, 4));
        let mut values = Vec::new();
        buffer.scan(Timestamp(i64::MIN), Timestamp(i64::MAX), |row| values.push(row.value.clone())).unwrap();
        assert_eq!(values, [Value::Int(ids[0]), Value::Int(ids[1])], "{points} points: each once");
        assert_eq!(books.counters.readings.waiting(), 2);
    }
}

#[test]
fn a_reject_that_would_make_too_many_series_stays_one() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let ids = rejects(&mut world, &mut buffer);
    let many = (0..11).map(|i| reading(&format!("m{i}"), Value::Int(1), world.now)).collect::<Vec<_>>();
    let moment = Moment::believed(world.now);
    let tried = buffer.retry(&ids[..1], &sources(), moment, |_| Ok((0, many.clone()))).unwrap();
    assert!(tried[0].0.readings.clone().unwrap_err().contains("limits.series"), "{tried:?}");
    let tried = buffer.retry(&[ids[0], 999], &sources(), moment, |_| Ok((0, many[..1].to_vec()))).unwrap();
    assert_eq!(tried[0].0.readings, Ok(1));
    assert!(tried[1].0.readings.clone().unwrap_err().contains("no such reject"));
}

#[test]
fn what_can_not_be_read_is_refused_with_a_sentence() {
    let mut world = World::new();
    let refused = |dir: &Path| Stopped::open(dir, &gateway()).err().expect("refused").to_string();
    assert!(refused(&world.path("absent")).contains("no buffer lies in"));
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 3).unwrap();
    buffer.sql.execute_batch("PRAGMA user_version = 99").unwrap();
    buffer.stop().unwrap();
    assert!(refused(&world.path("")).contains("upgrade it"));
    fs::write(world.path("buffer.db"), b"this is no database, but long enough to look like one").unwrap();
    assert!(refused(&world.path("")).contains("start the agent"), "{}", refused(&world.path("")));
    fs::remove_file(world.path("buffer.db")).unwrap();
    fs::write(world.path("buffer.db-wal"), [0; 100]).unwrap();
    assert!(refused(&world.path("")).contains("its database is gone"));
}
