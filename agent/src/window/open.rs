//! Which windows have readings that no decision covers yet, and which of them may close now.
//!
//! Of a window only its name, a count and two seqs are held here, never a value: values are folded from the journal when
//! the window closes. Memory grows with the windows open at once: about a hundred bytes a device and window, 16 for each
//! further series, and a few hundred bytes a device. Of a series more windows than the limit allows aren't opened: its
//! readings are counted.

mod announce;
mod due;
mod keep;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;
use tributary_contract::id::Namespace;
use tributary_contract::series::SeriesId;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::decision::{Decided, DecisionKey, Seen};
use super::definition::Definition;
use super::emit::PassedOver;
use super::watermark::{Closing, Progress, Standing};
use super::{has_trusted_time, is_windowed_text, windowed_value};
use crate::buffer::row::{BatchSpan, Row, SeriesEntry};
use crate::config::{MINUTE, Window};

/// After which silence a device no longer holds the watermark back where no window says it, microseconds.
const IDLE_WITHOUT_WINDOWS: i64 = 5 * MINUTE;

/// How much one plan may hold, so that folding it takes bounded memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Windows of one series each.
    pub windows: usize,
    /// Readings in them: about 8 bytes each while they are folded.
    pub readings: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { windows: 8_000, readings: 600_000 }
    }
}

/// The open windows of all devices.
#[derive(Debug)]
pub struct Windows {
    definitions: Arc<[Definition]>,
    /// By definition, readings that a window had on average in the last plan: what a window of which only the late ones
    /// are known may hold.
    typical: Vec<u64>,
    bounds: Bounds,
    ordinal: u32,
    devices: Vec<Device>,
    device_numbers: HashMap<(Namespace, Arc<str>), u32>,
    series: Vec<Series>,
    series_numbers: HashMap<(Namespace, SeriesId), u32>,
    /// By dictionary key, which series it is and what it enters: what differs only in source or unit is one series.
    keys: Vec<Option<Key>>,
    /// Ordered by start within definition and device: windows of a device close in the order of time.
    waiting: BTreeMap<Unit, Waiting>,
    /// How many windows of one series each that is, and may be.
    open: usize,
    most: usize,
    /// Readings that entered no window because that many were open.
    refused: u64,
    /// Windows that were frozen and aren't closed, with the seq up to which their readings were looked at.
    frozen: BTreeMap<Unit, u64>,
    /// Up to which seq windows of one series were told that aren't sealed.
    announced: HashMap<(Unit, u32), u64>,
    through: u64,
    settled: u64,
    open_from: Option<Timestamp>,
    restored: bool,
    too_late: u64,
    without: Arc<BTreeSet<String>>,
    holes: Option<(Timestamp, Timestamp)>,
}

#[derive(Debug)]
struct Device {
    namespace: Namespace,
    name: Arc<str>,
    progress: Progress,
    idle: bool,
    closings: Vec<Closing>,
}

#[derive(Debug)]
struct Series {
    device: u32,
    id: SeriesId,
}

#[derive(Debug)]
struct Key {
    /// Place in `series`.
    series: u32,
    enters: SmallVec<[Enters; 4]>,
}

/// A definition that takes a series.
#[derive(Debug, Clone, Copy)]
struct Enters {
    /// Its number.
    definition: u16,
    /// Whether texts enter, too.
    texts: bool,
}

/// One window of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Unit {
    definition: u16,
    device: u32,
    start: Timestamp,
}

#[derive(Debug)]
struct Waiting {
    /// Least seq of the readings that no decision covers.
    first_seq: u64,
    /// Whether it was closed before the first of them came.
    late: bool,
    /// By series; most devices have one.
    touched: SmallVec<[Touched; 1]>,
}

#[derive(Debug, Clone, Copy)]
struct Touched {
    series: u32,
    readings: u32,
    last_seq: u64,
}

impl Windows {
    /// The windows of `definitions`, nothing known yet. `ordinal`: how many epochs the buffer had before this one; with
    /// a new epoch begin anew: [`Windows::new`], [`Windows::restore`], [`Windows::observe`].
    pub fn new(definitions: &[Window], ordinal: u32) -> Self {
        Self {
            definitions: Definition::all(definitions),
            typical: vec![0; definitions.len()],
            bounds: Bounds::default(),
            ordinal,
            devices: Vec::new(),
            device_numbers: HashMap::new(),
            series: Vec::new(),
            series_numbers: HashMap::new(),
            keys: Vec::new(),
            waiting: BTreeMap::new(),
            open: 0,
            most: usize::MAX,
            refused: 0,
            frozen: BTreeMap::new(),
            announced: HashMap::new(),
            through: 0,
            settled: 0,
            open_from: None,
            restored: false,
            too_late: 0,
            without: Arc::default(),
            holes: None,
        }
    }

