//! A receiver over a real catalog and a warehouse in a folder, whose ledger may be lost and whose tables may be damaged.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, Int64Array};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use iceberg::io::{FileIO, FileIOBuilder, LocalFsStorageFactory};
use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention, TableMetadataBuilder};
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use iceberg::{
    Catalog, Error, ErrorKind, MetadataLocation, Namespace as IcebergNamespace, NamespaceIdent, Result,
    TableCommit, TableCreation, TableIdent,
};
use tributary_contract::id::{Epoch, Namespace};
use tributary_contract::key::Prefix;
use tributary_contract::receipt::{EpochReceipt, Receipt};
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use crate::bucket::memory::MemoryBucket;
use crate::bucket::{Bucket, BucketError, Extent, Got, Page, Put, Query, When};
use crate::catalog::{Lake, SqliteCatalog};
use crate::config::RegisterConfig;
use crate::dedupe::{Ledger, LedgerHandle};
use crate::fixture::Sealed;
use crate::pipeline::{Pipeline, Places};
use crate::recover::rebuild::rebuild;
use crate::recover::table::{accept_rollback, reregister};
use crate::recover::{Parts, Report};

/// The moment of all passes.
pub(super) const NOW: Timestamp = Timestamp(100);

/// Everything but the running receiver.
pub(super) struct World {
    folder: tempfile::TempDir,
    pub(super) bucket: Arc<FolderBucket>,
    pub(super) catalog: Arc<Stumbling>,
}

