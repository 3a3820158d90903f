//! How far event time has come for one device: its watermark, whether it is idle, and which windows are closed for good.

use tributary_contract::time::Timestamp;

/// How finely the time of a closing is remembered: the correction horizon in so many steps.
const STEPS: i64 = 4;

/// What is known of one device's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Greatest trusted event time; none before the first.
    newest: Option<Timestamp>,
    /// Processing time of its last reading.
    last_seen: Option<Timestamp>,
}

impl Progress {
    /// Takes note of a reading that came at `received_at`; `trusted` is its event time, if that can be believed.
    pub fn saw(&mut self, trusted: Option<Timestamp>, received_at: Timestamp) {
        self.newest = self.newest.max(trusted);
        self.last_seen = self.last_seen.max(Some(received_at));
    }

    /// The wall clock stepped by `by` microseconds: how long ago something was seen stays what it was.
    pub fn clock_stepped(&mut self, by: i64) {
        self.last_seen = self.last_seen.map(|seen| seen.plus(by));
    }

    /// Greatest trusted event time less `lateness` microseconds: no reading below it is expected any more.
    pub fn watermark(&self, lateness: i64) -> Option<Timestamp> {
        self.newest.map(|t| t.plus(-lateness.max(0)))
    }

    /// Whether nothing came for `idle` microseconds of processing time. A clock that went back makes no device idle.
    pub fn is_idle(&self, now: Timestamp, idle: i64) -> bool {
        self.last_seen.is_none_or(|seen| now.since(seen) >= idle.max(0))
    }
}

/// Which windows of one definition are closed for one device, and which of these may still be corrected.
///
/// The time of each closing is remembered only in steps of a quarter of the horizon, so that it stays a handful of
/// numbers a device: a window may be corrected for at least the horizon after its closing, at most a quarter longer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Closing {
    /// Windows that end here or before are closed. None: nothing was closed yet.
    until: Option<Timestamp>,
    /// Windows that end here or before are beyond correction.
    settled: Option<Timestamp>,
    /// Least start of a closed window that may still be corrected.
    least: Option<Timestamp>,
    /// Steps, oldest first.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    first_at: Timestamp,
    last_at: Timestamp,
    until: Timestamp,
}

/// Where a window stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not closed yet.
    Open,
    /// Closed; a late reading emits it again.
    Correctable,
    /// Closed for longer than the horizon: a late reading is only counted.
    Settled,
}

impl Closing {
    /// Where the window that ends at `end` stands.
    pub fn standing(&self, end: Timestamp) -> Standing {
        if self.settled.is_some_and(|t| end <= t) {
            Standing::Settled
        } else if self.until.is_some_and(|t| end <= t) {
            Standing::Correctable
        } else {
            Standing::Open
        }
    }

    /// The end of the last closed window.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// Takes note that the window `[start, end)` was decided at `at` (processing time).
    pub fn close(&mut self, start: Timestamp, end: Timestamp, at: Timestamp, horizon: i64) {
        self.least = Some(self.least.map_or(start, |least| least.min(start)));
        if self.until.is_some_and(|t| end <= t) {
            // A correction: how long it may go on hangs on when the device's time first passed the window.
            return;
        }
        self.until = Some(end);
        match self.steps.last_mut() {
            Some(step) if at.since(step.first_at) < horizon / STEPS => {
                *step = Step { first_at: step.first_at.min(at), last_at: at, until: end };
            }
            _ => {
                // There are a handful at most, and one of these for each window of each device.
                self.steps.reserve_exact(1);
                self.steps.push(Step { first_at: at, last_at: at, until: end });
            }
        }
    }

    /// The wall clock stepped by `by` microseconds: how long ago a window was closed stays what it was.
    pub fn clock_stepped(&mut self, by: i64) {
        for step in &mut self.steps {
            step.first_at = step.first_at.plus(by);
            step.last_at = step.last_at.plus(by);
        }
    }

    /// Lets go of windows that were closed `horizon` microseconds of processing time ago.
    pub fn settle(&mut self, now: Timestamp, horizon: i64) {
        for step in &mut self.steps {
            // A step taken while the clock was ahead would otherwise stay until that time comes.
            step.last_at = step.last_at.min(now);
            step.first_at = step.first_at.min(now);
        }
        let gone = self.steps.iter().take_while(|s| now.since(s.last_at) >= horizon).count();
        if let Some(step) = self.steps.drain(..gone).next_back() {
            self.settled = self.settled.max(Some(step.until));
            self.least = self.least.max(self.settled);
        }
    }

