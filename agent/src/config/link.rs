//! `[link]`: what may go over the way to the bucket, how fast, when, and in which order.

use tributary_contract::time::DAY_MICROS;

use super::parse::{Facts, read_zone};
use super::section::Section;
use super::{HOUR, MINUTE, SECOND, Segment, Status, Zone};

/// The least rate that may be set, bytes a second: one piece of a body must pass in a few seconds.
const LEAST_RATE: u64 = 512;
/// The least budget that may be set, bytes: a status and a small segment must fit in.
const LEAST_BUDGET: u64 = 256 << 10;

/// The way to the bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Where the defaults come from.
    pub profile: Profile,
    /// Nothing is sent but the status.
    pub paused: bool,
    /// Bytes a second on the wire, in the mean; 0 for no limit.
    pub max_rate: u64,
    /// Bytes on the wire in a local day; 0 for no budget.
    pub max_per_day: u64,
    /// Bytes on the wire in a local month; 0 for no budget.
    pub max_per_month: u64,
    /// When backlog may be sent, by the clock on the wall; empty for always.
    pub hours: Vec<Hours>,
    /// Whose days, months and hours these are; none for UTC.
    pub zone: Option<Zone>,
    /// Which of the backlog goes first.
    pub order: Order,
    /// Uploads at once, at most; how many of them are used follows from the speed of the link.
    pub uploads: usize,
    /// The first pause between two questions for the receipt, microseconds; doubled while nothing comes …
    pub receipt_pause: i64,
    /// … up to this.
    pub receipt_longest: i64,
}

/// A set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A link whose bytes cost nothing.
    Default,
    /// A link whose bytes are paid for: fewer and larger segments, fewer questions, a rarer status.
    Metered,
}

/// Which of the backlog goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// What was sealed last.
    NewestFirst,
    /// What was sealed first.
    OldestFirst,
}

/// A stretch of each day by the clock on the wall, microseconds since midnight; over midnight where `to` isn't behind
/// `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// First instant.
    pub from: i64,
    /// First instant behind it.
    pub to: i64,
}

impl Profile {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Metered => "metered",
        }
    }

    /// The link as the profile has it.
    pub const fn link(self) -> Link {
        let (uploads, receipt_pause, receipt_longest) = match self {
            Self::Default => (4, SECOND, 5 * MINUTE),
            Self::Metered => (1, MINUTE, HOUR),
        };
        Link {
            profile: self,
            paused: false,
            max_rate: 0,
            max_per_day: 0,
            max_per_month: 0,
            hours: Vec::new(),
            zone: None,
            order: Order::OldestFirst,
            uploads,
            receipt_pause,
            receipt_longest,
        }
    }

    /// Segments as the profile has them.
    pub fn segment(self) -> Segment {
        match self {
            Self::Default => Segment::default(),
            Self::Metered => Segment { max_age: HOUR, ..Segment::default() },
        }
    }

    /// The status as the profile has it.
    pub fn status(self) -> Status {
        match self {
            Self::Default => Status::default(),
            Self::Metered => Status { every: 2 * HOUR, ..Status::default() },
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Profile::Default.link()
    }
}

impl Order {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NewestFirst => "newest-first",
            Self::OldestFirst => "oldest-first",
        }
    }
}

impl Hours {
    /// Reads `HH:MM-HH:MM`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("got {text:?}, expected a stretch of the day such as \"22:00-06:00\"");
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to) =
            (minutes(from).filter(|m| *m < 1440).ok_or_else(wrong)?, minutes(to).ok_or_else(wrong)?);
        if from == to {
            return Err(format!("got {text:?}, which has no length; for the whole day leave `hours` empty"));
        }
        Ok(Self { from: from * MINUTE, to: to * MINUTE })
    }

    /// Whether it holds this time of the day, microseconds since midnight.
    pub const fn holds(&self, time: i64) -> bool {
        if self.from < self.to {
            time >= self.from && time < self.to
        } else {
            time >= self.from || time < self.to
        }
    }
}

