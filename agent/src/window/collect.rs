//! Collects the readings of a plan's windows from a scan of the journal.
//!
//! Readings of one series mostly come in the order of time. Windows that are closed for the first time take them so, one by
//! one, straight into their fold: of a reading nothing stays but its value, for the percentiles. What can't be taken so is
//! held, 24 bytes a reading, put in order and folded then: windows that are emitted again, for the sake of what an earlier
//! decision had seen, and those of which a reading came out of turn. Where more would be held than the plan allows, that
//! happens stretch by stretch.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tributary_contract::id::Namespace;
use tributary_contract::quality::Quality;
use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use super::decision::{DecisionKey, Prior};
use super::fold::{Fold, Sample, put_in_order};
use super::merge::{Part, merge};
use super::needed::merged;
use super::plan::{DueWindow, Plan};
use super::{has_trusted_time, has_trusted_value};
use crate::buffer::row::{Row, SeriesEntry};
use crate::config::Functions;
use crate::reading::Value;

/// Values of each window that are held for exact percentiles, at least, where not all readings can be.
const LEAST_EXACT: u64 = 512;

/// The readings of a plan's windows, folded or held.
#[derive(Debug)]
pub(super) struct Collector {
    pub plan: Plan,
    pub slots: Vec<Slot>,
    /// Whether rows are taken for the windows that take them one by one, or for the others.
    in_turn: bool,
    /// Of which event times rows are taken now.
    stretch: (Timestamp, Timestamp),
    /// Readings of which at least the value is held, and may be.
    held: u64,
    most: u64,
    /// Values of one window that may be held while it takes its readings one by one.
    each: usize,
    /// By series, definition and start.
    places: Vec<Place>,
    /// Where in `places` those of a series and definition lie: of each series of the plan as many as there are definitions.
    of_series: Vec<Range<u32>>,
    /// Place in the plan's series by name …
    series: HashMap<(Namespace, SeriesId), u32>,
    /// … and by dictionary key, as far as was asked.
    keys: Vec<Key>,
    /// Of each key in the plan, by definition: what is filled in; none where it takes no readings of this key.
    takes: Vec<Option<Takes>>,
    texts: Texts,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    start: Timestamp,
    end: Timestamp,
    from: Timestamp,
    slot: u32,
}

/// What is known of a dictionary key.
#[derive(Debug, Clone, Copy)]
enum Key {
    Unasked,
    /// Its series isn't in the plan.
    Elsewhere,
    /// Place of its series in the plan, and of its first in `takes`.
    Here {
        series: u32,
        takes: u32,
    },
}

#[derive(Debug, Clone, Copy)]
struct Takes {
    numbers: Functions,
    texts: Functions,
}

/// What a row of `aggregates` is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Numbers,
    Texts,
}

/// What is known of one window of a plan.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub numbers: Readings,
    /// By the numbers that stand for them.
    pub texts: Option<Box<Readings>>,
    pub doubts: Quality,
    way: Way,
}

/// How a window takes its readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Way {
    /// One by one, in the order of time.
    InTurn,
    /// So until one came out of turn.
    Disturbed,
    /// Held, then put in order.
    #[default]
    Held,
}

impl Slot {
    pub(super) fn of(&mut self, kind: Kind) -> &mut Readings {
        match kind {
            Kind::Numbers => &mut self.numbers,
            Kind::Texts => self.texts.get_or_insert_default(),
        }
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Readings> {
        std::iter::once(&mut self.numbers).chain(self.texts.as_deref_mut())
    }
}

/// Readings of one window and kind.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// Those that are held.
    samples: Vec<Sample>,
    /// What those before them came to.
    pub folding: Option<Box<Folding>>,
    /// The last believed reading of the window's length before its start.
    before: Option<(Timestamp, u64, f64)>,
    /// Time, seq and dictionary key of the latest reading.
    pub latest: Option<(Timestamp, u64, u32)>,
}

/// Readings of one window, folded as far as they were scanned.
#[derive(Debug)]
pub(super) struct Folding {
    pub fold: Fold,
    /// How many of them an earlier decision of this epoch had seen.
    known: u64,
    /// The part that it kept, carried on with the others.
    pub merged: Option<Part>,
}

/// How many readings of one kind a window has, and how many of them an earlier decision of this epoch had seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub all: u64,
    pub known: u64,
}

