//! Which windows may close, and the plan to fold them by.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tributary_contract::time::Timestamp;

use super::{IDLE_WITHOUT_WINDOWS, Touched, Unit, Waiting, Windows};
use crate::window::decision::Seen;
use crate::window::plan::{DueWindow, Plan, PlanSeries};
use crate::window::watermark::Standing;

impl Windows {
    /// Which windows may close at `now` (processing time): at most as many as the bounds allow, but always all series of
    /// a device's window together; oldest first. `drained`: nothing more is known to wait at the brokers, so that
    /// silence of a device means that it is silent. Call again after [`Windows::applied`] until there is none.
    pub fn due(&mut self, now: Timestamp, drained: bool) -> Option<Plan> {
        self.due_of(u64::MAX, now, drained)
    }

    /// As [`Windows::due`], of windows that had readings to decide up to `through`. A caller who repeats it with the
    /// same bound comes to an end, however many late readings come meanwhile: each is due the next time.
    pub fn due_of(&mut self, through: u64, now: Timestamp, drained: bool) -> Option<Plan> {
        for device in &mut self.devices {
            let longest =
                self.definitions.iter().map(|d| d.window.idle).max().unwrap_or(IDLE_WITHOUT_WINDOWS);
            device.idle = drained && device.progress.is_idle(now, longest);
            for (closing, definition) in device.closings.iter_mut().zip(self.definitions.iter()) {
                closing.settle(now, definition.window.correction_horizon);
            }
        }
        let (devices, definitions) = (&self.devices, &self.definitions);
        self.frozen.retain(|unit, _| {
            let number = usize::from(unit.definition);
            let end = definitions.get(number).map(|d| d.grid.end_of(unit.start));
            let closing = devices.get(unit.device as usize).and_then(|d| d.closings.get(number));
            closing.zip(end).is_some_and(|(c, end)| c.standing(end) != Standing::Settled)
        });
        let due = self.oldest_first(now, drained, |_, waiting| waiting.first_seq <= through);
        self.plan_first(due.into_iter(), self.bounds.windows, now)
    }

    /// Whether as many windows may close at `now` as one plan holds: waiting for more of them would make no greater
    /// segment, and takes memory.
    pub fn fill_a_plan(&self, now: Timestamp, drained: bool) -> bool {
        let mut windows = 0;
        let due = |unit: &Unit, waiting: &Waiting| waiting.late || self.may_close(unit, now, drained);
        self.open >= self.bounds.windows
            && self.waiting.iter().filter(|(unit, waiting)| due(unit, waiting)).any(|(_, waiting)| {
                windows += waiting.touched.len();
                windows >= self.bounds.windows
            })
    }

    /// The open windows that need readings with event times in `[from, to]` and aren't frozen with all readings up to
    /// `through` (as [`Windows::through`] was before the first call): at most as many as the bounds allow. What is decided
    /// on them doesn't close them. Call again after [`Windows::applied`] until there is none.
    pub fn freeze(&self, from: Timestamp, to: Timestamp, through: u64, now: Timestamp) -> Option<Plan> {
        let needs = |unit: &Unit| {
            self.definitions.get(usize::from(unit.definition)).is_some_and(|definition| {
                let grid = &definition.grid;
                grid.lookback(unit.start) <= to && from < grid.end_of(unit.start)
            })
        };
        let is_fresh = |unit: &Unit, waiting: &Waiting| {
            self.frozen.get(unit).is_none_or(|frozen| {
                *frozen < through && waiting.touched.iter().any(|t| t.last_seq > *frozen)
            })
        };
        let due = self
            .waiting
            .iter()
            .filter(|(unit, waiting)| !waiting.late && needs(unit) && is_fresh(unit, waiting))
            .map(|(unit, waiting)| (*unit, waiting));
        let plan = self.plan_first(due, self.bounds.windows, now)?;
        // Nothing is settled by it: a restart finds what it would have found before.
        let before = Seen { frozen: true, ..plan.before };
        Some(Plan { seen: before, before, ..plan })
    }

    /// The windows that may close, or were closed and have late readings, of which that is `wanted`: oldest first.
    pub(super) fn oldest_first(
        &self,
        now: Timestamp,
        drained: bool,
        wanted: impl Fn(&Unit, &Waiting) -> bool,
    ) -> Vec<(Unit, &Waiting)> {
        let mut found: Vec<(Unit, &Waiting)> = self
            .waiting
            .iter()
            .filter(|(unit, waiting)| {
                (waiting.late || self.may_close(unit, now, drained)) && wanted(unit, waiting)
            })
            .map(|(unit, waiting)| (*unit, waiting))
            .collect();
        found.sort_unstable_by_key(|(unit, _)| (unit.start, *unit));
        found
    }

