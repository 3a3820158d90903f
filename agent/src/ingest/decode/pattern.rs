//! Patterns of presets over texts that are separated by slashes: `devices/{device*}/m/{type}`.
//!
//! Beside what topic templates know, `{name*}` stands for one or more levels, `{name:3}` for three of them, and `#` for
//! any number of levels, none included; one level that may grow per pattern, so that there is never a choice.

use crate::config::Selection;

/// One part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Any,
    Named(String, Room),
    Rest,
}

/// How many levels a name takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Of(usize),
    Some,
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

/// What a text says by a pattern: names with their levels joined again, slashes at the ends trimmed; none is empty.
pub type Said = Vec<(String, String)>;

impl Pattern {
    /// Parses `text`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| format!("pattern {text:?}: {part:?} is no level of a pattern");
        let mut parts = Vec::new();
        for part in text.split('/') {
            parts.push(match part {
                "+" => Part::Any,
                "#" => Part::Rest,
                _ if part.starts_with('{') => {
                    let inner = part
                        .strip_prefix('{')
                        .and_then(|p| p.strip_suffix('}'))
                        .ok_or_else(|| wrong(part))?;
                    let (name, room) = match (inner.strip_suffix('*'), inner.split_once(':')) {
                        (Some(name), _) => (name, Room::Some),
                        (None, Some((name, n))) => (name, Room::Of(n.parse().map_err(|_| wrong(part))?)),
                        (None, None) => (inner, Room::Of(1)),
                    };
                    if name.is_empty() || room == Room::Of(0) {
                        return Err(wrong(part));
                    }
                    Part::Named(name.into(), room)
                }
                _ => Part::Literal(part.into()),
            });
        }
        let growing = parts.iter().filter(|p| matches!(p, Part::Rest | Part::Named(_, Room::Some))).count();
        if growing > 1 {
            return Err(format!("pattern {text:?}: more than one level that may grow"));
        }
        Ok(Self { parts })
    }

    /// Whether it says something of that name.
    pub fn names(&self, wanted: &str) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Named(name, _) if name == wanted))
    }

    /// What `text` says, if it matches.
    pub fn read(&self, text: &str) -> Option<Said> {
        let levels: Vec<&str> = text.split('/').collect();
        let fixed: usize = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Literal(_) | Part::Any => 1,
                Part::Named(_, Room::Of(n)) => *n,
                Part::Named(_, Room::Some) | Part::Rest => 0,
            })
            .sum();
        let room = levels.len().checked_sub(fixed)?;
        let grows = |part: &Part| matches!(part, Part::Rest | Part::Named(_, Room::Some));
        if room > 0 && !self.parts.iter().any(grows) {
            return None;
        }
        let (mut at, mut said) = (0, Said::new());
        for part in &self.parts {
            let size = match part {
                Part::Literal(_) | Part::Any => 1,
                Part::Named(_, Room::Of(n)) => *n,
                Part::Named(_, Room::Some) if room == 0 => return None,
                Part::Named(_, Room::Some) | Part::Rest => room,
            };
            let taken = levels.get(at..at + size)?;
            at += size;
            match part {
                Part::Literal(text) if taken != [text] => return None,
                Part::Named(name, _) => {
                    let joined = taken.join("/");
                    let value = joined.trim_matches('/');
                    if !value.is_empty() {
                        said.push((name.clone(), value.into()));
                    }
                }
                Part::Literal(_) | Part::Any | Part::Rest => {}
            }
        }
        Some(said)
    }
}

/// Whether source, device and metric all match their globs.
pub fn selects(selection: &Selection, source: &str, device: &str, metric: &str) -> bool {
    let of = |globs: &[String], text: &str| globs.is_empty() || globs.iter().any(|g| glob(g, text));
    let Selection { sources, devices, metrics } = selection;
    of(sources, source) && of(devices, device) && of(metrics, metric)
}

/// Whether `text` matches `glob`, in which `*` stands for any text and `?` for one character.
pub fn glob(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    // Where the last `*` stood, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(c) if *c == '?' || Some(c) == text.get(t) => (g, t) = (g + 1, t + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (g, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    glob.get(g..).unwrap_or(&[]).iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pattern: &str, text: &str) -> Option<String> {
        let said = Pattern::parse(pattern).unwrap().read(text)?;
        Some(said.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn names_take_the_levels_that_are_theirs() {
        for (pattern, text, expected) in [
            ("tele/{device*}/SENSOR", "tele/hall/plug/SENSOR", Some("device=hall/plug")),
            ("tele/{device*}/SENSOR", "tele/SENSOR", None),
            ("te/device/{device*}/m/{type}", "te/device/main///m/env", Some("device=main type=env")),
            ("te/device/{device*}/m/{type}", "te/device/main///m/", Some("device=main")),
            (
                "te/device/{device*}/m/{type}",
                "te/device/main/service/nodered/m/env",
                Some("device=main/service/nodered type=env"),
            ),
            ("z/{device*}/{metric:3}", "z/office/test/38/0/now", Some("device=office/test metric=38/0/now")),
            ("z/{device*}/{metric:3}", "z/a/b/c", None),
            ("a/#", "a", Some("")),
            ("a/#", "a/b/c", Some("")),
            ("a/+/c", "a/b/c", Some("")),
            ("a/+/c", "a/b/d", None),
            ("a/{x}", "a/b/c", None),
        ] {
            assert_eq!(said(pattern, text).as_deref(), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_bad_pattern_is_refused() {
        for bad in ["{", "{}", "{*}", "{a:0}", "{a:x}", "{a*}/{b*}", "{a*}/#"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn globs_match_as_shells_do() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*.temp*", "x.temperature", true),
            ("?é", "aé", true),
            ("a?", "a", false),
            ("**a**", "ba", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
        let (long, text) = ("*a".repeat(50), "a".repeat(5000) + "b");
        assert!(!glob(&long, &text), "no pattern takes long");
    }
}
