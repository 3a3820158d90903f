//! Sparkplug B (specification 3.0): births name metrics and give aliases, data uses them, deaths make values stale.
//!
//! Topics are `spBv1.0/GROUP/TYPE/NODE[/DEVICE]`. A reading's device is the Sparkplug device, or the node for the node's
//! own metrics; group and node are tags. After a gap in the sequence numbers, or data that no birth explains, the node is
//! asked to be born again; until it is, what only an alias names is marked `device`: the alias may mean something else by
//! now. A death repeats each value that the birth named, marked `device`, and says `online` false.
//!
//! What is known is bounded by the limit on series. Births survive a restart ([`Sparkplug::export`]); values and sequence
//! numbers don't, and each node is then asked for its birth when it is first heard.

mod value;
mod wire;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::reject::RejectReason;
use tributary_contract::series::Tags;
use tributary_contract::time::Timestamp;

use self::wire::{Metric, Payload, Raw};
use super::document::Bounds;
use super::{Found, Outgoing, Reject, bounded, json, time, value as scalar};
use crate::config::{Limits, MINUTE, TimeUnit};
use crate::reading::Value;

/// The first level of its topics.
pub const ROOT: &str = "spBv1.0";
/// A node isn't asked again within this time, microseconds.
const PATIENCE: i64 = MINUTE;
/// Texts up to this length are remembered, to be repeated at a death.
const REMEMBERED_TEXT: usize = 64;
/// Nodes that wait to be asked.
const MOST_OUTGOING: usize = 256;
/// A quality of 192 is good, also in the form of OPC.
const GOOD: u64 = 192;

