//! Payloads of ecosystems by their published formats: `auto` finds device, metric, value, unit and time by general rules.

use super::*;

struct Case {
    what: &'static str,
    topic: &'static str,
    payload: &'static str,
    /// `device | metric | value [unit] [@micros]`, all of which must come out.
    expect: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        what: "Shelly Gen2, notification",
        topic: "shellyplus1pm-441793/events/rpc",
        payload: r#"{"src":"shellyplus1pm-441793","dst":"shellyplus1pm-441793/events","method":"NotifyStatus",
            "params":{"ts":1714550400.25,"switch:0":{"id":0,"apower":21.5,"aenergy":{"total":1.5,"by_minute":[0.5,0.25]}}}}"#,
        expect: &[
            "shellyplus1pm-441793 | switch:0.apower | 21.5 @1714550400250000",
            "shellyplus1pm-441793 | switch:0.aenergy.by_minute[1] | 0.25 @1714550400250000",
        ],
    },
    Case {
        what: "Shelly Gen2, status of a component",
        topic: "shellyplus1pm-441793/status/switch:0",
        payload: r#"{"id":0,"source":"init","output":false,"apower":0.0,"temperature":{"tC":50.6,"tF":123.0}}"#,
        expect: &["shellyplus1pm-441793/status/switch:0 | temperature.tC | 50.6"],
    },
    Case {
        what: "Shelly Gen1",
        topic: "shellies/shellyht-ABC123/sensor/temperature",
        payload: "21.5",
        expect: &["shellyht-ABC123 | sensor/temperature | 21.5"],
    },
    Case {
        what: "OpenMQTTGateway, Bluetooth",
        topic: "home/OpenMQTTGateway/BTtoMQTT/A4C138AABBCC",
        payload: r#"{"id":"A4:C1:38:AA:BB:CC","name":"LYWSD03MMC","rssi":-71,"model":"LYWSD03MMC","tempc":21.5,"hum":48.2,"batt":87}"#,
        expect: &["A4:C1:38:AA:BB:CC | tempc | 21.5", "A4:C1:38:AA:BB:CC | batt | 87"],
    },
    Case {
        what: "Theengs gateway",
        topic: "home/TheengsGateway/BTtoMQTT/A4C138AABBCC",
        payload: r#"{"mac":"A4:C1:38:AA:BB:CC","rssi":-60,"tempc":21.5,"mac_type":0}"#,
        expect: &["A4:C1:38:AA:BB:CC | tempc | 21.5"],
    },
    Case {
        what: "Victron, values of the bus",
        topic: "N/c0619ab9929a/battery/512/Dc/0/Voltage",
        payload: r#"{"value":26.41}"#,
        expect: &["c0619ab9929a/battery/512 | Dc/0/Voltage | 26.41"],
    },
    Case {
        what: "ChirpStack 4, uplink",
        topic: "application/8a7d/device/0102030405060708/event/up",
        payload: r#"{"deduplicationId":"x","time":"2024-05-01T08:00:00.25+00:00","deviceInfo":{"deviceName":"hall",
            "devEui":"0102030405060708"},"fCnt":7,"object":{"temperature":21.5,"door":true},"rxInfo":[{"rssi":-101}]}"#,
        expect: &[
            "0102030405060708 | temperature | 21.5 @1714550400250000",
            "0102030405060708 | door | true @1714550400250000",
        ],
    },
    Case { what: "WLED", topic: "wled/desk/g", payload: "128", expect: &["wled/desk | g | 128"] },
    Case {
        what: "Ubidots, values with their times",
        topic: "/v1.6/devices/weather-station",
        payload: r#"{"temperature":{"value":21.5,"timestamp":1714550400000},"humidity":40,"wind":{"value":3,"context":{"dir":"N"}}}"#,
        expect: &[
            "v1.6/devices/weather-station | temperature | 21.5 @1714550400000000",
            "v1.6/devices/weather-station | humidity | 40",
            "v1.6/devices/weather-station | wind | 3",
        ],
    },
    Case {
        what: "ThingsBoard gateway, devices as keys",
        topic: "v1/gateway/telemetry",
        payload: r#"{"Device A":[{"ts":1714550400000,"values":{"temperature":42,"humidity":80}},{"ts":1714550401000,"values":
            {"temperature":43}}],"Device B":[{"ts":1714550400000,"values":{"temperature":41}}]}"#,
        expect: &[
            "Device A | temperature | 42 @1714550400000000",
            "Device A | temperature | 43 @1714550401000000",
            "Device B | temperature | 41 @1714550400000000",
        ],
    },
    Case {
        what: "the same shape on another topic",
        topic: "plant/up",
        payload: r#"{"Device A":[{"ts":1714550400000,"values":{"temperature":42}}]}"#,
        expect: &["Device A | values.temperature | 42 @1714550400000000"],
    },
    Case {
        what: "ThingsBoard device",
        topic: "v1/devices/me/telemetry",
        payload: r#"{"ts":1714550400000,"values":{"temperature":42}}"#,
        expect: &["v1/devices/me/telemetry | temperature | 42 @1714550400000000"],
    },
    Case {
        what: "Node-RED message",
        topic: "flow/out",
        payload: r#"{"_msgid":"a1.b2","payload":{"temp":21.5},"topic":"x"}"#,
        expect: &["flow/out | payload.temp | 21.5"],
    },
    Case {
        what: "NGSI entity",
        topic: "ul/room",
        payload: r#"{"id":"urn:ngsi-ld:Room:1","type":"Room","temperature":{"type":"Number","value":21.5,"metadata":{}},
            "TimeInstant":"2024-05-01T08:00:00Z"}"#,
        expect: &["urn:ngsi-ld:Room:1 | temperature | 21.5 @1714550400000000"],
    },
    Case {
        what: "IoT gateway of a control system: named tags with quality and time",
        topic: "kep/iot",
        payload: r#"{"timestamp":1714550400000,"values":[{"id":"Line.Press.T","v":42,"q":true,"t":1714550399000},
            {"id":"Line.Press.P","v":1.5,"q":false,"t":1714550399000}]}"#,
        expect: &[
            "kep/iot | values.Line.Press.T | 42 @1714550399000000",
            "kep/iot | values.Line.Press.P | 1.5 @1714550399000000",
        ],
    },
    Case {
        what: "array of named values with units",
        topic: "eco/data",
        payload: r#"{"ts":"2024-05-01T08:00:00Z","d":[{"tag":"temp","value":21.5,"unit":"°C"},{"tag":"ok","value":true}]}"#,
        expect: &[
            "eco/data | d.temp | 21.5 °C @1714550400000000",
            "eco/data | d.ok | true @1714550400000000",
        ],
    },
    Case {
        what: "records of several devices within a gateway's message",
        topic: "gw/1/up",
        payload: r#"{"gateway":"g1","time":1714550400,"devices":[{"deviceId":"A","temp":1},{"deviceId":"B","temp":2,"time":1714550401}]}"#,
        expect: &["A | devices.temp | 1 @1714550400000000", "B | devices.temp | 2 @1714550401000000"],
    },
    Case {
        what: "devices keyed by address",
        topic: "ble/gw",
        payload: r#"{"ts":1714550400,"beacons":{"AA:BB:CC:DD:EE:01":{"rssi":-50,"temp":21.5},"AA:BB:CC:DD:EE:02":{"rssi":-60}}}"#,
        expect: &[
            "AA:BB:CC:DD:EE:01 | temp | 21.5 @1714550400000000",
            "AA:BB:CC:DD:EE:02 | rssi | -60 @1714550400000000",
        ],
    },
    Case {
        what: "the device named in an envelope",
        topic: "ingest/7",
        payload: r#"{"meta":{"device_id":"pump-7","fw":"1.2"},"data":{"temp":{"val":21.5,"uom":"Cel"}},"ts":1714550400123}"#,
        expect: &["pump-7 | data.temp | 21.5 Cel @1714550400123000"],
    },
    Case {
        what: "one value with its unit, named by its topic",
        topic: "hall/boiler/temperature",
        payload: r#"{"value":21.5,"unit":"°C","timestamp":"2024-05-01T10:00:00+02:00"}"#,
        expect: &["hall/boiler | temperature | 21.5 °C @1714550400000000"],
    },
    Case {
        what: "one value that names device and metric",
        topic: "up",
        payload: r#"{"device":"pump-7","metric":"temp","value":21.5,"unit":"Cel","ts":1714550400}"#,
        expect: &["pump-7 | temp | 21.5 Cel @1714550400000000"],
    },
    Case {
        what: "unit beside its value",
        topic: "meter/1",
        payload: r#"{"power":230,"power_unit":"W","energy":1.5}"#,
        expect: &["meter/1 | power | 230 W", "meter/1 | energy | 1.5"],
    },
    Case {
        what: "shadow of a thing",
        topic: "$aws/things/boiler/shadow/update",
        payload: r#"{"state":{"desired":{"t":20},"reported":{"t":21.5,"on":true}},"timestamp":1714550400}"#,
        expect: &["boiler | t | 21.5 @1714550400000000", "boiler | on | true @1714550400000000"],
    },
    Case {
        what: "rtl_433",
        topic: "rtl_433/pi/devices/Acurite-Tower/A/1234/temperature_C",
        payload: "21.5",
        expect: &["rtl_433/pi/devices/Acurite-Tower/A/1234 | temperature_C | 21.5"],
    },
    Case {
        what: "Zigbee2MQTT with the device's address",
        topic: "zigbee2mqtt/hall lamp",
        payload: r#"{"state":"ON","brightness":50,"device":{"friendlyName":"hall lamp","ieeeAddr":"0x00158d0001a2b3c4"}}"#,
        expect: &["0x00158d0001a2b3c4 | brightness | 50", "0x00158d0001a2b3c4 | state | ON"],
    },
];

