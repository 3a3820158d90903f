//! Series: one device's one metric with its tags, and the stable hash that names it in every table.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The tags that identify a series, sorted by key (byte order).
pub type Tags = BTreeMap<String, String>;

/// Name of a series: 16 lower-case hex digits, the first eight bytes of a SHA-256.
///
/// Hashed are device, metric, then each tag's key and value in the order of keys; each text as its length in bytes
/// (`u32`, little-endian) and its UTF-8 bytes, so that no two different series spell the same input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SeriesId(pub u64);

/// A text that is no series id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid series {0:?}: expected 16 lower-case hex digits")]
pub struct SeriesIdError(pub String);

impl SeriesId {
    /// The id of (device, metric, tags).
    pub fn of(device: &str, metric: &str, tags: &Tags) -> Self {
        let mut hash = Sha256::new();
        let texts =
            [device, metric].into_iter().chain(tags.iter().flat_map(|(k, v)| [k.as_str(), v.as_str()]));
        for text in texts {
            hash.update((text.len() as u32).to_le_bytes());
            hash.update(text.as_bytes());
        }
        let full: [u8; 32] = hash.finalize().into();
        let mut first = [0; 8];
        first.copy_from_slice(&full[..8]);
        Self(u64::from_be_bytes(first))
    }
}

impl fmt::Display for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for SeriesId {
    type Err = SeriesIdError;
    fn from_str(s: &str) -> Result<Self, SeriesIdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if s.len() != 16 || !s.bytes().all(hex) {
            return Err(SeriesIdError(s.into()));
        }
        u64::from_str_radix(s, 16).map(SeriesId).map_err(|_| SeriesIdError(s.into()))
    }
}

impl TryFrom<String> for SeriesId {
    type Error = SeriesIdError;
    fn try_from(s: String) -> Result<Self, SeriesIdError> {
        s.parse()
    }
}

impl From<SeriesId> for String {
    fn from(s: SeriesId) -> String {
        s.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_keeps_its_name_for_ever() {
        let none = Tags::new();
        assert_eq!(SeriesId::of("boiler-3", "temperature", &none).to_string(), GOLDEN_PLAIN);
        let tags = Tags::from([("site".into(), "north".into()), ("line".into(), "2".into())]);
        assert_eq!(SeriesId::of("boiler-3", "temperature", &tags).to_string(), GOLDEN_TAGGED);
    }

    #[test]
    fn moving_a_letter_between_the_parts_makes_another_series() {
        let none = Tags::new();
        assert_ne!(SeriesId::of("ab", "c", &none), SeriesId::of("a", "bc", &none));
        let tag = Tags::from([("c".into(), "d".into())]);
        assert_ne!(
            SeriesId::of("a", "b", &tag),
            SeriesId::of("a", "bc", &Tags::from([("".into(), "d".into())]))
        );
    }

    // Computed once with Python's hashlib, independent of this crate.
    const GOLDEN_PLAIN: &str = "416aab252b39b1cf";
    const GOLDEN_TAGGED: &str = "81b2e4bfa5c80dfe";
}
