//! `[[alert]]`: rules by which alerts open and close.

use tributary_contract::time::DAY_MICROS;

use super::SECOND;
use super::publish::TopicPattern;
use super::section::Section;
use super::selection::Selection;

/// A rule by which alerts open and close, one for each series that it looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertRule {
    /// Name, unique.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it looks at.
    pub of: Selection,
    /// When it opens and closes.
    pub condition: Condition,
    /// How long the condition must hold by event time before it opens, microseconds.
    pub hold: i64,
    /// Topic on which it is told; none for not at all.
    pub publish: Option<TopicPattern>,
}

/// How bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must act.
    Critical,
}

impl Severity {
    /// All of them.
    pub const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];

    /// Its name in configuration and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Condition {
    /// A value greater than `threshold`, until one is at most `clear`.
    Above {
        /// Where it opens.
        threshold: f64,
        /// Where it closes; at most `threshold`.
        clear: f64,
    },
    /// A value less than `threshold`, until one is at least `clear`.
    Below {
        /// Where it opens.
        threshold: f64,
        /// Where it closes; at least `threshold`.
        clear: f64,
    },
    /// A change from one reading to the next, up or down, of more than that a second.
    Changes {
        /// The rate.
        per_second: f64,
    },
    /// A value more than that many standard deviations away from what the series was lately: `alert/chart.rs`.
    Deviates {
        /// How many.
        deviations: f64,
        /// Over how many readings what is lately fades.
        readings: f64,
    },
    /// No reading for so long, by processing time.
    Silent {
        /// How long, microseconds.
        after: i64,
    },
}

/// Readings over which what a series was lately fades, where nothing is said.
const OVER: i64 = 1000;

/// Reads every `[[alert]]`.
pub(super) fn read(root: &mut Section<'_>) -> Vec<AlertRule> {
    let mut rules: Vec<AlertRule> = Vec::new();
    for mut s in root.sections("alert") {
        let name = s.required("name", "\"too hot\"");
        if rules.iter().any(|r| r.name == name && !name.is_empty()) {
            s.problem("name", format!("{name:?} is used twice; each rule needs its own name"));
        }
        let condition = read_condition(&mut s);
        let severities = Severity::ALL.map(|severity| (severity.name(), severity));
        let rule = AlertRule {
            name,
            severity: s.choice("severity", &severities, Severity::Warning),
            of: Selection::read(&mut s),
            hold: s.duration("hold", 0..=30 * DAY_MICROS, 0),
            publish: s.parsed("publish", read_topic),
            condition: condition.unwrap_or(Condition::Silent { after: DAY_MICROS }),
        };
        s.finish();
        rules.push(rule);
    }
    rules
}

fn read_topic(text: &str) -> Result<TopicPattern, String> {
    let pattern = TopicPattern::parse(text).map_err(|e| e.to_string())?;
    // An alert that is closed because its rule is gone is known by its series alone.
    if pattern.names_source() { Err("an alert has no {source}: leave it out".into()) } else { Ok(pattern) }
}

/// One of `above`, `below`, `changes`, `deviates` and `silent`, and what belongs to it.
fn read_condition(s: &mut Section<'_>) -> Option<Condition> {
    let clear = s.number("clear");
    let (above, below, changes) = (s.number("above"), s.number("below"), s.number("changes"));
    let deviates = s.number("deviates");
    let over = s.integer("over", 10..=1_000_000, OVER) as f64;
    let silent = s.is_there("silent").then(|| s.duration("silent", SECOND..=366 * DAY_MICROS, DAY_MICROS));
    let condition = match (above, below, changes, deviates, silent) {
        (Some(threshold), None, None, None, None) => {
            Condition::Above { threshold, clear: clear.unwrap_or(threshold) }
        }
        (None, Some(threshold), None, None, None) => {
            Condition::Below { threshold, clear: clear.unwrap_or(threshold) }
        }
        (None, None, Some(per_second), None, None) => Condition::Changes { per_second },
        (None, None, None, Some(deviations), None) => Condition::Deviates { deviations, readings: over },
        (None, None, None, None, Some(after)) => Condition::Silent { after },
        _ => {
            s.problem(
                "above",
                "a rule has exactly one of `above`, `below`, `changes`, `deviates` and `silent`",
            );
            return None;
        }
    };
    match condition {
        Condition::Above { threshold, clear } if clear > threshold => {
            s.problem("clear", format!("{clear} is above {threshold}: the alert would never stay open"));
        }
        Condition::Below { threshold, clear } if clear < threshold => {
            s.problem("clear", format!("{clear} is below {threshold}: the alert would never stay open"));
        }
        Condition::Changes { per_second } if per_second <= 0.0 => {
            s.problem("changes", "must be greater than 0: units a second, up or down");
        }
        Condition::Deviates { deviations, .. } if deviations < 1.0 => {
            s.problem("deviates", "must be 1 at least: standard deviations, such as 6");
        }
        Condition::Changes { .. } | Condition::Deviates { .. } | Condition::Silent { .. }
            if clear.is_some() =>
        {
            s.problem("clear", "belongs to `above` or `below`");
        }
        _ => {}
    }
    Some(condition)
}
