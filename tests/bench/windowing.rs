//! What windows cost: the same readings through journal and segments, with three windows and without.

use std::process::Stdio;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tributary_contract::time::Timestamp;

use crate::cost::{self, Cost};
use crate::stages::Stages;

const SECOND: i64 = 1_000_000;
/// Quarters of an hour that pass after the last reading.
const QUARTERS: u32 = 8;
/// 2026-01-01T00:00:00 UTC.
const BEGIN: i64 = 1_767_225_600_000_000;

/// One side, a process of its own: what memory and processor it takes is its own.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// With three windows; else with none
    #[arg(long)]
    windows: bool,
    /// Series
    #[arg(long)]
    series: u64,
    /// Minutes of readings
    #[arg(long)]
    minutes: u64,
    /// Seconds from a reading of a series to its next
    #[arg(long)]
    every: u64,
}

/// What a side took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Took {
    readings: u64,
    cpu_seconds: f64,
    /// The most memory that was resident, bytes.
    pub(crate) peak: u64,
}

impl Took {
    /// Microseconds of processor for a reading.
    pub(crate) fn each(&self) -> f64 {
        self.cpu_seconds / self.readings as f64 * 1e6
    }
}

/// Runs one side and says what it took.
///
/// # Errors
/// When it ends badly.
pub(crate) async fn measure(windows: bool, series: u64, minutes: u64, every: u64) -> anyhow::Result<Took> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["windowing-side", "--series", &series.to_string(), "--minutes", &minutes.to_string()]);
    command.args(["--every", &every.to_string()]);
    if windows {
        command.arg("--windows");
    }
    let ended = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    ensure!(ended.status.success(), "a side ended with {}", ended.status);
    serde_json::from_slice(&ended.stdout).context("what it took can't be read")
}

/// The side itself.
///
/// # Errors
/// The buffer's.
pub(crate) async fn side(options: &Options) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let more = if options.windows {
        "[[window]]\nname = \"1m\"\nsize = \"1m\"\n[[window]]\nname = \"10m\"\nsize = \"10m\"\n[[window]]\nname = \"1h\"\nsize = \"1h\"\n"
    } else {
        ""
    };
    let mut stages = Stages::open(dir.path(), more, Timestamp(BEGIN)).await?;
    let before = Cost::of(std::process::id())?;
    for second in 1..=options.minutes * 60 {
        stages.pass(SECOND);
        stages.commit(options.series / options.every.max(1), options.series).await?;
        if second % 5 == 0 {
            stages.seal().await?;
        }
    }
    // Both sides seal their readings, and the one with windows closes them.
    for _ in 0..QUARTERS {
        stages.pass(15 * 60 * SECOND);
        stages.seal().await?;
    }
    ensure!(stages.open_windows() == 0, "windows are still open");
    let cpu_seconds = Cost::of(std::process::id())?.since(before).cpu_seconds;
    let (_, peak) = cost::memory(std::process::id())?;
    println_json(&Took { readings: stages.taken(), cpu_seconds, peak })?;
    stages.stop().await
}

fn println_json(took: &Took) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(took)?).context("nobody reads")
}
