//! What the whole road promises: each segment once, whatever fails or dies in between.

mod disorder;

use std::path::Path;
use std::time::Duration;

use tributary_contract::id::{Epoch, Namespace};
use tributary_contract::range::Ranges;
use tributary_contract::receipt::{EpochReceipt, Receipt};
use tributary_contract::reject::QuarantineReason;
use tributary_contract::status::GatewayStatus;
use tributary_contract::table::Table;

use super::*;
use crate::bucket::memory::{Fault, MemoryBucket};
use crate::catalog::{Lake, LakeSettings, S3Access};
use crate::dedupe::{GatewayFacts, Ledger};
use crate::fixture::{Forge, LakeFault, MemoryLake, Sealed};

const READINGS: &str = "tributary.readings";

struct World {
    folder: tempfile::TempDir,
    bucket: Arc<MemoryBucket>,
    lake: Arc<MemoryLake>,
    pipeline: Pipeline,
}

/// A receiver on the ledger in `folder`, as after a start.
fn start(folder: &Path, bucket: Arc<MemoryBucket>, lake: Arc<dyn Register>) -> Pipeline {
    let ledger = Ledger::open(&folder.join("ledger.db")).unwrap();
    let id = ledger.id().to_string();
    let places = Places { prefix: Prefix::new("p").unwrap(), uri_base: "s3://lake/".into() };
    let register = RegisterConfig { max_files: 100, max_wait: Duration::ZERO };
    Pipeline::new(bucket, lake, LedgerHandle::new(ledger), id, places, register)
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let (bucket, lake) = (Arc::<MemoryBucket>::default(), Arc::<MemoryLake>::default());
    let pipeline = start(folder.path(), bucket.clone(), lake.clone());
    World { folder, bucket, lake, pipeline }
}

impl World {
    fn deliver(&self, sealed: &Sealed) {
        let key = sealed.key.object_key(&self.pipeline.prefix);
        self.bucket.deliver(&key, sealed.bytes.clone(), Timestamp(1));
    }

    /// The receiver dies and another one starts on what is durable.
    fn restart(self) -> World {
        let World { folder, bucket, lake, pipeline } = self;
        drop(pipeline);
        let pipeline = start(folder.path(), bucket.clone(), lake.clone());
        World { folder, bucket, lake, pipeline }
    }

    async fn pass(&self) {
        self.pipeline.pass(Timestamp(100)).await.unwrap();
    }

    fn rows(&self) -> i64 {
        self.lake.table(READINGS).map(|t| t.rows).unwrap_or_default()
    }

    fn receipt(&self, gateway: &str) -> Receipt {
        let bytes = self.bucket.bytes(&format!("p/receipts/{gateway}.json")).unwrap();
        Receipt::from_json(&bytes, &gateway.parse().unwrap()).unwrap()
    }

    fn epoch(&self, gateway: &str, epoch: u64) -> EpochReceipt {
        self.receipt(gateway).epochs[&Epoch(epoch)].clone()
    }

    async fn gateways(&self) -> Vec<GatewayFacts> {
        self.pipeline.ledger.call(|l| l.gateways()).await.unwrap()
    }

    async fn stopped(&self) -> Vec<Option<String>> {
        let tables = self.pipeline.ledger.call(|l| l.tables()).await.unwrap();
        tables.into_iter().map(|t| t.stopped).collect()
    }
}

fn numbers(first: u64, last: u64) -> Ranges {
    (first..=last).collect()
}

