//! Sealing: rows are picked, a number is given, and file, lease and one transaction make the segment. Edge: SQLite, files.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use tributary_contract::counters::Counters;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, Namespace, Number};
use tributary_contract::key::SegmentKey;
use tributary_contract::manifest::{ClosedEpoch, Link, Manifest};
use tributary_contract::range::Ranges;
use tributary_contract::time::{Day, Timestamp};

use super::bits::RowSet;
use super::draft::Draft;
use super::entry::Progress;
use super::error::BufferError;
use super::journal::{Mark, Stored, load_batch};
use super::lease::Named;
use super::row::{Row, SeriesEntry};
use super::sums::{self, Part};
use super::waiting::ToSeal;
use super::{Buffer, EpochBook, int, side, sqlite, uint};

/// A segment about to be encoded: what its manifest says of the buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sealing {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub number: Number,
    /// The segment sealed before it in this epoch.
    pub previous: Option<Link>,
    /// Numbers of this epoch that will never come.
    pub void: Ranges,
    /// Numbers without receipt, this one included.
    pub outstanding: Ranges,
    /// Older epochs.
    pub closed: Vec<ClosedEpoch>,
    /// Counters before this segment: add its rows to `sealed` if it holds readings.
    pub counters: Counters,
}

/// What a segment holds, by what the buffer finds it again.
#[derive(Debug, Clone, PartialEq)]
pub enum Contents {
    /// Rows of the journal, all of one namespace and day.
    Readings {
        /// Owner of the data.
        namespace: Namespace,
        /// Day of the event times.
        day: Day,
        /// Which rows.
        picked: Vec<Picked>,
    },
    /// What the window stage decided, encoded by it, with the latest end of a window in it.
    Aggregates {
        /// The decisions.
        decisions: Vec<u8>,
        /// For whoever looks into the file.
        newest: Timestamp,
    },
    /// Keys of the dictionary.
    Series(Vec<u32>),
    /// Ids of gaps.
    Gaps(Vec<String>),
    /// Ids of rejects.
    Rejects(Vec<i64>),
    /// Names of alerts.
    Alerts(Vec<String>),
}

/// Rows of one batch that go into a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    pub(super) batch: i64,
    pub(super) rows: RowSet,
}

impl Picked {
    /// How many rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows.len() as usize
    }
}

/// Decisions of one segment of aggregates, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptDecisions {
    /// How many epochs were before the segment's.
    pub ordinal: u32,
    /// The segment's number.
    pub number: u64,
    /// The decisions, encoded by the window stage.
    pub decisions: Vec<u8>,
}

impl Buffer {
    /// What waits, per namespace and day.
    pub fn rows_to_seal(&self) -> Vec<ToSeal> {
        self.waiting.summary()
    }

    /// Picks waiting rows of a namespace and day, whole batches, oldest first, until a limit would be passed (the first
    /// batch always; bytes as estimated for the segment). None if nothing waits. Read them with [`Buffer::each_row`].
    pub fn pick_rows(
        &mut self,
        namespace: &Namespace,
        day: Day,
        max_rows: u64,
        max_bytes: u64,
    ) -> Result<Option<Contents>, BufferError> {
        self.guarded(|b| {
            let mut picked = Vec::new();
            for batch in b.waiting.pick(namespace, day, max_rows, max_bytes) {
                let stored = load_batch(&b.sql, batch)?;
                let taken = Mark::load(&b.sql, batch, stored.span.rows)?.taken();
                let offered = b.waiting.offers(namespace, day, batch);
                let fits = |row: &Row| {
                    row.ts.day() == day
                        && b.dictionary
                            .get(row.series)
                            .is_some_and(|e| e.namespace == *namespace && offered(row, &e))
                };
                let rows: RowSet = (0u32..)
                    .zip(&stored.rows()?)
                    .filter(|(i, row)| !taken.contains(*i) && fits(row))
                    .map(|(i, _)| i)
                    .collect();
                if !rows.is_empty() {
                    picked.push(Picked { batch, rows });
                }
            }
            let contents = Contents::Readings { namespace: namespace.clone(), day, picked };
            Ok((contents.rows() > 0).then_some(contents))
        })
    }

    /// Calls `f` for each row that `contents` picked, in the order of seqs, decoding one batch at a time.
    pub fn each_row(&mut self, contents: &Contents, mut f: impl FnMut(Row)) -> Result<(), BufferError> {
        let Contents::Readings { picked, .. } = contents else { return Ok(()) };
        self.guarded(|b| {
            for Picked { batch, rows } in picked {
                let all = load_batch(&b.sql, *batch)?.rows()?;
                (0u32..).zip(all).filter(|(i, _)| rows.contains(*i)).for_each(|(_, row)| f(row));
            }
            Ok(())
        })
    }

