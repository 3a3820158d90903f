//! What follows from the speed of the link: the size of segments, uploads at once, and how long to be patient.

/// Segments are so small that the link carries one in this time, seconds.
const CARRIES: f64 = 600.0;
/// No segment is smaller for that, bytes: below it, what every Parquet file has besides would be most of it.
const SMALLEST: u64 = 64 << 10;
/// A day's budget is good for at least so many segments.
const PER_BUDGET: u64 = 8;
/// No segment is smaller because of a budget, bytes.
const SMALLEST_OF_BUDGET: u64 = 24 << 10;

/// An upload that takes longer than this is alone on its link, microseconds.
const SLOW: f64 = 10e6;
/// One that takes less has all the others beside it, microseconds.
const FAST: f64 = 2e6;

/// What the system may hold of a body that it has taken and not sent, bytes.
const HIDDEN: u64 = 4 << 20;
/// The slowest link that is worked for where none was measured, bytes a second.
const SLOWEST: f64 = 1024.0;

/// The greatest segment, bytes. `speed` is bytes a second, measured or permitted; `budget` is the smaller one, bytes,
/// 0 for none.
pub fn segment_bytes(max_bytes: u64, speed: Option<f64>, budget: u64) -> u64 {
    let by_speed = speed.map_or(u64::MAX, |s| ((s * CARRIES) as u64).max(SMALLEST));
    let by_budget = if budget == 0 { u64::MAX } else { (budget / PER_BUDGET).max(SMALLEST_OF_BUDGET) };
    max_bytes.min(by_speed).min(by_budget)
}

/// The speed to count on, bytes a second: the measured one, but not more than `max_rate` permits, 0 for no limit.
pub fn speed(measured: Option<f64>, max_rate: u64) -> Option<f64> {
    let limit = (max_rate > 0).then_some(max_rate as f64);
    match (measured, limit) {
        (Some(measured), Some(limit)) => Some(measured.min(limit)),
        (measured, limit) => measured.or(limit),
    }
}

/// How many uploads at once, `most` at most: the longer one takes, microseconds, the fewer. One while nothing is known.
pub fn at_once(lasting: Option<f64>, most: usize) -> usize {
    match lasting {
        Some(took) if took < FAST => most,
        Some(took) if took < SLOW => most.min(2),
        Some(_) | None => most.min(1),
    }
}

/// How much longer than usual a body of that many bytes may seem not to move, seconds: the system has taken it, and
/// the link carries it at `speed`.
pub fn patience(body: u64, speed: Option<f64>) -> f64 {
    // Twice, because a link may become slower while it is waited for.
    2.0 * body.min(HIDDEN) as f64 / speed.unwrap_or(SLOWEST).max(16.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_what_the_link_carries_in_ten_minutes_within_bounds() {
        let max = 5 << 20;
        assert_eq!(segment_bytes(max, None, 0), max);
        assert_eq!(segment_bytes(max, Some(1e6), 0), max);
        assert_eq!(segment_bytes(max, Some(2048.0), 0), 2048 * 600);
        assert_eq!(segment_bytes(max, Some(1.0), 0), SMALLEST);
        assert_eq!(segment_bytes(max, Some(1e6), 8 << 20), 1 << 20);
        assert_eq!(segment_bytes(max, None, 1), SMALLEST_OF_BUDGET);
        assert_eq!(speed(Some(9e6), 1000), Some(1000.0));
        assert_eq!((speed(None, 1000), speed(Some(5.0), 0), speed(None, 0)), (Some(1000.0), Some(5.0), None));
    }

    #[test]
    fn slow_links_get_one_upload_at_a_time_and_fast_ones_a_few() {
        let with = |took: f64| at_once(Some(took), 4);
        assert_eq!((with(0.1e6), with(5e6), with(60e6), at_once(None, 4)), (4, 2, 1, 1));
        assert_eq!(at_once(Some(1.0), 1), 1);
    }

    #[test]
    fn patience_grows_with_the_body_and_shrinks_with_the_speed() {
        assert!(patience(5 << 20, Some(2048.0)) > 2048.0);
        assert!(patience(5 << 20, Some(1e7)) < 1.0);
        assert!(patience(10_000, None) < 60.0);
        assert_eq!(patience(1 << 40, Some(1e3)), patience(HIDDEN, Some(1e3)));
    }
}
