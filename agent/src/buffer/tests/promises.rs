//! What the buffer promises while nothing is damaged.

use tributary_contract::reject::RejectReason;

use super::*;

#[test]
fn an_acknowledged_message_survives_a_crash_and_a_clean_stop() {
    let mut world = World::new();
    let (mut buffer, events) = world.open();
    assert_eq!(events, [OpenEvent::Created]);
    world.append(&mut buffer, 3).unwrap();
    drop(buffer);
    let (mut buffer, events) = world.open();
    assert_eq!(events, [OpenEvent::Unclean]);
    world.append(&mut buffer, 2).unwrap();
    buffer.stop().unwrap();
    let (mut buffer, events) = world.open();
    assert_eq!(events, [OpenEvent::Clean]);
    world.check(&mut buffer);
    assert_eq!(world.drain(&mut buffer), once(0..5));
    assert_eq!(buffer.ordinal(), 0);
}

#[test]
fn rows_read_back_are_the_rows_that_were_appended() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let mut batch = world.batch(1);
    let at = world.now;
    let mut with_tags = reading("text", Value::Text("on".into()), at);
    with_tags.row_tags.insert("run".into(), "7".into());
    let values = [Value::Float(-0.0), Value::Float(21.5), Value::Bool(true), Value::Int(i64::MIN)];
    let readings = values.into_iter().map(|v| reading("v", v, at)).chain([with_tags]);
    batch.accepted = vec![Accepted { source: 0, received_at: at, readings: readings.collect() }];
    let appended = buffer.append(batch, &sources()).unwrap();
    assert_eq!(appended.new_series.len(), 2);
    assert_eq!(buffer.dictionary().get(appended.new_series[0]).unwrap().value_type, "mixed");
    drop(buffer);
    let (mut buffer, _) = world.open();
    let mut rows = Vec::new();
    buffer.scan(at, at.plus(1), |row| rows.push(row.clone())).unwrap();
    assert_eq!(rows, appended.rows);
    let mut batches = Vec::new();
    let ids = buffer.batches(|_| true).unwrap();
    buffer.scan_batches(&ids, |span, rows| batches.push((*span, rows.to_vec()))).unwrap();
    assert_eq!(batches, [(appended.batch.unwrap(), appended.rows)]);
    buffer.scan(at.plus(1), at.plus(2), |row| panic!("{row:?} is out of the range asked for")).unwrap();
}

#[test]
fn the_redelivery_memory_comes_back_batch_by_batch_from_where_it_is_asked_for() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let mut times = Vec::new();
    for memory in [&b"one"[..], b"", b"three"] {
        let batch = NewBatch { memory: memory.to_vec(), ..world.batch(1) };
        times.push(batch.committed_at);
        buffer.append(batch, &sources()).unwrap();
    }
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(buffer.memories(times[0], 0).unwrap(), [b"one".to_vec(), b"three".to_vec()]);
    assert_eq!(buffer.memories(times[1], 0).unwrap(), [b"three".to_vec()]);
    let late = times[1].plus(i64::from(u32::MAX));
    assert_eq!(buffer.memories(late, 2).unwrap(), [b"one".to_vec(), b"three".to_vec()], "however late");
}

#[test]
fn a_second_agent_on_the_same_buffer_is_refused_with_the_path() {
    let mut world = World::new();
    let (_buffer, _) = world.open();
    let refused = Buffer::open(&world.settings()).err().unwrap();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains("state is locked"), "{refused}");
}

#[test]
fn another_gateways_buffer_and_a_later_versions_are_refused_and_left_alone() {
    let mut world = World::new();
    let (buffer, _) = world.open();
    drop(buffer);
    let other = OpenSettings { gateway: GatewayId::new("gw-2").unwrap(), ..world.settings() };
    assert!(matches!(Buffer::open(&other).err().unwrap(), OpenError::Foreign { .. }));
    std::fs::remove_file(world.path("lease")).unwrap();
    assert!(matches!(Buffer::open(&other).err().unwrap(), OpenError::Foreign { .. }));
    let sql = sqlite::open(&world.path("buffer.db")).unwrap();
    sql.pragma_update(None, "user_version", sqlite::SCHEMA + 1).unwrap();
    sql.execute("UPDATE state SET version = ?1, crc = NULL", [sqlite::SCHEMA + 1]).unwrap();
    drop(sql);
    assert!(matches!(Buffer::open(&world.settings()).err().unwrap(), OpenError::Newer { .. }));
    assert!(!world.path("aside").exists());
}