    /// Series that the lake isn't told of in this epoch.
    pub fn series_to_seal(&mut self) -> Vec<SeriesEntry> {
        self.dictionary.offer()
    }

    /// How many of them there are, by namespace and the day of their first reading.
    pub fn series_waiting(&self) -> BTreeMap<(Namespace, Day), u64> {
        self.dictionary.waiting()
    }

    /// Gives the next number and what the manifest says of the buffer; its file begins with [`Buffer::draft`]. Without
    /// [`Buffer::finish_seal`] nothing happened.
    pub fn begin_seal(&mut self) -> Result<Sealing, BufferError> {
        self.guarded(|b| {
            if !b.settled {
                return Err(BufferError::ReadingBack(b.pending.len()));
            }
            let number = Number::new(b.next_number)?;
            let mut outstanding = b.outstanding()?;
            outstanding.insert(number.get());
            let previous = |c: &EpochBook| {
                Some(Link { number: Number::new(c.last_number).ok()?, digest: c.last_digest? })
            };
            Ok(Sealing {
                epoch: b.current.epoch,
                number,
                previous: previous(&b.current),
                void: b.current.void.clone(),
                outstanding,
                closed: b.older.values().map(EpochBook::closed).collect(),
                counters: b.current.books.counters,
            })
        })
    }

    /// Makes the segment durable: sync of its temporary file, lease line, sync, rename, sync of the folder, then one
    /// transaction. `key`, `draft` and `manifest` must be those of `sealing`.
    pub fn finish_seal(
        &mut self,
        sealing: &Sealing,
        key: &SegmentKey,
        draft: Draft,
        manifest: &Manifest,
        contents: &Contents,
    ) -> Result<Digest, BufferError> {
        self.guarded(|b| b.finish_seal_now(sealing, key, draft, manifest, contents))
    }

    fn finish_seal_now(
        &mut self,
        sealing: &Sealing,
        key: &SegmentKey,
        draft: Draft,
        manifest: &Manifest,
        contents: &Contents,
    ) -> Result<Digest, BufferError> {
        let number = sealing.number.get();
        let path = self.files.segment(sealing.epoch, sealing.number);
        let newest = sealing.epoch == self.current.epoch && number == self.next_number;
        if !newest || !self.settled || !draft.is_of(&path) {
            return Err(BufferError::StaleSealing(number));
        }
        let expected = tributary_contract::id::SegmentId {
            gateway: self.gateway.clone(),
            epoch: sealing.epoch,
            number: sealing.number,
        };
        if key.id != expected {
            return Err(BufferError::WrongKey { key: key.id.to_string(), expected: expected.to_string() });
        }
        if manifest.agrees_with(key).is_err() || contents.rows_if_known().is_some_and(|n| n != manifest.rows)
        {
            return Err(BufferError::WrongManifest {
                got: format!("{} with {} rows", manifest.id(), manifest.rows),
                expected: format!("{expected} with {} rows", contents.rows()),
            });
        }
        let marks = self.marks_after(contents)?;
        let (digest, size) = self.keep_draft(draft)?;
        let mut book = self.current.clone();
        book.books.counters.readings.sealed += contents.rows();
        book.books.segments_sealed += 1;
        (book.last_number, book.last_digest) = (number, Some(digest));
        book.books.counters.check()?;

        self.files.hit("seal: file written")?;
        self.lease.name_segment(&self.files, sealing.epoch, number, Named::of(manifest, digest))?;
        self.files.appear(&path)?;
        self.files.hit("seal: file renamed")?;
        let ordinal = book.ordinal;
        let told: Vec<SeriesEntry> = match contents {
            Contents::Series(keys) => {
                let same = keys.iter().filter(|key| self.dictionary.is_as_offered(**key));
                same.filter_map(|key| self.dictionary.snapshot(*key)).collect()
            }
            _ => Vec::new(),
        };
        self.transact(["seal: before the transaction", "seal: after the transaction"], |tx| {
            let row = NewEntry { ordinal, number, key, digest, size, manifest };
            row.insert(tx, &Progress::Sealed)?;
            marks.iter().try_for_each(|(batch, mark)| mark.save(tx, *batch))?;
            contents.record(tx, ordinal, number)?;
            told.iter().try_for_each(|entry| tell(tx, entry, ordinal))?;
            book.save(tx)
        })?;
        self.current = book;
        self.next_number = number + 1;
        told.iter().for_each(|entry| self.dictionary.told(entry.key));
        if let Contents::Readings { namespace, day, picked } = contents {
            for Picked { batch, .. } in picked {
                if self.waiting.has_wishes() {
                    // Of a batch that is kept back only a part may have gone.
                    self.wait_again(*batch)?;
                } else {
                    self.waiting.remove_part(namespace, *day, *batch);
                }
            }
        }
        if self.lease.is_long() {
            sqlite::checkpoint(&self.sql)?;
            self.write_lease()?;
        }
        Ok(digest)
    }

