//! Makes room in a full buffer: what the lake has goes first, then raw readings for which aggregates stand, by priority
//! and age, then other raw readings, then aggregates. Each goes in the transaction of its gap.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{debug, warn};
use tributary_contract::time::Timestamp;

use super::report::free_bytes;
use super::sealing::Sealer;
use super::shared::Shared;
use super::{in_flight, uploading};
use crate::buffer::quota::{self, Limits, Sizes, Verdict};
use crate::buffer::{Buffer, BufferError, Cut, Dictionary, Fate, GivenUp, Recall, Row, Waits};
use crate::config::{Config, MINUTE, PRIORITY, Upload};
use crate::window::needed::Retention;
use crate::window::represent::Represented;
use crate::window::{Decided, Windows};

/// Batches deleted in one transaction.
const TRIM_AT_ONCE: usize = 256;
/// Readings that are held in memory at once while it is decided what becomes of them.
const READINGS_AT_ONCE: usize = 50_000;
/// Batches that one look considers.
const BATCHES_AT_ONCE: usize = 512;
/// Batches whose readings expire in one transaction.
const EXPIRED_AT_ONCE: usize = 64;
/// How often it is looked for readings that have been kept as long as was asked, microseconds.
const EXPIRE_EVERY: i64 = 10 * MINUTE;
/// How long the status says that readings were shed, after the last one was, microseconds.
const SAID_FOR: i64 = 10 * MINUTE;

/// What may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    /// Only batches for each reading of which an aggregate stands.
    Represented,
    /// Every batch that no open window needs.
    Closed,
    /// Everything; what is emitted of open windows is partial then.
    Everything,
}

/// The setting that keeps from when to when readings of open windows were shed.
const HOLES: &str = "shed-while-open";

/// What is asked on the buffer's thread, which must not hold on to that thread itself.
#[derive(Clone)]
struct Views {
    config: Arc<Config>,
    dictionary: Arc<Dictionary>,
    windows: Arc<Mutex<Windows>>,
}

impl Sealer {
    /// Makes room if there is too little; tells what there is now.
    ///
    /// # Errors
    /// The buffer's.
    pub(super) async fn make_room(&mut self, now: Timestamp) -> anyhow::Result<Verdict> {
        self.make_room_by(
            &[
                (false, Taking::Represented),
                (true, Taking::Represented),
                (false, Taking::Closed),
                (false, Taking::Everything),
            ],
            now,
        )
        .await
    }

    /// The disk has no room even for a segment. The ballast makes some for the next pass; without one, room is made in
    /// the database alone, so that intake may go on. No window can be frozen then.
    ///
    /// # Errors
    /// The buffer's.
    pub(super) async fn without_room(&mut self, why: &str, now: Timestamp) -> anyhow::Result<()> {
        if self.shared.give_up_ballast(now).await {
            return Ok(());
        }
        let text = format!("no segment can be written: {why}");
        let before = self.shared.live().notices.insert("room", text);
        if before.is_none() {
            warn!("no segment can be written: {why}");
        }
        let steps = [Taking::Represented, Taking::Closed, Taking::Everything];
        self.make_room_by(&steps.map(|taking| (false, taking)), now).await?;
        Ok(())
    }

    /// Makes room in so many steps, each only if those before it didn't do. The first of each pair says whether windows
    /// are frozen for it, which takes segments.
    async fn make_room_by(&mut self, steps: &[(bool, Taking)], now: Timestamp) -> anyhow::Result<Verdict> {
        let resting = self.shared.live().intake_stopped.is_some();
        let (_, mut verdict) = verdict(&self.shared, resting).await?;
        if verdict.journal > 0 {
            self.trim_all_but_open().await?;
            verdict = self::verdict(&self.shared, resting).await?.1;
        }
        let mut total = GivenUp::default();
        for &(freeze, taking) in steps {
            // What open windows need goes only where intake would rest otherwise.
            let due = taking != Taking::Everything || verdict.stop.is_some();
            if verdict.journal > 0 && due {
                if freeze {
                    self.freeze(verdict.journal, now).await?;
                }
                total += self.take(taking, verdict.journal, now).await?;
                verdict = self::verdict(&self.shared, resting).await?.1;
            }
        }
        self.tell(total, now);
        Ok(verdict)
    }

