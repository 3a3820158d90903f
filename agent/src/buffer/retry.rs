//! Rejects tried again: readings that were found in kept bytes after all. Edge: SQLite.
//!
//! A message is counted once, when it came: as rejected. Its readings are journaled once, in the transaction that notes the
//! reject as retried; so both laws hold as they are, and a second try, or one after a crash, finds that it was done.

use rusqlite::{Connection, OptionalExtension as _};

use super::error::BufferError;
use super::journal::{Appended, NewBatch, SourceFacts};
use super::reader::Retried;
use super::rejects::{REJECT_COLUMNS, read_reject};
use super::row::RejectRow;
use super::{Buffer, corrupt};
use crate::clock::Moment;
use crate::reading::{Accepted, Reading};

/// A message whose readings were found: its source, by position, and the readings.
pub type Retry = (usize, Vec<Reading>);

/// What became of one reject.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryOutcome {
    /// Its id.
    pub id: i64,
    /// Readings that were put into the journal, or why there are none.
    pub readings: Result<u64, String>,
    /// How many messages the reject stands for.
    pub occurrences: u64,
}

impl Buffer {
    /// Tries rejects again: `decode` says what is in each, by position of the source, or why nothing is. What it finds is
    /// committed at `moment`, one transaction a reject, under the time at which the message came.
    ///
    /// # Errors
    /// The buffer's; what was done before stays done.
    pub fn retry(
        &mut self,
        ids: &[i64],
        sources: &[SourceFacts],
        moment: Moment,
        mut decode: impl FnMut(&RejectRow) -> Result<Retry, String>,
    ) -> Result<Vec<(RetryOutcome, Appended)>, BufferError> {
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            let mut retried = Retried::load(&self.sql)?;
            let row = reject(&self.sql, *id)?;
            let occurrences = row.as_ref().map_or(0, |row| row.occurrences);
            let found = match &row {
                None => {
                    Err("no such reject is in the buffer; `rejects list` shows those that are".to_owned())
                }
                Some(row) if retried.contains(row) => Err("it was retried before".to_owned()),
                Some(row) => decode(row),
            };
            let (readings, appended) = match (row, found) {
                (Some(row), Ok((source, readings))) => {
                    retried.retain(|id| reject(&self.sql, id).is_ok_and(|r| r.is_some()));
                    retried.insert(&row);
                    let settings = serde_json::to_vec(&retried);
                    let settings = settings.map_err(|e| corrupt("list of retried rejects")(e.to_string()))?;
                    let count = readings.len() as u64;
                    let batch = NewBatch {
                        accepted: vec![Accepted { source, received_at: row.received_at, readings }],
                        settings: vec![(Retried::KEY, settings)],
                        committed_at: moment.wall,
                        ..NewBatch::default()
                    };
                    match self.append_at(batch, sources, moment) {
                        Ok(appended) => (Ok(count), appended),
                        // It would have become a reject once more, of which the law of messages knows nothing.
                        Err(BufferError::Law(_)) => {
                            let limit = "its readings would make more series than limits.series or \
                                         limits.device_series allow: raise them";
                            (Err(limit.to_owned()), Appended::default())
                        }
                        Err(e) => return Err(e),
                    }
                }
                (_, Err(why)) => (Err(why), Appended::default()),
                (None, Ok(_)) => continue,
            };
            outcomes.push((RetryOutcome { id: *id, readings, occurrences }, appended));
        }
        Ok(outcomes)
    }
}

fn reject(sql: &Connection, id: i64) -> Result<Option<RejectRow>, BufferError> {
    let select = format!("SELECT {REJECT_COLUMNS} FROM reject WHERE id = ?1");
    let found = sql.prepare_cached(&select)?.query_row([id], |r| Ok(read_reject(r))).optional()?;
    found.transpose()
}
