//! The statistics of one window: readings of one series in, one [`Aggregate`] out.
//!
//! Readings are taken in the order of (event time, seq), whatever order they come in, so that the same readings always
//! give the same bits; all at once ([`fold`]) or, where there are too many of them to be held, stretch by stretch
//! ([`Fold`]). How each column is defined:
//!
//! - `sum`: Neumaier's compensated sum (1974). `mean`: that sum by the number of readings.
//! - `stddev`: of the sample (n - 1), by Welford's recurrence (1962); none for one reading.
//! - `p50`, `p95`, `p99`: type 7 of Hyndman and Fan (1996), which is what numpy, pandas and spreadsheets call linear:
//!   with the values sorted and h = (n - 1) p, the value at the whole part of h plus its fraction of the step to the
//!   next. Of all values, or by a [`Sketch`] where there are more than may be held: `percentile_error` says which.
//! - `first`, `last`: by (event time, seq).
//! - `time_weighted_mean`: each value holds from its reading to the next, the last to the end of the window. What holds
//!   at the start of the window is the last reading before it, if one lies within one window's length before the start
//!   (older ones count as unknown); else the mean begins at the first reading. Of several readings at one instant the
//!   last by seq holds.
//!   A late reading corrects its own window only, not what it would have carried over into the next.
//! - `coverage`: the share of the window for which a value was known in this sense: 1 with a value carried over.
//! - `increase`: by how much a counter grew from each reading to the next, from the one carried over to the first too; a
//!   counter that shows less than before began again at 0, so what it shows is what it grew by. As Prometheus has it,
//!   without extrapolation: the increases of windows that follow one another add up.
//! - `rate`: that increase by the seconds for which a value was known (`coverage`).
//! - `changes`: how many readings have another value than the one before, the one carried over included.
//!   These three are none where there is nothing before the only reading.
//!
//! A statistic that doesn't fit a double (sums of values near 1e308) is none rather than infinite.

use tributary_contract::time::Timestamp;

use super::sketch::Sketch;

/// One reading as the fold sees it; `value` is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Event time.
    pub ts: Timestamp,
    /// Number in the journal: decides between readings of one instant.
    pub seq: u64,
    /// Numeric view.
    pub value: f64,
}

/// The statistics of one window; all of finite values. Columns of table `aggregates` by the same names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aggregate {
    /// How many readings.
    pub samples: u64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Compensated sum.
    pub sum: Option<f64>,
    /// Standard deviation of the sample.
    pub stddev: Option<f64>,
    /// Value of the earliest reading.
    pub first: f64,
    /// Value of the latest reading.
    pub last: f64,
    /// Event time of the earliest reading.
    pub first_ts: Timestamp,
    /// Event time of the latest reading.
    pub last_ts: Timestamp,
    /// Median; of a window some of whose readings are gone it isn't known, as the other two aren't.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// How far these three may be off, as a share of the value; none where they are exact.
    pub percentile_error: Option<f64>,
    /// Mean weighted by how long each value held; not known where a reading came before others that are gone.
    pub time_weighted_mean: Option<f64>,
    /// Share of the window, 0 to 1, for which a value was known.
    pub coverage: f64,
    /// By how much a counter grew; of a window some of whose readings are gone neither this nor the other two are known.
    pub increase: Option<f64>,
    /// The same by the second.
    pub rate: Option<f64>,
    /// How often the value changed.
    pub changes: Option<u64>,
}

/// Sorts into the order in which readings are folded, and drops what stands twice in the list (one seq is one reading).
pub fn put_in_order(samples: &mut Vec<Sample>) {
    samples.sort_unstable_by_key(|s| (s.ts, s.seq));
    samples.dedup_by_key(|s| (s.ts, s.seq));
}

/// Folds the readings of the window `[start, end)`, put in order by [`put_in_order`]; `carried` is the value of the last
/// reading before the window, where one counts. None if there is no reading.
pub fn fold(samples: &[Sample], carried: Option<f64>, start: Timestamp, end: Timestamp) -> Option<Aggregate> {
    let mut fold = Fold::new(carried, start, end, usize::MAX);
    samples.iter().for_each(|s| fold.push(s));
    fold.finish()
}

