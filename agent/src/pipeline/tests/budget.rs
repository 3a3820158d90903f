//! Budgets: floods and long absences of the bucket on small buffers, against plain arithmetic.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use tributary_contract::counters::Counters;

use super::lake::{Lake, Taken};
use super::*;
use crate::buffer::Ballast;
use crate::config::Upload;

const KIB: u64 = 1 << 10;

/// Three sources, by priority; the last one's readings are text, for which no aggregate can stand.
const SOURCES: &str = r#"
[[source]]
name = "low"
topics = ["low/{device}/{metric}"]
priority = 2
[[source]]
name = "high"
topics = ["high/{device}/{metric}"]
priority = 8
[[source]]
name = "words"
topics = ["words/{device}/{metric}"]
priority = 4
"#;
/// Places in the configuration, behind the world's own.
pub(super) const LOW: usize = 1;
pub(super) const HIGH: usize = 2;
const WORDS: usize = 3;

pub(super) fn world(windows: &str, max_bytes: u64) -> World {
    World::with(&format!("{windows}{SOURCES}"), |config| {
        config.buffer.max_bytes = max_bytes;
        config.buffer.min_free = 0;
        config.segment.max_age = 15 * MINUTE;
        config.status.listen = None;
    })
}

/// What no compression makes smaller.
fn noise(seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    format!("{:016x}{:016x}", random.u64(..), random.u64(..))
}

impl World {
    /// One commit of `each` readings of each source in `of`, that were taken in the last `span` microseconds.
    pub(super) async fn flood(&self, shared: &Shared, of: &[usize], each: u64, span: i64, taken: &mut Taken) {
        let now = self.now();
        let message = |source: usize| {
            let one = |i: u64| Reading {
                ts: now.plus(-(span / each as i64) * (each - i) as i64),
                device: format!("d{}", i % 3),
                metric: "m".into(),
                tags: Default::default(),
                row_tags: [("n".to_owned(), noise(now.0 as u64 ^ (source as u64) << 40 ^ i << 20))].into(),
                value: if source == WORDS {
                    Value::Text(format!("state {}", i % 7))
                } else {
                    Value::Float((now.0 / 1_000_000 % 977) as f64 / 8.0 + i as f64 * 1.37)
                },
                unit: None,
                quality: Quality::GOOD,
                kept_back: false,
            };
            Accepted { source, received_at: now, readings: (0..each).map(one).collect() }
        };
        let n = of.len() as u64;
        let batch = NewBatch {
            accepted: of.iter().map(|source| message(*source)).collect(),
            messages: MessageCounters { received: n, accepted: n, ..Default::default() },
            memory: vec![7; 20 * of.len()],
            committed_at: now,
            ..NewBatch::default()
        };
        let sources = Arc::clone(&self.sources);
        let appended = shared.buffer.run(move |b| b.append(batch, &sources)).await.unwrap().unwrap();
        let names = Arc::clone(&shared.dictionary);
        shared.windows().observe(&appended.rows, &|key| names.get(key), now);
        for source in of {
            *taken.0.entry(self.sources[*source].name.clone()).or_default() += each;
        }
    }

    /// The same if intake doesn't rest; tells whether it was taken in.
    async fn offer(&self, shared: &Shared, of: &[usize], each: u64, span: i64, taken: &mut Taken) -> bool {
        report(shared, self.now()).await.unwrap();
        let open = shared.live().intake_stopped.is_none();
        if open {
            self.flood(shared, of, each, span, taken).await;
        }
        open
    }

    /// Of this source only aggregates are uploaded, and its readings are kept for a day.
    fn keep_for_a_day(&mut self, source: usize) {
        let config = Arc::get_mut(&mut self.config).unwrap();
        config.sources[source].upload = Upload::Aggregates;
        config.buffer.retain = DAY_MICROS;
        config.windows.iter_mut().for_each(|w| w.correction_horizon = HOUR);
        Arc::get_mut(&mut self.sources).unwrap()[source].kept = true;
    }

    /// What the bucket holds once nothing is left here: rows and gaps that are all of `taken`.
    pub(super) async fn drained(&self, shared: &Arc<Shared>, taken: &Taken) -> Lake {
        self.drain(shared).await;
        let lake = Lake::of(self);
        lake.is_all_of(taken);
        lake
    }

