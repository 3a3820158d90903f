//! Seals: reads back what a crash left unknown (`readback`), closes windows (`windows`), and makes segments of what is due.

mod readback;
mod windows;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use tracing::{debug, info};
use tributary_contract::id::Namespace;
use tributary_contract::manifest::Manifest;
use tributary_contract::status::ShortStatus;
use tributary_contract::table::Table;
use tributary_contract::time::{Day, Timestamp};
use tributary_contract::{FORMAT_VERSION, key::SegmentKey};

use super::shared::Shared;
use super::thinning::verdict;
use crate::buffer::{AlertRow, Buffer, BufferError, Contents, Draft, Picked, Row, Sealing};
use crate::config::Segment;
use crate::offload::offload;
use crate::segment::columns::{Provenance, TableRow};
use crate::segment::parquet::Builder;
use crate::segment::plan::{self, Group, Next};
use crate::status;
use crate::upload::bucket::Bucket;
use crate::window::decision::Seen;

/// Rows that are read from the journal at once while a segment is encoded, or those of one batch.
const ROWS_AT_ONCE: usize = 8_192;
/// Batches that are looked at before another commit may come.
const LOOKED_AT_ONCE: usize = 256;
/// Rejects of one segment.
const REJECTS_AT_ONCE: usize = 10_000;

/// The sealing loop's own memory.
pub struct Sealer {
    pub(super) shared: Arc<Shared>,
    /// When readings were last thinned.
    pub(super) thinned_at: Option<Timestamp>,
    /// When readings were last shed.
    pub(super) shed_at: Option<Timestamp>,
    /// When it was last looked for readings that have been kept long enough.
    pub(super) expired_at: Option<Timestamp>,
    /// When windows were last asked which may close.
    windows_at: Option<Timestamp>,
    /// When decisions were last looked through.
    forgot_at: Option<Timestamp>,
    /// Since when rows of these tables wait; the journal knows it of readings by itself.
    waiting_since: HashMap<(Namespace, Table, Day), Timestamp>,
}

