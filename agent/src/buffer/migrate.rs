//! Migrations: one numbered step from each version of the schema to the next. Edge: SQLite.
//!
//! A database of an older version goes through all the steps that it lacks in one transaction with its new version: a
//! power cut leaves the old or the new. A step that was released never changes; the next change of `schema.sql` is a new
//! step, a file `migrations/N.sql` and a frozen buffer in `tests/versions/N`, and a test proves that the steps lead from
//! each frozen one to the tables of `schema.sql`.

use rusqlite::Connection;

use super::error::BufferError;
use super::sums;

/// From one version to the next.
pub struct Step {
    /// Changes of the tables.
    tables: &'static str,
    /// What then has to be computed from the rows; harmless to do twice.
    rows: fn(&Connection) -> Result<(), BufferError>,
}

/// The first step leads from version 1 to 2.
pub const STEPS: [Step; 3] = [
    Step { tables: include_str!("migrations/2.sql"), rows: sums::compute },
    Step { tables: include_str!("migrations/3.sql"), rows: nothing },
    Step { tables: include_str!("migrations/4.sql"), rows: nothing },
];

fn nothing(_: &Connection) -> Result<(), BufferError> {
    Ok(())
}

/// Brings the tables from version `from` to that of `schema.sql`.
///
/// # Errors
/// What SQLite says; then nothing has changed.
pub fn migrate(sql: &Connection, from: i64) -> Result<(), BufferError> {
    migrate_by(sql, from, &STEPS)
}

fn migrate_by(sql: &Connection, from: i64, steps: &[Step]) -> Result<(), BufferError> {
    let tx = sql.unchecked_transaction()?;
    for (version, step) in (1i64..).zip(steps).filter(|(version, _)| *version >= from) {
        tx.execute_batch(step.tables)?;
        (step.rows)(&tx)?;
        tx.pragma_update(None, "user_version", version + 1)?;
    }
    Ok(tx.commit()?)
}

/// Computes what rows that were copied from a database of version `from` into one of the present version lack.
///
/// # Errors
/// What SQLite says.
pub fn fill(sql: &Connection, from: i64) -> Result<(), BufferError> {
    let missing = (1i64..).zip(&STEPS).filter(|(version, _)| *version >= from);
    missing.map(|(_, step)| step).try_for_each(|step| (step.rows)(sql))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::sqlite;

    fn fails(_: &Connection) -> Result<(), BufferError> {
        Err(BufferError::Corrupt("on purpose".into()))
    }

    #[test]
    fn steps_run_in_order_from_the_version_that_is_there_and_a_failed_one_changes_nothing() {
        let sql = Connection::open_in_memory().unwrap();
        sql.execute_batch("CREATE TABLE t (a); PRAGMA user_version = 1").unwrap();
        let two = || Step { tables: "ALTER TABLE t RENAME COLUMN a TO b", rows: nothing };
        let three = || Step { tables: "ALTER TABLE t RENAME COLUMN b TO c", rows: nothing };
        let broken = Step { tables: "ALTER TABLE t RENAME COLUMN b TO d", rows: fails };
        let column = || -> String {
            sql.query_row("SELECT name FROM pragma_table_info('t')", [], |r| r.get(0)).unwrap()
        };
        assert!(migrate_by(&sql, 1, &[two(), broken]).is_err());
        assert_eq!((column().as_str(), sqlite::version(&sql).unwrap()), ("a", 1));
        migrate_by(&sql, 1, &[two()]).unwrap();
        migrate_by(&sql, 2, &[two(), three()]).unwrap();
        migrate_by(&sql, 3, &[two(), three()]).unwrap();
        assert_eq!((column().as_str(), sqlite::version(&sql).unwrap()), ("c", 3));
    }
}