    /// Everything to the bucket and, as receipts say, into the table; until nothing is left and all windows are closed.
    async fn drain(&self, shared: &Arc<Shared>) {
        let mut sealer = Sealer::new(Arc::clone(shared));
        let mut deliverer = self.deliverer(shared);
        for revision in 1..200 {
            self.later(16 * MINUTE);
            sealer.pass(&*self.bucket, self.now()).await.unwrap();
            deliverer.pass(self.now()).await.unwrap();
            let all = entries(shared).await;
            let delivered = |e: &Entry| matches!(e.state, crate::buffer::Progress::Delivered { .. });
            let all: Vec<Entry> = all.into_iter().filter(delivered).collect();
            self.register(revision, &all).await;
            deliverer.pass(self.now()).await.unwrap();
            let counters = laws(shared).await;
            let left = counters.readings.waiting() + counters.readings.outstanding();
            let open = shared.windows().waiting();
            if left == 0 && open == 0 && entries(shared).await.is_empty() {
                let gaps = shared.buffer.run(|b| b.gaps_to_seal()).await.unwrap().unwrap();
                if gaps.is_empty() {
                    return;
                }
            }
        }
        panic!("it never ends: {:?}", entries(shared).await);
    }
}

/// Both laws now.
pub(super) async fn laws(shared: &Shared) -> Counters {
    let stats = shared.buffer.run(|b| b.stats()).await.unwrap().unwrap();
    let counters = stats.books.counters;
    counters.check().unwrap();
    assert_eq!(counters.readings.waiting(), stats.waiting_rows);
    counters
}

pub(super) const WINDOWS: &str = "[[window]]\nname = \"10m\"\nsize = \"10m\"\nidle = \"15m\"\n\
                       [[window]]\nname = \"1d\"\nsize = \"1d\"\nidle = \"1d\"\n";

/// The budget, and what its files may take at most: one commit and one transaction beyond it.
async fn within(shared: &Shared, max_bytes: u64) {
    let sizes = shared.buffer.run(|b| b.sizes()).await.unwrap().unwrap();
    assert!(sizes.files() <= max_bytes + 512 * KIB, "{sizes:?}");
}

#[tokio::test]
async fn after_days_without_the_bucket_on_a_small_buffer_rows_and_gaps_are_what_was_acknowledged() {
    // Aggregates have room, whose segments are small here.
    let budget = ((14 + 8 * days() as u64) << 20) / 5;
    let world = world(WINDOWS, budget);
    let mut taken = Taken::default();
    let mut shared = world.live().await;
    let mut sealer = Sealer::new(Arc::clone(&shared));
    let mut thinned = Counters::default();
    // A commit each ten minutes; once a day the agent is killed.
    for step in 0..days() * 24 * 6 {
        world.later(10 * MINUTE);
        world.flood(&shared, &[LOW, HIGH], 300, 10 * MINUTE, &mut taken).await;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        let counters = laws(&shared).await;
        assert!(counters.grew_from(&thinned));
        thinned = counters;
        within(&shared, budget).await;
        if step % 144 == 143 {
            drop(sealer);
            world.end(shared).await;
            shared = world.live().await;
            sealer = Sealer::new(Arc::clone(&shared));
        }
    }
    assert_eq!(thinned.readings.shed, 0, "aggregates stand for all that had to go: {thinned:?}");
    assert!(thinned.readings.summarised > thinned.readings.journaled / 2, "{thinned:?}");
    drop(sealer);
    let lake = world.drained(&shared, &taken).await;
    let total: u64 = taken.0.values().sum();
    assert_eq!(lake.samples("10m"), total, "each reading is in its window of ten minutes");
    assert_eq!(lake.samples("1d"), total, "and in that of the day, though its readings are gone");
    assert!(lake.windows.iter().all(|((name, ..), (.., partial))| name == "1d" || !partial));
    // A week's budget, which holds all aggregates, holds a day of readings as well.
    assert!(long() || lake.windows.iter().any(|((name, ..), (.., partial))| name == "1d" && *partial));
    // The lesser went first: of the other more is left.
    assert!(lake.readings["high"] > lake.readings.get("low").copied().unwrap_or(0), "{:?}", lake.readings);
    assert!(lake.gap_rows < 750 * days() as u64, "gaps don't flood in their turn: {}", lake.gap_rows);
}

