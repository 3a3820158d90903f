//! What is in the tables, compared with what was sent.

use serde::Serialize;
use tributary_tests::lake::{Files, Tables, Tally};

use crate::config::{NAMESPACE, REGION};
use crate::home::{Credentials, Home};

/// The outcome of a replay: the numbers of the JSON line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) registered: u64,
    pub(crate) distinct: u64,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    pub(crate) rejected: u64,
}

impl Counts {
    /// Compares the table with the numbers 1 to `sent`.
    pub(crate) fn compare(sent: u64, acknowledged: u64, tally: &Tally, rejected: u64) -> Self {
        let distinct = tally.numbers.len();
        Self {
            sent,
            acknowledged,
            registered: tally.rows,
            distinct,
            missing: tally.numbers.missing(1, sent),
            duplicates: tally.rows.saturating_sub(distinct),
            rejected,
        }
    }

    /// Whether every message sent is in the table or among the rejects.
    pub(crate) fn is_accounted(&self) -> bool {
        self.missing <= self.rejected
    }

    /// Whether the table holds each message sent once, and nothing else.
    pub(crate) fn agree(&self) -> bool {
        let sent = self.sent;
        [self.acknowledged, self.registered, self.distinct] == [sent; 3]
            && [self.missing, self.duplicates, self.rejected] == [0; 3]
    }
}

/// The tables that the demo's receiver fills.
pub(crate) fn tables(home: &Home, endpoint: String, credentials: &Credentials) -> Tables {
    let files = Files {
        endpoint,
        region: REGION.to_owned(),
        access_key_id: credentials.access_key_id.clone(),
        secret_access_key: credentials.secret_access_key.clone(),
    };
    Tables::new(home.path("catalog.db"), NAMESPACE, &files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_tests::mqtt::NumberSet;

    fn tally(rows: u64, numbers: &[(u64, u64)]) -> Tally {
        Tally { rows, numeric: rows, numbers: NumberSet::from_ranges(numbers) }
    }

    #[test]
    fn missing_and_doubled_messages_are_counted_by_their_numbers() {
        let tally = tally(5, &[(1, 2), (5, 5)]);
        let counts = Counts::compare(5, 5, &tally, 1);
        let expected = Counts {
            sent: 5,
            acknowledged: 5,
            registered: 5,
            distinct: 3,
            missing: 2,
            duplicates: 2,
            rejected: 1,
        };
        assert_eq!(counts, expected);
        assert!(!counts.agree() && !counts.is_accounted());
        assert!(Counts::compare(5, 5, &tally, 2).is_accounted());
    }

    #[test]
    fn counts_agree_only_when_each_message_is_there_once() {
        let once = tally(2, &[(1, 2)]);
        assert!(Counts::compare(2, 2, &once, 0).agree());
        assert!(!Counts::compare(2, 1, &once, 0).agree(), "an unacknowledged message");
        assert!(!Counts::compare(2, 2, &once, 1).agree(), "a reject");
        assert!(!Counts::compare(1, 1, &once, 0).agree(), "a message nobody sent");
        assert!(!Counts::compare(2, 2, &tally(3, &[(1, 2)]), 0).agree(), "a duplicate");
    }
}
