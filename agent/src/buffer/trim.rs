//! Deletion of batches that nobody needs any more. Edge: SQLite.

use rusqlite::OptionalExtension as _;

use super::Buffer;
use super::error::BufferError;
use super::journal::{SPAN_COLUMNS, read_span};
use super::row::BatchSpan;

impl Buffer {
    /// Deletes batches of which every row is registered, shed, moved or given up, and that `keep` doesn't want, oldest
    /// first, at most `limit`; tells how many. The newest batch always stays: its id and counters go on from it.
    pub fn trim(&mut self, limit: usize, keep: &dyn Fn(&BatchSpan) -> bool) -> Result<u64, BufferError> {
        self.guarded(|b| {
            let newest = b.next_batch - 1;
            let mut ids: Vec<i64> = {
                let mut select = b.sql.prepare_cached(
                    "SELECT batch FROM mark INDEXED BY mark_ended WHERE ended >= rows ORDER BY batch",
                )?;
                select.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?
            };
            ids.extend(&b.spans.empty);
            ids.retain(|id| *id != newest);
            ids.sort_unstable();
            let mut gone = Vec::new();
            {
                let mut select =
                    b.sql.prepare_cached(&format!("SELECT {SPAN_COLUMNS} FROM batch WHERE id = ?1"))?;
                for id in ids {
                    if gone.len() >= limit {
                        break;
                    }
                    match select.query_row([id], read_span).optional()? {
                        Some(span) if keep(&span) => {}
                        Some(_) | None => gone.push(id),
                    }
                }
            }
            if gone.is_empty() {
                return Ok(0);
            }
            let mut current = b.current.clone();
            gone.iter().for_each(|id| current.books.gone.insert(super::uint(*id)));
            b.transact(["trim: before", "trim: after"], |tx| {
                let mut batch = tx.prepare_cached("DELETE FROM batch WHERE id = ?1")?;
                let mut mark = tx.prepare_cached("DELETE FROM mark WHERE batch = ?1")?;
                for id in &gone {
                    batch.execute([id])?;
                    mark.execute([id])?;
                }
                // The newest counters of ingest stood in a batch; from now on they needn't.
                current.save(tx)
            })?;
            b.current = current;
            let first: Option<i64> = b.sql.query_row("SELECT min(id) FROM batch", [], |r| r.get(0))?;
            let first = first.unwrap_or(b.next_batch);
            gone.iter().for_each(|id| b.spans.remove(*id, first));
            Ok(gone.len() as u64)
        })
    }
}
