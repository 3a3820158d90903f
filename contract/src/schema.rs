//! The columns of the six tables: name, type, Iceberg field id. The only place where a column is named.
//!
//! Ids are fixed for ever. Top-level columns count from 1; the key and value of `tags` follow behind the last column of
//! version 1, which is the order in which an Iceberg catalog hands out ids to a new table. Columns added later stand
//! behind all others and take the ids behind all of these, which is what a catalog does with a column that is added; they
//! may be null, and a segment leaves out those that it has no value for.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::table::Table;

/// The Arrow metadata key by which Parquet and Iceberg know a field's id.
pub const FIELD_ID_KEY: &str = "PARQUET:field_id";

/// Type of a column, as Iceberg v2 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `timestamp`: microseconds, in UTC. Not `timestamptz`: Athena creates only this one.
    Timestamp,
    /// `string`
    String,
    /// `double`
    Double,
    /// `long`
    Long,
    /// `int`
    Int,
    /// `boolean`
    Boolean,
    /// `binary`
    Binary,
    /// `map<string, string>` with required values; the field ids of key and value.
    StringMap {
        /// Field id of the key.
        key_id: i32,
        /// Field id of the value.
        value_id: i32,
    },
}

/// One column of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Iceberg field id, fixed for ever.
    pub id: i32,
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: ColumnType,
    /// Whether null is refused.
    pub required: bool,
    /// One sentence for the catalog.
    pub doc: &'static str,
}

const fn req(id: i32, name: &'static str, kind: ColumnType, doc: &'static str) -> Column {
    Column { id, name, kind, required: true, doc }
}

const fn opt(id: i32, name: &'static str, kind: ColumnType, doc: &'static str) -> Column {
    Column { id, name, kind, required: false, doc }
}

use ColumnType::{Binary, Boolean, Double, Int, Long, String as Text, StringMap, Timestamp};

const DEVICE: &str = "Device that measured.";
const METRIC: &str = "What was measured.";
const SERIES: &str = "Series: 16 hex digits, hash of device, metric and identifying tags.";
const SOURCE: &str = "Source of the gateway's configuration that took it in.";
const GATEWAY: &str = "Gateway that delivered this row: the IoT thing name.";
const EPOCH: &str = "Epoch of the gateway's buffer: 16 hex digits.";
const NUMBER: &str = "Number of the segment, in its epoch, that brought this row.";

const READINGS: &[Column] = &[
    req(1, "ts", Timestamp, "Event time in UTC: the payload's own, else the time of receipt."),
    req(2, "device", Text, DEVICE),
    req(3, "metric", Text, METRIC),
    opt(
        4,
        "value",
        Double,
        "Numeric view: booleans are 0 or 1, great integers the nearest double; null for text.",
    ),
    opt(5, "value_int", Long, "The exact integer, only where the double isn't exact."),
    opt(6, "value_bool", Boolean, "The boolean, only where the payload had one."),
    opt(7, "value_text", Text, "The text, only where the payload had one."),
    opt(8, "unit", Text, "Unit, where payload or configuration says it."),
    opt(9, "tags", StringMap { key_id: 18, value_id: 19 }, "Tags, keys sorted; null when there are none."),
    req(10, "series", Text, SERIES),
    opt(11, "quality", Text, "Null is good; else codes joined by commas."),
    req(12, "received_at", Timestamp, "When the gateway received the message, UTC, in whole milliseconds."),
    req(13, "source", Text, SOURCE),
    req(14, "seq", Long, "Number of the reading in the journal: unique and growing per epoch, not dense."),
    req(15, "gateway", Text, GATEWAY),
    req(16, "buffer_epoch", Text, EPOCH),
    req(17, "segment_number", Long, NUMBER),
];

