//! Publishes the readings at their pace, never more than the embedded broker is sure to hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tributary_tests::mqtt::broker::MAX_PAYLOAD;
use tributary_tests::mqtt::{NumberSet, Proxy};

use crate::data::Reading;
use crate::publisher::{Publisher, Upstream};

/// Messages published and not yet acknowledged by an agent, over all gateways.
const MAX_OUTSTANDING: usize = 5_000;
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
    upstream: Upstream,
    proxies: Arc<Vec<Proxy>>,
    before: NumberSet,
    rate: Option<f64>,
    sent: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let publisher = Publisher::connect(upstream, &proxies, MAX_OUTSTANDING);
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
        publisher.wait_for_room(publisher.max_outstanding()).await?;
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
    use std::net::SocketAddr;

    use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};
    use tokio::sync::watch;
    use tokio::task::JoinSet;
    use tributary_tests::mqtt::EmbeddedBroker;

    use super::*;
    use crate::data;

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn reading(number: u64, gateway: usize) -> Reading {
        let topic = format!("{}/sensors/a/t", data::gateway_name(gateway));
        Reading { number, gateway, topic, payload: format!(r#"{{"ts":"t","value":1,"n":{number}}}"#) }
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

    fn upstream(broker: &EmbeddedBroker) -> Upstream {
        Upstream::for_ever(broker.address_v4())
    }

    async fn agent(address: SocketAddr, gateway: usize, mut acknowledge: watch::Receiver<bool>) {
        let name = data::gateway_name(gateway);
        let mut options = MqttOptions::new(name.as_str(), address.ip().to_string(), address.port());
        options.set_clean_session(false).set_manual_acks(true);
        let (client, mut events) = AsyncClient::new(options, 256);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
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
            replay(readings, upstream(&broker), Arc::clone(&proxies), before, None, Arc::clone(&sent));
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
        let publisher = Publisher::connect(upstream(&broker), &proxies, LIMIT);
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
        let replay = replay(readings, upstream(&broker), Arc::new(vec![proxy]), NumberSet::new(), None, sent);
        assert_eq!(replay.await.unwrap_err().to_string(), "line 7 is torn");
    }
}
