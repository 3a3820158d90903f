//! Flash: what was written against a day's budget and the device's rated endurance. Pure; who reads the counters is an edge.
//!
//! A commit costs at least a block of the file system, so the interval between commits is what a budget can act on. It is
//! lengthened as far as what is left of the day's budget demands, and never beyond [`LONGEST`]. Only the interval: a batch
//! still goes when it reaches its bytes or half of a broker's in-flight window, whatever the budget says, because a
//! broker that waits for acknowledgements would stop sending.

use serde::{Deserialize, Serialize};
use tributary_contract::status::FlashStatus;
use tributary_contract::time::{DAY_MICROS, Timestamp};

/// The longest commit interval that a budget may cause, microseconds: brokers and sensors wait for acknowledgements.
pub const LONGEST: i64 = 20_000_000;
/// Less than this is no basis for bytes a day, microseconds.
const BASIS: i64 = 3_600_000_000;
/// No commit costs less.
const BLOCK: u64 = 4096;

/// Counters at one moment, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// Written by this process since it began.
    pub own: u64,
    /// Written to the whole device since the machine began, by anybody; none where there is no such counter.
    pub device: Option<u64>,
}

/// What is kept over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Since when it is counted.
    pub since: Option<Timestamp>,
    /// The day that `today` is of, in days since 1970.
    pub day: i64,
    /// Bytes of this process on that day.
    pub today: u64,
    /// Bytes of this process since then.
    pub own: u64,
    /// Bytes of the device since then, as far as we were there to see.
    pub device: u64,
}

/// What an operator set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes a day; 0 for no budget.
    pub per_day: u64,
    /// Bytes that the device is rated for in its life; 0 where that isn't known.
    pub endurance: u64,
    /// The commit interval without a budget, microseconds.
    pub interval: i64,
}

/// Adds up samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    kept: Kept,
    last: Sample,
    /// What this process had written, and since when, as the meter began.
    first: Sample,
}

impl Meter {
    /// Goes on from what was kept.
    pub fn new(kept: Kept, first: Sample, now: Timestamp) -> Self {
        let since = kept.since.filter(|since| *since <= now).or(Some(now));
        Self { kept: Kept { since, ..kept }, last: first, first }
    }

    /// Takes what was written since the last sample.
    pub fn add(&mut self, sample: Sample, now: Timestamp) {
        let day = now.micros().div_euclid(DAY_MICROS);
        if day != self.kept.day {
            (self.kept.day, self.kept.today) = (day, 0);
        }
        let own = sample.own.saturating_sub(self.last.own);
        self.kept.today = self.kept.today.saturating_add(own);
        self.kept.own = self.kept.own.saturating_add(own);
        if let (Some(before), Some(after)) = (self.last.device, sample.device) {
            self.kept.device = self.kept.device.saturating_add(after.saturating_sub(before));
        }
        self.last = sample;
    }

    /// What to keep.
    pub const fn kept(&self) -> Kept {
        self.kept
    }

    /// The commit interval that keeps what is left of the day's budget, given how many commits there were since the meter
    /// began; microseconds.
    pub fn interval(&self, limits: &Limits, commits: u64, now: Timestamp) -> i64 {
        if limits.per_day == 0 {
            return limits.interval;
        }
        let longest = LONGEST.max(limits.interval);
        let left = limits.per_day.saturating_sub(self.kept.today);
        let spent = self.last.own.saturating_sub(self.first.own);
        let each = spent.checked_div(commits).unwrap_or(BLOCK).max(BLOCK);
        let time = DAY_MICROS - now.micros().rem_euclid(DAY_MICROS);
        if left < each {
            return longest;
        }
        let commits = i64::try_from(left / each).unwrap_or(i64::MAX);
        (time / commits).clamp(limits.interval, longest)
    }

