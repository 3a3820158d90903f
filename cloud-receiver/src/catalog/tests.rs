//! Commits to real tables: a SQLite catalog, a warehouse in a folder, Parquet files in the contract's schema.

mod growth;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use async_trait::async_trait;
use futures::TryStreamExt;
use iceberg::{Error, Namespace as IcebergNamespace, TableCommit, TableCreation};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tributary_contract::id::{Epoch, GatewayId, Number, SegmentId};
use tributary_contract::key::{Prefix, SegmentKey};
use tributary_contract::time::Day;

use super::*;

/// The day of all readings in these tests.
pub(super) const DAY: &str = "2016-01-01";

/// `rows` readings of one gateway and segment, one a second from midnight of [`DAY`], with seq 0, 1, 2 …
pub(super) fn readings(gateway: &str, number: u64, rows: usize) -> RecordBatch {
    let schema = Table::Readings.arrow_schema();
    let start = DAY.parse::<Day>().unwrap().start().micros();
    let text = |s: &str| Arc::new(StringArray::from(vec![s; rows])) as ArrayRef;
    let time = || {
        let seconds = (0..rows as i64).map(|i| start + i * 1_000_000);
        Arc::new(TimestampMicrosecondArray::from_iter_values(seconds)) as ArrayRef
    };
    let columns = schema
        .fields()
        .iter()
        .map(|f| match f.name().as_str() {
            "ts" | "received_at" => time(),
            "value" => Arc::new(Float64Array::from_iter_values((0..rows).map(|i| i as f64))),
            "value_bool" => Arc::new(BooleanArray::from(vec![None; rows])),
            "seq" => Arc::new(Int64Array::from_iter_values(0..rows as i64)),
            "segment_number" => Arc::new(Int64Array::from(vec![number as i64; rows])),
            "gateway" => text(gateway),
            "buffer_epoch" => text("0000000000000001"),
            _ if !f.is_nullable() => text(f.name()),
            _ => new_null_array(f.data_type(), rows),
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

/// A warehouse in a folder.
struct World {
    dir: TempDir,
    lake: Lake,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(settings(dir.path())).await.unwrap();
        Self { dir, lake }
    }

    /// A second receiver on the same catalog file, with a connection of its own.
    async fn other(&self) -> Lake {
        Lake::open(settings(self.dir.path())).await.unwrap()
    }

    /// A segment of `rows` readings, written to the bucket's folder.
    fn segment(&self, gateway: &str, number: u64, rows: usize) -> NewFile {
        segment(self.dir.path(), gateway, number, rows)
    }

    /// Looks as ledger `l`.
    async fn look(&self) -> Look {
        look(&self.lake).await
    }
}

fn settings(dir: &Path) -> LakeSettings {
    LakeSettings {
        catalog_db: dir.join("state/catalog.db"),
        warehouse: format!("file://{}/lake", dir.display()),
        s3: S3Access::default(),
    }
}

fn segment(dir: &Path, gateway: &str, number: u64, rows: usize) -> NewFile {
    let key = SegmentKey {
        id: SegmentId {
            gateway: GatewayId::new(gateway).unwrap(),
            epoch: Epoch(1),
            number: Number::new(number).unwrap(),
        },
        namespace: Namespace::default(),
        table: Table::Readings,
        day: DAY.parse().unwrap(),
    };
    let path = dir.join(key.object_key(&Prefix::default()));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let rows = readings(gateway, number, rows);
    let mut writer = ArrowWriter::try_new(
        fs::File::create(&path).unwrap(),
        rows.schema(),
        Some(WriterProperties::builder().build()),
    )
    .unwrap();
    writer.write(&rows).unwrap();
    let footer = Arc::new(writer.close().unwrap());
    NewFile {
        uri: format!("file://{}", path.display()),
        size: fs::metadata(&path).unwrap().len(),
        namespace: key.namespace,
        table: key.table,
        day: key.day,
        footer,
    }
}

async fn look(lake: &Lake) -> Look {
    lake.look(&Namespace::default(), Table::Readings, "l").await.unwrap()
}

/// (gateway, segment number, seq) of each row that a scan finds, sorted.
async fn scan(lake: &Lake) -> Vec<(String, i64, i64)> {
    let table = lake.catalog.load_table(&ident(&Namespace::default(), Table::Readings)).await.unwrap();
    let stream =
        table.scan().select(["gateway", "segment_number", "seq"]).build().unwrap().to_arrow().await.unwrap();
    let mut rows = Vec::new();
    for batch in stream.try_collect::<Vec<RecordBatch>>().await.unwrap() {
        let gateways = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        let gateways = gateways.as_any().downcast_ref::<StringArray>().unwrap().clone();
        let number = |i: usize| batch.column(i).as_any().downcast_ref::<Int64Array>().unwrap().clone();
        let (numbers, seqs) = (number(1), number(2));
        rows.extend(
            (0..batch.num_rows()).map(|i| (gateways.value(i).to_owned(), numbers.value(i), seqs.value(i))),
        );
    }
    rows.sort();
    rows
}

/// What the ledger would say for the batch after what it has settled.
fn view(look: &Look, batch: u64, last_snapshot: Option<i64>) -> LedgerView {
    LedgerView { ledger: "l".into(), uuid: Some(look.uuid), batch, last_snapshot, holds: None }
}

/// Looks, decides and commits until batch `batch` is settled; gives its snapshot.
async fn settle(lake: &Lake, batch: u64, last: Option<i64>, files: Vec<NewFile>) -> Option<i64> {
    for _ in 0..20 {
        let at = look(lake).await;
        match decide(&at, &view(&at, batch, last)) {
            Verdict::Settled { snapshot } => return snapshot,
            Verdict::Stop(reason) => panic!("{reason}"),
            Verdict::Unsure { batch } => panic!("the history doesn't say whether batch {batch} is there"),
            Verdict::Commit => match lake.commit(&at, batch, files.clone()).await {
                Ok(done) => return Some(done.snapshot_id),
                Err(CommitError::Conflict | CommitError::Unknown(_)) => {}
                Err(e) => panic!("{e}"),
            },
        }
    }
    panic!("batch {batch} never settled");
}

#[tokio::test]
async fn a_batch_is_one_snapshot_with_its_number_in_the_table() {
    let world = World::new().await;
    let before = world.look().await;
    assert_eq!((before.batch, before.snapshot, before.ledger.as_deref()), (0, None, Some("l")));

    let files = vec![world.segment("gw-1", 1, 10), world.segment("gw-2", 1, 5)];
    let done = world.lake.commit(&before, 1, files).await.unwrap();
    let after = world.look().await;
    assert_eq!((after.batch, after.snapshot, after.uuid), (1, Some(done.snapshot_id), before.uuid));
    assert_eq!((after.rows, after.files), (Some(15), Some(2)));
    assert_eq!(after.snapshot_of_batch(1), Some(done.snapshot_id));
    assert_eq!(scan(&world.lake).await.len(), 15);

    let second = world.lake.commit(&after, 2, vec![world.segment("gw-1", 2, 7)]).await.unwrap();
    let last = world.look().await;
    assert!(last.is_ancestor_of_main(done.snapshot_id) && last.is_ancestor_of_main(second.snapshot_id));
    assert_eq!(scan(&world.lake).await.len(), 22);

    let listed = world.other().await.tables().await.unwrap();
    assert_eq!(listed.iter().map(|t| (t.name(), t.batch)).collect::<Vec<_>>(), [(last.name(), 2)]);
}

#[tokio::test]
async fn a_commit_that_lands_between_look_and_commit_is_a_conflict_and_rows_count_once() {
    let world = World::new().await;
    let files = vec![world.segment("gw-1", 1, 10)];
    let stale = world.look().await;
    // Another receiver with the same ledger lands this very batch.
    let landed = settle(&world.other().await, 1, None, files.clone()).await;

    assert_eq!(world.lake.commit(&stale, 1, files.clone()).await, Err(CommitError::Conflict));
    assert_eq!(settle(&world.lake, 1, None, files).await, landed, "the look finds it settled");
    let rows = scan(&world.lake).await;
    assert_eq!(rows, (0..10).map(|seq| ("gw-1".into(), 1, seq)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_strangers_commit_in_between_is_a_conflict_and_the_next_look_goes_on() {
    let world = World::new().await;
    let first = settle(&world.lake, 1, None, vec![world.segment("gw-1", 1, 10)]).await;
    let stale = world.look().await;
    // A maintenance job moves `main` and knows nothing of batches.
    let table = world.lake.catalog.load_table(stale.loaded.identifier()).await.unwrap();
    let tx = iceberg::transaction::Transaction::new(&table);
    let tags = HashMap::from([("by".to_owned(), "maintenance".to_owned())]);
    let tx = iceberg::transaction::ApplyTransactionAction::apply(
        tx.fast_append().set_snapshot_properties(tags),
        tx,
    )
    .unwrap();
    tx.commit(world.lake.catalog.as_ref()).await.unwrap();

    let files = vec![world.segment("gw-1", 2, 4)];
    assert_eq!(world.lake.commit(&stale, 2, files.clone()).await, Err(CommitError::Conflict));
    settle(&world.lake, 2, first, files).await;
    assert_eq!(scan(&world.lake).await.len(), 14);
}

#[tokio::test]
async fn a_change_of_properties_in_between_is_kept_beside_the_commit() {
    let world = World::new().await;
    let stale = world.look().await;
    let tx = iceberg::transaction::Transaction::new(&stale.loaded);
    let owner = tx.update_table_properties().set("owner".into(), "plant".into());
    let tx = iceberg::transaction::ApplyTransactionAction::apply(owner, tx).unwrap();
    tx.commit(world.lake.catalog.as_ref()).await.unwrap();

    settle(&world.lake, 1, None, vec![world.segment("gw-1", 1, 3)]).await;
    let after = world.look().await;
    assert_eq!(after.loaded.metadata().properties().get("owner").map(String::as_str), Some("plant"));
    assert_eq!((after.batch, scan(&world.lake).await.len()), (1, 3));
}

#[tokio::test]
async fn after_a_lost_reply_the_next_look_says_settled() {
    let world = World::new().await;
    let fault = Arc::new(Faulty::over(&world.lake, Fault::ReplyLost));
    let lake = world.lake.with(fault.clone());
    let files = vec![world.segment("gw-1", 1, 10)];
    let at = look(&lake).await;
    let lost = lake.commit(&at, 1, files.clone()).await;
    assert!(matches!(lost, Err(CommitError::Unknown(_))), "{lost:?}");
    assert_eq!(fault.updates.load(Ordering::SeqCst), 1, "passed on exactly once");

    let again = look(&lake).await;
    let snapshot = again.snapshot;
    assert!(snapshot.is_some());
    assert_eq!(decide(&again, &view(&again, 1, None)), Verdict::Settled { snapshot });
    assert_eq!(settle(&lake, 1, None, files).await, snapshot);
    assert_eq!(scan(&world.lake).await.len(), 10);
}

#[tokio::test]
async fn a_retryable_error_of_the_catalog_is_not_retried_behind_our_back() {
    let world = World::new().await;
    let fault = Arc::new(Faulty::over(&world.lake, Fault::Refuses));
    let lake = world.lake.with(fault.clone());
    let at = look(&lake).await;
    let failed = lake.commit(&at, 1, vec![world.segment("gw-1", 1, 10)]).await;
    assert!(matches!(failed, Err(CommitError::Unknown(_))), "{failed:?}");
    assert_eq!(fault.updates.load(Ordering::SeqCst), 1);
    assert_eq!(world.look().await.batch, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_receivers_that_race_for_the_same_batches_land_each_once() {
    let world = World::new().await;
    let files: Vec<NewFile> = (1..=3).map(|n| world.segment("gw-1", n, 10)).collect();
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (lake, files) = (world.other().await, files.clone());
        racers.spawn(async move {
            let mut last = None;
            for (batch, file) in (1..).zip(files) {
                last = overtaken_or_settled(&lake, batch, last, file).await;
            }
        });
    }
    racers.join_all().await;
    let rows = scan(&world.lake).await;
    let expected: Vec<_> =
        (1..=3).flat_map(|n| (0..10).map(move |seq| ("gw-1".to_owned(), n, seq))).collect();
    assert_eq!(rows, expected);
    assert_eq!(world.look().await.batch, 3);
}

/// As [`settle`], for a racer that others may have left behind by more than one batch.
async fn overtaken_or_settled(lake: &Lake, batch: u64, last: Option<i64>, file: NewFile) -> Option<i64> {
    loop {
        let at = look(lake).await;
        if at.batch >= batch {
            return at.snapshot_of_batch(batch);
        }
        assert_eq!(decide(&at, &view(&at, batch, last)), Verdict::Commit);
        if let Ok(done) = lake.commit(&at, batch, vec![file.clone()]).await {
            return Some(done.snapshot_id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_receivers_that_create_the_same_table_get_one() {
    let world = World::new().await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let lake = world.other().await;
        racers.spawn(async move { look(&lake).await.uuid });
    }
    let mut uuids = racers.join_all().await;
    uuids.dedup();
    assert_eq!(uuids, [world.look().await.uuid]);
}

#[tokio::test]
async fn a_receiver_with_another_ledger_stops_and_one_with_an_older_ledger_too() {
    let world = World::new().await;
    let first = settle(&world.lake, 1, None, vec![world.segment("gw-1", 1, 3)]).await;
    settle(&world.lake, 2, first, vec![world.segment("gw-1", 2, 3)]).await;

    let theirs = world.lake.look(&Namespace::default(), Table::Readings, "another").await.unwrap();
    let foreign = LedgerView { ledger: "another".into(), ..view(&theirs, 3, None) };
    assert!(matches!(decide(&theirs, &foreign), Verdict::Stop(StopReason::ForeignLedger { .. })));
    let older = decide(&theirs, &view(&theirs, 1, None));
    assert!(matches!(older, Verdict::Stop(StopReason::LedgerOlder { .. })), "{older:?}");
}

#[tokio::test]
async fn an_operators_rollback_stops_the_table() {
    let world = World::new().await;
    let first = settle(&world.lake, 1, None, vec![world.segment("gw-1", 1, 3)]).await.unwrap();
    let second = settle(&world.lake, 2, Some(first), vec![world.segment("gw-1", 2, 3)]).await;
    roll_back(&world.look().await, first, &world.lake).await;

    let back = world.look().await;
    assert_eq!((back.batch, back.snapshot), (2, Some(first)), "the number stays, `main` went back");
    for (batch, last) in [(3, second), (2, Some(first))] {
        let verdict = decide(&back, &view(&back, batch, last));
        let expected = StopReason::RolledBack { table: back.name(), batch: 2, snapshot: second };
        assert_eq!(verdict, Verdict::Stop(expected));
    }
}

/// Moves `main` back to `snapshot`, as an engine's rollback does.
async fn roll_back(at: &Look, snapshot: i64, lake: &Lake) {
    use iceberg::MetadataLocation;
    use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention};
    let old = at.loaded.metadata_location().unwrap().to_owned();
    let main = SnapshotReference::new(snapshot, SnapshotRetention::branch(None, None, None));
    let builder = at.loaded.metadata().clone().into_builder(Some(old.clone()));
    let metadata = builder.set_ref(MAIN_BRANCH, main).unwrap().build().unwrap().metadata;
    let new = old.parse::<MetadataLocation>().unwrap().with_next_version();
    metadata.write_to(at.loaded.file_io(), &new).await.unwrap();
    lake.catalog.drop_table(at.loaded.identifier()).await.unwrap();
    lake.catalog.register_table(at.loaded.identifier(), new.to_string()).await.unwrap();
}

#[tokio::test]
async fn a_table_that_was_dropped_and_made_again_stops() {
    let world = World::new().await;
    let first = settle(&world.lake, 1, None, vec![world.segment("gw-1", 1, 3)]).await;
    let known = view(&world.look().await, 2, first);
    world.lake.catalog.drop_table(&ident(&Namespace::default(), Table::Readings)).await.unwrap();
    let again = world.look().await;
    assert!(matches!(decide(&again, &known), Verdict::Stop(StopReason::Recreated { .. })));

    // And a commit that was on its way to the old table conflicts.
    let stale = world.look().await;
    world.lake.catalog.drop_table(&ident(&Namespace::default(), Table::Readings)).await.unwrap();
    world.look().await;
    let refused = world.lake.commit(&stale, 1, vec![world.segment("gw-1", 2, 3)]).await;
    assert_eq!(refused, Err(CommitError::Conflict));
}

#[tokio::test]
async fn a_batch_out_of_turn_or_with_foreign_files_is_refused_and_nothing_is_committed() {
    let world = World::new().await;
    let at = world.look().await;
    let file = world.segment("gw-1", 1, 3);
    let mut elsewhere = file.clone();
    elsewhere.namespace = Namespace::new("other").unwrap();
    let attempts = [
        (2, vec![file.clone()]),
        (0, vec![file.clone()]),
        (1, vec![]),
        (1, vec![file.clone(), file.clone()]),
        (1, vec![elsewhere]),
    ];
    for (batch, files) in attempts {
        let refused = world.lake.commit(&at, batch, files).await;
        assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
    }
    assert_eq!(world.look().await.batch, 0);
    assert_eq!(world.look().await.snapshot, None);
}

#[tokio::test]
async fn the_version_hint_names_the_newest_metadata_file() {
    let world = World::new().await;
    settle(&world.lake, 1, None, vec![world.segment("gw-1", 1, 3)]).await;
    let folder = world.dir.path().join("lake/tributary/readings/metadata");
    let hint = fs::read_to_string(folder.join("version-hint.text")).unwrap();
    let named = folder.join(format!("{hint}.metadata.json"));
    let at = world.look().await;
    assert_eq!(at.loaded.metadata_location(), Some(format!("file://{}", named.display()).as_str()));
    assert!(named.exists());
}

#[tokio::test]
async fn an_invalid_warehouse_is_refused_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["", "/lake", "s3://", "gs://b/lake", "file://lake"] {
        let refused = Lake::open(LakeSettings { warehouse: bad.into(), ..settings(dir.path()) }).await;
        assert!(refused.unwrap_err().to_string().contains("expected s3://bucket/prefix"), "{bad}");
    }
}

#[test]
fn engines_are_told_where_the_files_are_and_no_secret() {
    let s3 = S3Access {
        endpoint: Some("http://127.0.0.1:9000".into()),
        region: "eu-central-1".into(),
        access_key_id: Some("key-id".into()),
        secret_access_key: Some(Secret::new("hush")),
        session_token: Some(Secret::new("hush-too")),
    };
    assert!(!format!("{s3:?}").contains("hush"));
    let (_, told) = storage("s3://b/lake", &s3).unwrap();
    let told: Vec<(&str, &str)> = told.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("client.region", "eu-central-1"),
        ("s3.endpoint", "http://127.0.0.1:9000"),
        ("s3.path-style-access", "true"),
        ("s3.region", "eu-central-1"),
    ];
    assert_eq!(told, expected);
    let half = S3Access { secret_access_key: None, ..s3 };
    assert!(storage("s3://b/lake", &half).is_err());
}

/// One request over a real socket; gives status and body.
async fn ask(address: std::net::SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn engines_read_the_catalog_over_http_and_write_nothing() {
    let world = World::new().await;
    settle(&world.lake, 1, None, vec![world.segment("gw-1", 1, 3)]).await;
    let config = BTreeMap::from([("s3.region".to_owned(), "eu-central-1".to_owned())]);
    let lake = Lake::over(world.lake.catalog.clone(), world.lake.warehouse.clone(), config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().nest("/iceberg", lake.router());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let json = |body: String| serde_json::from_str::<serde_json::Value>(&body).unwrap();

    let (status, body) = ask(address, "GET", "/iceberg/v1/config?warehouse=x").await;
    assert_eq!((status, json(body)["overrides"].clone()), (200, serde_json::json!({})));
    let (status, body) = ask(address, "GET", "/iceberg/v1/namespaces").await;
    assert_eq!((status, json(body)), (200, serde_json::json!({ "namespaces": [["tributary"]] })));
    let (_, body) = ask(address, "GET", "/iceberg/v1/namespaces?parent=tributary").await;
    assert_eq!(json(body), serde_json::json!({ "namespaces": [] }));
    let (_, body) = ask(address, "GET", "/iceberg/v1/namespaces/tributary").await;
    assert_eq!(json(body)["namespace"], serde_json::json!(["tributary"]));
    let (_, body) = ask(address, "GET", "/iceberg/v1/namespaces/tributary/tables").await;
    let readings = serde_json::json!({ "namespace": ["tributary"], "name": "readings" });
    assert_eq!(json(body), serde_json::json!({ "identifiers": [readings] }));

    let (status, body) = ask(address, "GET", "/iceberg/v1/namespaces/tributary/tables/readings").await;
    let (loaded, at) = (json(body), world.look().await);
    assert_eq!(status, 200);
    assert_eq!(loaded["metadata-location"].as_str(), at.loaded.metadata_location());
    assert_eq!(loaded["metadata"]["table-uuid"].as_str(), Some(at.uuid.to_string().as_str()));
    assert_eq!(loaded["metadata"]["current-snapshot-id"].as_i64(), at.snapshot);
    assert_eq!(loaded["config"], serde_json::json!({ "s3.region": "eu-central-1" }));

    let (tables, here) = ("/iceberg/v1/namespaces/tributary/tables", "/iceberg/v1/namespaces/tributary");
    let answers = [
        ("HEAD", here.to_owned(), 204, ""),
        ("HEAD", format!("{tables}/readings"), 204, ""),
        ("HEAD", format!("{tables}/none"), 404, ""),
        ("HEAD", "/iceberg/v1/namespaces/none".into(), 404, ""),
        ("GET", format!("{tables}/none"), 404, "NoSuchTableException"),
        ("GET", "/iceberg/v1/namespaces/none".into(), 404, "NoSuchNamespaceException"),
        ("GET", "/iceberg/v1/namespaces/none/tables".into(), 404, "NoSuchNamespaceException"),
        ("GET", "/iceberg/v1/namespaces?parent=none".into(), 404, "NoSuchNamespaceException"),
        ("GET", format!("{here}/views/v"), 404, "NoSuchViewException"),
        ("GET", "/iceberg/v1/nothing".into(), 404, "NotFoundException"),
        ("POST", format!("{tables}/readings/metrics"), 204, ""),
        ("POST", tables.into(), 403, "ForbiddenException"),
        ("POST", format!("{tables}/readings"), 403, "ForbiddenException"),
        ("DELETE", format!("{tables}/readings"), 403, "ForbiddenException"),
        ("POST", "/iceberg/v1/namespaces".into(), 403, "ForbiddenException"),
        ("DELETE", here.to_owned(), 403, "ForbiddenException"),
        ("POST", "/iceberg/v1/tables/rename".into(), 403, "ForbiddenException"),
        ("POST", "/iceberg/v1/transactions/commit".into(), 403, "ForbiddenException"),
    ];
    for (method, path, status, kind) in answers {
        let (got, body) = ask(address, method, &path).await;
        assert_eq!(got, status, "{method} {path}: {body}");
        if kind.is_empty() {
            assert_eq!(body, "", "{method} {path}");
        } else {
            let error = &json(body)["error"];
            assert_eq!((error["type"].as_str(), error["code"].as_u64()), (Some(kind), Some(status.into())));
            assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{method} {path}");
        }
    }
    assert_eq!(world.look().await.batch, 1, "nothing was written");
    server.abort();
}

/// What a faulty catalog does with updates.
#[derive(Debug)]
enum Fault {
    /// Applies the update, and then says that it failed and may be tried again.
    ReplyLost,
    /// Doesn't apply it, and says that it may be tried again.
    Refuses,
}

/// A catalog whose updates fail, for the commit to stand.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Catalog>,
    fault: Fault,
    updates: AtomicUsize,
}

impl Faulty {
    fn over(lake: &Lake, fault: Fault) -> Self {
        Self { inner: lake.catalog.clone(), fault, updates: AtomicUsize::new(0) }
    }
}

impl Lake {
    fn with(&self, catalog: Arc<dyn Catalog>) -> Self {
        Self::over(catalog, self.warehouse.clone(), self.config.clone())
    }
}

#[async_trait]
impl Catalog for Faulty {
    async fn update_table(&self, commit: TableCommit) -> iceberg::Result<iceberg::table::Table> {
        self.updates.fetch_add(1, Ordering::SeqCst);
        if matches!(self.fault, Fault::ReplyLost) {
            self.inner.update_table(commit).await?;
        }
        Err(Error::new(ErrorKind::Unexpected, "connection reset").with_retryable(true))
    }

    async fn load_table(&self, table: &TableIdent) -> iceberg::Result<iceberg::table::Table> {
        self.inner.load_table(table).await
    }

    async fn namespace_exists(&self, namespace: &NamespaceIdent) -> iceberg::Result<bool> {
        self.inner.namespace_exists(namespace).await
    }

    async fn create_namespace(
        &self,
        namespace: &NamespaceIdent,
        properties: HashMap<String, String>,
    ) -> iceberg::Result<IcebergNamespace> {
        self.inner.create_namespace(namespace, properties).await
    }

    async fn create_table(
        &self,
        namespace: &NamespaceIdent,
        creation: TableCreation,
    ) -> iceberg::Result<iceberg::table::Table> {
        self.inner.create_table(namespace, creation).await
    }

    async fn list_namespaces(&self, parent: Option<&NamespaceIdent>) -> iceberg::Result<Vec<NamespaceIdent>> {
        self.inner.list_namespaces(parent).await
    }

    async fn get_namespace(&self, namespace: &NamespaceIdent) -> iceberg::Result<IcebergNamespace> {
        self.inner.get_namespace(namespace).await
    }

    async fn update_namespace(
        &self,
        namespace: &NamespaceIdent,
        properties: HashMap<String, String>,
    ) -> iceberg::Result<()> {
        self.inner.update_namespace(namespace, properties).await
    }

    async fn drop_namespace(&self, namespace: &NamespaceIdent) -> iceberg::Result<()> {
        self.inner.drop_namespace(namespace).await
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> iceberg::Result<Vec<TableIdent>> {
        self.inner.list_tables(namespace).await
    }

    async fn drop_table(&self, table: &TableIdent) -> iceberg::Result<()> {
        self.inner.drop_table(table).await
    }

    async fn purge_table(&self, table: &TableIdent) -> iceberg::Result<()> {
        self.inner.purge_table(table).await
    }

    async fn table_exists(&self, table: &TableIdent) -> iceberg::Result<bool> {
        self.inner.table_exists(table).await
    }

    async fn rename_table(&self, src: &TableIdent, dest: &TableIdent) -> iceberg::Result<()> {
        self.inner.rename_table(src, dest).await
    }

    async fn register_table(
        &self,
        table: &TableIdent,
        metadata_location: String,
    ) -> iceberg::Result<iceberg::table::Table> {
        self.inner.register_table(table, metadata_location).await
    }
}
