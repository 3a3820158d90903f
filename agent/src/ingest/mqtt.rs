//! The connections: one task a broker owns its socket, brings publishes in and sends acknowledgements out.
//!
//! A connection that fails is made again for ever, each time from the beginning: new library state, files of password
//! and certificates read again, generation counted up at its CONNACK. Nothing of an old connection can reach a new one:
//! not a buffered publish (its acknowledgement could name a *new* message that isn't stored), not an acknowledgement
//! (rumqttd closes a connection for a stale one, and a message would be lost).
//!
//! Events go into one bounded queue. When it is full the task stops polling, so the broker's window and TCP hold back
//! what comes; only then can pings stop too, and a broker that closes for that keeps the session and sends again. The
//! queue is larger than any in-flight window in use, so this happens only when the pipeline really stands still.
//!
//! A new session is subscribed only after [`Handle::permit`]: the end of the old one must be durable first.
//!
//! A session that the broker found isn't always the one that was subscribed. A start that was killed before its permit has
//! left one behind that was never subscribed; a broker that was killed comes back with the one that it saved last. Both
//! would deliver nothing for ever, and say nothing. So a session is subscribed again wherever that may have happened: at
//! the first connection of a start, after an attempt that found no broker, and with MQTT 5, where it costs nothing but
//! the packet, after each lost connection. With 3.1.1 each SUBSCRIBE brings all retained messages once more; so after a
//! mere cut it isn't sent before a marker ([`super::backlog`]) shows by its absence that nothing is subscribed. Without
//! marker (switched off, or refused) a 3.1.1 broker that is killed and back before the next attempt can still deceive us.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tributary_contract::time::Timestamp;

pub mod listen;
mod protocol;
mod queue;
mod rate;
mod tls;
pub mod trial;
mod v4;
mod v5;
#[cfg(test)]
mod tests;

pub use queue::{EventReceiver, EventSender, queue};

use self::protocol::{Cause, Failure, Protocol};
use self::rate::Rate;
use super::decode::Outgoing;
use super::stage::KEPT_PAYLOAD;
use super::topic::{TemplateError, TopicTemplate};
use super::{Ack, Publish, Session};
use crate::clock::BUILT;
use crate::config::{Broker, Config, MqttVersion};

/// Events that may wait for the pipeline.
pub const QUEUE_EVENTS: usize = 4096;
/// Payload bytes that may wait for the pipeline.
pub const QUEUE_BYTES: usize = 8 << 20;
/// Messages of our own that may wait for the socket.
const OUTGOING: usize = 256;
/// A connection that lasted so long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(30);
/// Nothing came for so long, and a marker should have: the session isn't subscribed.
const DEAF: Duration = Duration::from_secs(5);
/// Time for TCP, TLS and CONNACK, and for a write to get out, seconds.
const PATIENCE: u64 = 15;

/// Wall time in microseconds; a function, so that tests turn the clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Why a connection can't even be tried.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// A file of the settings.
    #[error("{what} {path}: {error}")]
    File {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// TLS without anything to trust.
    #[error("no system certificates to trust were found ({0}): set `ca_file`")]
    NoRoots(String),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// A certificate without its key, or the other way round.
    #[error("`cert_file` and `key_file` belong together: set both or none")]
    HalfIdentity,
    /// A persistent session without name.
    #[error("`client_id` is empty: a session that is kept needs a name that stays the same")]
    NoClientId,
}

/// A filter with the QoS to subscribe it at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// MQTT topic filter.
    pub path: String,
    /// 0 or 1.
    pub qos: u8,
}

/// The filters of all sources, each once, at the highest QoS asked for and at most 1.
pub fn filters(config: &Config) -> Result<Vec<Filter>, TemplateError> {
    let mut filters: Vec<Filter> = Vec::new();
    for source in &config.sources {
        for topic in &source.topics {
            let (path, qos) = (TopicTemplate::parse(topic)?.filter(), source.qos.min(1));
            match filters.iter_mut().find(|f| f.path == path) {
                Some(same) => same.qos = same.qos.max(qos),
                None => filters.push(Filter { path, qos }),
            }
        }
    }
    filters.sort();
    Ok(filters)
}

