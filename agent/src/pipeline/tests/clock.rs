//! A clock turned by hand: a start in 1970, time that arrives late, power cuts in between, steps, sleep.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tributary_contract::quality::Doubt;
use tributary_contract::reject::GapReason;
use tributary_contract::table::Table;
use tributary_contract::time::{DAY_MICROS, Timestamp};

use super::super::*;
use crate::buffer::{GapRow, Row};
use crate::clock::{BUILT, Facts, Moment, judge};
use crate::config::{HOUR, MINUTE, MqttVersion, SECOND, parse};
use crate::ingest::mqtt::Event;
use crate::ingest::{Publish, Session};
use crate::upload::memory::MemoryBucket;

/// 2026-06-01T12:00:00 UTC: what time it is when a test begins.
const BEGIN: Timestamp = Timestamp(1_780_315_200_000_000);
/// The uptime with which a start begins.
const STARTED: i64 = 5 * SECOND;

/// True time, and what the machine makes of it.
struct Hand(Mutex<Machine>);

#[derive(Clone, Copy)]
struct Machine {
    truth: Timestamp,
    system: Timestamp,
    boot: u64,
    uptime: i64,
    set: bool,
    seen: Timestamp,
    last: Option<Moment>,
}

impl Hand {
    fn new() -> Self {
        let machine = Machine {
            truth: BEGIN,
            system: BEGIN,
            boot: 1,
            uptime: STARTED,
            set: true,
            seen: BUILT,
            last: None,
        };
        Self(Mutex::new(machine))
    }

