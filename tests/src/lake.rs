//! What is in the tables, read back through the catalog file and the bucket, without a line of either program.
//!
//! [`Tally`] and [`Newest`] are arithmetic; [`Tables`] reads SQLite and the bucket.

use std::collections::{BTreeMap, HashMap};
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

use crate::mqtt::NumberSet;
pub use copies::Copies;
pub use emitted::Emitted;

mod copies;
mod emitted;

/// Name under which the receiver keeps its tables in the catalog.
const CATALOG: &str = "tributary";

/// The readings of the table, counted by their message numbers.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Rows.
    pub rows: u64,
    /// Rows with a numeric or boolean value: those that belong into windows.
    pub numeric: u64,
    /// Distinct message numbers.
    pub numbers: NumberSet,
}

/// Keeps the newest revision of each window of each series.
#[derive(Clone, Debug)]
pub struct Newest<'a> {
    names: &'a [&'a str],
    windows: HashMap<(usize, String, String, i64), (i64, i64)>,
}

/// What of the windows is known to hold readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windowed {
    /// Readings that aren't texts in the newest revisions of the windows asked for.
    pub samples: u64,
    /// How many sizes of windows were asked for; each reading is in one window of each size.
    pub sizes: u64,
}

impl Tally {
    /// Adds a batch with the columns `tags` and `value`.
    ///
    /// # Errors
    /// When a column is missing or of another type.
    pub fn add(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let values = column(batch, "value", &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        self.rows += batch.num_rows() as u64;
        self.numeric += (values.len() - values.null_count()) as u64;
        numbers(batch)?.into_iter().flatten().for_each(|number| _ = self.numbers.insert(number));
        Ok(())
    }
}

impl<'a> Newest<'a> {
    /// Looks at the windows with these names only.
    #[must_use]
    pub fn of(names: &'a [&'a str]) -> Self {
        Self { names, windows: HashMap::new() }
    }

    /// Takes in one row of `aggregates`; of equal revisions either will do, as they say the same.
    fn take(&mut self, window: usize, place: (&str, &str, i64), revision: i64, samples: i64) {
        let (gateway, series, window_start) = place;
        let key = (window, gateway.to_owned(), series.to_owned(), window_start);
        let newest = self.windows.entry(key).or_insert((revision, samples));
        if revision > newest.0 {
            *newest = (revision, samples);
        }
    }

    /// Adds a batch of `aggregates`.
    ///
    /// # Errors
    /// When a column is missing or of another type.
    pub fn add(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let names = column(batch, "window_name", &DataType::Utf8)?;
        let gateways = column(batch, "gateway", &DataType::Utf8)?;
        let series = column(batch, "series", &DataType::Utf8)?;
        let starts = column(batch, "window_start", &DataType::Int64)?;
        let revisions = column(batch, "revision", &DataType::Int64)?;
        let samples = column(batch, "samples", &DataType::Int64)?;
        let texts = column(batch, "value_last_text", &DataType::Utf8)?;
        for row in 0..batch.num_rows() {
            let name = names.as_string::<i32>().value(row);
            let Some(window) = self.names.iter().position(|w| *w == name) else { continue };
            let place = (
                gateways.as_string::<i32>().value(row),
                series.as_string::<i32>().value(row),
                starts.as_primitive::<Int64Type>().value(row),
            );
            self.take(
                window,
                place,
                revisions.as_primitive::<Int64Type>().value(row),
                // Of texts not every window takes note.
                if texts.is_null(row) { samples.as_primitive::<Int64Type>().value(row) } else { 0 },
            );
        }
        Ok(())
    }

    /// What the newest revisions hold.
    #[must_use]
    pub fn sum(&self) -> Windowed {
        let samples: i64 = self.windows.values().map(|&(_, samples)| samples).sum();
        Windowed { samples: u64::try_from(samples).unwrap_or(0), sizes: self.names.len() as u64 }
    }
}

impl Windowed {
    /// Whether every one of `numeric` readings is in a window of each size.
    pub fn is_complete(self, numeric: u64) -> bool {
        self.samples == numeric * self.sizes
    }

    /// Whether only readings can be absent that came too late for any window, `beyond_horizon` at most.
    pub fn may_be_complete(self, numeric: u64, beyond_horizon: u64) -> bool {
        let all = numeric * self.sizes;
        (all.saturating_sub(beyond_horizon * self.sizes)..=all).contains(&self.samples)
    }
}

/// Where the tables' files are and with which keys they are read.
#[derive(Clone, Debug)]
pub struct Files {
    /// URL of the S3 server.
    pub endpoint: String,
    /// Region that it goes by.
    pub region: String,
    /// Access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
}

/// The receiver's tables of one namespace, seen from outside.
#[derive(Clone, Debug)]
pub struct Tables {
    catalog: PathBuf,
    namespace: String,
    files: FileIO,
}

/// A table as it was at one commit.
#[derive(Debug)]
pub struct State {
    /// The commit's metadata file, which is another one after each commit.
    pub location: String,
    table: StaticTable,
}

