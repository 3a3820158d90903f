//! Alerts: rules on readings, judged on the gateway, network or not.
//!
//! **What comes in.** Rows of the journal after their commit, and again at a restart those that no kept state covers
//! ([`Alerts::observe`]); the passing of time, for silence ([`Alerts::tick`]). **What goes out.** Alerts that opened and
//! closed, and the state that becomes durable with them, in one transaction ([`Alerts::take`]).
//!
//! A series is judged by its readings in the order of their event times: one that is older than one judged before, or has
//! a time or a value that can't be believed, changes nothing. Text has no numeric view; it only breaks a silence.
//!
//! **What survives a crash.** What is open, and up to which seq the journal was judged. What came after is judged again,
//! with the same outcome: a row of `alerts` has a name made of rule, series, time and state, and is there once. After a
//! new epoch, whose seqs can't be compared with the old ones, only new readings are judged.
//!
//! **What is bounded.** A rule that changes its mind with every reading would fill the disk: of a series [`OF_A_SERIES`]
//! changes an hour are noted, of a rule [`OF_A_RULE`]; beyond that the state stays as it is, and somebody is told to give the
//! rule more room.
//!
//! **What is deliberately absent.** A clock, a disk, and memory of readings: of a series the last one is held.

pub mod chart;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tributary_contract::id::Namespace;
use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use self::chart::Chart;
use self::standing::{Change, Point, Standing};
use crate::buffer::row::{AlertRow, Row, SeriesEntry};
use crate::config::{AlertRule, Condition, HOUR};
use crate::window::{has_trusted_time, has_trusted_value};

/// Changes of one series by one rule that are noted in an hour.
pub const OF_A_SERIES: u32 = 120;
/// Changes by one rule, of all series together.
pub const OF_A_RULE: u32 = 10_000;

/// All rules, and where each series stands by them.
#[derive(Debug)]
pub struct Alerts {
    rules: Arc<[AlertRule]>,
    ordinal: u32,
    through: u64,
    /// By dictionary key, place in `followed`; none where no rule looks at it.
    keys: HashMap<u32, Option<usize>>,
    places: HashMap<(Namespace, SeriesId), usize>,
    followed: Vec<Followed>,
    /// Every open alert: what is kept.
    open: BTreeMap<(String, String, String), Open>,
    changes: Vec<AlertRow>,
    /// Whether what is kept isn't what is so, but for the seq.
    changed: bool,
    /// By rule, what was noted in the present hour.
    noted: Vec<Noted>,
    /// Changes that were too many to be noted, and the rule of the last one.
    muted: (u64, Option<String>),
    /// Since when everything that is said can be heard, by processing time.
    listening: Option<Timestamp>,
}

#[derive(Debug)]
struct Followed {
    entry: Arc<SeriesEntry>,
    newest: Option<Point>,
    /// By processing time.
    last_heard: Timestamp,
    /// By the rules that look at it.
    judged: Vec<Judged>,
}

#[derive(Debug)]
struct Judged {
    /// Number of the rule.
    rule: u16,
    standing: Standing,
    /// Of a rule on what deviates.
    chart: Chart,
    noted: Noted,
}

/// Changes in one hour.
#[derive(Debug, Clone, Copy, Default)]
struct Noted {
    hour: i64,
    changes: u32,
}

impl Noted {
    fn has_room(&mut self, at: Timestamp, most: u32) -> bool {
        let hour = at.0.div_euclid(HOUR);
        if self.hour != hour {
            *self = Self { hour, changes: 0 };
        }
        self.changes < most
    }
}

/// An open alert, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    rule: String,
    namespace: Namespace,
    series: String,
    device: String,
    metric: String,
    severity: String,
    since: Timestamp,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    ordinal: u32,
    through: u64,
    open: Vec<Open>,
}

impl Alerts {
    /// Nothing known yet. `ordinal`: how many epochs the buffer had before this one.
    pub fn new(rules: &[AlertRule], ordinal: u32) -> Self {
        Self {
            rules: rules.into(),
            ordinal,
            through: 0,
            keys: HashMap::new(),
            places: HashMap::new(),
            followed: Vec::new(),
            open: BTreeMap::new(),
            changes: Vec::new(),
            changed: false,
            noted: vec![Noted::default(); rules.len()],
            muted: (0, None),
            listening: None,
        }
    }

    /// Whether there are neither rules nor alerts to close.
    pub fn is_idle(&self) -> bool {
        self.rules.is_empty() && self.open.is_empty() && self.changes.is_empty()
    }

