//! Rejects, identical ones folded, and gaps: the rows that tell of what isn't there. Edge: SQLite.

use std::collections::HashMap;

use rusqlite::{Connection, params};
use tributary_contract::digest::Digest;
use tributary_contract::id::Namespace;
use tributary_contract::reject::{GapReason, RejectReason};
use tributary_contract::time::{Day, Timestamp};

use super::error::BufferError;
use super::journal::SourceFacts;
use super::row::{GapRow, RejectRow};
use super::{Buffer, corrupt, int, side, uint};
use crate::ingest::stage::KEPT_PAYLOAD;
use crate::reading::Rejected;

/// Bytes kept per source and day, topics and details included; beyond it rejects are folded by reason alone.
pub const KEPT_PER_DAY: u64 = 1 << 20;

/// Bytes that a row takes beside its texts and its payload: however small they are, a flood of them is bounded.
const ROW_BYTES: u64 = 64;

/// Identical rejects remembered at a time; beyond it folding begins anew.
const REMEMBERED: usize = 10_000;

/// Which rows may still grow, and how many bytes are kept.
#[derive(Debug, Default)]
pub(super) struct Folding {
    rows: HashMap<(String, RejectReason, i64), i64>,
    kept: HashMap<(String, Day), u64>,
}

impl Folding {
    /// After a start: bytes kept are counted again, and no stored row grows any more, because a segment whose transaction
    /// was lost may hold it as it is.
    pub(super) fn load(sql: &Connection) -> Result<Self, BufferError> {
        let mut folding = Self::default();
        let mut select = sql.prepare(
            "SELECT source, received_at,
                    length(payload) + length(CAST(topic AS BLOB)) + ifnull(length(CAST(detail AS BLOB)), 0)
             FROM reject WHERE payload NOT NULL",
        )?;
        let mut found = select.query([])?;
        while let Some(row) = found.next()? {
            let day = Timestamp(row.get(1)?).day();
            *folding.kept.entry((row.get(0)?, day)).or_default() += uint(row.get(2)?) + ROW_BYTES;
        }
        Ok(folding)
    }

    /// No row that exists grows any more: they were handed out to be sealed.
    fn freeze(&mut self) {
        self.rows.clear();
    }

    /// Stores a reject, or counts it on an identical one.
    pub(super) fn save(
        &mut self,
        tx: &Connection,
        reject: &Rejected,
        source: &SourceFacts,
    ) -> Result<(), BufferError> {
        let payload = reject.payload.get(..KEPT_PAYLOAD).unwrap_or(&reject.payload);
        let [a, b, c, d, e, f, g, h, ..] = Digest::of(payload).0;
        let mut hash = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let mut key = (source.name.clone(), reject.reason, hash);
        let day = reject.received_at.day();
        let kept = self.kept.entry((source.name.clone(), day)).or_default();
        let mut stored = (!payload.is_empty()).then_some(payload);
        let bytes = (payload.len() + reject.topic.len() + reject.detail.len()) as u64 + ROW_BYTES;
        if !self.rows.contains_key(&key) && *kept + bytes > KEPT_PER_DAY {
            (stored, hash) = (None, 0);
            key.2 = 0;
        }
        if let Some(id) = self.rows.get(&key) {
            tx.prepare_cached("UPDATE reject SET occurrences = occurrences + 1 WHERE id = ?1")?
                .execute([id])?;
            return Ok(());
        }
        tx.prepare_cached(
            "INSERT INTO reject (namespace, source, reason, received_at, topic, detail, size, payload, hash, occurrences)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1)",
        )?
        .execute(params![
            source.namespace.as_str(),
            source.name,
            reject.reason.code(),
            reject.received_at.0,
            reject.topic,
            (!reject.detail.is_empty()).then_some(&reject.detail),
            int(reject.size),
            stored,
            hash,
        ])?;
        *kept += stored.map_or(0, |_| bytes);
        if self.rows.len() >= REMEMBERED {
            self.rows.clear();
        }
        self.rows.insert(key, tx.last_insert_rowid());
        // Only today and yesterday can still be filled.
        self.kept.retain(|(_, of), _| of.0 >= day.0 - 1);
        Ok(())
    }
}