    /// Lets readings go that were never to be sent, once they have been kept for as long as was asked and no window can
    /// need them any more.
    ///
    /// # Errors
    /// The buffer's.
    pub(super) async fn expire(&mut self, now: Timestamp) -> anyhow::Result<()> {
        let recent = self.expired_at.is_some_and(|at| (0..EXPIRE_EVERY).contains(&now.since(at)));
        // By a clock that is wrong, everything may seem old.
        if recent || !self.shared.live().clock_synced {
            return Ok(());
        }
        self.expired_at = Some(now);
        let before = now.plus(-self.shared.config.buffer.retain);
        let retention = Arc::new(self.shared.windows().retention());
        let recall = recall(&self.shared.config, now);
        let old = self.shared.buffer.run(move |b| b.kept_before(before, usize::MAX)).await?;
        for some in old.chunks(BATCHES_AT_ONCE) {
            let (some, retention, views) = (some.to_vec(), Arc::clone(&retention), self.views());
            let given_up = self.shared.buffer.run(move |b| expire(b, &views, &some, &retention, recall, now));
            let GivenUp { expired, summarised, .. } = given_up.await??;
            debug!(expired, summarised, "readings were kept as long as was asked");
        }
        Ok(())
    }

    /// Drops batches that the lake has, also where a window might still be corrected from them.
    async fn trim_all_but_open(&self) -> anyhow::Result<()> {
        let needed = Arc::new(self.shared.windows().needed_now());
        let in_flight = in_flight(&self.shared.config);
        loop {
            let needed = Arc::clone(&needed);
            let trimmed = self
                .shared
                .buffer
                .run(move |b| {
                    let floor = b.memory_floor(in_flight)?;
                    b.trim(TRIM_AT_ONCE, &|span| needed.needs(span) || span.id >= floor)
                })
                .await??;
            if trimmed < TRIM_AT_ONCE as u64 {
                return Ok(());
            }
        }
    }

    /// Gives up about `goal` bytes of what may be taken, the least priority first, of it the oldest.
    async fn take(&self, taking: Taking, goal: u64, now: Timestamp) -> anyhow::Result<GivenUp> {
        let order = self.first_to_go().await?;
        let mut order: &[i64] = &order;
        let mut total = GivenUp::default();
        while !order.is_empty() && total.bytes < goal {
            let some: Vec<i64> = order.iter().take(BATCHES_AT_ONCE).copied().collect();
            let needed = self.shared.windows().needed_now();
            let views = self.views();
            let left = goal - total.bytes;
            let (seen, given_up) = self
                .shared
                .buffer
                .run(move |b| {
                    let take = |waits: &Waits, stands: &Represented| {
                        let may = taking == Taking::Everything || !needed.needs(&waits.span);
                        may.then(|| fates(waits, stands, taking)).flatten()
                    };
                    give_up(b, &views, &some, left, now, taking, &take)
                })
                .await??;
            total += given_up;
            order = order.get(seen.max(1)..).unwrap_or_default();
        }
        Ok(total)
    }

    /// Freezes the open windows that need the next `goal` bytes that are to go.
    async fn freeze(&self, goal: u64, now: Timestamp) -> anyhow::Result<()> {
        let order = self.first_to_go().await?;
        let reach = self.shared.buffer.run(move |b| b.reach(&order, goal)).await??;
        let Some((from, to)) = reach else { return Ok(()) };
        let through = self.shared.windows().through();
        loop {
            let plan = self.shared.windows().freeze(from, to, through, now);
            let Some(plan) = plan else { return Ok(()) };
            debug!(windows = plan.windows.len(), "freezing windows whose readings must go");
            if self.emit(plan, now).await? == 0 {
                return Ok(());
            }
        }
    }

    fn views(&self) -> Views {
        Views {
            config: Arc::clone(&self.shared.config),
            dictionary: Arc::clone(&self.shared.dictionary),
            windows: self.shared.window_stage(),
        }
    }

