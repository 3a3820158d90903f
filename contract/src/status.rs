//! The status of a gateway: long form as an object in the bucket, short form in every manifest.
//!
//! All fields but the first few have defaults, so that a receiver reads the status of older and newer agents.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::counters::Counters;
use crate::id::{Epoch, GatewayId};
use crate::time::Timestamp;

/// How a gateway is, in one word. Ordered: the greater, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Everything works.
    #[default]
    Ok,
    /// Works, but something needs a look.
    Degraded,
    /// Data is being lost, or can't be taken in.
    Losing,
}

/// The short form, in each manifest.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ShortStatus {
    /// When, by the gateway's clock.
    pub at: Timestamp,
    /// Version of the agent.
    pub agent: String,
    /// In one word.
    pub health: Health,
    /// Event time of the oldest reading that isn't known as registered.
    pub oldest_unsafe: Option<Timestamp>,
    /// Bytes of the buffer on disk.
    pub buffer_bytes: u64,
    /// Bytes of segments that aren't delivered.
    pub backlog_bytes: u64,
    /// Revision of the last receipt taken.
    pub receipt_revision: u64,
}

/// The long form: `<prefix>/status/<gateway>.json`, also served by the agent's local endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Format version.
    pub version: u32,
    /// Whose.
    pub gateway: GatewayId,
    /// Current epoch of its buffer.
    pub epoch: Epoch,
    /// When, by the gateway's clock.
    pub at: Timestamp,
    /// Version of the agent.
    pub agent: String,
    /// When the agent started.
    #[serde(default)]
    pub started_at: Timestamp,
    /// In one word.
    #[serde(default)]
    pub health: Health,
    /// What to look at, a sentence each; empty when all is well.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Tags of the gateway.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Namespaces it writes.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Both laws' counters of the current epoch.
    #[serde(default)]
    pub counters: Counters,
    /// Redelivered messages by the rule that recognised them: `session`, `content`.
    #[serde(default)]
    pub redelivered: BTreeMap<String, u64>,
    /// Rejected messages by reason.
    #[serde(default)]
    pub rejected: BTreeMap<String, u64>,
    /// Readings that came too late for any correction of their window.
    #[serde(default)]
    pub too_late: u64,
    /// Alerts that are open.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub alerts: u64,
    /// The buffer.
    #[serde(default)]
    pub buffer: BufferStatus,
    /// Segments by state.
    #[serde(default)]
    pub segments: SegmentStatus,
    /// The way to the bucket.
    #[serde(default)]
    pub link: LinkStatus,
    /// Each broker connection.
    #[serde(default)]
    pub brokers: Vec<BrokerStatus>,
    /// Each source.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// The last receipt.
    #[serde(default)]
    pub receipt: ReceiptStatus,
    /// What was written to flash, where the agent counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flash: Option<FlashStatus>,
    /// What came of what operators asked for, where they asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<DesiredStatus>,
}

/// What came of the gateway's desired document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DesiredStatus {
    /// The last revision that was taken; 0 for none.
    pub revision: u64,
    /// Why the document in the bucket isn't taken, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What of the taken one isn't done, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_applied: Vec<String>,
    /// Its backfill requests: those that haven't ended first, then the newest of the others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backfills: Vec<BackfillStatus>,
    /// How many more there are, which have ended.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_backfills: u64,
}

/// How far a backfill request is. Every reading that it meant and that the gateway had is one of `asked` or `already`; of
/// those asked for, the ones that neither wait nor were given up are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BackfillStatus {
    /// Its name.
    pub id: String,
    /// `pending`: not looked at yet. `sending`: something of it isn't registered. `done`: all of it is, or was set aside by
    /// the receiver or given up here, or there was nothing. `refused`.
    pub state: String,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Readings that were kept back and that it asked for before anybody else.
    pub asked: u64,
    /// Of these, not sealed yet.
    pub waiting: u64,
    /// Of these, given up before they were sealed; `gaps` has them.
    pub given_up: u64,
    /// Readings that were sent already, on their way, or asked for before.
    pub already: u64,
    /// Whole hours of the range, and its ends, in which the buffer had no reading that it meant: sent and let go of,
    /// given up, or never measured. The longest ones if there are many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<(Timestamp, Timestamp)>,
}

/// What was written to flash; bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlashStatus {
    /// Written by the agent since it started.
    pub own_bytes: u64,
    /// Written to the whole device since then, by anybody; none where the device has no counter.
    pub device_bytes: Option<u64>,
    /// Payloads taken in since then.
    pub payload_bytes: u64,
    /// The first of these per payload byte.
    pub own_per_payload: Option<f64>,
    /// The second of these per payload byte.
    pub device_per_payload: Option<f64>,
    /// Written by the agent on this UTC day.
    pub today_bytes: u64,
    /// Written a day, by the device's counter where there is one; none before an hour has passed.
    pub bytes_per_day: Option<u64>,
    /// Budget a day; 0 for none.
    pub budget_per_day: u64,
    /// What the device is rated for; 0 where that isn't set.
    pub endurance: u64,
    /// Days that are left of it at this rate, counted from when the agent began to count.
    pub life_days: Option<f64>,
    /// The commit interval in force, milliseconds.
    pub commit_interval_ms: u64,
}

