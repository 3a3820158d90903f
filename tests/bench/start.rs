//! How long a start takes, with a backlog and without: from the program's start to its subscription.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep, timeout};
use tributary_contract::time::Timestamp;
use tributary_tests::world::World;

use crate::stages::Stages;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// What a backlog spans, and how often it was committed, seconds: what a year's device does in a week of silence.
const DAYS: i64 = 7;
const EVERY: i64 = 10;
const SERIES: u64 = 100;
/// About how many bytes a reading takes in the journal.
const READING: u64 = 13;

/// What lies in the buffer at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backlog {
    /// Next to nothing.
    None,
    /// Readings that are sealed and couldn't be sent.
    Sealed,
    /// Readings that are kept back: only aggregates were sealed.
    Kept,
}

impl Backlog {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Sealed, Self::Kept];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "an empty buffer",
            Self::Sealed => "readings that are sealed and not sent",
            Self::Kept => "readings that are kept back",
        }
    }

    fn settings(self) -> &'static str {
        match self {
            Self::Kept => "upload = \"aggregates\"\n",
            Self::None | Self::Sealed => "",
        }
    }
}

const SIZES: &str = "max_bytes = \"64GiB\"\nretain = \"30d\"\nmin_free = \"0B\"\n";
const WINDOW: &str = "[[window]]\nname = \"1h\"\nsize = \"1h\"\n";

/// A folder with a buffer of about so many bytes.
///
/// # Errors
/// The buffer's.
pub(crate) async fn fill(world: &World, backlog: Backlog, bytes: u64) -> anyhow::Result<PathBuf> {
    let dir = world.path(&format!("{backlog:?}").to_lowercase());
    let begin = Timestamp(jiff::Timestamp::now().as_microsecond()).plus(-DAYS * DAY);
    let mut stages =
        Stages::open(&dir, &format!("{}[buffer]\n{SIZES}{WINDOW}", backlog.settings()), begin).await?;
    let commits = if backlog == Backlog::None { 1 } else { DAYS * DAY / SECOND / EVERY };
    let each = (bytes / READING / u64::try_from(commits)?).clamp(1, 100_000);
    for commit in 1..=commits {
        stages.pass(EVERY * SECOND);
        stages.commit(if backlog == Backlog::None { 1 } else { each }, SERIES).await?;
        if commit % 90 == 0 {
            stages.seal().await?;
        }
    }
    stages.stop().await?;
    Ok(dir)
}

/// Bytes of the database in a folder.
///
/// # Errors
/// When it isn't there.
pub(crate) fn bytes(dir: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(dir.join("buffer.db"))?.len())
}

/// Milliseconds from the program's start until it is subscribed; then it is killed.
///
/// # Errors
/// When it doesn't come to that.
pub(crate) async fn measure(world: &World, backlog: Backlog, dir: &Path) -> anyhow::Result<f64> {
    let own = format!("state_dir = \"{}\"", world.path("agent").display());
    let other = format!("state_dir = {:?}", dir.display().to_string());
    let sizes = format!("[buffer]\n{SIZES}");
    let source = format!("{}namespace", backlog.settings());
    let changes = [
        (own.as_str(), other.as_str()),
        ("namespace", source.as_str()),
        ("[buffer]\n", sizes.as_str()),
        ("[[window]]\nname = \"1m\"\nsize = \"1m\"\nlateness = \"1s\"\nidle = \"1s\"\n", WINDOW),
    ];
    let name = format!("{backlog:?}.toml");
    let config = world.vary("agent.toml", &name, &changes)?;
    let log = world.path("start.log");
    let _ = std::fs::remove_file(&log);
    let began = Instant::now();
    let agent = world.run("start", &world.programs.agent, &config)?;
    let subscribed = async {
        loop {
            if std::fs::read_to_string(&log).is_ok_and(|text| text.contains(" subscribed ")) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let ended = timeout(Duration::from_mins(10), subscribed).await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    ended.context("the agent isn't subscribed").with_context(|| world.logs())?;
    agent.kill().await?;
    Ok(took)
}
