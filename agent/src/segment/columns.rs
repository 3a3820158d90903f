//! Rows of each table as Arrow columns in the contract's schema, in the table's sort order.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, MapBuilder, MapFieldNames,
    StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use tributary_contract::id::{Epoch, GatewayId, Number};
use tributary_contract::quality::Quality;
use tributary_contract::series::Tags;
use tributary_contract::table::Table;
use tributary_contract::time::{Day, Timestamp};

use crate::buffer::row::{AlertRow, GapRow, RejectRow, Row, SeriesEntry};
use crate::config::Function;
use crate::reading::Value;
use crate::window::emit::AggregateRow;

/// Where an entry of the dictionary is asked for by its key.
pub type Lookup<'a> = &'a dyn Fn(u32) -> Option<Arc<SeriesEntry>>;

/// Which segment brings the rows: the last three columns of every table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// Who seals.
    pub gateway: GatewayId,
    /// In which life of its buffer.
    pub epoch: Epoch,
    /// Number of the segment.
    pub number: Number,
}

/// Why rows can't become a segment.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The dictionary has no entry for a row.
    #[error("series key {0} isn't in the dictionary")]
    UnknownSeries(u32),
    /// A row of another day.
    #[error("a row of {got} ({ts}) doesn't belong in a segment of {day}")]
    OtherDay {
        /// The segment's day.
        day: Day,
        /// The row's.
        got: Day,
        /// The row's time.
        ts: Timestamp,
    },
    /// No rows at all.
    #[error("a segment needs at least one row")]
    Empty,
    /// A segment of aggregates without what its decisions had seen.
    #[error("a segment of aggregates must carry what was seen when its windows were decided")]
    NothingSeen,
    /// The manifest says something else than the rows.
    #[error("manifest says {field} {manifest}, the rows say {rows}")]
    Disagrees {
        /// Which field.
        field: &'static str,
        /// What the manifest says.
        manifest: String,
        /// What is so.
        rows: String,
    },
    /// An earlier row group couldn't be written.
    #[error("an earlier part of the segment couldn't be written: begin it anew")]
    Failed,
    /// The columns aren't the schema's: a fault of this program.
    #[error("columns don't fit the table's schema: {0}")]
    Arrow(#[from] ArrowError),
    /// The schema has a column that nothing fills: a fault of this program.
    #[error("nothing fills column {column} of {table}")]
    NoColumn {
        /// Of which table.
        table: Table,
        /// Which column.
        column: String,
    },
    /// The writer refused: a fault of this program.
    #[error("segment can't be written: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
}

/// The dictionary entries of the rows of one segment, each asked for once.
#[derive(Debug, Default)]
pub struct Entries(HashMap<u32, Arc<SeriesEntry>>);

impl Entries {
    /// Makes sure that `key` is known.
    pub fn want(&mut self, key: u32, lookup: Lookup<'_>) -> Result<(), EncodeError> {
        if let std::collections::hash_map::Entry::Vacant(free) = self.0.entry(key) {
            free.insert(lookup(key).ok_or(EncodeError::UnknownSeries(key))?);
        }
        Ok(())
    }

    fn get(&self, key: u32) -> Result<&SeriesEntry, EncodeError> {
        self.0.get(&key).map(Arc::as_ref).ok_or(EncodeError::UnknownSeries(key))
    }

    /// Place of each key in the order of (device, metric); equal ones share a place.
    fn ranks(&self) -> HashMap<u32, u32> {
        let mut sorted: Vec<(&str, &str, u32)> =
            self.0.iter().map(|(key, e)| (e.device.as_str(), e.metric.as_str(), *key)).collect();
        sorted.sort_unstable();
        let mut rank = 0;
        let mut before: Option<(&str, &str)> = None;
        let place = |(device, metric, key)| {
            if before.replace((device, metric)).is_some_and(|b| b != (device, metric)) {
                rank += 1;
            }
            (key, rank)
        };
        sorted.into_iter().map(place).collect()
    }
}

