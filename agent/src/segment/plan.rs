//! Which rows make the next segment: full ones by rows and bytes, others by age or because their day is over.
//!
//! A segment holds one day, so readings that come days late (a device with a wrong clock, one that was out of reach for a
//! week) would make a tiny one for each of those days and each `max_age`. Nobody waits for them by the minute: they are
//! given longer to come together.
//!
//! There is no rule for a stop: what isn't due when the agent stops waits in the journal and is sealed after the next
//! start, so that restarts make no tiny files. A flush is an operator's wish and makes everything due.

use std::cmp::Reverse;

use tributary_contract::id::Namespace;
use tributary_contract::table::Table;
use tributary_contract::time::{DAY_MICROS, Day, Timestamp};

use crate::config::{HOUR, MINUTE, Segment};

/// How long after midnight the rows of a day are waited for before its last segment is made, microseconds.
const AFTER_MIDNIGHT: i64 = MINUTE;

/// A row is late for its day when that was over for so many `max_age` before it came: whatever comes sooner completes the day …
const LATE_AFTER: i64 = 2;

/// … and late ones wait for so many.
const LATE_WAITS: i64 = 4;

/// What became durable this far in the future did so before the clock stepped back, and nobody knows its age,
/// microseconds.
const CLOCK_STEP: i64 = HOUR;

/// What waits of one table and day: a segment holds rows of one group only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Table.
    pub table: Table,
    /// UTC day of the rows.
    pub day: Day,
    /// How many rows wait.
    pub rows: u64,
    /// How many bytes they would take in a segment, estimated.
    pub bytes: u64,
    /// When the first of them became durable, by processing time.
    pub oldest: Timestamp,
}

/// Why a group is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// It has `max_rows`.
    Rows,
    /// It has `max_bytes`.
    Bytes,
    /// Its oldest row has waited for `max_age`, or, late for its day, for four times as long.
    Age,
    /// Its day is over, and rows of it came before that.
    DayEnd,
    /// Everything was asked for.
    Flush,
}

/// The next segment to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Table.
    pub table: Table,
    /// UTC day.
    pub day: Day,
    /// At most so many rows, oldest first.
    pub max_rows: u64,
    /// At most so many bytes.
    pub max_bytes: u64,
    /// Why.
    pub trigger: Trigger,
}

/// How long the oldest row of `group` may wait, microseconds.
fn may_wait(group: &Group, settings: &Segment) -> i64 {
    let over = group.oldest.since(group.day.start().plus(DAY_MICROS));
    if over >= settings.max_age.saturating_mul(LATE_AFTER) {
        settings.max_age.saturating_mul(LATE_WAITS)
    } else {
        settings.max_age
    }
}

/// Why `group` is due at `now`, if it is.
pub fn trigger(group: &Group, settings: &Segment, now: Timestamp, flush: bool) -> Option<Trigger> {
    let midnight = group.day.start().plus(DAY_MICROS);
    if group.rows == 0 {
        None
    } else if group.rows >= settings.max_rows.max(1) {
        Some(Trigger::Rows)
    } else if group.bytes >= settings.max_bytes.max(1) {
        Some(Trigger::Bytes)
    } else if now.since(group.oldest) >= may_wait(group, settings) || group.oldest.since(now) > CLOCK_STEP {
        Some(Trigger::Age)
    } else if group.oldest < midnight && now >= midnight.plus(AFTER_MIDNIGHT) {
        Some(Trigger::DayEnd)
    } else {
        flush.then_some(Trigger::Flush)
    }
}

/// The next segment to make of what waits; none if nothing is due.
///
/// Whatever has waited longest goes first, so that no table starves another however fast it fills. Between groups that
/// have waited equally long, the dictionary goes before what refers to it, and what is small before what is great.
pub fn next(groups: &[Group], settings: &Segment, now: Timestamp, flush: bool) -> Option<Next> {
    let due = groups.iter().filter_map(|g| trigger(g, settings, now, flush).map(|t| (g, t)));
    let first = due.min_by_key(|(g, _)| (g.oldest, rank(g.table), g.day, &g.namespace));
    first.map(|(group, trigger)| Next {
        namespace: group.namespace.clone(),
        table: group.table,
        day: group.day,
        max_rows: settings.max_rows.max(1),
        max_bytes: settings.max_bytes.max(1),
        trigger,
    })
}

/// How long until a group becomes due by time alone, microseconds; none if nothing waits.
pub fn due_in(groups: &[Group], settings: &Segment, now: Timestamp) -> Option<i64> {
    let waiting = groups.iter().filter(|g| g.rows > 0);
    let at = waiting.map(|g| {
        let midnight = g.day.start().plus(DAY_MICROS);
        let by_age = g.oldest.plus(may_wait(g, settings));
        if g.oldest < midnight { by_age.min(midnight.plus(AFTER_MIDNIGHT)) } else { by_age }
    });
    at.max_by_key(|at| Reverse(*at)).map(|at| at.since(now).max(0))
}