#[tokio::test]
async fn what_is_delivered_is_registered_once_and_the_gateway_is_told() {
    let world = world();
    let mut forge = Forge::new("gw-1", 1);
    let sealed: Vec<Sealed> = (0..5).map(|_| forge.seal(Table::Readings, 10)).collect();
    sealed.iter().for_each(|s| world.deliver(s));
    world.deliver(&Forge::new("gw-2", 7).seal(Table::Aggregates, 3));
    world.pass().await;
    world.pass().await;
    assert_eq!(world.rows(), 50);
    let table = world.lake.table(READINGS).unwrap();
    assert_eq!((table.batch, table.uris.len()), (1, 5));
    let first = sealed[0].key.object_key(&world.pipeline.prefix);
    assert_eq!(table.uris[0], format!("s3://lake/{first}"));
    let epoch = world.epoch("gw-1", 1);
    assert_eq!((epoch.registered, epoch.missing), (numbers(1, 5), Ranges::new()));
    assert_eq!(epoch.highest.unwrap().digest, sealed[4].digest());
    assert_eq!(world.receipt("gw-1").snapshots[READINGS], 1);
    assert_eq!(world.epoch("gw-2", 7).registered, numbers(1, 1));
    world.bucket.take_requests();
    world.pass().await;
    assert!(
        world.bucket.take_requests().iter().all(|r| r.starts_with("list ")),
        "nothing new: nothing but listings"
    );
}

#[tokio::test]
async fn a_receiver_that_dies_after_any_step_registers_once() {
    let mut world = world();
    let mut forge = Forge::new("gw-1", 1);
    let (one, two) = (forge.seal(Table::Readings, 10), forge.seal(Table::Readings, 20));
    world.deliver(&one);
    world.deliver(&two);
    let now = Timestamp(100);

    world.bucket.fail_next("get", Fault::Refused);
    world.pipeline.arrivals_pass(now).await.unwrap_err();
    world = world.restart();
    assert_eq!(
        world.pipeline.arrivals_pass(now).await.unwrap().checked,
        1,
        "the other one is known as checked"
    );

    world = world.restart();
    world.lake.fail_next(READINGS, LakeFault::Unreachable);
    world.pipeline.register_pass(now).await.unwrap_err();
    assert_eq!(world.rows(), 0, "the batch is formed, nothing landed");

    world = world.restart();
    world.lake.fail_next(READINGS, LakeFault::LandsUnheard);
    world.pipeline.register_pass(now).await.unwrap_err();
    assert_eq!(world.rows(), 30, "it landed and nobody heard");

    world = world.restart();
    assert_eq!(world.pipeline.register_pass(now).await.unwrap(), 1, "found settled");

    world = world.restart();
    world.bucket.fail_next("put", Fault::ReplyLost);
    world.pipeline.receipts_pass(now).await.unwrap_err();

    world = world.restart();
    world.pass().await;
    assert_eq!((world.rows(), world.lake.table(READINGS).unwrap().batch), (30, 1));
    assert_eq!(world.epoch("gw-1", 1).registered, numbers(1, 2));
    assert_eq!(world.receipt("gw-1").revision, 2, "above the one whose reply was lost");
}

#[tokio::test]
async fn conflicts_and_unknown_outcomes_lead_back_to_the_look() {
    let world = world();
    world.deliver(&Forge::new("gw-1", 1).seal(Table::Readings, 10));
    world.lake.fail_next(READINGS, LakeFault::Conflict);
    world.lake.fail_next(READINGS, LakeFault::LandsUnknown);
    world.pass().await;
    assert_eq!(world.rows(), 10);
    assert_eq!(world.epoch("gw-1", 1).registered, numbers(1, 1));
}

#[tokio::test]
async fn a_batch_waits_for_its_number_of_files_or_its_time() {
    let mut world = world();
    world.pipeline.register = RegisterConfig { max_files: 2, max_wait: Duration::from_micros(50) };
    let mut forge = Forge::new("gw-1", 1);
    let mut next = || forge.seal(Table::Readings, 1);
    world.deliver(&next());
    world.pipeline.pass(Timestamp(100)).await.unwrap();
    assert_eq!(world.rows(), 0);
    world.pipeline.pass(Timestamp(150)).await.unwrap();
    assert_eq!(world.rows(), 1, "its time has come");
    for _ in 0..5 {
        world.deliver(&next());
    }
    world.pipeline.pass(Timestamp(160)).await.unwrap();
    let table = world.lake.table(READINGS).unwrap();
    assert_eq!((table.rows, table.batch), (6, 4), "two full batches; what was left had no reason to wait");
}

