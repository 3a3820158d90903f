//! What `ledger rebuild`, `reregister` and `accept-rollback` change in the ledger: each in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{OptionalExtension, Transaction, params};
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number, SegmentId};
use tributary_contract::key::{Prefix, SegmentKey};
use tributary_contract::range::Ranges;
use tributary_contract::receipt::EpochReceipt;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;
use uuid::Uuid;

use super::gateways::take_over;
use super::ledger::{Ledger, LedgerError, int, json, optional, parsed, parsed_opt, uint};
use super::own_gaps::{self, OwnGap};
use super::segments::{change_ranges, outside, receipt_due};
use crate::validate::Accepted;

/// The ledger's id while a rebuild is under way: the one that tables are given.
const REBUILDING: &str = "rebuilding";

/// A segment that the ledger has in a table, or in a batch on its way there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booked {
    /// Row in the ledger.
    pub row: i64,
    /// The object's key.
    pub object_key: String,
    /// Gateway, epoch, number.
    pub id: SegmentId,
    /// Digest of its bytes, where known.
    pub digest: Option<tributary_contract::digest::Digest>,
    /// Its rows, where known.
    pub rows: Option<u64>,
    /// The batch that isn't settled, if it is in one.
    pub open: Option<u64>,
}

/// A table as a recovery found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Table.
    pub table: Table,
    /// Its id.
    pub uuid: Uuid,
    /// Its newest batch.
    pub batch: u64,
    /// The head of `main`.
    pub snapshot: Option<i64>,
    /// Rows, where the snapshot says so.
    pub rows: u64,
    /// Files, where the snapshot says so.
    pub files: u64,
    /// Names of the receiver's own rows in it, if it is `gaps`.
    pub own_gaps: Vec<String>,
}

/// Everything that a rebuild found.
#[derive(Debug, Clone, Default)]
pub struct Rebuilt {
    /// The tables, and each segment in them with its rows.
    pub tables: Vec<(Found, Vec<(SegmentKey, u64)>)>,
    /// The receipts in the bucket.
    pub receipts: Vec<FoundReceipt>,
    /// Numbers that gaps in the lake leave out of the tables for good.
    pub left_out: BTreeMap<(GatewayId, Epoch), Ranges>,
    /// Numbers that gaps in the lake call void.
    pub void: BTreeMap<(GatewayId, Epoch), Ranges>,
    /// The newest registered segments, read again: they vouch for all before them.
    pub vouchers: Vec<Accepted>,
}

/// A receipt as the bucket holds it.
#[derive(Debug, Clone)]
pub struct FoundReceipt {
    /// For whom.
    pub gateway: GatewayId,
    /// Its revision.
    pub revision: u64,
    /// Its etag.
    pub etag: String,
    /// What it says.
    pub epochs: BTreeMap<Epoch, EpochReceipt>,
}

/// A segment that goes into its table again.
#[derive(Debug, Clone)]
pub struct Again {
    /// The object's key.
    pub object_key: String,
    /// Its etag.
    pub etag: String,
    /// What its bytes say.
    pub accepted: Accepted,
}

/// What a rebuild changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Segments in tables.
    pub registered: u64,
    /// Numbers that count as registered though no table holds them.
    pub left_out: u64,
    /// Segments that wait for their next batch.
    pub waiting: u64,
}

impl Ledger {
    /// Begins a rebuild, or goes on with one that was interrupted: the id that the tables are to be given. Until
    /// [`Ledger::finish_rebuild`] no receiver runs on this ledger.
    pub fn begin_rebuild(&mut self) -> Result<Uuid, LedgerError> {
        let tx = self.db.transaction()?;
        tx.execute(
            "INSERT OR IGNORE INTO meta VALUES (?1, ?2)",
            params![REBUILDING, Uuid::new_v4().to_string()],
        )?;
        let id = tx.query_row("SELECT value FROM meta WHERE key = ?1", [REBUILDING], |r| parsed(r, 0))?;
        tx.commit()?;
        Ok(id)
    }

