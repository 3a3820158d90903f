//! SenML packs (RFC 8428), JSON or CBOR, resolved: base fields added, relative times placed.
//!
//! A name is split into device and metric: where a base name and a name stand, they are device and metric; a name alone
//! that is a device URN (RFC 9039) is the device, what follows in it the metric; any other name is the metric of the
//! topic's device.

use std::collections::BTreeMap;

use tributary_contract::quality::Quality;
use tributary_contract::reject::RejectReason;
use tributary_contract::series::Tags;
use tributary_contract::time::Timestamp;

use super::document::Doc;
use super::{Found, Names, Reject, bounded, time};
use crate::config::Limits;
use crate::reading::Value;

/// JSON labels with their CBOR numbers.
const LABELS: [(&str, &str); 15] = [
    ("bver", "-1"),
    ("bn", "-2"),
    ("bt", "-3"),
    ("bu", "-4"),
    ("bv", "-5"),
    ("bs", "-6"),
    ("n", "0"),
    ("u", "1"),
    ("v", "2"),
    ("vs", "3"),
    ("vb", "4"),
    ("s", "5"),
    ("t", "6"),
    ("ut", "7"),
    ("vd", "8"),
];

/// The newest version that is read.
const VERSION: f64 = 10.0;

/// Times below are relative to now, RFC 8428 section 4.5.3.
const ABSOLUTE: f64 = 268_435_456.0;

/// Whether a document is surely a pack: records of nothing but SenML's labels, of which one has a name and one a value.
pub fn is_pack(doc: &Doc) -> bool {
    let Doc::Array(records) = doc else { return false };
    let all: Option<Vec<&BTreeMap<String, Doc>>> = records.iter().map(Doc::members).collect();
    let Some(records) = all else { return false };
    let known =
        |key: &String| key.ends_with('_') || LABELS.iter().any(|(json, cbor)| key == json || key == cbor);
    let has = |labels: &[&str]| records.iter().any(|r| labels.iter().any(|label| field(r, label).is_some()));
    records.iter().all(|r| !r.is_empty() && r.keys().all(known))
        && has(&["n", "bn"])
        && has(&["v", "vs", "vb", "vd", "s"])
}

fn field<'d>(record: &'d BTreeMap<String, Doc>, label: &str) -> Option<&'d Doc> {
    let (json, cbor) = LABELS.iter().find(|(json, _)| *json == label)?;
    record.get(*json).or_else(|| record.get(*cbor))
}

#[derive(Default)]
struct Base {
    name: String,
    time: f64,
    unit: Option<String>,
    value: f64,
    sum: Option<f64>,
}

/// Reads a pack that came at `received_at`.
pub(super) fn read(
    doc: &Doc,
    names: &Names,
    received_at: Timestamp,
    limits: &Limits,
) -> Result<Vec<Found>, Reject> {
    let Doc::Array(records) = doc else {
        return Err(malformed(format!("expected an array of records, got {}", doc.shown())));
    };
    let (mut base, mut found) = (Base::default(), Vec::new());
    for record in records {
        let Doc::Object(record) = record else {
            return Err(malformed(format!("expected a record, got {}", record.shown())));
        };
        if let Some(key) = record.keys().find(|key| key.ends_with('_')) {
            return Err(malformed(format!("field {key:?} must be understood, and isn't")));
        }
        rebase(&mut base, record)?;
        let name = base.name.clone() + text(record, "n")?.as_deref().unwrap_or("");
        let (device, metric) =
            split(&name, text(record, "n")?.is_some_and(|n| !n.is_empty()), &base.name, names);
        let at = base.time + number(record, "t")?.unwrap_or(0.0);
        let ts = placed(at, received_at)?;
        let unit = text(record, "u")?.or_else(|| base.unit.clone());
        for (value, suffix) in values(record, &base)? {
            if found.len() >= limits.readings {
                let detail = format!("more than {} readings in one message", limits.readings);
                return Err(Reject::new(RejectReason::TooManyReadings, detail));
            }
            if let Value::Text(text) = &value {
                bounded("value", text.clone(), limits)?;
            }
            found.push(Found {
                ts,
                device: device.clone(),
                metric: Some(format!("{metric}{suffix}")),
                tags: Tags::new(),
                row_tags: Tags::new(),
                value,
                unit: unit.clone(),
                quality: Quality::GOOD,
            });
        }
    }
    Ok(found)
}

fn rebase(base: &mut Base, record: &BTreeMap<String, Doc>) -> Result<(), Reject> {
    if number(record, "bver")?.is_some_and(|version| version > VERSION) {
        return Err(malformed("a version after 10".into()));
    }
    if let Some(name) = text(record, "bn")? {
        base.name = name;
    }
    base.time = number(record, "bt")?.unwrap_or(base.time);
    base.unit = text(record, "bu")?.or_else(|| base.unit.take());
    base.value = number(record, "bv")?.unwrap_or(base.value);
    base.sum = number(record, "bs")?.or(base.sum);
    Ok(())
}