impl State {
    /// Rows of the table, from the snapshot's summary.
    pub fn rows(&self) -> u64 {
        let metadata = self.table.metadata();
        let summary = metadata.current_snapshot().map(|snapshot| snapshot.summary());
        let rows = summary.and_then(|summary| summary.additional_properties.get("total-records"));
        rows.and_then(|rows| rows.parse().ok()).unwrap_or(0)
    }
}

impl Tables {
    /// Reads tables of `namespace` by the SQLite catalog at `catalog`.
    #[must_use]
    pub fn new(catalog: PathBuf, namespace: &str, files: &Files) -> Self {
        let factory = OpenDalStorageFactory::S3 { customized_credential_load: None };
        let files = FileIOBuilder::new(Arc::new(factory))
            .with_prop("s3.endpoint", &files.endpoint)
            .with_prop("s3.region", &files.region)
            .with_prop("s3.access-key-id", &files.access_key_id)
            .with_prop("s3.secret-access-key", &files.secret_access_key)
            .with_prop("s3.path-style-access", "true")
            .with_prop("s3.disable-config-load", "true")
            .with_prop("s3.disable-ec2-metadata", "true")
            .build();
        Self { catalog, namespace: namespace.to_owned(), files }
    }

    /// Where the newest metadata of `table` is, or `None` while the table doesn't exist.
    ///
    /// # Errors
    /// When the catalog or a file can't be read at the moment.
    pub fn location(&self, table: &str) -> anyhow::Result<Option<String>> {
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
            [CATALOG, self.namespace.as_str(), table],
            |row| row.get(0),
        );
        Ok(location.optional()?.flatten())
    }

    /// The table as it is now, or `None` while it doesn't exist.
    ///
    /// # Errors
    /// When the catalog or a file can't be read at the moment.
    pub async fn load(&self, table: &str) -> anyhow::Result<Option<State>> {
        let Some(location) = self.location(table)? else { return Ok(None) };
        let name = TableIdent::from_strs([self.namespace.as_str(), table])?;
        let loaded = StaticTable::from_metadata_file(&location, name, self.files.clone()).await;
        let table = loaded.with_context(|| format!("can't read {location}"))?;
        Ok(Some(State { location, table }))
    }

    /// Counts the readings of `state`.
    ///
    /// # Errors
    /// When the catalog or a file can't be read at the moment.
    pub async fn tally(&self, state: &State) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        scan(state, &["tags", "value"], |batch| tally.add(batch)).await?;
        Ok(tally)
    }

    /// Sums the newest revisions of the windows with these names in `state`, which is `aggregates`.
    ///
    /// # Errors
    /// When a file can't be read at the moment.
    pub async fn windowed(&self, state: &State, windows: &[&str]) -> anyhow::Result<Windowed> {
        let mut newest = Newest::of(windows);
        let columns =
            ["window_name", "gateway", "series", "window_start", "revision", "samples", "value_last_text"];
        scan(state, &columns, |batch| newest.add(batch)).await?;
        Ok(newest.sum())
    }

    /// Rows of `state`, which is `gaps`, by their reason.
    ///
    /// # Errors
    /// When the catalog or a file can't be read at the moment.
    pub async fn gaps(&self, state: &State) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut gaps = BTreeMap::new();
        scan(state, &["reason"], |batch| {
            let reasons = column(batch, "reason", &DataType::Utf8)?;
            for reason in reasons.as_string::<i32>().iter().flatten() {
                *gaps.entry(reason.to_owned()).or_insert(0) += 1;
            }
            Ok(())
        })
        .await?;
        Ok(gaps)
    }

    /// Readings that are missing, from `state`, which is `gaps`: those whose number is known.
    ///
    /// # Errors
    /// When the catalog or a file can't be read at the moment.
    pub async fn missing(&self, state: &State) -> anyhow::Result<u64> {
        let mut missing = 0;
        scan(state, &["readings"], |batch| {
            let readings = column(batch, "readings", &DataType::Int64)?;
            missing += readings.as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
            Ok(())
        })
        .await?;
        Ok(u64::try_from(missing).unwrap_or(0))
    }

    /// Messages that were rejected, from `state`, which is `rejects`.
    ///
    /// # Errors
    /// When the catalog or a file can't be read at the moment.
    pub async fn rejected(&self, state: &State) -> anyhow::Result<u64> {
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

/// The message number of each row, from its tag `n`.
fn numbers(batch: &RecordBatch) -> anyhow::Result<Vec<Option<u64>>> {
    let tags = batch.column_by_name("tags").context("readings have no column tags")?;
    let tags = tags.as_map_opt().context("column tags is no map")?;
    let keys = cast(tags.keys(), &DataType::Utf8)?;
    let entries = cast(tags.values(), &DataType::Utf8)?;
    let (keys, entries) = (keys.as_string::<i32>(), entries.as_string::<i32>());
    let mut numbers = Vec::with_capacity(batch.num_rows());
    for (row, ends) in tags.value_offsets().windows(2).enumerate() {
        let &[from, to] = ends else { continue };
        let named = (from as usize..to as usize).find(|&at| keys.value(at) == "n");
        let number = named.filter(|_| tags.is_valid(row)).and_then(|at| entries.value(at).parse().ok());
        numbers.push(number);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests;
