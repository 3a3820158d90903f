//! Which of the journal's batches windows need.

use tributary_contract::time::{DAY_MICROS, Timestamp};

use crate::buffer::row::BatchSpan;

/// Stretches of event time whose readings windows may still need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// Sorted, disjoint, `[from, to)`.
    stretches: Vec<(Timestamp, Timestamp)>,
}

impl Retention {
    /// These stretches, in any order.
    pub(super) fn of(stretches: Vec<(Timestamp, Timestamp)>) -> Self {
        Self { stretches: merged(stretches) }
    }

    /// Whether an open window, or one that may still be corrected, may need readings of this batch.
    pub fn needs(&self, batch: &BatchSpan) -> bool {
        // A reading further ahead of its commit than a day is a `future` one and in no window: it must not keep its
        // batch until that day comes.
        let newest = batch.max_ts.min(batch.committed_at.plus(DAY_MICROS));
        let next = self.stretches.partition_point(|&(_, to)| to <= batch.min_ts);
        self.stretches.get(next).is_some_and(|&(from, _)| from <= newest)
    }
}

/// What of the journal is needed now: stretches of event time, of each what has a seq above another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    ordinal: u32,
    after: Vec<(u64, Retention)>,
}

impl Needed {
    /// In the epoch of that ordinal: of each retention what has a seq above that beside it.
    pub(super) const fn of(ordinal: u32, after: Vec<(u64, Retention)>) -> Self {
        Self { ordinal, after }
    }

    /// Whether a reading of this batch may be needed.
    pub fn needs(&self, batch: &BatchSpan) -> bool {
        let last = batch.first_seq.saturating_add(u64::from(batch.rows));
        // Seqs of another epoch can't be compared.
        let foreign = batch.epoch != self.ordinal;
        self.after
            .iter()
            .any(|(seq, retention)| (foreign || last > seq.saturating_add(1)) && retention.needs(batch))
    }
}

/// Joins stretches that overlap or touch.
pub(super) fn merged(mut stretches: Vec<(Timestamp, Timestamp)>) -> Vec<(Timestamp, Timestamp)> {
    stretches.sort_unstable();
    stretches.dedup_by(|next, kept| {
        let joins = next.0 <= kept.1;
        if joins {
            kept.1 = kept.1.max(next.1);
        }
        joins
    });
    stretches
}
