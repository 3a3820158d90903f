//! How long a backlog takes to the bucket over narrow links, beside bare PUTs of the same files.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_sdk_s3::primitives::ByteStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tributary_contract::time::Timestamp;
use tributary_tests::narrow::{NarrowLink, Width};
use tributary_tests::world::{BUCKET, World};

use crate::cost;
use crate::stages::Stages;

const SECOND: i64 = 1_000_000;
/// How often the bucket is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// After so many times what the line needs, a side is stuck.
const STUCK: f64 = 20.0;
const WINDOW: &str = "[[window]]\nname = \"1m\"\nsize = \"1m\"\nlateness = \"1s\"\nidle = \"1s\"\n";

/// A kind of link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) name: &'static str,
    /// Bits a second.
    bits: f64,
    /// Milliseconds.
    round_trip: u64,
    /// Bytes of backlog.
    backlog: u64,
    /// Bytes of a segment, at most.
    segment: u64,
}

impl Link {
    pub(crate) const ALL: [Self; 3] = [
        Self { name: "16_kbit", bits: 16e3, round_trip: 2000, backlog: 80 << 10, segment: 64 << 10 },
        Self { name: "2_mbit", bits: 2e6, round_trip: 150, backlog: 4 << 20, segment: 1 << 20 },
        Self { name: "100_mbit", bits: 100e6, round_trip: 20, backlog: 64 << 20, segment: 5 << 20 },
    ];

    fn width(self) -> Width {
        Width {
            rate: self.bits / 8.0,
            delay: Duration::from_millis(self.round_trip / 2),
            queue: Duration::from_millis(self.round_trip.max(100)),
        }
    }

    /// Seconds that the line needs for so many bytes.
    pub(crate) fn needs(self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / self.bits
    }
}

/// A backlog: its folder and the bytes of its segments.
#[derive(Debug)]
pub(crate) struct Backlog {
    dir: PathBuf,
    segments: Vec<PathBuf>,
    pub(crate) bytes: u64,
}

/// Makes a buffer with sealed segments that weren't sent: one for each turn, for a copy would be a fork to the agent.
///
/// # Errors
/// The buffer's.
pub(crate) async fn fill(world: &World, link: Link, turn: u64) -> anyhow::Result<Backlog> {
    let dir = world.path(&format!("{}-{turn}", link.name));
    let more = format!(
        "[segment]\nmax_bytes = \"{}B\"\n[buffer]\nmax_bytes = \"1GiB\"\nmin_free = \"0B\"\n",
        link.segment
    );
    let begin = Timestamp(jiff::Timestamp::now().as_microsecond()).plus(-3600 * SECOND);
    let mut stages = Stages::open(&dir, &more, begin).await?;
    let list = || -> anyhow::Result<(Vec<PathBuf>, u64)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir.join("segments"))? {
            found.push(entry?.path());
        }
        found.sort();
        let sizes =
            found.iter().map(|path| std::fs::metadata(path).map(|m| m.len())).sum::<Result<u64, _>>()?;
        Ok((found, sizes))
    };
    for second in 1..3000 {
        stages.pass(SECOND);
        stages.commit((link.segment / 40).clamp(1, 20_000), 1000).await?;
        stages.seal().await?;
        if second % 10 == 0 && list()?.1 >= link.backlog {
            break;
        }
    }
    stages.stop().await?;
    let (segments, bytes) = list()?;
    ensure!(bytes >= link.backlog / 2, "only {bytes} bytes were sealed");
    Ok(Backlog { dir, segments, bytes })
}

