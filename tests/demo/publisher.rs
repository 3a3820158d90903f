//! Keeps each reading until the proxy saw the agent acknowledge it, and publishes it again when the broker has lost it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures::future::select_all;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tributary_tests::mqtt::Proxy;
use tributary_tests::mqtt::broker::{MAX_OUTSTANDING_BYTES, MAX_PAYLOAD};
use tributary_tests::mqtt::record::Counts;

use crate::data::Reading;

/// Messages on the way to the broker. The embedded one leaves Nagle's algorithm on, so its answers may come 40 ms apart:
/// that many go out meanwhile.
const IN_FLIGHT: u16 = 1_000;
/// After so long without any acknowledgement, what the broker has lost is published again.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// A back-off: nothing tells when a broker stops refusing, so it is asked again after so long.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Where a publisher publishes.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    /// The broker.
    pub(crate) broker: SocketAddr,
    /// Counts the starts of a broker that is killed and comes back with nothing of its life before. It changes when it
    /// is back, and no agent is connected to the life before.
    pub(crate) lives: Option<watch::Receiver<u64>>,
}

/// Publishes readings and keeps those that aren't acknowledged.
pub(crate) struct Publisher {
    upstream: Upstream,
    life: u64,
    client: AsyncClient,
    /// Drives the client's connection; ends with the publisher.
    _connection: JoinSet<()>,
    proxies: Arc<Vec<Proxy>>,
    max_outstanding: usize,
    changes: Vec<watch::Receiver<Counts>>,
    outstanding: Outstanding,
    published: u64,
    /// PUBLISH packets that the broker has taken from us.
    taken: Arc<AtomicU64>,
    last_settled: Instant,
}

impl Publisher {
    /// Publishes into `upstream`; at most `max_outstanding` messages are on their way at a time.
    pub(crate) fn connect(upstream: Upstream, proxies: &Arc<Vec<Proxy>>, max_outstanding: usize) -> Self {
        let life = upstream.life();
        let taken = Arc::new(AtomicU64::new(0));
        let (client, connection) = open(&upstream, &taken);
        Self {
            upstream,
            life,
            client,
            _connection: connection,
            proxies: Arc::clone(proxies),
            max_outstanding,
            changes: proxies.iter().map(Proxy::changes).collect(),
            outstanding: Outstanding::new(proxies.len()),
            published: 0,
            taken,
            last_settled: Instant::now(),
        }
    }

    /// Messages that may be on their way at a time.
    pub(crate) fn max_outstanding(&self) -> usize {
        self.max_outstanding
    }

    /// Publishes one and keeps it.
    pub(crate) async fn publish(&mut self, reading: Reading) -> anyhow::Result<()> {
        // Kept first: when the broker dies while it is sent, it is published with the others.
        self.outstanding.add(reading.clone());
        if !self.send(&reading).await? {
            self.revive().await?;
        }
        Ok(())
    }

    /// False when the broker began another life.
    async fn send(&mut self, reading: &Reading) -> anyhow::Result<bool> {
        let (topic, payload) = (reading.topic.as_str(), reading.payload.as_str());
        let sent = tokio::select! {
            biased;
            () = self.upstream.reborn(self.life) => return Ok(false),
            sent = self.client.publish(topic, QoS::AtLeastOnce, false, payload) => sent,
        };
        if sent.is_err() && self.upstream.lives.is_some() {
            // The connection has ended with the broker, which comes back.
            self.upstream.reborn(self.life).await;
            return Ok(false);
        }
        sent.with_context(|| format!("can't publish on {topic}"))?;
        self.published += 1;
        Ok(true)
    }

    /// Waits until fewer than `limit` messages, and no more bytes than the broker holds, are outstanding.
    pub(crate) async fn wait_for_room(&mut self, limit: usize) -> anyhow::Result<()> {
        loop {
            // Marked as seen before looking, so that no change falls between looking and waiting.
            for changes in &mut self.changes {
                changes.mark_unchanged();
            }
            let proxies = &self.proxies;
            let settled = self.outstanding.settle(|reading| is_acknowledged(proxies, reading));
            if settled > 0 {
                self.last_settled = Instant::now();
            }
            if self.outstanding.len() < limit && self.outstanding.bytes() < MAX_OUTSTANDING_BYTES / 2 {
                return Ok(());
            }
            let changed = select_all(self.changes.iter_mut().map(|changes| Box::pin(changes.changed())));
            let alive = tokio::select! {
                () = self.upstream.reborn(self.life) => Some(false),
                changed = tokio::time::timeout_at(self.last_settled + LOST_AFTER, changed) => {
                    changed.is_ok().then_some(true)
                }
            };
            let alive = match alive {
                Some(alive) => alive,
                None => self.send_lost_again().await?,
            };
            if !alive {
                self.revive().await?;
            }
        }
    }

