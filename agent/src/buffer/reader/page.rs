//! Questions about the buffer and the pages that answer them, as they travel between a command and a running agent.

use std::fmt::Display;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tributary_contract::counters::Counters;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::range::Ranges;
use tributary_contract::series::{SeriesId, Tags};
use tributary_contract::time::Timestamp;

use crate::buffer::bits::RowSet;
use crate::buffer::block;
use crate::buffer::entry::{Entry, Progress};
use crate::buffer::error::BufferError;
use crate::buffer::files::segment_name;
use crate::buffer::row::{RejectRow, Row, SeriesEntry, value_type};

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Whose buffer it is, its counters and bytes.
    Facts,
    /// Batches behind an id that may hold readings with `from <= ts < to`, oldest first.
    Batches {
        /// Id.
        after: i64,
        /// Earliest event time.
        from: Timestamp,
        /// The first event time beyond.
        to: Timestamp,
    },
    /// Batches before an id, newest first.
    BatchesBefore {
        /// Id.
        before: i64,
    },
    /// Series behind a key.
    Series {
        /// Key; -1 for the first page.
        after: i64,
    },
    /// Segments behind one (ordinal of its epoch, number).
    Segments {
        /// The one; (0, 0) for the first page.
        after: (u32, u64),
    },
    /// Segment files that no row knows.
    Strays,
    /// Rejects behind an id.
    Rejects {
        /// Id; 0 for the first page.
        after: i64,
    },
    /// Whether gaps, decisions, settings and the rest can be read.
    Others,
}

/// An answer. `next` is where the next page goes on; none where this was the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Page {
    /// To [`Ask::Facts`].
    Facts(Facts),
    /// To [`Ask::Batches`] and [`Ask::BatchesBefore`].
    Batches {
        /// The batches.
        batches: Vec<BatchFacts>,
        /// What couldn't be read.
        faults: Vec<Fault>,
        /// Id.
        next: Option<i64>,
    },
    /// To [`Ask::Series`].
    Series {
        /// The series.
        series: Vec<SeriesFacts>,
        /// What couldn't be read.
        faults: Vec<Fault>,
        /// Key.
        next: Option<i64>,
    },
    /// To [`Ask::Segments`].
    Segments {
        /// The segments.
        segments: Vec<SegmentFacts>,
        /// What couldn't be read.
        faults: Vec<Fault>,
        /// Ordinal and number.
        next: Option<(u32, u64)>,
    },
    /// To [`Ask::Strays`]: names of files.
    Strays(Vec<String>),
    /// To [`Ask::Rejects`].
    Rejects {
        /// The rejects.
        rejects: Vec<RejectFacts>,
        /// What couldn't be read.
        faults: Vec<Fault>,
        /// Id.
        next: Option<i64>,
    },
    /// To [`Ask::Others`].
    Others {
        /// How many gaps wait for their segment or its receipt.
        gaps: u64,
        /// What couldn't be read.
        faults: Vec<Fault>,
    },
}

/// Something that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which row, file or table.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

impl Fault {
    /// The fault of `what`.
    pub fn new(what: impl Into<String>, why: impl Display) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}

/// The buffer as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Whose it is; none where that can't be read.
    pub gateway: Option<String>,
    /// Its epochs, the current one last.
    pub epochs: Vec<EpochFacts>,
    /// Id of the oldest batch.
    pub oldest_batch: Option<i64>,
    /// Id of the newest batch.
    pub newest_batch: Option<i64>,
    /// Readings that wait as the running agent counts them; none where it isn't running, or holds some for the clock.
    pub waiting: Option<u64>,
    /// Bytes of database and log.
    pub database_bytes: u64,
    /// Bytes of segment files.
    pub segment_bytes: u64,
    /// Bytes of damaged files that were set aside.
    pub aside_bytes: u64,
    /// Bytes of the ballast.
    pub ballast_bytes: u64,
    /// What was counted of flash, JSON.
    pub flash: Option<String>,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochFacts {
    /// How many epochs were before it.
    pub ordinal: u32,
    /// Its name.
    pub epoch: Epoch,
    /// Highest number sealed.
    pub last_number: u64,
    /// Numbers that will never come.
    pub void: Ranges,
    /// Whether its counters were lost and begun anew.
    pub rebuilt: bool,
    /// Which law its counters break, if one.
    pub law: Option<String>,
    /// Its counters.
    pub counters: Counters,
    /// Readings in segments without receipt, counted in the outbox.
    pub outstanding: u64,
}

