//! A table as it stood at one moment: the facts from which a commit is decided, and the metadata it is pinned to.

use std::collections::BTreeMap;
use std::ops::Deref;

use iceberg::spec::TableMetadata;
use tributary_contract::id::Namespace;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;
use uuid::Uuid;

use super::schema::{BATCH_PROPERTY, LEDGER_PROPERTY};

/// What the listed history of `main` says of a snapshot.
///
/// Expiry takes snapshots out of the metadata, and a snapshot that isn't listed any more can have gone in two ways: it
/// was an ancestor of `main` and any engine expired it, or somebody moved `main` back behind it and expired it then.
/// Parents and sequence numbers tell the two apart only as far back as the line of parents is listed without a break.
/// `snapshot-log` is no help: it is cut at the last expired entry. `tributary.batch` is none either: moving `main` back
/// leaves properties as they are. So behind a break only the data can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// It is the head of `main` or an ancestor of it.
    Ancestor,
    /// It is not: the line of parents was followed to its beginning, or `main` has no snapshot.
    Stranger,
    /// The line breaks off at an expired snapshot before it was found.
    Unknown,
}

/// What a table's metadata says, as far as the receiver asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Which of the six tables.
    pub table: Table,
    /// Iceberg's id of this table: another one after it was dropped and created again.
    pub uuid: Uuid,
    /// Id of the ledger that may commit; none if another writer created the table.
    pub ledger: Option<String>,
    /// Number of the newest committed batch; 0 before the first.
    pub batch: u64,
    /// Snapshot at the head of `main`; none before the first commit.
    pub snapshot: Option<i64>,
    /// Rows in that snapshot, where its summary says so.
    pub rows: Option<u64>,
    /// Data files in that snapshot, where its summary says so.
    pub files: Option<u64>,
    /// Bytes of those files, where the summary says so.
    pub bytes: Option<u64>,
    /// When that snapshot was committed.
    pub committed_at: Option<Timestamp>,
    /// Snapshots that the metadata still lists, with their parents.
    parents: BTreeMap<i64, Option<i64>>,
    /// Snapshots whose summary names a batch of the table's ledger.
    batches: BTreeMap<i64, u64>,
}

/// A property that isn't what only the receiver writes there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("table {table}: property `tributary.batch` is {got:?}, expected a number; run `ledger rebuild`")]
pub struct BatchPropertyError {
    /// Namespace and table.
    pub table: String,
    /// What was got.
    pub got: String,
}

impl TableFacts {
    /// As [`TableFacts::read`], but a property `tributary.batch` that is no number counts as the greatest batch that a
    /// listed snapshot names: for the rebuild, which sets it right.
    pub fn read_repaired(namespace: Namespace, table: Table, metadata: &TableMetadata) -> Self {
        let number = |text: Option<&String>| text.and_then(|t| t.parse::<u64>().ok());
        let named = metadata
            .snapshots()
            .filter_map(|s| number(s.summary().additional_properties.get(BATCH_PROPERTY)));
        let batch = number(metadata.properties().get(BATCH_PROPERTY));
        Self::with_batch(namespace, table, metadata, batch.or(named.max()).unwrap_or_default())
    }

    /// Reads the facts out of `metadata`.
    pub fn read(
        namespace: Namespace,
        table: Table,
        metadata: &TableMetadata,
    ) -> Result<Self, BatchPropertyError> {
        let batch = match metadata.properties().get(BATCH_PROPERTY).cloned() {
            None => 0,
            Some(got) => {
                got.parse().map_err(|_| BatchPropertyError { table: format!("{namespace}.{table}"), got })?
            }
        };
        Ok(Self::with_batch(namespace, table, metadata, batch))
    }

    fn with_batch(namespace: Namespace, table: Table, metadata: &TableMetadata, batch: u64) -> Self {
        let ledger = metadata.properties().get(LEDGER_PROPERTY).cloned();
        let head = metadata.current_snapshot();
        let total = |key: &str| head?.summary().additional_properties.get(key)?.parse().ok();
        let batches = metadata.snapshots().filter_map(|s| {
            let summary = &s.summary().additional_properties;
            let batch = summary.get(BATCH_PROPERTY)?.parse().ok()?;
            (summary.get(LEDGER_PROPERTY) == ledger.as_ref()).then_some((s.snapshot_id(), batch))
        });
        Self {
            uuid: metadata.uuid(),
            batch,
            snapshot: metadata.current_snapshot_id(),
            rows: total("total-records"),
            files: total("total-data-files"),
            bytes: total("total-files-size"),
            committed_at: head.map(|s| Timestamp::from_millis(s.timestamp_ms())),
            parents: metadata.snapshots().map(|s| (s.snapshot_id(), s.parent_snapshot_id())).collect(),
            batches: batches.collect(),
            namespace,
            table,
            ledger,
        }
    }

