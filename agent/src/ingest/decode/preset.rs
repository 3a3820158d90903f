//! Presets: rules for what ecosystems publish, read once from `presets.toml`, which says what they mean.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::csv::Layout;
use super::document::Doc;
use super::path::{Path, Record};
use super::pattern::{Pattern, Said};
use super::rule::Rule;
use super::time;
use crate::config::TimeUnit;

/// One ecosystem.
#[derive(Debug, Clone)]
pub struct Preset {
    /// Its name in settings.
    pub name: String,
    /// The first levels of its topics by default; empty where they have none.
    root: String,
    rules: Vec<PresetRule>,
}

/// How messages of some topics are read.
#[derive(Debug, Clone)]
pub struct PresetRule {
    topics: Vec<Pattern>,
    /// Paths of which one must lead somewhere.
    having: Vec<Path>,
    /// Whether `auto` uses it.
    auto: bool,
    /// Whether such messages hold no readings.
    pub ignore: bool,
    /// The format, where it isn't found out.
    pub format: Option<Format>,
    /// The device of all of them.
    pub device_name: Option<String>,
    /// The metric of all of them.
    pub metric_name: Option<String>,
    /// Where what stands.
    pub rule: Rule,
    /// Columns, for CSV.
    pub layout: Layout,
}

/// Formats that a preset may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// CSV.
    Csv,
    /// Line protocol, unless the payload is a document.
    LineProtocol,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    preset: Vec<PresetText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PresetText {
    name: String,
    root: String,
    rule: Vec<RuleText>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RuleText {
    topics: Vec<String>,
    having: Vec<String>,
    auto: Option<bool>,
    ignore: bool,
    decoder: Option<Format>,
    device_name: Option<String>,
    metric_name: Option<String>,
    records: Vec<String>,
    time: Vec<String>,
    time_unit: Option<String>,
    time_from: Option<String>,
    device: Vec<String>,
    metric: Vec<String>,
    value: Vec<String>,
    unit: Vec<String>,
    quality: Vec<String>,
    good: Vec<String>,
    names: Vec<NameText>,
    skip: Vec<String>,
    tags: BTreeMap<String, String>,
    numbers: bool,
    kind: Vec<String>,
    by_first: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameText {
    of: String,
    like: String,
}

static PRESETS: LazyLock<Vec<Preset>> =
    LazyLock::new(|| read(include_str!("presets.toml")).unwrap_or_default());

/// All presets, in the order in which `auto` tries them.
pub fn all() -> &'static [Preset] {
    &PRESETS
}

/// The preset of that name.
pub fn named(name: &str) -> Option<&'static Preset> {
    all().iter().find(|preset| preset.name == name)
}

fn read(text: &str) -> Result<Vec<Preset>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut presets = Vec::new();
    for preset in file.preset {
        let rules = preset.rule.into_iter().map(compile).collect::<Result<_, String>>();
        let rules = rules.map_err(|e| format!("{}: {e}", preset.name))?;
        presets.push(Preset { name: preset.name, root: preset.root, rules });
    }
    Ok(presets)
}

fn compile(text: RuleText) -> Result<PresetRule, String> {
    let paths = |texts: &[String]| {
        texts.iter().map(|t| Path::parse(t).map_err(|e| e.to_string())).collect::<Result<Vec<_>, String>>()
    };
    let time_unit = match text.time_unit.as_deref() {
        None => None,
        Some(word) => {
            TimeUnit::WORDS.into_iter().find(|(known, _)| *known == word).ok_or("unknown time_unit")?.1
        }
    };
    let time_from = match &text.time_from {
        None => None,
        Some(from) => Some(time::configured(&Doc::text(from.as_str()), None)?),
    };
    let mut names = Vec::new();
    for name in &text.names {
        names.push((Path::parse(&name.of).map_err(|e| e.to_string())?, Pattern::parse(&name.like)?));
    }
    let mut payload_tags = Vec::new();
    for (name, path) in &text.tags {
        payload_tags.push((name.clone(), Path::parse(path).map_err(|e| e.to_string())?));
    }
    let rule = Rule {
        records: paths(&text.records)?,
        time: paths(&text.time)?,
        time_unit,
        time_from,
        device: paths(&text.device)?,
        metric: paths(&text.metric)?,
        value: paths(&text.value)?,
        unit: paths(&text.unit)?,
        quality: paths(&text.quality)?,
        good: text.good,
        names,
        skip: text.skip,
        payload_tags,
        row_tags: Vec::new(),
        numbers: text.numbers,
        kind: paths(&text.kind)?,
        guess: true,
        strict: false,
    };
    Ok(PresetRule {
        topics: text.topics.iter().map(|t| Pattern::parse(t)).collect::<Result<_, _>>()?,
        having: paths(&text.having)?,
        auto: text.auto.unwrap_or(true),
        ignore: text.ignore,
        format: text.decoder,
        device_name: text.device_name,
        metric_name: text.metric_name,
        rule,
        layout: Layout { by_first: text.by_first, ..Layout::default() },
    })
}

impl Preset {
    /// The first rule for a message, and what its topic says by it. `below` is the topic after the levels that the
    /// source names itself, where the preset was chosen by name; without, only rules for `auto` count.
    pub fn rule(
        &self,
        topic: &str,
        below: Option<&str>,
        document: Option<&Doc>,
    ) -> Option<(&PresetRule, Said)> {
        let own = match self.root.as_str() {
            "" => Some(topic),
            root => topic.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')),
        };
        let tried = own.into_iter().chain(below.filter(|below| Some(*below) != own));
        let mut matches = tried.flat_map(|text| {
            self.rules.iter().filter_map(move |rule| {
                let said = rule.topics.iter().find_map(|pattern| pattern.read(text))?;
                Some((rule, said))
            })
        });
        matches.find(|(rule, _)| (below.is_some() || rule.auto) && rule.has(document))
    }

    /// Its rules, each changed.
    pub fn amended<E>(&self, mut amend: impl FnMut(&mut Rule) -> Result<(), E>) -> Result<Self, E> {
        let mut preset = self.clone();
        for rule in &mut preset.rules {
            amend(&mut rule.rule)?;
        }
        Ok(preset)
    }
}

impl PresetRule {
    fn has(&self, document: Option<&Doc>) -> bool {
        self.having.is_empty()
            || document.is_some_and(|doc| {
                let whole = Record::whole(doc);
                self.having.iter().any(|path| path.find(&whole).is_some())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Decoder;

    #[test]
    fn every_preset_can_be_read_and_is_one_that_settings_know() {
        let read = read(include_str!("presets.toml")).unwrap();
        let mut names: Vec<&str> = read.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, Decoder::PRESETS);
        assert!(read.iter().all(|p| p.rules.iter().all(|r| !r.topics.is_empty())));
    }

    #[test]
    fn a_topic_is_read_below_the_presets_root_or_the_sources() {
        let preset = named("zigbee2mqtt").unwrap();
        let device = |topic: &str, below: Option<&str>| {
            preset
                .rule(topic, below, None)
                .map(|(rule, said)| (rule.ignore, said.into_iter().next().map(|(_, v)| v)))
        };
        assert_eq!(device("zigbee2mqtt/hall/lamp", None), Some((false, Some("hall/lamp".into()))));
        assert_eq!(device("zigbee2mqtt/bridge/info", None), Some((true, None)));
        assert_eq!(device("home/z2m/lamp", None), None);
        assert_eq!(device("home/z2m/lamp", Some("lamp")), Some((false, Some("lamp".into()))));
    }
}