    /// Whether a rebuild didn't come to its end.
    pub fn is_rebuilding(&self) -> Result<bool, LedgerError> {
        let found = self.db.query_row("SELECT 1 FROM meta WHERE key = ?1", [REBUILDING], |_| Ok(()));
        Ok(optional(found)?.is_some())
    }

    /// Ends a rebuild: the ledger takes its new id and what was found, in one transaction.
    pub fn finish_rebuild(
        &mut self,
        prefix: &Prefix,
        found: &Rebuilt,
        now: Timestamp,
    ) -> Result<Counts, LedgerError> {
        let tx = self.db.transaction()?;
        let id: Uuid =
            tx.query_row("SELECT value FROM meta WHERE key = ?1", [REBUILDING], |r| parsed(r, 0))?;
        tx.execute("UPDATE meta SET value = ?1 WHERE key = 'ledger'", [id.to_string()])?;
        tx.execute("DELETE FROM meta WHERE key = ?1", [REBUILDING])?;

        for receipt in &found.receipts {
            tx.execute(
                "INSERT INTO gateways (gateway, receipt_revision, receipt_etag) VALUES (?1, ?2, ?3)
                 ON CONFLICT (gateway) DO UPDATE SET
                   receipt_revision = max(receipt_revision, excluded.receipt_revision),
                   receipt_etag = excluded.receipt_etag",
                params![receipt.gateway.as_str(), int(receipt.revision), receipt.etag],
            )?;
            take_over(&tx, &receipt.gateway, &receipt.epochs, "registered")?;
        }
        for ((gateway, epoch), numbers) in &found.left_out {
            for set in ["registered", "left_out"] {
                change_ranges(&tx, gateway, *epoch, set, |ranges| ranges.union(numbers))?;
            }
        }
        for ((gateway, epoch), numbers) in &found.void {
            change_ranges(&tx, gateway, *epoch, "void", |void| void.union(numbers))?;
        }
        take_tables(&tx, prefix, found, now)?;
        // Refused is what isn't registered.
        refuse_no_more(&tx)?;
        for voucher in &found.vouchers {
            vouch(&tx, voucher)?;
        }
        let gateways: Vec<GatewayId> = {
            let mut all = tx.prepare("SELECT gateway FROM gateways UNION SELECT gateway FROM epochs")?;
            all.query_map([], |row| parsed(row, 0))?.collect::<Result<_, _>>()?
        };
        for gateway in &gateways {
            raise_highest(&tx, gateway)?;
            receipt_due(&tx, gateway)?;
        }
        let counts = counts(&tx)?;
        tx.commit()?;
        self.id = id;
        Ok(counts)
    }

