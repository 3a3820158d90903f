//! The broker of a world: the one inside this process, or Mosquitto, which can be stopped and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{local, until};
use crate::mqtt::EmbeddedBroker;

/// A running broker.
#[derive(Debug)]
pub enum Broker {
    /// rumqttd, in this process until it ends.
    Embedded(EmbeddedBroker),
    /// Debian's broker.
    Mosquitto(Mosquitto),
}

/// A Mosquitto with a folder of its own.
#[derive(Debug)]
pub struct Mosquitto {
    config: PathBuf,
    address: SocketAddr,
    process: Option<Child>,
}

impl Broker {
    pub(super) async fn embedded() -> anyhow::Result<Self> {
        Ok(Self::Embedded(EmbeddedBroker::start(local(0)).await?))
    }

    pub(super) async fn mosquitto(folder: &Path, port: u16) -> anyhow::Result<Self> {
        let kept = folder.join("mosquitto");
        std::fs::create_dir_all(&kept)?;
        // Debian's build gives up root for a user that couldn't read this folder.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\n\
             max_queued_messages 0\nmax_inflight_messages 100\nuser root\n",
            kept.display()
        );
        let config = folder.join("mosquitto.conf");
        std::fs::write(&config, text)?;
        let mut mosquitto = Mosquitto { config, address: local(port), process: None };
        mosquitto.start().await?;
        Ok(Self::Mosquitto(mosquitto))
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
    pub fn restartable(&mut self) -> anyhow::Result<&mut Mosquitto> {
        match self {
            Self::Embedded(_) => anyhow::bail!("the embedded broker can't be stopped"),
            Self::Mosquitto(broker) => Ok(broker),
        }
    }
}

impl Mosquitto {
    /// Starts it with the sessions and messages that it kept.
    ///
    /// # Errors
    /// When it isn't installed or doesn't answer.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let found = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find_map(|program| {
            let mut command = Command::new(program);
            command.arg("-c").arg(&self.config).kill_on_drop(true);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        });
        self.process = Some(found.context("mosquitto isn't installed: apt-get install mosquitto")?);
        let address = self.address;
        until("mosquitto answers", async || Ok(TcpStream::connect(address).await.ok().map(drop))).await
    }

    /// Asks it to stop; it writes down what it keeps.
    ///
    /// # Errors
    /// When it doesn't run or doesn't stop.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("mosquitto doesn't run")?;
        let pid = process.id().context("mosquitto ended by itself")?.to_string();
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]).status().await?;
        ensure!(sent.success(), "can't send SIGTERM to mosquitto");
        process.wait().await?;
        Ok(())
    }
}
