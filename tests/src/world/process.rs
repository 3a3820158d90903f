//! One running program: killed, stopped and continued, asked to stop, waited for.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
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

/// A signal that leaves a program alive, or asks it to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: end in order.
    Terminate,
    /// SIGSTOP: stand still where you are.
    Stop,
    /// SIGCONT: go on.
    Continue,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

impl Process {
    /// Starts `program` with `arguments`; both of its outputs are appended to `log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("can't open {}", log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        // A group of its own, so that Ctrl-C reaches the test alone, which then ends what it started.
        command.stdout(file.try_clone()?).stderr(file).process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("can't start {}", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it has ended.
    pub fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Kills it with SIGKILL and returns when it is gone.
    ///
    /// # Errors
    /// When it had ended by itself before.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.still_runs()?;
        self.child.kill().await.context("can't kill")
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it had ended by itself before.
    pub async fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.still_runs()?;
        let pid = self.id()?.to_string();
        // Through the shell: the standard library can only kill.
        let mut kill = Command::new("sh");
        kill.args(["-c", r#"kill -s "$1" "$2""#, "sh", signal.name(), &pid]).stdin(Stdio::null());
        let sent = kill.status().await?;
        ensure!(sent.success(), "can't send SIG{} to {pid}", signal.name());
        Ok(())
    }

    /// Fails if it has ended by itself.
    ///
    /// # Errors
    /// With its exit status and the end of its log.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended by itself ({status}):\n{}", last_lines(&self.log)),
        }
    }

    /// Asks it to stop with SIGTERM; its exit status and how long it took.
    ///
    /// # Errors
    /// When it doesn't end within a minute.
    pub async fn stop(mut self) -> anyhow::Result<(ExitStatus, Duration)> {
        let asked = Instant::now();
        self.signal(Signal::Terminate).await?;
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
            Err(_) => bail!("it still runs:\n{}", last_lines(&self.log)),
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