    /// The same, where readings of these sources enter no window. They move watermarks as others do.
    #[must_use]
    pub fn without(mut self, sources: BTreeSet<String>) -> Self {
        self.without = Arc::new(sources);
        self
    }

    /// The same, where no more than `most` windows of one series each are open at once. What they would have held stays
    /// in `readings`, and is counted; a window that is open, or opens later, holds all of its readings.
    #[must_use]
    pub fn at_most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// The same with other bounds on a plan.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Goes on with what was read anew from the journal; what was counted since the start stays counted.
    pub fn replace(&mut self, again: Self) {
        let (too_late, refused) = (self.too_late.max(again.too_late), self.refused.max(again.refused));
        *self = Self { too_late, refused, ..again };
    }

    /// Takes back decisions of before a restart, in the order of their seals, before the first
    /// [`Windows::observe`].
    pub fn restore(&mut self, decided: &Decided) {
        if decided.seen.frozen {
            self.froze(decided);
        } else {
            self.close(decided);
        }
        if decided.seen.ordinal == self.ordinal {
            self.take_seen(&decided.seen);
        }
    }

    /// Whether the readings of a batch of this epoch must be observed at a restart, after all decisions were restored.
    /// Those of other epochs must always.
    pub fn must_observe_again(&self, batch: &BatchSpan) -> bool {
        let last = batch.first_seq.saturating_add(u64::from(batch.rows));
        let open = self.open_from.is_some_and(|from| batch.max_ts >= from);
        !self.definitions.is_empty()
            && (!self.restored
                || batch.epoch != self.ordinal
                || last > self.settled.saturating_add(1)
                || open)
    }

    /// Takes note of readings that are durable now, in the order of their seqs: after each commit, and at a restart for
    /// the batches that [`Windows::must_observe_again`]. A reading whose series the dictionary doesn't know is skipped.
    pub fn observe(
        &mut self,
        rows: &[Row],
        dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>,
        now: Timestamp,
    ) {
        let mut windows = Vec::new();
        for row in rows {
            self.through = self.through.max(row.seq);
            if !self.knows(row.series, dictionary) {
                continue;
            }
            let Some(Some(Key { series, enters })) = self.keys.get(row.series as usize) else { continue };
            let series = *series;
            let Some(device_number) = self.series.get(series as usize).map(|s| s.device) else { continue };
            let Some(device) = self.devices.get_mut(device_number as usize) else { continue };
            device.progress.saw(has_trusted_time(row).then_some(row.ts), row.received_at.min(now));
            device.idle = false;
            let is_text = is_windowed_text(row);
            if !is_text && windowed_value(row).is_none() {
                continue;
            }
            let (mut too_late, mut refused) = (false, false);
            for &Enters { definition: number, .. } in enters.iter().filter(|e| e.texts || !is_text) {
                let Some(definition) = self.definitions.get(usize::from(number)) else { continue };
                definition.grid.holding(row.ts, &mut windows);
                let closing = device.closings.get(usize::from(number));
                for &(start, end) in &windows {
                    let standing = closing.map_or(Standing::Open, |c| c.standing(end));
                    let late = standing != Standing::Open;
                    if late && self.restored && row.seq <= self.settled {
                        continue;
                    }
                    if standing == Standing::Settled {
                        too_late = true;
                        continue;
                    }
                    let unit = Unit { definition: number, device: device_number, start };
                    match touch(&mut self.waiting, unit, late, series, row.seq, self.open < self.most) {
                        Touch::Known => {}
                        Touch::Opened => self.open += 1,
                        Touch::Refused => refused = true,
                    }
                }
            }
            self.too_late += u64::from(too_late);
            self.refused += u64::from(refused);
        }
    }

    /// The wall clock stepped by `by` microseconds of processing time. No window moves: their times are event times.
    pub fn clock_stepped(&mut self, by: i64) {
        for device in &mut self.devices {
            device.progress.clock_stepped(by);
            device.closings.iter_mut().for_each(|closing| closing.clock_stepped(by));
        }
    }

    /// Readings that came too late for any correction of one of their windows, since the start.
    pub fn too_late(&self) -> u64 {
        self.too_late
    }

    /// Readings that entered not all of their windows since the start, because as many as may be were open.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether so many readings find room in all of their windows, whichever these are.
    pub fn has_room_for(&self, readings: usize) -> bool {
        // One more where a night in which clocks are turned may lie in it.
        let each = |d: &Definition| {
            let hops = usize::try_from(d.window.size / d.window.every.max(1)).unwrap_or(usize::MAX);
            hops.saturating_add(usize::from(d.window.zone.is_some()))
        };
        let windows = self.definitions.iter().map(each).fold(0, usize::saturating_add);
        self.open.saturating_add(windows.saturating_mul(readings)) <= self.most
    }