/// The values of a record, each with what is added to the metric's name.
fn values(record: &BTreeMap<String, Doc>, base: &Base) -> Result<Vec<(Value, &'static str)>, Reject> {
    let mut values = Vec::new();
    match field(record, "v") {
        None => {}
        // Exact where nothing is added.
        Some(Doc::Scalar(value @ (Value::Int(_) | Value::Float(_) | Value::Great(_))))
            if base.value == 0.0 =>
        {
            values.push((value.clone(), ""));
        }
        Some(_) => values.push((sum(number(record, "v")?.unwrap_or(0.0), base.value)?, "")),
    }
    if let Some(text) = text(record, "vs")? {
        values.push((Value::Text(text), ""));
    }
    if let Some(data) = data(record)? {
        values.push((Value::Text(data), ""));
    }
    match field(record, "vb") {
        None => {}
        Some(Doc::Scalar(value @ Value::Bool(_))) => values.push((value.clone(), "")),
        Some(other) => return Err(wrong("vb", "a truth value", other)),
    }
    // Where only one of sum and base sum stands, the other is nothing.
    match (number(record, "s")?, base.sum) {
        (Some(own), base) => values.push((sum(own, base.unwrap_or(0.0))?, ".sum")),
        (None, Some(base)) if !values.is_empty() => values.push((sum(0.0, base)?, ".sum")),
        (None, _) => {}
    }
    Ok(values)
}

/// A data value as JSON packs carry it: in base64 for URLs, without padding. In CBOR it is bytes, which are read as their
/// hex digits, or as nothing where they are too many to be a reading.
fn data(record: &BTreeMap<String, Doc>) -> Result<Option<String>, Reject> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    if record.contains_key("vd") {
        return text(record, "vd");
    }
    if matches!(field(record, "vd"), Some(Doc::Null)) {
        return Ok(None);
    }
    let Some(digits) = text(record, "vd")? else { return Ok(None) };
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    Ok(Some(bytes.map_or(digits, |bytes| URL_SAFE_NO_PAD.encode(bytes))))
}

fn sum(a: f64, b: f64) -> Result<Value, Reject> {
    let sum = a + b;
    if !sum.is_finite() {
        return Err(malformed("a value beyond all numbers".into()));
    }
    // Whole numbers stay whole where a double holds them exactly.
    if sum.fract() == 0.0 && sum.abs() < 9e15 { Ok(Value::Int(sum as i64)) } else { Ok(Value::Float(sum)) }
}

fn placed(at: f64, received_at: Timestamp) -> Result<Option<Timestamp>, Reject> {
    if at == 0.0 {
        return Ok(None);
    }
    let absolute = if at < ABSOLUTE { received_at.micros() as f64 / 1e6 + at } else { at };
    match time::from_fraction(absolute, Some(crate::config::TimeUnit::Seconds)) {
        Some(ts) => Ok(Some(ts)),
        None => Err(Reject::new(
            RejectReason::BadTime,
            format!("{at} seconds is no time within the years 0000 to 9999"),
        )),
    }
}

/// Device and metric of a resolved name.
fn split(name: &str, has_own: bool, base: &str, names: &Names) -> (Option<String>, String) {
    let marks = [':', '/', '.', '-', '_', ' '];
    let said = |metric: &str| {
        let metric = metric.trim_start_matches(marks);
        if metric.is_empty() { names.metric.clone().unwrap_or_else(|| "value".into()) } else { metric.into() }
    };
    let topic = || names.by_topic.as_ref().map(|(_, topic)| topic.clone());
    if names.device.is_some() {
        let metric = if has_own { name.strip_prefix(base).unwrap_or(name) } else { "" };
        return (names.device.clone(), said(metric));
    }
    let base = base.trim_end_matches(marks);
    if !base.is_empty() {
        return (Some(base.into()), said(name.get(base.len()..).unwrap_or("")));
    }
    if name.starts_with("urn:dev:") {
        // urn:dev:KIND:ADDRESS, then perhaps `:` or `_` and a component.
        let address = name.match_indices(':').nth(2).map_or(name.len(), |(at, _)| at + 1);
        let rest = name.get(address..).unwrap_or("");
        let end = rest.find([':', '_', '/']).map_or(name.len(), |at| address + at);
        return (name.get(..end).map(Into::into), said(name.get(end..).unwrap_or("")));
    }
    (topic(), said(name))
}

fn text(record: &BTreeMap<String, Doc>, label: &str) -> Result<Option<String>, Reject> {
    match field(record, label) {
        None => Ok(None),
        Some(Doc::Scalar(Value::Text(text))) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(label, "a text", other)),
    }
}

fn number(record: &BTreeMap<String, Doc>, label: &str) -> Result<Option<f64>, Reject> {
    match field(record, label) {
        None => Ok(None),
        Some(Doc::Scalar(value @ (Value::Int(_) | Value::Float(_) | Value::Great(_)))) => Ok(value.numeric()),
        Some(other) => Err(wrong(label, "a number", other)),
    }
}

fn wrong(label: &str, expected: &str, got: &Doc) -> Reject {
    malformed(format!("{label}: expected {expected}, got {}", got.shown()))
}

fn malformed(detail: String) -> Reject {
    Reject::new(RejectReason::Malformed, format!("not SenML: {detail}"))
}

#[cfg(test)]
mod tests;