/// Whether there is time.
pub(super) fn long() -> bool {
    std::env::var_os("TRIBUTARY_LONG").is_some()
}

/// Days of a flood: a week with `TRIBUTARY_LONG`.
fn days() -> usize {
    if long() { 7 } else { 2 }
}

#[tokio::test]
async fn on_a_disk_that_a_stranger_has_filled_a_flood_goes_on_within_the_files_that_there_are() {
    let mut world = world(WINDOWS, (4 * days() as u64) << 20);
    let (mut taken, mut shared) = (Taken::default(), world.live().await);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    let (mut database, mut before, mut rested) = (0, Counters::default(), 0);
    for step in 0..days() * 24 * 6 {
        // After a quarter of the time.
        if step == days() * 6 * 6 {
            let sizes = shared.buffer.run(|b| b.sizes()).await.unwrap().unwrap();
            database = sizes.database;
            assert_eq!(laws(&shared).await.readings.summarised, 0, "there was room");
            drop(sealer);
            world.end(shared).await;
            Arc::get_mut(&mut world.config).unwrap().buffer.min_free = 1 << 50;
            shared = world.live().await;
            sealer = Sealer::new(Arc::clone(&shared));
        }
        world.later(10 * MINUTE);
        if !world.offer(&shared, &[LOW, HIGH], 300, 10 * MINUTE, &mut taken).await {
            rested += 1;
        }
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        let counters = laws(&shared).await;
        assert!(counters.grew_from(&before));
        before = counters;
        let sizes = shared.buffer.run(|b| b.sizes()).await.unwrap().unwrap();
        assert!(database == 0 || sizes.database <= database + 256 * KIB, "{database} {sizes:?}");
    }
    assert!(before.readings.summarised > 0 && before.readings.shed == 0, "{before:?}");
    assert!(rested <= 2, "room is made in time: intake rested {rested} times");
    drop(sealer);
    let lake = world.drained(&shared, &taken).await;
    let total: u64 = taken.0.values().sum();
    assert_eq!((lake.samples("10m"), lake.samples("1d")), (total, total));
}

#[tokio::test]
async fn raw_readings_are_thinned_before_any_are_shed_and_shed_by_priority() {
    const BUDGET: u64 = 6 << 20;
    let world = world(WINDOWS, BUDGET);
    let (mut taken, shared) = (Taken::default(), world.live().await);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    let mut first_shed = None;
    for _ in 0..80 {
        world.later(10 * MINUTE);
        world.flood(&shared, &[LOW, HIGH, WORDS], 800, 10 * MINUTE, &mut taken).await;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        let counters = laws(&shared).await;
        within(&shared, BUDGET).await;
        if counters.readings.shed > 0 && first_shed.is_none() {
            first_shed = Some(counters);
            report(&shared, world.now()).await.unwrap();
            let status = Arc::clone(&shared.status.borrow());
            assert_eq!(status.health, tributary_contract::status::Health::Losing);
            assert!(status.reasons[0].contains("readings are shed"), "{:?}", status.reasons);
            assert!(status.reasons.iter().any(|r| r.contains("thinned")), "{:?}", status.reasons);
        }
    }
    let at_first = first_shed.expect("words have no aggregates").readings;
    // All that could be thinned was, but for what no ten minutes could take yet.
    assert!(at_first.summarised > 0 && at_first.waiting() - at_first.shed > 0);
    drop(sealer);
    let lake = world.drained(&shared, &taken).await;
    assert_eq!((lake.gap("low", "shed"), lake.gap("high", "shed")), (0, 0));
    assert!(lake.gap("words", "shed") > 0 && lake.gap("words", "summarised") == 0);
    assert_eq!(lake.samples("10m"), taken.0["low"] + taken.0["high"]);
}

