//! What the loops promise over a real buffer and a bucket in memory: nothing let go too early, nothing stuck for ever.

mod alerts;
mod announce;
mod backfill;
mod budget;
mod clock;
mod desired;
mod lake;
mod link;
mod readback;
mod receipts;
mod soak;
mod stories;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;
use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::MessageCounters;
use tributary_contract::manifest::{Link, Manifest};
use tributary_contract::quality::Quality;
use tributary_contract::range::Ranges;
use tributary_contract::receipt::{EpochReceipt, Receipt};
use tributary_contract::table::Table;
use tributary_contract::time::{DAY_MICROS, Timestamp};

use super::*;
use crate::buffer::{Contents, Entry, Faults, GapRow, NewBatch, Row, SourceFacts};
use crate::config::{HOUR, MINUTE, SECOND, parse};
use crate::reading::{Accepted, Reading, Value};
use crate::upload::answer::{Code, Transport};
use crate::upload::bucket::Bucket;
use crate::upload::memory::{Fault, MemoryBucket, Reply};

/// 2026-01-01T12:00:00 UTC.
const NOON: i64 = 1_767_268_800_000_000;

struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Lets a buffer die where its name says.
struct DieAt(&'static str);

impl Faults for DieAt {
    fn hit(&self, point: &'static str) -> io::Result<()> {
        if point == self.0 { Err(io::Error::other("crash")) } else { Ok(()) }
    }
}

struct World {
    _dir: TempDir,
    config: Arc<Config>,
    clock: Arc<TestClock>,
    bucket: Arc<MemoryBucket>,
    sources: Arc<Vec<SourceFacts>>,
}

impl World {
    fn new(more: &str) -> Self {
        Self::with(more, |_| {})
    }

    /// The same with what the configuration wouldn't allow.
    fn with(more: &str, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            r#"
            gateway = "gw-1"
            state_dir = "{}"
            [[broker]]
            url = "mqtt://127.0.0.1"
            [[source]]
            name = "plant"
            topics = ["s/{{device}}/{{metric}}"]
            [bucket]
            url = "s3://lake/site"
            [segment]
            max_age = "1s"
            {more}
            "#,
            dir.path().join("state").display()
        );
        let facts =
            parse::Facts { env: &|_| None, hostname: None, serial: None, zones: &crate::config::Zone::read };
        let mut config = parse::parse(&[("agent.toml".into(), text)], &facts).unwrap();
        change(&mut config);
        let config = Arc::new(config);
        let fact = |s: &crate::config::Source| SourceFacts {
            name: s.name.clone(),
            namespace: s.namespace.clone(),
            max_series: 1000,
            max_device_series: 1000,
            priority: s.priority,
            kept: s.upload == crate::config::Upload::Aggregates,
        };
        Self {
            _dir: dir,
            sources: Arc::new(config.sources.iter().map(fact).collect()),
            config,
            clock: Arc::new(TestClock(AtomicI64::new(NOON))),
            bucket: Arc::new(MemoryBucket::new()),
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn later(&self, micros: i64) {
        self.clock.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// A life of the agent without connections, as after any start.
    async fn live(&self) -> Arc<Shared> {
        self.live_with(Seams::default()).await
    }

    async fn live_with(&self, seams: Seams) -> Arc<Shared> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let live = Arc::new(Mutex::new(new_live(&self.config, self.now())));
        let (status, _) = watch::channel(Arc::new(first_status(&self.config, &*clock)));
        let (shared, _) = open(&self.config, &live, &status, &clock, seams).await.unwrap();
        {
            let mut live = shared.live();
            live.drained.fill(true);
            live.clock_synced = true;
        }
        Arc::new(shared)
    }

    /// One batch of readings with these values that are stamped now; no stage hears of it.
    async fn append(&self, shared: &Shared, values: impl IntoIterator<Item = f64>) -> Vec<Row> {
        let now = self.now();
        let reading = |value: f64| Reading {
            ts: now,
            device: "boiler".into(),
            metric: "temp".into(),
            tags: Default::default(),
            row_tags: Default::default(),
            value: Value::Float(value),
            unit: None,
            quality: Quality::GOOD,
            kept_back: false,
        };
        let readings = values.into_iter().map(reading).collect();
        let batch = NewBatch {
            accepted: vec![Accepted { source: 0, received_at: now, readings }],
            messages: MessageCounters { received: 1, accepted: 1, ..Default::default() },
            committed_at: now,
            ..Default::default()
        };
        let sources = Arc::clone(&self.sources);
        shared.buffer.run(move |b| b.append(batch, &sources)).await.unwrap().unwrap().rows
    }

    /// One batch of one reading of that value that is stamped now.
    async fn commit_value(&self, shared: &Shared, value: f64) {
        let rows = self.append(shared, [value]).await;
        let names = Arc::clone(&shared.dictionary);
        shared.windows().observe(&rows, &|key| names.get(key), self.now());
        shared.alerts().observe(&rows, &|key| names.get(key), self.now());
    }

    /// The same, where the value says nothing.
    async fn commit(&self, shared: &Shared) {
        self.commit_value(shared, 1.5).await;
    }

    async fn seal(&self, shared: &Arc<Shared>) {
        self.later(2 * SECOND);
        Sealer::new(Arc::clone(shared)).pass(&*self.bucket, self.now()).await.unwrap();
        // What is new to the sealer waits its time, too.
        let mut sealer = Sealer::new(Arc::clone(shared));
        sealer.pass(&*self.bucket, self.now()).await.unwrap();
        self.later(2 * SECOND);
        sealer.pass(&*self.bucket, self.now()).await.unwrap();
    }

    fn deliverer(&self, shared: &Arc<Shared>) -> Deliverer<MemoryBucket> {
        Deliverer::new(Arc::clone(shared), Arc::clone(&self.bucket))
    }

    /// A life with segments of one commit that wait, and who delivers them, with the store already probed.
    async fn sealed(&self) -> (Arc<Shared>, Deliverer<MemoryBucket>) {
        let shared = self.live().await;
        let mut deliverer = self.deliverer(&shared);
        deliverer.pass(self.now()).await.unwrap();
        self.commit(&shared).await;
        self.seal(&shared).await;
        (shared, deliverer)
    }

    /// The receiver has all of `entries`.
    async fn register(&self, revision: u64, entries: &[Entry]) {
        let links = entries.iter().map(|e| (e.epoch, Link { number: e.number, digest: e.digest }));
        self.register_links(revision, links).await;
    }

    /// The receiver has all segments of these numbers and digests.
    async fn register_links(&self, revision: u64, links: impl Iterator<Item = (Epoch, Link)>) {
        let mut epochs: BTreeMap<Epoch, EpochReceipt> = BTreeMap::new();
        for (epoch, link) in links {
            let said = epochs.entry(epoch).or_default();
            said.registered.insert(link.number.get());
            said.highest = said.highest.filter(|h| h.number > link.number).or(Some(link));
        }
        self.receipt(revision, epochs).await;
    }

    async fn receipt(&self, revision: u64, epochs: BTreeMap<Epoch, EpochReceipt>) {
        let receipt = Receipt {
            version: FORMAT_VERSION,
            gateway: self.config.gateway.clone(),
            revision,
            written_at: self.now(),
            epochs,
            snapshots: Default::default(),
        };
        let key = self.config.bucket.prefix.receipt(&self.config.gateway);
        self.bucket.put_replace(&key, receipt.to_json().into_bytes().into()).await.unwrap();
    }

    async fn end(&self, shared: Arc<Shared>) {
        Arc::into_inner(shared).unwrap().buffer.close().await;
    }
}

async fn entries(shared: &Shared) -> Vec<Entry> {
    shared.buffer.run(|b| b.entries()).await.unwrap().unwrap()
}

async fn states(shared: &Shared) -> Vec<&'static str> {
    entries(shared).await.iter().map(|e| e.state.name()).collect()
}

fn refused() -> Option<Fault> {
    Some(Fault::before(Reply::Status(400, Some(Code::EntityTooLarge))))
}

fn unreachable() -> Option<Fault> {
    Some(Fault::before(Reply::Nothing(Transport::NoConnection)))
}

#[tokio::test]
async fn a_segment_that_was_held_is_tried_again_at_the_next_start() {
    let world = World::new("");
    let (shared, mut deliverer) = world.sealed().await;
    let count = states(&shared).await.len();
    world.bucket.script(vec![refused(); count]);
    deliverer.pass(world.now()).await.unwrap();
    assert!(states(&shared).await.iter().all(|s| *s == "held"));
    deliverer.pass(world.now()).await.unwrap();
    assert!(states(&shared).await.iter().all(|s| *s == "held"), "not over and over");
    drop(deliverer);
    world.end(shared).await;

    let shared = world.live().await;
    world.deliverer(&shared).pass(world.now()).await.unwrap();
    assert!(states(&shared).await.iter().all(|s| *s == "delivered"), "{:?}", states(&shared).await);
}

#[tokio::test]
async fn a_clock_that_steps_back_does_not_stop_delivery_until_that_time_comes_again() {
    let world = World::new("");
    let (shared, mut deliverer) = world.sealed().await;
    world.bucket.script([unreachable()]);
    deliverer.pass(world.now()).await.unwrap();
    assert!(states(&shared).await.contains(&"sealed"));
    world.later(-400 * DAY_MICROS);
    deliverer.pass(world.now()).await.unwrap();
    world.later(10 * MINUTE);
    deliverer.pass(world.now()).await.unwrap();
    assert!(states(&shared).await.iter().all(|s| *s == "delivered"), "{:?}", states(&shared).await);
    // What waits to be sealed isn't stuck either.
    world.later(400 * DAY_MICROS);
    world.commit(&shared).await;
    world.later(-400 * DAY_MICROS);
    world.seal(&shared).await;
    assert_eq!(shared.buffer.run(|b| b.rows_to_seal()).await.unwrap(), []);
}

#[tokio::test]
async fn a_rest_that_is_over_does_not_begin_again_when_the_clock_steps_back() {
    let world = World::new("");
    let (shared, mut deliverer) = world.sealed().await;
    world.bucket.script([unreachable()]);
    deliverer.pass(world.now()).await.unwrap();
    world.later(MINUTE);
    deliverer.pass(world.now()).await.unwrap();
    assert!(states(&shared).await.iter().all(|s| *s == "delivered"), "{:?}", states(&shared).await);
    world.later(-HOUR);
    world.commit(&shared).await;
    world.seal(&shared).await;
    deliverer.pass(world.now()).await.unwrap();
    assert!(states(&shared).await.iter().all(|s| *s == "delivered"), "{:?}", states(&shared).await);
}

#[tokio::test]
async fn a_pass_deletes_all_batches_that_nobody_needs_however_many() {
    let world = World::new("[buffer]\nrelease_on = \"delivered\"");
    let shared = world.live().await;
    for _ in 0..TRIMMED_AT_ONCE + 50 {
        world.commit(&shared).await;
    }
    world.seal(&shared).await;
    world.deliverer(&shared).pass(world.now()).await.unwrap();
    assert_eq!(entries(&shared).await, []);
    let stats = shared.buffer.run(|b| b.stats()).await.unwrap().unwrap();
    assert_eq!(stats.batches, 1, "the newest stays");
}

/// As many as one transaction deletes.
const TRIMMED_AT_ONCE: usize = 256;

#[tokio::test]
async fn a_receipt_lets_go_at_once_of_what_it_made_us_find_delivered() {
    let world = World::new("");
    let (shared, mut deliverer) = world.sealed().await;
    let all = entries(&shared).await;
    assert!(all.len() >= 2, "readings and series");
    world.register(1, &all).await;
    // The first is delivered, the reply to the second is lost.
    world.bucket.script([None, Some(Fault::lost_reply())]);
    deliverer.pass(world.now()).await.unwrap();
    assert_eq!(entries(&shared).await, []);
}

#[tokio::test]
async fn a_damaged_segment_file_in_doubt_does_not_keep_the_rest_from_being_sealed() {
    let world = World::new("");
    let shared = world.live().await;
    world.commit(&shared).await;
    world.end(shared).await;

    // Died between the lease line and the transaction.
    let settings = OpenSettings {
        dir: world.config.state_dir.clone(),
        gateway: world.config.gateway.clone(),
        now: world.now(),
        fingerprint: fingerprint(),
        faults: Arc::new(DieAt("seal: before the transaction")),
    };
    let opened = Buffer::open(&settings).unwrap();
    let live = Arc::new(Mutex::new(new_live(&world.config, world.now())));
    let clock: Arc<dyn Clock> = world.clock.clone();
    let (status, _) = watch::channel(Arc::new(first_status(&world.config, &*clock)));
    let dictionary = opened.buffer.dictionary();
    let stages = Stages { windows: Windows::new(&[], 0), alerts: crate::alert::Alerts::new(&[], 0) };
    let buffer = BufferThread::start(opened.buffer).unwrap();
    let shared =
        Arc::new(Shared::new(Arc::clone(&world.config), buffer, dictionary, stages, live, status, clock));
    world.later(2 * SECOND);
    Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap_err();
    world.end(shared).await;

    let mut files = Vec::new();
    let mut folders = vec![world.config.state_dir.clone()];
    while let Some(folder) = folders.pop() {
        for found in std::fs::read_dir(folder).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "parquet") {
                files.push(path);
            }
        }
    }
    let mut bytes = std::fs::read(&files[0]).unwrap();
    // In the data, not in the footer: it can still be read, and isn't what was sealed.
    bytes[6] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();

    let shared = world.live().await;
    world.seal(&shared).await;
    let readings: Vec<u64> =
        entries(&shared).await.iter().filter(|e| e.key.table == Table::Readings).map(|e| e.rows).collect();
    assert_eq!(readings, [1], "sealed again, under a number of its own");
    let stats = shared.buffer.run(|b| b.stats()).await.unwrap().unwrap();
    assert_eq!(stats.books.counters.check(), Ok(()));
}

