//! The careful look at a database whose structure is whole: rows that can't be read, and taking them out. Edge: SQLite.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};
use tributary_contract::id::{Epoch, GatewayId, Number};
use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use super::bits::RowSet;
use super::block;
use super::error::BufferError;
use super::files::Files;
use super::journal::{MARK_COLUMNS, Mark, STORED_COLUMNS, Stored};
use super::lease::Lease;
use super::row::SeriesEntry;
use super::sums::{self, Part};
use super::{EpochBook, alerts, corrupt, epoch, journal, open, outbox, rejects, uint};

/// A row that can't be read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    table: &'static str,
    key: &'static [&'static str],
    values: Vec<Value>,
    why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {}", self.table, self.values, self.why)
    }
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Rows that can't be read.
    pub faults: Vec<Fault>,
    /// Series of readings that nothing names, with their event times.
    nameless: BTreeMap<u32, (Timestamp, Timestamp)>,
    /// Ordinals of batches whose epoch nothing names.
    epochless: BTreeSet<u32>,
    /// Segments whose state isn't that of their progress, with that.
    misnamed: Vec<(i64, i64, &'static str)>,
}

/// What stands beside the database and helps where it has forgotten.
#[derive(Clone, Copy)]
pub(super) struct Beside<'a> {
    /// The folder.
    pub files: &'a Files,
    /// The lease, if it can be read.
    pub lease: Option<&'a Lease>,
}

impl Beside<'_> {
    /// Which epoch an ordinal stands for, and the highest number that may be in use in it.
    fn name(&self, ordinal: u32) -> Result<(Epoch, u64), BufferError> {
        match self.lease.filter(|l| l.ordinal == ordinal) {
            Some(lease) => Ok((lease.epoch, lease.number_end.saturating_sub(1))),
            None => Ok((Epoch(self.files.random()?), 0)),
        }
    }
}

/// What readings are put under whose series is lost: they are still readings.
const UNKNOWN: &str = "unknown";

impl Looked {
    /// Whether everything is as it should be.
    pub(super) fn is_well(&self) -> bool {
        self.faults.is_empty()
            && self.nameless.is_empty()
            && self.epochless.is_empty()
            && self.misnamed.is_empty()
    }

    /// In a sentence.
    pub(super) fn why(&self) -> String {
        match self.faults.first() {
            Some(first) => format!("{} rows of the database are damaged, first {first}", self.faults.len()),
            None => format!(
                "names are lost of {} series and {} epochs, and states of {} segments",
                self.nameless.len(),
                self.epochless.len(),
                self.misnamed.len()
            ),
        }
    }
}

/// How closely a database is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Not at all.
    Nothing,
    /// Every row is read; of batches only the checksum. What has the right one is what was written, and names only series
    /// that were there then: rows of batches are looked at all the same where series are missing now. Where the last of
    /// them are, the batch's outline tells (`epoch.rs`).
    Sums,
    /// Every row of every batch, too.
    Rows,
}

