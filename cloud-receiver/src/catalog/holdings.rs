//! Which segments a snapshot holds, read from the columns that every row carries, whatever an engine rewrote.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use futures::TryStreamExt;
use tributary_contract::id::{Epoch, GatewayId, Number, SegmentId};
use tributary_contract::key::SegmentKey;
use tributary_contract::table::Table;
use tributary_contract::time::{Day, Timestamp};

use super::look::Look;

/// The columns that say which segment a row came from.
const ORIGIN: [&str; 3] = ["gateway", "buffer_epoch", "segment_number"];

/// So many doubled readings are named.
pub const MOST_DOUBLED: usize = 100;

/// What a table holds of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Rows.
    pub rows: u64,
    /// UTC day of the first of them.
    pub day: Day,
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    /// By segment. Rows that the receiver wrote itself, which carry number 0, aren't in it.
    pub segments: BTreeMap<SegmentId, Held>,
    /// Rows that name no gateway, epoch or number that could exist: another writer's.
    pub foreign: u64,
}

/// A row of `gaps` that a receiver wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnGapRow {
    /// Its name, which says what it is about.
    pub id: String,
    /// The gateway concerned.
    pub gateway: GatewayId,
    /// The epoch concerned.
    pub epoch: Epoch,
}

impl Look {
    /// Reads the origin of every row of the table as it was looked at, deleted rows left out.
    pub async fn holdings(&self) -> anyhow::Result<Holdings> {
        let mut found = Holdings::default();
        let mut columns = vec![self.table.day_column().name];
        columns.extend(ORIGIN);
        self.read(&columns, |batch| {
            let days = column(batch, 0, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let Some(days) = days.as_any().downcast_ref::<TimestampMicrosecondArray>() else {
                bail!("the day column can't be read")
            };
            let origins = Origins::read(batch, 1)?;
            for row in 0..batch.num_rows() {
                match origins.segment(row) {
                    Origin::Segment(id) => {
                        let day = Timestamp(days.value(row)).day();
                        found.segments.entry(id).or_insert(Held { rows: 0, day }).rows += 1;
                    }
                    Origin::Receiver(..) => {}
                    Origin::Foreign => found.foreign += 1,
                }
            }
            Ok(true)
        })
        .await?;
        Ok(found)
    }

    /// Whether the table as it was looked at holds any of these segments or files. The names of its files are asked
    /// first; where an engine rewrote them, the rows.
    pub async fn holds_any(&self, segments: &[SegmentKey], uris: &[&str]) -> anyhow::Result<bool> {
        if self.loaded.metadata().current_snapshot().is_none() {
            return Ok(false);
        }
        let names: Vec<String> =
            segments.iter().map(|k| format!("/{}/{}/{}", k.id.gateway, k.id.epoch, k.file_name())).collect();
        let tasks = self.loaded.scan().build()?.plan_files().await?;
        let files: Vec<String> = tasks.map_ok(|t| t.data_file_path).try_collect().await?;
        let named = |file: &String| {
            uris.contains(&file.as_str()) || names.iter().any(|name| file.ends_with(name.as_str()))
        };
        let by_name = files.iter().any(named);
        if by_name || segments.is_empty() {
            return Ok(by_name);
        }
        let wanted: BTreeSet<&SegmentId> = segments.iter().map(|k| &k.id).collect();
        let mut found = false;
        self.read(&ORIGIN, |batch| {
            let origins = Origins::read(batch, 0)?;
            found = (0..batch.num_rows())
                .any(|row| matches!(origins.segment(row), Origin::Segment(id) if wanted.contains(&id)));
            Ok(!found)
        })
        .await?;
        Ok(found)
    }

    /// Readings whose seq the table has more than once in their epoch, at most [`MOST_DOUBLED`]. One bit a reading.
    pub async fn doubled(&self) -> anyhow::Result<Vec<(GatewayId, Epoch, i64)>> {
        let mut doubled = Vec::new();
        if self.table != Table::Readings {
            return Ok(doubled);
        }
        let mut columns = vec!["seq"];
        columns.extend(ORIGIN);
        let mut seen: BTreeMap<(GatewayId, Epoch), Bits> = BTreeMap::new();
        self.read(&columns, |batch| {
            let seqs = column(batch, 0, &DataType::Int64)?;
            let seqs = seqs.as_any().downcast_ref::<Int64Array>().context("seq can't be read")?;
            let origins = Origins::read(batch, 1)?;
            for row in 0..batch.num_rows() {
                let Origin::Segment(id) = origins.segment(row) else { continue };
                let key = (id.gateway, id.epoch);
                let seq = seqs.value(row);
                if !seen.entry(key.clone()).or_default().insert(seq) {
                    doubled.push((key.0, key.1, seq));
                }
            }
            Ok(doubled.len() < MOST_DOUBLED)
        })
        .await?;
        doubled.truncate(MOST_DOUBLED);
        Ok(doubled)
    }

    /// The rows that receivers wrote into this table, which must be `gaps`.
    pub async fn own_gaps(&self) -> anyhow::Result<Vec<OwnGapRow>> {
        let mut found = Vec::new();
        if self.table != Table::Gaps {
            return Ok(found);
        }
        let mut columns = vec!["id"];
        columns.extend(ORIGIN);
        self.read(&columns, |batch| {
            let ids = text(batch, 0)?;
            let origins = Origins::read(batch, 1)?;
            for row in 0..batch.num_rows() {
                if let Origin::Receiver(gateway, epoch) = origins.segment(row) {
                    found.push(OwnGapRow { id: ids.value(row).to_owned(), gateway, epoch });
                }
            }
            Ok(true)
        })
        .await?;
        Ok(found)
    }

    /// Hands every batch of rows with these columns to `take`, until it says that it has seen enough.
    async fn read(
        &self,
        columns: &[&str],
        mut take: impl FnMut(&RecordBatch) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let name = self.name();
        if self.loaded.metadata().current_snapshot().is_none() {
            return Ok(());
        }
        let scan = self.loaded.scan().select(columns.iter().copied()).build();
        let mut rows = scan.with_context(|| format!("table {name}"))?.to_arrow().await?;
        while let Some(batch) = rows.try_next().await.with_context(|| format!("rows of {name}"))? {
            if !take(&batch).with_context(|| format!("rows of {name}"))? {
                break;
            }
        }
        Ok(())
    }
}

/// A set of seqs, dense as an epoch's are: a bit each, in blocks.
#[derive(Default)]
struct Bits(BTreeMap<i64, Box<[u64; 64]>>);

impl Bits {
    /// Adds `n`; `false` if it was there.
    fn insert(&mut self, n: i64) -> bool {
        let block = self.0.entry(n >> 12).or_insert_with(|| Box::new([0; 64]));
        let (word, bit) = (((n >> 6) & 63) as usize, 1u64 << (n & 63));
        match block.get_mut(word) {
            Some(word) => {
                let new = *word & bit == 0;
                *word |= bit;
                new
            }
            None => false,
        }
    }
}

/// Where a row came from.
enum Origin {
    Segment(SegmentId),
    /// A receiver wrote it about this gateway and epoch.
    Receiver(GatewayId, Epoch),
    Foreign,
}

/// The three columns of origin of some rows.
struct Origins {
    gateways: StringArray,
    epochs: StringArray,
    numbers: Int64Array,
}

impl Origins {
    fn read(batch: &RecordBatch, first: usize) -> anyhow::Result<Self> {
        let numbers = column(batch, first + 2, &DataType::Int64)?;
        let numbers =
            numbers.as_any().downcast_ref::<Int64Array>().context("segment_number can't be read")?;
        Ok(Self { gateways: text(batch, first)?, epochs: text(batch, first + 1)?, numbers: numbers.clone() })
    }