impl Readings {
    /// Takes the next reading of the window; false if it isn't the next, by time and seq.
    fn take_next(&mut self, sample: &Sample, key: u32, place: &Place, exact: usize) -> bool {
        if self.latest.is_some_and(|(ts, seq, _)| (sample.ts, sample.seq) <= (ts, seq)) {
            return false;
        }
        self.latest = Some((sample.ts, sample.seq, key));
        let carried = self.before.map(|(_, _, value)| value);
        let begin = || {
            let fold = Fold::new(carried, place.start, place.end, exact);
            Box::new(Folding { fold, known: 0, merged: None })
        };
        self.folding.get_or_insert_with(begin).fold.push(sample);
        true
    }

    /// Takes note of a reading before the window's start; false if it would have to be known earlier.
    fn take_before(&mut self, ts: Timestamp, seq: u64, value: f64) -> bool {
        if self.before.is_none_or(|(known, of, _)| (known, of) < (ts, seq)) {
            self.before = Some((ts, seq, value));
            return self.folding.is_none();
        }
        true
    }

    /// Folds what is held, and lets go of it. Everything before it must have been folded.
    pub(super) fn fold(
        &mut self,
        window: &DueWindow,
        ordinal: u32,
        prior: Option<&Prior>,
        exact: usize,
    ) -> &mut Folding {
        put_in_order(&mut self.samples);
        let samples = std::mem::take(&mut self.samples);
        let prior = prior.filter(|prior| prior.ordinal == ordinal);
        let carried = self.before.map(|(_, _, value)| value);
        let folding = self.folding.get_or_insert_with(|| {
            let fold = Fold::new(carried, window.start, window.end, exact).with_room_for(samples.len());
            let merged = prior.and_then(|prior| prior.part.as_deref().cloned());
            Box::new(Folding { fold, known: 0, merged })
        });
        samples.iter().for_each(|s| folding.fold.push(s));
        if let Some(prior) = prior {
            folding.known += samples.iter().filter(|s| s.seq <= prior.through).count() as u64;
            if let Some(part) = &folding.merged {
                let more: Vec<Sample> = samples.into_iter().filter(|s| s.seq > prior.through).collect();
                folding.merged = Some(Part::of(&merge(part, &more, window.start, window.end)));
            }
        }
        folding
    }

    pub(super) fn counts(&self) -> Counts {
        let of = |folding: &Folding| Counts { all: folding.fold.samples(), known: folding.known };
        self.folding.as_deref().map(of).unwrap_or_default()
    }
}

/// Texts, each with the number that stands for it while windows are folded.
#[derive(Debug, Default)]
struct Texts {
    numbers: HashMap<Arc<str>, u32>,
    all: Vec<Arc<str>>,
}

impl Texts {
    fn number_of(&mut self, text: &str) -> f64 {
        if let Some(number) = self.numbers.get(text) {
            return f64::from(*number);
        }
        let (number, text): (u32, Arc<str>) = (self.all.len() as u32, text.into());
        self.numbers.insert(Arc::clone(&text), number);
        self.all.push(text);
        f64::from(number)
    }
}

impl Collector {
    /// Nothing collected yet.
    pub(super) fn new(plan: Plan) -> Self {
        let whose = |w: &DueWindow| w.series as usize * plan.definitions.len() + usize::from(w.definition);
        let mut order: Vec<u32> = (0..plan.windows.len() as u32).collect();
        order.sort_unstable_by_key(|slot| plan.windows.get(*slot as usize).map(|w| (whose(w), w.start)));
        let mut places = Vec::with_capacity(order.len());
        let mut of_series = vec![0..0; plan.series.len() * plan.definitions.len()];
        for slot in order {
            let Some(w) = plan.windows.get(slot as usize) else { continue };
            let at = places.len() as u32;
            places.push(Place { start: w.start, end: w.end, from: w.from, slot });
            if let Some(range) = of_series.get_mut(whose(w)) {
                *range = if range.start == range.end { at..at + 1 } else { range.start..at + 1 };
            }
        }
        let way = |w: &DueWindow| if w.late || w.frozen { Way::Held } else { Way::InTurn };
        let slots = plan.windows.iter().map(|w| Slot { way: way(w), ..Slot::default() }).collect();
        let named = (0..).zip(&plan.series).map(|(i, s)| ((s.namespace.clone(), s.id), i));
        Self {
            slots,
            in_turn: true,
            stretch: (Timestamp(i64::MIN), Timestamp(i64::MAX)),
            held: 0,
            most: plan.most_held,
            each: usize::MAX,
            places,
            of_series,
            series: named.collect(),
            keys: Vec::new(),
            takes: Vec::new(),
            texts: Texts::default(),
            plan,
        }
    }

