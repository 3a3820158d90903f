//! What is in the tables, read back through the catalog file and the bucket, and compared with what was sent.
//!
//! [`Tally`], [`Newest`] and [`Counts`] are arithmetic; [`Tables`] reads SQLite and the bucket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use futures::TryStreamExt;
use iceberg::TableIdent;
use iceberg::io::{FileIO, FileIOBuilder};
use iceberg::table::StaticTable;
use iceberg_storage_opendal::OpenDalStorageFactory;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::Serialize;
use tributary_tests::mqtt::NumberSet;

use crate::config::{NAMESPACE, REGION, WINDOWS};
use crate::home::Credentials;

/// Name under which the receiver keeps its tables in the catalog.
const CATALOG: &str = "tributary";

/// The outcome of a replay: the numbers of the JSON line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) registered: u64,
    pub(crate) distinct: u64,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    pub(crate) rejected: u64,
}

/// The readings of the table, counted by their message numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Rows.
    pub(crate) rows: u64,
    /// Rows with a numeric or boolean value: those that belong into windows.
    pub(crate) numeric: u64,
    /// Distinct message numbers.
    pub(crate) numbers: NumberSet,
}

/// Keeps the newest revision of each window of each series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Newest {
    windows: HashMap<(usize, String, String, i64), (i64, i64)>,
}

/// What of the windows is known to hold readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Windowed {
    /// Readings in the newest revisions of the demo's windows; each reading is in one window of each size.
    pub(crate) samples: u64,
}

impl Counts {
    /// Compares the table with the numbers 1 to `sent`.
    pub(crate) fn compare(sent: u64, acknowledged: u64, tally: &Tally, rejected: u64) -> Self {
        let distinct = tally.numbers.len();
        Self {
            sent,
            acknowledged,
            registered: tally.rows,
            distinct,
            missing: tally.numbers.missing(1, sent),
            duplicates: tally.rows.saturating_sub(distinct),
            rejected,
        }
    }

    /// Whether every message sent is in the table or among the rejects.
    pub(crate) fn is_accounted(&self) -> bool {
        self.missing <= self.rejected
    }

    /// Whether the table holds each message sent once, and nothing else.
    pub(crate) fn agree(&self) -> bool {
        let sent = self.sent;
        [self.acknowledged, self.registered, self.distinct] == [sent; 3]
            && [self.missing, self.duplicates, self.rejected] == [0; 3]
    }
}

impl Tally {
    /// Adds a batch with the columns `tags` and `value`.
    fn add(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let values = column(batch, "value", &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        self.rows += batch.num_rows() as u64;
        self.numeric += (values.len() - values.null_count()) as u64;
        let tags = batch.column_by_name("tags").context("readings have no column tags")?;
        let tags = tags.as_map_opt().context("column tags is no map")?;
        let keys = cast(tags.keys(), &DataType::Utf8)?;
        let entries = cast(tags.values(), &DataType::Utf8)?;
        let (keys, entries) = (keys.as_string::<i32>(), entries.as_string::<i32>());
        let offsets = tags.value_offsets();
        for (row, ends) in offsets.windows(2).enumerate() {
            let &[from, to] = ends else { continue };
            if tags.is_null(row) {
                continue;
            }
            let number = (from as usize..to as usize)
                .find(|&at| keys.value(at) == "n")
                .and_then(|at| entries.value(at).parse().ok());
            if let Some(number) = number {
                self.numbers.insert(number);
            }
        }
        Ok(())
    }
}

impl Newest {
    /// Takes in one row of `aggregates`; of equal revisions either will do, as they say the same.
    fn take(&mut self, window: usize, place: (&str, &str, i64), revision: i64, samples: i64) {
        let (gateway, series, window_start) = place;
        let key = (window, gateway.to_owned(), series.to_owned(), window_start);
        let newest = self.windows.entry(key).or_insert((revision, samples));
        if revision > newest.0 {
            *newest = (revision, samples);
        }
    }

    fn add(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let names = column(batch, "window_name", &DataType::Utf8)?;
        let gateways = column(batch, "gateway", &DataType::Utf8)?;
        let series = column(batch, "series", &DataType::Utf8)?;
        let starts = column(batch, "window_start", &DataType::Int64)?;
        let revisions = column(batch, "revision", &DataType::Int64)?;
        let samples = column(batch, "samples", &DataType::Int64)?;
        for row in 0..batch.num_rows() {
            let name = names.as_string::<i32>().value(row);
            let Some(window) = WINDOWS.iter().position(|w| *w == name) else { continue };
            let place = (
                gateways.as_string::<i32>().value(row),
                series.as_string::<i32>().value(row),
                starts.as_primitive::<Int64Type>().value(row),
            );
            self.take(
                window,
                place,
                revisions.as_primitive::<Int64Type>().value(row),
                samples.as_primitive::<Int64Type>().value(row),
            );
        }
        Ok(())
    }

    fn sum(&self) -> Windowed {
        let samples: i64 = self.windows.values().map(|&(_, samples)| samples).sum();
        Windowed { samples: u64::try_from(samples).unwrap_or(0) }
    }
}

impl Windowed {
    /// Whether every one of `numeric` readings is in a window of each size.
    pub(crate) fn is_complete(self, numeric: u64) -> bool {
        self.samples == numeric * WINDOWS.len() as u64
    }

