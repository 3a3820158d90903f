//! From a plan and a scan of the journal to rows of `aggregates` and the decisions on them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use tributary_contract::id::Namespace;
use tributary_contract::quality::Quality;
use tributary_contract::series::SeriesId;
use tributary_contract::time::{Day, Timestamp};

use super::decision::{Decided, Decision, DecisionKey, Prior, Seen};
use super::fold::{Aggregate, Fold, Sample, put_in_order};
use super::merge::{Part, merge};
use super::plan::{DueWindow, Plan};
use super::{has_trusted_time, has_trusted_value};
use crate::buffer::row::{Row, SeriesEntry};
use crate::config::{Function, Functions};
use crate::reading::Value;

/// How many revisions each epoch may use before those of the next begin.
const REVISIONS_PER_EPOCH: i32 = 1_000_000;

/// The first revision of a window of which no earlier decision is known, in the epoch of that ordinal.
pub fn first_revision(ordinal: u32) -> i32 {
    i32::try_from(ordinal).unwrap_or(i32::MAX).saturating_mul(REVISIONS_PER_EPOCH).saturating_add(1)
}

/// The column of `aggregates` that a row of texts has, and no other.
pub const LAST_TEXT: &str = "value_last_text";

/// One row of `aggregates`, but for what the dictionary and the segment add.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateRow {
    /// First instant of the window.
    pub start: Timestamp,
    /// First instant behind it.
    pub end: Timestamp,
    /// Name of the window's definition.
    pub window: Arc<str>,
    /// Key of the series in the dictionary; of several (other source, other unit) that of the latest reading.
    pub series: u32,
    /// The statistics; of a row of texts, each text stands for a number, and only counts, times and changes say something.
    pub aggregate: Aggregate,
    /// The latest text, of a row of texts.
    pub text: Option<Arc<str>>,
    /// Revision.
    pub revision: i32,
    /// Readings in it that came after it had first been closed.
    pub late: u64,
    /// Whether readings of it had been thinned or shed before, or it was frozen so that they can be.
    pub partial: bool,
    /// Doubts of its readings, those left out for their value included.
    pub quality: Quality,
    /// Which statistics are filled in; where the row is partial all the usual ones too, for a correction goes on from
    /// them.
    pub functions: Functions,
}

impl AggregateRow {
    /// A statistic where it is filled in; none of [`Function::Changes`], which is a whole number, and none of texts.
    pub fn statistic(&self, function: Function) -> Option<f64> {
        let a = &self.aggregate;
        let value = match function {
            Function::Min => Some(a.min),
            Function::Max => Some(a.max),
            Function::Mean => a.mean,
            Function::Sum => a.sum,
            Function::Stddev => a.stddev,
            Function::First => Some(a.first),
            Function::Last => Some(a.last),
            Function::P50 => a.p50,
            Function::P95 => a.p95,
            Function::P99 => a.p99,
            Function::TimeWeightedMean => a.time_weighted_mean,
            Function::Increase => a.increase,
            Function::Rate => a.rate,
            Function::Changes => None,
        };
        value.filter(|_| self.functions.has(function) && self.text.is_none())
    }

    /// How far percentiles may be off, where one of them is filled in and estimated.
    pub fn percentile_error(&self) -> Option<f64> {
        let percentiles = [Function::P50, Function::P95, Function::P99];
        let told = percentiles.into_iter().any(|f| self.statistic(f).is_some());
        self.aggregate.percentile_error.filter(|_| told)
    }

    /// How often the value changed, where that is filled in.
    pub fn changes(&self) -> Option<u64> {
        self.aggregate.changes.filter(|_| self.functions.has(Function::Changes))
    }
}

/// Rows of one segment of `aggregates`, and the decisions that must become durable with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Emission {
    /// Owner of the data.
    pub namespace: Namespace,
    /// UTC day in which all its windows start.
    pub day: Day,
    /// Rows, at least one.
    pub rows: Vec<AggregateRow>,
    /// Decisions, one a row.
    pub decided: Decided,
}

