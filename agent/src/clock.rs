//! Time as the agent knows it: what the wall clock shows, whether it can be believed, and how long the machine runs.
//!
//! A gateway without a battery for its clock starts in 1970, or where it was switched off, and learns the time when the
//! network is there. Until then its clock is *not synchronised*: it shows no time earlier than what the buffer has seen,
//! goes on with the machine's uptime, and what it stamps is marked. Pure; the edge is `pipeline/clock.rs`.

use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::time::Timestamp;

/// Before this (2026-01-01, UTC) the program didn't exist: a clock that shows an earlier time is wrong.
pub const BUILT: Timestamp = Timestamp(1_767_225_600_000_000);

/// A change of wall time against uptime beyond this is a step: more than a clock is adjusted between two looks,
/// microseconds.
pub const STEP: i64 = 2_000_000;

/// One instant, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Wall time, UTC.
    pub wall: Timestamp,
    /// Which start of the machine; 0 where that isn't known.
    pub boot: u64,
    /// Microseconds since the machine started, time asleep included.
    pub uptime: i64,
    /// Whether `wall` can be believed.
    pub synced: bool,
}

impl Moment {
    /// Wall time that is believed, on a machine of which nothing else is known.
    pub const fn believed(wall: Timestamp) -> Self {
        Self { wall, boot: 0, uptime: 0, synced: true }
    }

    /// What is to be added to a time that was stamped at `earlier`, to have it as the clock shows it now. None: another
    /// start of the machine, of which nobody knows how long ago it was.
    pub fn correction(&self, earlier: &Moment) -> Option<i64> {
        let same = self.boot == earlier.boot && self.boot != 0;
        same.then(|| self.wall.since(earlier.wall).saturating_sub(self.uptime.saturating_sub(earlier.uptime)))
    }
}

/// What the machine says of its clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The system's wall clock.
    pub system: Timestamp,
    /// Which start of the machine; 0 where that isn't known.
    pub boot: u64,
    /// Microseconds since then.
    pub uptime: i64,
    /// Whether a service that sets the clock from the network says that it has.
    pub set: bool,
    /// Whether there is such a service.
    pub served: bool,
    /// Whether the machine has a clock that runs without power.
    pub battery: bool,
}

/// Both clocks at one instant. Where nobody tells whether the clock was set, it is believed unless it shows a time before
/// the program was built. A clock that isn't believed shows at least `seen`, the newest time that the buffer knows, and
/// what the machine has run since it started.
pub fn judge(facts: &Facts, seen: Timestamp) -> Moment {
    let told = facts.set || facts.battery || !facts.served;
    let synced = facts.system >= BUILT && told;
    let least = seen.max(BUILT).plus(facts.uptime.max(0));
    let wall = if synced { facts.system } else { facts.system.max(least) };
    Moment { wall, boot: facts.boot, uptime: facts.uptime, synced }
}

/// A step of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Now, as the clock would show it without the step.
    pub before: Moment,
    /// By how much it went forward, microseconds; negative: back.
    pub by: i64,
}

/// Sees steps, and that a clock has become synchronised.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watch {
    last: Option<Moment>,
}

impl Watch {
    /// Looks at the clock; tells of a step since the last look, or that the clock is believed since, or no more.
    pub fn look(&mut self, now: Moment) -> Option<Step> {
        let last = self.last.replace(now)?;
        let by = now.correction(&last).unwrap_or(0);
        if by.abs() <= STEP && last.synced == now.synced {
            return None;
        }
        Some(Step { before: Moment { wall: now.wall.plus(-by), synced: last.synced, ..now }, by })
    }
}

/// A time of receipt, by the clock as it is after `step`: what a connection stamped right before it was queued.
pub fn after_step(stamped: Timestamp, step: &Step) -> Timestamp {
    let after = step.before.wall.plus(step.by);
    let corrected = stamped.plus(step.by);
    if corrected.since(after).abs() < stamped.since(after).abs() { corrected } else { stamped }
}

