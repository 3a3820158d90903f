//! Salvage: a new database from what is readable in a damaged one, by SQL and then page by page. Edge: SQLite.
//!
//! SQL gives every table as of the last commit that SQLite can reach. The pages give what it can't: leaves that no path
//! leads to, commits behind damage of the log, rows of a log whose database is gone. From them come batches and their
//! bitmaps, which prove themselves by a checksum, and the series and epochs that these need.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};
use tributary_contract::id::GatewayId;

use super::books::Books;
use super::check::{self, Beside, Depth};
use super::error::{BufferError, OpenError, io};
use super::files::{Files, sync_parent};
use super::journal::{MARK_COLUMNS, Mark, STORED_COLUMNS, Stored};
use super::leaf::{self, Field};
use super::lease::Lease;
use super::open::DOUBT;
use super::pages::Pages;
use super::{alerts, epoch, migrate, open, sqlite, uint};

/// Tables copied as they are; `batch` row by row with its checksum.
const TABLES: [&str; 11] = [
    "state",
    "epoch",
    "mark",
    "series",
    "outbox",
    "segment_rows",
    "decision",
    "reject",
    "gap",
    "alert",
    "setting",
];

/// What a salvage took over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Saved {
    /// Batches.
    pub batches: u64,
    /// How often reading failed.
    pub lost: u64,
}

/// Builds the new database beside the damaged one from the copies in `aside`. It takes the old one's place with
/// [`Files::take_salvaged`].
pub(super) fn salvage(
    files: &Files,
    aside: &Path,
    gateway: &GatewayId,
    why: &str,
    lease: Option<&Lease>,
) -> Result<Saved, OpenError> {
    let (new, whole) = files.salvage();
    let mut leftover = new.as_os_str().to_owned();
    leftover.push("-wal");
    files.remove(&new)?;
    files.remove(Path::new(&leftover))?;
    let into = sqlite::open(&new).map_err(BufferError::from)?;
    sqlite::create(&into).map_err(BufferError::from)?;
    let saved = fill(&into, aside, why)?;
    let whose = into.query_row("SELECT gateway FROM state", [], |r| r.get::<_, String>(0)).optional();
    if let Some(got) = whose.map_err(BufferError::from)?.filter(|g| g != gateway.as_str()) {
        let expected = gateway.to_string();
        return Err(OpenError::Foreign { dir: files.dir().to_owned(), got, expected });
    }
    let found = check::look(&into, gateway, Depth::Rows)?;
    let saved = Saved { lost: saved.lost + found.faults.len() as u64, ..saved };
    check::repair(&into, &found, why, Beside { files, lease })?;
    check::forget_unsure(&into, files)?;
    sqlite::checkpoint(&into).map_err(BufferError::from)?;
    into.close().map_err(|(_, e)| BufferError::from(e))?;
    files.remove(Path::new(&leftover))?;
    File::open(&new).and_then(|f| f.sync_all()).map_err(io(format!("can't sync {}", new.display())))?;
    files.hit("salvage: built")?;
    fs::rename(&new, &whole).map_err(io(format!("can't rename {}", new.display())))?;
    sync_parent(&whole)?;
    files.hit("salvage: whole")?;
    Ok(saved)
}

fn fill(into: &Connection, aside: &Path, why: &str) -> Result<Saved, BufferError> {
    let (database, log) = (aside.join("buffer.db"), aside.join("buffer.db-wal"));
    // The pages first: SQLite may write to what it opens, and they are read as they were found.
    let pages = Pages::open(&database, &log)?;
    let tx = into.unchecked_transaction()?;
    let mut saved = Saved::default();
    match readable(&database) {
        Ok(from) => {
            let version = sqlite::version(&from).unwrap_or(sqlite::SCHEMA);
            for table in TABLES.into_iter().filter(|table| *table != "alert" || version >= alerts::SINCE) {
                saved.lost += copy_table(&from, &tx, table);
            }
            saved.lost += copy_batches(&from, &tx);
            migrate::fill(&tx, version)?;
        }
        Err(_) => saved.lost += 1,
    }
    take_pages(&pages, &tx)?;
    drop_deleted(&tx)?;
    // Marks of batches that are lost would count rows that nobody has.
    tx.execute("DELETE FROM mark WHERE batch NOT IN (SELECT id FROM batch)", [])?;
    tx.execute(
        "INSERT OR REPLACE INTO setting (key, value) VALUES (?1, ?2)",
        params![DOUBT, why.as_bytes()],
    )?;
    saved.batches = uint(tx.query_row("SELECT count(*) FROM batch", [], |r| r.get(0))?);
    tx.commit()?;
    Ok(saved)
}

