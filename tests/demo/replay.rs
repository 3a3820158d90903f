//! Publishes the readings, never more than the embedded broker is sure to hold, and keeps each until the proxy saw
//! the agent acknowledge it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::select_all;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS};
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tributary_tests::mqtt::broker::{MAX_OUTSTANDING_BYTES, MAX_PAYLOAD};
use tributary_tests::mqtt::record::Counts;
use tributary_tests::mqtt::{NumberSet, Proxy};

use crate::data::Reading;

/// Messages published and not yet acknowledged by an agent, over all gateways.
const MAX_OUTSTANDING: usize = 5_000;
/// Messages on the way to the broker. It leaves Nagle's algorithm on, so its answers may come 40 ms apart: that many go
/// out meanwhile.
const IN_FLIGHT: u16 = 1_000;
/// After so long without any acknowledgement, what the broker has lost is published again.
const LOST_AFTER: Duration = Duration::from_secs(30);
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Readings read ahead of the publisher.
const READ_AHEAD: usize = 1_024;

/// Publishes what `readings` gives, at `rate` messages a second if one is given, and returns when each is
/// acknowledged. Numbers in `before` were acknowledged in an earlier start and aren't sent. `sent` counts the messages
/// sent over all starts.
///
/// # Errors
/// When the readings can't be read or a message is larger than the broker takes.
pub(crate) async fn replay(
    readings: impl Iterator<Item = anyhow::Result<Reading>> + Send + 'static,
    broker: SocketAddr,
    proxies: Arc<Vec<Proxy>>,
    before: NumberSet,
    rate: Option<f64>,
    sent: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let publisher = Publisher::connect(broker, &proxies, MAX_OUTSTANDING);
    publish_all(readings, publisher, before, rate, sent).await
}

async fn publish_all(
    readings: impl Iterator<Item = anyhow::Result<Reading>> + Send + 'static,
    mut publisher: Publisher,
    before: NumberSet,
    rate: Option<f64>,
    sent: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut readings = read_ahead(readings);
    let mut pace = Pace::new(rate, Instant::now());
    sent.store(before.len(), Ordering::Relaxed);
    while let Some(reading) = readings.recv().await {
        let reading = reading?;
        if before.contains(reading.number) {
            continue;
        }
        ensure!(
            reading.payload.len() <= MAX_PAYLOAD,
            "message {} takes {} bytes; the broker takes {MAX_PAYLOAD}",
            reading.number,
            reading.payload.len()
        );
        publisher.wait_for_room(publisher.max_outstanding).await?;
        if let Some(due) = pace.next(Instant::now()) {
            tokio::time::sleep_until(due).await;
        }
        publisher.publish(reading).await?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    publisher.wait_for_room(1).await
}

/// Reads files on a thread of its own, a little ahead.
fn read_ahead(
    readings: impl Iterator<Item = anyhow::Result<Reading>> + Send + 'static,
) -> mpsc::Receiver<anyhow::Result<Reading>> {
    let (ahead, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        for reading in readings {
            if ahead.blocking_send(reading).is_err() {
                break; // nobody wants more
            }
        }
    });
    receiver
}