    /// Takes up what was kept, before the first [`Alerts::observe`]. Gives the seq after which the journal is to be judged
    /// again; none: only what comes from now on. What can't be read says nothing. Alerts of rules that are no more are
    /// closed, at `now`.
    pub fn restore(&mut self, kept: Option<&[u8]>, newest_seq: u64, now: Timestamp) -> Option<u64> {
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Kept>(bytes).ok());
        let Some(Kept { ordinal, through, open }) = kept else {
            self.through = newest_seq;
            return None;
        };
        for alert in open {
            if self.rules.iter().any(|r| r.name == alert.rule) {
                self.open.insert(alert.key(), alert);
            } else if let Ok(series) = alert.series.parse() {
                let change = Change {
                    opened: false,
                    at: now.max(alert.since),
                    value: None,
                    expected: None,
                    score: None,
                };
                self.changes.push(alert.row(series, &change));
                self.changed = true;
            }
        }
        self.through = if ordinal == self.ordinal { through } else { newest_seq };
        (ordinal == self.ordinal).then_some(through)
    }

    /// Whether a rule looks for silence.
    pub fn looks_for_silence(&self) -> bool {
        self.rules.iter().any(|r| matches!(r.condition, Condition::Silent { .. }))
    }

    /// Follows a series from now on, whether or not it is heard of: what was silent all the time is silent too.
    pub fn follow(&mut self, entry: &Arc<SeriesEntry>, now: Timestamp) {
        self.place_of(entry, now);
    }

    /// Takes readings that were judged in an earlier life, in the order of their seqs: for what the next ones are compared
    /// with. How far back is for the caller to say; what isn't remembered begins anew.
    pub fn remember(
        &mut self,
        rows: &[Row],
        dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>,
        now: Timestamp,
    ) {
        let rules = Arc::clone(&self.rules);
        for row in rows {
            let Some(place) = self.place_of_key(row.series, dictionary, now) else { continue };
            let Some(followed) = self.followed.get_mut(place) else { continue };
            let before = followed.newest;
            let Some(point) = point_of(row).filter(|p| before.is_none_or(|before| before.ts < p.ts)) else {
                continue;
            };
            for judged in &mut followed.judged {
                if let Some(rule) = rules.get(usize::from(judged.rule)) {
                    judged.standing.remember(&rule.condition, point, before, &mut judged.chart);
                }
            }
            followed.newest = Some(point);
        }
    }

    /// For how long the longest rule wants its condition to hold, microseconds.
    pub fn longest_hold(&self) -> i64 {
        self.rules.iter().map(|r| r.hold).max().unwrap_or(0)
    }

    /// Judges readings that are durable, in the order of their seqs.
    pub fn observe(
        &mut self,
        rows: &[Row],
        dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>,
        now: Timestamp,
    ) {
        if self.rules.is_empty() {
            return;
        }
        let rules = Arc::clone(&self.rules);
        for row in rows {
            self.through = self.through.max(row.seq);
            let Some(place) = self.place_of_key(row.series, dictionary, now) else { continue };
            let Some(followed) = self.followed.get_mut(place) else { continue };
            let heard = row.received_at.min(now);
            followed.last_heard = followed.last_heard.max(heard);
            let before = followed.newest;
            let point = point_of(row).filter(|p| before.is_none_or(|before| before.ts < p.ts));
            let mut changes = Vec::new();
            for judged in &mut followed.judged {
                let Some(rule) = rules.get(usize::from(judged.rule)) else { continue };
                let was = judged.standing;
                let change = match rule.condition {
                    Condition::Silent { .. } => {
                        judged.standing.is_heard(heard, row.value.numeric().filter(|v| v.is_finite()))
                    }
                    _ => point.and_then(|p| {
                        judged.standing.take(&rule.condition, rule.hold, p, before, &mut judged.chart)
                    }),
                };
                let Some(change) = change else { continue };
                if let Some(noted) = self.noted.get_mut(usize::from(judged.rule))
                    && noted.has_room(change.at, OF_A_RULE)
                    && judged.noted.has_room(change.at, OF_A_SERIES)
                {
                    noted.changes += 1;
                    judged.noted.changes += 1;
                    changes.push((judged.rule, change));
                } else {
                    judged.standing = was;
                    self.muted = (self.muted.0 + 1, Some(rule.name.clone()));
                }
            }
            followed.newest = point.or(before);
            let entry = Arc::clone(&followed.entry);
            changes.into_iter().for_each(|(number, change)| self.note(number, &entry, &change));
        }
    }

    /// Looks for silence at `now`, by processing time. `listening`: all brokers are there and nothing is known to wait at
    /// them. Silence counts only from when that began: what nobody could hear wasn't silent.
    pub fn tick(&mut self, now: Timestamp, listening: bool) {
        if !listening {
            self.listening = None;
            return;
        }
        let since = *self.listening.get_or_insert(now);
        let mut changes = Vec::new();
        for followed in &mut self.followed {
            for judged in &mut followed.judged {
                let Some(Condition::Silent { after }) =
                    self.rules.get(usize::from(judged.rule)).map(|rule| rule.condition)
                else {
                    continue;
                };
                let heard = followed.last_heard.max(since);
                if now.since(heard) >= after {
                    let change = judged.standing.is_silent(heard.plus(after));
                    changes.extend(change.map(|change| (judged.rule, Arc::clone(&followed.entry), change)));
                }
            }
        }
        changes.into_iter().for_each(|(number, entry, change)| self.note(number, &entry, &change));
    }

    /// The wall clock stepped by `by` microseconds: how long ago something was heard stays what it was.
    pub fn clock_stepped(&mut self, by: i64) {
        self.listening = self.listening.map(|since| since.plus(by));
        for followed in &mut self.followed {
            followed.last_heard = followed.last_heard.plus(by);
        }
    }

    /// What opened and closed since the last time, to become durable in one transaction with the state beside it. None if
    /// nothing did; with `always`, if not even another reading was judged.
    pub fn take(&mut self, always: bool) -> Option<(Vec<AlertRow>, Vec<u8>)> {
        if !self.changed && !always {
            return None;
        }
        self.changed = false;
        let open = self.open.values().cloned().collect();
        let kept = Kept { ordinal: self.ordinal, through: self.through, open };
        // Texts and numbers: nothing in it can fail to be JSON.
        Some((std::mem::take(&mut self.changes), serde_json::to_vec(&kept).unwrap_or_default()))
    }

    /// The greatest seq that was judged.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// How many changes since the start were too many to be noted, and the rule of the last one.
    pub fn muted(&self) -> Option<(u64, &str)> {
        let (count, rule) = &self.muted;
        rule.as_deref().map(|rule| (*count, rule))
    }

    /// How many alerts are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    fn place_of_key(
        &mut self,
        key: u32,
        dictionary: &dyn Fn(u32) -> Option<Arc<SeriesEntry>>,
        now: Timestamp,
    ) -> Option<usize> {
        if let Some(known) = self.keys.get(&key) {
            return *known;
        }
        let place = self.place_of(&dictionary(key)?, now);
        self.keys.insert(key, place);
        place
    }

    fn place_of(&mut self, entry: &Arc<SeriesEntry>, now: Timestamp) -> Option<usize> {
        let name = (entry.namespace.clone(), entry.id);
        if let Some(place) = self.places.get(&name) {
            return Some(*place);
        }
        let standing = |rule: &AlertRule| {
            let is_open = self.open.contains_key(&key(&rule.name, &entry.namespace, &entry.id.to_string()));
            if is_open { Standing::Open } else { Standing::Calm }
        };
        let numbered = (0u16..).zip(self.rules.iter()).filter(|(_, rule)| entry.is_of(&rule.of));
        let judge = |(number, rule)| Judged {
            rule: number,
            standing: standing(rule),
            chart: Chart::default(),
            noted: Noted::default(),
        };
        let judged: Vec<_> = numbered.map(judge).collect();
        if judged.is_empty() {
            return None;
        }
        self.followed.push(Followed { entry: Arc::clone(entry), newest: None, last_heard: now, judged });
        let place = self.followed.len() - 1;
        self.places.insert(name, place);
        Some(place)
    }

    fn note(&mut self, number: u16, entry: &SeriesEntry, change: &Change) {
        let Some(rule) = self.rules.get(usize::from(number)) else { return };
        let alert = Open {
            rule: rule.name.clone(),
            namespace: entry.namespace.clone(),
            series: entry.id.to_string(),
            device: entry.device.clone(),
            metric: entry.metric.clone(),
            severity: rule.severity.name().to_owned(),
            since: change.at,
        };
        self.changes.push(alert.row(entry.id, change));
        self.changed = true;
        if change.opened {
            self.open.insert(alert.key(), alert);
        } else {
            self.open.remove(&alert.key());
        }
    }
}

/// A reading as it is judged, if its time and value can be believed.
fn point_of(row: &Row) -> Option<Point> {
    let value = row.value.numeric().filter(|v| v.is_finite())?;
    (has_trusted_time(row) && has_trusted_value(row.quality)).then_some(Point { ts: row.ts, value })
}

fn key(rule: &str, namespace: &Namespace, series: &str) -> (String, String, String) {
    (rule.to_owned(), namespace.as_str().to_owned(), series.to_owned())
}

impl Open {
    fn key(&self) -> (String, String, String) {
        key(&self.rule, &self.namespace, &self.series)
    }

    fn row(&self, series: SeriesId, change: &Change) -> AlertRow {
        AlertRow {
            namespace: self.namespace.clone(),
            ts: change.at,
            device: self.device.clone(),
            metric: self.metric.clone(),
            series,
            rule: self.rule.clone(),
            severity: self.severity.clone(),
            open: change.opened,
            value: change.value,
            expected: change.expected,
            score: change.score,
        }
    }
}