    /// How many values of a window may be held where not all can be.
    pub(super) fn exact(&self) -> usize {
        let each = self.plan.most_held / (self.plan.windows.len() as u64).max(1);
        usize::try_from(each.max(LEAST_EXACT)).unwrap_or(usize::MAX)
    }

    /// Which statistics are filled in of a window of that definition whose latest reading has that dictionary key.
    pub(super) fn functions(&self, definition: u16, key: u32, kind: Kind) -> Option<Functions> {
        let Key::Here { takes: first, .. } = self.keys.get(key as usize)? else { return None };
        let takes = self.takes.get(*first as usize + usize::from(definition)).copied().flatten()?;
        Some(if kind == Kind::Numbers { takes.numbers } else { takes.texts })
    }

    /// The text for which a number stands.
    pub(super) fn text_of(&self, number: f64) -> Option<Arc<str>> {
        self.texts.all.get(number as usize).cloned()
    }

    /// As [`super::emit::Emitter::collect`].
    pub(super) fn collect<E>(
        &mut self,
        prior: &dyn Fn(&DecisionKey) -> Option<Prior>,
        dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>,
        mut scan: impl FnMut(Timestamp, Timestamp, &mut dyn FnMut(&Row)) -> Result<(), E>,
    ) -> Result<(), E> {
        for (from, to) in self.stretches_of(Way::InTurn) {
            self.stretch = (from, to);
            scan(from, to, &mut |row| self.add(row, dictionary))?;
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.way == Way::Disturbed) {
            *slot = Slot::default();
        }
        // In the order of time: what is folded lies before all that is still to be scanned.
        let mut left = self.stretches_of(Way::Held);
        left.reverse();
        (self.in_turn, self.held, self.most) = (false, 0, self.plan.most_held / 3);
        let mut too_many = false;
        while let Some((from, to)) = left.pop() {
            self.stretch = (from, to);
            scan(from, to, &mut |row| self.add(row, dictionary))?;
            if self.held <= self.most {
                if too_many {
                    self.fold_held(prior);
                }
                continue;
            }
            too_many = true;
            self.forget_from(from);
            let middle = from.plus(to.since(from) / 2);
            if self.held > 0 {
                self.fold_held(prior);
                left.push((from, to));
            } else if middle > from {
                left.extend([(middle, to), (from, middle)]);
            } else {
                // A single instant can't be taken in two.
                self.most = u64::MAX;
                left.push((from, to));
            }
        }
        Ok(())
    }

    /// The stretches of event time in which the readings of these windows lie, in order, disjoint.
    fn stretches_of(&self, way: Way) -> Vec<(Timestamp, Timestamp)> {
        let windows = self.plan.windows.iter().zip(&self.slots).filter(|(_, slot)| slot.way == way);
        merged(windows.map(|(w, _)| (w.from, w.end)).collect())
    }

    /// Forgets what is held from that instant on.
    fn forget_from(&mut self, from: Timestamp) {
        self.held = 0;
        for readings in self.slots.iter_mut().flat_map(Slot::all) {
            readings.samples.retain(|s| s.ts < from);
            self.held += readings.samples.len() as u64;
        }
    }

    /// Folds what is held, and lets go of it.
    fn fold_held(&mut self, prior: &dyn Fn(&DecisionKey) -> Option<Prior>) {
        let exact = self.exact();
        for (window, slot) in self.plan.windows.iter().zip(&mut self.slots) {
            if slot.way != Way::Held {
                continue;
            }
            let prior = self.plan.key(window).and_then(|key| prior(&key));
            for readings in slot.all().filter(|readings| !readings.samples.is_empty()) {
                readings.fold(window, self.plan.seen.ordinal, prior.as_ref(), exact);
            }
        }
        (self.held, self.most) = (0, self.plan.most_held / 3);
    }