fn shown(r: &Reading) -> String {
    let unit = r.unit.as_deref().map(|u| format!(" {u}")).unwrap_or_default();
    let at = if r.ts == AT { String::new() } else { format!(" @{}", r.ts.micros()) };
    format!("{} | {} | {}{unit}{at}", r.device, r.metric, r.value)
}

#[test]
fn ecosystems_are_read_by_general_rules_and_their_presets() {
    let mut faults = Vec::new();
    for case in CASES {
        let sources = vec![source("#", Decoder::Auto), source("$aws/#", Decoder::Auto)];
        let mut decoders = Decoders::new(&config(sources)).unwrap();
        let at = decoders.source_of(case.topic).unwrap();
        let got: Vec<String> = match decoders.decode(at, case.topic, case.payload.as_bytes(), AT, false) {
            Ok(decoded) => decoded.readings.iter().map(shown).collect(),
            Err(reject) => vec![format!("{reject:?}")],
        };
        for wanted in case.expect {
            if !got.iter().any(|g| g == wanted) {
                faults.push(format!("{}: missing {wanted:?}, got {got:#?}", case.what));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_the_payload_calls_the_device_keeps_the_topics_word_as_a_tag() {
    let mut decoders = Decoders::new(&config(vec![source("#", Decoder::Auto)])).unwrap();
    let mut tags = |topic: &str, payload: &str| {
        let decoded = decoders.decode(0, topic, payload.as_bytes(), AT, false).unwrap();
        decoded.readings[0].tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(tags("plant/l1/x", r#"{"device":"pump","t":1}"#), "topic=plant/l1/x");
    let lamp = r#"{"state":"ON","device":{"ieeeAddr":"0x00158d0001a2b3c4"}}"#;
    assert_eq!(tags("zigbee2mqtt/hall lamp", lamp), "name=hall lamp");
    assert_eq!(tags("te/device/main///m/env", r#"{"t":1}"#), "kind=device type=env");
}

#[test]
fn quality_that_the_device_says_is_a_doubt() {
    let mut decoders = Decoders::new(&config(vec![source("#", Decoder::Auto)])).unwrap();
    let payload = r#"[{"name":"a","value":1,"quality":"BAD"},{"name":"b","value":2,"quality":"GOOD"}]"#;
    let decoded = decoders.decode(0, "x/y", payload.as_bytes(), AT, false).unwrap();
    let doubts: Vec<_> =
        decoded.readings.iter().map(|r| (r.metric.as_str(), r.quality.has(Doubt::Device))).collect();
    assert_eq!(doubts, [("a", true), ("b", false)]);
}

#[test]
fn settings_shape_what_a_decoder_finds() {
    let mut s = source("s/{device}", Decoder::Json);
    s.decoding = Decoding {
        keep: vec!["t*".into(), "relay".into()],
        drop: vec!["*.raw".into()],
        states: [("ON".into(), 1.0), ("OFF".into(), 0.0)].into(),
        scale: [("temp".into(), (0.1, 0.0)), ("tf".into(), (0.5, -16.0))].into(),
        units: [("temp".into(), "°C".into())].into(),
        rename: [("temp".into(), "temperature".into())].into(),
        numbers_in_text: true,
        ..Decoding::default()
    };
    let payload = r#"{"temp":213,"tf":100,"tx":{"raw":1},"relay":"ON","other":5,"tn":"21.5 °C"}"#;
    let decoded = decode_as(s, "s/d", payload).unwrap();
    let shown: Vec<String> = decoded.readings.iter().map(shown).collect();
    assert_eq!(shown, ["d | relay | 1", "d | temperature | 21.3 °C", "d | tf | 34", "d | tn | 21.5 °C"]);
    let mut all_dropped = source("s/{device}", Decoder::Json);
    all_dropped.decoding.drop = vec!["*".into()];
    assert!(
        decode_as(all_dropped, "s/d", payload).unwrap().readings.is_empty(),
        "dropped by choice: no reject"
    );
}

#[test]
fn numbers_in_texts_are_numbers_only_where_asked() {
    let value = |numbers: bool| {
        let mut s = source("#", Decoder::Auto);
        s.decoding.numbers_in_text = numbers;
        decode_as(s, "a/b", r#"{"t":"21.5"}"#).unwrap().readings[0].value.clone()
    };
    assert_eq!((value(false), value(true)), (Value::Text("21.5".into()), Value::Float(21.5)));
}

#[test]
fn records_and_their_paths_are_for_every_source() {
    let mut s = source("gw", Decoder::Json);
    s.decoding.records = Some("data.tags.*".into());
    s.device = Some("{key}".into());
    s.time = Some("$.data.at".into());
    s.payload_tags = [("gw".into(), "^.^.gw".into())].into();
    let payload = r#"{"data":{"at":1714550400,"gw":"g1","tags":{"A":{"t":1},"B":{"t":2}}}}"#;
    let decoded = decode_as(s.clone(), "gw", payload).unwrap();
    let shown: Vec<String> = decoded.readings.iter().map(shown).collect();
    assert_eq!(shown, ["A | t | 1 @1714550400000000", "B | t | 2 @1714550400000000"]);
    assert_eq!(decode_as(s, "gw", "{}").unwrap_err().reason, RejectReason::MissingField);
}
