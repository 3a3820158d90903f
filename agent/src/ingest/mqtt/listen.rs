//! Edge: a connection that only listens for a while, on a session that the broker forgets when it ends.

use std::time::Duration;

use rumqttc::mqttbytes::v4::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, QoS, SubscribeFilter, TlsConfiguration, Transport};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::{Credentials, PATIENCE};
use crate::config::Broker;

/// Payloads beyond this end the connection.
const LARGEST: usize = 16 << 20;

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Whether it is a retained message.
    pub retain: bool,
}

/// Subscribes `filters` at QoS 0 with MQTT 3.1.1, which each broker knows, and passes on what comes within `time` of the
/// subscription, each with `place`. The error says why nothing could come.
pub async fn listen(
    broker: &Broker,
    filters: &[String],
    time: Duration,
    place: usize,
    heard: Sender<(usize, Heard)>,
) -> Result<(), String> {
    let credentials = Credentials::load(broker).map_err(|e| e.to_string())?;
    let name = format!("{}-topics-{:08x}", broker.client_id, fastrand::u32(..));
    let mut options = MqttOptions::new(name, &broker.host, broker.port);
    options
        .set_clean_session(true)
        .set_keep_alive(super::keep_alive(broker))
        .set_max_packet_size(LARGEST, LARGEST);
    if let Some((name, password)) = credentials.login {
        options.set_credentials(name, password);
    }
    if let Some(tls) = credentials.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let (client, mut events) = AsyncClient::new(options, 64);
    let filters = filters.iter().map(|path| SubscribeFilter::new(path.clone(), QoS::AtMostOnce));
    client.try_subscribe_many(filters).map_err(|e| e.to_string())?;
    let mut end = Instant::now() + Duration::from_secs(PATIENCE);
    let mut subscribed = false;
    loop {
        let event = match tokio::time::timeout_at(end, events.poll()).await {
            Err(_) if subscribed => return Ok(()),
            Err(_) => return Err("it doesn't answer".into()),
            Ok(Err(e)) => return Err(e.to_string()),
            Ok(Ok(event)) => event,
        };
        match event {
            Event::Incoming(Packet::SubAck(ack)) if !subscribed => {
                use rumqttc::mqttbytes::v4::SubscribeReasonCode::Failure;
                if ack.return_codes.iter().all(|code| *code == Failure) {
                    return Err(
                        "it refuses the subscription; name topics that this user may read with --filter"
                            .into(),
                    );
                }
                (subscribed, end) = (true, Instant::now() + time);
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let message =
                    Heard { topic: publish.topic, payload: publish.payload.to_vec(), retain: publish.retain };
                if heard.send((place, message)).await.is_err() {
                    return Ok(());
                }
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
    }
}
