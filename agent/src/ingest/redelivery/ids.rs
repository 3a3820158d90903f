//! Which message was remembered last under each packet id. A broker that counts its ids up comes to all 65,535 of them, so each has
//! a place of four bytes; pages that no id fell into take no memory.

/// Ordinals are kept modulo this, plus one: zero is none.
const MODULUS: u64 = u32::MAX as u64;

/// Of one connection. Ordinals must lie in a stretch shorter than 2^32 - 1, whose least one is told when they are asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids {
    /// By packet id; none before the first.
    last: Vec<u32>,
}

impl Ids {
    /// The ordinal under `id`; `first` is the least one that may be there.
    pub(super) fn get(&self, id: u16, first: u64) -> Option<u64> {
        let kept = u64::from(*self.last.get(usize::from(id))?).checked_sub(1)?;
        let ordinal = first - first % MODULUS + kept;
        Some(if ordinal < first { ordinal + MODULUS } else { ordinal })
    }

    pub(super) fn insert(&mut self, id: u16, ordinal: u64) {
        if self.last.is_empty() {
            self.last = vec![0; usize::from(u16::MAX) + 1];
        }
        if let Some(place) = self.last.get_mut(usize::from(id)) {
            // Less than the modulus: it fits.
            *place = (ordinal % MODULUS) as u32 + 1;
        }
    }

    pub(super) fn remove(&mut self, id: u16) {
        if let Some(place) = self.last.get_mut(usize::from(id)) {
            *place = 0;
        }
    }

    pub(super) fn clear(&mut self) {
        self.last = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_found_again_however_many_messages_there_were() {
        let mut ids = Ids::default();
        assert_eq!(ids.get(7, 0), None);
        for first in [0, 1, MODULUS - 2, MODULUS - 1, MODULUS, 5 * MODULUS - 1, u64::MAX / 2] {
            for ordinal in [first, first + 1, first + 2, first + 100_000] {
                ids.insert(7, ordinal);
                assert_eq!(ids.get(7, first), Some(ordinal), "{first}");
            }
        }
        ids.insert(u16::MAX, 3);
        ids.remove(7);
        assert_eq!((ids.get(7, 0), ids.get(u16::MAX, 0)), (None, Some(3)));
        ids.clear();
        assert_eq!(ids.get(u16::MAX, 0), None);
    }
}