impl std::fmt::Display for Hours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (self.from / MINUTE, self.to / MINUTE);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

/// `HH:MM` up to `24:00`, as minutes.
fn minutes(text: &str) -> Option<i64> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two = |s: &str| (s.len() == 2).then(|| s.parse::<i64>().ok()).flatten().filter(|n| *n >= 0);
    let (hour, minute) = (two(hour)?, two(minute)?);
    let all = hour * 60 + minute;
    (minute < 60 && all <= 1440).then_some(all)
}

/// Reads the section.
pub(super) fn read(root: &mut Section<'_>, facts: &Facts<'_>) -> Link {
    let mut s = root.section("link");
    let profile = s.choice(
        "profile",
        &[("default", Profile::Default), ("metered", Profile::Metered)],
        Profile::Default,
    );
    let d = profile.link();
    let link = Link {
        profile,
        paused: s.boolean("paused", d.paused),
        max_rate: limit(&mut s, "max_rate", LEAST_RATE, d.max_rate),
        max_per_day: limit(&mut s, "max_per_day", LEAST_BUDGET, d.max_per_day),
        max_per_month: limit(&mut s, "max_per_month", LEAST_BUDGET, d.max_per_month),
        hours: read_hours(&mut s),
        zone: read_zone(&mut s, facts),
        order: s.choice(
            "order",
            &[("newest-first", Order::NewestFirst), ("oldest-first", Order::OldestFirst)],
            d.order,
        ),
        uploads: s.integer("uploads", 1..=8, d.uploads as i64) as usize,
        receipt_pause: s.duration("receipt_pause", SECOND..=DAY_MICROS, d.receipt_pause),
        receipt_longest: s.duration("receipt_longest", SECOND..=DAY_MICROS, d.receipt_longest),
    };
    if link.receipt_longest < link.receipt_pause {
        s.problem("receipt_longest", "is shorter than `receipt_pause`; write a longer one, or the same");
    }
    if link.max_per_month > 0 && link.max_per_day > link.max_per_month {
        s.problem("max_per_day", "is greater than `max_per_month`; write a smaller one, or leave it out");
    }
    s.finish();
    link
}

/// A size that is 0 for none, or at least `least`.
fn limit(s: &mut Section<'_>, key: &'static str, least: u64, default: u64) -> u64 {
    let bytes = s.bytes(key, 0..=1 << 50, default);
    if bytes > 0 && bytes < least {
        let least = bytesize::ByteSize(least).display().iec();
        s.problem(
            key,
            format!("got {bytes} bytes, which is too little to work with; write {least} at least, or \"0B\""),
        );
    }
    bytes
}

fn read_hours(s: &mut Section<'_>) -> Vec<Hours> {
    let mut hours = Vec::new();
    for (i, text) in s.strings("hours").iter().enumerate() {
        match Hours::parse(text) {
            Ok(stretch) => hours.push(stretch),
            Err(e) => s.problem(&format!("hours[{i}]"), e),
        }
    }
    hours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_of_the_day_is_read_shown_and_goes_over_midnight() {
        for text in ["22:00-06:00", "00:00-24:00", "12:30-13:00"] {
            assert_eq!(Hours::parse(text).map(|h| h.to_string()).as_deref(), Ok(text));
        }
        let night = Hours::parse("22:00-06:00").unwrap();
        assert!(night.holds(22 * HOUR) && night.holds(0) && night.holds(6 * HOUR - 1));
        assert!(!night.holds(6 * HOUR) && !night.holds(12 * HOUR));
        for bad in [
            "",
            "22-06",
            "24:00-01:00",
            "10:00-10:00",
            "1:00-2:00",
            "10:61-11:00",
            "10:00-24:01",
            "-1:00-02:00",
        ] {
            assert!(Hours::parse(bad).is_err(), "{bad}");
        }
    }
}
