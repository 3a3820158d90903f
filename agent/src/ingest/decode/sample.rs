//! Samples of the configuration: payloads that must become what is written beside them.

use tributary_contract::time::Timestamp;

use super::document::Doc;
use super::{Decoded, Decoders, Reject, time};
use crate::config::Source;
use crate::config::decoding::{Expect, ExpectedReading, Sample};
use crate::reading::{Reading, Value};

/// What is wrong with each sample of source `source` (by position), in their order; one decoder state throughout.
pub fn faults(decoders: &mut Decoders, at: usize, source: &Source, now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, sample) in (1..).zip(&source.decoding.samples) {
        let outcome = match decoders.source_of(&sample.topic) {
            None => Err(format!("no source takes topic {:?}", sample.topic)),
            Some(other) if other != at => Err(format!("an earlier source takes topic {:?}", sample.topic)),
            Some(_) => judge(sample, decoders.decode(at, &sample.topic, &sample.payload, now, false)),
        };
        if let Err(fault) = outcome {
            faults.push(format!("source {:?}, sample {number} ({}): {fault}", source.name, sample.topic));
        }
    }
    faults
}

fn judge(sample: &Sample, outcome: Result<Decoded, Reject>) -> Result<(), String> {
    match (&sample.expect, outcome) {
        (Expect::Reject(None), Err(_)) => Ok(()),
        (Expect::Reject(Some(reason)), Err(reject)) if reject.reason == *reason => Ok(()),
        (Expect::Reject(Some(reason)), Err(reject)) => {
            Err(format!("expected a reject {reason}, got {}: {}", reject.reason, reject.detail))
        }
        (Expect::Reject(_), Ok(decoded)) => {
            Err(format!("expected a reject, got {}", shown(&decoded.readings)))
        }
        (Expect::Readings(_), Err(reject)) => Err(format!("rejected, {}: {}", reject.reason, reject.detail)),
        (Expect::Readings(expected), Ok(decoded)) => {
            let missing = expected.iter().find(|e| !decoded.readings.iter().any(|r| agrees(e, r)));
            match missing {
                None => Ok(()),
                Some(missing) => {
                    Err(format!("expected {}, got {}", wanted(missing), shown(&decoded.readings)))
                }
            }
        }
    }
}

fn agrees(expected: &ExpectedReading, reading: &Reading) -> bool {
    let same = |wanted: &Option<String>, got: &str| wanted.as_deref().is_none_or(|w| w == got);
    same(&expected.device, &reading.device)
        && same(&expected.metric, &reading.metric)
        && expected.unit.as_deref().is_none_or(|unit| reading.unit.as_deref() == Some(unit))
        && expected.value.as_deref().is_none_or(|value| same_value(value, &reading.value))
        && expected
            .ts
            .as_deref()
            .is_none_or(|ts| time::configured(&Doc::text(ts), None).is_ok_and(|ts| ts == reading.ts))
}

fn same_value(expected: &str, value: &Value) -> bool {
    match value {
        Value::Float(f) => expected.parse() == Ok(*f),
        other => expected == other.to_string(),
    }
}

fn wanted(e: &ExpectedReading) -> String {
    let said =
        [("device", &e.device), ("metric", &e.metric), ("value", &e.value), ("ts", &e.ts), ("unit", &e.unit)];
    let each = said.into_iter().filter_map(|(key, text)| Some(format!("{key} {}", text.as_deref()?)));
    each.collect::<Vec<_>>().join(", ")
}

/// The first readings, for people.
fn shown(readings: &[Reading]) -> String {
    let one = |r: &Reading| {
        let unit = r.unit.as_deref().map(|u| format!(" {u}")).unwrap_or_default();
        format!("{} {} = {}{unit}", r.device, r.metric, super::shown(&r.value.to_string()))
    };
    let first = readings.iter().take(8).map(one).collect::<Vec<_>>().join("; ");
    match readings.len() {
        0 => "no reading".into(),
        n if n > 8 => format!("{first}; and {} more", n - 8),
        _ => first,
    }
}
