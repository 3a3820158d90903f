//! Giving up: readings leave the journal under a full budget, in one transaction with the gaps that say so. Edge: SQLite.

use std::collections::BTreeSet;

use rusqlite::Connection;
use tributary_contract::reject::GapReason;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::Buffer;
use super::bits::RowSet;
use super::error::BufferError;
use super::files::Files;
use super::journal::{Mark, Stored, load_batch};
use super::quota::Sizes;
use super::row::{BatchSpan, Row};
use super::uint;

/// Bytes that a row of `batch` takes beside its blobs.
const ROW_BYTES: u64 = 64;

/// Why a reading leaves the journal without being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// An aggregate that is sealed stands for it.
    Summarised,
    /// Nothing stands for it, and there is no room.
    Shed,
    /// It was never to be sent, and has been kept as long as was asked.
    Expired,
}

/// A batch of which every row may go.
#[derive(Debug, Clone, PartialEq)]
pub struct Waits {
    /// The batch.
    pub span: BatchSpan,
    /// About how many bytes are free once it is gone.
    pub bytes: u64,
    /// Its rows that wait, in the order of their seqs.
    pub rows: Vec<Row>,
}

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Id of the batch.
    pub batch: i64,
    /// What becomes of each row that waits, in the order of [`Waits::rows`].
    pub fates: Vec<Fate>,
}

/// Which redelivered messages are still to be known: the memory of such batches stays when their readings go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recall {
    /// Those committed since then …
    pub since: Timestamp,
    /// … among the newest so many readings; …
    pub readings: u64,
    /// … and those of the newest so many messages, however old they are: see [`Buffer::memory_floor`].
    pub in_flight: usize,
}

/// What was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GivenUp {
    /// Readings for which an aggregate stands.
    pub summarised: u64,
    /// Readings for which nothing stands.
    pub shed: u64,
    /// Readings at the end of their retention.
    pub expired: u64,
    /// About how many bytes of the database are free now.
    pub bytes: u64,
}

impl Fate {
    /// The gap's reason.
    pub const fn reason(self) -> GapReason {
        match self {
            Self::Summarised => GapReason::Summarised,
            Self::Shed => GapReason::Shed,
            Self::Expired => GapReason::Expired,
        }
    }
}

impl std::ops::AddAssign for GivenUp {
    fn add_assign(&mut self, more: Self) {
        self.summarised += more.summarised;
        self.shed += more.shed;
        self.expired += more.expired;
        self.bytes += more.bytes;
    }
}

impl Buffer {
    /// How great everything is. The file system's free bytes are for the caller to fill in.
    pub fn sizes(&mut self) -> Result<Sizes, BufferError> {
        self.guarded(|b| {
            let ask = |name| b.sql.pragma_query_value(None, name, |r| r.get::<_, i64>(0)).map(uint);
            let (page, pages, free) = (ask("page_size")?, ask("page_count")?, ask("freelist_count")?);
            let log = Files::bytes_of(&b.files.wal());
            let database = Files::bytes_of(&b.files.database()).max(pages * page);
            let mut sizes = Sizes { database, reusable: free * page, log, ..Sizes::default() };
            let mut select = b.sql.prepare_cached(
                "SELECT tbl, state, attempts > 0, sum(size) FROM outbox
                 WHERE state NOT IN ('released', 'superseded') GROUP BY 1, 2, 3",
            )?;
            let mut found = select.query([])?;
            while let Some(r) = found.next()? {
                let (table, state): (String, String) = (r.get(0)?, r.get(1)?);
                let (tried, bytes): (bool, u64) = (r.get(2)?, uint(r.get(3)?));
                sizes.segments += bytes;
                if table == Table::Readings.name() && matches!(state.as_str(), "sealed" | "uploading") {
                    sizes.undelivered += bytes;
                }
                if table == Table::Aggregates.name() && state == "sealed" && !tried {
                    sizes.aggregates += bytes;
                }
            }
            let others = [b.files.lease(), b.files.dir().join("aside")];
            sizes.other = others.iter().map(|path| Files::bytes_of(path)).sum();
            Ok(sizes)
        })
    }

    /// Batches with readings that wait, in the order in which they are to go: what is never to be sent, then the least
    /// priority first, and of it the oldest.
    pub fn first_to_go(&self, priority: &dyn Fn(&str) -> u8) -> Vec<i64> {
        let newest = self.next_batch - 1;
        let order = self.waiting.first_to_go(priority).into_iter().map(|(_, batch)| batch);
        order.filter(|batch| *batch != newest).collect()
    }

    /// From now on readings of these sources, and of no others, stay here until they are given up: only aggregates of them
    /// are sent.
    pub fn keep_back(&mut self, sources: BTreeSet<String>) {
        self.waiting.keep_back(sources);
    }

    /// Batches of such readings that were committed before `at`, oldest first, at most `limit`.
    pub fn kept_before(&self, at: Timestamp, limit: usize) -> Vec<i64> {
        let newest = self.next_batch - 1;
        let mut batches = self.waiting.kept_before(at, limit);
        batches.retain(|batch| *batch != newest);
        batches
    }

    /// Event times of the first of `batches` that take about `goal` bytes together, from the earliest to the latest; none
    /// if there is no batch.
    pub fn reach(
        &mut self,
        batches: &[i64],
        goal: u64,
    ) -> Result<Option<(Timestamp, Timestamp)>, BufferError> {
        self.guarded(|b| {
            let sql = "SELECT min_ts, max_ts, length(block) + length(memory) FROM batch WHERE id = ?1";
            let mut select = b.sql.prepare_cached(sql)?;
            let (mut reach, mut bytes) = (None::<(Timestamp, Timestamp)>, 0);
            for batch in batches {
                if bytes >= goal {
                    break;
                }
                let mut found = select.query([batch])?;
                let Some(r) = found.next()? else { continue };
                let (from, to) = (Timestamp(r.get(0)?), Timestamp(r.get(1)?));
                bytes += uint(r.get(2)?) + ROW_BYTES;
                reach = Some(reach.map_or((from, to), |(f, t)| (f.min(from), t.max(to))));
            }
            Ok(reach)
        })
    }

