//! Wishes for readings that are kept back: what of them is sent all the same. Edge: SQLite.
//!
//! A wish is durable, and stands until no reading that it means is left. What it means is offered for sealing as any other
//! row, and sealing marks it; so a reading is sent once, whatever is asked for how often, and a crash asks again only for
//! what isn't sealed.

use serde::{Deserialize, Serialize};
use tributary_contract::time::Timestamp;

use super::Buffer;
use super::bits::RowSet;
use super::error::BufferError;
use super::journal::{Mark, load_batch};
use super::row::{Row, SeriesEntry};
use crate::config::Selection;

/// The setting that keeps wishes.
const WISHES: &str = "backfill";

/// Wishes that may stand at a time.
const MOST: usize = 100;

/// Readings that are kept back and asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// Of which series.
    pub of: Selection,
    /// Earliest event time.
    pub from: Timestamp,
    /// The first event time beyond.
    pub to: Timestamp,
}

/// A wish, and the newest reading that there was: what comes later is kept back as ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wish {
    what: Backfill,
    through: u64,
}

impl Wish {
    /// Whether it means a reading, if that is kept back.
    pub(super) fn means(&self, row: &Row, entry: &SeriesEntry) -> bool {
        let Backfill { of, from, to } = &self.what;
        row.ts >= *from && row.ts < *to && row.seq <= self.through && entry.is_of(of)
    }
}

impl Buffer {
    /// Has the readings that `what` means, and that are kept back, sent with the next segments; tells how many there are
    /// that weren't asked for before.
    pub fn backfill(&mut self, what: Backfill) -> Result<u64, BufferError> {
        self.guarded(|b| {
            let mut wishes = b.wishes()?;
            if wishes.len() >= MOST {
                return Err(BufferError::Backfills(MOST));
            }
            let before = b.waiting.wished();
            let (from, to) = (what.from, what.to);
            wishes.push(Wish { what, through: b.next_seq.saturating_sub(1) });
            b.waiting.wish(wishes.clone());
            for batch in b.waiting.kept_between(from, to) {
                b.wait_again(batch)?;
            }
            let more = b.waiting.wished() - before;
            if more == 0 {
                wishes.pop();
                b.waiting.wish(wishes);
                return Ok(0);
            }
            b.keep_wishes(&wishes)?;
            Ok(more)
        })
    }

    /// Forgets wishes once nothing is left of what they mean; tells whether they ended.
    pub fn end_backfills(&mut self) -> Result<bool, BufferError> {
        if !self.waiting.has_wishes() || self.waiting.wished() > 0 {
            return Ok(false);
        }
        self.guarded(|b| {
            b.waiting.wish(Vec::new());
            b.keep_wishes(&[])?;
            Ok(true)
        })
    }

    /// Wishes as they are kept. What can't be read was asked for by somebody who can ask again.
    pub(super) fn wishes(&mut self) -> Result<Vec<Wish>, BufferError> {
        let kept = self.setting(WISHES)?.unwrap_or_default();
        Ok(serde_json::from_slice(&kept).unwrap_or_default())
    }

    fn keep_wishes(&mut self, wishes: &[Wish]) -> Result<(), BufferError> {
        // Numbers and texts: nothing in it can fail to be JSON.
        self.set_setting(WISHES, &serde_json::to_vec(wishes).unwrap_or_default())
    }

    /// Looks anew at what of a batch waits.
    pub(super) fn wait_again(&mut self, batch: i64) -> Result<(), BufferError> {
        let stored = load_batch(&self.sql, batch)?;
        let taken: RowSet = Mark::load(&self.sql, batch, stored.span.rows)?.taken();
        let rows = stored.rows()?;
        let free = (0u32..).zip(&rows).filter(|(i, _)| !taken.contains(*i)).map(|(_, row)| row);
        self.waiting.remove(batch);
        self.waiting.add(&stored.span, free, &self.dictionary);
        Ok(())
    }
}
