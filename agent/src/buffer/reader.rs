//! Reading for people: the buffer in pages, each a short look that changes nothing. Edge: SQLite, files.
//!
//! The same questions are answered by a running agent, between two commits on the thread that owns the database
//! ([`super::Buffer::read`]), and on a stopped one's file ([`Stopped`]), which is opened so that not one byte of the folder
//! changes. Blocks go out as they are stored, and whoever asked decodes them: that costs the writer nothing but the reading.

mod page;
mod stopped;

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};
use tributary_contract::id::{GatewayId, Number};
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

pub use page::{
    Ask, BatchFacts, EpochFacts, Facts, Fault, Page, RejectFacts, Retried, RowState, SegmentFacts,
    SeriesFacts,
};
pub use stopped::{ReadError, Stopped};

use super::bits::RowSet;
use super::error::BufferError;
use super::files::{Files, segment_name};
use super::journal::{MARK_COLUMNS, Mark, STORED_COLUMNS, Stored};
use super::{Buffer, alerts, block, epoch, open, outbox, rejects, sqlite, stamp, uint};

/// Ids of batches that one page looks at.
const IDS: i64 = 4096;
/// Bytes of blocks on one page.
const BYTES: usize = 512 << 10;
/// Rows of other tables on one page.
const ROWS: usize = 500;

/// The setting under which the agent keeps what it counts of flash.
pub const FLASH: &str = "flash";

impl Buffer {
    /// Answers one question. What can't be read is told on the page and poisons nothing: reading changes nothing.
    ///
    /// # Errors
    /// SQLite's.
    pub fn read(&mut self, ask: &Ask) -> Result<Page, BufferError> {
        let mut page = look(&self.sql, self.files.dir(), &self.gateway, ask)?;
        if let Page::Facts(facts) = &mut page {
            facts.waiting = self.held.is_empty().then(|| self.waiting.rows());
        }
        Ok(page)
    }
}

/// One page.
fn look(sql: &Connection, dir: &Path, gateway: &GatewayId, ask: &Ask) -> Result<Page, BufferError> {
    Ok(match ask {
        Ask::Facts => Page::Facts(facts(sql, dir)?),
        Ask::Batches { after, from, to } => batches(sql, *after, *from, *to)?,
        Ask::BatchesBefore { before } => batches_before(sql, *before)?,
        Ask::Series { after } => series(sql, *after)?,
        Ask::Segments { after } => segments(sql, dir, gateway, *after)?,
        Ask::Strays => Page::Strays(strays(sql, dir)?),
        Ask::Rejects { after } => rejected(sql, *after)?,
        Ask::Others => others(sql)?,
    })
}

fn facts(sql: &Connection, dir: &Path) -> Result<Facts, BufferError> {
    let bytes = |name: &str| Files::bytes_of(&dir.join(name));
    let (oldest, newest) = sql.query_row("SELECT min(id), max(id) FROM batch", [], |r| {
        Ok((r.get::<_, Option<i64>>(0)?, r.get::<_, Option<i64>>(1)?))
    })?;
    let mut epochs = Vec::new();
    for (ordinal, book) in open::load_epochs(sql)? {
        let waits = "SELECT coalesce(sum(rows), 0) FROM outbox
                     WHERE epoch = ?1 AND tbl = 'readings' AND state IN ('sealed', 'uploading', 'held', 'delivered')";
        let outstanding: i64 = sql.query_row(waits, [ordinal], |r| r.get(0))?;
        epochs.push(EpochFacts {
            ordinal,
            epoch: book.epoch,
            last_number: book.last_number,
            void: book.void,
            rebuilt: book.books.rebuilt,
            law: book.books.counters.check().err().map(|e| e.to_string()),
            counters: book.books.counters,
            outstanding: uint(outstanding),
        });
    }
    let gateway = sql.query_row("SELECT gateway FROM state", [], |r| r.get(0)).optional()?;
    let flash: Option<Vec<u8>> =
        sql.query_row("SELECT value FROM setting WHERE key = ?1", [FLASH], |r| r.get(0)).optional()?;
    Ok(Facts {
        gateway,
        epochs,
        oldest_batch: oldest,
        newest_batch: newest,
        waiting: None,
        database_bytes: bytes("buffer.db") + bytes("buffer.db-wal"),
        segment_bytes: bytes("segments"),
        aside_bytes: bytes("aside"),
        ballast_bytes: bytes("ballast"),
        flash: flash.and_then(|json| String::from_utf8(json).ok()),
    })
}

