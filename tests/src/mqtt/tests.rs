//! The broker, the proxy and its record, against scripted bytes and against rumqttc in both protocol versions.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet as Incoming, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod faults;

use super::numbers::NumberSet;
use super::proxy::Proxy;
use super::record::{Entry, Record, Sender};
use super::wire::{self, Packet, Version, WireError};
use super::{EmbeddedBroker, record};

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// A test that waits longer than this for something is broken; it is no timing promise.
const HANG: Duration = Duration::from_secs(60);

fn number(_topic: &str, payload: &[u8]) -> Option<u64> {
    std::str::from_utf8(payload).ok()?.parse().ok()
}

// --- bytes -----------------------------------------------------------------------------------------------------

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut rest = body.len();
    loop {
        let more = rest > 127;
        bytes.push((rest % 128) as u8 | if more { 0x80 } else { 0 });
        rest /= 128;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn text(value: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(value.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

fn connect(level: u8) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([level, 0, 0, 60]);
    if level == 5 {
        body.extend([5, 0x11, 0, 0, 1, 0]); // session expiry
    }
    body.extend(text("gw"));
    packet(0x10, &body)
}

fn publish(flags: u8, id: u16, properties: Option<&[u8]>, topic: &str, payload: &str) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 0b110 != 0 {
        body.extend(id.to_be_bytes());
    }
    if let Some(properties) = properties {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(payload.as_bytes());
    packet(0x30 | flags, &body)
}

fn puback(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

fn decode(bytes: &[u8], version: Version) -> Packet<'_> {
    let frame = wire::next_frame(bytes).unwrap().expect("a whole packet");
    assert_eq!(frame.len, bytes.len());
    wire::decode(frame, version).unwrap()
}

#[test]
fn a_packet_is_only_taken_when_it_is_whole() {
    let bytes = publish(0b0010, 7, None, "a/b", &"x".repeat(300));
    for end in 0..bytes.len() {
        assert_eq!(wire::next_frame(&bytes[..end]), Ok(None), "{end} bytes of {}", bytes.len());
    }
    assert!(wire::next_frame(&bytes).unwrap().is_some());
}

#[test]
fn a_publish_is_read_in_both_versions() {
    let v3 = publish(0b1011, 0x0102, None, "a/b", "42");
    let expected = Packet::Publish {
        dup: true,
        qos: 1,
        retain: true,
        topic: "a/b",
        alias: None,
        packet_id: Some(0x0102),
        properties: &[],
        payload: b"42",
    };
    assert_eq!(decode(&v3, Version::V3), expected);
    // Payload format, message expiry, user property, subscription id, then the alias.
    let properties = [0x01, 1, 0x02, 0, 0, 0, 9, 0x26, 0, 1, b'k', 0, 1, b'v', 0x0b, 0x80, 0x01, 0x23, 0, 5];
    let v5 = publish(0b0000, 0, Some(&properties), "", "42");
    let expected = Packet::Publish {
        dup: false,
        qos: 0,
        retain: false,
        topic: "",
        alias: Some(5),
        packet_id: None,
        properties: &properties,
        payload: b"42",
    };
    assert_eq!(decode(&v5, Version::V5), expected);
}

#[test]
fn a_connect_names_the_version_of_what_follows() {
    let v5 = connect(5);
    assert_eq!(
        decode(&v5, Version::V3),
        Packet::Connect { version: Version::V5, client_id: "gw", clean: false, receive_maximum: u16::MAX }
    );
    let v3 = connect(4);
    assert_eq!(
        decode(&v3, Version::V3),
        Packet::Connect { version: Version::V3, client_id: "gw", clean: false, receive_maximum: u16::MAX }
    );
}

#[test]
fn bytes_that_are_no_mqtt_are_refused_and_never_panic() {
    assert_eq!(wire::next_frame(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]), Err(WireError::Length));
    assert_eq!(wire::next_frame(&[0x30, 0xff, 0xff, 0xff, 0x7f]), Err(WireError::TooLarge(268_435_455)));
    let whole = publish(0b0010, 7, Some(&[0x23, 0, 5]), "a/b", "");
    for kind in 0..=255_u8 {
        for end in 2..whole.len() {
            let bytes = packet(kind, &whole[2..end]);
            let frame = wire::next_frame(&bytes).unwrap().unwrap();
            for version in [Version::V3, Version::V5] {
                // Any answer will do, as long as there is one.
                let _ = wire::decode(frame, version);
            }
        }
    }
    let unknown = publish(0, 0, Some(&[0x7e]), "a", "");
    let frame = wire::next_frame(&unknown).unwrap().unwrap();
    assert_eq!(wire::decode(frame, Version::V5), Err(WireError::Property(0x7e)));
}

// --- numbers ---------------------------------------------------------------------------------------------------

#[test]
fn a_number_set_counts_each_number_once_and_comes_back_from_its_ranges() {
    let mut set = NumberSet::new();
    for number in [0, 63, 64, 65_535, 65_536, 65_537, u64::MAX - 1, 64] {
        set.insert(number);
    }
    assert_eq!(set.len(), 7);
    assert_eq!(set.ranges(), [(0, 0), (63, 64), (65_535, 65_537), (u64::MAX - 1, u64::MAX - 1)]);
    assert_eq!(set.missing(62, 65), 2);
    let again = NumberSet::from_ranges(&set.ranges());
    assert_eq!(again.ranges(), set.ranges());
    assert_eq!(again.len(), set.len());
    assert!(again.contains(65_537) && !again.contains(65_538));
    let mut union = NumberSet::from_ranges(&[(60, 70)]);
    union.extend(&set);
    assert_eq!(union.len(), 7 + 11 - 2);
    assert_eq!(union.ranges()[1], (60, 70));
}

// --- record ----------------------------------------------------------------------------------------------------

fn note(record: &mut Record, connection: u64, from: Sender, bytes: &[u8]) -> Entry {
    let frame = wire::next_frame(bytes).unwrap().unwrap();
    record.note(connection, from, frame).unwrap().expect("a packet that is logged")
}

#[test]
fn a_puback_counts_only_for_a_publish_of_its_own_connection() {
    let mut record = Record::new(number);
    let first = record.open();
    note(&mut record, first, Sender::Broker, &publish(0b0010, 1, None, "t", "11"));
    record.close(first);
    let second = record.open();
    let stale = note(&mut record, second, Sender::Agent, &puback(1));
    assert_eq!(stale.number, None);
    assert_eq!((record.counts().acknowledged, record.counts().unmatched), (0, 1));
    note(&mut record, second, Sender::Broker, &publish(0b0010, 1, None, "t", "12"));
    let answer = note(&mut record, second, Sender::Agent, &puback(1));
    assert_eq!(answer.number, Some(12));
    assert!(record.acknowledged().contains(12) && !record.acknowledged().contains(11));
    note(&mut record, second, Sender::Agent, &puback(1));
    assert_eq!(record.counts().unmatched, 2, "an id is free again once it is answered");
}

#[test]
fn a_refusal_is_no_acknowledgement() {
    let mut record = Record::new(number);
    let connection = record.open();
    note(&mut record, connection, Sender::Agent, &connect(5));
    note(&mut record, connection, Sender::Broker, &publish(0b0010, 3, Some(&[]), "t", "5"));
    note(&mut record, connection, Sender::Agent, &packet(0x40, &[0, 3, 0x87, 0]));
    assert_eq!((record.counts().acknowledged, record.counts().refused), (0, 1));
}

#[test]
fn what_the_agent_publishes_and_what_the_broker_acknowledges_is_not_the_agents_acknowledgement() {
    let mut record = Record::new(number);
    let connection = record.open();
    note(&mut record, connection, Sender::Broker, &publish(0b0010, 9, None, "t", "1"));
    note(&mut record, connection, Sender::Agent, &publish(0b0010, 9, None, "t", "2"));
    note(&mut record, connection, Sender::Broker, &puback(9));
    assert_eq!((record.counts().acknowledged, record.counts().in_flight), (0, 1));
    assert_eq!(record.counts().publishes, 1);
}

#[test]
fn a_topic_alias_stands_for_the_topic_it_was_given() {
    fn by_topic(topic: &str, _payload: &[u8]) -> Option<u64> {
        topic.strip_prefix("n/")?.parse().ok()
    }
    let mut record = Record::new(by_topic as record::Extractor);
    let connection = record.open();
    note(&mut record, connection, Sender::Agent, &connect(5));
    let named = publish(0b0010, 1, Some(&[0x23, 0, 5]), "n/77", "");
    let bare = publish(0b0010, 2, Some(&[0x23, 0, 5]), "", "");
    assert_eq!(note(&mut record, connection, Sender::Broker, &named).number, Some(77));
    assert_eq!(note(&mut record, connection, Sender::Broker, &bare).number, Some(77));
}

// --- proxy, scripted -------------------------------------------------------------------------------------------

/// A proxy between a scripted agent and a scripted broker.
struct Script {
    listener: TcpListener,
    proxy: Proxy,
    log: tempfile::TempDir,
}

impl Script {
    async fn new() -> Self {
        let listener = TcpListener::bind(LOCAL).await.unwrap();
        let log = tempfile::tempdir().unwrap();
        let upstream = listener.local_addr().unwrap().to_string();
        let path = Some(log.path().join("packets.jsonl"));
        let proxy = Proxy::start_with_log(LOCAL, &upstream, number, path).await.unwrap();
        Self { listener, proxy, log }
    }

    /// A new connection: the agent's end and the broker's.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let mut agent = TcpStream::connect(self.proxy.address()).await.unwrap();
        let (mut broker, _) = self.listener.accept().await.unwrap();
        pass(&mut agent, &mut broker, &connect(4)).await;
        (agent, broker)
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.log.path().join("packets.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Sends `bytes` on `from`, in two pieces, and waits until exactly they have come out at `to`.
async fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    from.write_all(head).await.unwrap();
    from.flush().await.unwrap();
    from.write_all(tail).await.unwrap();
    let mut got = vec![0; bytes.len()];
    tokio::time::timeout(HANG, to.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, bytes);
}

#[tokio::test]
async fn a_redelivery_after_a_cut_is_recorded_with_its_dup_flag() {
    let script = Script::new().await;
    let (mut agent, mut broker) = script.connect().await;
    pass(&mut broker, &mut agent, &publish(0b0010, 4, None, "t", "1")).await;
    pass(&mut broker, &mut agent, &publish(0b0010, 5, None, "t", "2")).await;
    pass(&mut agent, &mut broker, &puback(4)).await;
    script.proxy.cut();
    let mut rest = Vec::new();
    // Closed or reset: both are an end.
    let _ = tokio::time::timeout(HANG, agent.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());

    let (mut agent, mut broker) = script.connect().await;
    pass(&mut broker, &mut agent, &publish(0b1010, 5, None, "t", "2")).await;
    assert_eq!(script.proxy.acknowledged(), 1);
    assert!(!script.proxy.is_acknowledged(2));
    pass(&mut agent, &mut broker, &puback(5)).await;
    assert!(script.proxy.is_acknowledged(1) && script.proxy.is_acknowledged(2));

    let counts = script.proxy.counts();
    assert_eq!((counts.connections, counts.publishes, counts.duplicates), (2, 3, 1));
    let publishes: Vec<_> = script
        .lines()
        .into_iter()
        .filter(|line| line["packet"] == "publish")
        .map(|line| {
            (line["connection"].as_u64(), line["id"].as_u64(), line["dup"].as_bool(), line["number"].as_u64())
        })
        .collect();
    assert_eq!(
        publishes,
        [
            (Some(1), Some(4), Some(false), Some(1)),
            (Some(1), Some(5), Some(false), Some(2)),
            (Some(2), Some(5), Some(true), Some(2)),
        ]
    );
}

#[tokio::test]
async fn an_acknowledgement_read_before_a_close_reaches_record_and_broker() {
    let script = Script::new().await;
    let (mut agent, mut broker) = script.connect().await;
    pass(&mut broker, &mut agent, &publish(0b0010, 4, None, "t", "1")).await;
    agent.write_all(&puback(4)).await.unwrap();
    drop(agent);
    let mut got = Vec::new();
    tokio::time::timeout(HANG, broker.read_to_end(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, puback(4));
    assert!(script.proxy.is_acknowledged(1));
}

#[tokio::test]
async fn a_stream_that_is_no_mqtt_is_cut_and_counted() {
    let script = Script::new().await;
    let mut agent = TcpStream::connect(script.proxy.address()).await.unwrap();
    let mut changes = script.proxy.changes();
    agent.write_all(&[0x30, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(HANG, agent.read_to_end(&mut rest)).await.unwrap();
    let seen = tokio::time::timeout(HANG, changes.wait_for(|counts| counts.unreadable == 1)).await;
    assert_eq!(seen.unwrap().unwrap().live, 0);
}

// --- proxy and broker, against a client that nobody here wrote -------------------------------------------------

fn options(id: &str, address: SocketAddr) -> MqttOptions {
    let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
    options.set_manual_acks(true).set_clean_session(false);
    options
}

/// Publishes the numbers as payloads and returns when the broker has acknowledged all.
async fn publish_numbers(broker: &EmbeddedBroker, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    let (client, mut events) = AsyncClient::new(options("publisher", broker.address_v4()), 8);
    let expected = numbers.clone().count();
    let topic = topic.to_owned();
    let sending = tokio::spawn(async move {
        for number in numbers {
            client.publish(topic.as_str(), QoS::AtLeastOnce, false, number.to_string()).await.unwrap();
        }
        client
    });
    let mut acknowledged = 0;
    while acknowledged < expected {
        let event = tokio::time::timeout(HANG, events.poll()).await.unwrap().unwrap();
        acknowledged += usize::from(matches!(event, Event::Incoming(Incoming::PubAck(_))));
    }
    sending.await.unwrap();
}

/// A subscriber that acknowledges the first `limit` messages it is given on this connection; ends when dropped.
fn subscribe_v4(address: SocketAddr, topic: &str, limit: usize) -> tokio::task::JoinHandle<()> {
    let (client, mut events) = AsyncClient::new(options("subscriber-4", address), 64);
    let topic = topic.to_owned();
    tokio::spawn(async move {
        client.subscribe(topic, QoS::AtLeastOnce).await.unwrap();
        let mut given = 0;
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Incoming::Publish(message)) = event {
                given += 1;
                if given <= limit {
                    client.try_ack(&message).unwrap();
                }
            }
        }
    })
}

fn subscribe_v5(address: SocketAddr, topic: &str, limit: usize) -> tokio::task::JoinHandle<()> {
    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let mut options = MqttOptions::new("subscriber-5", address.ip().to_string(), address.port());
    options.set_manual_acks(true).set_clean_start(false).set_session_expiry_interval(Some(3600));
    options.set_outgoing_inflight_upper_limit(16);
    let (client, mut events) = AsyncClient::new(options, 64);
    let topic = topic.to_owned();
    tokio::spawn(async move {
        client.subscribe(topic, QoS::AtLeastOnce).await.unwrap();
        let mut given = 0;
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(message)) = event {
                given += 1;
                if given <= limit {
                    client.try_ack(&message).unwrap();
                }
            }
        }
    })
}

type Subscribe = fn(SocketAddr, &str, usize) -> tokio::task::JoinHandle<()>;

/// Twenty messages, seven acknowledged, a cut, and then the rest.
async fn only_what_was_acknowledged_counts(
    subscribe: Subscribe,
    upstream: SocketAddr,
    broker: &EmbeddedBroker,
    topic: &str,
) {
    let proxy = Proxy::start(LOCAL, &upstream.to_string(), number).await.unwrap();
    let mut changes = proxy.changes();
    let subscriber = subscribe(proxy.address(), topic, 7);
    tokio::time::timeout(HANG, changes.wait_for(|counts| counts.subscribed == 1)).await.unwrap().unwrap();
    publish_numbers(broker, topic, 1..=20).await;
    let seen = changes.wait_for(|counts| counts.publishes == 20 && counts.answered == 7);
    let counts = *tokio::time::timeout(HANG, seen).await.unwrap().unwrap();
    assert_eq!((counts.acknowledged, counts.in_flight, counts.unmatched), (7, 13, 0));
    assert_eq!(proxy.acknowledged_numbers().ranges(), [(1, 7)]);

    proxy.cut();
    subscriber.await.unwrap();
    assert_eq!(proxy.acknowledged(), 7, "a cut acknowledges nothing");
    let subscriber = subscribe(proxy.address(), topic, usize::MAX);
    let seen = changes.wait_for(|counts| counts.acknowledged == 20);
    let counts = *tokio::time::timeout(HANG, seen).await.unwrap().unwrap();
    assert_eq!((counts.connections, counts.publishes, counts.unmatched), (2, 33, 0));
    assert_eq!(proxy.acknowledged_numbers().ranges(), [(1, 20)]);
    subscriber.abort();
}

#[tokio::test]
async fn only_what_was_acknowledged_counts_as_acknowledged_over_mqtt_3() {
    let broker = EmbeddedBroker::start(LOCAL).await.unwrap();
    only_what_was_acknowledged_counts(subscribe_v4, broker.address_v4(), &broker, "three/numbers").await;
}

#[tokio::test]
async fn only_what_was_acknowledged_counts_as_acknowledged_over_mqtt_5() {
    let broker = EmbeddedBroker::start(LOCAL).await.unwrap();
    only_what_was_acknowledged_counts(subscribe_v5, broker.address_v5(), &broker, "five/numbers").await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind(LOCAL).unwrap();
    let address = taken.local_addr().unwrap();
    let error = EmbeddedBroker::start(address).await.unwrap_err();
    assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
    let error = Proxy::start(address, "127.0.0.1:1", number).await.unwrap_err();
    assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
}
