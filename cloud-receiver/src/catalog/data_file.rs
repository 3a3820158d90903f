//! A segment's Parquet footer as an Iceberg data file: counts, sizes, bounds, splits, partition.

use std::collections::HashMap;

use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Literal, Struct};
use parquet::basic::SortOrder as ParquetOrder;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescriptor;
use tributary_contract::schema::{Column, ColumnType};
use tributary_contract::table::Table;
use tributary_contract::time::Day;

/// Text bounds are cut to this many characters, as engines do by default (`truncate(16)`).
const TEXT_BOUND_CHARS: usize = 16;

/// What the footer doesn't say: where the file lies and where it belongs.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// Full URI of the file.
    pub uri: &'a str,
    /// Size of the file in bytes.
    pub size: u64,
    /// Table of all rows.
    pub table: Table,
    /// UTC day of all rows: the partition.
    pub day: Day,
    /// Id of the table's partition spec, which must be `day(first column)`.
    pub partition_spec_id: i32,
    /// Id of the table's sort order if it is the contract's; given to files that are sorted from end to end.
    pub sort_order_id: Option<i32>,
}

/// Why a footer can't become a data file of its table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataFileError {
    /// A number in the footer is negative or contradicts another.
    #[error("footer of {uri}: {what}")]
    Footer {
        /// The file.
        uri: String,
        /// Which number, and what was got.
        what: String,
    },
    /// A column has another id, shape or type than the contract's.
    #[error("column {column:?} of {uri}: {what}")]
    Column {
        /// The file.
        uri: String,
        /// Path of the column in the Parquet schema.
        column: String,
        /// What was expected and got.
        what: String,
    },
}

