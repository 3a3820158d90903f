//! Topic templates: MQTT filters whose levels may be named, and what a topic says by them.

use std::fmt;

/// Why a text is no topic template. Each message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Nothing at all, or longer than MQTT carries.
    #[error(
        "invalid topic {0:?}: write a filter of 1 to 65535 bytes, such as \"sensors/{{device}}/{{metric}}\""
    )]
    Length(String),
    /// A character that no topic may hold.
    #[error("invalid topic {0:?}: it holds a control character; remove it")]
    Control(String),
    /// `#` before the end.
    #[error(
        "invalid topic {0:?}: `#` stands for all further levels, so it must be the last one; use `+` for one level"
    )]
    HashNotLast(String),
    /// A wildcard that shares its level.
    #[error(
        "invalid topic {topic:?}: level {level:?} mixes a wildcard with text; `+` and `#` must be a whole level"
    )]
    PartOfLevel {
        /// The template.
        topic: String,
        /// The level.
        level: String,
    },
    /// Braces that aren't one name around a whole level.
    #[error(
        "invalid topic {topic:?}: level {level:?} isn't a name; write one name in braces for a whole level, such as \"{{device}}\""
    )]
    BadName {
        /// The template.
        topic: String,
        /// The level.
        level: String,
    },
    /// A name used twice.
    #[error(
        "invalid topic {topic:?}: the name {name:?} stands there twice; give each level its own name, or use `+`"
    )]
    TwiceNamed {
        /// The template.
        topic: String,
        /// The name.
        name: String,
    },
    /// `$share/…`
    #[error(
        "invalid topic {0:?}: a shared subscription spreads a device's messages over clients; write the plain filter"
    )]
    Shared(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(String),
    Any,
    Device,
    Metric,
    Tag(String),
    Rest,
}

/// A parsed template: `sensors/{device}/{metric}` is the filter `sensors/+/+` whose second level names the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    levels: Vec<Level>,
}

/// What the named levels of one topic say. An empty level says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captures<'t> {
    /// At `{device}`.
    pub device: Option<&'t str>,
    /// At `{metric}`.
    pub metric: Option<&'t str>,
    /// At all other names: name and what stands there, in the order of levels.
    pub tags: Vec<(String, &'t str)>,
}

impl TopicTemplate {
    /// Parses `text`: levels separated by `/`, each a literal, `+`, `{name}`, or at the end `#`.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() || text.len() > 65_535 {
            return Err(TemplateError::Length(text.chars().take(80).collect()));
        }
        if text.chars().any(char::is_control) {
            return Err(TemplateError::Control(text.into()));
        }
        if text.starts_with("$share/") {
            return Err(TemplateError::Shared(text.into()));
        }
        let mut levels = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for part in text.split('/') {
            if levels.last() == Some(&Level::Rest) {
                return Err(TemplateError::HashNotLast(text.into()));
            }
            let level = match part {
                "+" => Level::Any,
                "#" => Level::Rest,
                _ if part.contains(['{', '}']) => {
                    let bad = || TemplateError::BadName { topic: text.into(), level: part.into() };
                    let name = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')).ok_or_else(bad)?;
                    if name.is_empty() || name.contains(['{', '}', '+', '#']) {
                        return Err(bad());
                    }
                    if names.contains(&name) {
                        return Err(TemplateError::TwiceNamed { topic: text.into(), name: name.into() });
                    }
                    names.push(name);
                    match name {
                        "device" => Level::Device,
                        "metric" => Level::Metric,
                        _ => Level::Tag(name.into()),
                    }
                }
                _ if part.contains(['+', '#']) => {
                    return Err(TemplateError::PartOfLevel { topic: text.into(), level: part.into() });
                }
                _ => Level::Literal(part.into()),
            };
            levels.push(level);
        }
        Ok(Self { levels })
    }

    /// The plain MQTT filter, as SUBSCRIBE carries it.
    pub fn filter(&self) -> String {
        let spelled = self.levels.iter().map(|level| match level {
            Level::Literal(text) => text.as_str(),
            Level::Any | Level::Device | Level::Metric | Level::Tag(_) => "+",
            Level::Rest => "#",
        });
        spelled.collect::<Vec<_>>().join("/")
    }

    /// What `topic` says by this template; `None` when the filter doesn't match it. As MQTT demands, a filter that
    /// begins with a wildcard doesn't match topics that begin with `$`, and `a/#` matches `a`.
    pub fn captures<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Literal(_))) {
            return None;
        }
        let mut captures = Captures::default();
        let mut parts = topic.split('/');
        let said = |part: &'t str| if part.is_empty() { None } else { Some(part) };
        for level in &self.levels {
            if *level == Level::Rest {
                return Some(captures);
            }
            let part = parts.next()?;
            match level {
                Level::Literal(text) if text != part => return None,
                Level::Literal(_) | Level::Any | Level::Rest => {}
                Level::Device => captures.device = said(part),
                Level::Metric => captures.metric = said(part),
                Level::Tag(name) => {
                    if let Some(part) = said(part) {
                        captures.tags.push((name.clone(), part));
                    }
                }
            }
        }
        if parts.next().is_some() { None } else { Some(captures) }
    }

    /// How many levels stand before the first that isn't literal.
    pub fn literal_levels(&self) -> usize {
        self.levels.iter().take_while(|level| matches!(level, Level::Literal(_))).count()
    }

    /// The names of the levels that become tags.
    pub fn tag_names(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter_map(|level| match level {
            Level::Tag(name) => Some(name.as_str()),
            Level::Literal(_) | Level::Any | Level::Device | Level::Metric | Level::Rest => None,
        })
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, level) in self.levels.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            match level {
                Level::Literal(text) => f.write_str(text)?,
                Level::Any => f.write_str("+")?,
                Level::Device => f.write_str("{device}")?,
                Level::Metric => f.write_str("{metric}")?,
                Level::Tag(name) => write!(f, "{{{name}}}")?,
                Level::Rest => f.write_str("#")?,
            }
        }
        Ok(())
    }
}