fn readable(database: &Path) -> rusqlite::Result<Connection> {
    let from = sqlite::open_aside(database)?;
    from.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0))?;
    Ok(from)
}

/// Takes out what came from pages of batches that had been deleted: their rows have ended.
fn drop_deleted(tx: &Connection) -> Result<(), BufferError> {
    let mut books = Books::default();
    {
        let mut select = tx.prepare("SELECT head FROM batch ORDER BY id")?;
        let mut heads = select.query([])?;
        while let Some(row) = heads.next()? {
            // One that can't be read says nothing.
            let _ = books.take_head(&row.get::<_, Vec<u8>>(0)?);
        }
        let mut select = tx.prepare(&format!("SELECT {} FROM epoch", open::EPOCH_COLUMNS))?;
        let mut kept = select.query([])?;
        while let Some(row) = kept.next()? {
            // Only what its checksum vouches for may say that a batch which is whole had been deleted.
            if let Ok(book) = open::read_epoch(row) {
                books.gone.union(&book.books.gone);
            }
        }
    }
    for (first, last) in books.gone.iter() {
        tx.execute("DELETE FROM batch WHERE id BETWEEN ?1 AND ?2", [super::int(first), super::int(last)])?;
    }
    Ok(())
}

/// Copies what can be read, from the front and then from the back, and tells how often reading failed.
fn copy_table(from: &Connection, into: &Connection, table: &str) -> u64 {
    let (Ok(mine), Ok(theirs)) = (columns(into, table), columns(from, table)) else { return 1 };
    let columns: Vec<String> = mine.into_iter().filter(|c| theirs.contains(c)).collect();
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
        "gap" | "alert" => &["id"],
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

fn copy_batches(from: &Connection, into: &Connection) -> u64 {
    let mut lost = 0;
    for order in ["ASC", "DESC"] {
        let Ok(mut select) = from.prepare(&format!("SELECT {STORED_COLUMNS} FROM batch ORDER BY id {order}"))
        else {
            return lost + 1;
        };
        let Ok(mut found) = select.query([]) else { return lost + 1 };
        let failed = loop {
            match found.next() {
                // Read from the other end it may be there already.
                Ok(Some(row)) => match Stored::read(row) {
                    Ok(stored) if stored.rows().is_ok() => drop(stored.insert(into)),
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
    lost
}

/// What a row in a leaf may be, by the kinds of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Batch,
    Mark,
    Series,
    Epoch,
}

impl Kind {
    const fn table(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Mark => "mark",
            Self::Series => "series",
            Self::Epoch => "epoch",
        }
    }

    /// Columns of later versions may follow.
    fn of(kinds: &str) -> Option<Self> {
        let is = |all: &[&str]| all.iter().any(|k| kinds.starts_with(k));
        if is(&["niiiiiiiibbb"]) {
            Some(Self::Batch)
        } else if is(&["niiiibbb"]) {
            Some(Self::Mark)
        } else if is(&["ntttttttiiin", "ntttttttiiii", "ntttttntiiin", "ntttttntiiii"]) {
            Some(Self::Series)
        } else if is(&["ntittt", "ntintt"]) {
            Some(Self::Epoch)
        } else {
            None
        }
    }
}

/// Takes what only the pages still have.
fn take_pages(pages: &Pages, tx: &Connection) -> Result<(), BufferError> {
    let mut there: HashSet<i64> = {
        let mut select = tx.prepare("SELECT id FROM batch")?;
        select.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?
    };
    let mut tables = BTreeMap::new();
    for kind in [Kind::Batch, Kind::Mark, Kind::Series, Kind::Epoch] {
        tables.insert(kind.table(), columns(tx, kind.table())?);
    }
    // The newest image of each row of those tables that need no more than to be read.
    let mut newest: BTreeMap<(&str, i64), i64> = BTreeMap::new();
    let mut seen: HashSet<u64> = HashSet::new();
    pages.each_cell(|place, cell| {
        let Some(kind) = leaf::kinds(cell.local).as_deref().and_then(Kind::of) else { return Ok(()) };
        let (table, key) = (kind.table(), cell.rowid);
        let Some(columns) = tables.get(table) else { return Ok(()) };
        if kind == Kind::Batch {
            // A batch never changes.
            if !there.contains(&key)
                && pages.whole(place, cell, |record| is_batch(tx, columns, key, record)).is_some()
            {
                there.insert(key);
            }
            return Ok(());
        }
        let Some(record) = pages.whole(place, cell, |record| leaf::record(record).is_some()) else {
            return Ok(());
        };
        let mut hash = DefaultHasher::new();
        (table, key, &record).hash(&mut hash);
        if kind == Kind::Mark {
            if seen.insert(hash.finish()) {
                advance_mark(tx, columns, key, &record)?;
            }
            return Ok(());
        }
        let rank = pages.rank(place);
        if newest.get(&(table, key)).is_none_or(|known| *known <= rank)
            && put(tx, table, columns, key, &record, |r| is_readable(kind, r))?
        {
            newest.insert((table, key), rank);
        }
        Ok(())
    })
}

fn is_readable(kind: Kind, row: &rusqlite::Row<'_>) -> bool {
    match kind {
        Kind::Series => epoch::read_series_row(row).is_ok(),
        Kind::Epoch => open::read_epoch(row).is_ok_and(|b| b.books.counters.check().is_ok()),
        Kind::Batch | Kind::Mark => false,
    }
}

/// Whether a record is a batch whose checksum is right; it then is in the table.
fn is_batch(tx: &Connection, columns: &[String], id: i64, record: &[u8]) -> bool {
    let right = |r: &rusqlite::Row<'_>| Stored::read(r).is_ok_and(|stored| stored.rows().is_ok());
    put(tx, "batch", columns, id, record, right).unwrap_or(false)
}

/// Puts the bitmaps of a batch in place if more of its rows have ended in them than in those that are there.
fn advance_mark(tx: &Connection, columns: &[String], batch: i64, record: &[u8]) -> Result<(), BufferError> {
    let sql = format!("SELECT {MARK_COLUMNS} FROM mark WHERE batch = ?1");
    let there = tx.query_row(&sql, [batch], |r| Ok(Mark::read(r).ok())).optional()?.flatten();
    let far = |mark: &Mark| (mark.ended, mark.taken().len());
    let before = there.as_ref().map(far);
    put(tx, "mark", columns, batch, record, |r| Mark::read(r).is_ok_and(|m| Some(far(&m)) > before))?;
    Ok(())
}

/// Puts a record in the place of the row `key` if `right` agrees to it as it is then read; tells whether it did.
fn put(
    tx: &Connection,
    table: &str,
    columns: &[String],
    key: i64,
    record: &[u8],
    right: impl Fn(&rusqlite::Row<'_>) -> bool,
) -> Result<bool, BufferError> {
    let Some(fields) = leaf::record(record) else { return Ok(false) };
    let read = match table {
        "batch" => STORED_COLUMNS,
        "mark" => MARK_COLUMNS,
        "series" => epoch::SERIES_COLUMNS,
        _ => open::EPOCH_COLUMNS,
    };
    let Some(key_column) = columns.first() else { return Ok(false) };
    let pairs: Vec<(&String, Value)> = columns.iter().zip(fields.iter().map(value)).collect();
    let values =
        pairs.iter().enumerate().map(|(i, (_, v))| if i == 0 { Value::Integer(key) } else { v.clone() });
    let names = pairs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let marks = vec!["?"; pairs.len()].join(", ");
    tx.execute_batch("SAVEPOINT image")?;
    let put = tx
        .prepare_cached(&format!("INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})"))?
        .execute(params_from_iter(values));
    let good = match put {
        Ok(_) => {
            let sql = format!("SELECT {read} FROM {table} WHERE {key_column} = ?1");
            tx.prepare_cached(&sql)?.query_row([key], |r| Ok(right(r)))?
        }
        // It breaks a constraint: it isn't a row of that table.
        Err(_) => false,
    };
    tx.execute_batch(if good { "RELEASE image" } else { "ROLLBACK TO image; RELEASE image" })?;
    Ok(good)
}

fn value(field: &Field<'_>) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Int(n) => Value::Integer(*n),
        Field::Text(text) => Value::Text((*text).to_owned()),
        Field::Blob(blob) => Value::Blob(blob.to_vec()),
    }
}
