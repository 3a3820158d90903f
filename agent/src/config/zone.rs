//! A time zone as data: from which instant on which offset from UTC holds.

use std::sync::Arc;

use jiff::tz::TimeZone;
use tributary_contract::time::Timestamp;

/// From when on transitions are kept, microseconds: 1900. What lies before has the offset of then.
const FIRST: i64 = -2_208_988_800_000_000;
/// And until when: 2100. What lies behind has the offset of then.
const LAST: i64 = 4_102_444_800_000_000;

/// A time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its name in the tz database, such as `Europe/Berlin`.
    pub name: String,
    /// First instant of each stretch and the offset from UTC during it, microseconds; the first begins with time itself.
    stretches: Arc<[(i64, i64)]>,
}

/// One stretch of time with one offset: the clock on the wall runs on without a jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Place among the zone's stretches.
    pub place: usize,
    /// First instant, microseconds.
    pub from: i64,
    /// How far the clock on the wall is ahead of UTC, microseconds.
    pub offset: i64,
}

impl Zone {
    /// Reads a zone from the system's tz database, for example `/usr/share/zoneinfo`; none if it isn't known there.
    pub fn read(name: &str) -> Option<Self> {
        let zone = TimeZone::get(name).ok()?;
        let begin = jiff::Timestamp::from_microsecond(FIRST).ok()?;
        let mut stretches = vec![(i64::MIN, i64::from(zone.to_offset(begin).seconds()) * 1_000_000)];
        for transition in zone.following(begin) {
            let at = transition.timestamp().as_microsecond();
            if at >= LAST {
                break;
            }
            stretches.push((at, i64::from(transition.offset().seconds()) * 1_000_000));
        }
        // Some transitions change only the name of the time.
        stretches.dedup_by_key(|(_, offset)| *offset);
        Some(Self { name: name.to_owned(), stretches: stretches.into() })
    }

    /// The stretch that holds `ts`.
    pub fn stretch(&self, ts: Timestamp) -> Stretch {
        let place = self.stretches.partition_point(|&(from, _)| from <= ts.0).saturating_sub(1);
        self.at(place).unwrap_or(Stretch { place: 0, from: i64::MIN, offset: 0 })
    }

    /// The stretch of that place.
    pub fn at(&self, place: usize) -> Option<Stretch> {
        self.stretches.get(place).map(|&(from, offset)| Stretch { place, from, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HOUR, MINUTE, SECOND};

    fn utc(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_microsecond())
    }

    #[test]
    fn summer_time_begins_and_ends_where_the_tz_database_says() {
        let berlin = Zone::read("Europe/Berlin").unwrap();
        for (at, offset) in [
            ("2024-03-31T00:59:59Z", HOUR),
            ("2024-03-31T01:00:00Z", 2 * HOUR),
            ("2024-10-27T00:59:59Z", 2 * HOUR),
            ("2024-10-27T01:00:00Z", HOUR),
            ("2090-07-01T00:00:00Z", 2 * HOUR),
        ] {
            assert_eq!(berlin.stretch(utc(at)).offset, offset, "{at}");
        }
        assert_eq!(berlin.stretch(utc("2024-07-01T00:00:00Z")).from, utc("2024-03-31T01:00:00Z").0);
    }

    #[test]
    fn a_zone_has_all_of_time_and_an_unknown_one_is_none() {
        let kathmandu = Zone::read("Asia/Kathmandu").unwrap();
        assert_eq!(kathmandu.stretch(Timestamp(i64::MAX)).offset, 5 * HOUR + 45 * MINUTE);
        assert_eq!(kathmandu.stretch(Timestamp(i64::MIN)).from, i64::MIN);
        assert!(kathmandu.at(0).unwrap().offset.abs() < 24 * HOUR + SECOND);
        assert_eq!(Zone::read("Europe/Nowhere"), None);
    }
}
