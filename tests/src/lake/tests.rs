//! The arithmetic on made-up batches, and the reading on real tables in a real bucket.

use std::path::Path;

use crate::s3::{S3Options, S3Server};
use arrow::array::{Float64Array, Int32Array, Int64Array, MapArray, MapBuilder, StringArray, StringBuilder};
use arrow::array::{StructArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Schema as ArrowSchema;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::memory::{MEMORY_CATALOG_WAREHOUSE, MemoryCatalog, MemoryCatalogBuilder};
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Struct};
use iceberg::spec::{MapType, NestedField, PrimitiveType, Schema, Type};
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use iceberg::{Catalog, CatalogBuilder, NamespaceIdent, TableCreation};
use parquet::arrow::ArrowWriter;

use super::*;

const NAMESPACE: &str = "tributary";
const REGION: &str = "us-east-1";

fn files(endpoint: String) -> Files {
    Files {
        endpoint,
        region: REGION.to_owned(),
        access_key_id: "DEMO".to_owned(),
        secret_access_key: "0123456789abcdef".to_owned(),
    }
}

fn readings(rows: &[(Option<&str>, Option<f64>)]) -> RecordBatch {
    let mut tags = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for (number, _) in rows {
        tags.keys().append_value("site");
        tags.values().append_value("north");
        if let Some(number) = number {
            tags.keys().append_value("n");
            tags.values().append_value(number);
        }
        tags.append(true).unwrap();
    }
    let values: Float64Array = rows.iter().map(|row| row.1).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![("tags", Arc::new(tags.finish())), ("value", Arc::new(values))];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

#[test]
fn rows_are_counted_by_the_numbers_in_their_tags() {
    let mut tally = Tally::default();
    tally.add(&readings(&[(Some("1"), Some(1.5)), (Some("2"), None), (Some("2"), None)])).unwrap();
    tally.add(&readings(&[(Some("5"), Some(0.0)), (None, Some(1.0))])).unwrap();
    assert_eq!((tally.rows, tally.numeric), (5, 3));
    assert_eq!(tally.numbers.ranges(), [(1, 2), (5, 5)]);
}

#[test]
fn only_the_newest_revision_of_a_window_counts() {
    // The last one is of texts.
    let rows = [
        ("1m", "gw-1", 0, 1, 3),
        ("1m", "gw-1", 0, 2, 4),
        ("1m", "gw-2", 0, 1, 5),
        ("1d", "gw-1", 0, 1, 99),
        ("1m", "gw-3", 0, 1, 7),
    ];
    let texts: StringArray = rows.iter().map(|row| (row.1 == "gw-3").then_some("on")).collect();
    let strings = |pick: fn(&(&'static str, &'static str, i64, i32, i64)) -> &'static str| {
        Arc::new(rows.iter().map(|row| Some(pick(row))).collect::<StringArray>()) as ArrayRef
    };
    let batch = RecordBatch::try_from_iter([
        ("window_name", strings(|row| row.0)),
        ("gateway", strings(|row| row.1)),
        ("series", strings(|_| "00000000000000aa")),
        (
            "window_start",
            Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2))) as ArrayRef,
        ),
        ("revision", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.3)))),
        ("samples", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.4)))),
        ("value_last_text", Arc::new(texts)),
    ])
    .unwrap();
    let mut newest = Newest::of(&["1m"]);
    newest.add(&batch).unwrap();
    newest.take(0, ("gw-1", "00000000000000aa", 0), 1, 3); // an older revision that comes later
    assert_eq!(newest.sum(), Windowed { samples: 9, sizes: 1 });
}

#[test]
fn windows_are_complete_when_only_readings_beyond_the_horizon_are_absent() {
    // Two windows: each reading is in one of each size.
    let windowed = Windowed { samples: 16, sizes: 2 };
    assert!(windowed.is_complete(8) && !windowed.is_complete(9));
    assert!(windowed.may_be_complete(10, 2));
    assert!(!windowed.may_be_complete(10, 1));
    assert!(!windowed.may_be_complete(7, 2), "more than there are");
}

#[test]
fn a_catalog_that_is_not_there_yet_has_no_tables() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let keys = files("http://127.0.0.1:1".to_owned());
    let tables = Tables::new(path.clone(), NAMESPACE, &keys);
    assert_eq!(tables.location("readings").unwrap(), None);
    let catalog = Connection::open(&path).unwrap();
    assert_eq!(tables.location("readings").unwrap(), None);
    let create = "CREATE TABLE iceberg_tables (catalog_name TEXT, table_namespace TEXT, table_name TEXT, metadata_location TEXT)";
    catalog.execute(create, []).unwrap();
    assert_eq!(tables.location("readings").unwrap(), None);
    catalog
        .execute(
            "INSERT INTO iceberg_tables VALUES ('tributary', 'tributary', 'readings', 's3://lake/m.json')",
            [],
        )
        .unwrap();
    assert_eq!(tables.location("readings").unwrap().as_deref(), Some("s3://lake/m.json"));
    assert_eq!(tables.location("aggregates").unwrap(), None);
}