const AGGREGATES: &[Column] = &[
    req(1, "window_start", Timestamp, "First instant of the window, UTC."),
    req(2, "window_end", Timestamp, "First instant behind the window, UTC."),
    req(3, "window_name", Text, "Name of the window in the gateway's configuration."),
    req(4, "device", Text, DEVICE),
    req(5, "metric", Text, METRIC),
    opt(
        6,
        "tags",
        StringMap { key_id: 31, value_id: 32 },
        "Identifying tags, keys sorted; null when there are none.",
    ),
    req(7, "series", Text, SERIES),
    req(
        8,
        "samples",
        Long,
        "How many readings the row is of: those with a numeric view, or texts where there is none.",
    ),
    opt(9, "value_min", Double, "Least value."),
    opt(10, "value_max", Double, "Greatest value."),
    opt(11, "value_mean", Double, "Arithmetic mean."),
    opt(12, "value_sum", Double, "Sum, compensated after Neumaier."),
    opt(
        13,
        "value_stddev",
        Double,
        "Standard deviation of the sample (n - 1), after Welford; null for one reading.",
    ),
    opt(14, "value_first", Double, "Value of the earliest reading; ties of time by seq."),
    opt(15, "value_last", Double, "Value of the latest reading; ties of time by seq."),
    opt(16, "first_ts", Timestamp, "Event time of the earliest reading."),
    opt(17, "last_ts", Timestamp, "Event time of the latest reading."),
    opt(18, "value_p50", Double, "Median, type 7 of Hyndman and Fan 1996."),
    opt(19, "value_p95", Double, "95th percentile, type 7."),
    opt(20, "value_p99", Double, "99th percentile, type 7."),
    opt(
        21,
        "time_weighted_mean",
        Double,
        "Mean weighted by how long each value held, carried over from before.",
    ),
    req(22, "coverage", Double, "Share of the window, 0 to 1, for which a value was known."),
    req(23, "revision", Int, "Grows each time the window is emitted again; the greatest counts."),
    req(24, "late", Long, "Readings in this window that came after it had first been closed."),
    req(25, "partial", Boolean, "Whether readings of this window were thinned before it was computed."),
    opt(26, "quality", Text, "Doubts of the readings in it; null is good."),
    req(27, "source", Text, SOURCE),
    req(28, "gateway", Text, GATEWAY),
    req(29, "buffer_epoch", Text, EPOCH),
    req(30, "segment_number", Long, NUMBER),
    opt(33, "value_increase", Double, "By how much a counter grew, its resets taken for a start from 0."),
    opt(34, "value_rate", Double, "That increase by the seconds of the window for which a value was known."),
    opt(35, "value_changes", Long, "How many readings have another value than the one before."),
    opt(36, "value_last_text", Text, "The latest text, of a window of texts; null where it holds numbers."),
    opt(
        37,
        "percentile_error",
        Double,
        "How far value_p50, value_p95 and value_p99 may be off, as a share of the value; null where they are exact.",
    ),
];

const SERIES_COLUMNS: &[Column] = &[
    req(1, "first_ts", Timestamp, "Earliest event time seen of this series in this epoch, UTC."),
    req(2, "last_ts", Timestamp, "Latest event time seen when this row was written, UTC."),
    req(3, "series", Text, SERIES),
    req(4, "device", Text, DEVICE),
    req(5, "metric", Text, METRIC),
    opt(
        6,
        "tags",
        StringMap { key_id: 13, value_id: 14 },
        "Identifying tags, keys sorted; null when there are none.",
    ),
    opt(7, "unit", Text, "Unit, where known."),
    req(8, "value_type", Text, "double, long, boolean or string: the type last seen."),
    req(9, "source", Text, SOURCE),
    req(10, "gateway", Text, GATEWAY),
    req(11, "buffer_epoch", Text, EPOCH),
    req(12, "segment_number", Long, NUMBER),
];

const GAPS: &[Column] = &[
    req(1, "from_ts", Timestamp, "Earliest event time that may be missing, UTC."),
    req(2, "to_ts", Timestamp, "Latest event time that may be missing, UTC."),
    req(3, "id", Text, "Unique name of this gap."),
    opt(4, "cancels", Text, "Id of a gap that this row takes back."),
    opt(5, "source", Text, SOURCE),
    opt(6, "device", Text, "Device, where the gap is one device's."),
    opt(7, "metric", Text, "Metric, where the gap is one metric's."),
    req(8, "reason", Text, "Code of the reason."),
    opt(9, "readings", Long, "How many readings are missing; null when unknown."),
    opt(10, "bytes", Long, "How many stored bytes that was."),
    opt(11, "first_seq", Long, "Least seq concerned: a bound, not a set."),
    opt(12, "last_seq", Long, "Greatest seq concerned: a bound, not a set."),
    opt(13, "detail", Text, "A sentence for people."),
    req(14, "recorded_at", Timestamp, "When the loss was recorded, UTC."),
    req(15, "recorded_by", Text, "agent or receiver."),
    req(16, "gateway", Text, GATEWAY),
    req(17, "buffer_epoch", Text, EPOCH),
    req(18, "segment_number", Long, NUMBER),
];

const REJECTS: &[Column] = &[
    req(1, "received_at", Timestamp, "When the first of these messages came, UTC, in whole milliseconds."),
    req(2, "topic", Text, "Topic of the first of these messages."),
    opt(3, "source", Text, "Source whose decoder refused it."),
    req(4, "reason", Text, "Code of the reason."),
    opt(5, "detail", Text, "A sentence for people: what was expected, what was got."),
    req(6, "size", Long, "Bytes of the payload."),
    opt(7, "payload", Binary, "The payload's first bytes, within the budget for kept bytes."),
    req(8, "occurrences", Long, "How many identical messages this row stands for."),
    req(9, "gateway", Text, GATEWAY),
    req(10, "buffer_epoch", Text, EPOCH),
    req(11, "segment_number", Long, NUMBER),
];

