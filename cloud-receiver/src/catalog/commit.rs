//! The exactly-once commit: decide from a look whether batch n is to be committed, then append it to that very look.
//!
//! A batch is one transaction that appends its files and sets `tributary.batch = n`: whoever looks later sees both or
//! neither. The caller holds the batch in its ledger before, and goes on like this until it is settled:
//!
//! 1. look; 2. [`decide`]: *settled* is recorded, *stop* is shown to people; 3. *commit*: [`Lake::commit`], whose
//!    conflict or unknown outcome leads back to 1.
//!
//! No file is deleted because a commit failed: it may be the one that succeeded.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use iceberg::spec::{DataFile, SortOrder, TableMetadata, Transform};
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use iceberg::{Error, ErrorKind};
use parquet::file::metadata::ParquetMetaData;
use tributary_contract::id::Namespace;
use tributary_contract::table::Table;
use tributary_contract::time::Day;
use uuid::Uuid;

use super::Lake;
use super::data_file::{Placement, data_file};
use super::look::{Lineage, Look, TableFacts};
use super::pinned::Pinned;
use super::schema::{BATCH_PROPERTY, LEDGER_PROPERTY, sort_ids};

/// What the ledger knows of a table while a batch waits for its commit. Read it after the look, or while holding the
/// lease of the table, so that it isn't older than the look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerView {
    /// Id of this ledger.
    pub ledger: String,
    /// The table's id when the ledger first saw it; none if it never did.
    pub uuid: Option<Uuid>,
    /// Number of the batch to be committed, from 1; all before it are settled.
    pub batch: u64,
    /// Snapshot of the batch before; none if there is none, or if it wasn't known when it was settled.
    pub last_snapshot: Option<i64>,
    /// Whether the table as it was looked at holds rows of the batch in question, or there is none that could be
    /// missing; none while nobody looked. See [`Verdict::Unsure`].
    pub holds: Option<bool>,
}

/// What to do with the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Commit it to the table that was looked at.
    Commit,
    /// The table has it: record it as settled.
    Settled {
        /// The snapshot that brought it; one that still holds it if that was expired since.
        snapshot: Option<i64>,
    },
    /// The history that is still listed doesn't say whether `main` holds this batch: see [`Lineage`]. Look for its
    /// rows in the table and decide again. A batch comes in one snapshot, so that one row of it proves it was kept.
    Unsure {
        /// The batch in question: the one to be committed, or the one before.
        batch: u64,
    },
    /// Nothing may be committed to this table until a person has run what the sentence names.
    Stop(StopReason),
}

/// Why a receiver stops for a table. The rows that wait stay in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// Another ledger owns the table, or none.
    #[error(
        "table {table} belongs to ledger {}, this is ledger {ledger}: run `ledger rebuild`",
        .owner.as_deref().unwrap_or("(none)")
    )]
    ForeignLedger {
        /// Namespace and table.
        table: String,
        /// The ledger that owns it; none if another writer created the table.
        owner: Option<String>,
        /// The ledger that asked.
        ledger: String,
    },
    /// The table has a batch that this ledger never formed: the ledger came from a backup.
    #[error(
        "ledger is older than the table: {table} has batch {batch}, the ledger is at batch {ledger_batch}: \
         run `ledger rebuild`"
    )]
    LedgerOlder {
        /// Namespace and table.
        table: String,
        /// Newest batch in the table.
        batch: u64,
        /// Newest batch of the ledger.
        ledger_batch: u64,
    },
    /// The table was dropped and created again.
    #[error(
        "table was recreated: {table} was {was}, now is {is}: run `ledger reregister {table}` to register again what \
         the ledger knows, or `ledger rebuild` to take the table as it is"
    )]
    Recreated {
        /// Namespace and table.
        table: String,
        /// Iceberg's id of the table that the ledger knows.
        was: Uuid,
        /// Iceberg's id of the table in its place.
        is: Uuid,
    },
    /// `main` no longer holds what the ledger had settled.
    #[error(
        "table {table} was rolled back: batch {batch}{} is no longer in `main`: run `ledger reregister {table}` to \
         register it again, or `ledger accept-rollback {table}` to leave it out",
        .snapshot.map(|s| format!(" (snapshot {s})")).unwrap_or_default()
    )]
    RolledBack {
        /// Namespace and table.
        table: String,
        /// The batch that is missing.
        batch: u64,
        /// Its snapshot, where known.
        snapshot: Option<i64>,
    },
}