/// What a connection's task needs.
#[derive(Clone)]
pub struct Settings {
    /// Which broker, by position.
    pub broker: usize,
    /// Its settings.
    pub connection: Broker,
    /// What to subscribe; see [`filters`].
    pub filters: Vec<Filter>,
    /// Bytes of a payload beyond which only its beginning is passed on.
    pub payload_limit: usize,
    /// How long a message waits for its commit, microseconds: with MQTT 5 the window is sized by it.
    pub commit_interval: i64,
    /// Number of this start of the agent; grows from start to start, so that generations do.
    pub start: u32,
    /// What [`Event::Subscribed`] last gave to be kept for this broker.
    pub subscribed: Option<String>,
    /// Wall time.
    pub clock: Clock,
}

/// What a task reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The broker accepted the connection. With a [`Session`] that isn't present, nothing comes before
    /// [`Handle::permit`].
    Connected {
        /// Generation of the connection.
        generation: u64,
        /// What the broker knew of us.
        session: Session,
        /// Protocol in use.
        protocol: MqttVersion,
        /// How many unacknowledged messages the broker may send: what we told it (MQTT 5), or what it is said to be set
        /// to (3.1.1).
        window: u16,
        /// Whether a marker was sent behind what waits at the broker: the generation, on the topic of
        /// [`Broker::marker`].
        marker: bool,
        /// When, whole milliseconds.
        at: Timestamp,
    },
    /// The broker answered a SUBSCRIBE.
    Subscribed {
        /// Each filter with the QoS granted, or why it was refused.
        granted: Vec<(Filter, Result<u8, String>)>,
        /// To be kept and given back as [`Settings::subscribed`]; `None` while a filter is refused.
        keep: Option<String>,
    },
    /// A message.
    Publish(Publish),
    /// The connection ended, or couldn't be made; the next attempt follows by itself.
    Disconnected {
        /// Why.
        error: String,
        /// When the connection surely still was there, if it was made.
        alive: Timestamp,
    },
}

/// What the pipeline tells a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// These may be acknowledged, in this order; those of an older connection are to be dropped.
    Acknowledge(Vec<Ack>),
    /// The connection of that generation may subscribe.
    Permit(u64),
    /// This is to be published.
    Publish(Outgoing),
    /// Send what was acknowledged, then end.
    Stop,
}

/// The pipeline's end of a connection. Dropping it stops the task.
pub struct Handle {
    broker: usize,
    commands: UnboundedSender<Command>,
    sent: Arc<AtomicU64>,
    task: Option<JoinHandle<()>>,
}

impl Handle {
    /// A handle without a task: whoever has the other end is the connection.
    pub fn without_task(broker: usize) -> (Self, UnboundedReceiver<Command>) {
        let (commands, received) = unbounded_channel();
        (Self { broker, commands, sent: Arc::default(), task: None }, received)
    }

    /// Which broker, by position.
    pub fn broker(&self) -> usize {
        self.broker
    }

    /// Has those of `acks` that belong to this broker sent, in their order. Those of an older connection are dropped by
    /// the task, when it comes to them. Never waits.
    pub fn acknowledge(&self, acks: &[Ack]) {
        let own: Vec<Ack> = acks.iter().copied().filter(|a| a.broker == self.broker).collect();
        if !own.is_empty() {
            self.command(Command::Acknowledge(own));
        }
    }

    /// Lets the connection of that generation subscribe: the end of the old session is durable.
    pub fn permit(&self, generation: u64) {
        self.command(Command::Permit(generation));
    }

    /// Publishes at QoS 0 on the live connection; without one, and while many wait, it is dropped. Never waits.
    pub fn publish(&self, message: Outgoing) {
        self.command(Command::Publish(message));
    }