/// A row of one of the tables.
pub trait TableRow: Sized {
    /// Which table.
    const TABLE: Table;
    /// The value of the table's day column.
    fn at(&self) -> Timestamp;
    /// The dictionary key whose entry the row needs.
    fn series_key(&self) -> Option<u32> {
        None
    }
    /// Its number in the journal, for readings.
    fn seq(&self) -> Option<u64> {
        None
    }
    /// Puts rows in the table's sort order; rows that are equal in it always in the same one.
    fn put_in_order(rows: &mut [Self], entries: &Entries);
    /// One column, as the schema has it; none of that name for those that every table has, which say what brought the rows.
    fn column(of: &Rows<'_, Self>, name: &str) -> Result<Option<ArrayRef>, EncodeError>;
}

/// Rows that follow one another in a segment. Columns are made of them one at a time, so that no more than one needs
/// memory.
#[derive(Debug)]
pub struct Rows<'a, R> {
    rows: &'a [R],
    /// Of each row, where the table's rows are of series.
    series: Vec<&'a SeriesEntry>,
}

impl<'a, R: TableRow> Rows<'a, R> {
    /// Rows whose series are all in `entries`; not sorted here.
    pub fn of(rows: &'a [R], entries: &'a Entries) -> Result<Self, EncodeError> {
        let series = rows.iter().filter_map(TableRow::series_key).map(|key| entries.get(key));
        Ok(Self { rows, series: series.collect::<Result<_, _>>()? })
    }

    /// One column.
    pub fn column(&self, name: &str, provenance: &Provenance) -> Result<ArrayRef, EncodeError> {
        let rows = self.rows.len();
        let same = |text: &str| texts(std::iter::repeat_n(text, rows));
        Ok(match name {
            "gateway" => same(provenance.gateway.as_str()),
            "buffer_epoch" => same(&provenance.epoch.to_string()),
            "segment_number" => Arc::new(Int64Array::from_value(long(provenance.number.get()), rows)),
            name => self.own_column(name)?,
        })
    }

    /// One of the columns that aren't about the segment.
    pub fn own_column(&self, name: &str) -> Result<ArrayRef, EncodeError> {
        let column = R::column(self, name)?;
        column.ok_or_else(|| EncodeError::NoColumn { table: R::TABLE, column: name.to_owned() })
    }

    fn each<'b, T>(&'b self, of: impl Fn(&'a R) -> T + 'b) -> impl Iterator<Item = T> + 'b {
        self.rows.iter().map(of)
    }

    fn each_series<'b, T>(&'b self, of: impl Fn(&'a SeriesEntry) -> T + 'b) -> impl Iterator<Item = T> + 'b {
        self.series.iter().map(move |series| of(series))
    }
}

impl TableRow for Row {
    const TABLE: Table = Table::Readings;

    fn at(&self) -> Timestamp {
        self.ts
    }

    fn series_key(&self) -> Option<u32> {
        Some(self.series)
    }

    fn seq(&self) -> Option<u64> {
        Some(self.seq)
    }

    fn put_in_order(rows: &mut [Self], entries: &Entries) {
        let ranks = entries.ranks();
        rows.sort_by_cached_key(|r| (ranks.get(&r.series).copied(), r.ts, r.seq));
    }

