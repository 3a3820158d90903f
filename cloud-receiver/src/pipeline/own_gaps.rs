//! Files of `gaps` rows that the receiver itself writes, for the batch that they belong to.
//!
//! A file's name ends in the digest of its bytes and it is only ever created: a file of that name is this file, whoever
//! wrote it. One that was written for a commit that never came is referred to by nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use tributary_contract::digest::Digest;
use tributary_contract::id::Namespace;
use tributary_contract::table::Table;
use tributary_contract::time::Day;

use super::register::OfferedFile;
use super::{PassError, Pipeline};
use crate::bucket::When;
use crate::dedupe::OwnGap;

/// What the column `segment_number` says of a row that no segment brought.
const NO_SEGMENT: i64 = 0;

impl Pipeline {
    /// Writes the files of the receiver's own rows in batch `n`, one a day.
    pub(super) async fn own_files(
        &self,
        namespace: &Namespace,
        n: u64,
        gaps: &[OwnGap],
    ) -> Result<Vec<OfferedFile>, PassError> {
        let mut days: BTreeMap<Day, Vec<&OwnGap>> = BTreeMap::new();
        for gap in gaps {
            days.entry(gap.from_ts.day()).or_default().push(gap);
        }
        let mut files = Vec::with_capacity(days.len());
        for (day, gaps) in days {
            let (bytes, footer) = encode(&gaps)
                .map_err(|e| PassError::Catalog(format!("{namespace}.gaps, batch {n}: own rows: {e}")))?;
            let (size, digest) = (bytes.len() as u64, Digest::of(&bytes));
            let lake = self.prefix.lake();
            let key = format!("{lake}/{namespace}/gaps/data/receiver-{n:010}-{day}-{digest}.parquet");
            self.bucket.put(&key, bytes, "application/vnd.apache.parquet", &When::Absent).await?;
            files.push(OfferedFile {
                uri: format!("{}{key}", self.uri_base),
                size,
                namespace: namespace.clone(),
                table: Table::Gaps,
                day,
                segment: None,
                footer: Arc::new(footer),
            });
        }
        Ok(files)
    }
}

/// The rows as a Parquet file in the contract's schema, sorted as the table is.
fn encode(gaps: &[&OwnGap]) -> Result<(Bytes, ParquetMetaData), ArrowError> {
    let mut gaps = gaps.to_vec();
    gaps.sort_by(|a, b| (&a.gateway, a.from_ts, &a.id).cmp(&(&b.gateway, b.from_ts, &b.id)));
    let schema = Table::Gaps.arrow_schema();
    let text = |get: &dyn Fn(&OwnGap) -> String| {
        Arc::new(StringArray::from_iter_values(gaps.iter().map(|g| get(g)))) as ArrayRef
    };
    let time = |get: &dyn Fn(&OwnGap) -> i64| {
        Arc::new(TimestampMicrosecondArray::from_iter_values(gaps.iter().map(|g| get(g)))) as ArrayRef
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "from_ts" => time(&|g| g.from_ts.0),
            "to_ts" => time(&|g| g.to_ts.0),
            "recorded_at" => time(&|g| g.recorded_at.0),
            "id" => text(&|g| g.id.clone()),
            "reason" => text(&|g| g.reason.clone()),
            "detail" => text(&|g| g.detail.clone()),
            "recorded_by" => text(&|_| "receiver".to_owned()),
            "gateway" => text(&|g| g.gateway.to_string()),
            "buffer_epoch" => text(&|g| g.epoch.to_string()),
            "segment_number" => Arc::new(Int64Array::from(vec![NO_SEGMENT; gaps.len()])),
            "readings" => {
                let readings = gaps.iter().map(|g| g.readings.and_then(|n| i64::try_from(n).ok()));
                Arc::new(readings.collect::<Int64Array>())
            }
            _ => new_null_array(field.data_type(), gaps.len()),
        })
        .collect();
    let rows = RecordBatch::try_new(schema.clone(), columns)?;
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties))?;
    writer.write(&rows)?;
    let footer = writer.close()?;
    Ok((Bytes::from(bytes), footer))
}
