//! A new epoch: what still waits moves to it with new seqs and a doubt; sealed segments keep theirs. Edge: SQLite, files.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::quality::Doubt;
use tributary_contract::reject::GapReason;
use tributary_contract::series::{SeriesId, Tags};
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::bits::RowSet;
use super::entry::Progress;
use super::error::BufferError;
use super::journal::{Mark, Stored, load_batch};
use super::lease::Lease;
use super::lease_file::LeaseFile;
use super::outbox::{refused, rows_of, write_progress};
use super::requests::{DESIRED, Requests};
use super::row::{GapRow, Row, SeriesEntry, value_type};
use super::side::SIDES;
use super::sums::{self, Part};
use super::tail::Tail;
use super::{Buffer, EpochBook, outline, rejects, stamp};
use crate::clock::Moment;

/// Rows of one batch of those that a move writes.
const MOVED_ROWS: usize = 8192;

/// Rows on their way to the current epoch, within one transaction.
struct Move<'a> {
    tx: &'a Connection,
    book: &'a mut EpochBook,
    next_seq: u64,
    next_batch: i64,
    now: Timestamp,
    held: Vec<Row>,
    /// When the batch was committed from which the rows at hand come.
    moment: Moment,
    series: BTreeSet<u32>,
}

impl Move<'_> {
    /// Takes over rows of a batch and marks them there; tells how many.
    fn take(&mut self, stored: &Stored, rows: &RowSet, mark: &mut Mark) -> Result<u64, BufferError> {
        let moment = stored.moment()?;
        if moment.synced != self.moment.synced || !moment.synced {
            // Rows whose times aren't known yet stay together with what tells them.
            self.flush()?;
        }
        self.moment = moment;
        for (_, mut row) in (0u32..).zip(stored.rows()?).filter(|(i, _)| rows.contains(*i)) {
            row.seq = self.next_seq;
            row.quality = row.quality.with(Doubt::PossibleDuplicate);
            self.series.insert(row.series);
            self.next_seq += 1;
            self.held.push(row);
            if self.held.len() >= MOVED_ROWS {
                self.flush()?;
            }
        }
        mark.moved.union(rows);
        mark.ended += rows.len();
        mark.save(self.tx, stored.span.id)?;
        self.book.books.counters.readings.moved_in += u64::from(rows.len());
        Ok(u64::from(rows.len()))
    }

    fn flush(&mut self) -> Result<(), BufferError> {
        if !self.held.is_empty() {
            let mut head = self.book.books.head();
            let at = if self.moment.synced {
                self.now
            } else {
                stamp::put(&mut head, &self.moment);
                self.moment.wall
            };
            Stored::new(self.next_batch, self.book.ordinal, &self.held, head, Vec::new(), at)?
                .insert(self.tx)?;
            self.next_batch += 1;
            self.held.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), BufferError> {
        self.flush()?;
        let mut update = self.tx.prepare_cached(
            "UPDATE series SET seen_in = ?1, sealed_in = NULL WHERE key = ?2 AND seen_in <> ?1",
        )?;
        self.series.iter().try_for_each(|key| update.execute([self.book.ordinal, *key]).map(|_| ()))?;
        Ok(())
    }
}

/// The gaps that say that readings are lost to damage: one per namespace.
pub(super) fn torn_gaps(
    namespaces: BTreeSet<tributary_contract::id::Namespace>,
    epoch: Epoch,
    from: Timestamp,
    now: Timestamp,
    why: &str,
) -> Vec<GapRow> {
    let namespaces = if namespaces.is_empty() { BTreeSet::from([Default::default()]) } else { namespaces };
    let gap = |namespace: tributary_contract::id::Namespace| GapRow {
        id: format!("torn-{epoch}-{namespace}"),
        namespace,
        from_ts: from.min(now),
        to_ts: now,
        cancels: None,
        source: None,
        device: None,
        metric: None,
        reason: GapReason::Torn,
        readings: None,
        bytes: None,
        first_seq: None,
        last_seq: None,
        detail: Some(format!("{why}; the buffer went on in epoch {epoch}")),
        recorded_at: now,
    };
    namespaces.into_iter().map(gap).collect()
}

