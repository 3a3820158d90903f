//! What a query for one device has to read: its pages, by the page index, and nothing else of the rows.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use ::parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowFilter, RowSelection,
};
use ::parquet::arrow::{ProjectionMask, arrow_reader::ArrowReaderOptions};
use ::parquet::errors::Result as ParquetResult;
use ::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use ::parquet::file::page_index::column_index::ColumnIndexMetaData;
use ::parquet::file::reader::{ChunkReader, Length};
use arrow::array::{Scalar, StringArray};
use arrow::compute::kernels::cmp::eq;

use super::*;
use crate::segment::encoding::{PAGE_ROWS, ROW_GROUP, Settings};

/// A file that notes which of its bytes are asked for.
#[derive(Clone)]
struct Counting {
    bytes: Bytes,
    read: Arc<Mutex<BTreeSet<(u64, u64)>>>,
}

impl Counting {
    fn note(&self, range: Range<u64>) {
        self.read.lock().unwrap().insert((range.start, range.end));
    }
}

impl Length for Counting {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Notes what really is read of a stream.
struct Noting(Counting, u64);

impl Read for Noting {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = (&self.0.bytes[self.1 as usize..]).read(buf)?;
        self.0.note(self.1..self.1 + read as u64);
        self.1 += read as u64;
        Ok(read)
    }
}

impl ChunkReader for Counting {
    type T = Noting;

    fn get_read(&self, start: u64) -> ParquetResult<Noting> {
        Ok(Noting(self.clone(), start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.note(start..start + length as u64);
        Ok(self.bytes.slice(start as usize..start as usize + length))
    }
}

/// A busy hour of a hundred devices: a row group and a bit, received device after device.
fn a_busy_day() -> Vec<u8> {
    let of = |i: u64| {
        let mut row = reading(i, (i % 100) as u32, Value::Float((i * 7919 % 1009) as f64 / 8.0));
        row.ts = DAY.start().plus((i / 100) as i64 * SECOND);
        row
    };
    encode((0..ROW_GROUP as u64 + 30_000).map(of).collect())
}

/// Whether a leaf is of a column that has one page a row group: who reads it reads it whole.
fn is_whole(metadata: &ParquetMetaData, leaf: usize) -> bool {
    let root = metadata.file_metadata().schema_descr().get_column_root(leaf).name().to_owned();
    Settings::of(Table::Readings).whole.contains(&root.as_str())
}

/// The rows of each page of the column `device` that may hold that one, counted in the whole file; and of all pages of the
/// other columns that have such rows the bytes, with each chunk's dictionary.
fn pages_of(device: &str, metadata: &ParquetMetaData) -> (Vec<Range<usize>>, BTreeSet<(u64, u64)>) {
    let (mut rows, mut bytes, mut first) = (Vec::new(), BTreeSet::new(), 0);
    let column = Table::Readings.columns().iter().position(|c| c.name == "device").unwrap();
    for (at, group) in metadata.row_groups().iter().enumerate() {
        let ColumnIndexMetaData::BYTE_ARRAY(index) = &metadata.column_index().unwrap()[at][column] else {
            panic!("the column `device` has no page index")
        };
        let all = group.num_rows() as usize;
        let pages = |leaf: usize| {
            let starts = metadata.offset_index().unwrap()[at][leaf].page_locations();
            let ends = starts.iter().skip(1).map(|p| p.first_row_index as usize).chain([all]);
            starts.iter().zip(ends).map(|(p, end)| (p, p.first_row_index as usize..end)).collect::<Vec<_>>()
        };
        let wanted: Vec<Range<usize>> = pages(column)
            .into_iter()
            .enumerate()
            .filter(|(page, _)| {
                let (least, greatest) = (index.min_value(*page).unwrap(), index.max_value(*page).unwrap());
                least <= device.as_bytes() && device.as_bytes() <= greatest
            })
            .map(|(_, (_, rows))| rows)
            .collect();
        for leaf in (0..group.num_columns()).filter(|leaf| !is_whole(metadata, *leaf)) {
            for (page, of) in pages(leaf) {
                if wanted.iter().any(|rows| rows.start < of.end && of.start < rows.end) {
                    bytes.insert((page.offset as u64, page.offset as u64 + page.compressed_page_size as u64));
                }
            }
            if let Some(at) = group.column(leaf).dictionary_page_offset() {
                bytes.insert((at as u64, group.column(leaf).data_page_offset() as u64));
            }
        }
        rows.extend(wanted.into_iter().map(|rows| first + rows.start..first + rows.end));
        first += all;
    }
    (rows, bytes)
}

#[test]
fn a_query_for_one_device_reads_only_its_pages() {
    let encoded = a_busy_day();
    let file = Counting { bytes: Bytes::from(encoded), read: Arc::default() };
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let metadata = ArrowReaderMetadata::load(&file, options).unwrap();
    let paged: Vec<usize> = (0..metadata.metadata().row_group(0).num_columns())
        .filter(|leaf| !is_whole(metadata.metadata(), *leaf))
        .collect();
    let chunks = metadata.metadata().row_groups().iter().flat_map(|g| paged.iter().map(|at| g.column(*at)));
    let all: i64 = chunks.map(|chunk| chunk.compressed_size()).sum();
    let rows = metadata.metadata().file_metadata().num_rows() as usize;
    for device in ["device-07", "device-50", "device-99"] {
        let (wanted, pages) = pages_of(device, metadata.metadata());
        assert!(!wanted.is_empty(), "{device}");
        file.read.lock().unwrap().clear();
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone());
        let mask = ProjectionMask::columns(reader.parquet_schema(), ["device"]);
        let is_it = ArrowPredicateFn::new(mask, move |batch| {
            eq(batch.column(0), &Scalar::new(StringArray::from_iter_values([device])))
        });
        let selection = RowSelection::from_consecutive_ranges(wanted.clone().into_iter(), rows);
        let wanted_columns = ProjectionMask::leaves(reader.parquet_schema(), paged.iter().copied());
        let reader = reader.with_projection(wanted_columns);
        let reader =
            reader.with_row_selection(selection).with_row_filter(RowFilter::new(vec![Box::new(is_it)]));
        let found: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();

        let devices: Vec<_> = found.iter().flat_map(|batch| texts(batch, "device")).collect();
        assert_eq!(
            devices.len(),
            (0..rows).filter(|i| 99 - i % 100 == device[7..].parse::<usize>().unwrap()).count()
        );
        assert!(devices.iter().all(|d| d.as_deref() == Some(device)));
        let read = file.read.lock().unwrap().clone();
        let others: Vec<_> =
            read.iter().filter(|(from, to)| !pages.iter().any(|(a, b)| a <= from && to <= b)).collect();
        assert!(others.is_empty(), "{device}: bytes of no page of its: {others:?}");
        let bytes = read.iter().map(|(a, b)| b - a).sum::<u64>();
        // One page of each row group, two where its rows lie across a border.
        let most = 2 * 2 * PAGE_ROWS;
        assert!(wanted.iter().map(Range::len).sum::<usize>() <= most, "{device}: {wanted:?}");
        assert!(bytes * 2 < all as u64, "{device}: {bytes} of {all} bytes");
    }
}
