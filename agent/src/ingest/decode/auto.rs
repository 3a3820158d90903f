//! What `auto` makes of a message by itself: whether it is a document, and which names its topic gives.

use super::Names;
use crate::ingest::topic::Captures;

/// Whether the payload is to be read as JSON: its first byte that is no space opens an object or array.
pub fn is_document(payload: &[u8]) -> bool {
    let first = super::without_bom(payload).iter().find(|b| !b.is_ascii_whitespace());
    matches!(first, Some(b'{' | b'['))
}

/// Adds names from the topic, used where neither named levels nor the payload say more.
///
/// A document's leaves name their metrics, so its whole topic is the device, unless the document names one. For a single value the last level is the
/// metric and the levels before it the device; with one level alone, that is the device and the metric is `value`.
pub(super) fn name(topic: &str, captures: &Captures<'_>, names: Names, payload: &[u8]) -> Names {
    let last = topic.rsplit('/').next().unwrap_or(topic);
    let ahead = topic.rsplit_once('/').map(|(ahead, _)| ahead).filter(|ahead| !ahead.is_empty());
    let (device, metric) = if is_document(payload) {
        (topic, "value")
    } else {
        match (captures.device, captures.metric, ahead) {
            // The last level already says the device, or there is only one.
            (Some(device), None, _) if device == last => (topic, "value"),
            (_, _, None) => (topic, "value"),
            (None, Some(metric), Some(_)) if metric != last => (topic, last),
            (_, _, Some(ahead)) => (ahead, last),
        }
    };
    let trimmed = device.trim_matches('/');
    Names {
        fallback_device: Some(if trimmed.is_empty() { device } else { trimmed }.into()),
        fallback_metric: Some(if metric.is_empty() { "value" } else { metric }.into()),
        ..names
    }
}