    /// Acknowledgements that were written to the socket since the start.
    pub fn acknowledged(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends what was acknowledged, then DISCONNECT; the broker keeps the session.
    pub async fn stop(self) {
        self.command(Command::Stop);
        if let Some(task) = self.task {
            // A task that panicked has nothing left to stop.
            let _ = task.await;
        }
    }

    fn command(&self, command: Command) {
        // The task ends only when told to, and then commands mean nothing.
        let _ = self.commands.send(command);
    }
}

/// Starts the task of one connection on the current runtime. Fails only where its files can't be used at all.
pub fn start(settings: Settings, events: EventSender) -> Result<Handle, MqttError> {
    if settings.connection.client_id.is_empty() {
        return Err(MqttError::NoClientId);
    }
    Credentials::load(&settings.connection)?;
    let (commands, received) = unbounded_channel();
    let sent = Arc::new(AtomicU64::new(0));
    let wanted = Wanted {
        commands: received,
        acks: VecDeque::new(),
        outgoing: VecDeque::new(),
        generation: None,
        permitted: false,
        look_at: None,
        stop: false,
        sent: Arc::clone(&sent),
    };
    let broker = settings.broker;
    let task = Task {
        protocol: Protocol::new(settings.connection.version),
        generation: u64::from(settings.start) << 32,
        subscribed: settings.subscribed.clone(),
        doubtful: true,
        rate: Rate::default(),
        window: settings.connection.inflight_window,
        marker: Marker::default(),
        settings,
        events,
        wanted,
    };
    Ok(Handle { broker, commands, sent, task: Some(tokio::spawn(task.run())) })
}

/// What the pipeline wants of the live connection.
struct Wanted {
    commands: UnboundedReceiver<Command>,
    acks: VecDeque<Ack>,
    outgoing: VecDeque<Outgoing>,
    /// The live connection; `None` before its CONNACK.
    generation: Option<u64>,
    permitted: bool,
    /// When the task has to look at its marker, whatever the socket brings; with 3.1.1 only.
    look_at: Option<Instant>,
    stop: bool,
    sent: Arc<AtomicU64>,
}

impl Wanted {
    /// Waits for a command, and takes up all that have come. Cancelling it loses none.
    async fn receive(&mut self) {
        let command = self.commands.recv().await;
        self.take(command.unwrap_or(Command::Stop));
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Acknowledge(acks) => {
                let live = self.generation;
                self.acks.extend(acks.into_iter().filter(|a| Some(a.generation) == live && a.qos > 0));
            }
            Command::Publish(message) => {
                if self.generation.is_some() && self.outgoing.len() < OUTGOING {
                    self.outgoing.push_back(message);
                }
            }
            Command::Permit(generation) => self.permitted |= Some(generation) == self.generation,
            Command::Stop => self.stop = true,
        }
    }

    /// Whether the task has something to do beside waiting for the socket.
    fn calls(&self) -> bool {
        self.stop || self.permitted
    }

    fn live(&mut self, generation: Option<u64>) {
        self.generation = generation;
        self.acks.clear();
        self.outgoing.clear();
        self.permitted = false;
        self.look_at = None;
    }

    fn written(&self, acks: u64) {
        self.sent.fetch_add(acks, Ordering::Relaxed);
    }
}

/// What a connection brought, whichever protocol.
enum Incoming {
    Connected {
        session_present: bool,
    },
    Publish {
        packet_id: u16,
        qos: u8,
        dup: bool,
        retain: bool,
        topic: String,
        payload: Bytes,
    },
    Subscribed(Vec<Result<u8, String>>),
    /// Nothing that anyone waits for, or a command to look at.
    Nothing,
}

#[expect(clippy::large_enum_variant, reason = "one per broker connection, never moved in bulk")]
enum Link {
    V4(v4::Link),
    V5(v5::Link),
}

impl Link {
    fn open(settings: &Settings, version: MqttVersion, window: u16) -> Result<Self, MqttError> {
        let credentials = Credentials::load_by(&settings.connection, Arc::clone(&settings.clock))?;
        Ok(match version {
            MqttVersion::V311 => Self::V4(v4::Link::open(settings, credentials)),
            MqttVersion::V5 => Self::V5(v5::Link::open(settings, credentials, window)),
        })
    }