/// What is known of all nodes.
#[derive(Debug, Clone, Default)]
pub struct Sparkplug {
    nodes: HashMap<String, Node>,
    /// Metrics of all nodes.
    size: usize,
    changed: bool,
    outgoing: Vec<Outgoing>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Node {
    bd_seq: Option<u64>,
    born: Option<u64>,
    aliases: HashMap<u64, (String, String)>,
    /// By device; the node's own under the empty name.
    things: BTreeMap<String, Thing>,
    #[serde(skip)]
    seq: Option<u64>,
    /// Whether an alias may mean something else by now.
    #[serde(skip, default = "yes")]
    unsure: bool,
    #[serde(skip)]
    asked: Option<Timestamp>,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Thing {
    metrics: BTreeMap<String, Known>,
    #[serde(skip)]
    alive: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Known {
    datatype: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    unit: Option<String>,
    #[serde(skip)]
    last: Option<Value>,
}

/// One message's place.
struct Address<'t> {
    root: &'t str,
    group: &'t str,
    node: &'t str,
    /// Empty for the node itself.
    device: &'t str,
}

impl Address<'_> {
    fn key(&self) -> String {
        format!("{}/{}/{}", self.root, self.group, self.node)
    }
}

/// Whether a topic is one of Sparkplug's.
pub fn is_topic(topic: &str) -> bool {
    topic.split('/').next() == Some(ROOT) || (topic.starts_with("STATE/") && topic.matches('/').count() == 1)
}

/// Whether messages of a topic hold no readings by their kind: commands, and deaths of earlier sessions.
pub fn holds_none(topic: &str) -> bool {
    topic.split('/').any(|level| matches!(level, "NCMD" | "DCMD" | "NDEATH"))
}

impl Sparkplug {
    /// Reads one message; `ask` says whether nodes may be asked for their birth. No readings are no fault of a command.
    pub(super) fn read(
        &mut self,
        topic: &str,
        payload: &[u8],
        received_at: Timestamp,
        ask: bool,
        limits: &Limits,
    ) -> Result<Vec<Found>, Reject> {
        let bad = || Reject::new(RejectReason::BadTopic, "expected a topic spBv1.0/GROUP/TYPE/NODE[/DEVICE]");
        let start = topic.find(&format!("{ROOT}/")).map(|at| at + ROOT.len());
        let Some((root, rest)) = start.and_then(|at| Some((topic.get(..at)?, topic.get(at + 1..)?))) else {
            return match topic.strip_prefix("STATE/") {
                Some(host) => state(host, payload, limits),
                None => Err(bad()),
            };
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let (group, kind, node, device) = match parts[..] {
            ["STATE", host] => return state(host, payload, limits),
            [group, kind, node] => (group, kind, node, ""),
            [group, kind, node, device] => (group, kind, node, device),
            _ => return Err(bad()),
        };
        for (what, text) in [("group", group), ("node", node), ("device", device)] {
            bounded(what, text.into(), limits)?;
        }
        let address = Address { root, group, node, device };
        let has_device = match kind {
            "NCMD" | "DCMD" => return Ok(Vec::new()),
            "NBIRTH" | "NDATA" | "NDEATH" => false,
            "DBIRTH" | "DDATA" | "DDEATH" => true,
            _ => return Err(bad()),
        };
        if has_device == device.is_empty() || group.is_empty() || node.is_empty() {
            return Err(bad());
        }
        let read = wire::read(payload, limits.readings.saturating_mul(4))?;
        if read.uuid.as_deref() == Some("SPBV1.0_COMPRESSED") {
            return Err(Reject::new(
                RejectReason::Malformed,
                "a compressed Sparkplug payload: not read; turn it off",
            ));
        }
        match kind {
            "NBIRTH" | "DBIRTH" => self.birth(&address, &read, ask, received_at, limits),
            "NDATA" | "DDATA" => self.data(&address, &read, ask, received_at, limits),
            _ => self.death(&address, &read, received_at, limits),
        }
    }

    /// Commands for nodes that have come up since the last call.
    pub(super) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// The births to be kept over a restart, if they have changed since the last call.
    pub fn export(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        serde_json::to_vec(&self.nodes).ok()
    }

    /// Takes up what [`Sparkplug::export`] gave; what can't be read is asked for again.
    pub fn restore(&mut self, kept: &[u8]) {
        if let Ok(nodes) = serde_json::from_slice::<HashMap<String, Node>>(kept) {
            self.size = nodes.values().map(Node::size).sum();
            self.nodes = nodes;
        }
    }

    fn birth(
        &mut self,
        at: &Address<'_>,
        payload: &Payload,
        ask: bool,
        received_at: Timestamp,
        limits: &Limits,
    ) -> Result<Vec<Found>, Reject> {
        let key = at.key();
        let whole = at.device.is_empty();
        let bd_seq = payload.metrics.iter().find(|m| m.name.as_deref() == Some("bdSeq")).and_then(number);
        let before = self.nodes.get(&key);
        let known = before
            .map_or(0, |n| if whole { n.size() } else { n.things.get(at.device).map_or(0, Thing::size) });
        let fresh =
            2 + payload.metrics.iter().map(|m| weight(m.name.as_deref().unwrap_or(""))).sum::<usize>();
        if self.size - known.min(self.size) + fresh > limits.series {
            let detail = format!("Sparkplug births name more than {} metrics", limits.series);
            return Err(Reject::new(RejectReason::TooManySeries, detail));
        }
        // A copy of the birth that counts already must not end the devices born after it.
        let copy = whole
            && before.is_some_and(|n| n.born == payload.timestamp && n.bd_seq == bd_seq && n.born.is_some());
        let node = self.nodes.entry(key.clone()).or_default();
        if whole && !copy {
            *node = Node { bd_seq, born: payload.timestamp, seq: payload.seq, ..Node::default() };
        }
        let mut gap = !whole && !node.follows(payload.seq);
        gap |= !whole && node.born.is_none();
        node.aliases.retain(|_, (device, _)| device != at.device);
        let mut thing = Thing { alive: true, ..Thing::default() };
        for metric in &payload.metrics {
            let Some(name) = &metric.name else { continue };
            bounded("metric", name.clone(), limits)?;
            if let Some(alias) = metric.alias {
                node.aliases.insert(alias, (at.device.into(), name.clone()));
            }
            let known =
                Known { datatype: metric.datatype.unwrap_or(0), unit: metric.unit.clone(), last: None };
            thing.metrics.insert(name.clone(), known);
        }
        node.things.insert(at.device.into(), thing);
        if whole {
            node.unsure = false;
            node.asked = None;
        }
        self.size = self.nodes.values().map(Node::size).sum();
        self.changed = true;
        if gap {
            self.ask(at, ask, received_at);
        }
        let mut found = self.readings(at, payload, limits)?;
        found.push(online(at, true, payload.timestamp, received_at));
        Ok(found)
    }

    fn data(
        &mut self,
        at: &Address<'_>,
        payload: &Payload,
        ask: bool,
        received_at: Timestamp,
        limits: &Limits,
    ) -> Result<Vec<Found>, Reject> {
        let born = match self.nodes.get_mut(&at.key()) {
            Some(node) => {
                let follows = node.follows(payload.seq);
                node.unsure |= !follows && ask;
                follows && !node.unsure && node.things.get(at.device).is_some_and(|thing| thing.alive)
            }
            None => false,
        };
        if !born {
            self.ask(at, ask, received_at);
        }
        let found = self.readings(at, payload, limits);
        if matches!(&found, Err(reject) if reject.reason == RejectReason::NoName) {
            self.ask(at, ask, received_at);
        }
        found
    }

    /// Readings of all metrics that have a value; what they are called and of which type is known by now.
    fn readings(
        &mut self,
        at: &Address<'_>,
        payload: &Payload,
        limits: &Limits,
    ) -> Result<Vec<Found>, Reject> {
        let mut node = self.nodes.get_mut(&at.key());
        let mut found = Vec::new();
        for metric in &payload.metrics {
            let by_alias = metric.alias.and_then(|alias| node.as_ref()?.aliases.get(&alias).cloned());
            let (device, name, sure) = match (&metric.name, by_alias) {
                (Some(name), _) if !name.is_empty() => (at.device.to_owned(), name.clone(), true),
                (_, Some((device, name))) => (device, name, node.as_ref().is_none_or(|n| !n.unsure)),
                (_, None) => {
                    let detail = match metric.alias {
                        Some(alias) => format!("no birth names the metric with alias {alias}"),
                        None => "a metric without name and alias".into(),
                    };
                    return Err(Reject::new(RejectReason::NoName, detail));
                }
            };
            if metric.is_null || is_housekeeping(&name) {
                continue;
            }
            let known = node.as_mut().and_then(|n| n.things.get_mut(&device)?.metrics.get_mut(&name));
            let datatype = metric.datatype.or(known.as_ref().map(|k| k.datatype)).unwrap_or(0);
            let unit = metric.unit.clone().or_else(|| known.as_ref().and_then(|k| k.unit.clone()));
            let mut quality = Quality::GOOD;
            if !sure || metric.quality.is_some_and(|q| q & 0xff != GOOD) {
                quality = quality.with(Doubt::Device);
            }
            let values = value::of(&name, datatype, &metric.value, limits.readings)?;
            if let ([(_, value)], Some(known)) = (&values[..], known) {
                known.last = remembered(value);
            }
            let ts = stamp(metric.timestamp.or(payload.timestamp))?;
            for (metric, value) in values {
                if found.len() >= limits.readings {
                    let detail = format!("more than {} readings in one message", limits.readings);
                    return Err(Reject::new(RejectReason::TooManyReadings, detail));
                }
                let (value, cut) = super::extract::held(value, limits);
                found.push(Found {
                    unit: unit.clone(),
                    ..one(at, &device, metric, value, ts, quality.or(cut))
                });
            }
        }
        Ok(found)
    }

    fn death(
        &mut self,
        at: &Address<'_>,
        payload: &Payload,
        received_at: Timestamp,
        limits: &Limits,
    ) -> Result<Vec<Found>, Reject> {
        let whole = at.device.is_empty();
        // The node's death was written when it connected: its own time says nothing.
        let ts = if whole { None } else { stamp(payload.timestamp)? };
        let mut found = Vec::new();
        if let Some(node) = self.nodes.get_mut(&at.key()) {
            let bd_seq = payload.metrics.iter().find(|m| m.name.as_deref() == Some("bdSeq")).and_then(number);
            if whole && node.bd_seq.is_some() && bd_seq.is_some() && node.bd_seq != bd_seq {
                // The will of an earlier session; the node has been born again since.
                return Ok(Vec::new());
            }
            if !whole {
                node.follows(payload.seq);
            }
            let dead = node.things.iter_mut().filter(|(device, _)| whole || *device == at.device);
            for (device, thing) in dead {
                thing.alive = false;
                for (name, known) in &mut thing.metrics {
                    let Some(last) = known.last.take() else { continue };
                    if found.len() + 1 >= limits.readings {
                        break;
                    }
                    let stale = Quality::GOOD.with(Doubt::Device);
                    let repeated = one(at, device, name.clone(), last, ts, stale);
                    found.push(Found { unit: known.unit.clone(), ..repeated });
                }
            }
        }
        found.push(Found { ts, ..online(at, false, None, received_at) });
        Ok(found)
    }

    fn ask(&mut self, at: &Address<'_>, ask: bool, now: Timestamp) {
        if !ask || self.outgoing.len() >= MOST_OUTGOING {
            return;
        }
        let key = at.key();
        if !self.nodes.contains_key(&key) && self.nodes.len() >= MOST_OUTGOING * 16 {
            return;
        }
        let node = self.nodes.entry(key).or_insert_with(|| Node { unsure: true, ..Node::default() });
        if node.asked.is_some_and(|asked| (0..PATIENCE).contains(&now.since(asked))) {
            return;
        }
        node.asked = Some(now);
        let millis = u64::try_from(now.micros() / 1000).unwrap_or(0);
        self.outgoing.push(Outgoing {
            topic: format!("{}/{}/NCMD/{}", at.root, at.group, at.node),
            payload: wire::rebirth(millis),
        });
    }
}

impl Node {
    /// In metrics; long names count as more.
    fn size(&self) -> usize {
        1 + self.things.values().map(Thing::size).sum::<usize>()
    }