/// Batches with `after < id` that may hold a reading with `from <= ts < to`, oldest first.
fn batches(sql: &Connection, after: i64, from: Timestamp, to: Timestamp) -> Result<Page, BufferError> {
    let range: (Option<i64>, Option<i64>) = sql.query_row(
        "SELECT (SELECT id FROM batch WHERE id > ?1 ORDER BY id LIMIT 1), (SELECT max(id) FROM batch)",
        [after],
        |r| Ok((r.get(0)?, r.get(1)?)),
    )?;
    let (Some(first), Some(newest)) = range else {
        return Ok(Page::Batches { batches: Vec::new(), faults: Vec::new(), next: None });
    };
    let last = first.saturating_add(IDS - 1);
    let select = format!(
        "SELECT {STORED_COLUMNS} FROM batch
         WHERE id BETWEEN ?1 AND ?2 AND max_ts >= ?3 AND min_ts < ?4 ORDER BY id"
    );
    let asked = params![first, last, from.0, to.0];
    collect(sql, &select, asked, (first, last), |reached| {
        let next = reached.unwrap_or(last);
        (next < newest).then_some(next)
    })
}

/// Batches with `id < before`, newest first.
fn batches_before(sql: &Connection, before: i64) -> Result<Page, BufferError> {
    let newest = "SELECT max(id) FROM batch WHERE id < ?1";
    let Some(last) = sql.query_row(newest, [before], |r| r.get::<_, Option<i64>>(0))? else {
        return Ok(Page::Batches { batches: Vec::new(), faults: Vec::new(), next: None });
    };
    let first = last.saturating_sub(IDS - 1);
    let select = format!("SELECT {STORED_COLUMNS} FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC");
    collect(sql, &select, params![first, last], (first, last), |reached| Some(reached.unwrap_or(first)))
}

/// Reads batches until a page is full. `next` makes the id from which the next page goes on of the last one read, or of
/// none where all of the range were.
fn collect(
    sql: &Connection,
    select: &str,
    asked: impl rusqlite::Params,
    (first, last): (i64, i64),
    next: impl FnOnce(Option<i64>) -> Option<i64>,
) -> Result<Page, BufferError> {
    let (mut batches, mut faults, mut bytes, mut reached) = (Vec::new(), Vec::new(), 0, None);
    let mut statement = sql.prepare(select)?;
    let mut found = statement.query(asked)?;
    loop {
        match found.next() {
            Ok(None) => break,
            Ok(Some(row)) => {
                let id: i64 = row.get(0)?;
                match Stored::read(row) {
                    Ok(stored) => {
                        let facts = batch(sql, stored);
                        bytes += facts.block.len();
                        batches.push(facts);
                    }
                    Err(e) => faults.push(Fault::new(format!("batch {id}"), e)),
                }
                if bytes >= BYTES {
                    reached = Some(id);
                    break;
                }
            }
            Err(e) => {
                faults.push(Fault::new(format!("batches from {first} to {last}"), e));
                break;
            }
        }
    }
    Ok(Page::Batches { batches, faults, next: next(reached) })
}

fn batch(sql: &Connection, stored: Stored) -> BatchFacts {
    let span = stored.span;
    let mark = Mark::load(sql, span.id, span.rows);
    let mut fault = (!stored.is_whole()).then(|| "its checksum is wrong".to_owned());
    let mark = mark.unwrap_or_else(|e| {
        fault.get_or_insert(e.to_string());
        Mark::default()
    });
    if mark.rows != span.rows && fault.is_none() {
        fault = Some(format!("its bitmaps are of {} rows, it has {}", mark.rows, span.rows));
    }
    let taken = mark.taken().len();
    if fault.is_none() && mark.ended > taken {
        fault = Some(format!("{} of its rows have ended, only {taken} were taken", mark.ended));
    }
    BatchFacts {
        id: span.id,
        epoch: span.epoch,
        first_seq: span.first_seq,
        rows: span.rows,
        min_ts: span.min_ts,
        max_ts: span.max_ts,
        committed_at: span.committed_at,
        synced: stamp::moment_of(&stored.head, span.committed_at).map_or(true, |m| m.synced),
        ended: mark.ended,
        memory_bytes: stored.memory.len() as u64,
        fault,
        sealed: mark.sealed.encode(),
        shed: mark.shed.encode(),
        moved: mark.moved.encode(),
        block: stored.block,
    }
}

