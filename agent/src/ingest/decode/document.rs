//! A payload as a tree, whichever format brought it, and the bounds within which one is read.

use std::collections::BTreeMap;

use tributary_contract::reject::RejectReason;

use super::Reject;
use crate::reading::Value;

/// A parsed document.
#[derive(Debug, Clone, PartialEq)]
pub enum Doc {
    /// Nothing: `null`, or what a binary format says in place of a number that isn't finite.
    Null,
    /// Number, truth value or text.
    Scalar(Value),
    /// Elements in order.
    Array(Vec<Doc>),
    /// Members by key.
    Object(BTreeMap<String, Doc>),
}

/// How large a document may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Nesting of arrays and objects; held to 128, because the parsers recurse.
    pub depth: usize,
    /// Values of any kind.
    pub values: usize,
}

/// What is left of the bounds while a document is read.
#[derive(Debug)]
pub struct Budget {
    depth: usize,
    values: usize,
}

impl Budget {
    /// Nothing used yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { depth: bounds.depth.min(128), values: bounds.values }
    }

    /// One value more.
    pub fn spend(&mut self) -> Result<(), Reject> {
        self.values = self.values.checked_sub(1).ok_or_else(|| {
            Reject::new(RejectReason::TooManyReadings, "more values than the limit on readings allows for")
        })?;
        Ok(())
    }

    /// The depth of what stands in an array or object at `depth`.
    pub fn deeper(&self, depth: usize) -> Result<usize, Reject> {
        if depth < self.depth {
            return Ok(depth + 1);
        }
        Err(Reject::new(RejectReason::TooDeep, format!("nested deeper than {}", self.depth)))
    }
}

impl Doc {
    /// Its kind and, for a scalar, its beginning: for messages.
    pub fn shown(&self) -> String {
        match self {
            Doc::Null => "null".into(),
            Doc::Scalar(Value::Text(text)) => format!("{:?}", super::shown(text)),
            Doc::Scalar(value) => value.to_string(),
            Doc::Array(_) => "an array".into(),
            Doc::Object(_) => "an object".into(),
        }
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Doc::Scalar(Value::Text(text.into()))
    }

    /// A number; [`Doc::Null`] for one that isn't finite.
    pub fn number(number: f64) -> Self {
        if number.is_finite() { Doc::Scalar(Value::Float(number)) } else { Doc::Null }
    }

    /// Its members, if it is an object.
    pub fn members(&self) -> Option<&BTreeMap<String, Doc>> {
        if let Doc::Object(members) = self { Some(members) } else { None }
    }

    /// The member of that key, if it is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Doc> {
        self.members().and_then(|members| members.get(key))
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Doc::Scalar(Value::Text(text)) = self { Some(text) } else { None }
    }
}
