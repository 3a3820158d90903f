//! In which order segments go, and beside what: the more urgent one doesn't wait for the other to end.

use std::collections::VecDeque;

use tributary_contract::id::{Epoch, Number};
use tributary_contract::time::Timestamp;

use super::class::Class;
use crate::config::MINUTE;

/// What is sealed counts as new for this long at least, microseconds.
const NEW_FOR: i64 = 10 * MINUTE;
/// So many seals are remembered at most.
const SEALS: usize = 4096;

/// The last seals and when they were: numbers are given in that order, so one of them says what is new.
#[derive(Debug, Clone, Default)]
pub struct Seals(VecDeque<(Timestamp, Epoch, Number)>);

impl Seals {
    /// A segment was sealed.
    pub fn add(&mut self, epoch: Epoch, number: Number, now: Timestamp) {
        if self.0.len() >= SEALS {
            self.0.pop_front();
        }
        self.0.push_back((now, epoch, number));
    }

    /// The first segment that is new at `now`; what was sealed before it is backlog. Forgets what is too old. `max_age` is
    /// that of segments, microseconds.
    pub fn new_from(&mut self, max_age: i64, now: Timestamp) -> Option<(Epoch, Number)> {
        let old = now.plus(-max_age.max(NEW_FOR));
        while self.0.front().is_some_and(|(at, ..)| *at < old) {
            self.0.pop_front();
        }
        self.0.front().map(|(_, epoch, number)| (*epoch, *number))
    }
}

/// Whether one more upload may begin beside those on their way. What isn't backlog has one place more, however many of the
/// backlog are there: it must not wait until one of them has crept over a slow link.
pub fn may_begin(class: Class, on_the_way: &[Class], at_once: usize) -> bool {
    let all_are_backlog = on_the_way.iter().all(|other| other.is_backlog());
    on_the_way.len() < at_once || (!class.is_backlog() && all_are_backlog)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SECOND;

    #[test]
    fn what_was_sealed_a_short_while_ago_is_new() {
        let mut seals = Seals::default();
        let number = |n| Number::new(n).unwrap();
        let hour = 60 * MINUTE;
        seals.add(Epoch(7), number(1), Timestamp(0));
        seals.add(Epoch(7), number(2), Timestamp(hour));
        seals.add(Epoch(7), number(3), Timestamp(hour + 5 * MINUTE));
        assert_eq!(seals.new_from(SECOND, Timestamp(hour + NEW_FOR)), Some((Epoch(7), number(2))));
        assert_eq!(seals.new_from(SECOND, Timestamp(hour + NEW_FOR + 1)), Some((Epoch(7), number(3))));
        assert_eq!(seals.new_from(SECOND, Timestamp(3 * hour)), None);
    }

    #[test]
    fn what_is_not_backlog_has_a_place_of_its_own() {
        use Class::{Alerts, Backlog, Live};
        assert!(may_begin(Backlog, &[], 1));
        assert!(!may_begin(Backlog, &[Backlog], 1));
        assert!(may_begin(Live, &[Backlog], 1));
        assert!(!may_begin(Live, &[Backlog, Live], 1), "as urgent as one on its way");
        assert!(!may_begin(Alerts, &[Backlog, Live], 1), "no third one on a slow link");
        assert!(may_begin(Alerts, &[Backlog, Backlog], 2));
        assert!(may_begin(Live, &[Backlog; 4], 1), "the link has become slow since they began");
        assert!(may_begin(Backlog, &[Live, Backlog], 3));
        assert!(!may_begin(Backlog, &[Backlog; 4], 4));
    }
}