/// A disk that is full as long as there is ballast on it.
struct FullWith(Ballast);

impl Faults for FullWith {
    fn hit(&self, _: &'static str) -> io::Result<()> {
        if self.0.bytes() > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[test]
fn a_full_disk_costs_the_ballast_and_not_the_start() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 3).unwrap();
    assert!(buffer.ballast().take_back(70_000).unwrap());
    let (ballast, stats) = (buffer.ballast(), buffer.stats().unwrap());
    assert_eq!(stats.ballast_bytes, 70_000);
    assert_eq!(stats.bytes + 70_000, Files::bytes_of(&world.path("")), "it isn't data");
    drop(buffer);
    let full = OpenSettings { faults: Arc::new(FullWith(ballast.clone())), ..world.settings() };
    let opened = Buffer::open(&full).unwrap();
    assert_eq!(opened.events, [OpenEvent::Unclean, OpenEvent::BallastGivenUp(70_000)]);
    let mut buffer = opened.buffer;
    assert_eq!(world.drain(&mut buffer), once(0..3));
    assert_eq!(buffer.stats().unwrap().ballast_bytes, 0);
    drop(buffer);
    // Where there is none to give up, the reason comes back, and waiting may mend it.
    struct Full;
    impl Faults for Full {
        fn hit(&self, _: &'static str) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let refused = Buffer::open(&OpenSettings { faults: Arc::new(Full), ..world.settings() }).err().unwrap();
    assert!(refused.may_mend(), "{refused}");
}

#[test]
fn only_what_this_buffer_delivered_is_let_go() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 3).unwrap();
    let number = world.seal(&mut buffer).unwrap().unwrap();
    let epoch = buffer.epoch();
    let path = buffer.segment_path(epoch, number);
    let refused = buffer.release(&[(epoch, number)]).unwrap_err();
    assert!(matches!(refused, BufferError::Transition { from: "sealed", .. }), "{refused}");
    assert!(path.exists());
    assert!(buffer.release(&[(Epoch(1), number)]).is_err());
    world.deliver(&mut buffer).unwrap();
    buffer.release(&[(epoch, number)]).unwrap();
    assert!(!path.exists());
    assert_eq!(buffer.entries().unwrap(), []);
    assert_eq!(buffer.stats().unwrap().books.counters.readings.registered, 3);
    assert!(buffer.release(&[(epoch, number)]).is_err());
}

#[test]
fn batches_go_once_all_their_rows_ended_and_no_window_needs_them_and_the_counters_stay() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for rows in [2, 3, 0, 2] {
        world.append(&mut buffer, rows).unwrap();
    }
    assert_eq!(buffer.trim(10, &|_| false).unwrap(), 1, "the batch without rows");
    world.seal(&mut buffer).unwrap();
    world.deliver(&mut buffer).unwrap();
    assert_eq!(buffer.trim(10, &|_| false).unwrap(), 0);
    world.release(&mut buffer).unwrap();
    assert_eq!(buffer.trim(10, &|span| span.id == 1).unwrap(), 1);
    assert_eq!(buffer.trim(10, &|_| false).unwrap(), 1);
    assert_eq!(buffer.trim(10, &|_| false).unwrap(), 0, "the newest stays");
    let before = buffer.stats().unwrap();
    assert_eq!(before.batches, 1);
    drop(buffer);
    let (mut buffer, _) = world.open();
    let after = buffer.stats().unwrap();
    assert_eq!((after.batches, &after.books), (1, &before.books));
    assert_eq!(after.books.counters.messages.received, 4);
}