#[tokio::test]
async fn a_segment_that_vanished_before_its_batch_is_named_missing_and_taken_when_it_comes_again() {
    let world = world();
    let mut forge = Forge::new("gw-1", 1);
    let (one, two) = (forge.seal(Table::Readings, 10), forge.seal(Table::Readings, 20));
    world.deliver(&one);
    world.deliver(&two);
    world.pipeline.arrivals_pass(Timestamp(100)).await.unwrap();
    world.bucket.remove(&one.key.object_key(&world.pipeline.prefix));
    world.pass().await;
    assert_eq!(world.rows(), 20);
    let epoch = world.epoch("gw-1", 1);
    assert_eq!((epoch.registered, epoch.missing), (numbers(2, 2), numbers(1, 1)));
    world.deliver(&one);
    world.pass().await;
    assert_eq!(world.rows(), 30);
    assert_eq!(world.epoch("gw-1", 1).registered, numbers(1, 2));
}

#[tokio::test]
async fn a_batch_whose_segment_vanished_waits_for_it_and_says_so() {
    let mut world = world();
    let sealed = Forge::new("gw-1", 1).seal(Table::Readings, 10);
    world.deliver(&sealed);
    world.pipeline.arrivals_pass(Timestamp(100)).await.unwrap();
    world.lake.fail_next(READINGS, LakeFault::Unreachable);
    world.pipeline.register_pass(Timestamp(100)).await.unwrap_err();
    world = world.restart();
    let key = sealed.key.object_key(&world.pipeline.prefix);
    world.bucket.remove(&key);
    let error = world.pipeline.register_pass(Timestamp(100)).await.unwrap_err();
    assert!(error.to_string().contains(&key), "{error}");
    world.pipeline.receipts_pass(Timestamp(100)).await.unwrap();
    assert_eq!(world.epoch("gw-1", 1).missing, numbers(1, 1));
    world.deliver(&sealed);
    world.pass().await;
    assert_eq!(world.rows(), 10);
    assert_eq!(world.epoch("gw-1", 1).registered, numbers(1, 1));
}

#[tokio::test]
async fn a_segment_deleted_while_the_catalog_is_away_is_never_registered_without_its_object() {
    let world = world();
    let sealed = Forge::new("gw-1", 1).seal(Table::Readings, 10);
    world.deliver(&sealed);
    world.pipeline.arrivals_pass(Timestamp(100)).await.unwrap();
    world.lake.fail_next(READINGS, LakeFault::Unreachable);
    world.pipeline.register_pass(Timestamp(100)).await.unwrap_err();
    world.bucket.remove(&sealed.key.object_key(&world.pipeline.prefix));
    world.pipeline.register_pass(Timestamp(200)).await.unwrap_err();
    assert_eq!(
        world.rows(),
        0,
        "the table would refer to an object that is gone, and the gateway would let go"
    );
    world.deliver(&sealed);
    world.pass().await;
    assert_eq!(world.rows(), 10);
}

#[tokio::test]
async fn a_ledger_from_a_backup_never_takes_another_batch_of_the_table_for_its_own() {
    let mut world = world();
    let mut forge = Forge::new("gw-1", 1);
    world.deliver(&forge.seal(Table::Readings, 10));
    world.pass().await;
    let World { folder, bucket, lake, pipeline } = world;
    drop(pipeline);
    let (ledger, backup) = (folder.path().join("ledger.db"), folder.path().join("backup.db"));
    std::fs::copy(&ledger, &backup).unwrap();
    let pipeline = start(folder.path(), bucket.clone(), lake.clone());
    world = World { folder, bucket, lake, pipeline };
    world.deliver(&forge.seal(Table::Readings, 20));
    world.pass().await;
    assert_eq!(world.lake.table(READINGS).unwrap().batch, 2);

    let World { folder, bucket, lake, pipeline } = world;
    drop(pipeline);
    std::fs::copy(&backup, &ledger).unwrap();
    let pipeline = start(folder.path(), bucket.clone(), lake.clone());
    world = World { folder, bucket, lake, pipeline };
    world.deliver(&forge.seal(Table::Readings, 40));
    for _ in 0..2 {
        world.pass().await;
        assert_eq!(world.rows(), 30);
        let stopped = world.stopped().await;
        assert!(stopped[0].as_ref().is_some_and(|s| s.contains("ledger is older")), "{stopped:?}");
        assert!(!world.epoch("gw-1", 1).registered.contains(3), "it is in no batch of the table");
        world = world.restart();
    }
}

