//! The rows of the table of windows one by one: which device's window was emitted, and with how many readings.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};

use super::{State, Tables, column, scan};

/// Device and first instant of a window (microseconds since 1970), with the readings of each row that was emitted of it.
pub type Emitted = BTreeMap<(String, i64), Vec<i64>>;

impl Tables {
    /// What was emitted, from `state`, which is `aggregates`. For windows of one size and one metric.
    ///
    /// # Errors
    /// When a file can't be read at the moment.
    pub async fn emitted(&self, state: &State) -> anyhow::Result<Emitted> {
        let mut emitted = Emitted::new();
        scan(state, &["device", "window_start", "samples"], |batch| {
            let devices = column(batch, "device", &DataType::Utf8)?;
            let starts = column(batch, "window_start", &DataType::Int64)?;
            let samples = column(batch, "samples", &DataType::Int64)?;
            let devices = devices.as_string::<i32>();
            for row in 0..batch.num_rows() {
                let window = (devices.value(row).to_owned(), starts.as_primitive::<Int64Type>().value(row));
                emitted.entry(window).or_default().push(samples.as_primitive::<Int64Type>().value(row));
            }
            Ok(())
        })
        .await?;
        Ok(emitted)
    }
}
