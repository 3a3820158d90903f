//! A wall clock that is wrong, and is turned while the real agent runs: a start in 1970, power cuts before the time
//! arrives, an hour back and forth.
//!
//! The same stories in process, with more of them: `agent/src/pipeline/tests/clock.rs`.

use std::ops::RangeInclusive;

use anyhow::{Context, ensure};
use tributary_contract::time::Timestamp;
use tributary_tests::lake::{Copies, Emitted};
use tributary_tests::world::machine::now;
use tributary_tests::world::publish::{Message, publish};
use tributary_tests::world::{Load, Machine, Mqtt, Saves, World, until};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// Messages of each sort that come in one spell.
const EACH: u64 = 15;
/// A time of receipt is whole milliseconds, and a correction is the difference of two uptimes, which the kernel gives in
/// hundredths of a second.
const EXACT: i64 = 25_000;

/// Messages that were published after one moment of true time and acknowledged before another.
struct Spell {
    timeless: RangeInclusive<u64>,
    from: Timestamp,
    to: Timestamp,
}

impl Spell {
    async fn of(world: &World, load: &mut Load) -> anyhow::Result<Self> {
        let (from, first) = (now(), load.timeless + 1);
        load.publish(world, EACH).await?;
        load.acknowledged(world).await?;
        Ok(Self { timeless: load.timeless_from(first), from, to: now() })
    }

    /// Each message without its own time is there once, and `right` about its time and quality.
    fn check(
        &self,
        what: &str,
        copies: &std::collections::BTreeMap<u64, Copies>,
        right: impl Fn(i64, &str) -> bool,
    ) -> anyhow::Result<()> {
        for number in self.timeless.clone() {
            let found = copies.get(&number).cloned().unwrap_or_default();
            let one = found.rows == 1 && right(found.times[0], &found.qualities[0]);
            ensure!(one, "{what}: {number}: {found:?}; published after {}, there at {}", self.from, self.to);
        }
        Ok(())
    }

    /// It bears the time at which it came, and no doubt.
    fn is_right(&self, what: &str, copies: &std::collections::BTreeMap<u64, Copies>) -> anyhow::Result<()> {
        let (from, to) = (self.from.micros() - EXACT, self.to.micros() + EXACT);
        self.check(what, copies, |at, quality| (from..=to).contains(&at) && quality.is_empty())
    }

    /// It bears a time after `known` at which it had not yet come, and says that the clock was wrong.
    fn is_bounded(
        &self,
        what: &str,
        copies: &std::collections::BTreeMap<u64, Copies>,
        known: Timestamp,
    ) -> anyhow::Result<()> {
        let (from, to) = (known.micros(), self.to.micros() + EXACT);
        self.check(what, copies, |at, quality| (from..=to).contains(&at) && quality == "clock-unsynced")
    }
}

/// Waits until the agent says whether its readings wait for their times.
async fn waits_for_the_time(world: &World, waits: bool) -> anyhow::Result<()> {
    let says = |reasons: &[String]| reasons.iter().any(|why| why.contains("the clock isn't synchronised"));
    let status = world.status_when("the agent says it", |status| says(&status.reasons) == waits).await?;
    ensure!(!waits || status.counters.readings.sealed == 0 || status.counters.readings.waiting() > 0);
    Ok(())
}

async fn connected(world: &World) -> anyhow::Result<()> {
    world.status_when("the agent is connected", |s| s.brokers.iter().any(|b| b.connected)).await.map(drop)
}