/// A window of a plan that gave no decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Which.
    pub key: DecisionKey,
    /// The seq up to which the plan looked.
    pub through: u64,
    /// Readings that came too late for it: the journal no longer holds the window whole.
    pub too_late: u64,
}

/// What became of a plan.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Folded {
    /// To be sealed in this order, each with its decisions, each followed by [`super::Windows::applied`].
    pub emissions: Vec<Emission>,
    /// To be handed to [`super::Windows::passed_over`].
    pub passed_over: Vec<PassedOver>,
}

/// Earlier decisions on the windows of one plan, collected from the sets that are kept.
#[derive(Debug, Default)]
pub struct Priors {
    wanted: HashSet<DecisionKey>,
    found: HashMap<DecisionKey, Prior>,
}

impl Priors {
    /// Nothing found yet.
    pub fn of(plan: &Plan) -> Self {
        let decided = plan.windows.iter().filter(|w| w.late || w.frozen);
        Self { wanted: decided.filter_map(|w| plan.key(w)).collect(), found: HashMap::new() }
    }

    /// Takes what the plan wants out of one set; sets may come in any order.
    pub fn take(&mut self, decided: &Decided) {
        for (key, prior) in decided.priors().filter(|(key, _)| self.wanted.contains(key)) {
            if self.found.get(&key).is_none_or(|known| prior.revision > known.revision) {
                self.found.insert(key, prior);
            }
        }
    }

    /// The newest decision found on that window.
    pub fn get(&self, key: &DecisionKey) -> Option<Prior> {
        self.found.get(key).cloned()
    }
}

/// Values of each window that are held for exact percentiles, at least, where not all readings can be.
const LEAST_EXACT: u64 = 512;

/// How many values of a window may be held from one stretch to the next.
fn exact_values(plan: &Plan) -> usize {
    let each = plan.most_held / (plan.windows.len() as u64).max(1);
    usize::try_from(each.max(LEAST_EXACT)).unwrap_or(usize::MAX)
}