impl Sealer {
    /// A sealer that has done nothing yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            thinned_at: None,
            shed_at: None,
            expired_at: None,
            windows_at: None,
            forgot_at: None,
            waiting_since: HashMap::new(),
        }
    }

    /// Does everything that is due at `now`; tells how many segments were made.
    ///
    /// # Errors
    /// Whatever the buffer says; nothing was lost, the same pass may be tried again.
    pub async fn pass<B: Bucket>(&mut self, bucket: &B, now: Timestamp) -> anyhow::Result<u64> {
        if !self.read_back(bucket).await? {
            return Ok(0);
        }
        let (sizes, room) = verdict(&self.shared, false).await?;
        if !room.seals {
            self.without_room(&format!("the disk has {} bytes free", sizes.disk_free.unwrap_or(0)), now)
                .await?;
            return Ok(0);
        }
        if self.shared.buffer.run(|b| b.end_backfills()).await?? {
            info!("backfill: everything that was asked for is sealed");
        }
        self.work_on_requests().await?;
        let mut sealed = 0;
        match self.seal_due(&mut sealed, now).await {
            Ok(()) => {
                self.shared.live().notices.remove("room");
            }
            Err(e) if matches!(e.downcast_ref::<BufferError>(), Some(BufferError::NoRoom { .. })) => {
                self.without_room(&e.to_string(), now).await?;
            }
            Err(e) => return Err(e),
        }
        if sealed > 0 {
            self.shared.sealed.notify_one();
        }
        Ok(sealed)
    }

    /// Ends backfill requests of which everything is settled, and begins those that are new. Looking through the journal is
    /// long: commits come between.
    async fn work_on_requests(&self) -> anyhow::Result<()> {
        for id in self.shared.buffer.run(|b| b.end_requests()).await?? {
            info!(id, "backfill: everything of the request is settled");
        }
        while let Some(mut look) = self.shared.buffer.run(|b| b.look()).await? {
            let id = look.id().to_owned();
            loop {
                let looked =
                    move |b: &mut Buffer| b.look_on(&mut look, LOOKED_AT_ONCE).map(|all| (look, all));
                let (on, all) = self.shared.buffer.run(looked).await??;
                look = on;
                if all {
                    break;
                }
            }
            match self.shared.buffer.run(move |b| b.begin_request(look)).await?? {
                Some(readings) => info!(id, readings, "backfill: a request asks for readings"),
                // The next pass looks again.
                None => break,
            }
        }
        Ok(())
    }

    /// Closes windows and seals what is due, counting the segments in `sealed`.
    async fn seal_due(&mut self, sealed: &mut u64, now: Timestamp) -> anyhow::Result<()> {
        *sealed += self.close_windows(now).await?;
        self.forget_decisions(now).await?;
        self.expire(now).await?;
        loop {
            // Between any two segments: a great backlog is sealed for long.
            let room = self.make_room(now).await?;
            if !room.seals {
                return Ok(());
            }
            let Some((next, rest)) = self.next(room.segment, now).await? else { return Ok(()) };
            let made = self.seal_next(next, rest, now).await?;
            *sealed += made;
            if made == 0 {
                // What was due is so no more; should it seem due all the same, the next pass is soon enough.
                return Ok(());
            }
        }
    }

    /// The next segment to make of what the journal and its side tables hold, one of readings of at most `most` bytes or,
    /// without that, none of them; and what waits besides.
    async fn next(
        &mut self,
        most: Option<u64>,
        now: Timestamp,
    ) -> anyhow::Result<Option<(Next, Vec<Group>)>> {
        let (readings, series, gaps, rejects, alerts) = self
            .shared
            .buffer
            .run(|b| -> anyhow::Result<_> {
                Ok((
                    b.rows_to_seal(),
                    b.series_waiting(),
                    b.gaps_waiting()?,
                    b.rejects_waiting(REJECTS_AT_ONCE)?,
                    b.alerts_to_seal()?,
                ))
            })
            .await??;
        let mut groups: Vec<Group> = readings
            .into_iter()
            .map(|w| Group {
                namespace: w.namespace,
                table: Table::Readings,
                day: w.day,
                rows: w.rows,
                bytes: w.bytes,
                oldest: w.oldest_committed,
            })
            .collect();
        let mut side: HashMap<(Namespace, Table, Day), u64> = HashMap::new();
        side.extend(series.into_iter().map(|((ns, day), rows)| ((ns, Table::Series, day), rows)));
        gaps.iter().for_each(|g| *side.entry(group_of(&g.namespace, g)).or_default() += 1);
        rejects.iter().for_each(|r| *side.entry(group_of(&r.namespace, r)).or_default() += 1);
        alerts.iter().for_each(|a| *side.entry(group_of(&a.namespace, a)).or_default() += 1);
        self.waiting_since.retain(|group, _| side.contains_key(group));
        for (group, rows) in side {
            let oldest = *self.waiting_since.entry(group.clone()).or_insert(now);
            let (namespace, table, day) = group;
            groups.push(Group { namespace, table, day, rows, bytes: rows * 64, oldest });
        }
        let own = &self.shared.config.segment;
        // At most what the link carries in ten minutes.
        let carried = self.shared.link().segment_bytes();
        let settings = Segment { max_bytes: most.unwrap_or(carried).min(carried), ..own.clone() };
        if most.is_none() {
            groups.retain(|g| g.table != Table::Readings);
        }
        let next = plan::next(&groups, &settings, now, false);
        Ok(next.map(|next| (next, groups)))
    }

    async fn seal_next(&mut self, next: Next, groups: Vec<Group>, now: Timestamp) -> anyhow::Result<u64> {
        let Next { namespace, table, day, max_rows, max_bytes, trigger } = next;
        debug!(%namespace, %table, %day, ?trigger, "sealing");
        let wanted = (namespace.clone(), table, day);
        self.waiting_since.remove(&wanted);
        match table {
            Table::Readings => {
                let (ns, picked) = (namespace.clone(), day);
                let contents =
                    self.shared.buffer.run(move |b| b.pick_rows(&ns, picked, max_rows, max_bytes)).await??;
                let Some(contents) = contents else { return Ok(0) };
                self.seal_readings(&namespace, day, contents, &groups, now).await?;
            }
            Table::Series => {
                let mut rows = self.shared.buffer.run(|b| b.series_to_seal()).await?;
                rows.retain(|s| group_of(&s.namespace, s) == wanted);
                let contents = Contents::Series(rows.iter().map(|s| s.key).collect());
                return self.seal(&namespace, day, rows, contents, None, now, None).await;
            }
            Table::Gaps => {
                let mut rows = self.shared.buffer.run(|b| b.gaps_to_seal()).await??;
                rows.retain(|g| group_of(&g.namespace, g) == wanted);
                let contents = Contents::Gaps(rows.iter().map(|g| g.id.clone()).collect());
                return self.seal(&namespace, day, rows, contents, None, now, None).await;
            }
            Table::Rejects => {
                let mut rows = self.shared.buffer.run(|b| b.rejects_to_seal(REJECTS_AT_ONCE)).await??;
                rows.retain(|r| group_of(&r.namespace, r) == wanted);
                let contents = Contents::Rejects(rows.iter().map(|r| r.id).collect());
                return self.seal(&namespace, day, rows, contents, None, now, None).await;
            }
            Table::Alerts => {
                let mut rows = self.shared.buffer.run(|b| b.alerts_to_seal()).await??;
                rows.retain(|a| group_of(&a.namespace, a) == wanted);
                let contents = Contents::Alerts(rows.iter().map(AlertRow::id).collect());
                return self.seal(&namespace, day, rows, contents, None, now, None).await;
            }
            // Sealed as they are emitted.
            Table::Aggregates => return Ok(0),
        }
        Ok(1)
    }

    /// Seals rows of the journal: read a few batches at a time, so that memory is bounded whatever the backlog.
    async fn seal_readings(
        &self,
        namespace: &Namespace,
        day: Day,
        contents: Contents,
        groups: &[Group],
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let Contents::Readings { picked, .. } = &contents else {
            return Err(anyhow!("no readings were picked"));
        };
        let (sealing, draft) = self.begin().await?;
        let rows = picked.iter().map(Picked::rows).sum();
        let mut builder = Builder::<Row, _>::new(day, self.provenance(&sealing), draft).with_room_for(rows);
        let mut left = picked.as_slice();
        while !left.is_empty() {
            let (some, rest) = left.split_at(some_of(left));
            left = rest;
            let part = Contents::Readings { namespace: namespace.clone(), day, picked: some.to_vec() };
            let rows = self
                .shared
                .buffer
                .run(move |b| {
                    let mut rows = Vec::new();
                    b.each_row(&part, |row| rows.push(row)).map(|()| rows)
                })
                .await??;
            builder = self.push_all(builder, rows).await?;
        }
        let whole = groups.iter().any(|g| {
            (&g.namespace, g.table, g.day) == (namespace, Table::Readings, day)
                && builder.facts().is_some_and(|f| f.rows == g.rows)
        });
        let left = self
            .shared
            .buffer
            .run(|b| b.rows_to_seal())
            .await?
            .into_iter()
            .filter(|w| w.namespace == *namespace && !(whole && w.day == day))
            .filter_map(|w| w.owed_from)
            .min();
        let mark = self.shared.windows().watermark(namespace, Table::Readings);
        let watermark = mark.map(|mark| left.map_or(mark, |left| mark.min(left)));
        self.finish(namespace, day, sealing, builder, contents, watermark, now).await
    }

    /// Seals rows that are at hand; tells how many segments that made: none without rows.
    #[expect(clippy::too_many_arguments, reason = "one call per table, each argument a different thing")]
    async fn seal<R: TableRow + Send + 'static>(
        &self,
        namespace: &Namespace,
        day: Day,
        rows: Vec<R>,
        contents: Contents,
        seen: Option<Seen>,
        now: Timestamp,
        watermark: Option<Timestamp>,
    ) -> anyhow::Result<u64> {
        if rows.is_empty() {
            return Ok(0);
        }
        let (sealing, draft) = self.begin().await?;
        let mut builder =
            Builder::<R, _>::new(day, self.provenance(&sealing), draft).with_room_for(rows.len());
        if let Some(seen) = seen {
            builder = builder.with_seen(seen);
        }
        let watermark = watermark.or_else(|| self.shared.windows().watermark(namespace, R::TABLE));
        let builder = self.push_all(builder, rows).await?;
        self.finish(namespace, day, sealing, builder, contents, watermark, now).await?;
        Ok(1)
    }

    async fn begin(&self) -> anyhow::Result<(Sealing, Draft)> {
        let begin = |b: &mut Buffer| {
            let sealing = b.begin_seal()?;
            let draft = b.draft(&sealing)?;
            Ok::<_, BufferError>((sealing, draft))
        };
        Ok(self.shared.buffer.run(begin).await??)
    }

    fn provenance(&self, sealing: &Sealing) -> Provenance {
        Provenance {
            gateway: self.shared.config.gateway.clone(),
            epoch: sealing.epoch,
            number: sealing.number,
        }
    }

    /// Encoding is work for the processor: off the loop that talks to the broker.
    async fn push_all<R: TableRow + Send + 'static>(
        &self,
        mut builder: Builder<R, Draft>,
        rows: Vec<R>,
    ) -> anyhow::Result<Builder<R, Draft>> {
        let dictionary = Arc::clone(&self.shared.dictionary);
        offload(move || {
            let lookup = |key| dictionary.get(key);
            for row in rows {
                builder.push(row, &lookup)?;
            }
            Ok(builder)
        })
        .await
        .context("encoding ended early")?
    }

    #[expect(clippy::too_many_arguments, reason = "everything that a segment is made of")]
    async fn finish<R: TableRow + Send + 'static>(
        &self,
        namespace: &Namespace,
        day: Day,
        sealing: Sealing,
        builder: Builder<R, Draft>,
        contents: Contents,
        watermark: Option<Timestamp>,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let facts = builder.facts().ok_or_else(|| anyhow!("a segment without rows"))?;
        let mut counters = sealing.counters;
        if R::TABLE == Table::Readings {
            counters.readings.sealed += facts.rows;
        }
        let mut short: ShortStatus = status::short(&self.shared.status.borrow());
        short.at = now;
        let manifest = Manifest {
            version: FORMAT_VERSION,
            gateway: self.shared.config.gateway.clone(),
            epoch: sealing.epoch,
            number: sealing.number,
            previous: sealing.previous,
            namespace: namespace.clone(),
            table: R::TABLE,
            day,
            rows: facts.rows,
            min_seq: facts.seqs.map(|s| s.0),
            max_seq: facts.seqs.map(|s| s.1),
            min_ts: facts.min_ts,
            max_ts: facts.max_ts,
            watermark,
            void: sealing.void.clone(),
            outstanding: sealing.outstanding.clone(),
            closed: sealing.closed.clone(),
            counters,
            status: short,
        };
        let (manifest, draft) = offload(move || -> anyhow::Result<(Manifest, Draft)> {
            let draft = builder.finish(&manifest)?;
            Ok((manifest, draft))
        })
        .await
        .context("encoding ended early")??;
        let key: SegmentKey = manifest.key();
        let (epoch, number, size) = (sealing.epoch, sealing.number, draft.size());
        info!(segment = %key.file_name(), rows = facts.rows, bytes = size, "sealed");
        self.shared.buffer.run(move |b| b.finish_seal(&sealing, &key, draft, &manifest, &contents)).await??;
        self.shared.link().sealed(epoch, number, size, self.shared.now());
        Ok(())
    }
}

/// How many of the first batches are read at once: at least one.
fn some_of(picked: &[Picked]) -> usize {
    let mut rows = 0;
    let fits = |batch: &&Picked| {
        rows += batch.rows();
        rows <= ROWS_AT_ONCE
    };
    picked.iter().take_while(fits).count().max(1)
}

fn group_of<R: TableRow>(namespace: &Namespace, row: &R) -> (Namespace, Table, Day) {
    (namespace.clone(), R::TABLE, row.at().day())
}