impl Buffer {
    /// Begins a new epoch because the buffer can't vouch for its past: a fork, or a copy of it somewhere. What waits moves
    /// to it, marked as possible duplicates; sealed segments go on under their names.
    pub fn new_epoch(&mut self, why: &str, now: Timestamp) -> Result<Epoch, BufferError> {
        self.guarded(|b| {
            b.begin_epoch(why, false, now)?;
            if b.pending.is_empty() {
                b.settle(now)?;
            }
            Ok(b.current.epoch)
        })
    }

    /// The database first, then the lease: in between nothing was given out in the new epoch.
    pub(super) fn begin_epoch(&mut self, why: &str, torn: bool, now: Timestamp) -> Result<(), BufferError> {
        let ordinal = self.current.ordinal.max(self.lease.now().ordinal) + 1;
        let mut next = EpochBook::new(ordinal, Epoch(self.files.random()?));
        next.books.gone = self.current.books.gone.clone();
        let newest = self.newest_commit()?.unwrap_or(now);
        let gaps = if torn {
            torn_gaps(self.dictionary.namespaces(), next.epoch, newest, now, why)
        } else {
            Vec::new()
        };
        self.transact(["epoch: before", "epoch: after"], |tx| {
            self.current.save(tx)?;
            next.save(tx)?;
            gaps.iter().try_for_each(|gap| rejects::save_gap(tx, gap))
        })?;
        let old = std::mem::replace(&mut self.current, next);
        self.older.insert(old.ordinal, old);
        (self.next_seq, self.next_number) = (1, 1);
        self.settled = false;
        self.waiting.clear();
        self.held.clear();
        self.dictionary.forget_told();
        self.write_lease()
    }

    pub(super) fn newest_commit(&self) -> Result<Option<Timestamp>, BufferError> {
        let sql = "SELECT committed_at FROM batch ORDER BY id DESC LIMIT 1";
        let mut select = self.sql.prepare_cached(sql)?;
        let mut found = select.query([])?;
        Ok(found.next()?.map(|r| r.get(0)).transpose()?.map(Timestamp))
    }

    /// Writes the lease anew: what is given out, and the segments that are still to be read back.
    pub(super) fn write_lease(&mut self) -> Result<(), BufferError> {
        let mut lease = Lease::new(self.gateway.clone(), self.current.epoch, self.current.ordinal);
        let old = self.lease.now();
        lease.opened = old.opened;
        let same = old.epoch == lease.epoch;
        lease.seq_end = if same { old.seq_end.max(self.next_seq) } else { self.next_seq };
        lease.number_end = if same { old.number_end.max(self.next_number) } else { self.next_number };
        let pending = |id: &(Epoch, u64)| self.pending.contains_key(id);
        lease.segments =
            old.segments.iter().filter(|(id, _)| pending(id)).map(|(id, d)| (*id, d.clone())).collect();
        self.lease = LeaseFile::replace(&self.files, lease)?;
        Ok(())
    }

