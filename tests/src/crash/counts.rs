//! What a round did and what came of it, as numbers that can be summed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::schedule::Victim;

/// How often one process was struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// SIGKILL.
    pub kills: u64,
    /// SIGSTOP.
    pub stops: u64,
}

/// One round, or the sum of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// SIGKILLs by process.
    pub kills: BTreeMap<String, u64>,
    /// SIGSTOPs.
    pub stops: u64,
    /// Cuts of all connections between broker and agent.
    pub cuts: u64,
    /// Messages published a second time because a broker's death had lost them.
    pub again: u64,
    /// Messages that the agent recognised as copies.
    pub copies: u64,
    /// Distinct messages acknowledged.
    pub acknowledged: u64,
    /// Rows of the table.
    pub rows: u64,
    /// Acknowledged messages that aren't in the table.
    pub missing: u64,
    /// Rows beyond the first of each message.
    pub duplicates: u64,
    /// Rows of `gaps`.
    pub gaps: u64,
    /// Wall time, seconds.
    pub seconds: f64,
}

impl Counts {
    /// Counts the blows on one process.
    pub fn struck(&mut self, victim: Victim, struck: Struck) {
        *self.kills.entry(victim.word().to_owned()).or_insert(0) += struck.kills;
        self.stops += struck.stops;
    }

    /// SIGKILLs on all processes.
    #[must_use]
    pub fn all_kills(&self) -> u64 {
        self.kills.values().sum()
    }

    /// Adds another round.
    pub fn add(&mut self, other: &Self) {
        for (victim, kills) in &other.kills {
            *self.kills.entry(victim.clone()).or_insert(0) += kills;
        }
        self.stops += other.stops;
        self.cuts += other.cuts;
        self.again += other.again;
        self.copies += other.copies;
        self.acknowledged += other.acknowledged;
        self.rows += other.rows;
        self.missing += other.missing;
        self.duplicates += other.duplicates;
        self.gaps += other.gaps;
        self.seconds += other.seconds;
    }

    /// What came in this round: sums of a world now, less those before.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            again: self.again.saturating_sub(before.again),
            copies: self.copies.saturating_sub(before.copies),
            acknowledged: self.acknowledged.saturating_sub(before.acknowledged),
            rows: self.rows.saturating_sub(before.rows),
            missing: self.missing.saturating_sub(before.missing),
            duplicates: self.duplicates.saturating_sub(before.duplicates),
            gaps: self.gaps.saturating_sub(before.gaps),
            ..self.clone()
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kills {} (", self.all_kills())?;
        for (at, victim) in Victim::ALL.iter().enumerate() {
            let kills = self.kills.get(victim.word()).copied().unwrap_or(0);
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} {kills}", victim.word())?;
        }
        write!(
            f,
            "), stops {}, cuts {}, published again {}, copies {}, acknowledged {}, rows {}, missing {}, \
             duplicates {}, gaps {}, {:.1} s",
            self.stops,
            self.cuts,
            self.again,
            self.copies,
            self.acknowledged,
            self.rows,
            self.missing,
            self.duplicates,
            self.gaps,
            self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_add_up_and_a_round_is_what_came_since_the_one_before() {
        let mut first = Counts { rows: 10, acknowledged: 10, seconds: 1.5, ..Counts::default() };
        first.struck(Victim::Agent, Struck { kills: 3, stops: 1 });
        let mut second = Counts { rows: 25, acknowledged: 26, missing: 1, ..Counts::default() }.since(&first);
        second.struck(Victim::Bucket, Struck { kills: 2, stops: 0 });
        assert_eq!((second.rows, second.acknowledged, second.missing), (15, 16, 1));
        let mut sum = first.clone();
        sum.add(&second);
        assert_eq!((sum.all_kills(), sum.stops, sum.rows), (5, 1, 25));
        assert_eq!(
            sum.to_string(),
            "kills 5 (agent 3, receiver 0, broker 0, s3 2), stops 1, cuts 0, published again 0, copies 0, \
             acknowledged 26, rows 25, missing 1, duplicates 0, gaps 0, 1.5 s"
        );
    }
}
