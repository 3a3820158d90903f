//! MQTT 5 through the library's event loop. It keeps its socket to itself, so each acknowledgement is its own write.

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter as V5Filter, Packet, Publish,
    RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};

use super::protocol::{Cause, Failure, reason};
use super::{Credentials, Filter, Incoming, PATIENCE, Settings, Wanted};

/// One connection.
pub(super) struct Link {
    client: AsyncClient,
    events: EventLoop,
}

impl Link {
    pub(super) fn open(settings: &Settings, credentials: Credentials, window: u16) -> Self {
        let broker = &settings.connection;
        let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
        let expiry = u32::try_from(broker.session_expiry / 1_000_000).unwrap_or(u32::MAX);
        options
            .set_clean_start(false)
            .set_manual_acks(true)
            .set_keep_alive(super::keep_alive(broker))
            .set_connection_timeout(PATIENCE)
            .set_connect_properties(ConnectProperties::new())
            .set_session_expiry_interval(Some(expiry.max(1)))
            .set_receive_maximum(Some(window.max(1)))
            .set_max_packet_size(Some(super::packet_limit(settings.payload_limit)))
            // Without it the library sets aside room for 65,535 publishes of ours.
            .set_outgoing_inflight_upper_limit(16);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        if let Some((name, password)) = credentials.login {
            options.set_credentials(name, password);
        }
        if let Some(tls) = credentials.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        let (client, events) = AsyncClient::new(options, 1024);
        Self { client, events }
    }

    /// The next thing that happens. Acknowledgements go through the library's queue while one poll goes on: a poll that
    /// was cancelled could have taken one from the queue without writing it.
    pub(super) async fn next(&mut self, wanted: &mut Wanted) -> Result<Incoming, Failure> {
        let Self { client, events } = self;
        let poll = events.poll();
        tokio::pin!(poll);
        loop {
            if wanted.calls() {
                return Ok(Incoming::Nothing);
            }
            acknowledge(client, wanted);
            tokio::select! {
                event = &mut poll => return incoming(event.map_err(failure)?, wanted),
                () = wanted.receive() => {}
            }
        }
    }

    pub(super) fn subscribe(&mut self, filters: &[Filter], gone: &[String]) -> Result<(), Failure> {
        let full = |e: ClientError| Failure::other(e.to_string());
        for path in gone {
            self.client.try_unsubscribe(path).map_err(full)?;
        }
        let filter = |f: &Filter| V5Filter {
            retain_forward_rule: RetainForwardRule::OnNewSubscribe,
            ..V5Filter::new(f.path.clone(), qos(f.qos))
        };
        self.client.try_subscribe_many(filters.iter().map(filter)).map_err(full)
    }

    pub(super) fn publish(&mut self, topic: &str, payload: String) -> Result<(), Failure> {
        let full = |e: ClientError| Failure::other(e.to_string());
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).map_err(full)
    }

    pub(super) async fn finish(&mut self, wanted: &mut Wanted) {
        let mut said = false;
        loop {
            acknowledge(&self.client, wanted);
            if !said && wanted.acks.is_empty() {
                said = self.client.try_disconnect().is_ok();
            }
            match self.events.poll().await {
                Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_) => return,
                Ok(event) => {
                    let _ = incoming(event, wanted);
                }
            }
        }
    }
}

/// Queues what there is room for; the rest follows when the event loop has written some.
fn acknowledge(client: &AsyncClient, wanted: &mut Wanted) {
    while let Some(ack) = wanted.acks.front() {
        let qos = if ack.qos == 2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        let publish = Publish { pkid: ack.packet_id, qos, ..Publish::default() };
        if client.try_ack(&publish).is_err() {
            return;
        }
        wanted.acks.pop_front();
    }
    while let Some(message) = wanted.outgoing.front() {
        let sent = client.try_publish(&message.topic, QoS::AtMostOnce, false, message.payload.clone());
        if sent.is_err() {
            return;
        }
        wanted.outgoing.pop_front();
    }
}