/// `quality` without one doubt.
pub fn without(quality: Quality, doubt: Doubt) -> Quality {
    Doubt::ALL.into_iter().filter(|d| *d != doubt && quality.has(*d)).fold(Quality::GOOD, Quality::with)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const YEAR: i64 = 365 * 86_400 * SECOND;

    fn at(wall: i64, uptime: i64) -> Moment {
        Moment { wall: Timestamp(wall), boot: 7, uptime, synced: true }
    }

    #[test]
    fn a_clock_is_believed_when_it_is_plausible_and_nobody_says_that_it_is_yet_to_be_set() {
        let now = BUILT.plus(YEAR);
        let facts = Facts { system: now, boot: 1, uptime: 5, set: false, served: false, battery: false };
        let synced = |facts: Facts| judge(&facts, BUILT).synced;
        assert!(synced(facts));
        assert!(!synced(Facts { served: true, ..facts }));
        assert!(synced(Facts { served: true, set: true, ..facts }));
        assert!(synced(Facts { served: true, battery: true, ..facts }));
        assert!(!synced(Facts { system: Timestamp(0), ..facts }), "1970");
        assert!(!synced(Facts { system: BUILT.plus(-1), set: true, ..facts }));
    }

    #[test]
    fn a_clock_that_is_not_believed_shows_nothing_before_what_was_seen_and_goes_on() {
        let facts =
            Facts { system: Timestamp(0), boot: 1, uptime: SECOND, set: false, served: true, battery: false };
        let seen = BUILT.plus(YEAR);
        assert_eq!(judge(&facts, seen).wall, seen.plus(SECOND));
        assert_eq!(judge(&facts, Timestamp(0)).wall, BUILT.plus(SECOND));
        let later = Facts { uptime: 5 * SECOND, ..facts };
        assert_eq!(judge(&later, seen).wall, seen.plus(5 * SECOND));
        let saved = Facts { system: seen.plus(YEAR), ..facts };
        assert_eq!(judge(&saved, seen).wall, seen.plus(YEAR), "where it was switched off is later");
        let right = Facts { set: true, system: seen.plus(-YEAR / 2), ..facts };
        assert_eq!(judge(&right, seen).wall, right.system, "a clock that was ahead once holds nothing up");
    }

    #[test]
    fn only_what_a_clock_does_beyond_the_passing_of_time_is_a_step() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(at(100 * SECOND, 0)), None);
        assert_eq!(watch.look(at(160 * SECOND, 60 * SECOND)), None);
        assert_eq!(watch.look(at(162 * SECOND, 61 * SECOND)), None, "adjusted");
        let forward = watch.look(at(YEAR, 62 * SECOND)).unwrap();
        assert_eq!(forward.before.wall, Timestamp(163 * SECOND));
        assert_eq!(forward.by, YEAR - 163 * SECOND);
        let back = watch.look(at(170 * SECOND, 63 * SECOND)).unwrap();
        assert_eq!(back.by, 169 * SECOND - YEAR);
        let doubted = Moment { synced: false, ..at(171 * SECOND, 64 * SECOND) };
        assert_eq!(watch.look(doubted).map(|s| s.by), Some(0), "nothing moved, and it is no more believed");
        let elsewhere = Moment { boot: 0, ..doubted };
        assert_eq!(watch.look(elsewhere), None, "where uptime isn't known there are no steps");
    }

    #[test]
    fn a_stamp_from_before_a_step_is_corrected_and_one_from_after_it_is_not() {
        for by in [YEAR, -YEAR] {
            let step = Step { before: at(2 * YEAR, 10 * SECOND), by };
            let after = Timestamp(2 * YEAR + by);
            assert_eq!(after_step(Timestamp(2 * YEAR - SECOND), &step), after.plus(-SECOND));
            assert_eq!(after_step(after.plus(SECOND), &step), after.plus(SECOND));
        }
    }

    #[test]
    fn one_doubt_goes_and_the_others_stay() {
        let both = Quality::GOOD.with(Doubt::ClockUnsynced).with(Doubt::Retained);
        assert_eq!(without(both, Doubt::ClockUnsynced), Quality::GOOD.with(Doubt::Retained));
    }
}
