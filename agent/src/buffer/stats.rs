//! What status and budgets want to know of the buffer. Edge: SQLite, files.

use std::collections::BTreeMap;

use tributary_contract::id::Epoch;
use tributary_contract::range::Ranges;
use tributary_contract::status::RefusedSegment;
use tributary_contract::time::Timestamp;

use super::books::Books;
use super::entry::Progress;
use super::error::BufferError;
use super::files::Files;
use super::{Buffer, EpochBook, corrupt, int, uint};

/// Characters of a reason in the status: others write it.
const REASON: usize = 300;

/// Facts at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Current epoch.
    pub epoch: Epoch,
    /// How many epochs were before it.
    pub ordinal: u32,
    /// Bytes of everything in the folder but the ballast.
    pub bytes: u64,
    /// Bytes of the ballast; 0 while it is given up.
    pub ballast_bytes: u64,
    /// Of these, the database and its log.
    pub database_bytes: u64,
    /// Of these, segment files.
    pub segment_bytes: u64,
    /// Of these, damaged files set aside for a person to look at and remove.
    pub aside_bytes: u64,
    /// Batches in the journal.
    pub batches: u64,
    /// Readings that wait to be sealed.
    pub waiting_rows: u64,
    /// Batches that are held until the clock is synchronised; their rows aren't among these.
    pub held_batches: u64,
    /// Series in the dictionary.
    pub series: u64,
    /// Segments by state.
    pub segments: BTreeMap<String, SegmentCount>,
    /// Bytes of segments that aren't delivered.
    pub backlog_bytes: u64,
    /// Least event time of a reading that isn't known as registered.
    pub oldest_unsafe: Option<Timestamp>,
    /// Durable transactions since the buffer was opened.
    pub commits: u64,
    /// Counters of the current epoch.
    pub books: Books,
    /// Highest number sealed in this epoch; 0 if none.
    pub last_number: u64,
    /// Numbers of this epoch that will never come.
    pub void: Ranges,
    /// Numbers of this epoch without receipt.
    pub outstanding: Ranges,
    /// Segments still to be read back.
    pub pending_readback: u64,
}

/// Segments of one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentCount {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far one epoch of this buffer got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: Epoch,
    /// Highest number sealed in it; 0 if none, `u64::MAX` if its books are lost and nobody knows.
    pub last: u64,
    /// Numbers that will never come.
    pub void: Ranges,
}

impl Buffer {
    /// All epochs of this buffer, the current one last.
    pub fn epochs(&self) -> Vec<EpochEnd> {
        let books = self.older.values().chain([&self.current]);
        let last = |b: &EpochBook| if b.books.rebuilt { u64::MAX } else { b.last_number };
        books.map(|b| EpochEnd { epoch: b.epoch, last: last(b), void: b.void.clone() }).collect()
    }

    /// Segments that are held, quarantined or superseded, with their reasons: the newest `limit` of them, the newest last.
    pub fn refused_segments(&mut self, limit: usize) -> Result<Vec<RefusedSegment>, BufferError> {
        self.guarded(|b| {
            let mut select = b.sql.prepare_cached(
                "SELECT epoch, number, progress FROM outbox
                 WHERE state IN ('held', 'quarantined', 'superseded') ORDER BY epoch DESC, number DESC LIMIT ?1",
            )?;
            let mut found = select.query([int(limit as u64)])?;
            let mut out = Vec::new();
            while let Some(r) = found.next()? {
                let (ordinal, progress): (u32, String) = (r.get(0)?, r.get(2)?);
                let epoch = b.book(ordinal).map(|book| book.epoch.to_string()).unwrap_or_default();
                let progress: Progress =
                    serde_json::from_str(&progress).map_err(|_| corrupt("progress")(progress.clone()))?;
                let (state, number) = (progress.name().to_owned(), uint(r.get(1)?));
                let reason = progress.reason().unwrap_or_default().chars().take(REASON).collect();
                out.push(RefusedSegment { epoch, number, state, reason });
            }
            out.reverse();
            Ok(out)
        })
    }

    /// Facts for status and budgets.
    pub fn stats(&mut self) -> Result<Stats, BufferError> {
        self.guarded(|b| {
            let mut segments = BTreeMap::new();
            let mut oldest = b.waiting.oldest().into_iter().chain(b.held.values().copied()).min();
            {
                let mut select = b.sql.prepare_cached(
                    "SELECT state, count(*), sum(size), min(CASE WHEN tbl = 'readings' THEN min_ts END)
                     FROM outbox WHERE state <> 'released' GROUP BY state",
                )?;
                let mut found = select.query([])?;
                while let Some(r) = found.next()? {
                    let state: String = r.get(0)?;
                    let least = r.get::<_, Option<i64>>(3)?.map(Timestamp);
                    if !matches!(state.as_str(), "quarantined" | "superseded") {
                        oldest = oldest.into_iter().chain(least).min();
                    }
                    let count = SegmentCount { count: uint(r.get(1)?), bytes: uint(r.get(2)?) };
                    segments.insert(state, count);
                }
            }
            let undelivered = ["sealed", "uploading", "held"];
            let ballast_bytes = b.ballast().bytes();
            let database_bytes = Files::bytes_of(&b.files.database()) + Files::bytes_of(&b.files.wal());
            Ok(Stats {
                epoch: b.current.epoch,
                ordinal: b.current.ordinal,
                bytes: Files::bytes_of(b.files.dir()).saturating_sub(ballast_bytes),
                ballast_bytes,
                database_bytes,
                segment_bytes: Files::bytes_of(&b.files.dir().join("segments")),
                aside_bytes: Files::bytes_of(&b.files.dir().join("aside")),
                batches: b.spans.batches,
                waiting_rows: b.waiting.rows(),
                held_batches: b.held.len() as u64,
                series: b.dictionary.len() as u64,
                backlog_bytes: undelivered.iter().filter_map(|s| segments.get(*s)).map(|c| c.bytes).sum(),
                segments,
                oldest_unsafe: oldest,
                commits: b.commits.get(),
                books: b.current.books.clone(),
                last_number: b.current.last_number,
                void: b.current.void.clone(),
                outstanding: b.outstanding()?,
                pending_readback: b.pending.len() as u64,
            })
        })
    }
}
