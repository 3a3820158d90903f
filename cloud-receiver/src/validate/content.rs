//! What the bytes of a Parquet file hold: footer, manifest, columns, and what each row says of its origin.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader};
use tributary_contract::key::SegmentKey;
use tributary_contract::manifest::MANIFEST_KEY;
use tributary_contract::time::Timestamp;

use super::MAX_INFLATED_BYTES;
use super::check::{RowFacts, schema_fault};

/// Rows decoded at a time: bounds memory whatever the file's row groups are.
const ROWS_AT_ONCE: usize = 4096;
/// The most values that one column of one row group may claim.
const MAX_VALUES: i64 = 100_000_000;

/// What a readable file holds.
#[derive(Debug)]
pub struct Content {
    /// The footer.
    pub footer: Arc<ParquetMetaData>,
    /// Every text under the manifest's key.
    pub manifests: Vec<String>,
    /// Columns, as Parquet itself declares them.
    pub schema: SchemaRef,
    /// What the rows say, or why they can't be read; empty while the columns aren't the table's.
    pub rows: Result<RowFacts, String>,
}

/// Why a file isn't read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It isn't a Parquet file, or a damaged one.
    Unreadable(String),
    /// It would inflate beyond the limit.
    TooLarge(String),
}

/// Reads all of `bytes`, the object at `key`. Broken files end in an error, whatever the Parquet library does with them.
pub fn read(bytes: Bytes, key: &SegmentKey) -> Result<Content, Trouble> {
    guarded(|| read_unguarded(bytes, key)).unwrap_or_else(|| Err(Trouble::Unreadable(BROKE.to_owned())))
}

/// Reads a footer from the last bytes of a file. `Ok(Err(n))` if the last `n` bytes are needed.
pub fn read_footer(tail: &Bytes) -> Result<Result<Arc<ParquetMetaData>, u64>, String> {
    let parse = || {
        let end: &[u8; 8] = tail.last_chunk().ok_or_else(|| "it is shorter than 8 bytes".to_owned())?;
        let length = FooterTail::try_new(end).map_err(|e| e.to_string())?.metadata_length();
        let needed = (length as u64).saturating_add(end.len() as u64);
        if needed > tail.len() as u64 {
            return Ok(Err(needed));
        }
        let footer = ParquetMetaDataReader::new().parse_and_finish(tail).map_err(|e| e.to_string())?;
        Ok(Ok(Arc::new(footer)))
    };
    guarded(parse).unwrap_or_else(|| Err(BROKE.to_owned()))
}

const BROKE: &str = "its structure is broken";

/// Runs `read`; `None` if it panicked: decoders of foreign formats have panicked on damaged files before.
fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok()
}

fn read_unguarded(bytes: Bytes, key: &SegmentKey) -> Result<Content, Trouble> {
    let unreadable = |e: ParquetError| Trouble::Unreadable(e.to_string());
    let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::load(&bytes, plain).map_err(unreadable)?;
    let footer = metadata.metadata().clone();
    if let Some(why) = oversize(&footer) {
        return Err(Trouble::TooLarge(why));
    }
    let pairs = footer.file_metadata().key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let manifests = pairs
        .iter()
        .filter(|kv| kv.key == MANIFEST_KEY)
        .map(|kv| kv.value.clone().unwrap_or_default())
        .collect();
    let schema = metadata.schema().clone();
    let rows = match schema_fault(key.table, &schema) {
        Some(_) => Ok(RowFacts::default()),
        None => open_rows(bytes, &footer, &schema).and_then(|rows| read_rows(rows, key)),
    };
    Ok(Content { footer, manifests, schema, rows })
}

fn oversize(footer: &ParquetMetaData) -> Option<String> {
    let columns = || footer.row_groups().iter().flat_map(|g| g.columns());
    let inflated = columns()
        .fold(0u64, |n, c| n.saturating_add(u64::try_from(c.uncompressed_size()).unwrap_or(u64::MAX)));
    if inflated > MAX_INFLATED_BYTES {
        return Some(format!("it would inflate to {inflated} bytes, at most {MAX_INFLATED_BYTES} are taken"));
    }
    let most = columns().map(|c| c.num_values()).max().unwrap_or_default();
    (most > MAX_VALUES).then(|| format!("a column claims {most} values, at most {MAX_VALUES} are taken"))
}