/// Reads every row as it will be read later, and tells those with which that fails.
pub(super) fn look(sql: &Connection, gateway: &GatewayId, depth: Depth) -> Result<Looked, BufferError> {
    if depth == Depth::Nothing {
        return Ok(Looked::default());
    }
    let mut nameless: BTreeMap<u32, (Timestamp, Timestamp)> = BTreeMap::new();
    let mut epochless: BTreeSet<u32> = BTreeSet::new();
    let mut epochs: BTreeMap<u32, Epoch> = BTreeMap::new();
    let mut series: BTreeSet<u32> = BTreeSet::new();
    let mut batches: BTreeMap<i64, u32> = BTreeMap::new();
    let mut out = Vec::new();
    each(sql, "epoch", open::EPOCH_COLUMNS, &["ordinal"], &mut out, |r| {
        let book = open::read_epoch(r)?;
        book.books.counters.check()?;
        epochs.insert(book.ordinal, book.epoch);
        Ok(())
    })?;
    each(sql, "series", epoch::SERIES_COLUMNS, &["key"], &mut out, |r| {
        series.insert(epoch::read_series_row(r)?.0.key);
        Ok(())
    })?;
    // Keys are given one after the other, and none is taken back.
    let all_there = (0..).zip(&series).all(|(expected, key): (u32, &u32)| expected == *key);
    let by_sum = depth == Depth::Sums && out.is_empty() && all_there;
    each(sql, "batch", STORED_COLUMNS, &["id"], &mut out, |r| {
        let stored = Stored::read(r)?;
        let rows = if by_sum { stored.intact().map(|()| Vec::new())? } else { stored.rows()? };
        if !epochs.contains_key(&stored.span.epoch) {
            epochless.insert(stored.span.epoch);
        }
        for row in rows.iter().filter(|row| !series.contains(&row.series)) {
            let span = nameless.entry(row.series).or_insert((row.ts, row.ts));
            *span = (span.0.min(row.ts), span.1.max(row.ts));
        }
        batches.insert(stored.span.id, stored.span.rows);
        Ok(())
    })?;
    each(sql, "mark", &format!("{MARK_COLUMNS}, waiting"), &["batch"], &mut out, |r| {
        let (batch, mark): (i64, Mark) = (r.get(0)?, Mark::read(r)?);
        // No checksum has it, because the bitmaps say it.
        let waiting: u32 = r.get(7)?;
        if waiting != mark.waiting() {
            return Err(corrupt("count of waiting rows")(waiting.to_string()));
        }
        match batches.get(&batch) {
            Some(rows) if *rows == mark.rows => Ok(()),
            _ => Err(corrupt("batch of bitmaps")(batch.to_string())),
        }
    })?;
    let mut misnamed = Vec::new();
    let columns = format!("{}, state", outbox::COLUMNS);
    each(sql, "outbox", &columns, &["epoch", "number"], &mut out, |r| {
        let entry = outbox::read_entry(r, gateway, |ordinal| epochs.get(&ordinal).copied())?;
        let name = entry.state.name();
        // What is searched by, and covered by no checksum because it changes.
        if !r.get::<_, String>(12).is_ok_and(|state| state == name || state == "released") {
            misnamed.push((r.get(0)?, r.get(1)?, name));
        }
        Ok(())
    })?;
    each(sql, "state", "gateway, fingerprint, opened, version, crc", &["id"], &mut out, read_state)?;
    each(sql, "segment_rows", outbox::ROWS_COLUMNS, &["epoch", "number", "batch"], &mut out, |r| {
        let (batch, rows) = outbox::read_rows(r)?;
        let of = batches.get(&batch).copied().unwrap_or(block::MAX_ROWS as u32);
        RowSet::decode(&rows, of).map_err(|e| corrupt("rows of a segment")(e.to_string()))?;
        Ok(())
    })?;
    each(sql, "decision", "newest, superseded, decisions", &["epoch", "number"], &mut out, |r| {
        let _: (i64, i64, Vec<u8>) = (r.get(0)?, r.get(1)?, r.get(2)?);
        Ok(())
    })?;
    each(sql, "gap", rejects::GAP_COLUMNS, &["id"], &mut out, |r| rejects::read_gap(r).map(|_| ()))?;
    each(sql, "alert", alerts::ALERT_COLUMNS, &["id"], &mut out, |r| alerts::read_alert(r).map(|_| ()))?;
    each(sql, "reject", rejects::REJECT_COLUMNS, &["id"], &mut out, |r| rejects::read_reject(r).map(|_| ()))?;
    each(sql, "setting", "key, value", &["key"], &mut out, |r| {
        let _: (String, Vec<u8>) = (r.get(0)?, r.get(1)?);
        Ok(())
    })?;
    Ok(Looked { faults: out, nameless, epochless, misnamed })
}

/// Reads `gateway, fingerprint, opened, version, crc` of the one row of `state`.
pub(super) fn read_state(r: &Row<'_>) -> Result<(), BufferError> {
    let (gateway, fingerprint): (String, String) = (r.get(0)?, r.get(1)?);
    let parts = [Part::Text(&gateway), Part::Text(&fingerprint), Part::Int(r.get(2)?), Part::Int(r.get(3)?)];
    sums::verify("state", r, 4, &parts)
}

fn each(
    sql: &Connection,
    table: &'static str,
    columns: &str,
    key: &'static [&'static str],
    out: &mut Vec<Fault>,
    mut read: impl FnMut(&Row<'_>) -> Result<(), BufferError>,
) -> Result<(), BufferError> {
    let first_key = columns.split(',').count();
    let keys = key.join(", ");
    let mut select = sql.prepare(&format!("SELECT {columns}, {keys} FROM {table} ORDER BY {keys}"))?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        if let Err(e) = read(row) {
            let values = (first_key..first_key + key.len()).map(|i| row.get(i));
            out.push(Fault { table, key, values: values.collect::<Result<_, _>>()?, why: e.to_string() });
        }
    }
    Ok(())
}

