//! Reads a configuration table key by key and collects every problem, each with its dotted path and what to write instead.

use std::fmt;
use std::time::Duration;

use toml::{Table, Value};

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key, such as `bucket.url`; the file's name where no key can be named.
    pub path: String,
    /// What is wrong, what was got.
    pub what: String,
    /// What to write instead.
    pub hint: String,
}

/// All problems of one configuration; never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn add(&mut self, path: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Problem { path: path.into(), what: what.into(), hint: hint.into() });
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.len();
        write!(f, "the configuration has {n} problem{}:", if n == 1 { "" } else { "s" })?;
        for Problem { path, what, hint } in &self.0 {
            write!(f, "\n  {path}: {what}\n    hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A table whose keys are taken out one by one; what is left at the end is unknown.
pub struct Section<'p> {
    path: String,
    table: Table,
    problems: &'p mut Problems,
    known: Vec<&'static str>,
}

impl<'p> Section<'p> {
    /// The section at `path` (empty for the top level).
    pub fn new(path: &str, table: Table, problems: &'p mut Problems) -> Self {
        Self { path: path.to_owned(), table, problems, known: Vec::new() }
    }

    /// Dotted path of `key`.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes `key` as it stands.
    pub fn value(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Takes the table at `key`; an absent one is empty.
    pub fn table(&mut self, key: &'static str) -> Table {
        match self.value(key) {
            None => Table::new(),
            Some(Value::Table(t)) => t,
            Some(other) => {
                self.problem(key, &got(&other), &format!("a table: write `[{key}]` on a line of its own"));
                Table::new()
            }
        }
    }

    /// Takes a text. An absent key and an empty text are both `None`.
    pub fn text(&mut self, key: &'static str, hint: &str) -> Option<String> {
        match self.value(key)? {
            Value::String(s) if s.trim().is_empty() => None,
            Value::String(s) => Some(s),
            other => {
                self.problem(key, &got(&other), hint);
                None
            }
        }
    }

    /// Takes a text and reads it by `read`, whose error says what is wrong. Absent or empty is `None`.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        hint: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key, hint)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problem(key, &format!("got {text:?}: {why}"), hint);
                None
            }
        }
    }

    /// Takes a span of time between `least` and a year, such as `"30s"` or `"5m"`.
    pub fn duration(&mut self, key: &'static str, default: Duration, least: Duration) -> Duration {
        let hint =
            format!("a time with its unit, {} to 1year, such as \"30s\"", humantime::format_duration(least));
        let most = Duration::from_secs(366 * 86_400);
        let read = |text: &str| match humantime::parse_duration(text) {
            Ok(d) if d < least || d > most => Err("out of range".to_owned()),
            Ok(d) => Ok(d),
            Err(e) => Err(e.to_string()),
        };
        self.parsed(key, &hint, read).unwrap_or(default)
    }

    /// Takes a size of at least one byte, such as `"128MiB"`.
    pub fn bytes(&mut self, key: &'static str, default: u64) -> u64 {
        let read = |text: &str| match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() == 0 => Err("it is zero".to_owned()),
            Ok(size) => Ok(size.as_u64()),
            Err(e) => Err(e),
        };
        self.parsed(key, "a size with its unit, such as \"128MiB\"", read).unwrap_or(default)
    }

    /// Takes a whole number between `least` and `most`.
    pub fn count(&mut self, key: &'static str, default: usize, least: usize, most: usize) -> usize {
        let hint = format!("a whole number, {least} to {most}");
        match self.value(key) {
            None => default,
            Some(Value::Integer(n)) => match usize::try_from(n) {
                Ok(n) if (least..=most).contains(&n) => n,
                _ => {
                    self.problem(key, &format!("got {n}: out of range"), &hint);
                    default
                }
            },
            Some(other) => {
                self.problem(key, &got(&other), &hint);
                default
            }
        }
    }

    /// Notes a problem of `key`.
    pub fn problem(&mut self, key: &str, what: &str, hint: &str) {
        let path = self.path(key);
        self.problems.add(path, what, hint);
    }

    /// Ends the section: each key that nobody took is a problem.
    pub fn done(self) {
        let Self { path, table, problems, known } = self;
        for key in table.keys() {
            let dotted = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            problems.add(dotted, "unknown key", format!("the keys here are: {}", known.join(", ")));
        }
    }
}

/// What was got, for a message; a value's text is shown, a table only named.
pub fn got(value: &Value) -> String {
    match value {
        Value::Table(_) => "got a table".to_owned(),
        Value::Array(_) => "got an array".to_owned(),
        other => format!("got {other}, which is a {}", other.type_str()),
    }
}

/// Lays `upper` over `lower`: tables are merged, all else is replaced.
pub fn merge(lower: &mut Table, upper: Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

/// Replaces `${NAME}` in all texts below `value` by what `env` knows; `$${` stands for `${` itself.
pub fn expand(path: &str, value: &mut Value, env: &dyn Fn(&str) -> Option<String>, problems: &mut Problems) {
    match value {
        Value::String(text) => match expand_text(text, env) {
            Ok(expanded) => *text = expanded,
            Err(what) => problems.add(path, what, "set the variable, or write `$${` for a plain `${`"),
        },
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                expand(&format!("{path}[{i}]"), item, env, problems);
            }
        }
        Value::Table(table) => {
            for (key, item) in table.iter_mut() {
                let below = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                expand(&below, item, env, problems);
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

fn expand_text(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (name, behind) = after.split_once('}').ok_or_else(|| "`${` without its `}`".to_owned())?;
        let value = env(name).ok_or_else(|| format!("the environment has no variable {name:?}"))?;
        out.push_str(&value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}
