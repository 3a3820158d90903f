//! Kills the demo's programs while the readings flow, brings them back, and says so.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use fastrand::Rng;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tributary_tests::mqtt::Proxy;
use tributary_tests::world::Saves;
use tributary_tests::world::broker::{mosquitto_config, mosquitto_program};

use crate::children::Children;
use crate::config::{BUCKET, REGION};
use crate::home::{Home, Ports};

/// Fewest kills, also of a replay that is over sooner.
const AT_LEAST: usize = 12;
/// Pause between two kills, milliseconds.
const PAUSE: std::ops::Range<u64> = 700..2_500;
/// How long a program is gone, milliseconds.
const AWAY: std::ops::Range<u64> = 50..1_000;
/// How long a server may take to answer again.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the rest of the demo knows of the kills.
#[derive(Debug)]
pub(crate) struct Told {
    /// A line for each kill.
    pub(crate) lines: mpsc::UnboundedReceiver<String>,
    /// Set when everything sent is acknowledged: after a few more kills it ends.
    pub(crate) acknowledged: watch::Sender<bool>,
    /// How often each program was killed, once it has ended.
    pub(crate) ended: watch::Receiver<Option<Kills>>,
}

/// How often each program was killed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kills(Vec<(String, usize)>);

/// The side that kills.
#[derive(Debug)]
pub(crate) struct Chaos {
    lines: mpsc::UnboundedSender<String>,
    acknowledged: watch::Receiver<bool>,
    ended: watch::Sender<Option<Kills>>,
    /// Counts the broker's starts.
    lives: watch::Sender<u64>,
}

/// Servers that are children of the demo, so that they can be killed.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// The processes.
    pub(crate) children: Children,
    /// Names, each with where it answers.
    addresses: Vec<(&'static str, SocketAddr)>,
    /// Whether one of them is the broker.
    pub(crate) broker: bool,
}

impl Servers {
    /// Starts the S3 server and, where it is installed, Mosquitto, which forgets everything when it ends.
    pub(crate) fn start(home: &Home, ports: &Ports, s3: &Path) -> anyhow::Result<Self> {
        let mut servers = Self::default();
        let address = crate::local(ports.s3);
        let arguments = [
            "--dir".into(),
            home.folder("s3")?.into_os_string(),
            "--listen".into(),
            address.to_string().into(),
            "--credentials".into(),
            home.path("credentials.toml").into(),
            "--region".into(),
            REGION.into(),
            "--bucket".into(),
            BUCKET.into(),
            "--access-log".into(),
            home.path("s3-access.jsonl").into(),
        ];
        servers.children.start_with(home, "s3", s3, arguments)?;
        servers.addresses.push(("s3", address));
        if let Some(mosquitto) = mosquitto_program() {
            let config = mosquitto_config(home.dir(), ports.broker, Saves::Never)?;
            servers.children.start_with(home, "broker", &mosquitto, ["-c".into(), config.into()])?;
            servers.addresses.push(("broker", crate::local(ports.broker)));
            servers.broker = true;
        }
        Ok(servers)
    }

    /// Waits until the server of that name answers.
    async fn answers(&mut self, name: &str) -> anyhow::Result<()> {
        let address = self.addresses.iter().find(|(known, _)| *known == name).map(|(_, address)| *address);
        let address = address.with_context(|| format!("there is no server {name}"))?;
        let deadline = Instant::now() + BACK_WITHIN;
        while TcpStream::connect(address).await.is_err() {
            if Instant::now() > deadline {
                bail!("{name} doesn't answer on {address} after {} s", BACK_WITHIN.as_secs());
            }
            tokio::select! {
                ended = self.children.ended() => bail!("{ended}"),
                () = sleep(LOOK_AGAIN) => {}
            }
        }
        Ok(())
    }

    /// Waits until all of them answer.
    pub(crate) async fn all_answer(&mut self) -> anyhow::Result<()> {
        for (name, _) in self.addresses.clone() {
            self.answers(name).await?;
        }
        Ok(())
    }
}

