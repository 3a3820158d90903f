//! A document as readings: by the paths of a rule, or flattened, each scalar leaf a reading.
//!
//! General rules for flattening: names are joined by dots; what has a value and otherwise only says its unit, time,
//! quality or name is one reading; a part of an array that says what it measures is named by that, not by its place; a
//! time or, where names are guessed, a device within a part counts for that part; members keyed by hardware addresses
//! are devices.

use std::collections::BTreeMap;

use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::reject::RejectReason;
use tributary_contract::series::Tags;
use tributary_contract::time::Timestamp;

use super::document::Doc;
use super::path::{Hit, Path, Record, Step, spelled};
use super::rule::Rule;
use super::{Found, Names, Reject, bounded, numeral, time, wellknown};
use crate::config::Limits;
use crate::reading::Value;

/// How deep in a record a device may be named that counts for all of it.
const DEPTH: usize = 3;

/// Reads `document` by `rule`.
pub(super) fn read(
    document: &Doc,
    rule: &Rule,
    names: &Names,
    limits: &Limits,
) -> Result<Vec<Found>, Reject> {
    let mut reader = Reader { rule, names, limits, found: Vec::new() };
    let most = limits.readings.saturating_add(1);
    let selected =
        rule.records.iter().map(|path| path.select(document, most)).find(|found| !found.is_empty());
    let records = match selected {
        Some(records) => records,
        None if rule.records.is_empty() => vec![Record::whole(document)],
        None if rule.strict => {
            let paths = rule.records.iter().map(Path::to_string).collect::<Vec<_>>().join(", ");
            return Err(Reject::new(RejectReason::MissingField, format!("nothing at {paths}")));
        }
        None => Vec::new(),
    };
    for record in records {
        match record.doc {
            Doc::Array(elements) if elements.iter().any(|e| matches!(e, Doc::Object(_))) => {
                for element in elements {
                    reader.record(&record.part(record.doc, None, element))?;
                }
            }
            _ => reader.record(&record)?,
        }
    }
    Ok(reader.found)
}

struct Reader<'a> {
    rule: &'a Rule,
    names: &'a Names,
    limits: &'a Limits,
    found: Vec<Found>,
}

/// What all readings of one part share.
#[derive(Clone)]
struct Shared {
    ts: Option<Timestamp>,
    device: Option<String>,
    /// Whether the device was said, so that no guess within the part may say another.
    device_said: bool,
    metric: Option<String>,
    tags: Tags,
    row_tags: Tags,
    unit: Option<String>,
    quality: Quality,
}

/// What a part says by well-known names, and the keys that say it.
#[derive(Default)]
struct Guessed<'d> {
    ts: Option<Timestamp>,
    device: Option<String>,
    keys: Vec<&'d str>,
}

/// A part that is one reading.
struct Measured<'d> {
    key: &'d str,
    value: &'d Value,
    metric: Option<&'d str>,
    unit: Option<&'d str>,
    quality: Quality,
}

