//! Decoders: (source, topic, payload, received at) → readings, or the reason why there are none.
//!
//! What a payload may say is bounded before it is believed: its length, nesting, number of values, lengths of names
//! and texts. A message is taken whole or rejected whole; the one exception is a long text that nobody asked for by
//! path: it is cut at the limit and marked `out-of-range`, because the numbers beside it are worth keeping.

pub mod auto;
pub mod fields;
pub mod json;
pub mod path;
pub mod time;
pub mod value;

use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::reject::RejectReason;
use tributary_contract::series::Tags;
use tributary_contract::time::Timestamp;

use self::fields::Fields;
use super::topic::{Captures, TemplateError, TopicTemplate};
use crate::config::{Config, Decoder, Limits, MINUTE};
use crate::reading::{Reading, Value};

/// How far ahead of the time of receipt an event time may lie before it is doubted, microseconds.
pub const FUTURE_TOLERANCE: i64 = 10 * MINUTE;

/// Why a message was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The reason.
    pub reason: RejectReason,
    /// What was expected and what was got.
    pub detail: String,
}

impl Reject {
    /// A reject of that reason.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What one message says.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Its readings, at least one.
    pub readings: Vec<Reading>,
    /// Whether every reading has a time of the payload's own: then a copy is known by its content.
    pub own_time: bool,
}

/// A source whose settings can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodersError {
    /// A topic.
    #[error("source {source_name:?}: {error}")]
    Topic {
        /// The source's name.
        source_name: String,
        /// What is wrong.
        error: TemplateError,
    },
    /// A path.
    #[error("source {source_name:?}, {field}: {error}")]
    Path {
        /// The source's name.
        source_name: String,
        /// Which setting.
        field: String,
        /// What is wrong.
        error: path::PathError,
    },
}

/// One reading before tags of topic and source are added, as a decoder found it.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    ts: Option<Timestamp>,
    device: Option<String>,
    metric: Option<String>,
    tags: Tags,
    row_tags: Tags,
    value: Value,
    unit: Option<String>,
    quality: Quality,
}

#[derive(Debug, Clone)]
struct SourceDecoder {
    templates: Vec<TopicTemplate>,
    decoder: Decoder,
    fields: Fields,
    tags: Tags,
}

/// The decoders of all sources.
#[derive(Debug, Clone)]
pub struct Decoders {
    sources: Vec<SourceDecoder>,
    limits: Limits,
}

impl Decoders {
    /// Prepares every source of `config`.
    pub fn new(config: &Config) -> Result<Self, DecodersError> {
        let sources = config.sources.iter().map(|source| {
            let templates = source.topics.iter().map(|topic| {
                TopicTemplate::parse(topic)
                    .map_err(|error| DecodersError::Topic { source_name: source.name.clone(), error })
            });
            let mut tags = config.tags.clone();
            tags.extend(source.tags.clone());
            Ok(SourceDecoder {
                templates: templates.collect::<Result<_, _>>()?,
                decoder: source.decoder,
                fields: Fields::new(source)?,
                tags,
            })
        });
        Ok(Self { sources: sources.collect::<Result<_, _>>()?, limits: config.limits.clone() })
    }

    /// The first source one of whose topics matches.
    pub fn source_of(&self, topic: &str) -> Option<usize> {
        self.sources.iter().position(|source| source.templates.iter().any(|t| t.captures(topic).is_some()))
    }

