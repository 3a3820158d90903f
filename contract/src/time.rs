//! Instants in microseconds of UTC, and days: the only arithmetic on time that both sides share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Microseconds in a day.
pub const DAY_MICROS: i64 = 86_400_000_000;

/// An instant: microseconds since 1970-01-01T00:00:00 UTC, leap seconds not counted. JSON carries the plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// A UTC day: days since 1970-01-01. Written `YYYY-MM-DD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(pub i32);

/// A text that is no `YYYY-MM-DD` between the years 0000 and 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid day {0:?}: expected YYYY-MM-DD")]
pub struct DayError(pub String);

/// A text that names no instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid time {0:?}: write a day (2026-03-01), an instant with its zone (2026-03-01T12:00:00Z), how long ago (-90s, -15m, \
     -6h, -7d), or now"
)]
pub struct InstantError(pub String);

impl Timestamp {
    /// From what a person writes on a command line: `2026-03-01`, `2026-03-01T12:00:00Z`, `now`, or `-90s`, `-15m`, `-6h`, `-7d`
    /// before `now`.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn from_words(text: &str, now: Self) -> Result<Self, InstantError> {
        let wrong = || InstantError(text.to_owned());
        if text == "now" {
            return Ok(now);
        }
        if let Some(ago) = text.strip_prefix('-') {
            let at = ago.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (count, unit) = ago.split_at(at);
            let unit = match unit {
                "s" => 1_000_000,
                "m" => 60_000_000,
                "h" => 3_600_000_000,
                "d" => DAY_MICROS,
                _ => return Err(wrong()),
            };
            let count: i64 = count.parse().map_err(|_| wrong())?;
            return Ok(now.plus(count.saturating_mul(unit).saturating_neg()));
        }
        if let Ok(day) = text.parse::<Day>() {
            return Ok(day.start());
        }
        let parsed: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        Ok(Self(parsed.as_microsecond()))
    }

    /// From whole milliseconds since 1970; saturates at the ends of the range.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1000))
    }

    /// Microseconds since 1970.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The UTC day that holds this instant.
    pub fn day(self) -> Day {
        Day(i32::try_from(self.0.div_euclid(DAY_MICROS)).unwrap_or(if self.0 < 0 {
            i32::MIN
        } else {
            i32::MAX
        }))
    }

    /// This instant moved by `micros`, held at the ends of the range.
    pub const fn plus(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to `self`; negative if `earlier` is later.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => write!(f, "{} µs", self.0),
        }
    }
}

impl Day {
    /// The first instant of this day.
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0 as i64 * DAY_MICROS)
    }

    /// Whether `ts` lies in this day.
    pub fn holds(self, ts: Timestamp) -> bool {
        ts.day() == self
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.start().0) {
            Ok(t) => write!(f, "{}", t.strftime("%Y-%m-%d")),
            Err(_) => write!(f, "day{}", self.0),
        }
    }
}

impl FromStr for Day {
    type Err = DayError;
    fn from_str(s: &str) -> Result<Self, DayError> {
        let wrong = || DayError(s.into());
        let shape = |(i, b): (usize, u8)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() };
        if s.len() != 10 || !s.bytes().enumerate().all(shape) {
            return Err(wrong());
        }
        let date: jiff::civil::Date = s.parse().map_err(|_| wrong())?;
        let ts = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?.timestamp();
        Ok(Timestamp(ts.as_microsecond()).day())
    }
}

impl TryFrom<String> for Day {
    type Error = DayError;
    fn try_from(s: String) -> Result<Self, DayError> {
        s.parse()
    }
}

impl From<Day> for String {
    fn from(d: Day) -> String {
        d.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_utc_and_ends_before_the_next() {
        let day: Day = "2016-01-01".parse().unwrap();
        assert_eq!(day.start().to_string(), "2016-01-01T00:00:00Z");
        assert!(day.holds(day.start()) && day.holds(day.start().plus(DAY_MICROS - 1)));
        assert!(!day.holds(day.start().plus(DAY_MICROS)) && !day.holds(day.start().plus(-1)));
        assert_eq!(Timestamp(-1).day().to_string(), "1969-12-31");
    }

    #[test]
    fn a_day_has_one_spelling() {
        for bad in ["2016-1-1", "20160101", "2016-02-30", "2016-01-01T00", ""] {
            assert!(bad.parse::<Day>().is_err(), "{bad}");
        }
        assert_eq!("2016-02-29".parse::<Day>().unwrap().to_string(), "2016-02-29");
    }

    #[test]
    fn an_instant_is_a_day_a_time_or_how_long_ago() {
        let now = Timestamp(1_772_323_200_000_000); // 2026-03-01
        assert_eq!(Timestamp::from_words("2026-03-01", now), Ok(now));
        assert_eq!(Timestamp::from_words("2026-03-01T01:00:00+01:00", now), Ok(now));
        assert_eq!(Timestamp::from_words("-2d", now), Ok(now.plus(-2 * DAY_MICROS)));
        assert_eq!(Timestamp::from_words("-90s", now), Ok(now.plus(-90_000_000)));
        assert_eq!(Timestamp::from_words("now", now), Ok(now));
        for wrong in
            ["", "-", "-5", "-5y", "yesterday", "2026-13-01", "2026-03-01T12:00", "-é", "--5s", "2026-02-30"]
        {
            assert!(
                Timestamp::from_words(wrong, now).unwrap_err().to_string().contains("2026-03-01T12:00:00Z"),
                "{wrong}"
            );
        }
        assert!(Timestamp::from_words("-99999999999999999999d", now).is_err());
        assert!(Timestamp::from_words("-9223372036854775807d", now).is_ok(), "as far back as there is");
    }
}
