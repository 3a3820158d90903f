//! How long to wait after a failure: growing pauses with jitter, the jitter passed in.

use tributary_contract::time::DAY_MICROS;

/// Pauses between attempts: the first, doubled with each failure, up to the longest. Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: i64,
    longest: i64,
}

/// A fraction in [0, 1) drawn by the caller; anything else is held at the ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// Takes a fraction; NaN counts as 0.
    pub const fn new(fraction: f64) -> Self {
        if fraction.is_nan() { Self(0.0) } else { Self(fraction.clamp(0.0, 1.0)) }
    }

    /// The fraction, 0 to 1.
    pub const fn fraction(self) -> f64 {
        self.0
    }
}

impl Backoff {
    /// Pauses from `first` to `longest` microseconds. Both are held between a millisecond (none at all would be a busy
    /// loop) and a day (more would be never), and `longest` is at least `first`.
    pub const fn new(first: i64, longest: i64) -> Self {
        let first = if first < 1_000 { 1_000 } else { first };
        let first = if first > DAY_MICROS { DAY_MICROS } else { first };
        let longest = if longest > DAY_MICROS { DAY_MICROS } else { longest };
        Self { first, longest: if longest < first { first } else { longest } }
    }

    /// The pause after failure number `attempt` (1 is the first), microseconds: half of it fixed, half by `jitter`,
    /// so that a thousand gateways that lost their link together don't come back together.
    pub fn delay(&self, attempt: u32, jitter: Jitter) -> i64 {
        let doublings = attempt.saturating_sub(1).min(62);
        let full = i64::try_from((i128::from(self.first) << doublings).min(i128::from(self.longest)))
            .unwrap_or(self.longest);
        full / 2 + ((full - full / 2) as f64 * jitter.0) as i64
    }

    /// The longest pause, microseconds.
    pub const fn longest(&self) -> i64 {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pause_is_never_zero_never_beyond_the_longest_and_never_shrinks(
            first in any::<i64>(), longest in any::<i64>(), attempt in any::<u32>(), jitter in any::<f64>(),
        ) {
            let backoff = Backoff::new(first, longest);
            let delay = backoff.delay(attempt, Jitter::new(jitter));
            prop_assert!(delay >= 500 && delay <= backoff.longest());
            prop_assert!(backoff.delay(attempt.saturating_add(1), Jitter::new(jitter)) >= delay);
        }
    }

    #[test]
    fn pauses_double_until_the_longest() {
        let backoff = Backoff::new(1_000_000, 300_000_000);
        let seconds: Vec<_> = (1..=10).map(|n| backoff.delay(n, Jitter::new(1.0)) / 1_000_000).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(backoff.delay(1, Jitter::new(0.0)), 500_000);
    }
}