    fn publish(&mut self, topic: &str, payload: String) -> Result<(), Failure> {
        match self {
            Self::V4(link) => link.publish(topic, payload),
            Self::V5(link) => link.publish(topic, payload),
        }
    }

    async fn next(&mut self, wanted: &mut Wanted) -> Result<Incoming, Failure> {
        match self {
            Self::V4(link) => link.next(wanted).await,
            Self::V5(link) => link.next(wanted).await,
        }
    }

    fn subscribe(&mut self, filters: &[Filter], gone: &[String]) -> Result<(), Failure> {
        match self {
            Self::V4(link) => link.subscribe(filters, gone),
            Self::V5(link) => link.subscribe(filters, gone),
        }
    }

    async fn finish(&mut self, wanted: &mut Wanted) {
        let goodbye = async {
            match self {
                Self::V4(link) => link.finish(wanted).await,
                Self::V5(link) => link.finish(wanted).await,
            }
        };
        // Without goodbye the broker notices by itself, and keeps the session just the same.
        let _ = tokio::time::timeout(Duration::from_secs(3), goodbye).await;
    }
}

/// How one connection ended.
enum Ended {
    Stopped,
    Failed(Failure),
}

struct Task {
    settings: Settings,
    events: EventSender,
    wanted: Wanted,
    protocol: Protocol,
    /// Generation of the last connection.
    generation: u64,
    subscribed: Option<String>,
    /// Whether a session that the broker finds may be another one than the one that was subscribed.
    doubtful: bool,
    rate: Rate,
    /// The in-flight window of the live connection.
    window: u16,
    marker: Marker,
}

/// What is known of markers.
#[derive(Debug, Clone, Copy, Default)]
struct Marker {
    /// The broker doesn't let us subscribe it.
    refused: bool,
    /// The live connection's is under way.
    awaited: bool,
    /// The connection before ended while its marker was under way. Perhaps for that: some brokers cut off who publishes
    /// where it may not. So the next one goes without.
    skip: bool,
}

