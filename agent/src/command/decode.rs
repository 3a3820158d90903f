//! `decode`: what payloads would become, without a broker and without a buffer.

use base64::Engine as _;
use serde_json::{Value as Json, json};
use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use super::Said;
use crate::config::Config;
use crate::ingest::decode::{Decoded, Decoders, Reject};
use crate::reading::{Reading, Value};

/// One payload: each reading a line of JSON with the columns of the table `readings`.
pub fn one(config: &Config, source: Option<&str>, topic: &str, payload: &[u8], now: Timestamp) -> Said {
    let (mut decoders, at) = match prepare(config, source) {
        Ok(prepared) => prepared,
        Err(note) => return failed(note),
    };
    let Some(at) = at.or_else(|| decoders.source_of(topic)) else {
        return failed(format!("no source takes topic {topic:?}; name one with --source"));
    };
    let name = config.sources.get(at).map_or("", |s| s.name.as_str());
    let mut said = Said::default();
    match decoders.decode(at, topic, payload, now, false) {
        Ok(Decoded { readings, .. }) => {
            for reading in &readings {
                said.data += &format!("{}\n", columns(reading, name, now));
            }
            if readings.is_empty() {
                said.notes.push("no readings: messages of this kind hold none".into());
            }
        }
        Err(Reject { reason, detail }) => {
            said.failed = true;
            said.notes.push(format!("rejected, {reason}: {detail}"));
        }
    }
    let asked = decoders.take_outgoing().into_iter();
    said.notes.extend(asked.map(|m| format!("would publish to {:?}, to ask for what is missing", m.topic)));
    said
}

/// A session: lines `{"topic": …, "payload": … or "payload_base64": …, "retain": …}` in order, one decoder state
/// throughout. Each line becomes one: its number, topic, and its readings or why it was rejected.
pub fn session(config: &Config, source: Option<&str>, lines: &str, now: Timestamp) -> Said {
    let (mut decoders, fixed) = match prepare(config, source) {
        Ok(prepared) => prepared,
        Err(note) => return failed(note),
    };
    let mut said = Said::default();
    for (number, line) in (1..).zip(lines.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let (topic, payload, retain) = match message(line) {
            Ok(message) => message,
            Err(fault) => return failed(format!("line {number}: {fault}")),
        };
        let mut shown = json!({"line": number, "topic": topic});
        match fixed.or_else(|| decoders.source_of(&topic)) {
            None => shown["unmatched"] = true.into(),
            Some(at) => {
                let name = config.sources.get(at).map_or("", |s| s.name.as_str());
                shown["source"] = name.into();
                match decoders.decode(at, &topic, &payload, now, retain) {
                    Ok(decoded) => {
                        shown["readings"] = decoded.readings.iter().map(|r| columns(r, name, now)).collect();
                    }
                    Err(Reject { reason, detail }) => {
                        shown["rejected"] = reason.code().into();
                        shown["detail"] = detail.into();
                    }
                }
                let asked: Vec<String> = decoders.take_outgoing().into_iter().map(|m| m.topic).collect();
                if !asked.is_empty() {
                    shown["would_publish_to"] = asked.into();
                }
            }
        }
        said.data += &format!("{shown}\n");
    }
    said
}

fn failed(note: String) -> Said {
    Said { notes: vec![note], failed: true, ..Said::default() }
}

fn prepare(config: &Config, source: Option<&str>) -> Result<(Decoders, Option<usize>), String> {
    let decoders = Decoders::new(config).map_err(|e| e.to_string())?;
    let Some(name) = source else { return Ok((decoders, None)) };
    match config.sources.iter().position(|s| s.name == name) {
        Some(at) => Ok((decoders, Some(at))),
        None => {
            let known = config.sources.iter().map(|s| format!("{:?}", s.name)).collect::<Vec<_>>().join(", ");
            Err(format!("no source is named {name:?}; known are {known}"))
        }
    }
}

fn message(line: &str) -> Result<(String, Vec<u8>, bool), String> {
    let row: Json = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let topic = row["topic"].as_str().ok_or("no text `topic`")?.to_owned();
    let payload = match (row["payload"].as_str(), row["payload_base64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|e| format!("payload_base64: {e}"))?,
        _ => return Err("one of `payload` and `payload_base64` is needed".into()),
    };
    Ok((topic, payload, row["retain"].as_bool().unwrap_or(false)))
}

/// A reading by the names of the table's columns. `value` is exact here, whole numbers beyond a double's too.
fn columns(reading: &Reading, source: &str, received_at: Timestamp) -> Json {
    let Reading { ts, device, metric, tags, row_tags, value, unit, quality, kept_back: _ } = reading;
    let number = match value {
        Value::Float(f) => json!(f),
        Value::Int(n) => json!(n),
        Value::Great(n) => json!(n),
        Value::Bool(b) => json!(u8::from(*b)),
        Value::Text(_) => Json::Null,
    };
    let truth = if let Value::Bool(b) = value { Some(*b) } else { None };
    let mut all_tags = tags.clone();
    all_tags.extend(row_tags.clone());
    json!({
        "ts": ts.to_string(),
        "device": device,
        "metric": metric,
        "value": number,
        "value_int": value.inexact_int(),
        "value_bool": truth,
        "value_text": value.exact_text(),
        "unit": unit,
        "tags": all_tags,
        "series": SeriesId::of(device, metric, tags).to_string(),
        "quality": quality.to_column(),
        "received_at": received_at.to_string(),
        "source": source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Decoder;
    use crate::ingest::decode::tests::{config, source};

    const NOW: Timestamp = Timestamp(1_714_550_500_000_000);

    #[test]
    fn a_payload_is_shown_as_rows_of_the_table() {
        let config = config(vec![source("#", Decoder::Auto)]);
        let said = one(&config, Some("plant"), "a/b", br#"{"n":9007199254740993,"ok":true}"#, NOW);
        let rows: Vec<Json> = said.data.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(rows[0]["value_int"], json!(9_007_199_254_740_993_i64));
        assert_eq!((&rows[1]["value"], &rows[1]["value_bool"]), (&json!(1), &json!(true)));
        assert_eq!(rows[1]["device"], json!("a/b"));
        assert!(!said.failed && said.notes.is_empty());
    }

    #[test]
    fn a_reject_and_a_wrong_name_fail_with_a_sentence() {
        let config = config(vec![source("a/#", Decoder::Json)]);
        let said = one(&config, None, "a/b", b"{", NOW);
        assert!(said.failed && said.data.is_empty());
        assert!(said.notes[0].starts_with("rejected, malformed: at byte 1"), "{:?}", said.notes);
        assert!(one(&config, None, "b", b"1", NOW).notes[0].contains("no source takes"));
        assert!(one(&config, Some("x"), "a/b", b"1", NOW).notes[0].contains("known are \"plant\""));
    }

    #[test]
    fn a_session_keeps_what_it_learned() {
        let config = config(vec![source("#", Decoder::Auto)]);
        let lines = "{\"topic\":\"spBv1.0/g/NDATA/n\",\"payload_base64\":\"EgQQBSAD\"}\n\n{\"topic\":\"a/b\",\"payload\":\"1\"}\n";
        let said = session(&config, None, lines, NOW);
        let rows: Vec<Json> = said.data.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(rows[0]["rejected"], json!("no-name"));
        assert_eq!(rows[0]["would_publish_to"], json!(["spBv1.0/g/NCMD/n"]));
        assert_eq!(rows[1]["readings"][0]["value"], json!(1));
        assert!(session(&config, None, "{}", NOW).failed);
    }
}