fn series(sql: &Connection, after: i64) -> Result<Page, BufferError> {
    let select = format!("SELECT {} FROM series WHERE key > ?1 ORDER BY key", epoch::SERIES_COLUMNS);
    let (mut series, mut faults) = (Vec::new(), Vec::new());
    let next = each(sql, &select, params![after], "series", &mut faults, |r, faults| {
        let key: i64 = r.get(0)?;
        match epoch::read_series_row(r) {
            Ok((entry, ..)) => series.push(SeriesFacts::of(&entry)),
            Err(e) => faults.push(Fault::new(format!("series {key}"), e)),
        }
        Ok(key)
    })?;
    Ok(Page::Series { series, faults, next })
}

/// Segments that aren't let go of, oldest first, each with what contradicts it.
fn segments(
    sql: &Connection,
    dir: &Path,
    gateway: &GatewayId,
    (ordinal, number): (u32, u64),
) -> Result<Page, BufferError> {
    let epochs: BTreeMap<u32, _> = open::load_epochs(sql)?.into_iter().map(|(o, b)| (o, b.epoch)).collect();
    let select = format!(
        "SELECT {} FROM outbox WHERE (epoch, number) > (?1, ?2) AND state <> 'released' ORDER BY epoch, number",
        outbox::COLUMNS
    );
    let (mut segments, mut faults) = (Vec::new(), Vec::new());
    let asked = params![ordinal, super::int(number)];
    let next = each(sql, &select, asked, "segments", &mut faults, |r, faults| {
        let place: (u32, i64) = (r.get(0)?, r.get(1)?);
        match outbox::read_entry(r, gateway, |o| epochs.get(&o).copied()) {
            Ok(entry) => {
                let path = dir.join("segments").join(segment_name(entry.epoch, entry.number));
                let file = std::fs::metadata(path).ok().map(|m| m.len());
                let contradicted = contradicted(sql, place.0, &entry, file)?;
                segments.push(SegmentFacts::of(&entry, place.0, file, contradicted));
            }
            Err(e) => faults.push(Fault::new(format!("segment {} of epoch {}", place.1, place.0), e)),
        }
        Ok((place.0, uint(place.1)))
    })?;
    Ok(Page::Segments { segments, faults, next })
}

/// What contradicts a segment's row.
fn contradicted(
    sql: &Connection,
    ordinal: u32,
    entry: &super::Entry,
    file: Option<u64>,
) -> Result<Vec<String>, BufferError> {
    let mut said = Vec::new();
    let gone = matches!(entry.state, super::Progress::Superseded { .. });
    match file {
        None if !gone => said.push("its file is gone".to_owned()),
        Some(bytes) if bytes != entry.size => {
            said.push(format!("its file has {bytes} bytes, {} were sealed", entry.size));
        }
        _ => {}
    }
    if entry.key.table != Table::Readings || gone {
        return Ok(said);
    }
    let mut held = 0;
    let rows = match outbox::rows_of(sql, ordinal, entry.number) {
        Ok(rows) => rows,
        Err(e) => return Ok([said, vec![e.to_string()]].concat()),
    };
    for (batch, rows) in rows {
        let Ok(set) = RowSet::decode(&rows, block::MAX_ROWS as u32) else {
            said.push(format!("its rows of batch {batch} can't be read"));
            continue;
        };
        held += u64::from(set.len());
        let of = "SELECT rows FROM batch WHERE id = ?1";
        let Some(of) = sql.prepare_cached(of)?.query_row([batch], |r| r.get(0)).optional()? else {
            said.push(format!("it holds rows of batch {batch}, which isn't there"));
            continue;
        };
        let Ok(mark) = Mark::load(sql, batch, of) else { continue };
        let mut beyond = set;
        beyond.subtract(&mark.sealed);
        if !beyond.is_empty() {
            said.push(format!("{} of its rows of batch {batch} aren't marked as sealed", beyond.len()));
        }
    }
    if held != entry.rows {
        said.push(format!("it holds {held} readings of the journal, {} were sealed", entry.rows));
    }
    Ok(said)
}

/// Segment files that no row knows.
fn strays(sql: &Connection, dir: &Path) -> Result<Vec<String>, BufferError> {
    let mut known = std::collections::BTreeSet::new();
    let mut select =
        sql.prepare("SELECT e.epoch, o.number FROM outbox o JOIN epoch e ON e.ordinal = o.epoch")?;
    let mut found = select.query([])?;
    while let Some(r) = found.next()? {
        if let (Ok(epoch), Ok(number)) = (r.get::<_, String>(0)?.parse(), Number::new(uint(r.get(1)?))) {
            known.insert(segment_name(epoch, number));
        }
    }
    let entries = std::fs::read_dir(dir.join("segments")).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let mut strays: Vec<String> = names.filter(|n| n.ends_with(".parquet") && !known.contains(n)).collect();
    strays.sort();
    Ok(strays)
}

