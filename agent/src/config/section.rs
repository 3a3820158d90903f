//! Reads typed keys out of TOML tables and collects every problem instead of stopping at the first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use toml::Value;

/// One thing that is wrong with a configuration: where, what was got, what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key: `window[0].size`.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// All problems found so far.
pub(super) type Problems = RefCell<Vec<Problem>>;

/// One TOML table whose keys are taken out one by one; what is left in the end is unknown.
pub(super) struct Section<'a> {
    path: String,
    table: toml::Table,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: toml::Table, problems: &'a Problems) -> Self {
        Self { path: String::new(), table, known: Vec::new(), problems }
    }

    /// The dotted path of `key` in this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem of `key`.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { path: self.path_of(key), message: message.into() });
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(s) => Some(s),
            other => {
                self.problem(key, format!("got {}, expected a text in quotes", describe(&other)));
                None
            }
        }
    }

    /// A text that must be there; an empty one stands in for a missing one, whose problem is noted.
    pub(super) fn required(&mut self, key: &'static str, example: &str) -> String {
        let present = self.table.contains_key(key);
        match self.string(key) {
            Some(s) if !s.is_empty() => s,
            _ => {
                if !present {
                    self.problem(key, format!("is missing; write for example `{key} = {example}`"));
                } else if self.problems.borrow().last().is_none_or(|p| p.path != self.path_of(key)) {
                    self.problem(key, format!("is empty; write for example `{key} = {example}`"));
                }
                String::new()
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(b)) => b,
            Some(other) => {
                self.problem(key, format!("got {}, expected true or false", describe(&other)));
                default
            }
        }
    }

    /// A whole number within `range`.
    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>, default: i64) -> i64 {
        let (low, high) = (range.start(), range.end());
        match self.take(key) {
            None => default,
            Some(Value::Integer(n)) if range.contains(&n) => n,
            Some(other) => {
                self.problem(
                    key,
                    format!("got {}, expected a whole number from {low} to {high}", describe(&other)),
                );
                default
            }
        }
    }

    /// A finite number.
    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        let value = self.take(key)?;
        let number = match value {
            Value::Float(n) if n.is_finite() => Some(n),
            Value::Integer(n) => Some(n as f64),
            _ => None,
        };
        if number.is_none() {
            self.problem(key, format!("got {}, expected a number", describe(&value)));
        }
        number
    }

    /// Whether somebody wrote that key.
    pub(super) fn is_there(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A duration with its unit, as microseconds, within `range`.
    pub(super) fn duration(&mut self, key: &'static str, range: RangeInclusive<i64>, default: i64) -> i64 {
        let Some(value) = self.take(key) else { return default };
        let parsed = match &value {
            Value::String(s) => {
                humantime::parse_duration(s).ok().and_then(|d| i64::try_from(d.as_micros()).ok())
            }
            _ => None,
        };
        match parsed {
            Some(micros) if range.contains(&micros) => micros,
            Some(_) => {
                let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
                self.problem(
                    key,
                    format!("got {}, expected a duration from {low} to {high}", describe(&value)),
                );
                default
            }
            None => {
                let hint = "expected a duration with its unit, such as \"500ms\", \"10s\", \"15m\" or \"1d\"";
                self.problem(key, format!("got {}, {hint}", describe(&value)));
                default
            }
        }
    }

    /// A size with its unit, as bytes, within `range`.
    pub(super) fn bytes(&mut self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let Some(value) = self.take(key) else { return default };
        let parsed = match &value {
            Value::String(s) => s.parse::<bytesize::ByteSize>().ok().map(|b| b.as_u64()),
            Value::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        match parsed {
            Some(n) if range.contains(&n) => n,
            Some(_) => {
                let (low, high) = (bytesize::ByteSize(*range.start()), bytesize::ByteSize(*range.end()));
                self.problem(key, format!("got {}, expected a size from {low} to {high}", describe(&value)));
                default
            }
            None => {
                let hint = "expected a size with its unit, such as \"512KiB\" or \"1GiB\"";
                self.problem(key, format!("got {}, {hint}", describe(&value)));
                default
            }
        }
    }

    /// A text that is read by `parse`, whose error says what to write.
    pub(super) fn parsed<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.string(key)?;
        match parse(&text) {
            Ok(v) => Some(v),
            Err(e) => {
                self.problem(key, e.to_string());
                None
            }
        }
    }

    /// One of a closed list of words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let known = words.iter().map(|(w, _)| format!("{w:?}")).collect::<Vec<_>>().join(", ");
        let found = self.parsed(key, |s| {
            let hit = words.iter().find(|(w, _)| *w == s).map(|(_, v)| *v);
            hit.ok_or_else(|| format!("got {s:?}, expected one of {known}"))
        });
        found.unwrap_or(default)
    }

    pub(super) fn strings(&mut self, key: &'static str) -> Vec<String> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let mut out = Vec::with_capacity(items.len());
                for (i, item) in items.into_iter().enumerate() {
                    match item {
                        Value::String(s) => out.push(s),
                        other => self.problem(
                            &format!("{key}[{i}]"),
                            format!("got {}, expected a text", describe(&other)),
                        ),
                    }
                }
                out
            }
            Some(other) => {
                self.problem(key, format!("got {}, expected a list of texts: [\"…\"]", describe(&other)));
                Vec::new()
            }
        }
    }

    /// A table of texts; numbers and booleans are taken as they are written.
    pub(super) fn map(&mut self, key: &'static str) -> BTreeMap<String, String> {
        match self.take(key) {
            None => BTreeMap::new(),
            Some(Value::Table(table)) => {
                let mut out = BTreeMap::new();
                for (name, value) in table {
                    match value {
                        Value::String(s) => drop(out.insert(name, s)),
                        Value::Integer(n) => drop(out.insert(name, n.to_string())),
                        Value::Boolean(b) => drop(out.insert(name, b.to_string())),
                        other => self.problem(
                            &format!("{key}.{name}"),
                            format!("got {}, expected a text", describe(&other)),
                        ),
                    }
                }
                out
            }
            Some(other) => {
                self.problem(key, format!("got {}, expected a table: {{ name = \"…\" }}", describe(&other)));
                BTreeMap::new()
            }
        }
    }

    /// The raw value of a key that has several forms.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value> {
        self.take(key)
    }

    /// A table below this one; an empty one when absent.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let path = self.path_of(key);
        let table = match self.take(key) {
            None => toml::Table::new(),
            Some(Value::Table(t)) => t,
            Some(other) => {
                self.problem(key, format!("got {}, expected a table: [{path}]", describe(&other)));
                toml::Table::new()
            }
        };
        Section { path, table, known: Vec::new(), problems: self.problems }
    }

    /// A list of tables below this one: `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let path = self.path_of(key);
        let items = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.problem(key, format!("got {}, expected one or more [[{path}]]", describe(&other)));
                Vec::new()
            }
        };
        let mut out = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            match item {
                Value::Table(table) => out.push(Section {
                    path: format!("{path}[{i}]"),
                    table,
                    known: Vec::new(),
                    problems: self.problems,
                }),
                other => {
                    self.problem(
                        &format!("{key}[{i}]"),
                        format!("got {}, expected a table", describe(&other)),
                    );
                }
            }
        }
        out
    }

    /// Ends the reading of this table: every key that nobody took is unknown.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let near = self.known.iter().map(|k| (strsim::damerau_levenshtein(k, key), *k)).min();
            let hint = match near {
                Some((distance, k)) if distance <= 2.max(k.len() / 3) => format!("did you mean `{k}`?"),
                _ => format!("known here: {}", self.known.join(", ")),
            };
            self.problem(key, format!("is no key of this program; {hint}"));
        }
    }
}

/// A value as the person wrote it, shortened.
fn describe(value: &Value) -> String {
    let text: String = value.to_string().chars().take(60).collect();
    match value {
        Value::Table(_) => "a table".into(),
        Value::Array(_) => "a list".into(),
        _ => text,
    }
}

fn show_duration(micros: i64) -> String {
    let duration = std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    humantime::format_duration(duration).to_string()
}
