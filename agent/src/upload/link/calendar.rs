//! Days, months and hours by the clock on the wall of a time zone.

use tributary_contract::time::{DAY_MICROS, Timestamp};

use crate::config::{Hours, Zone};

/// A clock on the wall is never further from UTC, microseconds.
const FURTHEST: i64 = 26 * 3_600_000_000;
/// How many days are looked ahead for the hours to begin or end: a short stretch may fall into a gap of the zone once.
const AHEAD: i64 = 3;

/// A calendar; that of UTC without a zone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calendar {
    zone: Option<Zone>,
}

impl Calendar {
    /// The calendar of a zone.
    pub const fn new(zone: Option<Zone>) -> Self {
        Self { zone }
    }

    /// What the clock on the wall shows, microseconds since 1970-01-01T00:00 there.
    fn wall(&self, ts: Timestamp) -> i64 {
        ts.0.saturating_add(self.zone.as_ref().map_or(0, |zone| zone.stretch(ts).offset))
    }

    /// The day on the wall, days since 1970-01-01.
    pub fn day(&self, ts: Timestamp) -> i64 {
        self.wall(ts).div_euclid(DAY_MICROS)
    }

    /// When the day of `ts` is over on the wall; later than `ts`.
    pub fn day_ends(&self, ts: Timestamp) -> Timestamp {
        self.shows((self.day(ts) + 1).saturating_mul(DAY_MICROS), ts)
    }

    /// When the month of `ts` is over on the wall; later than `ts`.
    pub fn month_ends(&self, ts: Timestamp) -> Timestamp {
        // No month has more than 31 days: the first of the next one is among those that follow.
        let today = self.day(ts);
        let next = (today + 1..=today + 31).find(|day| first_of_month(*day) == *day).unwrap_or(today + 31);
        self.shows(next.saturating_mul(DAY_MICROS), ts)
    }

    /// The first instant after `after` at which the wall shows `wall` or more.
    fn shows(&self, wall: i64, after: Timestamp) -> Timestamp {
        let Some(zone) = &self.zone else { return Timestamp(wall.max(after.0.saturating_add(1))) };
        let mut stretch = zone.stretch(Timestamp(wall.saturating_sub(FURTHEST)));
        loop {
            let next = zone.at(stretch.place + 1);
            let at = stretch.from.max(wall.saturating_sub(stretch.offset)).max(after.0.saturating_add(1));
            match next {
                Some(next) if at >= next.from => stretch = next,
                _ => return Timestamp(at),
            }
        }
    }

    /// Whether one of `hours` holds `ts`; without any, every instant is open.
    pub fn is_open(&self, hours: &[Hours], ts: Timestamp) -> bool {
        let time = self.wall(ts).rem_euclid(DAY_MICROS);
        hours.is_empty() || hours.iter().any(|h| h.holds(time))
    }

    /// The first instant from `ts` on that one of `hours` holds; none if there is none within days.
    pub fn opens(&self, hours: &[Hours], ts: Timestamp) -> Option<Timestamp> {
        if self.is_open(hours, ts) {
            return Some(ts);
        }
        self.changes(hours, ts, |h| h.from).filter(|at| self.is_open(hours, *at)).min()
    }

    /// The first instant after `ts` that none of `hours` holds; none if there is none within days.
    pub fn closes(&self, hours: &[Hours], ts: Timestamp) -> Option<Timestamp> {
        self.changes(hours, ts, |h| h.to).filter(|at| !self.is_open(hours, *at)).min()
    }

    /// Instants after `ts` at which the hours may begin or end: when the wall shows it, and when the wall jumps.
    fn changes(
        &self,
        hours: &[Hours],
        ts: Timestamp,
        edge: impl Fn(&Hours) -> i64,
    ) -> impl Iterator<Item = Timestamp> {
        let today = self.day(ts);
        let last = ts.plus((AHEAD + 1) * DAY_MICROS);
        let edges: Vec<i64> = hours.iter().map(edge).collect();
        let walls = (today - 1..=today + AHEAD)
            .flat_map(|day| edges.iter().map(move |e| day * DAY_MICROS + e).collect::<Vec<_>>());
        let mut at: Vec<Timestamp> = walls.map(|wall| self.shows(wall, ts)).collect();
        if let Some(zone) = &self.zone {
            let mut place = zone.stretch(ts).place + 1;
            while let Some(next) = zone.at(place).filter(|s| s.from <= last.0) {
                // Where the wall goes back, an edge comes once more.
                at.push(Timestamp(next.from));
                let again =
                    edges.iter().flat_map(|e| (today - 1..=today + AHEAD).map(move |d| d * DAY_MICROS + e));
                at.extend(again.map(|wall| Timestamp(wall - next.offset)).filter(|t| t.0 > next.from));
                place += 1;
            }
        }
        at.into_iter().filter(move |t| *t > ts)
    }
}

