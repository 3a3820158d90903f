//! Gateways in the ledger: what a receipt is made of, when one is due, the last status, facts for the roster.

use std::collections::{BTreeMap, HashMap};

use rusqlite::params;
use tributary_contract::counters::Counters;
use tributary_contract::id::{Epoch, GatewayId};
use tributary_contract::manifest::Link;
use tributary_contract::range::Ranges;
use tributary_contract::receipt::{EpochReceipt, Quarantined};
use tributary_contract::status::{GatewayStatus, ShortStatus};
use tributary_contract::time::Timestamp;

use super::ledger::{Ledger, LedgerError, int, json, json_opt, optional, parsed, parsed_opt, uint};
use super::segments::{change_ranges, link, reason};

/// A receipt that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueReceipt {
    /// For whom.
    pub gateway: GatewayId,
    /// Etag of the receipt that was written last, if by this ledger.
    pub etag: Option<String>,
}

/// Everything a receipt says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReceiptFacts {
    /// Its revision.
    pub revision: u64,
    /// What is known of each epoch.
    pub epochs: BTreeMap<Epoch, EpochFacts>,
    /// Newest snapshot per table, `namespace.table`.
    pub snapshots: BTreeMap<String, i64>,
}

/// What is known of one epoch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EpochFacts {
    /// Numbers in the tables, and those that another ledger's receipts granted.
    pub registered: Ranges,
    /// Numbers that were refused and of which no sound object is known.
    pub refused: Ranges,
    /// Why, for those of which the ledger still has a row.
    pub quarantined: BTreeMap<u64, Quarantined>,
    /// Numbers that were declared void.
    pub void: Ranges,
    /// What the newest manifest called outstanding.
    pub outstanding: Ranges,
    /// Numbers that have a sound object on its way.
    pub present: Ranges,
    /// Number of the newest manifest.
    pub newest: u64,
    /// The highest registered number and its digest.
    pub highest: Option<Link>,
    /// The last number, once the epoch is closed.
    pub closed_last: Option<u64>,
}

/// A gateway as the roster needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayFacts {
    /// Which.
    pub gateway: GatewayId,
    /// When something of it last came to the bucket, by the bucket's clock.
    pub last_seen: Option<Timestamp>,
    /// Status from its newest manifest.
    pub short: Option<ShortStatus>,
    /// Counters from its newest manifest.
    pub counters: Option<Counters>,
    /// Its last status object.
    pub status: Option<GatewayStatus>,
    /// Revision of the receipt last asked for.
    pub receipt_revision: u64,
    /// Whether that receipt isn't written yet.
    pub receipt_due: bool,
    /// What is known of each epoch.
    pub epochs: BTreeMap<Epoch, EpochFacts>,
}