/// Takes the faulty rows out, and with them what hangs on them, in one transaction with the doubt that makes the next
/// step a new epoch. A segment whose row goes is adopted again from its file; bitmaps are made again from what segments
/// that aren't registered yet hold. Series and epochs that nothing names get a name that says so.
pub(super) fn repair(
    sql: &Connection,
    found: &Looked,
    why: &str,
    beside: Beside<'_>,
) -> Result<(), BufferError> {
    if found.is_well() {
        return Ok(());
    }
    let tx = sql.unchecked_transaction()?;
    for Fault { table, key, values, .. } in &found.faults {
        let same = key.iter().map(|k| format!("{k} IS ?")).collect::<Vec<_>>().join(" AND ");
        tx.execute(&format!("DELETE FROM {table} WHERE {same}"), params_from_iter(values))?;
    }
    for (epoch, number, state) in &found.misnamed {
        tx.execute(
            "UPDATE outbox SET state = ?3 WHERE epoch = ?1 AND number = ?2",
            params![epoch, number, state],
        )?;
    }
    for ordinal in &found.epochless {
        let (epoch, last) = beside.name(*ordinal)?;
        let mut book = EpochBook::new(*ordinal, epoch);
        (book.books.rebuilt, book.last_number) = (true, last);
        book.save(&tx)?;
    }
    for (key, (first_ts, last_ts)) in &found.nameless {
        journal::save_series(&tx, &nameless(*key, *first_ts, *last_ts), 0)?;
    }
    tx.execute("DELETE FROM outbox WHERE epoch NOT IN (SELECT ordinal FROM epoch)", [])?;
    tx.execute("DELETE FROM mark WHERE batch NOT IN (SELECT id FROM batch)", [])?;
    let mut again: BTreeMap<i64, Mark> = BTreeMap::new();
    {
        let mut select = tx.prepare(
            "SELECT s.batch, b.rows, s.rows FROM segment_rows s
             JOIN batch b ON b.id = s.batch AND b.epoch = s.epoch
             WHERE s.batch NOT IN (SELECT batch FROM mark)",
        )?;
        let mut found = select.query([])?;
        while let Some(r) = found.next()? {
            let (batch, rows, set): (i64, u32, Vec<u8>) = (r.get(0)?, r.get(1)?, r.get(2)?);
            let mark = again.entry(batch).or_insert(Mark { rows, ..Mark::default() });
            let set = RowSet::decode(&set, rows).map_err(|e| corrupt("rows of a segment")(e.to_string()))?;
            mark.sealed.union(&set);
        }
    }
    again.iter().try_for_each(|(batch, mark)| mark.save(&tx, *batch))?;
    let unsure =
        found.faults.iter().filter(|f| f.table == "segment_rows").filter_map(|f| match &f.values[..] {
            [Value::Integer(epoch), Value::Integer(number), _] => Some((*epoch, *number)),
            _ => None,
        });
    forget(&tx, &unsure.collect(), beside.files)?;
    tx.execute(
        "INSERT OR REPLACE INTO setting (key, value) VALUES (?1, ?2)",
        params![open::DOUBT, why.as_bytes()],
    )?;
    Ok(tx.commit()?)
}

/// Forgets segments of readings of which it isn't known any more which rows they hold: those that have a file are adopted
/// again from it.
pub(super) fn forget_unsure(sql: &Connection, files: &Files) -> Result<(), BufferError> {
    let mut held: BTreeMap<(i64, i64), u64> = BTreeMap::new();
    {
        let mut select = sql.prepare(&format!("SELECT {} FROM segment_rows", outbox::ROWS_COLUMNS))?;
        let mut found = select.query([])?;
        while let Some(r) = found.next()? {
            let (_, rows) = outbox::read_rows(r)?;
            let rows = RowSet::decode(&rows, block::MAX_ROWS as u32).map_or(0, |set| u64::from(set.len()));
            *held.entry((r.get(0)?, r.get(1)?)).or_default() += rows;
        }
    }
    let unsure: BTreeSet<(i64, i64)> = {
        let mut select = sql.prepare(
            "SELECT epoch, number, rows FROM outbox
             WHERE tbl = 'readings' AND state NOT IN ('released', 'superseded', 'quarantined')",
        )?;
        let found = select.query_map([], |r| Ok(((r.get(0)?, r.get(1)?), uint(r.get(2)?))))?;
        let found: Vec<_> = found.collect::<Result<_, _>>()?;
        found.into_iter().filter(|(id, rows)| held.get(id) != Some(rows)).map(|(id, _)| id).collect()
    };
    let tx = sql.unchecked_transaction()?;
    forget(&tx, &unsure, files)?;
    Ok(tx.commit()?)
}

fn forget(tx: &Connection, segments: &BTreeSet<(i64, i64)>, files: &Files) -> Result<(), BufferError> {
    for (ordinal, number) in segments {
        let epoch: Option<String> =
            tx.query_row("SELECT epoch FROM epoch WHERE ordinal = ?1", [ordinal], |r| r.get(0)).optional()?;
        let epoch = epoch.and_then(|e| e.parse().ok());
        let (Some(epoch), Ok(name)) = (epoch, Number::new(uint(*number))) else { continue };
        if files.segment(epoch, name).exists() {
            tx.execute("DELETE FROM outbox WHERE epoch = ?1 AND number = ?2", [ordinal, number])?;
            tx.execute("DELETE FROM segment_rows WHERE epoch = ?1 AND number = ?2", [ordinal, number])?;
        }
    }
    Ok(())
}

fn nameless(key: u32, first_ts: Timestamp, last_ts: Timestamp) -> SeriesEntry {
    let metric = format!("series-{key}");
    SeriesEntry {
        key,
        id: SeriesId::of(UNKNOWN, &metric, &Default::default()),
        namespace: Default::default(),
        source: UNKNOWN.into(),
        device: UNKNOWN.into(),
        metric,
        tags: Default::default(),
        unit: None,
        value_type: "mixed",
        first_ts,
        last_ts,
    }
}
