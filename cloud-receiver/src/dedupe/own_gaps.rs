//! Rows of `gaps` that the receiver itself writes: decided in the ledger, each once by its name, registered in batches.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use tributary_contract::id::{Epoch, GatewayId, Namespace};
use tributary_contract::time::Timestamp;

use super::ledger::{Ledger, LedgerError, int, json};

/// The most own rows in one batch.
const MAX_ROWS: u64 = 5000;

/// Why the receiver records a gap, as the column `reason` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnReason {
    /// An operator moved `main` back and left out what had been registered.
    Rollback,
    /// Segments never arrived, and never will.
    VoidSegment,
}

impl OwnReason {
    /// All of them.
    pub const ALL: [OwnReason; 2] = [OwnReason::Rollback, OwnReason::VoidSegment];

    /// The code.
    pub const fn code(self) -> &'static str {
        match self {
            OwnReason::Rollback => "rollback",
            OwnReason::VoidSegment => "void-segment",
        }
    }

    /// Whether the numbers of such a gap count as registered for their gateway, though no table holds them.
    pub const fn leaves_out(self) -> bool {
        match self {
            OwnReason::Rollback => true,
            OwnReason::VoidSegment => false,
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnGap {
    /// Its name; see [`gap_id`].
    pub id: String,
    /// Whose `gaps` it goes to.
    pub namespace: Namespace,
    /// The gateway concerned.
    pub gateway: GatewayId,
    /// The epoch concerned.
    pub epoch: Epoch,
    /// Earliest event time that may be missing.
    pub from_ts: Timestamp,
    /// Latest event time that may be missing.
    pub to_ts: Timestamp,
    /// Code of the reason.
    pub reason: String,
    /// Readings that are missing, where known.
    pub readings: Option<u64>,
    /// A sentence for people.
    pub detail: String,
    /// When it was recorded.
    pub recorded_at: Timestamp,
}

/// The name of a gap over the numbers `first..=last` of one epoch: `reason:subject:gateway:epoch:first-last`. It is the
/// same for the same loss, and a ledger that is rebuilt reads the numbers out of it.
pub fn gap_id(
    reason: OwnReason,
    subject: &str,
    gateway: &GatewayId,
    epoch: Epoch,
    (first, last): (u64, u64),
) -> String {
    format!("{}:{subject}:{gateway}:{epoch}:{first}-{last}", reason.code())
}

/// Reason and numbers out of a name that [`gap_id`] made; none for other names.
pub fn gap_numbers(id: &str) -> Option<(OwnReason, u64, u64)> {
    let (reason, rest) = id.split_once(':')?;
    let reason = OwnReason::ALL.into_iter().find(|r| r.code() == reason)?;
    let (first, last) = rest.rsplit_once(':')?.1.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((reason, first, last))
}

impl Ledger {
    /// Whether rows wait for the next batch of `gaps`.
    pub fn own_gaps_wait(&self, namespace: &Namespace) -> Result<bool, LedgerError> {
        let mut query = self.db.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM own_gaps WHERE namespace = ?1 AND state = 'waiting')",
        )?;
        Ok(query.query_row([namespace.as_str()], |row| row.get(0))?)
    }
}

/// Notes rows to be written; a name that is known already changes nothing.
pub(super) fn note(db: &Connection, gaps: &[OwnGap]) -> Result<(), LedgerError> {
    for gap in gaps {
        let document = serde_json::to_string(gap).unwrap_or_default();
        db.prepare_cached(
            "INSERT OR IGNORE INTO own_gaps (id, namespace, day, document) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![gap.id, gap.namespace.as_str(), gap.from_ts.day().0, document])?;
    }
    Ok(())
}

/// Puts waiting rows into batch `n` of their namespace's `gaps`.
pub(super) fn batch(db: &Connection, namespace: &Namespace, n: i64) -> Result<(), LedgerError> {
    db.execute(
        "UPDATE own_gaps SET state = 'batched', batch = ?2 WHERE id IN
         (SELECT id FROM own_gaps WHERE namespace = ?1 AND state = 'waiting' ORDER BY id LIMIT ?3)",
        params![namespace.as_str(), n, int(MAX_ROWS)],
    )?;
    Ok(())
}

/// The rows of batch `n`, by name.
pub(super) fn of_batch(db: &Connection, namespace: &Namespace, n: i64) -> Result<Vec<OwnGap>, LedgerError> {
    let mut query = db.prepare_cached(
        "SELECT document FROM own_gaps WHERE namespace = ?1 AND batch = ?2 AND state = 'batched' ORDER BY id",
    )?;
    let rows = query.query_map(params![namespace.as_str(), n], |row| json(row, 0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The rows of batch `n` are in the table.
pub(super) fn settle(db: &Connection, namespace: &Namespace, n: i64) -> Result<(), LedgerError> {
    db.execute(
        "UPDATE own_gaps SET state = 'registered' WHERE namespace = ?1 AND batch = ?2 AND state = 'batched'",
        params![namespace.as_str(), n],
    )?;
    Ok(())
}

/// Brings the states in line with the names that the table holds: those are registered, all others wait, but for those
/// of an open batch `keep`.
pub(super) fn compare(
    db: &Connection,
    namespace: &Namespace,
    held: &[String],
    keep: Option<i64>,
) -> Result<(), LedgerError> {
    db.execute(
        "UPDATE own_gaps SET state = 'waiting', batch = NULL
         WHERE namespace = ?1 AND NOT (state = 'batched' AND batch IS ?2)",
        params![namespace.as_str(), keep],
    )?;
    for id in held {
        // One that another ledger wrote is known by its name from now on.
        db.prepare_cached(
            "INSERT INTO own_gaps (id, namespace, day, document, state) VALUES (?1, ?2, 0, '{}', 'registered')
             ON CONFLICT (id) DO UPDATE SET state = 'registered', batch = NULL",
        )?
        .execute(params![id, namespace.as_str()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_gap_are_read_out_of_its_name_whatever_the_gateway_is_called() {
        let gateway = GatewayId::new("site:7:gw-1").unwrap();
        let id = gap_id(OwnReason::Rollback, "tributary.readings", &gateway, Epoch(1), (3, 7));
        assert_eq!(id, "rollback:tributary.readings:site:7:gw-1:0000000000000001:3-7");
        assert_eq!(gap_numbers(&id), Some((OwnReason::Rollback, 3, 7)));
        for other in ["", "rollback", "rollback:x:7-3", "rollback:x:a-b", "agents-own-name:1-2"] {
            assert_eq!(gap_numbers(other), None, "{other}");
        }
    }
}