pub(super) fn save_gap(tx: &Connection, gap: &GapRow) -> Result<(), BufferError> {
    tx.prepare_cached(
        "INSERT INTO gap (id, namespace, from_ts, to_ts, cancels, source, device, metric, reason, readings, bytes,
                          first_seq, last_seq, detail, recorded_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT (id) DO NOTHING",
    )?
    .execute(params![
        gap.id,
        gap.namespace.as_str(),
        gap.from_ts.0,
        gap.to_ts.0,
        gap.cancels,
        gap.source,
        gap.device,
        gap.metric,
        gap.reason.code(),
        gap.readings.map(int),
        gap.bytes.map(int),
        gap.first_seq.map(int),
        gap.last_seq.map(int),
        gap.detail,
        gap.recorded_at.0,
    ])?;
    Ok(())
}

impl Buffer {
    /// Gaps that no segment holds, in the order of their ids; those handed out grow no more. Seal those of one namespace
    /// and day of `from_ts` together.
    pub fn gaps_to_seal(&mut self) -> Result<Vec<GapRow>, BufferError> {
        self.gaps.freeze();
        self.gaps_waiting()
    }

    /// The same, only to be looked at: those that grow go on growing.
    pub fn gaps_waiting(&mut self) -> Result<Vec<GapRow>, BufferError> {
        self.guarded(|b| side::GAPS.waiting(&b.sql, usize::MAX, read_gap))
    }

    /// Rejects that no segment holds, at most `limit`; those handed out count no further copies. Seal those of one
    /// namespace and day of `received_at` together.
    pub fn rejects_to_seal(&mut self, limit: usize) -> Result<Vec<RejectRow>, BufferError> {
        self.rejects.freeze();
        self.rejects_waiting(limit)
    }

    /// The same, only to be looked at: copies are counted on them as before.
    pub fn rejects_waiting(&mut self, limit: usize) -> Result<Vec<RejectRow>, BufferError> {
        self.guarded(|b| side::REJECTS.waiting(&b.sql, limit, read_reject))
    }
}

pub(super) const GAP_COLUMNS: &str = "id, namespace, from_ts, to_ts, cancels, source, device, metric, reason, readings, \
     bytes, first_seq, last_seq, detail, recorded_at";
pub(super) const REJECT_COLUMNS: &str =
    "id, namespace, received_at, topic, source, reason, detail, size, payload, occurrences";

/// Reads a row of [`GAP_COLUMNS`].
pub(super) fn read_gap(r: &rusqlite::Row<'_>) -> Result<GapRow, BufferError> {
    let (namespace, reason): (String, String) = (r.get(1)?, r.get(8)?);
    let count = |i| -> rusqlite::Result<Option<u64>> { Ok(r.get::<_, Option<i64>>(i)?.map(uint)) };
    Ok(GapRow {
        namespace: Namespace::new(namespace)?,
        from_ts: Timestamp(r.get(2)?),
        to_ts: Timestamp(r.get(3)?),
        id: r.get(0)?,
        cancels: r.get(4)?,
        source: r.get(5)?,
        device: r.get(6)?,
        metric: r.get(7)?,
        reason: GapReason::from_code(&reason).ok_or_else(|| corrupt("gap reason")(reason))?,
        readings: count(9)?,
        bytes: count(10)?,
        first_seq: count(11)?,
        last_seq: count(12)?,
        detail: r.get(13)?,
        recorded_at: Timestamp(r.get(14)?),
    })
}

/// Reads a row of [`REJECT_COLUMNS`].
pub(super) fn read_reject(r: &rusqlite::Row<'_>) -> Result<RejectRow, BufferError> {
    let (namespace, reason): (String, String) = (r.get(1)?, r.get(5)?);
    Ok(RejectRow {
        id: r.get(0)?,
        namespace: Namespace::new(namespace)?,
        received_at: Timestamp(r.get(2)?),
        topic: r.get(3)?,
        source: Some(r.get(4)?),
        reason: RejectReason::from_code(&reason).ok_or_else(|| corrupt("reject reason")(reason))?,
        detail: r.get(6)?,
        size: uint(r.get(7)?),
        payload: r.get(8)?,
        occurrences: uint(r.get(9)?),
    })
}
