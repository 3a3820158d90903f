//! Numbered messages of both sorts, with a time of their own and without, through an agent; and what must come of them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::{Context, ensure};

use super::{World, publish, until};
use crate::lake::Copies;
use crate::mqtt::record::Counts;

/// Numbers of messages without own time begin here.
const TIMELESS: u64 = 10_000_000;

/// A source for the messages without own time.
const SOURCE: &str = r#"[[source]]
name = "plain"
topics = ["plain/{device}/{metric}"]
decoder = "json"
value = "value"
row_tags = { n = "n" }

"#;

/// What was published so far.
#[derive(Debug, Default)]
pub struct Load {
    /// Messages with a time of their own: numbers 1 to this.
    pub timed: u64,
    /// How many without.
    pub timeless: u64,
}

impl Load {
    /// Has the world's agent take both sorts; with more lines for its broker.
    ///
    /// # Errors
    /// When its configuration can't be changed.
    pub fn prepare(world: &World, broker: &str) -> anyhow::Result<Self> {
        let client = "client_id = \"gw-1\"\n";
        let more = format!("{client}{broker}");
        world.vary(
            "agent.toml",
            "agent.toml",
            &[("[buffer]\n", &format!("{SOURCE}[buffer]\n")), (client, &more)],
        )?;
        Ok(Self::default())
    }

    /// Publishes so many more of each sort, by turns.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn publish(&mut self, world: &World, each: u64) -> anyhow::Result<()> {
        let (timed, timeless) = (self.timed, self.timeless + TIMELESS);
        let both = |n| [publish::message(timed + n), publish::timeless(timeless + n)];
        publish::publish(world.broker.for_publishers(), (1..=each).flat_map(both)).await?;
        self.timed += each;
        self.timeless += each;
        Ok(())
    }

    /// The numbers of the messages without own time from `first` (1 is the first of them) on.
    #[must_use]
    pub fn timeless_from(&self, first: u64) -> RangeInclusive<u64> {
        TIMELESS + first..=TIMELESS + self.timeless
    }

    /// Waits until the agent has acknowledged everything that was published, and has answered all it was given.
    ///
    /// # Errors
    /// When that doesn't happen.
    pub async fn acknowledged(&self, world: &World) -> anyhow::Result<()> {
        let found = until("everything is acknowledged", async || {
            let numbers = world.proxy.acknowledged_numbers();
            let missing = numbers.missing(1, self.timed)
                + self.timeless_from(1).filter(|number| !numbers.contains(*number)).count() as u64;
            let Counts { in_flight, kept_back, .. } = world.proxy.counts();
            Ok((missing + in_flight + kept_back == 0).then_some(()))
        });
        found.await.with_context(|| format!("{:#?}\n{}", world.proxy.counts(), world.logs()))
    }

    /// Waits until everything is registered, and returns each message with its copies. What must always hold is checked:
    /// nothing is missing, each message with its own time is there once, and of the others all copies but one are marked.
    ///
    /// # Errors
    /// When it doesn't hold.
    pub async fn settled(&self, world: &World) -> anyhow::Result<BTreeMap<u64, Copies>> {
        // A status from before the last acknowledgement would know less than was stored.
        let asked = jiff::Timestamp::now().as_microsecond();
        let status = world
            .status_when("everything is registered", |status| {
                let readings = &status.counters.readings;
                let segments = &status.segments;
                status.at.micros() > asked
                    && readings.waiting() + readings.outstanding() == 0
                    && segments.undelivered + segments.unregistered == 0
            })
            .await?;
        status.counters.check().with_context(|| format!("{:#?}", status.counters))?;
        let rows = status.counters.readings.registered;
        let copies = until("every registered row is in the table", async || {
            let copies = world.copies().await?;
            Ok((copies.values().map(|copies| copies.rows).sum::<u64>() == rows).then_some(copies))
        });
        let copies = copies.await.with_context(|| world.logs())?;
        let wrong = |numbers: RangeInclusive<u64>, right: fn(&Copies) -> bool| -> Vec<_> {
            let found = numbers.map(|number| (number, copies.get(&number).cloned().unwrap_or_default()));
            found.filter(|(_, copies)| !right(copies)).take(10).collect()
        };
        let timed = wrong(1..=self.timed, Copies::is_single);
        ensure!(timed.is_empty(), "with own time, lost, doubled or doubted: {timed:?}\n{}", world.logs());
        let timeless = wrong(self.timeless_from(1), Copies::is_honest);
        ensure!(
            timeless.is_empty(),
            "without own time, lost, or doubled without mark: {timeless:?}\n{}",
            world.logs()
        );
        Ok(copies)
    }
}
