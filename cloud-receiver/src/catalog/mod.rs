//! The lake's catalog: batches of segments become snapshots of Iceberg tables, each batch once.
//!
//! **What comes in:** a batch that the ledger holds: its number, its files, their footers. **What goes out:** one
//! snapshot per batch, or a reason; the tables' state for ledger and fleet page; the same catalog, read-only, for engines
//! ([`Lake::router`]).
//!
//! **What survives a crash:** a table's state is the metadata file that one row of the catalog's SQLite file points to,
//! and the pointer moves in one transaction. Before that nothing happened, though files may lie around that nothing
//! refers to; after it the batch is in, and its number is in the table's own properties, so that the next look finds it
//! however the reply was lost.
//!
//! **What is deliberately absent:** memory of batches (the ledger's), validation of segments (done before), retries (the
//! caller looks again), deletion of any file, and queries: those are the engines' work.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use iceberg::io::{
    CLIENT_REGION, FileIO, FileIOBuilder, LocalFsStorageFactory, S3_ACCESS_KEY_ID, S3_DISABLE_CONFIG_LOAD,
    S3_DISABLE_EC2_METADATA, S3_ENDPOINT, S3_PATH_STYLE_ACCESS, S3_REGION, S3_SECRET_ACCESS_KEY,
    S3_SESSION_TOKEN,
};
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use iceberg::{Catalog, ErrorKind, NamespaceIdent, TableIdent};
use iceberg_storage_opendal::OpenDalStorageFactory;
use tributary_contract::id::Namespace;
use tributary_contract::table::Table;

pub mod schema;
pub mod data_file;
pub mod sqlite;
pub mod pinned;
pub mod look;
pub mod commit;
pub mod fence;
pub mod holdings;
pub mod rest;

pub use commit::{CommitError, Committed, LedgerView, NewFile, StopReason, Verdict, decide};
pub use holdings::{Held, Holdings, OwnGapRow};
pub use look::{Lineage, Look, TableFacts};
pub use sqlite::{CATALOG_NAME, SqliteCatalog};

use pinned::Pinned;

/// How often columns are tried to be added while others commit.
const GROW_ATTEMPTS: usize = 8;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the client that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How the warehouse's bucket is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Access {
    /// URL of an S3 API server other than AWS's; addressed by path.
    pub endpoint: Option<String>,
    /// Region.
    pub region: String,
    /// Key id; without it, the environment, profiles and instance credentials are tried in turn.
    pub access_key_id: Option<String>,
    /// The key's secret.
    pub secret_access_key: Option<Secret>,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
}

impl S3Access {
    /// What engines need to find the files: no credentials.
    fn public(&self) -> BTreeMap<String, String> {
        let mut config = BTreeMap::new();
        if !self.region.is_empty() {
            config.insert(S3_REGION.to_owned(), self.region.clone());
            config.insert(CLIENT_REGION.to_owned(), self.region.clone());
        }
        if let Some(endpoint) = &self.endpoint {
            config.insert(S3_ENDPOINT.to_owned(), endpoint.clone());
            config.insert(S3_PATH_STYLE_ACCESS.to_owned(), "true".to_owned());
        }
        config
    }

    /// The same with credentials, for the receiver's own access.
    fn private(&self) -> BTreeMap<String, String> {
        let mut config = self.public();
        if let Some(id) = &self.access_key_id {
            config.insert(S3_ACCESS_KEY_ID.to_owned(), id.clone());
            // Keys were given: don't wait for a metadata service that may not be there.
            config.insert(S3_DISABLE_EC2_METADATA.to_owned(), "true".to_owned());
            config.insert(S3_DISABLE_CONFIG_LOAD.to_owned(), "true".to_owned());
        }
        let secrets =
            [(S3_SECRET_ACCESS_KEY, &self.secret_access_key), (S3_SESSION_TOKEN, &self.session_token)];
        for (key, secret) in secrets {
            config.extend(secret.iter().map(|s| (key.to_owned(), s.expose().to_owned())));
        }
        config
    }
}

/// Where catalog and warehouse are.
#[derive(Debug, Clone)]
pub struct LakeSettings {
    /// The catalog's SQLite file; made with its folder when absent.
    pub catalog_db: PathBuf,
    /// URI under which tables lie: `s3://bucket/prefix/lake`, or `file:///folder` for trials on one machine.
    pub warehouse: String,
    /// Access to the bucket of an `s3://` warehouse.
    pub s3: S3Access,
}

/// The catalog as the rest of the receiver knows it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lake {
    catalog: Arc<dyn Catalog>,
    warehouse: String,
    config: BTreeMap<String, String>,
}

impl Lake {
    /// Opens the catalog; must be called within a tokio runtime. The bucket isn't asked yet.
    pub async fn open(settings: LakeSettings) -> anyhow::Result<Self> {
        let warehouse = settings.warehouse.trim_end_matches('/').to_owned();
        let (file_io, config) = storage(&warehouse, &settings.s3)?;
        let catalog = SqliteCatalog::open(&settings.catalog_db, file_io, warehouse.clone()).await?;
        Ok(Self::over(Arc::new(catalog), warehouse, config))
    }

    /// A lake over any catalog; `config` is what engines are told of the storage.
    pub fn over(catalog: Arc<dyn Catalog>, warehouse: String, config: BTreeMap<String, String>) -> Self {
        Self { catalog, warehouse, config }
    }

