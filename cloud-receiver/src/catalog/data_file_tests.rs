//! What a real segment's footer becomes, and what is left out of it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use iceberg::spec::PrimitiveLiteral;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::{ParquetMetaData, SortingColumn};
use parquet::file::properties::WriterProperties;

use super::super::tests::{DAY, readings};
use super::*;

fn placement(table: Table) -> Placement<'static> {
    Placement {
        uri: "s3://b/segments/x.parquet",
        size: 4711,
        table,
        day: DAY.parse().unwrap(),
        partition_spec_id: 0,
        sort_order_id: Some(1),
    }
}

fn footer(batch: &RecordBatch, properties: WriterProperties) -> ParquetMetaData {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap()
}

/// The batch with one column replaced.
fn with(batch: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let at = batch.schema().index_of(name).unwrap();
    let mut columns = batch.columns().to_vec();
    columns[at] = column;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

fn id(name: &str) -> i32 {
    Table::Readings.column(name).unwrap().id
}

#[test]
fn counts_bounds_and_day_are_those_of_the_rows() {
    let rows = readings("gw-1", 3, 10);
    let values = Float64Array::from_iter((0..10).map(|i| (i != 4).then_some(f64::from(i) - 2.5)));
    let footer = footer(&with(&rows, "value", Arc::new(values)), WriterProperties::default());
    let file = data_file(&footer, &placement(Table::Readings)).unwrap();

    assert_eq!((file.record_count(), file.file_size_in_bytes()), (10, 4711));
    assert_eq!(file.file_path(), "s3://b/segments/x.parquet");
    let day = file.partition().fields()[0].as_ref().and_then(|l| l.as_primitive_literal());
    assert_eq!(day, Some(PrimitiveLiteral::Int(16_801)), "2016-01-01 is day 16801");

    assert_eq!(file.value_counts()[&id("value")], 10);
    assert_eq!(file.null_value_counts()[&id("value")], 1);
    assert_eq!(file.null_value_counts()[&id("value_text")], 10);
    assert_eq!(file.lower_bounds()[&id("value")], Datum::double(-2.5));
    assert_eq!(file.upper_bounds()[&id("value")], Datum::double(6.5));
    assert_eq!(file.upper_bounds()[&id("seq")], Datum::long(9_i64));
    assert_eq!(file.lower_bounds()[&id("gateway")], Datum::string("gw-1"));
    let first: i64 = "2016-01-01".parse::<Day>().unwrap().start().micros();
    assert_eq!(file.lower_bounds()[&id("ts")], Datum::timestamp_micros(first));
    assert_eq!(file.upper_bounds()[&id("ts")], Datum::timestamp_micros(first + 9_000_000));
    assert!(!file.lower_bounds().contains_key(&id("value_text")), "no values, no bounds");

    // A map has sizes, but neither counts nor bounds.
    assert!(file.column_sizes()[&18] > 0 && file.column_sizes()[&id("ts")] > 0);
    assert!(!file.value_counts().contains_key(&18) && !file.lower_bounds().contains_key(&19));
}

#[test]
fn not_a_number_bounds_nothing_and_a_zero_stands_for_both_signs() {
    let rows = readings("gw-1", 1, 3);
    let bounds = |values: Vec<f64>| {
        let batch = with(&rows, "value", Arc::new(Float64Array::from(values)));
        let file =
            data_file(&footer(&batch, WriterProperties::default()), &placement(Table::Readings)).unwrap();
        let value = id("value");
        (file.lower_bounds().get(&value).cloned(), file.upper_bounds().get(&value).cloned())
    };
    assert_eq!(bounds(vec![f64::NAN; 3]), (None, None));
    let (low, high) = bounds(vec![f64::NAN, 1.0, 2.0]);
    assert_eq!((low, high), (Some(Datum::double(1.0)), Some(Datum::double(2.0))));
    let (low, high) = bounds(vec![0.0, 0.0, 0.0]);
    let bytes = |d: Option<Datum>| d.unwrap().to_bytes().unwrap();
    assert_eq!(bytes(low), (-0.0_f64).to_le_bytes().as_slice());
    assert_eq!(bytes(high), 0.0_f64.to_le_bytes().as_slice());
}

#[test]
fn long_texts_are_cut_to_sixteen_characters_that_still_enclose_them() {
    assert_eq!((cut_down("short"), cut_up("short").as_deref()), ("short", Some("short")));
    let sixteen = "0123456789abcdef";
    assert_eq!((cut_down(sixteen), cut_up(sixteen).as_deref()), (sixteen, Some(sixteen)));
    assert_eq!(cut_down("0123456789abcdefgh"), sixteen);
    assert_eq!(cut_up("0123456789abcdefgh").as_deref(), Some("0123456789abcdeg"));
    let umlauts = "äääääääääääääääää";
    assert_eq!(cut_up(umlauts), Some("ä".repeat(15) + "å"));
    let top = char::MAX.to_string();
    assert_eq!(cut_up(&format!("a{}", top.repeat(16))).as_deref(), Some("b"));
    assert_eq!(cut_up(&top.repeat(17)), None);
    assert_eq!(cut_up(&"\u{D7FF}".repeat(17)), Some("\u{D7FF}".repeat(15) + "\u{E000}"));
}

#[test]
fn long_texts_in_a_file_are_enclosed_by_their_bounds() {
    let rows = readings("gw-1", 1, 2);
    let (low, high) = ("k".repeat(100), "ö".repeat(100));
    let devices = StringArray::from(vec![low.as_str(), high.as_str()]);
    let batch = with(&rows, "device", Arc::new(devices));
    let file = data_file(&footer(&batch, WriterProperties::default()), &placement(Table::Readings)).unwrap();
    assert_eq!(file.lower_bounds()[&id("device")], Datum::string("k".repeat(16)));
    assert_eq!(file.upper_bounds()[&id("device")], Datum::string("ö".repeat(15) + "÷"));
}

#[test]
fn a_row_group_without_statistics_leaves_the_column_without_bounds() {
    let rows = readings("gw-1", 1, 4);
    let properties = WriterProperties::builder()
        .set_column_statistics_enabled("seq".into(), parquet::file::properties::EnabledStatistics::None)
        .build();
    let file = data_file(&footer(&rows, properties), &placement(Table::Readings)).unwrap();
    assert!(!file.lower_bounds().contains_key(&id("seq")));
    assert!(!file.null_value_counts().contains_key(&id("seq")));
    assert_eq!(file.value_counts()[&id("seq")], 4);
    assert!(file.lower_bounds().contains_key(&id("ts")));
}

#[test]
fn bounds_span_all_row_groups_and_splits_name_their_starts() {
    let rows = readings("gw-1", 1, 10);
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(4)).build();
    let file = data_file(&footer(&rows, properties), &placement(Table::Readings)).unwrap();
    assert_eq!(file.record_count(), 10);
    assert_eq!(file.lower_bounds()[&id("seq")], Datum::long(0_i64));
    assert_eq!(file.upper_bounds()[&id("seq")], Datum::long(9_i64));
    let splits = file.split_offsets().unwrap();
    assert_eq!((splits.len(), splits[0]), (3, 4));
    assert!(splits.is_sorted());
    assert_eq!(file.sort_order_id(), None);
}

