//! What a bucket holds, counted by programs of this test.

use std::collections::BTreeMap;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use bytes::Bytes;
use tributary_contract::manifest::{MANIFEST_KEY, Manifest};
use tributary_contract::table::Table;

use super::World;

/// What was acknowledged of each source.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Taken(pub(super) BTreeMap<String, u64>);

/// Rows by what they say.
#[derive(Debug, Default)]
pub(super) struct Lake {
    /// Rows of `readings` by source.
    pub(super) readings: BTreeMap<String, u64>,
    /// Readings in gaps by source and reason.
    pub(super) gaps: BTreeMap<(String, String), u64>,
    /// Number of rows of `gaps`.
    pub(super) gap_rows: u64,
    /// Of each window of each series the samples of the newest revision, and whether that is partial.
    pub(super) windows: BTreeMap<(String, String, i64), (i32, i64, bool)>,
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> &'a StringArray {
    batch.column_by_name(name).unwrap().as_any().downcast_ref().unwrap()
}

fn longs<'a>(batch: &'a RecordBatch, name: &str) -> &'a Int64Array {
    batch.column_by_name(name).unwrap().as_any().downcast_ref().unwrap()
}

/// What the footer of a segment says.
pub(super) fn manifest_of(segment: Bytes) -> Manifest {
    let reader = ParquetRecordBatchReaderBuilder::try_new(segment).unwrap();
    let pairs = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let json = pairs.iter().find(|pair| pair.key == MANIFEST_KEY).unwrap().value.clone().unwrap();
    Manifest::from_json(&json).unwrap()
}

impl Lake {
    pub(super) fn of(world: &World) -> Self {
        let mut lake = Self::default();
        for key in world.bucket.keys().iter().filter(|key| key.ends_with(".parquet")) {
            let object = world.bucket.object(key).unwrap();
            let manifest = manifest_of(object.clone());
            let reader = ParquetRecordBatchReaderBuilder::try_new(object).unwrap();
            manifest.counters.check().unwrap();
            for batch in reader.build().unwrap() {
                lake.count(manifest.table, &batch.unwrap());
            }
        }
        lake
    }

    fn count(&mut self, table: Table, batch: &RecordBatch) {
        for i in 0..batch.num_rows() {
            match table {
                Table::Readings => {
                    *self.readings.entry(texts(batch, "source").value(i).into()).or_default() += 1;
                }
                Table::Gaps => {
                    let key =
                        (texts(batch, "source").value(i).into(), texts(batch, "reason").value(i).into());
                    *self.gaps.entry(key).or_default() += longs(batch, "readings").value(i) as u64;
                    self.gap_rows += 1;
                }
                Table::Aggregates => {
                    let start: &TimestampMicrosecondArray =
                        batch.column_by_name("window_start").unwrap().as_any().downcast_ref().unwrap();
                    let revisions: &Int32Array =
                        batch.column_by_name("revision").unwrap().as_any().downcast_ref().unwrap();
                    let partial: &arrow::array::BooleanArray =
                        batch.column_by_name("partial").unwrap().as_any().downcast_ref().unwrap();
                    let p50 = batch.column_by_name("value_p50").unwrap();
                    assert!(partial.value(i) || !p50.is_null(i), "only partial ones lack it");
                    let key = (
                        texts(batch, "window_name").value(i).into(),
                        texts(batch, "series").value(i).into(),
                        start.value(i),
                    );
                    let new = (revisions.value(i), longs(batch, "samples").value(i), partial.value(i));
                    let known = self.windows.entry(key).or_insert(new);
                    if new.0 > known.0 {
                        assert!(new.1 >= known.1, "a later revision says no less: {known:?} {new:?}");
                        *known = new;
                    } else {
                        assert!(new == *known || new.0 < known.0, "a revision once: {known:?} {new:?}");
                    }
                }
                Table::Series | Table::Rejects | Table::Alerts => {}
            }
        }
    }

    pub(super) fn samples(&self, window: &str) -> u64 {
        self.windows.iter().filter(|((name, ..), _)| name == window).map(|(_, (_, n, _))| *n as u64).sum()
    }

    pub(super) fn gap(&self, source: &str, reason: &str) -> u64 {
        self.gaps.get(&(source.into(), reason.into())).copied().unwrap_or(0)
    }

    fn accounted(&self, source: &str) -> u64 {
        let gaps = self.gaps.iter().filter(|((of, _), _)| of == source).map(|(_, n)| n).sum::<u64>();
        self.readings.get(source).copied().unwrap_or(0) + gaps
    }

    /// Table rows and gap readings are what was acknowledged, of each source.
    pub(super) fn is_all_of(&self, taken: &Taken) {
        for (source, acknowledged) in &taken.0 {
            assert_eq!(
                self.accounted(source),
                *acknowledged,
                "{source}: {:?} {:?}",
                self.readings,
                self.gaps
            );
        }
    }
}