/// Whether some topic matches both: on one connection a broker may then deliver its messages twice.
pub fn overlaps(a: &TopicTemplate, b: &TopicTemplate) -> bool {
    for at in 0.. {
        match (a.levels.get(at), b.levels.get(at)) {
            (None, None) => return true,
            (Some(Level::Rest), other) | (other, Some(Level::Rest)) => {
                return !(at == 0 && is_dollar(other));
            }
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(Level::Literal(x)), Some(Level::Literal(y))) => {
                if x != y {
                    return false;
                }
            }
            (wild, literal @ Some(Level::Literal(_))) | (literal @ Some(Level::Literal(_)), wild) => {
                if at == 0 && wild.is_some() && is_dollar(literal) {
                    return false;
                }
            }
            (Some(_), Some(_)) => {}
        }
    }
    false
}

fn is_dollar(level: Option<&Level>) -> bool {
    matches!(level, Some(Level::Literal(text)) if text.starts_with('$'))
}

/// Whether a topic that a broker sent can be taken: MQTT forbids wildcards and NUL in it, and no name may hold a
/// control character or stand for bytes that weren't UTF-8.
pub fn is_usable(topic: &str) -> bool {
    !topic.is_empty()
        && !topic.chars().any(|c| c.is_control() || matches!(c, '+' | '#' | char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> TopicTemplate {
        TopicTemplate::parse(text).unwrap()
    }

    #[test]
    fn named_levels_say_device_metric_and_tags() {
        let t = template("plant/{line}/{device}/+/{metric}");
        assert_eq!(t.filter(), "plant/+/+/+/+");
        assert_eq!(t.to_string(), "plant/{line}/{device}/+/{metric}");
        let c = t.captures("plant/line1/press7/x/temp").unwrap();
        assert_eq!((c.device, c.metric), (Some("press7"), Some("temp")));
        assert_eq!(c.tags, [("line".to_owned(), "line1")]);
        assert_eq!(t.captures("plant/line1/press7/x"), None);
        assert_eq!(t.captures("plant/line1/press7/x/temp/more"), None);
        assert_eq!(t.captures("plant/line1//x/temp").unwrap().device, None, "an empty level names nothing");
    }

    #[test]
    fn wildcards_match_as_mqtt_says() {
        for (filter, topic, matches) in [
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("{device}/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("/a", "/a", true),
        ] {
            assert_eq!(template(filter).captures(topic).is_some(), matches, "{filter} {topic}");
        }
    }

    #[test]
    fn a_bad_template_is_refused_with_what_to_write() {
        for (bad, hint) in [
            ("", "write a filter"),
            ("a/#/b", "use `+` for one level"),
            ("a/b+", "must be a whole level"),
            ("a/x{device}", "one name in braces"),
            ("a/{}", "one name in braces"),
            ("{device}/{device}", "its own name"),
            ("$share/g/a", "write the plain filter"),
            ("a\u{0}b", "remove it"),
        ] {
            let error = TopicTemplate::parse(bad).unwrap_err().to_string();
            assert!(error.contains(hint), "{bad:?}: {error}");
        }
    }

    #[test]
    fn templates_overlap_when_one_topic_matches_both() {
        for (a, b, expected) in [
            ("sensors/{device}/{metric}", "sensors/#", true),
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/#", "a", true),
            ("+/b", "a/+", true),
            ("a/+", "a/+/c", false),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/x", false),
            ("#", "+", true),
        ] {
            assert_eq!(overlaps(&template(a), &template(b)), expected, "{a} {b}");
            assert_eq!(overlaps(&template(b), &template(a)), expected, "{b} {a}");
        }
    }

    proptest::proptest! {
        #[test]
        fn two_templates_that_match_one_topic_overlap(
            a in "([ab$]|[+]|[{]device[}])(/([ab]|[+])){0,3}(/#)?",
            b in "([ab$]|[+]|[{]device[}])(/([ab]|[+])){0,3}(/#)?",
            topic in "[ab$](/[ab]){0,4}",
        ) {
            let (a, b) = (template(&a), template(&b));
            if a.captures(&topic).is_some() && b.captures(&topic).is_some() {
                proptest::prop_assert!(overlaps(&a, &b));
            }
        }
    }

    #[test]
    fn topics_that_mqtt_forbids_are_not_usable() {
        for bad in ["", "plant/+/x", "plant/#", "a\u{0}b", "a\u{7}b", "a\u{fffd}"] {
            assert!(!is_usable(bad), "{bad:?}");
        }
        for good in ["/", "plant//x", "plant/prüß/温度", "a b"] {
            assert!(is_usable(good), "{good:?}");
        }
    }
}
