//! The outbox: what is due, how far it is, and letting go. Edge: SQLite, files.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension as _, params};
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number, SegmentId};
use tributary_contract::key::SegmentKey;
use tributary_contract::range::Ranges;
use tributary_contract::table::Table;
use tributary_contract::time::{Day, Timestamp};

use super::bits::RowSet;
use super::entry::{Entry, Progress};
use super::error::BufferError;
use super::files::{Files, sync_parent};
use super::journal::Mark;
use super::side::SIDES;
use super::sums::{self, Part};
use super::{Buffer, EpochBook, corrupt, int, uint};

pub(super) const COLUMNS: &str =
    "epoch, number, namespace, tbl, day, digest, size, rows, progress, attempts, next_at, crc";

/// Whether a segment is new, where (?3, ?4) is the first one sealed of which that may be, and ?6 the first day.
const NEW: &str = "((epoch, number) >= (?3, ?4) AND day >= ?6)";

/// How urgent a segment is, 1 before 5.
fn urgency() -> String {
    const SMALL: &str = "tbl IN ('aggregates', 'series', 'gaps')";
    format!(
        "CASE WHEN tbl = 'alerts' THEN 1 WHEN {NEW} THEN CASE WHEN {SMALL} THEN 2 ELSE 3 END
         ELSE CASE WHEN {SMALL} THEN 4 ELSE 5 END END"
    )
}

pub(super) fn to_json(progress: &Progress) -> Result<String, BufferError> {
    serde_json::to_string(progress)
        .map_err(|e| BufferError::Corrupt(format!("progress can't be written: {e}")))
}

/// Reads a row of [`COLUMNS`].
pub(super) fn read_entry(
    r: &rusqlite::Row<'_>,
    gateway: &GatewayId,
    epoch_of: impl Fn(u32) -> Option<Epoch>,
) -> Result<Entry, BufferError> {
    let text = |i: usize| r.get::<_, String>(i);
    let parts = [text(2)?, text(3)?, text(4)?, text(5)?];
    let [namespace, table, day, digest] = parts.each_ref().map(|t| Part::Text(t));
    let ends = [Part::Int(r.get(6)?), Part::Int(r.get(7)?)];
    let all = [Part::Int(r.get(0)?), Part::Int(r.get(1)?), namespace, table, day, digest, ends[0], ends[1]];
    sums::verify("segment", r, 11, &all)?;
    let ordinal: u32 = r.get(0)?;
    let epoch = epoch_of(ordinal).ok_or_else(|| corrupt("epoch of a segment")(ordinal.to_string()))?;
    let number = Number::new(uint(r.get(1)?))?;
    let key = SegmentKey {
        id: SegmentId { gateway: gateway.clone(), epoch, number },
        namespace: Namespace::new(text(2)?)?,
        table: text(3)?.parse().map_err(|_| corrupt("table")(text(3).unwrap_or_default()))?,
        day: text(4)?.parse().map_err(|_| corrupt("day")(text(4).unwrap_or_default()))?,
    };
    Ok(Entry {
        number,
        epoch,
        key,
        digest: text(5)?.parse().map_err(|_| corrupt("digest")(text(5).unwrap_or_default()))?,
        size: uint(r.get(6)?),
        rows: uint(r.get(7)?),
        state: serde_json::from_str(&text(8)?)
            .map_err(|_| corrupt("progress")(text(8).unwrap_or_default()))?,
        attempts: r.get(9)?,
        next_at: Timestamp(r.get(10)?),
    })
}

impl Buffer {
    fn entry(&self, r: &rusqlite::Row<'_>) -> Result<Entry, BufferError> {
        read_entry(r, &self.gateway, |ordinal| self.book(ordinal).map(|b| b.epoch))
    }

