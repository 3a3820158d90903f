//! Which readings a person wants to see: a range of event times and globs of names.

use tributary_contract::time::{DAY_MICROS, Day, Timestamp};

use crate::buffer::row::{Row, SeriesEntry};
use crate::ingest::decode::pattern::glob;

/// A choice of readings. Empty lists choose all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Earliest event time.
    pub from: Timestamp,
    /// The first event time beyond.
    pub to: Timestamp,
    /// Source.
    pub source: Option<String>,
    /// Device, as a [`glob`].
    pub device: Option<String>,
    /// Metric, likewise.
    pub metric: Option<String>,
}

impl Default for Pick {
    fn default() -> Self {
        Self { from: Timestamp(i64::MIN), to: Timestamp(i64::MAX), source: None, device: None, metric: None }
    }
}

impl Pick {
    /// Whether the readings of a series are wanted at all.
    pub fn wants(&self, series: &SeriesEntry) -> bool {
        let fits = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|g| glob(g, name));
        self.source.as_ref().is_none_or(|s| *s == series.source)
            && fits(&self.device, &series.device)
            && fits(&self.metric, &series.metric)
    }

    /// Whether a reading's event time is in the range.
    pub fn holds(&self, row: &Row) -> bool {
        row.ts >= self.from && row.ts < self.to
    }
}

/// An instant as a person writes it: `2026-03-01`, `2026-03-01T12:00:00Z`, or `-90s`, `-15m`, `-6h`, `-7d` before `now`.
///
/// # Errors
/// A sentence that says what would be right.
pub fn instant(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "invalid time {text:?}: write a day (2026-03-01), an instant with its zone (2026-03-01T12:00:00Z), or how \
             long ago (-90s, -15m, -6h, -7d)"
        )
    };
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
    Ok(Timestamp(parsed.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_letters() {
        for (pattern, name, fits) in [
            ("pump", "pump", true),
            ("pump", "pump2", false),
            ("pump*", "pump2", true),
            ("*", "", true),
            ("*temp*", "air_temperature", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("**", "x", true),
            ("é*", "été", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn an_instant_is_a_day_a_time_or_how_long_ago() {
        let now = Timestamp(1_772_323_200_000_000); // 2026-03-01
        assert_eq!(instant("2026-03-01", now), Ok(now));
        assert_eq!(instant("2026-03-01T01:00:00+01:00", now), Ok(now));
        assert_eq!(instant("-2d", now), Ok(now.plus(-2 * DAY_MICROS)));
        assert_eq!(instant("-90s", now), Ok(now.plus(-90_000_000)));
        assert_eq!(instant("now", now), Ok(now));
        for wrong in ["", "-", "-5", "-5y", "yesterday", "2026-13-01", "2026-03-01T12:00", "-é", "--5s"] {
            assert!(instant(wrong, now).unwrap_err().contains("2026-03-01T12:00:00Z"), "{wrong}");
        }
        assert!(instant("-99999999999999999999d", now).is_err());
        assert!(instant("-9223372036854775807d", now).is_ok(), "as far back as there is");
    }
}
