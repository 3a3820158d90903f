//! Tumbling windows: which interval `[start, end)` holds an instant, aligned to 1970-01-01T00:00 UTC.

use tributary_contract::time::Timestamp;

/// Start of the window of `size` microseconds that holds `ts`; also before 1970. `size` below 1 counts as 1.
///
/// At the very beginning of the range, where no aligned start fits, it is the least instant there is.
pub fn start_of(ts: Timestamp, size: i64) -> Timestamp {
    ts.plus(-ts.0.rem_euclid(size.max(1)))
}

/// End of the window that starts at `start`: its first instant no more; held at the end of the range.
pub fn end_of(start: Timestamp, size: i64) -> Timestamp {
    start.plus(size.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{HOUR, MINUTE};

    #[test]
    fn a_window_begins_at_a_multiple_of_its_size() {
        let table = [
            (0, MINUTE, 0),
            (MINUTE - 1, MINUTE, 0),
            (MINUTE, MINUTE, MINUTE),
            (-1, MINUTE, -MINUTE),
            (-MINUTE, MINUTE, -MINUTE),
            (-MINUTE - 1, MINUTE, -2 * MINUTE),
            (25 * HOUR + 1, 24 * HOUR, 24 * HOUR),
        ];
        for (ts, size, start) in table {
            assert_eq!(start_of(Timestamp(ts), size), Timestamp(start), "{ts} in windows of {size}");
        }
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        assert_eq!(start_of(Timestamp(i64::MIN), HOUR), Timestamp(i64::MIN));
        assert!(start_of(Timestamp(i64::MAX), HOUR) <= Timestamp(i64::MAX));
        assert_eq!(end_of(start_of(Timestamp(i64::MAX), HOUR), HOUR), Timestamp(i64::MAX));
        assert_eq!(start_of(Timestamp(5), 0), Timestamp(5));
    }

    proptest! {
        #[test]
        fn every_instant_lies_in_exactly_its_window(ts in any::<i64>(), size in 1..=400 * 24 * HOUR) {
            let start = start_of(Timestamp(ts), size);
            let end = end_of(start, size);
            prop_assert!(start.0 <= ts && (ts < end.0 || end.0 == i64::MAX));
            prop_assert!(start.0.rem_euclid(size) == 0 || start.0 == i64::MIN);
        }
    }
}