/// Decides what to do with the batch of `ledger`, given what the table says.
pub fn decide(look: &TableFacts, ledger: &LedgerView) -> Verdict {
    let table = look.name();
    if look.ledger.as_deref() != Some(ledger.ledger.as_str()) {
        let (owner, ledger) = (look.ledger.clone(), ledger.ledger.clone());
        return Verdict::Stop(StopReason::ForeignLedger { table, owner, ledger });
    }
    if let Some(was) = ledger.uuid.filter(|was| *was != look.uuid) {
        return Verdict::Stop(StopReason::Recreated { table, was, is: look.uuid });
    }
    if look.batch > ledger.batch {
        let (batch, ledger_batch) = (look.batch, ledger.batch);
        return Verdict::Stop(StopReason::LedgerOlder { table, batch, ledger_batch });
    }
    if look.batch == ledger.batch {
        let snapshot = look.snapshot_of_batch(ledger.batch);
        let lineage = match snapshot {
            Some(snapshot) => look.lineage(snapshot),
            None if look.snapshot.is_some() => Lineage::Unknown,
            None => Lineage::Stranger,
        };
        return match (lineage, ledger.holds) {
            (Lineage::Ancestor, _) => Verdict::Settled { snapshot },
            (Lineage::Unknown, Some(true)) => Verdict::Settled { snapshot: look.snapshot },
            (Lineage::Unknown, None) => Verdict::Unsure { batch: ledger.batch },
            (Lineage::Stranger, _) | (Lineage::Unknown, Some(false)) => {
                Verdict::Stop(StopReason::RolledBack { table, batch: ledger.batch, snapshot })
            }
        };
    }
    let (batch, snapshot) = (ledger.batch.saturating_sub(1), ledger.last_snapshot);
    let lineage = snapshot.map_or(Lineage::Ancestor, |last| look.lineage(last));
    match (lineage, ledger.holds) {
        _ if look.batch < batch => Verdict::Stop(StopReason::RolledBack { table, batch, snapshot }),
        (Lineage::Ancestor, _) | (Lineage::Unknown, Some(true)) => Verdict::Commit,
        (Lineage::Unknown, None) => Verdict::Unsure { batch },
        (Lineage::Stranger, _) | (Lineage::Unknown, Some(false)) => {
            Verdict::Stop(StopReason::RolledBack { table, batch, snapshot })
        }
    }
}

/// One file of a batch.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Full URI of the object, under the scheme of the warehouse.
    pub uri: String,
    /// Its size in bytes.
    pub size: u64,
    /// Owner of its rows.
    pub namespace: Namespace,
    /// Table of its rows.
    pub table: Table,
    /// UTC day of its rows.
    pub day: Day,
    /// Its Parquet footer.
    pub footer: Arc<ParquetMetaData>,
}

/// A batch that the table has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The snapshot that brought it.
    pub snapshot_id: i64,
}

/// Why no commit was confirmed. What follows for the batch stands at each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another commit landed since the look, perhaps this very batch: look again.
    #[error("another commit landed since the look")]
    Conflict,
    /// It may have happened or not: look again.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Nothing was committed, and the same call would fail again.
    #[error("commit refused: {0}")]
    Refused(String),
}

impl Lake {
    /// Appends `files` to the table as it was looked at and sets its batch to `batch`, in one transaction.
    ///
    /// Call it only after [`decide`] said [`Verdict::Commit`] for this look.
    pub async fn commit(
        &self,
        look: &Look,
        batch: u64,
        files: Vec<NewFile>,
    ) -> Result<Committed, CommitError> {
        let refused = |what: String| CommitError::Refused(format!("{}, batch {batch}: {what}", look.name()));
        if batch.checked_sub(1) != Some(look.batch) {
            return Err(refused(format!("the table is at batch {}", look.batch)));
        }
        let Some(ledger) = look.ledger.clone() else {
            return Err(refused("the table belongs to no ledger".into()));
        };
        let files = data_files(look, &files).map_err(&refused)?;

        let tags = HashMap::from([
            (BATCH_PROPERTY.to_owned(), batch.to_string()),
            (LEDGER_PROPERTY.to_owned(), ledger),
        ]);
        let transaction = Transaction::new(&look.loaded);
        // The library's own check for duplicates reads every manifest, overlooks files that a compaction replaced, and
        // turns a lost reply into a false error. The batch number is the check.
        let append = transaction
            .fast_append()
            .with_check_duplicate(false)
            .set_snapshot_properties(tags)
            .add_data_files(files);
        let number = transaction.update_table_properties().set(BATCH_PROPERTY.to_owned(), batch.to_string());
        let transaction = append
            .apply(transaction)
            .and_then(|transaction| number.apply(transaction))
            .map_err(|e| refused(e.to_string()))?;

        let pinned = Pinned::new(look.loaded.clone(), Arc::clone(&self.catalog));
        match transaction.commit(&pinned).await {
            Ok(table) => match table.metadata().current_snapshot_id() {
                Some(snapshot_id) => Ok(Committed { snapshot_id }),
                None => {
                    Err(CommitError::Unknown("the catalog answered with a table without snapshot".into()))
                }
            },
            Err(e) => Err(classify(&e, pinned.forwarded())),
        }
    }
}

