//! The connections, against a real Mosquitto.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicU16;

use rumqttc::{AsyncClient, MqttOptions, Packet, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{MINUTE, SECOND};
use crate::ingest::stage::KEPT_PAYLOAD;
use crate::tls::TlsError;

/// Debian's broker on a port of its own, with at most one message on the way to a client: the next one shows that the
/// acknowledgement of the one before has arrived.
struct Mosquitto {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Mosquitto {
    /// `None` where the broker isn't installed.
    fn start(extra: &str) -> Option<Self> {
        Self::start_in(tempfile::tempdir().unwrap(), extra)
    }

    fn start_in(folder: tempfile::TempDir, extra: &str) -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = folder.path().display();
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {place}/\n\
             max_inflight_messages 1\nlog_dest stderr\nuser root\n{extra}\n"
        );
        let file = folder.path().join("mosquitto.conf");
        std::fs::write(&file, config).unwrap();
        let process = Self::spawn(&file)?;
        Some(Self { process, port, folder })
    }

    fn spawn(config: &std::path::Path) -> Option<Child> {
        let found = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find_map(|program| {
            let mut process = Process::new(program);
            process.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::piped());
            process.spawn().ok()
        });
        let Some(mut process) = found else {
            println!("skipped: the broker `mosquitto` isn't installed");
            return None;
        };
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let running = lines.by_ref().map_while(Result::ok).find(|line| line.contains("running"));
        assert!(running.is_some(), "the broker doesn't start");
        // Its log must go on being read, or it would block.
        std::thread::spawn(move || lines.map_while(Result::ok).count());
        Some(process)
    }

    /// Ends it, in order or by SIGKILL; it comes back with what it had saved.
    fn restart(&mut self, in_order: bool) {
        if in_order {
            let pid = self.process.id().to_string();
            assert!(
                Process::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]).status().unwrap().success()
            );
        } else {
            // It may be dead already.
            let _ = self.process.kill();
        }
        self.process.wait().unwrap();
        self.process = Self::spawn(&self.folder.path().join("mosquitto.conf")).unwrap();
    }

    /// A session of the agent's name that has no subscription.
    async fn bare_session(&self) {
        let mut options = MqttOptions::new("gw-1", "127.0.0.1", self.port);
        options.set_clean_session(false);
        let (client, mut events) = AsyncClient::new(options, 10);
        client.try_disconnect().unwrap();
        while events.poll().await.is_ok() {}
    }

    async fn publish(&self, messages: &[(&str, &[u8])]) {
        let mut options = MqttOptions::new("publisher", "127.0.0.1", self.port);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 100);
        for (topic, payload) in messages {
            client.try_publish(*topic, QoS::AtLeastOnce, false, payload.to_vec()).unwrap();
        }
        let mut acknowledged = 0;
        while acknowledged < messages.len() {
            if let rumqttc::Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
                acknowledged += 1;
            }
        }
    }
}

/// A TCP proxy that can cut, and that can refuse MQTT 5 as an old broker does.
struct Proxy {
    port: u16,
    to: Arc<AtomicU16>,
    live: Arc<Mutex<Vec<JoinHandle<()>>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Proxy {
    async fn start(to: u16, refusal: Option<&'static [u8]>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let live = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::new(AtomicU16::new(to));
        let (list, broker) = (Arc::clone(&live), Arc::clone(&to));
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let to = broker.load(Ordering::Relaxed);
                let task = tokio::spawn(async move {
                    let mut first = vec![0; 4096];
                    let n = near.read(&mut first).await.unwrap_or(0);
                    let level = first.windows(5).find(|w| w.starts_with(b"MQTT")).map(|w| w[4]);
                    if let (Some(5), Some(answer)) = (level, refusal) {
                        let _ = near.write_all(answer).await;
                        return;
                    }
                    let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    far.write_all(&first[..n]).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                list.lock().unwrap().push(task);
            }
        });
        Self { port, to, live, accepting }
    }

