//! Event times as payloads spell them: RFC 3339, or a number whose size says its unit.

use tributary_contract::time::Timestamp;

use super::json::Json;
use crate::reading::Value;

/// 0000-01-01T00:00:00Z in microseconds.
const EARLIEST: i64 = -62_167_219_200_000_000;
/// 9999-12-30T22:00:00.999999Z in microseconds: the last instant that has a date in every zone.
const LATEST: i64 = 253_402_207_200_999_999;

/// Names under which `auto` looks for the payload's own time, compared without regard to case.
pub const WELL_KNOWN: [&str; 10] = [
    "ts",
    "_ts",
    "time",
    "_time",
    "timestamp",
    "datetime",
    "date_time",
    "event_time",
    "measured_at",
    "epoch",
];

/// Whether `name` is one of [`WELL_KNOWN`].
pub fn is_well_known(name: &str) -> bool {
    WELL_KNOWN.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Reads the value at a configured path: RFC 3339 (a space instead of `T` is tolerated), a number, or a number as
/// text. The error says what was got.
pub fn configured(value: &Json) -> Result<Timestamp, String> {
    let found = match value {
        Json::Scalar(Value::Text(text)) => rfc3339(text).or_else(|| from_text(text.trim())),
        Json::Scalar(Value::Int(whole)) => from_whole(*whole),
        Json::Scalar(Value::Float(number)) => from_fraction(*number),
        Json::Scalar(Value::Bool(_)) | Json::Null | Json::Array(_) | Json::Object(_) => None,
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

/// Looks at a value under a well-known name. Small numbers are no times: a device's `time` may be its uptime.
pub fn guess(value: &Json) -> Guess {
    let plausible = |size: f64, ts: Option<Timestamp>| match ts {
        Some(ts) if size == 0.0 || size >= 1e8 => Guess::Time(ts),
        Some(_) | None => Guess::Other,
    };
    match value {
        Json::Scalar(Value::Text(text)) => match rfc3339(text) {
            Some(ts) => Guess::Time(ts),
            None if text.trim().parse::<jiff::civil::DateTime>().is_ok() => Guess::Local,
            None => Guess::Other,
        },
        Json::Scalar(Value::Int(whole)) => plausible(*whole as f64, from_whole(*whole)),
        Json::Scalar(Value::Float(number)) => plausible(*number, from_fraction(*number)),
        Json::Scalar(Value::Bool(_)) | Json::Null | Json::Array(_) | Json::Object(_) => Guess::Other,
    }
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.trim().parse().ok()?;
    // Floor, so that an instant before 1970 with nanoseconds doesn't move forwards.
    within(i64::try_from(instant.as_nanosecond().div_euclid(1000)).ok()?)
}

fn from_text(text: &str) -> Option<Timestamp> {
    match text.parse::<i64>() {
        Ok(whole) => from_whole(whole),
        Err(_) => from_fraction(text.parse().ok()?),
    }
}

/// Seconds below 10^11 (the year 5138), milliseconds below 10^14, microseconds below 10^17, else nanoseconds.
fn from_whole(n: i64) -> Option<Timestamp> {
    let micros = match n.unsigned_abs() {
        0..100_000_000_000 => n.checked_mul(1_000_000)?,
        100_000_000_000..100_000_000_000_000 => n.checked_mul(1000)?,
        100_000_000_000_000..100_000_000_000_000_000 => n,
        _ => n.div_euclid(1000),
    };
    within(micros)
}

fn from_fraction(n: f64) -> Option<Timestamp> {
    let micros = match n.abs() {
        size if size < 1e11 => n * 1e6,
        size if size < 1e14 => n * 1e3,
        size if size < 1e17 => n,
        _ => n / 1e3,
    };
    // `as` saturates, and `within` refuses what lies that far out; NaN fails the first comparison.
    if micros.abs() < 1e18 { within(micros.round() as i64) } else { None }
}

fn within(micros: i64) -> Option<Timestamp> {
    if (EARLIEST..=LATEST).contains(&micros) { Some(Timestamp(micros)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Json {
        super::super::json::parse(text.as_bytes(), super::super::json::Bounds { depth: 4, values: 9 })
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
            assert_eq!(configured(&value), Ok(Timestamp(micros)), "{}", value.shown());
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
            assert!(configured(&value).unwrap_err().contains("expected RFC 3339"), "{}", value.shown());
        }
        assert_eq!(configured(&json!(9e17)), Ok(Timestamp(900_000_000_000_000)), "nanoseconds");
        assert_eq!(configured(&json!("9999-12-30T22:00:00Z")), Ok(Timestamp(LATEST - 999_999)));
        assert!(configured(&json!("9999-12-31T23:59:59Z")).is_err());
    }

    #[test]
    fn auto_takes_only_what_looks_like_a_time() {
        assert_eq!(guess(&json!(0)), Guess::Time(Timestamp(0)));
        assert_eq!(guess(&json!(12)), Guess::Other);
        assert_eq!(guess(&json!("2024-05-01T08:00:00")), Guess::Local);
        assert_eq!(guess(&json!("1714550400")), Guess::Other);
        assert_eq!(guess(&json!("soon")), Guess::Other);
        assert!(is_well_known("Timestamp") && is_well_known("Epoch") && !is_well_known("times"));
    }
}