impl World {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Arc::new(FolderBucket {
            memory: MemoryBucket::default(),
            root: folder.path().to_owned(),
            trips: Trips::default(),
        });
        let catalog = Arc::new(Stumbling {
            inner: open(&folder.path().join("catalog.db")).await,
            trips: Trips::default(),
        });
        Self { folder, bucket, catalog }
    }

    pub(super) fn lake(&self) -> Lake {
        let warehouse = format!("file://{}/p/lake", self.folder.path().display());
        Lake::over(self.catalog.clone(), warehouse, BTreeMap::new())
    }

    pub(super) fn ledger_file(&self) -> PathBuf {
        self.folder.path().join("ledger/ledger.db")
    }

    /// The ledger's files are gone.
    pub(super) fn lose_ledger(&self) {
        fs::remove_dir_all(self.folder.path().join("ledger")).unwrap();
    }

    /// The ledger's file as it is now.
    pub(super) fn backup(&self) -> Vec<u8> {
        fs::read(self.ledger_file()).unwrap()
    }

    /// Puts an older ledger in the place of the one that is there.
    pub(super) fn restore(&self, backup: &[u8]) {
        self.lose_ledger();
        fs::create_dir_all(self.folder.path().join("ledger")).unwrap();
        fs::write(self.ledger_file(), backup).unwrap();
    }

    /// A receiver, as after a start.
    pub(super) fn start(&self) -> Pipeline {
        let mut ledger = Ledger::open(&self.ledger_file()).unwrap();
        assert!(!ledger.is_rebuilding().unwrap());
        ledger.clear_stops().unwrap();
        let id = ledger.id().to_string();
        let uri_base = format!("file://{}/", self.folder.path().display());
        let places = Places { prefix: prefix(), uri_base };
        let register = RegisterConfig { max_files: 100, max_wait: Duration::ZERO };
        let bucket: Arc<dyn Bucket> = self.bucket.clone();
        Pipeline::new(bucket, Arc::new(self.lake()), LedgerHandle::new(ledger), id, places, register)
    }

    /// A receiver starts, does everything twice, and ends. Returns why tables stand still.
    pub(super) async fn run(&self) -> Vec<String> {
        let pipeline = self.start();
        for _ in 0..2 {
            pipeline.pass(NOW).await.unwrap();
        }
        let tables = pipeline.ledger.call(|l| l.tables()).await.unwrap();
        tables.into_iter().filter_map(|t| t.stopped).collect()
    }

    pub(super) fn deliver(&self, sealed: &Sealed) {
        let key = sealed.key.object_key(&prefix());
        self.bucket.mirror(&key, &sealed.bytes);
        self.bucket.memory.deliver(&key, sealed.bytes.clone(), Timestamp(1));
    }

    pub(super) fn remove(&self, sealed: &Sealed) {
        self.bucket.memory.remove(&sealed.key.object_key(&prefix()));
    }

    /// Rows of a table per segment number; fails if a row is there twice.
    pub(super) async fn rows(&self, table: Table) -> BTreeMap<i64, usize> {
        let ident = ident(table);
        let mut rows = BTreeMap::new();
        if !self.catalog.inner.table_exists(&ident).await.unwrap() {
            return rows;
        }
        let table = self.catalog.inner.load_table(&ident).await.unwrap();
        if table.metadata().current_snapshot().is_none() {
            return rows;
        }
        let scan = table.scan().select(["segment_number"]).build().unwrap();
        let batches: Vec<_> = scan.to_arrow().await.unwrap().try_collect().await.unwrap();
        for batch in batches {
            let numbers = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
            (0..numbers.len()).for_each(|i| *rows.entry(numbers.value(i)).or_default() += 1);
        }
        rows
    }

    /// The texts of a column.
    pub(super) async fn texts(&self, table: Table, column: &str) -> Vec<String> {
        let table = self.catalog.inner.load_table(&ident(table)).await.unwrap();
        let scan = table.scan().select([column]).build().unwrap();
        let batches: Vec<_> = scan.to_arrow().await.unwrap().try_collect().await.unwrap();
        let mut all = Vec::new();
        for batch in batches {
            let texts = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
            let texts = texts.as_any().downcast_ref::<arrow::array::StringArray>().unwrap().clone();
            all.extend(texts.iter().flatten().map(str::to_owned));
        }
        all.sort();
        all
    }

    pub(super) fn receipt(&self, gateway: &str) -> Receipt {
        let bytes = self.bucket.memory.bytes(&format!("p/receipts/{gateway}.json")).unwrap();
        Receipt::from_json(&bytes, &gateway.parse().unwrap()).unwrap()
    }

    pub(super) fn epoch(&self, gateway: &str, epoch: u64) -> EpochReceipt {
        self.receipt(gateway).epochs[&Epoch(epoch)].clone()
    }

    pub(super) async fn rebuild(&self, dry_run: bool) -> anyhow::Result<Report> {
        let mut ledger = Ledger::open(&self.ledger_file())?;
        let (lake, prefix) = (self.lake(), prefix());
        let parts = Parts { lake: &lake, bucket: self.bucket.as_ref(), prefix: &prefix, dry_run };
        rebuild(&mut ledger, &parts, NOW).await
    }

    pub(super) async fn reregister(&self, table: Table, dry_run: bool) -> anyhow::Result<Report> {
        let mut ledger = Ledger::open(&self.ledger_file())?;
        let (lake, prefix) = (self.lake(), prefix());
        let parts = Parts { lake: &lake, bucket: self.bucket.as_ref(), prefix: &prefix, dry_run };
        reregister(&mut ledger, &parts, &Namespace::default(), table, NOW).await
    }

    pub(super) async fn accept(&self, table: Table, dry_run: bool) -> anyhow::Result<Report> {
        let mut ledger = Ledger::open(&self.ledger_file())?;
        let (lake, prefix) = (self.lake(), prefix());
        let parts = Parts { lake: &lake, bucket: self.bucket.as_ref(), prefix: &prefix, dry_run };
        accept_rollback(&mut ledger, &parts, &Namespace::default(), table, NOW).await
    }

    /// Where the table's metadata is: another place after each commit.
    pub(super) async fn location(&self, table: Table) -> String {
        self.catalog.inner.load_table(&ident(table)).await.unwrap().metadata_location().unwrap().to_owned()
    }

    /// The snapshots of the table in the order of their commits.
    pub(super) async fn snapshots(&self, table: Table) -> Vec<i64> {
        let table = self.catalog.inner.load_table(&ident(table)).await.unwrap();
        let mut all: Vec<_> = table.metadata().snapshots().collect();
        all.sort_by_key(|s| s.sequence_number());
        all.iter().map(|s| s.snapshot_id()).collect()
    }

    /// Another engine commits something that adds no rows.
    pub(super) async fn maintenance(&self, table: Table) {
        stranger(self.catalog.inner.as_ref(), &ident(table)).await;
    }

    /// Moves `main` back to `snapshot`, as an operator's engine does.
    pub(super) async fn roll_back(&self, table: Table, snapshot: i64) {
        let main = SnapshotReference::new(snapshot, SnapshotRetention::branch(None, None, None));
        self.surgery(table, |b| b.set_ref(MAIN_BRANCH, main).unwrap()).await;
    }

    /// Takes snapshots out of the metadata, as an engine's expiry does.
    pub(super) async fn expire(&self, table: Table, snapshots: &[i64]) {
        self.surgery(table, |b| b.remove_snapshots(snapshots)).await;
    }

    async fn surgery(&self, table: Table, cut: impl FnOnce(TableMetadataBuilder) -> TableMetadataBuilder) {
        let (catalog, ident) = (&self.catalog.inner, ident(table));
        let at = catalog.load_table(&ident).await.unwrap();
        let old = at.metadata_location().unwrap().to_owned();
        let metadata = cut(at.metadata().clone().into_builder(Some(old.clone()))).build().unwrap().metadata;
        let new = old.parse::<MetadataLocation>().unwrap().with_next_version();
        metadata.write_to(at.file_io(), &new).await.unwrap();
        catalog.drop_table(&ident).await.unwrap();
        catalog.register_table(&ident, new.to_string()).await.unwrap();
    }

    pub(super) async fn drop_table(&self, table: Table) {
        self.catalog.inner.drop_table(&ident(table)).await.unwrap();
    }
}

