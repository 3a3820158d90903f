//! Names by which devices commonly call what a reading needs, compared without regard to case, `_` and `-`.

use super::document::Doc;
use super::pattern::glob;
use crate::reading::Value;

/// Of a device, best first.
const DEVICES: &[&str] = &[
    "ieeeaddr",
    "ieeeaddress",
    "deviceid",
    "device",
    "devid",
    "deveui",
    "deviceeui",
    "devicename",
    "thingid",
    "thing",
    "thingname",
    "nodeid",
    "node",
    "sensorid",
    "sensor",
    "imei",
    "mac",
    "macaddress",
    "macaddr",
    "serialnumber",
    "serialno",
    "serial",
    "stationid",
    "station",
    "assetid",
    "asset",
    "machineid",
    "machine",
    "equipment",
    "meterid",
    "clientid",
    "hostname",
    "host",
];

/// Of an object within the document that tells about the device.
const HOLDERS: &[&str] = &["device", "deviceinfo", "enddeviceids", "identifiers", "sensor", "node", "source"];

/// Of the key, in such an object.
const HELD: &[&str] = &["id", "uid", "addr", "address", "name", "friendlyname"];

/// Of the event time, best first.
const TIMES: &[&str] = &[
    "epoch",
    "ts",
    "timestamp",
    "time",
    "datetime",
    "eventtime",
    "measuredat",
    "observedat",
    "sampledat",
    "measurementtime",
    "sampletime",
    "phenomenontime",
    "resulttime",
    "timeinstant",
    "timestampms",
    "tsms",
    "unixtime",
    "utc",
    "gwts",
    "timecreated",
    "createdat",
    "dateobserved",
    "t",
    "date",
];

/// Of a measured value.
const VALUES: &[&str] = &["value", "val", "v"];

/// Of a unit.
const UNITS: &[&str] = &["unit", "units", "uom", "unitofmeasurement", "u"];

/// Of what is measured, best first.
const METRICS: &[&str] = &[
    "metric",
    "metricname",
    "measurement",
    "parameter",
    "variable",
    "quantity",
    "field",
    "property",
    "resourcename",
    "name",
    "n",
    "channel",
    "key",
    "label",
    "tag",
    "sensor",
    "sensorname",
    "type",
    "id",
];

/// Of the kind of a value.
const KINDS: &[&str] = &["datatype", "valuetype", "type", "dtype"];

/// Of the device's own judgement.
const QUALITIES: &[&str] = &["quality", "q", "statuscode", "good"];

/// `name` in the form in which the lists have it.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).map(|c| c.to_ascii_lowercase()).collect()
}

fn is_in(list: &[&str], name: &str) -> bool {
    list.contains(&plain(name).as_str())
}

/// Whether `name` is one of an event time; `_time` and `_ts` too.
pub fn is_time(name: &str) -> bool {
    is_in(TIMES, name)
}

/// How good a name of an event time it is: less is better.
pub fn time_rank(name: &str) -> Option<usize> {
    let plain = plain(name);
    TIMES.iter().position(|known| *known == plain)
}

/// Whether `name` is one of a measured value.
pub fn is_value(name: &str) -> bool {
    is_in(VALUES, name)
}

/// Whether `name` is one of a unit.
pub fn is_unit(name: &str) -> bool {
    is_in(UNITS, name)
}

/// Whether `name` is one of the device's own judgement.
pub fn is_quality(name: &str) -> bool {
    is_in(QUALITIES, name)
}

/// How good a name of what is measured it is: less is better.
pub fn metric_rank(name: &str) -> Option<usize> {
    let plain = plain(name);
    METRICS.iter().position(|known| *known == plain)
}

/// Whether `name` is one of the kind of a value.
pub fn is_kind(name: &str) -> bool {
    is_in(KINDS, name)
}

/// Whether `name` is one of a device.
pub fn is_device(name: &str) -> bool {
    is_in(DEVICES, name)
}

