//! What may befall a buffer, as whole stories: a real buffer, all loops, a bucket that remembers, a receiver's receipts.
//!
//! Each ends with the same look at the bucket: no number and no seq stands for two things, no reading counts twice unless
//! the copies say so, what was acknowledged is there or a gap says that something is missing, and what the receipt let
//! go of was in the bucket.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{Array as _, Float64Array, Int64Array, StringArray};
use bytes::Bytes;
use tributary_contract::digest::Digest;
use tributary_contract::id::Number;
use tributary_contract::key::SegmentKey;

use super::*;

/// A reading in the bucket.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    epoch: Epoch,
    seq: i64,
    value: i64,
    doubtful: bool,
}

impl World {
    /// The buffer's folder.
    fn state(&self) -> &Path {
        &self.config.state_dir
    }

    /// A second later, one batch of readings with these values.
    async fn take_in(&self, shared: &Shared, values: std::ops::Range<i64>) {
        self.later(SECOND);
        self.append(shared, values.map(|value| value as f64)).await;
    }

    /// Seals what waits; an error ends the life.
    async fn seal_all(&self, shared: &Arc<Shared>) -> anyhow::Result<()> {
        let mut sealer = Sealer::new(Arc::clone(shared));
        for _ in 0..3 {
            self.later(2 * SECOND);
            sealer.pass(&*self.bucket, self.now()).await?;
        }
        Ok(())
    }

    /// Lives as often as new epochs begin, until everything is delivered, registered and let go of. Gives the gaps that
    /// were recorded, those that were sealed meanwhile included.
    async fn come_to_rest(&self, mut revision: u64) -> Vec<GapRow> {
        let mut told = Vec::new();
        for _ in 0..8 {
            let shared = self.live().await;
            told.extend(shared.buffer.run(|b| b.gaps_to_seal()).await.unwrap().unwrap());
            let lived = async {
                self.seal_all(&shared).await?;
                let mut deliverer = self.deliverer(&shared);
                deliverer.pass(self.now()).await?;
                self.later(10 * MINUTE);
                deliverer.pass(self.now()).await?;
                revision += 1;
                self.register_all(revision).await;
                self.later(10 * MINUTE);
                deliverer.pass(self.now()).await?;
                self.seal_all(&shared).await
            };
            match lived.await {
                Ok(()) => {
                    told.extend(shared.buffer.run(|b| b.gaps_to_seal()).await.unwrap().unwrap());
                    let stats = shared.buffer.run(|b| b.stats()).await.unwrap().unwrap();
                    assert_eq!((stats.waiting_rows, stats.pending_readback), (0, 0));
                    stats.books.counters.check().unwrap();
                    self.end(shared).await;
                    return told;
                }
                Err(e) if e.is::<StartAgain>() => self.end(shared).await,
                Err(e) => panic!("{e:#}"),
            }
        }
        panic!("a new epoch began again and again");
    }

    /// The receiver has every segment that is in the bucket.
    async fn register_all(&self, revision: u64) {
        let all = self.segments().into_iter();
        let link = |(key, bytes): (SegmentKey, Bytes)| {
            (key.id.epoch, Link { number: key.id.number, digest: Digest::of(&bytes) })
        };
        self.register_links(revision, all.map(link)).await;
    }

    /// Every segment in the bucket.
    fn segments(&self) -> Vec<(SegmentKey, Bytes)> {
        let all = self.bucket.keys().into_iter().filter_map(|key| {
            let parsed = SegmentKey::parse(&self.config.bucket.prefix, &key).ok()?;
            Some((parsed, self.bucket.object(&key)?))
        });
        all.collect()
    }

