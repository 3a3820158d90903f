//! Rows of each table as Arrow columns in the contract's schema, in the table's sort order.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, MapBuilder, MapFieldNames,
    RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
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
    /// The columns aren't the schema's: a fault of this program.
    #[error("columns don't fit the table's schema: {0}")]
    Arrow(#[from] ArrowError),
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

    fn all(&self, keys: impl Iterator<Item = u32>) -> Result<Vec<&SeriesEntry>, EncodeError> {
        keys.map(|key| self.get(key)).collect()
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
    /// The columns of version 1 but its last three, in the order of the schema.
    fn columns(rows: &[Self], entries: &Entries) -> Result<Vec<ArrayRef>, EncodeError>;
    /// The columns that came later, in the order of the schema.
    fn later_columns(_rows: &[Self]) -> Vec<ArrayRef> {
        Vec::new()
    }
    /// Whether any row has something to say in that one of them.
    fn says(rows: &[Self], later: usize) -> bool {
        Self::later_columns(rows).get(later).is_some_and(|column| column.null_count() < column.len())
    }
}

/// Rows as a record batch with exactly the schema of their table; not sorted here.
pub fn batch<R: TableRow>(
    rows: &[R],
    entries: &Entries,
    provenance: &Provenance,
) -> Result<RecordBatch, EncodeError> {
    let mut columns = R::columns(rows, entries)?;
    let same = |text: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows.len())))
    };
    columns.push(same(provenance.gateway.as_str()));
    columns.push(same(&provenance.epoch.to_string()));
    columns.push(Arc::new(Int64Array::from_value(long(provenance.number.get()), rows.len())));
    columns.extend(R::later_columns(rows));
    Ok(RecordBatch::try_new(R::TABLE.arrow_schema(), columns)?)
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

    fn columns(rows: &[Self], entries: &Entries) -> Result<Vec<ArrayRef>, EncodeError> {
        let series = entries.all(rows.iter().map(|r| r.series))?;
        let tags = rows.iter().zip(&series).map(|(row, entry)| (&entry.tags, row.row_tags.as_deref()));
        let only_bool = |r: &Row| if let Value::Bool(b) = r.value { Some(b) } else { None };
        Ok(vec![
            times(rows.iter().map(|r| r.ts)),
            texts(series.iter().map(|s| &s.device)),
            texts(series.iter().map(|s| &s.metric)),
            doubles(rows.iter().map(|r| r.value.numeric())),
            Arc::new(rows.iter().map(|r| r.value.inexact_int()).collect::<Int64Array>()),
            Arc::new(rows.iter().map(only_bool).collect::<BooleanArray>()),
            maybe_texts(rows.iter().map(|r| r.value.exact_text())),
            maybe_texts(series.iter().map(|s| s.unit.as_deref())),
            tag_maps(Self::TABLE, tags)?,
            ids(series.iter().map(|s| s.id)),
            qualities(rows.iter().map(|r| r.quality)),
            times(rows.iter().map(|r| r.received_at)),
            texts(series.iter().map(|s| &s.source)),
            longs(rows.iter().map(|r| r.seq)),
        ])
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
        rows.sort_by(|a, b| {
            let key = |r: &Self| (ranks.get(&r.series).copied(), r.start, r.end, r.series, r.revision);
            key(a).cmp(&key(b)).then_with(|| a.window.cmp(&b.window))
        });
    }

    fn columns(rows: &[Self], entries: &Entries) -> Result<Vec<ArrayRef>, EncodeError> {
        let series = entries.all(rows.iter().map(|r| r.series))?;
        let of = |function| statistics(rows, function);
        let when = |function: Function, value: fn(&AggregateRow) -> Timestamp| -> ArrayRef {
            let chosen = |r: &AggregateRow| r.functions.has(function).then(|| value(r).0);
            Arc::new(rows.iter().map(chosen).collect::<TimestampMicrosecondArray>())
        };
        Ok(vec![
            times(rows.iter().map(|r| r.start)),
            times(rows.iter().map(|r| r.end)),
            texts(rows.iter().map(|r| &r.window)),
            texts(series.iter().map(|s| &s.device)),
            texts(series.iter().map(|s| &s.metric)),
            tag_maps(Self::TABLE, series.iter().map(|s| (&s.tags, None)))?,
            ids(series.iter().map(|s| s.id)),
            longs(rows.iter().map(|r| r.aggregate.samples)),
            of(Function::Min),
            of(Function::Max),
            of(Function::Mean),
            of(Function::Sum),
            of(Function::Stddev),
            of(Function::First),
            of(Function::Last),
            when(Function::First, |r| r.aggregate.first_ts),
            when(Function::Last, |r| r.aggregate.last_ts),
            of(Function::P50),
            of(Function::P95),
            of(Function::P99),
            of(Function::TimeWeightedMean),
            doubles(rows.iter().map(|r| Some(r.aggregate.coverage))),
            Arc::new(rows.iter().map(|r| Some(r.revision)).collect::<Int32Array>()),
            longs(rows.iter().map(|r| r.late)),
            Arc::new(rows.iter().map(|r| Some(r.partial)).collect::<BooleanArray>()),
            qualities(rows.iter().map(|r| r.quality)),
            texts(series.iter().map(|s| &s.source)),
        ])
    }

    fn later_columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            statistics(rows, Function::Increase),
            statistics(rows, Function::Rate),
            maybe_longs(rows.iter().map(AggregateRow::changes)),
            maybe_texts(rows.iter().map(|r| r.text.as_deref())),
            doubles(rows.iter().map(AggregateRow::percentile_error)),
        ]
    }
}