    /// Whether `seq` is the next number, or the last one again; takes note of it.
    fn follows(&mut self, seq: Option<u64>) -> bool {
        let Some(seq) = seq else { return true };
        let before = self.seq.replace(seq);
        before.is_none_or(|before| seq == before || seq == (before + 1) % 256)
    }
}

impl Thing {
    fn size(&self) -> usize {
        1 + self.metrics.keys().map(|name| weight(name)).sum::<usize>()
    }
}

fn weight(name: &str) -> usize {
    1 + name.len() / 64
}

/// What serves the protocol and is no measurement.
fn is_housekeeping(name: &str) -> bool {
    name == "bdSeq" || name.starts_with("Node Control/") || name.starts_with("Device Control/")
}

fn number(metric: &Metric) -> Option<u64> {
    match metric.value {
        Raw::Int(n) | Raw::Long(n) => Some(n),
        _ => None,
    }
}

fn remembered(value: &Value) -> Option<Value> {
    match value {
        Value::Text(text) if text.len() > REMEMBERED_TEXT => None,
        other => Some(other.clone()),
    }
}

fn stamp(millis: Option<u64>) -> Result<Option<Timestamp>, Reject> {
    let Some(millis) = millis else { return Ok(None) };
    let doc = super::document::Doc::Scalar(Value::of_unsigned(millis));
    time::configured(&doc, Some(TimeUnit::Millis))
        .map(Some)
        .map_err(|detail| Reject::new(RejectReason::BadTime, detail))
}

fn one(
    at: &Address<'_>,
    device: &str,
    metric: String,
    value: Value,
    ts: Option<Timestamp>,
    quality: Quality,
) -> Found {
    let mut tags = Tags::from([("group".into(), at.group.into())]);
    if !device.is_empty() {
        tags.insert("node".into(), at.node.into());
    }
    let device = if device.is_empty() { at.node } else { device };
    Found {
        ts,
        device: Some(device.into()),
        metric: Some(metric),
        tags,
        row_tags: Tags::new(),
        value,
        unit: None,
        quality,
    }
}

fn online(at: &Address<'_>, online: bool, millis: Option<u64>, received_at: Timestamp) -> Found {
    let ts = stamp(millis).ok().flatten().filter(|ts| ts.since(received_at) <= 0);
    one(at, at.device, "online".into(), Value::Bool(online), ts, Quality::GOOD)
}

/// The state of a host application: JSON since version 3, a word before.
fn state(host: &str, payload: &[u8], limits: &Limits) -> Result<Vec<Found>, Reject> {
    let bounds = Bounds { depth: 4, values: 64 };
    let (value, ts) = match json::parse(payload, bounds) {
        Ok(doc) => {
            let online = match doc.get("online") {
                Some(super::document::Doc::Scalar(value)) => value.clone(),
                _ => {
                    return Err(Reject::new(RejectReason::MissingField, "expected {\"online\": …} as state"));
                }
            };
            (online, doc.get("timestamp").and_then(|t| time::configured(t, Some(TimeUnit::Millis)).ok()))
        }
        Err(_) => match scalar::decode(payload, limits.text)? {
            Value::Text(word) if word == "ONLINE" || word == "OFFLINE" => {
                (Value::Bool(word == "ONLINE"), None)
            }
            other => (other, None),
        },
    };
    Ok(vec![Found {
        ts,
        device: Some(host.into()),
        metric: Some("online".into()),
        tags: Tags::new(),
        row_tags: Tags::new(),
        value,
        unit: None,
        quality: Quality::GOOD,
    }])
}
