//! Batches in the ledger: formed with a number and fixed files, settled with a snapshot; n + 1 not before n.

use std::collections::BTreeSet;

use rusqlite::{Transaction, params};
use tributary_contract::id::{Epoch, GatewayId, Namespace};
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;
use uuid::Uuid;

use super::ledger::{Ledger, LedgerError, int, optional, parsed, parsed_opt, uint};
use super::own_gaps::{self, OwnGap};
use super::segments::{change_ranges, receipt_due};

/// The word for how a segment was registered while it is a data file itself.
const IN_PLACE: &str = "in-place";

/// A table by its two names.
pub type TableName = (Namespace, Table);

/// A batch whose number and files are fixed, and which isn't settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Table.
    pub table: Table,
    /// Its number, from 1.
    pub n: u64,
    /// Its segments.
    pub files: Vec<BatchFile>,
    /// Rows that the receiver itself writes; only in batches of `gaps`.
    pub gaps: Vec<OwnGap>,
}

/// One checked segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFile {
    /// Row in the ledger.
    pub row: i64,
    /// The object's key.
    pub object_key: String,
    /// The bucket's name for its bytes; empty once it was found gone.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// What the ledger knows of a table while a batch waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The table's id at the last settled batch.
    pub uuid: Option<Uuid>,
    /// Number of the last settled batch; 0 before the first.
    pub batch: u64,
    /// Its snapshot.
    pub snapshot: Option<i64>,
}

/// A table as page and API show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Table.
    pub table: Table,
    /// Last settled batch.
    pub batch: u64,
    /// Its snapshot.
    pub snapshot: Option<i64>,
    /// Rows registered by this ledger.
    pub rows: u64,
    /// Segments registered by this ledger.
    pub files: u64,
    /// Segments that are checked or batched.
    pub waiting: u64,
    /// When the last batch was settled.
    pub settled_at: Option<Timestamp>,
    /// Why nothing more is registered, if so.
    pub stopped: Option<String>,
}