    /// Every reading in the bucket, checked for what may never be.
    fn lake(&self) -> Vec<Held> {
        let mut held = Vec::new();
        let mut names: BTreeSet<(Epoch, Number)> = BTreeSet::new();
        for (key, bytes) in self.segments() {
            assert!(names.insert((key.id.epoch, key.id.number)), "number {} has two names", key.id);
            if key.table != Table::Readings {
                continue;
            }
            for rows in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
                let rows = rows.unwrap();
                let column = |name: &str| rows.column_by_name(name).unwrap().clone();
                let (seqs, values, doubts) = (column("seq"), column("value"), column("quality"));
                let seqs = seqs.as_any().downcast_ref::<Int64Array>().unwrap();
                let values = values.as_any().downcast_ref::<Float64Array>().unwrap();
                let doubts = doubts.as_any().downcast_ref::<StringArray>().unwrap();
                held.extend((0..rows.num_rows()).map(|i| Held {
                    epoch: key.id.epoch,
                    seq: seqs.value(i),
                    value: values.value(i) as i64,
                    doubtful: !doubts.is_null(i) && doubts.value(i).contains("possible-duplicate"),
                }));
            }
        }
        let mut seqs: BTreeSet<(Epoch, i64)> = BTreeSet::new();
        let mut sure: BTreeSet<i64> = BTreeSet::new();
        for row in &held {
            assert!(seqs.insert((row.epoch, row.seq)), "a seq stands for two readings: {row:?} in {held:?}");
            assert!(row.doubtful || sure.insert(row.value), "counts twice, unmarked: {row:?} in {held:?}");
        }
        held
    }

    /// The lake holds each of these values, and each once.
    fn holds_once(&self, values: std::ops::Range<i64>) {
        let mut found: Vec<i64> = self.lake().iter().map(|h| h.value).collect();
        found.sort_unstable();
        assert_eq!(found, values.collect::<Vec<_>>());
    }

    fn database(&self) -> std::path::PathBuf {
        self.state().join("buffer.db")
    }

    fn log(&self) -> std::path::PathBuf {
        self.state().join("buffer.db-wal")
    }
}

fn torn(gaps: &[GapRow]) -> bool {
    gaps.iter().any(|g| g.reason == tributary_contract::reject::GapReason::Torn)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for found in fs::read_dir(from).unwrap() {
        let (path, name) = found.map(|f| (f.path(), f.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name))
        } else {
            fs::copy(&path, to.join(name)).map(|_| ()).unwrap()
        }
    }
}

/// Values 0 to 4 registered and gone, 5 to 9 delivered, 10 to 14 waiting; the next receipt is the second.
async fn three_fates(world: &World) -> Arc<Shared> {
    let shared = world.live().await;
    let mut deliverer = world.deliverer(&shared);
    deliverer.pass(world.now()).await.unwrap();
    world.take_in(&shared, 0..5).await;
    world.seal_all(&shared).await.unwrap();
    deliverer.pass(world.now()).await.unwrap();
    world.register_all(1).await;
    world.later(10 * MINUTE);
    deliverer.pass(world.now()).await.unwrap();
    assert_eq!(entries(&shared).await, []);
    world.take_in(&shared, 5..10).await;
    world.seal_all(&shared).await.unwrap();
    deliverer.pass(world.now()).await.unwrap();
    world.take_in(&shared, 10..15).await;
    shared
}

#[tokio::test]
async fn the_log_loses_its_tail_after_its_segments_were_delivered_and_they_are_read_back_from_the_bucket() {
    let world = World::new("");
    let shared = world.live().await;
    let mut deliverer = world.deliverer(&shared);
    deliverer.pass(world.now()).await.unwrap();
    world.take_in(&shared, 0..5).await;
    let whole = fs::metadata(world.log()).unwrap().len();
    world.take_in(&shared, 5..10).await;
    world.seal_all(&shared).await.unwrap();
    deliverer.pass(world.now()).await.unwrap();
    assert!(states(&shared).await.iter().all(|s| *s == "delivered"));
    world.take_in(&shared, 10..12).await;
    drop(deliverer);
    world.end(shared).await;
    fs::OpenOptions::new().write(true).open(world.log()).unwrap().set_len(whole).unwrap();
    fs::remove_dir_all(world.state().join("segments")).unwrap();

    let shared = world.live().await;
    world.take_in(&shared, 12..15).await;
    world.end(shared).await;
    let gaps = world.come_to_rest(1).await;
    let values: Vec<i64> = world.lake().iter().map(|h| h.value).collect();
    assert!((0..10).chain(12..15).all(|v| values.contains(&v)), "{values:?}");
    assert!(torn(&gaps) || values.len() == 15, "10 and 11 were lost without a word: {values:?}");
    assert!((0..10).all(|v| values.iter().filter(|x| **x == v).count() == 1), "sealed once: {values:?}");
}