    /// Moves what waits in older epochs to the current one and closes their books. Only once nothing is left to be read
    /// back: a row that a segment of an older epoch holds must not move.
    pub(super) fn settle(&mut self, now: Timestamp) -> Result<(), BufferError> {
        let sources: Vec<(i64, u32)> = {
            let mut select = self.sql.prepare_cached(
                "SELECT b.id, b.rows FROM batch b LEFT JOIN mark m ON m.batch = b.id
                 WHERE b.epoch <> ?1 AND b.rows > 0 AND (m.batch IS NULL OR m.waiting > 0) ORDER BY b.id",
            )?;
            select
                .query_map([self.current.ordinal], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<Result<_, _>>()?
        };
        let at_most: u64 = sources.iter().map(|(_, rows)| u64::from(*rows)).sum();
        self.lease.need_seq(&self.files, self.next_seq + at_most)?;
        let mut current = self.current.clone();
        let mut older = self.older.clone();
        self.transact(["settle: before", "settle: after"], |tx| {
            let mut moved: BTreeMap<u32, u64> = BTreeMap::new();
            let mut moving = self.moving(tx, &mut current, now);
            for (batch, rows) in sources {
                let stored = load_batch(tx, batch)?;
                let mut mark = Mark::load(tx, batch, rows)?;
                let mut free = RowSet::all(rows);
                free.subtract(&mark.taken());
                *moved.entry(stored.span.epoch).or_default() += moving.take(&stored, &free, &mut mark)?;
            }
            moving.finish()?;
            for book in older.values_mut() {
                let before = book.books.clone();
                let out = moved.get(&book.ordinal).copied().unwrap_or(0);
                let r = &mut book.books.counters.readings;
                // A salvaged journal may hold rows whose counters are lost.
                r.journaled += out.saturating_sub(r.waiting());
                r.moved_out += out;
                book.books.close();
                if book.books != before {
                    book.save(tx)?;
                }
            }
            current.save(tx)
        })?;
        (self.current, self.older) = (current, older);
        self.settled = true;
        self.load()?;
        self.tail.note(self.newest_batch()?);
        Ok(())
    }

    /// The id of the newest batch; 0 if there is none.
    pub(super) fn newest_batch(&self) -> Result<i64, BufferError> {
        Ok(self.sql.query_row("SELECT coalesce(max(id), 0) FROM batch", [], |r| r.get(0))?)
    }

    fn moving<'a>(&self, tx: &'a Connection, book: &'a mut EpochBook, now: Timestamp) -> Move<'a> {
        let (next_seq, next_batch) = (self.next_seq, self.next_batch);
        let moment = Moment::believed(now);
        Move { tx, book, next_seq, next_batch, now, held: Vec::new(), moment, series: BTreeSet::new() }
    }

    /// Another object holds the segment's name: its rows are sealed again under another epoch, a new one if its own is
    /// the current. Decisions of the window stage come back encoded, to be emitted again.
    pub fn supersede(
        &mut self,
        epoch: Epoch,
        number: Number,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, BufferError> {
        self.guarded(|b| b.supersede_now(epoch, number, reason, now))
    }

    fn supersede_now(
        &mut self,
        epoch: Epoch,
        number: Number,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, BufferError> {
        let (ordinal, entry) = self.find(epoch, number)?;
        let progress = Progress::Superseded { reason: reason.to_owned() };
        if !entry.state.may_become(&progress) {
            return Err(refused(&entry, progress.name()));
        }
        if ordinal == self.current.ordinal {
            self.begin_epoch(&format!("segment {number} was superseded"), false, now)?;
            if self.pending.is_empty() {
                self.settle(now)?;
            }
        }
        let rows = if entry.key.table == Table::Readings { entry.rows } else { 0 };
        self.lease.need_seq(&self.files, self.next_seq + rows)?;
        let mut current = self.current.clone();
        let mut old = self.book(ordinal).cloned().ok_or(BufferError::UnknownSegment(epoch, number.get()))?;
        let decisions = self.transact(["supersede: before", "supersede: after"], |tx| {
            let mut moving = self.moving(tx, &mut current, now);
            for (batch, rows) in rows_of(tx, ordinal, number)? {
                let stored = load_batch(tx, batch)?;
                let mut mark = Mark::load(tx, batch, stored.span.rows)?;
                let set = RowSet::decode(&rows, stored.span.rows)
                    .map_err(|e| BufferError::Damaged { batch, why: format!("rows of a segment: {e}") })?;
                mark.sealed.subtract(&set);
                moving.take(&stored, &set, &mut mark)?;
            }
            moving.finish()?;
            old.books.counters.readings.superseded += rows;
            let id = rusqlite::params![ordinal, super::int(number.get())];
            tx.execute("DELETE FROM segment_rows WHERE epoch = ?1 AND number = ?2", id)?;
            SIDES.iter().try_for_each(|side| side.unseal(tx, ordinal, number.get()))?;
            tx.execute("UPDATE decision SET superseded = 1 WHERE epoch = ?1 AND number = ?2", id)?;
            if entry.key.table == Table::Series {
                // Which ones it held is in its file alone: tell the lake of all that this epoch has seen.
                tx.execute(
                    "UPDATE series SET seen_in = ?1, sealed_in = NULL WHERE seen_in >= ?2",
                    [current.ordinal, ordinal],
                )?;
            }
            write_progress(tx, ordinal, number, &progress, entry.attempts, entry.next_at)?;
            // What was asked for of it is to be sent again: as of an epoch that there isn't, `load` lets it mean all there is.
            let mut requests = self.requests.clone();
            requests.reach(u32::MAX, 0);
            if requests != self.requests {
                requests.save(tx)?;
            }
            old.save(tx)?;
            current.save(tx)?;
            let sql = "SELECT decisions FROM decision WHERE epoch = ?1 AND number = ?2";
            let mut select = tx.prepare(sql)?;
            let mut found = select.query(id)?;
            Ok(found.next()?.map(|r| r.get::<_, Vec<u8>>(0)).transpose()?)
        })?;
        self.current = current;
        self.older.insert(ordinal, old);
        self.load()?;
        self.files.remove(&self.files.segment(epoch, number))?;
        Ok(decisions)
    }

    /// Reads what is kept in memory from the database: at the start, and when rows moved.
    pub(super) fn load(&mut self) -> Result<(), BufferError> {
        self.waiting.clear();
        self.requests = Requests::read(self.setting(DESIRED)?);
        let moved = self.requests.are_of_another_epoch(self.current.ordinal);
        if moved {
            // Until it is known which seq is the last.
            self.requests.reach(self.current.ordinal, u64::MAX);
        }
        self.wish_anew()?;
        self.held.clear();
        self.spans = Default::default();
        self.load_dictionary()?;
        // A series that the lake isn't told of yet is told of with all event times that are known of it. And keys are given
        // one after the other: where one is missing, rows may name it.
        let by_rows =
            self.waiting.has_wishes() || self.dictionary.has_untold() || !self.dictionary.is_dense();
        let mut waits = Vec::new();
        // No id is given again: not those of deleted batches, which salvage passes over, and not those of lost ones, to
        // which rows of segments may still refer.
        let deleted = self.older.values().chain([&self.current]).filter_map(|b| b.books.gone.last()).max();
        let sealed: i64 =
            self.sql.query_row("SELECT coalesce(max(batch), 0) FROM segment_rows", [], |r| r.get(0))?;
        let noted = Tail::read(&self.files.tail()).unwrap_or(0);
        let known = super::int(deleted.unwrap_or(0)).max(sealed).max(noted);
        self.next_batch = self.next_batch.max(known.saturating_add(1));
        {
            let sql = "SELECT id, epoch, first_seq, b.rows, min_ts, max_ts, min_received, committed_at, m.waiting, head
                       FROM batch b LEFT JOIN mark m ON m.batch = id ORDER BY id";
            let mut select = self.sql.prepare(sql)?;
            let mut found = select.query([])?;
            while let Some(row) = found.next()? {
                let span = super::journal::read_span(row)?;
                let waiting = row.get::<_, Option<u32>>(8)?.unwrap_or(span.rows);
                self.next_batch = self.next_batch.max(span.id.saturating_add(1));
                self.spans.add(&span);
                if span.epoch != self.current.ordinal {
                    continue;
                }
                self.next_seq = self.next_seq.max(span.first_seq + u64::from(span.rows));
                if waiting == 0 {
                    continue;
                }
                let read_rows = waiting != span.rows || by_rows;
                let head = row.get_ref(9)?.as_blob().map_err(rusqlite::Error::from)?;
                match if read_rows { None } else { outline::read(head, &span).unwrap_or_default() } {
                    Some(parts) => {
                        let last = parts.iter().map(|part| part.last).max();
                        if let Some(key) = last.filter(|key| *key >= self.dictionary.next_key()) {
                            return Err(super::corrupt("series of a reading")(key.to_string()));
                        }
                        self.waiting.add_outlined(&span, &parts, &self.dictionary);
                    }
                    None => waits.push(span),
                }
            }
        }
        for span in waits {
            let stored = load_batch(&self.sql, span.id)?;
            let rows = stored.rows()?;
            let taken = Mark::load(&self.sql, span.id, span.rows)?.taken();
            if let Some(row) = rows.iter().find(|row| self.dictionary.get(row.series).is_none()) {
                return Err(super::corrupt("series of a reading")(row.series.to_string()));
            }
            let free = (0u32..).zip(&rows).filter(|(i, _)| !taken.contains(*i)).map(|(_, row)| row);
            if stored.moment()?.synced {
                self.waiting.add(&span, free, &self.dictionary);
            } else {
                self.held.insert(span.id, span.min_ts);
            }
            self.dictionary.observe(&rows.iter().map(|r| (r.series, r.ts)).collect::<Vec<_>>());
        }
        if moved {
            self.requests.reach(self.current.ordinal, self.newest_seq());
            self.wish_anew()?;
        }
        Ok(())
    }

    fn load_dictionary(&mut self) -> Result<(), BufferError> {
        self.dictionary.forget_told();
        for (entry, seen_in, sealed_in) in read_series(&self.sql)? {
            let known = self.dictionary.snapshot(entry.key);
            let untold = seen_in == self.current.ordinal && sealed_in != Some(seen_in);
            let mut entry = entry;
            if let Some(known) = known {
                entry.first_ts = entry.first_ts.min(known.first_ts);
                entry.last_ts = entry.last_ts.max(known.last_ts);
            }
            self.dictionary.put(entry, seen_in, untold);
        }
        Ok(())
    }
}

pub(super) const SERIES_COLUMNS: &str = "key, namespace, source, device, metric, tags, unit, value_type, first_ts, last_ts, seen_in, sealed_in, crc";

/// A series as stored, with the last epochs that saw and that told it.
pub(super) type StoredSeries = (SeriesEntry, u32, Option<u32>);

/// Reads a row of [`SERIES_COLUMNS`].
pub(super) fn read_series_row(r: &rusqlite::Row<'_>) -> Result<StoredSeries, BufferError> {
    let (namespace, source): (String, String) = (r.get(1)?, r.get(2)?);
    let (device, metric, tags): (String, String, String) = (r.get(3)?, r.get(4)?, r.get(5)?);
    let unit: Option<String> = r.get(6)?;
    let parts = [&namespace, &source, &device, &metric, &tags].map(|t| Part::Text(t));
    let [a, b, c, d, e] = parts;
    let all = [Part::Int(r.get(0)?), a, b, c, d, e, Part::Maybe(unit.as_deref())];
    sums::verify("series", r, 12, &all)?;
    let tags: Tags = serde_json::from_str(&tags).map_err(|_| super::corrupt("tags")(tags))?;
    let kind: String = r.get(7)?;
    let entry = SeriesEntry {
        key: r.get(0)?,
        id: SeriesId::of(&device, &metric, &tags),
        namespace: namespace.parse()?,
        source,
        device,
        metric,
        tags,
        unit,
        value_type: value_type(&kind).ok_or_else(|| super::corrupt("value type")(kind))?,
        first_ts: Timestamp(r.get(8)?),
        last_ts: Timestamp(r.get(9)?),
    };
    Ok((entry, r.get(10)?, r.get(11)?))
}

fn read_series(sql: &Connection) -> Result<Vec<StoredSeries>, BufferError> {
    let mut select = sql.prepare(&format!("SELECT {SERIES_COLUMNS} FROM series ORDER BY key"))?;
    let mut found = select.query([])?;
    let mut out = Vec::new();
    while let Some(r) = found.next()? {
        out.push(read_series_row(r)?);
    }
    Ok(out)
}