/// The device that an object names by itself, and under which of its keys.
pub fn device_of(doc: &Doc) -> Option<(&str, String)> {
    let members = doc.members()?;
    let named = |doc: &Doc| match doc {
        Doc::Scalar(Value::Text(text)) if !text.trim().is_empty() => Some(text.clone()),
        Doc::Scalar(Value::Int(n)) => Some(n.to_string()),
        _ => None,
    };
    // One pass over the members, however many there are.
    let ranked = |list: &[&str], members: &std::collections::BTreeMap<String, Doc>| {
        let rank = |key: &str| {
            let plain = plain(key);
            list.iter().position(|known| *known == plain)
        };
        let hits = members.iter().filter_map(|(key, doc)| Some((rank(key)?, key.clone(), named(doc)?)));
        hits.min_by_key(|(rank, ..)| *rank).map(|(_, key, name)| (key, name))
    };
    if let Some((key, name)) = ranked(DEVICES, members) {
        return members.get_key_value(&key).map(|(key, _)| (key.as_str(), name));
    }
    for (key, doc) in members.iter().filter(|(_, doc)| doc.members().is_some()) {
        if is_in(HOLDERS, key)
            && let Some(inner) = doc.members()
            && let Some((_, name)) = ranked(DEVICES, inner).or_else(|| ranked(HELD, inner))
        {
            return Some((key, name));
        }
    }
    // A plain `id` may number messages; it names a device only where it is a hardware address.
    members.iter().find_map(|(key, doc)| match doc.as_text() {
        Some(text) if plain(key) == "id" && (is_address(text) || text.starts_with("urn:")) => {
            Some((key.as_str(), text.into()))
        }
        _ => None,
    })
}

/// The one device that parts of an object name, down to `depth`; none where they name several.
pub fn device_within(doc: &Doc, depth: usize) -> Option<String> {
    let mut named: Option<String> = None;
    let mut level: Vec<&Doc> = doc.members()?.values().collect();
    for _ in 0..depth {
        for part in level.iter().filter(|part| part.members().is_some()) {
            if let Some((key, name)) = device_of(part)
                && is_device(key)
            {
                if named.as_ref().is_some_and(|other| *other != name) {
                    return None;
                }
                named = Some(name);
            }
        }
        if named.is_some() {
            break;
        }
        level = level.into_iter().filter_map(Doc::members).flat_map(|m| m.values()).collect();
    }
    named
}

/// Whether `name` is one of what is said about a value in parts: no reading by itself.
pub fn is_about(name: &str) -> bool {
    is_in(&["metadata", "meta", "context", "annotations"], name)
}

/// Whether a text is a hardware address: of Bluetooth, Ethernet, Zigbee, LoRaWAN or 1-Wire.
pub fn is_address(text: &str) -> bool {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(digits) = text.strip_prefix("0x") {
        return digits.len() == 16 && hex(digits);
    }
    for mark in [':', '-'] {
        let pairs: Vec<&str> = text.split(mark).collect();
        if matches!(pairs.len(), 6 | 8) && pairs.iter().all(|p| p.len() == 2 && hex(p)) {
            return true;
        }
    }
    matches!(text.len(), 12 | 16)
        && hex(text)
        && text.bytes().any(|b| b.is_ascii_digit())
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        || glob("28-????????????", text)
}

/// Whether a word calls a value good, if it is one that judges.
pub fn judges(doc: &Doc) -> Option<bool> {
    match doc {
        Doc::Scalar(Value::Bool(good)) => Some(*good),
        Doc::Scalar(Value::Text(word)) => match word.to_ascii_lowercase().as_str() {
            "good" | "ok" | "valid" => Some(true),
            "bad" | "uncertain" | "invalid" | "stale" | "error" | "fault" | "questionable" => Some(false),
            _ => None,
        },
        _ => None,
    }
}
