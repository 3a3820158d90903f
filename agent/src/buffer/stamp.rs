//! Batches that were committed while the clock wasn't synchronised: held until it is, then stamped. Edge: SQLite.
//!
//! Such a batch says in its head which start of the machine it belongs to and how long that ran. Its rows are in the
//! journal, acknowledged and accounted for, but nothing seals them while they are *held*: a segment never changes. Once
//! the clock is right, the batches of this start get the time that they had; those of an earlier start, and all of them
//! where sealing can't wait any longer, stay as they are: bounded by the newest time that was known, marked, and told of
//! in a gap row.

use std::collections::BTreeMap;

use rusqlite::params;
use tributary_contract::id::Namespace;
use tributary_contract::quality::Doubt;
use tributary_contract::reject::GapReason;
use tributary_contract::time::Timestamp;

use super::bits::RowSet;
use super::books::{FIXED, GONE};
use super::error::BufferError;
use super::journal::{Mark, Stored, load_batch};
use super::row::{GapRow, Row};
use super::varint::{self, Reader, Short};
use super::{Buffer, rejects};
use crate::clock::{Moment, without};
use crate::ingest::decode::FUTURE_TOLERANCE;

/// Names in the head of a batch, beside the codes of rejects; none of those begins so.
const BOOT: &[u8] = b"~boot";
const UPTIME: &[u8] = b"~uptime";
const UNSYNCED: &[u8] = b"~unsynced";

/// What is done with the memory of redeliveries of a batch whose times move by so many microseconds.
pub type MoveMemory<'a> = &'a dyn Fn(&[u8], i64) -> Vec<u8>;

/// Writes `moment` behind the counters of a head. Nothing where only wall time is known.
pub(super) fn put(head: &mut Vec<u8>, moment: &Moment) {
    let uptime = u64::try_from(moment.uptime).unwrap_or(0);
    let mut pair = |name: &[u8], number: u64| {
        varint::put_bytes(head, name);
        varint::put(head, number);
    };
    if moment.boot != 0 {
        pair(BOOT, moment.boot);
        pair(UPTIME, uptime);
    }
    if !moment.synced {
        pair(UNSYNCED, 1);
    }
}

/// A name in a head, and the number behind it.
type Pair<'a> = (&'a [u8], u64);

/// What stands behind the counters of a head.
///
/// # Errors
/// It ends early.
pub(super) fn pairs(head: &[u8]) -> Result<Vec<Pair<'_>>, Short> {
    let mut r = Reader::new(head);
    for _ in 0..FIXED {
        r.unsigned()?;
    }
    let mut pairs = Vec::new();
    while r.left() > 0 {
        let (name, number) = (r.bytes()?, r.unsigned()?);
        if name == GONE {
            r.take(usize::try_from(number).map_err(|_| Short)?)?;
        }
        pairs.push((name, number));
    }
    Ok(pairs)
}

/// The moment of a commit at `wall` whose head this is.
pub(super) fn moment_of(head: &[u8], wall: Timestamp) -> Result<Moment, Short> {
    let mut moment = Moment::believed(wall);
    for (name, number) in pairs(head)? {
        match name {
            BOOT => moment.boot = number,
            UPTIME => moment.uptime = i64::try_from(number).unwrap_or(i64::MAX),
            UNSYNCED => moment.synced = false,
            _ => {}
        }
    }
    Ok(moment)
}

/// A head without the word that its batch is held.
fn released(head: &[u8]) -> Result<Vec<u8>, Short> {
    let mut r = Reader::new(head);
    let mut out = Vec::with_capacity(head.len());
    for _ in 0..FIXED {
        varint::put(&mut out, r.unsigned()?);
    }
    while r.left() > 0 {
        let (name, number) = (r.bytes()?, r.unsigned()?);
        if name != UNSYNCED {
            varint::put_bytes(&mut out, name);
            varint::put(&mut out, number);
        }
        if name == GONE {
            out.extend_from_slice(r.take(usize::try_from(number).map_err(|_| Short)?)?);
        }
    }
    Ok(out)
}

/// Moves the times of a row that was stamped by a clock that was wrong by `by`.
fn corrected(mut row: Row, by: i64) -> Row {
    let received = Timestamp::from_millis(row.received_at.plus(by).micros().div_euclid(1000));
    if row.quality.has(Doubt::ClockUnsynced) {
        // It had no time of its own: all of its message share the time of receipt.
        row.ts = received;
        row.quality = without(row.quality, Doubt::ClockUnsynced);
    } else if row.ts.since(received) > FUTURE_TOLERANCE {
        row.quality = row.quality.with(Doubt::Future);
    }
    row.received_at = received;
    row
}

impl Stored {
    /// When and on which start of the machine it was committed.
    pub(super) fn moment(&self) -> Result<Moment, BufferError> {
        moment_of(&self.head, self.span.committed_at)
            .map_err(|_| BufferError::Damaged { batch: self.span.id, why: "its head ends early".into() })
    }
}

impl Buffer {
    /// When the newest batch was committed, by the clock of then.
    pub fn newest(&mut self) -> Result<Option<Timestamp>, BufferError> {
        self.guarded(|b| b.newest_commit())
    }