    fn column(of: &Rows<'_, Self>, name: &str) -> Result<Option<ArrayRef>, EncodeError> {
        let only_bool = |r: &Self| if let Value::Bool(b) = r.value { Some(b) } else { None };
        let tags = || of.rows.iter().zip(&of.series).map(|(row, s)| (&s.tags, row.row_tags.as_deref()));
        Ok(Some(match name {
            "ts" => times(of.each(|r| r.ts)),
            "device" => texts(of.each_series(|s| &s.device)),
            "metric" => texts(of.each_series(|s| &s.metric)),
            "value" => doubles(of.each(|r| r.value.numeric())),
            "value_int" => Arc::new(of.each(|r| r.value.inexact_int()).collect::<Int64Array>()),
            "value_bool" => Arc::new(of.each(only_bool).collect::<BooleanArray>()),
            "value_text" => maybe_texts(of.each(|r| r.value.exact_text())),
            "unit" => maybe_texts(of.each_series(|s| s.unit.as_deref())),
            "tags" => tag_maps(Self::TABLE, tags())?,
            "series" => ids(of.each_series(|s| s.id)),
            "quality" => qualities(of.each(|r| r.quality)),
            "received_at" => times(of.each(|r| r.received_at)),
            "source" => texts(of.each_series(|s| &s.source)),
            "seq" => longs(of.each(|r| r.seq)),
            _ => return Ok(None),
        }))
    }
}

impl TableRow for AggregateRow {
    const TABLE: Table = Table::Aggregates;

    fn at(&self) -> Timestamp {
        self.start
    }

    fn series_key(&self) -> Option<u32> {
        Some(self.series)
    }

    fn put_in_order(rows: &mut [Self], entries: &Entries) {
        let ranks = entries.ranks();
        rows.sort_by_cached_key(|r| {
            let rank = ranks.get(&r.series).copied();
            (rank, r.start, r.end, r.series, r.revision, Arc::clone(&r.window))
        });
    }

    fn column(of: &Rows<'_, Self>, name: &str) -> Result<Option<ArrayRef>, EncodeError> {
        let number = |function| doubles(of.each(|r| r.statistic(function)));
        let when = |function: Function, value: fn(&Self) -> Timestamp| -> ArrayRef {
            let chosen = |r: &Self| r.functions.has(function).then(|| value(r).0);
            Arc::new(of.each(chosen).collect::<TimestampMicrosecondArray>())
        };
        Ok(Some(match name {
            "window_start" => times(of.each(|r| r.start)),
            "window_end" => times(of.each(|r| r.end)),
            "window_name" => texts(of.each(|r| &r.window)),
            "device" => texts(of.each_series(|s| &s.device)),
            "metric" => texts(of.each_series(|s| &s.metric)),
            "tags" => tag_maps(Self::TABLE, of.each_series(|s| (&s.tags, None)))?,
            "series" => ids(of.each_series(|s| s.id)),
            "samples" => longs(of.each(|r| r.aggregate.samples)),
            "value_min" => number(Function::Min),
            "value_max" => number(Function::Max),
            "value_mean" => number(Function::Mean),
            "value_sum" => number(Function::Sum),
            "value_stddev" => number(Function::Stddev),
            "value_first" => number(Function::First),
            "value_last" => number(Function::Last),
            "first_ts" => when(Function::First, |r| r.aggregate.first_ts),
            "last_ts" => when(Function::Last, |r| r.aggregate.last_ts),
            "value_p50" => number(Function::P50),
            "value_p95" => number(Function::P95),
            "value_p99" => number(Function::P99),
            "time_weighted_mean" => number(Function::TimeWeightedMean),
            "coverage" => doubles(of.each(|r| Some(r.aggregate.coverage))),
            "revision" => Arc::new(of.each(|r| Some(r.revision)).collect::<Int32Array>()),
            "late" => longs(of.each(|r| r.late)),
            "partial" => Arc::new(of.each(|r| Some(r.partial)).collect::<BooleanArray>()),
            "quality" => qualities(of.each(|r| r.quality)),
            "source" => texts(of.each_series(|s| &s.source)),
            "value_increase" => number(Function::Increase),
            "value_rate" => number(Function::Rate),
            "value_changes" => maybe_longs(of.each(AggregateRow::changes)),
            "value_last_text" => maybe_texts(of.each(|r| r.text.as_deref())),
            "percentile_error" => doubles(of.each(AggregateRow::percentile_error)),
            _ => return Ok(None),
        }))
    }
}

