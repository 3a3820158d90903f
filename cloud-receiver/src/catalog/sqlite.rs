//! The Iceberg catalog in one SQLite file, in the table layout that pyiceberg's `SqlCatalog` reads and writes.
//!
//! A row of `iceberg_tables` points to a table's newest metadata file; a commit writes the next metadata file under a
//! new name and moves the pointer only if it still is where it was. A crash before the move leaves a file that nothing
//! refers to, a crash after it a finished commit. No file is ever deleted here.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::spec::{TableMetadata, TableMetadataBuilder};
use iceberg::table::Table;
use iceberg::{
    Catalog, Error, ErrorKind, MetadataLocation, Namespace, NamespaceIdent, Result, Runtime, TableCommit,
    TableCreation, TableIdent,
};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::offload::offload;

/// Name of the catalog inside the file: readers must attach it under this name.
pub const CATALOG_NAME: &str = "tributary";

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Column types as pyiceberg declares them; SQLite itself only minds the keys.
const LAYOUT: &str = "
CREATE TABLE IF NOT EXISTS iceberg_tables (
    catalog_name VARCHAR(255) NOT NULL,
    table_namespace VARCHAR(255) NOT NULL,
    table_name VARCHAR(255) NOT NULL,
    metadata_location VARCHAR(1000),
    previous_metadata_location VARCHAR(1000),
    iceberg_type VARCHAR(5),
    PRIMARY KEY (catalog_name, table_namespace, table_name)
);
CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
    catalog_name VARCHAR(255) NOT NULL,
    namespace VARCHAR(255) NOT NULL,
    property_key VARCHAR(255) NOT NULL,
    property_value VARCHAR(1000) NOT NULL,
    PRIMARY KEY (catalog_name, namespace, property_key)
);";

/// Picks the row of one table; views of other writers share the layout and are none of ours.
const ONE_TABLE: &str = "catalog_name = 'tributary' AND table_namespace = ?1 AND table_name = ?2 \
                         AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)";

/// The catalog. Clones share one connection; other processes may have the same file open.
#[derive(Debug, Clone)]
pub struct SqliteCatalog {
    connection: Arc<Mutex<Connection>>,
    file_io: FileIO,
    warehouse: String,
    runtime: Runtime,
}

impl SqliteCatalog {
    /// Opens or creates the file at `path`; must be called within a tokio runtime. `warehouse` is the URI under which
    /// new tables lie, without a slash at its end.
    pub async fn open(path: &Path, file_io: FileIO, warehouse: String) -> anyhow::Result<Self> {
        let runtime = Runtime::try_current()?;
        let file = path.to_owned();
        let connection = offload(move || open(&file)).await??;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), file_io, warehouse, runtime })
    }

    /// Runs `work` on the connection, off the runtime's own threads.
    async fn sql<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(&self.connection);
        let run = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        match offload(run).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(Error::new(ErrorKind::Unexpected, "the catalog's SQLite file").with_source(e)),
            Err(e) => Err(Error::new(ErrorKind::Unexpected, "the catalog's SQLite thread").with_source(e)),
        }
    }

    async fn require_namespace(&self, namespace: &NamespaceIdent) -> Result<()> {
        if self.namespace_exists(namespace).await? { Ok(()) } else { Err(no_namespace(namespace)) }
    }

    /// Inserts the pointer of a table that isn't there yet.
    async fn insert(&self, table: &TableIdent, metadata_location: String) -> Result<()> {
        let (namespace, name) = names(table);
        let inserted = self
            .sql(move |c| {
                c.execute(
                    "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, \
                     previous_metadata_location, iceberg_type) VALUES ('tributary', ?1, ?2, ?3, NULL, 'TABLE') \
                     ON CONFLICT DO NOTHING",
                    params![namespace, name, metadata_location],
                )
            })
            .await?;
        if inserted == 0 {
            return Err(Error::new(ErrorKind::TableAlreadyExists, format!("table {table} exists")));
        }
        Ok(())
    }

    fn table(&self, ident: TableIdent, metadata: TableMetadata, location: String) -> Result<Table> {
        Table::builder()
            .identifier(ident)
            .metadata(metadata)
            .metadata_location(location)
            .file_io(self.file_io.clone())
            .runtime(self.runtime.clone())
            .build()
    }

    /// Names the newest metadata file to readers without a catalog. They see a state that was current once, at worst an
    /// older one: so a failure is only logged.
    async fn write_version_hint(&self, metadata_location: &str) {
        let Some((folder, hint)) = version_hint(metadata_location) else { return };
        let write = async {
            let output = self.file_io.new_output(format!("{folder}/version-hint.text"))?;
            output.write(hint.to_owned().into()).await
        };
        if let Err(error) = write.await {
            tracing::warn!(%error, folder, "version hint not written");
        }
    }
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("folder {}", folder.display()))?;
    }
    let connect = || -> rusqlite::Result<Connection> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A commit that a power cut takes back would look like somebody's rollback.
        connection.pragma_update(None, "synchronous", "FULL")?;
        let layout = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        layout.execute_batch(LAYOUT)?;
        let typed = layout
            .query_row(
                "SELECT 1 FROM pragma_table_info('iceberg_tables') WHERE name = 'iceberg_type'",
                [],
                |_| Ok(()),
            )
            .optional()?;
        if typed.is_none() {
            // The older layout of pyiceberg's; its readers name their columns and aren't disturbed by one more.
            layout.execute_batch("ALTER TABLE iceberg_tables ADD COLUMN iceberg_type VARCHAR(5)")?;
        }
        layout.commit()?;
        Ok(connection)
    };
    connect().with_context(|| format!("catalog file {}", path.display()))
}