struct Publisher {
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
    fn connect(broker: SocketAddr, proxies: &Arc<Vec<Proxy>>, max_outstanding: usize) -> Self {
        let mut options = MqttOptions::new("tributary-demo", broker.ip().to_string(), broker.port());
        let largest = MAX_PAYLOAD + (64 << 10);
        options.set_max_packet_size(largest, largest).set_inflight(IN_FLIGHT);
        let (client, mut events) = AsyncClient::new(options, usize::from(IN_FLIGHT));
        events.set_network_options(prompt());
        let taken = Arc::new(AtomicU64::new(0));
        let mut connection = JoinSet::new();
        connection.spawn(drive(events, Arc::clone(&taken)));
        Self {
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

    async fn publish(&mut self, reading: Reading) -> anyhow::Result<()> {
        self.send(&reading).await?;
        self.outstanding.add(reading);
        Ok(())
    }

    async fn send(&mut self, reading: &Reading) -> anyhow::Result<()> {
        let (topic, payload) = (reading.topic.as_str(), reading.payload.as_str());
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .with_context(|| format!("can't publish on {topic}"))?;
        self.published += 1;
        Ok(())
    }

    /// Waits until fewer than `limit` messages, and no more bytes than the broker holds, are outstanding.
    async fn wait_for_room(&mut self, limit: usize) -> anyhow::Result<()> {
        loop {
            // Marked as seen before looking, so that no change falls between looking and waiting.
            for changes in &mut self.changes {
                changes.mark_unchanged();
            }
            let proxies = &self.proxies;
            let settled = self.outstanding.settle(|reading| {
                proxies.get(reading.gateway).is_some_and(|proxy| proxy.is_acknowledged(reading.number))
            });
            if settled > 0 {
                self.last_settled = Instant::now();
            }
            if self.outstanding.len() < limit && self.outstanding.bytes() < MAX_OUTSTANDING_BYTES / 2 {
                return Ok(());
            }
            let changed = select_all(self.changes.iter_mut().map(|changes| Box::pin(changes.changed())));
            if tokio::time::timeout_at(self.last_settled + LOST_AFTER, changed).await.is_err() {
                self.send_lost_again().await?;
            }
        }
    }

    /// Publishes again what the broker took and will never deliver: its subscriber is there, has answered all it was
    /// given, and is given nothing more. (rumqttd loses a message when a stale acknowledgement reaches it.) The bytes
    /// are the same, so the agent knows a copy when it has the first.
    async fn send_lost_again(&mut self) -> anyhow::Result<()> {
        self.last_settled = Instant::now();
        if self.taken.load(Ordering::Relaxed) < self.published {
            return Ok(()); // still on the way to the broker
        }
        for (gateway, proxy) in Arc::clone(&self.proxies).iter().enumerate() {
            let counts = proxy.counts();
            if counts.subscribed == 0 || counts.in_flight > 0 {
                continue;
            }
            for reading in self.outstanding.of(gateway) {
                tracing::warn!(number = reading.number, "lost by the embedded broker, sent again");
                self.send(&reading).await?;
            }
        }
        Ok(())
    }
}

/// Small packets go out at once instead of waiting for the answer to the one before.
fn prompt() -> NetworkOptions {
    let mut options = NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options
}

/// Polls the connection for as long as the publisher lives; the client resends what an error left open.
async fn drive(mut events: EventLoop, taken: Arc<AtomicU64>) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the publisher lost its broker");
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

    fn of(&self, gateway: usize) -> Vec<Reading> {
        self.gateways.get(gateway).map(|readings| readings.iter().cloned().collect()).unwrap_or_default()
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

/// When the next message may go out.
#[derive(Debug)]
struct Pace {
    between: Option<Duration>,
    next: Instant,
}

impl Pace {
    /// How far behind a pace may fall and still catch up; beyond it, the time is forgotten.
    const CATCH_UP: Duration = Duration::from_secs(1);

    fn new(rate: Option<f64>, now: Instant) -> Self {
        let between = rate.and_then(|rate| Duration::try_from_secs_f64(1.0 / rate).ok());
        Self { between, next: now }
    }

    /// What to wait for; `None` to go on at once. Waiting for an instant that has come takes a millisecond all the same.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let between = self.between?;
        if now > self.next + Self::CATCH_UP {
            self.next = now;
        }
        let due = self.next;
        self.next += between;
        (due > now).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;
    use tributary_tests::mqtt::EmbeddedBroker;

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn reading(number: u64, gateway: usize) -> Reading {
        let topic = format!("{}/sensors/a/t", data::gateway_name(gateway));
        Reading { number, gateway, topic, payload: format!(r#"{{"ts":"t","value":1,"n":{number}}}"#) }
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
        assert_eq!(outstanding.of(0), [reading(4, 0)]);
    }

    #[test]
    fn a_pace_is_kept_and_time_long_lost_is_forgotten() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(Some(100.0), start);
        assert_eq!([pace.next(at(0)), pace.next(at(1)), pace.next(at(50))], [None, Some(at(10)), None]);
        assert_eq!(pace.next(at(50)), None, "it catches up");
        assert_eq!([pace.next(at(5_000)), pace.next(at(5_000))], [None, Some(at(5_010))]);
        let mut unbound = Pace::new(None, start);
        assert_eq!([unbound.next(at(7)), unbound.next(at(7))], [None, None]);
    }

    /// Brokers, proxies, and agents that acknowledge what `acknowledge` lets them, in order.
    async fn world(
        gateways: usize,
        acknowledge: watch::Receiver<bool>,
    ) -> (EmbeddedBroker, Arc<Vec<Proxy>>, JoinSet<()>) {
        let broker = EmbeddedBroker::start(LOCAL).await.unwrap();
        let upstream = broker.address_v4().to_string();
        let (mut proxies, mut agents) = (Vec::new(), JoinSet::new());
        for gateway in 0..gateways {
            let proxy = Proxy::start(LOCAL, &upstream, data::number_of).await.unwrap();
            agents.spawn(agent(proxy.address(), gateway, acknowledge.clone()));
            proxy.changes().wait_for(|counts| counts.subscribed == 1).await.unwrap();
            proxies.push(proxy);
        }
        (broker, Arc::new(proxies), agents)
    }

    async fn agent(address: SocketAddr, gateway: usize, mut acknowledge: watch::Receiver<bool>) {
        let name = data::gateway_name(gateway);
        let mut options = MqttOptions::new(name.as_str(), address.ip().to_string(), address.port());
        options.set_clean_session(false).set_manual_acks(true);
        let (client, mut events) = AsyncClient::new(options, 256);
        events.set_network_options(prompt());
        client.subscribe(format!("{name}/sensors/+/+"), QoS::AtLeastOnce).await.unwrap();
        let mut held = Vec::new();
        loop {
            tokio::select! {
                event = events.poll() => match event {
                    Ok(Event::Incoming(Packet::Publish(message))) => held.push(message),
                    Ok(_) => {}
                    Err(_) => return,
                },
                _ = acknowledge.changed() => {}
            }
            if *acknowledge.borrow() {
                for message in held.drain(..) {
                    client.try_ack(&message).unwrap();
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_message_is_acknowledged_once_and_none_of_an_earlier_start_is_sent_again() {
        const COUNT: u64 = 1_500;
        let (_acknowledge, acknowledged) = watch::channel(true);
        let (broker, proxies, _agents) = world(2, acknowledged).await;
        let sent = Arc::new(AtomicU64::new(0));
        let readings = (1..=COUNT).map(|number| Ok(reading(number, (number % 2) as usize)));
        let before = NumberSet::from_ranges(&[(1, 500)]);
        let replay =
            replay(readings, broker.address_v4(), Arc::clone(&proxies), before, None, Arc::clone(&sent));
        replay.await.unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), COUNT);
        let mut all = NumberSet::new();
        let mut publishes = 0;
        for proxy in proxies.iter() {
            all.extend(&proxy.acknowledged_numbers());
            publishes += proxy.counts().publishes;
        }
        assert_eq!(all.ranges(), [(501, COUNT)]);
        assert_eq!(publishes, COUNT - 500);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_is_outstanding_than_allowed_however_slow_the_agent() {
        const LIMIT: usize = 70;
        let (acknowledge, acknowledged) = watch::channel(false);
        let (broker, proxies, _agents) = world(1, acknowledged).await;
        let sent = Arc::new(AtomicU64::new(0));
        let readings = (1..=200).map(|number| Ok(reading(number, 0)));
        let publisher = Publisher::connect(broker.address_v4(), &proxies, LIMIT);
        let replay = publish_all(readings, publisher, NumberSet::new(), None, Arc::clone(&sent));
        let replay = tokio::spawn(replay);
        let mut changes = proxies[0].changes();
        changes.wait_for(|counts| counts.publishes == LIMIT as u64).await.unwrap();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(sent.load(Ordering::Relaxed), LIMIT as u64);
        assert_eq!(proxies[0].counts().publishes, LIMIT as u64);
        acknowledge.send_replace(true);
        replay.await.unwrap().unwrap();
        assert_eq!(proxies[0].acknowledged(), 200);
    }

    #[tokio::test]
    async fn data_that_cannot_be_read_end_the_replay_with_their_error() {
        let broker = EmbeddedBroker::start(LOCAL).await.unwrap();
        let proxy = Proxy::start(LOCAL, &broker.address_v4().to_string(), data::number_of).await.unwrap();
        let readings = [Err(anyhow::anyhow!("line 7 is torn"))].into_iter();
        let sent = Arc::new(AtomicU64::new(0));
        let replay =
            replay(readings, broker.address_v4(), Arc::new(vec![proxy]), NumberSet::new(), None, sent);
        assert_eq!(replay.await.unwrap_err().to_string(), "line 7 is torn");
    }
}
