//! The policy of the link: what may go to the bucket now, in which order, and when the rest.
//!
//! *In:* the section `[link]`, the time, what was spent, what wants to go. *Out:* whether it may go, and if not, from
//! when on. *Survives a crash:* [`spent::Spent`], which the caller keeps; it is written ahead, so that a crash never makes
//! room in a budget. *Absent:* any clock, any byte: counting and pacing are in `s3/`, the loop is in `pipeline/`.
//! `docs/link.md` says the same for those who run gateways.
//!
//! Everything here is counted in bytes on the wire, both ways, as [`wire`] estimates them.

pub mod calendar;
pub mod class;
pub mod drain;
pub mod incoming;
pub mod order;
pub mod pace;
pub mod speed;
pub mod spent;
pub mod tokens;
pub mod wire;
#[cfg(test)]
mod week;

use std::fmt;

use tributary_contract::time::Timestamp;

use self::calendar::Calendar;
pub use self::class::Class;
use self::spent::Spent;
use crate::config::{HOUR, Link};

/// What alerts and the status have for themselves of each budget: a twentieth, and …
const RESERVE_SHARE: u64 = 20;
/// … at least so many bytes, …
const RESERVE_LEAST: u64 = 64 << 10;
/// … but never more than this share.
const RESERVE_MOST_SHARE: u64 = 4;

/// What is yet to come may be so many times what came in the mean, …
const MARGIN: f64 = 1.25;
/// … and comes in segments: one more may be sealed right before the end, as large as what comes in this time, microseconds.
const ONE_MORE: i64 = HOUR;

/// The rules in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    link: Link,
    calendar: Calendar,
}

/// Why something waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `link.paused`
    Paused,
    /// `link.hours`
    Hours,
    /// `link.max_per_day`
    Day,
    /// `link.max_per_month`
    Month,
}

/// Whether something may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Now.
    Now,
    /// It is worth asking again at this time.
    At(Timestamp, Why),
    /// Not before the configuration changes.
    Never(Why),
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask {
    /// What it is.
    pub class: Class,
    /// Bytes that it takes on the wire.
    pub bytes: u64,
    /// Bytes of what was permitted and isn't counted yet.
    pub pending: u64,
    /// Bytes a second that new readings and aggregates take in the mean, if that is known: backlog leaves room for them.
    pub incoming: Option<f64>,
}

impl Policy {
    /// The rules of a configuration.
    pub fn new(link: &Link) -> Self {
        Self { calendar: Calendar::new(link.zone.clone()), link: link.clone() }
    }

    /// The settings.
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// Days, months and hours as the link has them.
    pub const fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// Whether there is any budget to keep count of.
    pub const fn has_budget(&self) -> bool {
        self.link.max_per_day > 0 || self.link.max_per_month > 0
    }

    /// Brings what was spent to the day of `now`. A clock that isn't `trusted` ends no day.
    pub fn roll(&self, spent: &mut Spent, now: Timestamp, trusted: bool) {
        spent.roll(&self.calendar, now, trusted, self.link.max_per_day);
    }

    /// Whether that may go at `now`.
    pub fn permit(&self, ask: Ask, spent: &Spent, now: Timestamp) -> Permit {
        if ask.class == Class::Status {
            // Paused or not; only the budget's last byte stops it.
            return self.budgets(ask, spent, now);
        }
        if self.link.paused {
            return Permit::Never(Why::Paused);
        }
        if ask.class.is_backlog() {
            match self.calendar.opens(&self.link.hours, now) {
                Some(at) if at > now => return Permit::At(at, Why::Hours),
                Some(_) => {}
                // Hours that never come: the stretch falls into a gap of the zone for good. Better sent than never.
                None => {}
            }
        }
        self.budgets(ask, spent, now)
    }

