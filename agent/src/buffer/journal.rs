//! The journal: one row per commit. Edge: SQLite.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use tributary_contract::counters::MessageCounters;
use tributary_contract::id::Namespace;
use tributary_contract::reject::RejectReason;
use tributary_contract::time::Timestamp;

use super::bits::RowSet;
use super::dictionary::{Ident, widen};
use super::error::BufferError;
use super::row::{BatchSpan, GapRow, Row, SeriesEntry};
use super::sums::{self, Part};
use super::{Buffer, block, int, outline, stamp, uint};
use crate::clock::Moment;
use crate::reading::{Accepted, Reading, Rejected};

/// What one commit makes durable.
#[derive(Debug, Clone, Default)]
pub struct NewBatch {
    /// Messages taken in.
    pub accepted: Vec<Accepted>,
    /// Messages that could not be decoded.
    pub rejected: Vec<Rejected>,
    /// What to add to the counters of messages.
    pub messages: MessageCounters,
    /// Redelivered messages to add, by rule: by the session, by content.
    pub redelivered: [u64; 2],
    /// What the redelivery memory wants back after a restart, encoded.
    pub memory: Vec<u8>,
    /// Gaps to record.
    pub gaps: Vec<GapRow>,
    /// Settings to keep with it.
    pub settings: Vec<(&'static str, Vec<u8>)>,
    /// Wall clock.
    pub committed_at: Timestamp,
}

/// What the buffer must know of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// Its name.
    pub name: String,
    /// Owner of its data.
    pub namespace: Namespace,
    /// Series it may have; a message that would add one beyond becomes a reject.
    pub max_series: usize,
    /// Series that one of its devices may have: the same.
    pub max_device_series: usize,
    /// What is shed last under a full budget: 1 (first to go) to 9.
    pub priority: u8,
    /// Whether its readings stay here: only aggregates of them are sent.
    pub kept: bool,
}

/// What an append stored.
#[derive(Default, Debug, Clone, PartialEq)]
pub struct Appended {
    /// The batch, the last of them if there are several priorities; none if there was nothing to store.
    pub batch: Option<BatchSpan>,
    /// Rows as stored.
    pub rows: Vec<Row>,
    /// Keys of series that are new.
    pub new_series: Vec<u32>,
    /// Messages that became rejects because their source has too many series.
    pub refused: u64,
}

/// What became of a batch's rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Mark {
    pub rows: u32,
    pub ended: u32,
    pub sealed: RowSet,
    pub shed: RowSet,
    pub moved: RowSet,
}

impl Mark {
    /// Rows that are sealed, shed or moved.
    pub(super) fn taken(&self) -> RowSet {
        let mut all = self.sealed.clone();
        all.union(&self.shed);
        all.union(&self.moved);
        all
    }

    pub(super) fn load(sql: &Connection, batch: i64, rows: u32) -> Result<Self, BufferError> {
        let sql_text = format!("SELECT {MARK_COLUMNS} FROM mark WHERE batch = ?1");
        let mut found = sql.prepare_cached(&sql_text)?;
        let mut found = found.query([batch])?;
        found.next()?.map_or(Ok(Self { rows, ..Self::default() }), Self::read)
    }

    /// Reads a row of [`MARK_COLUMNS`].
    pub(super) fn read(r: &rusqlite::Row<'_>) -> Result<Self, BufferError> {
        let (batch, rows, ended): (i64, u32, u32) = (r.get(0)?, r.get(1)?, r.get(2)?);
        let damaged = |why: String| BufferError::Damaged { batch, why };
        let sets: [Vec<u8>; 3] = [r.get(3)?, r.get(4)?, r.get(5)?];
        if r.get::<_, i64>(6)? != Self::checksum(batch, rows, ended, &sets) {
            return Err(damaged("checksum of its bitmaps is wrong".into()));
        }
        let set = |bytes: &[u8]| RowSet::decode(bytes, rows).map_err(|e| damaged(format!("bitmap: {e}")));
        let [sealed, shed, moved] = &sets;
        Ok(Self { rows, ended, sealed: set(sealed)?, shed: set(shed)?, moved: set(moved)? })
    }