const ALERTS: &[Column] = &[
    req(1, "ts", Timestamp, "Event time at which the alert changed its state, UTC."),
    req(2, "device", Text, DEVICE),
    req(3, "metric", Text, METRIC),
    req(4, "series", Text, SERIES),
    req(5, "rule", Text, "Name of the rule in the gateway's configuration."),
    req(6, "severity", Text, "info, warning or critical."),
    req(7, "state", Text, "open or closed."),
    opt(8, "value", Double, "Value that changed the state."),
    opt(9, "expected", Double, "Threshold or expected value."),
    opt(10, "score", Double, "Anomaly score, where the rule has one."),
    opt(11, "window_name", Text, "Window, where the rule looks at aggregates."),
    req(12, "gateway", Text, GATEWAY),
    req(13, "buffer_epoch", Text, EPOCH),
    req(14, "segment_number", Long, NUMBER),
];

impl Table {
    /// All columns in their order in files and in the catalog. The first is the one that is partitioned by day.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Table::Readings => READINGS,
            Table::Aggregates => AGGREGATES,
            Table::Series => SERIES_COLUMNS,
            Table::Gaps => GAPS,
            Table::Rejects => REJECTS,
            Table::Alerts => ALERTS,
        }
    }

    /// Those of [`Table::columns`] with which the table began: version 1. All that stand behind came later.
    pub fn first_columns(self) -> &'static [Column] {
        let all = self.columns();
        let last = all.iter().position(|c| c.name == "segment_number").map_or(all.len(), |at| at + 1);
        all.split_at(last).0
    }

    /// The column whose UTC day partitions the table.
    pub const fn day_column(self) -> &'static Column {
        &self.columns()[0]
    }

    /// Names of the columns by which rows are sorted within a row group.
    pub const fn sort_columns(self) -> &'static [&'static str] {
        match self {
            Table::Readings => &["gateway", "device", "metric", "ts"],
            Table::Aggregates => &["gateway", "device", "metric", "window_start"],
            Table::Series => &["gateway", "device", "metric", "first_ts"],
            Table::Gaps => &["gateway", "from_ts"],
            Table::Rejects => &["gateway", "received_at"],
            Table::Alerts => &["gateway", "device", "metric", "ts"],
        }
    }

    /// The column of that name.
    pub fn column(self, name: &str) -> Option<&'static Column> {
        self.columns().iter().find(|c| c.name == name)
    }

    /// The Arrow schema of a segment, field ids in the metadata of each field.
    pub fn arrow_schema(self) -> SchemaRef {
        Arc::new(Schema::new(self.columns().iter().map(Column::arrow_field).collect::<Vec<_>>()))
    }
}

impl Column {
    /// The Arrow field, with its id in the metadata.
    pub fn arrow_field(&self) -> Field {
        let kind = match self.kind {
            Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Text => DataType::Utf8,
            Double => DataType::Float64,
            Long => DataType::Int64,
            Int => DataType::Int32,
            Boolean => DataType::Boolean,
            Binary => DataType::Binary,
            StringMap { key_id, value_id } => map_type(key_id, value_id),
        };
        Field::new(self.name, kind, !self.required).with_metadata(id_metadata(self.id))
    }
}

fn map_type(key_id: i32, value_id: i32) -> DataType {
    let key = Field::new("key", DataType::Utf8, false).with_metadata(id_metadata(key_id));
    let value = Field::new("value", DataType::Utf8, false).with_metadata(id_metadata(value_id));
    let entries = Field::new("key_value", DataType::Struct(Fields::from(vec![key, value])), false);
    DataType::Map(Arc::new(entries), false)
}

fn id_metadata(id: i32) -> HashMap<String, String> {
    HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn field_ids_are_handed_out_as_a_catalog_would() {
        for table in Table::ALL {
            let columns = table.first_columns();
            let top: Vec<i32> = columns.iter().map(|c| c.id).collect();
            assert_eq!(top, (1..=columns.len() as i32).collect::<Vec<_>>(), "{table}");
            let mut next = columns.len() as i32;
            for c in columns {
                if let StringMap { key_id, value_id } = c.kind {
                    assert_eq!((key_id, value_id), (next + 1, next + 2), "{table}");
                    next += 2;
                }
            }
            for c in &table.columns()[columns.len()..] {
                next += 1;
                assert_eq!((c.id, c.required), (next, false), "{table}.{}: what came later", c.name);
            }
        }
    }

    #[test]
    fn every_table_says_which_segment_a_row_came_from() {
        for table in Table::ALL {
            for name in ["gateway", "buffer_epoch", "segment_number"] {
                assert!(table.column(name).is_some_and(|c| c.required), "{table}.{name}");
            }
            assert_eq!(table.day_column().kind, Timestamp, "{table}");
            assert!(table.sort_columns().iter().all(|n| table.column(n).is_some()), "{table}");
            let names: BTreeSet<_> = table.columns().iter().map(|c| c.name).collect();
            assert_eq!(names.len(), table.columns().len(), "{table}");
        }
    }
}