/// Collects the readings of a plan's windows. About 24 bytes a reading, until it is finished; where there are more than
/// the plan allows, windows are folded stretch by stretch.
#[derive(Debug)]
pub struct Emitter {
    plan: Plan,
    /// Of which event times rows are taken now.
    stretch: (Timestamp, Timestamp),
    /// Readings that are held, and may be.
    held: u64,
    most: u64,
    /// By series, definition and start.
    places: Vec<Place>,
    /// Where in `places` those of a series and definition lie: of each series of the plan as many as there are definitions.
    of_series: Vec<Range<u32>>,
    slots: Vec<Slot>,
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
enum Kind {
    Numbers,
    Texts,
}

#[derive(Debug, Default)]
struct Slot {
    numbers: Readings,
    /// By the numbers that stand for them.
    texts: Option<Box<Readings>>,
    doubts: Quality,
}

impl Slot {
    fn of(&mut self, kind: Kind) -> &mut Readings {
        match kind {
            Kind::Numbers => &mut self.numbers,
            Kind::Texts => self.texts.get_or_insert_default(),
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Readings> {
        std::iter::once(&mut self.numbers).chain(self.texts.as_deref_mut())
    }
}

#[derive(Debug, Default)]
struct Readings {
    /// Those that are held.
    samples: Vec<Sample>,
    /// What those before them came to, where they couldn't all be held.
    folding: Option<Box<Folding>>,
    /// The last believed reading of the window's length before its start.
    before: Option<(Timestamp, u64, f64)>,
    /// Time, seq and dictionary key of the latest reading.
    latest: Option<(Timestamp, u64, u32)>,
}

/// Readings of one window, folded as far as they were scanned.
#[derive(Debug)]
struct Folding {
    fold: Fold,
    /// How many of them an earlier decision of this epoch had seen.
    known: u64,
    /// The part that it kept, carried on with the others.
    merged: Option<Part>,
}

impl Readings {
    /// Folds what is held, and lets go of it. Everything before it must have been folded.
    fn fold(
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
            Box::new(Folding {
                fold,
                known: 0,
                merged: prior.and_then(|prior| prior.part.as_deref().cloned()),
            })
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

    fn counts(&self) -> Counts {
        let of = |folding: &Folding| Counts { all: folding.fold.samples(), known: folding.known };
        self.folding.as_deref().map(of).unwrap_or_default()
    }
}

/// How many readings of one kind a window has, and how many of them an earlier decision of this epoch had seen.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    all: u64,
    known: u64,
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

    fn text_of(&self, number: f64) -> Option<Arc<str>> {
        self.all.get(number as usize).cloned()
    }
}

impl Emitter {
    /// Nothing collected yet.
    pub fn new(plan: Plan) -> Self {
        let whose = |w: &DueWindow| w.series as usize * plan.definitions.len() + usize::from(w.definition);
        let mut slots_of: Vec<u32> = (0..plan.windows.len() as u32).collect();
        let window = |slot: &u32| plan.windows.get(*slot as usize).map(|w| (whose(w), w.start));
        slots_of.sort_unstable_by_key(window);
        let mut places = Vec::with_capacity(slots_of.len());
        let mut of_series = vec![0..0; plan.series.len() * plan.definitions.len()];
        for slot in slots_of {
            let Some(w) = plan.windows.get(slot as usize) else { continue };
            let at = places.len() as u32;
            places.push(Place { start: w.start, end: w.end, from: w.from, slot });
            if let Some(range) = of_series.get_mut(whose(w)) {
                *range = if range.start == range.end { at..at + 1 } else { range.start..at + 1 };
            }
        }
        let slots = plan.windows.iter().map(|w| {
            let mut slot = Slot::default();
            slot.numbers.samples.reserve(usize::try_from(w.readings).unwrap_or(0).min(4096));
            slot
        });
        let named = (0..).zip(&plan.series).map(|(i, s)| ((s.namespace.clone(), s.id), i));
        let (slots, series, keys, takes) = (slots.collect(), named.collect(), Vec::new(), Vec::new());
        let stretch = (Timestamp(i64::MIN), Timestamp(i64::MAX));
        let (held, most) = (0, plan.most_held);
        let texts = Texts::default();
        Self { plan, stretch, held, most, places, of_series, slots, series, keys, takes, texts }
    }

    /// Collects everything. `scan` calls what it is given for each row of the journal with an event time in a stretch,
    /// perhaps for others too, in any order, some of them twice; `prior` as for [`Emitter::finish`].
    ///
    /// # Errors
    /// Those of `scan`.
    pub fn collect<E>(
        &mut self,
        prior: &dyn Fn(&DecisionKey) -> Option<Prior>,
        dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>,
        mut scan: impl FnMut(Timestamp, Timestamp, &mut dyn FnMut(&Row)) -> Result<(), E>,
    ) -> Result<(), E> {
        // In the order of time: what is folded lies before all that is still to be scanned.
        let mut left: Vec<(Timestamp, Timestamp)> = self.plan.spans.iter().rev().copied().collect();
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
        let exact = exact_values(&self.plan);
        for (window, slot) in self.plan.windows.iter().zip(&mut self.slots) {
            let prior = self.plan.key(window).and_then(|key| prior(&key));
            for readings in slot.all().filter(|readings| !readings.samples.is_empty()) {
                readings.fold(window, self.plan.seen.ordinal, prior.as_ref(), exact);
            }
        }
        (self.held, self.most) = (0, self.plan.most_held);
    }

    /// Takes one row of the scan, unless too many are held. Rows may come in any order, twice, or from outside the
    /// stretch; those of a series that the dictionary doesn't know are skipped.
    fn add(&mut self, row: &Row, dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>) {
        let (from, to) = self.stretch;
        let elsewhere = row.ts < from || row.ts >= to;
        if elsewhere || self.held > self.most || row.seq > self.plan.seen.through || !has_trusted_time(row) {
            return;
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
            for place in places.get(held..later).unwrap_or_default() {
                let Some(slot) = self.slots.get_mut(place.slot as usize) else { continue };
                slot.doubts = slot.doubts.or(row.quality);
                if believed {
                    let readings = slot.of(kind);
                    readings.samples.push(Sample { ts: row.ts, seq: row.seq, value });
                    readings.latest = readings.latest.max(Some((row.ts, row.seq, row.series)));
                    self.held += 1;
                }
            }
            let behind = places.get(later..).unwrap_or_default().iter().take_while(|p| p.from <= row.ts);
            for place in behind.filter(|_| believed) {
                let Some(slot) = self.slots.get_mut(place.slot as usize) else { continue };
                let before = &mut slot.of(kind).before;
                if before.is_none_or(|(ts, seq, _)| (ts, seq) < (row.ts, row.seq)) {
                    *before = Some((row.ts, row.seq, value));
                }
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

    /// Folds what was collected. `prior` gives the newest earlier decision on a window, if one is kept.
    ///
    /// A window that was decided before is emitted again only if the journal still holds every reading of that decision
    /// and newer ones beside, or if the decision kept what can be merged with them: a correction must never say less than
    /// what it corrects.
    pub fn finish(self, prior: &dyn Fn(&DecisionKey) -> Option<Prior>) -> Folded {
        let Self { plan, slots, keys, takes, texts, .. } = self;
        let exact = exact_values(&plan);
        let functions = |number: u16, key: u32, kind: Kind| {
            let Key::Here { takes: first, .. } = keys.get(key as usize)? else { return None };
            let takes = takes.get(*first as usize + usize::from(number)).copied().flatten()?;
            Some(if kind == Kind::Numbers { takes.numbers } else { takes.texts })
        };
        let mut passed_over = Vec::new();
        let mut emitted: BTreeMap<(Day, Namespace), (Vec<AggregateRow>, Vec<Decision>)> = BTreeMap::new();
        for (window, mut slot) in plan.windows.iter().zip(slots) {
            let (Some(key), Some(series)) = (plan.key(window), plan.series.get(window.series as usize))
            else {
                continue;
            };
            let prior = prior(&key);
            for readings in slot.all() {
                readings.fold(window, plan.seen.ordinal, prior.as_ref(), exact);
            }
            let counts =
                (slot.numbers.counts(), slot.texts.as_deref().map(Readings::counts).unwrap_or_default());
            let kind = if counts.0.all == 0 { Kind::Texts } else { Kind::Numbers };
            let revised = revise(counts, kind, window, &plan.seen, prior);
            let Readings { folding, latest, .. } = std::mem::take(slot.of(kind));
            let folded = folding.and_then(|folding| match &revised {
                Revised::Emit { kept: None, .. } => folding.fold.finish().map(|a| (a, plan.seen.frozen)),
                Revised::Emit { kept: Some(Kept { whole }), .. } => carry_on(*folding, *whole, window),
                Revised::PassOver { .. } => None,
            });
            let hollow = plan.holes.is_some_and(|(from, to)| from < window.end && window.start <= to);
            let row = match revised {
                Revised::Emit { revision, late, .. } => folded
                    .zip(latest)
                    .map(|((aggregate, partial), (_, _, key_of_latest))| AggregateRow {
                        start: window.start,
                        end: window.end,
                        window: Arc::clone(&key.window),
                        series: key_of_latest,
                        text: (kind == Kind::Texts).then(|| texts.text_of(aggregate.last)).flatten(),
                        aggregate,
                        revision,
                        late,
                        partial: partial || hollow,
                        quality: slot.doubts,
                        functions: match functions(window.definition, key_of_latest, kind) {
                            Some(chosen) if kind == Kind::Texts || !(partial || hollow) => chosen,
                            chosen => chosen.map_or(Functions::USUAL, |f| f.or(Functions::USUAL)),
                        },
                    })
                    .ok_or(0),
                Revised::PassOver { too_late } => Err(too_late),
            };
            match row {
                Err(too_late) => {
                    passed_over.push(PassedOver { key, through: plan.seen.through, too_late });
                }
                Ok(row) => {
                    let decision = Decision {
                        namespace: series.namespace.clone(),
                        window: key.window,
                        device: Arc::clone(&series.device),
                        series: series.id,
                        start: window.start,
                        end: window.end,
                        revision: row.revision,
                        samples: row.aggregate.samples,
                        late: row.late,
                        of_texts: row.text.is_some(),
                        part: (row.partial && row.text.is_none()).then(|| Box::new(Part::of(&row.aggregate))),
                    };
                    let of_day = emitted.entry((window.start.day(), series.namespace.clone())).or_default();
                    of_day.0.push(row);
                    of_day.1.push(decision);
                }
            }
        }
        // Only with the last of them is everything decided that the plan was made for.
        let last = emitted.len().saturating_sub(1);
        let emissions = emitted.into_iter().enumerate().map(|(i, ((day, namespace), (rows, decisions)))| {
            let seen = if i == last { plan.seen } else { plan.before };
            Emission { namespace, day, rows, decided: Decided { seen, decisions } }
        });
        Folded { emissions: emissions.collect(), passed_over }
    }
}

enum Revised {
    Emit { revision: i32, late: u64, kept: Option<Kept> },
    PassOver { too_late: u64 },
}

/// An earlier decision kept a part that can be carried on.
struct Kept {
    /// Whether the journal holds all of its readings still.
    whole: bool,
}

/// The window carried on from what was kept of it; and whether it is partial: also where all is there that was there when
/// it closed as a partial one.
fn carry_on(folding: Folding, whole: bool, window: &DueWindow) -> Option<(Aggregate, bool)> {
    let merged = merge(&folding.merged?, &[], window.start, window.end);
    Some(match folding.fold.finish().filter(|_| whole) {
        // The value carried over from before the window may be gone, though its own readings are there.
        Some(whole) if whole.coverage < merged.coverage => {
            let Aggregate { time_weighted_mean, coverage, .. } = merged;
            (Aggregate { time_weighted_mean, coverage, ..whole }, window.late)
        }
        Some(whole) => (whole, window.late),
        None => (merged, true),
    })
}

/// What becomes of a window that has so many numbers and texts, and whose readings of `kind` are to be told: numbers, or
/// texts where there is no number.
fn revise(
    (numbers, texts): (Counts, Counts),
    kind: Kind,
    window: &DueWindow,
    seen: &Seen,
    prior: Option<Prior>,
) -> Revised {
    let all = if kind == Kind::Numbers { numbers.all } else { texts.all };
    let Some(prior) = prior else {
        let late = if window.late { all } else { 0 };
        return Revised::Emit { revision: first_revision(seen.ordinal), late, kept: None };
    };
    let next = prior.revision.saturating_add(1);
    if prior.end != window.end {
        // The definition was given another size: the row has the same name, and says something else.
        return Revised::Emit { revision: next, late: 0, kept: None };
    }
    if kind == Kind::Texts && !prior.of_texts {
        // Its numbers are gone, and say more.
        return Revised::PassOver { too_late: 0 };
    }
    let of_then = if prior.of_texts { texts } else { numbers };
    // Seqs of another epoch can't be compared; how many there are can.
    let same_epoch = prior.ordinal == seen.ordinal;
    let known = if same_epoch { of_then.known } else { of_then.all.min(prior.samples) };
    // Where there were texts alone, every number is new.
    let new = if prior.of_texts == (kind == Kind::Texts) { all - known } else { all };
    let late = prior.late.saturating_add(if window.late { new } else { 0 });
    let whole = known == prior.samples;
    // A frozen window that closes with all its readings there is whole after all.
    let closes = whole && window.frozen && !seen.frozen;
    let has_part = same_epoch && prior.part.is_some();
    if has_part && (new > 0 || closes) {
        Revised::Emit { revision: next, late, kept: Some(Kept { whole: whole && !seen.frozen }) }
    } else if !has_part && whole && (new > 0 || closes) {
        Revised::Emit { revision: next, late, kept: None }
    } else {
        Revised::PassOver { too_late: if whole || has_part { 0 } else { new } }
    }
}