    /// How many rows wait to be sealed.
    pub(super) fn waiting(&self) -> u32 {
        self.rows.saturating_sub(self.taken().len())
    }

    fn checksum(batch: i64, rows: u32, ended: u32, sets: &[Vec<u8>; 3]) -> i64 {
        let mut crc = crc32fast::Hasher::new();
        [batch, i64::from(rows), i64::from(ended)].iter().for_each(|n| crc.update(&n.to_le_bytes()));
        for set in sets {
            crc.update(&(set.len() as u64).to_le_bytes());
            crc.update(set);
        }
        i64::from(crc.finalize())
    }

    pub(super) fn save(&self, sql: &Connection, batch: i64) -> Result<(), BufferError> {
        let waiting = self.waiting();
        let sets = [self.sealed.encode(), self.shed.encode(), self.moved.encode()];
        let crc = Self::checksum(batch, self.rows, self.ended, &sets);
        let [sealed, shed, moved] = sets;
        sql.prepare_cached(
            "INSERT INTO mark (batch, rows, waiting, ended, crc, sealed, shed, moved)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (batch) DO UPDATE SET waiting = ?3, ended = ?4, crc = ?5, sealed = ?6, shed = ?7, moved = ?8",
        )?
        .execute(params![batch, self.rows, waiting, self.ended, crc, sealed, shed, moved])?;
        Ok(())
    }
}

pub(super) const MARK_COLUMNS: &str = "batch, rows, ended, sealed, shed, moved, crc";

/// A batch as stored.
pub(super) struct Stored {
    pub span: BatchSpan,
    pub crc: i64,
    pub head: Vec<u8>,
    pub memory: Vec<u8>,
    pub block: Vec<u8>,
}

pub(super) const SPAN_COLUMNS: &str =
    "id, epoch, first_seq, rows, min_ts, max_ts, min_received, committed_at";
pub(super) const STORED_COLUMNS: &str =
    "id, epoch, first_seq, rows, min_ts, max_ts, min_received, committed_at, crc, head, memory, block";

pub(super) fn read_span(r: &rusqlite::Row<'_>) -> rusqlite::Result<BatchSpan> {
    Ok(BatchSpan {
        id: r.get(0)?,
        epoch: r.get(1)?,
        first_seq: uint(r.get(2)?),
        rows: r.get(3)?,
        min_ts: Timestamp(r.get(4)?),
        max_ts: Timestamp(r.get(5)?),
        min_received: Timestamp(r.get(6)?),
        committed_at: Timestamp(r.get(7)?),
    })
}

impl Stored {
    pub(super) fn read(r: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let span = read_span(r)?;
        Ok(Self { span, crc: r.get(8)?, head: r.get(9)?, memory: r.get(10)?, block: r.get(11)? })
    }

    /// Seals the row against damage that SQLite doesn't notice.
    fn checksum(&self) -> i64 {
        let s = &self.span;
        let mut crc = crc32fast::Hasher::new();
        let fixed = [
            s.id,
            i64::from(s.epoch),
            int(s.first_seq),
            i64::from(s.rows),
            s.min_ts.0,
            s.max_ts.0,
            s.min_received.0,
            s.committed_at.0,
        ];
        fixed.iter().for_each(|n| crc.update(&n.to_le_bytes()));
        for bytes in [&self.head, &self.memory, &self.block] {
            crc.update(&(bytes.len() as u64).to_le_bytes());
            crc.update(bytes);
        }
        i64::from(crc.finalize())
    }

    pub(super) fn is_whole(&self) -> bool {
        self.crc == self.checksum()
    }