/// A window whose readings come in their order.
#[derive(Debug, Clone)]
pub struct Fold {
    start: Timestamp,
    end: Timestamp,
    carried: Option<f64>,
    samples: u64,
    min: f64,
    max: f64,
    sum: Sum,
    mean: f64,
    squares: f64,
    first: Option<Sample>,
    last: Option<Sample>,
    /// For how long a value is known, microseconds: from the first reading, or from the start, to the end.
    known: f64,
    area: Sum,
    grown: Sum,
    steps: u64,
    changes: u64,
    values: Values,
}

/// All values, or what is kept of them where there are more than that.
#[derive(Debug, Clone)]
enum Values {
    Exact { values: Vec<f64>, most: usize },
    Sketched(Box<Sketch>),
}

impl Fold {
    /// No reading yet; beyond `exact` of them percentiles are estimated.
    pub fn new(carried: Option<f64>, start: Timestamp, end: Timestamp, exact: usize) -> Self {
        Self {
            start,
            end,
            carried,
            samples: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: Sum::default(),
            mean: 0.0,
            squares: 0.0,
            first: None,
            last: None,
            known: 1.0,
            area: Sum::default(),
            grown: Sum::default(),
            steps: 0,
            changes: 0,
            values: Values::Exact { values: Vec::new(), most: exact },
        }
    }

    /// The same with room for so many values at once.
    #[must_use]
    pub fn with_room_for(mut self, more: usize) -> Self {
        if let Values::Exact { values, most } = &mut self.values {
            values.reserve(more.min(*most));
        }
        self
    }

    /// From now on no more than `exact` values are held; beyond that percentiles are estimated.
    pub fn hold_at_most(&mut self, exact: usize) {
        self.values.hold_at_most(exact);
    }

    /// How many readings there were.
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// Takes the next reading.
    pub fn push(&mut self, sample: &Sample) {
        let value = sample.value;
        self.samples += 1;
        (self.min, self.max) = (least(self.min, value), greatest(self.max, value));
        self.sum.add(value);
        let off = value - self.mean;
        self.mean += off / self.samples as f64;
        self.squares += off * (value - self.mean);
        let before = match (&self.last, self.carried) {
            (Some(last), _) => Some((last.ts, last.value)),
            (None, carried) => {
                let from = if carried.is_some() { self.start } else { sample.ts.max(self.start) };
                self.known = self.end.since(from).max(1) as f64;
                self.first = Some(*sample);
                carried.map(|value| (from, value))
            }
        };
        if let Some((since, held)) = before {
            self.area.add(held * (sample.ts.since(since) as f64 / self.known));
            self.grown.add(if value >= held { value - held } else { greatest(value, 0.0) });
            self.steps += 1;
            self.changes += u64::from(value != held);
        }
        self.last = Some(*sample);
        self.values.push(value);
    }

    /// What came of it; none if there was no reading.
    pub fn finish(self) -> Option<Aggregate> {
        let (first, last) = (self.first?, self.last?);
        let (min, max, n) = (self.min, self.max, self.samples as f64);
        let sum = Some(self.sum.total()).filter(|s| s.is_finite());
        let mean = sum.map_or(self.mean, |sum| sum / n);
        let deviation = (self.squares / (n - 1.0)).max(0.0).sqrt();
        let mut area = self.area;
        area.add(last.value * (self.end.since(last.ts) as f64 / self.known));
        let coverage = self.known / self.end.since(self.start).max(1) as f64;
        let (low, high) = self.carried.map_or((min, max), |c| (least(min, c), greatest(max, c)));
        let increase = Some(self.grown.total()).filter(|i| self.steps > 0 && i.is_finite());
        let seconds = coverage * (self.end.since(self.start).max(1) as f64 / 1e6);
        let ([p50, p95, p99], percentile_error) = self.values.percentiles([0.50, 0.95, 0.99]);
        // Neither rounding nor an estimate may carry anything beyond the values that it is of.
        let within = |p: Option<f64>| p.map(|p| p.clamp(min, max));
        Some(Aggregate {
            samples: self.samples,
            min,
            max,
            mean: Some(mean).filter(|m| m.is_finite()).map(|m| m.clamp(min, max)),
            sum,
            stddev: Some(deviation).filter(|d| self.samples > 1 && d.is_finite() && self.squares.is_finite()),
            first: first.value,
            last: last.value,
            first_ts: first.ts,
            last_ts: last.ts,
            p50: within(p50),
            p95: within(p95),
            p99: within(p99),
            percentile_error,
            time_weighted_mean: Some(area.total().clamp(low, high)),
            coverage,
            increase,
            rate: increase.map(|grown| grown / seconds).filter(|r| r.is_finite()),
            changes: (self.steps > 0).then_some(self.changes),
        })
    }
}