/// Folder of a metadata file, and what `version-hint.text` in it must say: DuckDB puts `.metadata.json` behind the hint,
/// and pyiceberg does unless it is a plain number.
fn version_hint(metadata_location: &str) -> Option<(&str, &str)> {
    let (folder, file) = metadata_location.rsplit_once('/')?;
    Some((folder, file.strip_suffix(".metadata.json")?))
}

/// Namespace as the layout spells it: levels joined by dots.
fn spelled(namespace: &NamespaceIdent) -> String {
    namespace.join(".")
}

fn names(table: &TableIdent) -> (String, String) {
    (spelled(table.namespace()), table.name().to_owned())
}

fn no_namespace(namespace: &NamespaceIdent) -> Error {
    Error::new(ErrorKind::NamespaceNotFound, format!("namespace {namespace} does not exist"))
}

fn no_table(table: &TableIdent) -> Error {
    Error::new(ErrorKind::TableNotFound, format!("table {table} does not exist"))
}

/// Replaces all properties of a namespace. One without properties is kept alive by `exists`, as pyiceberg does.
fn put_properties(
    c: &Connection,
    namespace: &str,
    properties: &HashMap<String, String>,
) -> rusqlite::Result<()> {
    c.execute(
        "DELETE FROM iceberg_namespace_properties WHERE catalog_name = 'tributary' AND namespace = ?1",
        params![namespace],
    )?;
    let mut insert = c.prepare(
        "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) \
         VALUES ('tributary', ?1, ?2, ?3)",
    )?;
    if properties.is_empty() {
        insert.execute(params![namespace, "exists", "true"])?;
    }
    for (key, value) in properties {
        insert.execute(params![namespace, key, value])?;
    }
    Ok(())
}

/// Whether the namespace, or one below it, has a table or a property.
fn exists(c: &Connection, namespace: &str) -> rusqlite::Result<bool> {
    c.query_row(
        "SELECT EXISTS (SELECT 1 FROM (
             SELECT table_namespace AS n FROM iceberg_tables WHERE catalog_name = 'tributary'
             UNION SELECT namespace FROM iceberg_namespace_properties WHERE catalog_name = 'tributary')
         WHERE n = ?1 OR substr(n, 1, length(?1) + 1) = ?1 || '.')",
        params![namespace],
        |row| row.get(0),
    )
}

