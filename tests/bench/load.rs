//! A publisher at an even rate: messages of some hundred bytes, QoS 1, of as many series as wanted.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::time::{Instant, MissedTickBehavior, interval};

const IN_FLIGHT: u16 = 1000;
const TICK: Duration = Duration::from_millis(10);

/// What a device measures.
const METRICS: [&str; 10] = [
    "temperature",
    "humidity",
    "pressure",
    "voltage",
    "current",
    "power",
    "energy",
    "flow",
    "level",
    "speed",
];

/// Device and metric of series `number`, from 0: ten to a device.
pub(crate) fn series(number: u64) -> (String, &'static str) {
    let most = METRICS.len() as u64;
    let metric = METRICS.get((number % most) as usize).copied().unwrap_or_default();
    (format!("device-{}", number / most), metric)
}

/// Topic and payload of message `number`, from 0, which is of one of so many series in turn. `began` is in milliseconds since
/// 1970, `rate` in messages a second.
pub(crate) fn message(number: u64, of: u64, rate: u64, began: i64) -> (String, Vec<u8>) {
    let millis = began.saturating_add(i64::try_from(number.saturating_mul(1000) / rate.max(1)).unwrap_or(0));
    let at = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    // A slow wave with noise in its last digits, as of a thermometer.
    let wave = (number as f64 / 500.0).sin() * 5.0 + 20.0;
    let noise = f64::from(u32::try_from(number.wrapping_mul(0x9E37_79B9) >> 16 & 0xff).unwrap_or(0)) / 256.0;
    let value = ((wave + noise) * 100.0).round() / 100.0;
    let payload = format!(
        r#"{{"ts":"{at}","value":{value},"n":{number},"state":"ok","battery":{},"firmware":"2.4.1","rssi":-{}}}"#,
        90 + number % 10,
        50 + number % 40
    );
    let (device, metric) = series(number % of);
    (format!("sensors/{device}/{metric}"), payload.into_bytes())
}

/// What was offered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offered {
    pub(crate) messages: u64,
    pub(crate) payload_bytes: u64,
}

/// Publishes at `rate` for so long, `most` messages at most, and returns when the broker has taken each.
pub(crate) async fn offer(
    broker: SocketAddr,
    series: u64,
    rate: u64,
    most: u64,
    lasting: Duration,
) -> anyhow::Result<Offered> {
    let mut options = MqttOptions::new("bench-publisher", broker.ip().to_string(), broker.port());
    options.set_inflight(IN_FLIGHT);
    let (client, mut events) = AsyncClient::new(options, usize::from(IN_FLIGHT) * 2);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (start, began) = (Instant::now(), jiff::Timestamp::now().as_millisecond());
    let (mut offered, mut taken) = (Offered::default(), 0);
    loop {
        let over = start.elapsed() >= lasting || offered.messages >= most;
        if over && taken >= offered.messages {
            break;
        }
        tokio::select! {
            _ = ticks.tick(), if !over => {
                let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
                while offered.messages < due.min(most) {
                    let (topic, payload) = message(offered.messages, series, rate, began);
                    let bytes = payload.len() as u64;
                    if client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_err() {
                        break; // the broker is slower than that
                    }
                    offered.messages += 1;
                    offered.payload_bytes += bytes;
                }
            }
            event = events.poll() => {
                taken += u64::from(matches!(event.context("the publisher's connection")?, Event::Incoming(Packet::PubAck(_))));
            }
        }
    }
    Ok(offered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_own_times_at_the_rate_and_go_round_the_series() {
        let (first, next) = (message(0, 2, 100, 0), message(1, 2, 100, 0));
        assert_eq!(
            (first.0.as_str(), next.0.as_str()),
            ("sensors/device-0/temperature", "sensors/device-0/humidity")
        );
        assert_eq!(series(9_999), ("device-999".to_owned(), "speed"));
        let ts = |payload: &[u8]| serde_json::from_slice::<serde_json::Value>(payload).unwrap()["ts"].clone();
        assert_eq!(ts(&next.1), "1970-01-01T00:00:00.01Z");
        assert!((100..=300).contains(&first.1.len()), "{}", first.1.len());
    }
}
