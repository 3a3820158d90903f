//! Salvage: a new database from what is readable and has a right checksum in a damaged one. Edge: SQLite.

use std::fs::{self, File};
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use tributary_contract::id::GatewayId;

use super::check;
use super::error::{BufferError, io};
use super::files::{Files, sync_parent};
use super::journal::{STORED_COLUMNS, Stored};
use super::open::DOUBT;
use super::sqlite;

/// Tables copied as they are; `batch` row by row with its checksum.
const TABLES: [&str; 10] =
    ["state", "epoch", "mark", "series", "outbox", "segment_rows", "decision", "reject", "gap", "setting"];

/// Builds the new database beside the damaged one from the copy in `aside`, and tells how many batches it has and how
/// often reading failed. It takes the old one's place with [`Files::take_salvaged`].
pub(super) fn salvage(
    files: &Files,
    aside: &Path,
    gateway: &GatewayId,
    why: &str,
) -> Result<(u64, u64), BufferError> {
    let (new, whole) = files.salvage();
    let mut leftover = new.as_os_str().to_owned();
    leftover.push("-wal");
    files.remove(&new)?;
    files.remove(Path::new(&leftover))?;
    let into = sqlite::open(&new)?;
    sqlite::create(&into)?;
    let tx = into.unchecked_transaction()?;
    let (mut batches, mut lost) = (0, 0);
    match readable(aside) {
        Ok(from) => {
            for table in TABLES {
                lost += copy_table(&from, &tx, table);
            }
            (batches, lost) = copy_batches(&from, &tx, lost);
        }
        Err(_) => lost += 1,
    }
    // Marks of batches that are lost would count rows that nobody has.
    tx.execute("DELETE FROM mark WHERE batch NOT IN (SELECT id FROM batch)", [])?;
    tx.execute(
        "INSERT OR REPLACE INTO setting (key, value) VALUES (?1, ?2)",
        params![DOUBT, why.as_bytes()],
    )?;
    tx.commit()?;
    let faults = check::faults(&into, gateway)?;
    lost += faults.len() as u64;
    check::repair(&into, &faults, why)?;
    sqlite::checkpoint(&into)?;
    into.close().map_err(|(_, e)| e)?;
    files.remove(Path::new(&leftover))?;
    File::open(&new).and_then(|f| f.sync_all()).map_err(io(format!("can't sync {}", new.display())))?;
    files.hit("salvage: built")?;
    fs::rename(&new, &whole).map_err(io(format!("can't rename {}", new.display())))?;
    sync_parent(&whole)?;
    files.hit("salvage: whole")?;
    Ok((batches, lost))
}

fn readable(aside: &Path) -> rusqlite::Result<Connection> {
    // SQLite would write to what it opens: what was set aside must stay as it is.
    let from = sqlite::open_aside(&aside.join("buffer.db"))?;
    from.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0))?;
    Ok(from)
}

/// Copies what can be read, from the front and then from the back, and tells how often reading failed.
fn copy_table(from: &Connection, into: &Connection, table: &str) -> u64 {
    let Ok(columns) = columns(into, table) else { return 1 };
    let list = columns.join(", ");
    let marks = vec!["?"; columns.len()].join(", ");
    let mut lost = 0;
    let Ok(mut insert) = into.prepare(&format!("INSERT OR IGNORE INTO {table} ({list}) VALUES ({marks})"))
    else {
        return 1;
    };
    for order in ["ASC", "DESC"] {
        let by = natural(table, order);
        let Ok(mut select) = from.prepare(&format!("SELECT {list} FROM {table} ORDER BY {by}")) else {
            return lost + 1;
        };
        let Ok(mut found) = select.query([]) else { return lost + 1 };
        let failed = loop {
            match found.next() {
                Ok(Some(row)) => {
                    let values: rusqlite::Result<Vec<Value>> =
                        (0..columns.len()).map(|i| row.get(i)).collect();
                    match values.and_then(|values| insert.execute(params_from_iter(values))) {
                        Ok(_) => {}
                        Err(_) => lost += 1,
                    }
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if !failed {
            return lost;
        }
        lost += 1;
    }
    lost
}

/// The order in which a table lies on disk, so that reading needs no sorting.
fn natural(table: &str, order: &str) -> String {
    let keys: &[&str] = match table {
        "state" | "reject" => &["id"],
        "epoch" => &["ordinal"],
        "mark" => &["batch"],
        "gap" => &["id"],
        "outbox" | "decision" => &["epoch", "number"],
        "segment_rows" => &["epoch", "number", "batch"],
        _ => &["key"],
    };
    keys.iter().map(|k| format!("{k} {order}")).collect::<Vec<_>>().join(", ")
}

fn columns(sql: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut select = sql.prepare("SELECT name FROM pragma_table_info(?1)")?;
    select.query_map([table], |r| r.get(0))?.collect()
}

fn copy_batches(from: &Connection, into: &Connection, mut lost: u64) -> (u64, u64) {
    let mut batches = 0;
    for order in ["ASC", "DESC"] {
        let Ok(mut select) = from.prepare(&format!("SELECT {STORED_COLUMNS} FROM batch ORDER BY id {order}"))
        else {
            return (batches, lost + 1);
        };
        let Ok(mut found) = select.query([]) else { return (batches, lost + 1) };
        let failed = loop {
            match found.next() {
                Ok(Some(row)) => match Stored::read(row) {
                    Ok(stored) if stored.rows().is_ok() => {
                        // Read from the other end it may be there already.
                        batches += u64::from(stored.insert(into).is_ok());
                    }
                    Ok(_) | Err(_) => lost += 1,
                },
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if !failed {
            break;
        }
        lost += 1;
    }
    (batches, lost)
}