/// What a failed commit means, by where it failed: an update that was passed on may have taken effect.
fn classify(error: &Error, forwarded: bool) -> CommitError {
    match (error.kind(), forwarded) {
        (ErrorKind::CatalogCommitConflicts, _) => CommitError::Conflict,
        (ErrorKind::DataInvalid | ErrorKind::FeatureUnsupported | ErrorKind::PreconditionFailed, false) => {
            CommitError::Refused(error.to_string())
        }
        _ => CommitError::Unknown(error.to_string()),
    }
}

/// The data files of a batch, or the sentence why they can't be appended to this table.
fn data_files(look: &Look, files: &[NewFile]) -> Result<Vec<DataFile>, String> {
    if files.is_empty() {
        return Err("has no files".into());
    }
    let metadata = look.loaded.metadata();
    let kind = look.table;
    let partition_spec_id = partition_spec_id(metadata, kind)?;
    let sort_order_id = sort_order_id(metadata, kind);
    let mut uris = BTreeSet::new();
    files
        .iter()
        .map(|file| {
            if file.table != kind || file.namespace != look.namespace {
                return Err(format!("{} is a file of {}.{}", file.uri, file.namespace, file.table));
            }
            if !uris.insert(&file.uri) {
                return Err(format!("{} is named twice", file.uri));
            }
            let placement = Placement {
                uri: &file.uri,
                size: file.size,
                table: file.table,
                day: file.day,
                partition_spec_id,
                sort_order_id,
            };
            data_file(&file.footer, &placement).map_err(|e| e.to_string())
        })
        .collect()
}

/// Id of the partition spec, if it is still `day(first column)`: the only one that a segment is one partition of.
fn partition_spec_id(metadata: &TableMetadata, table: Table) -> Result<i32, String> {
    let spec = metadata.default_partition_spec();
    match spec.fields() {
        [day] if day.source_id == table.day_column().id && day.transform == Transform::Day => {
            Ok(spec.spec_id())
        }
        other => Err(format!(
            "the table's partition spec was changed to {other:?}: set it back to day({})",
            table.day_column().name
        )),
    }
}