    fn budgets(&self, ask: Ask, spent: &Spent, now: Timestamp) -> Permit {
        let (day_ends, month_ends) = (self.calendar.day_ends(now), self.calendar.month_ends(now));
        let both = [
            (Why::Month, self.link.max_per_month, spent.month(), month_ends),
            (Why::Day, self.link.max_per_day, spent.today(), day_ends),
        ];
        for (why, budget, used, ends) in both {
            if budget > 0 && !fits(ask, budget, used, ends.since(now)) {
                return Permit::At(ends, why);
            }
        }
        Permit::Now
    }

    /// What is left of the budgets for backlog at `now`, bytes; none without a budget.
    pub fn left_for_backlog(&self, spent: &Spent, incoming: Option<f64>, now: Timestamp) -> Option<u64> {
        let (day_ends, month_ends) = (self.calendar.day_ends(now), self.calendar.month_ends(now));
        let both = [
            (self.link.max_per_day, spent.today(), day_ends),
            (self.link.max_per_month, spent.month(), month_ends),
        ];
        let left = |(budget, used, ends): (u64, u64, Timestamp)| {
            let kept = room_for_new(incoming, ends.since(now), budget);
            (budget - reserve(budget)).saturating_sub(used).saturating_sub(kept)
        };
        both.into_iter().filter(|(budget, ..)| *budget > 0).map(left).min()
    }
}

/// Whether it fits into a budget of which `used` is spent, and of whose time `left` microseconds are left.
fn fits(ask: Ask, budget: u64, used: u64, left: i64) -> bool {
    let limit = if ask.class.has_reserve() { budget } else { budget - reserve(budget) };
    let kept = if ask.class.is_backlog() { room_for_new(ask.incoming, left, budget) } else { 0 };
    let taken = used.saturating_add(ask.pending);
    // What is greater than all that there is would never go: it takes a fresh day, and what it takes too much is owed.
    let fresh = ask.pending == 0 && used <= reserve(budget) && !ask.class.has_reserve();
    taken.saturating_add(kept).saturating_add(ask.bytes) <= limit
        || (fresh && ask.bytes > limit.saturating_sub(reserve(budget)).saturating_sub(kept))
}

/// What is kept of a budget for what is yet to come in the rest of its time; half of it at most, or a wrong guess would
/// stop all backlog, and half as long as nothing is known.
fn room_for_new(incoming: Option<f64>, left: i64, budget: u64) -> u64 {
    let time = left.max(0).saturating_add(ONE_MORE) as f64 / 1e6;
    let expected = incoming.map_or(f64::MAX, |i| MARGIN * i.max(0.0) * time);
    (expected as u64).min(budget / 2)
}

