//! What is told of a closed window on the broker, before its segment is made: on which topic, and what.
//!
//! The topic is a template of the window's definition. The message is one JSON object with the names of the columns of
//! `aggregates`, statistics as chosen, what is null left out. It says what was known when the window closed; the table has
//! the last word: late readings come as another message, and as the next revision there.

use std::fmt::Write as _;

use serde::Serialize;
use tributary_contract::id::GatewayId;
use tributary_contract::series::Tags;

use super::emit::AggregateRow;
use crate::buffer::row::SeriesEntry;
use crate::config::Function;

/// Why a text is no template of a topic to publish on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// Nothing, or longer than anybody needs.
    #[error(
        "expected 1 to 500 bytes, such as \"tributary/{{gateway}}/windows/{{window}}/{{device}}/{{metric}}\""
    )]
    Length,
    /// A wildcard or a control character.
    #[error("{0:?} can't be in a topic that is published on")]
    Character(char),
    /// A name in braces that there isn't, or a brace alone.
    #[error(
        "{0:?} isn't known: write {{gateway}}, {{namespace}}, {{window}} (or {{rule}}), {{source}}, {{device}} or {{metric}}"
    )]
    Name(String),
    /// Own messages couldn't be told from those of sources.
    #[error(
        "must begin with a level of its own, such as \"tributary\": by what stands before the first of {{namespace}}, \
         {{source}}, {{device}} and {{metric}} the agent knows its own messages when they come back"
    )]
    NoBeginning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Gateway,
    Namespace,
    Window,
    Rule,
    Source,
    Device,
    Metric,
}

impl Name {
    fn read(text: &str) -> Result<Self, AnnounceError> {
        Ok(match text {
            "gateway" => Self::Gateway,
            "namespace" => Self::Namespace,
            "window" => Self::Window,
            "rule" => Self::Rule,
            "source" => Self::Source,
            "device" => Self::Device,
            "metric" => Self::Metric,
            _ => return Err(AnnounceError::Name(text.to_owned())),
        })
    }

    /// Whether it is the same for all windows of one definition.
    const fn is_fixed(self) -> bool {
        matches!(self, Self::Gateway | Self::Window | Self::Rule)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(Name),
}

/// What a topic may name.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// Who tells.
    pub gateway: &'a str,
    /// The window's definition, or the alert's rule.
    pub definition: &'a str,
    /// Owner of the data.
    pub namespace: &'a str,
    /// Source; of alerts there is none.
    pub source: &'a str,
    /// Device.
    pub device: &'a str,
    /// Metric.
    pub metric: &'a str,
}

/// A template of the topics of one definition's windows, or of one rule's alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern(Vec<Piece>);

impl TopicPattern {
    /// Reads a template: text, and names in braces.
    ///
    /// # Errors
    /// What can't be a topic, or couldn't be told from the topics of sources.
    pub fn parse(text: &str) -> Result<Self, AnnounceError> {
        if text.is_empty() || text.len() > 500 {
            return Err(AnnounceError::Length);
        }
        if let Some(wrong) = text.chars().find(|c| matches!(c, '+' | '#') || c.is_control()) {
            return Err(AnnounceError::Character(wrong));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) =
                behind.split_once('}').ok_or_else(|| AnnounceError::Name(behind.to_owned()))?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Name(Name::read(name)?));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let stray = pieces.iter().any(|p| matches!(p, Piece::Text(text) if text.contains('}')));
        if stray {
            return Err(AnnounceError::Name("}".to_owned()));
        }
        let pattern = Self(pieces);
        let first = pattern.beginning("g", "w");
        let level = first.split_once('/').map(|(level, _)| level.to_owned());
        if text.starts_with('$') || level.is_none_or(|level| level.is_empty()) {
            return Err(AnnounceError::NoBeginning);
        }
        Ok(pattern)
    }

    /// What all topics of the definition `window` on that gateway begin with.
    pub fn beginning(&self, gateway: &str, window: &str) -> String {
        let fixed = self.0.iter().take_while(|p| !matches!(p, Piece::Name(name) if !name.is_fixed()));
        let mut out = String::new();
        for piece in fixed {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Name(Name::Gateway) => level(gateway, &mut out),
                Piece::Name(_) => level(window, &mut out),
            }
        }
        out
    }

    /// Whether it names the source.
    pub fn names_source(&self) -> bool {
        self.0.contains(&Piece::Name(Name::Source))
    }

    /// The topic of one window, or of one alert.
    pub fn topic(&self, names: &Names<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Name(Name::Gateway) => level(names.gateway, &mut out),
                Piece::Name(Name::Namespace) => level(names.namespace, &mut out),
                Piece::Name(Name::Window | Name::Rule) => level(names.definition, &mut out),
                Piece::Name(Name::Source) => level(names.source, &mut out),
                Piece::Name(Name::Device) => level(names.device, &mut out),
                Piece::Name(Name::Metric) => level(names.metric, &mut out),
            }
        }
        out
    }
}

