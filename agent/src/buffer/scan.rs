//! The journal as it is read again: rows by event time or by batch, and the memories of redeliveries. Edge: SQLite.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;
use tributary_contract::time::Timestamp;

use super::error::BufferError;
use super::journal::{Mark, SPAN_COLUMNS, STORED_COLUMNS, Stored, load_batch, read_span};
use super::row::{BatchSpan, Row};
use super::{Buffer, int};

/// Which event times lie where: coarse, so that a week of batches fits a small memory.
#[derive(Debug, Default)]
pub(super) struct Spans {
    chunks: BTreeMap<i64, (Timestamp, Timestamp)>,
    /// Batches without rows: nothing marks them, so they are kept here for deletion.
    pub(super) empty: BTreeSet<i64>,
    pub(super) batches: u64,
}

const CHUNK: i64 = 64;

impl Spans {
    pub(super) fn add(&mut self, batch: &BatchSpan) {
        self.batches += 1;
        if batch.rows == 0 {
            self.empty.insert(batch.id);
            return;
        }
        let chunk = self.chunks.entry(batch.id / CHUNK).or_insert((batch.min_ts, batch.max_ts));
        *chunk = (chunk.0.min(batch.min_ts), chunk.1.max(batch.max_ts));
    }

    /// Forgets a deleted batch; `first_left` is the lowest id that is left.
    pub(super) fn remove(&mut self, batch: i64, first_left: i64) {
        self.batches = self.batches.saturating_sub(1);
        self.empty.remove(&batch);
        self.chunks = self.chunks.split_off(&(first_left / CHUNK));
    }

    fn overlapping(&self, from: Timestamp, to: Timestamp) -> Vec<(i64, i64)> {
        let met = self.chunks.iter().filter(|(_, (min, max))| *max >= from && *min < to);
        met.map(|(chunk, _)| (chunk * CHUNK, chunk * CHUNK + CHUNK - 1)).collect()
    }
}

impl Buffer {
    /// Calls `f` for each row with `from <= ts < to` of the retained batches, sealed or not, in the order of seqs.
    pub fn scan(
        &mut self,
        from: Timestamp,
        to: Timestamp,
        mut f: impl FnMut(&Row),
    ) -> Result<(), BufferError> {
        let chunks = self.spans.overlapping(from, to);
        self.guarded(|b| {
            let sql = format!(
                "SELECT {STORED_COLUMNS} FROM batch
                 WHERE id BETWEEN ?1 AND ?2 AND rows > 0 AND max_ts >= ?3 AND min_ts < ?4 ORDER BY id"
            );
            let mut select = b.sql.prepare_cached(&sql)?;
            for (first, last) in chunks {
                let mut found = select.query(params![first, last, from.0, to.0])?;
                while let Some(row) = found.next()? {
                    for row in b.kept_rows(&Stored::read(row)?)? {
                        if row.ts >= from && row.ts < to {
                            f(&row);
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// Ids of the retained batches that `wanted` takes, oldest first. Reads no block: with a long backlog that is a small
    /// part of it.
    pub fn batches(&mut self, mut wanted: impl FnMut(&BatchSpan) -> bool) -> Result<Vec<i64>, BufferError> {
        self.guarded(|b| {
            let sql = format!("SELECT {SPAN_COLUMNS} FROM batch WHERE rows > 0 ORDER BY id");
            let mut select = b.sql.prepare_cached(&sql)?;
            let mut found = select.query([])?;
            let mut ids = Vec::new();
            while let Some(row) = found.next()? {
                let span = read_span(row)?;
                if wanted(&span) {
                    ids.push(span.id);
                }
            }
            Ok(ids)
        })
    }

    /// Calls `f` for each of these batches with its rows: the journal as the stages read it after a restart.
    pub fn scan_batches(
        &mut self,
        ids: &[i64],
        mut f: impl FnMut(&BatchSpan, &[Row]),
    ) -> Result<(), BufferError> {
        self.guarded(|b| {
            for id in ids {
                let stored = load_batch(&b.sql, *id)?;
                f(&stored.span, &b.kept_rows(&stored)?);
            }
            Ok(())
        })
    }

    /// The redelivery memories of batches committed at or after `since`, and of those from [`Buffer::memory_floor`] on,
    /// oldest first.
    pub fn memories(&mut self, since: Timestamp, messages: usize) -> Result<Vec<Vec<u8>>, BufferError> {
        let floor = self.memory_floor(messages)?;
        self.guarded(|b| {
            let sql = "SELECT memory FROM batch WHERE (committed_at >= ?1 OR id >= ?2) AND length(memory) > 0
                       ORDER BY id";
            let mut select = b.sql.prepare_cached(sql)?;
            let found = select.query_map([since.0, floor], |r| r.get(0))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// The batch from which on the memories hold the newest `messages` messages. What brokers may have on the way is
    /// remembered however long we were down, and however soon its readings were registered.
    pub fn memory_floor(&mut self, messages: usize) -> Result<i64, BufferError> {
        /// At most so many bytes a message.
        const MESSAGE: i64 = 32;
        self.guarded(|b| {
            let sql =
                "SELECT id, length(memory) FROM batch WHERE length(memory) > 0 ORDER BY id DESC LIMIT ?1";
            let mut select = b.sql.prepare_cached(sql)?;
            let mut rows = select.query([int(messages as u64)])?;
            let (mut floor, mut held) = (i64::MAX, 0);
            while let Some(row) = rows.next()? {
                if held >= int(messages as u64) {
                    break;
                }
                floor = row.get(0)?;
                held += (row.get::<_, i64>(1)? / MESSAGE).max(1);
            }
            Ok(floor)
        })
    }

    /// The rows of a batch that this batch still stands for: those that another epoch took over stand there.
    fn kept_rows(&self, stored: &Stored) -> Result<Vec<Row>, BufferError> {
        let mut rows = stored.rows()?;
        let moved = Mark::load(&self.sql, stored.span.id, stored.span.rows)?.moved;
        if !moved.is_empty() {
            let mut at = 0..;
            rows.retain(|_| at.next().is_some_and(|i| !moved.contains(i)));
        }
        Ok(rows)
    }
}
