//! Segments in the ledger: seen, inspected, accepted or refused.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tributary_contract::id::{Epoch, GatewayId, SegmentId};
use tributary_contract::key::SegmentKey;
use tributary_contract::manifest::{Link, Manifest};
use tributary_contract::range::Ranges;
use tributary_contract::reject::QuarantineReason;
use tributary_contract::time::Timestamp;

use super::decide::{Above, Neighbours, Standing, decide};
use super::ledger::{Ledger, LedgerError, int, json, optional, parsed, parsed_opt, uint};
use crate::bucket::Listed;
use crate::validate::{Accepted, Refused};

/// An object of a listing, with what its key says.
#[derive(Debug, Clone)]
pub struct Seen {
    /// As listed.
    pub listed: Listed,
    /// Its key, or what is wrong with it.
    pub key: Result<SegmentKey, String>,
}

/// A segment that waits for its inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Row in the ledger.
    pub row: i64,
    /// The object's key.
    pub object_key: String,
    /// What the key says.
    pub key: SegmentKey,
    /// Bytes, as listed.
    pub size: u64,
}

/// What became of an inspected segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It may be registered.
    Checked,
    /// It is known already.
    Replay,
    /// It is refused.
    Quarantined(QuarantineReason, String),
}

/// A quarantined object whose copy hasn't been made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToCopy {
    /// Row in the ledger.
    pub row: i64,
    /// The object's key.
    pub key: String,
    /// Its bytes, as listed.
    pub size: u64,
    /// Why it is refused.
    pub reason: QuarantineReason,
    /// A sentence for people.
    pub detail: String,
    /// When it was refused.
    pub at: Timestamp,
}