    /// How many windows of one series each wait to be closed or emitted again.
    pub fn waiting(&self) -> usize {
        self.open
    }

    /// The greatest sequence number observed.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// Takes note of decisions that are durable now.
    pub fn applied(&mut self, decided: &Decided) {
        if decided.seen.frozen {
            return self.froze(decided);
        }
        let mut counts: HashMap<u16, (u64, u64)> = HashMap::new();
        for decision in &decided.decisions {
            if let Some((unit, series)) = self.find(&decision.key()) {
                self.forget(unit, series, decided.seen.through);
                let (samples, windows) = counts.entry(unit.definition).or_default();
                *samples = samples.saturating_add(decision.samples);
                *windows += 1;
            }
        }
        for (definition, (samples, windows)) in counts {
            if let Some(typical) = self.typical.get_mut(usize::from(definition)) {
                *typical = samples.div_ceil(windows.max(1));
            }
        }
        self.close(decided);
        self.take_seen(&decided.seen);
    }

    /// Takes note of windows of a plan that gave no decision: nothing new in them, or their readings are gone.
    pub fn passed_over(&mut self, windows: &[PassedOver]) {
        for passed in windows {
            self.too_late = self.too_late.saturating_add(passed.too_late);
            if let Some((unit, series)) = self.find(&passed.key) {
                self.forget(unit, series, passed.through);
            }
        }
    }

    /// Up to which event time the devices of `namespace` have told what they will tell in time: the least over those
    /// that aren't idle; of `aggregates`, up to which all windows are emitted. If all are idle, the greatest. None while
    /// nothing is known, and for tables without a course of time.
    ///
    /// Of `readings` it speaks of what was received: what still waits to be sealed bounds it too.
    pub fn watermark(&self, namespace: &Namespace, table: Table) -> Option<Timestamp> {
        if !matches!(table, Table::Readings | Table::Aggregates) {
            return None;
        }
        let lateness = self.definitions.iter().map(|d| d.window.lateness).max().unwrap_or(0);
        let own = |d: &&(u32, &Device)| d.1.namespace == *namespace;
        let numbered: Vec<(u32, &Device)> = (0..).zip(&self.devices).collect();
        let marks = numbered.iter().filter(own).filter_map(|&(number, device)| {
            let mark = match table {
                Table::Aggregates => self.complete_until(number, device),
                _ => device.progress.watermark(lateness),
            };
            mark.map(|mark| (device.idle, mark))
        });
        let (idle, live): (Vec<_>, Vec<_>) = marks.partition(|(idle, _)| *idle);
        let live = live.into_iter().map(|(_, mark)| mark).min();
        live.or_else(|| idle.into_iter().map(|(_, mark)| mark).max())
    }

