//! One running program: killed, asked to stop, waited for.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::process::{Child, Command};

/// How long a program may take to end by itself before a test gives up.
const END_WITHIN: Duration = Duration::from_secs(60);
/// Lines of a log that are shown when a test fails.
const LAST_LINES: usize = 40;

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program run --config CONFIG`; both of its outputs are appended to `log`.
    pub(super) fn start(program: &Path, config: &Path, log: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("can't open {}", log.display()))?;
        let mut command = Command::new(program);
        command.args(["run", "--config"]).arg(config).stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("can't start {}", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Kills it with SIGKILL and returns when it is gone.
    ///
    /// # Errors
    /// When it had ended by itself before.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::bail!("it had ended by itself ({status}):\n{}", last_lines(&self.log));
        }
        self.child.kill().await.context("can't kill")
    }

    /// Asks it to stop with SIGTERM; its exit status and how long it took.
    ///
    /// # Errors
    /// When it doesn't end within a minute.
    pub async fn stop(self) -> anyhow::Result<(ExitStatus, Duration)> {
        let pid = self.child.id().context("it had ended by itself")?.to_string();
        let asked = Instant::now();
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]).status().await?;
        ensure!(sent.success(), "can't send SIGTERM to {pid}");
        let status = self.ended().await?;
        Ok((status, asked.elapsed()))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it doesn't within a minute.
    pub async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(END_WITHIN, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => anyhow::bail!("it still runs:\n{}", last_lines(&self.log)),
        }
    }
}

/// Runs a command of a program to its end.
///
/// # Errors
/// When it can't be started or doesn't end within a minute.
pub async fn command(program: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(END_WITHIN, command.output()).await;
    output.context("it doesn't end")?.with_context(|| format!("can't run {}", program.display()))
}

/// The end of the file at `path`, empty where there is none.
#[must_use]
pub fn last_lines(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
}
