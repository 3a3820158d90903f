//! What was sent on which local day: the books of both budgets, sound when the clock steps.
//!
//! A later day begins a new count, an earlier one never does: what stands under days that now lie in the future was spent
//! by today, and is counted to today. So a clock that goes forward and back again wins nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tributary_contract::time::Timestamp;

use super::calendar::{Calendar, first_of_month};

/// The share of the smaller budget that is written ahead at once.
const AHEAD_SHARE: u64 = 200;
/// But at least so many bytes: each writing costs flash.
const AHEAD_LEAST: u64 = 16 << 10;

/// Bytes by local day of the current month.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// Bytes of each day, by days since 1970-01-01 on the wall.
    days: BTreeMap<i64, u64>,
    /// What earlier days took beyond their budget, and today has to make good.
    owed: u64,
}

impl Spent {
    /// Brings the books to the day of `now`. A clock that isn't `trusted` ends no day. `per_day` is the budget by which
    /// what was taken too much is made good; 0 for none.
    pub fn roll(&mut self, calendar: &Calendar, now: Timestamp, trusted: bool, per_day: u64) {
        let last = self.days.keys().next_back().copied();
        let shown = calendar.day(now);
        let today = match last {
            Some(last) if !trusted => last,
            _ => shown,
        };
        match last {
            Some(last) if last == today => return,
            Some(last) if last > today => {
                let ahead: u64 =
                    self.days.split_off(&today.saturating_add(1)).into_values().fold(0, u64::saturating_add);
                let mine = self.days.entry(today).or_default();
                *mine = mine.saturating_add(ahead);
            }
            Some(last) => {
                let passed = u64::try_from(today - last).unwrap_or(0);
                let taken = self.today();
                self.owed =
                    if per_day == 0 { 0 } else { taken.saturating_sub(per_day.saturating_mul(passed)) };
                self.days.insert(today, 0);
            }
            None => {
                self.days.insert(today, 0);
            }
        }
        let first = first_of_month(today);
        self.days.retain(|day, _| *day >= first);
    }

    /// Counts bytes to today.
    pub fn book(&mut self, bytes: u64) {
        if let Some(mut today) = self.days.last_entry() {
            *today.get_mut() = today.get().saturating_add(bytes);
        }
    }

    /// What counts against the budget of today, bytes.
    pub fn today(&self) -> u64 {
        self.sent_today().saturating_add(self.owed)
    }

    /// What was sent today, bytes.
    pub fn sent_today(&self) -> u64 {
        self.days.last_key_value().map_or(0, |(_, bytes)| *bytes)
    }

    /// What was sent this month, bytes.
    pub fn month(&self) -> u64 {
        self.days.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Whether both are about the same day.
    fn same_day(&self, other: &Self) -> bool {
        let last = |s: &Self| s.days.keys().next_back().copied();
        last(self) == last(other)
    }
}

/// What was spent, and what is written down of it: always at least as much, so that a crash makes no room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// The truth.
    pub spent: Spent,
    /// What is durable.
    written: Option<Spent>,
}

impl Ledger {
    /// From what was found written.
    pub fn new(written: Option<Spent>) -> Self {
        Self { spent: written.clone().unwrap_or_default(), written }
    }

    /// What has to be written before `pending` bytes more are sent, if anything: some of `budget`, the smaller one, ahead.
    pub fn ahead(&self, pending: u64, budget: u64) -> Option<Spent> {
        let covered = self.written.as_ref().is_some_and(|w| {
            let enough = |written: u64, spent: u64| written >= spent.saturating_add(pending);
            w.same_day(&self.spent)
                && enough(w.today(), self.spent.today())
                && enough(w.month(), self.spent.month())
        });
        if covered {
            return None;
        }
        let mut next = self.spent.clone();
        next.book(pending.saturating_add((budget / AHEAD_SHARE).max(AHEAD_LEAST)));
        Some(next)
    }

    /// What is durable.
    pub const fn written(&self) -> Option<&Spent> {
        self.written.as_ref()
    }

    /// That is durable now.
    pub fn is_written(&mut self, spent: Spent) {
        self.written = Some(spent);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tributary_contract::time::DAY_MICROS;

    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp(day * DAY_MICROS + 1)
    }

    fn roll(spent: &mut Spent, day: i64) {
        spent.roll(&Calendar::default(), at(day), true, 1000);
    }

    #[test]
    fn days_and_months_begin_anew_and_what_was_taken_too_much_is_owed() {
        let mut spent = Spent::default();
        // 31 January 1970 is day 30.
        roll(&mut spent, 29);
        spent.book(300);
        roll(&mut spent, 30);
        spent.book(2500);
        assert_eq!((spent.today(), spent.month()), (2500, 2800));
        roll(&mut spent, 31);
        assert_eq!((spent.today(), spent.sent_today(), spent.month()), (1500, 0, 0));
        roll(&mut spent, 33);
        assert_eq!((spent.today(), spent.month()), (0, 0));
    }

    #[test]
    fn a_clock_that_steps_back_or_is_not_trusted_makes_no_room() {
        let mut spent = Spent::default();
        roll(&mut spent, 100);
        spent.book(600);
        roll(&mut spent, 5000);
        spent.book(50);
        roll(&mut spent, 100);
        assert_eq!(spent.today(), 50, "a month that was over is forgotten");
        spent.book(600);
        roll(&mut spent, 101);
        spent.book(70);
        roll(&mut spent, 100);
        assert_eq!((spent.today(), spent.month()), (720, 720));
        spent.roll(&Calendar::default(), at(300), false, 1000);
        assert_eq!(spent.today(), 720);
        assert_eq!(serde_json::from_str::<Spent>(&serde_json::to_string(&spent).unwrap()).unwrap(), spent);
    }

    proptest! {
        /// Whatever is spent and however often the agent dies, what is written covers what was sent.
        #[test]
        fn what_is_written_is_never_less_than_what_was_sent_and_is_written_rarely(
            sends in prop::collection::vec((1u64..20_000, any::<bool>()), 1..200),
        ) {
            let budget = 4 << 20;
            let mut ledger = Ledger::new(None);
            ledger.spent.roll(&Calendar::default(), at(40), true, budget);
            let (mut sent, mut writes, mut crashes) = (0, 0, 0);
            for (bytes, crash) in sends {
                if let Some(next) = ledger.ahead(bytes, budget) {
                    ledger.is_written(next);
                    writes += 1;
                }
                ledger.spent.book(bytes);
                sent += bytes;
                if crash {
                    crashes += 1;
                    ledger = Ledger::new(ledger.written.clone());
                }
                prop_assert!(ledger.written.as_ref().unwrap().month() >= sent);
                prop_assert!(ledger.spent.month() >= sent);
            }
            let step = budget / AHEAD_SHARE;
            prop_assert!(writes <= 2 + crashes + sent / step, "{writes} writes for {sent} bytes");
        }
    }
}