/// Turns `footer` into the data file that a commit appends. The footer comes from a validated segment; whatever in it
/// would mislead an engine (ids, counts) is still an error, and what is merely unknown (a bound) is left out.
pub fn data_file(footer: &ParquetMetaData, placement: &Placement<'_>) -> Result<DataFile, DataFileError> {
    let wrong = |what: String| DataFileError::Footer { uri: placement.uri.to_owned(), what };
    let leaves = leaves(footer, placement)?;
    let rows = footer.file_metadata().num_rows();
    let in_groups = footer.row_groups().iter().try_fold(0_i64, |sum, g| sum.checked_add(g.num_rows()));
    if in_groups != Some(rows) {
        return Err(wrong(format!("says {rows} rows, its row groups hold {in_groups:?}")));
    }

    let mut measures = vec![Measure::default(); leaves.len()];
    for group in footer.row_groups() {
        if group.num_columns() != leaves.len() {
            return Err(wrong(format!("has {} columns, a row group {}", leaves.len(), group.num_columns())));
        }
        for ((leaf, measure), chunk) in leaves.iter().zip(&mut measures).zip(group.columns()) {
            measure.add(leaf, chunk).ok_or_else(|| wrong("a column has a negative size or count".into()))?;
        }
    }

    let mut sizes = HashMap::new();
    let (mut values, mut nulls) = (HashMap::new(), HashMap::new());
    let (mut lower, mut upper) = (HashMap::new(), HashMap::new());
    for (leaf, measure) in leaves.iter().zip(measures) {
        let Some(id) = leaf.id else { continue };
        sizes.insert(id, measure.bytes);
        if leaf.kind.is_none() {
            continue;
        }
        values.insert(id, measure.values);
        nulls.extend(measure.nulls.map(|n| (id, n)));
        lower.extend(measure.lower.known().map(|d| (id, d)));
        upper.extend(measure.upper.known().map(|d| (id, d)));
    }

    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(placement.uri.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition_spec_id(placement.partition_spec_id)
        .partition(Struct::from_iter([Some(Literal::date(placement.day.0))]))
        .record_count(u64::try_from(rows).map_err(|_| wrong(format!("says {rows} rows")))?)
        .file_size_in_bytes(placement.size)
        .column_sizes(sizes)
        .value_counts(values)
        .null_value_counts(nulls)
        .lower_bounds(lower)
        .upper_bounds(upper)
        .split_offsets(split_offsets(footer));
    if let Some(id) = placement.sort_order_id.filter(|_| is_sorted(footer, placement.table)) {
        builder.sort_order_id(id);
    }
    builder.build().map_err(|e| wrong(e.to_string()))
}

/// A leaf column of the file, as far as the contract knows it.
struct Leaf {
    /// Field id; none for a column of a newer contract, of which nothing is said.
    id: Option<i32>,
    /// Type of a top-level column; none inside a map, where counts and bounds mean nothing to engines.
    kind: Option<ColumnType>,
    /// Whether text statistics are in byte order, as bounds must be.
    ordered: bool,
}

fn leaves(footer: &ParquetMetaData, placement: &Placement<'_>) -> Result<Vec<Leaf>, DataFileError> {
    let wrong = |column: &str, what: String| DataFileError::Column {
        uri: placement.uri.to_owned(),
        column: column.to_owned(),
        what,
    };
    let table = placement.table;
    let mut found = Vec::new();
    let mut leaves = Vec::new();
    for (i, descr) in footer.file_metadata().schema_descr().columns().iter().enumerate() {
        let path = descr.path().string();
        let info = descr.self_type().get_basic_info();
        let has = info.has_id().then(|| info.id());
        let ordered = footer.file_metadata().column_order(i).sort_order() == ParquetOrder::UNSIGNED;
        let parts = descr.path().parts();
        let Some(column) = parts.first().and_then(|name| table.column(name)) else {
            if has.is_some_and(|id| known_ids(table).any(|k| k == id)) {
                return Err(wrong(&path, format!("has field id {has:?}, which is another column's")));
            }
            leaves.push(Leaf { id: None, kind: None, ordered });
            continue;
        };
        let (id, kind) = expected(column, descr).map_err(|what| wrong(&path, what))?;
        if has != Some(id) {
            return Err(wrong(&path, format!("has field id {has:?}, expected {id}")));
        }
        found.push(column.id);
        leaves.push(Leaf { id: Some(id), kind, ordered });
    }
    match table.columns().iter().find(|c| c.required && !found.contains(&c.id)) {
        Some(missing) => Err(wrong(missing.name, format!("is missing, and required by {table}"))),
        None => Ok(leaves),
    }
}

fn known_ids(table: Table) -> impl Iterator<Item = i32> {
    table.columns().iter().flat_map(|c| match c.kind {
        ColumnType::StringMap { key_id, value_id } => vec![c.id, key_id, value_id],
        _ => vec![c.id],
    })
}

/// The id that the leaf must have, and its type if it is a top-level column.
fn expected(column: &Column, descr: &ColumnDescriptor) -> Result<(i32, Option<ColumnType>), String> {
    let parts = descr.path().parts();
    match (column.kind, parts.last().map(String::as_str), parts.len()) {
        (ColumnType::StringMap { key_id, .. }, Some("key"), 3) => Ok((key_id, None)),
        (ColumnType::StringMap { value_id, .. }, Some("value"), 3) => Ok((value_id, None)),
        (ColumnType::StringMap { .. }, ..) | (_, _, 2..) => Err(format!("is no {:?}", column.kind)),
        (kind, ..) => Ok((column.id, Some(kind))),
    }
}

/// What all row groups together say of one leaf.
#[derive(Clone)]
struct Measure {
    bytes: u64,
    values: u64,
    nulls: Option<u64>,
    lower: Bound,
    upper: Bound,
}

impl Default for Measure {
    fn default() -> Self {
        Self { bytes: 0, values: 0, nulls: Some(0), lower: Bound::Nothing, upper: Bound::Nothing }
    }
}

/// A bound over the row groups seen so far.
#[derive(Clone)]
enum Bound {
    /// No value was seen yet.
    Nothing,
    /// All values seen lie within.
    Known(Datum),
    /// Some row group has values whose bound isn't known.
    Unknown,
}

impl Bound {
    fn known(self) -> Option<Datum> {
        match self {
            Bound::Known(d) => Some(d),
            Bound::Nothing | Bound::Unknown => None,
        }
    }

    fn merge(&mut self, next: Option<Datum>, outside: impl Fn(&Datum, &Datum) -> bool) {
        *self = match (std::mem::replace(self, Bound::Unknown), next) {
            (Bound::Unknown, _) | (_, None) => Bound::Unknown,
            (Bound::Nothing, Some(d)) => Bound::Known(d),
            (Bound::Known(old), Some(d)) => Bound::Known(if outside(&d, &old) { d } else { old }),
        };
    }
}

impl Measure {
    /// Takes in one column chunk; none if it has negative numbers.
    fn add(&mut self, leaf: &Leaf, chunk: &ColumnChunkMetaData) -> Option<()> {
        let values = u64::try_from(chunk.num_values()).ok()?;
        self.bytes = self.bytes.checked_add(u64::try_from(chunk.compressed_size()).ok()?)?;
        self.values = self.values.checked_add(values)?;
        let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
        self.nulls = self.nulls.zip(nulls).and_then(|(sum, n)| sum.checked_add(n));
        if values == 0 || nulls == Some(values) {
            return Some(());
        }
        let (lower, upper) = match (leaf.kind, chunk.statistics()) {
            (Some(kind), Some(stats)) if !stats.is_min_max_deprecated() => bounds(kind, leaf.ordered, stats),
            _ => (None, None),
        };
        self.lower.merge(lower, |new, old| new < old);
        self.upper.merge(upper, |new, old| new > old);
        Some(())
    }
}

/// Lower and upper bound of one chunk; none where unknown.
fn bounds(kind: ColumnType, ordered: bool, stats: &Statistics) -> (Option<Datum>, Option<Datum>) {
    match (kind, stats) {
        (ColumnType::Timestamp, Statistics::Int64(s)) => (
            s.min_opt().map(|v| Datum::timestamp_micros(*v)),
            s.max_opt().map(|v| Datum::timestamp_micros(*v)),
        ),
        (ColumnType::Long, Statistics::Int64(s)) => {
            (s.min_opt().map(|v| Datum::long(*v)), s.max_opt().map(|v| Datum::long(*v)))
        }
        (ColumnType::Int, Statistics::Int32(s)) => {
            (s.min_opt().map(|v| Datum::int(*v)), s.max_opt().map(|v| Datum::int(*v)))
        }
        (ColumnType::Boolean, Statistics::Boolean(s)) => {
            (s.min_opt().map(|v| Datum::bool(*v)), s.max_opt().map(|v| Datum::bool(*v)))
        }
        (ColumnType::Double, Statistics::Double(s)) => {
            // Not a number bounds nothing; a zero may stand for either sign.
            let (min, max) = (s.min_opt().filter(|v| !v.is_nan()), s.max_opt().filter(|v| !v.is_nan()));
            let (min, max) = (min.copied().zip(max.copied())).unzip();
            let low = |v: f64| Datum::double(if v == 0.0 { -0.0 } else { v });
            let high = |v: f64| Datum::double(if v == 0.0 { 0.0 } else { v });
            (min.map(low), max.map(high))
        }
        (ColumnType::String, Statistics::ByteArray(s)) if ordered => {
            let min = s.min_opt().and_then(|v| v.as_utf8().ok());
            let max = s.max_opt().and_then(|v| v.as_utf8().ok());
            (min.map(|v| Datum::string(cut_down(v))), max.and_then(cut_up).map(Datum::string))
        }
        _ => (None, None),
    }
}

/// The first [`TEXT_BOUND_CHARS`] characters: never above `text`.
fn cut_down(text: &str) -> &str {
    text.char_indices().nth(TEXT_BOUND_CHARS).map_or(text, |(end, _)| &text[..end])
}

/// The least text of at most [`TEXT_BOUND_CHARS`] characters that isn't below anything `text` is a bound of: cut, and
/// the last character that can grow is grown. None if none can.
fn cut_up(text: &str) -> Option<String> {
    let cut = cut_down(text);
    if cut.len() == text.len() {
        return Some(text.to_owned());
    }
    let mut chars: Vec<char> = cut.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = successor(last) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// The next character in code point order, which is the byte order of UTF-8.
fn successor(c: char) -> Option<char> {
    match c {
        '\u{D7FF}' => Some('\u{E000}'),
        char::MAX => None,
        _ => char::from_u32(u32::from(c) + 1),
    }
}

/// First byte of each row group, where they ascend as readers expect.
fn split_offsets(footer: &ParquetMetaData) -> Option<Vec<i64>> {
    let starts = footer.row_groups().iter().map(|group| {
        let first = group.columns().first()?;
        Some(first.dictionary_page_offset().unwrap_or(i64::MAX).min(first.data_page_offset()))
    });
    let starts: Vec<i64> = starts.collect::<Option<_>>()?;
    (!starts.is_empty() && starts.is_sorted() && starts[0] >= 0).then_some(starts)
}

/// Whether the whole file is sorted as the table is. Segments are sorted within row groups, so only a file of one row
/// group that declares its order is.
fn is_sorted(footer: &ParquetMetaData, table: Table) -> bool {
    let [group] = footer.row_groups() else { return false };
    let Some(declared) = group.sorting_columns() else { return false };
    let schema = footer.file_metadata().schema_descr();
    let names = declared.iter().map(|s| {
        let index = usize::try_from(s.column_idx).ok().filter(|i| *i < schema.num_columns())?;
        (!s.descending).then(|| schema.column(index).path().string())
    });
    let names: Vec<Option<String>> = names.take(table.sort_columns().len()).collect();
    names.iter().map(|n| n.as_deref()).eq(table.sort_columns().iter().map(|n| Some(*n)))
}

#[cfg(test)]
#[path = "data_file_tests.rs"]
mod tests;