    /// Publishes again what the broker took and will never deliver: its subscriber is there, has answered all it was
    /// given, and is given nothing more. (rumqttd loses a message when a stale acknowledgement reaches it.) The bytes
    /// are the same, so the agent knows a copy when it has the first. False when the broker began another life.
    async fn send_lost_again(&mut self) -> anyhow::Result<bool> {
        self.last_settled = Instant::now();
        if self.taken.load(Ordering::Relaxed) < self.published {
            return Ok(true); // still on the way to the broker
        }
        for (gateway, proxy) in Arc::clone(&self.proxies).iter().enumerate() {
            let counts = proxy.counts();
            if counts.subscribed == 0 || counts.in_flight > 0 {
                continue;
            }
            for reading in self.unacknowledged(gateway) {
                tracing::warn!(number = reading.number, "lost by the broker, sent again");
                if !self.send(&reading).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Publishes everything unacknowledged into the broker's new life, which has nothing of the one before, as soon as
    /// the agents are subscribed there: before that it would drop what nobody waits for.
    async fn revive(&mut self) -> anyhow::Result<()> {
        'life: loop {
            self.life = self.upstream.life();
            self.taken = Arc::new(AtomicU64::new(0));
            self.published = 0;
            (self.client, self._connection) = open(&self.upstream, &self.taken);
            for gateway in 0..self.changes.len() {
                if let Some(changes) = self.changes.get_mut(gateway) {
                    tokio::select! {
                        () = self.upstream.reborn(self.life) => continue 'life,
                        subscribed = changes.wait_for(|counts| counts.subscribed > 0) => {
                            subscribed.context("the proxy has stopped")?;
                        }
                    }
                }
                for reading in self.unacknowledged(gateway) {
                    if !self.send(&reading).await? {
                        continue 'life;
                    }
                }
            }
            self.last_settled = Instant::now();
            return Ok(());
        }
    }

    fn unacknowledged(&self, gateway: usize) -> Vec<Reading> {
        self.outstanding.of(gateway, |reading| is_acknowledged(&self.proxies, reading))
    }
}

impl Upstream {
    /// A broker that lives as long as this process.
    pub(crate) fn for_ever(broker: SocketAddr) -> Self {
        Self { broker, lives: None }
    }

    fn life(&self) -> u64 {
        self.lives.as_ref().map_or(0, |lives| *lives.borrow())
    }

    /// Returns when the broker has begun another life than this one.
    async fn reborn(&self, life: u64) {
        let Some(lives) = &self.lives else { return std::future::pending().await };
        if lives.clone().wait_for(|&now| now != life).await.is_err() {
            std::future::pending().await // nobody kills it any more
        }
    }
}

fn is_acknowledged(proxies: &[Proxy], reading: &Reading) -> bool {
    proxies.get(reading.gateway).is_some_and(|proxy| proxy.is_acknowledged(reading.number))
}

fn open(upstream: &Upstream, taken: &Arc<AtomicU64>) -> (AsyncClient, JoinSet<()>) {
    let broker = upstream.broker;
    let mut options = MqttOptions::new("tributary-demo", broker.ip().to_string(), broker.port());
    let largest = MAX_PAYLOAD + (64 << 10);
    options.set_max_packet_size(largest, largest).set_inflight(IN_FLIGHT);
    let (client, mut events) = AsyncClient::new(options, usize::from(IN_FLIGHT));
    let mut network = NetworkOptions::new();
    // Small packets go out at once instead of waiting for the answer to the one before.
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    let mut connection = JoinSet::new();
    connection.spawn(drive(events, Arc::clone(taken), upstream.lives.is_some()));
    (client, connection)
}

/// Polls the connection for as long as the publisher lives; the client resends what an error left open. With a broker
/// that is killed, the first error is the end: what is sent again, and when, is the publisher's to say.
async fn drive(mut events: EventLoop, taken: Arc<AtomicU64>, mortal: bool) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the publisher lost its broker");
                if mortal {
                    return;
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
}

/// Messages published and not acknowledged, by gateway, in the order they were sent.
#[derive(Debug)]
struct Outstanding {
    gateways: Vec<VecDeque<Reading>>,
    messages: usize,
    bytes: usize,
}

impl Outstanding {
    fn new(gateways: usize) -> Self {
        Self { gateways: vec![VecDeque::new(); gateways], messages: 0, bytes: 0 }
    }

    fn add(&mut self, reading: Reading) {
        self.messages += 1;
        self.bytes += size(&reading);
        if let Some(gateway) = self.gateways.get_mut(reading.gateway) {
            gateway.push_back(reading);
        }
    }

    /// Drops what is acknowledged, from the oldest on: agents acknowledge in order. Returns how many.
    fn settle(&mut self, is_acknowledged: impl Fn(&Reading) -> bool) -> usize {
        let before = self.messages;
        for gateway in &mut self.gateways {
            while gateway.front().is_some_and(&is_acknowledged) {
                if let Some(reading) = gateway.pop_front() {
                    self.messages -= 1;
                    self.bytes -= size(&reading);
                }
            }
        }
        before - self.messages
    }

    /// Those of a gateway that aren't acknowledged, oldest first.
    fn of(&self, gateway: usize, is_acknowledged: impl Fn(&Reading) -> bool) -> Vec<Reading> {
        let readings = self.gateways.get(gateway).into_iter().flatten();
        readings.filter(|reading| !is_acknowledged(reading)).cloned().collect()
    }

    fn len(&self) -> usize {
        self.messages
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

fn size(reading: &Reading) -> usize {
    reading.topic.len() + reading.payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(number: u64, gateway: usize) -> Reading {
        Reading { number, gateway, topic: "t".to_owned(), payload: format!("{number}") }
    }

    #[test]
    fn a_message_is_outstanding_until_it_and_all_before_it_are_acknowledged() {
        let mut outstanding = Outstanding::new(2);
        for (number, gateway) in [(1, 0), (2, 1), (3, 0), (4, 0)] {
            outstanding.add(reading(number, gateway));
        }
        assert_eq!(outstanding.settle(|reading| [2, 3].contains(&reading.number)), 1);
        assert_eq!(outstanding.len(), 3);
        assert_eq!(outstanding.settle(|reading| [1, 3].contains(&reading.number)), 2);
        assert_eq!(outstanding.bytes(), size(&reading(4, 0)));
        assert_eq!(outstanding.of(0, |_| false), [reading(4, 0)]);
        assert_eq!(outstanding.of(0, |reading| reading.number == 4), []);
    }
}