    fn cut(&self) {
        self.live.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

fn settings(port: u16, version: MqttVersion, start: u32, subscribed: Option<String>) -> Settings {
    let connection = Broker {
        host: "127.0.0.1".into(),
        port,
        tls: false,
        client_id: "gw-1".into(),
        version,
        username: None,
        password_file: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
        inflight_window: 1,
        marker: None,
        resends: false,
        keep_alive: MINUTE,
        session_expiry: 10 * MINUTE,
    };
    Settings {
        broker: 0,
        connection,
        filters: vec![Filter { path: "s/+".into(), qos: 1 }],
        payload_limit: 100,
        commit_interval: SECOND,
        start,
        subscribed,
        clock: Arc::new(|| Timestamp(1_700_000_000_123_456)),
    }
}

struct Client {
    handle: Handle,
    events: EventReceiver,
}

impl Client {
    fn start(settings: Settings) -> Self {
        let (sender, events) = queue(QUEUE_EVENTS, QUEUE_BYTES);
        Self { handle: start(settings, sender).unwrap(), events }
    }

    async fn event(&mut self) -> Event {
        let next = tokio::time::timeout(Duration::from_secs(30), self.events.recv()).await;
        next.expect("an event within 30 s").expect("a running task").1
    }

    async fn connected(&mut self) -> (u64, Session, MqttVersion) {
        loop {
            match self.event().await {
                Event::Connected { generation, session, protocol, .. } => {
                    return (generation, session, protocol);
                }
                Event::Disconnected { .. } => {}
                other => panic!("expected a connection, got {other:?}"),
            }
        }
    }

    /// A first connection, subscribed.
    async fn subscribed(&mut self) -> (u64, String) {
        let (generation, session, _) = self.connected().await;
        assert_eq!(session, Session::New);
        self.handle.permit(generation);
        match self.event().await {
            Event::Subscribed { granted, keep: Some(keep) } => {
                assert_eq!(granted, [(Filter { path: "s/+".into(), qos: 1 }, Ok(1))]);
                (generation, keep)
            }
            other => panic!("expected the answer to SUBSCRIBE, got {other:?}"),
        }
    }

    async fn publish(&mut self) -> Publish {
        loop {
            match self.event().await {
                Event::Publish(publish) => return publish,
                Event::Subscribed { keep: Some(_), .. } => {}
                other => panic!("expected a message, got {other:?}"),
            }
        }
    }

    fn acknowledge(&self, p: &Publish) {
        self.handle.acknowledge(&[Ack {
            broker: 0,
            generation: p.generation,
            packet_id: p.packet_id,
            qos: p.qos,
        }]);
    }
}

const BOTH: [MqttVersion; 2] = [MqttVersion::V5, MqttVersion::V311];

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_with_dup_after_a_cut_and_what_was_does_not() {
    for version in BOTH {
        let Some(broker) = Mosquitto::start("") else { return };
        let proxy = Proxy::start(broker.port, None).await;
        let mut c = Client::start(settings(proxy.port, version, 1, None));
        let (first, _) = c.subscribed().await;
        assert_eq!(first, (1 << 32) + 1);
        broker.publish(&[("s/a", b"1"), ("s/a", b"2"), ("s/a", b"3")]).await;
        let one = c.publish().await;
        assert_eq!((one.topic.as_str(), &one.payload[..], one.qos, one.dup), ("s/a", &b"1"[..], 1, false));
        assert_eq!((one.received_at, one.size), (Timestamp(1_700_000_000_123_000), 1));
        c.acknowledge(&one);
        let two = c.publish().await;
        assert_eq!((&two.payload[..], two.dup), (&b"2"[..], false));
        proxy.cut();
        assert!(matches!(c.event().await, Event::Disconnected { .. }));
        assert_eq!(c.connected().await, (first + 1, Session::Present, version));
        let again = c.publish().await;
        assert_eq!((&again.payload[..], again.dup, again.packet_id), (&b"2"[..], true, two.packet_id));
        assert_eq!(again.generation, first + 1);
        c.acknowledge(&again);
        let three = c.publish().await;
        assert_eq!((&three.payload[..], three.dup), (&b"3"[..], false));
        // The answer to a SUBSCRIBE may bring the third message before the acknowledgement of the second has left.
        let sent = async {
            while c.handle.acknowledged() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), sent).await.expect("two acknowledgements");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn an_acknowledgement_of_an_old_connection_is_never_sent() {
    for version in BOTH {
        let Some(broker) = Mosquitto::start("") else { return };
        let proxy = Proxy::start(broker.port, None).await;
        let mut c = Client::start(settings(proxy.port, version, 1, None));
        let (_, keep) = c.subscribed().await;
        broker.publish(&[("s/a", b"1")]).await;
        let stale = c.publish().await;
        proxy.cut();
        let (_, session, _) = {
            assert!(matches!(c.event().await, Event::Disconnected { .. }));
            c.acknowledge(&stale);
            c.connected().await
        };
        assert_eq!(session, Session::Present);
        assert!(c.publish().await.dup);
        c.acknowledge(&stale);
        let sent = Arc::clone(&c.handle.sent);
        c.handle.stop().await;
        assert_eq!(sent.load(Ordering::Relaxed), 0);
        let mut c = Client::start(settings(proxy.port, version, 2, Some(keep)));
        let (generation, session, _) = c.connected().await;
        assert_eq!((generation, session), ((2 << 32) + 1, Session::Present));
        assert!(c.publish().await.dup, "the broker still holds it");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn acknowledgements_given_before_the_stop_reach_the_broker() {
    for version in BOTH {
        let Some(broker) = Mosquitto::start("") else { return };
        let mut c = Client::start(settings(broker.port, version, 1, None));
        let (_, keep) = c.subscribed().await;
        broker.publish(&[("s/a", b"1"), ("s/a", b"2")]).await;
        let one = c.publish().await;
        c.acknowledge(&one);
        c.handle.stop().await;
        let mut c = Client::start(settings(broker.port, version, 2, Some(keep)));
        c.connected().await;
        assert_eq!(&c.publish().await.payload[..], b"2");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn changed_filters_are_subscribed_and_old_ones_given_up_in_a_kept_session() {
    for version in BOTH {
        let Some(broker) = Mosquitto::start("") else { return };
        let mut c = Client::start(settings(broker.port, version, 1, None));
        let (_, keep) = c.subscribed().await;
        c.handle.stop().await;
        let mut changed = settings(broker.port, version, 2, Some(keep.clone()));
        changed.filters = vec![Filter { path: "t/+".into(), qos: 1 }];
        let mut c = Client::start(changed);
        assert_eq!(c.connected().await.1, Session::Present);
        let Event::Subscribed { keep: Some(now), .. } = c.event().await else { panic!("no SUBSCRIBE") };
        assert_ne!(now, keep);
        broker.publish(&[("s/a", b"old"), ("t/a", b"new")]).await;
        assert_eq!(&c.publish().await.payload[..], b"new");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn a_session_that_the_broker_lost_is_told_and_waits_for_its_permit() {
    for version in BOTH {
        let Some(broker) = Mosquitto::start("") else { return };
        let mut c = Client::start(settings(broker.port, version, 1, None));
        let (_, keep) = c.subscribed().await;
        c.handle.stop().await;
        let mut options = MqttOptions::new("gw-1", "127.0.0.1", broker.port);
        options.set_clean_session(true);
        let (client, mut events) = AsyncClient::new(options, 10);
        client.try_disconnect().unwrap();
        while events.poll().await.is_ok() {}
        let mut c = Client::start(settings(broker.port, version, 2, Some(keep.clone())));
        let (generation, session, _) = c.connected().await;
        assert_eq!(session, Session::Lost);
        broker.publish(&[("s/a", b"before the permit")]).await;
        c.handle.permit(generation);
        let Event::Subscribed { keep: now, .. } = c.event().await else { panic!("no SUBSCRIBE") };
        assert_eq!(now, Some(keep));
        broker.publish(&[("s/a", b"after it")]).await;
        assert_eq!(&c.publish().await.payload[..], b"after it");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn a_start_that_was_killed_before_it_subscribed_a_new_session_does_not_leave_the_next_one_deaf() {
    for version in BOTH {
        let Some(broker) = Mosquitto::start("") else { return };
        let mut c = Client::start(settings(broker.port, version, 1, None));
        let (_, keep) = c.subscribed().await;
        c.handle.stop().await;
        let mut options = MqttOptions::new("gw-1", "127.0.0.1", broker.port);
        options.set_clean_session(true);
        let (client, mut events) = AsyncClient::new(options, 10);
        client.try_disconnect().unwrap();
        while events.poll().await.is_ok() {}
        let mut killed = Client::start(settings(broker.port, version, 2, Some(keep.clone())));
        assert_eq!(killed.connected().await.1, Session::Lost);
        // Its connect has made a session, which waits for the permit to be subscribed.
        killed.handle.stop().await;
        let mut c = Client::start(settings(broker.port, version, 3, Some(keep.clone())));
        assert_eq!(c.connected().await.1, Session::Present);
        let Event::Subscribed { keep: now, .. } = c.event().await else { panic!("no SUBSCRIBE") };
        assert_eq!(now, Some(keep));
        broker.publish(&[("s/a", b"heard")]).await;
        assert_eq!(&c.publish().await.payload[..], b"heard");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_comes_back_with_an_older_session_is_subscribed_again() {
    for version in BOTH {
        let Some(mut broker) = Mosquitto::start("") else { return };
        broker.bare_session().await;
        broker.restart(true);
        let mut c = Client::start(settings(broker.port, version, 1, None));
        assert_eq!(c.connected().await.1, Session::Present);
        assert!(matches!(c.event().await, Event::Subscribed { keep: Some(_), .. }));
        // What it saved last is the session without subscription.
        broker.process.kill().unwrap();
        broker.process.wait().unwrap();
        assert!(matches!(c.event().await, Event::Disconnected { .. }));
        // An attempt that finds nobody tells that the broker was away.
        assert!(matches!(c.event().await, Event::Disconnected { .. }));
        broker.restart(false);
        assert_eq!(c.connected().await.1, Session::Present);
        assert!(matches!(c.event().await, Event::Subscribed { keep: Some(_), .. }));
        broker.publish(&[("s/a", b"heard")]).await;
        assert_eq!(&c.publish().await.payload[..], b"heard");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_comes_back_unnoticed_with_an_older_session_is_subscribed_again_when_no_marker_returns()
{
    for version in BOTH {
        let Some(broker) = Mosquitto::start("") else { return };
        // What the other one knows is a session without subscription.
        let Some(older) = Mosquitto::start("") else { return };
        older.bare_session().await;
        let proxy = Proxy::start(broker.port, None).await;
        let mut settings = settings(proxy.port, version, 1, None);
        settings.connection.marker = Some("gw-1/marker".into());
        let mut c = Client::start(settings);
        c.subscribed().await;
        proxy.to.store(older.port, Ordering::Relaxed);
        proxy.cut();
        let found = loop {
            if let Event::Connected { session, marker, .. } = c.event().await {
                break (session, marker);
            }
        };
        assert_eq!(found, (Session::Present, true));
        assert!(matches!(c.event().await, Event::Subscribed { keep: Some(_), .. }));
        let marker = c.publish().await;
        assert_eq!((&marker.topic[..], &marker.payload[..]), ("gw-1/marker", &b"4294967298"[..]));
        c.acknowledge(&marker);
        older.publish(&[("s/a", b"heard")]).await;
        assert_eq!(&c.publish().await.payload[..], b"heard");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn a_refused_mqtt_5_falls_back_to_3_1_1() {
    // As 3.1.1 demands it, as MQTT 5 does, and as brokers do that just close.
    for refusal in [&[0x20, 2, 0, 1][..], &[0x20, 3, 0, 0x84, 0], &[]] {
        let Some(broker) = Mosquitto::start("") else { return };
        let proxy = Proxy::start(broker.port, Some(refusal)).await;
        let mut c = Client::start(settings(proxy.port, MqttVersion::V5, 1, None));
        let (generation, _, protocol) = c.connected().await;
        assert_eq!((generation, protocol), ((1 << 32) + 1, MqttVersion::V311), "{refusal:?}");
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn a_payload_beyond_the_limit_arrives_cut_with_its_size() {
    for version in BOTH {
        let Some(broker) = Mosquitto::start("") else { return };
        let mut c = Client::start(settings(broker.port, version, 1, None));
        c.subscribed().await;
        broker.publish(&[("s/a", &[7; 200_000])]).await;
        let p = c.publish().await;
        assert_eq!((p.size, p.payload.len()), (200_000, KEPT_PAYLOAD));
        c.handle.stop().await;
    }
}

#[tokio::test]
async fn a_full_queue_holds_the_broker_back_and_loses_nothing() {
    for version in BOTH {
        let Some(broker) = Mosquitto::start("max_inflight_messages 100") else { return };
        let (sender, events) = queue(1, 10);
        let mut wide = settings(broker.port, version, 1, None);
        wide.connection.inflight_window = 100;
        let mut c = Client { handle: start(wide, sender).unwrap(), events };
        c.subscribed().await;
        let payloads: Vec<_> = (0..50).map(|n| format!("{n:020}").into_bytes()).collect();
        broker.publish(&payloads.iter().map(|p| ("s/a", &p[..])).collect::<Vec<_>>()).await;
        for expected in &payloads {
            let p = c.publish().await;
            assert_eq!(&p.payload[..], &expected[..]);
            c.acknowledge(&p);
        }
        c.handle.stop().await;
    }
}

fn openssl(folder: &std::path::Path, arguments: &str) -> bool {
    let mut process = Process::new("openssl");
    process.args(arguments.split(' ')).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    process.status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn mutual_tls_and_a_password_from_its_file_connect_and_a_foreign_ca_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_path_buf();
    std::fs::write(place.join("san"), "subjectAltName=IP:127.0.0.1").unwrap();
    let mut made = true;
    for ca in ["ca", "foreign"] {
        made &= openssl(
            &place,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"
            ),
        );
    }
    for name in ["broker", "client"] {
        made &= openssl(
            &place,
            &format!("req -new -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"),
        );
        made &= openssl(
            &place,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.pem"
            ),
        );
    }
    if !made {
        println!("skipped: `openssl` isn't installed");
        return;
    }
    std::fs::write(place.join("password"), "secret\n").unwrap();
    let at = place.display();
    let tls = format!(
        "cafile {at}/ca.pem\ncertfile {at}/broker.pem\nkeyfile {at}/broker.key\nrequire_certificate true"
    );
    let Some(broker) = Mosquitto::start_in(folder, &tls) else { return };
    let with_ca = |ca: &str| {
        let mut s = settings(broker.port, MqttVersion::V5, 1, None);
        s.connection.tls = true;
        s.connection.ca_file = Some(place.join(ca));
        s.connection.cert_file = Some(place.join("client.pem"));
        s.connection.key_file = Some(place.join("client.key"));
        s.connection.username = Some("gw".into());
        s.connection.password_file = Some(place.join("password"));
        s
    };
    let mut foreign = Client::start(with_ca("foreign.pem"));
    let Event::Disconnected { error, .. } = foreign.event().await else {
        panic!("a foreign broker was trusted")
    };
    assert!(error.contains("certificate"), "{error}");
    foreign.handle.stop().await;
    let mut c = Client::start(with_ca("ca.pem"));
    c.subscribed().await;
    c.handle.stop().await;
    let (sender, _events) = queue(1, 1);
    let half = Settings {
        connection: Broker { key_file: None, ..with_ca("ca.pem").connection },
        ..with_ca("ca.pem")
    };
    assert!(matches!(start(half, sender.clone()), Err(MqttError::Tls(TlsError::HalfIdentity))));
    let absent = start(with_ca("nowhere.pem"), sender).err().map(|e| e.to_string());
    assert!(absent.is_some_and(|e| e.starts_with("ca_file ")));
}
