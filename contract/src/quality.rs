//! Quality of a reading: a set of codes; the empty set means good and is stored as null.

use std::fmt;
use std::str::FromStr;

/// One doubt about a reading or an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    /// Its event time lies further ahead of the gateway's clock than is tolerated; it moves no watermark.
    Future,
    /// It was stamped while the gateway's clock wasn't synchronised.
    ClockUnsynced,
    /// The broker sent it as a retained message; without its own time it enters no window.
    Retained,
    /// It waited at the broker while the gateway was away; without its own time it enters no window.
    Queued,
    /// It may be a copy of another reading, and nothing can decide whether it is.
    PossibleDuplicate,
    /// Its value lies outside the range that the source's settings allow.
    OutOfRange,
    /// The device itself called the value bad or stale.
    Device,
}

impl Doubt {
    /// All doubts in the order of their codes' bits.
    pub const ALL: [Doubt; 7] = [
        Doubt::Future,
        Doubt::ClockUnsynced,
        Doubt::Retained,
        Doubt::Queued,
        Doubt::PossibleDuplicate,
        Doubt::OutOfRange,
        Doubt::Device,
    ];

    /// The code as it stands in the tables.
    pub const fn code(self) -> &'static str {
        match self {
            Doubt::Future => "future",
            Doubt::ClockUnsynced => "clock-unsynced",
            Doubt::Retained => "retained",
            Doubt::Queued => "queued",
            Doubt::PossibleDuplicate => "possible-duplicate",
            Doubt::OutOfRange => "out-of-range",
            Doubt::Device => "device",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of [`Doubt`]s. Text form: codes joined by commas in the order of [`Doubt::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Quality(u8);

impl Quality {
    /// No doubt at all.
    pub const GOOD: Quality = Quality(0);

    /// Whether there is no doubt.
    pub const fn is_good(self) -> bool {
        self.0 == 0
    }

    /// This quality and one doubt more.
    #[must_use]
    pub const fn with(self, doubt: Doubt) -> Self {
        Self(self.0 | doubt.bit())
    }

    /// Whether `doubt` is in the set.
    pub const fn has(self, doubt: Doubt) -> bool {
        self.0 & doubt.bit() != 0
    }

    /// All doubts of both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set as bits, for the journal's blocks.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From the bits of [`Quality::bits`]; unknown bits are dropped.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x7f)
    }

    /// The text for the table: `None` when good.
    pub fn to_column(self) -> Option<String> {
        if self.is_good() { None } else { Some(self.to_string()) }
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for doubt in Doubt::ALL {
            if self.has(doubt) {
                if !first {
                    f.write_str(",")?;
                }
                f.write_str(doubt.code())?;
                first = false;
            }
        }
        Ok(())
    }
}

impl FromStr for Quality {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        s.split(',').filter(|c| !c.is_empty()).try_fold(Self::GOOD, |q, code| {
            let known = Doubt::ALL.into_iter().find(|d| d.code() == code);
            known.map(|d| q.with(d)).ok_or_else(|| format!("unknown quality code {code:?}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_of_doubts_has_one_text_and_comes_back_from_it() {
        for bits in 0..0x80 {
            let q = Quality::from_bits(bits);
            assert_eq!(q.to_string().parse::<Quality>().unwrap(), q);
            assert_eq!(q.bits(), bits);
        }
        assert_eq!(Quality::GOOD.to_column(), None);
        assert_eq!(Quality::GOOD.with(Doubt::Queued).with(Doubt::Future).to_string(), "future,queued");
        assert!("bad".parse::<Quality>().is_err());
    }
}
