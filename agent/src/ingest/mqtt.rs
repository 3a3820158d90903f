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

mod credentials;
pub mod listen;
mod protocol;
mod queue;
mod rate;
mod task;
pub mod trial;
mod v4;
mod v5;
#[cfg(test)]
mod tests;

pub use queue::{EventReceiver, EventSender, queue};

use self::credentials::Credentials;
use self::protocol::Failure;
use self::task::Task;
use super::decode::Outgoing;
use super::topic::{TemplateError, TopicTemplate};
use super::{Ack, Publish, Session};
use crate::config::{Broker, Config, MqttVersion};
pub use crate::tls::Clock;
use crate::tls::TlsError;

/// Events that may wait for the pipeline.
pub const QUEUE_EVENTS: usize = 4096;
/// Payload bytes that may wait for the pipeline.
pub const QUEUE_BYTES: usize = 8 << 20;
/// Messages of our own that may wait for the socket: half a kilobyte each, mostly.
pub const OUTGOING: usize = 4096;
/// Time for TCP, TLS and CONNACK, and for a write to get out, seconds.
const PATIENCE: u64 = 15;

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
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
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

    /// What publishes by the same connection, for whoever else has something to say.
    pub fn publisher(&self) -> Publisher {
        Publisher(self.commands.clone())
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

/// Publishes by a connection that another holds; see [`Handle::publish`].
#[derive(Debug, Clone)]
pub struct Publisher(UnboundedSender<Command>);

impl Publisher {
    /// As [`Handle::publish`].
    pub fn publish(&self, message: Outgoing) {
        // A task that has ended publishes nothing.
        let _ = self.0.send(Command::Publish(message));
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
        ask_at: None,
        ask: false,
        stop: false,
        sent: Arc::clone(&sent),
    };
    let broker = settings.broker;
    let task = Task::new(settings, events, wanted);
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
    /// When to ask again for what the broker refused.
    ask_at: Option<Instant>,
    /// It is time to.
    ask: bool,
    stop: bool,
    sent: Arc<AtomicU64>,
}

impl Wanted {
    /// Waits for a command, and takes up all that have come; or until it is time to ask again for what was refused.
    /// Cancelling it loses none.
    async fn receive(&mut self) {
        let command = match self.ask_at {
            Some(at) => tokio::time::timeout_at(at, self.commands.recv()).await,
            None => Ok(self.commands.recv().await),
        };
        let Ok(command) = command else {
            self.ask_at = None;
            self.ask = true;
            return;
        };
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
        self.stop || self.permitted || self.ask
    }

    fn live(&mut self, generation: Option<u64>) {
        self.generation = generation;
        self.acks.clear();
        self.outgoing.clear();
        self.permitted = false;
        self.look_at = None;
        self.ask_at = None;
        self.ask = false;
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