    fn turn<T>(&self, f: impl FnOnce(&mut Machine) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    fn truth(&self) -> Timestamp {
        self.turn(|m| m.truth)
    }

    /// Time passes, awake or asleep.
    fn pass(&self, micros: i64) {
        self.turn(|m| {
            m.truth = m.truth.plus(micros);
            m.system = m.system.plus(micros);
            m.uptime += micros;
        });
    }

    /// Somebody sets the system's clock.
    fn step(&self, by: i64) {
        self.turn(|m| m.system = m.system.plus(by));
    }

    /// The right time arrives.
    fn synchronise(&self) {
        self.turn(|m| (m.system, m.set) = (m.truth, true));
    }

    /// Power was away for `off`; the clock starts at `system`, and nobody has set it.
    fn power_cut(&self, off: i64, system: Timestamp) {
        self.turn(|m| {
            m.truth = m.truth.plus(off + STARTED);
            (m.system, m.boot, m.uptime, m.set, m.last) = (system, m.boot + 1, STARTED, false, None);
        });
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        self.turn(|m| match m.last {
            Some(last) if !last.synced => last.wall.plus(m.uptime - last.uptime),
            _ => m.system,
        })
    }

    fn moment(&self) -> Moment {
        self.turn(|m| {
            let facts = Facts {
                system: m.system,
                boot: m.boot,
                uptime: m.uptime,
                set: m.set,
                served: true,
                battery: false,
            };
            let moment = judge(&facts, m.seen);
            m.last = Some(moment);
            moment
        })
    }

    fn has_seen(&self, newest: Timestamp) {
        self.turn(|m| m.seen = newest);
    }
}

/// A gateway whose connection is the test itself.
struct Gateway {
    dir: tempfile::TempDir,
    config: Arc<Config>,
    clock: Arc<Hand>,
    bucket: MemoryBucket,
    running: Option<(Arc<Shared>, Intake)>,
    generation: u64,
    /// When each message was sent, in truth.
    sent: BTreeMap<u64, Timestamp>,
    /// Gaps that were recorded before something was sealed.
    told: Vec<GapRow>,
}

impl Gateway {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            r#"
            gateway = "gw-1"
            state_dir = "{}"
            [[broker]]
            url = "mqtt://127.0.0.1"
            inflight_window = 10
            [[source]]
            name = "plant"
            topics = ["s/{{device}}/{{metric}}"]
            time = "ts"
            value = "value"
            [[window]]
            name = "1m"
            size = "1m"
            idle = "1m"
            [bucket]
            url = "s3://lake/site"
            [segment]
            max_age = "1s"
            "#,
            dir.path().join("state").display()
        );
        let facts =
            parse::Facts { env: &|_| None, hostname: None, serial: None, zones: &crate::config::Zone::read };
        let config = Arc::new(parse::parse(&[("agent.toml".into(), text)], &facts).unwrap());
        let mut gateway = Self {
            dir,
            config,
            clock: Arc::new(Hand::new()),
            bucket: MemoryBucket::new(),
            running: None,
            generation: 0,
            sent: BTreeMap::new(),
            told: Vec::new(),
        };
        gateway.open().await;
        gateway
    }

    async fn open(&mut self) {
        assert!(self.dir.path().exists());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let live = Arc::new(Mutex::new(new_live(&self.config, clock.now())));
        let (status, _) = watch::channel(Arc::new(first_status(&self.config, &*clock)));
        let (shared, stage) =
            super::super::open(&self.config, &live, &status, &clock, Seams::default()).await.unwrap();
        let shared = Arc::new(shared);
        let mut intake = Intake::new(Arc::clone(&shared), stage, Vec::new());
        intake.look_at_clock().await.unwrap();
        self.running = Some((shared, intake));
        self.connect().await;
    }

    fn running(&mut self) -> &mut (Arc<Shared>, Intake) {
        self.running.as_mut().unwrap()
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.running.as_ref().unwrap().0)
    }

    async fn connect(&mut self) {
        self.generation += 1;
        let (generation, at) = (self.generation, self.clock.now());
        let session = if generation == 1 { Session::New } else { Session::Present };
        let (protocol, window, marker) = (MqttVersion::V5, 1000, session == Session::Present);
        let event = Event::Connected { generation, session, protocol, window, marker, at };
        self.running().1.take(0, event).await;
        if marker {
            let topic = self.config.brokers[0].marker.clone().unwrap();
            self.arrive(topic, u16::MAX, generation.to_string()).await;
        }
        let shared = self.shared();
        shared.live().drained.fill(true);
    }

    async fn publish(&mut self, number: u64, payload: String) {
        self.arrive(format!("s/boiler-{}/temp", number % 3), number as u16 + 1, payload).await;
    }

    async fn arrive(&mut self, topic: String, packet_id: u16, payload: String) {
        let publish = Publish {
            broker: 0,
            generation: self.generation,
            packet_id,
            qos: 1,
            dup: false,
            retain: false,
            topic,
            size: payload.len(),
            payload: payload.into_bytes().into(),
            received_at: Timestamp::from_millis(self.clock.now().micros().div_euclid(1000)),
        };
        self.running().1.take(0, Event::Publish(publish)).await;
    }

    /// A message without a time of its own.
    async fn send(&mut self) {
        let number = self.sent.len() as u64;
        self.sent.insert(number, self.clock.truth());
        self.publish(number, number.to_string()).await;
    }

    async fn look(&mut self) {
        self.running().1.look_at_clock().await.unwrap();
    }

    async fn commit(&mut self) {
        let now = self.clock.now();
        self.running().1.flush(now).await.unwrap();
    }

    async fn seal(&mut self) {
        let gaps = self.gaps().await;
        self.told.extend(gaps);
        let shared = self.shared();
        let mut sealer = Sealer::new(Arc::clone(&shared));
        for _ in 0..2 {
            sealer.pass(&self.bucket, shared.now()).await.unwrap();
            self.clock.pass(2 * SECOND);
        }
        sealer.pass(&self.bucket, shared.now()).await.unwrap();
    }

    /// The buffer ends as it is, and whatever isn't committed with it; the broker sends that again.
    async fn power_cut(&mut self, off: i64, system: Timestamp) {
        let (shared, intake) = self.running.take().unwrap();
        drop(intake);
        Arc::into_inner(shared).unwrap().buffer.close().await;
        self.clock.power_cut(off, system);
        self.open().await;
    }

    async fn rows(&self) -> Vec<Row> {
        let scan = |b: &mut Buffer| {
            let mut all = Vec::new();
            let ids = b.batches(|_| true)?;
            b.scan_batches(&ids, |_, rows| all.extend_from_slice(rows)).map(|()| all)
        };
        self.shared().buffer.run(scan).await.unwrap().unwrap()
    }

    async fn gaps(&self) -> Vec<GapRow> {
        self.shared().buffer.run(|b| b.gaps_to_seal()).await.unwrap().unwrap()
    }

    async fn sealed(&self, table: Table) -> u64 {
        let entries = self.shared().buffer.run(|b| b.entries()).await.unwrap().unwrap();
        entries.iter().filter(|e| e.key.table == table).map(|e| e.rows).sum()
    }

    /// Every message is there once, right to a second or marked and bounded; both laws hold. Gives how many are marked.
    async fn audit(&self) -> u64 {
        let mut marked = 0;
        let rows = self.rows().await;
        let gaps = self.gaps().await;
        let mut left = self.sent.clone();
        for row in &rows {
            let number = row.value.numeric().unwrap() as u64;
            let truth = left.remove(&number).unwrap_or_else(|| panic!("message {number} is there twice"));
            if row.quality.has(Doubt::ClockUnsynced) {
                marked += 1;
                assert!(row.ts <= truth.plus(SECOND), "{number}: {} is no lower bound of {truth}", row.ts);
                let told = |g: &&GapRow| g.reason == GapReason::Clock && g.from_ts <= row.ts;
                assert!(
                    gaps.iter().chain(&self.told).any(|g| told(&g)),
                    "{number}: no gap tells of it: {gaps:#?}"
                );
            } else {
                let off = row.ts.since(truth).abs();
                assert!(off <= SECOND, "{number}: {} instead of {truth}", row.ts);
            }
            let off = row.received_at.since(row.ts).abs();
            assert!(off <= SECOND, "{number} has no other time than that of its receipt");
        }
        assert!(left.is_empty(), "lost: {left:?}");
        let stats = self.shared().buffer.run(|b| b.stats()).await.unwrap().unwrap();
        assert_eq!(stats.books.counters.check(), Ok(()));
        assert_eq!(stats.books.counters.messages.accepted, self.sent.len() as u64);
        marked
    }
}

