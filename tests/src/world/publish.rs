//! Numbered messages with their own time, and what becomes of them until they are acknowledged.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};

use crate::mqtt::Proxy;

/// When the first message's reading was taken: 2026-03-01T00:00:00Z, in milliseconds.
const BEGIN: i64 = 1_772_323_200_000;
/// Milliseconds between readings: with five devices, a window of a minute holds some dozens of each.
const STEP: i64 = 250;
const DEVICES: u64 = 5;
/// Messages on the way to the broker at a time.
const IN_FLIGHT: u16 = 50;
/// Bytes of the largest message.
const LARGEST: usize = 64 << 20;
/// After so long without an acknowledgement, what the broker has lost is published again.
const LOST_AFTER: Duration = Duration::from_secs(4);

/// Topic and payload.
pub type Message = (String, Vec<u8>);

/// The message with this number.
#[must_use]
pub fn message(number: u64) -> Message {
    let millis = BEGIN.saturating_add(i64::try_from(number).unwrap_or(i64::MAX).saturating_mul(STEP));
    let at = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    let payload = format!(r#"{{"ts":"{at}","value":{}.5,"n":{number}}}"#, number % 100);
    (format!("sensors/device-{}/temperature", number % DEVICES), payload.into_bytes())
}

/// The message with this number and a tag `pad` of `letters` letters that don't compress: what makes segments great.
#[must_use]
pub fn padded(number: u64, letters: usize) -> Message {
    let (topic, mut payload) = message(number);
    let mut random = fastrand::Rng::with_seed(number);
    let pad: String = (0..letters).map(|_| random.alphanumeric()).collect();
    payload.pop();
    payload.extend_from_slice(format!(",\"pad\":\"{pad}\"}}").as_bytes());
    (topic, payload)
}

/// The message with this number, without a time of its own.
#[must_use]
pub fn timeless(number: u64) -> Message {
    let payload = format!(r#"{{"value":{}.5,"n":{number}}}"#, number % 100);
    (format!("plain/device-{}/temperature", number % DEVICES), payload.into_bytes())
}

/// The number of a message; `None` for one that isn't ours.
#[must_use]
pub fn number_of(_topic: &str, payload: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(payload).ok()?.get("n")?.as_u64()
}

/// Publishes all `messages` in order at QoS 1 and returns when the broker has taken each.
///
/// # Errors
/// When the connection breaks: what the broker then has isn't known.
pub async fn publish(
    broker: SocketAddr,
    messages: impl Iterator<Item = Message> + Send,
) -> anyhow::Result<()> {
    publish_as(broker, QoS::AtLeastOnce, false, messages).await
}

/// The same at another quality of service, or retained. At QoS 0 it returns when each is written to the connection.
///
/// # Errors
/// As [`publish`].
pub async fn publish_as(
    broker: SocketAddr,
    qos: QoS,
    retain: bool,
    messages: impl Iterator<Item = Message> + Send,
) -> anyhow::Result<()> {
    // A name of its own: two publishers of one test must not throw each other out.
    let name = format!("publisher-{:016x}", fastrand::u64(..));
    let mut options = MqttOptions::new(name, broker.ip().to_string(), broker.port());
    options.set_inflight(IN_FLIGHT).set_max_packet_size(LARGEST, LARGEST);
    let (client, mut events) = AsyncClient::new(options, usize::from(IN_FLIGHT) * 4);
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    let mut messages = messages.peekable();
    let (mut given, mut taken) = (0_u64, 0_u64);
    loop {
        while let Some((topic, payload)) = messages.peek() {
            if client.try_publish(topic, qos, retain, payload.clone()).is_err() {
                break; // the queue is full
            }
            messages.next();
            given += 1;
        }
        if taken == given && messages.peek().is_none() {
            break;
        }
        let event = events.poll().await.context("the publisher's connection")?;
        taken += u64::from(match event {
            Event::Incoming(Packet::PubAck(_)) => true,
            Event::Outgoing(Outgoing::Publish(_)) => qos == QoS::AtMostOnce,
            _ => false,
        });
    }
    client.try_disconnect()?;
    while !matches!(events.poll().await, Err(_) | Ok(Event::Outgoing(Outgoing::Disconnect))) {}
    Ok(())
}

/// Waits until `count` distinct numbers are acknowledged. Numbers up to `count` that the agent was given no more, though
/// it is subscribed and has answered all it was given, were lost by the broker (rumqttd does that when a stale
/// acknowledgement reaches it) and are published again, byte for byte, so that a copy is known as one.
pub(super) async fn acknowledged(
    proxy: &Proxy,
    broker: SocketAddr,
    count: u64,
    within: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    let mut changes = proxy.changes();
    let mut moved = Instant::now();
    let mut before = changes.borrow_and_update().acknowledged;
    while proxy.acknowledged() < count {
        if Instant::now() > deadline {
            bail!("{} of {count} messages were acknowledged; {:?}", proxy.acknowledged(), proxy.counts());
        }
        let changed = tokio::time::timeout(Duration::from_millis(500), changes.changed()).await;
        let counts = *changes.borrow_and_update();
        if changed.is_ok() && counts.acknowledged != before {
            (before, moved) = (counts.acknowledged, Instant::now());
        }
        if moved.elapsed() > LOST_AFTER && counts.subscribed > 0 && counts.in_flight == 0 {
            let known = proxy.acknowledged_numbers();
            let lost: Vec<u64> = (1..=count).filter(|number| !known.contains(*number)).collect();
            publish(broker, lost.into_iter().map(message)).await?;
            moved = Instant::now();
        }
    }
    Ok(())
}
