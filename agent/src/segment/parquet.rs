//! Rows and manifest to the bytes of a segment, row group by row group; the same rows give the same bytes.

use std::io::{self, Write};
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_writer::{
    ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves,
};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::writer::SerializedFileWriter;
use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::{Field, SchemaRef};
use arrow::error::ArrowError;
use sha2::{Digest as _, Sha256};
use tributary_contract::digest::Digest;
use tributary_contract::manifest::{MANIFEST_KEY, Manifest};
use tributary_contract::table::Table;
use tributary_contract::time::{Day, Timestamp};

use super::columns::{EncodeError, Entries, Lookup, Provenance, Rows, TableRow};
use super::encoding::{BATCH, Settings};
use crate::window::decision::Seen;
use crate::window::emit::AggregateRow;

/// Key in the footer of a segment of `aggregates` under which stands, as JSON, what its decisions had seen: so that a
/// segment that is read back restores them. Receivers don't look at it.
pub const SEEN_KEY: &str = "tributary.seen";

/// What the rows of a segment say, for its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// How many rows; at least one.
    pub rows: u64,
    /// Least value of the day column.
    pub min_ts: Timestamp,
    /// Greatest value of the day column.
    pub max_ts: Timestamp,
    /// Least and greatest seq, for `readings`.
    pub seqs: Option<(u64, u64)>,
}

/// A finished segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// SHA-256 of it.
    pub digest: Digest,
    /// What its rows say.
    pub facts: Facts,
}

/// Makes one segment. Holds at most one row group of rows beside the bytes made so far.
#[derive(Debug)]
pub struct Builder<R: TableRow> {
    day: Day,
    provenance: Provenance,
    settings: Settings,
    entries: Entries,
    group: Vec<R>,
    /// From the first row group on, for only that says which columns there are.
    writer: Option<Writer>,
    facts: Option<Facts>,
    seen: Option<Seen>,
}

/// The file under way.
struct Writer {
    /// Those columns of the table that are written.
    schema: SchemaRef,
    file: SerializedFileWriter<Hashed>,
    columns: ArrowRowGroupWriterFactory,
    /// For those columns that have one page a row group.
    whole: ArrowRowGroupWriterFactory,
    names_of_whole: Vec<&'static str>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("bytes", &self.file.bytes_written()).finish_non_exhaustive()
    }
}

impl Writer {
    fn new(table: Table, columns: &[usize], settings: &Settings) -> Result<Self, EncodeError> {
        let options = |properties| {
            ArrowWriterOptions::new()
                .with_properties(properties)
                // The Arrow schema would be a second, longer spelling of the Parquet schema in every file.
                .with_skip_arrow_metadata(true)
                .with_schema_root("table".to_owned())
        };
        let schema = Arc::new(table.arrow_schema().project(columns)?);
        let (of_pages, of_whole) =
            (options(settings.properties(table)?), options(settings.properties_of_whole(table)?));
        let writer = ArrowWriter::try_new_with_options(Hashed::default(), Arc::clone(&schema), of_pages)?;
        let (file, columns) = writer.into_serialized_writer()?;
        let unwritten = ArrowWriter::try_new_with_options(io::sink(), Arc::clone(&schema), of_whole)?;
        let (_, whole) = unwritten.into_serialized_writer()?;
        Ok(Self { schema, file, columns, whole, names_of_whole: settings.whole.clone() })
    }

