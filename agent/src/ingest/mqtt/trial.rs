//! Edge: a connection that only asks what a broker would grant, on a session that ends with it.

use std::time::Duration;

use rumqttc::{AsyncClient, MqttOptions, QoS, SubscribeFilter, TlsConfiguration, Transport, mqttbytes, v5};

use super::protocol::{Cause, Failure};
use super::{Credentials, Filter, PATIENCE};
use crate::config::{Broker, MqttVersion};

/// What a broker answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The protocol that it speaks.
    pub protocol: MqttVersion,
    /// Each filter with the QoS that it grants, or why it refuses; nothing of it lasts.
    pub granted: Vec<(Filter, Result<u8, String>)>,
}

/// Connects as the agent would, but under a name of its own, because one name is one connection; subscribes, and leaves.
/// MQTT 5 is tried first where it is wanted.
///
/// # Errors
/// Why the broker can't be used, in its own words.
pub async fn ask(broker: &Broker, filters: &[Filter]) -> Result<Trial, String> {
    let name = format!("{}-check-{:08x}", broker.client_id, fastrand::u32(..));
    if broker.version == MqttVersion::V5 {
        let granted = within(Box::pin(ask_v5(broker, &name, filters))).await;
        match granted {
            Ok(granted) => return Ok(named(MqttVersion::V5, filters, granted)),
            // The agent would try 3.1.1 now, and so do we.
            Err(Failure { text, cause: Cause::ProtocolRefused | Cause::NoAnswer }) => {
                let asked = within(Box::pin(ask_v4(broker, &name, filters)));
                let granted = asked.await.map_err(|_| text)?;
                return Ok(named(MqttVersion::V311, filters, granted));
            }
            Err(failure) => return Err(failure.text),
        }
    }
    let granted = within(Box::pin(ask_v4(broker, &name, filters))).await.map_err(|failure| failure.text)?;
    Ok(named(MqttVersion::V311, filters, granted))
}

type Granted = Vec<Result<u8, String>>;
type Asked<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Granted, Failure>> + Send + 'a>>;

async fn within(asked: Asked<'_>) -> Result<Granted, Failure> {
    let limit = Duration::from_secs(PATIENCE);
    let text = || format!("it doesn't answer within {PATIENCE} s");
    let silent = |_| Err(Failure { text: text(), cause: Cause::NoAnswer });
    tokio::time::timeout(limit, asked).await.unwrap_or_else(silent)
}

fn named(protocol: MqttVersion, filters: &[Filter], granted: Granted) -> Trial {
    let missing = || Err("the broker's answer says nothing about it".to_owned());
    let mut granted = granted.into_iter();
    let granted = filters.iter().map(|f| (f.clone(), granted.next().unwrap_or_else(missing))).collect();
    Trial { protocol, granted }
}

const fn qos(qos: u8) -> QoS {
    if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

async fn ask_v4(broker: &Broker, name: &str, filters: &[Filter]) -> Result<Granted, Failure> {
    use mqttbytes::v4::{Packet, SubscribeReasonCode};
    let credentials = Credentials::load(broker).map_err(|e| Failure::other(e.to_string()))?;
    let mut options = MqttOptions::new(name, &broker.host, broker.port);
    options.set_clean_session(true).set_keep_alive(super::keep_alive(broker));
    // What is retained may be of any size.
    options.set_max_packet_size(super::LARGEST_PACKET, 1 << 20);
    if let Some((user, password)) = credentials.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = credentials.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let (client, mut events) = AsyncClient::new(options, 64);
    let wanted = filters.iter().map(|f| SubscribeFilter::new(f.path.clone(), qos(f.qos)));
    client.try_subscribe_many(wanted).map_err(|e| Failure::other(e.to_string()))?;
    loop {
        let event = events
            .poll()
            .await
            .map_err(|e| Failure { text: e.to_string(), cause: super::v4::failure(e).cause })?;
        if let rumqttc::Event::Incoming(Packet::SubAck(ack)) = event {
            let granted = ack.return_codes.into_iter().map(|code| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                SubscribeReasonCode::Failure => Err("it gives no reason".to_owned()),
            });
            return Ok(granted.collect());
        }
    }
}

async fn ask_v5(broker: &Broker, name: &str, filters: &[Filter]) -> Result<Granted, Failure> {
    use v5::mqttbytes::QoS as Qos5;
    use v5::mqttbytes::v5::{Filter as Filter5, Packet, SubscribeReasonCode};
    let credentials = Credentials::load(broker).map_err(|e| Failure::other(e.to_string()))?;
    let mut options = v5::MqttOptions::new(name, &broker.host, broker.port);
    options
        .set_clean_start(true)
        .set_keep_alive(super::keep_alive(broker))
        .set_connection_timeout(PATIENCE)
        .set_outgoing_inflight_upper_limit(16);
    if let Some((user, password)) = credentials.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = credentials.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let (client, mut events) = v5::AsyncClient::new(options, 64);
    let level = |q: u8| if q == 0 { Qos5::AtMostOnce } else { Qos5::AtLeastOnce };
    let wanted = filters.iter().map(|f| Filter5::new(f.path.clone(), level(f.qos)));
    client.try_subscribe_many(wanted).map_err(|e| Failure::other(e.to_string()))?;
    loop {
        let event = events
            .poll()
            .await
            .map_err(|e| Failure { text: e.to_string(), cause: super::v5::failure(e).cause })?;
        if let v5::Event::Incoming(Packet::SubAck(ack)) = event {
            let granted = ack.return_codes.into_iter().map(|code| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                refused => Err(format!("{refused:?}")),
            });
            return Ok(granted.collect());
        }
    }
}
