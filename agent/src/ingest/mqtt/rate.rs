//! How many messages a second came at most, and the in-flight window that follows from it.

use tributary_contract::time::Timestamp;

use crate::config::SECOND;

/// Beyond so many a batch is committed for its bytes before it fills half the window.
const LARGEST: u16 = 16_384;

/// Counts messages by seconds of the clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    second: i64,
    count: u32,
    highest: u32,
}

impl Rate {
    pub(super) fn arrived(&mut self, at: Timestamp) {
        let second = at.micros().div_euclid(SECOND);
        if second != self.second {
            (self.second, self.count) = (second, 0);
        }
        self.count += 1;
        self.highest = self.highest.max(self.count);
    }

    /// Room for two commit intervals (microseconds) of the highest rate, and never less than `configured`.
    pub(super) fn window(&self, configured: u16, commit_interval: i64) -> u16 {
        let two = i64::from(self.highest).saturating_mul(commit_interval.saturating_mul(2)) / SECOND;
        u16::try_from(two).unwrap_or(LARGEST).min(LARGEST).max(configured).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_has_room_for_two_commit_intervals_of_the_highest_rate_seen() {
        let mut rate = Rate::default();
        assert_eq!(rate.window(1000, SECOND), 1000);
        (0..1500).for_each(|n| rate.arrived(Timestamp(7 * SECOND + n)));
        (0..900).for_each(|n| rate.arrived(Timestamp(8 * SECOND + n)));
        assert_eq!(rate.window(1000, SECOND), 3000);
        assert_eq!(rate.window(1000, SECOND / 50), 1000, "what is set is the least");
        assert_eq!(rate.window(30_000, SECOND), 30_000, "whatever it is");
        assert_eq!(rate.window(1000, 100 * SECOND), LARGEST);
    }
}