impl Ledger {
    /// Tables that have something to do: an open batch, `max_files` checked segments, one checked before `before`, or
    /// rows of the receiver's own.
    pub fn due_tables(&self, max_files: usize, before: Timestamp) -> Result<Vec<TableName>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT namespace, tbl FROM batches WHERE state = 'formed'
             UNION
             SELECT namespace, tbl FROM segments WHERE state = 'checked' GROUP BY namespace, tbl
             HAVING count(*) >= ?1 OR min(checked_at) <= ?2
             UNION
             SELECT namespace, 'gaps' FROM own_gaps WHERE state = 'waiting'",
        )?;
        let rows = query
            .query_map(params![int(max_files as u64), before.0], |r| Ok((parsed(r, 0)?, parsed(r, 1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The oldest checked segments of a table, at most `limit`.
    pub fn candidates(
        &self,
        namespace: &Namespace,
        table: Table,
        limit: usize,
    ) -> Result<Vec<BatchFile>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT id, key, etag, size FROM segments WHERE state = 'checked' AND namespace = ?1 AND tbl = ?2
             ORDER BY checked_at, id LIMIT ?3",
        )?;
        let rows =
            query.query_map(params![namespace.as_str(), table.name(), int(limit as u64)], batch_file)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Takes back that a checked segment is there: it was gone when its batch was to be formed. Its gateway is told.
    pub fn forget_checked(&mut self, row: i64) -> Result<(), LedgerError> {
        let tx = self.db.transaction()?;
        let gateway: Option<GatewayId> = optional(tx.query_row(
            "SELECT gateway FROM segments WHERE id = ?1 AND state = 'checked'",
            [row],
            |r| parsed(r, 0),
        ))?;
        if let Some(gateway) = gateway {
            tx.execute("DELETE FROM segments WHERE id = ?1", [row])?;
            receipt_due(&tx, &gateway)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// Notes that a batched segment is gone. Its gateway is told, and sends the same bytes again.
    pub fn miss_batched(&mut self, row: i64) -> Result<(), LedgerError> {
        let tx = self.db.transaction()?;
        let gateway: Option<GatewayId> = optional(tx.query_row(
            "SELECT gateway FROM segments WHERE id = ?1 AND state = 'batched' AND etag <> ''",
            [row],
            |r| parsed(r, 0),
        ))?;
        if let Some(gateway) = gateway {
            // No writing has this etag, so that the next listing that shows the object counts as a new writing.
            tx.execute("UPDATE segments SET etag = '' WHERE id = ?1", [row])?;
            receipt_due(&tx, &gateway)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// The open batch of a table.
    pub fn open_batch(&self, namespace: &Namespace, table: Table) -> Result<Option<Batch>, LedgerError> {
        let n: Option<i64> = optional(
            self.db
                .prepare_cached(
                    "SELECT n FROM batches WHERE namespace = ?1 AND tbl = ?2 AND state = 'formed'",
                )?
                .query_row(params![namespace.as_str(), table.name()], |row| row.get(0)),
        )?;
        let Some(n) = n else { return Ok(None) };
        let mut query = self.db.prepare_cached(
            "SELECT id, key, etag, size FROM segments
             WHERE namespace = ?1 AND tbl = ?2 AND batch = ?3 AND state = 'batched' ORDER BY id",
        )?;
        let files = query.query_map(params![namespace.as_str(), table.name(), n], batch_file)?;
        let files = files.collect::<Result<_, _>>()?;
        let gaps = match table {
            Table::Gaps => own_gaps::of_batch(&self.db, namespace, n)?,
            _ => Vec::new(),
        };
        Ok(Some(Batch { namespace: namespace.clone(), table, n: uint(n), files, gaps }))
    }

    /// Forms the next batch of a table from checked segments and returns its number. From here on its files are fixed:
    /// a commit whose reply was lost may hold exactly these.
    pub fn form_batch(
        &mut self,
        namespace: &Namespace,
        table: Table,
        rows: &[i64],
        now: Timestamp,
    ) -> Result<u64, LedgerError> {
        let tx = self.db.transaction()?;
        let name = (namespace.as_str(), table.name());
        tx.execute("INSERT OR IGNORE INTO tables (namespace, tbl) VALUES (?1, ?2)", name)?;
        let last: i64 =
            tx.query_row("SELECT batch FROM tables WHERE namespace = ?1 AND tbl = ?2", name, |row| {
                row.get(0)
            })?;
        let n = last + 1;
        tx.execute(
            "INSERT INTO batches (namespace, tbl, n, state, formed_at) VALUES (?1, ?2, ?3, 'formed', ?4)",
            params![name.0, name.1, n, now.0],
        )?;
        for row in rows {
            tx.prepare_cached(
                "UPDATE segments SET state = 'batched', batch = ?2
                 WHERE id = ?1 AND state = 'checked' AND namespace = ?3 AND tbl = ?4",
            )?
            .execute(params![row, n, name.0, name.1])?;
        }
        if table == Table::Gaps {
            own_gaps::batch(&tx, namespace, n)?;
        }
        tx.commit()?;
        Ok(uint(n))
    }

    /// What is known of a table.
    pub fn known(&self, namespace: &Namespace, table: Table) -> Result<Known, LedgerError> {
        let known = self
            .db
            .prepare_cached("SELECT uuid, batch, snapshot FROM tables WHERE namespace = ?1 AND tbl = ?2")?
            .query_row(params![namespace.as_str(), table.name()], |row| {
                Ok(Known { uuid: parsed_opt(row, 0)?, batch: uint(row.get(1)?), snapshot: row.get(2)? })
            });
        Ok(optional(known)?.unwrap_or_default())
    }

    /// Records that the table has batch `n`. In the same transaction the receipts of its gateways become due.
    pub fn settle(
        &mut self,
        namespace: &Namespace,
        table: Table,
        n: u64,
        snapshot: Option<i64>,
        uuid: Uuid,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let tx = self.db.transaction()?;
        let name = params![namespace.as_str(), table.name(), int(n), snapshot, uuid.to_string(), now.0];
        let open = tx.execute(
            "UPDATE batches SET state = 'settled', snapshot = ?4, uuid = ?5, settled_at = ?6
             WHERE namespace = ?1 AND tbl = ?2 AND n = ?3 AND state = 'formed'",
            name,
        )?;
        if open == 0 {
            return Ok(());
        }
        let members = members(&tx, namespace, table, n)?;
        let own = match table {
            Table::Gaps => own_gaps::of_batch(&tx, namespace, int(n))?,
            _ => Vec::new(),
        };
        if table == Table::Gaps {
            own_gaps::settle(&tx, namespace, int(n))?;
        }
        let own_files = own.iter().map(|g| g.from_ts.day()).collect::<BTreeSet<_>>().len();
        let rows = members.iter().fold(own.len() as u64, |sum, m| sum.saturating_add(m.rows));
        tx.execute(
            "UPDATE tables SET batch = ?3, snapshot = ?4, uuid = ?5, settled_at = ?6, stopped = NULL,
                    rows = rows + ?7, files = files + ?8
             WHERE namespace = ?1 AND tbl = ?2",
            params![
                namespace.as_str(),
                table.name(),
                int(n),
                snapshot,
                uuid.to_string(),
                now.0,
                int(rows),
                int((members.len() + own_files) as u64)
            ],
        )?;
        tx.execute(
            "UPDATE segments SET state = 'registered', snapshot = ?4, how = ?5, settled_at = ?6
             WHERE namespace = ?1 AND tbl = ?2 AND batch = ?3 AND state = 'batched'",
            params![namespace.as_str(), table.name(), int(n), snapshot, IN_PLACE, now.0],
        )?;
        note_registered(&tx, &members)?;
        tx.commit()?;
        Ok(())
    }

    /// The segments of the newest batch of a table that is in it, as far as the ledger knows; at most a batch's worth of
    /// those that a rebuild found. Any of them in the table shows that this batch is.
    pub fn newest_batch(&self, namespace: &Namespace, table: Table) -> Result<Vec<String>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT key FROM segments s, (
               SELECT batch, settled_at FROM segments
               WHERE namespace = ?1 AND tbl = ?2 AND state = 'registered' AND how NOT IN ('left-out', 'accepted')
               ORDER BY settled_at DESC, batch DESC LIMIT 1) newest
             WHERE namespace = ?1 AND tbl = ?2 AND state = 'registered' AND how NOT IN ('left-out', 'accepted')
               AND s.batch IS newest.batch AND s.settled_at IS newest.settled_at
             LIMIT 10000",
        )?;
        let rows = query.query_map(params![namespace.as_str(), table.name()], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes why a table stands still.
    pub fn stop_table(
        &mut self,
        namespace: &Namespace,
        table: Table,
        sentence: &str,
    ) -> Result<(), LedgerError> {
        self.db.execute(
            "INSERT INTO tables (namespace, tbl, stopped) VALUES (?1, ?2, ?3)
             ON CONFLICT (namespace, tbl) DO UPDATE SET stopped = excluded.stopped",
            params![namespace.as_str(), table.name(), sentence],
        )?;
        Ok(())
    }

    /// At a start each table gets another look.
    pub fn clear_stops(&mut self) -> Result<(), LedgerError> {
        self.db.execute("UPDATE tables SET stopped = NULL", [])?;
        Ok(())
    }

    /// All tables that were ever batched for, by name.
    pub fn tables(&self) -> Result<Vec<TableState>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.namespace, t.tbl, t.batch, t.snapshot, t.rows, t.files, t.settled_at, t.stopped,
                    (SELECT count(*) FROM segments s WHERE s.namespace = t.namespace AND s.tbl = t.tbl
                     AND s.state IN ('checked', 'batched'))
             FROM tables t ORDER BY t.namespace, t.tbl",
        )?;
        let rows = query.query_map([], |row| {
            Ok(TableState {
                namespace: parsed(row, 0)?,
                table: parsed(row, 1)?,
                batch: uint(row.get(2)?),
                snapshot: row.get(3)?,
                rows: uint(row.get(4)?),
                files: uint(row.get(5)?),
                settled_at: row.get::<_, Option<i64>>(6)?.map(Timestamp),
                stopped: row.get(7)?,
                waiting: uint(row.get(8)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn batch_file(row: &rusqlite::Row<'_>) -> Result<BatchFile, rusqlite::Error> {
    Ok(BatchFile { row: row.get(0)?, object_key: row.get(1)?, etag: row.get(2)?, size: uint(row.get(3)?) })
}

struct Member {
    gateway: GatewayId,
    epoch: Epoch,
    number: i64,
    digest: String,
    rows: u64,
}

fn members(
    tx: &Transaction<'_>,
    namespace: &Namespace,
    table: Table,
    n: u64,
) -> Result<Vec<Member>, LedgerError> {
    let mut query = tx.prepare_cached(
        "SELECT gateway, epoch, number, digest, rows FROM segments
         WHERE namespace = ?1 AND tbl = ?2 AND batch = ?3 AND state = 'batched'
         ORDER BY gateway, epoch, number",
    )?;
    let rows = query.query_map(params![namespace.as_str(), table.name(), int(n)], |row| {
        Ok(Member {
            gateway: parsed(row, 0)?,
            epoch: parsed(row, 1)?,
            number: row.get(2)?,
            digest: row.get(3)?,
            rows: uint(row.get(4)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Adds the members, sorted by epoch, to their epochs' registered numbers, and makes receipts due.
fn note_registered(tx: &Transaction<'_>, members: &[Member]) -> Result<(), LedgerError> {
    for epoch in members.chunk_by(|a, b| (&a.gateway, a.epoch) == (&b.gateway, b.epoch)) {
        let Some(last) = epoch.last() else { continue };
        change_ranges(tx, &last.gateway, last.epoch, "registered", |registered| {
            for member in epoch {
                registered.insert(uint(member.number));
            }
        })?;
        tx.execute(
            "UPDATE epochs SET highest = ?3, highest_digest = ?4
             WHERE gateway = ?1 AND epoch = ?2 AND coalesce(highest, 0) < ?3",
            params![last.gateway.as_str(), last.epoch.to_string(), last.number, last.digest],
        )?;
    }
    for gateway in members.chunk_by(|a, b| a.gateway == b.gateway) {
        if let Some(member) = gateway.first() {
            receipt_due(tx, &member.gateway)?;
        }
    }
    Ok(())
}