#[tokio::test]
async fn foreign_and_broken_objects_are_quarantined_with_their_reason_and_the_rest_is_registered() {
    let world = world();
    let mut forge = Forge::new("gw-1", 1);
    let (good, bad, huge) =
        (forge.seal(Table::Readings, 10), forge.seal(Table::Readings, 10), forge.seal(Table::Readings, 1));
    let other = Forge::new("gw-1", 1).seal(Table::Gaps, 1);
    world.deliver(&good);
    let prefix = &world.pipeline.prefix;
    let bad_key = bad.key.object_key(prefix);
    world.bucket.deliver(&bad_key, "not parquet", Timestamp(1));
    let huge_key = huge.key.object_key(prefix);
    world.bucket.deliver(&huge_key, vec![0; (crate::validate::MAX_OBJECT_BYTES + 1) as usize], Timestamp(1));
    world.bucket.deliver("p/segments/hello.txt", "hello", Timestamp(1));
    world.pipeline.arrivals_pass(Timestamp(100)).await.unwrap();
    // The same id once more, under another table's key.
    world.deliver(&other);
    world.bucket.take_requests();
    world.pass().await;

    assert_eq!(world.rows(), 10);
    let reasons = [
        ("p/quarantine/hello.txt", QuarantineReason::BadKey),
        (&bad_key.replace("/segments/", "/quarantine/"), QuarantineReason::Unreadable),
        (&huge_key.replace("/segments/", "/quarantine/"), QuarantineReason::TooLarge),
        (&other.key.object_key(prefix).replace("/segments/", "/quarantine/"), QuarantineReason::Conflict),
    ];
    for (key, reason) in reasons {
        assert!(world.bucket.bytes(key).is_some(), "{key} is copied");
        let told = world.bucket.bytes(&format!("{key}.reason.json")).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["reason"], reason.code());
        assert!(told["detail"].as_str().is_some_and(|d| !d.is_empty()));
    }
    assert!(world.bucket.bytes(&bad_key).is_some(), "what a gateway wrote is never deleted");
    assert!(!world.bucket.take_requests().contains(&format!("get {huge_key}")), "not even read");
    let epoch = world.epoch("gw-1", 1);
    let codes: Vec<_> = epoch.quarantined.iter().map(|(n, q)| (*n, q.reason)).collect();
    assert_eq!(codes, [(2, QuarantineReason::Unreadable), (3, QuarantineReason::TooLarge)]);
    assert_eq!(epoch.registered, numbers(1, 1));

    let before = world.bucket.keys();
    world.pass().await;
    assert_eq!(world.bucket.keys(), before, "once is enough");
}

#[tokio::test]
async fn one_object_that_cannot_be_read_now_does_not_hold_up_the_others() {
    let world = world();
    let mut forge = Forge::new("gw-1", 1);
    for _ in 0..3 {
        world.deliver(&forge.seal(Table::Readings, 10));
    }
    world.bucket.fail_next("get", Fault::Refused);
    let error = world.pipeline.arrivals_pass(Timestamp(100)).await.unwrap_err();
    assert_eq!(error.part(), health::Part::Bucket);
    world.pipeline.register_pass(Timestamp(100)).await.unwrap();
    assert_eq!(world.rows(), 20);
    world.pass().await;
    assert_eq!(world.rows(), 30);
}