#[async_trait]
impl Catalog for SqliteCatalog {
    async fn list_namespaces(&self, parent: Option<&NamespaceIdent>) -> Result<Vec<NamespaceIdent>> {
        if let Some(parent) = parent {
            self.require_namespace(parent).await?;
        }
        let spelled: Vec<String> = self
            .sql(|c| {
                let mut all = c.prepare(
                    "SELECT table_namespace FROM iceberg_tables WHERE catalog_name = 'tributary'
                     UNION SELECT namespace FROM iceberg_namespace_properties WHERE catalog_name = 'tributary'",
                )?;
                all.query_map([], |row| row.get(0))?.collect()
            })
            .await?;
        let parent: Vec<&str> = parent.map(|p| p.iter().map(String::as_str).collect()).unwrap_or_default();
        let below: BTreeSet<Vec<&str>> = spelled
            .iter()
            .map(|n| n.split('.').collect::<Vec<_>>())
            .filter(|levels| levels.len() > parent.len() && levels.starts_with(&parent))
            .map(|levels| levels.into_iter().take(parent.len() + 1).collect())
            .collect();
        below.into_iter().map(NamespaceIdent::from_strs).collect()
    }

    async fn create_namespace(
        &self,
        namespace: &NamespaceIdent,
        properties: HashMap<String, String>,
    ) -> Result<Namespace> {
        let (name, given) = (spelled(namespace), properties.clone());
        let created = self
            .sql(move |c| {
                let tx = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
                if exists(&tx, &name)? {
                    return Ok(false);
                }
                put_properties(&tx, &name, &given)?;
                tx.commit().map(|()| true)
            })
            .await?;
        if !created {
            let message = format!("namespace {namespace} exists");
            return Err(Error::new(ErrorKind::NamespaceAlreadyExists, message));
        }
        Ok(Namespace::with_properties(namespace.clone(), properties))
    }

