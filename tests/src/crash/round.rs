//! A round on a running world: faults and messages, then quiet, then the comparison.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::counts::Counts;
use super::schedule::{Schedule, Victim, mqtt};
use super::sensor::Sensor;
use super::victim::Target;
use crate::world::{WINDOWS, World, until};

/// How long a round may take until everything is acknowledged: many times what it takes on a slow machine.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(180);
/// Reasons of gaps that a kill may leave: none of them stands for a reading.
const HARMLESS: [&str; 2] = ["session-lost", "void-segment"];

/// A world with its four processes, in which one round follows the other.
pub struct Site {
    world: World,
    targets: [Target; 4],
    lives: watch::Sender<u64>,
    sensor: Sensor,
    /// What the rounds so far came to.
    before: Counts,
}

impl Site {
    /// The world with this number, from 0; all runs, and the agent is subscribed.
    ///
    /// # Errors
    /// When something can't be started.
    pub async fn start(number: u64) -> anyhow::Result<Self> {
        let world = World::without_bucket(mqtt(number)).await?;
        let lives = watch::Sender::new(1);
        let mut targets = Victim::ALL.map(Target::new);
        for (victim, target) in Victim::ALL.iter().zip(&mut targets) {
            // The world has started the broker: the programs' configuration names it.
            if *victim != Victim::Broker {
                target.start(&world, &lives).await?;
            }
        }
        let sensor = Sensor::new(world.broker.for_publishers(), lives.subscribe());
        // A session must exist before the first message, else nobody is owed it.
        world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
        Ok(Self { world, targets, lives, sensor, before: Counts::default() })
    }

    /// Leaves the world's folder for a person to look into.
    pub fn keep(&mut self) -> &Path {
        self.world.keep()
    }

    /// One round.
    ///
    /// # Errors
    /// With what is there instead of what must be.
    pub async fn round(&mut self, schedule: &Schedule) -> anyhow::Result<Counts> {
        let Self { world, targets, lives, sensor, .. } = self;
        let (world, lives, began) = (&*world, &*lives, Instant::now());
        let [agent, receiver, broker, bucket] = targets;
        let [first, second, third, fourth] = &schedule.blows;
        let publishing = async {
            let run = sensor.run(&world.proxy, schedule.messages, schedule.between);
            match timeout(ACKNOWLEDGED_WITHIN, run).await {
                Ok(done) => done,
                Err(_) => Err(anyhow::anyhow!("messages stay unacknowledged: {:?}", world.proxy.counts())),
            }
        };
        let cutting = async {
            for &at in &schedule.cuts {
                sleep_until(began + at).await;
                world.proxy.cut();
            }
            anyhow::Ok(())
        };
        let (agent, receiver, broker, bucket, (), ()) = tokio::try_join!(
            agent.suffer(world, lives, began, first),
            receiver.suffer(world, lives, began, second),
            broker.suffer(world, lives, began, third),
            bucket.suffer(world, lives, began, fourth),
            publishing,
            cutting,
        )
        .map_err(|error| anyhow::anyhow!("{error:#}\n{}", world.logs()))?;
        let mut now = self.judge().await?;
        for (victim, struck) in Victim::ALL.into_iter().zip([agent, receiver, broker, bucket]) {
            now.struck(victim, struck);
        }
        now.cuts = schedule.cuts.len() as u64;
        now.seconds = began.elapsed().as_secs_f64();
        let round = now.since(&self.before);
        self.before = now;
        Ok(round)
    }

    /// Waits until everything has drained and compares: sums of the world since its start.
    async fn judge(&mut self) -> anyhow::Result<Counts> {
        let world = &self.world;
        for target in &mut self.targets {
            target.still_runs(world).await?;
        }
        let published = self.sensor.published();
        let drained = world.status_when("everything is registered, by the agent's word", |status| {
            let (messages, readings) = (&status.counters.messages, &status.counters.readings);
            let segments = &status.segments;
            messages.accepted >= published
                && readings.waiting() + readings.outstanding() == 0
                && segments.undelivered + segments.unregistered == 0
        });
        let drained = drained.await;
        let tally = world.tally().await?;
        let acknowledged = world.proxy.acknowledged_numbers();
        let missing = acknowledged.ranges().iter().map(|&(a, b)| tally.numbers.missing(a, b)).sum();
        let counts = Counts {
            again: self.sensor.again(),
            copies: drained.as_ref().map_or(0, |status| status.counters.messages.redelivered),
            acknowledged: acknowledged.len(),
            rows: tally.rows,
            missing,
            duplicates: tally.rows.saturating_sub(tally.numbers.len()),
            ..Counts::default()
        };
        let facts = || format!("{counts}; published {published}; {:?}", world.proxy.counts());
        let status = drained.with_context(facts)?;
        let says = || format!("{}\n{status:#?}\n{}", facts(), world.logs());
        ensure!(missing == 0, "acknowledged messages are missing: {}", says());
        ensure!(counts.duplicates == 0, "messages are there twice: {}", says());
        ensure!(counts.rows == published && counts.acknowledged == published, "not {published}: {}", says());
        status.counters.check().with_context(says)?;
        ensure!(status.counters.messages.accepted == published, "accepted others: {}", says());
        ensure!(status.buffer.ordinal == 0, "a kill began a new epoch: {}", says());
        ensure!(world.proxy.counts().unmatched == 0, "acknowledged what wasn't given: {}", says());
        ensure!(world.rejects().await? == 0, "messages were rejected: {}", says());
        ensure!(world.keys("quarantine/").await?.is_empty(), "segments are in quarantine: {}", says());
        let tables = world.tables();
        let mut windowed = None;
        let found = until("every message is in its window", async || {
            let Some(state) = tables.load("aggregates").await? else { return Ok(None) };
            let sum = tables.windowed(&state, &WINDOWS).await?;
            windowed = Some(sum);
            Ok(sum.is_complete(tally.numeric).then_some(()))
        });
        found.await.with_context(|| format!("windows: {windowed:?}; {}", says()))?;
        world.fleet_when("the receiver is well", "/api/health", |health| health["ok"] == true).await?;
        let gaps = match tables.load("gaps").await? {
            Some(state) => tables.gaps(&state).await?,
            None => Default::default(),
        };
        let strange = gaps.keys().find(|reason| !HARMLESS.contains(&reason.as_str()));
        ensure!(strange.is_none(), "gaps {gaps:?}: {}", says());
        Ok(Counts { gaps: gaps.values().sum(), ..counts })
    }
}