    /// Refuses a batch whose checksum is wrong.
    pub(super) fn intact(&self) -> Result<(), BufferError> {
        let why = || "checksum is wrong".to_owned();
        if self.is_whole() { Ok(()) } else { Err(BufferError::Damaged { batch: self.span.id, why: why() }) }
    }

    /// All rows, whatever became of them.
    pub(super) fn rows(&self) -> Result<Vec<Row>, BufferError> {
        let damaged = |why: String| BufferError::Damaged { batch: self.span.id, why };
        self.intact()?;
        let rows = block::decode(&self.block, self.span.first_seq).map_err(|e| damaged(e.to_string()))?;
        if rows.len() != self.span.rows as usize {
            return Err(damaged(format!("{} rows, expected {}", rows.len(), self.span.rows)));
        }
        Ok(rows)
    }

    pub(super) fn new(
        id: i64,
        epoch: u32,
        rows: &[Row],
        head: Vec<u8>,
        memory: Vec<u8>,
        at: Timestamp,
    ) -> Result<Self, BufferError> {
        let block = block::encode(rows).map_err(BufferError::TooLarge)?;
        let span = BatchSpan {
            id,
            epoch,
            first_seq: rows.first().map_or(0, |r| r.seq),
            rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            min_ts: rows.iter().map(|r| r.ts).min().unwrap_or(at),
            max_ts: rows.iter().map(|r| r.ts).max().unwrap_or(at),
            min_received: rows.iter().map(|r| r.received_at).min().unwrap_or(at),
            committed_at: at,
        };
        let mut stored = Self { span, crc: 0, head, memory, block };
        stored.crc = stored.checksum();
        Ok(stored)
    }

    pub(super) fn insert(&self, sql: &Connection) -> Result<(), BufferError> {
        let s = &self.span;
        sql.prepare_cached(&format!(
            "INSERT INTO batch ({STORED_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
        ))?
        .execute(params![
            s.id,
            s.epoch,
            int(s.first_seq),
            s.rows,
            s.min_ts.0,
            s.max_ts.0,
            s.min_received.0,
            s.committed_at.0,
            self.crc,
            self.head,
            self.memory,
            self.block,
        ])?;
        Ok(())
    }
}

pub(super) fn load_batch(sql: &Connection, id: i64) -> Result<Stored, BufferError> {
    let mut found = sql.prepare_cached(&format!("SELECT {STORED_COLUMNS} FROM batch WHERE id = ?1"))?;
    let stored = found.query_row([id], Stored::read).optional()?;
    stored.ok_or_else(|| BufferError::Corrupt(format!("batch {id} is gone")))
}

pub(super) fn save_series(sql: &Connection, e: &SeriesEntry, seen_in: u32) -> Result<(), BufferError> {
    let tags = serde_json::to_string(&e.tags)
        .map_err(|e| BufferError::Corrupt(format!("tags can't be written: {e}")))?;
    let crc = sums::sum(&[
        Part::Int(i64::from(e.key)),
        Part::Text(e.namespace.as_str()),
        Part::Text(&e.source),
        Part::Text(&e.device),
        Part::Text(&e.metric),
        Part::Text(&tags),
        Part::Maybe(e.unit.as_deref()),
    ]);
    sql.prepare_cached(
        "INSERT INTO series (key, namespace, source, device, metric, tags, unit, value_type, first_ts, last_ts, seen_in, crc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (key) DO UPDATE SET value_type = ?8, first_ts = ?9, last_ts = ?10, seen_in = ?11, sealed_in = NULL",
    )?
    .execute(params![
        e.key,
        e.namespace.as_str(),
        e.source,
        e.device,
        e.metric,
        tags,
        e.unit,
        e.value_type,
        e.first_ts.0,
        e.last_ts.0,
        seen_in,
        crc,
    ])?;
    Ok(())
}

