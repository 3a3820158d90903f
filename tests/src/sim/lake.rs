//! What is in the tables at the end: the catalog's pointer, Iceberg's manifests, the rows of the bucket's objects.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::{Catalog, NamespaceIdent, TableIdent};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tributary_contract::table::Table;
use tributary_receiver::catalog::SqliteCatalog;

use super::bucket::Store;

/// What stands before a key in the names that tables use.
pub const URI_BASE: &str = "s3://lake/";
/// Where tables lie.
pub const WAREHOUSE: &str = "s3://lake/site/lake";

/// A row of `readings`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingRow {
    /// Event time, microseconds.
    pub ts: i64,
    /// Receipt, microseconds.
    pub received_at: i64,
    /// Metric.
    pub metric: String,
    /// Series.
    pub series: String,
    /// Value: the message's number.
    pub value: f64,
    /// Doubts, or nothing.
    pub quality: String,
    /// Epoch.
    pub epoch: String,
    /// Seq.
    pub seq: i64,
}

/// A row of `aggregates`.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowRow {
    /// Name of its definition.
    pub name: String,
    /// Series.
    pub series: String,
    /// Begin, microseconds.
    pub start: i64,
    /// Revision.
    pub revision: i64,
    /// Readings in it.
    pub samples: i64,
}

/// Everything that the oracle asks of the tables.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// `readings`
    pub readings: Vec<ReadingRow>,
    /// `aggregates`
    pub windows: Vec<WindowRow>,
    /// Reasons of `gaps`.
    pub gaps: Vec<String>,
    /// Payload and occurrences of `rejects`.
    pub rejects: Vec<(String, i64)>,
    /// Keys of all data files, with how often a table names each.
    pub files: Vec<String>,
}

/// Reads all tables.
///
/// # Errors
/// When a table names an object that isn't there, or anything can't be read.
pub async fn read(catalog: &Path, files: FileIO, store: &Store) -> anyhow::Result<Tables> {
    let catalog = SqliteCatalog::open(catalog, files.clone(), WAREHOUSE.to_owned()).await?;
    let mut tables = Tables::default();
    for table in Table::ALL {
        let namespace = NamespaceIdent::new("tributary".to_owned());
        let ident = TableIdent::new(namespace, table.name().to_owned());
        if !catalog.table_exists(&ident).await? {
            continue;
        }
        let loaded = catalog.load_table(&ident).await?;
        let Some(snapshot) = loaded.metadata().current_snapshot() else { continue };
        let manifests = loaded.manifest_list_reader(snapshot).load().await?;
        for manifest in manifests.entries() {
            for entry in manifest.load_manifest(&files).await?.entries().iter().filter(|e| e.is_alive()) {
                let uri = entry.data_file().file_path();
                let key = uri.strip_prefix(URI_BASE).with_context(|| format!("strange URI {uri}"))?;
                let bytes = store
                    .object(key)
                    .with_context(|| format!("table {table} names {key}, which isn't there"))?;
                tables.files.push(key.to_owned());
                tables.take(table, bytes)?;
            }
        }
    }
    Ok(tables)
}

impl Tables {
    fn take(&mut self, table: Table, bytes: Bytes) -> anyhow::Result<()> {
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
            let batch = batch?;
            match table {
                Table::Readings => self.readings(&batch)?,
                Table::Aggregates => self.aggregates(&batch)?,
                Table::Gaps => {
                    let reasons = Texts::of(&batch, "reason")?;
                    self.gaps.extend((0..batch.num_rows()).map(|row| reasons.at(row)));
                }
                Table::Rejects => {
                    let payloads = Texts::of(&batch, "payload")?;
                    let occurrences = numbers(&batch, "occurrences")?;
                    self.rejects
                        .extend((0..batch.num_rows()).map(|row| (payloads.at(row), occurrences[row])));
                }
                Table::Series | Table::Alerts => {}
            }
        }
        Ok(())
    }

    fn readings(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let (ts, received) = (numbers(batch, "ts")?, numbers(batch, "received_at")?);
        let (metric, series) = (Texts::of(batch, "metric")?, Texts::of(batch, "series")?);
        let (quality, epoch) = (Texts::of(batch, "quality")?, Texts::of(batch, "buffer_epoch")?);
        let seq = numbers(batch, "seq")?;
        let value = cast(batch.column_by_name("value").context("no value")?, &DataType::Float64)?;
        let value = value.as_primitive::<Float64Type>();
        self.readings.extend((0..batch.num_rows()).map(|row| ReadingRow {
            ts: ts[row],
            received_at: received[row],
            metric: metric.at(row),
            series: series.at(row),
            value: value.value(row),
            quality: quality.at(row),
            epoch: epoch.at(row),
            seq: seq[row],
        }));
        Ok(())
    }

    fn aggregates(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let (name, series) = (Texts::of(batch, "window_name")?, Texts::of(batch, "series")?);
        let (start, revision) = (numbers(batch, "window_start")?, numbers(batch, "revision")?);
        let samples = numbers(batch, "samples")?;
        self.windows.extend((0..batch.num_rows()).map(|row| WindowRow {
            name: name.at(row),
            series: series.at(row),
            start: start[row],
            revision: revision[row],
            samples: samples[row],
        }));
        Ok(())
    }

    /// Data files that a table names more than once.
    pub fn doubled_files(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        self.files.iter().filter(|f| !seen.insert(f.as_str())).map(String::as_str).collect()
    }
}

/// A column of texts, or of bytes that are text.
struct Texts(arrow::array::ArrayRef);

impl Texts {
    fn of(batch: &RecordBatch, name: &str) -> anyhow::Result<Self> {
        let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
        Ok(Self(cast(column, &DataType::Utf8).with_context(|| format!("column {name}"))?))
    }

    fn at(&self, row: usize) -> String {
        let column = self.0.as_string::<i32>();
        if column.is_null(row) { String::new() } else { column.value(row).to_owned() }
    }
}

fn numbers(batch: &RecordBatch, name: &str) -> anyhow::Result<Vec<i64>> {
    let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
    let column = cast(column, &DataType::Int64).with_context(|| format!("column {name}"))?;
    Ok(column.as_primitive::<Int64Type>().values().to_vec())
}