    /// Looks at a table; creates it, and its namespace, owned by `ledger_id`, when it is absent.
    pub async fn look(&self, namespace: &Namespace, table: Table, ledger_id: &str) -> anyhow::Result<Look> {
        let ident = ident(namespace, table);
        let loaded = match self.catalog.load_table(&ident).await {
            Err(e) if e.kind() == ErrorKind::TableNotFound => self.create(&ident, table, ledger_id).await,
            other => other,
        };
        let loaded = loaded.with_context(|| format!("table {ident}"))?;
        let loaded = self.grown(loaded, table, ledger_id).await?;
        let facts = TableFacts::read(namespace.clone(), table, loaded.metadata())?;
        Ok(Look::new(facts, loaded))
    }

    /// The table with the columns that came to the contract after it was made. Only the ledger that owns it adds them.
    async fn grown(
        &self,
        mut loaded: iceberg::table::Table,
        table: Table,
        ledger_id: &str,
    ) -> anyhow::Result<iceberg::table::Table> {
        let ident = loaded.identifier().clone();
        for attempt in 0.. {
            let metadata = loaded.metadata();
            if metadata.properties().get(schema::LEDGER_PROPERTY).map(String::as_str) != Some(ledger_id) {
                break;
            }
            let missing = schema::missing(table, metadata.current_schema(), metadata.last_column_id())?;
            if missing.is_empty() {
                break;
            }
            let transaction = Transaction::new(&loaded);
            let update = missing.iter().fold(transaction.update_schema(), |update, column| {
                update.add_column(schema::addition(column))
            });
            // Pinned: numbered anew on another's state, the columns would get other ids than the files have.
            let pinned = Pinned::new(loaded.clone(), Arc::clone(&self.catalog));
            let outcome = update.apply(transaction)?.commit(&pinned).await;
            // Whatever it was: what is there now says whether it landed, here or with another.
            loaded = self.catalog.load_table(&ident).await.with_context(|| format!("table {ident}"))?;
            if let Err(e) = outcome
                && attempt >= GROW_ATTEMPTS
            {
                return Err(e).with_context(|| format!("table {ident}: its new columns could not be added"));
            }
        }
        Ok(loaded)
    }

    /// The facts of all tables of the contract, in the order of their names. Tables of other writers are left out.
    pub async fn tables(&self) -> anyhow::Result<Vec<TableFacts>> {
        let mut all = Vec::new();
        for namespace in self.catalog.list_namespaces(None).await? {
            let [name] = &namespace[..] else { continue };
            let Ok(owner) = Namespace::new(name.as_str()) else { continue };
            for ident in self.catalog.list_tables(&namespace).await? {
                let Ok(table) = ident.name().parse::<Table>() else { continue };
                let loaded =
                    self.catalog.load_table(&ident).await.with_context(|| format!("table {ident}"))?;
                all.push(TableFacts::read(owner.clone(), table, loaded.metadata())?);
            }
        }
        Ok(all)
    }

    /// The read-only REST catalog, to be nested, for instance under `/iceberg`.
    pub fn router(&self) -> axum::Router {
        rest::router(Arc::clone(&self.catalog), self.config.clone())
    }

    async fn create(
        &self,
        ident: &TableIdent,
        table: Table,
        ledger_id: &str,
    ) -> iceberg::Result<iceberg::table::Table> {
        let namespace = ident.namespace();
        if !self.catalog.namespace_exists(namespace).await? {
            match self.catalog.create_namespace(namespace, HashMap::new()).await {
                Err(e) if e.kind() != ErrorKind::NamespaceAlreadyExists => return Err(e),
                _ => {}
            }
        }
        let location = format!("{}/{}/{}", self.warehouse, namespace.join("/"), ident.name());
        match self.catalog.create_table(namespace, schema::creation(table, ledger_id, location)?).await {
            // Somebody else was quicker: it is theirs, and the look says so.
            Err(e) if e.kind() == ErrorKind::TableAlreadyExists => self.catalog.load_table(ident).await,
            other => other,
        }
    }
}

fn ident(namespace: &Namespace, table: Table) -> TableIdent {
    TableIdent::new(NamespaceIdent::new(namespace.as_str().to_owned()), table.name().to_owned())
}

/// Access to the warehouse's files, and what engines are told of it.
fn storage(warehouse: &str, s3: &S3Access) -> anyhow::Result<(FileIO, BTreeMap<String, String>)> {
    match warehouse.split_once("://") {
        Some(("s3", rest)) if !rest.is_empty() => {
            if s3.access_key_id.is_some() != s3.secret_access_key.is_some() {
                bail!("warehouse {warehouse}: give both access key id and secret, or neither");
            }
            let factory = OpenDalStorageFactory::S3 { customized_credential_load: None };
            Ok((FileIOBuilder::new(Arc::new(factory)).with_props(s3.private()).build(), s3.public()))
        }
        Some(("file", rest)) if rest.starts_with('/') => {
            Ok((FileIOBuilder::new(Arc::new(LocalFsStorageFactory)).build(), BTreeMap::new()))
        }
        _ => bail!("invalid warehouse {warehouse:?}: expected s3://bucket/prefix or file:///folder"),
    }
}

#[cfg(test)]
mod tests;
