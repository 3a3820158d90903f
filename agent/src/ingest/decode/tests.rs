//! What the decoders promise.

use std::collections::BTreeMap;

use tributary_contract::id::{GatewayId, Namespace};
use tributary_contract::key::Prefix;

use super::*;
use crate::config::{Bucket, Buffer, Credentials, Segment, Source, Status};

mod families;
mod fuzz;
mod shared;

const AT: Timestamp = Timestamp(1_714_550_500_000_000);

pub(crate) fn source(topic: &str, decoder: Decoder) -> Source {
    Source {
        name: "plant".into(),
        topics: vec![topic.into()],
        qos: 1,
        decoder,
        time: None,
        value: None,
        device: None,
        metric: None,
        unit: None,
        payload_tags: BTreeMap::new(),
        row_tags: BTreeMap::new(),
        decoding: Decoding::default(),
        tags: Tags::new(),
        namespace: Namespace::default(),
        priority: 5,
        upload: crate::config::Upload::Both,
        deadband: Vec::new(),
        deadband_every: 0,
    }
}

pub(crate) fn config(sources: Vec<Source>) -> Config {
    Config {
        gateway: GatewayId::new("gw-1").unwrap(),
        state_dir: "/nonexistent".into(),
        tags: Tags::new(),
        brokers: Vec::new(),
        sources,
        buffer: Buffer::default(),
        windows: Vec::new(),
        alerts: Vec::new(),
        segment: Segment::default(),
        bucket: Bucket {
            name: "lake".into(),
            prefix: Prefix::new("edge").unwrap(),
            endpoint: None,
            region: "eu-west-1".into(),
            credentials: Credentials::Default,
            ca_file: None,
            proxy: crate::config::Proxy::Off,
            part_size: 5 << 20,
        },
        link: crate::config::Link::default(),
        status: Status::default(),
        limits: Limits::default(),
    }
}

fn decode_as(source: Source, topic: &str, payload: &str) -> Result<Decoded, Reject> {
    Decoders::new(&config(vec![source])).unwrap().decode(0, topic, payload.as_bytes(), AT, false)
}

fn said(decoded: &Decoded) -> Vec<(&str, &str, Value)> {
    decoded.readings.iter().map(|r| (r.device.as_str(), r.metric.as_str(), r.value.clone())).collect()
}

fn reason(result: Result<Decoded, Reject>) -> RejectReason {
    result.unwrap_err().reason
}

#[test]
fn paths_say_time_value_names_unit_and_tags() {
    let mut s = source("t/{line}/#", Decoder::Json);
    s.time = Some("at".into());
    s.value = Some("data[1].v".into());
    s.device = Some("id".into());
    s.metric = Some("kind".into());
    s.unit = Some("u".into());
    s.payload_tags = BTreeMap::from([("hall".into(), "hall".into()), ("none".into(), "nowhere".into())]);
    s.row_tags = BTreeMap::from([("n".into(), "n".into()), ("m".into(), "m".into())]);
    s.tags = Tags::from([("site".into(), "north".into())]);
    let payload = r#"{"at":"2024-05-01T08:00:00Z","data":[0,{"v":21.50}],"id":7,"kind":"temp","u":"C","hall":"B","n":42}"#;
    let decoded = decode_as(s, "t/l1/x", payload).unwrap();
    assert!(decoded.own_time);
    let [r] = &decoded.readings[..] else { panic!("{decoded:?}") };
    assert_eq!((r.device.as_str(), r.metric.as_str(), &r.value), ("7", "temp", &Value::Float(21.5)));
    assert_eq!(
        (r.ts, r.unit.as_deref(), r.quality),
        (Timestamp(1_714_550_400_000_000), Some("C"), Quality::GOOD)
    );
    let pairs = |t: &Tags| t.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
    assert_eq!(pairs(&r.tags), "hall=B line=l1 site=north");
    assert_eq!(pairs(&r.row_tags), "n=42");
}

#[test]
fn without_a_value_path_each_scalar_leaf_is_a_reading() {
    let mut s = source("m/{device}", Decoder::Json);
    s.time = Some("ts".into());
    s.row_tags = BTreeMap::from([("n".into(), "n".into())]);
    let payload =
        r#"{"ts":1714550400,"n":1,"temp":21,"env":{"ok":true,"state":"ON","x":null},"list":[1.5,[2]]}"#;
    let decoded = decode_as(s, "m/d1", payload).unwrap();
    assert_eq!(
        said(&decoded),
        [
            ("d1", "env.ok", Value::Bool(true)),
            ("d1", "env.state", Value::Text("ON".into())),
            ("d1", "list[0]", Value::Float(1.5)),
            ("d1", "list[1][0]", Value::Int(2)),
            ("d1", "temp", Value::Int(21)),
        ]
    );
    assert!(decoded.own_time);
}