#[tokio::test]
async fn a_card_cloned_to_another_machine_sends_what_waited_twice_and_says_so() {
    let world = World::new("");
    world.end(three_fates(&world).await).await;
    let other = World { bucket: Arc::clone(&world.bucket), ..World::new("") };
    other.later(world.now().since(other.now()));
    copy(world.state(), other.state());

    let shared = other.live().await;
    other.take_in(&shared, 20..22).await;
    other.end(shared).await;
    other.come_to_rest(1).await;
    let shared = world.live().await;
    world.take_in(&shared, 15..20).await;
    world.end(shared).await;
    world.later(other.now().since(world.now()));
    world.come_to_rest(10).await;

    let lake = world.lake();
    let count = |v: i64, doubtful| lake.iter().filter(|h| h.value == v && h.doubtful == doubtful).count();
    assert!((0..22).all(|v| count(v, false) + count(v, true) > 0), "{lake:?}");
    assert!((0..10).chain(15..22).all(|v| count(v, true) == 0), "only what waited is in doubt: {lake:?}");
    assert!((10..15).all(|v| (count(v, false), count(v, true)) == (1, 1)), "{lake:?}");
}

#[tokio::test]
async fn an_older_copy_of_the_database_beside_the_newer_lease_uses_no_number_again() {
    for stopped in [false, true] {
        let world = World::new("");
        let shared = three_fates(&world).await;
        let older = (fs::read(world.database()).unwrap(), fs::read(world.log()).unwrap());
        world.seal_all(&shared).await.unwrap();
        world.deliverer(&shared).pass(world.now()).await.unwrap();
        world.register_all(2).await;
        world.later(10 * MINUTE);
        world.deliverer(&shared).pass(world.now()).await.unwrap();
        if stopped {
            Arc::into_inner(shared).unwrap().buffer.stop().await.unwrap();
        } else {
            world.end(shared).await;
        }
        // The names of what was sealed leave the lease at a start.
        let shared = world.live().await;
        world.end(shared).await;
        fs::write(world.database(), older.0).unwrap();
        fs::write(world.log(), older.1).unwrap();

        let shared = world.live().await;
        assert!(shared.buffer.run(|b| b.ordinal()).await.unwrap() > 0, "it knows that it is older");
        world.take_in(&shared, 15..18).await;
        world.end(shared).await;
        world.come_to_rest(2).await;
        let lake = world.lake();
        assert!((0..18).all(|v| lake.iter().any(|h| h.value == v)), "{lake:?}");
        assert!((0..10).chain(15..18).all(|v| lake.iter().filter(|h| h.value == v).count() == 1), "{lake:?}");
    }
}

#[tokio::test]
async fn an_older_image_of_the_whole_folder_meets_its_own_numbers_in_the_bucket_and_begins_a_new_epoch() {
    let world = World::new("");
    let shared = three_fates(&world).await;
    world.end(shared).await;
    let image = tempfile::tempdir().unwrap();
    copy(world.state(), image.path());
    let epoch = world.segments()[0].0.id.epoch;
    let shared = world.live().await;
    world.take_in(&shared, 15..20).await;
    world.end(shared).await;
    world.come_to_rest(1).await;
    // The card is written as it was, file for file: nothing on it tells.
    fs::remove_dir_all(world.state().join("segments")).unwrap();
    copy(image.path(), world.state());
    let shared = world.live().await;
    world.take_in(&shared, 30..33).await;
    world.end(shared).await;
    world.come_to_rest(20).await;
    let lake = world.lake();
    assert!((0..20).chain(30..33).all(|v| lake.iter().any(|h| h.value == v)), "{lake:?}");
    assert!(lake.iter().any(|h| h.epoch != epoch), "{lake:?}");
}

