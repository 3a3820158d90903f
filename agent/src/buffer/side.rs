//! What stands beside the readings: gaps, rejects and alerts wait for a segment, and go with its receipt. Edge: SQLite.

use rusqlite::{Connection, ToSql, params};

use super::alerts::ALERT_COLUMNS;
use super::error::BufferError;
use super::int;
use super::rejects::{GAP_COLUMNS, REJECT_COLUMNS};

/// One of their tables, whose rows know the segment that holds them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    table: &'static str,
    columns: &'static str,
}

pub(super) const GAPS: Side = Side { table: "gap", columns: GAP_COLUMNS };
pub(super) const REJECTS: Side = Side { table: "reject", columns: REJECT_COLUMNS };
pub(super) const ALERTS: Side = Side { table: "alert", columns: ALERT_COLUMNS };

/// All of them.
pub(super) const SIDES: [Side; 3] = [GAPS, REJECTS, ALERTS];

impl Side {
    /// Rows that no segment holds, at most `limit`, in the order of their ids. `read` reads a row of the table's columns.
    pub(super) fn waiting<T>(
        self,
        sql: &Connection,
        limit: usize,
        read: impl Fn(&rusqlite::Row<'_>) -> Result<T, BufferError>,
    ) -> Result<Vec<T>, BufferError> {
        let Self { table, columns } = self;
        let text = format!("SELECT {columns} FROM {table} WHERE sealed_epoch IS NULL ORDER BY id LIMIT ?1");
        let mut select = sql.prepare_cached(&text)?;
        let mut found = select.query([int(limit as u64)])?;
        let mut out = Vec::new();
        while let Some(r) = found.next()? {
            out.push(read(r)?);
        }
        Ok(out)
    }

    /// Notes that a segment holds these rows.
    pub(super) fn seal(
        self,
        tx: &Connection,
        ordinal: u32,
        number: u64,
        ids: &[impl ToSql],
    ) -> Result<(), BufferError> {
        let text = format!("UPDATE {} SET sealed_epoch = ?1, sealed_number = ?2 WHERE id = ?3", self.table);
        let mut update = tx.prepare_cached(&text)?;
        ids.iter().try_for_each(|id| update.execute(params![ordinal, int(number), id]).map(|_| ()))?;
        Ok(())
    }

    /// What a segment held waits again.
    pub(super) fn unseal(self, tx: &Connection, ordinal: u32, number: u64) -> Result<(), BufferError> {
        let text = format!(
            "UPDATE {} SET sealed_epoch = NULL, sealed_number = NULL WHERE sealed_epoch = ?1 AND sealed_number = ?2",
            self.table
        );
        tx.prepare_cached(&text)?.execute(params![ordinal, int(number)])?;
        Ok(())
    }

    /// What a segment held is gone, because the lake has it.
    pub(super) fn forget(self, tx: &Connection, ordinal: u32, number: u64) -> Result<(), BufferError> {
        let text = format!("DELETE FROM {} WHERE sealed_epoch = ?1 AND sealed_number = ?2", self.table);
        tx.prepare_cached(&text)?.execute(params![ordinal, int(number)])?;
        Ok(())
    }
}