    /// Reads one message as source `source` (by position) does. All readings without a time of their own get
    /// `received_at`. `retained` messages without own time are marked so. Never panics, whatever the bytes.
    pub fn decode(
        &self,
        source: usize,
        topic: &str,
        payload: &[u8],
        received_at: Timestamp,
        retained: bool,
    ) -> Result<Decoded, Reject> {
        let unknown = || Reject::new(RejectReason::BadTopic, "no source takes this topic");
        let settings = self.sources.get(source).ok_or_else(unknown)?;
        let captures = settings.templates.iter().find_map(|t| t.captures(topic)).ok_or_else(unknown)?;
        if !super::topic::is_usable(topic) {
            return Err(Reject::new(
                RejectReason::BadTopic,
                "a topic must not be empty, nor hold `+`, `#`, control characters or bytes that aren't UTF-8",
            ));
        }
        let limits = &self.limits;
        if payload.len() > limits.payload {
            let detail = format!("{} bytes, the limit is {}", payload.len(), limits.payload);
            return Err(Reject::new(RejectReason::TooLarge, detail));
        }
        let names = Names {
            device: captures.device.map(Into::into),
            metric: captures.metric.map(Into::into),
            ..Names::default()
        };
        let found = match settings.decoder {
            Decoder::Json => fields::read(payload, &settings.fields, names, false, limits)?,
            Decoder::Value => vec![whole(payload, names, limits)?],
            Decoder::Auto => {
                let names = auto::name(topic, &captures, names, payload);
                if auto::is_document(payload) {
                    fields::read(payload, &settings.fields, names, true, limits)?
                } else {
                    vec![whole(payload, names, limits)?]
                }
            }
        };
        if found.is_empty() {
            return Err(Reject::new(
                RejectReason::NoReading,
                "the payload holds no number, truth value or text",
            ));
        }
        let own_time = found.iter().all(|f| f.ts.is_some());
        let tags = series_tags(&settings.tags, &captures, limits)?;
        let finish = |f: Found| finish(f, &tags, received_at, retained, limits);
        Ok(Decoded { readings: found.into_iter().map(finish).collect::<Result<_, _>>()?, own_time })
    }
}

/// What is known of the names before the payload is read. Those said by the topic hold; the others are used where the
/// payload says nothing either.
#[derive(Debug, Clone, Default)]
struct Names {
    device: Option<String>,
    metric: Option<String>,
    fallback_device: Option<String>,
    fallback_metric: Option<String>,
}

fn whole(payload: &[u8], names: Names, limits: &Limits) -> Result<Found, Reject> {
    Ok(Found {
        ts: None,
        device: names.device.or(names.fallback_device),
        metric: names.metric.or(names.fallback_metric),
        tags: Tags::new(),
        row_tags: Tags::new(),
        value: value::decode(payload, limits.text)?,
        unit: None,
        quality: Quality::GOOD,
    })
}

fn series_tags(fixed: &Tags, captures: &Captures<'_>, limits: &Limits) -> Result<Tags, Reject> {
    let mut tags = fixed.clone();
    for (name, said) in &captures.tags {
        tags.insert(name.clone(), bounded(&format!("tag {name}"), (*said).into(), limits)?);
    }
    Ok(tags)
}

fn finish(
    found: Found,
    tags: &Tags,
    received_at: Timestamp,
    retained: bool,
    limits: &Limits,
) -> Result<Reading, Reject> {
    let named = |what: &str, name: Option<String>| match name {
        Some(name) if !name.is_empty() => bounded(what, name, limits),
        Some(_) | None => Err(Reject::new(
            RejectReason::NoName,
            format!("no {what}: name it by a topic level `{{{what}}}` or a payload path `{what}`"),
        )),
    };
    let mut quality = found.quality;
    match found.ts {
        Some(ts) if ts.since(received_at) > FUTURE_TOLERANCE => quality = quality.with(Doubt::Future),
        Some(_) => {}
        None if retained => quality = quality.with(Doubt::Retained),
        None => {}
    }
    let mut all = tags.clone();
    all.extend(found.tags);
    Ok(Reading {
        ts: found.ts.unwrap_or(received_at),
        device: named("device", found.device)?,
        metric: named("metric", found.metric)?,
        tags: all,
        row_tags: found.row_tags,
        value: found.value,
        unit: found.unit,
        quality,
    })
}

/// `text`, unless it is longer than the limit.
fn bounded(what: &str, text: String, limits: &Limits) -> Result<String, Reject> {
    if text.len() <= limits.text {
        return Ok(text);
    }
    let detail = format!("{what} has {} bytes, the limit is {}", text.len(), limits.text);
    Err(Reject::new(RejectReason::TextTooLong, detail))
}

fn without_bom(payload: &[u8]) -> &[u8] {
    payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload)
}

/// The beginning of a text, for messages.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
pub(crate) mod tests;
