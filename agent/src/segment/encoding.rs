//! How each column is written: the one table of choices, with the reasons.
//!
//! Measured on real series; `agent/examples/bytes_per_reading.rs` prints the figures.

use ::parquet::basic::{Compression, Encoding, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::SortingColumn;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::schema::types::ColumnPath;
use tributary_contract::schema::{Column, ColumnType};
use tributary_contract::table::Table;

/// Rows of a row group: sorting is done within it, so it bounds the memory of sealing; a quarter of a million rows
/// sorted as a whole would be 4 % smaller.
pub const ROW_GROUP: usize = 65_536;

/// Rows handed to the writer at once. Also part of what makes the bytes what they are.
pub const BATCH: usize = 8_192;

/// The writer's name in the footer. Constant: with a version in it, every release would make other bytes.
pub const CREATED_BY: &str = "tributary";

/// How a column's values are coded before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// DELTA_BINARY_PACKED, no dictionary: times and counts that grow, which a dictionary would store twice.
    Delta,
    /// As they are, no dictionary: measured values rarely repeat, and zstd finds what does.
    Plain,
    /// A dictionary: texts and numbers of few different values; what is the same in all rows costs nothing.
    Dictionary,
}

/// The choice for one column.
pub const fn choice(column: &Column) -> Choice {
    match column.kind {
        ColumnType::Timestamp => Choice::Delta,
        ColumnType::Double | ColumnType::Binary | ColumnType::Boolean => Choice::Plain,
        ColumnType::Long => {
            if is_provenance(column.name) || is_count(column.name) {
                Choice::Dictionary
            } else {
                Choice::Delta
            }
        }
        ColumnType::Int | ColumnType::String | ColumnType::StringMap { .. } => Choice::Dictionary,
    }
}

const fn is_provenance(name: &str) -> bool {
    matches!(name.as_bytes(), b"segment_number")
}

/// Counts that are the same in most rows.
const fn is_count(name: &str) -> bool {
    matches!(name.as_bytes(), b"samples" | b"late" | b"occurrences" | b"size")
}

/// The level of zstd. `readings` are the bulk and worth the time; the others are small whatever the level.
const fn level(table: Table) -> i32 {
    match table {
        Table::Readings | Table::Aggregates => 9,
        Table::Series | Table::Gaps | Table::Rejects | Table::Alerts => 3,
    }
}

/// Everything the writer is told about a file of `table`.
pub fn properties(table: Table) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(level(table))?))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_write_batch_size(1024)
        .set_sorting_columns(Some(sorting(table)))
        // Statistics of each chunk are what engines and the catalog prune by; those of each page are worth their
        // bytes only where rows are sorted.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(false);
    for column in table.columns() {
        let paths = match column.kind {
            ColumnType::StringMap { .. } => {
                vec![path(&[column.name, "key_value", "key"]), path(&[column.name, "key_value", "value"])]
            }
            _ => vec![path(&[column.name])],
        };
        for path in paths {
            properties = match choice(column) {
                Choice::Delta => properties.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED),
                Choice::Plain => properties.set_column_encoding(path.clone(), Encoding::PLAIN),
                Choice::Dictionary => properties.set_column_dictionary_enabled(path.clone(), true),
            };
            if table.sort_columns().contains(&column.name) && column.name != "gateway" {
                properties = properties.set_column_statistics_enabled(path, EnabledStatistics::Page);
            }
        }
    }
    Ok(properties.build())
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
    fn nothing_that_differs_from_row_to_row_gets_a_dictionary() {
        for table in Table::ALL {
            for name in
                ["ts", "received_at", "seq", "value", "window_start", "value_mean", "first_ts", "from_ts"]
            {
                if let Some(column) = table.column(name) {
                    assert_ne!(choice(column), Choice::Dictionary, "{table}.{name}");
                }
            }
            for name in ["device", "metric", "series", "gateway", "buffer_epoch", "segment_number", "source"]
            {
                if let Some(column) = table.column(name) {
                    assert_eq!(choice(column), Choice::Dictionary, "{table}.{name}");
                }
            }
        }
    }
}