    /// Writes one row group, column after column: each has a compressor of its own, of some MiB while it works, and no two
    /// work at once.
    fn write<R: TableRow>(
        &mut self,
        batches: &[Rows<'_, R>],
        provenance: &Provenance,
    ) -> Result<(), EncodeError> {
        let group = self.file.flushed_row_groups().len();
        let mut writers = self.columns.create_column_writers(group)?.into_iter();
        let mut of_whole = self.whole.create_column_writers(group)?.into_iter();
        let mut group = self.file.next_row_group()?;
        for field in self.schema.fields() {
            let mut leaves: Vec<ArrowColumnWriter> = Vec::new();
            for rows in batches {
                let column = fitting(field, rows.column(field.name(), provenance)?)?;
                let parts = compute_leaves(field, &column)?;
                if leaves.is_empty() {
                    let both: Vec<_> = writers.by_ref().zip(&mut of_whole).take(parts.len()).collect();
                    let whole = self.names_of_whole.contains(&field.name().as_str());
                    leaves.extend(both.into_iter().map(|(paged, one)| if whole { one } else { paged }));
                }
                for (part, leaf) in parts.iter().zip(&mut leaves) {
                    leaf.write(part)?;
                }
            }
            for leaf in leaves {
                leaf.close()?.append_to_row_group(&mut group)?;
            }
        }
        group.close()?;
        Ok(())
    }
}

/// The column, if it is what the schema says.
fn fitting(field: &Field, column: ArrayRef) -> Result<ArrayRef, EncodeError> {
    if column.data_type() != field.data_type() || (column.null_count() > 0 && !field.is_nullable()) {
        let (name, kind, nulls) = (field.name(), column.data_type(), column.null_count());
        return Err(ArrowError::SchemaError(format!("`{name}` is {kind} with {nulls} nulls")).into());
    }
    Ok(column)
}

impl<R: TableRow> Builder<R> {
    /// An empty segment of `R`'s table and `day`.
    pub fn new(day: Day, provenance: Provenance) -> Self {
        Self {
            day,
            provenance,
            settings: Settings::of(R::TABLE),
            entries: Entries::default(),
            group: Vec::new(),
            writer: None,
            facts: None,
            seen: None,
        }
    }

    /// The same by other settings: what the bench compares with.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The same with room for so many rows at once, as far as a row group holds them.
    #[must_use]
    pub fn with_room_for(mut self, rows: usize) -> Self {
        self.group.reserve_exact(rows.min(self.settings.row_group));
        self
    }

    /// Takes one row; they may come in any order. A row of another day, or of a series that isn't in the dictionary, is
    /// refused and changes nothing.
    pub fn push(&mut self, row: R, dictionary: Lookup<'_>) -> Result<(), EncodeError> {
        let ts = row.at();
        if !self.day.holds(ts) {
            return Err(EncodeError::OtherDay { day: self.day, got: ts.day(), ts });
        }
        if let Some(key) = row.series_key() {
            self.entries.want(key, dictionary)?;
        }
        let facts = self.facts.get_or_insert(Facts { rows: 0, min_ts: ts, max_ts: ts, seqs: None });
        facts.rows += 1;
        facts.min_ts = facts.min_ts.min(ts);
        facts.max_ts = facts.max_ts.max(ts);
        if let Some(seq) = row.seq() {
            let (least, greatest) = facts.seqs.unwrap_or((seq, seq));
            facts.seqs = Some((least.min(seq), greatest.max(seq)));
        }
        self.group.push(row);
        if self.group.len() >= self.settings.row_group {
            self.write_group(false)?;
        }
        Ok(())
    }

    /// What the rows so far say; none while there are none.
    pub fn facts(&self) -> Option<Facts> {
        self.facts
    }

    /// About how many bytes the file has so far. What isn't compressed yet is reckoned as dense as what is.
    pub fn estimated_bytes(&self) -> u64 {
        let written = self.writer.as_ref().map_or(0, |w| w.file.bytes_written() as u64);
        let held = self.group.len() as u64;
        let compressed = self.facts.map_or(0, |f| f.rows).saturating_sub(held);
        // Eight bytes a row before anything is known: above what most readings take.
        let dense = if compressed == 0 { 8 } else { written.div_ceil(compressed) };
        written.saturating_add(held.saturating_mul(dense))
    }

