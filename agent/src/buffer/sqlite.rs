//! The database: opened with the settings that were measured to be durable and cheap on flash. Edge: SQLite.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::migrate::STEPS;

/// Bytes of a page, in the database and in each frame of its log.
pub const PAGE: usize = 1024;

/// Version of `schema.sql`.
pub const SCHEMA: i64 = 1 + STEPS.len() as i64;

/// Opens or makes the database at `path`. A clean stop checkpoints by itself; merely dropping the connection leaves the
/// log as a crash would.
pub fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = Connection::open_with_flags(path, flags)?;
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    sql.set_prepared_statement_cache_capacity(64);
    // The page size takes hold only before the first table; exclusive before WAL means no shared-memory file.
    sql.pragma_update(None, "page_size", PAGE as i64)?;
    sql.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    sql.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    sql.pragma_update(None, "synchronous", "FULL")?;
    sql.pragma_update_and_check(None, "wal_autocheckpoint", 2000, |_| Ok(()))?;
    sql.pragma_update(None, "cache_size", -512)?;
    Ok(sql)
}

/// Opens a database that was set aside, for reading what is left of it.
pub fn open_aside(path: &Path) -> rusqlite::Result<Connection> {
    let sql = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    sql.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    Ok(sql)
}

/// The schema version; 0 for an empty database.
pub fn version(sql: &Connection) -> rusqlite::Result<i64> {
    sql.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// The schema version as the row of `state` has it; none if it can't be read.
pub fn version_in_row(sql: &Connection) -> Option<i64> {
    let select = "SELECT gateway, fingerprint, opened, version, crc FROM state";
    sql.query_row(select, [], |r| Ok(super::check::read_state(r).is_ok().then(|| r.get(3))))
        .ok()?
        .transpose()
        .ok()?
}

/// Makes the tables.
pub fn create(sql: &Connection) -> rusqlite::Result<()> {
    let tx = sql.unchecked_transaction()?;
    tx.execute_batch(include_str!("schema.sql"))?;
    tx.pragma_update(None, "user_version", SCHEMA)?;
    tx.commit()
}

/// The first fault that SQLite finds in the structure of its file, if any.
pub fn fault(sql: &Connection) -> rusqlite::Result<Option<String>> {
    let word: String = sql.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((word != "ok").then_some(word))
}

/// Writes the log back into the database and empties it.
pub fn checkpoint(sql: &Connection) -> rusqlite::Result<()> {
    sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_sqlite_is_new_enough_and_built_with_fdatasync() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
        // SQLite doesn't list this option among its own; what it is built with is what this crate is built with.
        let flags = option_env!("LIBSQLITE3_FLAGS").unwrap_or_default();
        assert!(
            flags.contains("-DHAVE_FDATASYNC=1"),
            "LIBSQLITE3_FLAGS is {flags:?}: see .cargo/config.toml"
        );
    }

    #[test]
    fn a_commit_is_durable_and_its_pages_are_small() {
        let dir = tempfile::tempdir().unwrap();
        let sql = open(&dir.path().join("a.db")).unwrap();
        create(&sql).unwrap();
        let ask = |pragma: &str| -> String {
            sql.query_row(&format!("PRAGMA {pragma}"), [], |r| r.get::<_, rusqlite::types::Value>(0))
                .map(|v| format!("{v:?}"))
                .unwrap()
        };
        assert_eq!(ask("page_size"), "Integer(1024)");
        assert_eq!(ask("journal_mode"), "Text(\"wal\")");
        assert_eq!(ask("synchronous"), "Integer(2)");
        assert_eq!(ask("locking_mode"), "Text(\"exclusive\")");
        assert_eq!(ask("wal_autocheckpoint"), "Integer(2000)");
        assert!(!dir.path().join("a.db-shm").exists());
        assert_eq!(version(&sql).unwrap(), SCHEMA);
    }
}
