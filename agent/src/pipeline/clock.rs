//! Edge: the clocks, as a value that tests replace.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tributary_contract::time::Timestamp;

/// Where wall time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Now, UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now();
        let micros = match now.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        };
        Timestamp(micros)
    }
}

/// The time from `now` to `at` as a wait, at least a millisecond, at most `longest`.
pub fn until(at: Timestamp, now: Timestamp, longest: Duration) -> Duration {
    let micros = u64::try_from(at.since(now)).unwrap_or(0);
    Duration::from_micros(micros).clamp(Duration::from_millis(1), longest)
}
