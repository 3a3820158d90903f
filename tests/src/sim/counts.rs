//! Counts of what happened in simulations; counts of several runs add up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Counts by name, and the places at which programs died.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    numbers: BTreeMap<&'static str, u64>,
    died_at: BTreeSet<&'static str>,
}

impl Counts {
    /// Adds to one count.
    pub fn add(&mut self, name: &'static str, n: u64) {
        *self.numbers.entry(name).or_default() += n;
    }

    /// Notes a place at which a program died.
    pub fn died(&mut self, place: &'static str) {
        self.died_at.insert(place);
    }

    /// One count; 0 if it never was added to.
    pub fn get(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    /// Durable points at which some program died, by name.
    pub fn places(&self) -> &BTreeSet<&'static str> {
        &self.died_at
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Counts) {
        for (name, n) in &other.numbers {
            self.add(name, *n);
        }
        self.died_at.extend(&other.died_at);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, n) in &self.numbers {
            write!(f, "{name} {n}, ")?;
        }
        write!(f, "places of death {}", self.died_at.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_two_runs_add_up() {
        let (mut a, mut b) = (Counts::default(), Counts::default());
        a.add("rows", 2);
        b.add("rows", 3);
        b.add("gaps", 1);
        b.died("lease: replaced");
        a.merge(&b);
        assert_eq!(a.to_string(), "gaps 1, rows 5, places of death 1");
    }
}