/// Rows and series of one append, before anything is written.
#[derive(Default)]
struct Staged<'a> {
    keys: HashMap<Ident<'a>, u32>,
    series: BTreeMap<u32, SeriesEntry>,
    types: HashMap<u32, &'static str>,
    new: Vec<u32>,
    per_source: HashMap<&'a str, usize>,
    per_device: HashMap<(&'a str, &'a str), usize>,
    /// With what decides which of them lie together: see [`Kind`].
    rows: Vec<(Kind, Row)>,
    refused: Vec<Rejected>,
}

/// Whether a row is sent, and its priority: a batch is what can be shed, so rows of several kinds lie in several. In the
/// order in which they are to go.
type Kind = (bool, u8);

impl Staged<'_> {
    /// The rows of each kind together, with seqs from `first_seq` on; and how many there are of each.
    fn lay_out(&mut self, first_seq: u64) -> (Vec<Row>, Vec<usize>) {
        // Stable: what came first stays first.
        self.rows.sort_by_key(|(kind, _)| *kind);
        let mut stretches: Vec<(Kind, usize)> = Vec::new();
        for (kind, _) in &self.rows {
            match stretches.last_mut() {
                Some((last, rows)) if last == kind => *rows += 1,
                _ => stretches.push((*kind, 1)),
            }
        }
        let rows = std::mem::take(&mut self.rows);
        let rows = (first_seq..).zip(rows).map(|(seq, (_, row))| Row { seq, ..row }).collect();
        (rows, stretches.into_iter().map(|(_, rows)| rows).collect())
    }
}

impl Buffer {
    /// Makes a batch durable: when this returns, its messages may be acknowledged. One transaction, in the common case of
    /// one row: readings of different priorities, and those that are kept, lie in rows of their own, because a row is what
    /// can be shed.
    pub fn append(&mut self, batch: NewBatch, sources: &[SourceFacts]) -> Result<Appended, BufferError> {
        let moment = Moment::believed(batch.committed_at);
        self.append_at(batch, sources, moment)
    }

    /// The same, committed at `moment`: a batch whose clock isn't synchronised is held until [`Buffer::stamp`].
    pub fn append_at(
        &mut self,
        mut batch: NewBatch,
        sources: &[SourceFacts],
        moment: Moment,
    ) -> Result<Appended, BufferError> {
        batch.committed_at = moment.wall;
        self.guarded(|b| b.append_now(batch, sources, &moment))
    }

