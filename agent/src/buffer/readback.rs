//! Read-back: segments that lease or folder know and the database doesn't, taken in again from their manifests. Edge: SQLite.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rusqlite::{Connection, params};
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::key::SegmentKey;
use tributary_contract::manifest::Manifest;
use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use super::bits::RowSet;
use super::entry::Progress;
use super::error::BufferError;
use super::journal::{Mark, SPAN_COLUMNS, read_span};
use super::row::RejectKey;
use super::seal::{Contents, NewEntry, Picked, record_rows, tell};
use super::{Buffer, int};

/// A segment to be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadbackItem {
    /// Its epoch; may be an older one.
    pub epoch: Epoch,
    /// Its number.
    pub number: Number,
    /// The digest that the lease vouches for, if it does.
    pub digest: Option<Digest>,
    /// Its name in the bucket, if the lease has it: without a file, that is where to look.
    pub key: Option<SegmentKey>,
    /// Its file, if the folder has it; else look in the bucket.
    pub file: Option<PathBuf>,
}

/// What a segment that was read back holds.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadbackContents {
    /// Seqs of its readings.
    Seqs(Vec<u64>),
    /// Decisions of the window stage, as it encodes them, and the latest end of a window.
    Aggregates {
        /// The decisions.
        decisions: Vec<u8>,
        /// As in [`Contents::Aggregates`].
        newest: Timestamp,
    },
    /// Names of its series.
    Series(Vec<SeriesId>),
    /// Ids of its gaps.
    Gaps(Vec<String>),
    /// Its rejects.
    Rejects(Vec<RejectKey>),
    /// Names of its alerts.
    Alerts(Vec<String>),
}

/// What an adoption found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// The database knows everything that it holds.
    Whole,
    /// It holds what the database doesn't know: commits are lost, and a new epoch has begun.
    TailLost,
}

impl Buffer {
    /// Segments that must be read back before anything is sealed, oldest first: from the file, else from the bucket.
    /// Each goes to [`Buffer::adopt`], or to [`Buffer::declare_void`] if it is in neither.
    pub fn pending_readback(&self) -> Vec<ReadbackItem> {
        self.pending.values().cloned().collect()
    }