/// One batch, its rows as they are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchFacts {
    /// Id.
    pub id: i64,
    /// Ordinal of its epoch.
    pub epoch: u32,
    /// Seq of its first row.
    pub first_seq: u64,
    /// How many rows.
    pub rows: u32,
    /// Least event time.
    pub min_ts: Timestamp,
    /// Greatest event time.
    pub max_ts: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Whether the clock could be believed then.
    pub synced: bool,
    /// Rows that are registered, shed, moved or given up.
    pub ended: u32,
    /// Bytes of the memory of redeliveries.
    pub memory_bytes: u64,
    /// What is wrong with it.
    pub fault: Option<String>,
    /// The block.
    #[serde(with = "base64_text")]
    pub block: Vec<u8>,
    /// Bitmap of sealed rows.
    #[serde(with = "base64_text")]
    pub sealed: Vec<u8>,
    /// Bitmap of shed rows.
    #[serde(with = "base64_text")]
    pub shed: Vec<u8>,
    /// Bitmap of rows that another epoch took over.
    #[serde(with = "base64_text")]
    pub moved: Vec<u8>,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowState {
    /// It waits to be sealed.
    Waiting,
    /// It is in a segment, perhaps long registered.
    Sealed,
    /// It was given up for room.
    Shed,
    /// Another epoch took it over: it stands there, too.
    Moved,
}

impl RowState {
    /// As tables spell it.
    pub const fn word(self) -> &'static str {
        match self {
            RowState::Waiting => "waiting",
            RowState::Sealed => "sealed",
            RowState::Shed => "shed",
            RowState::Moved => "moved",
        }
    }
}

impl BatchFacts {
    /// Its rows and what became of each; the error says why they can't be read.
    ///
    /// # Errors
    /// A sentence.
    pub fn read(&self) -> Result<Vec<(RowState, Row)>, String> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let rows = block::decode(&self.block, self.first_seq).map_err(|e| e.to_string())?;
        if rows.len() != self.rows as usize {
            return Err(format!("its block has {} rows, expected {}", rows.len(), self.rows));
        }
        let set = |bytes: &[u8]| RowSet::decode(bytes, self.rows).map_err(|e| format!("its bitmaps: {e}"));
        let (sealed, shed, moved) = (set(&self.sealed)?, set(&self.shed)?, set(&self.moved)?);
        let state = |i| {
            if moved.contains(i) {
                RowState::Moved
            } else if shed.contains(i) {
                RowState::Shed
            } else if sealed.contains(i) {
                RowState::Sealed
            } else {
                RowState::Waiting
            }
        };
        Ok((0u32..).zip(rows).map(|(i, row)| (state(i), row)).collect())
    }
}

/// A series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesFacts {
    /// Key in the blocks.
    pub key: u32,
    /// Owner of the data.
    pub namespace: String,
    /// Source.
    pub source: String,
    /// Device.
    pub device: String,
    /// Metric.
    pub metric: String,
    /// Tags.
    pub tags: Tags,
    /// Unit.
    pub unit: Option<String>,
    /// Type of its values.
    pub value_type: String,
    /// Earliest event time, as of when it was last written.
    pub first_ts: Timestamp,
    /// Latest event time, likewise.
    pub last_ts: Timestamp,
}

impl SeriesFacts {
    pub(super) fn of(entry: &SeriesEntry) -> Self {
        Self {
            key: entry.key,
            namespace: entry.namespace.to_string(),
            source: entry.source.clone(),
            device: entry.device.clone(),
            metric: entry.metric.clone(),
            tags: entry.tags.clone(),
            unit: entry.unit.clone(),
            value_type: entry.value_type.to_owned(),
            first_ts: entry.first_ts,
            last_ts: entry.last_ts,
        }
    }

    /// As an entry of the dictionary.
    pub fn entry(&self) -> SeriesEntry {
        SeriesEntry {
            key: self.key,
            id: SeriesId::of(&self.device, &self.metric, &self.tags),
            namespace: self.namespace.parse().unwrap_or_default(),
            source: self.source.clone(),
            device: self.device.clone(),
            metric: self.metric.clone(),
            tags: self.tags.clone(),
            unit: self.unit.clone(),
            value_type: value_type(&self.value_type).unwrap_or("mixed"),
            first_ts: self.first_ts,
            last_ts: self.last_ts,
        }
    }
}

