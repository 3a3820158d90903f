//! Segments as a whole: rows in, bytes out, read back; damaged, cut, measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use proptest::prelude::*;
use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::Counters;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number};
use tributary_contract::manifest::Manifest;
use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::range::Ranges;
use tributary_contract::reject::{GapReason, RejectReason};
use tributary_contract::schema::FIELD_ID_KEY;
use tributary_contract::series::{SeriesId, Tags};
use tributary_contract::status::ShortStatus;
use tributary_contract::table::Table;
use tributary_contract::time::{DAY_MICROS, Day};

use super::columns::{EncodeError, Provenance, TableRow};
use super::encoding::ROW_GROUP;
use super::parquet::{Builder, Facts};
use super::readback::{self, Contents, ReadbackError};
use crate::buffer::row::{AlertRow, GapRow, RejectKey, RejectRow, Row, SeriesEntry};
use crate::config::{Function, Functions, MINUTE, SECOND};
use crate::reading::Value;
use crate::window::decision::Seen;
use crate::window::emit::AggregateRow;
use crate::window::fold::{Sample, fold};

mod golden;
mod pages;

const DAY: Day = Day(16_801);

fn provenance() -> Provenance {
    Provenance {
        gateway: GatewayId::new("gw-1").unwrap(),
        epoch: Epoch(0xab),
        number: Number::new(7).unwrap(),
    }
}

fn entry(key: u32, device: &str, metric: &str, tags: Tags) -> SeriesEntry {
    SeriesEntry {
        key,
        id: SeriesId::of(device, metric, &tags),
        tags,
        unit: key.is_multiple_of(2).then(|| "°C".into()),
        first_ts: DAY.start(),
        last_ts: DAY.start().plus(SECOND),
        ..SeriesEntry::of("plant", device, metric)
    }
}