    /// Event times `[from, to)` of closed windows that may still be corrected, if there are any.
    pub fn correctable(&self) -> Option<(Timestamp, Timestamp)> {
        let (from, to) = (self.least?, self.until?);
        (from < to && self.settled.is_none_or(|s| s < to)).then_some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HOUR, MINUTE};

    fn at(minutes: i64) -> Timestamp {
        Timestamp(minutes * MINUTE)
    }

    #[test]
    fn a_watermark_is_the_newest_trusted_time_less_the_lateness_and_never_goes_back() {
        let mut p = Progress::default();
        assert_eq!(p.watermark(MINUTE), None);
        p.saw(Some(at(10)), at(10));
        p.saw(Some(at(3)), at(11));
        p.saw(None, at(12));
        assert_eq!(p.watermark(MINUTE), Some(at(9)));
        assert_eq!(Progress::default().watermark(0), None);
    }

    #[test]
    fn a_clock_that_went_back_makes_no_device_idle() {
        let mut p = Progress::default();
        p.saw(None, at(100));
        assert!(!p.is_idle(at(50), 5 * MINUTE));
        assert!(!p.is_idle(at(104), 5 * MINUTE));
        assert!(p.is_idle(at(105), 5 * MINUTE));
    }

    #[test]
    fn a_window_can_be_corrected_for_the_horizon_and_at_most_a_quarter_longer() {
        let mut c = Closing::default();
        assert_eq!(c.standing(at(1)), Standing::Open);
        c.close(at(0), at(1), at(10), HOUR);
        c.close(at(1), at(2), at(24), HOUR);
        c.close(at(2), at(3), at(25), HOUR);
        c.settle(at(69), HOUR);
        assert_eq!(c.standing(at(1)), Standing::Correctable);
        c.settle(at(84), HOUR);
        assert_eq!(c.standing(at(2)), Standing::Settled);
        assert_eq!(c.standing(at(3)), Standing::Correctable);
        assert_eq!(c.correctable(), Some((at(2), at(3))));
        c.settle(at(85), HOUR);
        assert_eq!(c.standing(at(3)), Standing::Settled);
        assert_eq!(c.correctable(), None);
        assert_eq!(c.standing(at(4)), Standing::Open);
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_no_window_correctable_for_ever() {
        let mut c = Closing::default();
        c.close(at(0), at(1), at(1_000_000), HOUR);
        c.settle(at(10), HOUR);
        assert_eq!(c.standing(at(1)), Standing::Correctable);
        c.settle(at(70), HOUR);
        assert_eq!(c.standing(at(1)), Standing::Settled);
    }

    #[test]
    fn a_step_of_the_clock_makes_nothing_idle_and_settles_nothing() {
        for by in [1_000_000, -1_000_000] {
            let mut p = Progress::default();
            p.saw(Some(at(1)), at(100));
            p.clock_stepped(by * MINUTE);
            assert!(!p.is_idle(at(104 + by), 5 * MINUTE) && p.is_idle(at(105 + by), 5 * MINUTE));
            assert_eq!(p.watermark(0), Some(at(1)), "event time knows no steps");
            let mut c = Closing::default();
            c.close(at(0), at(1), at(100), HOUR);
            c.clock_stepped(by * MINUTE);
            c.settle(at(159 + by), HOUR);
            assert_eq!(c.standing(at(1)), Standing::Correctable);
            c.settle(at(160 + by), HOUR);
            assert_eq!(c.standing(at(1)), Standing::Settled);
        }
    }

    #[test]
    fn the_steps_of_a_device_stay_a_handful() {
        let mut c = Closing::default();
        for minute in 0..10_000 {
            c.close(at(minute), at(minute + 1), at(minute + 1), HOUR);
            c.settle(at(minute + 1), HOUR);
            assert!(c.steps.len() <= 6, "{}", c.steps.len());
        }
        assert_eq!(c.until(), Some(at(10_000)));
    }
}
