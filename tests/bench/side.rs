//! One side's turn: a fresh world, an even load, and what it took.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};
use tributary_tests::world::{World, until};

use crate::cost::{self, Cost};
use crate::load::offer;
use crate::{configuration, world};

/// Series of the load that measures ingest.
const SERIES: u64 = 100;

/// Who takes the messages in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The agent: journal, windows, segments.
    Agent,
    /// A row for each message in SQLite, durable before its acknowledgement.
    Rows,
    /// Nothing is kept.
    Noop,
}

impl Side {
    pub(crate) const ALL: [Self; 3] = [Self::Agent, Self::Rows, Self::Noop];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Agent => "the agent",
            Self::Rows => "a row per message in SQLite",
            Self::Noop => "a subscriber that acknowledges at once",
        }
    }
}

/// What a side's turn came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Messages stored and acknowledged.
    pub(crate) stored: u64,
    /// From the first message offered to the last one stored, or until nobody waited any longer.
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// Durable commits; none where nothing is kept.
    pub(crate) commits: Option<u64>,
    written: u64,
    payload_bytes: u64,
}

impl Outcome {
    /// Messages stored a second.
    pub(crate) fn rate(&self) -> f64 {
        self.stored as f64 / self.seconds
    }

    /// Bytes written to the device for each byte of payload stored; none where nothing is kept.
    pub(crate) fn flash(&self) -> Option<f64> {
        self.commits.map(|_| self.written as f64 / self.payload_bytes as f64)
    }
}

/// Offers `rate` messages a second for so many seconds.
///
/// # Errors
/// When something can't be started or ends by itself.
pub(crate) async fn ingest(side: Side, rate: u64, seconds: u64) -> anyhow::Result<Outcome> {
    let world = world().await?;
    let mut taker = Taker::start(side, &world).await?;
    let (before, commits) = (Cost::of(taker.pid()?)?, taker.counts(&world).await?.1);
    let start = Instant::now();
    let lasting = Duration::from_secs(seconds);
    let offered = offer(world.broker.for_publishers(), SERIES, rate, u64::MAX, lasting).await?;
    let all = until("all is stored", async || {
        let (stored, _) = taker.counts(&world).await?;
        Ok((stored >= offered.messages).then_some(()))
    });
    // As long again as it was offered; then what there is counts, for a side may be hours behind.
    let _ = timeout(lasting, all).await;
    let (stored, after) = taker.counts(&world).await?;
    let elapsed = start.elapsed().as_secs_f64();
    let cost = Cost::of(taker.pid()?)?.since(before);
    ensure!(stored > 0, "{} stored nothing\n{}", side.name(), world.logs());
    Ok(Outcome {
        stored,
        seconds: elapsed,
        cpu_seconds: cost.cpu_seconds,
        commits: after.zip(commits).map(|(after, before)| after - before),
        written: cost.written,
        payload_bytes: (offered.payload_bytes as f64 * stored as f64 / offered.messages as f64) as u64,
    })
}

/// Bytes of memory of the agent, with three windows: at rest, when each of `series` has sent five readings, and the most
/// until then.
///
/// # Errors
/// As [`ingest`].
pub(crate) async fn memory(series: u64) -> anyhow::Result<[u64; 3]> {
    let world = world().await?;
    let more =
        "[[window]]\nname = \"10s\"\nsize = \"10s\"\n\n[[window]]\nname = \"1h\"\nsize = \"1h\"\n\n[segment]";
    let config = configuration(&world, &[("[segment]", more)])?;
    let agent = world.run("agent", &world.programs.agent, &config)?;
    subscribed(&world).await?;
    let pid = agent.id()?;
    let (idle, _) = cost::memory(pid)?;
    let messages = series * 5;
    let rate = (series / 5).clamp(100, 2_000);
    let offered = offer(world.broker.for_publishers(), series, rate, messages, Duration::MAX).await?;
    world
        .status_when("everything is stored", |status| status.counters.messages.accepted >= offered.messages)
        .await?;
    let (now, most) = cost::memory(pid)?;
    agent.stop().await?;
    Ok([idle, now, most])
}

/// Returns when the agent's log says that it is subscribed: before that nobody is owed a message.
async fn subscribed(world: &World) -> anyhow::Result<()> {
    let log = world.path("agent.log");
    until("the agent is subscribed", async || {
        Ok(std::fs::read_to_string(&log)?.contains(" subscribed ").then_some(()))
    })
    .await
    .with_context(|| world.logs())
}

/// A running side.
enum Taker {
    Agent(tributary_tests::world::Process),
    Subscriber { child: Child, input: ChildStdin, output: Lines<BufReader<ChildStdout>>, commits: bool },
}

impl Taker {
    /// Starts it; returns when it is subscribed.
    async fn start(side: Side, world: &World) -> anyhow::Result<Self> {
        if side == Side::Agent {
            let config = configuration(world, &[])?;
            let agent = world.run("agent", &world.programs.agent, &config)?;
            subscribed(world).await?;
            return Ok(Self::Agent(agent));
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["subscriber", "--broker", &world.broker.for_agents().to_string()]);
        if side == Side::Rows {
            command.arg("--database").arg(world.path("rows.db"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("can't start the subscriber")?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).context("it has no pipes")?;
        let mut output = BufReader::new(output).lines();
        output.next_line().await?.context("the subscriber ended")?;
        Ok(Self::Subscriber { child, input, output, commits: side == Side::Rows })
    }

    fn pid(&self) -> anyhow::Result<u32> {
        match self {
            Self::Agent(agent) => agent.id(),
            Self::Subscriber { child, .. } => child.id().context("the subscriber ended"),
        }
    }

    /// Messages stored, and commits.
    async fn counts(&mut self, world: &World) -> anyhow::Result<(u64, Option<u64>)> {
        match self {
            Self::Agent(agent) => {
                agent.still_runs()?;
                let status = until("the agent says how it is", async || Ok(world.status().await)).await?;
                Ok((status.counters.messages.accepted, Some(status.buffer.commits)))
            }
            Self::Subscriber { input, output, commits, .. } => {
                input.write_all(b"?\n").await?;
                let stored = output.next_line().await?.context("the subscriber ended")?.parse()?;
                Ok((stored, commits.then_some(stored)))
            }
        }
    }
}
