//! A publisher that keeps each message until the proxy saw the agent acknowledge it.
//!
//! A broker that was killed may have lost what it had taken, or may still send it. Both at once would be two deliveries
//! of one message on one connection, which no receiver of MQTT can tell from two equal messages. So after a broker's
//! death nothing is published again before it is known to be lost: once the agent is connected again, new messages are
//! published one by one until one is acknowledged (a session that was found need not be subscribed yet, so the first ones
//! may be dropped). Everything that the broker still had was sent before that one. What then isn't acknowledged is
//! published again, byte for byte.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use rumqttc::{AsyncClient, EventLoop, MqttOptions, NetworkOptions, QoS};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::mqtt::Proxy;
use crate::world::publish::message;

/// Messages on the way to the broker at a time.
const IN_FLIGHT: u16 = 100;
/// Pause before one more message asks whether the agent is subscribed.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The publisher of one world.
#[derive(Debug)]
pub struct Sensor {
    broker: SocketAddr,
    /// Counts the broker's starts; this one was told of when the broker answered.
    lives: watch::Receiver<u64>,
    /// The life into which was published last, once nothing of an earlier one is missing.
    life: u64,
    /// Published, not known as acknowledged.
    kept: BTreeSet<u64>,
    published: u64,
    again: u64,
}

impl Sensor {
    /// A publisher at `broker`, whose starts `lives` counts: it changes only when no connection to the life before is
    /// open any more.
    #[must_use]
    pub fn new(broker: SocketAddr, lives: watch::Receiver<u64>) -> Self {
        let life = *lives.borrow();
        Self { broker, lives, life, kept: BTreeSet::new(), published: 0, again: 0 }
    }

    /// The highest number published: all from 1 on were.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published
    }

    /// How many messages were published again.
    #[must_use]
    pub fn again(&self) -> u64 {
        self.again
    }

    /// Publishes at least `count` messages more, one each `between`, and returns when all are acknowledged.
    ///
    /// # Errors
    /// Only where there is nobody left to tell of the broker.
    pub async fn run(&mut self, proxy: &Proxy, count: u64, between: Duration) -> anyhow::Result<()> {
        let until = self.published + count;
        loop {
            let life = *self.lives.borrow_and_update();
            let mut lives = self.lives.clone();
            let (client, events) = connect(self.broker);
            tokio::select! {
                biased;
                done = self.publish_in(life, &client, proxy, until, between) => return done,
                () = drive(events) => {}
                changed = lives.changed() => { changed?; }
            }
            // Whoever ended the connection starts the broker again.
            while *self.lives.borrow() == life {
                self.lives.changed().await.context("nobody starts the broker any more")?;
            }
        }
    }

    async fn publish_in(
        &mut self,
        life: u64,
        client: &AsyncClient,
        proxy: &Proxy,
        until: u64,
        between: Duration,
    ) -> anyhow::Result<()> {
        if self.life != life {
            self.publish_lost(client, proxy).await?;
            self.life = life;
        }
        let mut ticks = tokio::time::interval(between);
        while self.published < until {
            ticks.tick().await;
            self.publish_next(client).await?;
            self.forget_acknowledged(proxy);
        }
        let mut changes = proxy.changes();
        changes.wait_for(|_| self.kept.iter().all(|&number| proxy.is_acknowledged(number))).await?;
        self.forget_acknowledged(proxy);
        Ok(())
    }

    /// Publishes again what a broker's death has lost, and nothing that the broker may still send.
    async fn publish_lost(&mut self, client: &AsyncClient, proxy: &Proxy) -> anyhow::Result<()> {
        let mut changes = proxy.changes();
        changes.wait_for(|counts| counts.subscribed > 0).await?;
        loop {
            let probe = self.publish_next(client).await?;
            let answered = changes.wait_for(|_| proxy.is_acknowledged(probe));
            if timeout(ASK_AGAIN, answered).await.is_ok() {
                break;
            }
        }
        self.forget_acknowledged(proxy);
        for &number in &self.kept {
            send(client, number).await?;
            self.again += 1;
        }
        Ok(())
    }

    async fn publish_next(&mut self, client: &AsyncClient) -> anyhow::Result<u64> {
        self.published += 1;
        // Kept before it is sent: nobody knows what became of a message whose sending broke off.
        self.kept.insert(self.published);
        send(client, self.published).await?;
        Ok(self.published)
    }

    fn forget_acknowledged(&mut self, proxy: &Proxy) {
        self.kept.retain(|&number| !proxy.is_acknowledged(number));
    }
}

async fn send(client: &AsyncClient, number: u64) -> anyhow::Result<()> {
    let (topic, payload) = message(number);
    client.publish(topic, QoS::AtLeastOnce, false, payload).await.context("the publisher's client has ended")
}

fn connect(broker: SocketAddr) -> (AsyncClient, EventLoop) {
    let name = format!("sensor-{:016x}", fastrand::u64(..));
    let mut options = MqttOptions::new(name, broker.ip().to_string(), broker.port());
    // A broker that stands still for a second is no dead one.
    options.set_inflight(IN_FLIGHT).set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, usize::from(IN_FLIGHT));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    (client, events)
}

/// Polls the connection until it ends. It is never made again: the library would send what the broker may have.
async fn drive(mut events: EventLoop) {
    while events.poll().await.is_ok() {}
}