#[test]
fn each_object_of_an_array_is_read_by_itself() {
    let mut s = source("m", Decoder::Json);
    s.time = Some("ts".into());
    s.device = Some("id".into());
    let decoded = decode_as(s, "m", r#"[{"ts":1714550400,"id":"a","v":1},{"id":"b","v":2}]"#).unwrap();
    assert_eq!(said(&decoded), [("a", "v", Value::Int(1)), ("b", "v", Value::Int(2))]);
    assert_eq!(decoded.readings[1].ts, AT, "no own time: the time of receipt");
    assert!(!decoded.own_time, "one without own time spoils it for the message");
}

#[test]
fn a_metric_of_the_topic_goes_before_the_leaves_and_value_adds_nothing() {
    let s = source("s/{device}/{metric}", Decoder::Json);
    assert_eq!(
        said(&decode_as(s.clone(), "s/d/temp", r#"{"value":1}"#).unwrap()),
        [("d", "temp", Value::Int(1))]
    );
    assert_eq!(
        said(&decode_as(s.clone(), "s/d/temp", r#"{"min":1}"#).unwrap()),
        [("d", "temp.min", Value::Int(1))]
    );
    assert_eq!(said(&decode_as(s.clone(), "s/d/temp", "[3]").unwrap()), [("d", "temp[0]", Value::Int(3))]);
    assert_eq!(said(&decode_as(s, "s/d/temp", "3").unwrap()), [("d", "temp", Value::Int(3))]);
}

#[test]
fn auto_finds_names_in_the_topic() {
    let auto = |filter: &str, topic: &str, payload: &str| {
        let d = decode_as(source(filter, Decoder::Auto), topic, payload).unwrap();
        d.readings
            .iter()
            .map(|r| format!("{} {} {}", r.device, r.metric, r.value))
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert_eq!(auto("#", "home/livingroom/temp", "22"), "home/livingroom temp 22");
    assert_eq!(auto("#", "temp", "22"), "temp value 22");
    assert_eq!(auto("#", "/temp", "22"), "temp value 22");
    assert_eq!(auto("#", "home/", "22"), "home value 22");
    assert_eq!(auto("#", "plant/press7", r#"{"t":1,"x":{"y":2}}"#), "plant/press7 t 1; plant/press7 x.y 2");
    assert_eq!(auto("#", "plant/press7", "[1,2]"), "plant/press7 value[0] 1; plant/press7 value[1] 2");
    assert_eq!(auto("#", "demo", r#"[{"device_id":"A","t":1},{"deviceId":7,"t":2}]"#), "A t 1; 7 t 2");
    assert_eq!(
        auto("{device}", "demo", r#"{"device_id":"A"}"#),
        "demo device_id A",
        "the topic's word holds"
    );
    assert_eq!(auto("s/{device}", "s/d1", "on"), "d1 value on");
    assert_eq!(auto("s/{device}/{metric}", "s/d1/t", "1"), "d1 t 1");
    assert_eq!(auto("s/{device}/+", "s/d1/t", "1"), "d1 t 1");
    assert_eq!(auto("s/+/{metric}", "s/d1/t", "1"), "s/d1 t 1");
    assert_eq!(auto("{metric}/+", "t/d1", "1"), "t/d1 t 1");
}

#[test]
fn auto_takes_the_time_from_well_known_names_only_when_it_is_one() {
    let auto = |payload: &str| decode_as(source("#", Decoder::Auto), "p/x", payload).unwrap();
    let timed = auto(r#"{"ts":1714550400123,"t":1}"#);
    assert_eq!(
        (timed.own_time, timed.readings[0].ts.0, timed.readings.len()),
        (true, 1_714_550_400_123_000, 1)
    );
    let uptime = auto(r#"{"time":12,"t":1}"#);
    assert_eq!((uptime.own_time, uptime.readings.len()), (false, 2));
    let local = auto(r#"{"Time":"2024-05-01T08:00:00","t":1}"#);
    assert_eq!((local.own_time, local.readings.len(), local.readings[0].ts), (false, 1, AT));
}

#[test]
fn doubtful_times_are_marked() {
    let s = source("#", Decoder::Auto);
    let mut decoders = Decoders::new(&config(vec![s])).unwrap();
    let mut quality = |payload: &str, retained| {
        decoders.decode(0, "a/b", payload.as_bytes(), AT, retained).unwrap().readings[0].quality
    };
    assert!(quality("1", false).is_good());
    assert!(quality("1", true).has(Doubt::Retained));
    assert!(quality(r#"{"ts":1714550400,"v":1}"#, true).is_good(), "own time: retained is no doubt");
    let ahead = |secs: i64| format!(r#"{{"ts":{},"v":1}}"#, AT.0 / 1_000_000 + secs);
    assert!(quality(&ahead(600), false).is_good());
    assert!(quality(&ahead(601), false).has(Doubt::Future));
}

#[test]
fn each_reason_to_reject_has_its_message() {
    let plain = || source("s/{device}/{metric}", Decoder::Json);
    let with = |change: fn(&mut Source)| {
        let mut s = plain();
        change(&mut s);
        s
    };
    let long = "x".repeat(5000);
    let many = format!("[{}]", vec!["1"; 10_001].join(","));
    for (s, topic, payload, expected) in [
        (plain(), "s/d/m", "{", RejectReason::Malformed),
        (plain(), "s/d/m", "{}", RejectReason::NoReading),
        (plain(), "s/d/m", "{\"a\":null}", RejectReason::NoReading),
        (plain(), "s//m", "1", RejectReason::NoName),
        (source("x", Decoder::Json), "x", "{\"a\":1}", RejectReason::NoName),
        (source("x/{device}", Decoder::Value), "x/d", "1", RejectReason::NoName),
        (plain(), "s/d/+", "1", RejectReason::BadTopic),
        (with(|s| s.time = Some("t".into())), "s/d/m", "{\"t\":\"now\",\"v\":1}", RejectReason::BadTime),
        (with(|s| s.value = Some("v".into())), "s/d/m", "{\"w\":1}", RejectReason::MissingField),
        (with(|s| s.value = Some("v".into())), "s/d/m", "{\"v\":[1]}", RejectReason::MissingField),
        (with(|s| s.value = Some("v".into())), "s/d/m", "{\"v\":null}", RejectReason::NoReading),
        (plain(), "s/d/m", &many, RejectReason::TooManyReadings),
        (plain(), &format!("s/{long}/m"), "1", RejectReason::TextTooLong),
        (
            with(|s| s.value = Some("v".into())),
            "s/d/m",
            &format!("{{\"v\":\"{long}\"}}"),
            RejectReason::TextTooLong,
        ),
        (plain(), "s/d/m", &" ".repeat((1 << 20) + 1), RejectReason::TooLarge),
    ] {
        assert_eq!(reason(decode_as(s, topic, payload)), expected, "{topic} {}", shown(payload));
    }
}

#[test]
fn a_long_text_beside_a_number_is_cut_and_marked_and_the_number_kept() {
    let payload = format!(r#"{{"note":"{}","t":21.5}}"#, "é".repeat(200_000));
    let decoded = decode_as(source("#", Decoder::Auto), "a/b", &payload).unwrap();
    assert_eq!(decoded.readings[1].value, Value::Float(21.5));
    let Value::Text(kept) = &decoded.readings[0].value else { panic!() };
    assert_eq!(kept.len(), 4096);
    assert!(decoded.readings[0].quality.has(Doubt::OutOfRange) && decoded.readings[1].quality.is_good());
}

#[test]
fn the_first_source_that_matches_takes_the_message() {
    let decoders =
        Decoders::new(&config(vec![source("a/+", Decoder::Value), source("#", Decoder::Auto)])).unwrap();
    assert_eq!(decoders.source_of("a/b"), Some(0));
    assert_eq!(decoders.source_of("a/b/c"), Some(1));
    assert_eq!(decoders.source_of("$SYS/x"), None);
}

#[test]
fn settings_that_cannot_be_used_name_the_source() {
    let bad_topic = Decoders::new(&config(vec![source("a/#/b", Decoder::Json)])).unwrap_err();
    assert!(bad_topic.to_string().starts_with("source \"plant\": invalid topic"), "{bad_topic}");
    let mut s = source("a", Decoder::Json);
    s.row_tags = BTreeMap::from([("n".into(), "a..b".into())]);
    let bad_path = Decoders::new(&config(vec![s])).unwrap_err();
    assert!(bad_path.to_string().starts_with("source \"plant\", row_tags.n: invalid path"), "{bad_path}");
}

proptest::proptest! {
    #[test]
    fn no_payload_makes_a_decoder_panic(
        payload in proptest::prelude::prop_oneof![
            proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100),
            "[\\[{][\\[\\]{}\",:0-9.tsenul]{0,60}".prop_map(String::into_bytes),
        ],
        topic in "[a/$+#é]{0,8}",
    ) {
        for decoder in [Decoder::Json, Decoder::Value, Decoder::Auto] {
            let mut decoders = Decoders::new(&config(vec![source("#", decoder)])).unwrap();
            let once = decoders.decode(0, &topic, &payload, AT, false);
            proptest::prop_assert_eq!(&once, &decoders.decode(0, &topic, &payload, AT, false));
            if let Ok(decoded) = once {
                proptest::prop_assert!(!decoded.readings.is_empty());
            }
        }
    }
}
use proptest::strategy::Strategy as _;