    /// For the status; `payload` is the bytes of payloads taken in since the meter began.
    pub fn status(&self, limits: &Limits, payload: u64, interval: i64, now: Timestamp) -> FlashStatus {
        let own = self.last.own.saturating_sub(self.first.own);
        let device = self.last.device.zip(self.first.device).map(|(a, b)| a.saturating_sub(b));
        let each = |bytes: u64| (payload > 0).then(|| bytes as f64 / payload as f64);
        let age = self.kept.since.map_or(0, |since| now.since(since));
        let per_day = |bytes: u64| bytes as f64 * DAY_MICROS as f64 / age as f64;
        // The device wears by whatever writes to it, where it tells.
        let written = if device.is_some() { self.kept.device } else { self.kept.own };
        let daily = (age >= BASIS).then(|| per_day(written));
        let left = limits.endurance.saturating_sub(written) as f64;
        FlashStatus {
            own_bytes: own,
            device_bytes: device,
            payload_bytes: payload,
            own_per_payload: each(own),
            device_per_payload: device.and_then(each),
            today_bytes: self.kept.today,
            bytes_per_day: daily.map(|d| d as u64),
            budget_per_day: limits.per_day,
            endurance: limits.endurance,
            life_days: daily.filter(|d| limits.endurance > 0 && *d >= 1.0).map(|d| left / d),
            commit_interval_ms: u64::try_from(interval / 1000).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const NOON: Timestamp = Timestamp(DAY_MICROS / 2);
    const SECOND: i64 = 1_000_000;

    fn meter(today: u64) -> Meter {
        let mut meter = Meter::new(Kept::default(), Sample { own: 0, device: Some(0) }, Timestamp(0));
        meter.add(Sample { own: today, device: Some(today * 2) }, NOON);
        meter
    }

    #[test]
    fn a_budget_lengthens_the_interval_by_what_is_left_of_the_day_and_never_beyond_the_longest() {
        let limits = |per_day| Limits { per_day, endurance: 0, interval: SECOND };
        // 10 MiB in 1,280 commits: 8 KiB each.
        let spent = meter(10 * MIB);
        let interval = |per_day| spent.interval(&limits(per_day), 1280, NOON);
        assert_eq!(interval(0), SECOND, "no budget");
        assert_eq!(interval(1 << 40), SECOND, "more than enough");
        // Half a day is left: 100 MiB are 12,800 commits.
        assert_eq!(interval(110 * MIB), DAY_MICROS / 2 / 12_800);
        assert_eq!(interval(11 * MIB), LONGEST);
        assert_eq!(interval(10 * MIB), LONGEST, "nothing is left");
        let slow = Limits { interval: 60 * SECOND, ..limits(MIB) };
        assert_eq!(spent.interval(&slow, 1280, NOON), 60 * SECOND, "what was set is never shortened");
    }

    #[test]
    fn a_new_day_has_its_budget_whole_and_a_restart_does_not_begin_it_anew() {
        let mut before = meter(10 * MIB);
        assert_eq!(before.kept().today, 10 * MIB);
        let mut after = Meter::new(before.kept(), Sample { own: 500, device: Some(7) }, NOON);
        after.add(Sample { own: 600, device: Some(9) }, NOON.plus(SECOND));
        let kept = after.kept();
        assert_eq!((kept.today, kept.own, kept.device), (10 * MIB + 100, 10 * MIB + 100, 20 * MIB + 2));
        before.add(Sample { own: 10 * MIB + 5, device: None }, NOON.plus(DAY_MICROS));
        assert_eq!(before.kept().today, 5);
    }

    #[test]
    fn the_status_says_bytes_a_payload_byte_bytes_a_day_and_what_is_left_of_the_device() {
        let limits = Limits { per_day: 0, endurance: 1000 * MIB, interval: SECOND };
        let status = meter(10 * MIB).status(&limits, 20 * MIB, SECOND, NOON);
        assert_eq!((status.own_per_payload, status.device_per_payload), (Some(0.5), Some(1.0)));
        assert_eq!((status.bytes_per_day, status.today_bytes), (Some(40 * MIB), 10 * MIB));
        assert_eq!(status.life_days, Some((1000.0 - 20.0) / 40.0));
        let young = meter(10).status(&limits, 0, SECOND, Timestamp(SECOND));
        assert_eq!((young.bytes_per_day, young.life_days, young.own_per_payload), (None, None, None));
    }
}