fn rejected(sql: &Connection, after: i64) -> Result<Page, BufferError> {
    let retried = Retried::load(sql)?;
    let select =
        format!("SELECT {}, sealed_number FROM reject WHERE id > ?1 ORDER BY id", rejects::REJECT_COLUMNS);
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    let next = each(sql, &select, params![after], "rejects", &mut faults, |r, faults| {
        let id: i64 = r.get(0)?;
        match rejects::read_reject(r) {
            Ok(row) => {
                let sealed: Option<i64> = r.get(10)?;
                rows.push(RejectFacts::of(row, sealed.map(uint), &retried));
            }
            Err(e) => faults.push(Fault::new(format!("reject {id}"), e)),
        }
        Ok(id)
    })?;
    Ok(Page::Rejects { rejects: rows, faults, next })
}

/// Reads a page of rows; the key of the last one where there may be more.
fn each<K>(
    sql: &Connection,
    select: &str,
    asked: impl rusqlite::Params,
    what: &str,
    faults: &mut Vec<Fault>,
    mut read: impl FnMut(&rusqlite::Row<'_>, &mut Vec<Fault>) -> Result<K, BufferError>,
) -> Result<Option<K>, BufferError> {
    let mut statement = sql.prepare(&format!("{select} LIMIT {ROWS}"))?;
    let mut found = statement.query(asked)?;
    let (mut last, mut count) = (None, 0);
    loop {
        match found.next() {
            Ok(None) => break,
            Ok(Some(row)) => {
                last = Some(read(row, faults)?);
                count += 1;
            }
            Err(e) => {
                // Behind it nothing can be found.
                faults.push(Fault::new(format!("table of {what}"), e));
                return Ok(None);
            }
        }
    }
    Ok(if count < ROWS { None } else { last })
}

/// The tables that are small: each row read as it will be.
fn others(sql: &Connection) -> Result<Page, BufferError> {
    let (mut gaps, mut faults) = (0, Vec::new());
    let mut walk =
        |what: &str, select: &str, read: &dyn Fn(&rusqlite::Row<'_>) -> Result<(), BufferError>| {
            let mut walked = 0;
            let mut run = || -> Result<(), BufferError> {
                let mut statement = sql.prepare(select)?;
                let mut found = statement.query([])?;
                while let Some(row) = found.next()? {
                    walked += 1;
                    if let Err(e) = read(row) {
                        faults.push(Fault::new(format!("{what} {walked}"), e));
                    }
                }
                Ok(())
            };
            if let Err(e) = run() {
                faults.push(Fault::new(format!("table of {what}s"), e));
            }
            walked
        };
    gaps += walk("gap", &format!("SELECT {} FROM gap ORDER BY id", rejects::GAP_COLUMNS), &|r| {
        rejects::read_gap(r).map(|_| ())
    });
    // An older database gets what it lacks of the table at its next start.
    if sqlite::version(sql)? >= sqlite::SCHEMA {
        walk("alert", &format!("SELECT {} FROM alert ORDER BY id", alerts::ALERT_COLUMNS), &|r| {
            alerts::read_alert(r).map(|_| ())
        });
    }
    walk("decision", "SELECT newest, superseded, decisions FROM decision", &|r| {
        let _: (i64, i64, Vec<u8>) = (r.get(0)?, r.get(1)?, r.get(2)?);
        Ok(())
    });
    walk("setting", "SELECT key, value FROM setting", &|r| {
        let _: (String, Vec<u8>) = (r.get(0)?, r.get(1)?);
        Ok(())
    });
    walk("state", "SELECT gateway, fingerprint, opened, version, crc FROM state", &|r| {
        super::check::read_state(r)
    });
    let lone = format!("SELECT {MARK_COLUMNS} FROM mark WHERE batch NOT IN (SELECT id FROM batch)");
    walk("bitmap without batch,", &lone, &|r| {
        Err(BufferError::Corrupt(format!("bitmaps of batch {}, which isn't there", r.get::<_, i64>(0)?)))
    });
    Ok(Page::Others { gaps, faults })
}
