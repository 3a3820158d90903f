//! The buffer: where readings become durable, wait, are sealed, and stay until the lake has them.
//!
//! **What comes in.** Batches of decoded messages ([`Buffer::append`]), the bytes of segments as they are encoded
//! ([`Buffer::draft`], [`Buffer::finish_seal`]), and what became of them: delivered, registered, refused.
//!
//! **What goes out.** Rows to seal and to fold ([`Buffer::pick_rows`], [`Buffer::scan`]), segments that are due
//! ([`Buffer::due`]), counters for manifest and status. Every number and seq is given out once.
//!
//! **What survives a crash.** Everything that a call returned `Ok` for, and nothing by half. What is durable lies in one
//! SQLite file (`schema.sql`), the segment files, and the lease, a second small file that vouches for seqs and numbers
//! when the database has lost its tail. A call that fails halfway *poisons* the buffer: it refuses everything until it
//! is opened again, and opening decides by what lies on disk (`open.rs`). Order of a sealing: temporary file, sync,
//! lease line, sync, rename, sync of the folder, one transaction. If we die before the lease line nothing happened;
//! behind it the segment is read back from its file or the bucket ([`Buffer::pending_readback`]) before anything else is
//! sealed. Order of a release: one transaction, then the file; a file without a row is therefore always a segment.
//!
//! What lies on disk, byte by byte, and what a start does with it: `FORMAT.md`.
//!
//! **What goes under a full budget.** [`quota`] decides how much, from sizes alone; the pipeline which, because it knows
//! priorities and windows; [`Buffer::give_up`] and [`Buffer::shed_aggregates`] do it, each with its gaps.
//!
//! **What is deliberately absent.** Clocks (time is an argument), channels, MQTT, the bucket, and any reading of Parquet:
//! bytes and manifests are handed in.

mod alerts;
mod backfill;
mod ballast;
mod bits;
mod block;
mod books;
mod check;
mod dictionary;
mod draft;
pub mod entry;
mod epoch;
mod error;
mod faults;
mod files;
mod gaps;
mod journal;
mod leaf;
mod lease;
mod lease_file;
mod open;
mod outbox;
mod outline;
mod migrate;
mod pages;
pub mod quota;
mod readback;
pub mod reader;
mod rejects;
mod requests;
mod retry;
pub mod row;
mod salvage;
mod scan;
mod seal;
mod shed;
mod side;
mod sqlite;
mod stamp;
mod stats;
mod sums;
mod tail;
mod thin;
mod thread;
mod trim;
mod varint;
mod waiting;
mod wal;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, Transaction, params};
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId};
use tributary_contract::manifest::ClosedEpoch;
use tributary_contract::range::Ranges;
use tributary_contract::time::Timestamp;

pub use alerts::STATE as ALERT_STATE;
pub use backfill::Backfill;
pub use ballast::Ballast;
pub use block::BlockError;
pub use books::Books;
pub use dictionary::Dictionary;
pub use draft::Draft;
pub use entry::{Entry, PartDone, Progress};
pub use error::{BufferError, OpenError};
pub use faults::{Faults, NoFaults};
pub use journal::{Appended, NewBatch, SourceFacts};
pub use open::{OpenEvent, Opened};
pub use readback::{Adopted, ReadbackContents, ReadbackItem};
pub use requests::{Look, Taken, Taking};
pub use retry::{Retry, RetryOutcome};
pub use row::{AlertRow, BatchSpan, GapRow, RejectKey, RejectRow, Row, SeriesEntry};
pub use seal::{Contents, KeptDecisions, Picked, Sealing};
pub use stamp::MoveMemory;
pub use stats::{EpochEnd, SegmentCount, Stats};
pub use thin::{Cut, Fate, GivenUp, Recall, Waits};
pub use thread::{BufferThread, ThreadError};
pub use waiting::ToSeal;

use files::Files;
use lease::Clean;
use lease_file::LeaseFile;
use sums::Part;
use tail::Tail;
use waiting::Waiting;

