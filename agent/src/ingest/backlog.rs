//! What waited at a broker while we were away, and until when it keeps coming.
//!
//! Pure. After a connection that found its session, what the broker had kept comes first. A marker, published by us on a
//! topic of our own, stands behind it in the broker's queue: what arrives before it returns had waited, and from then on
//! the connection counts as drained. Where there is no marker (switched off, refused, or the connection before this one
//! ended while waiting for it) a second of silence says the same, less surely; after five minutes either is given up.

use tributary_contract::time::Timestamp;

use super::Session;
use crate::config::{MINUTE, SECOND};

/// Without a marker, a connection that brought nothing for this long is drained, microseconds.
const QUIET: i64 = SECOND;
/// At the latest it is after this long, microseconds.
const DRAIN_MAX: i64 = 5 * MINUTE;

/// The backlogs at all brokers.
#[derive(Debug, Clone)]
pub struct Backlog {
    /// An absence up to this long leaves fresh what waited, microseconds.
    lateness: i64,
    brokers: Vec<Waited>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Waited {
    /// When we were last known to be with the broker.
    alive: Option<Timestamp>,
    /// Whether that is by the clock as it has run since the start.
    known: bool,
    connected: bool,
    coming: Option<Coming>,
}

/// What waited is still coming.
#[derive(Debug, Clone, Copy)]
struct Coming {
    since: Timestamp,
    last: Timestamp,
    marker: bool,
    stale: bool,
}

impl Backlog {
    /// For so many brokers; `lateness` in microseconds.
    pub fn new(lateness: i64, brokers: usize) -> Self {
        Self { lateness, brokers: vec![Waited::default(); brokers] }
    }

    /// We were with the broker then: a message that the journal remembers.
    pub fn was_with(&mut self, broker: usize, at: Timestamp) {
        if let Some(waited) = self.brokers.get_mut(broker) {
            waited.alive = Some(waited.alive.map_or(at, |alive| alive.max(at)));
        }
    }

    /// A connection was made; `synced` says whether the clock is synchronised. By one that isn't, nobody can tell how long
    /// ago the last start ended, so it counts as long ago.
    pub fn connected(&mut self, broker: usize, session: Session, synced: bool, at: Timestamp) {
        let Some(waited) = self.brokers.get_mut(broker) else { return };
        waited.connected = true;
        let comparable = waited.alive.filter(|_| synced || waited.known);
        waited.coming = (session == Session::Present).then(|| Coming {
            since: at,
            last: at,
            marker: false,
            stale: comparable.is_none_or(|alive| at.since(alive).abs() > self.lateness),
        });
    }

    /// A marker was sent on the connection just made.
    pub fn marked(&mut self, broker: usize) {
        if let Some(coming) = self.brokers.get_mut(broker).and_then(|waited| waited.coming.as_mut()) {
            coming.marker = true;
        }
    }

    /// The wall clock stepped by `by` microseconds: how long ago something was stays what it is.
    pub fn clock_stepped(&mut self, by: i64) {
        for waited in &mut self.brokers {
            if waited.known {
                waited.alive = waited.alive.map(|at| at.plus(by));
            }
            if let Some(coming) = &mut waited.coming {
                (coming.since, coming.last) = (coming.since.plus(by), coming.last.plus(by));
            }
        }
    }

    /// The connection ended, or couldn't be made; `alive` is when it surely still was there.
    pub fn disconnected(&mut self, broker: usize, alive: Timestamp) {
        let Some(waited) = self.brokers.get_mut(broker) else { return };
        // What a backlog held that didn't come whole is no fresher at the next connection.
        let was_stale = waited.coming.take().is_some_and(|coming| coming.stale);
        if std::mem::take(&mut waited.connected) && !was_stale {
            (waited.alive, waited.known) = (Some(alive), true);
        }
    }

    /// A message came.
    pub fn arrived(&mut self, broker: usize, at: Timestamp) {
        if let Some(coming) = self.brokers.get_mut(broker).and_then(|waited| waited.coming.as_mut()) {
            coming.last = at;
        }
    }

    /// The marker of the live connection came back.
    pub fn marker_returned(&mut self, broker: usize) {
        if let Some(waited) = self.brokers.get_mut(broker) {
            waited.coming = None;
        }
    }

    /// Time has passed. A clock that stepped back ends the waiting.
    pub fn note(&mut self, now: Timestamp) {
        for waited in &mut self.brokers {
            waited.coming = waited.coming.filter(|coming| {
                let quiet = !coming.marker && now.since(coming.last) >= QUIET;
                !quiet && now.since(coming.since) < DRAIN_MAX && now >= coming.since
            });
        }
    }

