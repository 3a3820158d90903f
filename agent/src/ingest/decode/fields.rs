//! A JSON document as readings: by configured paths, or flattened, each scalar leaf a reading.

use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::reject::RejectReason;
use tributary_contract::series::Tags;
use tributary_contract::time::Timestamp;

use super::json::{Bounds, Json};
use super::path::{Path, Step, spelled};
use super::{DecodersError, Found, Names, Reject, bounded, json, time};
use crate::config::{Limits, Source};
use crate::reading::Value;

/// Values a document may hold for each reading that it may hold: names, units, times and nulls stand beside them.
const VALUES_PER_READING: usize = 16;

/// Names under which `auto` looks for the device at the top of a document, compared without regard to case.
const WELL_KNOWN_DEVICES: [&str; 5] = ["device_id", "deviceid", "device", "device_name", "devicename"];

/// The paths that a source's settings name.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    time: Option<Path>,
    value: Option<Path>,
    device: Option<Path>,
    metric: Option<Path>,
    unit: Option<Path>,
    payload_tags: Vec<(String, Path)>,
    row_tags: Vec<(String, Path)>,
}

impl Fields {
    /// Parses the paths of `source`.
    pub fn new(source: &Source) -> Result<Self, DecodersError> {
        let path = |field: &str, text: &str| {
            Path::parse(text).map_err(|error| DecodersError::Path {
                source_name: source.name.clone(),
                field: field.into(),
                error,
            })
        };
        let maybe = |field: &str, text: &Option<String>| text.as_deref().map(|t| path(field, t)).transpose();
        let tags = |field: &str, tags: &std::collections::BTreeMap<String, String>| {
            let parse = |(name, text): (&String, &String)| {
                Ok((name.clone(), path(&format!("{field}.{name}"), text)?))
            };
            tags.iter().map(parse).collect::<Result<Vec<_>, DecodersError>>()
        };
        Ok(Self {
            time: maybe("time", &source.time)?,
            value: maybe("value", &source.value)?,
            device: maybe("device", &source.device)?,
            metric: maybe("metric", &source.metric)?,
            unit: maybe("unit", &source.unit)?,
            payload_tags: tags("payload_tags", &source.payload_tags)?,
            row_tags: tags("row_tags", &source.row_tags)?,
        })
    }

    /// Whether the path to a leaf is one that says something else than a reading.
    fn consumes(&self, at: &[Step]) -> bool {
        let single = [&self.time, &self.device, &self.metric, &self.unit];
        let tags = self.payload_tags.iter().chain(&self.row_tags).map(|(_, path)| path);
        single.into_iter().flatten().chain(tags).any(|path| path.steps() == at)
    }
}

/// Reads `payload`. With `guess`, well-known names say time and device where no path of it is set.
pub(super) fn read(
    payload: &[u8],
    fields: &Fields,
    names: Names,
    guess: bool,
    limits: &Limits,
) -> Result<Vec<Found>, Reject> {
    let values = limits.readings.saturating_mul(VALUES_PER_READING);
    let document = json::parse(payload, Bounds { depth: limits.depth, values })?;
    let mut reader = Reader { fields, names, guess, limits, found: Vec::new() };
    match &document {
        Json::Array(elements) if elements.iter().any(|e| matches!(e, Json::Object(_))) => {
            for element in elements {
                reader.element(element)?;
            }
        }
        whole => reader.element(whole)?,
    }
    Ok(reader.found)
}

struct Reader<'a> {
    fields: &'a Fields,
    names: Names,
    guess: bool,
    limits: &'a Limits,
    found: Vec<Found>,
}

/// What all readings of one element share.
struct Shared {
    ts: Option<Timestamp>,
    /// Top-level keys that a guess took as time or device.
    guessed: Vec<String>,
    device: Option<String>,
    metric: Option<String>,
    tags: Tags,
    row_tags: Tags,
    unit: Option<String>,
}