#[tokio::test]
async fn a_stop_stops_that_table_only_until_the_next_start() {
    let mut world = world();
    let mut forge = Forge::new("gw-1", 1);
    world.deliver(&forge.seal(Table::Readings, 10));
    world.deliver(&forge.seal(Table::Aggregates, 10));
    world.lake.fail_next(READINGS, LakeFault::Stop("run `ledger rebuild`".into()));
    world.pass().await;
    world.pass().await;
    assert_eq!(world.rows(), 0);
    assert_eq!(world.lake.table("tributary.aggregates").unwrap().rows, 10);
    assert_eq!(world.stopped().await, [None, Some("run `ledger rebuild`".into())]);
    world = world.restart();
    world.pass().await;
    assert_eq!(world.rows(), 10, "a person acted, the batch was still there");
    assert_eq!(world.stopped().await, [None, None]);
}

#[tokio::test]
async fn statuses_are_taken_over_when_they_change_and_only_their_own() {
    let world = world();
    let put = |name: &str, status: &str| {
        world.bucket.store(&format!("p/status/{name}.json"), status.to_owned(), None, Timestamp(9));
    };
    let status = r#"{"version":1,"gateway":"gw-1","epoch":"0000000000000001","at":5,"agent":"1.2.3"}"#;
    put("gw-1", status);
    put("gw-2", status);
    put("gw-3", "{");
    world.pass().await;
    let facts = world.gateways().await;
    let known: Vec<Option<GatewayStatus>> = facts.iter().map(|f| f.status.clone()).collect();
    assert_eq!(known[0].as_ref().unwrap().agent, "1.2.3");
    assert!(known[1].is_none() && known[2].is_none());
    assert_eq!(facts[0].last_seen, Some(Timestamp(9)));
    world.bucket.take_requests();
    world.pass().await;
    assert!(!world.bucket.take_requests().iter().any(|r| r.starts_with("get p/status/")));
}

async fn real_lake(folder: &Path) -> Lake {
    let warehouse = format!("file://{}", folder.join("lake").display());
    let settings = LakeSettings { catalog_db: folder.join("catalog.db"), warehouse, s3: S3Access::default() };
    Lake::open(settings).await.unwrap()
}

#[tokio::test]
async fn batches_land_once_in_a_real_iceberg_table_and_a_second_ledger_stops() {
    let folder = tempfile::tempdir().unwrap();
    let lake = real_lake(folder.path()).await;
    let bucket = Arc::<MemoryBucket>::default();
    let pipeline = start(folder.path(), bucket.clone(), Arc::new(lake.clone()));
    let ledger_id = pipeline.ledger_id.clone();
    let mut forge = Forge::new("gw-1", 1);
    for batch in 1..=2u64 {
        for _ in 0..3 {
            let sealed = forge.seal(Table::Readings, 10);
            bucket.deliver(&sealed.key.object_key(&pipeline.prefix), sealed.bytes, Timestamp(1));
        }
        pipeline.pass(Timestamp(100)).await.unwrap();
        pipeline.pass(Timestamp(100)).await.unwrap();
        let look = lake.look(&Namespace::default(), Table::Readings, &ledger_id).await.unwrap();
        assert_eq!((look.batch, look.rows, look.files), (batch, Some(30 * batch), Some(3 * batch)));
        let table = pipeline.ledger.call(|l| l.tables()).await.unwrap().remove(0);
        assert_eq!((table.snapshot, table.rows), (look.snapshot, 30 * batch));
    }
    drop(pipeline);

    let other = folder.path().join("other");
    let pipeline = start(&other, bucket, Arc::new(lake.clone()));
    pipeline.pass(Timestamp(100)).await.unwrap();
    let table = pipeline.ledger.call(|l| l.tables()).await.unwrap().remove(0);
    let sentence = table.stopped.unwrap();
    assert!(sentence.contains(&ledger_id) && sentence.contains("ledger rebuild"), "{sentence}");
    let look = lake.look(&Namespace::default(), Table::Readings, &ledger_id).await.unwrap();
    assert_eq!((look.batch, look.rows), (2, Some(60)));
}
