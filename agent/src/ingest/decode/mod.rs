//! Decoders: (source, topic, payload, received at) → readings, or the reason why there are none.
//!
//! What a payload may say is bounded before it is believed: its length, nesting, number of values, lengths of names
//! and texts. A message is taken whole or rejected whole; the one exception is a long text that nobody asked for by
//! path: it is cut at the limit and marked `out-of-range`, because the numbers beside it are worth keeping.

pub mod document;
pub mod numeral;
pub mod json;
pub mod cbor;
pub mod messagepack;
pub mod path;
pub mod pattern;
pub mod wellknown;
pub mod time;
pub mod value;
pub mod rule;
pub mod extract;
pub mod senml;
pub mod line;
pub mod csv;
pub mod sparkplug;
pub mod preset;
pub mod auto;
pub mod shape;
pub mod sample;

use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::reject::RejectReason;
use tributary_contract::series::Tags;
use tributary_contract::time::Timestamp;

use self::auto::Sniffed;
use self::csv::Layout;
use self::document::{Bounds, Doc};
use self::preset::{Format, Preset};
use self::rule::Rule;
use self::sparkplug::Sparkplug;
use super::topic::{Captures, TemplateError, TopicTemplate};
use crate::config::{Config, Decoder, Decoding, Limits, MINUTE, Source};
use crate::reading::{Reading, Value};

/// Values a document may hold for each reading that it may hold: names, units, times and nulls stand beside them.
const VALUES_PER_READING: usize = 16;

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
    /// Its readings; none of a message that by its kind holds none, such as a command.
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

/// A message that a decoder wants published where it got its own from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone)]
struct SourceDecoder {
    templates: Vec<TopicTemplate>,
    decoder: Decoder,
    /// The settings' own paths.
    rule: Rule,
    /// Of a preset chosen by name, with the settings' paths in the place of its own.
    preset: Option<Preset>,
    layout: Layout,
    decoding: Decoding,
    tags: Tags,
    sparkplug: Sparkplug,
}

impl SourceDecoder {
    fn new(source: &Source, gateway_tags: &Tags) -> Result<Self, DecodersError> {
        let templates = source.topics.iter().map(|topic| {
            TopicTemplate::parse(topic)
                .map_err(|error| DecodersError::Topic { source_name: source.name.clone(), error })
        });
        let guess = !matches!(source.decoder, Decoder::Json | Decoder::Value);
        let preset = match source.decoder {
            Decoder::Preset(name) => {
                preset::named(name).map(|preset| preset.amended(|rule| rule.amend(source))).transpose()?
            }
            _ => None,
        };
        let mut tags = gateway_tags.clone();
        tags.extend(source.tags.clone());
        let decoding = source.decoding.clone();
        Ok(Self {
            templates: templates.collect::<Result<_, _>>()?,
            decoder: source.decoder,
            rule: Rule::of(source, guess)?,
            preset,
            layout: Layout {
                delimiter: decoding.delimiter,
                columns: decoding.columns.clone(),
                ..Layout::default()
            },
            decoding: Decoding { samples: Vec::new(), ..decoding },
            tags,
            sparkplug: Sparkplug::default(),
        })
    }
}

/// The decoders of all sources, with what they remember from message to message.
#[derive(Debug, Clone)]
pub struct Decoders {
    sources: Vec<SourceDecoder>,
    limits: Limits,
}

/// One message, with what is known of it before it is read.
struct Message<'m> {
    topic: &'m str,
    payload: &'m [u8],
    received_at: Timestamp,
    captures: &'m Captures<'m>,
    /// Names that named levels of the source's topic say: they hold.
    names: Names,
    /// The topic below the levels that the source's template names literally.
    below: &'m str,
}

impl Decoders {
    /// Prepares every source of `config`.
    pub fn new(config: &Config) -> Result<Self, DecodersError> {
        let sources = config.sources.iter().map(|source| SourceDecoder::new(source, &config.tags));
        Ok(Self { sources: sources.collect::<Result<_, _>>()?, limits: config.limits.clone() })
    }

    /// The first source one of whose topics matches.
    pub fn source_of(&self, topic: &str) -> Option<usize> {
        self.sources.iter().position(|source| source.templates.iter().any(|t| t.captures(topic).is_some()))
    }