#[tokio::test]
async fn without_windows_readings_are_shed_the_least_priority_first_and_the_oldest_of_it() {
    const BUDGET: u64 = 6 << 20;
    let world = world("", BUDGET);
    let (mut taken, shared) = (Taken::default(), world.live().await);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    for _ in 0..60 {
        world.later(10 * MINUTE);
        world.flood(&shared, &[LOW, HIGH], 1500, 10 * MINUTE, &mut taken).await;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        laws(&shared).await;
        within(&shared, BUDGET).await;
    }
    drop(sealer);
    let lake = world.drained(&shared, &taken).await;
    let (low, high) = (lake.gap("low", "shed"), lake.gap("high", "shed"));
    assert!(low > 0, "{:?}", lake.gaps);
    assert!(
        high == 0 || lake.readings.get("low").copied().unwrap_or(0) <= 2 * 1500,
        "{:?} {:?}",
        lake.gaps,
        lake.readings
    );
}

#[tokio::test]
async fn what_no_thinning_can_help_rests_intake_and_says_so_until_there_is_room() {
    let world = world("", 6 << 20);
    let (mut taken, shared) = (Taken::default(), world.live().await);
    // Nobody makes room: the sealing loop is held up.
    for _ in 0..100 {
        world.later(MINUTE);
        world.flood(&shared, &[LOW], 3000, MINUTE, &mut taken).await;
    }
    report(&shared, world.now()).await.unwrap();
    let stopped = shared.live().intake_stopped.clone().expect("intake rests");
    assert!(stopped.contains("its budget is 6.0 MiB"), "{stopped}");
    let status = Arc::clone(&shared.status.borrow());
    assert_eq!(status.health, tributary_contract::status::Health::Losing);
    Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap();
    report(&shared, world.now()).await.unwrap();
    assert_eq!(shared.live().intake_stopped, None, "room was made");
    world.drained(&shared, &taken).await;
}

#[tokio::test]
async fn readings_of_which_only_aggregates_go_are_kept_for_their_time_and_end_in_exact_gaps() {
    let mut world = world(WINDOWS, 64 << 20);
    world.keep_for_a_day(LOW);
    let (mut taken, shared) = (Taken::default(), world.live().await);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    for step in 0..3 * 24 * 6 {
        world.later(10 * MINUTE);
        world.flood(&shared, &[LOW, HIGH], 20, 10 * MINUTE, &mut taken).await;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        let readings = laws(&shared).await.readings;
        assert_eq!(readings.summarised + readings.shed, 0, "there is room");
        if step < 24 * 6 {
            assert_eq!(readings.expired, 0, "not before their time: {step}");
        }
    }
    let kept = laws(&shared).await.readings;
    let day = 24 * 6 * 20;
    // The day's open window may look for what held at its start in the day before.
    assert!((day / 2..=day * 2).contains(&kept.expired), "{kept:?}");
    drop(sealer);
    let lake = world.drained(&shared, &taken).await;
    assert_eq!(lake.readings, [("high".to_owned(), taken.0["high"])].into());
    assert_eq!(lake.gap("low", "expired"), taken.0["low"]);
    let total: u64 = taken.0.values().sum();
    assert_eq!((lake.samples("10m"), lake.samples("1d")), (total, total));
    assert!(lake.windows.values().all(|(.., partial)| !partial));
}

#[tokio::test]
async fn readings_that_are_only_kept_go_first_when_there_is_no_room() {
    const BUDGET: u64 = 6 << 20;
    let mut world = world(WINDOWS, BUDGET);
    // Though it has the greater priority.
    world.keep_for_a_day(HIGH);
    let (mut taken, shared) = (Taken::default(), world.live().await);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    for _ in 0..100 {
        world.later(10 * MINUTE);
        // The newest batch stays, and is the other's.
        world.flood(&shared, &[HIGH], 400, 10 * MINUTE, &mut taken).await;
        world.flood(&shared, &[LOW], 100, 10 * MINUTE, &mut taken).await;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        laws(&shared).await;
        within(&shared, BUDGET).await;
    }
    drop(sealer);
    let lake = world.drained(&shared, &taken).await;
    assert!(lake.gap("high", "summarised") > 0 && !lake.readings.contains_key("high"), "{:?}", lake.gaps);
    assert_eq!((lake.gap("high", "shed"), lake.gap("low", "summarised")), (0, 0), "{:?}", lake.gaps);
}