/// Seconds from the agent's start until all segments of the backlog are in the bucket, and the most memory that it had resident,
/// bytes.
///
/// # Errors
/// When they don't come there.
pub(crate) async fn agent(
    world: &World,
    link: Link,
    backlog: &Backlog,
    turn: u64,
) -> anyhow::Result<(f64, u64)> {
    let narrow = NarrowLink::start(world.bucket_address(), link.width()).await?;
    let own = format!("state_dir = \"{}\"", world.path("agent").display());
    let other = format!("state_dir = {:?}", backlog.dir.display().to_string());
    let (bucket, endpoint) = (world.bucket_address().to_string(), narrow.address().to_string());
    let url = format!("url = \"s3://{BUCKET}/");
    let prefix = format!("{url}{}-{turn}-", link.name);
    // Its status object would be one more each second.
    let changes = [
        (own.as_str(), other.as_str()),
        (bucket.as_str(), endpoint.as_str()),
        (url.as_str(), prefix.as_str()),
        ("every = \"1s\"", "every = \"1h\""),
        ("[buffer]\n", "[buffer]\nmin_free = \"0B\"\n"),
        // Windows of the backlog would be more work, and more segments.
        (WINDOW, ""),
    ];
    let config = world.vary("agent.toml", "drain.toml", &changes)?;
    let (client, below) = (world.bucket(), format!("{}-{turn}-", link.name));
    let wanted = numbers(backlog.segments.iter().map(|path| path.to_string_lossy()))?;
    let began = Instant::now();
    let agent = world.run("drain", &world.programs.agent, &config)?;
    let arrived = async {
        while !wanted.is_subset(&arrived(&client, &below).await?) {
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    let ended = timeout(Duration::from_secs_f64(10.0 + STUCK * link.needs(backlog.bytes)), arrived).await;
    let took = began.elapsed().as_secs_f64();
    let (_, peak) = cost::memory(agent.id()?)?;
    agent.kill().await?;
    ended.context("the backlog doesn't drain").with_context(|| world.logs())??;
    Ok((took, peak))
}

/// Numbers of the segments in the bucket below a prefix.
async fn arrived(client: &aws_sdk_s3::Client, prefix: &str) -> anyhow::Result<BTreeSet<u64>> {
    let listed = client.list_objects_v2().bucket(BUCKET).prefix(prefix).send().await?;
    numbers(
        listed
            .contents()
            .iter()
            .filter_map(|o| o.key())
            .filter(|key| key.ends_with(".parquet"))
            .map(Cow::from),
    )
}

/// The numbers of segments, of which there is one epoch: in a folder the last digits of their names, in a bucket the first.
fn numbers<'a>(names: impl Iterator<Item = Cow<'a, str>>) -> anyhow::Result<BTreeSet<u64>> {
    let number = |name: Cow<'a, str>| {
        let file = name.rsplit('/').next().unwrap_or_default();
        let stem = file.strip_suffix(".parquet").unwrap_or(file);
        let digits = |text: &str| text.parse::<u64>().ok();
        let found =
            stem.split('-').next().and_then(digits).or_else(|| stem.rsplit('-').next().and_then(digits));
        found.with_context(|| format!("{name} names no segment"))
    };
    names.map(number).collect()
}

/// Seconds for bare PUTs of the same files, `at_once` at a time, over a link of the same kind.
///
/// # Errors
/// The store's.
pub(crate) async fn puts(
    world: &World,
    link: Link,
    backlog: &Backlog,
    at_once: usize,
    turn: u64,
) -> anyhow::Result<f64> {
    let narrow = NarrowLink::start(world.bucket_address(), link.width()).await?;
    let client = world.bucket_behind(narrow.address());
    let mut waiting = backlog.segments.iter();
    let mut running = JoinSet::new();
    let began = Instant::now();
    loop {
        while running.len() < at_once {
            let Some(path) = waiting.next() else { break };
            let (client, path) = (client.clone(), path.clone());
            let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
            let key = format!("puts-{}-{at_once}-{turn}/{name}", link.name);
            running.spawn(async move {
                let body = ByteStream::from_path(&path).await?;
                client.put_object().bucket(BUCKET).key(key).if_none_match("*").body(body).send().await?;
                anyhow::Ok(())
            });
        }
        let Some(done) = running.join_next().await else { break };
        done??;
    }
    Ok(began.elapsed().as_secs_f64())
}