/// What the buffer must know to open.
#[derive(Clone)]
pub struct OpenSettings {
    /// Folder; made if need be.
    pub dir: PathBuf,
    /// Whose buffer it is.
    pub gateway: GatewayId,
    /// Wall clock.
    pub now: Timestamp,
    /// What tells this machine from others: machine id, board serial. The database's inode is added here.
    pub fingerprint: String,
    /// Where a test may let it die; [`NoFaults`] in earnest.
    pub faults: Arc<dyn Faults>,
}

/// One life of the buffer, as kept in table `epoch`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::buffer) struct EpochBook {
    ordinal: u32,
    epoch: Epoch,
    last_number: u64,
    last_digest: Option<Digest>,
    void: Ranges,
    books: Books,
}

/// The open buffer. Not shared: one thread owns it ([`BufferThread`]).
pub struct Buffer {
    sql: Connection,
    files: Files,
    lease: LeaseFile,
    gateway: GatewayId,
    current: EpochBook,
    older: BTreeMap<u32, EpochBook>,
    dictionary: Arc<Dictionary>,
    waiting: Waiting,
    requests: requests::Requests,
    /// Batches whose times aren't known yet, with the least of those they bear; not in `waiting`.
    held: BTreeMap<i64, Timestamp>,
    spans: scan::Spans,
    rejects: rejects::Folding,
    gaps: gaps::Growing,
    /// Segments that must be read back before anything is sealed, by epoch and number.
    pending: BTreeMap<(Epoch, u64), ReadbackItem>,
    /// Rows of registered segments whose files are gone; the next release deletes them.
    released: BTreeSet<(u32, u64)>,
    /// Whether nothing is left to be read back and no row waits in an older epoch.
    settled: bool,
    next_seq: u64,
    next_batch: i64,
    next_number: u64,
    tail: Tail,
    poisoned: bool,
    commits: Cell<u64>,
}

impl EpochBook {
    fn new(ordinal: u32, epoch: Epoch) -> Self {
        Self {
            ordinal,
            epoch,
            last_number: 0,
            last_digest: None,
            void: Ranges::new(),
            books: Books::default(),
        }
    }

    /// What a manifest says of it once it is over.
    fn closed(&self) -> ClosedEpoch {
        ClosedEpoch { epoch: self.epoch, last: self.last_number.max(self.void.last().unwrap_or(0)) }
    }

    /// Writes the row; refuses counters that break a law.
    fn save(&self, tx: &Connection) -> Result<(), BufferError> {
        self.books.counters.check()?;
        let json = |e: serde_json::Error| BufferError::Corrupt(format!("books can't be written: {e}"));
        let (epoch, digest) = (self.epoch.to_string(), self.last_digest.map(|d| d.to_string()));
        let void = serde_json::to_string(&self.void).map_err(json)?;
        let books = serde_json::to_string(&self.books).map_err(json)?;
        let crc = sums::sum(&[
            Part::Int(i64::from(self.ordinal)),
            Part::Text(&epoch),
            Part::Int(int(self.last_number)),
            Part::Maybe(digest.as_deref()),
            Part::Text(&void),
            Part::Text(&books),
        ]);
        tx.prepare_cached(
            "INSERT INTO epoch (ordinal, epoch, last_number, last_digest, void, books, crc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (ordinal) DO UPDATE SET last_number = ?3, last_digest = ?4, void = ?5, books = ?6, crc = ?7",
        )?
        .execute(params![self.ordinal, epoch, int(self.last_number), digest, void, books, crc])?;
        Ok(())
    }
}

impl Buffer {
    /// Current epoch.
    pub const fn epoch(&self) -> Epoch {
        self.current.epoch
    }

    /// How many epochs were before it.
    pub const fn ordinal(&self) -> u32 {
        self.current.ordinal
    }

    /// The ballast of its folder: whoever must make room on a full disk gives it up first.
    pub fn ballast(&self) -> Ballast {
        Ballast::of(self.files.dir())
    }

    /// The dictionary of series.
    pub fn dictionary(&self) -> Arc<Dictionary> {
        self.dictionary.clone()
    }