#[tokio::test]
async fn damaged_decisions_do_not_keep_the_agent_from_starting() {
    let world = World::new("[[window]]\nname = \"1m\"\nsize = \"1m\"");
    let shared = world.live().await;
    let gateway = world.config.gateway.clone();
    shared
        .buffer
        .run(move |b| {
            let sealing = b.begin_seal().unwrap();
            let manifest = Manifest {
                version: FORMAT_VERSION,
                gateway,
                epoch: sealing.epoch,
                number: sealing.number,
                previous: sealing.previous,
                namespace: Default::default(),
                table: Table::Aggregates,
                day: Timestamp(NOON).day(),
                rows: 1,
                min_seq: None,
                max_seq: None,
                min_ts: Timestamp(NOON),
                max_ts: Timestamp(NOON),
                watermark: None,
                void: Ranges::new(),
                outstanding: sealing.outstanding.clone(),
                closed: Vec::new(),
                counters: sealing.counters,
                status: Default::default(),
            };
            let contents = Contents::Aggregates { decisions: b"?".to_vec(), newest: Timestamp(NOON) };
            let mut draft = b.draft(&sealing).unwrap();
            draft.write_all(b"x").unwrap();
            b.finish_seal(&sealing, &manifest.key(), draft, &manifest, &contents).unwrap();
        })
        .await
        .unwrap();
    world.end(shared).await;
    world.live().await;
}

