//! Databases of every version of the schema, frozen as files: each must open, migrate and lose nothing.
//!
//! A frozen buffer is the folder of one that was dropped as a crash would leave it, after a story that fills every
//! table. `TRIBUTARY_FREEZE=1 cargo test … a_frozen_buffer_of_the_present_version_lies_here` makes the one of the
//! present version, once, when the schema changes; those of older versions are never made again.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use tributary_contract::reject::{GapReason, RejectReason};

use super::*;

fn frozen(version: i64) -> PathBuf {
    // Not where it was built: clones share a target folder.
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    package.join("src/buffer/tests/versions").join(version.to_string())
}

/// Fills every table: values 0 to 2 registered, 3 to 6 sealed, 7 to 9 waiting in an older epoch, 10 and 11 in the newest.
fn story(world: &mut World) {
    let (mut buffer, _) = world.open();
    let mut batch = world.batch(3);
    batch.messages = MessageCounters { received: 2, rejected: 1, accepted: 1, ..Default::default() };
    batch.memory = b"remembered".to_vec();
    batch.rejected = vec![Rejected {
        source: 0,
        received_at: batch.committed_at,
        topic: "plant/x".into(),
        reason: RejectReason::Malformed,
        detail: "expected JSON".into(),
        size: 3,
        payload: b"{x}".to_vec(),
    }];
    batch.gaps = vec![GapRow {
        namespace: Namespace::default(),
        from_ts: world.now,
        to_ts: world.now,
        id: "session-0".into(),
        cancels: None,
        source: Some("plant".into()),
        device: None,
        metric: None,
        reason: GapReason::SessionLost,
        readings: None,
        bytes: None,
        first_seq: None,
        last_seq: None,
        detail: Some("the broker had no session".into()),
        recorded_at: world.now,
    }];
    buffer.append(batch, &sources()).unwrap();
    world.seal(&mut buffer).unwrap();
    world.deliver(&mut buffer).unwrap();
    world.release(&mut buffer).unwrap();
    buffer.set_setting("filters", b"as subscribed").unwrap();
    world.append(&mut buffer, 4).unwrap();
    world.seal(&mut buffer).unwrap();
    let keys: Vec<u32> = buffer.series_to_seal().iter().map(|s| s.key).collect();
    let sealing = buffer.begin_seal().unwrap();
    let day = Timestamp(START).day();
    let manifest = world.manifest(&sealing, &Namespace::default(), Table::Series, day, keys.len() as u64);
    finish_seal(&mut buffer, &sealing, &manifest.key(), b"series", &manifest, &Contents::Series(keys))
        .unwrap();
    let sealing = buffer.begin_seal().unwrap();
    let manifest = world.manifest(&sealing, &Namespace::default(), Table::Aggregates, day, 4);
    let contents = Contents::Aggregates { decisions: b"decided".to_vec(), newest: Timestamp(START) };
    finish_seal(&mut buffer, &sealing, &manifest.key(), b"aggregates", &manifest, &contents).unwrap();
    let alert = AlertRow {
        namespace: Namespace::default(),
        ts: Timestamp(START),
        device: "boiler".into(),
        metric: "t".into(),
        series: tributary_contract::series::SeriesId(7),
        rule: "hot".into(),
        severity: "warning".into(),
        open: true,
        value: Some(60.5),
        expected: Some(50.0),
        score: None,
    };
    buffer.save_alerts(&[alert], b"what is open").unwrap();
    world.append(&mut buffer, 3).unwrap();
    buffer.new_epoch("as after a fork", world.now).unwrap();
    world.append(&mut buffer, 2).unwrap();
}

#[test]
fn a_frozen_buffer_of_the_present_version_lies_here() {
    let folder = frozen(sqlite::SCHEMA);
    if std::env::var_os("TRIBUTARY_FREEZE").is_some() && !folder.exists() {
        let mut world = World::new();
        story(&mut world);
        fs::remove_file(world.path("lock")).unwrap_or_default();
        copy(&world.path(""), &folder);
    }
    assert!(folder.join("buffer.db").exists(), "freeze one: see the head of this file");
}

#[test]
fn a_frozen_buffer_of_every_version_opens_and_loses_nothing() {
    for version in 1..=sqlite::SCHEMA {
        let mut world = World::new();
        copy(&frozen(version), &world.path(""));
        world.next_value = 12;
        let (mut buffer, events) = world.open();
        // It is a copy, and says so.
        assert!(events.iter().any(|e| matches!(e, OpenEvent::NewEpoch { .. })), "{version}: {events:?}");
        assert!(!events.iter().any(|e| matches!(e, OpenEvent::Damaged { .. })), "{version}: {events:?}");
        assert_eq!(sqlite::version(&buffer.sql).unwrap(), sqlite::SCHEMA, "{version}");
        world.read_back(&mut buffer).unwrap();
        world.check(&mut buffer);
        let old = &buffer.older[&0].books.counters;
        let (m, r) = (old.messages, old.readings);
        assert_eq!((m.received, m.accepted, m.rejected), (4, 3, 1), "{version}");
        assert_eq!((r.journaled, r.sealed, r.registered, r.moved_out), (10, 7, 3, 3), "{version}");
        assert_eq!(buffer.setting("filters").unwrap(), Some(b"as subscribed".to_vec()), "{version}");
        assert_eq!(buffer.decisions().unwrap(), [b"decided".to_vec()], "{version}");
        assert_eq!(buffer.memories(Timestamp(0), 0).unwrap(), [b"remembered".to_vec()], "{version}");
        let rejects = buffer.rejects_to_seal(10).unwrap();
        assert_eq!(rejects.iter().map(|r| r.topic.as_str()).collect::<Vec<_>>(), ["plant/x"], "{version}");
        let gaps = buffer.gaps_to_seal().unwrap();
        assert_eq!(gaps.iter().map(|g| g.id.as_str()).collect::<Vec<_>>(), ["session-0"], "{version}");
        let alerts = buffer.alerts_to_seal().unwrap();
        let since_3 = if version < 3 { 0 } else { 1 };
        assert_eq!(alerts.iter().filter(|a| a.rule == "hot" && a.open).count(), since_3, "{version}");
        let names: BTreeSet<String> = buffer.series_to_seal().into_iter().map(|s| s.metric).collect();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["p", "t"], "{version}");
        let tables: Vec<Table> = buffer.entries().unwrap().iter().map(|e| e.key.table).collect();
        assert_eq!(tables, [Table::Readings, Table::Series, Table::Aggregates], "{version}");
        for entry in buffer.entries().unwrap() {
            let bytes = fs::read(buffer.segment_path(entry.epoch, entry.number)).unwrap();
            assert_eq!(Digest::of(&bytes), entry.digest, "{version}");
            // The bucket of these tests understands readings alone.
            if entry.key.table != Table::Readings {
                buffer.delivered(entry.epoch, entry.number, world.now, world.now).unwrap();
            }
        }
        world.append(&mut buffer, 1).unwrap();
        let rows = world.drain(&mut buffer);
        let doubt: Vec<_> = (7..12).map(|v| (v, false)).collect();
        assert_eq!(rows, [&once(3..7)[..], &doubt, &once(12..13)].concat(), "{version}");
    }
}
