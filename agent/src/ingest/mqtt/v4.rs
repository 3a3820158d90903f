//! MQTT 3.1.1 through the library's event loop. A batch of acknowledgements leaves in one write.

use std::time::Duration;

use rumqttc::mqttbytes::v4::{Packet, PubAck, PubRec, Publish, SubscribeReasonCode};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing,
    QoS, StateError, SubscribeFilter, TlsConfiguration, Transport,
};

use super::protocol::{Cause, Failure, reason};
use super::{Credentials, Filter, Incoming, PATIENCE, Settings, Wanted};

/// One connection.
pub(super) struct Link {
    client: AsyncClient,
    events: EventLoop,
}

impl Link {
    pub(super) fn open(settings: &Settings, credentials: Credentials) -> Self {
        let broker = &settings.connection;
        let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
        options
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_keep_alive(super::keep_alive(broker))
            .set_max_packet_size(super::LARGEST_PACKET, super::LARGEST_PACKET)
            .set_inflight(16);
        if let Some((name, password)) = credentials.login {
            options.set_credentials(name, password);
        }
        if let Some(tls) = credentials.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        let (client, mut events) = AsyncClient::new(options, 1024);
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(PATIENCE).set_tcp_nodelay(true);
        events.set_network_options(network);
        Self { client, events }
    }

    /// The next thing that happens. Polling may be cancelled by a command: the library's own writes (SUBSCRIBE, pings)
    /// never fill its buffer, so none is pending then.
    pub(super) async fn next(&mut self, wanted: &mut Wanted) -> Result<Incoming, Failure> {
        loop {
            if wanted.calls() {
                return Ok(Incoming::Nothing);
            }
            self.acknowledge(wanted).await?;
            let look_at = wanted.look_at;
            let look = async {
                match look_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.events.poll() => return incoming(event.map_err(failure)?),
                () = wanted.receive() => {}
                () = look => return Ok(Incoming::Nothing),
            }
        }
    }

    /// Writes all acknowledgements, then publishes of our own, and flushes once.
    async fn acknowledge(&mut self, wanted: &mut Wanted) -> Result<(), Failure> {
        if wanted.acks.is_empty() && wanted.outgoing.is_empty() {
            return Ok(());
        }
        let Some(network) = self.events.network.as_mut() else {
            wanted.acks.clear();
            wanted.outgoing.clear();
            return Ok(());
        };
        let count = wanted.acks.len() as u64;
        let write = async {
            for ack in wanted.acks.drain(..) {
                let packet = match ack.qos {
                    2 => Packet::PubRec(PubRec::new(ack.packet_id)),
                    _ => Packet::PubAck(PubAck::new(ack.packet_id)),
                };
                network.write(packet).await?;
            }
            for message in wanted.outgoing.drain(..) {
                let publish = Publish::new(message.topic, QoS::AtMostOnce, message.payload);
                network.write(Packet::Publish(publish)).await?;
            }
            network.flush().await
        };
        match tokio::time::timeout(Duration::from_secs(PATIENCE), write).await {
            Ok(Ok(())) => wanted.written(count),
            Ok(Err(error)) => return Err(Failure::other(error.to_string())),
            Err(_) => return Err(Failure::other("the broker takes no acknowledgements: timed out")),
        }
        Ok(())
    }

    pub(super) fn subscribe(&mut self, filters: &[Filter], gone: &[String]) -> Result<(), Failure> {
        let full = |e: rumqttc::ClientError| Failure::other(e.to_string());
        for path in gone {
            self.client.try_unsubscribe(path).map_err(full)?;
        }
        let filter = |f: &Filter| SubscribeFilter::new(f.path.clone(), qos(f.qos));
        self.client.try_subscribe_many(filters.iter().map(filter)).map_err(full)
    }

    pub(super) fn publish(&mut self, topic: &str, payload: String) -> Result<(), Failure> {
        let full = |e: rumqttc::ClientError| Failure::other(e.to_string());
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).map_err(full)
    }

    pub(super) async fn finish(&mut self, wanted: &mut Wanted) {
        if self.acknowledge(wanted).await.is_err() || self.client.try_disconnect().is_err() {
            return;
        }
        while let Ok(event) = self.events.poll().await {
            if matches!(event, Event::Outgoing(Outgoing::Disconnect)) {
                return;
            }
        }
    }
}

fn incoming(event: Event) -> Result<Incoming, Failure> {
    Ok(match event {
        Event::Incoming(Packet::ConnAck(ack)) => Incoming::Connected { session_present: ack.session_present },
        Event::Incoming(Packet::Publish(p)) => Incoming::Publish {
            packet_id: p.pkid,
            qos: p.qos as u8,
            dup: p.dup,
            retain: p.retain,
            topic: p.topic,
            payload: p.payload,
        },
        Event::Incoming(Packet::SubAck(ack)) => {
            let code = |code: SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                SubscribeReasonCode::Failure => Err("refused by the broker".to_owned()),
            };
            Incoming::Subscribed(ack.return_codes.into_iter().map(code).collect())
        }
        Event::Incoming(_) | Event::Outgoing(_) => Incoming::Nothing,
    })
}

pub(super) fn failure(error: ConnectionError) -> Failure {
    let cause = match &error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::RefusedProtocolVersion) => {
            Cause::ProtocolRefused
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => Cause::Silent,
        ConnectionError::MqttState(_) | ConnectionError::NotConnAck(_) => Cause::NoAnswer,
        _ => Cause::Other,
    };
    let text = match &error {
        ConnectionError::ConnectionRefused(code) => refused(*code).to_owned(),
        _ => error.to_string(),
    };
    Failure { text, cause }
}

/// What a refusal means, and what to do about it.
const fn refused(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::RefusedProtocolVersion => reason::PROTOCOL,
        ConnectReturnCode::BadClientId => reason::CLIENT_ID,
        ConnectReturnCode::ServiceUnavailable => reason::UNAVAILABLE,
        ConnectReturnCode::BadUserNamePassword => reason::LOGIN,
        // Mosquitto says this of a wrong password too.
        ConnectReturnCode::NotAuthorized => reason::NOT_AUTHORIZED,
        ConnectReturnCode::Success => "refused for no reason",
    }
}

fn qos(qos: u8) -> QoS {
    if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}
