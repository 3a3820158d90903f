//! A set of message numbers that costs one bit a number where they are dense.

use std::collections::BTreeMap;

/// Numbers a page holds; a page costs 8 KiB, so one stray number can't cost more than that.
const PAGE_NUMBERS: u64 = 1 << 16;
const PAGE_WORDS: usize = (PAGE_NUMBERS / 64) as usize;

/// Distinct numbers, kept as a bitmap in pages.
#[derive(Clone, Debug, Default)]
pub struct NumberSet {
    pages: BTreeMap<u64, Box<[u64]>>,
    len: u64,
}

impl NumberSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of all numbers in the given ranges, both ends included; ranges may overlap.
    #[must_use]
    pub fn from_ranges(ranges: &[(u64, u64)]) -> Self {
        let mut set = Self::new();
        for &(first, last) in ranges {
            for number in first..=last {
                set.insert(number);
            }
        }
        set
    }

    /// Adds `number`; true when it wasn't there before.
    pub fn insert(&mut self, number: u64) -> bool {
        let page =
            self.pages.entry(number / PAGE_NUMBERS).or_insert_with(|| vec![0; PAGE_WORDS].into_boxed_slice());
        let (word, bit) = place(number);
        let Some(word) = page.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        self.len += u64::from(new);
        new
    }

    /// Adds every number of `other`.
    pub fn extend(&mut self, other: &NumberSet) {
        for (page, words) in &other.pages {
            let own = self.pages.entry(*page).or_insert_with(|| vec![0; PAGE_WORDS].into_boxed_slice());
            for (own, word) in own.iter_mut().zip(words) {
                self.len += u64::from((word & !*own).count_ones());
                *own |= word;
            }
        }
    }

    /// Whether `number` is in the set.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.pages
            .get(&(number / PAGE_NUMBERS))
            .and_then(|page| page.get(word))
            .is_some_and(|word| word & bit != 0)
    }

    /// How many distinct numbers the set holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was ever added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The numbers as ascending, separate ranges, both ends included.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (page, words) in &self.pages {
            for (index, &word) in words.iter().enumerate() {
                let mut rest = word;
                while rest != 0 {
                    let number = page * PAGE_NUMBERS + index as u64 * 64 + u64::from(rest.trailing_zeros());
                    rest &= rest - 1;
                    match ranges.last_mut() {
                        Some((_, last)) if *last + 1 == number => *last = number,
                        _ => ranges.push((number, number)),
                    }
                }
            }
        }
        ranges
    }

    /// How many numbers from `first` to `last`, both included, are not in the set.
    #[must_use]
    pub fn missing(&self, first: u64, last: u64) -> u64 {
        (first..=last).filter(|&number| !self.contains(number)).count() as u64
    }
}

/// Word within the page, and the bit within that word.
fn place(number: u64) -> (usize, u64) {
    let within = number % PAGE_NUMBERS;
    ((within / 64) as usize, 1 << (within % 64))
}