impl Task {
    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let (began, before) = (Instant::now(), self.generation);
            let acknowledged = self.wanted.sent.load(Ordering::Relaxed);
            let version = self.protocol.next();
            let Ended::Failed(failure) = self.connection(version).await else { return };
            self.wanted.live(None);
            let connected = self.generation > before;
            self.protocol.failed(version, &failure, connected);
            let progress = self.wanted.sent.load(Ordering::Relaxed) > acknowledged;
            let progress = progress && failure.cause != Cause::TakenOver;
            attempt = protocol::attempt_after(attempt, connected && began.elapsed() >= GOOD, progress);
            self.marker.skip = std::mem::take(&mut self.marker.awaited);
            self.doubtful |= !connected || version == MqttVersion::V5 || self.marker.skip;
            let unnoticed = match failure.cause {
                Cause::Silent => self.settings.connection.keep_alive.saturating_mul(3) / 2,
                _ => 0,
            };
            let alive = self.now().plus(-unnoticed);
            if !self.emit(Event::Disconnected { error: failure.text, alive }).await {
                return;
            }
            let wait = Instant::now() + protocol::backoff(attempt, fastrand::f64());
            while !self.wanted.stop {
                tokio::select! {
                    () = tokio::time::sleep_until(wait) => break,
                    () = self.wanted.receive() => {}
                }
            }
            if self.wanted.stop {
                return;
            }
        }
    }

    async fn connection(&mut self, version: MqttVersion) -> Ended {
        let configured = self.settings.connection.inflight_window;
        self.window = match version {
            MqttVersion::V5 => self.rate.window(configured, self.settings.commit_interval),
            MqttVersion::V311 => configured,
        };
        let mut link = match Link::open(&self.settings, version, self.window) {
            Ok(link) => link,
            Err(error) => return Ended::Failed(Failure::other(error.to_string())),
        };
        loop {
            if self.wanted.stop {
                if self.wanted.generation.is_some() {
                    link.finish(&mut self.wanted).await;
                }
                return Ended::Stopped;
            }
            let outcome = if std::mem::take(&mut self.wanted.permitted) {
                link.subscribe(&self.subscriptions(), &[]).map(|()| Incoming::Nothing)
            } else if self.wanted.look_at.take_if(|at| Instant::now() >= *at).is_some() {
                tracing::info!("the marker didn't come back: the session is subscribed again");
                let again = link.subscribe(&self.subscriptions(), &[]);
                again.and_then(|()| self.mark(&mut link)).map(|_| Incoming::Nothing)
            } else {
                link.next(&mut self.wanted).await
            };
            let event = match outcome {
                Err(failure) => return Ended::Failed(failure),
                Ok(Incoming::Nothing) => continue,
                Ok(Incoming::Connected { session_present }) => {
                    let session = self.begin(session_present);
                    if session_present
                        && let Some(gone) = self.to_subscribe()
                        && let Err(failure) = link.subscribe(&self.subscriptions(), &gone)
                    {
                        return Ended::Failed(failure);
                    }
                    let skip = std::mem::take(&mut self.marker.skip);
                    let marker = if session_present && !skip { self.mark(&mut link) } else { Ok(false) };
                    let marker = match marker {
                        Ok(marker) => marker,
                        Err(failure) => return Ended::Failed(failure),
                    };
                    if marker && version == MqttVersion::V311 {
                        self.wanted.look_at = Some(Instant::now() + DEAF);
                    }
                    Event::Connected {
                        generation: self.generation,
                        session,
                        protocol: version,
                        window: self.window,
                        marker,
                        at: self.now(),
                    }
                }
                Ok(Incoming::Subscribed(codes)) => self.granted(codes),
                Ok(Incoming::Publish { packet_id, qos, dup, retain, topic, payload }) => {
                    let (size, received_at) = (payload.len(), self.now());
                    self.rate.arrived(received_at);
                    if self.settings.connection.marker.as_ref() == Some(&topic)
                        && payload[..] == *self.generation.to_string().as_bytes()
                    {
                        self.marker.awaited = false;
                        self.wanted.look_at = None;
                    }
                    let kept = if size > self.settings.payload_limit {
                        Bytes::copy_from_slice(payload.get(..KEPT_PAYLOAD).unwrap_or(&payload))
                    } else {
                        payload
                    };
                    Event::Publish(Publish {
                        broker: self.settings.broker,
                        generation: self.generation,
                        packet_id,
                        qos,
                        dup,
                        retain,
                        topic,
                        payload: kept,
                        size,
                        received_at,
                    })
                }
            };
            if !self.emit(event).await && !self.wanted.stop {
                // Nobody takes events any more.
                self.wanted.stop = true;
            }
            if self.wanted.look_at.is_some() {
                // Something comes, so the marker may still be behind it.
                self.wanted.look_at = Some(Instant::now() + DEAF);
            }
        }
    }

    /// A connection begins.
    fn begin(&mut self, session_present: bool) -> Session {
        self.generation += 1;
        self.wanted.live(Some(self.generation));
        let session = match (session_present, &self.subscribed) {
            (true, _) => Session::Present,
            (false, Some(_)) => Session::Lost,
            (false, None) => Session::New,
        };
        if !session_present {
            self.subscribed = None;
        }
        session
    }

    /// Sends a marker behind what waits at the broker, where there is one to send.
    fn mark(&mut self, link: &mut Link) -> Result<bool, Failure> {
        let Some(topic) = &self.settings.connection.marker else { return Ok(false) };
        if self.marker.refused {
            return Ok(false);
        }
        link.publish(topic, self.generation.to_string())?;
        self.marker.awaited = true;
        Ok(true)
    }

    /// What to subscribe: the sources' filters, and the marker's topic behind them.
    fn subscriptions(&self) -> Vec<Filter> {
        let marker = self.settings.connection.marker.iter().filter(|_| !self.marker.refused);
        let marker = marker.map(|topic| Filter { path: topic.clone(), qos: 1 });
        self.settings.filters.iter().cloned().chain(marker).collect()
    }

    /// `None` where the session surely has just our filters; else it is to be subscribed, and those filters that it has
    /// and we no longer want are to be given up.
    fn to_subscribe(&self) -> Option<Vec<String>> {
        let wanted = self.subscriptions();
        let had = self.subscribed.as_deref().unwrap_or("");
        if had == spelled(&wanted) && !self.doubtful {
            return None;
        }
        let paths = had.lines().filter_map(|line| line.split_once(' ')).map(|(_, path)| path);
        let gone = paths.filter(|path| wanted.iter().all(|f| f.path != *path));
        Some(gone.map(Into::into).collect())
    }

    fn granted(&mut self, codes: Vec<Result<u8, String>>) -> Event {
        let missing = || Err("the broker's answer says nothing about it".to_owned());
        let mut codes = codes.into_iter();
        let answer = |f: &Filter| (f.clone(), codes.next().unwrap_or_else(missing));
        let mut granted: Vec<_> = self.subscriptions().iter().map(answer).collect();
        let marker = granted.get(self.settings.filters.len()).and_then(|(_, outcome)| outcome.clone().err());
        if let (Some(why), Some(topic)) = (marker, &self.settings.connection.marker) {
            tracing::warn!(
                topic,
                "the broker refuses the marker ({why}): silence will tell what had waited there"
            );
            self.marker = Marker { refused: true, ..Marker::default() };
        }
        granted.truncate(self.settings.filters.len());
        let keep = granted.iter().all(|(_, g)| g.is_ok()).then(|| spelled(&self.subscriptions()));
        self.doubtful = false;
        // A session there is, whatever it refused: losing it is a loss.
        self.subscribed = Some(keep.clone().unwrap_or_default());
        Event::Subscribed { granted, keep }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis((self.settings.clock)().micros().div_euclid(1000))
    }

    /// Waits for room in the queue, taking up commands meanwhile. False when told to stop, or when nobody listens.
    async fn emit(&mut self, event: Event) -> bool {
        let send = self.events.send(self.settings.broker, event);
        tokio::pin!(send);
        loop {
            tokio::select! {
                biased;
                sent = &mut send => return sent,
                () = self.wanted.receive() => if self.wanted.stop {
                    return false;
                }
            }
        }
    }
}