    /// Segments to be sent that may be tried now, oldest first, at most `limit`. Held ones aren't among them. None waits
    /// for ten minutes, which is twice the longest pause: one that seems to was put off before the clock stepped back, and
    /// may be tried now.
    pub fn due(&mut self, now: Timestamp, limit: usize) -> Result<Vec<Entry>, BufferError> {
        self.select(
            "state IN ('sealed', 'uploading') AND (next_at <= ?1 OR next_at > ?1 + 600000000)
             ORDER BY epoch, number LIMIT ?2",
            now,
            limit,
        )
    }

    /// The same in the order in which they go: alerts; then what is new, sealed from `new_from` on and of `since` or a later
    /// day, aggregates, dictionary and gaps before readings; then the rest, likewise, the newest first if `newest_first`.
    /// Each with whether it is new. `upload/link/class.rs` has the same order.
    pub fn due_in_order(
        &mut self,
        now: Timestamp,
        new_from: Option<(Epoch, Number)>,
        since: Day,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<(Entry, bool)>, BufferError> {
        self.guarded(|b| {
            let new_from =
                new_from.and_then(|(epoch, number)| Some((b.ordinal_of(epoch)?, int(number.get()))));
            // Without one, nothing is new.
            let (ordinal, number) = new_from.unwrap_or((u32::MAX, i64::MAX));
            let urgency = urgency();
            let sql = format!(
                "SELECT {COLUMNS}, {NEW} FROM outbox
                 WHERE state IN ('sealed', 'uploading') AND (next_at <= ?1 OR next_at > ?1 + 600000000)
                 ORDER BY {urgency}, CASE WHEN ?5 AND {urgency} >= 4 THEN -epoch ELSE epoch END,
                          CASE WHEN ?5 AND {urgency} >= 4 THEN -number ELSE number END
                 LIMIT ?2"
            );
            let mut select = b.sql.prepare_cached(&sql)?;
            let mut found = select.query(params![
                now.0,
                int(limit as u64),
                ordinal,
                number,
                newest_first,
                since.to_string()
            ])?;
            let mut out = Vec::new();
            while let Some(row) = found.next()? {
                out.push((b.entry(row)?, row.get(12)?));
            }
            Ok(out)
        })
    }

    /// The first segment to be sent whose readings all have event times from `since` on.
    pub fn first_since(&mut self, since: Timestamp) -> Result<Option<(Epoch, Number)>, BufferError> {
        let first = self.select(
            "state IN ('sealed', 'uploading') AND min_ts >= ?1 ORDER BY epoch, number LIMIT ?2",
            since,
            1,
        )?;
        Ok(first.first().map(|e| (e.epoch, e.number)))
    }

    /// Delivered segments without receipt whose `next_at` has come, oldest first, at most `limit`. None waits for two
    /// days, unless the clock stepped back.
    pub fn unconfirmed(&mut self, now: Timestamp, limit: usize) -> Result<Vec<Entry>, BufferError> {
        let due = "state = 'delivered' AND (next_at <= ?1 OR next_at > ?1 + 172800000000)
                   ORDER BY epoch, number LIMIT ?2";
        self.select(due, now, limit)
    }

    /// All segments of the outbox, oldest first.
    pub fn entries(&mut self) -> Result<Vec<Entry>, BufferError> {
        let all = "state <> 'released' AND ?1 = ?1 ORDER BY epoch, number LIMIT ?2";
        self.select(all, Timestamp(0), usize::MAX)
    }

    fn select(&mut self, filter: &str, now: Timestamp, limit: usize) -> Result<Vec<Entry>, BufferError> {
        self.guarded(|b| {
            let mut select = b.sql.prepare_cached(&format!("SELECT {COLUMNS} FROM outbox WHERE {filter}"))?;
            let mut found = select.query(params![now.0, int(limit as u64)])?;
            let mut out = Vec::new();
            while let Some(row) = found.next()? {
                out.push(b.entry(row)?);
            }
            Ok(out)
        })
    }

    /// Where the segment's bytes lie.
    pub fn segment_path(&self, epoch: Epoch, number: Number) -> PathBuf {
        self.files.segment(epoch, number)
    }

    pub(super) fn find(&self, epoch: Epoch, number: Number) -> Result<(u32, Entry), BufferError> {
        let unknown = || BufferError::UnknownSegment(epoch, number.get());
        let ordinal = self.ordinal_of(epoch).ok_or_else(unknown)?;
        let sql =
            format!("SELECT {COLUMNS} FROM outbox WHERE epoch = ?1 AND number = ?2 AND state <> 'released'");
        let mut select = self.sql.prepare_cached(&sql)?;
        let mut found = select.query(params![ordinal, int(number.get())])?;
        let row = found.next()?.ok_or_else(unknown)?;
        Ok((ordinal, self.entry(row)?))
    }

    /// Records how far a segment is. Quarantine and supersession have calls of their own.
    pub fn save_progress(
        &mut self,
        epoch: Epoch,
        number: Number,
        progress: &Progress,
        attempts: u32,
        next_at: Timestamp,
    ) -> Result<(), BufferError> {
        self.guarded(|b| {
            let (ordinal, entry) = b.find(epoch, number)?;
            let special = matches!(progress, Progress::Quarantined { .. } | Progress::Superseded { .. });
            if special || !entry.state.may_become(progress) {
                return Err(refused(&entry, progress.name()));
            }
            let arrives = matches!(progress, Progress::Delivered { .. })
                && !matches!(entry.state, Progress::Delivered { .. });
            b.change(["progress: before", "progress: after"], ordinal, |tx, book| {
                if arrives {
                    book.books.segments_delivered += 1;
                    book.save(tx)?;
                }
                write_progress(tx, ordinal, number, progress, attempts, next_at)
            })
        })
    }

    /// The bucket has it, digest agreed; `look_at` is when to look again if no receipt came.
    pub fn delivered(
        &mut self,
        epoch: Epoch,
        number: Number,
        at: Timestamp,
        look_at: Timestamp,
    ) -> Result<(), BufferError> {
        self.save_progress(epoch, number, &Progress::Delivered { at }, 0, look_at)
    }

    /// Lets go of segments that the lake has: one transaction, then their files. Refused as a whole if one of them isn't
    /// delivered by this buffer.
    pub fn release(&mut self, segments: &[(Epoch, Number)]) -> Result<(), BufferError> {
        self.guarded(|b| b.release_now(segments))
    }

    fn release_now(&mut self, segments: &[(Epoch, Number)]) -> Result<(), BufferError> {
        let mut ends = Vec::with_capacity(segments.len());
        for (epoch, number) in segments {
            let (ordinal, entry) = self.find(*epoch, *number)?;
            match &entry.state {
                Progress::Delivered { .. } => ends.push((ordinal, entry)),
                Progress::Sealed
                | Progress::Uploading { .. }
                | Progress::Held { .. }
                | Progress::Quarantined { .. }
                | Progress::Superseded { .. } => return Err(refused(&entry, "released")),
            }
        }
        if ends.is_empty() {
            return Ok(());
        }
        let mut current = self.current.clone();
        let mut older = self.older.clone();
        for (ordinal, entry) in &ends {
            let book = if *ordinal == current.ordinal { Some(&mut current) } else { older.get_mut(ordinal) };
            let Some(book) = book else { continue };
            book.books.segments_registered += 1;
            if entry.key.table == Table::Readings {
                book.books.counters.readings.registered += entry.rows;
            }
        }
        let gone = self.released.clone();
        self.transact(["release: before", "release: after"], |tx| {
            forget_released(tx, &gone)?;
            for (ordinal, entry) in &ends {
                let number = entry.number;
                for (batch, rows) in rows_of(tx, *ordinal, number)? {
                    end_rows(tx, batch, &rows)?;
                }
                let sealed = params![ordinal, int(number.get())];
                tx.prepare_cached("DELETE FROM segment_rows WHERE epoch = ?1 AND number = ?2")?
                    .execute(sealed)?;
                SIDES.iter().try_for_each(|side| side.forget(tx, *ordinal, number.get()))?;
                tx.prepare_cached("UPDATE outbox SET state = 'released' WHERE epoch = ?1 AND number = ?2")?
                    .execute(sealed)?;
            }
            for book in older.values().chain([&current]) {
                if ends.iter().any(|(ordinal, _)| *ordinal == book.ordinal) {
                    book.save(tx)?;
                }
            }
            Ok(())
        })?;
        (self.current, self.older) = (current, older);
        gone.iter().for_each(|id| {
            self.released.remove(id);
        });
        for (ordinal, entry) in &ends {
            // A file that stays behind is removed at the next start: its row says that it may go.
            self.files.remove(&self.files.segment(entry.epoch, entry.number))?;
            self.released.insert((*ordinal, entry.number.get()));
        }
        if let Some((_, entry)) = ends.first() {
            sync_parent(&self.files.segment(entry.epoch, entry.number))?;
        }
        self.files.hit("release: files removed")
    }

    /// The receiver refused it: it stays, counted, for a person.
    pub fn quarantine(&mut self, epoch: Epoch, number: Number, reason: &str) -> Result<(), BufferError> {
        self.guarded(|b| {
            let (ordinal, entry) = b.find(epoch, number)?;
            let progress = Progress::Quarantined { reason: reason.to_owned() };
            if !entry.state.may_become(&progress) {
                return Err(refused(&entry, progress.name()));
            }
            let rows = if entry.key.table == Table::Readings { entry.rows } else { 0 };
            b.change(["quarantine: before", "quarantine: after"], ordinal, |tx, book| {
                book.books.counters.readings.quarantined += rows;
                book.save(tx)?;
                for (batch, rows) in rows_of(tx, ordinal, number)? {
                    end_rows(tx, batch, &rows)?;
                }
                write_progress(tx, ordinal, number, &progress, entry.attempts, entry.next_at)
            })
        })
    }

    /// Numbers of the current epoch that are sealed and without receipt.
    pub(super) fn outstanding(&self) -> Result<Ranges, BufferError> {
        let mut select = self.sql.prepare_cached(
            "SELECT number FROM outbox
             WHERE epoch = ?1 AND state IN ('sealed', 'uploading', 'held', 'delivered') ORDER BY number",
        )?;
        let found = select.query_map([self.current.ordinal], |r| r.get::<_, i64>(0))?;
        found.map(|n| Ok(uint(n?))).collect()
    }

    /// A receipt covers these void numbers: manifests needn't repeat them.
    pub fn forget_void(&mut self, epoch: Epoch, covered: &Ranges) -> Result<(), BufferError> {
        self.guarded(|b| {
            let Some(ordinal) = b.ordinal_of(epoch) else { return Ok(()) };
            let void = b.book(ordinal).map(|book| book.void.clone()).unwrap_or_default();
            let left: Ranges = void
                .iter()
                .flat_map(|(first, last)| first..=last)
                .filter(|n| !covered.contains(*n))
                .collect();
            if left == void {
                return Ok(());
            }
            b.change(["void: before", "void: after"], ordinal, |tx, book| {
                book.void = left;
                book.save(tx)
            })
        })
    }

    /// One transaction that also changes an epoch's books; memory follows once it is durable.
    pub(super) fn change(
        &mut self,
        points: [&'static str; 2],
        ordinal: u32,
        f: impl FnOnce(&Connection, &mut EpochBook) -> Result<(), BufferError>,
    ) -> Result<(), BufferError> {
        let book = self.book(ordinal).cloned();
        let mut book = book.ok_or_else(|| corrupt("epoch")(ordinal.to_string()))?;
        self.transact(points, |tx| f(tx, &mut book))?;
        if let Some(place) = self.book_mut(ordinal) {
            *place = book;
        }
        Ok(())
    }
}

pub(super) fn refused(entry: &Entry, to: &'static str) -> BufferError {
    BufferError::Transition { epoch: entry.epoch, number: entry.number.get(), from: entry.state.name(), to }
}

pub(super) fn write_progress(
    tx: &Connection,
    ordinal: u32,
    number: Number,
    progress: &Progress,
    attempts: u32,
    next_at: Timestamp,
) -> Result<(), BufferError> {
    tx.prepare_cached(
        "UPDATE outbox SET state = ?3, progress = ?4, attempts = ?5, next_at = ?6 WHERE epoch = ?1 AND number = ?2",
    )?
    .execute(params![ordinal, int(number.get()), progress.name(), to_json(progress)?, attempts, next_at.0])?;
    Ok(())
}

/// Which rows of which batch a segment holds.
pub(super) fn rows_of(
    tx: &Connection,
    ordinal: u32,
    number: Number,
) -> Result<Vec<(i64, Vec<u8>)>, BufferError> {
    let mut select = tx.prepare_cached(&format!(
        "SELECT {ROWS_COLUMNS} FROM segment_rows WHERE epoch = ?1 AND number = ?2"
    ))?;
    let mut found = select.query(params![ordinal, int(number.get())])?;
    let mut out = Vec::new();
    while let Some(r) = found.next()? {
        out.push(read_rows(r)?);
    }
    Ok(out)
}

pub(super) const ROWS_COLUMNS: &str = "epoch, number, batch, rows, crc";

/// Reads a row of [`ROWS_COLUMNS`]: which rows of which batch.
pub(super) fn read_rows(r: &rusqlite::Row<'_>) -> Result<(i64, Vec<u8>), BufferError> {
    let (epoch, number, batch, rows): (i64, i64, i64, Vec<u8>) = (r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?);
    let parts = [Part::Int(epoch), Part::Int(number), Part::Int(batch), Part::Bytes(&rows)];
    sums::verify("rows of a segment", r, 4, &parts)?;
    Ok((batch, rows))
}

/// Counts rows of a batch as ended.
fn end_rows(tx: &Connection, batch: i64, rows: &[u8]) -> Result<(), BufferError> {
    let of: Option<u32> = tx
        .prepare_cached("SELECT rows FROM batch WHERE id = ?1")?
        .query_row([batch], |r| r.get(0))
        .optional()?;
    // A batch that damage took has nothing to be counted on.
    let Some(of) = of else { return Ok(()) };
    let set = RowSet::decode(rows, of)
        .map_err(|e| BufferError::Damaged { batch, why: format!("rows of a segment: {e}") })?;
    let mut mark = Mark::load(tx, batch, of)?;
    mark.ended += set.len();
    mark.save(tx, batch)
}

pub(super) fn forget_released<'a>(
    tx: &Connection,
    gone: impl IntoIterator<Item = &'a (u32, u64)>,
) -> Result<(), BufferError> {
    let mut delete =
        tx.prepare_cached("DELETE FROM outbox WHERE epoch = ?1 AND number = ?2 AND state = 'released'")?;
    for (ordinal, number) in gone {
        delete.execute(params![ordinal, int(*number)])?;
    }
    Ok(())
}

/// Removes the files of released and superseded segments that a crash left behind, and tells the rows of released ones.
pub(super) fn sweep_released(
    sql: &Connection,
    files: &Files,
    epoch_of: impl Fn(u32) -> Option<Epoch>,
) -> Result<Vec<(u32, u64)>, BufferError> {
    let mut select =
        sql.prepare("SELECT epoch, number, state FROM outbox WHERE state IN ('released', 'superseded')")?;
    let found =
        select.query_map([], |r| Ok((r.get::<_, u32>(0)?, uint(r.get(1)?), r.get::<_, String>(2)?)))?;
    let mut gone = Vec::new();
    for row in found {
        let (ordinal, number, state) = row?;
        if let (Some(epoch), Ok(number)) = (epoch_of(ordinal), Number::new(number)) {
            files.remove(&files.segment(epoch, number))?;
        }
        if state == "released" {
            gone.push((ordinal, number));
        }
    }
    sync_parent(&files.dir().join("segments/any"))?;
    Ok(gone)
}