    /// The segments that the ledger has in a table or in its open batch; those left out of it on purpose aren't.
    pub fn booked(&self, namespace: &Namespace, table: Table) -> Result<Vec<Booked>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT id, key, gateway, epoch, number, digest, rows, CASE state WHEN 'batched' THEN batch END
             FROM segments WHERE namespace = ?1 AND tbl = ?2
               AND (state = 'batched' OR (state = 'registered' AND how IS NOT 'accepted'))
             ORDER BY gateway, epoch, number",
        )?;
        let rows = query.query_map(params![namespace.as_str(), table.name()], |row| {
            let number = uint(row.get(4)?);
            let number = Number::new(number)
                .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(4, row.get(4).unwrap_or_default()))?;
            Ok(Booked {
                row: row.get(0)?,
                object_key: row.get(1)?,
                id: SegmentId { gateway: parsed(row, 2)?, epoch: parsed(row, 3)?, number },
                digest: parsed_opt(row, 5)?,
                rows: row.get::<_, Option<i64>>(6)?.map(uint),
                open: row.get::<_, Option<i64>>(7)?.map(uint),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Numbers that count as registered, that nothing leaves out for good, and of which the ledger has no row: only a
    /// receipt named them.
    pub fn known_by_number(&self) -> Result<BTreeMap<(GatewayId, Epoch), Ranges>, LedgerError> {
        let mut query = self.db.prepare_cached("SELECT gateway, epoch, registered, left_out FROM epochs")?;
        let rows = query.query_map([], |row| {
            let (registered, left_out): (Ranges, Ranges) = (json(row, 2)?, json(row, 3)?);
            Ok(((parsed(row, 0)?, parsed(row, 1)?), registered.without(&left_out)))
        })?;
        let mut all: BTreeMap<(GatewayId, Epoch), Ranges> = rows.collect::<Result<_, _>>()?;
        let mut query = self.db.prepare_cached(
            "SELECT gateway, epoch, number FROM segments WHERE state IN ('checked', 'batched', 'registered')",
        )?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(numbers) = all.get_mut(&(parsed(row, 0)?, parsed(row, 1)?)) {
                numbers.remove(uint(row.get(2)?));
            }
        }
        all.retain(|_, numbers| !numbers.is_empty());
        Ok(all)
    }

    /// The segments `again` go into their table once more; of `gone` nothing is left in the bucket. Neither counts as
    /// registered until it is in the table. `kept` are those of a batch that turned out to be settled.
    pub fn reregister(
        &mut self,
        found: &Found,
        again: &[Again],
        gone: &[SegmentId],
        kept: &[i64],
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let tx = self.db.transaction()?;
        let mut touched = BTreeSet::new();
        settle_open(&tx, found, kept, now)?;
        for Again { object_key, etag, accepted } in again {
            let id = &accepted.key.id;
            drop_live(&tx, id)?;
            tx.execute("DELETE FROM segments WHERE key = ?1 AND etag = ?2", params![object_key, etag])?;
            let previous = accepted.manifest.previous;
            tx.execute(
                "INSERT INTO segments (key, etag, size, modified, state, gateway, epoch, number, namespace, tbl, digest,
                   rows, previous_number, previous_digest, seen_at, checked_at)
                 VALUES (?1, ?2, ?3, ?4, 'checked', ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?4, ?4)",
                params![
                    object_key,
                    etag,
                    int(accepted.size),
                    now.0,
                    id.gateway.as_str(),
                    id.epoch.to_string(),
                    int(id.number.get()),
                    accepted.key.namespace.as_str(),
                    accepted.key.table.name(),
                    accepted.digest.to_string(),
                    int(accepted.manifest.rows),
                    previous.map(|p| int(p.number.get())),
                    previous.map(|p| p.digest.to_string()),
                ],
            )?;
            unregister(&tx, id)?;
            change_ranges(&tx, &id.gateway, id.epoch, "refused", |refused| refused.remove(id.number.get()))?;
            touched.insert(id.gateway.clone());
        }
        for id in gone {
            drop_live(&tx, id)?;
            unregister(&tx, id)?;
            touched.insert(id.gateway.clone());
        }
        stand(&tx, found, now)?;
        for gateway in &touched {
            raise_highest(&tx, gateway)?;
            receipt_due(&tx, gateway)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// The segments `left` stay out of their table for good, and count as registered for their gateways; `gaps` say so
    /// in the lake. `kept` are those of a batch that turned out to be settled.
    pub fn accept_rollback(
        &mut self,
        found: &Found,
        left: &[Booked],
        gaps: &[OwnGap],
        kept: &[i64],
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let tx = self.db.transaction()?;
        let mut touched = BTreeSet::new();
        settle_open(&tx, found, kept, now)?;
        for Booked { row, id, .. } in left {
            tx.execute(
                "UPDATE segments SET state = 'registered', how = 'accepted', settled_at = ?2 WHERE id = ?1",
                params![row, now.0],
            )?;
            for set in ["registered", "left_out"] {
                change_ranges(&tx, &id.gateway, id.epoch, set, |numbers| numbers.insert(id.number.get()))?;
            }
            touched.insert(id.gateway.clone());
        }
        own_gaps::note(&tx, gaps)?;
        stand(&tx, found, now)?;
        for gateway in &touched {
            raise_highest(&tx, gateway)?;
            receipt_due(&tx, gateway)?;
        }
        tx.commit()?;
        Ok(())
    }
}

/// Segments, tables and batches as a rebuild found them.
fn take_tables(
    tx: &Transaction<'_>,
    prefix: &Prefix,
    found: &Rebuilt,
    now: Timestamp,
) -> Result<(), LedgerError> {
    // What this ledger had in tables counts as registered, whatever the tables hold now: gateways were told.
    let live: Vec<(i64, SegmentId, String, String)> = {
        let mut query = tx.prepare(
            "SELECT id, gateway, epoch, number, key, state FROM segments
             WHERE state IN ('checked', 'batched', 'registered')",
        )?;
        let rows = query.query_map([], |row| {
            let number = Number::new(uint(row.get(3)?))
                .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(3, row.get(3).unwrap_or_default()))?;
            let id = SegmentId { gateway: parsed(row, 1)?, epoch: parsed(row, 2)?, number };
            Ok((row.get(0)?, id, row.get(4)?, row.get(5)?))
        })?;
        rows.collect::<Result<_, _>>()?
    };
    let held: BTreeMap<&SegmentId, (&SegmentKey, u64, u64)> = found
        .tables
        .iter()
        .flat_map(|(t, segments)| segments.iter().map(|(key, rows)| (&key.id, (key, *rows, t.batch))))
        .collect();
    let mut known = BTreeSet::new();
    for (row, id, key, state) in &live {
        match held.get(id) {
            Some((held_key, _, batch)) if held_key.object_key(prefix) == *key => {
                tx.execute(
                    "UPDATE segments SET state = 'registered', batch = ?2, snapshot = NULL,
                       how = CASE WHEN how IN ('left-out', 'accepted') THEN 'rebuilt' ELSE coalesce(how, 'rebuilt') END,
                       settled_at = ?3 WHERE id = ?1",
                    params![row, int(*batch), now.0],
                )?;
                known.insert(id.clone());
            }
            // The table has the number from another object: the next listing shows this one again, and it is refused.
            Some(_) => {
                tx.execute("DELETE FROM segments WHERE id = ?1", [row])?;
            }
            None if state == "registered" || is_registered(tx, id)? => {
                tx.execute(
                    "UPDATE segments SET state = 'registered', batch = NULL, snapshot = NULL, how = ?2 WHERE id = ?1",
                    params![row, outside(tx, id)?],
                )?;
            }
            None => {
                tx.execute(
                    "UPDATE segments SET state = 'checked', batch = NULL, checked_at = coalesce(checked_at, ?2)
                     WHERE id = ?1",
                    params![row, now.0],
                )?;
            }
        }
    }
    let mut numbers: BTreeMap<(&GatewayId, Epoch), Ranges> = BTreeMap::new();
    for (id, (key, rows, batch)) in &held {
        numbers.entry((&id.gateway, id.epoch)).or_default().insert(id.number.get());
        if known.contains(*id) {
            continue;
        }
        // What waits for its inspection isn't needed any more: the number is known.
        tx.prepare_cached(
            "DELETE FROM segments WHERE gateway = ?1 AND epoch = ?2 AND number = ?3 AND state = 'seen'",
        )?
        .execute(params![id.gateway.as_str(), id.epoch.to_string(), int(id.number.get())])?;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO segments (key, etag, size, modified, state, gateway, epoch, number, namespace, tbl,
               rows, batch, how, seen_at, settled_at)
             VALUES (?1, '', 0, 0, 'registered', ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'rebuilt', ?9, ?9)",
        )?
        .execute(params![
            key.object_key(prefix),
            id.gateway.as_str(),
            id.epoch.to_string(),
            int(id.number.get()),
            key.namespace.as_str(),
            key.table.name(),
            int(*rows),
            int(*batch),
            now.0,
        ])?;
    }
    for ((gateway, epoch), numbers) in numbers {
        change_ranges(tx, gateway, epoch, "registered", |registered| registered.union(&numbers))?;
    }
    tx.execute("DELETE FROM batches", [])?;
    tx.execute("DELETE FROM tables", [])?;
    for (table, _) in &found.tables {
        stand(tx, table, now)?;
    }
    Ok(())
}

