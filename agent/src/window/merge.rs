//! The mergeable part of a window's statistics: what can be carried on when the readings themselves are gone.
//!
//! Count, least, greatest, first and last merge exactly; the sum is compensated on; variances by Chan, Golub and LeVeque
//! (1979). The time-weighted mean goes on as long as no reading comes before one that is gone. Percentiles can't be
//! merged, nor what counts steps from one reading to the next: of a merged window they aren't known.

use tributary_contract::time::Timestamp;

use super::fold::{Aggregate, Sample, squares, sum_of};

/// What is kept of a window: its statistics without percentiles and steps. Boxed: most decisions have none.
#[derive(Debug, Clone, PartialEq)]
pub struct Part(Box<Aggregate>);

impl Part {
    /// Bytes of its stored form.
    pub const BYTES: usize = 1 + 11 * 8;

    /// The part of `aggregate` that can be merged.
    pub fn of(aggregate: &Aggregate) -> Self {
        let unknown = Aggregate { p50: None, p95: None, p99: None, percentile_error: None, ..*aggregate };
        Self(Box::new(Aggregate { increase: None, rate: None, changes: None, ..unknown }))
    }

    /// Its stored form: which of the optional numbers there are (a bit each), then all in 8 bytes, little-endian.
    pub fn put(&self, out: &mut Vec<u8>) {
        let of = &self.0;
        let optional = [of.mean, of.sum, of.stddev, of.time_weighted_mean];
        out.push(optional.iter().enumerate().fold(0, |bits, (i, n)| bits | (u8::from(n.is_some()) << i)));
        for n in [of.min, of.max, of.first, of.last, of.coverage] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        for n in optional {
            out.extend_from_slice(&n.unwrap_or_default().to_le_bytes());
        }
        for ts in [of.first_ts, of.last_ts] {
            out.extend_from_slice(&ts.0.to_le_bytes());
        }
    }

    /// Reads what [`Part::put`] wrote; none if the numbers can't be those of a part.
    pub fn read(bytes: &[u8], samples: u64) -> Option<Self> {
        let (bits, numbers) = bytes.split_first()?;
        let words: Vec<[u8; 8]> = numbers.chunks_exact(8).filter_map(|w| w.try_into().ok()).collect();
        let [min, max, first, last, coverage, a, b, c, d, from, to] = words.try_into().ok()?;
        let number = |word| Some(f64::from_le_bytes(word)).filter(|n| n.is_finite());
        let optional = |i: u8, word| if bits >> i & 1 == 1 { number(word).map(Some) } else { Some(None) };
        Some(Self(Box::new(Aggregate {
            samples,
            min: number(min)?,
            max: number(max)?,
            mean: optional(0, a)?,
            sum: optional(1, b)?,
            stddev: optional(2, c)?,
            first: number(first)?,
            last: number(last)?,
            first_ts: Timestamp(i64::from_le_bytes(from)),
            last_ts: Timestamp(i64::from_le_bytes(to)),
            p50: None,
            p95: None,
            p99: None,
            percentile_error: None,
            time_weighted_mean: optional(3, d)?,
            coverage: number(coverage)?,
            increase: None,
            rate: None,
            changes: None,
        })))
    }
}

/// The window `[start, end)` of which `part` was kept, carried on with `more` readings, put in order; these have greater
/// seqs than those of the part.
pub fn merge(part: &Part, more: &[Sample], start: Timestamp, end: Timestamp) -> Aggregate {
    let Part(part) = part;
    let (Some(first), Some(last)) = (more.first(), more.last()) else { return **part };
    let (n1, n2) = (part.samples as f64, more.len() as f64);
    let min = more.iter().fold(part.min, |least, s| least.min(s.value));
    let max = more.iter().fold(part.max, |greatest, s| greatest.max(s.value));
    let sum = part.sum.map(|sum| sum_of(std::iter::once(sum).chain(more.iter().map(|s| s.value))));
    let sum = sum.filter(|s| s.is_finite());
    let (mean2, squares2) = squares(more);
    let mean = match sum {
        Some(sum) => Some(sum / (n1 + n2)),
        None => part.mean.map(|mean1| mean1 * (n1 / (n1 + n2)) + mean2 * (n2 / (n1 + n2))),
    };
    let mean = mean.filter(|m| m.is_finite()).map(|m| m.clamp(min, max));
    let squares1 = part.stddev.map_or((part.samples == 1).then_some(0.0), |s| Some(s * s * (n1 - 1.0)));
    let squares = squares1.zip(part.mean).map(|(squares1, mean1)| {
        let apart = mean2 - mean1;
        squares1 + squares2 + apart * apart * (n1 * n2 / (n1 + n2))
    });
    let stddev = squares.map(|s| (s.max(0.0) / (n1 + n2 - 1.0)).sqrt()).filter(|d| d.is_finite());
    let (time_weighted_mean, coverage) = time_weighted(part, more, start, end);
    let samples = part.samples.saturating_add(more.len() as u64);
    let mut all = Aggregate { samples, min, max, mean, sum, stddev, time_weighted_mean, coverage, ..**part };
    if first.ts < part.first_ts {
        (all.first, all.first_ts) = (first.value, first.ts);
    }
    if last.ts >= part.last_ts {
        (all.last, all.last_ts) = (last.value, last.ts);
    }
    all
}