#[tokio::test]
async fn readings_of_a_start_in_1970_get_their_times_when_the_time_arrives_and_not_before_is_anything_sealed()
{
    for system in [Timestamp(0), BUILT, BEGIN.plus(-DAY_MICROS)] {
        let mut gateway = Gateway::start().await;
        gateway.power_cut(HOUR, system).await;
        for _ in 0..3 {
            gateway.send().await;
            gateway.clock.pass(20 * SECOND);
            gateway.look().await;
            gateway.commit().await;
        }
        gateway.seal().await;
        assert_eq!(gateway.sealed(Table::Readings).await, 0, "a segment never changes");
        let notices = gateway.shared().live().notices.clone();
        assert!(notices.get("clock").is_some_and(|text| text.contains("isn't synchronised")), "{notices:?}");
        // What is collected when the time arrives was stamped by the old clock.
        gateway.send().await;
        gateway.clock.pass(SECOND);
        gateway.clock.synchronise();
        gateway.look().await;
        gateway.send().await;
        gateway.commit().await;
        assert_eq!(gateway.audit().await, 0);
        assert_eq!(gateway.gaps().await, []);
        assert!(!gateway.shared().live().notices.contains_key("clock"));
        gateway.seal().await;
        assert_eq!(gateway.sealed(Table::Readings).await, 5);
        gateway.clock.pass(5 * MINUTE);
        gateway.look().await;
        gateway.seal().await;
        assert!(gateway.sealed(Table::Aggregates).await >= 3, "they are in their windows, too");
    }
}

