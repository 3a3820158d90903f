//! Segments as a gateway seals them, and a lake in memory: what tests feed the receiver with.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch,
    StringArray, StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::Counters;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number, SegmentId};
use tributary_contract::key::SegmentKey;
use tributary_contract::manifest::{Link, MANIFEST_KEY, Manifest};
use tributary_contract::range::Ranges;
use tributary_contract::status::ShortStatus;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;
use uuid::Uuid;

use crate::bucket::Object;
use crate::dedupe::Known;
use crate::pipeline::register::{Attempt, Offer, Register};

/// The day of all test segments.
pub(crate) const DAY: &str = "2026-03-01";

/// A gateway's epoch that seals segments, each linked to the one before.
pub(crate) struct Forge {
    pub(crate) gateway: GatewayId,
    pub(crate) epoch: Epoch,
    pub(crate) next: u64,
    pub(crate) previous: Option<Link>,
}

/// A sealed segment.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) key: SegmentKey,
    pub(crate) manifest: Manifest,
    pub(crate) bytes: Bytes,
}

impl Sealed {
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// As the bucket hands it out.
    pub(crate) fn object(&self) -> Object {
        object(self.bytes.clone())
    }
}

/// `bytes` with their right digest in the metadata.
pub(crate) fn object(bytes: Bytes) -> Object {
    let digest = Some(Digest::of(&bytes).to_string());
    Object { bytes, etag: "e".into(), digest }
}

impl Forge {
    pub(crate) fn new(gateway: &str, epoch: u64) -> Self {
        Self { gateway: GatewayId::new(gateway).unwrap(), epoch: Epoch(epoch), next: 1, previous: None }
    }

    /// Seals the next segment of `rows` rows.
    pub(crate) fn seal(&mut self, table: Table, rows: usize) -> Sealed {
        self.seal_with(table, rows, |_| {})
    }

    /// Seals the next segment; `change` may say something else in the manifest.
    pub(crate) fn seal_with(
        &mut self,
        table: Table,
        rows: usize,
        change: impl FnOnce(&mut Manifest),
    ) -> Sealed {
        let number = Number::new(self.next).unwrap();
        let id = SegmentId { gateway: self.gateway.clone(), epoch: self.epoch, number };
        let key = SegmentKey { id, namespace: Namespace::default(), table, day: DAY.parse().unwrap() };
        let mut manifest = manifest(&key, rows, self.previous);
        change(&mut manifest);
        let bytes = encode(&self::rows(&key, rows), Some(&manifest.to_json()));
        self.next += 1;
        self.previous = Some(Link { number, digest: Digest::of(&bytes) });
        Sealed { key, manifest, bytes }
    }
}

/// A manifest that tells the truth about [`rows`].
pub(crate) fn manifest(key: &SegmentKey, rows: usize, previous: Option<Link>) -> Manifest {
    let (first, last) = (seq(key, 0), seq(key, rows.max(1) - 1));
    let readings = key.table == Table::Readings;
    Manifest {
        version: FORMAT_VERSION,
        gateway: key.id.gateway.clone(),
        epoch: key.id.epoch,
        number: key.id.number,
        previous,
        namespace: key.namespace.clone(),
        table: key.table,
        day: key.day,
        rows: rows as u64,
        min_seq: readings.then_some(first as u64),
        max_seq: readings.then_some(last as u64),
        min_ts: key.day.start(),
        max_ts: key.day.start().plus(1000 * (rows.max(1) as i64 - 1)),
        watermark: None,
        void: Ranges::new(),
        outstanding: (1..=key.id.number.get()).collect(),
        closed: Vec::new(),
        counters: Counters::default(),
        status: ShortStatus { at: Timestamp(key.id.number.get() as i64), ..ShortStatus::default() },
    }
}

fn seq(key: &SegmentKey, row: usize) -> i64 {
    key.id.number.get() as i64 * 1_000_000 + row as i64
}

