//! The bucket of tokens that holds a rate: what passes is taken out, what isn't there is waited for.

/// The least that may pass at once, bytes: a piece of a body.
const LEAST_BURST: f64 = 8192.0;
/// Nobody waits longer than this, seconds: a long answer must not make the next request look as if it stood still.
const LONGEST_WAIT: f64 = 240.0;

/// Tokens of one rate, one a byte. Time is microseconds on any clock that never goes back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tokens {
    rate: f64,
    level: f64,
    at: i64,
}

impl Tokens {
    /// A full bucket. `rate` is bytes a second, 1 at least.
    pub const fn new(rate: u64, now: i64) -> Self {
        let rate = if rate == 0 { 1.0 } else { rate as f64 };
        let mut new = Self { rate, level: 0.0, at: now };
        new.level = new.burst();
        new
    }

    /// What may pass at once after a rest, bytes: that of a second, 8 KiB at least.
    pub const fn burst(&self) -> f64 {
        if self.rate > LEAST_BURST { self.rate } else { LEAST_BURST }
    }

    /// Takes what passed; there may be too little of it, and then others wait for longer.
    pub fn take(&mut self, bytes: u64, now: i64) {
        self.fill(now);
        self.level = (self.level - bytes as f64).max(-self.rate * LONGEST_WAIT);
    }

    /// How long to wait until the next piece may pass, microseconds; 0: it may now.
    pub fn wait(&mut self, now: i64) -> i64 {
        self.fill(now);
        if self.level > 0.0 { 0 } else { ((1.0 - self.level) / self.rate * 1e6).ceil() as i64 }
    }

    fn fill(&mut self, now: i64) {
        let passed = now.saturating_sub(self.at).max(0) as f64 / 1e6;
        self.level = (self.level + passed * self.rate).min(self.burst());
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In any stretch of time: what the rate gives, one burst, and the one piece that went into debt.
        #[test]
        fn no_stretch_carries_more_than_rate_and_burst_and_a_greedy_sender_gets_it_all(
            rate in 512u64..1_000_000, pieces in prop::collection::vec((1u64..65_536, 0i64..3_000_000), 1..100),
        ) {
            let mut tokens = Tokens::new(rate, 0);
            let (mut now, mut passed) = (0i64, Vec::new());
            for (bytes, rest) in pieces {
                now += rest;
                let wait = tokens.wait(now);
                now += wait;
                prop_assert_eq!(tokens.wait(now), 0, "what was said is long enough");
                tokens.take(bytes, now);
                passed.push((now, bytes));
            }
            let greatest = passed.iter().map(|(_, b)| *b).max().unwrap_or(0) as f64;
            for (i, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0.0;
                for (to, bytes) in &passed[i..] {
                    sum += *bytes as f64;
                    let fair = (to - from) as f64 / 1e6 * rate as f64 + tokens.burst() + greatest + 1.0;
                    prop_assert!(sum <= fair, "{sum} > {fair}");
                }
            }
        }
    }

    #[test]
    fn a_greedy_sender_gets_the_whole_rate() {
        let mut tokens = Tokens::new(2048, 0);
        let (mut now, mut sent) = (0, 0);
        while sent < 4 << 20 {
            now += tokens.wait(now);
            tokens.take(4096, now);
            sent += 4096;
        }
        let fair = (4 << 20) as f64 / 2048.0;
        assert!((now as f64 / 1e6 - fair).abs() < 10.0, "{now} µs instead of {fair} s");
    }
}