fn refuse_no_more(tx: &Transaction<'_>) -> Result<(), LedgerError> {
    let epochs: Vec<(GatewayId, Epoch, Ranges)> = {
        let mut query = tx.prepare("SELECT gateway, epoch, registered FROM epochs")?;
        let rows = query.query_map([], |row| Ok((parsed(row, 0)?, parsed(row, 1)?, json(row, 2)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    for (gateway, epoch, registered) in epochs {
        change_ranges(tx, &gateway, epoch, "refused", |refused| *refused = refused.without(&registered))?;
    }
    Ok(())
}

fn is_registered(tx: &Transaction<'_>, id: &SegmentId) -> Result<bool, LedgerError> {
    let registered = tx
        .prepare_cached("SELECT registered FROM epochs WHERE gateway = ?1 AND epoch = ?2")?
        .query_row(params![id.gateway.as_str(), id.epoch.to_string()], |row| json::<Ranges>(row, 0));
    Ok(optional(registered)?.is_some_and(|r| r.contains(id.number.get())))
}

/// The ledger is at the table's newest batch, and `main` as it was looked at is what it holds. An open batch stays if the
/// table may still get it: it is the next one, and the table is the one that the batch was meant for.
fn stand(tx: &Transaction<'_>, found: &Found, now: Timestamp) -> Result<(), LedgerError> {
    let (namespace, table) = (found.namespace.as_str(), found.table.name());
    let same: Option<bool> = tx
        .query_row(
            "SELECT uuid IS NULL OR uuid = ?3 FROM tables WHERE namespace = ?1 AND tbl = ?2",
            params![namespace, table, found.uuid.to_string()],
            |row| row.get(0),
        )
        .optional()?;
    let keep = match same {
        Some(true) => optional(tx.query_row(
            "SELECT n FROM batches WHERE namespace = ?1 AND tbl = ?2 AND state = 'formed' AND n = ?3",
            params![namespace, table, int(found.batch) + 1],
            |row| row.get::<_, i64>(0),
        ))?,
        Some(false) | None => None,
    };
    tx.execute(
        "UPDATE segments SET state = 'checked', batch = NULL
         WHERE namespace = ?1 AND tbl = ?2 AND state = 'batched' AND batch IS NOT ?3",
        params![namespace, table, keep],
    )?;
    tx.execute(
        "DELETE FROM batches WHERE namespace = ?1 AND tbl = ?2 AND n IS NOT ?3 AND (state = 'formed' OR n > ?4)",
        params![namespace, table, keep, int(found.batch)],
    )?;
    if found.table == Table::Gaps {
        own_gaps::compare(tx, &found.namespace, &found.own_gaps, keep)?;
    }
    tx.execute(
        "INSERT INTO tables (namespace, tbl, uuid, batch, snapshot, rows, files, settled_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (namespace, tbl) DO UPDATE SET uuid = excluded.uuid, batch = excluded.batch,
           snapshot = excluded.snapshot, rows = excluded.rows, files = excluded.files, stopped = NULL",
        params![
            namespace,
            table,
            found.uuid.to_string(),
            int(found.batch),
            found.snapshot,
            int(found.rows),
            int(found.files),
            now.0
        ],
    )?;
    Ok(())
}

/// The segments `rows` of an open batch are in the table: they are registered.
fn settle_open(tx: &Transaction<'_>, found: &Found, rows: &[i64], now: Timestamp) -> Result<(), LedgerError> {
    for row in rows {
        let (gateway, epoch, number): (GatewayId, Epoch, i64) = tx.query_row(
            "UPDATE segments SET state = 'registered', how = 'in-place', snapshot = ?2, settled_at = ?3 WHERE id = ?1
             RETURNING gateway, epoch, number",
            params![row, found.snapshot, now.0],
            |row| Ok((parsed(row, 0)?, parsed(row, 1)?, row.get(2)?)),
        )?;
        change_ranges(tx, &gateway, epoch, "registered", |registered| registered.insert(uint(number)))?;
        raise_highest(tx, &gateway)?;
        receipt_due(tx, &gateway)?;
    }
    Ok(())
}

fn drop_live(tx: &Transaction<'_>, id: &SegmentId) -> Result<(), LedgerError> {
    tx.execute(
        "DELETE FROM segments WHERE gateway = ?1 AND epoch = ?2 AND number = ?3
         AND state IN ('seen', 'checked', 'batched', 'registered')",
        params![id.gateway.as_str(), id.epoch.to_string(), int(id.number.get())],
    )?;
    Ok(())
}

/// The number counts as registered no more. What the receipt vouched by may have gone with it.
fn unregister(tx: &Transaction<'_>, id: &SegmentId) -> Result<(), LedgerError> {
    let number = id.number.get();
    for set in ["registered", "left_out", "granted"] {
        change_ranges(tx, &id.gateway, id.epoch, set, |numbers| numbers.remove(number))?;
    }
    tx.execute(
        "UPDATE epochs SET highest = NULL, highest_digest = NULL
         WHERE gateway = ?1 AND epoch = ?2 AND highest = ?3",
        params![id.gateway.as_str(), id.epoch.to_string(), int(number)],
    )?;
    Ok(())
}

/// Per epoch of a gateway, the highest registered segment whose digest is known vouches for those below.
fn raise_highest(tx: &Transaction<'_>, gateway: &GatewayId) -> Result<(), LedgerError> {
    tx.execute(
        "UPDATE epochs SET (highest, highest_digest) =
           (SELECT number, digest FROM segments s WHERE s.gateway = epochs.gateway AND s.epoch = epochs.epoch
              AND s.state = 'registered' AND s.digest IS NOT NULL ORDER BY number DESC LIMIT 1)
         WHERE gateway = ?1 AND coalesce(highest, 0) <
           (SELECT coalesce(max(number), 0) FROM segments s WHERE s.gateway = epochs.gateway AND s.epoch = epochs.epoch
              AND s.state = 'registered' AND s.digest IS NOT NULL)",
        [gateway.as_str()],
    )?;
    Ok(())
}

/// Gives a registered segment without known bytes what its object says.
fn vouch(tx: &Transaction<'_>, accepted: &Accepted) -> Result<(), LedgerError> {
    let (id, previous) = (&accepted.key.id, accepted.manifest.previous);
    tx.execute(
        "UPDATE segments SET digest = ?4, size = ?5, previous_number = ?6, previous_digest = ?7
         WHERE gateway = ?1 AND epoch = ?2 AND number = ?3 AND state = 'registered' AND digest IS NULL
           AND namespace = ?8 AND tbl = ?9",
        params![
            id.gateway.as_str(),
            id.epoch.to_string(),
            int(id.number.get()),
            accepted.digest.to_string(),
            int(accepted.size),
            previous.map(|p| int(p.number.get())),
            previous.map(|p| p.digest.to_string()),
            accepted.key.namespace.as_str(),
            accepted.key.table.name(),
        ],
    )?;
    Ok(())
}

fn counts(tx: &Transaction<'_>) -> Result<Counts, LedgerError> {
    let count = |sql: &str| tx.query_row(sql, [], |row| row.get::<_, i64>(0)).map(uint);
    let registered = count(
        "SELECT count(*) FROM segments WHERE state = 'registered' AND how NOT IN ('left-out', 'accepted')",
    )?;
    let waiting = count("SELECT count(*) FROM segments WHERE state = 'checked'")?;
    let mut query = tx.prepare("SELECT registered FROM epochs")?;
    let all = query.query_map([], |row| json::<Ranges>(row, 0))?;
    let all = all.collect::<Result<Vec<_>, _>>()?.iter().map(Ranges::len).fold(0, u64::saturating_add);
    Ok(Counts { registered, left_out: all.saturating_sub(registered), waiting })
}
