//! Which readings a person wants to see: a range of event times and globs of names.

use tributary_contract::time::Timestamp;

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
}
