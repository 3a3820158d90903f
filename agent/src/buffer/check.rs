//! The careful look at a database whose structure is whole: rows that can't be read, and taking them out. Edge: SQLite.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};
use tributary_contract::id::{Epoch, GatewayId};

use super::bits::RowSet;
use super::block;
use super::error::BufferError;
use super::journal::{MARK_COLUMNS, Mark, STORED_COLUMNS, Stored};
use super::{corrupt, epoch, open, outbox, rejects};

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

/// Reads every row as it will be read later, and tells those with which that fails.
pub(super) fn faults(sql: &Connection, gateway: &GatewayId) -> Result<Vec<Fault>, BufferError> {
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
    each(sql, "batch", STORED_COLUMNS, &["id"], &mut out, |r| {
        let stored = Stored::read(r)?;
        let rows = stored.rows()?;
        if !epochs.contains_key(&stored.span.epoch) {
            return Err(corrupt("epoch of a batch")(stored.span.epoch.to_string()));
        }
        // Without its series a reading is a number that means nothing.
        if let Some(row) = rows.iter().find(|row| !series.contains(&row.series)) {
            return Err(corrupt("series of a reading")(row.series.to_string()));
        }
        batches.insert(stored.span.id, stored.span.rows);
        Ok(())
    })?;
    each(sql, "mark", MARK_COLUMNS, &["batch"], &mut out, |r| {
        let (batch, mark): (i64, Mark) = (r.get(0)?, Mark::read(r)?);
        match batches.get(&batch) {
            Some(rows) if *rows == mark.rows => Ok(()),
            _ => Err(corrupt("batch of bitmaps")(batch.to_string())),
        }
    })?;
    each(sql, "outbox", outbox::COLUMNS, &["epoch", "number"], &mut out, |r| {
        outbox::read_entry(r, gateway, |ordinal| epochs.get(&ordinal).copied()).map(|_| ())
    })?;
    each(sql, "segment_rows", "batch, rows", &["epoch", "number", "batch"], &mut out, |r| {
        let (batch, rows): (i64, Vec<u8>) = (r.get(0)?, r.get(1)?);
        let of = batches.get(&batch).copied().unwrap_or(block::MAX_ROWS as u32);
        RowSet::decode(&rows, of).map_err(|e| corrupt("rows of a segment")(e.to_string()))?;
        Ok(())
    })?;
    each(sql, "decision", "newest, superseded, decisions", &["epoch", "number"], &mut out, |r| {
        let _: (i64, i64, Vec<u8>) = (r.get(0)?, r.get(1)?, r.get(2)?);
        Ok(())
    })?;
    each(sql, "gap", rejects::GAP_COLUMNS, &["id"], &mut out, |r| rejects::read_gap(r).map(|_| ()))?;
    each(sql, "reject", rejects::REJECT_COLUMNS, &["id"], &mut out, |r| rejects::read_reject(r).map(|_| ()))?;
    each(sql, "setting", "key, value", &["key"], &mut out, |r| {
        let _: (String, Vec<u8>) = (r.get(0)?, r.get(1)?);
        Ok(())
    })?;
    Ok(out)
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
/// that aren't registered yet hold.
pub(super) fn repair(sql: &Connection, faults: &[Fault], why: &str) -> Result<(), BufferError> {
    if faults.is_empty() {
        return Ok(());
    }
    let tx = sql.unchecked_transaction()?;
    for Fault { table, key, values, .. } in faults {
        let same = key.iter().map(|k| format!("{k} IS ?")).collect::<Vec<_>>().join(" AND ");
        tx.execute(&format!("DELETE FROM {table} WHERE {same}"), params_from_iter(values))?;
    }
    tx.execute("DELETE FROM batch WHERE epoch NOT IN (SELECT ordinal FROM epoch)", [])?;
    tx.execute("DELETE FROM outbox WHERE epoch NOT IN (SELECT ordinal FROM epoch)", [])?;
    tx.execute("DELETE FROM mark WHERE batch NOT IN (SELECT id FROM batch)", [])?;
    let mut again: BTreeMap<i64, Mark> = BTreeMap::new();
    {
        let mut select = tx.prepare(
            "SELECT s.batch, b.rows, s.rows FROM segment_rows s JOIN batch b ON b.id = s.batch
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
    tx.execute(
        "INSERT OR REPLACE INTO setting (key, value) VALUES (?1, ?2)",
        params![open::DOUBT, why.as_bytes()],
    )?;
    Ok(tx.commit()?)
}