/// Rows that say what `key` says, with every required column filled and every optional one null but the tags.
pub(crate) fn rows(key: &SegmentKey, rows: usize) -> RecordBatch {
    let schema = key.table.arrow_schema();
    let columns = schema.fields().iter().map(|f| column(key, f, rows)).collect();
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

fn column(key: &SegmentKey, field: &Field, rows: usize) -> ArrayRef {
    let texts = |text: String| Arc::new(StringArray::from(vec![text; rows])) as ArrayRef;
    match (field.name().as_str(), field.data_type()) {
        ("gateway", _) => texts(key.id.gateway.to_string()),
        ("buffer_epoch", _) => texts(key.id.epoch.to_string()),
        ("segment_number", _) => Arc::new(Int64Array::from(vec![key.id.number.get() as i64; rows])),
        ("seq", _) => Arc::new((0..rows).map(|i| Some(seq(key, i))).collect::<Int64Array>()),
        ("tags", DataType::Map(entries, _)) => tags(entries, rows),
        (_, kind) if field.is_nullable() => new_null_array(kind, rows),
        (_, DataType::Timestamp(..)) => {
            let start = key.day.start().0;
            Arc::new((0..rows).map(|i| Some(start + 1000 * i as i64)).collect::<TimestampMicrosecondArray>())
        }
        (name, DataType::Utf8) => texts(format!("{name} ü")),
        (_, DataType::Float64) => Arc::new(Float64Array::from(vec![1.5; rows])),
        (_, DataType::Int64) => Arc::new(Int64Array::from(vec![1; rows])),
        (_, DataType::Int32) => Arc::new(Int32Array::from(vec![0; rows])),
        (_, DataType::Boolean) => Arc::new(BooleanArray::from(vec![false; rows])),
        (name, kind) => panic!("no test values for {name}: {kind}"),
    }
}

fn tags(entries: &Arc<Field>, rows: usize) -> ArrayRef {
    let DataType::Struct(fields) = entries.data_type() else { panic!("a map's entries are a struct") };
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
        .with_keys_field(fields[0].clone())
        .with_values_field(fields[1].clone());
    for row in 0..rows {
        if row % 2 == 0 {
            builder.keys().append_value("n");
            builder.values().append_value(row.to_string());
        }
        builder.append(row % 2 == 0).unwrap();
    }
    Arc::new(builder.finish())
}

/// A Parquet file of `rows` with `manifest` in its footer.
pub(crate) fn encode(rows: &RecordBatch, manifest: Option<&str>) -> Bytes {
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    if let Some(json) = manifest {
        writer.append_key_value_metadata(KeyValue::new(MANIFEST_KEY.to_owned(), json.to_owned()));
    }
    Bytes::from(writer.into_inner().unwrap())
}

/// What goes wrong with an attempt at the lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LakeFault {
    /// Out of reach; nothing happens.
    Unreachable,
    /// The batch lands and the connection breaks.
    LandsUnheard,
    /// The batch lands and the outcome is reported as unknown.
    LandsUnknown,
    /// Another commit came between; nothing happens.
    Conflict,
    /// A person must act.
    Stop(String),
}

/// Tables in memory with the batch number in them, as the real ones have it.
#[derive(Debug, Default)]
pub(crate) struct MemoryLake {
    tables: Mutex<BTreeMap<String, MemoryTable>>,
    faults: Mutex<HashMap<String, VecDeque<LakeFault>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct MemoryTable {
    pub(crate) uuid: Uuid,
    pub(crate) ledger: String,
    pub(crate) batch: u64,
    pub(crate) uris: Vec<String>,
    pub(crate) rows: i64,
}

impl MemoryLake {
    /// The next attempt at `table` meets `fault`.
    pub(crate) fn fail_next(&self, table: &str, fault: LakeFault) {
        self.faults.lock().unwrap().entry(table.to_owned()).or_default().push_back(fault);
    }

    pub(crate) fn table(&self, name: &str) -> Option<MemoryTable> {
        self.tables.lock().unwrap().get(name).cloned()
    }
}

#[async_trait]
impl Register for MemoryLake {
    async fn ahead(
        &self,
        namespace: &Namespace,
        table: Table,
        _ledger: &str,
        known: Known,
    ) -> Result<Option<String>, String> {
        let batch = self.table(&format!("{namespace}.{table}")).map_or(0, |t| t.batch);
        Ok((batch > known.batch).then(|| "ledger is older than the table".to_owned()))
    }

    async fn attempt(&self, offer: &Offer) -> Result<Attempt, String> {
        let name = format!("{}.{}", offer.namespace, offer.table);
        let fault = self.faults.lock().unwrap().get_mut(&name).and_then(VecDeque::pop_front);
        match &fault {
            Some(LakeFault::Unreachable) => return Err("no route".into()),
            Some(LakeFault::Conflict) => return Ok(Attempt::Again("another commit".into())),
            Some(LakeFault::Stop(sentence)) => return Ok(Attempt::Stop(sentence.clone())),
            Some(LakeFault::LandsUnheard | LakeFault::LandsUnknown) | None => {}
        }
        let mut tables = self.tables.lock().unwrap();
        let table = tables.entry(name).or_insert_with(|| MemoryTable {
            uuid: Uuid::new_v4(),
            ledger: offer.ledger.clone(),
            batch: 0,
            uris: Vec::new(),
            rows: 0,
        });
        assert_eq!(table.ledger, offer.ledger);
        if table.batch >= offer.n {
            return Ok(Attempt::Settled { snapshot: Some(offer.n as i64), uuid: table.uuid });
        }
        assert_eq!(table.batch + 1, offer.n, "batches are dense");
        table.batch = offer.n;
        table.uris.extend(offer.files.iter().map(|f| f.uri.clone()));
        table.rows += offer.files.iter().map(|f| f.footer.file_metadata().num_rows()).sum::<i64>();
        match fault {
            Some(LakeFault::LandsUnheard) => Err("connection reset".into()),
            Some(LakeFault::LandsUnknown) => Ok(Attempt::Again("no answer".into())),
            _ => Ok(Attempt::Settled { snapshot: Some(offer.n as i64), uuid: table.uuid }),
        }
    }
}
