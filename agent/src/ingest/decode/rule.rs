//! A rule: where in a payload the parts of its readings stand. Settings of a source are one, presets are lists of them.

use tributary_contract::time::Timestamp;

use super::DecodersError;
use super::path::{Path, PathError};
use super::pattern::{Pattern, glob};
use crate::config::{Source, TimeUnit};

/// The paths and choices. Of several paths the first that leads somewhere counts.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// What is read by itself; the whole document without.
    pub records: Vec<Path>,
    /// The event time, …
    pub time: Vec<Path>,
    /// … its unit, if it is a number, …
    pub time_unit: Option<TimeUnit>,
    /// … and since when it is believed.
    pub time_from: Option<Timestamp>,
    /// The device.
    pub device: Vec<Path>,
    /// What is measured.
    pub metric: Vec<Path>,
    /// The value; without it, each scalar is a reading.
    pub value: Vec<Path>,
    /// The unit.
    pub unit: Vec<Path>,
    /// What the device says of its value, …
    pub quality: Vec<Path>,
    /// … and the words that call it good.
    pub good: Vec<String>,
    /// Texts that hold names between slashes.
    pub names: Vec<(Path, Pattern)>,
    /// Leaves that are no readings, as globs of their names.
    pub skip: Vec<String>,
    /// Tags that identify the series.
    pub payload_tags: Vec<(String, Path)>,
    /// Tags of the single reading.
    pub row_tags: Vec<(String, Path)>,
    /// Whether a number in a text is a number.
    pub numbers: bool,
    /// Where the kind of a value stands: what calls itself a string stays a text.
    pub kind: Vec<Path>,
    /// Whether well-known names say time and device where no path of it is set.
    pub guess: bool,
    /// Whether what a path doesn't find is a fault of the message.
    pub strict: bool,
}

impl Rule {
    /// The rule that the settings of `source` are.
    pub fn of(source: &Source, guess: bool) -> Result<Self, DecodersError> {
        let mut rule = Self { guess, strict: true, ..Self::default() };
        rule.amend(source)?;
        Ok(rule)
    }

    /// Puts in the place of a preset's paths those that `source` names.
    pub fn amend(&mut self, source: &Source) -> Result<(), DecodersError> {
        let path = |field: &str, text: &str| {
            Path::parse(text).map_err(|error: PathError| DecodersError::Path {
                source_name: source.name.clone(),
                field: field.into(),
                error,
            })
        };
        for (field, text, into) in [
            ("records", &source.decoding.records, &mut self.records),
            ("time", &source.time, &mut self.time),
            ("value", &source.value, &mut self.value),
            ("device", &source.device, &mut self.device),
            ("metric", &source.metric, &mut self.metric),
            ("unit", &source.unit, &mut self.unit),
        ] {
            if let Some(text) = text {
                *into = vec![path(field, text)?];
            }
        }
        for (field, tags, into) in [
            ("payload_tags", &source.payload_tags, &mut self.payload_tags),
            ("row_tags", &source.row_tags, &mut self.row_tags),
        ] {
            for (name, text) in tags {
                into.push((name.clone(), path(&format!("{field}.{name}"), text)?));
            }
        }
        self.time_unit = source.decoding.time_unit.or(self.time_unit);
        self.numbers |= source.decoding.numbers_in_text;
        Ok(())
    }

    /// Puts in the place of its paths those that `own` has.
    pub(super) fn override_by(&mut self, own: &Rule) {
        for (into, from) in [
            (&mut self.records, &own.records),
            (&mut self.time, &own.time),
            (&mut self.value, &own.value),
            (&mut self.device, &own.device),
            (&mut self.metric, &own.metric),
            (&mut self.unit, &own.unit),
        ] {
            if !from.is_empty() {
                into.clone_from(from);
            }
        }
        self.payload_tags.extend(own.payload_tags.iter().cloned());
        self.row_tags.extend(own.row_tags.iter().cloned());
        self.time_unit = own.time_unit.or(self.time_unit);
        self.numbers |= own.numbers;
    }

    /// Whether the way to a leaf, from its record, is one that says something else than a reading.
    pub(super) fn consumes(&self, at: &[super::path::Step]) -> bool {
        let lists = [&self.time, &self.device, &self.metric, &self.unit, &self.quality, &self.kind];
        let tags = self.payload_tags.iter().chain(&self.row_tags).map(|(_, path)| path);
        let names = self.names.iter().map(|(path, _)| path);
        lists.into_iter().flatten().chain(tags).chain(names).any(|path| path.steps() == Some(at))
    }

    /// Whether a leaf of that name is no reading.
    pub(super) fn skips(&self, leaf: &str) -> bool {
        self.skip.iter().any(|pattern| glob(pattern, leaf))
    }
}
