//! Windows across a read-back: a crash in the middle of a seal, and the lease lost as well.

use std::collections::BTreeMap;
use std::fs;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{Array as _, Int32Array, Int64Array, TimestampMicrosecondArray};
use tributary_contract::key::SegmentKey;

use super::*;

/// A life whose seals die at `point`, so many passes long.
async fn dies_at(world: &World, point: &'static str, passes: usize) {
    let (clock, live) = (world.clock.clone() as Arc<dyn Clock>, new_live(&world.config, world.now()));
    let (status, _) = watch::channel(Arc::new(first_status(&world.config, &*clock)));
    let seams = Seams { faults: Arc::new(DieAt(point)), ..Seams::default() };
    let live = Arc::new(Mutex::new(live));
    let (shared, _) = open(&world.config, &live, &status, &clock, seams).await.unwrap();
    let shared = Arc::new(shared);
    shared.live().drained.fill(true);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    for _ in 0..passes {
        let _ = sealer.pass(&*world.bucket, world.now()).await;
        world.later(2 * SECOND);
    }
    drop(sealer);
    world.end(shared).await;
}

/// Of each window of the lake the samples of its newest revision; no revision may be there twice.
fn newest(world: &World) -> BTreeMap<i64, i64> {
    let mut revisions: BTreeMap<(i64, i32), i64> = BTreeMap::new();
    for key in world.bucket.keys() {
        let Ok(parsed) = SegmentKey::parse(&world.config.bucket.prefix, &key) else { continue };
        if parsed.table != Table::Aggregates {
            continue;
        }
        let bytes = world.bucket.object(&key).unwrap();
        for rows in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let rows = rows.unwrap();
            let column = |name: &str| rows.column_by_name(name).unwrap().clone();
            let (starts, revision, samples) = (column("window_start"), column("revision"), column("samples"));
            let starts = starts.as_any().downcast_ref::<TimestampMicrosecondArray>().unwrap();
            let revision = revision.as_any().downcast_ref::<Int32Array>().unwrap();
            let samples = samples.as_any().downcast_ref::<Int64Array>().unwrap();
            for i in 0..rows.num_rows() {
                let name = (starts.value(i), revision.value(i));
                assert_eq!(revisions.insert(name, samples.value(i)), None, "{name:?} is there twice");
            }
        }
    }
    revisions.into_iter().map(|((start, _), samples)| (start, samples)).collect()
}

async fn deliver(world: &World) {
    let shared = world.live().await;
    for _ in 0..4 {
        Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap();
        world.deliverer(&shared).pass(world.now()).await.unwrap();
        world.later(MINUTE);
    }
    world.end(shared).await;
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_seal_that_also_costs_the_lease_leaves_no_window_short_or_doubled() {
    // Which seal the crash meets: with one more pass before it, another table's.
    for passes in [1, 2] {
        let world = World::new(
            "[[window]]\nname = \"1m\"\nsize = \"1m\"\nidle = \"2s\"\ncorrection_horizon = \"1d\"\n\
             [buffer]\nrelease_on = \"delivered\"",
        );
        let shared = world.live().await;
        for _ in 0..3 {
            world.commit(&shared).await;
            world.later(5 * SECOND);
        }
        world.later(2 * MINUTE);
        world.end(shared).await;
        dies_at(&world, "seal: file renamed", passes).await;
        fs::remove_file(world.config.state_dir.join("lease")).unwrap();
        deliver(&world).await;
        assert_eq!(newest(&world), BTreeMap::from([(NOON, 3)]), "{passes}");

        // A late one comes: a revision more, of all four.
        let now = world.now();
        world.later(-now.since(Timestamp(NOON + 20 * SECOND)));
        let shared = world.live().await;
        world.commit(&shared).await;
        world.later(now.since(world.now()));
        world.end(shared).await;
        deliver(&world).await;
        assert_eq!(newest(&world), BTreeMap::from([(NOON, 4)]), "{passes}");
    }
}