    /// How many batches are held until the clock is synchronised.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Lets go of all batches that are held. Those of this start of the machine get the right times, if `now` is
    /// synchronised; the others keep what bounds their times, and their mark. Gives the rows whose event times
    /// were stamped, batch by batch in the order of their seqs.
    pub fn stamp(&mut self, now: &Moment, memory: MoveMemory<'_>) -> Result<Vec<Vec<Row>>, BufferError> {
        self.guarded(|b| b.stamp_now(now, memory))
    }

    fn stamp_now(&mut self, now: &Moment, memory: MoveMemory<'_>) -> Result<Vec<Vec<Row>>, BufferError> {
        let mut stamped = Vec::new();
        let mut bounded: BTreeMap<Namespace, GapRow> = BTreeMap::new();
        let mut done: Vec<(Stored, Vec<Row>)> = Vec::new();
        for id in self.held.keys() {
            let mut stored = load_batch(&self.sql, *id)?;
            let rows = stored.rows()?;
            let head = released(&stored.head)
                .map_err(|_| BufferError::Damaged { batch: *id, why: "its head ends early".into() })?;
            let by = if now.synced { now.correction(&stored.moment()?) } else { None };
            match by {
                Some(by) => {
                    let unknown: Vec<bool> =
                        rows.iter().map(|row| row.quality.has(Doubt::ClockUnsynced)).collect();
                    let rows: Vec<Row> = rows.into_iter().map(|row| corrected(row, by)).collect();
                    let (span, moved) = (stored.span, memory(&stored.memory, by));
                    let at = span.committed_at.plus(by);
                    stored = Stored::new(span.id, span.epoch, &rows, head, moved, at)?;
                    let now_known = rows.iter().zip(unknown).filter(|(_, unknown)| *unknown);
                    stamped.push(now_known.map(|(row, _)| row.clone()).collect());
                    done.push((stored, rows));
                }
                None => {
                    self.bound(&stored, &rows, now, &mut bounded);
                    let Stored { span, memory, .. } = stored;
                    stored = Stored::new(span.id, span.epoch, &rows, head, memory, span.committed_at)?;
                    done.push((stored, rows));
                }
            }
        }
        self.transact(["stamp: before", "stamp: after"], |tx| {
            for (stored, _) in &done {
                tx.prepare_cached("DELETE FROM batch WHERE id = ?1")?.execute(params![stored.span.id])?;
                stored.insert(tx)?;
            }
            bounded.values().try_for_each(|gap| rejects::save_gap(tx, gap))
        })?;
        for (stored, rows) in done {
            self.held.remove(&stored.span.id);
            self.spans.batches = self.spans.batches.saturating_sub(1);
            self.spans.add(&stored.span);
            if stored.span.epoch != self.current.ordinal {
                continue;
            }
            let taken: RowSet = Mark::load(&self.sql, stored.span.id, stored.span.rows)?.taken();
            let free = (0u32..).zip(&rows).filter(|(i, _)| !taken.contains(*i)).map(|(_, row)| row);
            self.waiting.add(&stored.span, free, &self.dictionary);
            self.dictionary.observe(&rows.iter().map(|r| (r.series, r.ts)).collect::<Vec<_>>());
        }
        Ok(stamped)
    }

    /// Adds rows whose times are only bounded to the gap of their namespace.
    fn bound(&self, stored: &Stored, rows: &[Row], now: &Moment, gaps: &mut BTreeMap<Namespace, GapRow>) {
        for row in rows.iter().filter(|row| row.quality.has(Doubt::ClockUnsynced)) {
            let namespace = self.dictionary.get(row.series).map(|e| e.namespace.clone()).unwrap_or_default();
            let gap = gaps.entry(namespace.clone()).or_insert_with(|| GapRow {
                id: format!("clock-{}-{}-{namespace}", self.current.epoch, stored.span.id),
                namespace,
                from_ts: row.ts,
                to_ts: now.wall.max(row.ts),
                cancels: None,
                source: None,
                device: None,
                metric: None,
                reason: GapReason::Clock,
                readings: Some(0),
                bytes: None,
                first_seq: Some(row.seq),
                last_seq: Some(row.seq),
                detail: Some(
                    "the clock was not synchronised: these readings were received not before the times they bear, and \
                     are marked clock-unsynced"
                        .to_owned(),
                ),
                recorded_at: now.wall,
            });
            gap.from_ts = gap.from_ts.min(row.ts);
            gap.readings = gap.readings.map(|n| n + 1);
            gap.first_seq = gap.first_seq.min(Some(row.seq));
            gap.last_seq = gap.last_seq.max(Some(row.seq));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Books;

    #[test]
    fn a_head_carries_the_moment_of_its_commit_and_older_readers_pass_it_over() {
        let wall = Timestamp(9);
        let mut books = Books::default();
        books.counters.messages.received = 3;
        books.counters.messages.accepted = 3;
        books.gone.insert_range(300, 900);
        let mut head = books.head();
        assert_eq!(moment_of(&head, wall), Ok(Moment::believed(wall)));
        let moment = Moment { wall, boot: u64::MAX, uptime: 77, synced: false };
        put(&mut head, &moment);
        assert_eq!(moment_of(&head, wall), Ok(moment));
        let mut read = Books::default();
        read.take_head(&head).unwrap();
        assert_eq!(read, books);
        let after = released(&head).unwrap();
        assert_eq!(moment_of(&after, wall), Ok(Moment { synced: true, ..moment }));
        assert!(moment_of(&head[..head.len() - 1], wall).is_err());
    }
}