// --- real tables -----------------------------------------------------------------------------------------------

fn primitive(id: i32, name: &str, kind: PrimitiveType) -> Arc<NestedField> {
    Arc::new(NestedField::optional(id, name, Type::Primitive(kind)))
}

fn schema(fields: impl IntoIterator<Item = Arc<NestedField>>) -> Schema {
    Schema::builder().with_fields(fields).build().unwrap()
}

/// The ids are those that creating a table gives: a level at a time.
fn readings_schema() -> Schema {
    let key = NestedField::map_key_element(4, Type::Primitive(PrimitiveType::String));
    let value = NestedField::map_value_element(5, Type::Primitive(PrimitiveType::String), false);
    let tags = Type::Map(MapType::new(Arc::new(key), Arc::new(value)));
    schema([
        primitive(1, "device", PrimitiveType::String),
        Arc::new(NestedField::optional(2, "tags", tags)),
        primitive(3, "value", PrimitiveType::Double),
    ])
}

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(values.iter().map(Some).collect::<StringArray>())
}

/// Readings with one tag each, in the arrow types of their Iceberg schema.
fn tagged(arrow: &ArrowSchema, numbers: &[&str], values: &[Option<f64>]) -> RecordBatch {
    let DataType::Map(entry, sorted) = arrow.field(1).data_type() else { panic!("tags is no map") };
    let DataType::Struct(fields) = entry.data_type() else { panic!("entries are no struct") };
    let keys = strings(&vec!["n"; numbers.len()]);
    let entries = StructArray::new(fields.clone(), vec![keys, strings(numbers)], None);
    let offsets = OffsetBuffer::from_lengths(vec![1; numbers.len()]);
    let tags = MapArray::new(Arc::clone(entry), offsets, entries, None, *sorted);
    let values: Float64Array = values.iter().copied().collect();
    let columns: Vec<ArrayRef> = vec![strings(&vec!["a"; numbers.len()]), Arc::new(tags), Arc::new(values)];
    RecordBatch::try_new(Arc::new(arrow.clone()), columns).unwrap()
}

