//! Readings that stay here because aggregates stand for them, and those of them that are sent after all.

use super::budget::laws;
use super::lake::{Taken, manifest_of};
use super::*;
use crate::buffer::Backfill;
use crate::config::Selection;
use crate::ingest::deadband::Deadbands;

const DRIFT: usize = 1;
const READINGS: i64 = 60;

/// A source whose values drift, in windows of ten minutes; what is kept back is kept for a day.
pub(super) fn world() -> World {
    let more = "[[window]]\nname = \"10m\"\nsize = \"10m\"\nidle = \"15m\"\ncorrection_horizon = \"1h\"\n\
                [buffer]\nretain = \"1d\"\n\
                [[source]]\nname = \"drift\"\ntopics = [\"d/{device}/{metric}\"]\ndeadband = { m = 0.5 }\n";
    World::with(more, |config| {
        config.segment.max_age = 15 * MINUTE;
        config.status.listen = None;
    })
}

/// Ten minutes of readings, and how many of them are kept back.
pub(super) async fn commit(world: &World, shared: &Shared, deadbands: &mut Deadbands) -> u64 {
    let now = world.now();
    let one = |i: i64| {
        let ts = now.plus(-(READINGS - i) * 10 * SECOND);
        Reading {
            ts,
            device: format!("d{}", i % 2),
            metric: "m".into(),
            tags: Default::default(),
            row_tags: Default::default(),
            value: Value::Float((ts.0 / SECOND % 7200) as f64 / 100.0),
            unit: None,
            quality: Quality::GOOD,
            kept_back: false,
        }
    };
    let readings = (0..READINGS).map(one).collect();
    let mut accepted = vec![Accepted { source: DRIFT, received_at: now, readings }];
    deadbands.mark(&mut accepted);
    let kept = accepted[0].readings.iter().filter(|r| r.kept_back).count() as u64;
    let messages = MessageCounters { received: 1, accepted: 1, ..Default::default() };
    let batch = NewBatch { accepted, messages, committed_at: now, ..NewBatch::default() };
    let sources = Arc::clone(&world.sources);
    let appended = shared.buffer.run(move |b| b.append(batch, &sources)).await.unwrap().unwrap();
    let names = Arc::clone(&shared.dictionary);
    shared.windows().observe(&appended.rows, &|key| names.get(key), now);
    kept
}

#[tokio::test]
async fn what_lies_in_a_deadband_stays_here_its_windows_have_all_of_it_and_it_ends_in_exact_gaps() {
    let world = world();
    let (mut taken, mut shared) = (Taken::default(), world.live().await);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    let mut deadbands = Deadbands::new(&world.config);
    let (mut kept, mut asked) = (0, 0);
    const STEPS: i64 = 3 * 24 * 6;
    for step in 0..STEPS {
        world.later(10 * MINUTE);
        kept += commit(&world, &shared, &mut deadbands).await;
        *taken.0.entry("drift".into()).or_default() += READINGS as u64;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        world.deliverer(&shared).pass(world.now()).await.unwrap();
        let readings = laws(&shared).await.readings;
        assert_eq!(readings.shed + readings.expired, 0);
        assert!(step >= 24 * 6 || readings.summarised == 0, "not before their time: {step}");
        if step == 24 * 6 - 1 {
            // Two hours of one device, some hours ago; the agent is killed before they are sealed.
            let devices = vec!["d1".to_owned()];
            let (of, now) = (Selection { devices, ..Selection::default() }, world.now());
            let what = Backfill { of, from: now.plus(-5 * HOUR), to: now.plus(-3 * HOUR) };
            let again = what.clone();
            asked = shared.buffer.run(move |b| b.backfill(what)).await.unwrap().unwrap();
            drop(sealer);
            world.end(shared).await;
            shared = world.live().await;
            sealer = Sealer::new(Arc::clone(&shared));
            assert_eq!(shared.buffer.run(move |b| b.backfill(again)).await.unwrap().unwrap(), 0);
            deadbands.forget();
        }
    }
    assert!((200..360).contains(&asked), "most of two hours of one device: {asked}");
    drop(sealer);
    let lake = world.drained(&shared, &taken).await;
    let total = taken.0["drift"];
    assert!(kept > total / 2 && kept < total, "{kept} of {total}");
    assert_eq!(lake.readings["drift"], total - kept + asked);
    assert_eq!(lake.gaps, [(("drift".to_owned(), "summarised".to_owned()), kept - asked)].into());
    assert_eq!(lake.samples("10m"), total);
    assert!(lake.windows.values().all(|(.., partial)| !partial));
}

#[tokio::test]
async fn what_is_sent_after_all_does_not_take_back_what_was_said_to_be_complete() {
    let world = world();
    let shared = world.live().await;
    let mut deadbands = Deadbands::new(&world.config);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    for _ in 0..12 {
        world.later(10 * MINUTE);
        commit(&world, &shared, &mut deadbands).await;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
    }
    let what = Backfill { of: Default::default(), from: Timestamp(NOON), to: Timestamp(i64::MAX) };
    assert!(shared.buffer.run(move |b| b.backfill(what)).await.unwrap().unwrap() > 0);
    for _ in 0..6 {
        world.later(10 * MINUTE);
        commit(&world, &shared, &mut deadbands).await;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
    }
    world.deliverer(&shared).pass(world.now()).await.unwrap();
    let objects = world.bucket.keys().into_iter().filter(|key| key.ends_with(".parquet"));
    let manifests = objects.map(|key| manifest_of(world.bucket.object(&key).unwrap()));
    let mut readings: Vec<Manifest> = manifests.filter(|m| m.table == Table::Readings).collect();
    readings.sort_by_key(|m| m.number);
    let marks: Vec<Option<Timestamp>> = readings.iter().map(|m| m.watermark).collect();
    assert!(marks.len() > 2 && marks.is_sorted(), "{marks:?}");
}
