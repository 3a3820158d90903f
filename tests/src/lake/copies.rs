//! How often each message is in the table, and what is said of its copies.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type};

use super::{State, Tables, column, numbers, scan};

/// The rows of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Rows.
    pub rows: u64,
    /// Those of them that are marked `possible-duplicate`.
    pub marked: u64,
    /// All quality codes of its rows, one string a row; empty for a good one.
    pub qualities: Vec<String>,
    /// The event times of its rows, microseconds since 1970.
    pub times: Vec<i64>,
}

impl Copies {
    /// Whether it is there once, without any doubt whether it is a copy.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.rows == 1 && self.marked == 0
    }

    /// Whether all rows but at most one say that they may be copies.
    #[must_use]
    pub fn is_honest(&self) -> bool {
        self.rows >= 1 && self.rows - self.marked <= 1
    }

    /// Whether some row has this quality code.
    #[must_use]
    pub fn has(&self, code: &str) -> bool {
        self.qualities.iter().any(|quality| quality.split(',').any(|one| one == code))
    }
}

impl Tables {
    /// The copies of each message in `state`, which is `readings`, by message number.
    ///
    /// # Errors
    /// When a file can't be read at the moment.
    pub async fn copies(&self, state: &State) -> anyhow::Result<BTreeMap<u64, Copies>> {
        let mut found: BTreeMap<u64, Copies> = BTreeMap::new();
        scan(state, &["ts", "tags", "quality"], |batch| {
            let times = column(batch, "ts", &DataType::Int64)?;
            let times = times.as_primitive::<Int64Type>();
            let qualities = column(batch, "quality", &DataType::Utf8)?;
            let qualities = qualities.as_string::<i32>();
            for (row, number) in numbers(batch)?.into_iter().enumerate() {
                let Some(number) = number else { continue };
                let quality = if qualities.is_null(row) { "" } else { qualities.value(row) };
                let copies = found.entry(number).or_default();
                copies.rows += 1;
                copies.marked += u64::from(quality.split(',').any(|code| code == "possible-duplicate"));
                copies.qualities.push(quality.to_owned());
                copies.times.push(times.value(row));
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }
}
