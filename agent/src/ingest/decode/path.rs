//! Paths into a payload: `a.b[0].c`, with `*` for any member or element, `$.` from the top, `^.` from the object around.

use std::fmt;

use super::document::Doc;

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
    /// To each member or element.
    Any,
}

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Record,
    /// So many records up.
    Up(usize),
    Top,
    /// The record's own key, in the object that holds it.
    OwnKey,
}

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    origin: Origin,
    steps: Vec<Step>,
}

/// A place in a document that is read by itself, and the way to it.
#[derive(Debug, Clone)]
pub struct Record<'d> {
    /// What stands there.
    pub doc: &'d Doc,
    /// The whole document.
    pub top: &'d Doc,
    /// The objects around it, outermost first.
    above: Vec<&'d Doc>,
    /// Its key, if it is a member that `*` stands for.
    key: Option<&'d str>,
}

impl<'d> Record<'d> {
    /// The whole document.
    pub fn whole(top: &'d Doc) -> Self {
        Self { doc: top, top, above: Vec::new(), key: None }
    }

    /// A part of this one.
    pub fn part(&self, holder: &'d Doc, key: Option<&'d str>, doc: &'d Doc) -> Self {
        let mut above = self.above.clone();
        if matches!(holder, Doc::Object(_)) {
            above.push(holder);
        }
        Self { doc, top: self.top, above, key: key.or(self.key) }
    }

    /// Itself, what holds it, and so on to the top.
    pub fn outwards(&self) -> impl Iterator<Item = &'d Doc> {
        std::iter::once(self.doc).chain(self.above.iter().rev().copied()).chain(std::iter::once(self.top))
    }
}

/// What stands at a path: a part of the document, or a key of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hit<'d> {
    /// A part.
    Doc(&'d Doc),
    /// A key.
    Key(&'d str),
}

impl Path {
    /// Parses `text`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let wrong = || PathError(text.into());
        if text == "{key}" {
            return Ok(Self { origin: Origin::OwnKey, steps: Vec::new() });
        }
        if text == "$" {
            return Ok(Self { origin: Origin::Top, steps: Vec::new() });
        }
        let (mut origin, mut rest) = (Origin::Record, text);
        if let Some(after) = rest.strip_prefix("$.") {
            (origin, rest) = (Origin::Top, after);
        }
        while let Some(after) = rest.strip_prefix("^.") {
            origin = match origin {
                Origin::Record => Origin::Up(1),
                Origin::Up(n) => Origin::Up(n + 1),
                Origin::Top | Origin::OwnKey => return Err(wrong()),
            };
            rest = after;
        }
        let mut steps = Vec::new();
        for (i, part) in rest.split('.').enumerate() {
            let (key, mut indexes) = match part.find('[') {
                Some(at) => part.split_at(at),
                None => (part, ""),
            };
            // Only the very first step may be a position alone: "[0].a" points into an array.
            if key.is_empty() && (i > 0 || indexes.is_empty()) || key.contains(']') {
                return Err(wrong());
            }
            match key {
                "" => {}
                "*" => steps.push(Step::Any),
                _ => steps.push(Step::Key(key.into())),
            }
            while !indexes.is_empty() {
                let (digits, rest) =
                    indexes.strip_prefix('[').and_then(|r| r.split_once(']')).ok_or_else(wrong)?;
                steps.push(match digits {
                    "*" => Step::Any,
                    _ => Step::Index(digits.parse().map_err(|_| wrong())?),
                });
                indexes = rest;
            }
        }
        Ok(Self { origin, steps })
    }

    /// Its steps, if it begins at the record.
    pub fn steps(&self) -> Option<&[Step]> {
        (self.origin == Origin::Record).then_some(&self.steps[..])
    }

    /// What stands there, seen from `record`: of several the first. Nothing where it leads nowhere.
    pub fn find<'d>(&self, record: &Record<'d>) -> Option<Hit<'d>> {
        let start = match self.origin {
            Origin::Record => record.doc,
            Origin::Top => record.top,
            Origin::Up(n) => {
                record.above.len().checked_sub(n).and_then(|at| record.above.get(at)).copied()?
            }
            Origin::OwnKey => return record.key.map(Hit::Key),
        };
        walk(start, &self.steps).map(Hit::Doc)
    }

    /// Every place that it leads to from the top, in order; at most `limit`.
    pub fn select<'d>(&self, top: &'d Doc, limit: usize) -> Vec<Record<'d>> {
        let mut found = Vec::new();
        collect(&Record::whole(top), &self.steps, limit, &mut found);
        found
    }
}