fn incoming(event: Event, wanted: &Wanted) -> Result<Incoming, Failure> {
    Ok(match event {
        Event::Incoming(Packet::ConnAck(ack)) => Incoming::Connected { session_present: ack.session_present },
        Event::Incoming(Packet::Publish(p)) => Incoming::Publish {
            packet_id: p.pkid,
            qos: p.qos as u8,
            dup: p.dup,
            retain: p.retain,
            topic: String::from_utf8_lossy(&p.topic).into_owned(),
            payload: p.payload,
        },
        Event::Incoming(Packet::SubAck(ack)) => {
            let code = |code: SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                refused => Err(format!("refused by the broker: {refused:?}")),
            };
            Incoming::Subscribed(ack.return_codes.into_iter().map(code).collect())
        }
        Event::Outgoing(Outgoing::PubAck(_) | Outgoing::PubRec(_)) => {
            wanted.written(1);
            Incoming::Nothing
        }
        Event::Incoming(_) | Event::Outgoing(_) => Incoming::Nothing,
    })
}

pub(super) fn failure(error: ConnectionError) -> Failure {
    use ConnectReturnCode::{ProtocolError, RefusedProtocolVersion, UnsupportedProtocolVersion};
    let cause = match &error {
        ConnectionError::ConnectionRefused(
            RefusedProtocolVersion | UnsupportedProtocolVersion | ProtocolError,
        ) => Cause::ProtocolRefused,
        ConnectionError::MqttState(StateError::ConnFail { .. }) => Cause::Other,
        ConnectionError::MqttState(StateError::AwaitPingResp) => Cause::Silent,
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => Cause::TakenOver,
        ConnectionError::MqttState(StateError::ServerDisconnect { .. }) => Cause::Other,
        ConnectionError::MqttState(_) | ConnectionError::NotConnAck(_) => Cause::NoAnswer,
        _ => Cause::Other,
    };
    let text = match &error {
        ConnectionError::ConnectionRefused(code)
        | ConnectionError::MqttState(StateError::ConnFail { reason: code }) => refused(*code),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let said = reason_string.as_ref().map(|said| format!(": {said}")).unwrap_or_default();
            format!("{}{said}", disconnected(*reason_code))
        }
        _ => error.to_string(),
    };
    Failure { text, cause }
}

/// What a refusal means, and what to do about it.
fn refused(code: ConnectReturnCode) -> String {
    use ConnectReturnCode as Code;
    match code {
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => reason::PROTOCOL.into(),
        Code::BadClientId | Code::ClientIdentifierNotValid => reason::CLIENT_ID.into(),
        Code::ServiceUnavailable | Code::ServerUnavailable | Code::ServerBusy => reason::UNAVAILABLE.into(),
        Code::BadUserNamePassword => reason::LOGIN.into(),
        Code::NotAuthorized => reason::NOT_AUTHORIZED.into(),
        Code::Banned => "the broker has banned this client".into(),
        Code::PacketTooLarge => "the broker takes no packet of this size".into(),
        Code::QuotaExceeded | Code::ConnectionRateExceeded => {
            format!("the broker has had too much of this client ({code:?}); it is tried again later")
        }
        Code::UseAnotherServer | Code::ServerMoved => {
            format!("the broker says that it is elsewhere now ({code:?}): change `url`")
        }
        other => format!("the broker refuses the connection: {other:?}"),
    }
}

/// Why the broker ended the connection.
fn disconnected(code: DisconnectReasonCode) -> String {
    use DisconnectReasonCode as Code;
    match code {
        Code::SessionTakenOver => reason::TAKEN_OVER.into(),
        Code::ServerShuttingDown => "the broker is shutting down".into(),
        Code::KeepAliveTimeout => "the broker heard nothing of us for too long".into(),
        Code::NotAuthorized => reason::NOT_AUTHORIZED.into(),
        Code::AdministrativeAction => "the broker's operator ended the connection".into(),
        Code::ServerBusy | Code::MessageRateTooHigh | Code::QuotaExceeded | Code::ConnectionRateExceeded => {
            format!("the broker has had too much of this client ({code:?}); it is tried again later")
        }
        Code::UseAnotherServer | Code::ServerMoved => {
            format!("the broker says that it is elsewhere now ({code:?}): change `url`")
        }
        other => format!("the broker ended the connection: {other:?}"),
    }
}

fn qos(qos: u8) -> QoS {
    if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}
