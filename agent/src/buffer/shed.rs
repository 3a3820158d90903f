//! Shedding aggregates: sealed segments that can't wait any longer for a bucket, the last thing to go. Edge: SQLite, files.

use rusqlite::params;
use tributary_contract::id::{Namespace, Number};
use tributary_contract::reject::GapReason;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::error::BufferError;
use super::files::sync_parent;
use super::rejects::save_gap;
use super::row::GapRow;
use super::{Buffer, int, uint};

/// A segment that goes.
struct Goes {
    ordinal: u32,
    number: Number,
    namespace: Namespace,
    rows: u64,
    bytes: u64,
    from: Timestamp,
    to: Timestamp,
}

impl Buffer {
    /// Sheds sealed aggregates that nobody has tried to send, the oldest first, until about `goal` bytes are free: their
    /// numbers become void, with a gap each, in one transaction; tells how many bytes went. Whoever sends segments must
    /// not have one of them in hand.
    ///
    /// A segment that was tried may be in the bucket although no answer said so. The oldest untried one may have been on
    /// its way when the agent was killed. Both stay: of what is shed it must be sure that it never arrives.
    pub fn shed_aggregates(&mut self, goal: u64, now: Timestamp) -> Result<u64, BufferError> {
        self.guarded(|b| b.shed_aggregates_now(goal, now))
    }

    fn shed_aggregates_now(&mut self, goal: u64, now: Timestamp) -> Result<u64, BufferError> {
        let going = self.aggregates_to_go(goal)?;
        if going.is_empty() {
            return Ok(0);
        }
        let (mut current, mut older) = (self.current.clone(), self.older.clone());
        for Goes { ordinal, number, .. } in &going {
            let book = if *ordinal == current.ordinal { Some(&mut current) } else { older.get_mut(ordinal) };
            if let Some(book) = book {
                book.void.insert(number.get());
            }
        }
        self.transact(["shed: before", "shed: after"], |tx| {
            for goes in &going {
                tx.prepare_cached("UPDATE outbox SET state = 'released' WHERE epoch = ?1 AND number = ?2")?
                    .execute(params![goes.ordinal, int(goes.number.get())])?;
                let epoch = self.book(goes.ordinal).map(|b| b.epoch).unwrap_or(current.epoch);
                save_gap(tx, &goes.gap(epoch, now))?;
            }
            current.save(tx)?;
            older
                .values()
                .filter(|b| going.iter().any(|g| g.ordinal == b.ordinal))
                .try_for_each(|b| b.save(tx))
        })?;
        (self.current, self.older) = (current, older);
        let mut bytes = 0;
        for goes in &going {
            let Some(epoch) = self.book(goes.ordinal).map(|b| b.epoch) else { continue };
            let path = self.files.segment(epoch, goes.number);
            self.files.remove(&path)?;
            sync_parent(&path)?;
            self.released.insert((goes.ordinal, goes.number.get()));
            bytes += goes.bytes;
        }
        self.files.hit("shed: files removed")?;
        Ok(bytes)
    }

    fn aggregates_to_go(&self, goal: u64) -> Result<Vec<Goes>, BufferError> {
        let mut select = self.sql.prepare_cached(
            "SELECT o.epoch, o.number, o.namespace, o.rows, o.size, o.min_ts, d.newest
             FROM outbox o LEFT JOIN decision d ON d.epoch = o.epoch AND d.number = o.number
             WHERE o.tbl = ?1 AND o.state = 'sealed' AND o.attempts = 0
               AND (o.epoch, o.number) > (SELECT epoch, number FROM outbox WHERE state = 'sealed' AND attempts = 0
                                          ORDER BY epoch, number LIMIT 1)
             ORDER BY o.epoch, o.number",
        )?;
        let mut found = select.query([Table::Aggregates.name()])?;
        let (mut going, mut bytes) = (Vec::new(), 0);
        while let Some(r) = found.next()? {
            if bytes >= goal {
                break;
            }
            let from = Timestamp(r.get(5)?);
            let newest = r.get::<_, Option<i64>>(6)?.map(Timestamp);
            let goes = Goes {
                ordinal: r.get(0)?,
                number: Number::new(uint(r.get(1)?))?,
                namespace: Namespace::new(r.get::<_, String>(2)?)?,
                rows: uint(r.get(3)?),
                bytes: uint(r.get(4)?),
                from,
                to: newest.unwrap_or(from).max(from),
            };
            bytes += goes.bytes;
            going.push(goes);
        }
        Ok(going)
    }
}

impl Goes {
    fn gap(&self, epoch: tributary_contract::id::Epoch, now: Timestamp) -> GapRow {
        GapRow {
            namespace: self.namespace.clone(),
            from_ts: self.from,
            to_ts: self.to,
            id: format!("aggregates-{epoch}-{}", self.number),
            cancels: None,
            source: None,
            device: None,
            metric: None,
            reason: GapReason::Shed,
            // Readings they stood for have gaps of their own.
            readings: None,
            bytes: Some(self.bytes),
            first_seq: None,
            last_seq: None,
            detail: Some(format!("{} aggregates of segment {}", self.rows, self.number)),
            recorded_at: now,
        }
    }
}