/// The clock shows `at` when the machine starts, and nobody has set it.
async fn starts_at(at: Timestamp) -> anyhow::Result<()> {
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let mut load = Load::prepare(&world, "")?;
    let mut machine = Machine::new(&world)?;
    let _receiver = world.receiver()?;

    // Killed before the time arrives, and started again without a power cut.
    machine.starts(at).await?;
    let agent = machine.agent(&world)?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let first = Spell::of(&world, &mut load).await?;
    waits_for_the_time(&world, true).await?;
    let mut sealed = world.keys("segments").await?;
    sealed.retain(|key| key.contains(".readings-"));
    ensure!(sealed.is_empty(), "sealed under a clock that nobody set: {sealed:?}\n{}", world.logs());
    agent.kill().await?;
    let agent = machine.agent(&world)?;
    connected(&world).await?;
    let again = Spell::of(&world, &mut load).await?;
    waits_for_the_time(&world, true).await?;
    machine.synchronises()?;
    waits_for_the_time(&world, false).await?;
    let set = Spell::of(&world, &mut load).await?;
    let status = world.status_when("time is right", |s| s.at.since(now()).abs() < MINUTE).await?;
    ensure!(now().since(status.started_at) < HOUR, "started at {}, it says", status.started_at);
    load.settled(&world).await?;
    agent.kill().await?;

    // A power cut before the time arrives: of that start nobody will know when it was.
    machine.starts(at).await?;
    let agent = machine.agent(&world)?;
    connected(&world).await?;
    let cut = Spell::of(&world, &mut load).await?;
    waits_for_the_time(&world, true).await?;
    agent.kill().await?;
    machine.starts(at).await?;
    let agent = machine.agent(&world)?;
    connected(&world).await?;
    let dark = Spell::of(&world, &mut load).await?;
    machine.synchronises()?;
    waits_for_the_time(&world, false).await?;
    let light = Spell::of(&world, &mut load).await?;

    let copies = load.settled(&world).await?;
    first.is_right("before the kill", &copies)?;
    again.is_right("after the kill", &copies)?;
    set.is_right("with the right time", &copies)?;
    cut.is_bounded("before the power cut", &copies, set.from)?;
    dark.is_right("after the power cut", &copies)?;
    light.is_right("with the right time again", &copies)?;
    for number in 1..=load.timed {
        ensure!(copies[&number].qualities == [""], "it has a time of its own: {:?}", copies[&number]);
    }
    let tables = world.tables();
    let told = until("a gap tells of what is only bounded", async || {
        let Some(gaps) = tables.load("gaps").await? else { return Ok(None) };
        Ok(tables.gaps(&gaps).await?.get("clock").copied())
    });
    ensure!(told.await.with_context(|| world.logs())? == 1);
    let (status, _) = agent.stop().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_of_a_start_in_1970_get_their_times_over_a_kill_and_marks_over_a_power_cut()
-> anyhow::Result<()> {
    starts_at(Timestamp(5 * SECOND)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plausible_time_that_nobody_set_is_no_more_believed_than_1970() -> anyhow::Result<()> {
    // 2026-01-01T00:00:07Z: right behind the time at which the program was built.
    starts_at(Timestamp(1_767_225_607 * SECOND)).await
}

/// Three readings of a device within minute `minute`, the numbers from `first` on.
fn readings(device: &str, begin: Timestamp, minute: i64, first: u64) -> Vec<Message> {
    let reading = |n: u64| {
        let at = begin.plus(minute * MINUTE + 10 * SECOND * n as i64);
        let payload = format!(r#"{{"ts":"{at}","value":{n},"n":{}}}"#, first + n);
        (format!("sensors/{device}/temperature"), payload.into_bytes())
    };
    (0..3).map(reading).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_back_and_forth_moves_no_window_and_loses_nothing() -> anyhow::Result<()> {
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    // Only event time closes windows here, and silence of an hour: a step must not count as that.
    world.vary("agent.toml", "agent.toml", &[("idle = \"1s\"", "idle = \"59m\"")])?;
    let mut machine = Machine::new(&world)?;
    machine.starts(now()).await?;
    machine.synchronises()?;
    let _agent = machine.agent(&world)?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let to = world.broker.for_publishers();
    let tables = world.tables();
    // Two hours ago: at each of the clock's times these readings are of the past.
    let begin = Timestamp((now().micros() - 2 * HOUR).div_euclid(MINUTE) * MINUTE);
    let window = |device: &str, minute: i64| (device.to_owned(), begin.plus(minute * MINUTE).micros());
    let mut sent = 0;
    let mut send = async |device: &str, minute: i64| {
        publish(to, readings(device, begin, minute, sent + 1).into_iter()).await?;
        sent += 3;
        world.acknowledged(sent).await
    };
    let emitted = async |device: &str, minute: i64| -> anyhow::Result<Emitted> {
        let found = until("the window is in its table", async || {
            let Some(state) = tables.load("aggregates").await? else { return Ok(None) };
            let emitted = tables.emitted(&state).await?;
            Ok(emitted.contains_key(&window(device, minute)).then_some(emitted))
        });
        found.await.with_context(|| world.logs())
    };
    let shows = async |by: i64| -> anyhow::Result<()> {
        machine.shows(now().plus(by))?;
        let off = |at: Timestamp| at.since(now().plus(by)).abs();
        world.status_when("the agent goes by that clock", |s| off(s.at) < MINUTE).await.map(drop)
    };

    send("still", 0).await?;
    send("going", 0).await?;
    for (minute, by) in [(1, -HOUR), (2, 0), (3, HOUR), (4, 0)] {
        shows(by).await?;
        send("going", minute).await?;
        // What stands still in between has its window open, whatever the clock does.
        let emitted = emitted("going", minute - 1).await?;
        ensure!(!emitted.contains_key(&window("still", 0)), "{by}: {emitted:?}");
    }
    send("still", 1).await?;
    let windows = emitted("still", 0).await?;
    let expected: Emitted =
        (0..4).map(|m| window("going", m)).chain([window("still", 0)]).map(|w| (w, vec![3])).collect();
    ensure!(windows == expected, "{windows:?}");

    let found = until("every reading is in the table", async || {
        let copies = world.copies().await?;
        Ok((copies.len() as u64 == sent).then_some(copies))
    });
    let copies = found.await.with_context(|| world.logs())?;
    for (number, found) in &copies {
        ensure!(found.rows == 1 && found.qualities == [""], "{number}: {found:?}");
    }
    let status = world.status_when("all laws hold", |s| s.counters.readings.waiting() == 0).await?;
    status.counters.check()?;
    Ok(())
}
