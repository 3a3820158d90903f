//! From a plan and a scan of the journal to rows of `aggregates` and the decisions on them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tributary_contract::id::Namespace;
use tributary_contract::quality::Quality;
use tributary_contract::series::SeriesId;
use tributary_contract::time::{Day, Timestamp};

use super::decision::{Decided, Decision, DecisionKey, Prior, Seen};
use super::definition::Definition;
use super::fold::{Aggregate, Sample, fold, put_in_order};
use super::merge::{Part, merge};
use super::plan::{DueWindow, Plan};
use super::{has_trusted_time, has_trusted_value};
use crate::buffer::row::{Row, SeriesEntry};
use crate::config::{Function, Functions};

/// How many revisions each epoch may use before those of the next begin.
const REVISIONS_PER_EPOCH: i32 = 1_000_000;

/// The first revision of a window of which no earlier decision is known, in the epoch of that ordinal.
pub fn first_revision(ordinal: u32) -> i32 {
    i32::try_from(ordinal).unwrap_or(i32::MAX).saturating_mul(REVISIONS_PER_EPOCH).saturating_add(1)
}

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
    /// The statistics.
    pub aggregate: Aggregate,
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
    /// A statistic where it is filled in; none of [`Function::Changes`], which is a whole number.
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
        value.filter(|_| self.functions.has(function))
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

/// Collects the readings of a plan's windows. About 24 bytes a reading, until it is finished.
#[derive(Debug)]
pub struct Emitter {
    plan: Plan,
    /// By definition and series, in the order of time.
    places: HashMap<(u16, u32), Vec<Place>>,
    slots: Vec<Slot>,
    /// Place in the plan's series by name …
    series: HashMap<(Namespace, SeriesId), u32>,
    /// … and by dictionary key, as far as was asked; none for those that aren't in the plan.
    keys: HashMap<u32, Option<Key>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    start: Timestamp,
    end: Timestamp,
    from: Timestamp,
    slot: usize,
}

#[derive(Debug)]
struct Key {
    /// Place in the plan's series.
    series: u32,
    /// By definition: what is filled in, none where it takes no readings of this key.
    takes: Vec<Option<Functions>>,
}

#[derive(Debug, Default)]
struct Slot {
    samples: Vec<Sample>,
    /// The last believed reading of the window's length before its start.
    before: Option<(Timestamp, u64, f64)>,
    doubts: Quality,
    /// Time, seq and dictionary key of the latest reading.
    latest: Option<(Timestamp, u64, u32)>,
}

impl Emitter {
    /// Nothing collected yet.
    pub fn new(plan: Plan) -> Self {
        let mut places: HashMap<(u16, u32), Vec<Place>> = HashMap::new();
        for (slot, w) in plan.windows.iter().enumerate() {
            let place = Place { start: w.start, end: w.end, from: w.from, slot };
            places.entry((w.definition, w.series)).or_default().push(place);
        }
        places.values_mut().for_each(|of_one| of_one.sort_unstable_by_key(|p| p.start));
        let slots = plan.windows.iter().map(|w| Slot {
            samples: Vec::with_capacity(usize::try_from(w.readings).unwrap_or(0).min(4096)),
            ..Slot::default()
        });
        let named = (0..).zip(&plan.series).map(|(i, s)| ((s.namespace.clone(), s.id), i));
        Self { places, slots: slots.collect(), series: named.collect(), keys: HashMap::new(), plan }
    }

    /// Takes one row of the scan. Rows may come in any order, twice, or from outside the plan's spans; those of a series
    /// that the dictionary doesn't know are skipped.
    pub fn add(&mut self, row: &Row, dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>) {
        if row.seq > self.plan.seen.through || !has_trusted_time(row) {
            return;
        }
        let (named, plan) = (&self.series, &self.plan);
        let key = self.keys.entry(row.series).or_insert_with(|| {
            let entry = dictionary(row.series).filter(|e| !plan.without.contains(&e.source))?;
            let series = named.get(&(entry.namespace.clone(), entry.id)).copied()?;
            let functions = |d: &Definition| entry.is_of(&d.window.of).then(|| d.functions(&entry.metric));
            Some(Key { series, takes: plan.definitions.iter().map(functions).collect() })
        });
        let Some(key) = key else { return };
        let Some(value) = row.value.numeric().filter(|v| v.is_finite()) else { return };
        let believed = has_trusted_value(row.quality);
        for (number, _) in (0u16..).zip(&key.takes).filter(|(_, functions)| functions.is_some()) {
            let Some(places) = self.places.get(&(number, key.series)) else { continue };
            // The windows that hold it, then those that begin within a window's length behind it.
            let held = places.partition_point(|p| p.end <= row.ts);
            let later = places.partition_point(|p| p.start <= row.ts);
            for place in places.get(held..later).unwrap_or_default() {
                let Some(slot) = self.slots.get_mut(place.slot) else { continue };
                slot.doubts = slot.doubts.or(row.quality);
                if believed {
                    slot.samples.push(Sample { ts: row.ts, seq: row.seq, value });
                    slot.latest = slot.latest.max(Some((row.ts, row.seq, row.series)));
                }
            }
            let behind = places.get(later..).unwrap_or_default().iter().take_while(|p| p.from <= row.ts);
            for place in behind.filter(|_| believed) {
                let Some(slot) = self.slots.get_mut(place.slot) else { continue };
                if slot.before.is_none_or(|(ts, seq, _)| (ts, seq) < (row.ts, row.seq)) {
                    slot.before = Some((row.ts, row.seq, value));
                }
            }
        }
    }

