//! How each column is written: the one table of choices, with the reasons.
//!
//! Measured on real series: `tests/run bench parquet` writes them through this table, and again with one choice changed
//! at a time; `docs/segments.md` has the figures.

use ::parquet::basic::{Compression, Encoding, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::SortingColumn;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::schema::types::ColumnPath;
use tributary_contract::schema::{Column, ColumnType};
use tributary_contract::table::Table;

/// Rows of a row group: sorting is done within it, so it bounds the memory of sealing; a quarter of a million rows
/// sorted as a whole would be hardly smaller.
pub const ROW_GROUP: usize = 65_536;

/// Rows of a page, as far as whole batches of the writer give them: what a query for one device reads at least.
pub const PAGE_ROWS: usize = 20_480;

/// The level of zstd for columns with one page a row group: at the level of the others such a page takes twice the memory
/// (8 MiB) and is hardly smaller.
pub const WHOLE_LEVEL: i32 = 3;

/// Rows handed to the writer at once. Also part of what makes the bytes what they are.
pub const BATCH: usize = 8_192;

/// The writer's name in the footer. Constant: with a version in it, every release would make other bytes.
pub const CREATED_BY: &str = "tributary";

/// How a column's values are coded before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// DELTA_BINARY_PACKED, no dictionary.
    Delta,
    /// As they are, no dictionary.
    Plain,
    /// A dictionary; what is the same in all rows costs nothing.
    Dictionary,
    /// BYTE_STREAM_SPLIT, no dictionary. Chosen nowhere: the bench shows why.
    Split,
}

/// A choice for some columns, whatever tables they stand in.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Names of the columns.
    pub columns: &'static [&'static str],
    /// How they are coded.
    pub choice: Choice,
    /// Why.
    pub why: &'static str,
}

const fn rule(choice: Choice, columns: &'static [&'static str], why: &'static str) -> Rule {
    Rule { columns, choice, why }
}

/// The choices: each column of each table stands in one row.
pub const CHOICES: &[Rule] = &[
    rule(
        Choice::Delta,
        &["ts", "window_start", "window_end", "first_ts", "last_ts", "from_ts", "to_ts", "recorded_at"],
        "within a series times grow by nearly the same step",
    ),
    rule(
        Choice::Delta,
        &["seq", "first_seq", "last_seq"],
        "within a series numbers grow by nearly the same step",
    ),
    rule(
        Choice::Plain,
        &["received_at"],
        "a step with noise packs badly; what came in one message has one time, and zstd finds it again in each metric",
    ),
    rule(
        Choice::Plain,
        &["value", "expected", "score"],
        "measured values rarely repeat often enough for a dictionary, and zstd finds what does",
    ),
    rule(
        Choice::Plain,
        &[
            "value_min",
            "value_max",
            "value_mean",
            "value_sum",
            "value_stddev",
            "value_first",
            "value_last",
            "value_p50",
            "value_p95",
            "value_p99",
            "time_weighted_mean",
            "coverage",
            "value_increase",
            "value_rate",
            "percentile_error",
        ],
        "as measured values",
    ),
    rule(Choice::Plain, &["payload", "value_bool", "partial"], "bytes have no order, booleans take a bit"),
    rule(
        Choice::Delta,
        &["value_int", "readings", "bytes", "value_changes"],
        "whole numbers of any size; mostly null",
    ),
    rule(
        Choice::Dictionary,
        &["samples", "late", "revision", "occurrences", "size"],
        "counts that are the same in most rows",
    ),
    rule(
        Choice::Dictionary,
        &[
            "device",
            "metric",
            "series",
            "unit",
            "tags",
            "source",
            "quality",
            "value_text",
            "value_type",
            "value_last_text",
            "window_name",
            "rule",
            "severity",
            "state",
            "id",
            "cancels",
            "reason",
            "detail",
            "topic",
            "recorded_by",
        ],
        "texts that come again and again",
    ),
    rule(
        Choice::Dictionary,
        &["gateway", "buffer_epoch", "segment_number"],
        "the same in every row of a segment",
    ),
];

/// The choice for the column of that name; plain where no row has it, which a test rules out.
pub fn choice(name: &str) -> Choice {
    CHOICES.iter().find(|rule| rule.columns.contains(&name)).map_or(Choice::Plain, |rule| rule.choice)
}

/// Everything by which the bytes of a segment can differ for the same rows. Segments are written by [`Settings::of`];
/// the bench changes one thing at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The level of zstd.
    pub level: i32,
    /// Rows of a row group, at most.
    pub row_group: usize,
    /// Rows of a page, about.
    pub page_rows: usize,
    /// Columns that have one page a row group, and [`WHOLE_LEVEL`].
    pub whole: Vec<&'static str>,
    /// Whether rows are put in the table's sort order within each row group.
    pub sorted: bool,
    /// What is written of each column's least and greatest values; of those that rows are sorted by, what each page has.
    pub statistics: EnabledStatistics,
    /// Columns with a bloom filter.
    pub filters: Vec<&'static str>,
    /// Choices other than those of [`CHOICES`].
    pub instead: Vec<(&'static str, Choice)>,
}