    /// Whether only readings can be absent that came too late for any window, `beyond_horizon` at most.
    pub(crate) fn may_be_complete(self, numeric: u64, beyond_horizon: u64) -> bool {
        let all = numeric * WINDOWS.len() as u64;
        (all.saturating_sub(beyond_horizon * WINDOWS.len() as u64)..=all).contains(&self.samples)
    }
}

/// The receiver's tables, seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    catalog: PathBuf,
    files: FileIO,
}

/// A table as it was at one commit.
#[derive(Debug)]
pub(crate) struct State {
    /// The commit's metadata file, which is another one after each commit.
    pub(crate) location: String,
    table: StaticTable,
}

impl State {
    /// Rows of the table, from the snapshot's summary.
    pub(crate) fn rows(&self) -> u64 {
        let metadata = self.table.metadata();
        let summary = metadata.current_snapshot().map(|snapshot| snapshot.summary());
        let rows = summary.and_then(|summary| summary.additional_properties.get("total-records"));
        rows.and_then(|rows| rows.parse().ok()).unwrap_or(0)
    }
}

impl Tables {
    /// Reads the SQLite catalog at `catalog` and files from the S3 server at `endpoint`.
    pub(crate) fn new(catalog: PathBuf, endpoint: &str, credentials: &Credentials) -> Self {
        let factory = OpenDalStorageFactory::S3 { customized_credential_load: None };
        let files = FileIOBuilder::new(Arc::new(factory))
            .with_prop("s3.endpoint", endpoint)
            .with_prop("s3.region", REGION)
            .with_prop("s3.access-key-id", &credentials.access_key_id)
            .with_prop("s3.secret-access-key", &credentials.secret_access_key)
            .with_prop("s3.path-style-access", "true")
            .with_prop("s3.disable-config-load", "true")
            .with_prop("s3.disable-ec2-metadata", "true")
            .build();
        Self { catalog, files }
    }

    /// Where the newest metadata of `table` is, or `None` while the table doesn't exist.
    pub(crate) fn location(&self, table: &str) -> anyhow::Result<Option<String>> {
        if !self.catalog.exists() {
            return Ok(None);
        }
        let catalog = Connection::open_with_flags(&self.catalog, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        catalog.busy_timeout(std::time::Duration::from_secs(5))?;
        let made: bool = catalog.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'iceberg_tables')",
            [],
            |row| row.get(0),
        )?;
        if !made {
            return Ok(None);
        }
        let location = catalog.query_row(
            "SELECT metadata_location FROM iceberg_tables
             WHERE catalog_name = ?1 AND table_namespace = ?2 AND table_name = ?3",
            [CATALOG, NAMESPACE, table],
            |row| row.get(0),
        );
        Ok(location.optional()?.flatten())
    }

    /// The table as it is now, or `None` while it doesn't exist.
    pub(crate) async fn load(&self, table: &str) -> anyhow::Result<Option<State>> {
        let Some(location) = self.location(table)? else { return Ok(None) };
        let name = TableIdent::from_strs([NAMESPACE, table])?;
        let loaded = StaticTable::from_metadata_file(&location, name, self.files.clone()).await;
        let table = loaded.with_context(|| format!("can't read {location}"))?;
        Ok(Some(State { location, table }))
    }

    /// Counts the readings of `state`.
    pub(crate) async fn tally(&self, state: &State) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        scan(state, &["tags", "value"], |batch| tally.add(batch)).await?;
        Ok(tally)
    }

    /// Sums the newest revisions of `state`, which is `aggregates`.
    pub(crate) async fn windowed(&self, state: &State) -> anyhow::Result<Windowed> {
        let mut newest = Newest::default();
        let columns = ["window_name", "gateway", "series", "window_start", "revision", "samples"];
        scan(state, &columns, |batch| newest.add(batch)).await?;
        Ok(newest.sum())
    }

    /// Messages that were rejected, from `state`, which is `rejects`.
    pub(crate) async fn rejected(&self, state: &State) -> anyhow::Result<u64> {
        let mut rejected = 0;
        scan(state, &["occurrences"], |batch| {
            let occurrences = column(batch, "occurrences", &DataType::Int64)?;
            rejected += occurrences.as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
            Ok(())
        })
        .await?;
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}

/// Gives each batch of `columns` to `take`.
async fn scan(
    state: &State,
    columns: &[&str],
    mut take: impl FnMut(&RecordBatch) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if state.table.metadata().current_snapshot().is_none() {
        return Ok(());
    }
    let scan = state.table.scan().select(columns.iter().copied()).build()?;
    let mut batches = scan.to_arrow().await?;
    while let Some(batch) = batches.try_next().await? {
        take(&batch)?;
    }
    Ok(())
}

/// A column in the type that is read here, however the file holds it.
fn column(batch: &RecordBatch, name: &str, to: &DataType) -> anyhow::Result<ArrayRef> {
    match batch.column_by_name(name) {
        Some(column) => cast(column, to).with_context(|| format!("column {name}")),
        None => bail!("the table has no column {name}"),
    }
}

#[cfg(test)]
mod tests;