const fn rank(table: Table) -> u8 {
    match table {
        Table::Series => 0,
        Table::Gaps => 1,
        Table::Alerts => 2,
        Table::Aggregates => 3,
        Table::Rejects => 4,
        Table::Readings => 5,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Timestamp = Timestamp(12 * HOUR);

    fn settings() -> Segment {
        Segment { max_rows: 1000, max_bytes: 10_000, max_age: 15 * MINUTE }
    }

    fn group(table: Table, rows: u64, age: i64) -> Group {
        Group {
            namespace: Namespace::default(),
            table,
            day: Day(0),
            rows,
            bytes: 4 * rows,
            oldest: NOON.plus(-age),
        }
    }

    #[test]
    fn rows_from_before_a_step_back_of_the_clock_do_not_wait_for_that_time_to_come_again() {
        let ahead = |by: i64| trigger(&group(Table::Readings, 1, -by), &settings(), NOON, false);
        assert_eq!(ahead(MINUTE), None, "committed while the pass went on");
        assert_eq!(ahead(3 * HOUR), Some(Trigger::Age));
    }

    #[test]
    fn a_group_is_due_by_rows_bytes_age_day_or_flush_and_for_no_other_reason() {
        let (young, s) = (group(Table::Readings, 999, MINUTE), settings());
        assert_eq!(trigger(&young, &s, NOON, false), None);
        assert_eq!(trigger(&young, &s, NOON, true), Some(Trigger::Flush));
        assert_eq!(trigger(&group(Table::Readings, 1000, 0), &s, NOON, false), Some(Trigger::Rows));
        let great = Group { bytes: 10_000, ..young.clone() };
        assert_eq!(trigger(&great, &s, NOON, false), Some(Trigger::Bytes));
        assert_eq!(trigger(&group(Table::Gaps, 1, 15 * MINUTE), &s, NOON, false), Some(Trigger::Age));
        assert_eq!(trigger(&group(Table::Gaps, 0, HOUR), &s, NOON, true), None);
    }

    #[test]
    fn a_day_is_sealed_soon_after_midnight_but_what_straggles_in_later_waits_its_time() {
        let (s, midnight) = (settings(), Timestamp(DAY_MICROS));
        let of_yesterday = Group { oldest: midnight.plus(-MINUTE), ..group(Table::Readings, 5, 0) };
        assert_eq!(trigger(&of_yesterday, &s, midnight, false), None);
        let soon = midnight.plus(AFTER_MIDNIGHT);
        assert_eq!(trigger(&of_yesterday, &s, soon, false), Some(Trigger::DayEnd));
        let straggler = Group { oldest: midnight.plus(1), ..of_yesterday };
        assert_eq!(trigger(&straggler, &s, soon.plus(MINUTE), false), None);
        assert_eq!(trigger(&straggler, &s, midnight.plus(1 + s.max_age), false), Some(Trigger::Age));
    }

    #[test]
    fn what_comes_days_late_is_given_longer_to_come_together() {
        let (s, days_later) = (settings(), Timestamp(3 * DAY_MICROS));
        let late = Group { oldest: days_later, ..group(Table::Readings, 5, 0) };
        for (waited, due) in
            [(s.max_age, None), (4 * s.max_age - 1, None), (4 * s.max_age, Some(Trigger::Age))]
        {
            assert_eq!(trigger(&late, &s, days_later.plus(waited), false), due, "{waited}");
        }
        assert_eq!(
            trigger(&Group { rows: 1000, ..late.clone() }, &s, days_later, false),
            Some(Trigger::Rows)
        );
        let nearly = Group { oldest: Timestamp(DAY_MICROS).plus(2 * s.max_age - 1), ..late };
        assert_eq!(trigger(&nearly, &s, nearly.oldest.plus(s.max_age), false), Some(Trigger::Age));
    }

    #[test]
    fn full_readings_do_not_starve_aggregates_nor_the_other_way_round() {
        let s = settings();
        let groups = [group(Table::Readings, 5000, MINUTE), group(Table::Aggregates, 3, 16 * MINUTE)];
        assert_eq!(next(&groups, &s, NOON, false).unwrap().table, Table::Aggregates);
        let groups = [group(Table::Readings, 5000, 17 * MINUTE), group(Table::Aggregates, 3, 16 * MINUTE)];
        assert_eq!(next(&groups, &s, NOON, false).unwrap().table, Table::Readings);
    }

    #[test]
    fn a_flush_takes_the_dictionary_before_what_refers_to_it() {
        let groups = Table::ALL.map(|t| group(t, 1, 0));
        assert_eq!(next(&groups, &settings(), NOON, true).unwrap().table, Table::Series);
        assert_eq!(next(&groups, &settings(), NOON, false), None);
        assert_eq!(next(&[], &settings(), NOON, true), None);
    }

    proptest! {
        #[test]
        fn waiting_as_long_as_was_said_makes_something_due(ages in prop::collection::vec(0..20 * MINUTE, 1..6),
                                                           hour in 0i64..50) {
            let now = Timestamp(hour * HOUR);
            let groups: Vec<_> = ages.iter().map(|age| Group { oldest: now.plus(-age), ..group(Table::Readings, 1, 0) })
                .collect();
            let pause = due_in(&groups, &settings(), now).unwrap();
            prop_assert!(next(&groups, &settings(), now.plus(pause), false).is_some());
            prop_assert!(pause == 0 || next(&groups, &settings(), now.plus(pause - 1), false).is_none());
        }
    }
}