/// Opens the rows with texts as views: a long text in a dictionary, used by every row, is then held once.
fn open_rows(
    bytes: Bytes,
    footer: &Arc<ParquetMetaData>,
    schema: &Schema,
) -> Result<ParquetRecordBatchReader, String> {
    let views: Fields = schema.fields().iter().map(|f| as_view(f)).collect();
    let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(views)));
    let metadata = ArrowReaderMetadata::try_new(footer.clone(), options).map_err(|e| e.to_string())?;
    ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata)
        .with_batch_size(ROWS_AT_ONCE)
        .build()
        .map_err(|e| e.to_string())
}

fn as_view(field: &Field) -> Field {
    let kind = match field.data_type() {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        DataType::Map(entries, sorted) => DataType::Map(Arc::new(as_view(entries)), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| as_view(f)).collect()),
        other => other.clone(),
    };
    field.clone().with_data_type(kind)
}

fn read_rows(reader: ParquetRecordBatchReader, key: &SegmentKey) -> Result<RowFacts, String> {
    let mut facts = RowFacts::default();
    let expected = Origin {
        gateway: key.id.gateway.as_str(),
        epoch: &key.id.epoch.to_string(),
        number: i64::try_from(key.id.number.get()).unwrap_or(i64::MAX),
    };
    for batch in reader {
        let batch = batch.map_err(|e| e.to_string())?;
        let before = facts.rows;
        facts.rows += batch.num_rows() as u64;
        if facts.foreign.is_none() {
            facts.foreign = expected.first_other(&batch, before)?;
        }
        let times = column(&batch, key.table.day_column().name)?
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or("the day column holds no times")?;
        widen(&mut facts.min_ts, &mut facts.max_ts, min(times).map(Timestamp), max(times).map(Timestamp));
        if key.table.column("seq").is_some() {
            let seqs =
                column(&batch, "seq")?.as_primitive_opt::<Int64Type>().ok_or("`seq` holds no numbers")?;
            widen(&mut facts.min_seq, &mut facts.max_seq, min(seqs), max(seqs));
        }
    }
    Ok(facts)
}

fn widen<T: Ord + Copy>(least: &mut Option<T>, greatest: &mut Option<T>, low: Option<T>, high: Option<T>) {
    *least = [*least, low].into_iter().flatten().min();
    *greatest = [*greatest, high].into_iter().flatten().max();
}

fn column<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b Arc<dyn Array>, String> {
    batch.column_by_name(name).ok_or_else(|| format!("column `{name}` is missing"))
}

/// Where every row must say that it comes from.
struct Origin<'k> {
    gateway: &'k str,
    epoch: &'k str,
    number: i64,
}

impl Origin<'_> {
    fn first_other(&self, batch: &RecordBatch, before: u64) -> Result<Option<String>, String> {
        let text = |name| {
            let array = column(batch, name)?;
            array.as_string_view_opt().ok_or_else(|| format!("`{name}` holds no texts"))
        };
        let gateways = text("gateway")?;
        let epochs = text("buffer_epoch")?;
        let numbers = column(batch, "segment_number")?
            .as_primitive_opt::<Int64Type>()
            .ok_or("`segment_number` holds no numbers")?;
        let other = (0..batch.num_rows()).find(|&i| {
            gateways.value(i) != self.gateway
                || epochs.value(i) != self.epoch
                || numbers.value(i) != self.number
        });
        Ok(other.map(|i| {
            let clip = |s: &str| s.chars().take(140).collect::<String>();
            format!(
                "row {} says gateway {:?}, epoch {:?}, segment {}; its key says {}/{}/{}",
                before + i as u64 + 1,
                clip(gateways.value(i)),
                clip(epochs.value(i)),
                numbers.value(i),
                self.gateway,
                self.epoch,
                self.number,
            )
        }))
    }
}
