//! What the buffer promises when its files are damaged, lost or copied: it starts, and says what it can't vouch for.

use std::fs;

use super::super::wal::{Scan, scan};
use super::*;

fn torn(buffer: &mut Buffer) -> usize {
    let gaps = buffer.gaps_to_seal().unwrap();
    gaps.iter()
        .filter(|g| g.reason == tributary_contract::reject::GapReason::Torn && g.readings.is_none())
        .count()
}

fn new_epoch(events: &[OpenEvent]) -> bool {
    events.iter().any(|e| matches!(e, OpenEvent::NewEpoch { .. }))
}

/// Frames of pages of 1024 bytes behind a header of 32.
fn flip_frame(path: &std::path::Path, frame: usize) {
    let mut log = fs::read(path).unwrap();
    let at = 32 + frame * (1024 + 24) + 500;
    log[at] ^= 4;
    fs::write(path, log).unwrap();
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_log_is_noticed_and_says_torn() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for _ in 0..20 {
        world.append(&mut buffer, 1).unwrap();
    }
    drop(buffer);
    let wal = world.path("buffer.db-wal");
    let Scan::Whole { frames } = scan(&fs::read(&wal).unwrap()) else { panic!("the log is whole") };
    flip_frame(&wal, frames / 2);
    let (mut buffer, events) = world.open();
    assert!(events.iter().any(|e| matches!(e, OpenEvent::Damaged { aside: Some(_), .. })), "{events:?}");
    assert!(new_epoch(&events) && buffer.ordinal() == 1);
    assert_eq!(torn(&mut buffer), 1);
    world.append(&mut buffer, 1).unwrap();
    let rows = world.drain(&mut buffer);
    // The frame held an older image of a page: what it says of batches stands in others, too.
    assert!(rows.len() >= 20, "{rows:?}");
    assert_eq!(rows.last(), Some(&(20, true)));
    assert!(rows[..rows.len() - 1].iter().all(|r| !r.1), "{rows:?}");
    assert!(rows.windows(2).all(|w| w[0].0 < w[1].0), "{rows:?}");
}

#[test]
fn a_log_cut_anywhere_in_its_last_transaction_is_no_damage() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for _ in 0..3 {
        world.append(&mut buffer, 1).unwrap();
    }
    let before = fs::read(world.path("buffer.db-wal")).unwrap();
    world.append(&mut buffer, 1).unwrap();
    drop(buffer);
    let whole = fs::read(world.path("buffer.db-wal")).unwrap();
    assert!(matches!(scan(&whole), Scan::Whole { .. }), "{:?}", scan(&whole));
    for cut in before.len()..whole.len() {
        assert!(!matches!(scan(&whole[..cut]), Scan::Damaged { .. }), "{cut}");
    }
    // Sectors of the last transaction may be missing in any order.
    for frame in (before.len()..whole.len()).step_by(512) {
        let mut torn = whole.clone();
        let end = (frame + 512).min(torn.len());
        torn[frame..end].fill(0);
        assert!(!matches!(scan(&torn), Scan::Damaged { .. }), "{frame}");
    }
    // Every bit of the synced part counts, but for the spare page numbers that no checksum needs to tell.
    for at in (0..before.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 16;
        assert!(matches!(scan(&damaged), Scan::Damaged { .. }), "{at} of {}", before.len());
    }
}

#[test]
fn a_log_that_is_gone_without_a_clean_stop_is_noticed() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 1).unwrap();
    buffer.stop().unwrap();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 1).unwrap();
    drop(buffer);
    fs::remove_file(world.path("buffer.db-wal")).unwrap();
    let (mut buffer, events) = world.open();
    assert!(new_epoch(&events), "{events:?}");
    assert_eq!(torn(&mut buffer), 1);
    assert_eq!(world.drain(&mut buffer), [(0, false)]);
    buffer.stop().unwrap();
    assert!(!world.path("buffer.db-wal").exists());
    let (_, events) = world.open();
    assert_eq!(events, [OpenEvent::Clean]);
}