#[tokio::test]
async fn decisions_beyond_correction_are_forgotten_but_for_where_each_device_stands() {
    let world = World::new(
        "[[window]]\nname = \"1m\"\nsize = \"1m\"\nidle = \"2s\"\ncorrection_horizon = \"1h\"\n\
         [buffer]\nrelease_on = \"delivered\"",
    );
    let shared = world.live().await;
    let mut sealer = Sealer::new(Arc::clone(&shared));
    let mut deliverer = world.deliverer(&shared);
    for _ in 0..20 {
        world.commit(&shared).await;
        world.later(MINUTE);
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        deliverer.pass(world.now()).await.unwrap();
    }
    let kept = |shared: Arc<Shared>| async move {
        shared.buffer.run(|b| b.decisions()).await.unwrap().unwrap().len()
    };
    let before = kept(Arc::clone(&shared)).await;
    assert!(before >= 19, "{before}");
    world.later(2 * HOUR);
    sealer.pass(&*world.bucket, world.now()).await.unwrap();
    assert_eq!(kept(Arc::clone(&shared)).await, 1, "the newest says where the journal and the device stand");
    drop((sealer, deliverer));
    world.end(shared).await;

    // A reading of a forgotten window is too late for it, before and after a start.
    let shared = world.live().await;
    let now = world.now();
    world.later(-(2 * HOUR + 10 * MINUTE));
    world.commit(&shared).await;
    world.later(now.since(world.now()));
    Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap();
    assert!(entries(&shared).await.iter().all(|e| e.key.table != Table::Aggregates));
    assert_eq!(shared.windows().too_late(), 1);
}