    fn append_now(
        &mut self,
        mut batch: NewBatch,
        sources: &[SourceFacts],
        moment: &Moment,
    ) -> Result<Appended, BufferError> {
        let mut staged = Staged::default();
        for message in &batch.accepted {
            self.stage(&mut staged, message, sources)?;
        }
        let refused = staged.refused.len() as u64;
        let mut rejected = std::mem::take(&mut batch.rejected);
        rejected.append(&mut staged.refused);
        if let Some(r) = rejected.iter().find(|r| r.source >= sources.len()) {
            return Err(BufferError::UnknownSource(r.source, sources.len()));
        }
        let (rows, stretches) = staged.lay_out(self.next_seq);
        let Staged { series, new, .. } = staged;
        let nothing = batch.gaps.is_empty() && batch.settings.is_empty() && batch.messages.received == 0;
        if rows.is_empty() && rejected.is_empty() && nothing {
            return Ok(Appended { batch: None, rows, new_series: new, refused });
        }
        let mut books = self.current.books.clone();
        let m = &mut books.counters.messages;
        m.received += batch.messages.received;
        m.redelivered += batch.messages.redelivered;
        m.rejected += batch.messages.rejected + refused;
        m.accepted += batch.messages.accepted.saturating_sub(refused);
        books.counters.readings.journaled += rows.len() as u64;
        books.redelivered.iter_mut().zip(batch.redelivered).for_each(|(mine, more)| *mine += more);
        rejected.iter().for_each(|r| *books.rejected.entry(r.reason).or_default() += 1);
        books.counters.check()?;
        let ordinal = self.current.ordinal;
        let mut common = books.head();
        stamp::put(&mut common, moment);
        let entry = |key| match series.get(&key) {
            Some(new) => Some(Arc::new(new.clone())),
            None => self.dictionary.get(key),
        };
        let mut memory = Some(std::mem::take(&mut batch.memory));
        let (mut stored, mut outlined, mut left) = (Vec::new(), Vec::new(), rows.as_slice());
        for (i, id) in (0..stretches.len().max(1)).zip(self.next_batch..) {
            let (some, rest) =
                left.split_at(stretches.get(i).map_or(left.len(), |rows| *rows).min(left.len()));
            let mut head = common.clone();
            let parts = outline::outline(some.iter(), entry);
            if moment.synced {
                // Else their times aren't known yet, nor their days.
                outline::put(&mut head, &parts);
            }
            // The last is of what goes last, and stays longest.
            let memory = if i + 1 >= stretches.len() { memory.take() } else { None }.unwrap_or_default();
            stored.push(Stored::new(id, ordinal, some, head, memory, batch.committed_at)?);
            outlined.push((parts, some));
            left = rest;
        }
        let end = self.next_seq + rows.len() as u64;
        self.lease.need_seq(&self.files, end)?;
        let mut folding = std::mem::take(&mut self.rejects);
        let folded = self.transact(["append: before", "append: after"], |tx| {
            stored.iter().try_for_each(|batch| batch.insert(tx))?;
            series.values().try_for_each(|entry| save_series(tx, entry, ordinal))?;
            batch.gaps.iter().try_for_each(|gap| super::rejects::save_gap(tx, gap))?;
            batch.settings.iter().try_for_each(|(key, value)| super::keep(tx, key, value))?;
            for reject in &rejected {
                if let Some(source) = sources.get(reject.source) {
                    folding.save(tx, reject, source)?;
                }
            }
            Ok(())
        });
        self.rejects = folding;
        folded?;
        self.current.books = books;
        self.tail.note(self.next_batch + stored.len() as i64 - 1);
        self.next_seq = end;
        self.next_batch += stored.len() as i64;
        series.into_values().for_each(|entry| self.dictionary.put(entry, ordinal, true));
        self.dictionary.observe(&rows.iter().map(|r| (r.series, r.ts)).collect::<Vec<_>>());
        for (Stored { span, .. }, (parts, rows)) in stored.iter().zip(outlined) {
            self.spans.add(span);
            if moment.synced || span.rows == 0 {
                self.waiting.add_outlined(span, &parts, &self.dictionary);
                self.waiting.count_wished(span, rows.iter(), &self.dictionary);
            } else {
                self.held.insert(span.id, span.min_ts);
            }
        }
        Ok(Appended { batch: stored.last().map(|s| s.span), rows, new_series: new, refused })
    }

