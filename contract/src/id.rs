//! Names that can't be built wrong: gateway, epoch, segment number, namespace.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is no valid name. Carries what was got; the message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not `[A-Za-z0-9:_-]{1,128}`.
    #[error(
        "invalid gateway name {0:?}: use 1 to 128 letters, digits, `:`, `_` or `-`, as AWS IoT thing names do"
    )]
    Gateway(String),
    /// Not 16 lower-case hex digits.
    #[error("invalid epoch {0:?}: expected 16 lower-case hex digits")]
    Epoch(String),
    /// Not ten decimal digits between 1 and 9,999,999,999.
    #[error("invalid segment number {0:?}: expected ten digits, 0000000001 to 9999999999")]
    Number(String),
    /// Not `[a-z0-9_]+`, at most 128 bytes.
    #[error("invalid namespace {0:?}: use 1 to 128 lower-case letters, digits or `_`")]
    Namespace(String),
}

/// A gateway: the IoT thing name, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayId(String);

impl GatewayId {
    /// Checks and takes `name`; `[A-Za-z0-9:_-]{1,128}`.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        if name.is_empty() || name.len() > 128 || !name.bytes().all(valid) {
            return Err(IdError::Gateway(name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One life of a gateway's buffer: drawn at random when a buffer is created, and again whenever the buffer can't
/// vouch for its past. Written as 16 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(pub u64);

/// Number of a segment: 1, 2, 3 … per epoch, over all tables. At most ten digits, so that keys sort as numbers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Number(u64);

impl Number {
    /// The first number of an epoch.
    pub const FIRST: Number = Number(1);
    /// The greatest number that fits a key.
    pub const MAX: u64 = 9_999_999_999;

    /// Checks that `n` is between 1 and [`Number::MAX`].
    pub fn new(n: u64) -> Result<Self, IdError> {
        if n == 0 || n > Self::MAX { Err(IdError::Number(n.to_string())) } else { Ok(Self(n)) }
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Number {
    type Error = IdError;
    fn try_from(n: u64) -> Result<Self, IdError> {
        Self::new(n)
    }
}

impl From<Number> for u64 {
    fn from(n: Number) -> u64 {
        n.0
    }
}

/// Who owns the data: an Iceberg namespace of one level. Every series and every window bears one, so copies are cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Checks and takes `name`; `[a-z0-9_]{1,128}`.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || name.len() > 128 || !name.bytes().all(valid) {
            return Err(IdError::Namespace(name));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("tributary".into())
    }
}

/// The one identity of a segment, in every store and every message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId {
    /// Who sealed it.
    pub gateway: GatewayId,
    /// In which life of its buffer.
    pub epoch: Epoch,
    /// Its number in that epoch.
    pub number: Number,
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}", self.0)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.gateway, self.epoch, self.number)
    }
}

impl FromStr for GatewayId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::new(s)
    }
}

impl FromStr for Epoch {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if s.len() != 16 || !s.bytes().all(hex) {
            return Err(IdError::Epoch(s.into()));
        }
        u64::from_str_radix(s, 16).map(Epoch).map_err(|_| IdError::Epoch(s.into()))
    }
}

impl FromStr for Number {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        if s.len() != 10 || !s.bytes().all(|b| b.is_ascii_digit()) {
            return Err(IdError::Number(s.into()));
        }
        s.parse::<u64>().map_err(|_| IdError::Number(s.into())).and_then(Number::new)
    }
}

impl FromStr for Namespace {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::new(s)
    }
}

macro_rules! text_form {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(v: $name) -> String {
                v.to_string()
            }
        }
    )*};
}
text_form!(GatewayId, Epoch, Namespace);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_alphabet_are_refused_with_what_to_write() {
        for bad in ["", "a/b", "a b", "ä", "..", &"x".repeat(129)] {
            assert!(GatewayId::new(bad).is_err(), "{bad:?}");
        }
        assert!(GatewayId::new("Gw:1_a-Z").is_ok());
        assert!(GatewayId::new("a/b").unwrap_err().to_string().contains("letters"));
        for bad in ["", "A", "a-b", "a.b", "ä"] {
            assert!(Namespace::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn epochs_and_numbers_have_one_spelling_each() {
        assert_eq!(Epoch(0xab).to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse::<Epoch>().unwrap(), Epoch(0xab));
        for bad in ["AB", "00000000000000AB", "00000000000000a", "+0000000000000ab"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
        assert_eq!("0000000007".parse::<Number>().unwrap().get(), 7);
        for bad in ["7", "0000000000", "00000000007", "+000000007"] {
            assert!(bad.parse::<Number>().is_err(), "{bad}");
        }
    }
}
