//! The rows that the buffer gives out: readings, series, gaps and rejects.

use std::sync::Arc;

use tributary_contract::desired::Backfill;
use tributary_contract::id::Namespace;
use tributary_contract::quality::Quality;
use tributary_contract::reject::{GapReason, RejectReason};
use tributary_contract::series::{SeriesId, Tags};
use tributary_contract::time::Timestamp;

use crate::config::Selection;
use crate::ingest::decode::pattern::selects;
use crate::reading::Value;

/// A reading as it is read back from the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Unique and growing in its epoch; not dense.
    pub seq: u64,
    /// Event time.
    pub ts: Timestamp,
    /// When its message was received.
    pub received_at: Timestamp,
    /// Key of its series in the dictionary.
    pub series: u32,
    /// Value.
    pub value: Value,
    /// Doubts.
    pub quality: Quality,
    /// Tags of this reading alone.
    pub row_tags: Option<Arc<Tags>>,
    /// It lies within its series' deadband: it stays here, and the aggregates of its windows stand for it.
    pub kept_back: bool,
}

/// What a dictionary key stands for: (namespace, source, device, metric, tags, unit).
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesEntry {
    /// The key.
    pub key: u32,
    /// Name of (device, metric, tags) in the tables.
    pub id: SeriesId,
    /// Owner of the data.
    pub namespace: Namespace,
    /// Name of the source.
    pub source: String,
    /// Device.
    pub device: String,
    /// Metric.
    pub metric: String,
    /// Tags that identify the series.
    pub tags: Tags,
    /// Unit, where known.
    pub unit: Option<String>,
    /// `double`, `long`, `boolean`, `string`, or `mixed`; integers among doubles are `double`.
    pub value_type: &'static str,
    /// Event time of the earliest reading.
    pub first_ts: Timestamp,
    /// Event time of the latest reading.
    pub last_ts: Timestamp,
}

impl SeriesEntry {
    /// Whether its source, device and metric all match.
    pub fn is_of(&self, selection: &Selection) -> bool {
        selects(selection, &self.source, &self.device, &self.metric)
    }

    /// Whether a backfill request names it: its namespace and, where given, exactly its device and its metric.
    pub fn is_asked_for(&self, request: &Backfill) -> bool {
        let of = |name: &Option<String>, own: &str| name.as_deref().is_none_or(|name| name == own);
        self.namespace == request.namespace
            && of(&request.device, &self.device)
            && of(&request.metric, &self.metric)
    }
}

/// A gap that waits for its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRow {
    /// In whose tables it stands.
    pub namespace: Namespace,
    /// Earliest event time that may be missing.
    pub from_ts: Timestamp,
    /// Latest event time that may be missing.
    pub to_ts: Timestamp,
    /// Unique name.
    pub id: String,
    /// Id of a gap that this one takes back.
    pub cancels: Option<String>,
    /// Name of the source.
    pub source: Option<String>,
    /// Device.
    pub device: Option<String>,
    /// Metric.
    pub metric: Option<String>,
    /// Reason.
    pub reason: GapReason,
    /// How many readings; none when unknown.
    pub readings: Option<u64>,
    /// How many stored bytes.
    pub bytes: Option<u64>,
    /// Least seq concerned.
    pub first_seq: Option<u64>,
    /// Greatest seq concerned.
    pub last_seq: Option<u64>,
    /// A sentence for people.
    pub detail: Option<String>,
    /// When it was recorded.
    pub recorded_at: Timestamp,
}

/// The type of a series' values by its word, where it is one.
pub fn value_type(word: &str) -> Option<&'static str> {
    ["double", "long", "boolean", "string", "mixed"].into_iter().find(|known| *known == word)
}