    /// Whether a broker is connected and has given all that waited.
    pub fn is_drained(&self, broker: usize) -> bool {
        self.brokers.get(broker).is_some_and(|waited| waited.connected && waited.coming.is_none())
    }

    /// Whether what comes from a broker now waited there for longer than the lateness.
    pub fn is_stale(&self, broker: usize) -> bool {
        self.brokers.get(broker).and_then(|waited| waited.coming).is_some_and(|coming| coming.stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENESS: i64 = 10 * SECOND;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * SECOND)
    }

    /// Connected until second 100.
    fn left(lateness: i64) -> Backlog {
        let mut b = Backlog::new(lateness, 1);
        b.connected(0, Session::New, true, at(0));
        assert!(b.is_drained(0) && !b.is_stale(0), "a new session has nothing that waited");
        b.disconnected(0, at(100));
        assert!(!b.is_drained(0));
        b
    }

    /// Comes back at that second, with a marker.
    fn back(b: &mut Backlog, second: i64) {
        b.connected(0, Session::Present, true, at(second));
        b.marked(0);
    }

    #[test]
    fn what_comes_before_the_marker_waited_and_what_comes_after_it_did_not() {
        let mut b = left(LATENESS);
        back(&mut b, 111);
        assert!(b.is_stale(0) && !b.is_drained(0));
        b.note(at(130));
        assert!(b.is_stale(0), "silence says nothing while a marker is under way");
        b.marker_returned(0);
        assert!(!b.is_stale(0) && b.is_drained(0));
    }

    #[test]
    fn after_an_absence_up_to_the_lateness_what_waited_is_still_fresh() {
        let mut b = left(LATENESS);
        back(&mut b, 110);
        assert!(!b.is_stale(0) && !b.is_drained(0));
    }

    #[test]
    fn without_marker_a_second_of_silence_ends_it_and_with_one_five_minutes_do() {
        let mut b = left(LATENESS);
        b.connected(0, Session::Present, true, at(200));
        b.arrived(0, at(201));
        b.note(Timestamp(at(202).micros() - 1));
        assert!(b.is_stale(0));
        b.note(at(202));
        assert!(b.is_drained(0));
        let mut b = left(LATENESS);
        back(&mut b, 200);
        b.note(at(499));
        assert!(b.is_stale(0));
        b.note(at(500));
        assert!(b.is_drained(0));
        back(&mut b, 200);
        b.note(at(199));
        assert!(b.is_drained(0), "the clock stepped back");
    }

    #[test]
    fn a_start_counts_its_absence_from_the_last_message_that_is_remembered() {
        let mut b = Backlog::new(LATENESS, 2);
        b.was_with(0, at(95));
        b.was_with(0, at(90));
        for broker in [0, 1] {
            b.connected(broker, Session::Present, true, at(100));
        }
        assert_eq!((b.is_stale(0), b.is_stale(1)), (false, true), "nothing remembered is a long absence");
    }

    #[test]
    fn a_backlog_that_was_cut_short_stays_stale() {
        let mut b = left(LATENESS);
        back(&mut b, 200);
        b.disconnected(0, at(201));
        b.disconnected(0, at(201));
        back(&mut b, 202);
        assert!(b.is_stale(0));
    }

    #[test]
    fn a_connection_that_cannot_be_made_is_no_presence() {
        let mut b = left(LATENESS);
        (101..200).for_each(|second| b.disconnected(0, at(second)));
        back(&mut b, 200);
        assert!(b.is_stale(0));
    }

    #[test]
    fn a_step_of_the_clock_makes_no_absence_longer_or_shorter() {
        let mut b = left(LATENESS);
        b.clock_stepped(-1000 * SECOND);
        back(&mut b, -895);
        assert!(!b.is_stale(0), "five seconds");
        b.clock_stepped(2000 * SECOND);
        b.note(at(1106));
        assert!(!b.is_drained(0), "the marker is still under way");
        b.disconnected(0, at(1107));
        back(&mut b, 1118);
        assert!(b.is_stale(0), "eleven seconds");
    }

    #[test]
    fn a_start_whose_clock_is_not_synchronised_cannot_tell_how_long_it_was_away() {
        let mut b = Backlog::new(LATENESS, 1);
        b.was_with(0, at(95));
        b.connected(0, Session::Present, false, at(96));
        assert!(b.is_stale(0));
        b.marker_returned(0);
        b.disconnected(0, at(97));
        b.connected(0, Session::Present, false, at(98));
        assert!(!b.is_stale(0), "but how long a connection was away it can");
    }
}
