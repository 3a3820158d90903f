//! A reading, the stages' common word: one measured value with its event time, and the message that brought it.

use std::fmt;

use serde::{Deserialize, Serialize};
use tributary_contract::quality::Quality;
use tributary_contract::series::Tags;
use tributary_contract::time::Timestamp;

/// A measured value. `Float` is always finite: decoders refuse what isn't.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A number with a fraction or exponent, or an integer beyond 64 bits; finite.
    Float(f64),
    /// A whole number.
    Int(i64),
    /// A whole number from 2^63 to 2^64 - 1 that no double is exactly.
    Great(u64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
}

impl Value {
    /// A whole number without sign: [`Value::Int`] where it fits, else a double where that is exact.
    pub fn of_unsigned(n: u64) -> Self {
        match i64::try_from(n) {
            Ok(n) => Value::Int(n),
            // Up here doubles are whole, and the cast back saturates only for 2^64, which isn't `n`.
            Err(_) if n != u64::MAX && (n as f64) as u64 == n => Value::Float(n as f64),
            Err(_) => Value::Great(n),
        }
    }

    /// The numeric view, as column `value` has it: booleans are 0 or 1, great integers the nearest double.
    pub fn numeric(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            Value::Int(i) => Some(*i as f64),
            Value::Great(n) => Some(*n as f64),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::Text(_) => None,
        }
    }

    /// The exact integer, only where the double isn't exact: column `value_int`.
    pub fn inexact_int(&self) -> Option<i64> {
        match self {
            // 2^63 as a double can't come back as an i64: `as` would saturate and look exact.
            Value::Int(i) if (*i as f64) >= 9.223_372_036_854_776e18 || (*i as f64) as i64 != *i => Some(*i),
            _ => None,
        }
    }

    /// The text as column `value_text` has it: a text, or the digits of a whole number that neither `value` nor
    /// `value_int` can hold.
    pub fn exact_text(&self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text.clone()),
            Value::Great(n) => Some(n.to_string()),
            Value::Float(_) | Value::Int(_) | Value::Bool(_) => None,
        }
    }

    /// The name of its type, as column `value_type` of `series` has it.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Value::Float(_) => "double",
            Value::Int(_) | Value::Great(_) => "long",
            Value::Bool(_) => "boolean",
            Value::Text(_) => "string",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Float(v) => write!(f, "{v}"),
            Value::Int(v) => write!(f, "{v}"),
            Value::Great(v) => write!(f, "{v}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::Text(v) => f.write_str(v),
        }
    }
}

/// One measured value as a decoder gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Event time: the payload's own, else the message's time of receipt.
    pub ts: Timestamp,
    /// Device.
    pub device: String,
    /// Metric.
    pub metric: String,
    /// Tags that identify the series, the gateway's and the source's static ones included.
    pub tags: Tags,
    /// Tags of this reading alone (a running number, a trace id): they stand in the table's `tags`, but don't make a
    /// series of their own, because a tag that changes with each message would make each message a series.
    pub row_tags: Tags,
    /// Value.
    pub value: Value,
    /// Unit, where known.
    pub unit: Option<String>,
    /// Doubts.
    pub quality: Quality,
    /// It lies within its series' deadband: it isn't to be sent.
    pub kept_back: bool,
}

/// The readings of one message that a source took in.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// Which source of the configuration, by position.
    pub source: usize,
    /// When it was received: whole milliseconds, one for all readings of the message.
    pub received_at: Timestamp,
    /// Its readings; may be none.
    pub readings: Vec<Reading>,
}

/// A message that a source could not decode.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// Which source, by position.
    pub source: usize,
    /// When it was received: whole milliseconds.
    pub received_at: Timestamp,
    /// Its topic.
    pub topic: String,
    /// Why.
    pub reason: tributary_contract::reject::RejectReason,
    /// What was expected and what was got.
    pub detail: String,
    /// Bytes of the payload.
    pub size: u64,
    /// The payload's first KiB.
    pub payload: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_sign_is_kept_exactly() {
        assert_eq!(Value::of_unsigned(7), Value::Int(7));
        assert_eq!(Value::of_unsigned(1 << 63), Value::Float(9.223_372_036_854_776e18));
        for great in [(1 << 63) + 3, u64::MAX, u64::MAX - 1] {
            let value = Value::of_unsigned(great);
            assert_eq!(value.exact_text(), Some(great.to_string()));
            assert_eq!((value.numeric(), value.inexact_int()), (Some(great as f64), None));
        }
    }

    #[test]
    fn the_exact_integer_is_kept_only_where_the_double_is_not_exact() {
        for exact in [0, 1, -1, 1 << 53, -(1 << 53), i64::MIN, 1 << 62] {
            assert_eq!(Value::Int(exact).inexact_int(), None, "{exact}");
        }
        for inexact in [(1 << 53) + 1, i64::MAX, i64::MIN + 1] {
            assert_eq!(Value::Int(inexact).inexact_int(), Some(inexact), "{inexact}");
        }
    }
}