/// The first day of the month of `day`, both as days since 1970-01-01.
pub fn first_of_month(day: i64) -> i64 {
    let epoch = jiff::civil::date(1970, 1, 1);
    let date = jiff::Span::new().try_days(day).ok().and_then(|days| epoch.checked_add(days).ok());
    // Beyond the calendar there are no months; each day is one.
    date.map_or(day, |date| day - (i64::from(date.day()) - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{HOUR, MINUTE};

    fn utc(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_microsecond())
    }

    fn berlin() -> Calendar {
        Calendar::new(Some(Zone::read("Europe/Berlin").unwrap()))
    }

    fn hours(text: &str) -> Vec<Hours> {
        text.split(' ').map(|h| Hours::parse(h).unwrap()).collect()
    }

    #[test]
    fn a_local_day_has_23_or_25_hours_where_the_clock_is_changed_and_months_end_on_the_wall() {
        let b = berlin();
        assert_eq!(b.day_ends(utc("2026-03-28T23:00:00Z")), utc("2026-03-29T22:00:00Z"));
        assert_eq!(b.day_ends(utc("2026-10-24T22:00:00Z")), utc("2026-10-25T23:00:00Z"));
        assert_eq!(b.month_ends(utc("2026-01-31T22:59:59Z")), utc("2026-01-31T23:00:00Z"));
        assert_eq!(b.month_ends(utc("2026-01-31T23:00:00Z")), utc("2026-02-28T23:00:00Z"));
        assert_eq!(Calendar::default().month_ends(utc("2024-02-29T23:59:59Z")), utc("2024-03-01T00:00:00Z"));
    }

    #[test]
    fn hours_open_and_close_by_the_wall_also_where_it_jumps() {
        let (b, night) = (berlin(), hours("22:00-06:00"));
        assert_eq!(b.opens(&night, utc("2026-07-01T12:00:00Z")), Some(utc("2026-07-01T20:00:00Z")));
        assert_eq!(b.closes(&night, utc("2026-07-01T20:00:00Z")), Some(utc("2026-07-02T04:00:00Z")));
        // 02:30 isn't there on 29 March; the stretch begins where the wall jumps over it.
        let gap = hours("02:30-04:00");
        assert_eq!(b.opens(&gap, utc("2026-03-29T00:30:00Z")), Some(utc("2026-03-29T01:00:00Z")));
        // 02:30 comes twice on 25 October: open, closed, and open again.
        let twice = hours("02:15-02:45");
        let first = b.opens(&twice, utc("2026-10-24T23:00:00Z")).unwrap();
        assert_eq!(first, utc("2026-10-25T00:15:00Z"));
        let closed = b.closes(&twice, first).unwrap();
        assert_eq!(closed, utc("2026-10-25T00:45:00Z"));
        assert_eq!(b.opens(&twice, closed), Some(utc("2026-10-25T01:15:00Z")));
        assert_eq!(b.closes(&hours("00:00-24:00"), closed), None);
    }

    proptest! {
        #[test]
        fn what_is_said_of_days_and_hours_agrees_with_the_wall(
            at in 0i64..4_000_000_000, from in 0i64..1440, length in 1i64..1440,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]),
        ) {
            let calendar = Calendar::new(Zone::read(zone));
            let now = Timestamp(at * 1_000_000);
            let ends = calendar.day_ends(now);
            prop_assert!(ends > now && ends.since(now) <= 26 * HOUR);
            prop_assert!(calendar.day(ends) > calendar.day(now));
            prop_assert_eq!(calendar.day(Timestamp(ends.0 - 1)), calendar.day(now));
            let month = calendar.month_ends(now);
            prop_assert!(month >= ends && first_of_month(calendar.day(month)) == calendar.day(month));
            let hours = [Hours { from: from * MINUTE, to: (from + length) % 1440 * MINUTE }];
            let opens = calendar.opens(&hours, now).unwrap();
            prop_assert!(calendar.is_open(&hours, opens));
            // Nothing between is open: looked at minute by minute.
            let mut t = now;
            while t < opens {
                prop_assert!(!calendar.is_open(&hours, t), "{t:?} before {opens:?}");
                t = t.plus(MINUTE);
            }
            if let Some(closes) = calendar.closes(&hours, opens) {
                prop_assert!(!calendar.is_open(&hours, closes));
                let mut t = opens;
                while t < closes {
                    prop_assert!(calendar.is_open(&hours, t), "{t:?} before {closes:?}");
                    t = t.plus(MINUTE);
                }
            }
        }
    }
}