#[tokio::test]
async fn without_its_lease_the_buffer_goes_on_under_a_new_epoch_and_loses_nothing() {
    let world = World::new("");
    world.end(three_fates(&world).await).await;
    fs::remove_file(world.state().join("lease")).unwrap();
    let shared = world.live().await;
    world.take_in(&shared, 15..20).await;
    world.end(shared).await;
    let gaps = world.come_to_rest(1).await;
    assert!(!torn(&gaps), "{gaps:?}");
    world.holds_once(0..20);
    let doubtful: Vec<i64> = world.lake().iter().filter(|h| h.doubtful).map(|h| h.value).collect();
    assert_eq!(doubtful, (10..15).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_its_database_the_buffer_sends_the_segments_it_has_and_says_that_the_rest_is_torn() {
    let world = World::new("");
    world.end(three_fates(&world).await).await;
    for name in [world.database(), world.log(), world.state().join("tail")] {
        fs::remove_file(name).unwrap();
    }
    let shared = world.live().await;
    let epoch = world.segments()[0].0.id.epoch;
    world.take_in(&shared, 15..20).await;
    let gaps = shared.buffer.run(|b| b.gaps_to_seal()).await.unwrap().unwrap();
    assert!(torn(&gaps), "{gaps:?}");
    world.end(shared).await;
    world.come_to_rest(1).await;
    let mut found: Vec<i64> = world.lake().iter().map(|h| h.value).collect();
    found.sort_unstable();
    assert_eq!(found, (0..10).chain(15..20).collect::<Vec<_>>());
    // The receipt has numbers that the new database never heard of: that is its own past, and no fork.
    let shared = world.live().await;
    assert_eq!(entries(&shared).await, [], "everything was let go of");
    let known = shared.buffer.run(|b| b.epochs()).await.unwrap();
    assert!(known.iter().any(|e| e.epoch == epoch && e.last == u64::MAX), "{known:?}");
    assert!(!shared.live().receipt.forked);
    world.end(shared).await;
}

#[tokio::test]
async fn a_receipt_that_comes_before_the_reply_of_the_put_lets_go_of_nothing_until_we_looked() {
    let world = World::new("");
    let shared = world.live().await;
    let mut deliverer = world.deliverer(&shared);
    deliverer.pass(world.now()).await.unwrap();
    world.take_in(&shared, 0..5).await;
    world.seal_all(&shared).await.unwrap();
    let all = entries(&shared).await;
    world.register(1, &all).await;
    // Every PUT has its effect, and no reply comes; nor does the look answer at first.
    let lost = || Some(Fault::lost_reply());
    world.bucket.script([lost(), unreachable(), unreachable()]);
    deliverer.pass(world.now()).await.unwrap();
    assert!(entries(&shared).await.iter().any(|e| e.state.name() == "sealed"), "not known as delivered");
    for entry in entries(&shared).await.iter().filter(|e| e.state.name() != "delivered") {
        let path = shared.buffer.run({
            let (epoch, number) = (entry.epoch, entry.number);
            move |b| b.segment_path(epoch, number)
        });
        assert!(path.await.unwrap().exists(), "its bytes stay until we know");
    }
    for _ in 0..4 {
        world.later(10 * MINUTE);
        deliverer.pass(world.now()).await.unwrap();
    }
    assert_eq!(entries(&shared).await, [], "looked, found, let go");
    drop(deliverer);
    world.end(shared).await;
    world.holds_once(0..5);
}

#[tokio::test]
async fn a_receipt_that_names_what_was_never_sealed_is_a_fork_that_deletes_nothing_and_ends_the_epoch() {
    let world = World::new("");
    let shared = three_fates(&world).await;
    let before = entries(&shared).await;
    let epoch = before[0].epoch;
    let beyond = before.last().unwrap().number.get() + 3;
    let forged = Link { number: Number::new(beyond).unwrap(), digest: Digest::of(b"a copy's") };
    let said =
        EpochReceipt { registered: (1..=beyond).collect(), highest: Some(forged), ..EpochReceipt::default() };
    world.receipt(2, [(epoch, said)].into_iter().collect()).await;
    world.later(10 * MINUTE);
    let mut deliverer = world.deliverer(&shared);
    let ended = deliverer.pass(world.now()).await.unwrap_err();
    assert!(ended.is::<StartAgain>(), "{ended:#}");
    drop(deliverer);
    let after = entries(&shared).await;
    assert_eq!(after, before, "nothing was let go of");
    world.end(shared).await;

    let shared = world.live().await;
    assert_ne!(shared.buffer.run(|b| b.epoch()).await.unwrap(), epoch);
    world.take_in(&shared, 15..18).await;
    world.end(shared).await;
    world.come_to_rest(2).await;
    world.holds_once(0..18);
    // What the forked epoch sealed stays on disk for a person, whatever later receipts say of it.
    let shared = world.live().await;
    assert!(entries(&shared).await.iter().all(|e| e.epoch == epoch));
    assert_eq!(entries(&shared).await.len(), before.len());
    world.end(shared).await;
}
