//! When the backlog will be gone: the policy played forward with the speed and the inflow of today.

use tributary_contract::time::{DAY_MICROS, Timestamp};

use super::Policy;
use super::spent::Spent;
use crate::config::HOUR;

/// For so long it is looked at hour by hour how much room for new readings is still kept, microseconds; then by the day.
const CLOSELY: i64 = 3 * DAY_MICROS;
/// What takes longer than this is said to have no end, microseconds.
const TOO_LONG: i64 = 1000 * DAY_MICROS;

/// What there is to carry, all in bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// What waits.
    pub backlog: u64,
    /// What the link carries, a second.
    pub rate: f64,
    /// What comes new, a second.
    pub incoming: f64,
}

/// How long it takes from `now` until nothing waits, microseconds; none if that has no end.
pub fn drains_in(policy: &Policy, spent: &Spent, load: Load, now: Timestamp) -> Option<i64> {
    if load.backlog == 0 {
        return Some(0);
    }
    // What is new goes first, and backlog gets the rest of the link.
    let rate = load.rate - load.incoming;
    if policy.link().paused || rate.is_nan() || rate <= 0.0 {
        return None;
    }
    let (calendar, hours) = (policy.calendar(), &policy.link().hours);
    let mut spent = spent.clone();
    let (mut at, mut left) = (now, load.backlog as f64);
    let end = now.plus(TOO_LONG);
    policy.roll(&mut spent, at, true);
    while at < end {
        let day_ends = calendar.day_ends(at);
        let opens = calendar.opens(hours, at).unwrap_or(at);
        let mut until = if at.since(now) < CLOSELY { day_ends.min(at.plus(HOUR)) } else { day_ends };
        if opens > at {
            until = until.min(opens);
        } else {
            if !hours.is_empty() {
                until = calendar.closes(hours, at).map_or(until, |closes| until.min(closes));
            }
            let time = until.since(at) as f64 / 1e6;
            let budget = policy.left_for_backlog(&spent, Some(load.incoming), at);
            let goes = (rate * time).min(budget.map_or(f64::MAX, |b| b as f64));
            if left <= goes {
                return Some(at.plus((left / rate * 1e6) as i64).since(now));
            }
            left -= goes;
            spent.book(goes as u64);
        }
        spent.book((load.incoming * (until.since(at) as f64 / 1e6)) as u64);
        at = until;
        policy.roll(&mut spent, at, true);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Hours, Link};

    /// 2026-01-01T12:00:00 UTC.
    const NOON: Timestamp = Timestamp(1_767_268_800_000_000);
    const MIB: u64 = 1 << 20;

    fn hours_for(link: Link, load: Load) -> Option<f64> {
        drains_in(&Policy::new(&link), &Spent::default(), load, NOON).map(|t| t as f64 / HOUR as f64)
    }

    fn load(backlog: u64, rate: f64, incoming: f64) -> Load {
        Load { backlog, rate, incoming }
    }

    #[test]
    fn without_limits_it_is_what_the_link_has_left() {
        let plain = |l| hours_for(Link::default(), l);
        assert_eq!(plain(load(0, 0.0, 0.0)), Some(0.0));
        assert_eq!(plain(load(3600 * 1000, 1000.0, 0.0)), Some(1.0));
        assert_eq!(plain(load(3600 * 1000, 1500.0, 500.0)), Some(1.0));
        assert_eq!(plain(load(1, 500.0, 500.0)), None, "the backlog grows");
        assert_eq!(plain(load(1 << 50, 1.0, 0.0)), None, "not within years");
        assert_eq!(hours_for(Link { paused: true, ..Link::default() }, load(1, 9.0, 0.0)), None);
    }

    #[test]
    fn hours_and_budgets_are_waited_for() {
        let night = Link { hours: vec![Hours { from: 22 * HOUR, to: 2 * HOUR }], ..Link::default() };
        // Six hours of work, four a night, the first one in ten hours.
        assert_eq!(hours_for(night, load(6 * 3600 * 1000, 1000.0, 0.0)), Some(10.0 + 24.0 + 2.0));
        let budget = Link { max_per_day: 100 * MIB, ..Link::default() };
        // 95 a day are for backlog: 190 by the second midnight, and ten seconds for the rest.
        let days = hours_for(budget, load(200 * MIB, MIB as f64, 0.0)).unwrap();
        assert!((days - 36.0 - 10.0 / 3600.0).abs() < 0.001, "{days}");
        let monthly = Link { max_per_month: 100 * MIB, ..Link::default() };
        let days = hours_for(monthly, load(100 * MIB, MIB as f64, 0.0)).unwrap() / 24.0;
        assert!((days - 30.5).abs() < 0.01, "{days}");
    }
}
