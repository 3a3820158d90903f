//! Rows and manifest to the bytes of a segment, row group by row group; the same rows give the same bytes.

use std::io::{self, Write};
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
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

/// Makes one segment, whose bytes go to `W` as they come. Holds at most one row group of rows and one column
/// of it as it is written.
#[derive(Debug)]
pub struct Builder<R: TableRow, W: Write + Send> {
    day: Day,
    provenance: Provenance,
    settings: Settings,
    entries: Entries,
    group: Vec<R>,
    out: Out<W>,
    facts: Option<Facts>,
    seen: Option<Seen>,
}

/// Where the bytes go.
enum Out<W: Write + Send> {
    /// Only the first row group says which columns there are.
    Waiting(W),
    Writing(Box<Writer<W>>),
    /// A row group couldn't be written.
    Failed,
}

impl<W: Write + Send> std::fmt::Debug for Out<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Out({} bytes)", self.bytes())
    }
}

impl<W: Write + Send> Out<W> {
    fn bytes(&self) -> u64 {
        if let Self::Writing(writer) = self { writer.file.bytes_written() as u64 } else { 0 }
    }
}

/// The file under way.
struct Writer<W: Write + Send> {
    file: SerializedFileWriter<W>,
    /// The columns that are written, each with what makes its writers.
    columns: Vec<(FieldRef, ArrowRowGroupWriterFactory)>,
}

impl<W: Write + Send> Writer<W> {
    fn new(out: W, table: Table, columns: &[usize], settings: &Settings) -> Result<Self, EncodeError> {
        let schema = Arc::new(table.arrow_schema().project(columns)?);
        let (file, _) = begun(out, Arc::clone(&schema), settings.properties(table)?)?;
        let each = |field: &FieldRef| {
            let alone = Arc::new(Schema::new(vec![Arc::clone(field)]));
            let properties = settings.properties_of(table, field.name())?;
            Ok((Arc::clone(field), begun(io::sink(), alone, properties)?.1))
        };
        Ok(Self { file, columns: schema.fields().iter().map(each).collect::<Result<_, EncodeError>>()? })
    }

    /// Writes one row group, column after column. Each column's writer has a compressor and room for a page of its own, of some
    /// MiB: so it is made when its turn comes, from a factory that knows no other column.
    fn write<R: TableRow>(
        &mut self,
        batches: &[Rows<'_, R>],
        provenance: &Provenance,
    ) -> Result<(), EncodeError> {
        let number = self.file.flushed_row_groups().len();
        let mut group = self.file.next_row_group()?;
        for (field, writers) in &self.columns {
            let mut leaves = writers.create_column_writers(number)?;
            for rows in batches {
                let column = fitting(field, rows.column(field.name(), provenance)?)?;
                for (part, leaf) in compute_leaves(field, &column)?.iter().zip(&mut leaves) {
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

/// A file that has its magic number, and what makes writers of its columns.
fn begun<W: Write + Send>(
    out: W,
    schema: SchemaRef,
    properties: WriterProperties,
) -> Result<(SerializedFileWriter<W>, ArrowRowGroupWriterFactory), EncodeError> {
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        // The Arrow schema would be a second, longer spelling of the Parquet schema in every file.
        .with_skip_arrow_metadata(true)
        .with_schema_root("table".to_owned());
    Ok(ArrowWriter::try_new_with_options(out, schema, options)?.into_serialized_writer()?)
}

/// The column, if it is what the schema says.
fn fitting(field: &Field, column: ArrayRef) -> Result<ArrayRef, EncodeError> {
    if column.data_type() != field.data_type() || (column.null_count() > 0 && !field.is_nullable()) {
        let (name, kind, nulls) = (field.name(), column.data_type(), column.null_count());
        return Err(ArrowError::SchemaError(format!("`{name}` is {kind} with {nulls} nulls")).into());
    }
    Ok(column)
}

impl<R: TableRow, W: Write + Send> Builder<R, W> {
    /// An empty segment of `R`'s table and `day`, to be written to `out`.
    pub fn new(day: Day, provenance: Provenance, out: W) -> Self {
        Self {
            day,
            provenance,
            settings: Settings::of(R::TABLE),
            entries: Entries::default(),
            group: Vec::new(),
            out: Out::Waiting(out),
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

    /// What was known when the windows of these rows were decided: a segment of aggregates can't do without, and no other says it.
    #[must_use]
    pub fn with_seen(mut self, seen: Seen) -> Self {
        self.seen = Some(seen);
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
        let written = self.out.bytes();
        let held = self.group.len() as u64;
        let compressed = self.facts.map_or(0, |f| f.rows).saturating_sub(held);
        // Eight bytes a row before anything is known: above what most readings take.
        let dense = if compressed == 0 { 8 } else { written.div_ceil(compressed) };
        written.saturating_add(held.saturating_mul(dense))
    }

    /// Finishes the file and gives back what it was written to. The manifest must say what [`Builder::facts`] says, and name
    /// this segment.
    pub fn finish(mut self, manifest: &Manifest) -> Result<W, EncodeError> {
        let facts = self.facts.ok_or(EncodeError::Empty)?;
        agrees::<R>(manifest, &facts, self.day, &self.provenance)?;
        self.write_group(true)?;
        let Out::Writing(writer) = self.out else { return Err(EncodeError::Empty) };
        let mut file = writer.file;
        if R::TABLE == AggregateRow::TABLE {
            let seen = self.seen.ok_or(EncodeError::NothingSeen)?;
            // Plain numbers: nothing in it can fail to be JSON.
            let json = serde_json::to_string(&seen).unwrap_or_default();
            file.append_key_value_metadata(KeyValue::new(SEEN_KEY.to_owned(), json));
        }
        file.append_key_value_metadata(KeyValue::new(MANIFEST_KEY.to_owned(), manifest.to_json()));
        Ok(file.into_inner()?)
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
        let mut writer = match std::mem::replace(&mut self.out, Out::Failed) {
            Out::Writing(writer) => writer,
            Out::Failed => return Err(EncodeError::Failed),
            Out::Waiting(out) => {
                let mut columns: Vec<usize> = (0..R::TABLE.first_columns().len()).collect();
                for (at, column) in (0..).zip(R::TABLE.columns()).skip(columns.len()) {
                    if !last || says(&batches, column.name, &self.provenance)? {
                        columns.push(at);
                    }
                }
                Box::new(Writer::new(out, R::TABLE, &columns, &self.settings)?)
            }
        };
        writer.write(&batches, &self.provenance)?;
        self.out = Out::Writing(writer);
        self.group.clear();
        Ok(())
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