impl Ledger {
    /// Up to which number everything of an epoch is registered, refused or void; 0 if the first isn't. `None` once the
    /// epoch is closed and nothing of it can come any more.
    pub fn settled(&self, gateway: &GatewayId, epoch: Epoch) -> Result<Option<u64>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT registered, refused, void, closed_last FROM epochs WHERE gateway = ?1 AND epoch = ?2",
        )?;
        let found = query.query_row(params![gateway.as_str(), epoch.to_string()], |row| {
            let mut all: Ranges = json(row, 0)?;
            all.union(&json(row, 1)?);
            all.union(&json(row, 2)?);
            Ok((all.complete_until(), row.get::<_, Option<i64>>(3)?.map(uint)))
        });
        Ok(match optional(found)? {
            None => Some(0),
            Some((until, Some(last))) if until >= last => None,
            Some((until, _)) => Some(until),
        })
    }

    /// Notes what a listing showed; strays are refused at once. Returns those that wait for inspection, old and new.
    pub fn note_seen(&mut self, seen: &[Seen], now: Timestamp) -> Result<Vec<Pending>, LedgerError> {
        let tx = self.db.transaction()?;
        let mut pending = Vec::new();
        for Seen { listed, key } in seen {
            let state = known_state(&tx, listed)?;
            let row = match (&state, key) {
                (Some((row, state)), _) if state == "seen" => *row,
                (Some(_), _) => continue,
                (None, key) => insert(&tx, listed, key, now)?,
            };
            match key {
                Ok(key) => pending.push(Pending {
                    row,
                    object_key: listed.key.clone(),
                    key: key.clone(),
                    size: listed.size,
                }),
                Err(why) => {
                    let refused = Refused::unread(QuarantineReason::BadKey, why.clone());
                    quarantine(&tx, row, None, &refused, now)?;
                }
            }
        }
        tx.commit()?;
        Ok(pending)
    }

    /// Takes back that an object was seen: it was gone when it was read.
    pub fn forget_seen(&mut self, row: i64) -> Result<(), LedgerError> {
        self.db.execute("DELETE FROM segments WHERE id = ?1 AND state = 'seen'", [row])?;
        Ok(())
    }

    /// Records that the segment may be registered, unless it is known, conflicts or forks.
    pub fn accept(
        &mut self,
        pending: &Pending,
        accepted: &Accepted,
        now: Timestamp,
    ) -> Result<Recorded, LedgerError> {
        let tx = self.db.transaction()?;
        let id = &accepted.key.id;
        let own = Link { number: id.number, digest: accepted.digest };
        let around = neighbours(&tx, id)?;
        let refuse = |reason, detail| Refused { reason, detail, digest: Some(accepted.digest) };
        let recorded = match decide(own, accepted.manifest.previous, &around) {
            Standing::New => {
                check(&tx, pending.row, accepted, now)?;
                fold_manifest(&tx, &accepted.manifest)?;
                Recorded::Checked
            }
            Standing::Replay => {
                replay(&tx, pending.row, id)?;
                Recorded::Replay
            }
            Standing::Registered => match adopt(&tx, pending, accepted)? {
                None => Recorded::Replay,
                Some(key) => {
                    let refused =
                        refuse(QuarantineReason::Conflict, format!("the table holds its number from {key}"));
                    quarantine(&tx, pending.row, Some(id), &refused, now)?
                }
            },
            Standing::Conflict { known } => {
                let detail = format!("it has digest {}, the one that is known has {known}", accepted.digest);
                let refused = refuse(QuarantineReason::Conflict, detail);
                quarantine(&tx, pending.row, Some(id), &refused, now)?
            }
            Standing::Forked { detail } => {
                let refused = refuse(QuarantineReason::Forked, detail);
                quarantine(&tx, pending.row, Some(id), &refused, now)?
            }
        };
        seen_gateway(&tx, &id.gateway, pending.row)?;
        tx.commit()?;
        Ok(recorded)
    }

    /// Records that the segment is refused.
    pub fn refuse(
        &mut self,
        pending: &Pending,
        refused: &Refused,
        now: Timestamp,
    ) -> Result<Recorded, LedgerError> {
        let tx = self.db.transaction()?;
        let recorded = quarantine(&tx, pending.row, Some(&pending.key.id), refused, now)?;
        tx.commit()?;
        Ok(recorded)
    }

    /// Quarantined objects whose copy hasn't been made, oldest first.
    pub fn to_copy(&self, limit: usize) -> Result<Vec<ToCopy>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT id, key, reason, detail, settled_at, size FROM segments
             WHERE state = 'quarantined' AND copied = 0 ORDER BY id LIMIT ?1",
        )?;
        let rows = query.query_map([int(limit as u64)], |row| {
            Ok(ToCopy {
                row: row.get(0)?,
                key: row.get(1)?,
                reason: reason(&row.get::<_, String>(2)?),
                detail: row.get(3)?,
                at: Timestamp(row.get(4)?),
                size: uint(row.get(5)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that a quarantined object lies in the quarantine too, or can't.
    pub fn copied(&mut self, row: i64) -> Result<(), LedgerError> {
        self.db.execute("UPDATE segments SET copied = 1 WHERE id = ?1", [row])?;
        Ok(())
    }
}

/// The reason of that code; a code of a later version is shown as unreadable.
pub(super) fn reason(code: &str) -> QuarantineReason {
    QuarantineReason::from_code(code).unwrap_or(QuarantineReason::Unreadable)
}

fn known_state(tx: &Transaction<'_>, listed: &Listed) -> Result<Option<(i64, String)>, LedgerError> {
    let mut query = tx.prepare_cached("SELECT id, state FROM segments WHERE key = ?1 AND etag = ?2")?;
    optional(query.query_row(params![listed.key, listed.etag], |row| Ok((row.get(0)?, row.get(1)?))))
}

fn insert(
    tx: &Transaction<'_>,
    listed: &Listed,
    key: &Result<SegmentKey, String>,
    now: Timestamp,
) -> Result<i64, LedgerError> {
    let key = key.as_ref().ok();
    tx.prepare_cached(
        "INSERT INTO segments (key, etag, size, modified, state, gateway, epoch, number, namespace, tbl, seen_at)
         VALUES (?1, ?2, ?3, ?4, 'seen', ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        listed.key,
        listed.etag,
        int(listed.size),
        listed.modified.0,
        key.map(|k| k.id.gateway.as_str()),
        key.map(|k| k.id.epoch.to_string()),
        key.map(|k| int(k.id.number.get())),
        key.map(|k| k.namespace.as_str()),
        key.map(|k| k.table.name()),
        now.0,
    ])?;
    Ok(tx.last_insert_rowid())
}

fn neighbours(tx: &Transaction<'_>, id: &SegmentId) -> Result<Neighbours, LedgerError> {
    const LIVE: &str = "gateway = ?1 AND epoch = ?2 AND state IN ('checked', 'batched', 'registered') \
                        AND digest IS NOT NULL";
    let (gateway, epoch, number) = (id.gateway.as_str(), id.epoch.to_string(), int(id.number.get()));
    let same = tx
        .prepare_cached(&format!("SELECT digest FROM segments WHERE {LIVE} AND number = ?3"))?
        .query_row(params![gateway, epoch, number], |row| parsed(row, 0));
    let below = tx
        .prepare_cached(&format!(
            "SELECT number, digest FROM segments WHERE {LIVE} AND number < ?3 ORDER BY number DESC LIMIT 1"
        ))?
        .query_row(params![gateway, epoch, number], |row| link(row.get(0)?, parsed(row, 1)?, 0));
    let above = tx
        .prepare_cached(&format!(
            "SELECT number, previous_number, previous_digest FROM segments
             WHERE {LIVE} AND number > ?3 ORDER BY number LIMIT 1"
        ))?
        .query_row(params![gateway, epoch, number], |row| {
            let previous: (Option<i64>, _) = (row.get(1)?, parsed_opt(row, 2)?);
            let previous = match previous {
                (Some(n), Some(digest)) => Some(link(n, digest, 1)?),
                _ => None,
            };
            Ok(Above { number: uint(row.get(0)?), previous })
        });
    let registered = tx
        .prepare_cached("SELECT registered FROM epochs WHERE gateway = ?1 AND epoch = ?2")?
        .query_row(params![gateway, epoch], |row| json::<Ranges>(row, 0));
    let registered = optional(registered)?.is_some_and(|r| r.contains(id.number.get()));
    Ok(Neighbours { same: optional(same)?, registered, below: optional(below)?, above: optional(above)? })
}

/// The word for how a registered segment that is in no table got there: `accepted`, for good, or `left-out`.
pub(super) fn outside(tx: &Transaction<'_>, id: &SegmentId) -> Result<&'static str, LedgerError> {
    let left_out = tx
        .prepare_cached("SELECT left_out FROM epochs WHERE gateway = ?1 AND epoch = ?2")?
        .query_row(params![id.gateway.as_str(), id.epoch.to_string()], |row| json::<Ranges>(row, 0));
    let for_good = optional(left_out)?.is_some_and(|numbers| numbers.contains(id.number.get()));
    Ok(if for_good { "accepted" } else { "left-out" })
}

/// Remembers the bytes of a segment that was known as registered without them. Gives the key under which the ledger
/// knows the number, if it is another one.
fn adopt(
    tx: &Transaction<'_>,
    pending: &Pending,
    accepted: &Accepted,
) -> Result<Option<String>, LedgerError> {
    let id = &accepted.key.id;
    let known: Option<(i64, String)> = optional(tx.query_row(
        "SELECT id, key FROM segments WHERE gateway = ?1 AND epoch = ?2 AND number = ?3
         AND state IN ('checked', 'batched', 'registered')",
        params![id.gateway.as_str(), id.epoch.to_string(), int(id.number.get())],
        |row| Ok((row.get(0)?, row.get(1)?)),
    ))?;
    let row = match known {
        Some((_, key)) if key != pending.object_key => return Ok(Some(key)),
        Some((row, _)) => {
            let etag: String =
                tx.query_row("SELECT etag FROM segments WHERE id = ?1", [pending.row], |r| r.get(0))?;
            tx.execute("DELETE FROM segments WHERE id = ?1 AND state = 'seen'", [pending.row])?;
            tx.execute("UPDATE segments SET etag = ?2 WHERE id = ?1", params![row, etag])?;
            row
        }
        // Only receipts name it: it is in no table that this ledger knows.
        None => {
            tx.execute(
                "UPDATE segments SET state = 'registered', how = ?2 WHERE id = ?1 AND state = 'seen'",
                params![pending.row, outside(tx, id)?],
            )?;
            pending.row
        }
    };
    let previous = accepted.manifest.previous;
    tx.execute(
        "UPDATE segments SET digest = ?2, size = ?3, previous_number = ?4, previous_digest = ?5,
                rows = coalesce(rows, ?6) WHERE id = ?1",
        params![
            row,
            accepted.digest.to_string(),
            int(accepted.size),
            previous.map(|p| int(p.number.get())),
            previous.map(|p| p.digest.to_string()),
            int(accepted.manifest.rows),
        ],
    )?;
    let vouches = tx.execute(
        "UPDATE epochs SET highest = ?3, highest_digest = ?4
         WHERE gateway = ?1 AND epoch = ?2 AND coalesce(highest, 0) < ?3",
        params![id.gateway.as_str(), id.epoch.to_string(), int(id.number.get()), accepted.digest.to_string()],
    )?;
    fold_manifest(tx, &accepted.manifest)?;
    if vouches > 0 {
        receipt_due(tx, &id.gateway)?;
    }
    Ok(None)
}

/// A link from its columns; `column` is the number's, for an error.
pub(super) fn link(
    number: i64,
    digest: tributary_contract::digest::Digest,
    column: usize,
) -> Result<Link, rusqlite::Error> {
    let number = tributary_contract::id::Number::new(uint(number))
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))?;
    Ok(Link { number, digest })
}

fn check(tx: &Transaction<'_>, row: i64, accepted: &Accepted, now: Timestamp) -> Result<(), LedgerError> {
    let previous = accepted.manifest.previous;
    tx.prepare_cached(
        "UPDATE segments SET state = 'checked', digest = ?2, size = ?3, rows = ?4, previous_number = ?5,
                previous_digest = ?6, checked_at = ?7
         WHERE id = ?1 AND state = 'seen'",
    )?
    .execute(params![
        row,
        accepted.digest.to_string(),
        int(accepted.size),
        int(accepted.manifest.rows),
        previous.map(|p| int(p.number.get())),
        previous.map(|p| p.digest.to_string()),
        now.0,
    ])?;
    // A number that was refused once and comes again, sound, is refused no more.
    let id = &accepted.key.id;
    change_ranges(tx, &id.gateway, id.epoch, "refused", |refused| refused.remove(id.number.get()))
}

/// The same bytes were written again: the known row now stands for the newer writing.
fn replay(tx: &Transaction<'_>, row: i64, id: &SegmentId) -> Result<(), LedgerError> {
    let etag: String = tx.query_row("SELECT etag FROM segments WHERE id = ?1", [row], |r| r.get(0))?;
    tx.execute("DELETE FROM segments WHERE id = ?1 AND state = 'seen'", [row])?;
    tx.execute(
        "UPDATE segments SET etag = ?4 WHERE gateway = ?1 AND epoch = ?2 AND number = ?3
         AND state IN ('checked', 'batched', 'registered')",
        params![id.gateway.as_str(), id.epoch.to_string(), int(id.number.get()), etag],
    )?;
    Ok(())
}

fn quarantine(
    tx: &Transaction<'_>,
    row: i64,
    id: Option<&SegmentId>,
    refused: &Refused,
    now: Timestamp,
) -> Result<Recorded, LedgerError> {
    let Refused { reason, detail, digest } = refused;
    tx.execute(
        "UPDATE segments SET state = 'quarantined', reason = ?2, detail = ?3, digest = ?4, settled_at = ?5
         WHERE id = ?1 AND state = 'seen'",
        params![row, reason.code(), detail, digest.map(|d| d.to_string()), now.0],
    )?;
    if let Some(id) = id {
        let live: Option<i64> = tx
            .query_row(
                "SELECT 1 FROM segments WHERE gateway = ?1 AND epoch = ?2 AND number = ?3
                 AND state IN ('checked', 'batched', 'registered')",
                params![id.gateway.as_str(), id.epoch.to_string(), int(id.number.get())],
                |row| row.get(0),
            )
            .optional()?;
        // Another object holds the number soundly: the number itself isn't refused.
        if live.is_none() {
            change_ranges(tx, &id.gateway, id.epoch, "refused", |refused| refused.insert(id.number.get()))?;
        }
        seen_gateway(tx, &id.gateway, row)?;
        receipt_due(tx, &id.gateway)?;
    }
    Ok(Recorded::Quarantined(*reason, detail.clone()))
}

/// Changes one of an epoch's sets of numbers.
pub(super) fn change_ranges(
    db: &Connection,
    gateway: &GatewayId,
    epoch: Epoch,
    set: &'static str,
    change: impl FnOnce(&mut Ranges),
) -> Result<(), LedgerError> {
    let (gateway, epoch) = (gateway.as_str(), epoch.to_string());
    db.prepare_cached("INSERT OR IGNORE INTO epochs (gateway, epoch) VALUES (?1, ?2)")?
        .execute(params![gateway, epoch])?;
    let mut ranges: Ranges = db
        .prepare_cached(&format!("SELECT {set} FROM epochs WHERE gateway = ?1 AND epoch = ?2"))?
        .query_row(params![gateway, epoch], |row| json(row, 0))?;
    change(&mut ranges);
    let text = serde_json::to_string(&ranges).unwrap_or_else(|_| "[]".to_owned());
    db.prepare_cached(&format!("UPDATE epochs SET {set} = ?3 WHERE gateway = ?1 AND epoch = ?2"))?
        .execute(params![gateway, epoch, text])?;
    Ok(())
}

/// A receipt with a higher revision is due from now on.
pub(super) fn receipt_due(db: &Connection, gateway: &GatewayId) -> Result<(), LedgerError> {
    db.prepare_cached(
        "INSERT INTO gateways (gateway, receipt_revision, receipt_due) VALUES (?1, 1, 1)
         ON CONFLICT (gateway) DO UPDATE SET receipt_revision = receipt_revision + 1, receipt_due = 1",
    )?
    .execute([gateway.as_str()])?;
    Ok(())
}

fn seen_gateway(tx: &Transaction<'_>, gateway: &GatewayId, row: i64) -> Result<(), LedgerError> {
    // A replay's row is gone; the gateway was seen all the same when its first writing was.
    tx.execute(
        "INSERT INTO gateways (gateway, last_seen) VALUES (?1, (SELECT modified FROM segments WHERE id = ?2))
         ON CONFLICT (gateway) DO UPDATE SET last_seen =
           nullif(max(coalesce(last_seen, 0), coalesce(excluded.last_seen, 0)), 0)",
        params![gateway.as_str(), row],
    )?;
    Ok(())
}

/// Takes what a sound manifest says of its epoch, of older ones, and of the gateway.
fn fold_manifest(tx: &Transaction<'_>, manifest: &Manifest) -> Result<(), LedgerError> {
    let (gateway, epoch) = (&manifest.gateway, manifest.epoch);
    change_ranges(tx, gateway, epoch, "void", |void| void.union(&manifest.void))?;
    let outstanding = serde_json::to_string(&manifest.outstanding).unwrap_or_else(|_| "[]".to_owned());
    let newer = tx.execute(
        "UPDATE epochs SET newest = ?3, newest_at = ?4, outstanding = ?5
         WHERE gateway = ?1 AND epoch = ?2 AND newest < ?3",
        params![
            gateway.as_str(),
            epoch.to_string(),
            int(manifest.number.get()),
            manifest.status.at.0,
            outstanding
        ],
    )?;
    for closed in &manifest.closed {
        tx.execute(
            "INSERT INTO epochs (gateway, epoch, closed_last) VALUES (?1, ?2, ?3)
             ON CONFLICT (gateway, epoch) DO UPDATE SET closed_last = excluded.closed_last",
            params![gateway.as_str(), closed.epoch.to_string(), int(closed.last)],
        )?;
    }
    let known: Option<i64> = tx
        .query_row(
            "SELECT json_extract(short_status, '$.at') FROM gateways WHERE gateway = ?1",
            [gateway.as_str()],
            |row| row.get(0),
        )
        .optional()?
        .flatten();
    if newer > 0 && known.is_none_or(|at| at <= manifest.status.at.0) {
        let short = serde_json::to_string(&manifest.status).ok();
        let counters = serde_json::to_string(&manifest.counters).ok();
        tx.execute(
            "INSERT INTO gateways (gateway, short_status, counters) VALUES (?1, ?2, ?3)
             ON CONFLICT (gateway) DO UPDATE SET short_status = excluded.short_status, counters = excluded.counters",
            params![gateway.as_str(), short, counters],
        )?;
    }
    Ok(())
}