pub(super) fn prefix() -> Prefix {
    Prefix::new("p").unwrap()
}

pub(super) fn ident(table: Table) -> TableIdent {
    TableIdent::new(NamespaceIdent::new(Namespace::default().to_string()), table.name().to_owned())
}

async fn open(path: &std::path::Path) -> Arc<SqliteCatalog> {
    let files: FileIO = FileIOBuilder::new(Arc::new(LocalFsStorageFactory)).build();
    let warehouse = format!("file://{}/p/lake", path.parent().unwrap().display());
    Arc::new(SqliteCatalog::open(path, files, warehouse).await.unwrap())
}

/// An empty commit by a writer that knows nothing of batches.
async fn stranger(catalog: &dyn Catalog, table: &TableIdent) {
    let table = catalog.load_table(table).await.unwrap();
    let tx = Transaction::new(&table);
    let summary = HashMap::from([("by".to_owned(), "maintenance".to_owned())]);
    let append = tx.fast_append().set_snapshot_properties(summary);
    append.apply(tx).unwrap().commit(catalog).await.unwrap();
}

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trip {
    /// It is never asked.
    Before,
    /// It is done, and nobody hears of it.
    After,
    /// Somebody else commits first.
    Stranger,
}

/// Counts steps; at one of them something happens. Every step after a fault fails too, as after a kill.
#[derive(Debug, Default)]
pub(super) struct Trips {
    steps: AtomicUsize,
    at: Mutex<Option<(usize, Trip)>>,
}

impl Trips {
    /// Counts from 0 again, and trips at step `at`.
    pub(super) fn trip(&self, at: usize, how: Trip) {
        self.steps.store(0, Ordering::SeqCst);
        *self.at.lock().unwrap() = Some((at, how));
    }

    /// Nothing happens any more; whether it had.
    pub(super) fn heal(&self) -> bool {
        let planned = self.at.lock().unwrap().take();
        planned.is_some_and(|(at, _)| self.steps.load(Ordering::SeqCst) > at)
    }

    fn step(&self) -> Option<Trip> {
        let now = self.steps.fetch_add(1, Ordering::SeqCst);
        let planned = *self.at.lock().unwrap();
        match planned? {
            (at, how) if now == at => Some(how),
            (at, Trip::Before | Trip::After) if now > at => Some(Trip::Before),
            _ => None,
        }
    }
}

/// The catalog, whose loads, updates and creations are steps.
#[derive(Debug)]
pub(super) struct Stumbling {
    pub(super) inner: Arc<SqliteCatalog>,
    pub(super) trips: Trips,
}

fn broken() -> Error {
    Error::new(ErrorKind::Unexpected, "connection reset").with_retryable(true)
}

#[async_trait]
impl Catalog for Stumbling {
    async fn load_table(&self, table: &TableIdent) -> Result<iceberg::table::Table> {
        match self.trips.step() {
            Some(Trip::Before | Trip::After) => Err(broken()),
            Some(Trip::Stranger) | None => self.inner.load_table(table).await,
        }
    }

    async fn update_table(&self, commit: TableCommit) -> Result<iceberg::table::Table> {
        match self.trips.step() {
            Some(Trip::Before) => Err(broken()),
            Some(Trip::After) => {
                self.inner.update_table(commit).await?;
                Err(broken())
            }
            Some(Trip::Stranger) => {
                stranger(self.inner.as_ref(), commit.identifier()).await;
                self.inner.update_table(commit).await
            }
            None => self.inner.update_table(commit).await,
        }
    }