impl Reader<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), Reject> {
        let guessed = self.guess(record.doc, self.names.device.is_none() && self.rule.device.is_empty());
        let ts = match self.time(record)? {
            Some(ts) => Some(ts),
            None if self.rule.guess => {
                guessed.ts.or_else(|| record.outwards().skip(1).find_map(|doc| self.guess(doc, false).ts))
            }
            None => None,
        };
        let mut tags = self.tags(&self.rule.payload_tags, record)?;
        let (mut in_names, mut device, mut metric) = (Tags::new(), None, None);
        for (path, pattern) in &self.rule.names {
            let Some(text) = self.text("name", path, record)? else { continue };
            for (name, said) in pattern.read(&text).unwrap_or_default() {
                match name.as_str() {
                    "device" => device = Some(said),
                    "metric" => metric = Some(said),
                    _ => drop(in_names.insert(name, said)),
                }
            }
        }
        tags.extend(in_names);
        let device = match device {
            Some(device) => Some(device),
            None => match self.first_text("device", &self.rule.device, record)? {
                None if self.rule.guess && self.names.device.is_none() && self.rule.device.is_empty() => {
                    guessed.device.clone().or_else(|| wellknown::device_within(record.doc, DEPTH))
                }
                said => said,
            },
        };
        let metric = match (&self.names.metric, metric) {
            (Some(said), _) => Some(said.clone()),
            (None, Some(metric)) => Some(metric),
            (None, None) => self.first_text("metric", &self.rule.metric, record)?,
        };
        let device_said = self.names.device.is_some() || device.is_some();
        let mut shared = Shared {
            ts,
            device: self.names.device.clone(),
            device_said,
            metric,
            tags,
            row_tags: self.tags(&self.rule.row_tags, record)?,
            unit: self.first_text("unit", &self.rule.unit, record)?,
            quality: self.quality(record),
        };
        if shared.device.is_none() {
            self.name_device(&mut shared, device);
        }
        if !self.rule.value.is_empty() {
            return self.at_paths(record, &shared);
        }
        self.part(record.doc, &guessed.keys, &mut Vec::new(), &shared)
    }

    /// What the payload calls the device; then the topic's word for it becomes a tag.
    fn name_device(&self, shared: &mut Shared, said: Option<String>) {
        match (said, &self.names.by_topic) {
            (Some(device), by_topic) => {
                if let Some((tag, topic)) = by_topic
                    && *topic != device
                {
                    shared.tags.insert(tag.clone(), topic.clone());
                }
                shared.device = Some(device);
            }
            (None, Some((_, topic))) => shared.device = Some(topic.clone()),
            (None, None) => {}
        }
    }

    fn time(&self, record: &Record<'_>) -> Result<Option<Timestamp>, Reject> {
        for path in &self.rule.time {
            let Some(Hit::Doc(value)) = path.find(record) else { continue };
            if *value == Doc::Null {
                continue;
            }
            match time::configured(value, self.rule.time_unit) {
                Ok(ts) if self.rule.time_from.is_some_and(|from| ts < from) => return Ok(None),
                Ok(ts) => return Ok(Some(ts)),
                Err(detail) if self.rule.strict => {
                    return Err(Reject::new(RejectReason::BadTime, format!("at {path}: {detail}")));
                }
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Time and device that `doc` says by well-known names.
    fn guess<'d>(&self, doc: &'d Doc, device: bool) -> Guessed<'d> {
        let mut guessed = Guessed::default();
        let (true, Doc::Object(members)) = (self.rule.guess, doc) else { return guessed };
        if self.rule.time.is_empty() {
            let mut best = usize::MAX;
            for (key, value) in members {
                let Some(rank) = wellknown::time_rank(key) else { continue };
                let zero = matches!(value, Doc::Scalar(v) if v.numeric() == Some(0.0));
                if zero && key.len() < 2 {
                    continue;
                }
                match time::guess(value, self.rule.time_unit) {
                    time::Guess::Time(ts) => {
                        guessed.keys.push(key);
                        if rank < best {
                            (best, guessed.ts) = (rank, Some(ts));
                        }
                    }
                    time::Guess::Local => guessed.keys.push(key),
                    time::Guess::Other => {}
                }
            }
        }
        if device && let Some((key, name)) = wellknown::device_of(doc) {
            guessed.device = Some(name);
            // An object that names the device may hold readings beside the name.
            if !matches!(members.get(key), Some(Doc::Object(_))) {
                guessed.keys.push(key);
            }
        }
        guessed
    }

    /// The scalar at `path` as text; `None` where there is none.
    fn text(&self, what: &str, path: &Path, record: &Record<'_>) -> Result<Option<String>, Reject> {
        match path.find(record) {
            Some(Hit::Doc(Doc::Scalar(Value::Text(text)))) if text.is_empty() => Ok(None),
            Some(Hit::Doc(Doc::Scalar(value))) => Ok(Some(bounded(what, value.to_string(), self.limits)?)),
            Some(Hit::Key(key)) => Ok(Some(bounded(what, key.into(), self.limits)?)),
            Some(Hit::Doc(_)) | None => Ok(None),
        }
    }

    fn first_text(&self, what: &str, paths: &[Path], record: &Record<'_>) -> Result<Option<String>, Reject> {
        for path in paths {
            if let Some(text) = self.text(what, path, record)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn tags(&self, wanted: &[(String, Path)], record: &Record<'_>) -> Result<Tags, Reject> {
        let mut tags = Tags::new();
        for (name, path) in wanted {
            if let Some(text) = self.text(&format!("tag {name}"), path, record)? {
                tags.insert(name.clone(), text);
            }
        }
        Ok(tags)
    }

    fn quality(&self, record: &Record<'_>) -> Quality {
        let said = self.rule.quality.iter().find_map(|path| match path.find(record) {
            Some(Hit::Doc(Doc::Scalar(value))) => Some(value.to_string()),
            _ => None,
        });
        match said {
            Some(word) if !self.rule.good.contains(&word) => Quality::GOOD.with(Doubt::Device),
            Some(_) | None => Quality::GOOD,
        }
    }

    fn at_paths(&mut self, record: &Record<'_>, shared: &Shared) -> Result<(), Reject> {
        let rule = self.rule;
        let hit = rule.value.iter().find_map(|path| match path.find(record) {
            Some(Hit::Doc(doc)) => Some((path, doc)),
            _ => None,
        });
        let Some((path, doc)) = hit else {
            if !rule.strict {
                return Ok(());
            }
            let paths = rule.value.iter().map(Path::to_string).collect::<Vec<_>>().join(", ");
            return Err(Reject::new(RejectReason::MissingField, format!("nothing at {paths}")));
        };
        match doc {
            Doc::Null => Ok(()),
            Doc::Scalar(value) => {
                let metric = shared.metric.clone().unwrap_or_else(|| path.to_string());
                let (value, unit) = self.converted(value, record);
                if let Value::Text(text) = &value
                    && text.len() > self.limits.text
                {
                    bounded("value", text.clone(), self.limits)?;
                }
                self.push(metric, value, unit.as_deref(), Quality::GOOD, shared)
            }
            Doc::Array(_) | Doc::Object(_) if rule.strict => {
                let detail =
                    format!("at {path}: expected a number, truth value or text, got {}", doc.shown());
                Err(Reject::new(RejectReason::MissingField, detail))
            }
            Doc::Array(_) | Doc::Object(_) => self.part(doc, &[], &mut Vec::new(), shared),
        }
    }

    /// What stands at `steps` below a record; `guessed` are its keys that say time or device.
    fn part(
        &mut self,
        at: &Doc,
        guessed: &[&str],
        steps: &mut Vec<Step>,
        shared: &Shared,
    ) -> Result<(), Reject> {
        match at {
            Doc::Null => Ok(()),
            Doc::Scalar(_) if self.rule.consumes(steps) => Ok(()),
            Doc::Scalar(value) => {
                let leaf = spelled(steps);
                if self.rule.skips(&leaf) {
                    return Ok(());
                }
                let metric = self.named(leaf, steps.first(), shared);
                let (value, unit) = self.plain(value);
                self.push(metric, value, unit.as_deref(), Quality::GOOD, shared)
            }
            Doc::Array(elements) => self.elements(elements, steps, shared),
            Doc::Object(members) => self.members(members, guessed, steps, shared),
        }
    }

    fn elements(&mut self, elements: &[Doc], steps: &mut Vec<Step>, shared: &Shared) -> Result<(), Reject> {
        for (index, element) in elements.iter().enumerate() {
            let (mut inner, keys) = self.entered(element, shared, true);
            if let Doc::Object(members) = element
                && let Some(measured) = self.measured(members, &keys, steps)
                && let Some(name) = measured.metric
            {
                steps.push(Step::Key(name.into()));
                self.measure(&measured, steps, &mut inner)?;
                steps.pop();
                continue;
            }
            let own = inner.device != shared.device;
            // A device's own part needs no place in the list to be told from the next.
            if !own {
                steps.push(Step::Index(index));
            }
            self.part(element, &keys, steps, &inner)?;
            if !own {
                steps.pop();
            }
        }
        Ok(())
    }

    /// What is shared within `part`: its own time, and its own device where it may name one.
    fn entered<'d>(&self, part: &'d Doc, shared: &Shared, may_name: bool) -> (Shared, Vec<&'d str>) {
        let mut inner = shared.clone();
        let guessed = self.guess(part, may_name && !shared.device_said);
        inner.ts = guessed.ts.or(inner.ts);
        if let Some(device) = guessed.device {
            self.name_device(&mut inner, Some(device));
            inner.device_said = true;
        }
        (inner, guessed.keys)
    }

    fn members(
        &mut self,
        members: &BTreeMap<String, Doc>,
        guessed: &[&str],
        steps: &mut Vec<Step>,
        shared: &Shared,
    ) -> Result<(), Reject> {
        if let Some(measured) = self.measured(members, guessed, steps) {
            let mut shared = shared.clone();
            let name = measured.metric.filter(|_| steps.is_empty() && shared.metric.is_none());
            if let Some(name) = name {
                steps.push(Step::Key(name.into()));
            }
            self.measure(&measured, steps, &mut shared)?;
            if name.is_some() {
                steps.pop();
            }
            return Ok(());
        }
        if self.rule.guess && self.names.device.is_none() && keyed_by_device(members) {
            for (key, member) in members {
                let mut inner = shared.clone();
                if let (Some(holder), true) = (&shared.device, shared.device_said) {
                    inner.tags.insert("gateway".into(), holder.clone());
                }
                self.name_device(&mut inner, Some(bounded("device", key.clone(), self.limits)?));
                inner.device_said = true;
                let parts = if let Doc::Array(elements) = member {
                    &elements[..]
                } else {
                    std::slice::from_ref(member)
                };
                for part in parts {
                    let (inner, keys) = self.entered(part, &inner, false);
                    self.part(part, &keys, &mut Vec::new(), &inner)?;
                }
            }
            return Ok(());
        }
        for (key, member) in members {
            if guessed.contains(&key.as_str()) || is_unit_of_another(key, members) {
                continue;
            }
            steps.push(Step::Key(key.clone()));
            let unit = unit_beside(key, members).map(str::to_owned);
            let (mut inner, keys) = match member {
                Doc::Object(_) => self.entered(member, shared, true),
                _ => (shared.clone(), Vec::new()),
            };
            inner.unit = unit.or(inner.unit);
            self.part(member, &keys, steps, &inner)?;
            steps.pop();
        }
        Ok(())
    }

    /// Whether an object is one reading: a value, and for the rest only what tells about it.
    fn measured<'d>(
        &self,
        members: &'d BTreeMap<String, Doc>,
        guessed: &[&str],
        steps: &[Step],
    ) -> Option<Measured<'d>> {
        let (key, value) = members.iter().find_map(|(key, doc)| match doc {
            Doc::Scalar(value) if wellknown::is_value(key) => Some((key.as_str(), value)),
            _ => None,
        })?;
        let mut measured = Measured { key, value, metric: None, unit: None, quality: Quality::GOOD };
        let mut best = usize::MAX;
        for (other, doc) in members.iter().filter(|(other, _)| *other != key) {
            let mut at = steps.to_vec();
            at.push(Step::Key(other.clone()));
            if guessed.contains(&other.as_str()) || self.rule.consumes(&at) || self.rule.skips(&spelled(&at))
            {
                continue;
            }
            match doc {
                Doc::Null => {}
                Doc::Object(_) | Doc::Array(_) if wellknown::is_about(other) => {}
                _ if wellknown::is_unit(other) && doc.as_text().is_some() => measured.unit = doc.as_text(),
                _ if wellknown::is_quality(other) && wellknown::judges(doc).is_some() => {
                    if wellknown::judges(doc) == Some(false) {
                        measured.quality = Quality::GOOD.with(Doubt::Device);
                    }
                }
                _ if wellknown::metric_rank(other).is_some() && doc.as_text().is_some() => {
                    let rank = wellknown::metric_rank(other).unwrap_or(usize::MAX);
                    if rank < best {
                        (best, measured.metric) = (rank, doc.as_text());
                    }
                }
                _ if wellknown::is_kind(other) => {}
                _ => return None,
            }
        }
        measured.metric = measured.metric.filter(|name| !name.is_empty());
        Some(measured)
    }

    fn measure(
        &mut self,
        measured: &Measured<'_>,
        steps: &[Step],
        shared: &mut Shared,
    ) -> Result<(), Reject> {
        if let Some(unit) = measured.unit {
            shared.unit = Some(bounded("unit", unit.into(), self.limits)?);
        }
        let leaf = if steps.is_empty() && shared.metric.is_none() && self.names.fallback_metric.is_none() {
            measured.key.to_owned()
        } else {
            spelled(steps)
        };
        let metric = self.named(leaf, steps.first(), shared);
        let (value, unit) = self.plain(measured.value);
        self.push(metric, value, unit.as_deref(), measured.quality, shared)
    }

    /// A metric said by topic or payload is the first part of each leaf's name; a leaf named just `value` adds
    /// nothing to it. A document without keys is all value.
    fn named(&self, leaf: String, first: Option<&Step>, shared: &Shared) -> String {
        let said = match (&shared.metric, first) {
            (Some(said), _) => Some(said.as_str()),
            (None, None | Some(Step::Index(_) | Step::Any)) => self.names.fallback_metric.as_deref(),
            (None, Some(Step::Key(_))) => None,
        };
        match said {
            None => leaf,
            Some(said) if leaf.is_empty() || wellknown::is_value(&leaf) => said.into(),
            Some(said) if leaf.starts_with('[') => format!("{said}{leaf}"),
            Some(said) => format!("{said}.{leaf}"),
        }
    }

    fn converted(&self, value: &Value, record: &Record<'_>) -> (Value, Option<String>) {
        let kind = self.rule.kind.iter().find_map(|path| match path.find(record) {
            Some(Hit::Doc(doc)) => doc.as_text(),
            _ => None,
        });
        if kind.is_some_and(|kind| kind.eq_ignore_ascii_case("string") || kind.eq_ignore_ascii_case("text")) {
            return (value.clone(), None);
        }
        self.plain(value)
    }

    /// The value, a number in a text read as one where that is asked for.
    fn plain(&self, value: &Value) -> (Value, Option<String>) {
        match value {
            Value::Text(text) if self.rule.numbers => match numeral::read(text) {
                Some((number, unit)) => (number, unit.map(Into::into)),
                None => (value.clone(), None),
            },
            other => (other.clone(), None),
        }
    }

    fn push(
        &mut self,
        metric: String,
        value: Value,
        unit: Option<&str>,
        quality: Quality,
        shared: &Shared,
    ) -> Result<(), Reject> {
        if self.found.len() >= self.limits.readings {
            let detail = format!("more than {} readings in one message", self.limits.readings);
            return Err(Reject::new(RejectReason::TooManyReadings, detail));
        }
        let (value, cut) = held(value, self.limits);
        self.found.push(Found {
            ts: shared.ts,
            device: shared.device.clone(),
            metric: Some(metric),
            tags: shared.tags.clone(),
            row_tags: shared.row_tags.clone(),
            value,
            unit: shared.unit.clone().or_else(|| unit.map(Into::into)),
            quality: shared.quality.or(quality).or(cut),
        });
        Ok(())
    }
}

