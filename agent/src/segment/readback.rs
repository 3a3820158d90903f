//! From the bytes of a segment alone: its manifest, and what the buffer must mark as sealed.
//!
//! Used when the database has lost the end of its story and the segment folder, or the bucket, knows more. The bytes may
//! be anything: what isn't a segment of this format is refused, with the reason.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use ::parquet::errors::ParquetError;
use arrow::array::{
    Array, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use bytes::Bytes;
use tributary_contract::digest::Digest;
use tributary_contract::manifest::{MANIFEST_KEY, Manifest, ManifestError};
use tributary_contract::reject::RejectReason;
use tributary_contract::series::SeriesId;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::parquet::SEEN_KEY;
use crate::buffer::row::{AlertRow, RejectKey};
use crate::window::decision::{Decided, Decision, Seen};
use crate::window::emit::LAST_TEXT;
use crate::window::fold::Aggregate;
use crate::window::merge::Part;

/// More rows than any segment has; a footer that claims more is no segment's.
const MAX_ROWS: u64 = 100_000_000;

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Readback {
    /// Its manifest; agrees with the rows.
    pub manifest: Manifest,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// What its rows are.
    pub contents: Contents,
}

/// What the rows of a segment are, in the words of the buffer.
#[derive(Debug, Clone, PartialEq)]
pub enum Contents {
    /// Seqs of readings, in the order of the rows.
    Seqs(Vec<u64>),
    /// Decisions on windows.
    Decisions(Decided),
    /// Series that the table `series` was told of.
    Series(Vec<SeriesId>),
    /// Ids of gaps.
    Gaps(Vec<String>),
    /// Rejects.
    Rejects(Vec<RejectKey>),
    /// Names of alerts.
    Alerts(Vec<String>),
}

/// Why bytes aren't a segment that can be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadbackError {
    /// Not a Parquet file, or damaged.
    #[error("not a readable Parquet file: {0}")]
    Parquet(#[from] ParquetError),
    /// Damaged within a page.
    #[error("not a readable Parquet file: {0}")]
    Arrow(#[from] ArrowError),
    /// The Parquet library gave up in a way that it shouldn't.
    #[error("not a readable Parquet file: the decoder stumbled over it")]
    Stumbled,
    /// No such key in the footer.
    #[error("the footer holds no `{0}`")]
    Absent(&'static str),
    /// The manifest can't be believed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// What decisions had seen can't be read.
    #[error("`{SEEN_KEY}` in the footer isn't readable: {0}")]
    Seen(serde_json::Error),
    /// Columns or field ids aren't the table's.
    #[error("columns or field ids aren't those of table {0}")]
    Schema(Table),
    /// Rows and manifest disagree.
    #[error("the rows disagree with the manifest: {0}")]
    Rows(&'static str),
}

/// Reads a segment back. Memory: the few columns that are needed, a batch at a time, and what comes out.
pub fn read(bytes: Bytes) -> Result<Readback, ReadbackError> {
    // Files are read back at a start, and the library's decoder does panic on some damaged pages: without this, one such
    // file would keep the agent from ever starting again.
    match catch_unwind(AssertUnwindSafe(|| decode(bytes))) {
        Ok(result) => result,
        Err(_) => Err(ReadbackError::Stumbled),
    }
}

fn decode(bytes: Bytes) -> Result<Readback, ReadbackError> {
    let digest = Digest::of(&bytes);
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)?;
    let footer = Arc::clone(builder.metadata());
    let pairs = footer.file_metadata().key_value_metadata();
    let text = |key: &'static str| {
        let found = pairs.into_iter().flatten().find(|pair| pair.key == key);
        found.and_then(|pair| pair.value.as_deref()).ok_or(ReadbackError::Absent(key))
    };
    let manifest = Manifest::from_json(text(MANIFEST_KEY)?)?;
    let table = manifest.table;
    if !are_columns_of(table, builder.schema()) {
        return Err(ReadbackError::Schema(table));
    }
    let counted: i64 = footer.row_groups().iter().map(|g| g.num_rows().max(0)).fold(0, i64::saturating_add);
    if u64::try_from(counted) != Ok(manifest.rows) || manifest.rows > MAX_ROWS {
        return Err(ReadbackError::Rows("their number is another"));
    }
    let mut collected = match table {
        Table::Readings => Contents::Seqs(Vec::new()),
        Table::Aggregates => {
            let seen: Seen = serde_json::from_str(text(SEEN_KEY)?).map_err(ReadbackError::Seen)?;
            Contents::Decisions(Decided { seen, decisions: Vec::new() })
        }
        Table::Series => Contents::Series(Vec::new()),
        Table::Gaps => Contents::Gaps(Vec::new()),
        Table::Rejects => Contents::Rejects(Vec::new()),
        Table::Alerts => Contents::Alerts(Vec::new()),
    };
    let wanted = ["gateway", "buffer_epoch", "segment_number", table.day_column().name];
    let roots = table.columns().iter().enumerate().filter_map(|(i, column)| {
        (wanted.contains(&column.name) || own_columns(table).contains(&column.name)).then_some(i)
    });
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let mut bounds = Bounds::default();
    let mut names = Names::default();
    for batch in builder.with_projection(mask).with_batch_size(8192).build()? {
        let batch = batch?;
        bounds.see(&batch, &manifest)?;
        collect(&batch, &manifest, &mut collected, &mut names)?;
    }
    bounds.check(&manifest, &collected)?;
    Ok(Readback { manifest, digest, contents: collected })
}

/// Whether these are the table's first columns, and of those that came later some, in their order.
fn are_columns_of(table: Table, found: &Schema) -> bool {
    let all = table.arrow_schema();
    let (first, later) = all.fields().split_at(table.first_columns().len());
    let Some((found_first, found_later)) = found.fields().split_at_checked(first.len()) else { return false };
    let mut later = later.iter();
    found_first == first && found_later.iter().all(|f| later.any(|l| l == f))
}

/// The columns that tell what a row is, beside the day column and where it came from.
const fn own_columns(table: Table) -> &'static [&'static str] {
    match table {
        Table::Readings => &["seq"],
        Table::Aggregates => &[
            "window_start",
            "window_end",
            "window_name",
            "device",
            "series",
            "samples",
            "value_min",
            "value_max",
            "value_mean",
            "value_sum",
            "value_stddev",
            "value_first",
            "value_last",
            "first_ts",
            "last_ts",
            "time_weighted_mean",
            "coverage",
            "revision",
            "late",
            "partial",
        ],
        Table::Series => &["series"],
        Table::Gaps => &["id"],
        Table::Rejects => &["received_at", "topic", "source", "reason"],
        Table::Alerts => &["ts", "series", "rule", "state"],
    }
}

#[derive(Default)]
struct Bounds {
    rows: u64,
    times: Option<(i64, i64)>,
}

impl Bounds {
    fn see(&mut self, batch: &RecordBatch, manifest: &Manifest) -> Result<(), ReadbackError> {
        let (gateway, epoch) =
            (column::<StringArray>(batch, "gateway")?, column::<StringArray>(batch, "buffer_epoch")?);
        let number = column::<Int64Array>(batch, "segment_number")?;
        let own_epoch = manifest.epoch.to_string();
        let own_number = i64::try_from(manifest.number.get()).unwrap_or(i64::MAX);
        let foreign = gateway.iter().any(|g| g != Some(manifest.gateway.as_str()))
            || epoch.iter().any(|e| e != Some(own_epoch.as_str()))
            || number.iter().any(|n| n != Some(own_number));
        if foreign {
            return Err(ReadbackError::Rows("some come from another segment"));
        }
        let days = column::<TimestampMicrosecondArray>(batch, manifest.table.day_column().name)?;
        for ts in days.iter() {
            let ts = ts.ok_or(ReadbackError::Rows("some have no time"))?;
            let (least, greatest) = self.times.unwrap_or((ts, ts));
            self.times = Some((least.min(ts), greatest.max(ts)));
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn check(&self, manifest: &Manifest, contents: &Contents) -> Result<(), ReadbackError> {
        if self.rows != manifest.rows {
            return Err(ReadbackError::Rows("their number is another"));
        }
        if self.times != Some((manifest.min_ts.0, manifest.max_ts.0)) {
            return Err(ReadbackError::Rows("their times are others"));
        }
        if let Contents::Seqs(seqs) = contents
            && (seqs.iter().min().copied(), seqs.iter().max().copied())
                != (manifest.min_seq, manifest.max_seq)
        {
            return Err(ReadbackError::Rows("their seqs are others"));
        }
        Ok(())
    }
}

/// Names that come again and again, each held once.
#[derive(Default)]
struct Names(HashMap<String, Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = Arc::from(name);
        self.0.insert(name.to_owned(), Arc::clone(&shared));
        shared
    }
}

fn collect(
    batch: &RecordBatch,
    manifest: &Manifest,
    contents: &mut Contents,
    names: &mut Names,
) -> Result<(), ReadbackError> {
    let texts = |name| column::<StringArray>(batch, name);
    let times = |name| column::<TimestampMicrosecondArray>(batch, name);
    let longs = |name| column::<Int64Array>(batch, name);
    match contents {
        Contents::Seqs(seqs) => {
            for seq in longs("seq")?.iter() {
                seqs.push(count(seq)?);
            }
        }
        Contents::Decisions(decided) => {
            let (starts, ends, windows) =
                (times("window_start")?, times("window_end")?, texts("window_name")?);
            let (devices, ids) = (texts("device")?, texts("series")?);
            let (samples, late) = (longs("samples")?, longs("late")?);
            let revisions = column::<Int32Array>(batch, "revision")?;
            let partial = column::<BooleanArray>(batch, "partial")?;
            let parts = Parts::of(batch)?;
            // Only a segment that has some has the column.
            let last_texts = batch.column_by_name(LAST_TEXT);
            let is_of_texts = |i| last_texts.is_some_and(|column| column.is_valid(i));
            for i in 0..batch.num_rows() {
                let (start, end) = (Timestamp(starts.value(i)), Timestamp(ends.value(i)));
                if end <= start {
                    return Err(ReadbackError::Rows("a window ends before it starts"));
                }
                let samples = count(Some(samples.value(i)))?;
                decided.decisions.push(Decision {
                    namespace: manifest.namespace.clone(),
                    window: names.get(windows.value(i)),
                    device: names.get(devices.value(i)),
                    series: series(ids.value(i))?,
                    start,
                    end,
                    revision: revisions.value(i),
                    samples,
                    late: count(Some(late.value(i)))?,
                    of_texts: is_of_texts(i),
                    part: (partial.value(i) && !is_of_texts(i)).then(|| Box::new(parts.get(i, samples))),
                });
            }
        }
        Contents::Series(ids) => {
            for id in texts("series")?.iter().flatten() {
                ids.push(series(id)?);
            }
        }
        Contents::Gaps(ids) => ids.extend(texts("id")?.iter().flatten().map(str::to_owned)),
        Contents::Alerts(ids) => {
            let (at, series, rules, states) =
                (times("ts")?, texts("series")?, texts("rule")?, texts("state")?);
            ids.extend((0..batch.num_rows()).map(|i| {
                AlertRow::id_of(rules.value(i), series.value(i), Timestamp(at.value(i)), states.value(i))
            }));
        }
        Contents::Rejects(keys) => {
            let (at, topics, sources, reasons) =
                (times("received_at")?, texts("topic")?, texts("source")?, texts("reason")?);
            for i in 0..batch.num_rows() {
                let reason = RejectReason::from_code(reasons.value(i));
                keys.push(RejectKey {
                    received_at: Timestamp(at.value(i)),
                    topic: topics.value(i).to_owned(),
                    source: (!sources.is_null(i)).then(|| sources.value(i).to_owned()),
                    reason: reason.ok_or(ReadbackError::Rows("a reject has an unknown reason"))?,
                });
            }
        }
    }
    Ok(())
}

/// The columns of `aggregates` that make a mergeable part.
struct Parts<'b> {
    /// In the order of the fields of [`Aggregate`], without the percentiles.
    numbers: [&'b Float64Array; 9],
    first_ts: &'b TimestampMicrosecondArray,
    last_ts: &'b TimestampMicrosecondArray,
}

impl<'b> Parts<'b> {
    fn of(batch: &'b RecordBatch) -> Result<Self, ReadbackError> {
        let of = |name| column::<Float64Array>(batch, name);
        let numbers = [
            of("value_min")?,
            of("value_max")?,
            of("value_mean")?,
            of("value_sum")?,
            of("value_stddev")?,
            of("value_first")?,
            of("value_last")?,
            of("time_weighted_mean")?,
            of("coverage")?,
        ];
        let of = |name| column::<TimestampMicrosecondArray>(batch, name);
        Ok(Self { numbers, first_ts: of("first_ts")?, last_ts: of("last_ts")? })
    }

    fn get(&self, i: usize, samples: u64) -> Part {
        let known = self.numbers.map(|column| column.is_valid(i).then(|| column.value(i)));
        let [min, max, mean, sum, stddev, first, last, time_weighted_mean, coverage] = known;
        Part::of(&Aggregate {
            samples,
            min: min.unwrap_or_default(),
            max: max.unwrap_or_default(),
            mean,
            sum,
            stddev,
            first: first.unwrap_or_default(),
            last: last.unwrap_or_default(),
            first_ts: Timestamp(self.first_ts.value(i)),
            last_ts: Timestamp(self.last_ts.value(i)),
            p50: None,
            p95: None,
            p99: None,
            percentile_error: None,
            time_weighted_mean,
            coverage: coverage.unwrap_or_default(),
            increase: None,
            rate: None,
            changes: None,
        })
    }
}

fn column<'b, A: Array + 'static>(
    batch: &'b RecordBatch,
    name: &'static str,
) -> Result<&'b A, ReadbackError> {
    let found = batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<A>());
    found.ok_or(ReadbackError::Absent(name))
}

fn count(n: Option<i64>) -> Result<u64, ReadbackError> {
    n.and_then(|n| u64::try_from(n).ok()).ok_or(ReadbackError::Rows("a count is negative"))
}

fn series(id: &str) -> Result<SeriesId, ReadbackError> {
    id.parse().map_err(|_| ReadbackError::Rows("a series is no series id"))
}