/// What a topic may name of a window of that series.
pub fn names_of<'a>(gateway: &'a GatewayId, window: &'a str, entry: &'a SeriesEntry) -> Names<'a> {
    Names {
        gateway: gateway.as_str(),
        definition: window,
        namespace: entry.namespace.as_str(),
        source: &entry.source,
        device: &entry.device,
        metric: &entry.metric,
    }
}

/// A name as one level of a topic: what would divide it or is a wildcard becomes `_`.
fn level(name: &str, out: &mut String) {
    if name.is_empty() {
        out.push('_');
    }
    out.extend(name.chars().map(|c| if matches!(c, '/' | '+' | '#') || c.is_control() { '_' } else { c }));
}

#[derive(Serialize)]
struct Message<'a> {
    window_name: &'a str,
    window_start: String,
    window_end: String,
    device: &'a str,
    metric: &'a str,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    tags: &'a Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    series: String,
    samples: u64,
    #[serde(flatten)]
    statistics: serde_json::Map<String, serde_json::Value>,
    coverage: f64,
    late: u64,
    partial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<String>,
    source: &'a str,
    gateway: &'a str,
}

/// The message of a closed window.
pub fn message(row: &AggregateRow, entry: &SeriesEntry, gateway: &GatewayId) -> Vec<u8> {
    let a = &row.aggregate;
    let columns: [(Function, &str, Option<f64>); 13] = [
        (Function::Min, "value_min", Some(a.min)),
        (Function::Max, "value_max", Some(a.max)),
        (Function::Mean, "value_mean", a.mean),
        (Function::Sum, "value_sum", a.sum),
        (Function::Stddev, "value_stddev", a.stddev),
        (Function::First, "value_first", Some(a.first)),
        (Function::Last, "value_last", Some(a.last)),
        (Function::P50, "value_p50", a.p50),
        (Function::P95, "value_p95", a.p95),
        (Function::P99, "value_p99", a.p99),
        (Function::TimeWeightedMean, "time_weighted_mean", a.time_weighted_mean),
        (Function::Increase, "value_increase", a.increase),
        (Function::Rate, "value_rate", a.rate),
    ];
    let chosen = columns.into_iter().filter(|(function, ..)| row.functions.has(*function));
    let mut statistics: serde_json::Map<String, serde_json::Value> =
        chosen.filter_map(|(_, name, value)| Some((name.to_owned(), value?.into()))).collect();
    if let Some(changes) = a.changes.filter(|_| row.functions.has(Function::Changes)) {
        statistics.insert("value_changes".to_owned(), changes.into());
    }
    let message = Message {
        window_name: &row.window,
        window_start: row.start.to_string(),
        window_end: row.end.to_string(),
        device: &entry.device,
        metric: &entry.metric,
        tags: &entry.tags,
        unit: entry.unit.as_deref(),
        series: entry.id.to_string(),
        samples: a.samples,
        statistics,
        coverage: a.coverage,
        late: row.late,
        partial: row.partial,
        quality: row.quality.to_column(),
        source: &entry.source,
        gateway: gateway.as_str(),
    };
    // Texts and finite numbers: nothing in it can fail to be JSON.
    serde_json::to_vec(&message).unwrap_or_default()
}

/// Whether a topic is one on which a gateway tells its windows and alerts by the example of the documentation: one that takes
/// everything sees those of others too.
pub fn is_announcement(topic: &str) -> bool {
    let behind = topic.strip_prefix("tributary/").and_then(|rest| rest.split_once('/'));
    behind.is_some_and(|(_, rest)| rest.starts_with("windows/") || rest.starts_with("alerts/"))
}

impl std::fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Name(name) => {
                    f.write_char('{')?;
                    f.write_str(match name {
                        Name::Gateway => "gateway",
                        Name::Namespace => "namespace",
                        Name::Window => "window",
                        Name::Rule => "rule",
                        Name::Source => "source",
                        Name::Device => "device",
                        Name::Metric => "metric",
                    })?;
                    f.write_char('}')?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tributary_contract::id::Namespace;
    use tributary_contract::quality::{Doubt, Quality};
    use tributary_contract::series::SeriesId;
    use tributary_contract::time::Timestamp;

    use super::*;
    use crate::config::{Functions, MINUTE};
    use crate::window::fold::{Sample, fold};