    async fn first_to_go(&self) -> anyhow::Result<Vec<i64>> {
        let sources: Vec<(String, u8)> =
            self.shared.config.sources.iter().map(|s| (s.name.clone(), s.priority)).collect();
        // A source that the configuration no longer has counts as one that names none.
        let priority = move |name: &str| {
            sources.iter().find(|(source, _)| source == name).map_or(PRIORITY, |(_, priority)| *priority)
        };
        Ok(self.shared.buffer.run(move |b| b.first_to_go(&priority)).await?)
    }

    /// Says in log and status what was given up.
    fn tell(&mut self, total: GivenUp, now: Timestamp) {
        let mut live = self.shared.live();
        if total.summarised > 0 {
            debug!(readings = total.summarised, bytes = total.bytes, "thinned to their aggregates");
        }
        if total.shed > 0 {
            warn!(readings = total.shed, "shed: the buffer is full, and nothing stands for them");
            self.shed_at = Some(now);
        }
        if total.summarised + total.shed > 0 {
            self.thinned_at = Some(now);
        }
        let recent = |at: Option<Timestamp>| at.is_some_and(|at| (0..SAID_FOR).contains(&now.since(at)));
        if recent(self.thinned_at) {
            let why =
                "the buffer is full: raw readings are thinned to their aggregates, the least priority first";
            live.notices.insert("thinning", why.into());
        } else {
            live.notices.remove("thinning");
        }
        live.shedding = recent(self.shed_at)
            .then(|| "the buffer is full: readings are shed for which no aggregate stands".to_owned());
    }
}

/// What becomes of a batch; none if it stays.
fn fates(waits: &Waits, stands: &Represented, taking: Taking) -> Option<Cut> {
    let fate = |row| if stands.has(row) { Fate::Summarised } else { Fate::Shed };
    let fates: Vec<Fate> = waits.rows.iter().map(fate).collect();
    let may = match taking {
        Taking::Represented => fates.iter().all(|f| *f == Fate::Summarised),
        Taking::Closed | Taking::Everything => true,
    };
    may.then_some(Cut { batch: waits.span.id, fates })
}

/// Looks at batches in their order until enough of them can go, and gives these up; tells how many it looked at.
fn give_up(
    buffer: &mut Buffer,
    views: &Views,
    batches: &[i64],
    goal: u64,
    now: Timestamp,
    taking: Taking,
    take: &dyn Fn(&Waits, &Represented) -> Option<Cut>,
) -> anyhow::Result<(usize, GivenUp)> {
    let (mut seen, mut readings, mut bytes) = (0, 0, 0);
    let mut all: Vec<Waits> = Vec::new();
    for batch in batches {
        if readings >= READINGS_AT_ONCE || bytes >= goal {
            break;
        }
        seen += 1;
        if let Some(waits) = buffer.waits(*batch)? {
            readings += waits.rows.len();
            bytes += waits.bytes;
            all.push(waits);
        }
    }
    let stands = representation(buffer, views, &all)?;
    let cuts: Vec<Cut> = all.iter().filter_map(|waits| take(waits, &stands)).collect();
    if cuts.is_empty() {
        return Ok((seen, GivenUp::default()));
    }
    if taking == Taking::Everything {
        note_holes(buffer, views, &all, &cuts)?;
    }
    Ok((seen, buffer.give_up(&cuts, recall(&views.config, now), now)?))
}

/// Notes, before it happens, between which times open windows lose readings that nothing stands for.
fn note_holes(buffer: &mut Buffer, views: &Views, all: &[Waits], cuts: &[Cut]) -> anyhow::Result<()> {
    let of = |cut: &Cut| all.iter().find(|waits| waits.span.id == cut.batch).map(|waits| &waits.rows);
    let rows = cuts.iter().filter_map(|cut| Some(of(cut)?.iter().zip(&cut.fates))).flatten();
    let times = || rows.clone().filter(|(_, fate)| **fate == Fate::Shed).map(|(row, _)| row.ts);
    let Some((from, to)) = times().min().zip(times().max()) else { return Ok(()) };
    let mut windows = views.windows.lock().unwrap_or_else(PoisonError::into_inner);
    let holes = windows.holes_with(from, to);
    buffer.set_setting(HOLES, &[holes.0.0.to_le_bytes(), holes.1.0.to_le_bytes()].concat())?;
    windows.hollow(holes);
    Ok(())
}