#[test]
fn identical_rejects_are_folded_until_they_are_handed_out_and_leave_with_their_segment() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let reject = |payload: &[u8], at| Rejected {
        source: 0,
        received_at: at,
        topic: "a/b".into(),
        reason: RejectReason::Malformed,
        detail: "expected JSON".into(),
        size: payload.len() as u64,
        payload: payload.to_vec(),
    };
    let mut send = |buffer: &mut Buffer, payloads: &[&[u8]]| {
        let n = payloads.len() as u64;
        let mut batch = world.batch(0);
        batch.accepted.clear();
        batch.rejected = payloads.iter().map(|p| reject(p, batch.committed_at)).collect();
        batch.messages = MessageCounters { received: n, rejected: n, ..Default::default() };
        buffer.append(batch, &sources()).unwrap();
    };
    send(&mut buffer, &[b"x", b"y", b"x"]);
    send(&mut buffer, &[b"x"]);
    let counts = |rows: &[RejectRow]| rows.iter().map(|r| r.occurrences).collect::<Vec<_>>();
    let first = buffer.rejects_to_seal(10).unwrap();
    assert_eq!(counts(&first), [3, 1]);
    send(&mut buffer, &[b"x"]);
    assert_eq!(counts(&buffer.rejects_to_seal(10).unwrap()), [3, 1, 1]);
    let sealing = buffer.begin_seal().unwrap();
    let (namespace, day) = (Namespace::default(), first[0].received_at.day());
    let manifest = World::new().manifest(&sealing, &namespace, Table::Rejects, day, 2);
    let contents = Contents::Rejects(first.iter().map(|r| r.id).collect());
    finish_seal(&mut buffer, &sealing, &manifest.key(), b"rejects", &manifest, &contents).unwrap();
    assert_eq!(counts(&buffer.rejects_to_seal(10).unwrap()), [1]);
    assert_eq!(buffer.stats().unwrap().books.rejected[&RejectReason::Malformed], 5);
}

#[test]
fn payloads_of_rejects_are_kept_within_a_budget_and_counted_beyond_it() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let mut batch = world.batch(0);
    batch.accepted.clear();
    let payload = |i: u32| [i.to_le_bytes().to_vec(), vec![0; 2000]].concat();
    batch.rejected = (0..1500)
        .map(|i| Rejected {
            source: 0,
            received_at: batch.committed_at,
            topic: "a/b".into(),
            reason: RejectReason::Malformed,
            detail: String::new(),
            size: 2004,
            payload: payload(i),
        })
        .collect();
    batch.messages = MessageCounters { received: 1500, rejected: 1500, ..Default::default() };
    buffer.append(batch, &sources()).unwrap();
    let rows = buffer.rejects_to_seal(10_000).unwrap();
    let kept: usize = rows.iter().filter_map(|r| r.payload.as_ref()).map(Vec::len).sum();
    assert!((960 << 10..=1 << 20).contains(&(kept + rows.len() * 64)), "{kept}");
    assert_eq!(rows.iter().map(|r| r.occurrences).sum::<u64>(), 1500);
    assert_eq!(rows.iter().filter(|r| r.payload.is_none()).count(), 1, "one row for all beyond it");
}

#[test]
fn a_flood_of_small_rejects_is_folded_by_source_and_reason_and_none_is_uncounted() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let mut expected = 0;
    for round in 0..20u32 {
        let mut batch = world.batch(0);
        batch.accepted.clear();
        let reject = |i: u32| Rejected {
            source: (i % 2) as usize,
            received_at: batch.committed_at,
            topic: "a/b".into(),
            reason: if i.is_multiple_of(3) { RejectReason::Malformed } else { RejectReason::TooLarge },
            detail: String::new(),
            size: 4,
            payload: (round * 5000 + i).to_le_bytes().to_vec(),
        };
        batch.rejected = (0..5000).map(reject).collect();
        batch.messages = MessageCounters { received: 5000, rejected: 5000, ..Default::default() };
        expected += 5000;
        buffer.append(batch, &sources()).unwrap();
        // What only looks at them doesn't end the folding.
        assert!(!buffer.rejects_waiting(10).unwrap().is_empty());
    }
    let rows = buffer.rejects_to_seal(1_000_000).unwrap();
    assert_eq!(rows.iter().map(|r| r.occurrences).sum::<u64>(), expected);
    let beyond = rows.iter().filter(|r| r.payload.is_none()).count();
    assert_eq!(beyond, 4, "a row for each source and reason");
    let most = 2 * (1 << 20) / (64 + 4 + 3) + 4;
    assert!(rows.len() <= most, "{} rows of at most {most}", rows.len());
}

