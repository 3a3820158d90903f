//! Readings as a Parquet file with the columns of the table `readings`, for export: no manifest, no order but the journal's.

use std::io::Write;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_writer::ArrowWriterOptions;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use tributary_contract::id::GatewayId;
use tributary_contract::table::Table;

use super::walk::Reading;
use crate::buffer::row::Row;
use crate::segment::columns::{EncodeError, Entries, Rows};

/// Rows held before they are written.
const GROUP: usize = 65_536;

/// A file under way.
pub struct Export<W: Write + Send> {
    writer: ArrowWriter<W>,
    schema: SchemaRef,
    gateway: GatewayId,
    held: Vec<Reading>,
}

/// The table's schema, but that a reading needn't be in a segment.
fn schema() -> SchemaRef {
    let table = Table::Readings.arrow_schema();
    let loose = |f: &arrow::datatypes::FieldRef| {
        let free = f.is_nullable() || f.name() == "segment_number";
        f.as_ref().clone().with_nullable(free)
    };
    Arc::new(Schema::new(table.fields().iter().map(loose).collect::<Vec<_>>()))
}

impl<W: Write + Send> Export<W> {
    /// An empty file.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(to: W, gateway: GatewayId) -> Result<Self, EncodeError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_max_row_group_row_count(Some(GROUP))
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let schema = schema();
        let writer = ArrowWriter::try_new_with_options(to, Arc::clone(&schema), options)?;
        Ok(Self { writer, schema, gateway, held: Vec::new() })
    }

    /// Takes a reading.
    ///
    /// # Errors
    /// The writer's.
    pub fn push(&mut self, reading: Reading) -> Result<(), EncodeError> {
        self.held.push(reading);
        if self.held.len() >= GROUP { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), EncodeError> {
        let held = std::mem::take(&mut self.held);
        let known: std::collections::HashMap<u32, _> =
            held.iter().map(|r| (r.row.series, Arc::clone(&r.series))).collect();
        let mut entries = Entries::default();
        known.keys().try_for_each(|key| entries.want(*key, &|key| known.get(&key).cloned()))?;
        let rows: Vec<Row> = held.iter().map(|r| r.row.clone()).collect();
        let whole = Rows::of(&rows, &entries)?;
        let texts = |each: &dyn Fn(&Reading) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(held.iter().map(each)))
        };
        let column = |name: &str| -> Result<ArrayRef, EncodeError> {
            Ok(match name {
                "gateway" => texts(&|_| self.gateway.to_string()),
                "buffer_epoch" => texts(&|r| r.epoch.to_string()),
                "segment_number" => Arc::new(Int64Array::new_null(held.len())),
                name => whole.own_column(name)?,
            })
        };
        let columns: Result<_, _> = self.schema.fields().iter().map(|f| column(f.name())).collect();
        let columns = columns?;
        self.writer.write(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?)?;
        self.writer.flush()?;
        Ok(())
    }

    /// Writes what is held and the footer.
    ///
    /// # Errors
    /// The writer's.
    pub fn finish(mut self) -> Result<W, EncodeError> {
        if !self.held.is_empty() {
            self.flush()?;
        }
        Ok(self.writer.into_inner()?)
    }
}

#[cfg(test)]
mod tests {
    use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use arrow::array::{Array as _, Float64Array};

    use super::*;
    use crate::reading::Value;
    use crate::tools::line::names;
    use crate::tools::line::tests::reading;

    #[test]
    fn an_export_reads_back_with_the_columns_of_the_table() {
        let mut export = Export::new(Vec::new(), GatewayId::new("gw-1").unwrap()).unwrap();
        for seq in 0..3 {
            export.push(reading("d", Value::Float(seq as f64 / 3.0), seq)).unwrap();
        }
        let bytes = bytes::Bytes::from(export.finish().unwrap());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().unwrap();
        let batch = &batches[0];
        let columns: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(columns, names());
        let values = batch.column_by_name("value").unwrap();
        let values = values.as_any().downcast_ref::<Float64Array>().unwrap();
        assert_eq!(values.values(), &[0.0, 1.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(batch.column_by_name("segment_number").unwrap().null_count(), 3);
    }

    #[test]
    fn an_export_of_nothing_is_a_file_of_no_rows() {
        let bytes = Export::new(Vec::new(), GatewayId::new("gw-1").unwrap()).unwrap().finish().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
        assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
    }
}
