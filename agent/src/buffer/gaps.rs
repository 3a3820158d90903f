//! Gaps that grow while readings are given up: one row a source, day and reason, so that gaps don't flood in their turn. Edge: SQLite.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use tributary_contract::id::{Epoch, Namespace};
use tributary_contract::time::{Day, Timestamp};

use super::error::BufferError;
use super::int;
use super::rejects::save_gap;
use super::row::{GapRow, Row, SeriesEntry};
use super::thin::Fate;

/// Days of one source and reason that have rows of their own; beyond it the latest day's row takes the others in.
const DAYS: usize = 31;

type Key = (Namespace, String, Fate, Day);

/// Gaps that no segment holds and that were never handed out to be sealed: these may grow. After a start none does,
/// because a segment whose transaction was lost may hold it as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Growing {
    rows: BTreeMap<Key, GapRow>,
    changed: Vec<Key>,
}

impl Growing {
    /// No row that exists grows any more.
    pub(super) fn freeze(&mut self) {
        self.rows.clear();
        self.changed.clear();
    }

    /// Counts one reading that is given up; `bytes` is its share of what was stored.
    pub(super) fn count(
        &mut self,
        row: &Row,
        entry: &SeriesEntry,
        fate: Fate,
        bytes: u64,
        epoch: Epoch,
        now: Timestamp,
    ) {
        let key = self.key(entry, fate, row.ts.day());
        let gap = self.rows.entry(key.clone()).or_insert_with(|| GapRow {
            namespace: entry.namespace.clone(),
            from_ts: row.ts,
            to_ts: row.ts,
            // A reading is given up once: the first one names its gap.
            id: format!("{}-{epoch}-{}", fate.reason().code(), row.seq),
            cancels: None,
            source: Some(entry.source.clone()),
            device: None,
            metric: None,
            reason: fate.reason(),
            readings: Some(0),
            bytes: Some(0),
            first_seq: Some(row.seq),
            last_seq: Some(row.seq),
            detail: None,
            recorded_at: now,
        });
        gap.from_ts = gap.from_ts.min(row.ts);
        gap.to_ts = gap.to_ts.max(row.ts);
        gap.first_seq = gap.first_seq.min(Some(row.seq));
        gap.last_seq = gap.last_seq.max(Some(row.seq));
        gap.readings = gap.readings.map(|n| n + 1);
        gap.bytes = gap.bytes.map(|n| n + bytes);
        gap.recorded_at = now;
        if self.changed.last() != Some(&key) && !self.changed.contains(&key) {
            self.changed.push(key);
        }
    }

    fn key(&self, entry: &SeriesEntry, fate: Fate, day: Day) -> Key {
        let key = (entry.namespace.clone(), entry.source.clone(), fate, day);
        if self.rows.contains_key(&key) {
            return key;
        }
        let of = |day| (key.0.clone(), key.1.clone(), fate, day);
        let mut same = self.rows.range(of(Day(i32::MIN))..=of(Day(i32::MAX)));
        let latest = same.next_back().map(|(key, _)| key.clone());
        match latest {
            Some(latest) if same.count() + 1 >= DAYS => latest,
            _ => key,
        }
    }

    /// Writes what has grown.
    pub(super) fn save(&mut self, tx: &Connection) -> Result<(), BufferError> {
        for key in std::mem::take(&mut self.changed) {
            let Some(gap) = self.rows.get(&key) else { continue };
            save_gap(tx, gap)?;
            tx.prepare_cached(
                "UPDATE gap SET from_ts = ?2, to_ts = ?3, readings = ?4, bytes = ?5, first_seq = ?6, last_seq = ?7,
                                recorded_at = ?8 WHERE id = ?1",
            )?
            .execute(params![
                gap.id,
                gap.from_ts.0,
                gap.to_ts.0,
                gap.readings.map(int),
                gap.bytes.map(int),
                gap.first_seq.map(int),
                gap.last_seq.map(int),
                gap.recorded_at.0,
            ])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tributary_contract::quality::Quality;
    use tributary_contract::time::DAY_MICROS;

    use super::*;
    use crate::reading::Value;

    #[test]
    fn however_many_days_and_readings_the_gaps_of_a_source_stay_a_month_of_rows() {
        let mut growing = Growing::default();
        for seq in 0..5000u64 {
            let row = Row {
                seq,
                ts: Timestamp(seq as i64 * DAY_MICROS / 3),
                received_at: Timestamp(0),
                series: 1,
                value: Value::Int(0),
                quality: Quality::GOOD,
                row_tags: None,
                kept_back: false,
            };
            let (source, fate) = if seq % 2 == 0 { ("a", Fate::Summarised) } else { ("b", Fate::Shed) };
            growing.count(&row, &SeriesEntry::of(source, "d", "m"), fate, 5, Epoch(1), Timestamp(9));
        }
        assert_eq!(growing.rows.len(), 2 * DAYS);
        assert_eq!(growing.rows.values().filter_map(|g| g.readings).sum::<u64>(), 5000);
        let ids: std::collections::BTreeSet<_> = growing.rows.values().map(|g| &g.id).collect();
        assert_eq!(ids.len(), 2 * DAYS);
        assert!(growing.rows.values().all(|g| g.from_ts <= g.to_ts && g.first_seq <= g.last_seq));
    }
}