/// An alert that opened or closed, and waits for its segment.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertRow {
    /// In whose tables it stands.
    pub namespace: Namespace,
    /// Event time at which it changed its state.
    pub ts: Timestamp,
    /// Device.
    pub device: String,
    /// Metric.
    pub metric: String,
    /// Series.
    pub series: SeriesId,
    /// Name of the rule.
    pub rule: String,
    /// Its severity.
    pub severity: String,
    /// Whether it opened; else it closed.
    pub open: bool,
    /// The value that did it.
    pub value: Option<f64>,
    /// What that was compared with.
    pub expected: Option<f64>,
    /// How far it was from that, in standard deviations.
    pub score: Option<f64>,
}

impl AlertRow {
    /// Its state as the table has it.
    pub const fn state(&self) -> &'static str {
        if self.open { "open" } else { "closed" }
    }

    /// What names this change for ever: judged once more after a crash, it is the same.
    pub fn id(&self) -> String {
        Self::id_of(&self.rule, &self.series.to_string(), self.ts, self.state())
    }

    /// The same, of the columns of the table.
    pub fn id_of(rule: &str, series: &str, ts: Timestamp, state: &str) -> String {
        format!("{series} {} {state} {rule}", ts.0)
    }
}

/// Identical rejected messages, folded, that wait for their segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectRow {
    /// Row in the buffer.
    pub id: i64,
    /// In whose tables it stands.
    pub namespace: Namespace,
    /// When the first of them came.
    pub received_at: Timestamp,
    /// Topic of the first.
    pub topic: String,
    /// Name of the source.
    pub source: Option<String>,
    /// Reason.
    pub reason: RejectReason,
    /// What was expected and what was got, of the first.
    pub detail: Option<String>,
    /// Bytes of the payload.
    pub size: u64,
    /// The payload's first KiB; none where the day's budget was used up.
    pub payload: Option<Vec<u8>>,
    /// How many there were.
    pub occurrences: u64,
}

/// By what a reject of a segment that was read back is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectKey {
    /// When the first of them came.
    pub received_at: Timestamp,
    /// Topic of the first.
    pub topic: String,
    /// Name of the source.
    pub source: Option<String>,
    /// Reason.
    pub reason: RejectReason,
}

/// A batch: one commit of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSpan {
    /// Its id; grows with time.
    pub id: i64,
    /// Ordinal of its epoch.
    pub epoch: u32,
    /// Seq of its first row; the others follow without holes.
    pub first_seq: u64,
    /// How many rows; may be none.
    pub rows: u32,
    /// Least event time; of a batch without rows, when it was committed.
    pub min_ts: Timestamp,
    /// Greatest event time; of a batch without rows, when it was committed.
    pub max_ts: Timestamp,
    /// Earliest receipt; of a batch without rows, when it was committed.
    pub min_received: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
}

#[cfg(test)]
impl SeriesEntry {
    /// One without tags, unit and past, whose key is 0.
    pub fn of(source: &str, device: &str, metric: &str) -> Self {
        Self {
            key: 0,
            id: SeriesId::of(device, metric, &Tags::new()),
            namespace: Namespace::default(),
            source: source.into(),
            device: device.into(),
            metric: metric.into(),
            tags: Tags::new(),
            unit: None,
            value_type: "double",
            first_ts: Timestamp(0),
            last_ts: Timestamp(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_of_a_selection_where_its_source_device_and_metric_all_match() {
        let globs = |list: &[&str]| list.iter().map(|g| (*g).to_owned()).collect();
        let some = Selection {
            sources: globs(&["plant"]),
            devices: Vec::new(),
            metrics: globs(&["temp*", "energy"]),
        };
        let is_of = |names: [&str; 3]| SeriesEntry::of(names[0], names[1], names[2]).is_of(&some);
        assert!(is_of(["plant", "d", "temp_in"]) && is_of(["plant", "x", "energy"]));
        assert!(!is_of(["plant", "d", "humidity"]) && !is_of(["office", "d", "energy"]));
        assert!(SeriesEntry::of("a", "b", "c").is_of(&Selection::default()));
    }
}
