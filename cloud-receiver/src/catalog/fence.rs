//! Takes a table over for a ledger, so that no commit decided before can land any more.
//!
//! A property alone fences nothing: a receiver that looked before it was set may commit after it, for catalogs compare
//! `main`, not properties. An empty append moves `main`; every commit that was pinned to an earlier look is a conflict
//! from then on, and who looks again sees whose table it is.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use iceberg::ErrorKind;
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use tributary_contract::id::Namespace;
use tributary_contract::table::Table;

use super::look::{Look, TableFacts};
use super::pinned::Pinned;
use super::schema::{BATCH_PROPERTY, LEDGER_PROPERTY};
use super::{Lake, ident};

/// Key in the summary of the snapshot that moved `main` for a ledger: that ledger's id.
pub const FENCE_PROPERTY: &str = "tributary.fence";

/// How often it is tried while others commit.
const ATTEMPTS: usize = 16;

impl Lake {
    /// Looks at a table without creating it. A batch property that is no number is read as [`TableFacts::read_repaired`]
    /// does.
    pub async fn peek(&self, namespace: &Namespace, table: Table) -> anyhow::Result<Option<Look>> {
        let ident = ident(namespace, table);
        match self.catalog.load_table(&ident).await {
            Ok(loaded) => {
                let facts = TableFacts::read_repaired(namespace.clone(), table, loaded.metadata());
                Ok(Some(Look::new(facts, loaded)))
            }
            Err(e) if matches!(e.kind(), ErrorKind::TableNotFound | ErrorKind::NamespaceNotFound) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("table {ident}")),
        }
    }

    /// The names of all tables of the contract that the catalog has, in the order of their names.
    pub async fn names(&self) -> anyhow::Result<Vec<(Namespace, Table)>> {
        let mut all = Vec::new();
        for namespace in self.catalog.list_namespaces(None).await? {
            let [name] = &namespace[..] else { continue };
            let Ok(owner) = Namespace::new(name.as_str()) else { continue };
            for ident in self.catalog.list_tables(&namespace).await? {
                if let Ok(table) = ident.name().parse::<Table>() {
                    all.push((owner.clone(), table));
                }
            }
        }
        Ok(all)
    }

    /// Gives the table to `ledger` and returns a look at it from after that. A table that is `ledger`'s already was
    /// fenced when it became so: nothing is committed. The number of the newest batch stays.
    pub async fn fence(&self, namespace: &Namespace, table: Table, ledger: &str) -> anyhow::Result<Look> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let Some(look) = self.peek(namespace, table).await? else {
                bail!("table {namespace}.{table} was dropped just now: run the same command again")
            };
            if look.ledger.as_deref() == Some(ledger) {
                return Ok(look);
            }
            let transaction = Transaction::new(&look.loaded);
            let summary = HashMap::from([(FENCE_PROPERTY.to_owned(), ledger.to_owned())]);
            let append =
                transaction.fast_append().with_check_duplicate(false).set_snapshot_properties(summary);
            let owner = transaction
                .update_table_properties()
                .set(LEDGER_PROPERTY.to_owned(), ledger.to_owned())
                .set(BATCH_PROPERTY.to_owned(), look.batch.to_string());
            let transaction = append.apply(transaction).and_then(|t| owner.apply(t))?;
            let pinned = Pinned::new(look.loaded.clone(), Arc::clone(&self.catalog));
            // Whatever the outcome: the next look says whether it landed.
            if let Err(e) = transaction.commit(&pinned).await {
                last = e.to_string();
            }
        }
        bail!("table {namespace}.{table} could not be taken over: {last}: run the same command again")
    }
}