    /// A plan of the first of these windows: of no more than `most` of one series each, nor of more readings than the
    /// bounds allow, but always of all series of the first one.
    pub(super) fn plan_first<'a>(
        &self,
        due: impl Iterator<Item = (Unit, &'a Waiting)>,
        most: usize,
        now: Timestamp,
    ) -> Option<Plan> {
        let mut taken: Vec<(Unit, &Waiting)> = Vec::new();
        let (mut windows, mut readings) = (0usize, 0u64);
        for (unit, waiting) in due {
            windows += waiting.touched.len();
            readings += waiting.touched.iter().map(|t| self.expected(&unit, waiting, t)).sum::<u64>();
            if !taken.is_empty() && (windows > most || readings > self.bounds.readings) {
                break;
            }
            taken.push((unit, waiting));
        }
        (!taken.is_empty()).then(|| self.plan(&taken, now))
    }

    fn may_close(&self, unit: &Unit, now: Timestamp, drained: bool) -> bool {
        let (Some(definition), Some(device)) =
            (self.definitions.get(usize::from(unit.definition)), self.devices.get(unit.device as usize))
        else {
            return false;
        };
        let window = &definition.window;
        let end = definition.grid.end_of(unit.start);
        device.progress.watermark(window.lateness).is_some_and(|mark| mark >= end)
            || (drained && end <= now && device.progress.is_idle(now, window.idle))
    }

    /// Whether a window that ends no earlier has been closed.
    fn is_closed(&self, unit: &Unit) -> bool {
        let number = usize::from(unit.definition);
        let closing = self.devices.get(unit.device as usize).and_then(|device| device.closings.get(number));
        let end = self.definitions.get(number).map(|definition| definition.grid.end_of(unit.start));
        closing.zip(end).is_some_and(|(closing, end)| closing.standing(end) != Standing::Open)
    }

    fn expected(&self, unit: &Unit, waiting: &Waiting, touched: &Touched) -> u64 {
        let typical = self.typical.get(usize::from(unit.definition)).copied().unwrap_or(0);
        u64::from(touched.readings) + if waiting.late { typical } else { 0 }
    }

    fn plan(&self, due: &[(Unit, &Waiting)], now: Timestamp) -> Plan {
        let mut places: HashMap<u32, u32> = HashMap::new();
        let (mut series, mut windows) = (Vec::new(), Vec::new());
        for (unit, waiting) in due {
            let Some(definition) = self.definitions.get(usize::from(unit.definition)) else { continue };
            // What holds at the start of a window is looked for one length before it.
            let (from, end) = (definition.grid.lookback(unit.start), definition.grid.end_of(unit.start));
            for touched in &waiting.touched {
                let Some(known) = self.series.get(touched.series as usize) else { continue };
                let Some(device) = self.devices.get(known.device as usize) else { continue };
                let place = *places.entry(touched.series).or_insert_with(|| {
                    let place = series.len() as u32;
                    let (namespace, name) = (device.namespace.clone(), Arc::clone(&device.name));
                    series.push(PlanSeries { namespace, device: name, id: known.id });
                    place
                });
                windows.push(DueWindow {
                    definition: unit.definition,
                    series: place,
                    start: unit.start,
                    end,
                    from,
                    late: waiting.late,
                    frozen: self.frozen.contains_key(unit),
                });
            }
        }
        let planned: HashSet<Unit> = due.iter().map(|(unit, _)| *unit).collect();
        let mut closed_by_it: HashMap<(u16, u32), Timestamp> = HashMap::new();
        for (unit, _) in due {
            let last = closed_by_it.entry((unit.definition, unit.device)).or_insert(unit.start);
            *last = unit.start.max(*last);
        }
        let rest = || self.waiting.iter().filter(|(unit, _)| !planned.contains(*unit));
        // A window may be passed over while a later one of its device closes: after a restart its readings are late.
        let will_be_late = |unit: &Unit, waiting: &Waiting| {
            let passed =
                closed_by_it.get(&(unit.definition, unit.device)).is_some_and(|last| unit.start <= *last);
            waiting.late || passed || self.is_closed(unit)
        };
        let late_rest = rest().filter(|(unit, w)| will_be_late(unit, w)).map(|(_, w)| w.first_seq).min();
        let settled = late_rest.map_or(self.through, |seq| seq.saturating_sub(1)).max(self.settled);
        let open_from = rest().filter(|(_, w)| !w.late).map(|(unit, _)| unit.start).min();
        let all_open_from = self.waiting.iter().filter(|(_, w)| !w.late).map(|(unit, _)| unit.start).min();
        let (ordinal, through) = (self.ordinal, self.through);
        let seen = Seen { at: now, ordinal, through, settled, open_from, frozen: false };
        Plan {
            seen,
            before: Seen { settled: self.settled, open_from: all_open_from, ..seen },
            windows,
            series,
            definitions: Arc::clone(&self.definitions),
            without: Arc::clone(&self.without),
            // What was expected is a guess for windows that come again.
            most_held: self.bounds.readings.saturating_add(self.bounds.readings / 2),
            holes: self.holes,
        }
    }
}