#[test]
fn a_message_beyond_the_limit_of_series_becomes_a_reject_as_a_whole() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let at = world.now;
    let message = |metrics: &[&str]| Accepted {
        source: 1,
        received_at: at,
        readings: metrics.iter().map(|m| reading(m, Value::Int(1), at)).collect(),
    };
    let batch = NewBatch {
        accepted: vec![message(&["a"]), message(&["a", "b"]), message(&["a"])],
        messages: MessageCounters { received: 3, accepted: 3, ..Default::default() },
        committed_at: at,
        ..Default::default()
    };
    let appended = buffer.append(batch, &sources()).unwrap();
    assert_eq!((appended.rows.len(), appended.refused), (2, 1));
    let stats = buffer.stats().unwrap();
    assert_eq!(stats.books.counters.messages.rejected, 1);
    assert_eq!(stats.books.counters.messages.accepted, 2);
    assert_eq!(buffer.rejects_to_seal(9).unwrap()[0].reason, RejectReason::TooManySeries);
    assert_eq!(buffer.rows_to_seal()[0].namespace.as_str(), "office");
}

#[test]
fn a_device_that_makes_up_names_takes_no_room_from_the_others() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let at = world.now;
    let message = |device: &str, metrics: std::ops::Range<u32>| Accepted {
        source: 0,
        received_at: at,
        readings: metrics
            .map(|n| crate::reading::Reading {
                device: device.into(),
                ..reading(&format!("m{n}"), Value::Int(1), at)
            })
            .collect(),
    };
    let facts = [SourceFacts { max_series: 10, max_device_series: 4, ..sources()[0].clone() }];
    let mut append = |accepted: Vec<Accepted>| {
        let received = accepted.len() as u64;
        let messages = MessageCounters { received, accepted: received, ..Default::default() };
        let batch = NewBatch { accepted, messages, committed_at: at, ..Default::default() };
        let appended = buffer.append(batch, &facts).unwrap();
        (appended.rows.len(), appended.refused)
    };
    assert_eq!(append(vec![message("flood", 0..3), message("flood", 3..5), message("flood", 3..4)]), (4, 1));
    assert_eq!(append(vec![message("flood", 9..10), message("flood", 0..4), message("quiet", 0..4)]), (8, 1));
    assert_eq!(append(vec![message("third", 0..3)]), (0, 1), "the source's own limit still holds");
    assert!(buffer.rejects_to_seal(9).unwrap().iter().all(|r| r.reason == RejectReason::TooManySeries));
}

#[test]
fn counters_that_break_a_law_are_refused_and_nothing_is_written() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let mut batch = world.batch(1);
    batch.messages.redelivered = 1;
    assert!(matches!(buffer.append(batch, &sources()).unwrap_err(), BufferError::Law(_)));
    assert_eq!(buffer.stats().unwrap().batches, 0);
    world.append(&mut buffer, 1).unwrap();
}