/// A segment of the outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// Ordinal of its epoch.
    pub ordinal: u32,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub number: u64,
    /// Its name in the bucket, below gateway and epoch.
    pub name: String,
    /// Its table.
    pub table: String,
    /// SHA-256 of its bytes.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
    /// Its rows.
    pub rows: u64,
    /// How far it is.
    pub progress: Progress,
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// Not to be tried before.
    pub next_at: Timestamp,
    /// Bytes of its file, if it is there.
    pub file: Option<u64>,
    /// What contradicts its row.
    pub contradicted: Vec<String>,
}

impl SegmentFacts {
    pub(super) fn of(entry: &Entry, ordinal: u32, file: Option<u64>, contradicted: Vec<String>) -> Self {
        let id = &entry.key;
        Self {
            ordinal,
            epoch: entry.epoch,
            number: entry.number.get(),
            name: id.file_name(),
            table: id.table.to_string(),
            digest: entry.digest.to_string(),
            size: entry.size,
            rows: entry.rows,
            progress: entry.state.clone(),
            attempts: entry.attempts,
            next_at: entry.next_at,
            file,
            contradicted,
        }
    }

    /// The name of its file in the folder `segments`.
    pub fn file_name(&self) -> String {
        Number::new(self.number).map(|number| segment_name(self.epoch, number)).unwrap_or_default()
    }
}

/// Identical rejected messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectFacts {
    /// Id in the buffer.
    pub id: i64,
    /// Owner of the data.
    pub namespace: String,
    /// When the first of them came.
    pub received_at: Timestamp,
    /// Topic of the first.
    pub topic: String,
    /// Source.
    pub source: String,
    /// Reason.
    pub reason: String,
    /// What was expected and what was got.
    pub detail: Option<String>,
    /// Bytes of the payload.
    pub size: u64,
    /// The payload's first KiB, base64.
    pub payload_base64: Option<String>,
    /// How many there were.
    pub occurrences: u64,
    /// Number of the segment that holds it.
    pub segment: Option<u64>,
    /// Whether its readings were put into the buffer afterwards.
    pub retried: bool,
}

impl RejectFacts {
    pub(super) fn of(row: RejectRow, segment: Option<u64>, retried: &Retried) -> Self {
        Self {
            retried: retried.contains(&row),
            id: row.id,
            namespace: row.namespace.to_string(),
            received_at: row.received_at,
            topic: row.topic,
            source: row.source.unwrap_or_default(),
            reason: row.reason.code().to_owned(),
            detail: row.detail,
            size: row.size,
            payload_base64: row.payload.map(|bytes| base64_text::encode(&bytes)),
            occurrences: row.occurrences,
            segment,
        }
    }

    /// The payload's first KiB.
    pub fn payload(&self) -> Option<Vec<u8>> {
        self.payload_base64.as_deref().and_then(base64_text::decode)
    }
}

/// The rejects that were retried, as a setting of the buffer keeps them: ids may be given again once a reject is gone, so
/// the time of receipt stands beside each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retried(Vec<(i64, Timestamp)>);

impl Retried {
    /// The setting's key.
    pub const KEY: &'static str = "rejects-retried";

    pub(in crate::buffer) fn load(sql: &Connection) -> Result<Self, BufferError> {
        let mut select = sql.prepare_cached("SELECT value FROM setting WHERE key = ?1")?;
        let mut found = select.query([Self::KEY])?;
        let kept: Option<Vec<u8>> = found.next()?.map(|r| r.get(0)).transpose()?;
        Ok(kept.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default())
    }

    /// Whether a reject is among them.
    pub fn contains(&self, row: &RejectRow) -> bool {
        self.0.contains(&(row.id, row.received_at))
    }

    pub(in crate::buffer) fn insert(&mut self, row: &RejectRow) {
        self.0.push((row.id, row.received_at));
    }

    /// Forgets those that `is_there` doesn't know.
    pub(in crate::buffer) fn retain(&mut self, is_there: impl Fn(i64) -> bool) {
        self.0.retain(|(id, _)| is_there(*id));
    }
}

/// Bytes as a text of JSON.
mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        STANDARD.decode(text).ok()
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        decode(&text).ok_or_else(|| serde::de::Error::custom("no base64"))
    }
}