impl TableRow for SeriesEntry {
    const TABLE: Table = Table::Series;

    fn at(&self) -> Timestamp {
        self.first_ts
    }

    fn put_in_order(rows: &mut [Self], _: &Entries) {
        rows.sort_by(|a, b| {
            let key = |r: &Self| (r.first_ts, r.id, r.key);
            (&a.device, &a.metric).cmp(&(&b.device, &b.metric)).then_with(|| key(a).cmp(&key(b)))
        });
    }

    fn column(of: &Rows<'_, Self>, name: &str) -> Result<Option<ArrayRef>, EncodeError> {
        Ok(Some(match name {
            "first_ts" => times(of.each(|r| r.first_ts)),
            "last_ts" => times(of.each(|r| r.last_ts)),
            "series" => ids(of.each(|r| r.id)),
            "device" => texts(of.each(|r| &r.device)),
            "metric" => texts(of.each(|r| &r.metric)),
            "tags" => tag_maps(Self::TABLE, of.each(|r| (&r.tags, None)))?,
            "unit" => maybe_texts(of.each(|r| r.unit.as_deref())),
            "value_type" => texts(of.each(|r| r.value_type)),
            "source" => texts(of.each(|r| &r.source)),
            _ => return Ok(None),
        }))
    }
}

impl TableRow for GapRow {
    const TABLE: Table = Table::Gaps;

    fn at(&self) -> Timestamp {
        self.from_ts
    }

    fn put_in_order(rows: &mut [Self], _: &Entries) {
        rows.sort_by(|a, b| (a.from_ts, &a.id).cmp(&(b.from_ts, &b.id)));
    }

    fn column(of: &Rows<'_, Self>, name: &str) -> Result<Option<ArrayRef>, EncodeError> {
        Ok(Some(match name {
            "from_ts" => times(of.each(|r| r.from_ts)),
            "to_ts" => times(of.each(|r| r.to_ts)),
            "id" => texts(of.each(|r| &r.id)),
            "cancels" => maybe_texts(of.each(|r| r.cancels.as_deref())),
            "source" => maybe_texts(of.each(|r| r.source.as_deref())),
            "device" => maybe_texts(of.each(|r| r.device.as_deref())),
            "metric" => maybe_texts(of.each(|r| r.metric.as_deref())),
            "reason" => texts(of.each(|r| r.reason.code())),
            "readings" => maybe_longs(of.each(|r| r.readings)),
            "bytes" => maybe_longs(of.each(|r| r.bytes)),
            "first_seq" => maybe_longs(of.each(|r| r.first_seq)),
            "last_seq" => maybe_longs(of.each(|r| r.last_seq)),
            "detail" => maybe_texts(of.each(|r| r.detail.as_deref())),
            "recorded_at" => times(of.each(|r| r.recorded_at)),
            "recorded_by" => texts(of.each(|_| "agent")),
            _ => return Ok(None),
        }))
    }
}

impl TableRow for RejectRow {
    const TABLE: Table = Table::Rejects;

    fn at(&self) -> Timestamp {
        self.received_at
    }

    fn put_in_order(rows: &mut [Self], _: &Entries) {
        rows.sort_by(|a, b| (a.received_at, &a.topic, a.id).cmp(&(b.received_at, &b.topic, b.id)));
    }

    fn column(of: &Rows<'_, Self>, name: &str) -> Result<Option<ArrayRef>, EncodeError> {
        Ok(Some(match name {
            "received_at" => times(of.each(|r| r.received_at)),
            "topic" => texts(of.each(|r| &r.topic)),
            "source" => maybe_texts(of.each(|r| r.source.as_deref())),
            "reason" => texts(of.each(|r| r.reason.code())),
            "detail" => maybe_texts(of.each(|r| r.detail.as_deref())),
            "size" => longs(of.each(|r| r.size)),
            "payload" => Arc::new(of.each(|r| r.payload.as_deref()).collect::<BinaryArray>()),
            "occurrences" => longs(of.each(|r| r.occurrences)),
            _ => return Ok(None),
        }))
    }
}

