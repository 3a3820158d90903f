//! The agent's configuration as data: what an operator may set, with the defaults.
//!
//! `config/parse.rs` reads it from TOML and names every problem at once; `config/agent.toml` in the project's root
//! shows every key. Durations are microseconds here, sizes bytes. Nothing in it works; parts that work stand beside it.

mod section;
pub mod alerts;
pub mod bucket;
pub mod decoding;
pub mod functions;
pub mod link;
pub mod publish;
pub mod selection;
pub mod zone;
pub mod load;
pub mod show;
pub mod parse;

pub use alerts::{AlertRule, Condition, Severity};
pub use bucket::{Bucket, Credentials, Iot, Proxy};
pub use decoding::{Decoder, Decoding, TimeUnit};
pub use functions::{Function, Functions};
pub use link::{Hours, Link, Order, Profile};
pub use publish::{Names, TopicPattern};
pub use selection::Selection;
pub use zone::Zone;

use std::net::SocketAddr;
use std::path::PathBuf;

use tributary_contract::id::{GatewayId, Namespace};
use tributary_contract::series::Tags;
use tributary_contract::time::DAY_MICROS;

/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds in a minute.
pub const MINUTE: i64 = 60 * SECOND;
/// Microseconds in an hour.
pub const HOUR: i64 = 60 * MINUTE;

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who this gateway is.
    pub gateway: GatewayId,
    /// Where the buffer lives.
    pub state_dir: PathBuf,
    /// Tags of the gateway, in its status.
    pub tags: Tags,
    /// Broker connections, at least one.
    pub brokers: Vec<Broker>,
    /// Sources, at least one; the first whose topics match takes a message.
    pub sources: Vec<Source>,
    /// The buffer.
    pub buffer: Buffer,
    /// Windows.
    pub windows: Vec<Window>,
    /// Rules by which alerts open and close.
    pub alerts: Vec<AlertRule>,
    /// Segments.
    pub segment: Segment,
    /// The bucket.
    pub bucket: Bucket,
    /// The way to it.
    pub link: Link,
    /// Status.
    pub status: Status,
    /// Limits on what is taken in.
    pub limits: Limits,
}

/// One broker connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Broker {
    /// Host of the URL.
    pub host: String,
    /// Port of the URL; 1883, or 8883 with TLS.
    pub port: u16,
    /// `mqtts://`
    pub tls: bool,
    /// Client id; must stay the same, the session hangs on it. Default: the gateway's name.
    pub client_id: String,
    /// Protocol.
    pub version: MqttVersion,
    /// User name.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// Certificates to trust, PEM; default: the system's.
    pub ca_file: Option<PathBuf>,
    /// Own certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Own private key, PEM.
    pub key_file: Option<PathBuf>,
    /// How many unacknowledged messages the broker may have on the way to us. MQTT 5: the least receive maximum that we
    /// tell it; it grows with the rate. 3.1.1: what the broker is set to. Default 1,000 and 20.
    pub inflight_window: u16,
    /// Topic of our own through which we learn that what waited at the broker has come; `None` for no marker.
    pub marker: Option<String>,
    /// Whether the broker sends unacknowledged messages again on the live connection (AWS IoT, EMQX, NATS).
    pub resends: bool,
    /// Keep-alive, microseconds.
    pub keep_alive: i64,
    /// How long the broker is asked to keep the session, MQTT 5, microseconds.
    pub session_expiry: i64,
}

/// Protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttVersion {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}

/// One source: topics and what their payloads mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Name, unique.
    pub name: String,
    /// Topic templates: filters whose levels may be named, `sensors/{device}/{metric}`.
    pub topics: Vec<String>,
    /// QoS of the subscriptions: 0 or 1.
    pub qos: u8,
    /// Decoder.
    pub decoder: Decoder,
    /// Path of the payload's own time.
    pub time: Option<String>,
    /// Path of the value; without it, every scalar of a JSON payload is a reading.
    pub value: Option<String>,
    /// Path of the device's name, where the topic doesn't say it.
    pub device: Option<String>,
    /// Path of the metric's name, where the topic doesn't say it.
    pub metric: Option<String>,
    /// Path of the unit.
    pub unit: Option<String>,
    /// Tags, each at a path of the payload, that identify the series.
    pub payload_tags: std::collections::BTreeMap<String, String>,
    /// Tags, each at a path of the payload, of the single reading; no part of the series.
    pub row_tags: std::collections::BTreeMap<String, String>,
    /// How payloads are read beside the paths, and what is made of their readings.
    pub decoding: Decoding,
    /// Fixed tags.
    pub tags: Tags,
    /// Owner of the data.
    pub namespace: Namespace,
    /// What is shed last under a full budget: 1 (first to go) to 9.
    pub priority: u8,
    /// What of its readings goes to the bucket.
    pub upload: Upload,
    /// By glob of metrics, how far a reading may lie from the last one sent and stay here, in the metric's unit; the longest
    /// glob that matches decides.
    pub deadband: Vec<(String, f64)>,
    /// After so long by event time a reading is sent wherever it lies, microseconds.
    pub deadband_every: i64,
}