    fn entry(device: &str, metric: &str) -> SeriesEntry {
        SeriesEntry {
            key: 0,
            id: SeriesId(1),
            namespace: Namespace::default(),
            source: "plant".into(),
            device: device.into(),
            metric: metric.into(),
            tags: Tags::new(),
            unit: Some("°C".into()),
            value_type: "double",
            first_ts: Timestamp(0),
            last_ts: Timestamp(0),
        }
    }

    fn gateway() -> GatewayId {
        GatewayId::new("gw-1").unwrap()
    }

    const USUAL: &str = "tributary/{gateway}/windows/{window}/{device}/{metric}";

    #[test]
    fn a_topic_is_made_of_names_that_divide_no_level() {
        let pattern = TopicPattern::parse(USUAL).unwrap();
        assert_eq!(pattern.to_string(), USUAL);
        assert_eq!(pattern.beginning("gw-1", "1m"), "tributary/gw-1/windows/1m/");
        let topic = pattern.topic(&names_of(&gateway(), "15m every 5m", &entry("hall/3#", "")));
        assert_eq!(topic, "tributary/gw-1/windows/15m every 5m/hall_3_/_");
        assert!(is_announcement(&topic) && !is_announcement("tributary/gw-1/marker"));
        let other = TopicPattern::parse("site-{gateway}/{namespace}-{source}/x").unwrap();
        assert_eq!(other.topic(&names_of(&gateway(), "1m", &entry("d", "m"))), "site-gw-1/tributary-plant/x");
        assert_eq!(other.beginning("gw-1", "1m"), "site-gw-1/");
        assert!(other.names_source() && !pattern.names_source());
    }

    #[test]
    fn what_can_be_no_topic_of_our_own_is_refused() {
        for (text, says) in [
            ("", "1 to 500"),
            ("a/+/b", "'+'"),
            ("a/#", "'#'"),
            ("a/{devices}", "{gateway}"),
            ("a/{device", "isn't known"),
            ("a/device}", "isn't known"),
            ("{device}/windows", "level of its own"),
            ("windows", "level of its own"),
            ("/windows/{device}", "level of its own"),
            ("$SYS/{device}/x", "level of its own"),
        ] {
            let why = TopicPattern::parse(text).unwrap_err().to_string();
            assert!(why.contains(says), "{text:?}: {why}");
        }
    }

    #[test]
    fn the_message_has_the_chosen_statistics_by_the_names_of_their_columns() {
        let samples = [1.0, 4.0, 2.5].iter().zip(0..).map(|(value, seq)| Sample {
            ts: Timestamp(seq as i64 * 20_000_000),
            seq,
            value: *value,
        });
        let samples: Vec<Sample> = samples.collect();
        let row = AggregateRow {
            start: Timestamp(0),
            end: Timestamp(MINUTE),
            window: "1m".into(),
            series: 0,
            aggregate: fold(&samples, None, Timestamp(0), Timestamp(MINUTE)).unwrap(),
            revision: 1,
            late: 0,
            partial: false,
            quality: Quality::GOOD.with(Doubt::OutOfRange),
            functions: [Function::Max, Function::Mean, Function::Changes].into_iter().collect(),
        };
        let told: serde_json::Value =
            serde_json::from_slice(&message(&row, &entry("d", "m"), &gateway())).unwrap();
        assert_eq!(
            told,
            serde_json::json!({
                "window_name": "1m", "window_start": "1970-01-01T00:00:00Z", "window_end": "1970-01-01T00:01:00Z",
                "device": "d", "metric": "m", "unit": "°C", "series": "0000000000000001", "samples": 3,
                "value_max": 4.0, "value_mean": 2.5, "value_changes": 2, "coverage": 1.0, "late": 0, "partial": false,
                "quality": "out-of-range", "source": "plant", "gateway": "gw-1",
            })
        );
        let all = AggregateRow { functions: Functions::USUAL, ..row };
        let told: serde_json::Value =
            serde_json::from_slice(&message(&all, &entry("d", "m"), &gateway())).unwrap();
        let statistics = told.as_object().unwrap().keys().filter(|k| k.starts_with("value_")).count();
        assert_eq!((statistics, told["time_weighted_mean"].is_number()), (10, true));
    }

    proptest! {
        #[test]
        fn no_name_makes_a_topic_of_another_shape(device in any::<String>(), metric in any::<String>()) {
            let topic = TopicPattern::parse(USUAL).unwrap().topic(&names_of(&gateway(), "1m", &entry(&device, &metric)));
            let levels: Vec<&str> = topic.split('/').collect();
            prop_assert_eq!(levels.len(), 6);
            prop_assert!(levels.iter().all(|l| !l.is_empty()));
            prop_assert!(!topic.contains(['+', '#', '\0']));
            prop_assert!(topic.starts_with("tributary/gw-1/windows/1m/"));
        }
    }
}
