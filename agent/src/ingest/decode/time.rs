//! Event times as payloads spell them: RFC 3339, or a number whose size says its unit.

use tributary_contract::time::Timestamp;

use super::document::Doc;
use crate::config::TimeUnit;
use crate::reading::Value;

/// 0000-01-01T00:00:00Z in microseconds.
const EARLIEST: i64 = -62_167_219_200_000_000;
/// 9999-12-30T22:00:00.999999Z in microseconds: the last instant that has a date in every zone.
const LATEST: i64 = 253_402_207_200_999_999;

fn whole_of(unit: TimeUnit, n: i64) -> Option<Timestamp> {
    within(match unit {
        TimeUnit::Seconds => n.checked_mul(1_000_000)?,
        TimeUnit::Millis => n.checked_mul(1000)?,
        TimeUnit::Micros => n,
        TimeUnit::Nanos => n.div_euclid(1000),
    })
}

fn fraction_of(unit: TimeUnit, n: f64) -> Option<Timestamp> {
    from_micros(match unit {
        TimeUnit::Seconds => n * 1e6,
        TimeUnit::Millis => n * 1e3,
        TimeUnit::Micros => n,
        TimeUnit::Nanos => n / 1e3,
    })
}

/// Reads the value at a configured path: RFC 3339 (a space instead of `T` is tolerated), a number, or a number as
/// text; or an object of seconds and nanoseconds. The error says what was got.
pub fn configured(value: &Doc, unit: Option<TimeUnit>) -> Result<Timestamp, String> {
    let found = match value {
        Doc::Scalar(Value::Text(text)) => rfc3339(text).or_else(|| from_text(text.trim(), unit)),
        Doc::Scalar(Value::Int(whole)) => from_whole(*whole, unit),
        Doc::Scalar(Value::Float(number)) => from_fraction(*number, unit),
        Doc::Object(_) => from_object(value, unit),
        Doc::Scalar(Value::Bool(_) | Value::Great(_)) | Doc::Null | Doc::Array(_) => None,
    };
    found.ok_or_else(|| {
        let got = value.shown();
        format!("expected RFC 3339 with a zone, or seconds, ms, µs or ns since 1970, within the years 0000 to 9999; got {got}")
    })
}

/// What `auto` makes of a value under a well-known name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// A time.
    Time(Timestamp),
    /// A date and time without zone: no reading, but no instant either.
    Local,
    /// Something else, perhaps a reading.
    Other,
}

/// Looks at a value under a well-known name. Small numbers are no times: a device's `time` may be its uptime. A number
/// in a text is one where it is as long as an epoch's.
pub fn guess(value: &Doc, unit: Option<TimeUnit>) -> Guess {
    let plausible = |size: f64, ts: Option<Timestamp>| match ts {
        Some(ts) if unit.is_some() || size == 0.0 || size >= 1e8 => Guess::Time(ts),
        Some(_) | None => Guess::Other,
    };
    match value {
        Doc::Scalar(Value::Text(text)) => match rfc3339(text) {
            Some(ts) => Guess::Time(ts),
            None if text.trim().parse::<jiff::civil::DateTime>().is_ok() => Guess::Local,
            None => match text.trim().parse::<f64>() {
                Ok(number) if number >= 1e8 => from_text(text.trim(), unit).map_or(Guess::Other, Guess::Time),
                _ => Guess::Other,
            },
        },
        Doc::Scalar(Value::Int(whole)) => plausible(*whole as f64, from_whole(*whole, unit)),
        Doc::Scalar(Value::Float(number)) => plausible(*number, from_fraction(*number, unit)),
        Doc::Object(_) => from_object(value, unit).map_or(Guess::Other, Guess::Time),
        Doc::Scalar(Value::Bool(_) | Value::Great(_)) | Doc::Null | Doc::Array(_) => Guess::Other,
    }
}

/// A time in parts: seconds with nanoseconds, or wrapped as `$date`.
fn from_object(value: &Doc, unit: Option<TimeUnit>) -> Option<Timestamp> {
    let members = value.members()?;
    if let Some(date) = members.get("$date") {
        return configured(date, unit.or(Some(TimeUnit::Millis))).ok();
    }
    let whole = |key: &str| match members.get(key) {
        Some(Doc::Scalar(Value::Int(n))) => Some(*n),
        _ => None,
    };
    let seconds = ["timeInSeconds", "seconds", "sec", "secs"].into_iter().find_map(whole)?;
    let nanos = ["offsetInNanos", "nanos", "nanoseconds", "nsec"].into_iter().find_map(whole).unwrap_or(0);
    let known = ["timeInSeconds", "seconds", "sec", "secs", "offsetInNanos", "nanos", "nanoseconds", "nsec"];
    if !members.keys().all(|key| known.contains(&key.as_str())) {
        return None;
    }
    within(seconds.checked_mul(1_000_000)?.checked_add(nanos.div_euclid(1000))?)
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.trim().parse().ok()?;
    // Floor, so that an instant before 1970 with nanoseconds doesn't move forwards.
    within(i64::try_from(instant.as_nanosecond().div_euclid(1000)).ok()?)
}

fn from_text(text: &str, unit: Option<TimeUnit>) -> Option<Timestamp> {
    match text.parse::<i64>() {
        Ok(whole) => from_whole(whole, unit),
        Err(_) => from_fraction(text.parse().ok()?, unit),
    }
}