/// A text that is too long is cut and marked.
pub(super) fn held(value: Value, limits: &Limits) -> (Value, Quality) {
    match value {
        Value::Text(text) if text.len() > limits.text => {
            let cut = (0..=limits.text).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            (Value::Text(text.get(..cut).unwrap_or("").into()), Quality::GOOD.with(Doubt::OutOfRange))
        }
        other => (other, Quality::GOOD),
    }
}

/// Whether the members of an object are devices: hardware addresses as keys, or each a list of timed values.
fn keyed_by_device(members: &BTreeMap<String, Doc>) -> bool {
    let timed = |doc: &Doc| match doc {
        Doc::Array(parts) => {
            !parts.is_empty() && parts.iter().all(|p| p.get("ts").is_some() || p.get("values").is_some())
        }
        _ => false,
    };
    let part = |doc: &Doc| matches!(doc, Doc::Object(_) | Doc::Array(_));
    !members.is_empty()
        && (members.iter().all(|(key, doc)| wellknown::is_address(key) && part(doc))
            || members.values().all(timed))
}

/// The unit of `key` as a member of its own says it: `temperature_unit` beside `temperature`.
fn unit_beside<'d>(key: &str, members: &'d BTreeMap<String, Doc>) -> Option<&'d str> {
    ["_unit", "_units", "Unit", "Units"].iter().find_map(|end| members.get(&format!("{key}{end}"))?.as_text())
}

fn is_unit_of_another(key: &str, members: &BTreeMap<String, Doc>) -> bool {
    let base = ["_unit", "_units", "Unit", "Units"].iter().find_map(|end| key.strip_suffix(end));
    base.is_some_and(|base| members.contains_key(base))
        && members.get(key).is_some_and(|doc| doc.as_text().is_some())
}