    /// Reads one message as source `source` (by position) does. All readings without a time of their own get
    /// `received_at`. `retained` messages without own time are marked so. Never panics, whatever the bytes.
    pub fn decode(
        &mut self,
        source: usize,
        topic: &str,
        payload: &[u8],
        received_at: Timestamp,
        retained: bool,
    ) -> Result<Decoded, Reject> {
        let unknown = || Reject::new(RejectReason::BadTopic, "no source takes this topic");
        let limits = &self.limits;
        let settings = self.sources.get_mut(source).ok_or_else(unknown)?;
        let hit = settings.templates.iter().find_map(|t| Some((t.captures(topic)?, t.literal_levels())));
        let (captures, literal) = hit.ok_or_else(unknown)?;
        if !super::topic::is_usable(topic) {
            return Err(Reject::new(
                RejectReason::BadTopic,
                "a topic must not be empty, nor hold `+`, `#`, control characters or bytes that aren't UTF-8",
            ));
        }
        if payload.len() > limits.payload {
            let detail = format!("{} bytes, the limit is {}", payload.len(), limits.payload);
            return Err(Reject::new(RejectReason::TooLarge, detail));
        }
        let names = Names {
            device: captures.device.map(Into::into),
            metric: captures.metric.map(Into::into),
            ..Names::default()
        };
        let below =
            topic.match_indices('/').nth(literal.wrapping_sub(1)).and_then(|(at, _)| topic.get(at + 1..));
        let below = below.unwrap_or(topic);
        let message = Message { topic, payload, received_at, captures: &captures, names, below };
        let found = read(settings, &message, limits)?;
        let Some(found) = found else { return Ok(Decoded { readings: Vec::new(), own_time: true }) };
        if found.is_empty() {
            return Err(Reject::new(
                RejectReason::NoReading,
                "the payload holds no number, truth value or text",
            ));
        }
        let found = shape::apply(&settings.decoding, found);
        let own_time = found.iter().all(|f| f.ts.is_some());
        let tags = series_tags(&settings.tags, &captures, limits)?;
        let finish = |f: Found| finish(f, &tags, received_at, retained, limits);
        Ok(Decoded { readings: found.into_iter().map(finish).collect::<Result<_, _>>()?, own_time })
    }

    /// What decoders want published since the last call.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        self.sources.iter_mut().flat_map(|source| source.sparkplug.take_outgoing()).collect()
    }

    /// What each source's decoder remembers and must keep over a restart, where that has changed since the last call:
    /// pairs of position and bytes.
    pub fn export(&mut self) -> Vec<(usize, Vec<u8>)> {
        let each = self.sources.iter_mut().enumerate();
        each.filter_map(|(at, source)| Some((at, source.sparkplug.export()?))).collect()
    }

    /// Takes up what [`Decoders::export`] gave for that source.
    pub fn restore(&mut self, source: usize, kept: &[u8]) {
        if let Some(source) = self.sources.get_mut(source) {
            source.sparkplug.restore(kept);
        }
    }
}

/// What is known of the names before the payload is read. Those said by the topic hold; the others are used where the
/// payload says nothing either.
#[derive(Debug, Clone, Default)]
struct Names {
    device: Option<String>,
    metric: Option<String>,
    /// The topic's word for the device, used where the payload has none, else kept as the tag of that name.
    by_topic: Option<(String, String)>,
    fallback_metric: Option<String>,
}

/// What a message says; none where its kind holds no readings.
fn read(source: &mut SourceDecoder, m: &Message<'_>, limits: &Limits) -> Result<Option<Vec<Found>>, Reject> {
    let values = limits.readings.saturating_mul(VALUES_PER_READING);
    let bounds = Bounds { depth: limits.depth, values };
    let rule = &source.rule;
    let named = |single: bool| auto::name(m.topic, m.captures, m.names.clone(), single);
    let extracted = |doc: &Doc| extract::read(doc, rule, &named(auto::is_single(doc)), limits).map(Some);
    match source.decoder {
        Decoder::Json => extract::read(&json::parse(m.payload, bounds)?, rule, &m.names, limits).map(Some),
        Decoder::Value => Ok(Some(vec![whole(m.payload, m.names.clone(), rule, limits)?])),
        Decoder::Senml => {
            let doc = if auto::is_document(m.payload) {
                json::parse(m.payload, bounds)?
            } else {
                cbor::parse(m.payload, bounds)?
            };
            senml::read(&doc, &named(false), m.received_at, limits).map(Some)
        }
        Decoder::SparkplugB => by_sparkplug(source, m, limits),
        Decoder::Cbor => extracted(&cbor::parse(m.payload, bounds)?),
        Decoder::MessagePack => extracted(&messagepack::parse(m.payload, bounds)?),
        Decoder::LineProtocol => {
            line::read(m.payload, &named(false), source.decoding.time_unit, limits).map(Some)
        }
        Decoder::Csv => extracted(&csv::parse(m.payload, &source.layout, bounds)?),
        Decoder::Auto if sparkplug::is_topic(m.topic) => by_sparkplug(source, m, limits),
        Decoder::Auto | Decoder::Preset(_) => by_itself(source, m, bounds, limits),
    }
}

fn by_sparkplug(
    source: &mut SourceDecoder,
    m: &Message<'_>,
    limits: &Limits,
) -> Result<Option<Vec<Found>>, Reject> {
    let ask = !source.decoding.no_rebirth;
    let found = source.sparkplug.read(m.topic, m.payload, m.received_at, ask, limits)?;
    let empty_by_kind = found.is_empty() && sparkplug::holds_none(m.topic);
    Ok(if empty_by_kind { None } else { Some(found) })
}