    fn segment(&self, row: usize) -> Origin {
        if self.gateways.is_null(row) || self.epochs.is_null(row) || self.numbers.is_null(row) {
            return Origin::Foreign;
        }
        let gateway = GatewayId::new(self.gateways.value(row));
        let (Ok(gateway), Ok(epoch)) = (gateway, self.epochs.value(row).parse()) else {
            return Origin::Foreign;
        };
        match u64::try_from(self.numbers.value(row)).map(|n| (n, Number::new(n))) {
            Ok((_, Ok(number))) => Origin::Segment(SegmentId { gateway, epoch, number }),
            Ok((0, _)) => Origin::Receiver(gateway, epoch),
            _ => Origin::Foreign,
        }
    }
}

/// A column in the type that is asked for: engines write texts under several types.
fn column(batch: &RecordBatch, index: usize, kind: &DataType) -> anyhow::Result<ArrayRef> {
    let column = batch.columns().get(index).with_context(|| format!("column {index} is missing"))?;
    Ok(cast(column, kind)?)
}

fn text(batch: &RecordBatch, index: usize) -> anyhow::Result<StringArray> {
    let column = column(batch, index, &DataType::Utf8)?;
    Ok(column.as_any().downcast_ref::<StringArray>().context("a text column can't be read")?.clone())
}
