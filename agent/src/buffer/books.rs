//! The counters of one epoch, and the part of them that stands in each batch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tributary_contract::counters::{Counters, MessageCounters};
use tributary_contract::range::Ranges;
use tributary_contract::reject::RejectReason;

use super::varint::{self, Reader, Short};

/// Everything that is counted in one epoch; only grows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Books {
    /// Both laws.
    pub counters: Counters,
    /// Redelivered messages by rule: by the session, by content.
    pub redelivered: [u64; 2],
    /// Rejected messages by reason.
    pub rejected: BTreeMap<RejectReason, u64>,
    /// Segments sealed.
    pub segments_sealed: u64,
    /// Segments known in the bucket.
    pub segments_delivered: u64,
    /// Segments known in the table.
    pub segments_registered: u64,
    /// Ids of batches that were deleted, in whatever epoch: their rows have ended, so that what is left of them on a
    /// damaged disk must not come back.
    #[serde(skip_serializing_if = "Ranges::is_empty")]
    pub gone: Ranges,
    /// Whether these books were lost and begun anew: numbers may be in use that they don't know.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rebuilt: bool,
}

/// In a batch's head, ids of deleted batches stand among the reasons for rejects, under a name that is none.
pub(super) const GONE: &[u8] = b"-gone";
/// So many ranges of ids at most. What is left out may come back, marked, where a damage is bad enough.
const GONE_RANGES: usize = 32;

/// Numbers with which each head begins.
pub(super) const FIXED: usize = 7;

impl Books {
    /// What a batch carries: everything that ingest counts.
    pub fn head(&self) -> Vec<u8> {
        let (m, mut out) = (&self.counters.messages, Vec::new());
        let fixed = [m.received, m.redelivered, m.rejected, m.accepted, self.counters.readings.journaled];
        fixed.into_iter().chain(self.redelivered).for_each(|n| varint::put(&mut out, n));
        for (reason, count) in &self.rejected {
            varint::put_bytes(&mut out, reason.code().as_bytes());
            varint::put(&mut out, *count);
        }
        if !self.gone.is_empty() {
            let mut ranges = Vec::new();
            for (first, last) in self.gone.iter().take(GONE_RANGES) {
                varint::put(&mut ranges, first);
                varint::put(&mut ranges, last - first);
            }
            varint::put_bytes(&mut out, GONE);
            varint::put(&mut out, ranges.len() as u64);
            out.extend(ranges);
        }
        out
    }

    /// Takes over what a batch carries where it is newer: counters only grow, so the greater is the newer.
    pub fn take_head(&mut self, head: &[u8]) -> Result<(), Short> {
        let mut r = Reader::new(head);
        let mut n = [0; FIXED];
        for slot in &mut n {
            *slot = r.unsigned()?;
        }
        let [received, redelivered, rejected, accepted, journaled, by_session, by_content] = n;
        let newer = MessageCounters { received, redelivered, rejected, accepted };
        if newer.received > self.counters.messages.received {
            self.counters.messages = newer;
        }
        let readings = &mut self.counters.readings;
        readings.journaled = readings.journaled.max(journaled);
        for (mine, theirs) in self.redelivered.iter_mut().zip([by_session, by_content]) {
            *mine = (*mine).max(theirs);
        }
        while r.left() > 0 {
            let code = r.bytes()?;
            let count = r.unsigned()?;
            if code == GONE {
                let length = usize::try_from(count).map_err(|_| Short)?;
                let mut ranges = Reader::new(r.take(length)?);
                while ranges.left() > 0 {
                    let first = ranges.unsigned()?;
                    self.gone.insert_range(first, first.saturating_add(ranges.unsigned()?));
                }
                continue;
            }
            // A reason that this version doesn't know stays in the total.
            if let Some(reason) = str::from_utf8(code).ok().and_then(RejectReason::from_code) {
                let mine = self.rejected.entry(reason).or_default();
                *mine = (*mine).max(count);
            }
        }
        Ok(())
    }

    /// Ends the epoch's readings: nothing waits any more. What is then unaccounted for is torn; what left the journal
    /// without being known to have entered it was journaled by commits that are lost.
    pub fn close(&mut self) {
        let r = &mut self.counters.readings;
        let entered = r.journaled.saturating_add(r.moved_in);
        let left = [r.sealed, r.summarised, r.shed, r.expired, r.torn, r.moved_out];
        let left = left.into_iter().fold(0, u64::saturating_add);
        if entered >= left {
            r.torn = r.torn.saturating_add(entered - left);
        } else {
            r.journaled = r.journaled.saturating_add(left - entered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_carries_what_ingest_counts_and_an_older_one_takes_nothing_back() {
        let mut books = Books::default();
        books.counters.messages = MessageCounters { received: 9, redelivered: 3, rejected: 2, accepted: 4 };
        books.counters.readings.journaled = 40;
        books.redelivered = [1, 2];
        books.rejected.insert(RejectReason::Malformed, 2);
        books.gone.insert_range(1, 90_000);
        books.gone.insert_range(90_002, 90_007);
        let head = books.head();
        let mut read = Books::default();
        read.take_head(&head).unwrap();
        assert_eq!(read, books);
        read.counters.messages.received += 1;
        read.counters.messages.accepted += 1;
        let newer = read.clone();
        read.take_head(&head).unwrap();
        assert_eq!(read, newer);
        assert!(read.take_head(&head[..3]).is_err());
    }

    #[test]
    fn a_closed_epoch_has_no_reading_left_unaccounted() {
        for (journaled, sealed, moved_out) in [(10, 4, 3), (2, 4, 0), (0, 0, 0)] {
            let mut books = Books::default();
            let r = &mut books.counters.readings;
            (r.journaled, r.sealed, r.moved_out) = (journaled, sealed, moved_out);
            books.close();
            assert_eq!(books.counters.check(), Ok(()));
            assert_eq!(books.counters.readings.waiting(), 0);
            assert_eq!(books.counters.readings.torn, journaled.saturating_sub(sealed + moved_out));
        }
    }
}