    fn complete_until(&self, number: u32, device: &Device) -> Option<Timestamp> {
        let marks = self.definitions.iter().enumerate().map(|(n, definition)| {
            let passed = device.progress.watermark(definition.window.lateness);
            let closed = device.closings.get(n).and_then(Closing::until);
            let first = Unit { definition: n as u16, device: number, start: Timestamp(i64::MIN) };
            let last = Unit { start: Timestamp(i64::MAX), ..first };
            let waiting = self.waiting.range(first..=last).next().map(|(unit, _)| unit.start);
            let known = definition.grid.open_from(passed.max(closed)?);
            Some(waiting.map_or(known, |start| known.min(start)))
        });
        marks.collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// Takes note of windows that were emitted as far as they are, and stay open.
    fn froze(&mut self, decided: &Decided) {
        let own = decided.seen.ordinal == self.ordinal;
        for d in &decided.decisions {
            let Some(number) = self.number_of(&d.window) else { continue };
            let device = self.device_of(&d.namespace, &d.device);
            let unit = Unit { definition: number as u16, device, start: d.start };
            // Seqs of another epoch say nothing of this one's.
            self.frozen.insert(unit, if own { decided.seen.through } else { 0 });
        }
        if own {
            self.take_seen(&decided.seen);
        }
    }

    fn take_seen(&mut self, seen: &Seen) {
        self.through = self.through.max(seen.through);
        self.settled = seen.settled;
        self.open_from = seen.open_from;
        self.restored = true;
    }

    /// Moves each device's closings on. Oldest first, so that a device's least start is right from the first.
    fn close(&mut self, decided: &Decided) {
        let mut last: Option<(&Arc<str>, &Namespace, &Arc<str>, Timestamp)> = None;
        for d in &decided.decisions {
            if last == Some((&d.window, &d.namespace, &d.device, d.end)) {
                continue;
            }
            last = Some((&d.window, &d.namespace, &d.device, d.end));
            let Some(number) = self.number_of(&d.window) else { continue };
            let device = self.device_of(&d.namespace, &d.device);
            self.frozen.remove(&Unit { definition: number as u16, device, start: d.start });
            let horizon = self.definitions.get(number).map_or(0, |def| def.window.correction_horizon);
            if let Some(closing) =
                self.devices.get_mut(device as usize).and_then(|dev| dev.closings.get_mut(number))
            {
                closing.close(d.start, d.end, decided.seen.at, horizon);
            }
        }
    }

    /// Which of the definitions bears that name.
    fn number_of(&self, window: &str) -> Option<usize> {
        self.definitions.iter().position(|known| *known.name == *window)
    }

    fn find(&self, key: &DecisionKey) -> Option<(Unit, u32)> {
        let definition = self.number_of(&key.window)?;
        let number = *self.series_numbers.get(&(key.namespace.clone(), key.series))?;
        let device = self.series.get(number as usize)?.device;
        Some((Unit { definition: definition as u16, device, start: key.start }, number))
    }

    fn forget(&mut self, unit: Unit, series: u32, through: u64) {
        let Some(waiting) = self.waiting.get_mut(&unit) else { return };
        if let Ok(at) = waiting.touched.binary_search_by_key(&series, |t| t.series)
            && let Some(touched) = waiting.touched.get_mut(at)
        {
            if touched.last_seq <= through {
                waiting.touched.remove(at);
                self.open = self.open.saturating_sub(1);
            } else {
                // Some came after the plan was made: they are late now.
                touched.readings = 1;
            }
        }
        if waiting.touched.is_empty() {
            self.waiting.remove(&unit);
        } else if waiting.touched.iter().all(|t| t.last_seq > through) {
            waiting.first_seq = waiting.first_seq.max(through.saturating_add(1));
            waiting.late = true;
        }
    }

    fn device_of(&mut self, namespace: &Namespace, name: &str) -> u32 {
        let name: Arc<str> = Arc::from(name);
        let (devices, definitions) = (&mut self.devices, self.definitions.len());
        *self.device_numbers.entry((namespace.clone(), Arc::clone(&name))).or_insert_with(|| {
            devices.push(Device {
                namespace: namespace.clone(),
                name,
                progress: Progress::default(),
                idle: false,
                closings: vec![Closing::default(); definitions],
            });
            (devices.len() - 1) as u32
        })
    }

    /// Makes sure that it is known which series a dictionary key is of; false where the dictionary doesn't know it.
    fn knows(&mut self, key: u32, dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>) -> bool {
        let place = key as usize;
        if self.keys.get(place).is_some_and(Option::is_some) {
            return true;
        }
        let Some(entry) = dictionary(key) else { return false };
        let takes = |d: &Definition| !self.without.contains(&entry.source) && entry.is_of(&d.window.of);
        let enters = (0..).zip(self.definitions.iter()).filter(|(_, d)| takes(d)).map(|(definition, d)| {
            Enters { definition, texts: !d.functions_of_texts(&entry.metric).is_empty() }
        });
        let enters: SmallVec<[Enters; 4]> = enters.collect();
        let device = self.device_of(&entry.namespace, &entry.device);
        let known = &mut self.series;
        let series = *self.series_numbers.entry((entry.namespace.clone(), entry.id)).or_insert_with(|| {
            known.push(Series { device, id: entry.id });
            (known.len() - 1) as u32
        });
        if self.keys.len() <= place {
            self.keys.resize_with(place + 1, || None);
        }
        if let Some(slot) = self.keys.get_mut(place) {
            *slot = Some(Key { series, enters });
        }
        true
    }
}

enum Touch {
    Known,
    Opened,
    Refused,
}

/// Takes note of a reading in a window of its series, which is opened only if one more `may_open`.
fn touch(
    waiting: &mut BTreeMap<Unit, Waiting>,
    unit: Unit,
    late: bool,
    series: u32,
    seq: u64,
    may_open: bool,
) -> Touch {
    let place = |w: &Waiting| w.touched.binary_search_by_key(&series, |t| t.series);
    if !may_open && waiting.get(&unit).is_none_or(|w| place(w).is_err()) {
        return Touch::Refused;
    }
    let new = || Waiting { first_seq: seq, late, touched: SmallVec::new() };
    let window = waiting.entry(unit).or_insert_with(new);
    window.first_seq = window.first_seq.min(seq);
    match place(window) {
        Ok(at) => {
            if let Some(touched) = window.touched.get_mut(at) {
                touched.readings = touched.readings.saturating_add(1);
                touched.last_seq = touched.last_seq.max(seq);
            }
            Touch::Known
        }
        Err(at) => {
            window.touched.insert(at, Touched { series, readings: 1, last_seq: seq });
            Touch::Opened
        }
    }
}