fn walk<'d>(at: &'d Doc, steps: &[Step]) -> Option<&'d Doc> {
    let Some((step, rest)) = steps.split_first() else { return Some(at) };
    match (step, at) {
        (Step::Key(key), Doc::Object(members)) => walk(members.get(key)?, rest),
        (Step::Index(index), Doc::Array(elements)) => walk(elements.get(*index)?, rest),
        (Step::Any, Doc::Object(members)) => members.values().find_map(|m| walk(m, rest)),
        (Step::Any, Doc::Array(elements)) => elements.iter().find_map(|e| walk(e, rest)),
        _ => None,
    }
}

fn collect<'d>(at: &Record<'d>, steps: &[Step], limit: usize, found: &mut Vec<Record<'d>>) {
    if found.len() >= limit {
        return;
    }
    let Some((step, rest)) = steps.split_first() else {
        found.push(at.clone());
        return;
    };
    let holder = at.doc;
    match (step, holder) {
        (Step::Key(key), Doc::Object(members)) => {
            if let Some(doc) = members.get(key) {
                collect(&at.part(holder, None, doc), rest, limit, found);
            }
        }
        (Step::Index(index), Doc::Array(elements)) => {
            if let Some(doc) = elements.get(*index) {
                collect(&at.part(holder, None, doc), rest, limit, found);
            }
        }
        (Step::Any, Doc::Object(members)) => {
            members
                .iter()
                .for_each(|(key, doc)| collect(&at.part(holder, Some(key), doc), rest, limit, found));
        }
        (Step::Any, Doc::Array(elements)) => {
            elements.iter().for_each(|doc| collect(&at.part(holder, None, doc), rest, limit, found));
        }
        _ => {}
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Record => {}
            Origin::Top => f.write_str("$.")?,
            Origin::Up(n) => f.write_str(&"^.".repeat(n))?,
            Origin::OwnKey => f.write_str("{key}")?,
        }
        f.write_str(&spelled(&self.steps))
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
            Step::Any => out.push_str(if out.is_empty() { "*" } else { ".*" }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::decode::document::Bounds;
    use crate::ingest::decode::json::parse;
    use crate::reading::Value;

    fn read(text: &str) -> Doc {
        parse(text.as_bytes(), Bounds { depth: 9, values: 99 }).unwrap()
    }

    fn at<'d>(path: &str, record: &Record<'d>) -> Option<Hit<'d>> {
        Path::parse(path).unwrap().find(record)
    }

    #[test]
    fn a_path_finds_what_it_spells() {
        let top = read(r#"{"a":{"b":[{"c":7}]}}"#);
        let record = Record::whole(&top);
        assert_eq!(Path::parse("a.b[0].c").unwrap().to_string(), "a.b[0].c");
        let seven = Some(Hit::Doc(&Doc::Scalar(Value::Int(7))));
        assert_eq!(at("a.b[0].c", &record), seven);
        assert_eq!(at("a.*[*].c", &record), seven);
        for absent in ["a.b[1].c", "a.b.c", "a[0]", "x", "a.b[0].c.d", "^.a", "{key}"] {
            assert_eq!(at(absent, &record), None, "{absent}");
        }
    }

    #[test]
    fn a_wildcard_selects_records_that_know_what_holds_them() {
        let top =
            read(r#"{"g":"gw","tags":{"A":{"t":[{"v":1},{"v":2}],"n":"x"},"B":{"t":[{"v":3}],"n":"y"}}}"#);
        let records = Path::parse("tags.*.t[*]").unwrap().select(&top, 9);
        let said = |path: &str| {
            let one = |r: &Record<'_>| match at(path, r) {
                Some(Hit::Doc(Doc::Scalar(value))) => value.to_string(),
                Some(Hit::Key(key)) => key.into(),
                other => format!("{other:?}"),
            };
            records.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(said("v"), "1 2 3");
        assert_eq!(said("{key}"), "A A B");
        assert_eq!(said("^.n"), "x x y");
        assert_eq!(said("^.^.A.n"), "x x x");
        assert_eq!(said("$.g"), "gw gw gw");
        assert_eq!(Path::parse("tags.*.t[*]").unwrap().select(&top, 2).len(), 2);
    }

    #[test]
    fn a_bad_path_is_refused() {
        for bad in
            ["", ".", "a.", ".a", "a..b", "a[", "a[]", "a[x]", "a[0]b", "a]", "a.[0]", "a[-1]", "$.", "$.^.a"]
        {
            assert!(Path::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Path::parse("[2][0].a").unwrap().steps().unwrap().len(), 3);
    }
}