/// Seconds below 10^11 (the year 5138), milliseconds below 10^14, microseconds below 10^17, else nanoseconds.
fn from_whole(n: i64, unit: Option<TimeUnit>) -> Option<Timestamp> {
    if let Some(unit) = unit {
        return whole_of(unit, n);
    }
    let micros = match n.unsigned_abs() {
        0..100_000_000_000 => n.checked_mul(1_000_000)?,
        100_000_000_000..100_000_000_000_000 => n.checked_mul(1000)?,
        100_000_000_000_000..100_000_000_000_000_000 => n,
        _ => n.div_euclid(1000),
    };
    within(micros)
}

/// The same for a number with a fraction.
pub(super) fn from_fraction(n: f64, unit: Option<TimeUnit>) -> Option<Timestamp> {
    let unit = unit.unwrap_or(match n.abs() {
        size if size < 1e11 => TimeUnit::Seconds,
        size if size < 1e14 => TimeUnit::Millis,
        size if size < 1e17 => TimeUnit::Micros,
        _ => TimeUnit::Nanos,
    });
    fraction_of(unit, n)
}

fn from_micros(micros: f64) -> Option<Timestamp> {
    // `as` saturates, and `within` refuses what lies that far out; NaN fails the first comparison.
    if micros.abs() < 1e18 { within(micros.round() as i64) } else { None }
}

fn within(micros: i64) -> Option<Timestamp> {
    if (EARLIEST..=LATEST).contains(&micros) { Some(Timestamp(micros)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Doc {
        super::super::json::parse(text.as_bytes(), super::super::document::Bounds { depth: 4, values: 9 })
            .unwrap()
    }

    macro_rules! json {
        ($($t:tt)*) => { read(&serde_json::json!($($t)*).to_string()) };
    }

    #[test]
    fn the_size_of_a_number_says_its_unit() {
        for (value, micros) in [
            (json!(1_714_550_400), 1_714_550_400_000_000),
            (json!(1_714_550_400_123_i64), 1_714_550_400_123_000),
            (json!(1_714_550_400_123_456_i64), 1_714_550_400_123_456),
            (json!(1_714_550_400_123_456_789_i64), 1_714_550_400_123_456),
            (json!(1_714_550_400.25), 1_714_550_400_250_000),
            (json!("1714550400"), 1_714_550_400_000_000),
            (json!("1714550400.5"), 1_714_550_400_500_000),
            (json!(0), 0),
            (json!(-1), -1_000_000),
            (json!("2024-05-01T10:00:00+02:00"), 1_714_550_400_000_000),
            (json!("2024-05-01 08:00:00.000001Z"), 1_714_550_400_000_001),
            (json!("1969-12-31T23:59:59.9999999Z"), -1),
        ] {
            assert_eq!(configured(&value, None), Ok(Timestamp(micros)), "{}", value.shown());
        }
    }

    #[test]
    fn what_is_no_instant_is_refused_with_what_was_got() {
        for value in [
            json!("2024-05-01T08:00:00"),
            json!("2024-02-30T00:00:00Z"),
            json!("yesterday"),
            json!(""),
            json!("NaN"),
            json!("inf"),
            json!(true),
            json!([1]),
            json!(1e300),
        ] {
            assert!(configured(&value, None).unwrap_err().contains("expected RFC 3339"), "{}", value.shown());
        }
        assert_eq!(configured(&json!(9e17), None), Ok(Timestamp(900_000_000_000_000)), "nanoseconds");
        assert_eq!(configured(&json!("9999-12-30T22:00:00Z"), None), Ok(Timestamp(LATEST - 999_999)));
        assert!(configured(&json!("9999-12-31T23:59:59Z"), None).is_err());
    }

    #[test]
    fn auto_takes_only_what_looks_like_a_time() {
        assert_eq!(guess(&json!(0), None), Guess::Time(Timestamp(0)));
        assert_eq!(guess(&json!(12), None), Guess::Other);
        assert_eq!(guess(&json!("2024-05-01T08:00:00"), None), Guess::Local);
        assert_eq!(guess(&json!("1714550400"), None), Guess::Time(Timestamp(1_714_550_400_000_000)));
        assert_eq!(guess(&json!("17"), None), Guess::Other);
        assert_eq!(guess(&json!("soon"), None), Guess::Other);
    }

    #[test]
    fn a_unit_that_is_known_is_not_guessed() {
        let ms = Some(TimeUnit::Millis);
        assert_eq!(configured(&json!(12345), ms), Ok(Timestamp(12_345_000)));
        assert_eq!(configured(&json!("12345.5"), ms), Ok(Timestamp(12_345_500)));
        assert_eq!(guess(&json!(12345), ms), Guess::Time(Timestamp(12_345_000)));
        assert_eq!(
            configured(&json!(1_632_188_382_048_586_660_i64), Some(TimeUnit::Nanos)),
            Ok(Timestamp(1_632_188_382_048_586))
        );
        assert!(configured(&json!(i64::MAX), Some(TimeUnit::Seconds)).is_err());
    }

    #[test]
    fn a_time_may_come_in_parts() {
        let parts = json!({"timeInSeconds": 1_575_691_200, "offsetInNanos": 250_000_000});
        assert_eq!(configured(&parts, None), Ok(Timestamp(1_575_691_200_250_000)));
        let date = json!({"$date": "2024-03-01T12:00:00.000Z"});
        assert_eq!(guess(&date, None), Guess::Time(Timestamp(1_709_294_400_000_000)));
        assert_eq!(guess(&json!({"seconds": 1, "minutes": 2}), None), Guess::Other);
    }
}