fn dictionary(key: u32) -> Option<Arc<SeriesEntry>> {
    let tags = if key.is_multiple_of(2) { Tags::new() } else { tags(&[("site", "north"), ("line", "2")]) };
    // Keys run against the order of devices, so that sorting by key would be noticed.
    (key < 100).then(|| Arc::new(entry(key, &format!("device-{:02}", 99 - key), "temperature", tags)))
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn reading(seq: u64, series: u32, value: Value) -> Row {
    let ts = DAY.start().plus(seq as i64 * SECOND);
    let received_at = ts.plus(5000);
    Row { seq, ts, received_at, series, value, quality: Quality::GOOD, row_tags: None, kept_back: false }
}

fn some_readings() -> Vec<Row> {
    let mut rows = vec![
        reading(5, 0, Value::Float(20.5)),
        reading(4, 3, Value::Int(-7)),
        reading(3, 3, Value::Int((1 << 53) + 1)),
        reading(2, 1, Value::Bool(true)),
        reading(1, 2, Value::Text("läuft".into())),
    ];
    rows[0].quality = Quality::GOOD.with(Doubt::Queued).with(Doubt::PossibleDuplicate);
    rows[1].row_tags = Some(Arc::new(tags(&[("trace", "x1"), ("site", "elsewhere")])));
    rows[0].row_tags = Some(Arc::new(Tags::new()));
    rows
}

fn manifest<R: TableRow>(facts: Facts) -> Manifest {
    let Provenance { gateway, epoch, number } = provenance();
    Manifest {
        version: FORMAT_VERSION,
        gateway,
        epoch,
        number,
        previous: None,
        namespace: Namespace::default(),
        table: R::TABLE,
        day: DAY,
        rows: facts.rows,
        min_seq: facts.seqs.map(|s| s.0),
        max_seq: facts.seqs.map(|s| s.1),
        min_ts: facts.min_ts,
        max_ts: facts.max_ts,
        watermark: None,
        void: Ranges::new(),
        outstanding: [number.get()].into_iter().collect(),
        closed: Vec::new(),
        counters: Counters::default(),
        status: ShortStatus::default(),
    }
}

fn builder<R: TableRow>(rows: Vec<R>) -> Builder<R, Vec<u8>> {
    let mut builder = Builder::new(DAY, provenance(), Vec::new());
    for row in rows {
        builder.push(row, &dictionary).unwrap();
    }
    builder
}

fn encode<R: TableRow>(rows: Vec<R>) -> Vec<u8> {
    let builder = builder(rows);
    let manifest = manifest::<R>(builder.facts().unwrap());
    builder.finish(&manifest).unwrap()
}

fn seen() -> Seen {
    Seen { at: DAY.start(), ordinal: 0, through: 9, settled: 8, open_from: Some(DAY.start()), frozen: false }
}

fn encode_aggregates(rows: Vec<AggregateRow>) -> Vec<u8> {
    let builder = builder(rows).with_seen(seen());
    let manifest = manifest::<AggregateRow>(builder.facts().unwrap());
    builder.finish(&manifest).unwrap()
}

fn aggregate(key: u32, minute: i64, values: &[f64]) -> AggregateRow {
    let start = DAY.start().plus(minute * MINUTE);
    let end = start.plus(MINUTE);
    let samples: Vec<Sample> = (0..)
        .zip(values)
        .map(|(seq, v)| Sample { ts: start.plus(seq as i64 * SECOND), seq, value: *v })
        .collect();
    AggregateRow {
        start,
        end,
        window: "1m".into(),
        series: key,
        aggregate: fold(&samples, None, start, end).unwrap(),
        revision: 1,
        late: 0,
        partial: false,
        quality: Quality::GOOD,
        text: None,
        functions: Functions::USUAL,
    }
}

fn some_gap(id: &str) -> GapRow {
    GapRow {
        namespace: Namespace::default(),
        from_ts: DAY.start(),
        to_ts: DAY.start().plus(3 * DAY_MICROS),
        id: id.into(),
        cancels: None,
        source: Some("plant".into()),
        device: None,
        metric: None,
        reason: GapReason::SessionLost,
        readings: None,
        bytes: Some(12),
        first_seq: None,
        last_seq: Some(u64::MAX),
        detail: Some("the broker had no session".into()),
        recorded_at: DAY.start(),
    }
}

fn some_reject(id: i64) -> RejectRow {
    RejectRow {
        id,
        namespace: Namespace::default(),
        received_at: DAY.start().plus(id),
        topic: format!("sensors/{id}"),
        source: (id > 1).then(|| "plant".into()),
        reason: RejectReason::Malformed,
        detail: None,
        size: 3,
        payload: (id > 1).then(|| vec![0, 255, 7]),
        occurrences: 4,
    }
}

fn some_alert(open: bool) -> AlertRow {
    AlertRow {
        namespace: Namespace::default(),
        ts: DAY.start().plus(i64::from(!open)),
        device: "boiler".into(),
        metric: "temp".into(),
        series: SeriesId(7),
        rule: "too hot".into(),
        severity: "warning".into(),
        open,
        value: Some(60.5),
        expected: None,
        score: Some(7.5),
    }
}

fn batches(encoded: &[u8]) -> Vec<RecordBatch> {
    let bytes = Bytes::copy_from_slice(encoded);
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().with_batch_size(1 << 20).build().unwrap();
    reader.map(Result::unwrap).collect()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch.column_by_name(name).unwrap().as_string::<i32>().iter().map(|t| t.map(str::to_owned)).collect()
}

fn longs(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

#[test]
fn a_reading_stands_in_the_table_as_the_contract_says() {
    let encoded = encode(some_readings());
    let [batch] = &batches(&encoded)[..] else { panic!("one row group") };
    assert_eq!(batch.schema(), Table::Readings.arrow_schema(), "field ids included");
    // By device: keys 3, 2, 1, 0; then by time.
    assert_eq!(longs(batch, "seq"), [3, 4, 1, 2, 5].map(Some));
    let numbers: Vec<_> =
        batch.column_by_name("value").unwrap().as_primitive::<Float64Type>().iter().collect();
    assert_eq!(numbers, [Some(9_007_199_254_740_992.0), Some(-7.0), None, Some(1.0), Some(20.5)]);
    assert_eq!(longs(batch, "value_int"), [Some((1 << 53) + 1), None, None, None, None]);
    let bools: Vec<_> = batch.column_by_name("value_bool").unwrap().as_boolean().iter().collect();
    assert_eq!(bools, [None, None, None, Some(true), None]);
    assert_eq!(texts(batch, "value_text")[2].as_deref(), Some("läuft"));
    assert_eq!(texts(batch, "quality")[4].as_deref(), Some("queued,possible-duplicate"));
    assert_eq!(texts(batch, "unit")[4].as_deref(), Some("°C"));
    assert_eq!(texts(batch, "series")[4], Some(dictionary(0).unwrap().id.to_string()));
    assert_eq!(texts(batch, "buffer_epoch")[0].as_deref(), Some("00000000000000ab"));
    assert_eq!(longs(batch, "segment_number"), [Some(7); 5]);
    let received = batch.column_by_name("received_at").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert!(received.iter().flatten().all(|t| t % 1000 == 0));
    let maps = batch.column_by_name("tags").unwrap().as_map();
    let read = |row: usize| -> Option<Tags> {
        let entries = maps.is_valid(row).then(|| maps.value(row))?;
        let of = |i: usize| {
            entries.column(i).as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()
        };
        let keys = of(0);
        assert!(keys.is_sorted(), "{keys:?}");
        Some(keys.into_iter().zip(of(1)).collect())
    };
    assert_eq!(read(0), Some(tags(&[("site", "north"), ("line", "2")])));
    assert_eq!(
        read(1),
        Some(tags(&[("site", "north"), ("line", "2"), ("trace", "x1")])),
        "a series' tags go first"
    );
    assert_eq!((read(2), read(4)), (None, None));
}

#[test]
fn statistics_that_were_not_chosen_are_null() {
    let chosen = [Function::Mean, Function::Last].into_iter().collect();
    let encoded = encode_aggregates(vec![AggregateRow { functions: chosen, ..aggregate(1, 0, &[1.0, 2.0]) }]);
    let batch = &batches(&encoded)[0];
    let known: Vec<&str> = Table::Aggregates
        .columns()
        .iter()
        .map(|c| c.name)
        .filter(|name| batch.column_by_name(name).is_some_and(|c| c.null_count() == 0))
        .filter(|name| name.starts_with("value_") || name.ends_with("_ts") || name.starts_with("time_"))
        .collect();
    assert_eq!(known, ["value_mean", "value_last", "last_ts"]);
}

#[test]
fn columns_that_came_later_are_there_where_they_say_something() {
    let counted = [Function::Last, Function::Rate].into_iter().collect();
    let one = |functions| AggregateRow { functions, ..aggregate(1, 0, &[5.0, 8.0, 2.0]) };
    let names = |encoded: &[u8]| -> Vec<String> {
        let schema = batches(encoded)[0].schema();
        schema
            .fields()
            .iter()
            .skip(Table::Aggregates.first_columns().len())
            .map(|f| f.name().clone())
            .collect()
    };
    let plain = encode_aggregates(vec![one(Functions::USUAL)]);
    let some = encode_aggregates(vec![one(Functions::USUAL), AggregateRow { revision: 2, ..one(counted) }]);
    assert_eq!((names(&plain), names(&some)), (vec![], vec!["value_rate".to_owned()]));
    let batch = &batches(&some)[0];
    let rates: Vec<_> =
        batch.column_by_name("value_rate").unwrap().as_primitive::<Float64Type>().iter().collect();
    assert_eq!(rates, [None, Some(5.0 / 60.0)]);
    let id = batch.schema().field_with_name("value_rate").unwrap().metadata()[FIELD_ID_KEY].clone();
    assert_eq!(id, "34");
    assert!(readback::read(Bytes::from(some)).is_ok());
}

#[test]
fn every_table_has_the_contracts_schema_and_reads_back() {
    let aggregates = encode_aggregates(vec![aggregate(1, 5, &[1.0]), aggregate(2, 4, &[1.0, 2.0])]);
    let series = encode(vec![entry(4, "b", "x", Tags::new()), entry(3, "a", "y", tags(&[("k", "v")]))]);
    let gaps = encode(vec![some_gap("g2"), some_gap("g1")]);
    let rejects = encode(vec![some_reject(2), some_reject(1)]);
    let alerts = encode(vec![some_alert(false), some_alert(true)]);
    for (encoded, table) in [
        (&alerts, Table::Alerts),
        (&aggregates, Table::Aggregates),
        (&series, Table::Series),
        (&gaps, Table::Gaps),
        (&rejects, Table::Rejects),
    ] {
        let [batch] = &batches(encoded)[..] else { panic!("one row group") };
        let first: Vec<usize> = (0..table.first_columns().len()).collect();
        let first = table.arrow_schema().project(&first).unwrap();
        assert_eq!((&*batch.schema(), batch.num_rows()), (&first, 2));
    }
    let contents = |e: &[u8]| readback::read(Bytes::from(e.to_vec())).unwrap().contents;
    let Contents::Decisions(decided) = contents(&aggregates) else { panic!("decisions") };
    assert_eq!(decided.seen, seen());
    let what: Vec<_> = decided.decisions.iter().map(|d| (&*d.device, d.samples, d.revision, d.end)).collect();
    let end = |minute: i64| DAY.start().plus(minute * MINUTE);
    assert_eq!(what, [("device-97", 2, 1, end(5)), ("device-98", 1, 1, end(6))]);
    let ids = vec![SeriesId::of("a", "y", &tags(&[("k", "v")])), SeriesId::of("b", "x", &Tags::new())];
    assert_eq!(contents(&series), Contents::Series(ids));
    assert_eq!(contents(&gaps), Contents::Gaps(vec!["g1".into(), "g2".into()]));
    let key = |id: i64| {
        let RejectRow { received_at, topic, source, reason, .. } = some_reject(id);
        RejectKey { received_at, topic, source, reason }
    };
    assert_eq!(contents(&rejects), Contents::Rejects(vec![key(1), key(2)]));
    assert_eq!(contents(&alerts), Contents::Alerts(vec![some_alert(true).id(), some_alert(false).id()]));
    let batch = &batches(&alerts)[0];
    assert_eq!(texts(batch, "state"), [Some("open".to_owned()), Some("closed".to_owned())]);
}

#[test]
fn a_segment_read_back_says_what_was_sealed() {
    let builder = builder(some_readings());
    let facts = builder.facts().unwrap();
    let encoded = builder.finish(&manifest::<Row>(facts)).unwrap();
    let back = readback::read(Bytes::from(encoded.clone())).unwrap();
    assert_eq!(back.digest, Digest::of(&encoded));
    assert_eq!(back.manifest, manifest::<Row>(facts));
    assert_eq!(back.contents, Contents::Seqs(vec![3, 4, 1, 2, 5]));
    assert_eq!(facts.seqs, Some((1, 5)));
}

#[test]
fn the_same_rows_give_the_same_bytes_in_whatever_order_they_come() {
    let (one, two) = (encode(some_readings()), encode(some_readings()));
    assert!(one == two);
    let mut other_order = some_readings();
    other_order.reverse();
    assert!(encode(other_order) == one);
}

#[test]
fn rows_are_sorted_within_each_row_group_and_the_footer_says_so() {
    let rows: Vec<Row> = (0..ROW_GROUP as u64 + 10)
        .map(|i| {
            let mut row = reading(i, (i * 7 % 13) as u32, Value::Float(i as f64));
            row.ts = DAY.start().plus((i as i64 * 7919) % 86_400 * SECOND);
            row
        })
        .collect();
    let encoded = encode(rows);
    let bytes = Bytes::from(encoded.clone());
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let groups = reader.metadata().row_groups();
    assert_eq!(groups.iter().map(|g| g.num_rows()).collect::<Vec<_>>(), [ROW_GROUP as i64, 10]);
    assert!(groups.iter().all(|g| g.sorting_columns().is_some_and(|s| s.len() == 4)));
    assert_eq!(reader.metadata().file_metadata().created_by(), Some("tributary"));
    for group in 0..2 {
        let bytes = Bytes::from(encoded.clone());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().with_row_groups(vec![group]);
        let mut keys = Vec::new();
        for batch in reader.build().unwrap().map(Result::unwrap) {
            let times =
                batch.column_by_name("ts").unwrap().as_primitive::<TimestampMicrosecondType>().clone();
            let times = times.iter().flatten().collect::<Vec<_>>();
            keys.extend(texts(&batch, "device").into_iter().zip(texts(&batch, "metric")).zip(times));
        }
        assert!(keys.is_sorted(), "row group {group}");
    }
    let Contents::Seqs(mut seqs) = readback::read(Bytes::from(encoded)).unwrap().contents else { panic!() };
    seqs.sort_unstable();
    assert!(seqs.into_iter().eq(0..ROW_GROUP as u64 + 10));
}

#[test]
fn rows_that_do_not_belong_are_refused_and_change_nothing() {
    let mut b = builder(some_readings());
    let before = b.facts();
    let mut other_day = reading(9, 0, Value::Int(1));
    other_day.ts = DAY.start().plus(-1);
    assert!(matches!(b.push(other_day, &dictionary), Err(EncodeError::OtherDay { .. })));
    let unknown = reading(9, 4000, Value::Int(1));
    assert!(matches!(b.push(unknown, &dictionary), Err(EncodeError::UnknownSeries(4000))));
    assert_eq!(b.facts(), before);
    let mut wrong = manifest::<Row>(before.unwrap());
    wrong.rows += 1;
    assert!(matches!(b.finish(&wrong), Err(EncodeError::Disagrees { field: "rows", .. })));
    let empty = Builder::<Row, _>::new(DAY, provenance(), Vec::new());
    assert!(matches!(empty.finish(&wrong), Err(EncodeError::Empty)));
    let unseen = builder(vec![aggregate(1, 5, &[1.0])]);
    let said = manifest::<AggregateRow>(unseen.facts().unwrap());
    assert!(matches!(unseen.finish(&said), Err(EncodeError::NothingSeen)));
}

#[test]
fn the_estimate_of_a_growing_segment_is_near_its_size() {
    let rows = (0..150_000u64).map(|i| {
        let mut row = reading(i, (i % 20) as u32, Value::Float((i % 977) as f64 / 8.0));
        row.ts = DAY.start().plus((i / 20) as i64 * SECOND);
        row
    });
    let b = builder(rows.collect());
    let estimate = b.estimated_bytes();
    let said = manifest::<Row>(b.facts().unwrap());
    let size = b.finish(&said).unwrap().len() as u64;
    assert!(estimate / 2 < size && size < estimate * 2, "estimated {estimate}, got {size}");
}

#[test]
fn what_is_no_segment_is_refused_with_its_reason() {
    let encoded = encode(some_readings());
    for len in 0..encoded.len() {
        assert!(readback::read(Bytes::copy_from_slice(&encoded[..len])).is_err(), "cut to {len} bytes");
    }
    // A manifest that is right for itself, over rows of another segment.
    let b = builder(some_readings());
    let facts = b.facts().unwrap();
    let said = manifest::<Row>(facts).to_json();
    let file = b.finish(&manifest::<Row>(facts)).unwrap();
    let forged = said.replace("\"number\":7", "\"number\":8").replace("[[7,7]]", "[[8,8]]");
    let bytes = replace(&file, said.as_bytes(), forged.as_bytes());
    let refused = readback::read(Bytes::from(bytes)).unwrap_err();
    assert!(matches!(refused, ReadbackError::Rows("some come from another segment")), "{refused}");
    let forged = said.replace("\"table\":\"readings\"", "\"table\":\"forgings\"");
    let bytes = replace(&file, said.as_bytes(), forged.as_bytes());
    assert!(matches!(readback::read(Bytes::from(bytes)), Err(ReadbackError::Manifest(_))));
}

fn replace(file: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let at = file.windows(old.len()).position(|w| w == old).unwrap();
    [&file[..at], new, &file[at + old.len()..]].concat()
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::Float),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::of_unsigned),
        any::<bool>().prop_map(Value::Bool),
        ".{0,12}".prop_map(Value::Text),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_panic_escapes_from_hostile_bytes(table in 0usize..3,
                                 flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                                 near_the_end in any::<bool>()) {
        let files = files();
        let mut bytes = files[table].clone();
        for (at, byte) in flips {
            // Half of the time the footer, where lengths and offsets stand.
            let room = if near_the_end { bytes.len().min(4000) } else { bytes.len() };
            let at = bytes.len() - 1 - at.index(room);
            bytes[at] = byte;
        }
        if let Ok(back) = readback::read(Bytes::from(bytes)) {
            prop_assert_eq!(back.manifest.rows as usize, match back.contents {
                Contents::Seqs(rows) => rows.len(),
                Contents::Decisions(decided) => decided.decisions.len(),
                Contents::Rejects(rows) => rows.len(),
                other => panic!("{other:?} of none of these tables"),
            });
        }
    }
}