/// The priority of a source that names none.
pub const PRIORITY: u8 = 5;

/// What of a source's readings goes to the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// The readings, and the aggregates of their windows.
    Both,
    /// The readings; they enter no window.
    Readings,
    /// The aggregates; the readings stay in the buffer for [`Buffer::retain`], if there is room.
    Aggregates,
}

/// The buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Buffer {
    /// Budget in bytes of database, log and segment files; what follows as it fills is in `buffer/quota.rs`.
    pub max_bytes: u64,
    /// Bytes that must stay free on its file system.
    pub min_free: u64,
    /// Bytes of a file that is given up when the disk is full, so that there is room to make room; 0 for none.
    pub ballast: u64,
    /// How long a message may wait for its commit, microseconds.
    pub commit_interval: i64,
    /// Bytes that the agent may write a day before commits become rarer; 0 for no budget.
    pub flash_per_day: u64,
    /// Bytes that the device is rated for in its life, for the projection in the status; 0 where that isn't known.
    pub flash_endurance: u64,
    /// When readings may go.
    pub release_on: ReleaseOn,
    /// How long readings are kept that aren't uploaded because aggregates are, microseconds.
    pub retain: i64,
    /// How far back a redelivery is recognised by content: microseconds …
    pub dedupe_window: i64,
    /// … and messages.
    pub dedupe_messages: usize,
}

/// When the gateway lets go of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseOn {
    /// When a receipt says that it is registered.
    Registered,
    /// When the bucket has it: for those without a receiver.
    Delivered,
}

/// One kind of window: tumbling or hopping, aligned to 1970-01-01T00:00, in UTC or in a time zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Name, unique.
    pub name: String,
    /// Length, microseconds: a whole multiple of `every`.
    pub size: i64,
    /// How long after one window the next begins, microseconds: as `size` where windows tumble. Divides a day, or is a
    /// number of whole days.
    pub every: i64,
    /// The zone to whose days and hours they are aligned; none for UTC.
    pub zone: Option<Zone>,
    /// Whose readings enter it.
    pub of: Selection,
    /// By glob of metrics, which statistics are filled in; the longest glob that matches decides, all where none does.
    pub functions: Vec<(String, Functions)>,
    /// Topic on which its windows are told as soon as they are closed; none for not at all.
    pub publish: Option<TopicPattern>,
    /// How long behind the newest event time of its device a reading still counts as in time, microseconds.
    pub lateness: i64,
    /// A device silent for this long (processing time) has its windows closed, microseconds.
    pub idle: i64,
    /// How long after closing a late reading emits its window again, microseconds.
    pub correction_horizon: i64,
}

impl Window {
    /// Tumbling in UTC, of everything, and all else by default.
    pub fn tumbling(name: &str, size: i64) -> Self {
        Self {
            name: name.to_owned(),
            size,
            every: size,
            zone: None,
            of: Selection::default(),
            functions: Vec::new(),
            publish: None,
            lateness: 10 * SECOND,
            idle: 5 * MINUTE,
            correction_horizon: DAY_MICROS,
        }
    }
}

/// Segments.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Rows at which one is sealed.
    pub max_rows: u64,
    /// Bytes (estimated) at which one is sealed.
    pub max_bytes: u64,
    /// Age of its oldest row at which one is sealed, microseconds.
    pub max_age: i64,
}

/// Status.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Address of the local endpoint; loopback only.
    pub listen: Option<SocketAddr>,
    /// How often the status object is written when nothing else was uploaded, microseconds.
    pub every: i64,
}

/// Limits on what is taken in; beyond them a message is rejected.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of a payload.
    pub payload: usize,
    /// Nesting of a payload.
    pub depth: usize,
    /// Readings of one message.
    pub readings: usize,
    /// Bytes of one text, name or tag.
    pub text: usize,
    /// Series of one source.
    pub series: usize,
    /// Series of one device of a source, so that one that makes up names doesn't take the others' room.
    pub device_series: usize,
    /// Windows of one series each that may be open at once: 16 bytes each.
    pub open_windows: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            min_free: 256 << 20,
            ballast: 8 << 20,
            commit_interval: SECOND,
            flash_per_day: 0,
            flash_endurance: 0,
            release_on: ReleaseOn::Registered,
            retain: 7 * DAY_MICROS,
            dedupe_window: HOUR,
            dedupe_messages: 100_000,
        }
    }
}

impl Default for Segment {
    fn default() -> Self {
        Self { max_rows: 1_000_000, max_bytes: 5 << 20, max_age: 15 * MINUTE }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9617))), every: 15 * MINUTE }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload: 1 << 20,
            depth: 32,
            readings: 10_000,
            text: 4096,
            series: 100_000,
            device_series: 10_000,
            open_windows: 1_000_000,
        }
    }
}
