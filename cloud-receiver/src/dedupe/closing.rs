//! Closing an epoch by hand: its gateway is no more, and nothing that hasn't arrived will.

use rusqlite::params;
use tributary_contract::id::{Epoch, GatewayId, Namespace};
use tributary_contract::key::{Prefix, SegmentKey};
use tributary_contract::range::Ranges;
use tributary_contract::time::{DAY_MICROS, Day, Timestamp};

use super::ledger::{Ledger, LedgerError, int, optional};
use super::own_gaps::{self, OwnGap, OwnReason, gap_id};
use super::segments::{change_ranges, receipt_due};

/// What closing an epoch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Its last number.
    pub last: u64,
    /// Numbers up to it that never arrived: declared void, with gaps.
    pub lost: Ranges,
    /// The rows of `gaps` that say so.
    pub gaps: Vec<OwnGap>,
}

impl Ledger {
    /// What closing an epoch would say; none if the ledger doesn't know it.
    pub fn closing(
        &self,
        prefix: &Prefix,
        gateway: &GatewayId,
        epoch: Epoch,
        now: Timestamp,
    ) -> Result<Option<Closed>, LedgerError> {
        let Some(facts) = self.epoch_facts(gateway, epoch)? else { return Ok(None) };
        let known = [&facts.registered, &facts.refused, &facts.void, &facts.present, &facts.outstanding];
        let heard = known.iter().filter_map(|set| set.last()).max();
        let last = facts.closed_last.into_iter().chain(heard).max().unwrap_or_default().max(facts.newest);
        let mut lost = Ranges::new();
        lost.insert_range(1, last);
        for accounted in [&facts.registered, &facts.refused, &facts.void, &facts.present] {
            lost = lost.without(accounted);
        }
        let mut gaps = Vec::new();
        for run in lost.iter() {
            let (below, above) = (
                self.neighbour(prefix, gateway, epoch, run.0, false)?,
                self.neighbour(prefix, gateway, epoch, run.1, true)?,
            );
            // When what is lost was measured, nobody knows: between its neighbours, as far as there are any.
            let day = |key: &Option<SegmentKey>| key.as_ref().map(|k| k.day);
            let from = day(&below).or(day(&above)).unwrap_or(now.day());
            let to = day(&above).unwrap_or(now.day()).max(from);
            let namespace = below.or(above).map_or_else(Namespace::default, |key| key.namespace);
            gaps.push(gap(namespace, gateway, epoch, run, (from, to), now));
        }
        Ok(Some(Closed { last, lost, gaps }))
    }

    /// Closes an epoch as [`Ledger::closing`] says. What it declares void isn't looked for any more; should the gateway
    /// come back and seal more in this epoch, that is registered as ever.
    pub fn close_epoch(
        &mut self,
        gateway: &GatewayId,
        epoch: Epoch,
        closed: &Closed,
    ) -> Result<(), LedgerError> {
        let tx = self.db.transaction()?;
        change_ranges(&tx, gateway, epoch, "void", |void| void.union(&closed.lost))?;
        own_gaps::note(&tx, &closed.gaps)?;
        receipt_due(&tx, gateway)?;
        tx.commit()?;
        Ok(())
    }

    /// The nearest known segment below or above a number.
    fn neighbour(
        &self,
        prefix: &Prefix,
        gateway: &GatewayId,
        epoch: Epoch,
        number: u64,
        above: bool,
    ) -> Result<Option<SegmentKey>, LedgerError> {
        let query = if above {
            "SELECT key FROM segments WHERE gateway = ?1 AND epoch = ?2 AND number > ?3 ORDER BY number LIMIT 1"
        } else {
            "SELECT key FROM segments WHERE gateway = ?1 AND epoch = ?2 AND number < ?3 ORDER BY number DESC LIMIT 1"
        };
        let key: Option<String> = optional(
            self.db
                .prepare_cached(query)?
                .query_row(params![gateway.as_str(), epoch.to_string(), int(number)], |row| row.get(0)),
        )?;
        Ok(key.and_then(|key| SegmentKey::parse(prefix, &key).ok()))
    }
}

fn gap(
    namespace: Namespace,
    gateway: &GatewayId,
    epoch: Epoch,
    run: (u64, u64),
    (from, to): (Day, Day),
    now: Timestamp,
) -> OwnGap {
    let reason = OwnReason::VoidSegment;
    OwnGap {
        id: gap_id(reason, "epoch", gateway, epoch, run),
        namespace,
        gateway: gateway.clone(),
        epoch,
        from_ts: from.start(),
        to_ts: to.start().plus(DAY_MICROS - 1),
        reason: reason.code().to_owned(),
        readings: None,
        detail: format!(
            "segments {} to {} never arrived, and their epoch was closed by an operator; their times are bounded by \
             the days of their neighbours",
            run.0, run.1
        ),
        recorded_at: now,
    }
}