impl Chaos {
    /// Both sides; the last value counts the broker's starts.
    pub(crate) fn new() -> (Self, Told, watch::Receiver<u64>) {
        let (lines, told) = mpsc::unbounded_channel();
        let (acknowledged, is_acknowledged) = watch::channel(false);
        let (ended, has_ended) = watch::channel(None);
        let (lives, living) = watch::channel(1);
        let chaos = Self { lines, acknowledged: is_acknowledged, ended, lives };
        (chaos, Told { lines: told, acknowledged, ended: has_ended }, living)
    }

    /// Kills `programs` and servers in turn, at random, until everything is acknowledged and it was enough; then goes
    /// on watching them. Returns only when one of them ended by itself or didn't come back.
    pub(crate) async fn reign(
        mut self,
        programs: &mut Children,
        servers: &mut Servers,
        proxies: Arc<Vec<Proxy>>,
    ) -> anyhow::Error {
        let mut rng = Rng::new();
        let names: Vec<String> = programs.names().chain(servers.children.names()).collect();
        let mut kills = Kills(names.iter().map(|name| (name.clone(), 0)).collect());
        // Dealt like cards, so that each has its share.
        let mut next: Vec<usize> = Vec::new();
        while !(*self.acknowledged.borrow() && kills.all() >= AT_LEAST) {
            let pause = Duration::from_millis(rng.u64(PAUSE));
            tokio::select! {
                ended = programs.ended() => return anyhow::anyhow!("{ended}"),
                ended = servers.children.ended() => return anyhow::anyhow!("{ended}"),
                () = sleep(pause) => {}
            }
            if next.is_empty() {
                next = (0..names.len()).collect();
                rng.shuffle(&mut next);
            }
            let Some((name, count)) = next.pop().and_then(|at| kills.0.get_mut(at)) else { continue };
            let away = Duration::from_millis(rng.u64(AWAY));
            if let Err(error) = self.strike(name, away, programs, servers, &proxies).await {
                return error;
            }
            *count += 1;
        }
        self.ended.send_replace(Some(kills));
        tokio::select! {
            ended = programs.ended() => anyhow::anyhow!("{ended}"),
            ended = servers.children.ended() => anyhow::anyhow!("{ended}"),
        }
    }

    async fn strike(
        &mut self,
        name: &str,
        away: Duration,
        programs: &mut Children,
        servers: &mut Servers,
        proxies: &[Proxy],
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        if programs.names().any(|known| known == name) {
            programs.kill(name).await?;
            sleep(away).await;
            programs.start_again(name)?;
        } else {
            servers.children.kill(name).await?;
            sleep(away).await;
            if name == "broker" {
                // Connections of the life before end with it; until they have, they would be taken for new ones.
                for proxy in proxies {
                    proxy.changes().wait_for(|counts| counts.live == 0).await?;
                }
            }
            servers.children.start_again(name)?;
            servers.answers(name).await?;
            if name == "broker" {
                self.lives.send_modify(|lives| *lives += 1);
            }
        }
        let line = format!("killed {}; back after {:.1} s", said(name), began.elapsed().as_secs_f64());
        // Nobody listens any more when the demo ends.
        let _ = self.lines.send(line);
        Ok(())
    }
}

/// What a program is called when it is killed.
fn said(name: &str) -> String {
    match name {
        "receiver" => "the receiver".to_owned(),
        "s3" => "the S3 server".to_owned(),
        "broker" => "the broker, which forgot everything".to_owned(),
        gateway => format!("the agent of {gateway}"),
    }
}

impl Kills {
    /// Of all programs.
    pub(crate) fn all(&self) -> usize {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

impl std::fmt::Display for Kills {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} kills (", self.all())?;
        for (at, (name, count)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {count}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_summed_and_named() {
        let kills = Kills(vec![("receiver".to_owned(), 2), ("gw-1".to_owned(), 3)]);
        assert_eq!(kills.to_string(), "5 kills (receiver 2, gw-1 3)");
    }
}