#[tokio::test]
async fn a_buffer_that_was_closed_can_be_opened_at_once() {
    let world = World::new("");
    for _ in 0..20 {
        let shared = world.live().await;
        world.end(shared).await;
    }
}

#[tokio::test]
async fn what_a_broker_may_send_again_is_remembered_though_its_readings_are_long_registered() {
    let world = World::new("[buffer]\nrelease_on = \"delivered\"");
    let shared = world.live().await;
    let memory = redelivery::encode(&[redelivery::Remembered {
        connection: 0,
        generation: 1,
        packet_id: 1,
        kind: redelivery::Kind::Content,
        hash: 7,
        at: world.now(),
    }]);
    let batch = NewBatch { memory, committed_at: world.now(), ..NewBatch::default() };
    let batch =
        NewBatch { messages: MessageCounters { received: 1, redelivered: 1, ..Default::default() }, ..batch };
    let sources = Arc::clone(&world.sources);
    shared.buffer.run(move |b| b.append(batch, &sources)).await.unwrap().unwrap();
    world.commit(&shared).await;
    world.later(2 * DAY_MICROS);
    world.seal(&shared).await;
    world.deliverer(&shared).pass(world.now()).await.unwrap();
    world.end(shared).await;

    let (clock, live) = (world.clock.clone() as Arc<dyn Clock>, new_live(&world.config, world.now()));
    let (status, _) = watch::channel(Arc::new(first_status(&world.config, &*clock)));
    let live = Arc::new(Mutex::new(live));
    let (shared, stage) = open(&world.config, &live, &status, &clock, Seams::default()).await.unwrap();
    assert_eq!(stage.remembered(), 1);
    shared.buffer.close().await;
}