    /// A batch that could go as a whole; none if it can't, because the outbox still holds a part of it. The newest never
    /// goes: ids and counters go on from it.
    pub fn waits(&mut self, batch: i64) -> Result<Option<Waits>, BufferError> {
        self.guarded(|b| {
            let Some((stored, free)) = b.whole(&b.sql, batch)?.filter(|(_, free)| !free.is_empty()) else {
                return Ok(None);
            };
            let rows = (0u32..).zip(stored.rows()?).filter(|(i, _)| free.contains(*i)).map(|(_, row)| row);
            Ok(Some(Waits { span: stored.span, bytes: bytes_of(&stored), rows: rows.collect() }))
        })
    }

    /// A batch of this epoch of which no row lies in the outbox, with those that neither are sealed nor have ended; none of
    /// any other, and of the newest.
    fn whole(&self, sql: &Connection, batch: i64) -> Result<Option<(Stored, RowSet)>, BufferError> {
        let stored = load_batch(sql, batch)?;
        let mark = Mark::load(sql, batch, stored.span.rows)?;
        let mut free = RowSet::all(stored.span.rows);
        free.subtract(&mark.taken());
        let whole = mark.ended + free.len() >= stored.span.rows;
        let goes = whole && batch < self.next_batch - 1 && stored.span.epoch == self.current.ordinal;
        Ok(goes.then_some((stored, free)))
    }

    /// Gives up the waiting readings of `cuts`, with exact gaps, in one transaction. Refused as a whole if a batch isn't as
    /// [`Buffer::waits`] saw it.
    pub fn give_up(&mut self, cuts: &[Cut], recall: Recall, now: Timestamp) -> Result<GivenUp, BufferError> {
        self.guarded(|b| b.give_up_now(cuts, recall, now))
    }

    fn give_up_now(&mut self, cuts: &[Cut], recall: Recall, now: Timestamp) -> Result<GivenUp, BufferError> {
        if !self.settled {
            return Err(BufferError::ReadingBack(self.pending.len()));
        }
        let (mut book, mut gaps) = (self.current.clone(), self.gaps.clone());
        let mut requests = self.requests.clone();
        for (key, rows) in cuts.iter().flat_map(|cut| self.waiting.wished_of(cut.batch)) {
            requests.gave_up(key, rows);
        }
        let mut total = GivenUp::default();
        let (mut gone, mut emptied) = (Vec::new(), Vec::new());
        let known_from = self.next_seq.saturating_sub(recall.readings);
        let floor = self.memory_floor(recall.in_flight)?;
        self.transact(["give up: before", "give up: after"], |tx| {
            for Cut { batch, fates } in cuts {
                let whole = self.whole(tx, *batch)?.filter(|(_, free)| free.len() as usize == fates.len());
                let (stored, free) = whole.ok_or(BufferError::RowsTaken(*batch))?;
                let share = stored.block.len() as u64 / u64::from(stored.span.rows.max(1));
                let rows = (0u32..).zip(stored.rows()?).filter(|(i, _)| free.contains(*i));
                for ((_, row), fate) in rows.zip(fates) {
                    let entry = self.dictionary.get(row.series);
                    let entry = entry.ok_or_else(|| super::corrupt("series")(row.series.to_string()))?;
                    gaps.count(&row, &entry, *fate, share, book.epoch, now);
                    match fate {
                        Fate::Summarised => total.summarised += 1,
                        Fate::Shed => total.shed += 1,
                        Fate::Expired => total.expired += 1,
                    }
                }
                total.bytes += bytes_of(&stored);
                delete(tx, *batch)?;
                let recent = stored.span.committed_at >= recall.since && stored.span.first_seq >= known_from;
                if (recent || *batch >= floor) && !stored.memory.is_empty() {
                    let Stored { span, head, memory, .. } = stored;
                    let left = Stored::new(*batch, span.epoch, &[], head, memory, span.committed_at)?;
                    left.insert(tx)?;
                    total.bytes = total.bytes.saturating_sub(bytes_of(&left));
                    emptied.push(*batch);
                } else {
                    gone.push(*batch);
                }
            }
            let readings = &mut book.books.counters.readings;
            readings.summarised += total.summarised;
            readings.shed += total.shed;
            readings.expired += total.expired;
            gaps.save(tx)?;
            if requests != self.requests {
                requests.save(tx)?;
            }
            book.save(tx)
        })?;
        (self.current, self.gaps, self.requests) = (book, gaps, requests);
        gone.iter().chain(&emptied).for_each(|batch| self.waiting.remove(*batch));
        self.spans.empty.extend(&emptied);
        let first: Option<i64> = self.sql.query_row("SELECT min(id) FROM batch", [], |r| r.get(0))?;
        let first = first.unwrap_or(self.next_batch);
        gone.iter().for_each(|batch| self.spans.remove(*batch, first));
        Ok(total)
    }
}

fn bytes_of(stored: &Stored) -> u64 {
    (stored.block.len() + stored.memory.len() + stored.head.len()) as u64 + ROW_BYTES
}

fn delete(tx: &Connection, batch: i64) -> Result<(), BufferError> {
    tx.prepare_cached("DELETE FROM batch WHERE id = ?1")?.execute([batch])?;
    tx.prepare_cached("DELETE FROM mark WHERE batch = ?1")?.execute([batch])?;
    Ok(())
}