    async fn get_namespace(&self, namespace: &NamespaceIdent) -> Result<Namespace> {
        self.require_namespace(namespace).await?;
        let name = spelled(namespace);
        let properties = self
            .sql(move |c| {
                let mut all = c.prepare(
                    "SELECT property_key, property_value FROM iceberg_namespace_properties \
                     WHERE catalog_name = 'tributary' AND namespace = ?1",
                )?;
                all.query_map(params![name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
            })
            .await?;
        Ok(Namespace::with_properties(namespace.clone(), properties))
    }

    async fn namespace_exists(&self, namespace: &NamespaceIdent) -> Result<bool> {
        let name = spelled(namespace);
        self.sql(move |c| exists(c, &name)).await
    }

    async fn update_namespace(
        &self,
        namespace: &NamespaceIdent,
        properties: HashMap<String, String>,
    ) -> Result<()> {
        self.require_namespace(namespace).await?;
        let name = spelled(namespace);
        self.sql(move |c| {
            let tx = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            put_properties(&tx, &name, &properties)?;
            tx.commit()
        })
        .await
    }

    async fn drop_namespace(&self, namespace: &NamespaceIdent) -> Result<()> {
        let tables = self.list_tables(namespace).await?;
        if !tables.is_empty() {
            let message = format!("namespace {namespace} has {} tables: drop them first", tables.len());
            return Err(Error::new(ErrorKind::PreconditionFailed, message));
        }
        let name = spelled(namespace);
        self.sql(move |c| {
            c.execute(
                "DELETE FROM iceberg_namespace_properties WHERE catalog_name = 'tributary' AND namespace = ?1",
                params![name],
            )
        })
        .await
        .map(drop)
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        self.require_namespace(namespace).await?;
        let name = spelled(namespace);
        let tables: Vec<String> = self
            .sql(move |c| {
                let mut all = c.prepare(
                    "SELECT table_name FROM iceberg_tables WHERE catalog_name = 'tributary' \
                     AND table_namespace = ?1 AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL) ORDER BY table_name",
                )?;
                all.query_map(params![name], |row| row.get(0))?.collect()
            })
            .await?;
        Ok(tables.into_iter().map(|t| TableIdent::new(namespace.clone(), t)).collect())
    }

    async fn create_table(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        self.require_namespace(namespace).await?;
        let ident = TableIdent::new(namespace.clone(), creation.name.clone());
        if self.table_exists(&ident).await? {
            return Err(Error::new(ErrorKind::TableAlreadyExists, format!("table {ident} exists")));
        }
        let location = creation.location.clone();
        let location = location
            .unwrap_or_else(|| format!("{}/{}/{}", self.warehouse, namespace.join("/"), creation.name));
        let creation = TableCreation { location: Some(location.clone()), ..creation };
        let metadata = TableMetadataBuilder::from_table_creation(creation)?.build()?.metadata;
        let metadata_location = MetadataLocation::new_with_metadata(location, &metadata);
        metadata.write_to(&self.file_io, &metadata_location).await?;
        let metadata_location = metadata_location.to_string();
        self.insert(&ident, metadata_location.clone()).await?;
        self.write_version_hint(&metadata_location).await;
        self.table(ident, metadata, metadata_location)
    }

    async fn load_table(&self, table: &TableIdent) -> Result<Table> {
        let (namespace, name) = names(table);
        let location: Option<Option<String>> = self
            .sql(move |c| {
                let query = format!("SELECT metadata_location FROM iceberg_tables WHERE {ONE_TABLE}");
                c.query_row(&query, params![namespace, name], |row| row.get(0)).optional()
            })
            .await?;
        let location = location.flatten().ok_or_else(|| no_table(table))?;
        let metadata = TableMetadata::read_from(&self.file_io, &location).await?;
        self.table(table.clone(), metadata, location)
    }

    async fn drop_table(&self, table: &TableIdent) -> Result<()> {
        let (namespace, name) = names(table);
        let dropped = self
            .sql(move |c| {
                c.execute(&format!("DELETE FROM iceberg_tables WHERE {ONE_TABLE}"), params![namespace, name])
            })
            .await?;
        if dropped == 0 { Err(no_table(table)) } else { Ok(()) }
    }

    async fn purge_table(&self, table: &TableIdent) -> Result<()> {
        let message = format!("table {table}: this catalog deletes no files; drop the table instead");
        Err(Error::new(ErrorKind::FeatureUnsupported, message))
    }

    async fn table_exists(&self, table: &TableIdent) -> Result<bool> {
        let (namespace, name) = names(table);
        self.sql(move |c| {
            let query = format!("SELECT EXISTS (SELECT 1 FROM iceberg_tables WHERE {ONE_TABLE})");
            c.query_row(&query, params![namespace, name], |row| row.get(0))
        })
        .await
    }

    async fn rename_table(&self, src: &TableIdent, dest: &TableIdent) -> Result<()> {
        self.require_namespace(dest.namespace()).await?;
        let ((namespace, name), (new_namespace, new_name)) = (names(src), names(dest));
        let renamed = self
            .sql(move |c| {
                let update = format!(
                    "UPDATE OR IGNORE iceberg_tables SET table_namespace = ?3, table_name = ?4 WHERE {ONE_TABLE}"
                );
                c.execute(&update, params![namespace, name, new_namespace, new_name])
            })
            .await?;
        match renamed {
            0 if self.table_exists(src).await? => {
                Err(Error::new(ErrorKind::TableAlreadyExists, format!("table {dest} exists")))
            }
            0 => Err(no_table(src)),
            _ => Ok(()),
        }
    }

    async fn register_table(&self, table: &TableIdent, metadata_location: String) -> Result<Table> {
        self.require_namespace(table.namespace()).await?;
        let metadata = TableMetadata::read_from(&self.file_io, &metadata_location).await?;
        self.insert(table, metadata_location.clone()).await?;
        self.write_version_hint(&metadata_location).await;
        self.table(table.clone(), metadata, metadata_location)
    }

    async fn update_table(&self, commit: TableCommit) -> Result<Table> {
        let base = self.load_table(commit.identifier()).await?;
        let ident = base.identifier().clone();
        let old = base.metadata_location_result()?.to_owned();
        let staged = commit.apply(base)?;
        let new = staged.metadata_location_result()?.to_owned();
        staged.metadata().write_to(staged.file_io(), &MetadataLocation::from_str(&new)?).await?;

        let (namespace, name) = names(&ident);
        let (from, to) = (old.clone(), new.clone());
        let moved = self
            .sql(move |c| {
                let update = format!(
                    "UPDATE iceberg_tables SET metadata_location = ?4, previous_metadata_location = ?3 \
                     WHERE {ONE_TABLE} AND metadata_location = ?3"
                );
                c.execute(&update, params![namespace, name, from, to])
            })
            .await?;
        if moved == 0 {
            let message = format!("table {ident} is no longer at {old}: another commit came first");
            return Err(Error::new(ErrorKind::CatalogCommitConflicts, message).with_retryable(true));
        }
        self.write_version_hint(&new).await;
        Ok(staged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_hint_is_the_name_that_readers_complete() {
        assert_eq!(
            version_hint("s3://b/lake/t/metadata/00003-0a1b.metadata.json"),
            Some(("s3://b/lake/t/metadata", "00003-0a1b"))
        );
        assert_eq!(
            version_hint("s3://b/t/metadata/00003-0a1b.gz.metadata.json"),
            Some(("s3://b/t/metadata", "00003-0a1b.gz"))
        );
        assert_eq!(version_hint("s3://b/t/metadata/other.json"), None);
    }

    #[tokio::test]
    async fn a_file_in_the_older_layout_of_pyiceberg_is_taken_on_and_its_tables_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(
            "CREATE TABLE iceberg_tables (catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL,
                 table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000),
                 previous_metadata_location VARCHAR(1000), PRIMARY KEY (catalog_name, table_namespace, table_name));
             INSERT INTO iceberg_tables VALUES ('tributary', 'a.b', 't', 's3://x', NULL);
             INSERT INTO iceberg_tables VALUES ('another', 'other', 't', 's3://y', NULL);",
        )
        .unwrap();
        let catalog =
            SqliteCatalog::open(&path, FileIO::new_with_memory(), "memory:///w".into()).await.unwrap();
        let (a, ab) = (NamespaceIdent::new("a".into()), NamespaceIdent::from_strs(["a", "b"]).unwrap());
        assert_eq!(catalog.list_namespaces(None).await.unwrap(), vec![a.clone()]);
        assert_eq!(catalog.list_namespaces(Some(&a)).await.unwrap(), vec![ab.clone()]);
        let tables = catalog.list_tables(&ab).await.unwrap();
        assert_eq!(tables, [TableIdent::new(ab, "t".into())]);
        assert!(!catalog.namespace_exists(&NamespaceIdent::new("other".into())).await.unwrap());
    }

    #[tokio::test]
    async fn a_namespace_without_properties_exists_and_one_with_tables_is_not_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/catalog.db");
        let catalog =
            SqliteCatalog::open(&path, FileIO::new_with_memory(), "memory:///w".into()).await.unwrap();
        let plant = NamespaceIdent::new("plant_a".into());
        let kind = |e: Error| e.kind();
        let missing = catalog.list_tables(&plant).await.map_err(kind).unwrap_err();
        assert_eq!(missing, ErrorKind::NamespaceNotFound);
        catalog.create_namespace(&plant, HashMap::new()).await.unwrap();
        assert!(catalog.namespace_exists(&plant).await.unwrap());
        assert!(!catalog.namespace_exists(&NamespaceIdent::new("plantXa".into())).await.unwrap());
        let again = catalog.create_namespace(&plant, HashMap::new()).await.map_err(kind).unwrap_err();
        assert_eq!(again, ErrorKind::NamespaceAlreadyExists);

        let table = TableIdent::new(plant.clone(), "t".into());
        catalog.insert(&table, "memory:///w/t/metadata/x".into()).await.unwrap();
        let taken = catalog.insert(&table, "memory:///y".into()).await.map_err(kind).unwrap_err();
        assert_eq!(taken, ErrorKind::TableAlreadyExists);
        assert_eq!(
            catalog.drop_namespace(&plant).await.map_err(kind).unwrap_err(),
            ErrorKind::PreconditionFailed
        );
        let other = TableIdent::new(plant.clone(), "u".into());
        catalog.rename_table(&table, &other).await.unwrap();
        assert_eq!(catalog.drop_table(&table).await.map_err(kind).unwrap_err(), ErrorKind::TableNotFound);
        catalog.drop_table(&other).await.unwrap();
        catalog.drop_namespace(&plant).await.unwrap();
        assert!(!catalog.namespace_exists(&plant).await.unwrap());
    }
}
