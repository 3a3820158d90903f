//! A machine whose starts, uptime and clock a test says: the real agent in namespaces of its own, under a false wall clock.
//!
//! The wall clock is libfaketime's, which looks at its offset whenever it is asked. The boot id and the files of the time
//! service (`/run/systemd/timesync`) lie in a mount namespace over the real ones, the uptime is a time namespace's. No
//! privilege is needed where users may have namespaces.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tributary_contract::time::Timestamp;

use super::process::Process;
use super::{World, until};

/// Where Debian has libfaketime: a folder for each architecture is in between.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// Lays boot id and `/run` over the real ones, then becomes the agent: the process keeps its id, and can be killed.
const BECOME: &str = r#"
folder=$1 library=$2
shift 2
mount --bind "$folder/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$folder/run" /run
exec nsenter --time=/proc/self/ns/time_for_children env LD_PRELOAD="$library" \
  FAKETIME_TIMESTAMP_FILE="$folder/offset" FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1 "$@"
"#;

/// A machine with a time service and without a clock that runs on a battery.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    library: PathBuf,
    /// Seconds that the real machine ran when this one started.
    started: u64,
}

impl Machine {
    /// A machine that is off.
    ///
    /// # Errors
    /// When libfaketime isn't installed, or the world's folder can't be written.
    pub fn new(world: &World) -> anyhow::Result<Self> {
        let folders = fs::read_dir(LIBRARIES)?.filter_map(|entry| Some(entry.ok()?.path().join(LIBRARY)));
        let library = folders.into_iter().find(|path| path.is_file());
        let library = library.context("libfaketime is missing: install Debian's package libfaketime")?;
        let folder = world.path("machine");
        fs::create_dir_all(folder.join("run/systemd/timesync"))?;
        Ok(Self { folder, library, started: 0 })
    }

    /// Power comes: another start, an uptime of nothing, a wall clock that shows `at`, and nobody has set it. Returns in
    /// the second after the one in which it was called, because a namespace's uptime begins with a whole one: power was
    /// away until then.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub async fn starts(&mut self, at: Timestamp) -> anyhow::Result<()> {
        let before = uptime()?;
        self.started = until("a second begins", async || {
            let now = uptime()?;
            Ok((now > before).then_some(now))
        })
        .await?;
        let id = format!("{:08x}-0000-4000-8000-{:012x}\n", fastrand::u32(..), self.started);
        fs::write(self.folder.join("boot_id"), id)?;
        let told = self.told();
        if told.exists() {
            fs::remove_file(told)?;
        }
        self.shows(at)
    }

    /// The wall clock shows `at`, and goes on from there.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn shows(&self, at: Timestamp) -> anyhow::Result<()> {
        let offset = at.since(now()) as f64 / 1e6;
        let aside = self.folder.join("offset.new");
        fs::write(&aside, format!("{offset:+.6}\n"))?;
        // Whole at each moment: it is read all the time.
        fs::rename(&aside, self.folder.join("offset")).context("can't turn the clock")
    }

    /// The right time arrives, and the time service says so.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn synchronises(&self) -> anyhow::Result<()> {
        self.shows(now())?;
        fs::write(self.told(), "").context("can't say that the clock is set")
    }

    /// Starts the world's agent on this machine.
    ///
    /// # Errors
    /// When it can't be started. Where namespaces are refused, it ends and its log says why.
    pub fn agent(&self, world: &World) -> anyhow::Result<Process> {
        let offset = format!("--boottime=-{}", self.started);
        let become_agent = ["-r", "-m", "-T", &offset, "sh", "-e", "-c", BECOME, "sh"].map(PathBuf::from);
        let agent = [world.programs.agent.clone(), "run".into(), "--config".into(), world.path("agent.toml")];
        let arguments =
            become_agent.into_iter().chain([self.folder.clone(), self.library.clone()]).chain(agent);
        Process::start(Path::new("unshare"), arguments, &world.path("agent.log"))
    }

    fn told(&self) -> PathBuf {
        self.folder.join("run/systemd/timesync/synchronized")
    }
}

/// The true time.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_microsecond())
}

/// Whole seconds that the real machine runs.
fn uptime() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let whole = text.split('.').next().unwrap_or_default();
    whole.parse().with_context(|| format!("/proc/uptime says {text:?}"))
}