/// A statistic where it is filled in.
fn statistics(rows: &[AggregateRow], function: Function) -> ArrayRef {
    doubles(rows.iter().map(|r| r.statistic(function)))
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

    fn columns(rows: &[Self], _: &Entries) -> Result<Vec<ArrayRef>, EncodeError> {
        Ok(vec![
            times(rows.iter().map(|r| r.first_ts)),
            times(rows.iter().map(|r| r.last_ts)),
            ids(rows.iter().map(|r| r.id)),
            texts(rows.iter().map(|r| &r.device)),
            texts(rows.iter().map(|r| &r.metric)),
            tag_maps(Self::TABLE, rows.iter().map(|r| (&r.tags, None)))?,
            maybe_texts(rows.iter().map(|r| r.unit.as_deref())),
            texts(rows.iter().map(|r| r.value_type)),
            texts(rows.iter().map(|r| &r.source)),
        ])
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

    fn columns(rows: &[Self], _: &Entries) -> Result<Vec<ArrayRef>, EncodeError> {
        Ok(vec![
            times(rows.iter().map(|r| r.from_ts)),
            times(rows.iter().map(|r| r.to_ts)),
            texts(rows.iter().map(|r| &r.id)),
            maybe_texts(rows.iter().map(|r| r.cancels.as_deref())),
            maybe_texts(rows.iter().map(|r| r.source.as_deref())),
            maybe_texts(rows.iter().map(|r| r.device.as_deref())),
            maybe_texts(rows.iter().map(|r| r.metric.as_deref())),
            texts(rows.iter().map(|r| r.reason.code())),
            maybe_longs(rows.iter().map(|r| r.readings)),
            maybe_longs(rows.iter().map(|r| r.bytes)),
            maybe_longs(rows.iter().map(|r| r.first_seq)),
            maybe_longs(rows.iter().map(|r| r.last_seq)),
            maybe_texts(rows.iter().map(|r| r.detail.as_deref())),
            times(rows.iter().map(|r| r.recorded_at)),
            texts(rows.iter().map(|_| "agent")),
        ])
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

    fn columns(rows: &[Self], _: &Entries) -> Result<Vec<ArrayRef>, EncodeError> {
        Ok(vec![
            times(rows.iter().map(|r| r.received_at)),
            texts(rows.iter().map(|r| &r.topic)),
            maybe_texts(rows.iter().map(|r| r.source.as_deref())),
            texts(rows.iter().map(|r| r.reason.code())),
            maybe_texts(rows.iter().map(|r| r.detail.as_deref())),
            longs(rows.iter().map(|r| r.size)),
            Arc::new(rows.iter().map(|r| r.payload.as_deref()).collect::<BinaryArray>()),
            longs(rows.iter().map(|r| r.occurrences)),
        ])
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

    fn columns(rows: &[Self], _: &Entries) -> Result<Vec<ArrayRef>, EncodeError> {
        Ok(vec![
            times(rows.iter().map(|r| r.ts)),
            texts(rows.iter().map(|r| &r.device)),
            texts(rows.iter().map(|r| &r.metric)),
            ids(rows.iter().map(|r| r.series)),
            texts(rows.iter().map(|r| &r.rule)),
            texts(rows.iter().map(|r| &r.severity)),
            texts(rows.iter().map(|r| r.state())),
            doubles(rows.iter().map(|r| r.value)),
            doubles(rows.iter().map(|r| r.expected)),
            doubles(rows.iter().map(|r| r.score)),
            maybe_texts(rows.iter().map(|_| None::<&str>)),
        ])
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