#[test]
fn a_lost_tail_is_told_by_the_segments_that_hold_it_and_nothing_is_sealed_before_they_were_read_back() {
    for from_bucket in [false, true] {
        let mut world = World::new();
        let (mut buffer, _) = world.open();
        world.append(&mut buffer, 2).unwrap();
        world.seal(&mut buffer).unwrap();
        let tail = fs::metadata(world.path("buffer.db-wal")).unwrap().len();
        world.append(&mut buffer, 3).unwrap();
        world.seal(&mut buffer).unwrap();
        world.append(&mut buffer, 1).unwrap();
        if from_bucket {
            world.deliver(&mut buffer).unwrap();
        }
        let (epoch, last) = (buffer.epoch(), Number::new(2).unwrap());
        let file = buffer.segment_path(epoch, last);
        drop(buffer);
        // All commits behind the first sealing are lost, at a border of transactions: the log looks whole.
        let wal = fs::OpenOptions::new().write(true).open(world.path("buffer.db-wal")).unwrap();
        wal.set_len(tail).unwrap();
        // Nor was the note of the newest batch written back in time.
        fs::remove_file(world.path("tail")).unwrap();
        if from_bucket {
            fs::remove_file(&file).unwrap();
        }
        let (mut buffer, events) = world.open();
        assert_eq!(events, [OpenEvent::Unclean, OpenEvent::ReadbackPending(1)]);
        let pending = buffer.pending_readback();
        assert_eq!((pending[0].epoch, pending[0].number), (epoch, last));
        assert!(pending[0].digest.is_some() && pending[0].file.is_some() != from_bucket);
        assert!(matches!(buffer.begin_seal().unwrap_err(), BufferError::ReadingBack(1)));
        assert!(matches!(buffer.finish_readback(world.now).unwrap_err(), BufferError::ReadingBack(1)));
        world.append(&mut buffer, 1).unwrap();
        assert_eq!(world.read_back(&mut buffer).unwrap(), [Adopted::TailLost]);
        assert_ne!(buffer.epoch(), epoch);
        assert_eq!(torn(&mut buffer), 1);
        world.check(&mut buffer);
        // Value 5 was committed and lost; value 6 came while the read-back was pending.
        let rows = world.drain(&mut buffer);
        assert_eq!(rows, [(0, true), (1, true), (2, true), (3, true), (4, true), (6, false)]);
        let states: Vec<_> = buffer.entries().unwrap().iter().map(|e| e.state.name()).collect();
        assert!(states.iter().all(|s| *s == "delivered"), "{states:?}");
    }
}

#[test]
fn a_segment_that_is_nowhere_is_void_and_its_rows_are_sealed_again() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    // Dies behind the lease line, before the file has its name.
    world.script.die_after(3);
    assert!(world.seal(&mut buffer).is_err());
    assert_eq!(world.script.seen.lock().unwrap().last(), Some(&"lease: line written"));
    world.script.live();
    assert!(matches!(buffer.stats().unwrap_err(), BufferError::Poisoned));
    drop(buffer);
    let (mut buffer, events) = world.open();
    assert!(events.contains(&OpenEvent::ReadbackPending(1)), "{events:?}");
    world.read_back(&mut buffer).unwrap();
    let sealing = buffer.begin_seal().unwrap();
    assert!(sealing.void.contains(1) && sealing.number.get() > 1, "{sealing:?}");
    assert_eq!(world.drain(&mut buffer), once(0..2));
    let void = buffer.stats().unwrap().void;
    let epoch = buffer.epoch();
    buffer.forget_void(epoch, &void).unwrap();
    assert!(buffer.begin_seal().unwrap().void.is_empty());
}

#[test]
fn bytes_that_the_lease_does_not_vouch_for_are_not_adopted() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    let tail = fs::metadata(world.path("buffer.db-wal")).unwrap().len();
    world.seal(&mut buffer).unwrap();
    drop(buffer);
    fs::OpenOptions::new().write(true).open(world.path("buffer.db-wal")).unwrap().set_len(tail).unwrap();
    let (mut buffer, _) = world.open();
    let item = buffer.pending_readback().remove(0);
    let (manifest, rows): Segment =
        serde_json::from_slice(&fs::read(item.file.as_ref().unwrap()).unwrap()).unwrap();
    let seqs = ReadbackContents::Seqs(rows.iter().map(|r| r.0).collect());
    let wrong = buffer.adopt(&item, &manifest, &seqs, 1, Digest::of(b"other"), world.now).unwrap_err();
    assert!(matches!(wrong, BufferError::WrongBytes { .. }), "{wrong}");
    let other = Manifest { number: Number::new(9).unwrap(), ..manifest };
    let digest = item.digest.unwrap();
    let wrong = buffer.adopt(&item, &other, &seqs, 1, digest, world.now).unwrap_err();
    assert!(matches!(wrong, BufferError::WrongManifest { .. }), "{wrong}");
    assert_eq!(world.read_back(&mut buffer).unwrap(), [Adopted::Whole]);
    assert_eq!(buffer.ordinal(), 0);
    assert_eq!(world.drain(&mut buffer), once(0..2));
}

