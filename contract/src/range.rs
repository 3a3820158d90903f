//! Sets of numbers as closed ranges: what is registered, outstanding, void.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of `u64`, held as sorted, disjoint, non-touching closed ranges. JSON: `[[1,7],[9,9]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one number.
    pub fn insert(&mut self, n: u64) {
        self.insert_range(n, n);
    }

    /// Adds `first..=last`; nothing if `first > last`.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        // The first range that touches or follows `first`, and the first that lies wholly behind `last`.
        let from = self.0.partition_point(|&(_, b)| b.saturating_add(1) < first);
        let to = self.0.partition_point(|&(a, _)| a <= last.saturating_add(1));
        let (mut lo, mut hi) = (first, last);
        if let Some(touched) = self.0.get(from..to)
            && let (Some(&(a, _)), Some(&(_, b))) = (touched.first(), touched.last())
        {
            lo = lo.min(a);
            hi = hi.max(b);
        }
        self.0.splice(from..to.max(from), [(lo, hi)]);
    }

    /// Adds every number of `other`.
    pub fn union(&mut self, other: &Ranges) {
        for &(a, b) in &other.0 {
            self.insert_range(a, b);
        }
    }

    /// Takes one number out.
    pub fn remove(&mut self, n: u64) {
        let i = self.0.partition_point(|&(_, b)| b < n);
        let Some(&(a, b)) = self.0.get(i) else { return };
        if n < a {
            return;
        }
        let mut rest = Vec::with_capacity(2);
        if a < n {
            rest.push((a, n - 1));
        }
        if n < b {
            rest.push((n + 1, b));
        }
        self.0.splice(i..=i, rest);
    }

    /// The numbers that are not in `taken`.
    pub fn without(&self, taken: &Ranges) -> Ranges {
        let mut rest = Self::new();
        for (mut first, last) in self.iter() {
            for (a, b) in taken.iter().filter(|&(a, b)| b >= first && a <= last).collect::<Vec<_>>() {
                if a > first {
                    rest.insert_range(first, a - 1);
                }
                first = first.max(b.saturating_add(1));
            }
            rest.insert_range(first, last);
        }
        rest
    }

    /// Whether `n` is in the set.
    pub fn contains(&self, n: u64) -> bool {
        let i = self.0.partition_point(|&(_, b)| b < n);
        self.0.get(i).is_some_and(|&(a, _)| a <= n)
    }

    /// The greatest number, if any.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|&(_, b)| b)
    }

    /// How many numbers there are; saturates.
    pub fn len(&self) -> u64 {
        self.0.iter().fold(0, |n, &(a, b)| n.saturating_add((b - a).saturating_add(1)))
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in growing order, both ends included.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// The greatest `n` such that every number of `1..=n` is in the set; 0 if 1 is not.
    pub fn complete_until(&self) -> u64 {
        match self.0.first() {
            Some(&(a, b)) if a <= 1 => b,
            _ => 0,
        }
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::new();
        for n in numbers {
            set.insert(n);
        }
        set
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut set = Self::new();
        for (a, b) in Vec::<(u64, u64)>::deserialize(d)? {
            if a > b {
                return Err(serde::de::Error::custom(format!("range [{a},{b}] runs backwards")));
            }
            set.insert_range(a, b);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_agree_with_a_plain_set(ops in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..6), 0..60)) {
            let (mut ranges, mut plain) = (Ranges::new(), BTreeSet::new());
            for (add, n, more) in ops {
                if add {
                    ranges.insert_range(n, n + more);
                    plain.extend(n..=n + more);
                } else {
                    ranges.remove(n);
                    plain.remove(&n);
                }
            }
            prop_assert_eq!(ranges.iter().flat_map(|(a, b)| a..=b).collect::<Vec<_>>(),
                            plain.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(ranges.len(), plain.len() as u64);
            for n in 0..50 {
                prop_assert_eq!(ranges.contains(n), plain.contains(&n));
            }
            // Neighbours are always joined, so that one set has one spelling.
            let gaps: Vec<_> = ranges.iter().collect();
            prop_assert!(gaps.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            let json = serde_json::to_string(&ranges).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ranges>(&json).unwrap(), ranges);
        }
    }

    #[test]
    fn the_ends_of_u64_do_not_overflow() {
        let mut r = Ranges::new();
        r.insert(u64::MAX);
        r.insert_range(0, u64::MAX);
        assert_eq!(r.iter().collect::<Vec<_>>(), [(0, u64::MAX)]);
        assert_eq!(r.complete_until(), u64::MAX);
    }
}