/// Id of the sort order, if it still begins as the contract's does.
fn sort_order_id(metadata: &TableMetadata, table: Table) -> Option<i32> {
    let order: &SortOrder = metadata.default_sort_order();
    let ours = order.fields.iter().map(|f| f.source_id).eq(sort_ids(table));
    ours.then(|| i32::try_from(order.order_id).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::look::tests::facts;
    use super::*;

    fn view(batch: u64, last_snapshot: Option<i64>) -> LedgerView {
        LedgerView { ledger: "l".into(), uuid: Some(Uuid::from_u128(7)), batch, last_snapshot, holds: None }
    }

    /// A table with batches 1 and 2 in snapshots 10 and 20.
    fn two_batches() -> TableFacts {
        facts(2, &[(20, Some(10), 2), (10, None, 1)])
    }

    fn stop(look: &TableFacts, view: &LedgerView) -> String {
        match decide(look, view) {
            Verdict::Stop(reason) => reason.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_next_batch_is_committed() {
        assert_eq!(decide(&facts(0, &[]), &view(1, None)), Verdict::Commit);
        assert_eq!(decide(&two_batches(), &view(3, Some(20))), Verdict::Commit);
        let unseen = LedgerView { uuid: None, ..view(1, None) };
        assert_eq!(decide(&facts(0, &[]), &unseen), Verdict::Commit);
    }

    #[test]
    fn a_batch_that_the_table_has_is_settled_even_after_its_snapshot_was_expired() {
        assert_eq!(decide(&two_batches(), &view(2, Some(10))), Verdict::Settled { snapshot: Some(20) });
        let compacted = facts(2, &[(40, Some(30), 0), (30, Some(20), 0)]);
        assert_eq!(decide(&compacted, &view(2, Some(10))), Verdict::Unsure { batch: 2 });
        let found = LedgerView { holds: Some(true), ..view(2, Some(10)) };
        assert_eq!(decide(&compacted, &found), Verdict::Settled { snapshot: Some(40) });
        let gone = LedgerView { holds: Some(false), ..view(2, Some(10)) };
        assert!(stop(&compacted, &gone).contains("batch 2 is no longer in `main`"));
    }

    #[test]
    fn a_compaction_on_top_of_the_last_batch_is_no_rollback() {
        let compacted = facts(2, &[(30, Some(20), 0), (20, Some(10), 2), (10, None, 1)]);
        assert_eq!(decide(&compacted, &view(3, Some(20))), Verdict::Commit);
    }

    #[test]
    fn a_foreign_ledger_stops_the_table() {
        let view = LedgerView { ledger: "mine".into(), ..view(3, Some(20)) };
        let sentence = stop(&two_batches(), &view);
        assert_eq!(
            sentence,
            "table tributary.readings belongs to ledger l, this is ledger mine: run `ledger rebuild`"
        );
        let mut nobodys = two_batches();
        nobodys.ledger = None;
        assert!(stop(&nobodys, &view).contains("belongs to ledger (none)"));
    }

    #[test]
    fn a_ledger_from_a_backup_stops_the_table() {
        let sentence = stop(&two_batches(), &view(1, None));
        assert!(sentence.starts_with("ledger is older than the table"), "{sentence}");
        assert!(sentence.ends_with("run `ledger rebuild`"), "{sentence}");
    }

    #[test]
    fn a_recreated_table_stops() {
        let mut other = facts(0, &[]);
        other.uuid = Uuid::from_u128(8);
        assert!(stop(&other, &view(3, Some(20))).starts_with("table was recreated"));
    }

    #[test]
    fn a_rollback_stops_before_and_after_the_next_batch() {
        let back = facts(2, &[(10, None, 1), (20, Some(10), 2)]);
        for view in
            [view(3, Some(20)), LedgerView { holds: Some(true), ..view(3, Some(20)) }, view(2, Some(10))]
        {
            let sentence = stop(&back, &view);
            assert!(sentence.contains("batch 2 (snapshot 20)"), "{sentence}");
            assert!(sentence.contains("`ledger reregister tributary.readings`"), "{sentence}");
            assert!(sentence.contains("`ledger accept-rollback tributary.readings`"), "{sentence}");
        }
    }

    #[test]
    fn a_snapshot_that_was_expired_is_no_rollback_while_the_table_holds_its_rows() {
        let later = facts(2, &[(50, Some(40), 0)]);
        assert_eq!(decide(&later, &view(3, Some(20))), Verdict::Unsure { batch: 2 });
        let found = LedgerView { holds: Some(true), ..view(3, Some(20)) };
        assert_eq!(decide(&later, &found), Verdict::Commit);
        let gone = LedgerView { holds: Some(false), ..view(3, Some(20)) };
        assert!(stop(&later, &gone).contains("rolled back"));
        // A line that is listed to its beginning needs no look at the data, whatever lies there.
        let whole = facts(2, &[(50, Some(10), 0), (10, None, 1)]);
        assert!(stop(&whole, &found).contains("rolled back"));
    }

    #[test]
    fn a_table_behind_the_ledger_was_rolled_back() {
        assert!(stop(&facts(1, &[(10, None, 1)]), &view(3, None)).contains("rolled back"));
    }

    #[test]
    fn only_an_update_that_was_never_passed_on_can_be_refused() {
        let error = |kind| Error::new(kind, "x");
        assert!(matches!(classify(&error(ErrorKind::DataInvalid), false), CommitError::Refused(_)));
        assert!(matches!(classify(&error(ErrorKind::DataInvalid), true), CommitError::Unknown(_)));
        assert!(matches!(classify(&error(ErrorKind::Unexpected), false), CommitError::Unknown(_)));
        assert_eq!(classify(&error(ErrorKind::CatalogCommitConflicts), true), CommitError::Conflict);
    }
}