#[test]
fn a_lost_or_damaged_lease_begins_a_new_epoch_and_what_was_sealed_keeps_its_name() {
    for damage in [None, Some(&b"garbage\nmore\n"[..])] {
        let mut world = World::new();
        let (mut buffer, _) = world.open();
        world.append(&mut buffer, 2).unwrap();
        world.seal(&mut buffer).unwrap();
        world.append(&mut buffer, 2).unwrap();
        let old = buffer.epoch();
        drop(buffer);
        match damage {
            None => fs::remove_file(world.path("lease")).unwrap(),
            Some(bytes) => fs::write(world.path("lease"), bytes).unwrap(),
        }
        let (mut buffer, events) = world.open();
        assert!(new_epoch(&events), "{events:?}");
        assert_eq!(events.iter().any(|e| matches!(e, OpenEvent::LeaseLost(_))), damage.is_some());
        assert_eq!(buffer.entries().unwrap()[0].epoch, old);
        assert_eq!(torn(&mut buffer), 0);
        assert_eq!(world.drain(&mut buffer), [(0, true), (1, true), (2, false), (3, false)]);
    }
}

#[test]
fn a_copy_on_another_machine_begins_a_new_epoch_once() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    buffer.stop().unwrap();
    world.fingerprint = "board-2".into();
    let (mut buffer, events) = world.open();
    assert!(new_epoch(&events), "{events:?}");
    world.check(&mut buffer);
    buffer.stop().unwrap();
    let (mut buffer, events) = world.open();
    assert_eq!(events, [OpenEvent::Clean]);
    assert_eq!(buffer.stats().unwrap().books.counters.readings.moved_in, 2);
    assert_eq!(world.drain(&mut buffer), [(0, false), (1, false)]);
}

#[test]
fn a_database_restored_to_another_file_begins_a_new_epoch() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    buffer.stop().unwrap();
    fs::copy(world.path("buffer.db"), world.path("copy")).unwrap();
    fs::rename(world.path("copy"), world.path("buffer.db")).unwrap();
    let (_, events) = world.open();
    assert!(new_epoch(&events), "{events:?}");
}

#[test]
fn without_a_database_the_segments_in_the_folder_go_on_and_the_rest_is_torn() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    world.seal(&mut buffer).unwrap();
    world.append(&mut buffer, 2).unwrap();
    let old = buffer.epoch();
    drop(buffer);
    fs::remove_file(world.path("buffer.db")).unwrap();
    fs::remove_file(world.path("buffer.db-wal")).unwrap();
    let (mut buffer, events) = world.open();
    assert!(new_epoch(&events), "{events:?}");
    assert_eq!(buffer.pending_readback().len(), 1);
    assert_eq!(world.read_back(&mut buffer).unwrap(), [Adopted::Whole]);
    assert_eq!(buffer.entries().unwrap()[0].epoch, old);
    assert_eq!((torn(&mut buffer), buffer.ordinal()), (1, 1));
    assert_eq!(world.drain(&mut buffer), once(0..2));
}

