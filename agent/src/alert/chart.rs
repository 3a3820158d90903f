//! How far a value lies from what its series was lately: one number, of three that are remembered.
//!
//! The control chart of exponentially weighted moving averages (Roberts, *Technometrics* 1, 1959), with the mean and the
//! variance updated together as Finch wrote them down (*Incremental calculation of weighted mean and variance*, 2009). The
//! score of a value is its distance from the mean in standard deviations, both as they were before it. The first readings
//! count alike: a series is known after [`WARM`] of them.

/// Readings before anything is said.
pub const WARM: u32 = 30;

/// What is remembered of a series.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Chart {
    readings: u32,
    mean: f64,
    variance: f64,
}

impl Chart {
    /// Takes the next value, which is finite; what lies `over` readings back weighs a third of it. Gives its score and the
    /// mean that was expected; none before enough is known, or where all values were the same so far.
    pub fn take(&mut self, value: f64, over: f64) -> Option<(f64, f64)> {
        let (mean, deviation) = (self.mean, self.variance.sqrt());
        let score = (self.readings >= WARM && deviation > 0.0).then(|| (value - mean).abs() / deviation);
        self.readings = self.readings.saturating_add(1);
        let weight = (1.0 / f64::from(self.readings)).max(1.0 / over.max(1.0));
        let step = weight * (value - mean);
        self.mean = mean + step;
        self.variance = (1.0 - weight) * (self.variance + step * (value - mean));
        if !(self.mean.is_finite() && self.variance.is_finite()) {
            // Beyond doubles: begin anew.
            *self = Self::default();
        }
        score.filter(|s| s.is_finite()).map(|score| (score, mean))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_readings_give_the_plain_mean_and_variance() {
        let (mut chart, values) = (Chart::default(), [3.0, 5.0, 4.0, 9.0, -1.0, 2.5]);
        values.iter().for_each(|v| assert_eq!(chart.take(*v, 1000.0), None));
        let mean = values.iter().sum::<f64>() / 6.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 6.0;
        assert!((chart.mean - mean).abs() < 1e-12 && (chart.variance - variance).abs() < 1e-12, "{chart:?}");
    }

    #[test]
    fn a_value_far_from_what_was_lately_stands_out_and_becomes_usual() {
        let mut chart = Chart::default();
        let wave = |n: u32| 20.0 + f64::from(n % 7);
        let scores: Vec<_> = (0..500).map(|n| chart.take(wave(n), 100.0)).collect();
        assert!(scores[..WARM as usize].iter().all(Option::is_none));
        assert!(scores[40..].iter().all(|s| s.unwrap().0 < 2.0), "{scores:?}");
        let (score, expected) = chart.take(60.0, 100.0).unwrap();
        assert!(score > 15.0 && (expected - 23.0).abs() < 0.5, "{score} {expected}");
        let later: Vec<f64> = (0..500).filter_map(|n| Some(chart.take(wave(n) + 40.0, 100.0)?.0)).collect();
        assert!(later[400..].iter().all(|s| *s < 2.0), "the new level is the usual one now");
    }

    #[test]
    fn what_never_changed_has_no_deviation_and_nothing_is_said() {
        let mut chart = Chart::default();
        assert!((0..100).all(|_| chart.take(5.0, 50.0).is_none()));
    }

    proptest! {
        #[test]
        fn no_values_bring_it_out_of_step(values in prop::collection::vec(any::<f64>().prop_filter("finite", |v| v.is_finite()), 0..200)) {
            let mut chart = Chart::default();
            for value in values {
                if let Some((score, expected)) = chart.take(value, 50.0) {
                    prop_assert!(score.is_finite() && score >= 0.0 && expected.is_finite());
                }
                prop_assert!(chart.mean.is_finite() && chart.variance.is_finite() && chart.variance >= 0.0);
            }
        }
    }
}