impl Reader<'_> {
    fn element(&mut self, element: &Json) -> Result<(), Reject> {
        let (ts, guessed) = self.time(element)?;
        let mut guessed: Vec<String> = guessed.into_iter().collect();
        let device = match (&self.names.device, &self.fields.device) {
            (Some(said), _) => Some(said.clone()),
            (None, None) if self.guess => match guess_device(element) {
                Some((key, value)) => {
                    guessed.push(key.into());
                    Some(bounded("device", value.to_string(), self.limits)?)
                }
                None => None,
            },
            (None, path) => self.text("device", path.as_ref(), element)?,
        };
        let metric = match &self.names.metric {
            Some(said) => Some(said.clone()),
            None => self.text("metric", self.fields.metric.as_ref(), element)?,
        };
        let shared = Shared {
            ts,
            guessed,
            device: device.or_else(|| self.names.fallback_device.clone()),
            metric,
            tags: self.tags(&self.fields.payload_tags, element)?,
            row_tags: self.tags(&self.fields.row_tags, element)?,
            unit: self.text("unit", self.fields.unit.as_ref(), element)?,
        };
        match &self.fields.value {
            Some(path) => self.at_path(path, element, &shared),
            None => self.flatten(element, &mut Vec::new(), &shared),
        }
    }

    fn time(&self, element: &Json) -> Result<(Option<Timestamp>, Option<String>), Reject> {
        if let Some(path) = &self.fields.time {
            return match path.find(element) {
                None | Some(Json::Null) => Ok((None, None)),
                Some(value) => match time::configured(value) {
                    Ok(ts) => Ok((Some(ts), None)),
                    Err(detail) => Err(Reject::new(RejectReason::BadTime, format!("at {path}: {detail}"))),
                },
            };
        }
        if let (true, Json::Object(members)) = (self.guess, element) {
            for (key, value) in members.iter().filter(|(key, _)| time::is_well_known(key)) {
                match time::guess(value) {
                    time::Guess::Time(ts) => return Ok((Some(ts), Some(key.clone()))),
                    time::Guess::Local => return Ok((None, Some(key.clone()))),
                    time::Guess::Other => {}
                }
            }
        }
        Ok((None, None))
    }

    /// The scalar at `path` as text; `None` where there is none.
    fn text(&self, what: &str, path: Option<&Path>, element: &Json) -> Result<Option<String>, Reject> {
        match path.and_then(|path| path.find(element)) {
            Some(Json::Scalar(value)) => Ok(Some(bounded(what, value.to_string(), self.limits)?)),
            Some(Json::Null | Json::Array(_) | Json::Object(_)) | None => Ok(None),
        }
    }

    fn tags(&self, wanted: &[(String, Path)], element: &Json) -> Result<Tags, Reject> {
        let mut tags = Tags::new();
        for (name, path) in wanted {
            if let Some(text) = self.text(&format!("tag {name}"), Some(path), element)? {
                tags.insert(name.clone(), text);
            }
        }
        Ok(tags)
    }

    fn at_path(&mut self, path: &Path, element: &Json, shared: &Shared) -> Result<(), Reject> {
        let value = match path.find(element) {
            Some(Json::Scalar(Value::Text(text))) => {
                Value::Text(bounded("value", text.clone(), self.limits)?)
            }
            Some(Json::Scalar(value)) => value.clone(),
            Some(Json::Null) => return Ok(()),
            Some(other @ (Json::Array(_) | Json::Object(_))) => {
                let detail =
                    format!("at {path}: expected a number, truth value or text, got {}", other.shown());
                return Err(Reject::new(RejectReason::MissingField, detail));
            }
            None => {
                return Err(Reject::new(RejectReason::MissingField, format!("nothing at {path}")));
            }
        };
        let metric = shared.metric.clone().unwrap_or_else(|| path.to_string());
        self.push(metric, value, Quality::GOOD, shared)
    }

    fn flatten(&mut self, at: &Json, steps: &mut Vec<Step>, shared: &Shared) -> Result<(), Reject> {
        match at {
            Json::Null => Ok(()),
            Json::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    steps.push(Step::Index(index));
                    self.flatten(element, steps, shared)?;
                    steps.pop();
                }
                Ok(())
            }
            Json::Object(members) => {
                for (key, member) in members {
                    if steps.is_empty() && shared.guessed.contains(key) {
                        continue;
                    }
                    steps.push(Step::Key(key.clone()));
                    self.flatten(member, steps, shared)?;
                    steps.pop();
                }
                Ok(())
            }
            Json::Scalar(_) if self.fields.consumes(steps) => Ok(()),
            Json::Scalar(value) => {
                let (value, quality) = self.held(value);
                let metric = self.leaf_metric(steps, shared);
                self.push(metric, value, quality, shared)
            }
        }
    }

    /// A metric said by topic or payload is the first part of each leaf's name; a leaf named just `value` adds
    /// nothing to it. A document without keys is all value.
    fn leaf_metric(&self, steps: &[Step], shared: &Shared) -> String {
        let leaf = spelled(steps);
        let said = match (&shared.metric, steps.first()) {
            (Some(said), _) => Some(said.as_str()),
            (None, None | Some(Step::Index(_))) => self.names.fallback_metric.as_deref(),
            (None, Some(Step::Key(_))) => None,
        };
        match said {
            None => leaf,
            Some(said) if leaf.is_empty() || leaf == "value" => said.into(),
            Some(said) if leaf.starts_with('[') => format!("{said}{leaf}"),
            Some(said) => format!("{said}.{leaf}"),
        }
    }

    fn held(&self, value: &Value) -> (Value, Quality) {
        match value {
            Value::Text(text) if text.len() > self.limits.text => {
                let cut = (0..=self.limits.text).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                let kept = text.get(..cut).unwrap_or("");
                (Value::Text(kept.into()), Quality::GOOD.with(Doubt::OutOfRange))
            }
            other => (other.clone(), Quality::GOOD),
        }
    }

    fn push(
        &mut self,
        metric: String,
        value: Value,
        quality: Quality,
        shared: &Shared,
    ) -> Result<(), Reject> {
        if self.found.len() >= self.limits.readings {
            let detail = format!("more than {} readings in one message", self.limits.readings);
            return Err(Reject::new(RejectReason::TooManyReadings, detail));
        }
        self.found.push(Found {
            ts: shared.ts,
            device: shared.device.clone(),
            metric: Some(metric),
            tags: shared.tags.clone(),
            row_tags: shared.row_tags.clone(),
            value,
            unit: shared.unit.clone(),
            quality,
        });
        Ok(())
    }
}

/// The device that a document names by itself, and under which key.
fn guess_device(element: &Json) -> Option<(&str, &Value)> {
    let Json::Object(members) = element else { return None };
    WELL_KNOWN_DEVICES.iter().find_map(|known| {
        members.iter().find_map(|(key, value)| match value {
            Json::Scalar(value @ (Value::Text(_) | Value::Int(_))) if key.eq_ignore_ascii_case(known) => {
                Some((key.as_str(), value)).filter(|_| *value != Value::Text(String::new()))
            }
            _ => None,
        })
    })
}