#[test]
fn a_database_of_garbage_is_set_aside_and_what_is_readable_is_salvaged() {
    // Cut short, overwritten from the start, overwritten in the middle.
    for damage in 0..3 {
        let mut world = World::new();
        let (mut buffer, _) = world.open();
        for _ in 0..200 {
            world.append(&mut buffer, 2).unwrap();
        }
        world.seal(&mut buffer).unwrap();
        let old = buffer.epoch();
        buffer.stop().unwrap();
        // A crash later, so that the careful way is taken.
        let (buffer, _) = world.open();
        drop(buffer);
        let mut bytes = fs::read(world.path("buffer.db")).unwrap();
        let half = bytes.len() / 2;
        match damage {
            0 => bytes.truncate(half),
            1 => bytes[..4096].fill(7),
            _ => bytes[half..half + 8192].fill(0x5a),
        }
        fs::write(world.path("buffer.db"), &bytes).unwrap();
        let (mut buffer, events) = world.open();
        assert!(events.iter().any(|e| matches!(e, OpenEvent::Salvaged { .. })), "{damage}: {events:?}");
        assert!(new_epoch(&events) && torn(&mut buffer) == 1, "{damage}: {events:?}");
        let aside: Vec<_> = fs::read_dir(world.path("aside")).unwrap().collect();
        let kept = fs::read(aside[0].as_ref().unwrap().path().join("buffer.db")).unwrap();
        assert!(kept == bytes, "what was set aside is what was there");
        world.read_back(&mut buffer).unwrap();
        let entries = buffer.entries().unwrap();
        assert!(entries.iter().any(|e| e.epoch == old), "{damage}: the sealed segment goes on");
        world.append(&mut buffer, 1).unwrap();
        let rows = world.drain(&mut buffer);
        let values: std::collections::BTreeSet<i64> = rows.iter().map(|r| r.0).collect();
        assert_eq!(values.len(), rows.len(), "{damage}: a reading of a sealed segment moved, too");
        if damage == 2 {
            assert!(rows.len() > 100, "{}", rows.len());
        }
        drop(buffer);
        let (_, events) = world.open();
        assert_eq!(events, [OpenEvent::Unclean]);
    }
}

#[test]
fn a_batch_with_a_wrong_checksum_is_lost_alone_and_counted() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for _ in 0..3 {
        world.append(&mut buffer, 2).unwrap();
    }
    buffer.sql.execute("UPDATE batch SET block = zeroblob(length(block)) WHERE id = 2", []).unwrap();
    let failed = world.seal(&mut buffer).unwrap_err();
    assert!(matches!(failed, BufferError::Damaged { batch: 2, .. }), "{failed}");
    drop(buffer);
    let (mut buffer, events) = world.open();
    assert!(new_epoch(&events), "{events:?}");
    assert_eq!(torn(&mut buffer), 1);
    let old = buffer.older[&0].books.counters.readings;
    assert_eq!((old.journaled, old.torn, old.moved_out), (6, 2, 4));
    assert_eq!(world.drain(&mut buffer), [(0, false), (1, false), (4, false), (5, false)]);
}

#[test]
fn an_unfinished_file_is_swept_and_a_file_of_another_name_is_left() {
    let mut world = World::new();
    let (buffer, _) = world.open();
    drop(buffer);
    let unfinished = world.path("segments").join(format!("{}-0000000001.parquet.tmp", Epoch(1)));
    let foreign = world.path("segments/notes.txt");
    fs::write(&unfinished, b"x").unwrap();
    fs::write(&foreign, b"x").unwrap();
    let (_, events) = world.open();
    assert_eq!(events, [OpenEvent::Unclean]);
    assert!(!unfinished.exists() && foreign.exists());
}

