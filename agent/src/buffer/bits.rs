//! A set of a batch's rows, by position: what the bitmaps *sealed*, *shed* and *moved* hold.

use super::varint::{self, Reader, Short};

/// Rows of one batch by position, counted from 0. Stored as runs, because most batches are taken whole or in stretches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowSet(Vec<u64>);

impl RowSet {
    /// No row.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// All of `rows` rows.
    pub fn all(rows: u32) -> Self {
        (0..rows).collect()
    }

    /// Adds a row.
    pub fn insert(&mut self, row: u32) {
        let word = row as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(w) = self.0.get_mut(word) {
            *w |= 1 << (row % 64);
        }
    }

    /// Whether a row is in the set.
    pub fn contains(&self, row: u32) -> bool {
        self.0.get(row as usize / 64).is_some_and(|w| w >> (row % 64) & 1 == 1)
    }

    /// Adds all rows of `other`.
    pub fn union(&mut self, other: &RowSet) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    /// Takes out all rows of `other`.
    pub fn subtract(&mut self, other: &RowSet) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= !b);
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    /// Whether the two sets share a row.
    pub fn meets(&self, other: &RowSet) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// How many rows.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|w| w.count_ones()).sum()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// The rows in growing order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.0)
            .flat_map(|(i, w)| (0..64).filter(move |b| w >> b & 1 == 1).map(move |b| i * 64 + b))
    }

    /// Lengths of runs, by turns out of and in the set, as varints: a whole batch takes two to four bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut next, mut run) = (0u32, 0u32);
        for row in self.iter() {
            if run > 0 && row == next {
                run += 1;
            } else {
                if run > 0 {
                    varint::put(&mut out, u64::from(run));
                }
                varint::put(&mut out, u64::from(row - next));
                run = 1;
            }
            next = row + 1;
        }
        if run > 0 {
            varint::put(&mut out, u64::from(run));
        }
        out
    }

    /// Reads what [`RowSet::encode`] wrote for a batch of `rows` rows; rows beyond it are refused.
    pub fn decode(bytes: &[u8], rows: u32) -> Result<Self, Short> {
        let (mut set, mut reader, mut at, mut inside) = (Self::new(), Reader::new(bytes), 0u32, false);
        while reader.left() > 0 {
            let run = u32::try_from(reader.unsigned()?).map_err(|_| Short)?;
            let end = at.checked_add(run).filter(|end| *end <= rows).ok_or(Short)?;
            if inside {
                (at..end).for_each(|row| set.insert(row));
            }
            (at, inside) = (end, !inside);
        }
        Ok(set)
    }
}

impl FromIterator<u32> for RowSet {
    fn from_iter<I: IntoIterator<Item = u32>>(rows: I) -> Self {
        let mut set = Self::new();
        rows.into_iter().for_each(|row| set.insert(row));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sets_agree_with_plain_sets(a in prop::collection::btree_set(0u32..300, 0..80), b in prop::collection::btree_set(0u32..300, 0..80)) {
            let (x, y): (RowSet, RowSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(x.len() as usize, a.len());
            prop_assert_eq!(x.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(RowSet::decode(&x.encode(), 300), Ok(x.clone()));
            prop_assert_eq!(x.meets(&y), !a.is_disjoint(&b));
            let (mut both, mut less) = (x.clone(), x.clone());
            both.union(&y);
            less.subtract(&y);
            prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), &a | &b);
            prop_assert_eq!(less, (&a - &b).into_iter().collect::<RowSet>());
        }

        #[test]
        fn no_bytes_make_a_row_that_the_batch_does_not_have(bytes: Vec<u8>, rows in 0u32..200) {
            if let Ok(set) = RowSet::decode(&bytes, rows) {
                prop_assert!(set.iter().all(|row| row < rows));
            }
        }
    }
}
