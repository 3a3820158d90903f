//! Counts what the client sends and receives, and holds it to the link's rate. Edge: the monotonic clock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::upload::link::pace;
use crate::upload::link::tokens::Tokens;
use crate::upload::link::wire;

/// A body that gives way still moves so often that no store takes it for dead.
const CREEP: Duration = Duration::from_secs(10);
/// How soon a body that gives way sees that the other has ended.
const LOOK: Duration = Duration::from_millis(250);
/// No speed is believed to be less, bytes a second.
const SLOWEST: f64 = 128.0;
/// Bodies smaller than this say more of the way's length than of its width, bytes.
const TELLING: u64 = 16 << 10;

/// What all requests of one client share.
#[derive(Debug)]
pub(super) struct Throttle {
    began: Instant,
    /// Bodies on their way that don't give way.
    urgent: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tokens: Option<Tokens>,
    /// Bytes on the wire, both ways.
    wire: u64,
    /// When the last request began or ended.
    used: Option<i64>,
    /// The slowest that bodies went lately, bytes a second.
    speed: Option<f64>,
}

/// One body that doesn't give way, for as long as it is on its way.
#[derive(Debug)]
pub(super) struct Urgent(Arc<Throttle>);

impl Throttle {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), urgent: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// Bytes a second from now on; 0 for no limit.
    pub(super) fn limit(&self, rate: u64) {
        self.state().tokens = (rate > 0).then(|| Tokens::new(rate, self.now()));
    }

    /// Bytes on the wire so far.
    pub(super) fn total(&self) -> u64 {
        self.state().wire
    }

    /// That many bytes of one message pass.
    pub(super) fn passed(&self, bytes: u64) {
        self.count(wire::message(bytes));
    }

    /// A request begins; over a new connection, if the last one has rested for too long.
    pub(super) fn request_begins(&self, tls: bool) {
        let now = self.now();
        let used = self.state().used.replace(now);
        // The first request needs a connection in any case.
        self.count(wire::connection(used.map_or(i64::MAX, |used| now - used), tls));
    }

    /// A request ended.
    pub(super) fn request_ends(&self) {
        self.state().used = Some(self.now());
    }

    fn count(&self, bytes: u64) {
        let now = self.now();
        let mut state = self.state();
        state.wire = state.wire.saturating_add(bytes);
        if let Some(tokens) = &mut state.tokens {
            tokens.take(bytes, now);
        }
    }

    /// How long the next piece has to wait for the rate; none: it may go.
    pub(super) fn wait(&self) -> Option<Duration> {
        let now = self.now();
        let wait = self.state().tokens.as_mut()?.wait(now);
        u64::try_from(wait).ok().filter(|w| *w > 0).map(Duration::from_micros)
    }

    /// The same for a body that gives way, and of which the last piece went at `last`.
    pub(super) fn wait_behind(&self, last: Instant) -> Option<Duration> {
        if self.urgent.load(Ordering::Relaxed) > 0 {
            let left = CREEP.saturating_sub(last.elapsed());
            if !left.is_zero() {
                return Some(left.min(LOOK));
            }
        }
        self.wait()
    }

    /// Notes that a body is on its way that doesn't give way.
    pub(super) fn urgent(self: &Arc<Self>) -> Urgent {
        self.urgent.fetch_add(1, Ordering::Relaxed);
        Urgent(Arc::clone(self))
    }

    /// How much longer than usual a request with a body of that many bytes may seem not to move.
    pub(super) fn patience(&self, body: u64) -> Duration {
        Duration::from_secs_f64(pace::patience(body, self.state().speed))
    }

    /// A body of that many bytes was stored, so long after its request began.
    pub(super) fn stored(&self, body: u64, took: Duration) {
        let took = took.as_secs_f64();
        if body < TELLING || took <= 0.0 {
            return;
        }
        let sample = (body as f64 / took).max(SLOWEST);
        let mut state = self.state();
        // What is slower holds at once, what is faster has to last.
        state.speed = Some(state.speed.map_or(sample, |known| sample.min((known + sample) / 2.0)));
    }

    /// A request was given up because nothing moved: the link may be slower than it was.
    pub(super) fn stood_still(&self) {
        let mut state = self.state();
        state.speed = state.speed.map(|known| (known / 2.0).max(SLOWEST));
    }

    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers that a panic elsewhere left behind are good enough.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_counted_and_a_full_second_is_waited_for() {
        let throttle = Throttle::new();
        throttle.passed(1400);
        assert_eq!((throttle.total(), throttle.wait()), (wire::message(1400), None));
        throttle.limit(1000);
        assert_eq!(throttle.wait(), None, "rested");
        throttle.passed(100_000);
        assert!(throttle.wait().unwrap() > Duration::from_secs(60));
        throttle.limit(0);
        assert_eq!(throttle.wait(), None);
    }

    #[test]
    fn a_body_gives_way_while_another_one_does_not() {
        let throttle = Arc::new(Throttle::new());
        assert_eq!(throttle.wait_behind(Instant::now()), None);
        let urgent = throttle.urgent();
        assert_eq!(throttle.wait_behind(Instant::now()), Some(LOOK));
        assert_eq!(throttle.wait(), None);
        if let Some(long_ago) = Instant::now().checked_sub(CREEP) {
            assert_eq!(throttle.wait_behind(long_ago), None, "it creeps on");
        }
        drop(urgent);
        assert_eq!(throttle.wait_behind(Instant::now()), None);
    }

    #[test]
    fn patience_follows_the_slowest_that_was_seen_lately() {
        let throttle = Throttle::new();
        let unknown = throttle.patience(1 << 20);
        throttle.stored(1 << 20, Duration::from_secs(1));
        let fast = throttle.patience(1 << 20);
        assert!(fast < unknown);
        throttle.stored(1 << 20, Duration::from_secs(500));
        let slow = throttle.patience(1 << 20);
        assert!(slow > Duration::from_secs(900) && slow > fast);
        throttle.stood_still();
        assert!(throttle.patience(1 << 20) > slow);
    }
}