/// Reads a message by the preset that knows its topic, else by what it looks like.
fn by_itself(
    source: &SourceDecoder,
    m: &Message<'_>,
    bounds: Bounds,
    limits: &Limits,
) -> Result<Option<Vec<Found>>, Reject> {
    let sniffed = auto::sniff(m.payload, bounds);
    let document = match &sniffed {
        Ok(Sniffed::Document(doc) | Sniffed::Senml(doc)) => Some(doc),
        _ => None,
    };
    let hit = match &source.preset {
        Some(preset) => preset.rule(m.topic, Some(m.below), document),
        None => preset::all().iter().find_map(|preset| preset.rule(m.topic, None, document)),
    };
    let Some((preset, said)) = hit else {
        return general(source, m, sniffed?, limits).map(Some);
    };
    if preset.ignore {
        return Ok(None);
    }
    // The operator's own paths go before those of a preset that `auto` found.
    let mut rule = preset.rule.clone();
    if source.preset.is_none() {
        rule.override_by(&source.rule);
    }
    let mut names = m.names.clone();
    let mut tags = Tags::new();
    let mut topic_device = preset.device_name.clone();
    for (name, text) in said {
        match name.as_str() {
            "device" => topic_device = Some(text),
            "metric" => names.metric = names.metric.or(Some(text)),
            _ => drop(tags.insert(name, bounded("tag", text, limits)?)),
        }
    }
    names.metric = names.metric.or_else(|| preset.metric_name.clone());
    let names_device = !rule.device.is_empty() || rule.names.iter().any(|(_, p)| p.names("device"));
    names = match topic_device {
        Some(device) if names_device => Names { by_topic: Some(("name".into(), device)), ..names },
        Some(device) => Names { device: names.device.or(Some(device)), ..names },
        None => names,
    };
    let general_names = |single: bool| {
        let by_topic = auto::name(m.topic, m.captures, names.clone(), single);
        Names { by_topic: names.by_topic.clone().or(by_topic.by_topic.clone()), ..by_topic }
    };
    let found = match (preset.format, sniffed) {
        (Some(Format::Csv), _) => {
            let doc = csv::parse(m.payload, &preset.layout, bounds)?;
            let found = extract::read(&doc, &rule, &general_names(false), limits)?;
            if found.is_empty() {
                return Ok(None);
            }
            found
        }
        (Some(Format::LineProtocol), Ok(Sniffed::Single | Sniffed::Lines | Sniffed::Table)) => {
            line::read(m.payload, &general_names(false), source.decoding.time_unit, limits)?
        }
        (_, sniffed) => match sniffed? {
            Sniffed::Document(doc) | Sniffed::Senml(doc) => {
                let found = extract::read(&doc, &rule, &general_names(auto::is_single(&doc)), limits)?;
                if found.is_empty() && !rule.records.is_empty() {
                    // The envelope is right and carries nothing to be read: a join, a change of settings.
                    return Ok(None);
                }
                found
            }
            _ => vec![whole(m.payload, general_names(true), &rule, limits)?],
        },
    };
    let with_tags = |mut f: Found| {
        for (name, text) in &tags {
            f.tags.entry(name.clone()).or_insert_with(|| text.clone());
        }
        f
    };
    Ok(Some(found.into_iter().map(with_tags).collect()))
}

/// Reads a message by what it looks like alone.
fn general(
    source: &SourceDecoder,
    m: &Message<'_>,
    sniffed: Sniffed,
    limits: &Limits,
) -> Result<Vec<Found>, Reject> {
    let named = |single: bool| auto::name(m.topic, m.captures, m.names.clone(), single);
    match sniffed {
        Sniffed::Document(doc) => extract::read(&doc, &source.rule, &named(auto::is_single(&doc)), limits),
        Sniffed::Senml(doc) => senml::read(&doc, &named(false), m.received_at, limits),
        Sniffed::Lines => line::read(m.payload, &named(false), source.decoding.time_unit, limits),
        Sniffed::Table => {
            let values = limits.readings.saturating_mul(VALUES_PER_READING);
            let doc = csv::parse(m.payload, &source.layout, Bounds { depth: limits.depth, values })?;
            extract::read(&doc, &source.rule, &named(false), limits)
        }
        Sniffed::Single => Ok(vec![whole(m.payload, named(true), &source.rule, limits)?]),
    }
}

fn whole(payload: &[u8], names: Names, rule: &Rule, limits: &Limits) -> Result<Found, Reject> {
    let value = value::decode(payload, limits.text)?;
    let (value, unit) = match &value {
        Value::Text(text) if rule.numbers => match numeral::read(text) {
            Some((number, unit)) => (number, unit.map(str::to_owned)),
            None => (value, None),
        },
        _ => (value, None),
    };
    Ok(Found {
        ts: None,
        device: names.device.or(names.by_topic.map(|(_, device)| device)),
        metric: names.metric.or(names.fallback_metric),
        tags: Tags::new(),
        row_tags: Tags::new(),
        value,
        unit,
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
    for (name, text) in found.tags {
        let text = bounded("tag", text, limits)?;
        all.insert(name, text);
    }
    Ok(Reading {
        ts: found.ts.unwrap_or(received_at),
        device: named("device", found.device)?,
        metric: named("metric", found.metric)?,
        tags: all,
        row_tags: found.row_tags,
        value: found.value,
        unit: found.unit,
        quality,
        kept_back: false,
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