#[tokio::test]
async fn power_cut_before_the_time_arrives_leaves_bounded_times_marks_and_a_gap() {
    let mut gateway = Gateway::start().await;
    gateway.send().await;
    gateway.commit().await;
    gateway.power_cut(HOUR, Timestamp(0)).await;
    gateway.send().await;
    gateway.commit().await;
    gateway.power_cut(HOUR, Timestamp(0)).await;
    gateway.send().await;
    gateway.commit().await;
    gateway.clock.pass(MINUTE);
    gateway.clock.synchronise();
    gateway.look().await;
    assert_eq!(gateway.audit().await, 1, "the first is right, the last was put right");
    let gaps = gateway.gaps().await;
    let [gap] = &gaps[..] else { panic!("{gaps:#?}") };
    assert!(
        gap.from_ts >= BEGIN && gap.to_ts == gateway.clock.truth() && gap.readings == Some(1),
        "{gap:#?}"
    );
    gateway.seal().await;
    assert_eq!(gateway.sealed(Table::Readings).await, 3);
    assert_eq!(gateway.sealed(Table::Gaps).await, 1);
    assert_eq!(gateway.rows().await.iter().filter(|r| r.quality.has(Doubt::ClockUnsynced)).count(), 1);
}

#[tokio::test]
async fn sealing_waits_an_hour_for_the_time_and_no_longer() {
    let mut gateway = Gateway::start().await;
    gateway.send().await;
    gateway.commit().await;
    gateway.power_cut(HOUR, Timestamp(0)).await;
    gateway.send().await;
    gateway.commit().await;
    gateway.look().await;
    gateway.clock.pass(HOUR - SECOND);
    gateway.look().await;
    gateway.seal().await;
    assert_eq!(gateway.sealed(Table::Readings).await, 1, "what came before");
    gateway.clock.pass(2 * SECOND);
    gateway.look().await;
    gateway.seal().await;
    assert_eq!((gateway.sealed(Table::Readings).await, gateway.sealed(Table::Gaps).await), (2, 1));
    let days: Vec<_> = gateway.rows().await.iter().map(|row| row.ts.day()).collect();
    assert_eq!(days, [BEGIN.day(); 2], "not 1970");
}

#[tokio::test]
async fn a_held_batch_is_stamped_after_a_restart_of_the_agent_on_the_same_start_of_the_machine() {
    let mut gateway = Gateway::start().await;
    gateway.power_cut(HOUR, Timestamp(0)).await;
    gateway.send().await;
    gateway.commit().await;
    let (shared, intake) = gateway.running.take().unwrap();
    drop(intake);
    Arc::into_inner(shared).unwrap().buffer.close().await;
    gateway.clock.pass(MINUTE);
    gateway.clock.synchronise();
    gateway.open().await;
    assert_eq!(gateway.audit().await, 0);
}