    /// The marks of the batches as they are once `contents` is sealed; refused if a row isn't free any more.
    fn marks_after(&self, contents: &Contents) -> Result<Vec<(i64, Mark)>, BufferError> {
        let Contents::Readings { picked, .. } = contents else { return Ok(Vec::new()) };
        let mut out = Vec::with_capacity(picked.len());
        for Picked { batch, rows } in picked {
            let stored: Stored = load_batch(&self.sql, *batch)?;
            let mut mark = Mark::load(&self.sql, *batch, stored.span.rows)?;
            if rows.meets(&mark.taken()) || stored.span.epoch != self.current.ordinal {
                return Err(BufferError::RowsTaken(*batch));
            }
            mark.sealed.union(rows);
            out.push((*batch, mark));
        }
        Ok(out)
    }

    /// Kept decisions with their keys that may be thought over: those whose segment the lake has, because a superseded
    /// one's are to be taken again. The newest is never among them: it says up to where the journal was looked at. In their
    /// order, at most `limit` of those behind `after` (ordinal of the epoch, number).
    pub fn settled_decisions(
        &mut self,
        after: Option<(u32, u64)>,
        limit: usize,
    ) -> Result<Vec<KeptDecisions>, BufferError> {
        let (ordinal, number) = after.map_or((-1, 0), |(ordinal, number)| (i64::from(ordinal), int(number)));
        self.guarded(|b| {
            let mut select = b.sql.prepare_cached(
                "SELECT d.epoch, d.number, d.decisions FROM decision d
                 WHERE d.superseded = 0 AND (d.epoch, d.number) > (?1, ?2)
                   AND NOT EXISTS (SELECT 1 FROM outbox o
                                   WHERE o.epoch = d.epoch AND o.number = d.number AND o.state <> 'released')
                   AND (d.epoch, d.number) < (SELECT epoch, number FROM decision WHERE superseded = 0
                                              ORDER BY epoch DESC, number DESC LIMIT 1)
                 ORDER BY d.epoch, d.number LIMIT ?3",
            )?;
            let found = select.query_map(params![ordinal, number, int(limit as u64)], |r| {
                Ok(KeptDecisions { ordinal: r.get(0)?, number: uint(r.get(1)?), decisions: r.get(2)? })
            })?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// Replaces kept decisions by what is still needed of them, or drops those of which that is nothing (empty), all in
    /// one transaction.
    pub fn replace_decisions(&mut self, changed: &[KeptDecisions]) -> Result<(), BufferError> {
        self.guarded(|b| {
            b.transact(["decisions: before", "decisions: after"], |tx| {
                let mut delete =
                    tx.prepare_cached("DELETE FROM decision WHERE epoch = ?1 AND number = ?2")?;
                let mut update =
                    tx.prepare_cached("UPDATE decision SET decisions = ?3 WHERE epoch = ?1 AND number = ?2")?;
                for KeptDecisions { ordinal, number, decisions } in changed {
                    if decisions.is_empty() {
                        delete.execute(params![ordinal, int(*number)])?;
                    } else {
                        update.execute(params![ordinal, int(*number), decisions])?;
                    }
                }
                Ok(())
            })
        })
    }

    /// Calls `f` for each set of kept decisions that may hold a window which ends after `after`, in the order in which they
    /// were taken; those whose segment was superseded are left out.
    pub fn each_decision(&mut self, after: Timestamp, mut f: impl FnMut(&[u8])) -> Result<(), BufferError> {
        self.guarded(|b| {
            let mut select = b.sql.prepare_cached(
                "SELECT epoch, number, decisions FROM decision WHERE superseded = 0 AND newest > ?1
                 ORDER BY epoch, number",
            )?;
            let mut found = select.query([after.0])?;
            while let Some(r) = found.next()? {
                let (ordinal, number) = (r.get(0)?, uint(r.get(1)?));
                if !b.book(ordinal).is_some_and(|book| book.void.contains(number)) {
                    f(&r.get::<_, Vec<u8>>(2)?);
                }
            }
            Ok(())
        })
    }

    /// All kept decisions in the order in which they were taken; those whose segment was superseded are left out.
    #[cfg(test)]
    pub fn decisions(&mut self) -> Result<Vec<Vec<u8>>, BufferError> {
        self.guarded(|b| {
            let mut select = b.sql.prepare_cached(
                "SELECT decisions FROM decision WHERE superseded = 0 ORDER BY epoch, number",
            )?;
            let found = select.query_map([], |r| r.get(0))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }
}

impl Contents {
    /// How many readings it holds; none of the other tables' rows count.
    pub fn rows(&self) -> u64 {
        match self {
            Self::Readings { picked, .. } => picked.iter().map(|p| u64::from(p.rows.len())).sum(),
            Self::Aggregates { .. }
            | Self::Series(_)
            | Self::Gaps(_)
            | Self::Rejects(_)
            | Self::Alerts(_) => 0,
        }
    }

    fn rows_if_known(&self) -> Option<u64> {
        match self {
            Self::Readings { .. } => Some(self.rows()),
            Self::Aggregates { .. } => None,
            Self::Series(keys) => Some(keys.len() as u64),
            Self::Gaps(ids) => Some(ids.len() as u64),
            Self::Rejects(ids) => Some(ids.len() as u64),
            Self::Alerts(ids) => Some(ids.len() as u64),
        }
    }

    /// Notes what the segment holds; the marks of readings apart.
    pub(super) fn record(&self, tx: &Connection, ordinal: u32, number: u64) -> Result<(), BufferError> {
        match self {
            Self::Readings { picked, .. } => record_rows(tx, ordinal, number, picked),
            Self::Aggregates { decisions, newest } => {
                let sql = "INSERT INTO decision (epoch, number, newest, decisions) VALUES (?1, ?2, ?3, ?4)
                           ON CONFLICT (epoch, number) DO NOTHING";
                tx.prepare_cached(sql)?.execute(params![ordinal, int(number), newest.0, decisions])?;
                Ok(())
            }
            // What the lake was told of is written beside this, because the dictionary decides which that is.
            Self::Series(_) => Ok(()),
            Self::Gaps(ids) => side::GAPS.seal(tx, ordinal, number, ids),
            Self::Alerts(ids) => side::ALERTS.seal(tx, ordinal, number, ids),
            Self::Rejects(ids) => side::REJECTS.seal(tx, ordinal, number, ids),
        }
    }
}

pub(super) fn record_rows(
    tx: &Connection,
    ordinal: u32,
    number: u64,
    picked: &[Picked],
) -> Result<(), BufferError> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO segment_rows (epoch, number, batch, rows, crc) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    )?;
    for Picked { batch, rows } in picked {
        let rows = rows.encode();
        let crc = rows_sum(i64::from(ordinal), int(number), *batch, &rows);
        insert.execute(params![ordinal, int(number), batch, rows, crc])?;
    }
    Ok(())
}

/// The checksum of a row of `segment_rows`.
pub(super) fn rows_sum(epoch: i64, number: i64, batch: i64, rows: &[u8]) -> i64 {
    sums::sum(&[Part::Int(epoch), Part::Int(number), Part::Int(batch), Part::Bytes(rows)])
}

/// Notes that the lake was told of a series.
pub(super) fn tell(tx: &Connection, entry: &SeriesEntry, ordinal: u32) -> Result<(), BufferError> {
    tx.prepare_cached("UPDATE series SET sealed_in = ?1, first_ts = ?2, last_ts = ?3 WHERE key = ?4")?
        .execute(params![ordinal, entry.first_ts.0, entry.last_ts.0, entry.key])?;
    Ok(())
}

/// A row of the outbox to be written.
pub(super) struct NewEntry<'a> {
    pub ordinal: u32,
    pub number: u64,
    pub key: &'a SegmentKey,
    pub digest: Digest,
    pub size: u64,
    pub manifest: &'a Manifest,
}

impl NewEntry<'_> {
    pub(super) fn insert(&self, tx: &Connection, progress: &Progress) -> Result<(), BufferError> {
        let (day, digest) = (self.key.day.to_string(), self.digest.to_string());
        let crc = sums::sum(&[
            Part::Int(i64::from(self.ordinal)),
            Part::Int(int(self.number)),
            Part::Text(self.key.namespace.as_str()),
            Part::Text(self.key.table.name()),
            Part::Text(&day),
            Part::Text(&digest),
            Part::Int(int(self.size)),
            Part::Int(int(self.manifest.rows)),
        ]);
        tx.prepare_cached(
            "INSERT INTO outbox (epoch, number, namespace, tbl, day, digest, size, rows, min_ts, state, progress,
                                 attempts, next_at, crc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0, 0, ?12)",
        )?
        .execute(params![
            self.ordinal,
            int(self.number),
            self.key.namespace.as_str(),
            self.key.table.name(),
            day,
            digest,
            int(self.size),
            int(self.manifest.rows),
            self.manifest.min_ts.0,
            progress.name(),
            super::outbox::to_json(progress)?,
            crc,
        ])?;
        Ok(())
    }
}
