//! Wishes for readings that are kept back: what of them is sent all the same. Edge: SQLite.
//!
//! A wish is durable, and stands until no reading that it means is left. What it means is offered for sealing as any other
//! row, and sealing marks it; so a reading is sent once, whatever is asked for how often, and a crash asks again only for
//! what isn't sealed.

use serde::{Deserialize, Serialize};
use tributary_contract::desired::Backfill as Request;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// Which one, where somebody asks for how much of it waits; 0 for all others together.
    pub key: u32,
    pub through: u64,
    pub what: What,
}

/// What a wish means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Asked for at the gateway.
    Here(Backfill),
    /// Asked for in the object `desired`.
    Requested(Request),
}

/// A wish of the gateway's own, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    what: Backfill,
    through: u64,
    /// Key of the last request before it.
    #[serde(default)]
    after: u32,
}

impl Wish {
    /// Whether it means a reading, if that is kept back.
    pub(super) fn means(&self, row: &Row, entry: &SeriesEntry) -> bool {
        let (from, to) = match &self.what {
            What::Here(Backfill { from, to, .. }) | What::Requested(Request { from, to, .. }) => (*from, *to),
        };
        let of = || match &self.what {
            What::Here(Backfill { of, .. }) => entry.is_of(of),
            What::Requested(request) => entry.is_asked_for(request),
        };
        row.ts >= from && row.ts < to && row.seq <= self.through && of()
    }
}

impl Buffer {
    /// Has the readings that `what` means, and that are kept back, sent with the next segments; tells how many there are
    /// that weren't asked for before.
    pub fn backfill(&mut self, what: Backfill) -> Result<u64, BufferError> {
        self.guarded(|b| {
            let mut kept = b.kept_wishes()?;
            if kept.len() >= MOST {
                return Err(BufferError::Backfills(MOST));
            }
            let before = b.waiting.wished();
            let (from, to) = (what.from, what.to);
            let through = b.newest_seq();
            let after = b.waiting.wishes().iter().map(|wish| wish.key).max().unwrap_or(0);
            kept.push(Kept { what: what.clone(), through, after: after.max(b.requests.last_key()) });
            let mut wishes = b.waiting.wishes().to_vec();
            wishes.push(Wish { key: 0, through, what: What::Here(what) });
            b.waiting.wish(wishes);
            for batch in b.waiting.kept_between(from, to) {
                b.wait_again(batch)?;
            }
            let more = b.waiting.wished() - before;
            if more == 0 {
                b.wish_anew()?;
                return Ok(0);
            }
            b.keep_wishes(&kept)?;
            Ok(more)
        })
    }

    /// Forgets the gateway's own wishes once nothing is left of what anybody wished for; tells whether they ended.
    pub fn end_backfills(&mut self) -> Result<bool, BufferError> {
        let own = self.waiting.wishes().iter().any(|wish| wish.key == 0);
        if !own || self.waiting.wished() > 0 {
            return Ok(false);
        }
        self.guarded(|b| {
            b.keep_wishes(&[])?;
            b.wish_anew()?;
            Ok(true)
        })
    }

    /// The gateway's own wishes, each with the key of the last request before it.
    pub(super) fn local_wishes(&mut self) -> Result<Vec<(u32, Wish)>, BufferError> {
        let wish = |Kept { what, through, after }| (after, Wish { key: 0, through, what: What::Here(what) });
        Ok(self.kept_wishes()?.into_iter().map(wish).collect())
    }

    /// As they are kept. What can't be read was asked for by somebody who can ask again.
    fn kept_wishes(&mut self) -> Result<Vec<Kept>, BufferError> {
        let kept = self.setting(WISHES)?.unwrap_or_default();
        Ok(serde_json::from_slice(&kept).unwrap_or_default())
    }

    fn keep_wishes(&mut self, wishes: &[Kept]) -> Result<(), BufferError> {
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
