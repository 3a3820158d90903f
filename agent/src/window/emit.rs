//! From a plan and a scan of the journal to rows of `aggregates` and the decisions on them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tributary_contract::id::Namespace;
use tributary_contract::quality::Quality;
use tributary_contract::time::{Day, Timestamp};

use super::collect::{Collector, Counts, Folding, Kind, Readings};
use super::decision::{Decided, Decision, DecisionKey, Prior, Seen};
use super::fold::Aggregate;
use super::merge::{Part, merge};
use super::plan::{DueWindow, Plan};
use crate::buffer::row::{Row, SeriesEntry};
use crate::config::{Function, Functions};

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

/// Folds the windows of a plan.
#[derive(Debug)]
pub struct Emitter(Collector);

impl Emitter {
    /// Nothing collected yet.
    pub fn new(plan: Plan) -> Self {
        Self(Collector::new(plan))
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
        scan: impl FnMut(Timestamp, Timestamp, &mut dyn FnMut(&Row)) -> Result<(), E>,
    ) -> Result<(), E> {
        self.0.collect(prior, dictionary, scan)
    }

    /// Folds what was collected. `prior` gives the newest earlier decision on a window, if one is kept.
    ///
    /// A window that was decided before is emitted again only if the journal still holds every reading of that decision
    /// and newer ones beside, or if the decision kept what can be merged with them: a correction must never say less than
    /// what it corrects.
    pub fn finish(self, prior: &dyn Fn(&DecisionKey) -> Option<Prior>) -> Folded {
        let mut collected = self.0;
        let (exact, slots) = (collected.exact(), std::mem::take(&mut collected.slots));
        let plan = &collected.plan;
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
                        text: (kind == Kind::Texts).then(|| collected.text_of(aggregate.last)).flatten(),
                        aggregate,
                        revision,
                        late,
                        partial: partial || hollow,
                        quality: slot.doubts,
                        functions: match collected.functions(window.definition, key_of_latest, kind) {
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
