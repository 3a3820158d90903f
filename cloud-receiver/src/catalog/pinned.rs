//! A catalog for one commit: shows the table as it was looked at, and passes one update on, once.
//!
//! The library's `Transaction::commit` loads the table anew, rebases onto whatever it finds, and repeats itself after
//! errors that call themselves retryable. Each of these would append a batch twice: the first when the batch landed
//! between look and commit, the second when only the reply was lost. Behind this wrapper the commit either applies to
//! the metadata that was looked at or is a conflict.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use iceberg::table::Table;
use iceberg::{
    Catalog, Error, ErrorKind, Namespace, NamespaceIdent, Result, TableCommit, TableCreation, TableIdent,
};

/// The wrapper. Good for one transaction on the table that it holds.
#[derive(Debug)]
pub struct Pinned {
    looked: Table,
    inner: Arc<dyn Catalog>,
    forwarded: AtomicBool,
}

impl Pinned {
    /// Pins `looked`, a table of `inner`.
    pub fn new(looked: Table, inner: Arc<dyn Catalog>) -> Self {
        Self { looked, inner, forwarded: AtomicBool::new(false) }
    }

    /// Whether an update was passed on: if not, nothing can have been committed.
    pub fn forwarded(&self) -> bool {
        self.forwarded.load(Ordering::SeqCst)
    }
}

fn refuse<T>(what: &str) -> Result<T> {
    Err(Error::new(
        ErrorKind::FeatureUnsupported,
        format!("{what}: a pinned catalog only commits to its table"),
    ))
}

#[async_trait]
impl Catalog for Pinned {
    async fn load_table(&self, table: &TableIdent) -> Result<Table> {
        if table == self.looked.identifier() { Ok(self.looked.clone()) } else { refuse("load_table") }
    }

    async fn update_table(&self, commit: TableCommit) -> Result<Table> {
        if commit.identifier() != self.looked.identifier() {
            return refuse("update_table");
        }
        if self.forwarded.swap(true, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unexpected, "the update was already passed on once"));
        }
        self.inner.update_table(commit).await.map_err(|e| e.with_retryable(false))
    }

    async fn list_namespaces(&self, _: Option<&NamespaceIdent>) -> Result<Vec<NamespaceIdent>> {
        refuse("list_namespaces")
    }

    async fn create_namespace(&self, _: &NamespaceIdent, _: HashMap<String, String>) -> Result<Namespace> {
        refuse("create_namespace")
    }

    async fn get_namespace(&self, _: &NamespaceIdent) -> Result<Namespace> {
        refuse("get_namespace")
    }

    async fn namespace_exists(&self, _: &NamespaceIdent) -> Result<bool> {
        refuse("namespace_exists")
    }

    async fn update_namespace(&self, _: &NamespaceIdent, _: HashMap<String, String>) -> Result<()> {
        refuse("update_namespace")
    }

    async fn drop_namespace(&self, _: &NamespaceIdent) -> Result<()> {
        refuse("drop_namespace")
    }

    async fn list_tables(&self, _: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        refuse("list_tables")
    }

    async fn create_table(&self, _: &NamespaceIdent, _: TableCreation) -> Result<Table> {
        refuse("create_table")
    }

    async fn drop_table(&self, _: &TableIdent) -> Result<()> {
        refuse("drop_table")
    }

    async fn purge_table(&self, _: &TableIdent) -> Result<()> {
        refuse("purge_table")
    }

    async fn table_exists(&self, _: &TableIdent) -> Result<bool> {
        refuse("table_exists")
    }

    async fn rename_table(&self, _: &TableIdent, _: &TableIdent) -> Result<()> {
        refuse("rename_table")
    }

    async fn register_table(&self, _: &TableIdent, _: String) -> Result<Table> {
        refuse("register_table")
    }
}