#[tokio::test]
async fn readings_that_are_uploaded_without_aggregates_enter_no_window() {
    let mut world = world(WINDOWS, 64 << 20);
    Arc::get_mut(&mut world.config).unwrap().sources[HIGH].upload = Upload::Readings;
    let (mut taken, mut shared) = (Taken::default(), world.live().await);
    for _ in 0..2 {
        let mut sealer = Sealer::new(Arc::clone(&shared));
        for _ in 0..12 {
            world.later(10 * MINUTE);
            world.flood(&shared, &[LOW, HIGH], 20, 10 * MINUTE, &mut taken).await;
            sealer.pass(&*world.bucket, world.now()).await.unwrap();
        }
        drop(sealer);
        world.end(shared).await;
        shared = world.live().await;
    }
    world.drain(&shared).await;
    let lake = Lake::of(&world);
    assert_eq!(lake.readings, taken.0);
    assert_eq!(lake.samples("10m"), taken.0["low"]);
}

/// A disk without room for segments while there is ballast on it, or a stranger has the rest.
struct NoSegments {
    ballast: Ballast,
    stranger: Arc<AtomicBool>,
}

impl Faults for NoSegments {
    fn hit(&self, point: &'static str) -> io::Result<()> {
        let full = self.ballast.bytes() > 0 || self.stranger.load(Ordering::SeqCst);
        if full && point == "seal: before the file" {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

async fn reasons(world: &World, shared: &Shared) -> Vec<String> {
    report(shared, world.now()).await.unwrap();
    shared.status.borrow().reasons.clone()
}

#[tokio::test]
async fn a_disk_without_room_for_a_segment_costs_the_ballast_first_and_never_the_intake() {
    let world = World::with(SOURCES, |config| {
        config.buffer.min_free = 0;
        config.buffer.ballast = 1 << 20;
        config.status.listen = None;
    });
    let (ballast, stranger) = (Ballast::of(&world.config.state_dir), Arc::new(AtomicBool::new(false)));
    let faults = Arc::new(NoSegments { ballast: ballast.clone(), stranger: Arc::clone(&stranger) });
    let (mut taken, shared) = (Taken::default(), world.live_with(Seams { faults, ..Seams::default() }).await);
    let mut sealer = Sealer::new(Arc::clone(&shared));
    assert_eq!(reasons(&world, &shared).await, [""; 0]);
    assert_eq!(ballast.bytes(), 1 << 20);
    world.flood(&shared, &[HIGH], 300, MINUTE, &mut taken).await;
    world.later(2 * SECOND);

    assert_eq!(sealer.pass(&*world.bucket, world.now()).await.unwrap(), 0);
    assert_eq!(ballast.bytes(), 0);
    world.later(SECOND);
    assert!(sealer.pass(&*world.bucket, world.now()).await.unwrap() > 0, "in the ballast's room");
    assert_eq!(reasons(&world, &shared).await, ["the disk was full: the ballast was given up"]);
    assert_eq!(ballast.bytes(), 0, "not before it was of use");
    world.later(10 * SECOND);
    assert_eq!(reasons(&world, &shared).await, [""; 0]);
    assert_eq!(ballast.bytes(), 1 << 20, "taken back");

    stranger.store(true, Ordering::SeqCst);
    let before = laws(&shared).await.readings.sealed;
    for _ in 0..3 {
        world.flood(&shared, &[LOW, HIGH], 300, MINUTE, &mut taken).await;
        world.later(MINUTE);
        assert_eq!(sealer.pass(&*world.bucket, world.now()).await.unwrap(), 0);
    }
    let said = reasons(&world, &shared).await;
    assert!(said.iter().any(|r| r.contains("no segment can be written")), "{said:?}");
    assert_eq!(laws(&shared).await.readings.sealed, before);
    assert_eq!(shared.live().intake_stopped, None);

    stranger.store(false, Ordering::SeqCst);
    while ballast.bytes() > 0 || laws(&shared).await.readings.waiting() > 0 {
        world.later(MINUTE);
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
    }
    let said = reasons(&world, &shared).await;
    assert!(!said.iter().any(|r| r.contains("no segment")), "{said:?}");
}

#[tokio::test]
async fn where_no_segment_has_room_what_open_windows_need_is_shed_too_and_they_say_that_they_are_partial() {
    let mut world = world(WINDOWS, 64 << 20);
    Arc::get_mut(&mut world.config).unwrap().buffer.ballast = 0;
    let full = Arc::new(AtomicBool::new(true));
    let seams = |world: &World| {
        let ballast = Ballast::of(&world.config.state_dir);
        Seams { faults: Arc::new(NoSegments { ballast, stranger: Arc::clone(&full) }), ..Seams::default() }
    };
    let (mut taken, mut shared) = (Taken::default(), world.live_with(seams(&world)).await);
    let mut rested = 0;
    for step in 0..24 * 6 {
        if step % 50 == 49 {
            // At first the database may grow; from then on it lives on in the pages that it has.
            world.end(shared).await;
            Arc::get_mut(&mut world.config).unwrap().buffer.min_free = 1 << 50;
            shared = world.live_with(seams(&world)).await;
        }
        world.later(10 * MINUTE);
        if !world.offer(&shared, &[LOW, HIGH], 300, 10 * MINUTE, &mut taken).await {
            rested += 1;
        }
        Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap();
        laws(&shared).await;
    }
    let readings = laws(&shared).await.readings;
    assert_eq!((readings.sealed, readings.summarised), (0, 0), "no segment was written");
    assert!(readings.shed > 0 && rested <= 2, "{rested} {readings:?}");
    full.store(false, Ordering::SeqCst);
    let lake = world.drained(&shared, &taken).await;
    let (total, shed) = (taken.0.values().sum::<u64>(), lake.gap("low", "shed") + lake.gap("high", "shed"));
    assert_eq!(shed, readings.shed);
    for window in ["10m", "1d"] {
        assert_eq!(lake.samples(window), total - shed, "{window}");
    }
    assert!(lake.windows.iter().all(|((name, ..), (.., partial))| name != "1d" || *partial));
    assert!(lake.windows.iter().any(|((name, ..), (.., partial))| name == "10m" && !partial));
}

#[derive(Debug, Clone)]
enum Step {
    Flood { of: Vec<usize>, each: u64 },
    Seal,
    Deliver,
    Restart,
    Pass(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sources = prop::sample::subsequence(vec![LOW, HIGH, WORDS], 1..=3);
    let step = prop_oneof![
        8 => (sources, 1u64..5000).prop_map(|(of, each)| Step::Flood { of, each }),
        6 => Just(Step::Seal),
        1 => Just(Step::Deliver),
        1 => Just(Step::Restart),
        4 => (1i64..90).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 20..70)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if long() { 40 } else { 6 },
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_floods_nothing_acknowledged_vanishes_without_its_exact_gap(
        steps in steps(), budget in 4096u64..8192, with_windows: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps, budget * KIB, with_windows));
    }
}

async fn run(steps: Vec<Step>, budget: u64, with_windows: bool) {
    let world = world(if with_windows { WINDOWS } else { "" }, budget);
    let (mut taken, mut shared) = (Taken::default(), world.live().await);
    let mut before = Counters::default();
    for step in steps {
        match step {
            Step::Flood { of, each } => {
                world.offer(&shared, &of, each, 5 * MINUTE, &mut taken).await;
            }
            Step::Seal => {
                Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap();
            }
            Step::Deliver => {
                world.deliverer(&shared).pass(world.now()).await.unwrap();
            }
            Step::Restart => {
                world.end(shared).await;
                shared = world.live().await;
            }
            Step::Pass(minutes) => world.later(minutes * MINUTE),
        }
        let counters = laws(&shared).await;
        assert!(counters.grew_from(&before), "{before:?} {counters:?}");
        before = counters;
        within(&shared, budget).await;
    }
    let lake = world.drained(&shared, &taken).await;
    let numbers: u64 = taken.0.iter().filter(|(name, _)| *name != "words").map(|(_, n)| n).sum();
    let thinned = lake.gap("low", "summarised") + lake.gap("high", "summarised");
    if with_windows {
        for window in ["10m", "1d"] {
            let samples = lake.samples(window);
            assert!(
                samples >= thinned && samples <= numbers,
                "{window}: {samples} of {numbers}, {thinned} thinned"
            );
        }
        let partial = lake.windows.values().any(|(.., partial)| *partial);
        assert!(thinned > 0 || !partial, "what isn't thinned isn't partial in the end");
    } else {
        assert!(lake.gaps.keys().all(|(_, reason)| reason == "shed"));
    }
    assert_eq!(lake.gap("words", "summarised"), 0);
}