    /// Takes one row of the scan, unless too many are held. Rows may come in any order, twice, or from outside the
    /// stretch; those of a series that the dictionary doesn't know are skipped.
    fn add(&mut self, row: &Row, dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>) {
        let (from, to) = self.stretch;
        if row.ts < from || row.ts >= to || row.seq > self.plan.seen.through || !has_trusted_time(row) {
            return;
        }
        if self.held > self.most {
            if !self.in_turn {
                return;
            }
            self.hold_less();
        }
        let Key::Here { series, takes } = self.key(row.series, dictionary) else { return };
        let definitions = self.plan.definitions.len();
        let taken = self.takes.get(takes as usize..takes as usize + definitions).unwrap_or_default();
        let (kind, value) = match &row.value {
            // Of texts that nothing is chosen of, none needs to be remembered.
            Value::Text(_) if taken.iter().flatten().all(|of| of.texts.is_empty()) => return,
            Value::Text(text) => (Kind::Texts, self.texts.number_of(text)),
            value => (Kind::Numbers, value.numeric().unwrap_or(f64::NAN)),
        };
        if !value.is_finite() {
            return;
        }
        let sample = Sample { ts: row.ts, seq: row.seq, value };
        let believed = has_trusted_value(row.quality);
        let ranges = self.of_series.get(series as usize * definitions..).unwrap_or_default();
        for (range, takes) in ranges.iter().zip(taken) {
            if takes.is_none_or(|of| kind == Kind::Texts && of.texts.is_empty()) {
                continue;
            }
            let places = self.places.get(range.start as usize..range.end as usize).unwrap_or_default();
            // The windows that hold it, then those that begin within a window's length behind it.
            let held = places.partition_point(|p| p.end <= row.ts);
            let later = places.partition_point(|p| p.start <= row.ts);
            let holding = places.get(held..later).unwrap_or_default().iter().map(|place| (place, true));
            let behind = places.get(later..).unwrap_or_default().iter().take_while(|p| p.from <= row.ts);
            for (place, holds) in holding.chain(behind.map(|place| (place, false))) {
                let Some(slot) = self.slots.get_mut(place.slot as usize) else { continue };
                if (slot.way == Way::InTurn) != self.in_turn {
                    continue;
                }
                if holds {
                    slot.doubts = slot.doubts.or(row.quality);
                }
                if !believed {
                    continue;
                }
                self.held += u64::from(holds);
                let readings = slot.of(kind);
                let taken = match (holds, self.in_turn) {
                    (true, true) => readings.take_next(&sample, row.series, place, self.each),
                    (true, false) => {
                        readings.samples.push(sample);
                        readings.latest = readings.latest.max(Some((row.ts, row.seq, row.series)));
                        true
                    }
                    (false, in_turn) => readings.take_before(row.ts, row.seq, value) || !in_turn,
                };
                if !taken {
                    *slot = Slot { way: Way::Disturbed, ..Slot::default() };
                }
            }
        }
    }

    /// From now on only so many values of each window are held that take their readings one by one.
    fn hold_less(&mut self) {
        (self.each, self.most) = (self.exact(), u64::MAX);
        for readings in self.slots.iter_mut().filter(|slot| slot.way == Way::InTurn).flat_map(Slot::all) {
            if let Some(folding) = &mut readings.folding {
                folding.fold.hold_at_most(self.each);
            }
        }
    }

    /// What is known of a dictionary key, asked for the first time or not.
    fn key(&mut self, key: u32, dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>) -> Key {
        match self.keys.get(key as usize) {
            None | Some(Key::Unasked) => {}
            Some(known) => return *known,
        }
        let Some(entry) = dictionary(key) else { return Key::Elsewhere };
        let series = self.series.get(&(entry.namespace.clone(), entry.id)).copied();
        let known = match series.filter(|_| !self.plan.without.contains(&entry.source)) {
            None => Key::Elsewhere,
            Some(series) => {
                let takes = self.takes.len() as u32;
                self.takes.extend(self.plan.definitions.iter().map(|d| {
                    let (numbers, texts) = (d.functions(&entry.metric), d.functions_of_texts(&entry.metric));
                    entry.is_of(&d.window.of).then_some(Takes { numbers, texts })
                }));
                Key::Here { series, takes }
            }
        };
        let place = key as usize;
        if self.keys.len() <= place {
            self.keys.resize(place + 1, Key::Unasked);
        }
        if let Some(slot) = self.keys.get_mut(place) {
            *slot = known;
        }
        known
    }
}
