//! The fleet: how every gateway and every table is, as a page, an API and a command.
//!
//! In: the ledger's facts, the receiver's own health, a moment. Out: one [`Fleet`], the worst first, drawn as HTML or
//! JSON. Absent on purpose: state of its own, scripts, and any way to change something.

pub mod roster;
pub mod page;
pub mod text;
pub mod server;
pub mod ask;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tributary_contract::status::{DesiredStatus, RefusedSegment};
use tributary_contract::time::Timestamp;

/// How a gateway is, in one word. The lesser, the worse: rosters are sorted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Readings are being lost.
    Losing,
    /// Two buffers write under its name, or one was restored from a copy.
    Forked,
    /// Nothing was heard of it for long.
    Silent,
    /// It works, but not everything is where it should be.
    Behind,
    /// All is well.
    Healthy,
}

impl Word {
    /// All words, the worst first.
    pub const ALL: [Word; 5] = [Word::Losing, Word::Forked, Word::Silent, Word::Behind, Word::Healthy];

    /// The word itself.
    pub const fn text(self) -> &'static str {
        match self {
            Word::Losing => "losing",
            Word::Forked => "forked",
            Word::Silent => "silent",
            Word::Behind => "behind",
            Word::Healthy => "healthy",
        }
    }
}

/// Everything page, API and command show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// When this was put together.
    pub at: Timestamp,
    /// Gateways, the worst first, then by name.
    pub gateways: Vec<GatewayRow>,
    /// Tables by name.
    pub tables: Vec<TableRow>,
    /// What the receiver itself can't reach, a sentence each.
    pub failing: Vec<String>,
    /// Objects in the bucket that are no segments.
    pub strays: u64,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayRow {
    /// Its name.
    pub gateway: String,
    /// How it is.
    pub health: Word,
    /// Why it isn't healthy, a sentence each.
    pub reasons: Vec<String>,
    /// Event time of the oldest reading that isn't known as registered, by its own account.
    pub oldest_unsafe: Option<Timestamp>,
    /// Bytes sealed and not delivered, by its own account.
    pub backlog_bytes: Option<u64>,
    /// Bytes of its buffer, by its own account.
    pub buffer_bytes: Option<u64>,
    /// Segments in the tables, over all epochs.
    pub registered: u64,
    /// Segments that it calls sealed and that aren't settled.
    pub outstanding: u64,
    /// Segments that were refused.
    pub quarantined: u64,
    /// Readings that it shed or lost.
    pub lost: u64,
    /// Segment numbers that it declared void.
    pub void: u64,
    /// When something of it last came to the bucket.
    pub last_seen: Option<Timestamp>,
    /// Version of the agent.
    pub agent: Option<String>,
    /// Revision of its receipt.
    pub receipt_revision: u64,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its epochs, the newest last.
    pub epochs: Vec<EpochRow>,
    /// Segments that it can't deliver or that were set aside, by its own account.
    #[serde(default)]
    pub refused: Vec<RefusedSegment>,
    /// What came of what operators asked of it, by its own account.
    #[serde(default)]
    pub desired: Option<DesiredStatus>,
}

/// One epoch of a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// The epoch.
    pub epoch: String,
    /// Registered numbers.
    pub registered: String,
    /// Numbers that are called sealed and aren't in the bucket.
    pub missing: String,
    /// Void numbers.
    pub void: String,
    /// The highest number of a manifest.
    pub newest: u64,
    /// Whether no more numbers come.
    pub closed: bool,
    /// Refused numbers, each with reason and detail.
    pub quarantined: Vec<(u64, String, String)>,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// `namespace.table`.
    pub table: String,
    /// Rows registered by this ledger.
    pub rows: u64,
    /// Data files registered by this ledger.
    pub files: u64,
    /// Segments that wait for their commit.
    pub waiting: u64,
    /// Last settled batch.
    pub batch: u64,
    /// Its snapshot.
    pub snapshot: Option<i64>,
    /// When it was settled.
    pub settled_at: Option<Timestamp>,
    /// Why nothing more is registered, if so.
    pub stopped: Option<String>,
}

/// An instant to the second, as RFC 3339 has it.
pub fn instant(at: &Timestamp) -> String {
    Timestamp(at.0.div_euclid(1_000_000).saturating_mul(1_000_000)).to_string()
}

/// An instant to the second, as people read it: `2026-03-01 12:00:05`, in UTC.
pub fn readable(at: &Timestamp) -> String {
    instant(at).replace('T', " ").trim_end_matches('Z').to_owned()
}
