//! The statistics of one window: readings of one series in, one [`Aggregate`] out; nothing is kept between calls.
//!
//! Readings are taken in the order of (event time, seq), whatever order they come in, so that the same readings always
//! give the same bits. How each column is defined:
//!
//! - `sum`: Neumaier's compensated sum (1974). `mean`: that sum by the number of readings.
//! - `stddev`: of the sample (n - 1), by Welford's recurrence (1962); none for one reading.
//! - `p50`, `p95`, `p99`: type 7 of Hyndman and Fan (1996), which is what numpy, pandas and spreadsheets call linear:
//!   with the values sorted and h = (n - 1) p, the value at the whole part of h plus its fraction of the step to the
//!   next. All values are looked at: no sketch.
//! - `first`, `last`: by (event time, seq).
//! - `time_weighted_mean`: each value holds from its reading to the next, the last to the end of the window. What holds
//!   at the start of the window is the last reading before it, if one lies within one window's length before the start
//!   (older ones count as unknown); else the mean begins at the first reading. Of several readings at one instant the
//!   last by seq holds.
//! - `coverage`: the share of the window for which a value was known in this sense: 1 with a value carried over.
//!
//! A statistic that doesn't fit a double (sums of values near 1e308) is none rather than infinite.

use tributary_contract::time::Timestamp;

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
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Mean weighted by how long each value held.
    pub time_weighted_mean: f64,
    /// Share of the window, 0 to 1, for which a value was known.
    pub coverage: f64,
}

/// Sorts into the order in which readings are folded, and drops what stands twice in the list (one seq is one reading).
pub fn put_in_order(samples: &mut Vec<Sample>) {
    samples.sort_unstable_by_key(|s| (s.ts, s.seq));
    samples.dedup_by_key(|s| (s.ts, s.seq));
}

/// Folds the readings of the window `[start, end)`, put in order by [`put_in_order`]; `carried` is the value of the last
/// reading before the window, where one counts. None if there is no reading.
pub fn fold(samples: &[Sample], carried: Option<f64>, start: Timestamp, end: Timestamp) -> Option<Aggregate> {
    let (first, last) = (samples.first()?, samples.last()?);
    let mut sorted: Vec<f64> = samples.iter().map(|s| s.value).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let n = samples.len() as f64;
    let sum = Some(sum_of(samples.iter().map(|s| s.value))).filter(|s| s.is_finite());
    let mean = match sum {
        Some(sum) => Some(sum / n),
        None => Some(sum_of(samples.iter().map(|s| s.value / n))).filter(|m| m.is_finite()),
    };
    let (time_weighted_mean, coverage) = time_weighted(samples, carried, start, end);
    let (low, high) = carried.map_or((min, max), |c| (min.min(c), max.max(c)));
    Some(Aggregate {
        samples: samples.len() as u64,
        min,
        max,
        // Rounding may carry a mean beyond the values it is of.
        mean: mean.map(|m| m.clamp(min, max)),
        sum,
        stddev: stddev(samples),
        first: first.value,
        last: last.value,
        first_ts: first.ts,
        last_ts: last.ts,
        p50: percentile(&sorted, 0.50),
        p95: percentile(&sorted, 0.95),
        p99: percentile(&sorted, 0.99),
        time_weighted_mean: time_weighted_mean.clamp(low, high),
        coverage,
    })
}

fn sum_of(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
    for v in values {
        let next = sum + v;
        lost += if sum.abs() >= v.abs() { (sum - next) + v } else { (v - next) + sum };
        sum = next;
    }
    sum + lost
}

fn stddev(samples: &[Sample]) -> Option<f64> {
    if samples.len() < 2 {
        return None;
    }
    let (mut mean, mut squares) = (0.0_f64, 0.0_f64);
    for (before, s) in samples.iter().enumerate() {
        let off = s.value - mean;
        mean += off / (before + 1) as f64;
        squares += off * (s.value - mean);
    }
    let deviation = (squares / (samples.len() - 1) as f64).max(0.0).sqrt();
    Some(deviation).filter(|d| d.is_finite() && squares.is_finite())
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    let Some(top) = sorted.len().checked_sub(1) else { return 0.0 };
    let h = top as f64 * p;
    let below = (h as usize).min(top);
    let part = h - below as f64;
    let (a, b) = (sorted[below], sorted[(below + 1).min(top)]);
    let step = b - a;
    // The step between the two ends of the range of doubles overflows.
    let between = if step.is_finite() { a + step * part } else { a * (1.0 - part) + b * part };
    between.clamp(a, b)
}

fn time_weighted(samples: &[Sample], carried: Option<f64>, start: Timestamp, end: Timestamp) -> (f64, f64) {
    let Some(first) = samples.first() else { return (0.0, 0.0) };
    let from = if carried.is_some() { start } else { first.ts.max(start) };
    let known = end.since(from).max(1) as f64;
    let before = carried.map(|value| (from, value));
    let held = before.into_iter().chain(samples.iter().map(|s| (s.ts, s.value)));
    let next = samples.iter().map(|s| s.ts).skip(usize::from(carried.is_none())).chain([end]);
    let mean =
        sum_of(held.zip(next).map(|((since, value), until)| value * (until.since(since) as f64 / known)));
    (mean, known / end.since(start).max(1) as f64)
}
