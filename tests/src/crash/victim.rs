//! The four processes of a world, struck as a schedule says and started again.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::counts::Struck;
use super::schedule::{Blow, Moment, Victim};
use crate::world::{Process, Signal, World};

/// A process that can be killed.
#[derive(Debug)]
pub struct Target {
    victim: Victim,
    /// Absent for the broker, which the world holds.
    process: Option<Process>,
}

impl Target {
    /// One that doesn't run yet.
    #[must_use]
    pub const fn new(victim: Victim) -> Self {
        Self { victim, process: None }
    }

    /// Starts it. `lives` counts the broker's starts.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn start(&mut self, world: &World, lives: &watch::Sender<u64>) -> anyhow::Result<()> {
        match self.victim {
            Victim::Agent => self.process = Some(world.agent()?),
            Victim::Receiver => self.process = Some(world.receiver()?),
            Victim::Bucket => self.process = Some(world.bucket_process()?),
            Victim::Broker => {
                // Connections of the life before end with it; until they have, they would be taken for new ones.
                world.proxy.changes().wait_for(|counts| counts.live == 0).await?;
                world.broker.restartable()?.start().await?;
                lives.send_modify(|lives| *lives += 1);
            }
        }
        Ok(())
    }

    async fn kill(&mut self, world: &World) -> anyhow::Result<()> {
        match self.victim {
            Victim::Broker => world.broker.restartable()?.kill().await,
            _ => self.process.take().context("it doesn't run")?.kill().await,
        }
    }

    async fn signal(&mut self, world: &World, signal: Signal) -> anyhow::Result<()> {
        match self.victim {
            Victim::Broker => world.broker.restartable()?.signal(signal).await,
            _ => self.process.as_mut().context("it doesn't run")?.signal(signal).await,
        }
    }

    /// Fails if it has ended by itself.
    ///
    /// # Errors
    /// With its exit status and the end of its log.
    pub async fn still_runs(&mut self, world: &World) -> anyhow::Result<()> {
        match self.victim {
            Victim::Broker => world.broker.restartable()?.still_runs().await,
            _ => self.process.as_mut().context("it doesn't run")?.still_runs(),
        }
    }

    /// Strikes it at each of `moments` after `began`, and counts.
    ///
    /// # Errors
    /// When it ended by itself, or can't be started again.
    pub async fn suffer(
        &mut self,
        world: &World,
        lives: &watch::Sender<u64>,
        began: Instant,
        moments: &[Moment],
    ) -> anyhow::Result<Struck> {
        let mut struck = Struck::default();
        for moment in moments {
            // The one thing here that waits for a time: a moment is one.
            sleep_until(began + moment.at).await;
            let done = self.strike(world, lives, moment.blow, &mut struck).await;
            done.with_context(|| format!("{} ({:?} at {:?})", self.victim.word(), moment.blow, moment.at))?;
        }
        Ok(struck)
    }

    async fn strike(
        &mut self,
        world: &World,
        lives: &watch::Sender<u64>,
        blow: Blow,
        struck: &mut Struck,
    ) -> anyhow::Result<()> {
        match blow {
            Blow::Kill { frozen, away } => {
                if frozen > Duration::ZERO {
                    self.signal(world, Signal::Stop).await?;
                    struck.stops += 1;
                    sleep(frozen).await;
                }
                self.kill(world).await?;
                struck.kills += 1;
                sleep(away).await;
                self.start(world, lives).await
            }
            Blow::Stop { still } => {
                self.signal(world, Signal::Stop).await?;
                struck.stops += 1;
                sleep(still).await;
                self.signal(world, Signal::Continue).await
            }
        }
    }
}
