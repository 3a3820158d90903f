//! The broker of a world: the one inside this process, or Mosquitto, which can be stopped and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::process::{Process, Signal};
use super::{local, until};
use crate::mqtt::EmbeddedBroker;

/// A running broker.
#[derive(Debug)]
pub enum Broker {
    /// rumqttd, in this process until it ends.
    Embedded(EmbeddedBroker),
    /// Debian's broker.
    Mosquitto(Box<Mosquitto>),
}

/// A Mosquitto with a folder of its own.
#[derive(Debug)]
pub struct Mosquitto {
    config: PathBuf,
    log: PathBuf,
    address: SocketAddr,
    process: Mutex<Option<Process>>,
}

/// When a Mosquitto writes down its sessions and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Saves {
    /// When it ends in order: killed, it has lost everything since its start. That is how it is installed, but for a
    /// save each half hour.
    #[default]
    AtStop,
    /// Each second, too: killed, it comes back with what it knew a moment ago, and sends again what was acknowledged
    /// since.
    EachSecond,
    /// Never: each start finds nothing.
    Never,
}

impl Broker {
    pub(super) async fn embedded() -> anyhow::Result<Self> {
        Ok(Self::Embedded(EmbeddedBroker::start(local(0)).await?))
    }

    pub(super) async fn mosquitto(folder: &Path, port: u16, saves: Saves) -> anyhow::Result<Self> {
        let mosquitto = Mosquitto::new(folder, port, saves)?;
        mosquitto.start().await?;
        Ok(Self::Mosquitto(Box::new(mosquitto)))
    }

    /// Where the agent's protocol is spoken.
    #[must_use]
    pub fn for_agents(&self) -> SocketAddr {
        match self {
            Self::Embedded(broker) => broker.address_v5(),
            Self::Mosquitto(broker) => broker.address,
        }
    }

    /// Where MQTT 3.1.1 is spoken.
    #[must_use]
    pub fn for_publishers(&self) -> SocketAddr {
        match self {
            Self::Embedded(broker) => broker.address_v4(),
            Self::Mosquitto(broker) => broker.address,
        }
    }

    /// Mosquitto, to be stopped and started.
    ///
    /// # Errors
    /// When this is the broker inside the process, which can't be stopped.
    pub fn restartable(&self) -> anyhow::Result<&Mosquitto> {
        match self {
            Self::Embedded(_) => anyhow::bail!("the embedded broker can't be stopped"),
            Self::Mosquitto(broker) => Ok(broker),
        }
    }
}

/// Where Mosquitto is, if it is installed.
#[must_use]
pub fn mosquitto_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("mosquitto")).find(|program| program.is_file())
}

/// Writes the configuration of a Mosquitto that listens on `port` of 127.0.0.1, keeps what it saves in `folder`, and
/// drops nothing of what it took. The file is `mosquitto.conf` there.
///
/// # Errors
/// When the folder can't be written.
pub fn mosquitto_config(folder: &Path, port: u16, saves: Saves) -> anyhow::Result<PathBuf> {
    let kept = folder.join(FOLDER);
    std::fs::create_dir_all(&kept).with_context(|| format!("can't make {}", kept.display()))?;
    let persistence = match saves {
        Saves::AtStop => "true\nautosave_interval 0",
        Saves::EachSecond => "true\nautosave_interval 1",
        Saves::Never => "false",
    };
    let text = format!(
        "{}allow_anonymous true\npersistence {persistence}\nmax_queued_messages 0\nmax_inflight_messages 100\n",
        always(port, &kept)
    );
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, text).with_context(|| format!("can't write {}", config.display()))?;
    Ok(config)
}

/// The lines that each configuration has. Options of a listener follow.
fn always(port: u16, kept: &Path) -> String {
    // Debian's build gives up root for a user that couldn't read this folder.
    format!("persistence_location {}/\nuser root\nlistener {port} 127.0.0.1\n", kept.display())
}

impl Mosquitto {
    /// One that keeps what it saves in `folder` and listens on 127.0.0.1; not started yet.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(folder: &Path, port: u16, saves: Saves) -> anyhow::Result<Self> {
        let config = mosquitto_config(folder, port, saves)?;
        let log = folder.join("mosquitto.log");
        Ok(Self { config, log, address: local(port), process: Mutex::new(None) })
    }

    /// Starts it with the sessions and messages that it kept, and returns when it answers.
    ///
    /// # Errors
    /// When it isn't installed or doesn't answer.
    pub async fn start(&self) -> anyhow::Result<()> {
        let program = mosquitto_program().context(NOT_INSTALLED)?;
        let started = Process::start(&program, [Path::new("-c"), &self.config], &self.log)?;
        let mut process = self.process.lock().await;
        let process = process.insert(started);
        let address = self.address;
        until("mosquitto answers", async || {
            process.still_runs()?;
            Ok(TcpStream::connect(address).await.ok().map(drop))
        })
        .await
    }

    /// Stops it, if it runs, and starts it with these lines of configuration in the place of its own, but for its listener
    /// and its folder. They may begin further listeners; where they don't say `persistence true` it forgets everything.
    ///
    /// # Errors
    /// When it doesn't stop or doesn't start.
    pub async fn restart_with(&self, lines: &str) -> anyhow::Result<()> {
        if self.process.lock().await.is_some() {
            self.stop().await?;
        }
        let kept = self.config.with_file_name(FOLDER);
        let text = format!("{}{lines}", always(self.address.port(), &kept));
        std::fs::write(&self.config, text)
            .with_context(|| format!("can't write {}", self.config.display()))?;
        self.start().await
    }

    /// Asks it to stop; it writes down what it keeps.
    ///
    /// # Errors
    /// When it doesn't run or doesn't stop.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.process.lock().await.take().context(NOT_RUNNING)?.stop().await?;
        Ok(())
    }

    /// Kills it with SIGKILL: what it hasn't saved is lost.
    ///
    /// # Errors
    /// When it doesn't run.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.process.lock().await.take().context(NOT_RUNNING)?.kill().await
    }

    /// Fails if it has ended by itself.
    ///
    /// # Errors
    /// With its exit status and the end of its log.
    pub async fn still_runs(&self) -> anyhow::Result<()> {
        self.process.lock().await.as_mut().context(NOT_RUNNING)?.still_runs()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it doesn't run.
    pub async fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.lock().await.as_mut().context(NOT_RUNNING)?.signal(signal).await
    }
}

/// Where it saves, beside its configuration.
const FOLDER: &str = "mosquitto";
const NOT_INSTALLED: &str = "mosquitto isn't installed: apt-get install mosquitto";
const NOT_RUNNING: &str = "mosquitto doesn't run";