impl TableRow for AlertRow {
    const TABLE: Table = Table::Alerts;

    fn at(&self) -> Timestamp {
        self.ts
    }

    fn put_in_order(rows: &mut [Self], _: &Entries) {
        rows.sort_by(|a, b| {
            let key = |r: &Self| (r.ts, r.open);
            (&a.device, &a.metric)
                .cmp(&(&b.device, &b.metric))
                .then_with(|| key(a).cmp(&key(b)))
                .then_with(|| (&a.rule, a.series).cmp(&(&b.rule, b.series)))
        });
    }

    fn column(of: &Rows<'_, Self>, name: &str) -> Result<Option<ArrayRef>, EncodeError> {
        Ok(Some(match name {
            "ts" => times(of.each(|r| r.ts)),
            "device" => texts(of.each(|r| &r.device)),
            "metric" => texts(of.each(|r| &r.metric)),
            "series" => ids(of.each(|r| r.series)),
            "rule" => texts(of.each(|r| &r.rule)),
            "severity" => texts(of.each(|r| &r.severity)),
            "state" => texts(of.each(|r| r.state())),
            "value" => doubles(of.each(|r| r.value)),
            "expected" => doubles(of.each(|r| r.expected)),
            "score" => doubles(of.each(|r| r.score)),
            "window_name" => maybe_texts(of.each(|_| None::<&str>)),
            _ => return Ok(None),
        }))
    }
}

/// A count as the tables have it; what no `long` holds is held at its end.
fn long(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn times(values: impl Iterator<Item = Timestamp>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values.map(Timestamp::micros)))
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn maybe_texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn ids(values: impl Iterator<Item = tributary_contract::series::SeriesId>) -> ArrayRef {
    texts(values.map(|id| id.to_string()))
}

fn qualities(values: impl Iterator<Item = Quality>) -> ArrayRef {
    maybe_texts(values.map(Quality::to_column))
}

fn doubles(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

fn longs(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values.map(long)))
}

fn maybe_longs(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.map(|n| n.map(long)).collect::<Int64Array>())
}

/// The column `tags`: keys sorted, null where there are none. A reading's own tags stand beside those of its series,
/// which go first where both have a key: what the series' name was computed from must stand there.
fn tag_maps<'a>(
    table: Table,
    rows: impl Iterator<Item = (&'a Tags, Option<&'a Tags>)>,
) -> Result<ArrayRef, EncodeError> {
    let (key, value) = tag_fields(table)?;
    let names = MapFieldNames {
        entry: "key_value".to_owned(),
        key: key.name().to_owned(),
        value: value.name().to_owned(),
    };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
        .with_keys_field(key)
        .with_values_field(value);
    for (series, own) in rows {
        let own = own.filter(|own| !own.is_empty());
        let merged: Tags;
        let tags = match own {
            None => series,
            Some(own) => {
                merged = own.iter().chain(series).map(|(k, v)| (k.clone(), v.clone())).collect();
                &merged
            }
        };
        for (key, value) in tags {
            maps.keys().append_value(key);
            maps.values().append_value(value);
        }
        maps.append(!tags.is_empty())?;
    }
    Ok(Arc::new(maps.finish()))
}

/// Key and value of `tags` as the schema has them, with their field ids.
fn tag_fields(table: Table) -> Result<(FieldRef, FieldRef), ArrowError> {
    let schema = table.arrow_schema();
    if let DataType::Map(entries, _) = schema.field_with_name("tags")?.data_type()
        && let DataType::Struct(fields) = entries.data_type()
        && let [key, value] = fields.as_ref()
    {
        return Ok((Arc::clone(key), Arc::clone(value)));
    }
    Err(ArrowError::SchemaError(format!("`tags` of {table} is no map of key and value")))
}
