//! How fast the link is: bytes that arrived by the time that uploads were on their way, and how long one takes.

use tributary_contract::time::Timestamp;

/// A sample is made of at least so much time, microseconds, …
const SAMPLE_TIME: i64 = 2_000_000;
/// … or so many bytes.
const SAMPLE_BYTES: u64 = 1 << 20;
/// How fast older samples are forgotten: time on the way in which two thirds of them are, microseconds.
const MEMORY: f64 = 120e6;
/// A single upload that takes longer than this says more of the clock than of the link, microseconds.
const LONGEST: i64 = 3 * 3_600_000_000;

/// What is known of the link's speed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Speed {
    /// Uploads on their way, and when that was last looked at.
    active: usize,
    at: Timestamp,
    /// Of the sample that is being made: time with an upload on its way, and bytes that arrived.
    busy: i64,
    bytes: u64,
    per_second: Option<f64>,
    lasting: Option<f64>,
}

impl Speed {
    /// What an earlier life knew of it, bytes a second.
    pub fn known(per_second: u64) -> Self {
        Self { per_second: (per_second > 0).then_some(per_second as f64), ..Self::default() }
    }

    /// An upload begins.
    pub fn begins(&mut self, now: Timestamp) {
        self.pass(now);
        self.active += 1;
    }

    /// An upload that began at `began` ends; `bytes` of it are known to have arrived.
    pub fn ends(&mut self, began: Timestamp, bytes: u64, now: Timestamp) {
        self.pass(now);
        self.active = self.active.saturating_sub(1);
        let took = now.since(began);
        if bytes > 0 && (1..=LONGEST).contains(&took) {
            let took = took as f64;
            self.lasting = Some(self.lasting.map_or(took, |known| known * 0.7 + took * 0.3));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.active == 0 {
            self.sample();
        }
    }

    /// Makes a sample of what was seen since the last one, if that is enough.
    fn sample(&mut self) {
        let enough = self.busy >= SAMPLE_TIME || self.bytes >= SAMPLE_BYTES;
        if enough && self.busy > 0 && self.bytes > 0 {
            let sample = self.bytes as f64 / (self.busy as f64 / 1e6);
            // A long sample counts for more, but no single one for everything.
            let weight = (1.0 - (-(self.busy as f64) / MEMORY).exp()).min(0.7);
            self.per_second = Some(self.per_second.map_or(sample, |known| known + (sample - known) * weight));
            (self.busy, self.bytes) = (0, 0);
        }
    }

    /// The link failed: what is known of how long an upload takes no longer stands.
    pub fn failed(&mut self) {
        self.lasting = None;
    }

    fn pass(&mut self, now: Timestamp) {
        let passed = now.since(self.at);
        if passed > 0 {
            // Not before: others may have ended at the same instant.
            self.sample();
        }
        if self.active > 0 && (0..=LONGEST).contains(&passed) {
            self.busy += passed;
        }
        self.at = now;
    }

    /// Bytes a second while something is sent; none before enough was.
    pub fn per_second(&self) -> Option<f64> {
        self.per_second
    }

    /// How long an upload takes, microseconds; none before one ended.
    pub fn lasting(&self) -> Option<f64> {
        self.lasting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// Uploads of 100 KiB one after the other, `at_once` of them together, over a link of that speed.
    fn after(uploads: i64, at_once: usize, per_second: f64) -> Speed {
        let (mut speed, mut now) = (Speed::default(), Timestamp(0));
        let bytes = 100 << 10;
        for _ in 0..uploads {
            let began = now;
            (0..at_once).for_each(|_| speed.begins(now));
            now = now.plus((at_once as f64 * bytes as f64 / per_second * 1e6) as i64);
            (0..at_once).for_each(|_| speed.ends(began, bytes, now));
            // A rest says nothing of the link.
            now = now.plus(100 * SECOND);
        }
        speed
    }

    #[test]
    fn the_speed_is_that_of_the_link_however_many_share_it_and_rest() {
        for at_once in [1, 3] {
            for link in [2_000.0, 150_000.0, 8e6] {
                let measured = after(60, at_once, link).per_second().unwrap();
                assert!((measured / link - 1.0).abs() < 0.02, "{measured} instead of {link}");
            }
        }
    }

    #[test]
    fn a_link_that_becomes_slow_is_known_as_slow_soon() {
        let mut speed = after(20, 1, 1e6);
        let mut now = Timestamp(1 << 40);
        for _ in 0..4 {
            speed.begins(now);
            let began = now;
            now = now.plus(50 * SECOND);
            speed.ends(began, 100_000, now);
        }
        assert!(speed.per_second().unwrap() < 300_000.0 && speed.lasting().unwrap() > 30e6);
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_gives_no_speed() {
        let mut speed = Speed::default();
        speed.begins(Timestamp(0));
        speed.ends(Timestamp(0), 5 << 20, Timestamp(0));
        assert_eq!((speed.per_second(), speed.lasting()), (None, None));
        speed.begins(Timestamp(0));
        speed.ends(Timestamp(0), 100, Timestamp(-5 * SECOND));
        speed.begins(Timestamp(0));
        speed.ends(Timestamp(0), 100, Timestamp(i64::MAX / 2));
        assert_eq!(speed.lasting(), None);
    }
}