#[test]
fn a_superseded_segment_is_sealed_again_under_a_new_epoch() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    let number = world.seal(&mut buffer).unwrap().unwrap();
    world.append(&mut buffer, 2).unwrap();
    let old = buffer.epoch();
    buffer.supersede(old, number, "another object has its name", world.now).unwrap();
    assert_ne!(buffer.epoch(), old);
    assert!(!buffer.segment_path(old, number).exists());
    world.check(&mut buffer);
    let sealing = buffer.begin_seal().unwrap();
    assert_eq!((sealing.number.get(), sealing.previous), (1, None));
    assert_eq!(sealing.closed.iter().map(|c| (c.epoch, c.last)).collect::<Vec<_>>(), [(old, 1)]);
    let doubtful: Vec<_> = (0..4).map(|v| (v, false)).collect();
    assert_eq!(world.drain(&mut buffer), doubtful);
    let mut seen = 0;
    buffer.scan(Timestamp(i64::MIN), Timestamp(i64::MAX), |_| seen += 1).unwrap();
    assert_eq!(seen, 4, "windows see each reading once");
    let old = &buffer.older[&0].books.counters;
    assert_eq!((old.readings.superseded, old.readings.moved_out, old.check()), (2, 2, Ok(())));
}

#[test]
fn a_quarantined_segment_stays_counted_and_is_not_outstanding() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    let number = world.seal(&mut buffer).unwrap().unwrap();
    let epoch = buffer.epoch();
    assert!(buffer.quarantine(epoch, number, "conflict").is_err(), "it isn't delivered");
    world.deliver(&mut buffer).unwrap();
    buffer.quarantine(epoch, number, "conflict").unwrap();
    world.check(&mut buffer);
    let stats = buffer.stats().unwrap();
    assert_eq!(stats.books.counters.readings.quarantined, 2);
    assert_eq!(stats.segments["quarantined"].count, 1);
    assert!(buffer.segment_path(epoch, number).exists());
}

#[test]
fn series_are_told_once_an_epoch_and_again_when_what_they_say_changes() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    let series = buffer.series_to_seal();
    assert_eq!(series.len(), 2);
    let keys: Vec<u32> = series.iter().map(|s| s.key).collect();
    let sealing = buffer.begin_seal().unwrap();
    let day = series[0].first_ts.day();
    let manifest = world.manifest(&sealing, &Namespace::default(), Table::Series, day, 2);
    // One of them changes between the offer and the sealing.
    let mut batch = world.batch(1);
    batch.accepted[0].readings[0].value = Value::Float(0.5);
    buffer.append(batch, &sources()).unwrap();
    finish_seal(&mut buffer, &sealing, &manifest.key(), b"series", &manifest, &Contents::Series(keys))
        .unwrap();
    let again = |buffer: &mut Buffer| -> Vec<(String, &str)> {
        buffer.series_to_seal().into_iter().map(|s| (s.metric, s.value_type)).collect()
    };
    assert_eq!(again(&mut buffer), [("t".to_owned(), "double")]);
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(again(&mut buffer), [("t".to_owned(), "double")]);
    buffer.new_epoch("test", world.now).unwrap();
    assert_eq!(again(&mut buffer).len(), 2, "what waits is told in the new epoch");
}

#[test]
fn settings_and_decisions_are_kept_until_they_are_replaced_or_forgotten() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    assert_eq!(buffer.setting("filters").unwrap(), None);
    buffer.set_setting("filters", b"1").unwrap();
    buffer.set_setting("filters", b"2").unwrap();
    let sealing = buffer.begin_seal().unwrap();
    let manifest = world.manifest(&sealing, &Namespace::default(), Table::Aggregates, Day(20_000), 4);
    let contents = Contents::Aggregates { decisions: b"closed".to_vec(), newest: Timestamp(50) };
    finish_seal(&mut buffer, &sealing, &manifest.key(), b"aggregates", &manifest, &contents).unwrap();
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(buffer.setting("filters").unwrap(), Some(b"2".to_vec()));
    assert_eq!(buffer.decisions().unwrap(), [b"closed".to_vec()]);
    assert_eq!(buffer.settled_decisions(None, 100).unwrap(), [], "the newest stays");
    for n in 0..2 {
        let sealing = buffer.begin_seal().unwrap();
        let manifest = world.manifest(&sealing, &Namespace::default(), Table::Aggregates, Day(20_000), 4);
        let contents = Contents::Aggregates { decisions: vec![n], newest: Timestamp(60) };
        finish_seal(&mut buffer, &sealing, &manifest.key(), &[n], &manifest, &contents).unwrap();
    }
    assert_eq!(buffer.settled_decisions(None, 100).unwrap(), [], "their segments may still be superseded");
    let (epoch, now) = (buffer.epoch(), world.now);
    for entry in buffer.entries().unwrap() {
        buffer.delivered(epoch, entry.number, now, now).unwrap();
        buffer.release(&[(epoch, entry.number)]).unwrap();
    }
    let mut kept = buffer.settled_decisions(None, 100).unwrap();
    assert_eq!(kept.iter().map(|k| k.decisions.clone()).collect::<Vec<_>>(), [b"closed".to_vec(), vec![0]]);
    kept[0].decisions.clear();
    kept[1].decisions = vec![7];
    buffer.replace_decisions(&kept).unwrap();
    drop(buffer);
    let (mut buffer, _) = world.open();
    assert_eq!(buffer.decisions().unwrap(), [vec![7], vec![1]]);
}