/// The part of a budget that alerts and the status have for themselves.
pub fn reserve(budget: u64) -> u64 {
    (budget / RESERVE_SHARE).max(RESERVE_LEAST).min(budget / RESERVE_MOST_SHARE)
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused => "link.paused is set",
            Self::Hours => "backlog waits for link.hours",
            Self::Day => "link.max_per_day is spent",
            Self::Month => "link.max_per_month is spent",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Hours, Profile};
    use tributary_contract::time::DAY_MICROS;

    /// 2026-01-01T12:00:00 UTC.
    const NOON: Timestamp = Timestamp(1_767_268_800_000_000);

    fn ask(class: Class, bytes: u64) -> Ask {
        Ask { class, bytes, pending: 0, incoming: Some(0.0) }
    }

    fn spent(policy: &Policy, bytes: u64) -> Spent {
        let mut spent = Spent::default();
        policy.roll(&mut spent, NOON, true);
        spent.book(bytes);
        spent
    }

    #[test]
    fn without_limits_everything_may_go_at_any_time() {
        let policy = Policy::new(&Link::default());
        for class in Class::ALL {
            assert_eq!(
                policy.permit(ask(class, u64::MAX), &Spent::default(), NOON),
                Permit::Now,
                "{class:?}"
            );
        }
        assert_eq!(policy.left_for_backlog(&Spent::default(), None, NOON), None);
    }

    #[test]
    fn a_pause_stops_everything_but_the_status() {
        let policy = Policy::new(&Link { paused: true, ..Link::default() });
        for class in Class::ALL {
            let expected = if class == Class::Status { Permit::Now } else { Permit::Never(Why::Paused) };
            assert_eq!(policy.permit(ask(class, 1), &Spent::default(), NOON), expected, "{class:?}");
        }
    }

    #[test]
    fn hours_hold_up_backlog_and_nothing_else() {
        let hours = vec![Hours { from: 22 * HOUR, to: 6 * HOUR }];
        let policy = Policy::new(&Link { hours, ..Link::default() });
        for class in Class::ALL {
            let permit = policy.permit(ask(class, 1), &Spent::default(), NOON);
            if class.is_backlog() {
                assert_eq!(permit, Permit::At(NOON.plus(10 * HOUR), Why::Hours), "{class:?}");
                let night = policy.permit(ask(class, 1), &Spent::default(), NOON.plus(12 * HOUR));
                assert_eq!(night, Permit::Now);
            } else {
                assert_eq!(permit, Permit::Now, "{class:?}");
            }
        }
    }

    #[test]
    fn what_is_over_budget_waits_and_alerts_and_status_have_a_reserve() {
        let budget = 10 << 20;
        let policy = Policy::new(&Link { max_per_day: budget, ..Link::default() });
        let used = spent(&policy, budget - reserve(budget));
        let midnight = Permit::At(NOON.plus(12 * HOUR), Why::Day);
        for class in Class::ALL {
            let expected = if class.has_reserve() { Permit::Now } else { midnight };
            assert_eq!(policy.permit(ask(class, reserve(budget)), &used, NOON), expected, "{class:?}");
            assert_eq!(policy.permit(ask(class, reserve(budget) + 1), &used, NOON), midnight, "{class:?}");
        }
    }

    #[test]
    fn backlog_leaves_room_for_what_is_yet_to_come() {
        let budget = 10 << 20;
        let policy = Policy::new(&Link { max_per_day: budget, ..Link::default() });
        let used = spent(&policy, budget / 2);
        // 100 bytes a second, and a quarter more, are 5.6 MiB in the twelve hours that are left and one more, of which half the budget is kept.
        let mib = |class| Ask { incoming: Some(100.0), ..ask(class, 1 << 20) };
        assert_eq!(policy.permit(mib(Class::Live), &used, NOON), Permit::Now);
        assert_ne!(policy.permit(mib(Class::Backlog), &used, NOON), Permit::Now);
        assert_eq!(policy.permit(mib(Class::Backlog), &used, NOON.plus(11 * HOUR)), Permit::Now);
        let unknown = Ask { incoming: None, ..mib(Class::Backlog) };
        assert_ne!(
            policy.permit(unknown, &used, NOON.plus(11 * HOUR)),
            Permit::Now,
            "half, while it isn't known"
        );
    }

    #[test]
    fn a_segment_greater_than_the_budget_takes_a_fresh_day_and_is_owed() {
        let policy = Policy::new(&Link { max_per_day: 1 << 20, ..Link::default() });
        let big = ask(Class::Backlog, 3 << 20);
        let mut used = spent(&policy, 0);
        assert_eq!(policy.permit(big, &used, NOON), Permit::Now);
        assert_ne!(policy.permit(Ask { pending: 1, ..big }, &used, NOON), Permit::Now, "one at a time");
        used.book(3 << 20);
        for (days, fits) in [(0, false), (1, false), (2, false), (3, true)] {
            let now = NOON.plus(days * DAY_MICROS);
            policy.roll(&mut used, now, true);
            assert_eq!(policy.permit(ask(Class::Live, 1000), &used, now) == Permit::Now, fits, "{days} days");
        }
    }

    #[test]
    fn the_profiles_differ_in_what_docs_say() {
        let (plain, metered) = (Profile::Default, Profile::Metered);
        assert_eq!((plain.segment().max_age, metered.segment().max_age), (HOUR / 4, HOUR));
        assert!(metered.status().every > plain.status().every);
        assert!(metered.link().receipt_longest > plain.link().receipt_longest);
        assert_eq!(metered.link().uploads, 1);
    }
}