#[test]
fn any_row_that_can_not_be_read_is_taken_out_and_the_buffer_goes_on() {
    let damages = [
        "UPDATE mark SET sealed = x'ff'",
        "UPDATE mark SET ended = ended + 1",
        "UPDATE outbox SET digest = 'no digest'",
        "UPDATE outbox SET progress = '{'",
        "UPDATE epoch SET books = '{'",
        "UPDATE epoch SET void = 7",
        "UPDATE series SET tags = 'none' WHERE metric = 't'",
        "UPDATE series SET value_type = 'complex'",
        "UPDATE segment_rows SET rows = x'ffffffffffff'",
        "UPDATE batch SET head = x'00' WHERE id = 3",
        "UPDATE batch SET epoch = 77",
        "DELETE FROM epoch",
        "DELETE FROM state",
        "DELETE FROM series",
        "INSERT INTO setting VALUES ('a', 7)",
        "INSERT INTO decision VALUES (0, 9, 'x', 0, x'')",
        "DROP TABLE gap",
    ];
    for (damage, clean) in damages.iter().flat_map(|d| [(d, false), (d, true)]) {
        let mut world = World::new();
        let (mut buffer, _) = world.open();
        world.append(&mut buffer, 2).unwrap();
        world.append(&mut buffer, 3).unwrap();
        world.seal(&mut buffer).unwrap();
        world.append(&mut buffer, 2).unwrap();
        buffer.sql.execute_batch(damage).unwrap();
        if clean {
            buffer.stop().unwrap();
        } else {
            drop(buffer);
        }
        let (mut buffer, events) = world.open();
        world.read_back(&mut buffer).unwrap();
        let sealed = buffer.entries().map(|all| all.len());
        if sealed.is_err() {
            // A clean stop spares the careful look; what is found later is for the next start.
            assert!(clean, "{damage}: {events:?}");
            drop(buffer);
            (buffer, _) = world.open();
            world.read_back(&mut buffer).unwrap();
        }
        assert_eq!(buffer.entries().unwrap().len(), 1, "{damage}, {clean}: the sealed segment goes on");
        world.append(&mut buffer, 2).unwrap();
        let rows = world.drain(&mut buffer);
        let kept = rows.iter().filter(|r| r.1).map(|r| r.0).collect::<Vec<_>>();
        assert!(kept.starts_with(&[0, 1, 2, 3, 4]), "{damage}, {clean}: {rows:?}");
        assert!(rows.iter().any(|r| r.0 == 8), "{damage}, {clean}: {rows:?}");
        assert!(rows.windows(2).all(|w| w[0].0 != w[1].0), "{damage}, {clean}: {rows:?}");
        drop(buffer);
        let (_, events) = world.open();
        assert!(clean || events == [OpenEvent::Unclean], "{damage}: {events:?}");
    }
}

/// As if the lake had been told. What it is told of a new series has all times of its readings: until then a start reads
/// what waits.
fn tell_of_all_series(buffer: &Buffer) {
    buffer.sql.execute_batch("UPDATE series SET sealed_in = seen_in").unwrap();
}

#[test]
fn a_series_that_is_missing_is_noticed_though_every_checksum_is_right() {
    for key in 0..2 {
        let mut world = World::new();
        let (mut buffer, _) = world.open();
        world.append(&mut buffer, 4).unwrap();
        tell_of_all_series(&buffer);
        buffer.sql.execute("DELETE FROM series WHERE key = ?1", [key]).unwrap();
        drop(buffer);
        let (mut buffer, events) = world.open();
        assert!(events.iter().any(|e| matches!(e, OpenEvent::Damaged { .. })), "{events:?}");
        world.read_back(&mut buffer).unwrap();
        let rows: Vec<i64> = world.drain(&mut buffer).into_iter().map(|(value, _)| value).collect();
        assert_eq!(rows, [0, 1, 2, 3]);
    }
}

#[test]
fn a_start_after_an_operation_that_stumbled_looks_at_every_row() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 4).unwrap();
    buffer.stop().unwrap();
    let (mut buffer, _) = world.open();
    buffer.sql.execute_batch("UPDATE batch SET block = zeroblob(length(block))").unwrap();
    let stumbled = world.path("stumbled");
    assert!(world.seal(&mut buffer).is_err() && buffer.is_poisoned() && stumbled.exists());
    // As after a clean stop, but for that word.
    let lease = std::fs::read(world.path("lease")).unwrap();
    drop(buffer);
    std::fs::write(world.path("lease"), lease).unwrap();
    let (_, events) = world.open();
    assert!(events.iter().any(|e| matches!(e, OpenEvent::Damaged { .. })), "{events:?}");
    assert!(!stumbled.exists());
}

#[test]
fn what_a_batch_says_of_itself_is_what_its_rows_say() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append_mixed(&mut buffer, 60).unwrap();
    world.append_kept(&mut buffer, 50).unwrap();
    tell_of_all_series(&buffer);
    let waits = buffer.rows_to_seal();
    drop(buffer);
    let (buffer, events) = world.open();
    assert_eq!((events, buffer.rows_to_seal()), (vec![OpenEvent::Unclean], waits.clone()));
    // After a clean stop no block is read at all.
    buffer.sql.execute_batch("UPDATE batch SET block = zeroblob(length(block))").unwrap();
    buffer.stop().unwrap();
    let (buffer, events) = world.open();
    assert_eq!((events, buffer.rows_to_seal()), (vec![OpenEvent::Clean], waits));
}