#[test]
fn a_sealing_that_was_begun_in_another_state_is_refused() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    world.append(&mut buffer, 2).unwrap();
    let sealing = buffer.begin_seal().unwrap();
    let group = buffer.rows_to_seal().remove(0);
    let contents = buffer.pick_rows(&group.namespace, group.day, 10, 1000).unwrap().unwrap();
    let manifest = world.manifest(&sealing, &group.namespace, Table::Readings, group.day, 2);
    let other = SegmentKey { id: SegmentId { epoch: Epoch(9), ..manifest.id() }, ..manifest.key() };
    let refused = finish_seal(&mut buffer, &sealing, &other, b"s", &manifest, &contents).unwrap_err();
    assert!(matches!(refused, BufferError::WrongKey { .. }), "{refused}");
    world.seal(&mut buffer).unwrap();
    let late = finish_seal(&mut buffer, &sealing, &manifest.key(), b"s", &manifest, &contents).unwrap_err();
    assert!(matches!(late, BufferError::StaleSealing(1)), "{late}");
    let sealing = buffer.begin_seal().unwrap();
    let manifest = world.manifest(&sealing, &group.namespace, Table::Readings, group.day, 2);
    let twice = finish_seal(&mut buffer, &sealing, &manifest.key(), b"s", &manifest, &contents).unwrap_err();
    assert!(matches!(twice, BufferError::RowsTaken(1)), "{twice}");
    assert!(!buffer.is_poisoned());
}

#[test]
fn a_lease_grows_no_further_than_it_is_worth_and_loses_nothing_by_being_written_anew() {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let mut longest = 0;
    for _ in 0..800 {
        world.append(&mut buffer, 1).unwrap();
        world.seal(&mut buffer).unwrap();
        longest = longest.max(std::fs::metadata(world.path("lease")).unwrap().len());
    }
    assert!(longest <= lease_file::COMPACT_AT + 300, "{longest}");
    drop(buffer);
    let (mut buffer, events) = world.open();
    assert_eq!(events, [OpenEvent::Unclean]);
    assert_eq!(world.drain(&mut buffer), once(0..800));
}

#[test]
fn the_thread_answers_in_order_and_survives_a_panic_by_saying_so() {
    let mut world = World::new();
    let (buffer, _) = world.open();
    let (batch, settings) = (world.batch(2), world.settings());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let thread = BufferThread::start(buffer).unwrap();
        let appended = thread.run(move |b| b.append(batch, &sources())).await.unwrap().unwrap();
        assert_eq!(appended.rows.len(), 2);
        let panicked = thread.run::<()>(|_| panic!("on purpose")).await.unwrap_err();
        assert!(panicked.to_string().contains("on purpose"), "{panicked}");
        let refused = thread.run(|b| b.stats()).await.unwrap().unwrap_err();
        assert!(matches!(refused, BufferError::Poisoned));
        assert_eq!(thread.reopen(settings).await.unwrap(), [OpenEvent::Unclean]);
        assert_eq!(thread.run(|b| b.stats()).await.unwrap().unwrap().waiting_rows, 2);
        thread.stop().await.unwrap();
    });
    let (_, events) = world.open();
    assert_eq!(events, [OpenEvent::Clean]);
}