impl Ledger {
    /// Receipts that are due.
    pub fn due_receipts(&self, limit: usize) -> Result<Vec<DueReceipt>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT gateway, receipt_etag FROM gateways WHERE receipt_due = 1 ORDER BY gateway LIMIT ?1",
        )?;
        let rows = query.query_map([int(limit as u64)], |row| {
            Ok(DueReceipt { gateway: parsed(row, 0)?, etag: row.get(1)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What the receipt of `gateway` says now.
    pub fn receipt_facts(&self, gateway: &GatewayId) -> Result<ReceiptFacts, LedgerError> {
        let revision = self.db.query_row(
            "SELECT receipt_revision FROM gateways WHERE gateway = ?1",
            [gateway.as_str()],
            |row| row.get(0),
        );
        let snapshots = self.tables()?.into_iter().filter_map(|t| {
            let snapshot = t.snapshot?;
            Some((format!("{}.{}", t.namespace, t.table), snapshot))
        });
        Ok(ReceiptFacts {
            revision: uint(optional(revision)?.unwrap_or_default()),
            epochs: self.epochs(gateway)?,
            snapshots: snapshots.collect(),
        })
    }

    /// The bucket holds a receipt of `revision`: ours goes above it, and the etag of that receipt is the one to match.
    ///
    /// A receipt that was there before our first one, or one with a revision above all of ours, was written by a ledger
    /// that knew more: one that was lost, or a later state of this one. What it called registered or void stays so, for
    /// gateways may have let go of it.
    pub fn raise_revision(
        &mut self,
        gateway: &GatewayId,
        revision: u64,
        etag: Option<&str>,
        epochs: &BTreeMap<Epoch, EpochReceipt>,
    ) -> Result<(), LedgerError> {
        let tx = self.db.transaction()?;
        let foreign: Option<bool> = optional(tx.query_row(
            "SELECT receipt_etag IS NULL OR receipt_revision < ?2 FROM gateways WHERE gateway = ?1",
            params![gateway.as_str(), int(revision)],
            |row| row.get(0),
        ))?;
        if foreign == Some(true) {
            take_over(&tx, gateway, epochs, "granted")?;
        }
        tx.execute(
            "UPDATE gateways SET receipt_revision = max(receipt_revision, ?2), receipt_etag = ?3 WHERE gateway = ?1",
            params![gateway.as_str(), int(revision.saturating_add(1)), etag],
        )?;
        tx.commit()?;
        Ok(())
    }

    /// The receipt of `revision` is in the bucket under `etag`. It stays due if another one has become due since.
    pub fn receipt_written(
        &mut self,
        gateway: &GatewayId,
        revision: u64,
        etag: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.db.execute(
            "UPDATE gateways SET receipt_etag = ?3, receipt_at = ?4,
                    receipt_due = CASE WHEN receipt_revision = ?2 THEN 0 ELSE receipt_due END
             WHERE gateway = ?1",
            params![gateway.as_str(), int(revision), etag, now.0],
        )?;
        Ok(())
    }

    /// Etags of the status objects that were read last.
    pub fn status_etags(&self) -> Result<HashMap<GatewayId, String>, LedgerError> {
        let mut query = self
            .db
            .prepare_cached("SELECT gateway, status_etag FROM gateways WHERE status_etag IS NOT NULL")?;
        let rows = query.query_map([], |row| Ok((parsed(row, 0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Keeps a status object; `None` if it can't be read, so that it isn't fetched again until it changes.
    pub fn note_status(
        &mut self,
        gateway: &GatewayId,
        etag: &str,
        modified: Timestamp,
        status: Option<&GatewayStatus>,
    ) -> Result<(), LedgerError> {
        let json = status.and_then(|s| serde_json::to_string(s).ok());
        self.db.execute(
            "INSERT INTO gateways (gateway, status_etag, status, last_seen) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (gateway) DO UPDATE SET status_etag = excluded.status_etag,
               status = coalesce(excluded.status, status),
               last_seen = max(coalesce(last_seen, excluded.last_seen), excluded.last_seen)",
            params![gateway.as_str(), etag, json, modified.0],
        )?;
        Ok(())
    }

    /// All gateways by name.
    pub fn gateways(&self) -> Result<Vec<GatewayFacts>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT gateway, last_seen, short_status, counters, status, receipt_revision, receipt_due
             FROM gateways ORDER BY gateway",
        )?;
        let rows = query.query_map([], |row| {
            Ok(GatewayFacts {
                gateway: parsed(row, 0)?,
                last_seen: row.get::<_, Option<i64>>(1)?.map(Timestamp),
                short: json_opt(row, 2)?,
                counters: json_opt(row, 3)?,
                status: json_opt(row, 4)?,
                receipt_revision: uint(row.get(5)?),
                receipt_due: row.get(6)?,
                epochs: BTreeMap::new(),
            })
        })?;
        let mut all: Vec<GatewayFacts> = rows.collect::<Result<_, _>>()?;
        for gateway in &mut all {
            gateway.epochs = self.epochs(&gateway.gateway)?;
        }
        Ok(all)
    }

    /// How many objects are refused that no gateway's key names.
    pub fn strays(&self) -> Result<u64, LedgerError> {
        let count = "SELECT count(*) FROM segments WHERE state = 'quarantined' AND gateway IS NULL";
        Ok(uint(self.db.query_row(count, [], |row| row.get(0))?))
    }

    /// What is known of one epoch.
    pub(super) fn epoch_facts(
        &self,
        gateway: &GatewayId,
        epoch: Epoch,
    ) -> Result<Option<EpochFacts>, LedgerError> {
        Ok(self.epochs(gateway)?.remove(&epoch))
    }

    fn epochs(&self, gateway: &GatewayId) -> Result<BTreeMap<Epoch, EpochFacts>, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT epoch, registered, refused, void, outstanding, newest, highest, highest_digest, closed_last,
                    granted
             FROM epochs WHERE gateway = ?1",
        )?;
        let rows = query.query_map([gateway.as_str()], |row| {
            let mut registered: Ranges = json(row, 1)?;
            registered.union(&json(row, 9)?);
            let highest = match (row.get::<_, Option<i64>>(6)?, parsed_opt(row, 7)?) {
                (Some(number), Some(digest)) => Some(link(number, digest, 6)?),
                _ => None,
            };
            let facts = EpochFacts {
                registered,
                refused: json(row, 2)?,
                void: json(row, 3)?,
                outstanding: json(row, 4)?,
                newest: uint(row.get(5)?),
                highest,
                closed_last: row.get::<_, Option<i64>>(8)?.map(uint),
                ..EpochFacts::default()
            };
            Ok((parsed(row, 0)?, facts))
        })?;
        let mut epochs: BTreeMap<Epoch, EpochFacts> = rows.collect::<Result<_, _>>()?;
        let mut query = self.db.prepare_cached(
            "SELECT epoch, number, state, reason, detail FROM segments
             WHERE gateway = ?1 AND state <> 'registered' AND etag <> '' ORDER BY id",
        )?;
        let mut rows = query.query([gateway.as_str()])?;
        while let Some(row) = rows.next()? {
            let (epoch, number) = (parsed(row, 0)?, uint(row.get(1)?));
            let state: String = row.get(2)?;
            let facts = epochs.entry(epoch).or_default();
            if state != "quarantined" {
                facts.present.insert(number);
            } else if facts.refused.contains(number) {
                let quarantined =
                    Quarantined { reason: reason(&row.get::<_, String>(3)?), detail: row.get(4)? };
                facts.quarantined.insert(number, quarantined);
            }
        }
        Ok(epochs)
    }
}

/// Takes over what a receipt of another ledger says of each epoch. What it calls registered goes into the set `into`.
pub(super) fn take_over(
    db: &rusqlite::Connection,
    gateway: &GatewayId,
    epochs: &BTreeMap<Epoch, EpochReceipt>,
    into: &'static str,
) -> Result<(), LedgerError> {
    for (&epoch, said) in epochs {
        change_ranges(db, gateway, epoch, into, |numbers| numbers.union(&said.registered))?;
        change_ranges(db, gateway, epoch, "void", |void| void.union(&said.void))?;
        if let Some(highest) = said.highest.filter(|h| said.registered.contains(h.number.get())) {
            db.execute(
                "UPDATE epochs SET highest = ?3, highest_digest = ?4
                 WHERE gateway = ?1 AND epoch = ?2 AND coalesce(highest, 0) < ?3",
                params![
                    gateway.as_str(),
                    epoch.to_string(),
                    int(highest.number.get()),
                    highest.digest.to_string()
                ],
            )?;
        }
    }
    Ok(())
}