/// What [`Windows::hollow`] was told in an earlier life.
pub(super) fn known_holes(buffer: &mut Buffer) -> Result<Option<(Timestamp, Timestamp)>, BufferError> {
    let kept = buffer.setting(HOLES)?;
    let read = |bytes: Vec<u8>| {
        let (from, to) = bytes.split_first_chunk::<8>()?;
        Some((Timestamp(i64::from_le_bytes(*from)), Timestamp(i64::from_le_bytes(to.try_into().ok()?))))
    };
    Ok(kept.and_then(read))
}

/// Gives up those of `batches` that no window needs, at the end of their time. For what lay in a deadband the aggregates
/// stand that its windows have made by then.
fn expire(
    buffer: &mut Buffer,
    views: &Views,
    batches: &[i64],
    retention: &Retention,
    recall: Recall,
    now: Timestamp,
) -> anyhow::Result<GivenUp> {
    let without = uploading(&views.config, Upload::Readings);
    let stands = |row: &Row| {
        let entry = views.dictionary.get(row.series).filter(|entry| !without.contains(&entry.source));
        row.kept_back && entry.is_some_and(|e| views.config.windows.iter().any(|w| e.is_of(&w.of)))
    };
    let fate = |row: &Row| if stands(row) { Fate::Summarised } else { Fate::Expired };
    let mut total = GivenUp::default();
    for some in batches.chunks(EXPIRED_AT_ONCE) {
        let mut cuts = Vec::new();
        for batch in some {
            if let Some(waits) = buffer.waits(*batch)?.filter(|waits| !retention.needs(&waits.span)) {
                cuts.push(Cut { batch: *batch, fates: waits.rows.iter().map(fate).collect() });
            }
        }
        if !cuts.is_empty() {
            total += buffer.give_up(&cuts, recall, now)?;
        }
    }
    Ok(total)
}

/// Which redelivered messages are still to be known.
fn recall(config: &Config, now: Timestamp) -> Recall {
    let since = now.plus(-config.buffer.dedupe_window);
    Recall { since, readings: config.buffer.dedupe_messages as u64, in_flight: in_flight(config) }
}

/// For which readings of `all` an aggregate stands.
fn representation(buffer: &mut Buffer, views: &Views, all: &[Waits]) -> anyhow::Result<Represented> {
    let without = uploading(&views.config, Upload::Readings);
    let mut stands = Represented::new(&views.config.windows, buffer.ordinal());
    for row in all.iter().flat_map(|waits| &waits.rows) {
        if let Some(entry) = views.dictionary.get(row.series).filter(|e| !without.contains(&e.source)) {
            stands.ask(row, &entry);
        }
    }
    let earliest = all.iter().map(|waits| waits.span.min_ts).min();
    if let Some(earliest) = earliest.filter(|_| !stands.is_empty()) {
        buffer.each_decision(earliest, |bytes| {
            // What can't be read stands for nothing.
            if let Ok(decided) = Decided::decode(bytes) {
                stands.take(&decided);
            }
        })?;
    }
    Ok(stands)
}

/// How full the buffer is now, and what follows.
///
/// # Errors
/// The buffer's.
pub(super) async fn verdict(shared: &Shared, resting: bool) -> anyhow::Result<(Sizes, Verdict)> {
    let mut sizes = shared.buffer.run(|b| b.sizes()).await??;
    sizes.disk_free = free_bytes(&shared.config.state_dir);
    let config = &shared.config;
    let limits = Limits {
        max_bytes: config.buffer.max_bytes,
        min_free: config.buffer.min_free,
        windows: !config.windows.is_empty(),
        segment: config.segment.max_bytes,
    };
    Ok((sizes, quota::judge(&sizes, &limits, resting)))
}
