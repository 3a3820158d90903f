//! `publish`: on which topic something is told that the agent found out.

use std::fmt::{self, Write as _};

/// Why a text is no template of a topic to publish on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
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
    fn read(text: &str) -> Result<Self, TopicError> {
        Ok(match text {
            "gateway" => Self::Gateway,
            "namespace" => Self::Namespace,
            "window" => Self::Window,
            "rule" => Self::Rule,
            "source" => Self::Source,
            "device" => Self::Device,
            "metric" => Self::Metric,
            _ => return Err(TopicError::Name(text.to_owned())),
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
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.is_empty() || text.len() > 500 {
            return Err(TopicError::Length);
        }
        if let Some(wrong) = text.chars().find(|c| matches!(c, '+' | '#') || c.is_control()) {
            return Err(TopicError::Character(wrong));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or_else(|| TopicError::Name(behind.to_owned()))?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Name(Name::read(name)?));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let stray = pieces.iter().any(|p| matches!(p, Piece::Text(text) if text.contains('}')));
        if stray {
            return Err(TopicError::Name("}".to_owned()));
        }
        let pattern = Self(pieces);
        let first = pattern.beginning("g", "w");
        let level = first.split_once('/').map(|(level, _)| level.to_owned());
        if text.starts_with('$') || level.is_none_or(|level| level.is_empty()) {
            return Err(TopicError::NoBeginning);
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

/// A name as one level of a topic: what would divide it or is a wildcard becomes `_`.
fn level(name: &str, out: &mut String) {
    if name.is_empty() {
        out.push('_');
    }
    out.extend(name.chars().map(|c| if matches!(c, '/' | '+' | '#') || c.is_control() { '_' } else { c }));
}

/// Whether a topic is one on which a gateway tells its windows and alerts by the example of the documentation: one that takes
/// everything sees those of others too.
pub fn is_announcement(topic: &str) -> bool {
    let behind = topic.strip_prefix("tributary/").and_then(|rest| rest.split_once('/'));
    behind.is_some_and(|(_, rest)| rest.starts_with("windows/") || rest.starts_with("alerts/"))
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

    use super::*;

    fn names<'a>(definition: &'a str, device: &'a str, metric: &'a str) -> Names<'a> {
        Names { gateway: "gw-1", definition, namespace: "tributary", source: "plant", device, metric }
    }

    const USUAL: &str = "tributary/{gateway}/windows/{window}/{device}/{metric}";

    #[test]
    fn a_topic_is_made_of_names_that_divide_no_level() {
        let pattern = TopicPattern::parse(USUAL).unwrap();
        assert_eq!(pattern.to_string(), USUAL);
        assert_eq!(pattern.beginning("gw-1", "1m"), "tributary/gw-1/windows/1m/");
        let topic = pattern.topic(&names("15m every 5m", "hall/3#", ""));
        assert_eq!(topic, "tributary/gw-1/windows/15m every 5m/hall_3_/_");
        assert!(is_announcement(&topic) && !is_announcement("tributary/gw-1/marker"));
        let other = TopicPattern::parse("site-{gateway}/{namespace}-{source}/x").unwrap();
        assert_eq!(other.topic(&names("1m", "d", "m")), "site-gw-1/tributary-plant/x");
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

    proptest! {
        #[test]
        fn no_name_makes_a_topic_of_another_shape(device in any::<String>(), metric in any::<String>()) {
            let topic = TopicPattern::parse(USUAL).unwrap().topic(&names("1m", &device, &metric));
            let levels: Vec<&str> = topic.split('/').collect();
            prop_assert_eq!(levels.len(), 6);
            prop_assert!(levels.iter().all(|l| !l.is_empty()));
            prop_assert!(!topic.contains(['+', '#', '\0']));
            prop_assert!(topic.starts_with("tributary/gw-1/windows/1m/"));
        }
    }
}