/// A field that came later is left out where it says nothing: what was written before is still written the same.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The buffer on disk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BufferStatus {
    /// Bytes of database, log and segment files.
    pub bytes: u64,
    /// Of these, free inside the database's file, which doesn't shrink: taken again before it grows.
    #[serde(skip_serializing_if = "is_zero")]
    pub reusable: u64,
    /// The budget.
    pub max_bytes: u64,
    /// Free bytes of the file system.
    pub disk_free: Option<u64>,
    /// Batches in the journal.
    pub batches: u64,
    /// Event time of the oldest reading that isn't known as registered.
    pub oldest_unsafe: Option<Timestamp>,
    /// Durable commits since the start.
    pub commits: u64,
    /// How many epochs this buffer has had; 0 for the first.
    pub ordinal: u64,
}

/// Segments by state.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SegmentStatus {
    /// Highest number sealed in this epoch.
    pub last_number: u64,
    /// Sealed since the epoch began.
    pub sealed: u64,
    /// Delivered since the epoch began.
    pub delivered: u64,
    /// Known as registered since the epoch began.
    pub registered: u64,
    /// Sealed, not delivered.
    pub undelivered: u64,
    /// Bytes of these.
    pub backlog_bytes: u64,
    /// Delivered, without receipt.
    pub unregistered: u64,
    /// Refused for good by the bucket; kept on disk.
    pub held: u64,
    /// Refused by the receiver.
    pub quarantined: u64,
    /// Another object holds the name.
    pub superseded: u64,
    /// Segments that are held, quarantined or superseded, each with its reason; the newest if there are many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedSegment>,
}

/// A segment that doesn't go its way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedSegment {
    /// Its epoch.
    pub epoch: String,
    /// Its number.
    pub number: u64,
    /// `held`, `quarantined` or `superseded`.
    pub state: String,
    /// Why, in a sentence.
    pub reason: String,
}

/// The way to the bucket.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStatus {
    /// When the bucket last answered well.
    pub last_success: Option<Timestamp>,
    /// The last failure, while it lasts.
    pub failing: Option<String>,
    /// Since when it fails.
    pub failing_since: Option<Timestamp>,
    /// Bytes of objects sent since the start.
    pub bytes_sent: u64,
    /// Requests since the start.
    pub requests: u64,
    /// What the agent's policy of the link knows, where the agent has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<LinkPolicy>,
}

/// What may go over the link, and when the rest; bytes are those on the wire, both ways, estimated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkPolicy {
    /// The set of defaults: `default`, `metered`.
    pub profile: String,
    /// Nothing is sent but the status.
    pub paused: bool,
    /// Bytes a second that the link carries, as measured; none before enough was sent.
    pub rate: Option<u64>,
    /// Bytes a second that are permitted; 0 for no limit.
    pub max_rate: u64,
    /// Bytes sent on this local day.
    pub today_bytes: u64,
    /// Budget of a day; 0 for none.
    pub max_per_day: u64,
    /// Bytes sent in this local month.
    pub month_bytes: u64,
    /// Budget of a month; 0 for none.
    pub max_per_month: u64,
    /// The greatest segment that is made now, bytes.
    pub segment_bytes: u64,
    /// Uploads at once.
    pub uploads: u64,
    /// Why something waits, while it does.
    pub waits: Option<String>,
    /// When everything that waits will be delivered, seconds from now; none where that isn't known or has no end.
    pub drain_seconds: Option<u64>,
}

/// One broker connection.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BrokerStatus {
    /// URL without credentials.
    pub url: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Protocol in use: 5 or 3.1.1.
    pub protocol: String,
    /// Since when it is in this state.
    pub since: Option<Timestamp>,
    /// The last failure, while it lasts.
    pub failing: Option<String>,
    /// How often it connected since the start.
    pub connects: u64,
    /// Acknowledgements sent since the start.
    pub acknowledged: u64,
    /// Messages on topics that no source matches.
    pub unmatched: u64,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Messages since the start.
    pub messages: u64,
    /// Of these at QoS 0: lost if power goes before the next commit.
    pub qos0: u64,
    /// Rejected since the start.
    pub rejected: u64,
    /// When the last one came.
    pub last_at: Option<Timestamp>,
}

/// The last receipt.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceiptStatus {
    /// Its revision.
    pub revision: u64,
    /// When it was taken.
    pub at: Option<Timestamp>,
    /// Revisions not above the last one, seen for over ten minutes.
    pub stale: bool,
    /// Numbers it named that were never sealed here, or with another digest.
    pub forked: bool,
}