    /// Whether an earlier call failed halfway, so that the buffer must be opened again.
    pub const fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Marks a clean stop and closes; without it the next start takes the careful way, and is as right.
    pub fn stop(mut self) -> Result<(), BufferError> {
        self.guarded(|b| {
            sqlite::checkpoint(&b.sql)?;
            let batch = Some(uint(b.newest_batch()?.saturating_add(1)));
            let clean = Clean { seq: b.next_seq, number: b.next_number, batch };
            if b.settled {
                b.lease.stop(&b.files, clean)?;
                b.sql.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
            }
            Ok(())
        })
    }

    /// A small fact that a stage kept under `key`; none if there is none.
    pub fn setting(&mut self, key: &str) -> Result<Option<Vec<u8>>, BufferError> {
        self.guarded(|b| {
            let mut found = b.sql.prepare_cached("SELECT value FROM setting WHERE key = ?1")?;
            let mut rows = found.query([key])?;
            Ok(rows.next()?.map(|r| r.get(0)).transpose()?)
        })
    }

    /// The greatest seq that was given out in this epoch; 0 before the first.
    pub fn newest_seq(&self) -> u64 {
        self.next_seq.saturating_sub(1)
    }

    /// Keeps a small fact under `key`, durably.
    pub fn set_setting(&mut self, key: &str, value: &[u8]) -> Result<(), BufferError> {
        self.guarded(|b| b.transact(["setting: before", "setting: after"], |tx| keep(tx, key, value)))
    }

    /// Runs one operation; what fails halfway makes the buffer refuse everything afterwards.
    fn guarded<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, BufferError>) -> Result<T, BufferError> {
        if self.poisoned {
            return Err(BufferError::Poisoned);
        }
        let out = f(self);
        self.poisoned = out.as_ref().is_err_and(BufferError::poisons);
        if let Some(e) = out.as_ref().err().filter(|_| self.poisoned) {
            open::leave_word(self.files.dir(), e);
        }
        out
    }

    /// One durable transaction, between two points at which a test may let the buffer die.
    fn transact<T>(
        &self,
        [before, after]: [&'static str; 2],
        f: impl FnOnce(&Transaction<'_>) -> Result<T, BufferError>,
    ) -> Result<T, BufferError> {
        self.files.hit(before)?;
        let tx = self.sql.unchecked_transaction()?;
        let out = f(&tx)?;
        tx.commit()?;
        self.commits.set(self.commits.get() + 1);
        self.files.hit(after)?;
        Ok(out)
    }

    fn book(&self, ordinal: u32) -> Option<&EpochBook> {
        if ordinal == self.current.ordinal { Some(&self.current) } else { self.older.get(&ordinal) }
    }

    fn book_mut(&mut self, ordinal: u32) -> Option<&mut EpochBook> {
        if ordinal == self.current.ordinal { Some(&mut self.current) } else { self.older.get_mut(&ordinal) }
    }

    fn ordinal_of(&self, epoch: Epoch) -> Option<u32> {
        let mut all = self.older.values().chain([&self.current]);
        all.find(|b| b.epoch == epoch).map(|b| b.ordinal)
    }
}

fn keep(tx: &Connection, key: &str, value: &[u8]) -> Result<(), BufferError> {
    let sql = "INSERT INTO setting (key, value) VALUES (?1, ?2)
               ON CONFLICT (key) DO UPDATE SET value = ?2 WHERE value <> ?2";
    tx.prepare_cached(sql)?.execute(params![key, value])?;
    Ok(())
}

/// SQLite's integers are signed; what we count stays below 2^63.
fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The reverse of [`int`]; negative numbers are damage and count nothing.
fn uint(i: i64) -> u64 {
    u64::try_from(i).unwrap_or(0)
}

/// Says what stored text could not be understood.
fn corrupt(what: &'static str) -> impl Fn(String) -> BufferError {
    move |got| BufferError::Corrupt(format!("stored {what} {got:?} can't be understood"))
}

#[cfg(test)]
mod tests;