/// Commits `batch` to a table, making it first if need be, and points our catalog file to the result.
async fn commit(catalog: &MemoryCatalog, ours: &Path, name: &str, schema: &Schema, batch: RecordBatch) {
    let ident = TableIdent::from_strs([NAMESPACE, name]).unwrap();
    if !catalog.table_exists(&ident).await.unwrap() {
        let creation = TableCreation::builder().name(name.to_owned()).schema(schema.clone()).build();
        catalog.create_table(ident.namespace(), creation).await.unwrap();
    }
    let table = catalog.load_table(&ident).await.unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let path = format!("{}/data/{}.parquet", table.metadata().location(), fastrand::u64(..));
    let file = DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(path.clone())
        .file_format(DataFileFormat::Parquet)
        .file_size_in_bytes(bytes.len() as u64)
        .record_count(batch.num_rows() as u64)
        .partition_spec_id(0)
        .partition(Struct::empty())
        .build()
        .unwrap();
    table.file_io().new_output(&path).unwrap().write(bytes.into()).await.unwrap();
    let transaction = Transaction::new(&table);
    let append = transaction.fast_append().add_data_files([file]);
    let table = append.apply(transaction).unwrap().commit(catalog).await.unwrap();
    let location = table.metadata_location().unwrap();
    Connection::open(ours)
        .unwrap()
        .execute(
            "INSERT OR REPLACE INTO iceberg_tables VALUES ('tributary', ?1, ?2, ?3)",
            [NAMESPACE, name, location],
        )
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_in_the_bucket_are_counted_as_they_are_at_each_commit() {
    let dir = tempfile::tempdir().unwrap();
    let keys = files(String::new());
    let server = S3Server::start(S3Options {
        dir: dir.path().join("s3"),
        listen: "127.0.0.1:0".parse().unwrap(),
        access_key_id: keys.access_key_id.clone(),
        secret_access_key: keys.secret_access_key.clone(),
        region: REGION.to_owned(),
        buckets: vec!["lake".to_owned()],
        access_log: None,
    })
    .await
    .unwrap();
    let ours = dir.path().join("catalog.db");
    Connection::open(&ours)
        .unwrap()
        .execute_batch(
            "CREATE TABLE iceberg_tables (catalog_name TEXT, table_namespace TEXT, table_name TEXT,
             metadata_location TEXT, PRIMARY KEY (catalog_name, table_namespace, table_name))",
        )
        .unwrap();
    let mut properties: HashMap<String, String> = HashMap::from([
        (MEMORY_CATALOG_WAREHOUSE.to_owned(), "s3://lake/demo/lake".to_owned()),
        ("s3.endpoint".to_owned(), server.endpoint()),
        ("s3.region".to_owned(), REGION.to_owned()),
        ("s3.path-style-access".to_owned(), "true".to_owned()),
    ]);
    properties.insert("s3.access-key-id".to_owned(), keys.access_key_id.clone());
    properties.insert("s3.secret-access-key".to_owned(), keys.secret_access_key.clone());
    let factory = OpenDalStorageFactory::S3 { customized_credential_load: None };
    let catalog = MemoryCatalogBuilder::default()
        .with_storage_factory(Arc::new(factory))
        .load("tributary", properties)
        .await
        .unwrap();
    catalog.create_namespace(&NamespaceIdent::new(NAMESPACE.to_owned()), HashMap::new()).await.unwrap();

    let tables = Tables::new(ours.clone(), NAMESPACE, &files(server.endpoint()));
    assert!(tables.load("readings").await.unwrap().is_none());
    let schema_of_readings = readings_schema();
    let arrow = schema_to_arrow_schema(&schema_of_readings).unwrap();
    let batch = tagged(&arrow, &["1", "2", "3"], &[Some(1.0), None, Some(3.0)]);
    commit(&catalog, &ours, "readings", &schema_of_readings, batch).await;
    let first = tables.load("readings").await.unwrap().unwrap();
    assert_eq!(first.rows(), 3);
    let batch = tagged(&arrow, &["3", "5"], &[Some(3.0), Some(5.0)]);
    commit(&catalog, &ours, "readings", &schema_of_readings, batch).await;
    let second = tables.load("readings").await.unwrap().unwrap();
    assert_ne!(first.location, second.location);
    assert_eq!(second.rows(), 5);
    let tally = tables.tally(&second).await.unwrap();
    assert_eq!((tally.rows, tally.numeric), (5, 4));
    assert_eq!(tally.numbers.ranges(), [(1, 3), (5, 5)]);
    assert_eq!(tables.tally(&first).await.unwrap().rows, 3, "a state is what it was");

    let schema_of_aggregates = schema([
        primitive(1, "window_name", PrimitiveType::String),
        primitive(2, "gateway", PrimitiveType::String),
        primitive(3, "series", PrimitiveType::String),
        primitive(4, "window_start", PrimitiveType::Timestamp),
        primitive(5, "revision", PrimitiveType::Int),
        primitive(6, "samples", PrimitiveType::Long),
        primitive(7, "value_last_text", PrimitiveType::String),
    ]);
    let columns: Vec<ArrayRef> = vec![
        strings(&["1m", "1m", "1m"]),
        strings(&["gw-1", "gw-1", "gw-1"]),
        strings(&["aa", "aa", "bb"]),
        Arc::new(TimestampMicrosecondArray::from(vec![0, 0, 60_000_000])),
        Arc::new(Int32Array::from(vec![1, 2, 1])),
        Arc::new(Int64Array::from(vec![1, 2, 1])),
        Arc::new(StringArray::from(vec![None::<&str>; 3])),
    ];
    let arrow = Arc::new(schema_to_arrow_schema(&schema_of_aggregates).unwrap());
    let batch = RecordBatch::try_new(arrow, columns).unwrap();
    commit(&catalog, &ours, "aggregates", &schema_of_aggregates, batch).await;
    let aggregates = tables.load("aggregates").await.unwrap().unwrap();
    assert_eq!(tables.windowed(&aggregates, &["1m"]).await.unwrap(), Windowed { samples: 3, sizes: 1 });

    let schema_of_rejects = schema([primitive(1, "occurrences", PrimitiveType::Long)]);
    let arrow = Arc::new(schema_to_arrow_schema(&schema_of_rejects).unwrap());
    let batch = RecordBatch::try_new(arrow, vec![Arc::new(Int64Array::from(vec![1, 4]))]).unwrap();
    commit(&catalog, &ours, "rejects", &schema_of_rejects, batch).await;
    let rejects = tables.load("rejects").await.unwrap().unwrap();
    assert_eq!(tables.rejected(&rejects).await.unwrap(), 5);
    server.stop().await;
}
