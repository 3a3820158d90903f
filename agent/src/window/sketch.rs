//! Percentiles of more values than can be held: a sketch whose relative error is known.
//!
//! Values are counted in bins whose borders grow by a factor, negative ones in bins of their own, as in DDSketch (Masson,
//! Rim and Lee, *DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees*, VLDB 2019): an
//! estimate is off by no more than [`Sketch::error`] of the value. Where there would be too many bins, any two neighbours
//! become one, as in UDDSketch (Epicoco et al., IEEE Access 2020): the error about doubles, everywhere alike, and is still
//! known. Between two ranks it interpolates as type 7 of Hyndman and Fan does.

use std::collections::BTreeMap;

/// Relative error with which a sketch begins: half a percent.
const ERROR: f64 = 0.005;

/// Bins beyond which neighbours are joined: about 24 bytes each. So many, of this width, hold values that differ by a
/// factor of ten thousand.
const BINS: usize = 1024;

/// Counts of values in bins.
#[derive(Debug, Clone)]
pub struct Sketch {
    /// Logarithm of the factor by which borders grow.
    growth: f64,
    /// By the exponent of their upper border, with the sign of their values.
    above: BTreeMap<i32, u64>,
    below: BTreeMap<i32, u64>,
    zeros: u64,
    count: u64,
}

impl Default for Sketch {
    fn default() -> Self {
        let growth = ((1.0 + ERROR) / (1.0 - ERROR)).ln();
        Self { growth, above: BTreeMap::new(), below: BTreeMap::new(), zeros: 0, count: 0 }
    }
}

impl Sketch {
    /// Counts a finite value.
    pub fn push(&mut self, value: f64) {
        self.count += 1;
        if value == 0.0 {
            self.zeros += 1;
            return;
        }
        let exponent = (value.abs().ln() / self.growth).ceil() as i32;
        let side = if value > 0.0 { &mut self.above } else { &mut self.below };
        *side.entry(exponent).or_default() += 1;
        while self.above.len() + self.below.len() > BINS {
            self.join_neighbours();
        }
    }

    /// How far an estimate may be off, as a share of the value.
    pub fn error(&self) -> f64 {
        (self.growth / 2.0).tanh()
    }

    /// The value below which that share of all lies; none without values.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let top = self.count.checked_sub(1)?;
        let h = top as f64 * share;
        let below = (h as u64).min(top);
        let part = h - below as f64;
        let (a, b) = (self.at(below)?, self.at((below + 1).min(top))?);
        Some(a * (1.0 - part) + b * part)
    }

    /// About the value of that rank, from 0.
    fn at(&self, rank: u64) -> Option<f64> {
        // In the middle of a bin, so that both of its borders are equally far by their own measure.
        let middle = |exponent: &i32| {
            let upper = f64::from(*exponent) * self.growth;
            (2.0 * (upper - (self.growth.exp() + 1.0).ln()).exp()).min(f64::MAX)
        };
        let below = self.below.iter().rev().map(|(exponent, n)| (-middle(exponent), *n));
        let above = self.above.iter().map(|(exponent, n)| (middle(exponent), *n));
        let mut seen = 0;
        below.chain([(0.0, self.zeros)]).chain(above).find_map(|(value, n)| {
            seen += n;
            (seen > rank).then_some(value)
        })
    }

    fn join_neighbours(&mut self) {
        self.growth *= 2.0;
        for side in [&mut self.above, &mut self.below] {
            let mut joined = BTreeMap::new();
            for (exponent, n) in std::mem::take(side) {
                // The upper border of two bins that follow one another.
                *joined.entry(exponent.div_euclid(2) + exponent.rem_euclid(2)).or_default() += n;
            }
            *side = joined;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|v| sketch.push(*v));
        sketch
    }

    fn exact(values: &[f64], share: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let h = (sorted.len() - 1) as f64 * share;
        let (a, b) = (sorted[h.floor() as usize], sorted[h.ceil() as usize]);
        a + (b - a) * (h - h.floor())
    }

    fn is_near(values: &[f64]) -> Result<(), TestCaseError> {
        let sketch = of(values);
        prop_assert!(sketch.above.len() + sketch.below.len() <= BINS);
        for share in [0.0, 0.5, 0.95, 0.99, 1.0] {
            let (got, expected) = (sketch.percentile(share).unwrap(), exact(values, share));
            // Between two values far apart, of the greater one.
            let h = (values.len() - 1) as f64 * share;
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            let scale = sorted[h.floor() as usize].abs().max(sorted[h.ceil() as usize].abs());
            let off = (got - expected).abs();
            prop_assert!(off <= scale * sketch.error() * 1.000_001, "{share}: {got} for {expected}");
        }
        Ok(())
    }

    #[test]
    fn a_sensors_values_are_estimated_within_half_a_percent_in_few_bins() {
        let values: Vec<f64> = (0..500_000).map(|i| 20.0 + (f64::from(i) / 1000.0).sin() * 5.0).collect();
        let sketch = of(&values);
        assert!((sketch.error() - ERROR).abs() < 1e-12 && sketch.above.len() < 70);
        is_near(&values).unwrap();
        assert_eq!(of(&[0.0; 9]).percentile(0.5), Some(0.0));
        assert_eq!(Sketch::default().percentile(0.5), None);
    }

    #[test]
    fn values_of_all_sizes_cost_precision_and_no_more_memory() {
        let values: Vec<f64> = (-300..300).map(|i| 10f64.powi(i)).flat_map(|v| [v, -v, v * 3.0]).collect();
        let sketch = of(&values);
        assert!(sketch.error() > ERROR && sketch.error() < 1.0, "{}", sketch.error());
        is_near(&values).unwrap();
        is_near(&[f64::MAX, -f64::MAX, f64::MIN_POSITIVE, 5e-324]).unwrap();
    }

    proptest! {
        #[test]
        fn no_estimate_is_off_by_more_than_it_says(
            values in prop::collection::vec(
                prop_oneof![-1e3..1e3f64, Just(0.0), -1e-6..1e-6f64, any::<f64>().prop_filter("finite", |v| v.is_normal())],
                1..2000,
            ),
        ) {
            is_near(&values)?;
        }
    }
}