#[test]
fn only_a_file_that_declares_its_order_and_has_one_row_group_is_sorted() {
    let rows = readings("gw-1", 1, 10);
    let schema = Table::Readings.arrow_schema();
    // Leaf columns: `tags` is one column and two leaves.
    let leaf = |name: &str| {
        let at = schema.index_of(name).unwrap();
        i32::try_from(if at > schema.index_of("tags").unwrap() { at + 1 } else { at }).unwrap()
    };
    let declare = |names: &[&str]| {
        names
            .iter()
            .map(|n| SortingColumn { column_idx: leaf(n), descending: false, nulls_first: true })
            .collect::<Vec<_>>()
    };
    let order = |names: &[&str], group: usize| {
        let properties = WriterProperties::builder()
            .set_sorting_columns(Some(declare(names)))
            .set_max_row_group_row_count(Some(group))
            .build();
        data_file(&footer(&rows, properties), &placement(Table::Readings)).unwrap().sort_order_id()
    };
    assert_eq!(order(Table::Readings.sort_columns(), 10), Some(1));
    assert_eq!(order(Table::Readings.sort_columns(), 4), None);
    assert_eq!(order(&["device", "gateway", "metric", "ts"], 10), None);
    assert_eq!(order(&["gateway"], 10), None);
}

#[test]
fn a_file_with_other_field_ids_is_refused() {
    let rows = readings("gw-1", 1, 2);
    let plain: Vec<Field> =
        rows.schema().fields().iter().map(|f| f.as_ref().clone().with_metadata(Default::default())).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(plain)), rows.columns().to_vec()).unwrap();
    let refused = data_file(&footer(&batch, WriterProperties::default()), &placement(Table::Readings));
    let sentence = refused.unwrap_err().to_string();
    assert_eq!(sentence, "column \"ts\" of s3://b/segments/x.parquet: has field id None, expected 1");
}

#[test]
fn a_file_of_another_table_is_refused() {
    let rows = readings("gw-1", 1, 2);
    let refused = data_file(&footer(&rows, WriterProperties::default()), &placement(Table::Alerts));
    assert!(matches!(refused, Err(DataFileError::Column { .. })), "{refused:?}");
}

#[test]
fn a_column_of_a_newer_contract_is_passed_over() {
    let rows = readings("gw-1", 1, 2);
    let extra = |id: &str| {
        let meta = [(tributary_contract::schema::FIELD_ID_KEY.to_owned(), id.to_owned())];
        let mut fields: Vec<Field> = rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.push(Field::new("later", DataType::Int64, true).with_metadata(meta.into()));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::from(vec![1, 2])));
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        data_file(&footer(&batch, WriterProperties::default()), &placement(Table::Readings))
    };
    let file = extra("77").unwrap();
    assert!(!file.column_sizes().contains_key(&77) && !file.value_counts().contains_key(&77));
    assert!(matches!(extra("4"), Err(DataFileError::Column { .. })), "an id that is taken");
}

#[test]
fn times_before_1970_keep_their_order() {
    let rows = readings("gw-1", 1, 2);
    let ts = TimestampMicrosecondArray::from(vec![-2_000_000, -1]);
    let batch = with(&rows, "ts", Arc::new(ts));
    let early = Placement { day: Day(-1), ..placement(Table::Readings) };
    let file = data_file(&footer(&batch, WriterProperties::default()), &early).unwrap();
    assert_eq!(file.lower_bounds()[&id("ts")], Datum::timestamp_micros(-2_000_000));
    assert_eq!(file.upper_bounds()[&id("ts")], Datum::timestamp_micros(-1));
}