    /// Gives the readings of one message their series and seq, or refuses the whole message.
    fn stage<'a>(
        &self,
        staged: &mut Staged<'a>,
        message: &'a Accepted,
        sources: &'a [SourceFacts],
    ) -> Result<(), BufferError> {
        let facts = sources.get(message.source);
        let facts = facts.ok_or(BufferError::UnknownSource(message.source, sources.len()))?;
        let idents: Vec<Ident<'a>> =
            message.readings.iter().map(|r| Ident::of(r, &facts.namespace, &facts.name)).collect();
        let mut unknown: HashSet<&Ident<'a>> = HashSet::new();
        for ident in &idents {
            if staged.keys.contains_key(ident) {
                continue;
            }
            match self.dictionary.find(ident) {
                Some(entry) => {
                    staged.keys.insert(*ident, entry.key);
                    staged.types.insert(entry.key, entry.value_type);
                    // The first reading of a series in an epoch tells the lake of it again.
                    if self.dictionary.seen_in(entry.key) != Some(self.current.ordinal)
                        && let Some(entry) = self.dictionary.snapshot(entry.key)
                    {
                        staged.series.insert(entry.key, entry);
                    }
                }
                None => {
                    unknown.insert(ident);
                }
            }
        }
        let fresh = staged.per_source.entry(&facts.name).or_default();
        if !unknown.is_empty()
            && self.dictionary.count_of(&facts.name) + *fresh + unknown.len() > facts.max_series
        {
            let limit = format!("source {} has its limit of {} series", facts.name, facts.max_series);
            staged.refused.push(too_many(message, &limit, "limits.series"));
            return Ok(());
        }
        let mut of_devices: HashMap<&str, usize> = HashMap::new();
        unknown.iter().for_each(|ident| *of_devices.entry(ident.device).or_default() += 1);
        for (device, count) in &of_devices {
            let staged_before = staged.per_device.get(&(&facts.name, device)).copied().unwrap_or(0);
            if self.dictionary.count_of_device(&facts.name, device) + staged_before + count
                > facts.max_device_series
            {
                let limit = format!(
                    "device {device:?} of source {} has its limit of {} series",
                    facts.name, facts.max_device_series
                );
                staged.refused.push(too_many(message, &limit, "limits.device_series"));
                return Ok(());
            }
        }
        for (device, count) in of_devices {
            *staged.per_device.entry((&facts.name, device)).or_default() += count;
        }
        *fresh += unknown.len();
        for (reading, ident) in message.readings.iter().zip(idents) {
            let key = match staged.keys.get(&ident) {
                Some(key) => *key,
                None => {
                    let key = self.dictionary.next_key() + staged.new.len() as u32;
                    staged.keys.insert(ident, key);
                    staged.types.insert(key, reading.value.type_name());
                    staged.series.insert(key, new_series(key, reading, facts));
                    staged.new.push(key);
                    key
                }
            };
            let before = staged.types.get(&key).copied().unwrap_or(reading.value.type_name());
            let kind = widen(before, &reading.value);
            if kind != before {
                staged.types.insert(key, kind);
                if !staged.series.contains_key(&key)
                    && let Some(entry) = self.dictionary.snapshot(key)
                {
                    staged.series.insert(key, entry);
                }
            }
            if let Some(entry) = staged.series.get_mut(&key) {
                entry.value_type = kind;
                entry.first_ts = entry.first_ts.min(reading.ts);
                entry.last_ts = entry.last_ts.max(reading.ts);
            }
            let kind = (!(facts.kept || reading.kept_back), facts.priority);
            let row = Row {
                seq: 0,
                ts: reading.ts,
                received_at: message.received_at,
                series: key,
                value: reading.value.clone(),
                quality: reading.quality,
                row_tags: (!reading.row_tags.is_empty()).then(|| reading.row_tags.clone().into()),
                kept_back: reading.kept_back,
            };
            staged.rows.push((kind, row));
        }
        Ok(())
    }
}

fn new_series(key: u32, reading: &Reading, facts: &SourceFacts) -> SeriesEntry {
    SeriesEntry {
        key,
        id: tributary_contract::series::SeriesId::of(&reading.device, &reading.metric, &reading.tags),
        namespace: facts.namespace.clone(),
        source: facts.name.clone(),
        device: reading.device.clone(),
        metric: reading.metric.clone(),
        tags: reading.tags.clone(),
        unit: reading.unit.clone(),
        value_type: reading.value.type_name(),
        first_ts: reading.ts,
        last_ts: reading.ts,
    }
}

fn too_many(message: &Accepted, limit: &str, setting: &str) -> Rejected {
    let first = message.readings.first().map(|r| format!("{}/{}", r.device, r.metric)).unwrap_or_default();
    Rejected {
        source: message.source,
        received_at: message.received_at,
        topic: String::new(),
        reason: RejectReason::TooManySeries,
        detail: format!(
            "{limit}, and {first} or another of the message would be new: raise {setting}, or drop what makes names without \
             end"
        ),
        size: 0,
        payload: Vec::new(),
    }
}