fn files() -> &'static [Vec<u8>] {
    static FILES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    FILES.get_or_init(|| {
        let aggregates = encode_aggregates(vec![aggregate(1, 5, &[1.0]), aggregate(2, 4, &[1.0, 2.0])]);
        vec![encode(some_readings()), aggregates, encode(vec![some_reject(2), some_reject(1)])]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_is_read_stands_in_the_table_once(values in prop::collection::vec((any_value(), 0u32..10), 1..50)) {
        let rows: Vec<Row> = (1..).zip(values).map(|(seq, (value, series))| reading(seq, series, value)).collect();
        let encoded = encode(rows.clone());
        let [batch] = &batches(&encoded)[..] else { panic!("one row group") };
        let by_seq: BTreeMap<i64, usize> = longs(batch, "seq").into_iter().flatten().zip(0..).collect();
        prop_assert_eq!(by_seq.len(), rows.len());
        let numbers = batch.column_by_name("value").unwrap().as_primitive::<Float64Type>().clone();
        let (ints, strings) = (longs(batch, "value_int"), texts(batch, "value_text"));
        for row in rows {
            let at = by_seq[&(row.seq as i64)];
            let number = numbers.is_valid(at).then(|| numbers.value(at).to_bits());
            prop_assert_eq!(number, row.value.numeric().map(f64::to_bits));
            prop_assert_eq!(ints[at], row.value.inexact_int());
            prop_assert_eq!(&strings[at], &row.value.exact_text());
        }
    }
}
