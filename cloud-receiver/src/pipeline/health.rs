//! What works and what doesn't, for page, API and the service manager.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tributary_contract::time::Timestamp;

/// What the receiver depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The bucket.
    Bucket,
    /// The catalog with its warehouse.
    Catalog,
    /// The ledger.
    Ledger,
}

impl Part {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Part::Bucket => "bucket",
            Part::Catalog => "catalog",
            Part::Ledger => "ledger",
        }
    }
}

/// How long something has been failing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failing {
    /// Which part.
    pub part: Part,
    /// Since when, by this machine's clock.
    pub since: Timestamp,
    /// The last answer.
    pub why: String,
}

/// Shared by loops and page.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    failing: BTreeMap<Part, Failing>,
    beats: u64,
}

impl Health {
    /// Notes that a part answered; returns what had been failing.
    pub fn ok(&self, part: Part) -> Option<Failing> {
        self.lock().failing.remove(&part)
    }

    /// Notes that a part failed; `true` if it had worked before.
    pub fn failed(&self, part: Part, why: String, now: Timestamp) -> bool {
        let mut state = self.lock();
        let since = state.failing.get(&part).map_or(now, |f| f.since);
        state.failing.insert(part, Failing { part, since, why }).is_none()
    }

    /// What fails now.
    pub fn failing(&self) -> Vec<Failing> {
        self.lock().failing.values().cloned().collect()
    }

    /// A loop made progress.
    pub fn beat(&self) {
        self.lock().beats += 1;
    }

    /// How often loops made progress.
    pub fn beats(&self) -> u64 {
        self.lock().beats
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_the_time_it_began_until_the_part_answers() {
        let health = Health::default();
        assert!(health.failed(Part::Bucket, "refused".into(), Timestamp(1)));
        assert!(!health.failed(Part::Bucket, "timed out".into(), Timestamp(2)));
        let failing = health.failing();
        assert_eq!((failing[0].since, failing[0].why.as_str()), (Timestamp(1), "timed out"));
        assert!(health.ok(Part::Bucket).is_some());
        assert!(health.failing().is_empty() && health.ok(Part::Bucket).is_none());
    }
}