fn spelled(filters: &[Filter]) -> String {
    filters.iter().map(|f| format!("{} {}", f.qos, f.path)).collect::<Vec<_>>().join("\n")
}

/// What the settings keep in files, read anew for each connection.
struct Credentials {
    login: Option<(String, String)>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Credentials {
    /// Without a clock of the agent's: the machine's is enough for a look.
    fn load(broker: &Broker) -> Result<Self, MqttError> {
        Self::load_by(broker, Arc::new(|| BUILT))
    }

    fn load_by(broker: &Broker, clock: Clock) -> Result<Self, MqttError> {
        let password = match &broker.password_file {
            None => String::new(),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let wrong = |error: std::io::Error| MqttError::File {
                    what: "password_file",
                    path: path.clone(),
                    error: error.to_string(),
                };
                read.map_err(wrong)?.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        let tls = if broker.tls { Some(tls::client_config(broker, clock)?) } else { None };
        Ok(Self { login: broker.username.clone().map(|name| (name, password)), tls })
    }
}

/// The largest packet that an MQTT 5 broker is told to send: well beyond the limit on payloads, so that what is too large
/// is rejected and counted. What is larger still the broker drops, and the stream goes on.
fn packet_limit(payload_limit: usize) -> u32 {
    let limit = payload_limit.saturating_add(70_000).clamp(16 << 20, 256 << 20);
    u32::try_from(limit).unwrap_or(256 << 20)
}

/// The largest packet that MQTT has. A 3.1.1 broker can't be told of a limit: it would send a larger packet again at each
/// connection, for ever, and nothing behind it. So it is taken, whatever it costs, and rejected.
const LARGEST_PACKET: usize = 268_435_455 + 5;

fn keep_alive(broker: &Broker) -> Duration {
    // The library refuses less than five seconds; the protocol carries at most u16::MAX.
    Duration::from_secs(u64::try_from(broker.keep_alive / 1_000_000).unwrap_or(0).clamp(5, 65_535))
}