    /// Finishes the file. The manifest must say what [`Builder::facts`] says, and name this segment.
    pub fn finish(mut self, manifest: &Manifest) -> Result<Encoded, EncodeError> {
        let facts = self.facts.ok_or(EncodeError::Empty)?;
        agrees::<R>(manifest, &facts, self.day, &self.provenance)?;
        self.write_group(true)?;
        let Some(Writer { file: mut writer, .. }) = self.writer else { return Err(EncodeError::Empty) };
        if R::TABLE == AggregateRow::TABLE {
            let seen = self.seen.ok_or(EncodeError::NothingSeen)?;
            // Plain numbers: nothing in it can fail to be JSON.
            let json = serde_json::to_string(&seen).unwrap_or_default();
            writer.append_key_value_metadata(KeyValue::new(SEEN_KEY.to_owned(), json));
        }
        writer.append_key_value_metadata(KeyValue::new(MANIFEST_KEY.to_owned(), manifest.to_json()));
        let Hashed { bytes, hash } = writer.into_inner()?;
        Ok(Encoded { bytes, digest: Digest(hash.finalize().into()), facts })
    }

    /// Sorts and writes what is held as one row group. Of the columns that came later than version 1 those are left out
    /// that nothing stands in, unless more groups follow, in which it may: a receiver of the version before has no name
    /// for them.
    fn write_group(&mut self, last: bool) -> Result<(), EncodeError> {
        if self.settings.sorted {
            R::put_in_order(&mut self.group, &self.entries);
        }
        let batches = self.group.chunks(BATCH).map(|rows| Rows::of(rows, &self.entries));
        let batches = batches.collect::<Result<Vec<_>, _>>()?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let mut columns: Vec<usize> = (0..R::TABLE.first_columns().len()).collect();
                for (at, column) in (0..).zip(R::TABLE.columns()).skip(columns.len()) {
                    if !last || says(&batches, column.name, &self.provenance)? {
                        columns.push(at);
                    }
                }
                none.insert(Writer::new(R::TABLE, &columns, &self.settings)?)
            }
        };
        writer.write(&batches, &self.provenance)?;
        self.group.clear();
        Ok(())
    }
}

impl Builder<AggregateRow> {
    /// What was known when the windows of these rows were decided; a segment of aggregates can't do without.
    #[must_use]
    pub fn with_seen(mut self, seen: Seen) -> Self {
        self.seen = Some(seen);
        self
    }
}

/// Whether any row has something to say in that column.
fn says<R: TableRow>(
    batches: &[Rows<'_, R>],
    column: &str,
    provenance: &Provenance,
) -> Result<bool, EncodeError> {
    for rows in batches {
        let column = rows.column(column, provenance)?;
        if column.null_count() < column.len() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn agrees<R: TableRow>(
    manifest: &Manifest,
    facts: &Facts,
    day: Day,
    provenance: &Provenance,
) -> Result<(), EncodeError> {
    let seqs = |s: Option<u64>| s.map_or_else(|| "none".to_owned(), |s| s.to_string());
    let pairs = [
        ("table", manifest.table.to_string(), R::TABLE.to_string()),
        ("day", manifest.day.to_string(), day.to_string()),
        ("gateway", manifest.gateway.to_string(), provenance.gateway.to_string()),
        ("epoch", manifest.epoch.to_string(), provenance.epoch.to_string()),
        ("number", manifest.number.to_string(), provenance.number.to_string()),
        ("rows", manifest.rows.to_string(), facts.rows.to_string()),
        ("min_ts", manifest.min_ts.to_string(), facts.min_ts.to_string()),
        ("max_ts", manifest.max_ts.to_string(), facts.max_ts.to_string()),
        ("min_seq", seqs(manifest.min_seq), seqs(facts.seqs.map(|s| s.0))),
        ("max_seq", seqs(manifest.max_seq), seqs(facts.seqs.map(|s| s.1))),
    ];
    match pairs.into_iter().find(|(_, said, so)| said != so) {
        Some((field, manifest, rows)) => Err(EncodeError::Disagrees { field, manifest, rows }),
        None => Ok(()),
    }
}

/// By how many bytes a file's room grows at least.
const GROWTH: usize = 64 << 10;

/// Bytes that are hashed as they come.
#[derive(Debug, Default)]
struct Hashed {
    bytes: Vec<u8>,
    hash: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.hash.update(buf);
        if self.bytes.capacity() - self.bytes.len() < buf.len() {
            // A segment is of some MiB: doubled, half of its room would lie idle.
            self.bytes.reserve_exact(buf.len().max(self.bytes.len() / 4).max(GROWTH));
        }
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