    /// `namespace.table`, as people and engines write it.
    pub fn name(&self) -> String {
        format!("{}.{}", self.namespace, self.table)
    }

    /// Whether the metadata still lists this snapshot.
    pub fn snapshot_exists(&self, snapshot: i64) -> bool {
        self.parents.contains_key(&snapshot)
    }

    /// What the listed history of `main` says of `snapshot`.
    pub fn lineage(&self, snapshot: i64) -> Lineage {
        let mut at = self.snapshot;
        // No more steps than snapshots: metadata that runs in a circle ends too.
        for _ in 0..=self.parents.len() {
            match at {
                Some(id) if id == snapshot => return Lineage::Ancestor,
                Some(id) => match self.parents.get(&id) {
                    Some(parent) => at = *parent,
                    None => return Lineage::Unknown,
                },
                None => return Lineage::Stranger,
            }
        }
        Lineage::Stranger
    }

    /// Whether `snapshot` is the head of `main` or one of its listed ancestors.
    pub fn is_ancestor_of_main(&self, snapshot: i64) -> bool {
        self.lineage(snapshot) == Lineage::Ancestor
    }

    /// The listed snapshot that brought `batch`, an ancestor of `main` before any other; none once it was expired.
    pub fn snapshot_of_batch(&self, batch: u64) -> Option<i64> {
        let mut found = self.batches.iter().filter(|(_, b)| **b == batch).map(|(s, _)| *s).peekable();
        let first = found.peek().copied();
        found.find(|s| self.is_ancestor_of_main(*s)).or(first)
    }
}

/// One look at a table. A commit made with it applies to exactly this state or is a conflict.
#[derive(Debug, Clone)]
pub struct Look {
    facts: TableFacts,
    /// The loaded table: metadata, its location, and access to its files.
    pub(super) loaded: iceberg::table::Table,
}

impl Look {
    pub(super) fn new(facts: TableFacts, loaded: iceberg::table::Table) -> Self {
        Self { facts, loaded }
    }
}

impl Deref for Look {
    type Target = TableFacts;
    fn deref(&self) -> &TableFacts {
        &self.facts
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Facts of a table of ledger `l` with a line of snapshots, each with its parent and batch; the first is `main`.
    pub(crate) fn facts(batch: u64, snapshots: &[(i64, Option<i64>, u64)]) -> TableFacts {
        TableFacts {
            namespace: Namespace::default(),
            table: Table::Readings,
            uuid: Uuid::from_u128(7),
            ledger: Some("l".into()),
            batch,
            snapshot: snapshots.first().map(|s| s.0),
            rows: None,
            files: None,
            bytes: None,
            committed_at: None,
            parents: snapshots.iter().map(|(id, parent, _)| (*id, *parent)).collect(),
            batches: snapshots.iter().filter(|s| s.2 > 0).map(|(id, _, batch)| (*id, *batch)).collect(),
        }
    }

    #[test]
    fn ancestors_end_at_an_expired_parent_and_side_branches_are_none() {
        let look = facts(3, &[(30, Some(20), 3), (20, Some(10), 2), (25, Some(20), 0)]);
        assert!(look.is_ancestor_of_main(30) && look.is_ancestor_of_main(20));
        assert!(look.is_ancestor_of_main(10), "named as a parent, though no longer listed");
        assert!(!look.snapshot_exists(10));
        assert!(!look.is_ancestor_of_main(25) && look.snapshot_exists(25));
        let lines = [30, 20, 10, 25, 9].map(|s| look.lineage(s));
        use Lineage::{Ancestor, Unknown};
        assert_eq!(lines, [Ancestor, Ancestor, Ancestor, Unknown, Unknown], "the line breaks off below 10");
        let whole = facts(3, &[(30, Some(20), 3), (20, None, 2), (25, Some(20), 0)]);
        assert_eq!(
            [25, 9].map(|s| whole.lineage(s)),
            [Lineage::Stranger; 2],
            "it was followed to its beginning"
        );
        assert_eq!(facts(3, &[]).lineage(9), Lineage::Stranger, "`main` is empty");
        assert_eq!((look.snapshot_of_batch(2), look.snapshot_of_batch(1)), (Some(20), None));
    }

    #[test]
    fn metadata_that_runs_in_a_circle_is_read_to_its_end() {
        assert!(!facts(2, &[(2, Some(1), 2), (1, Some(2), 1)]).is_ancestor_of_main(9));
    }
}