impl Settings {
    /// Those that segments of `table` are written by.
    pub fn of(table: Table) -> Self {
        Self {
            // Readings and aggregates are the bulk and worth the time (a microsecond a reading more than level 9); the others
            // are small whatever the level.
            level: match table {
                Table::Readings | Table::Aggregates => 15,
                Table::Series | Table::Gaps | Table::Rejects | Table::Alerts => 3,
            },
            row_group: ROW_GROUP,
            page_rows: PAGE_ROWS,
            // What came in one message has one time of receipt: zstd finds it again in each metric, within a page. Nobody
            // looks for rows by it.
            whole: if matches!(table, Table::Readings) { vec!["received_at"] } else { Vec::new() },
            sorted: true,
            statistics: EnabledStatistics::Chunk,
            filters: Vec::new(),
            instead: Vec::new(),
        }
    }

    fn choice(&self, column: &Column) -> Choice {
        let other = self.instead.iter().find(|(name, _)| *name == column.name);
        other.map_or_else(|| choice(column.name), |(_, choice)| *choice)
    }

    /// Everything the writer is told about the pages of the column of that name.
    ///
    /// # Errors
    /// For a level that zstd doesn't have.
    pub fn properties_of(&self, table: Table, column: &str) -> Result<WriterProperties, ParquetError> {
        let of = |settings: &Self| settings.of_columns(table, |name| name == column);
        if !self.whole.contains(&column) {
            return of(self);
        }
        let level = WHOLE_LEVEL.min(self.level);
        of(&Self { page_rows: self.row_group, level, ..self.clone() })
    }

    /// Everything the writer is told about a file of `table`, [`Settings::properties_of`] some columns aside.
    ///
    /// # Errors
    /// For a level that zstd doesn't have.
    pub fn properties(&self, table: Table) -> Result<WriterProperties, ParquetError> {
        self.of_columns(table, |_| true)
    }

    fn of_columns(
        &self,
        table: Table,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<WriterProperties, ParquetError> {
        let mut properties = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(self.level)?))
            .set_max_row_group_row_count(Some(self.row_group))
            .set_data_page_row_count_limit(self.page_rows)
            .set_write_batch_size(1024)
            .set_sorting_columns(self.sorted.then(|| sorting(table)))
            // Statistics of each chunk are what engines and the catalog prune by; those of each page are worth their
            // bytes only where rows are sorted. Where each page begins is written of all columns.
            .set_statistics_enabled(self.statistics)
            .set_dictionary_enabled(false);
        for column in table.columns().iter().filter(|column| wanted(column.name)) {
            let paths = match column.kind {
                ColumnType::StringMap { .. } => {
                    vec![path(&[column.name, "key_value", "key"]), path(&[column.name, "key_value", "value"])]
                }
                _ => vec![path(&[column.name])],
            };
            for path in paths {
                properties = match self.choice(column) {
                    Choice::Delta => {
                        properties.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                    }
                    Choice::Plain => properties.set_column_encoding(path.clone(), Encoding::PLAIN),
                    Choice::Split => {
                        properties.set_column_encoding(path.clone(), Encoding::BYTE_STREAM_SPLIT)
                    }
                    Choice::Dictionary => properties.set_column_dictionary_enabled(path.clone(), true),
                };
                if self.filters.contains(&column.name) {
                    properties = properties.set_column_bloom_filter_enabled(path.clone(), true);
                }
                let orders = table.sort_columns().contains(&column.name) && column.name != "gateway";
                if orders && self.statistics == EnabledStatistics::Chunk {
                    properties = properties.set_column_statistics_enabled(path, EnabledStatistics::Page);
                }
            }
        }
        Ok(properties.build())
    }
}

fn path(parts: &[&str]) -> ColumnPath {
    ColumnPath::new(parts.iter().map(|p| (*p).to_owned()).collect())
}

/// The sort order as the footer has it. Columns count leaves, and `tags` is two.
fn sorting(table: Table) -> Vec<SortingColumn> {
    let mut leaf = 0;
    let leaves: Vec<(&str, i32)> = table
        .columns()
        .iter()
        .map(|c| {
            let at = leaf;
            leaf += if matches!(c.kind, ColumnType::StringMap { .. }) { 2 } else { 1 };
            (c.name, at)
        })
        .collect();
    let place = |name: &&str| leaves.iter().find(|(n, _)| n == name).map(|(_, at)| *at);
    let by = |column_idx| SortingColumn { column_idx, descending: false, nulls_first: false };
    table.sort_columns().iter().filter_map(place).map(by).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sort_order_counts_leaves() {
        let places: Vec<i32> = sorting(Table::Readings).iter().map(|s| s.column_idx).collect();
        // gateway stands behind `tags` and its two leaves; device, metric and ts stand before.
        assert_eq!(places, [15, 1, 2, 0]);
    }

    #[test]
    fn each_column_of_each_table_stands_in_one_row_and_each_row_has_only_such() {
        let named: Vec<&str> = CHOICES.iter().flat_map(|rule| rule.columns).copied().collect();
        for table in Table::ALL {
            for column in table.columns() {
                let rows = named.iter().filter(|name| **name == column.name).count();
                assert_eq!(rows, 1, "{table}.{}", column.name);
            }
        }
        for name in named {
            assert!(Table::ALL.iter().any(|table| table.column(name).is_some()), "{name} is no column");
        }
    }

    #[test]
    fn what_a_column_is_coded_by_fits_its_type() {
        for column in Table::ALL.iter().flat_map(|table| table.columns()) {
            let fits = match choice(column.name) {
                Choice::Delta => matches!(column.kind, ColumnType::Timestamp | ColumnType::Long),
                Choice::Dictionary => !matches!(column.kind, ColumnType::Boolean),
                Choice::Plain => true,
                Choice::Split => matches!(column.kind, ColumnType::Double),
            };
            assert!(fits, "{}", column.name);
        }
    }
}