#[tokio::test]
async fn a_reading_with_its_own_time_keeps_it_and_is_doubted_only_by_a_clock_that_is_right() {
    let mut gateway = Gateway::start().await;
    gateway.power_cut(HOUR, Timestamp(0)).await;
    let (right, ahead) = (gateway.clock.truth(), gateway.clock.truth().plus(DAY_MICROS));
    for (number, ts) in [(0, right), (1, ahead)] {
        gateway.publish(number, format!(r#"{{"ts":"{ts}","value":{number}}}"#)).await;
    }
    gateway.commit().await;
    let doubts = |rows: &[Row]| rows.iter().map(|r| r.quality.has(Doubt::Future)).collect::<Vec<_>>();
    assert_eq!(doubts(&gateway.rows().await), [false, false], "in 1970 everything lies ahead");
    gateway.clock.pass(MINUTE);
    gateway.clock.synchronise();
    gateway.look().await;
    let rows = gateway.rows().await;
    assert_eq!(doubts(&rows), [false, true]);
    assert_eq!(rows.iter().map(|r| r.ts).collect::<Vec<_>>(), [right, ahead]);
    let off = rows.iter().map(|r| r.received_at.since(right).abs()).max();
    assert!(off.is_some_and(|off| off <= SECOND), "received when they came: {rows:#?}");
}

#[tokio::test]
async fn a_copy_is_recognised_though_the_clock_jumped_by_years_in_between() {
    for restart in [false, true] {
        let mut gateway = Gateway::start().await;
        gateway.power_cut(HOUR, Timestamp(0)).await;
        let ts = gateway.clock.truth();
        let payload = format!(r#"{{"ts":"{ts}","value":7}}"#);
        // More than may be in flight, so that age alone could make the memory forget.
        for number in 0..50 {
            gateway.publish(number, format!(r#"{{"ts":"{ts}","value":7,"x":{number}}}"#)).await;
        }
        gateway.publish(50, payload.clone()).await;
        gateway.commit().await;
        gateway.clock.pass(MINUTE);
        gateway.clock.synchronise();
        gateway.look().await;
        if restart {
            let (shared, intake) = gateway.running.take().unwrap();
            drop(intake);
            Arc::into_inner(shared).unwrap().buffer.close().await;
            gateway.open().await;
        }
        // The memory looks at ages whenever something new comes.
        gateway.publish(51, format!(r#"{{"ts":"{ts}","value":8}}"#)).await;
        gateway.connect().await;
        gateway.publish(50, payload).await;
        gateway.commit().await;
        let stats = gateway.shared().buffer.run(|b| b.stats()).await.unwrap().unwrap();
        let messages = stats.books.counters.messages;
        assert_eq!((messages.accepted, messages.redelivered), (52, 1), "restart: {restart}");
    }
}

#[tokio::test]
async fn a_clock_that_steps_ahead_and_back_closes_no_window_of_a_device_that_goes_on() {
    let mut gateway = Gateway::start().await;
    let own = async |gateway: &mut Gateway, number: u64| {
        let ts = gateway.clock.truth();
        gateway.publish(number, format!(r#"{{"ts":"{ts}","value":{number}}}"#)).await;
    };
    own(&mut gateway, 0).await;
    gateway.commit().await;
    for (number, by) in [(3, 365 * DAY_MICROS), (6, -365 * DAY_MICROS), (9, -HOUR), (12, HOUR)] {
        gateway.clock.pass(SECOND);
        gateway.clock.step(by);
        gateway.look().await;
        own(&mut gateway, number).await;
        gateway.commit().await;
        gateway.seal().await;
        assert_eq!(gateway.sealed(Table::Aggregates).await, 0, "after a step by {by}");
    }
    // Asleep for two minutes: what fell silent is closed, once.
    gateway.clock.pass(2 * MINUTE);
    gateway.look().await;
    gateway.seal().await;
    assert_eq!(gateway.sealed(Table::Aggregates).await, 1);
    gateway.clock.pass(2 * MINUTE);
    gateway.look().await;
    gateway.seal().await;
    assert_eq!(gateway.sealed(Table::Aggregates).await, 1, "no revision");
}

/// What happens to a gateway without a battery.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Send,
    Pass(i64),
    Commit,
    Look,
    Synchronise,
    Seal,
    PowerCut { off: i64, system: Timestamp },
}

fn turn() -> impl Strategy<Value = Turn> {
    let start = prop_oneof![Just(Timestamp(0)), Just(BUILT), Just(BEGIN)];
    prop_oneof![
        8 => Just(Turn::Send),
        4 => (SECOND..20 * MINUTE).prop_map(Turn::Pass),
        4 => Just(Turn::Commit),
        3 => Just(Turn::Look),
        2 => Just(Turn::Synchronise),
        1 => Just(Turn::Seal),
        2 => (SECOND..HOUR, start).prop_map(|(off, system)| Turn::PowerCut { off, system }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whenever_time_arrives_and_power_goes_nothing_is_lost_and_times_are_right_or_marked(
        turns in prop::collection::vec(turn(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut gateway = Gateway::start().await;
            for turn in turns {
                match turn {
                    Turn::Send => gateway.send().await,
                    Turn::Pass(micros) => gateway.clock.pass(micros),
                    Turn::Commit => gateway.commit().await,
                    Turn::Look => gateway.look().await,
                    Turn::Synchronise => gateway.clock.synchronise(),
                    Turn::Seal => gateway.seal().await,
                    Turn::PowerCut { off, system } => {
                        // What isn't committed isn't acknowledged either, and no part of this test.
                        gateway.commit().await;
                        gateway.power_cut(off, system).await;
                    }
                }
            }
            gateway.clock.pass(SECOND);
            gateway.clock.synchronise();
            gateway.look().await;
            gateway.commit().await;
            gateway.audit().await;
            gateway.seal().await;
            assert_eq!(gateway.sealed(Table::Readings).await, gateway.sent.len() as u64);
        });
    }
}
