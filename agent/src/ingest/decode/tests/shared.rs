//! Samples of real payloads that lie beside the checkout, where they do: each that says what it expects gives that.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use serde_json::Value as Json;

use super::*;
use crate::ingest::decode::document::Doc;

fn folder() -> PathBuf {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let shared = std::env::var("TRIBUTARY_SHARED").unwrap_or_else(|_| "../shared".into());
    root.join(shared).join("data/payloads")
}

fn bytes(base64: &Json) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(base64.as_str().unwrap_or("")).unwrap()
}

/// The bytes that a generator of the samples stands for.
fn built(spec: &Json) -> Vec<u8> {
    let count = |key: &str| spec[key].as_u64().unwrap_or(0) as usize;
    match spec["generate"].as_str() {
        Some("literal") => bytes(&spec["payload_base64"]),
        Some("repeat") => [
            bytes(&spec["prefix_base64"]),
            bytes(&spec["unit_base64"]).repeat(count("count")),
            bytes(&spec["suffix_base64"]),
            bytes(&spec["suffix_repeat_base64"]).repeat(count("suffix_count")),
        ]
        .concat(),
        Some("keys") => {
            let width = spec["key_format"].as_str().unwrap();
            assert_eq!(width, "k%05d", "the one format in use");
            let each: Vec<String> =
                (0..count("count")).map(|i| format!("\"k{i:05}\":{}", spec["value"])).collect();
            format!("{{{}}}", each.join(",")).into_bytes()
        }
        other => panic!("unknown generator {other:?}"),
    }
}

fn pieces(text: &str) -> Vec<String> {
    let split = text.split(|c: char| !c.is_alphanumeric()).filter(|p| !p.is_empty());
    split.map(str::to_lowercase).collect()
}

fn names_agree(expected: &Json, reading: &Reading) -> bool {
    let mut have = pieces(&reading.device);
    have.extend(pieces(&reading.metric));
    for (key, text) in &reading.tags {
        have.extend(pieces(key));
        have.extend(pieces(text));
    }
    let wanted = |key: &str| pieces(expected[key].as_str().unwrap_or(""));
    wanted("device").iter().chain(&wanted("metric")).all(|piece| have.contains(piece))
}

fn value_agrees(expected: &Json, value: &Value) -> bool {
    match (expected, value) {
        (Json::Bool(b), Value::Bool(v)) => b == v,
        (Json::Bool(b), other) => other.numeric() == Some(f64::from(u8::from(*b))),
        (Json::String(text), value) => *text == value.to_string(),
        (Json::Number(n), Value::Int(v)) if n.is_i64() => n.as_i64() == Some(*v),
        (Json::Number(n), Value::Great(v)) => n.as_u64() == Some(*v),
        (Json::Number(n), value) => value.numeric().is_some_and(|v| {
            n.as_f64() == Some(v)
                && (!n.is_u64() || n.as_u64() == Some(v as u64) || n.as_f64() != Some(1.8446744073709552e19))
        }),
        _ => false,
    }
}

fn time_agrees(expected: &Json, reading: &Reading) -> bool {
    match expected.as_str() {
        None => reading.ts == AT,
        Some(text) => super::super::time::configured(&Doc::text(text), None) == Ok(reading.ts),
    }
}

fn fault(expected: &Json, outcome: &Result<Decoded, Reject>) -> Option<String> {
    if expected.is_null() {
        return None;
    }
    let readings = match outcome {
        Ok(decoded) => &decoded.readings[..],
        Err(_) if !expected["reject"].is_null() => return None,
        Err(reject) => return Some(format!("rejected: {reject:?}")),
    };
    if !expected["reject"].is_null() {
        return Some(format!("expected a reject, got {} readings", readings.len()));
    }
    for e in expected["readings"].as_array().unwrap() {
        let agrees = |r: &&Reading| {
            names_agree(e, r) && value_agrees(&e["value"], &r.value) && time_agrees(&e["ts"], r)
        };
        if !readings.iter().any(|r| agrees(&r)) {
            let got: Vec<_> =
                readings.iter().take(6).map(|r| (&r.device, &r.metric, &r.value, r.ts.micros())).collect();
            return Some(format!("missing {e}, got {got:?}"));
        }
    }
    None
}

/// The decoder that an operator would choose for a file of samples, beside `auto`.
fn chosen(file: &str) -> Decoder {
    match file {
        "cbor" => Decoder::Cbor,
        "messagepack" => Decoder::MessagePack,
        "senml" => Decoder::Senml,
        "sparkplug-b" => Decoder::SparkplugB,
        "influx-line-protocol" => Decoder::LineProtocol,
        "csv" => Decoder::Csv,
        "bytebeam-uplink" => Decoder::Preset("bytebeam"),
        "cumulocity-smartrest" => Decoder::Preset("cumulocity"),
        "eclipse-ditto" => Decoder::Preset("ditto"),
        "ruuvi-gateway" => Decoder::Preset("ruuvi"),
        "ttn-v3" => Decoder::Preset("ttn"),
        other => Decoder::PRESETS.iter().find(|p| **p == other).map_or(Decoder::Auto, |p| Decoder::Preset(p)),
    }
}

#[test]
fn every_shared_sample_that_says_what_it_expects_gives_that() {
    let Ok(files) = std::fs::read_dir(folder()) else {
        println!("skipped: no samples in {}; set TRIBUTARY_SHARED", folder().display());
        return;
    };
    let mut faults = Vec::new();
    let mut counts: BTreeMap<String, (u32, u32, u32, u32)> = BTreeMap::new();
    for file in files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "jsonl")) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        for decoder in [Decoder::Auto, chosen(&name)] {
            let mut decoders = Decoders::new(&config(vec![
                source("#", decoder),
                source("$aws/#", decoder),
                source("$SYS/#", decoder),
            ]))
            .unwrap();
            for (number, line) in (1..).zip(std::fs::read_to_string(&file).unwrap().lines()) {
                let row: Json = serde_json::from_str(line).unwrap();
                let payload = if row["generate"].is_object() {
                    built(&row["generate"])
                } else {
                    bytes(&row["payload_base64"])
                };
                let topic = match row["topic"].as_str() {
                    Some(topic) => topic.to_owned(),
                    None => String::from_utf8(built(&row["topic_generate"])).unwrap(),
                };
                let at = decoders.source_of(&topic).unwrap_or(0);
                let outcome = decoders.decode(at, &topic, &payload, AT, row["retain"].as_bool().unwrap());
                let count = counts.entry(name.clone()).or_default();
                count.0 += 1;
                count.1 += u32::from(!row["expect"].is_null());
                match &outcome {
                    Ok(_) => count.2 += 1,
                    Err(reject) => {
                        count.3 += 1;
                        if std::env::var_os("TRIBUTARY_SHOW").is_some() {
                            println!("{name}:{number} {} {reject:?}", decoder.word());
                        }
                    }
                }
                if let Some(fault) = fault(&row["expect"], &outcome) {
                    faults.push(format!("{name}:{number} {}: {fault}", decoder.word()));
                }
            }
        }
    }
    for (name, (all, judged, taken, rejected)) in counts {
        println!("{name:24} {all:5} read twice, {judged:4} judged, {taken:5} taken, {rejected:4} rejected");
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}
