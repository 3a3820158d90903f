//! Paths into a payload: `a.b[0].c`.

use std::fmt;

use super::json::Json;

/// A text that is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid path {0:?}: write keys separated by dots and positions in brackets, such as \"data.items[0].value\""
)]
pub struct PathError(pub String);

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To the member of that key.
    Key(String),
    /// To the element at that position, from 0.
    Index(usize),
}

/// A parsed path; at least one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<Step>);

impl Path {
    /// Parses `text`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let wrong = || PathError(text.into());
        let mut steps = Vec::new();
        for (i, part) in text.split('.').enumerate() {
            let (key, mut indexes) = match part.find('[') {
                Some(at) => part.split_at(at),
                None => (part, ""),
            };
            // Only the very first step may be a position alone: "[0].a" points into an array.
            if key.is_empty() && (i > 0 || indexes.is_empty()) || key.contains(']') {
                return Err(wrong());
            }
            if !key.is_empty() {
                steps.push(Step::Key(key.into()));
            }
            while !indexes.is_empty() {
                let (digits, rest) =
                    indexes.strip_prefix('[').and_then(|r| r.split_once(']')).ok_or_else(wrong)?;
                steps.push(Step::Index(digits.parse().map_err(|_| wrong())?));
                indexes = rest;
            }
        }
        Ok(Self(steps))
    }

    /// Its steps.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// What stands there; `None` where nothing does.
    pub fn find<'j>(&self, root: &'j Json) -> Option<&'j Json> {
        self.0.iter().try_fold(root, |at, step| match (step, at) {
            (Step::Key(key), Json::Object(members)) => members.get(key),
            (Step::Index(index), Json::Array(elements)) => elements.get(*index),
            (Step::Key(_) | Step::Index(_), _) => None,
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&spelled(&self.0))
    }
}

/// The steps as a path is written.
pub fn spelled(steps: &[Step]) -> String {
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Step::Index(index) => {
                out.push('[');
                out.push_str(&index.to_string());
                out.push(']');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::decode::json::{Bounds, parse};
    use crate::reading::Value;

    #[test]
    fn a_path_finds_what_it_spells() {
        let root = parse(br#"{"a":{"b":[{"c":7}]}}"#, Bounds { depth: 9, values: 9 }).unwrap();
        let path = Path::parse("a.b[0].c").unwrap();
        assert_eq!(path.to_string(), "a.b[0].c");
        assert_eq!(path.find(&root), Some(&Json::Scalar(Value::Int(7))));
        for absent in ["a.b[1].c", "a.b.c", "a[0]", "x", "a.b[0].c.d"] {
            assert_eq!(Path::parse(absent).unwrap().find(&root), None, "{absent}");
        }
    }

    #[test]
    fn a_bad_path_is_refused() {
        for bad in ["", ".", "a.", ".a", "a..b", "a[", "a[]", "a[x]", "a[0]b", "a]", "a.[0]", "a[-1]"] {
            assert!(Path::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Path::parse("[2][0].a").unwrap().steps().len(), 3);
    }
}