    /// Whether any is left of these: until then the buffer doesn't know all that it sealed.
    pub fn is_reading_back(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes a segment in again: its row in the outbox, its rows as sealed. `size` and `digest` are of the bytes read;
    /// those from the bucket count as delivered.
    pub fn adopt(
        &mut self,
        item: &ReadbackItem,
        manifest: &Manifest,
        contents: &ReadbackContents,
        size: u64,
        digest: Digest,
        now: Timestamp,
    ) -> Result<Adopted, BufferError> {
        self.guarded(|b| b.adopt_now(item, manifest, contents, size, digest, now))
    }

    fn adopt_now(
        &mut self,
        item: &ReadbackItem,
        manifest: &Manifest,
        contents: &ReadbackContents,
        size: u64,
        digest: Digest,
        now: Timestamp,
    ) -> Result<Adopted, BufferError> {
        let (epoch, number) = (item.epoch, item.number);
        let absent = || BufferError::NotPending(epoch, number.get());
        let known = self.pending.get(&(epoch, number.get())).ok_or_else(absent)?;
        if let Some(expected) = known.digest.filter(|d| *d != digest) {
            return Err(BufferError::WrongBytes { number: number.get(), got: digest, expected });
        }
        let in_folder = known.file.is_some() && item.file.is_some();
        if (&manifest.gateway, manifest.epoch, manifest.number) != (&self.gateway, epoch, number) {
            let expected = format!("{}/{epoch}/{number}", self.gateway);
            return Err(BufferError::WrongManifest { got: manifest.id().to_string(), expected });
        }
        let ordinal = self.ordinal_of(epoch).ok_or_else(absent)?;
        let (picked, unknown) = match contents {
            ReadbackContents::Seqs(seqs) => self.locate(ordinal, seqs)?,
            ReadbackContents::Gaps(ids) => (Vec::new(), self.unknown_gaps(ids)?),
            ReadbackContents::Aggregates { .. }
            | ReadbackContents::Series(_)
            | ReadbackContents::Rejects(_)
            | ReadbackContents::Alerts(_) => (Vec::new(), 0),
        };
        let tail_lost = unknown > 0 && ordinal == self.current.ordinal;
        if tail_lost {
            self.begin_epoch("the database lost its newest commits", true, now)?;
        }
        let rows = if let ReadbackContents::Seqs(_) = contents { manifest.rows } else { 0 };
        let lost = if rows > 0 { unknown } else { 0 };
        let told = match contents {
            ReadbackContents::Series(ids) => self.dictionary.keys_of(&ids.iter().copied().collect()),
            _ => Vec::new(),
        };
        let told: Vec<_> = told.into_iter().filter_map(|key| self.dictionary.snapshot(key)).collect();
        let progress = if in_folder { Progress::Sealed } else { Progress::Delivered { at: now } };
        self.change(["adopt: before", "adopt: after"], ordinal, |tx, book| {
            let mut sealed = lost;
            for Picked { batch, rows } in &picked {
                let of = tx.query_row("SELECT rows FROM batch WHERE id = ?1", [batch], |r| r.get(0))?;
                let mut mark = Mark::load(tx, *batch, of)?;
                let mut fresh = rows.clone();
                fresh.subtract(&mark.taken());
                sealed += u64::from(fresh.len());
                mark.sealed.union(&fresh);
                mark.save(tx, *batch)?;
            }
            record_rows(tx, ordinal, number.get(), &picked)?;
            let key = manifest.key();
            NewEntry { ordinal, number: number.get(), key: &key, digest, size, manifest }
                .insert(tx, &progress)?;
            record(tx, ordinal, number.get(), contents)?;
            told.iter().try_for_each(|entry| tell(tx, entry, ordinal))?;
            let r = &mut book.books.counters.readings;
            // Rows of lost commits were journaled by them; those of a salvaged journal may have lost their counters.
            r.journaled += lost + (sealed - lost).saturating_sub(r.waiting());
            r.sealed += sealed;
            book.books.segments_sealed += 1;
            if number.get() > book.last_number {
                (book.last_number, book.last_digest) = (number.get(), Some(digest));
            }
            book.void.remove(number.get());
            book.save(tx)
        })?;
        self.pending.remove(&(epoch, number.get()));
        if ordinal == self.current.ordinal {
            told.iter().for_each(|entry| self.dictionary.told(entry.key));
        }
        self.load()?;
        Ok(if tail_lost { Adopted::TailLost } else { Adopted::Whole })
    }

    /// In which batches seqs of an epoch lie, and how many lie in none.
    fn locate(&self, ordinal: u32, seqs: &[u64]) -> Result<(Vec<Picked>, u64), BufferError> {
        let seqs: BTreeSet<u64> = seqs.iter().copied().collect();
        let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else { return Ok((Vec::new(), 0)) };
        let sql = format!(
            "SELECT {SPAN_COLUMNS} FROM batch WHERE epoch = ?1 AND rows > 0 AND first_seq <= ?3 AND first_seq + rows > ?2"
        );
        let mut select = self.sql.prepare_cached(&sql)?;
        let mut found = select.query(params![ordinal, int(*first), int(*last)])?;
        let (mut picked, mut known) = (Vec::new(), 0u64);
        while let Some(row) = found.next()? {
            let span = read_span(row)?;
            let within = seqs.range(span.first_seq..span.first_seq + u64::from(span.rows));
            let rows: RowSet = within.filter_map(|seq| u32::try_from(seq - span.first_seq).ok()).collect();
            known += u64::from(rows.len());
            if !rows.is_empty() {
                picked.push(Picked { batch: span.id, rows });
            }
        }
        Ok((picked, (seqs.len() as u64).saturating_sub(known)))
    }

    fn unknown_gaps(&self, ids: &[String]) -> Result<u64, BufferError> {
        let mut select = self.sql.prepare_cached("SELECT 1 FROM gap WHERE id = ?1")?;
        ids.iter().try_fold(0, |n, id| Ok(n + u64::from(!select.exists([id])?)))
    }

    /// Neither folder nor bucket has it: its number will never come, and its rows wait again.
    pub fn declare_void(&mut self, epoch: Epoch, number: Number) -> Result<(), BufferError> {
        self.guarded(|b| {
            let absent = || BufferError::NotPending(epoch, number.get());
            b.pending.get(&(epoch, number.get())).ok_or_else(absent)?;
            let ordinal = b.ordinal_of(epoch).ok_or_else(absent)?;
            b.change(["void: before", "void: after"], ordinal, |tx, book| {
                // Where its books are lost, the number may be long registered and its object gone.
                if !book.books.rebuilt {
                    book.void.insert(number.get());
                }
                book.save(tx)
            })?;
            b.pending.remove(&(epoch, number.get()));
            Ok(())
        })
    }

    /// Ends the read-back: what waits in older epochs moves to the current one, and sealing may begin. Refused while a
    /// segment is still to be read back.
    pub fn finish_readback(&mut self, now: Timestamp) -> Result<(), BufferError> {
        self.guarded(|b| {
            if !b.pending.is_empty() {
                return Err(BufferError::ReadingBack(b.pending.len()));
            }
            if !b.settled {
                b.settle(now)?;
                b.write_lease()?;
            }
            Ok(())
        })
    }
}

fn record(
    tx: &Connection,
    ordinal: u32,
    number: u64,
    contents: &ReadbackContents,
) -> Result<(), BufferError> {
    match contents {
        ReadbackContents::Seqs(_) | ReadbackContents::Series(_) => Ok(()),
        ReadbackContents::Alerts(ids) => Contents::Alerts(ids.clone()).record(tx, ordinal, number),
        ReadbackContents::Aggregates { decisions, newest } => {
            let contents = Contents::Aggregates { decisions: decisions.clone(), newest: *newest };
            contents.record(tx, ordinal, number)
        }
        ReadbackContents::Gaps(ids) => Contents::Gaps(ids.clone()).record(tx, ordinal, number),
        ReadbackContents::Rejects(keys) => {
            let mut ids: BTreeSet<i64> = BTreeSet::new();
            let mut select = tx.prepare(
                "SELECT id FROM reject WHERE received_at = ?1 AND topic = ?2 AND source IS ?3 AND reason = ?4
                 AND sealed_epoch IS NULL ORDER BY id",
            )?;
            for key in keys {
                let sought = params![key.received_at.0, key.topic, key.source, key.reason.code()];
                let found: Vec<i64> = select.query_map(sought, |r| r.get(0))?.collect::<Result<_, _>>()?;
                if let Some(id) = found.into_iter().find(|id| !ids.contains(id)) {
                    ids.insert(id);
                }
            }
            Contents::Rejects(ids.into_iter().collect()).record(tx, ordinal, number)
        }
    }
}
