//! When keys are fetched again: decided by instants that no clock can turn back, never by the time of day.
//!
//! A gateway's clock may be years off. Taken at its word, an expiry in the past would fetch keys without end, and one far
//! ahead would sign with dead keys for ever. So the expiry is taken once, as a span from the time that its own sender
//! shows, and counted down from there; and the bucket's refusal has the last word.

use std::time::{Duration, Instant};

use tributary_contract::time::Timestamp;

use crate::upload::backoff::{Backoff, Jitter};

/// How long keys count as valid whose span isn't known.
pub const UNKNOWN: Duration = Duration::from_secs(15 * 60);
/// No session of AWS that machines are given lasts longer.
const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);
/// How long before their end keys are fetched again, at most; twice that with the full jitter.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// Pauses between fetches that fail while the old keys still do: 5 s to 5 min.
const PAUSES: Backoff = Backoff::new(5_000_000, 300_000_000);
/// The least time between two fetches that fail when there are no keys. What asks for them pauses by itself.
const AT_LEAST: Duration = Duration::from_secs(1);

/// How long keys are valid that end at `expires` by a clock that showed `shown` when they were given.
pub fn lifetime(expires: Timestamp, shown: Timestamp) -> Duration {
    match u64::try_from(expires.micros().saturating_sub(shown.micros())) {
        // Given when they had ended already: the clock that was asked is wrong.
        Ok(0) | Err(_) => UNKNOWN,
        Ok(micros) => Duration::from_micros(micros).min(LONGEST),
    }
}

/// Keys in use, as far as time is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// From here on they are fetched again.
    renew: Instant,
    /// From here on they aren't used.
    end: Instant,
}

impl Lease {
    /// Keys that were asked for at `asked` and are valid for `lifetime`. The jitter keeps gateways that were switched on
    /// together from asking together.
    pub fn new(asked: Instant, lifetime: Duration, jitter: Jitter) -> Self {
        let end = asked + lifetime;
        let margin = MARGIN.min(lifetime / 8);
        Self { renew: end - margin - margin.mul_f64(jitter.fraction()), end }
    }
}

/// What is known when keys are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// The keys in use.
    pub lease: Option<Lease>,
    /// The bucket has refused them.
    pub refused: bool,
    /// The last fetch, if it failed.
    pub failed: Option<Failed>,
}

/// A fetch that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// When.
    pub at: Instant,
    /// The how many-th in a row, from 1.
    pub times: u32,
}

/// What to do when keys are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The keys in use are good.
    Keep,
    /// Fetch others; where that fails, the ones in use are still good.
    Renew,
    /// Fetch some: there are none that are good.
    Fetch,
    /// There are none that are good, and a fetch has failed a moment ago: say why.
    Fail,
}

/// What to do at `now`.
pub fn due(known: &Known, now: Instant) -> Due {
    let since = known.failed.map(|failed| (now.saturating_duration_since(failed.at), failed.times));
    match known.lease {
        Some(lease) if now < lease.end && !known.refused => {
            let pause = |times| Duration::from_micros(PAUSES.delay(times, Jitter::new(1.0)).unsigned_abs());
            let paused = since.is_some_and(|(passed, times)| passed < pause(times));
            if now < lease.renew || paused { Due::Keep } else { Due::Renew }
        }
        Some(_) | None if since.is_some_and(|(passed, _)| passed < AT_LEAST) => Due::Fail,
        Some(_) | None => Due::Fetch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn a_span_is_what_the_sender_s_clock_says_and_no_clock_makes_it_endless_or_none() {
        let hour = 3600;
        assert_eq!(lifetime(at(hour), at(0)), 60 * MINUTE);
        assert_eq!(lifetime(at(hour), at(hour - 1)), SECOND);
        // By a clock that is years behind, and by one that is ahead.
        assert_eq!(lifetime(at(1_772_323_200), at(5)), LONGEST);
        assert_eq!(lifetime(at(5), at(1_772_323_200)), UNKNOWN);
        assert_eq!(lifetime(at(5), at(5)), UNKNOWN);
        assert_eq!(lifetime(Timestamp(i64::MAX), Timestamp(i64::MIN)), LONGEST);
        assert_eq!(lifetime(Timestamp(i64::MIN), Timestamp(i64::MAX)), UNKNOWN);
    }

    #[test]
    fn keys_are_fetched_before_they_end_each_gateway_at_its_own_moment() {
        let start = Instant::now();
        let when = |lifetime, jitter| {
            let known =
                Known { lease: Some(Lease::new(start, lifetime, Jitter::new(jitter))), ..Known::default() };
            let first = |wanted| {
                (0..).map(|s| start + SECOND * s).find(|now| due(&known, *now) == wanted).unwrap() - start
            };
            (first(Due::Renew), first(Due::Fetch))
        };
        assert_eq!(when(60 * MINUTE, 0.0), (55 * MINUTE, 60 * MINUTE));
        assert_eq!(when(60 * MINUTE, 1.0), (50 * MINUTE, 60 * MINUTE));
        assert_eq!(when(80 * SECOND, 0.0), (70 * SECOND, 80 * SECOND));
    }

    #[test]
    fn keys_that_are_still_good_outlive_failures_and_are_asked_for_ever_more_seldom() {
        let start = Instant::now();
        let lease = Lease::new(start, 60 * MINUTE, Jitter::new(0.0));
        let after = |times, passed: Duration| {
            let failed = Some(Failed { at: start + 55 * MINUTE, times });
            due(&Known { lease: Some(lease), refused: false, failed }, start + 55 * MINUTE + passed)
        };
        assert_eq!((after(1, 4 * SECOND), after(1, 5 * SECOND)), (Due::Keep, Due::Renew));
        assert_eq!((after(3, 19 * SECOND), after(3, 20 * SECOND)), (Due::Keep, Due::Renew));
        assert_eq!(after(9, 299 * SECOND), Due::Keep);
        // Dead keys are never used, however often it failed.
        assert_eq!(after(9, 300 * SECOND), Due::Fetch);
    }

    #[test]
    fn what_the_bucket_refused_is_fetched_again_at_once_and_not_without_end() {
        let start = Instant::now();
        let lease = Some(Lease::new(start, 60 * MINUTE, Jitter::new(0.0)));
        let refused = |failed| due(&Known { lease, refused: true, failed }, start + MINUTE);
        assert_eq!(refused(None), Due::Fetch);
        assert_eq!(refused(Some(Failed { at: start + MINUTE, times: 1 })), Due::Fail);
        assert_eq!(refused(Some(Failed { at: start + 59 * SECOND, times: 1 })), Due::Fetch);
        assert_eq!(due(&Known::default(), start), Due::Fetch);
    }
}
