//! Edge: the clocks, as a value that tests replace.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tributary_contract::time::Timestamp;

use crate::clock::{BUILT, Facts, Moment, STEP, judge};

/// What `/proc/uptime` counts in, microseconds.
const TICK: i64 = 10_000;
/// How often both clocks are looked at until that takes no longer than a tick.
const LOOKS: usize = 5;

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Now, UTC: as it goes on from the moment that was last settled. So a step of the clock is there for all stages at
    /// once, when each has taken note of it.
    fn now(&self) -> Timestamp;

    /// Looks at both clocks, and whether wall time can be believed. Only intake looks, because it keeps apart what was
    /// stamped before a step and after it.
    fn moment(&self) -> Moment {
        Moment::believed(self.now())
    }

    /// From now on [`Clock::now`] goes by this moment: every stage knows of the step that led to it, if one did.
    fn settle(&self, _moment: Moment) {}

    /// Tells of the newest time that the buffer has seen: a clock that isn't synchronised shows no earlier one.
    fn has_seen(&self, _newest: Timestamp) {}
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock(Mutex<Look>);

#[derive(Debug)]
struct Look {
    seen: Timestamp,
    settled: Option<(Moment, Instant)>,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self(Mutex::new(Look { seen: BUILT, settled: None }))
    }
}

impl SystemClock {
    fn look(&self) -> MutexGuard<'_, Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let shows = system();
        let Some((moment, at)) = self.look().settled else { return shows };
        let goes_on = moment.wall.plus(i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX));
        // A clock that is adjusted a little is followed; one that stepped isn't before that is settled.
        if moment.synced && shows.since(goes_on).abs() <= STEP { shows } else { goes_on }
    }

    fn moment(&self) -> Moment {
        let facts = facts();
        let mut look = self.look();
        let moment = judge(&facts, look.seen);
        look.settled.get_or_insert_with(|| (moment, Instant::now()));
        moment
    }

    fn settle(&self, moment: Moment) {
        self.look().settled = Some((moment, Instant::now()));
    }

    fn has_seen(&self, newest: Timestamp) {
        self.look().seen = newest;
    }
}

fn system() -> Timestamp {
    let now = SystemTime::now();
    let micros = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    Timestamp(micros)
}

fn facts() -> Facts {
    let (system, uptime) = together(uptime, system);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let boot = boot.filter(|_| uptime.is_some()).map_or(0, |id| boot_number(&id));
    Facts {
        system,
        boot,
        uptime: uptime.unwrap_or(0),
        set: Path::new("/run/systemd/timesync/synchronized").exists(),
        served: Path::new("/run/systemd/timesync").exists(),
        battery: Path::new("/sys/class/rtc/rtc0").exists(),
    }
}

fn uptime() -> Option<i64> {
    parse_uptime(&fs::read_to_string("/proc/uptime").ok()?)
}

/// Both clocks at one instant, wall time first. Whoever is held up between looking at one and at the other would take
/// the delay for an error of the clock; so uptime is looked at before and after, and all of it again where it went on.
fn together(uptime: impl Fn() -> Option<i64>, system: impl Fn() -> Timestamp) -> (Timestamp, Option<i64>) {
    let mut before = uptime();
    for _ in 0..LOOKS {
        let (wall, after) = (system(), uptime());
        if after.zip(before).is_none_or(|(after, before)| after - before <= TICK) {
            return (wall, before);
        }
        before = after;
    }
    (system(), before)
}

/// The first number of `/proc/uptime`, seconds since the start with sleep included, as microseconds.
fn parse_uptime(text: &str) -> Option<i64> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1e6) as i64)
}

/// The first half of a boot id; never 0.
fn boot_number(id: &str) -> u64 {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0).max(1)
}

/// The time from `now` to `at` as a wait, at least a millisecond, at most `longest`.
pub fn until(at: Timestamp, now: Timestamp, longest: Duration) -> Duration {
    let micros = u64::try_from(at.since(now)).unwrap_or(0);
    Duration::from_micros(micros).clamp(Duration::from_millis(1), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_and_boot_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_uptime("5321.25 9876.00\n"), Some(5_321_250_000));
        assert_eq!(parse_uptime("?"), None);
        assert_eq!(boot_number("0123abcd-4567-89ef-0000-111122223333\n"), 0x0123_abcd_4567_89ef);
        assert_ne!(boot_number("00000000-0000-0000"), 0);
    }

    #[test]
    fn both_clocks_are_read_at_one_instant_though_the_machine_is_busy() {
        use std::cell::Cell;
        for busy in [0, 1, 3] {
            let (uptime, looks) = (Cell::new(0), Cell::new(0));
            let system = || {
                // Held up between the two, the first times.
                looks.set(looks.get() + 1);
                uptime.set(uptime.get() + if looks.get() <= busy { 70 * TICK } else { 0 });
                Timestamp(1_000_000_000 + uptime.get())
            };
            let (wall, up) = together(|| Some(uptime.get()), system);
            assert_eq!(wall.since(Timestamp(1_000_000_000)), up.unwrap(), "busy {busy} times");
        }
        assert_eq!(together(|| None, || Timestamp(7)), (Timestamp(7), None));
    }

    #[test]
    fn a_step_shows_only_when_it_is_settled() {
        let clock = SystemClock::default();
        let is_near = |off: i64| clock.now().since(system().plus(off)).abs() <= STEP;
        assert!(is_near(0), "before anybody looked");
        let moment = clock.moment();
        assert!(is_near(0));
        // The clock was an hour ahead until now: what it showed goes on.
        let hour = 1800 * STEP;
        clock.settle(Moment { wall: moment.wall.plus(hour), synced: true, ..moment });
        assert!(is_near(hour));
        let again = clock.moment();
        assert!(is_near(hour), "looked at, and not settled");
        clock.settle(Moment { synced: true, ..again });
        assert!(is_near(0));
    }

    #[test]
    fn the_machine_tells_when_it_started() {
        let clock = SystemClock::default();
        let (one, two) = (clock.moment(), clock.moment());
        assert_eq!(one.boot, two.boot);
        assert!(two.uptime >= one.uptime && (one.boot == 0 || one.uptime > 0), "{one:?}");
    }
}