    /// Folds what was collected. `prior` gives the newest earlier decision on a window, if one is kept.
    ///
    /// A window that was decided before is emitted again only if the journal still holds every reading of that decision
    /// and newer ones beside, or if the decision kept what can be merged with them: a correction must never say less than
    /// what it corrects.
    pub fn finish(self, prior: &dyn Fn(&DecisionKey) -> Option<Prior>) -> Folded {
        let Self { plan, slots, keys, .. } = self;
        let functions = |number: u16, key: u32| {
            let takes = &keys.get(&key)?.as_ref()?.takes;
            takes.get(usize::from(number)).copied().flatten()
        };
        let mut passed_over = Vec::new();
        let mut emitted: BTreeMap<(Day, Namespace), (Vec<AggregateRow>, Vec<Decision>)> = BTreeMap::new();
        for (window, mut slot) in plan.windows.iter().zip(slots) {
            let (Some(key), Some(series)) = (plan.key(window), plan.series.get(window.series as usize))
            else {
                continue;
            };
            put_in_order(&mut slot.samples);
            let carried = slot.before.map(|(_, _, value)| value);
            let revised = revise(&slot.samples, window, &plan.seen, prior(&key));
            let folded = match &revised {
                Revised::Emit { known: None, .. } => {
                    fold(&slot.samples, carried, window.start, window.end).map(|a| (a, plan.seen.frozen))
                }
                Revised::Emit { known: Some(known), .. } => {
                    Some(carry_on(known, &slot.samples, carried, window))
                }
                Revised::PassOver { .. } => None,
            };
            let hollow = plan.holes.is_some_and(|(from, to)| from < window.end && window.start <= to);
            let row = match revised {
                Revised::Emit { revision, late, .. } => folded
                    .zip(slot.latest)
                    .map(|((aggregate, partial), (_, _, key_of_latest))| AggregateRow {
                        start: window.start,
                        end: window.end,
                        window: Arc::clone(&key.window),
                        series: key_of_latest,
                        aggregate,
                        revision,
                        late,
                        partial: partial || hollow,
                        quality: slot.doubts,
                        functions: match functions(window.definition, key_of_latest) {
                            Some(chosen) if !(partial || hollow) => chosen,
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
                        part: row.partial.then(|| Part::of(&row.aggregate)),
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
    Emit { revision: i32, late: u64, known: Option<Kept> },
    PassOver { too_late: u64 },
}

/// What an earlier decision kept of a window.
struct Kept {
    part: Part,
    /// Up to which seq its readings are in the part.
    through: u64,
    /// Whether the journal holds all of them still.
    whole: bool,
}

/// The window carried on from what was kept of it; and whether it is partial: also where all is there that was there when
/// it closed as a partial one.
fn carry_on(kept: &Kept, samples: &[Sample], carried: Option<f64>, window: &DueWindow) -> (Aggregate, bool) {
    let more: Vec<Sample> = samples.iter().filter(|s| s.seq > kept.through).copied().collect();
    let merged = merge(&kept.part, &more, window.start, window.end);
    match fold(samples, carried, window.start, window.end).filter(|_| kept.whole) {
        // The value carried over from before the window may be gone, though its own readings are there.
        Some(whole) if whole.coverage < merged.coverage => {
            let Aggregate { time_weighted_mean, coverage, .. } = merged;
            (Aggregate { time_weighted_mean, coverage, ..whole }, window.late)
        }
        Some(whole) => (whole, window.late),
        None => (merged, true),
    }
}

fn revise(samples: &[Sample], window: &DueWindow, seen: &Seen, prior: Option<Prior>) -> Revised {
    let (all, ordinal) = (samples.len() as u64, seen.ordinal);
    let Some(prior) = prior else {
        let late = if window.late { all } else { 0 };
        return Revised::Emit { revision: first_revision(ordinal), late, known: None };
    };
    let next = prior.revision.saturating_add(1);
    if prior.end != window.end {
        // The definition was given another size: the row has the same name, and says something else.
        return Revised::Emit { revision: next, late: 0, known: None };
    }
    let known = if prior.ordinal == ordinal {
        samples.iter().filter(|s| s.seq <= prior.through).count() as u64
    } else {
        // Seqs of another epoch can't be compared; how many there are can.
        all.min(prior.samples)
    };
    let new = all - known;
    let late = prior.late.saturating_add(if window.late { new } else { 0 });
    let whole = known == prior.samples;
    match prior.part.filter(|_| prior.ordinal == ordinal) {
        // A frozen window that closes with all its readings there is whole after all.
        Some(part) if new > 0 || (whole && window.frozen && !seen.frozen) => {
            let through = prior.through;
            Revised::Emit {
                revision: next,
                late,
                known: Some(Kept { part, through, whole: whole && !seen.frozen }),
            }
        }
        None if whole && new > 0 => Revised::Emit { revision: next, late, known: None },
        Some(_) => Revised::PassOver { too_late: 0 },
        None => Revised::PassOver { too_late: if whole { 0 } else { new } },
    }
}
