//! Which closed windows are told at once, each once for what it holds.

use super::{Unit, Waiting, Windows};
use crate::window::decision::DecisionKey;
use crate::window::plan::Plan;
use tributary_contract::time::Timestamp;

impl Windows {
    /// Windows to be told that may close, or were closed and have late readings, and hold something that wasn't told yet:
    /// about `most` of one series each, oldest first, always all series of a device's window together. Nothing is decided
    /// by it: they wait to be sealed as before.
    pub fn to_announce(&mut self, now: Timestamp, drained: bool, most: usize) -> Option<Plan> {
        let waiting = &self.waiting;
        // What was sealed needs no more memory: should readings come late, they are news.
        self.announced.retain(|(unit, series), _| {
            let touched = waiting.get(unit).map(|w| w.touched.as_slice()).unwrap_or_default();
            touched.binary_search_by_key(series, |t| t.series).is_ok()
        });
        let told = |unit: &Unit| {
            self.definitions.get(usize::from(unit.definition)).is_some_and(|d| d.window.publish.is_some())
        };
        let is_news = |unit: &Unit, w: &Waiting| {
            w.touched.iter().any(|t| self.announced.get(&(*unit, t.series)).is_none_or(|at| *at < t.last_seq))
        };
        let due = self.oldest_first(now, drained, |unit, w| told(unit) && is_news(unit, w));
        self.plan_first(due.into_iter(), most, now)
    }

    /// Takes note that this window is told, with its readings up to the seq `through`. False if nothing is new in it since
    /// it was told before, or if it isn't one that is told.
    pub fn announce(&mut self, key: &DecisionKey, through: u64) -> bool {
        let Some((unit, series)) = self.find(key) else { return false };
        let is_told =
            self.definitions.get(usize::from(unit.definition)).is_some_and(|d| d.window.publish.is_some());
        let Some(waiting) = self.waiting.get(&unit).filter(|_| is_told) else { return false };
        let Ok(at) = waiting.touched.binary_search_by_key(&series, |t| t.series) else { return false };
        let Some(newest) = waiting.touched.get(at).map(|t| t.last_seq) else { return false };
        let before = self.announced.insert((unit, series), through);
        before.is_none_or(|before| before < newest)
    }
}