    async fn create_table(
        &self,
        ns: &NamespaceIdent,
        creation: TableCreation,
    ) -> Result<iceberg::table::Table> {
        match self.trips.step() {
            Some(Trip::Before) => Err(broken()),
            Some(Trip::After) => {
                self.inner.create_table(ns, creation).await?;
                Err(broken())
            }
            Some(Trip::Stranger) | None => self.inner.create_table(ns, creation).await,
        }
    }

    async fn list_namespaces(&self, parent: Option<&NamespaceIdent>) -> Result<Vec<NamespaceIdent>> {
        self.inner.list_namespaces(parent).await
    }

    async fn create_namespace(
        &self,
        ns: &NamespaceIdent,
        p: HashMap<String, String>,
    ) -> Result<IcebergNamespace> {
        self.inner.create_namespace(ns, p).await
    }

    async fn get_namespace(&self, ns: &NamespaceIdent) -> Result<IcebergNamespace> {
        self.inner.get_namespace(ns).await
    }

    async fn namespace_exists(&self, ns: &NamespaceIdent) -> Result<bool> {
        self.inner.namespace_exists(ns).await
    }

    async fn update_namespace(&self, ns: &NamespaceIdent, p: HashMap<String, String>) -> Result<()> {
        self.inner.update_namespace(ns, p).await
    }

    async fn drop_namespace(&self, ns: &NamespaceIdent) -> Result<()> {
        self.inner.drop_namespace(ns).await
    }

    async fn list_tables(&self, ns: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        self.inner.list_tables(ns).await
    }

    async fn drop_table(&self, table: &TableIdent) -> Result<()> {
        self.inner.drop_table(table).await
    }

    async fn purge_table(&self, table: &TableIdent) -> Result<()> {
        self.inner.purge_table(table).await
    }

    async fn table_exists(&self, table: &TableIdent) -> Result<bool> {
        self.inner.table_exists(table).await
    }

    async fn rename_table(&self, from: &TableIdent, to: &TableIdent) -> Result<()> {
        self.inner.rename_table(from, to).await
    }

    async fn register_table(&self, table: &TableIdent, location: String) -> Result<iceberg::table::Table> {
        self.inner.register_table(table, location).await
    }
}

/// A bucket in memory whose objects lie in the folder too, where the tables' readers find them. Its requests are steps.
#[derive(Debug)]
pub(super) struct FolderBucket {
    pub(super) memory: MemoryBucket,
    root: PathBuf,
    pub(super) trips: Trips,
}

impl FolderBucket {
    pub(super) fn mirror(&self, key: &str, bytes: &[u8]) {
        let path = self.root.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn before(&self, what: &str) -> std::result::Result<Option<Trip>, BucketError> {
        match self.trips.step() {
            Some(Trip::Before) => Err(BucketError { what: what.to_owned(), why: "connection reset".into() }),
            other => Ok(other),
        }
    }

    fn after<T>(&self, trip: Option<Trip>, done: T) -> std::result::Result<T, BucketError> {
        match trip {
            Some(Trip::After) => Err(BucketError { what: "reply".into(), why: "connection reset".into() }),
            _ => Ok(done),
        }
    }
}

#[async_trait]
impl Bucket for FolderBucket {
    async fn list(&self, query: &Query) -> std::result::Result<Page, BucketError> {
        let trip = self.before("list")?;
        self.after(trip, self.memory.list(query).await?)
    }

    async fn get(&self, key: &str, extent: Extent) -> std::result::Result<Got, BucketError> {
        let trip = self.before("get")?;
        self.after(trip, self.memory.get(key, extent).await?)
    }

    async fn head(&self, key: &str) -> std::result::Result<Option<String>, BucketError> {
        let trip = self.before("head")?;
        self.after(trip, self.memory.head(key).await?)
    }

    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        kind: &str,
        when: &When,
    ) -> std::result::Result<Put, BucketError> {
        let trip = self.before("put")?;
        let put = self.memory.put(key, bytes.clone(), kind, when).await?;
        if matches!(put, Put::Done(_)) {
            self.mirror(key, &bytes);
        }
        self.after(trip, put)
    }

    async fn copy(&self, from: &str, to: &str) -> std::result::Result<(), BucketError> {
        let trip = self.before("copy")?;
        self.memory.copy(from, to).await?;
        self.after(trip, ())
    }
}
