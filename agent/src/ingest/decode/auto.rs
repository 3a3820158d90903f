//! What `auto` makes of a message by itself: which format its payload has, and which names its topic gives.

use super::document::{Bounds, Doc};
use super::{Names, Reject, cbor, csv, json, line, messagepack, senml, wellknown, without_bom};
use crate::ingest::topic::Captures;
use crate::reading::Value;

/// What a payload is.
#[derive(Debug)]
pub enum Sniffed {
    /// A document, whichever format brought it.
    Document(Doc),
    /// A SenML pack.
    Senml(Doc),
    /// Line protocol.
    Lines,
    /// CSV.
    Table,
    /// A single number, truth value or text.
    Single,
}

/// Whether the payload is to be read as JSON: its first byte that is no space opens an object or array.
pub fn is_document(payload: &[u8]) -> bool {
    let first = without_bom(payload).iter().find(|b| !b.is_ascii_whitespace());
    matches!(first, Some(b'{' | b'['))
}

/// Finds out what a payload is. What is surely meant as a format is held to it.
pub fn sniff(payload: &[u8], bounds: Bounds) -> Result<Sniffed, Reject> {
    if is_document(payload) {
        return Ok(document(json::parse(payload, bounds)?));
    }
    let text = std::str::from_utf8(without_bom(payload)).ok();
    let is_text = text
        .is_some_and(|t| !t.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\r' | '\n' | '\u{1b}')));
    if let (true, Some(text)) = (is_text, text) {
        let trimmed = text.trim();
        return Ok(if trimmed.contains('=') && line::looks_like(trimmed) {
            Sniffed::Lines
        } else if trimmed.contains('\n') && csv::looks_like(trimmed) {
            Sniffed::Table
        } else {
            Sniffed::Single
        });
    }
    match binary(payload, bounds) {
        Some(Ok(doc)) => Ok(document(doc)),
        Some(Err(reject)) => Err(reject),
        None => Ok(Sniffed::Single),
    }
}

fn document(doc: Doc) -> Sniffed {
    if senml::is_pack(&doc) { Sniffed::Senml(doc) } else { Sniffed::Document(doc) }
}

/// Bytes as CBOR or MessagePack, if they begin as a map or array of one of them: the one that reads them to the end, of
/// two that do the one that finds a map with names. Where none does, what CBOR says.
fn binary(payload: &[u8], bounds: Bounds) -> Option<Result<Doc, Reject>> {
    let first = *payload.first()?;
    let as_cbor = matches!(first, 0x80..=0xdb).then(|| cbor::parse(payload, bounds));
    let as_pack = matches!(first, 0x80..=0x9f | 0xdc..=0xdf).then(|| messagepack::parse(payload, bounds));
    let is_map = |doc: &Doc| doc.members().is_some_and(|m| !m.is_empty());
    let has_parts = |doc: &Doc| matches!(doc, Doc::Array(_) | Doc::Object(_));
    match (as_cbor, as_pack) {
        (Some(Ok(a)), Some(Ok(b))) => Some(Ok(if is_map(&b) && !is_map(&a) { b } else { a })),
        (_, Some(Ok(b))) if has_parts(&b) => Some(Ok(b)),
        (Some(Ok(a)), _) if has_parts(&a) => Some(Ok(a)),
        (Some(Err(a)), _) => Some(Err(a)),
        (_, Some(Err(b))) => Some(Err(b)),
        _ => None,
    }
}

/// Whether a document is a single value with what tells about it: its topic names it as it would a bare value.
pub fn is_single(doc: &Doc) -> bool {
    let Some(members) = doc.members() else { return matches!(doc, Doc::Scalar(_)) };
    let scalar = |doc: &Doc| matches!(doc, Doc::Scalar(_));
    let texts = |doc: &Doc| matches!(doc, Doc::Scalar(Value::Text(_)));
    members.iter().any(|(key, doc)| wellknown::is_value(key) && scalar(doc))
        && members.iter().all(|(key, doc)| {
            wellknown::is_value(key)
                || wellknown::is_time(key)
                || wellknown::is_quality(key)
                || wellknown::is_kind(key) && !texts(doc)
                || wellknown::is_unit(key)
        })
}

/// Adds names from the topic, used where neither named levels nor the payload say more.
///
/// A document's leaves name their metrics, so its whole topic is the device, unless the document names one. For a single
/// value the last level is the metric and the levels before it the device; with one level alone, that is the device and
/// the metric is `value`.
pub(super) fn name(topic: &str, captures: &Captures<'_>, names: Names, single: bool) -> Names {
    let last = topic.rsplit('/').next().unwrap_or(topic);
    let ahead = topic.rsplit_once('/').map(|(ahead, _)| ahead).filter(|ahead| !ahead.is_empty());
    let (device, metric) = if single {
        match (captures.device, captures.metric, ahead) {
            // The last level already says the device, or there is only one.
            (Some(device), None, _) if device == last => (topic, "value"),
            (_, _, None) => (topic, "value"),
            (None, Some(metric), Some(_)) if metric != last => (topic, last),
            (_, _, Some(ahead)) => (ahead, last),
        }
    } else {
        (topic, "value")
    };
    let trimmed = device.trim_matches('/');
    Names {
        by_topic: Some(("topic".into(), if trimmed.is_empty() { device } else { trimmed }.into())),
        fallback_metric: Some(if metric.is_empty() { "value" } else { metric }.into()),
        ..names
    }
}