fn time_weighted(part: &Aggregate, more: &[Sample], start: Timestamp, end: Timestamp) -> (Option<f64>, f64) {
    let size = end.since(start).max(1) as f64;
    let known = part.coverage * size;
    let Some(first) = more.first() else { return (part.time_weighted_mean, part.coverage) };
    if first.ts < part.last_ts {
        // It holds for a time in which a reading that is gone may have held: only how long is known.
        let from_first = end.since(first.ts.max(start)) as f64;
        return (None, known.max(from_first) / size);
    }
    let held = |s: &Sample, until: Timestamp| s.value * until.since(s.ts) as f64;
    let next = more.iter().skip(1).map(|s| s.ts).chain([end]);
    let behind = sum_of(more.iter().zip(next).map(|(s, until)| held(s, until)));
    let less = part.last * end.since(first.ts) as f64;
    let mean = part.time_weighted_mean.map(|mean| (mean * known - less + behind) / known.max(1.0));
    (mean.filter(|m| m.is_finite()), part.coverage)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::MINUTE;
    use crate::window::fold::{fold, put_in_order};

    impl Part {
        pub(in crate::window) fn samples(&self) -> u64 {
            self.0.samples
        }
    }

    prop_compose! {
        pub(in crate::window) fn any_part()(
            numbers in prop::array::uniform5(-1e9..1e9f64), optional in prop::array::uniform4(prop::option::of(-1e9..1e9f64)),
            times in any::<(i64, i64)>(), samples in any::<u64>(),
        ) -> Part {
            let [min, max, first, last, coverage] = numbers;
            let [mean, sum, stddev, time_weighted_mean] = optional;
            Part::of(&Aggregate { samples, min, max, mean, sum, stddev, first, last, first_ts: Timestamp(times.0),
                                  last_ts: Timestamp(times.1), p50: None, p95: None, p99: None, percentile_error: None,
                                  time_weighted_mean, coverage, increase: None, rate: None, changes: None })
        }
    }

    const START: Timestamp = Timestamp(0);
    const END: Timestamp = Timestamp(MINUTE);

    fn near(a: Option<f64>, b: Option<f64>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * b.abs().max(1.0),
            (None, None) => true,
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_window_thinned_at_any_place_has_the_statistics_of_the_whole(
            list in prop::collection::vec((0i64..MINUTE, -1e6..1e6f64), 2..100),
            at in any::<prop::sample::Index>(), in_order: bool, carried in prop::option::of(-1e6..1e6f64),
        ) {
            let mut all: Vec<Sample> =
                (0..).zip(list).map(|(seq, (ts, value))| Sample { ts: Timestamp(ts), seq, value }).collect();
            if in_order {
                all.sort_by_key(|s| s.ts);
                (0..).zip(&mut all).for_each(|(seq, s)| s.seq = seq);
            }
            let cut = 1 + at.index(all.len() - 1);
            let (mut before, mut after) = (all[..cut].to_vec(), all[cut..].to_vec());
            for some in [&mut before, &mut after, &mut all] {
                put_in_order(some);
            }
            let part = Part::of(&fold(&before, carried, START, END).unwrap());
            let mut bytes = Vec::new();
            part.put(&mut bytes);
            prop_assert_eq!(bytes.len(), Part::BYTES);
            prop_assert_eq!(Part::read(&bytes, part.0.samples), Some(part.clone()));
            let (merged, whole) = (merge(&part, &after, START, END), fold(&all, carried, START, END).unwrap());
            prop_assert_eq!((merged.samples, merged.min, merged.max), (whole.samples, whole.min, whole.max));
            prop_assert_eq!((merged.first_ts, merged.last_ts), (whole.first_ts, whole.last_ts));
            prop_assert_eq!((merged.first, merged.last), (whole.first, whole.last));
            prop_assert!(near(merged.sum, whole.sum) && near(merged.mean, whole.mean), "{merged:?} {whole:?}");
            prop_assert!(near(merged.stddev, whole.stddev), "{merged:?} {whole:?}");
            prop_assert!((merged.coverage - whole.coverage).abs() < 1e-9, "{merged:?} {whole:?}");
            prop_assert_eq!((merged.p50, merged.p95, merged.p99), (None, None, None));
            if in_order {
                prop_assert!(near(merged.time_weighted_mean, whole.time_weighted_mean), "{merged:?} {whole:?}");
            }
        }
    }
}