impl Values {
    fn push(&mut self, value: f64) {
        match self {
            Self::Exact { values, most } if values.len() < *most => {
                if values.len() == values.capacity() {
                    // Of thousands of windows, doubled rooms that lie half idle would be megabytes.
                    values.reserve_exact((values.len() / 4).max(4));
                }
                values.push(value);
            }
            Self::Exact { values, .. } => {
                let mut sketch = sketch_of(values);
                sketch.push(value);
                *self = Self::Sketched(sketch);
            }
            Self::Sketched(sketch) => sketch.push(value),
        }
    }

    fn hold_at_most(&mut self, exact: usize) {
        if let Self::Exact { values, most } = self {
            *most = exact;
            if values.len() > exact {
                *self = Self::Sketched(sketch_of(values));
            }
        }
    }

    /// The values below which these shares lie, and how far they may be off.
    fn percentiles(self, shares: [f64; 3]) -> ([Option<f64>; 3], Option<f64>) {
        match self {
            Self::Exact { mut values, .. } => {
                values.sort_unstable_by(f64::total_cmp);
                (shares.map(|share| percentile(&values, share)), None)
            }
            Self::Sketched(sketch) => (shares.map(|share| sketch.percentile(share)), Some(sketch.error())),
        }
    }
}

fn sketch_of(values: &[f64]) -> Box<Sketch> {
    let mut sketch = Box::<Sketch>::default();
    values.iter().for_each(|v| sketch.push(*v));
    sketch
}

/// The lesser of two, by the order in which -0 comes before 0.
fn least(a: f64, b: f64) -> f64 {
    if b.total_cmp(&a).is_lt() { b } else { a }
}

/// The greater of two, by the same order.
fn greatest(a: f64, b: f64) -> f64 {
    if b.total_cmp(&a).is_gt() { b } else { a }
}

/// A compensated sum, after Neumaier.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    pub(super) fn add(&mut self, v: f64) {
        let next = self.sum + v;
        self.lost += if self.sum.abs() >= v.abs() { (self.sum - next) + v } else { (v - next) + self.sum };
        self.sum = next;
    }

    pub(super) fn total(self) -> f64 {
        self.sum + self.lost
    }
}

pub(super) fn sum_of(values: impl Iterator<Item = f64>) -> f64 {
    let mut sum = Sum::default();
    values.for_each(|v| sum.add(v));
    sum.total()
}

/// Mean, and sum of the squared distances from it.
pub(super) fn squares(samples: &[Sample]) -> (f64, f64) {
    let (mut mean, mut squares) = (0.0_f64, 0.0_f64);
    for (before, s) in samples.iter().enumerate() {
        let off = s.value - mean;
        mean += off / (before + 1) as f64;
        squares += off * (s.value - mean);
    }
    (mean, squares)
}

fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    let top = sorted.len().checked_sub(1)?;
    let h = top as f64 * p;
    let below = (h as usize).min(top);
    let part = h - below as f64;
    let (a, b) = (sorted[below], sorted[(below + 1).min(top)]);
    let step = b - a;
    // The step between the two ends of the range of doubles overflows.
    let between = if step.is_finite() { a + step * part } else { a * (1.0 - part) + b * part };
    Some(between.clamp(a, b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{MINUTE, SECOND};

    const START: Timestamp = Timestamp(0);
    const END: Timestamp = Timestamp(MINUTE);

    const VALUES: [f64; 10] =
        [20.5, 21.25, 19.0, 75.935_881_999_999_98, 22.0, 22.0, -3.5, 1e-3, 18.75, 30.125];
    /// Tenths of a second; two readings share an instant.
    const TIMES: [i64; 10] = [10, 80, 140, 140, 210, 320, 450, 460, 530, 595];

    fn samples() -> Vec<Sample> {
        let each =
            |((seq, ts), value): ((u64, i64), f64)| Sample { ts: Timestamp(ts * SECOND / 10), seq, value };
        (1..).zip(TIMES).zip(VALUES).map(each).collect()
    }

    fn near(got: f64, expected: f64) -> bool {
        (got - expected).abs() <= 1e-13 * expected.abs().max(1.0)
    }

    #[test]
    fn the_statistics_are_those_of_numpy_and_exact_fractions() {
        let a = fold(&samples(), None, START, END).unwrap();
        assert_eq!(
            (a.samples, a.min, a.max, a.first, a.last),
            (10, -3.5, 75.935_881_999_999_98, 20.5, 30.125)
        );
        assert_eq!((a.first_ts, a.last_ts), (Timestamp(SECOND), Timestamp(59_500_000)));
        // numpy: mean, std(ddof=1), percentile(method="linear"); math.fsum; time-weighted by fractions.Fraction.
        for (got, expected) in [
            (a.sum.unwrap(), GOLDEN_SUM),
            (a.mean.unwrap(), GOLDEN_MEAN),
            (a.stddev.unwrap(), GOLDEN_STDDEV),
            (a.p50.unwrap(), GOLDEN_P50),
            (a.p95.unwrap(), GOLDEN_P95),
            (a.p99.unwrap(), GOLDEN_P99),
            (a.time_weighted_mean.unwrap(), GOLDEN_TWM),
            (a.coverage, 59.0 / 60.0),
        ] {
            assert!(near(got, expected), "{got} is not {expected}");
        }
        let carried = fold(&samples(), Some(100.0), START, END).unwrap();
        assert!(near(carried.time_weighted_mean.unwrap(), GOLDEN_TWM_CARRIED), "{carried:?}");
        assert_eq!(carried.coverage, 1.0);
        assert_eq!(
            (carried.max, carried.samples),
            (a.max, a.samples),
            "what is carried over counts only as time"
        );
    }

    #[test]
    fn a_counter_grows_over_its_resets_and_over_the_border_of_its_window() {
        let counter = [8.0, 10.0, 10.0, 3.0, 4.5];
        let all: Vec<_> = (0..)
            .zip(counter)
            .map(|(seq, value)| Sample { ts: Timestamp(seq as i64 * 6 * SECOND), seq, value })
            .collect();
        let a = fold(&all, None, START, END).unwrap();
        assert_eq!((a.increase, a.rate, a.changes), (Some(2.0 + 3.0 + 1.5), Some(6.5 / 60.0), Some(3)));
        let a = fold(&all, Some(7.0), START, END).unwrap();
        assert_eq!(
            (a.increase, a.changes),
            (Some(7.5), Some(4)),
            "what is carried over is the first step's foot"
        );
        // Half of the window: its second half is the time in which a value was known.
        let late = [
            Sample { ts: Timestamp(30 * SECOND), seq: 1, value: 1.0 },
            Sample { ts: Timestamp(40 * SECOND), seq: 2, value: 4.0 },
        ];
        assert_eq!(fold(&late, None, START, END).unwrap().rate, Some(0.1));
        let alone = fold(&late[..1], None, START, END).unwrap();
        assert_eq!((alone.increase, alone.rate, alone.changes), (None, None, None));
        let carried = fold(&late[..1], Some(1.0), START, END).unwrap();
        assert_eq!((carried.increase, carried.rate, carried.changes), (Some(0.0), Some(0.0), Some(0)));
        let big = [f64::MIN, f64::MAX, 0.0, f64::MAX];
        let big: Vec<_> = (0..).zip(big).map(|(seq, value)| Sample { ts: START, seq, value }).collect();
        let a = fold(&big, None, START, END).unwrap();
        assert_eq!((a.increase, a.rate, a.changes), (None, None, Some(3)), "beyond a double");
    }

    #[test]
    fn of_more_values_than_may_be_held_percentiles_are_estimated_and_say_how_well() {
        let all: Vec<_> = (0..5000)
            .map(|seq| {
                let value = 20.0 + (seq as f64 / 100.0).sin() * 5.0;
                Sample { ts: Timestamp(seq as i64 * 10_000), seq, value }
            })
            .collect();
        let exact = fold(&all, None, START, END).unwrap();
        let mut sketched = Fold::new(None, START, END, 100);
        all.iter().for_each(|s| sketched.push(s));
        let sketched = sketched.finish().unwrap();
        let (some, rest) = all.split_at(1000);
        let mut later = Fold::new(None, START, END, usize::MAX);
        some.iter().for_each(|s| later.push(s));
        later.hold_at_most(100);
        rest.iter().for_each(|s| later.push(s));
        assert_eq!(later.finish().unwrap(), sketched, "whenever that was asked for");
        let error = sketched.percentile_error.unwrap();
        assert!(error <= 0.005 + 1e-12 && exact.percentile_error.is_none());
        for (a, b) in [(exact.p50, sketched.p50), (exact.p95, sketched.p95), (exact.p99, sketched.p99)] {
            let (a, b) = a.zip(b).unwrap();
            assert!((a - b).abs() <= a * error * 1.000_001, "{a} {b}");
        }
        let Aggregate { p50, p95, p99, percentile_error, .. } = exact;
        assert_eq!(Aggregate { p50, p95, p99, percentile_error, ..sketched }, exact, "all else is as ever");
    }

    #[test]
    fn one_reading_has_no_deviation_and_no_reading_no_aggregate() {
        let one = [Sample { ts: Timestamp(15 * SECOND), seq: 1, value: 2.5 }];
        let a = fold(&one, None, START, END).unwrap();
        assert_eq!((a.stddev, a.p50, a.p99, a.time_weighted_mean), (None, Some(2.5), Some(2.5), Some(2.5)));
        assert_eq!(a.coverage, 0.75);
        assert_eq!(fold(&[], Some(1.0), START, END), None);
    }

    #[test]
    fn of_readings_at_one_instant_the_greatest_seq_is_last() {
        let tie = |seq, value| Sample { ts: START, seq, value };
        let mut all = vec![tie(9, 9.0), tie(7, 7.0), tie(8, 8.0)];
        put_in_order(&mut all);
        let a = fold(&all, None, START, END).unwrap();
        assert_eq!((a.first, a.last, a.time_weighted_mean), (7.0, 9.0, Some(9.0)));
    }

    #[test]
    fn the_sum_keeps_what_plain_addition_loses() {
        let values = [1.0, 1e100, 1.0, -1e100];
        let all: Vec<_> =
            (0..).zip(values).map(|(i, value)| Sample { ts: Timestamp(i as i64), seq: i, value }).collect();
        assert_eq!(fold(&all, None, START, END).unwrap().sum, Some(2.0));
    }

    #[test]
    fn a_statistic_beyond_a_double_is_none() {
        let big = |seq, value| Sample { ts: Timestamp(seq as i64), seq, value };
        let a = fold(&[big(1, f64::MAX), big(2, f64::MAX)], None, START, END).unwrap();
        assert_eq!((a.sum, a.mean, a.p50), (None, Some(f64::MAX), Some(f64::MAX)));
        let a = fold(&[big(1, -f64::MAX), big(2, f64::MAX)], None, START, END).unwrap();
        assert_eq!((a.stddev, a.p50), (None, Some(0.0)));
        assert!(a.p95.unwrap().is_finite() && a.time_weighted_mean.unwrap().is_finite());
    }

    prop_compose! {
        fn any_samples()(list in prop::collection::vec((0i64..MINUTE, -1e6..1e6f64), 1..200)) -> Vec<Sample> {
            (0..).zip(list).map(|(seq, (ts, value))| Sample { ts: Timestamp(ts), seq, value }).collect()
        }
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_changes_nothing(all in any_samples(), carried in prop::option::of(-1e6..1e6f64)) {
            let (mut sorted, mut shuffled) = (all.clone(), all);
            put_in_order(&mut sorted);
            // Backwards, and some of them twice.
            shuffled.reverse();
            shuffled.extend(sorted.iter().step_by(3).copied().collect::<Vec<_>>());
            put_in_order(&mut shuffled);
            prop_assert_eq!(fold(&shuffled, carried, START, END), fold(&sorted, carried, START, END));
        }

        #[test]
        fn the_statistics_agree_with_plain_arithmetic(all in any_samples(), carried in prop::option::of(-1e6..1e6f64)) {
            let mut all = all;
            put_in_order(&mut all);
            let a = fold(&all, carried, START, END).unwrap();
            let values: Vec<f64> = all.iter().map(|s| s.value).collect();
            let n = values.len() as f64;
            // Integers of 1/2^20 are exact in i128 where doubles round.
            let exact: i128 = values.iter().map(|v| (v * 1_048_576.0) as i128).sum();
            prop_assert!((a.sum.unwrap() - exact as f64 / 1_048_576.0).abs() < 1e-3);
            let mean = a.mean.unwrap();
            prop_assert!((mean - a.sum.unwrap() / n).abs() < 1e-9);
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
            if let Some(stddev) = a.stddev {
                prop_assert!((stddev - variance.sqrt()).abs() < 1e-6);
            }
            prop_assert_eq!(a.stddev.is_none(), values.len() == 1);
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            for (p, got) in [(0.5, a.p50), (0.95, a.p95), (0.99, a.p99)] {
                // The straight line through the points (i / (n - 1), value i), which is how type 7 is drawn.
                let drawn = sorted.windows(2).enumerate().find_map(|(i, pair)| {
                    let (from, to) = (i as f64 / (n - 1.0), (i + 1) as f64 / (n - 1.0));
                    (p <= to).then(|| pair[0] + (pair[1] - pair[0]) * (p - from) / (to - from))
                });
                prop_assert!((got.unwrap() - drawn.unwrap_or(sorted[0])).abs() < 1e-6);
            }
            let order = [Some(a.min), a.p50, a.p95, a.p99, Some(a.max)];
            prop_assert!(order.windows(2).all(|pair| pair[0] <= pair[1]));
            // Between two borders one value holds: the last at or before the first of them.
            let (mut held, mut known) = (0.0, 0.0);
            let mut borders: Vec<i64> = all.iter().map(|s| s.ts.0).chain([0, MINUTE]).collect();
            borders.sort_unstable();
            for pair in borders.windows(2) {
                let value = all.iter().rfind(|s| s.ts.0 <= pair[0]).map(|s| s.value).or(carried);
                if let Some(value) = value {
                    held += value * (pair[1] - pair[0]) as f64;
                    known += (pair[1] - pair[0]) as f64;
                }
            }
            prop_assert!((a.time_weighted_mean.unwrap() - held / known).abs() < 1e-6);
            prop_assert!((a.coverage - known / MINUTE as f64).abs() < 1e-12);
            // Windows that follow one another: what both grew by is what the whole grew by.
            let cut = all.len() / 2;
            let parts = [(&all[..cut], carried), (&all[cut..], cut.checked_sub(1).map(|i| all[i].value).or(carried))];
            let grown: f64 = parts.iter().filter_map(|(part, before)| fold(part, *before, START, END)?.increase).sum();
            prop_assert!((a.increase.unwrap_or(0.0) - grown).abs() < 1e-6);
        }
    }

    const GOLDEN_SUM: f64 = 226.061_881_999_999_97;
    const GOLDEN_MEAN: f64 = 22.606_188_2;
    const GOLDEN_STDDEV: f64 = 21.416_508_045_533_81;
    const GOLDEN_P50: f64 = 20.875;
    const GOLDEN_P95: f64 = 55.320_985_099_999_94;
    const GOLDEN_P99: f64 = 71.812_902_619_999_99;
    const GOLDEN_TWM: f64 = 24.813_485_999_999_997;
    const GOLDEN_TWM_CARRIED: f64 = 26.066_594_566_666_666;
}
