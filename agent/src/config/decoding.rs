//! How a source's payloads are read, and what is made of their readings: the settings, their words and their reader.

use std::collections::BTreeMap;

use base64::Engine as _;
use toml::Value;
use tributary_contract::reject::RejectReason;

use super::section::Section;

/// Decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoder {
    /// Looks at topic and payload.
    Auto,
    /// JSON objects, arrays of objects, scalars.
    Json,
    /// One value, the whole payload.
    Value,
    /// SenML packs, JSON or CBOR.
    Senml,
    /// Sparkplug B.
    SparkplugB,
    /// CBOR.
    Cbor,
    /// MessagePack.
    MessagePack,
    /// Line protocol.
    LineProtocol,
    /// CSV.
    Csv,
    /// What an ecosystem publishes, by the rules of its preset.
    Preset(&'static str),
}

impl Decoder {
    /// The decoders that read a format, by their words.
    pub const FORMATS: [(&'static str, Decoder); 9] = [
        ("auto", Decoder::Auto),
        ("json", Decoder::Json),
        ("value", Decoder::Value),
        ("senml", Decoder::Senml),
        ("sparkplug-b", Decoder::SparkplugB),
        ("cbor", Decoder::Cbor),
        ("messagepack", Decoder::MessagePack),
        ("line-protocol", Decoder::LineProtocol),
        ("csv", Decoder::Csv),
    ];

    /// The presets; `ingest/decode/presets.toml` has their rules.
    pub const PRESETS: [&'static str; 24] = [
        "aws-iot",
        "azure-iot",
        "bytebeam",
        "chirpstack",
        "cumulocity",
        "ditto",
        "edgex",
        "esphome",
        "evcc",
        "frigate",
        "homeassistant",
        "losant",
        "meshtastic",
        "milesight",
        "ruuvi",
        "shelly",
        "tasmota",
        "telegraf",
        "thin-edge",
        "thingsboard",
        "ttn",
        "victron",
        "zigbee2mqtt",
        "zwave-js-ui",
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Decoder::Preset(name) => name,
            format => Self::FORMATS.iter().find(|(_, d)| *d == format).map_or("auto", |(word, _)| word),
        }
    }

    fn words() -> Vec<(&'static str, Decoder)> {
        Self::FORMATS.into_iter().chain(Self::PRESETS.map(|name| (name, Decoder::Preset(name)))).collect()
    }
}

/// The unit of a time that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

impl TimeUnit {
    /// The units by their words; `auto` goes by the number's size.
    pub const WORDS: [(&'static str, Option<TimeUnit>); 5] = [
        ("auto", None),
        ("s", Some(TimeUnit::Seconds)),
        ("ms", Some(TimeUnit::Millis)),
        ("us", Some(TimeUnit::Micros)),
        ("ns", Some(TimeUnit::Nanos)),
    ];
}

/// What stands beside the paths of a source. Names are metrics as the decoder finds them; globs know `*` and `?`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoding {
    /// Path to what is read by itself, `*` for each member or element.
    pub records: Option<String>,
    /// Unit of a time that is a number; by its size without.
    pub time_unit: Option<TimeUnit>,
    /// Whether a number in a text is a number.
    pub numbers_in_text: bool,
    /// CSV: names of the columns, where no row names them; `-` for one that is no reading.
    pub columns: Vec<String>,
    /// CSV: what separates cells; found out without.
    pub delimiter: Option<char>,
    /// Sparkplug: whether nodes are asked for their birth when it is missing.
    pub no_rebirth: bool,
    /// Globs of metrics that are kept; all without.
    pub keep: Vec<String>,
    /// Globs of metrics that are dropped.
    pub drop: Vec<String>,
    /// New names of metrics.
    pub rename: BTreeMap<String, String>,
    /// By glob of metrics: numbers are multiplied by the first and the second is added.
    pub scale: BTreeMap<String, (f64, f64)>,
    /// Units by glob of metrics.
    pub units: BTreeMap<String, String>,
    /// Numbers that texts stand for.
    pub states: BTreeMap<String, f64>,
    /// Payloads with what they must become.
    pub samples: Vec<Sample>,
}

/// A payload with what it must become.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// What it must become.
    pub expect: Expect,
}

/// What a sample must become.
#[derive(Debug, Clone, PartialEq)]
pub enum Expect {
    /// At least these readings.
    Readings(Vec<ExpectedReading>),
    /// Nothing at all, for this reason, if one is named.
    Reject(Option<RejectReason>),
}

/// A reading that must come out; what isn't said isn't asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExpectedReading {
    /// Device.
    pub device: Option<String>,
    /// Metric.
    pub metric: Option<String>,
    /// Value, as it is shown.
    pub value: Option<String>,
    /// Time, RFC 3339.
    pub ts: Option<String>,
    /// Unit.
    pub unit: Option<String>,
}

/// Reads the decoder of a source.
pub(super) fn read_decoder(s: &mut Section<'_>) -> Decoder {
    s.choice("decoder", &Decoder::words(), Decoder::Auto)
}

/// Reads all else.
pub(super) fn read(s: &mut Section<'_>) -> Decoding {
    let delimiter = s.parsed("delimiter", |text| {
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(c),
            _ => Err(format!("got {text:?}, expected one character, such as \";\"")),
        }
    });
    Decoding {
        records: s.string("records"),
        time_unit: s.choice("time_unit", &TimeUnit::WORDS, None),
        numbers_in_text: s.boolean("numbers_in_text", false),
        columns: s.strings("columns"),
        delimiter,
        no_rebirth: !s.boolean("rebirth", true),
        keep: s.strings("keep"),
        drop: s.strings("drop"),
        rename: s.map("rename"),
        scale: numbers(s, "scale", true),
        units: s.map("units"),
        states: numbers(s, "states", false).into_iter().map(|(word, (number, _))| (word, number)).collect(),
        samples: s.sections("sample").into_iter().filter_map(read_sample).collect(),
    }
}

fn finite(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Float(n) if n.is_finite() => Some(*n),
        _ => None,
    }
}

/// A table of numbers; with `pairs`, `[factor, offset]` too.
pub(super) fn numbers(s: &mut Section<'_>, key: &'static str, pairs: bool) -> BTreeMap<String, (f64, f64)> {
    let hint = if pairs { "a number, or [factor, offset]" } else { "a number" };
    let mut out = BTreeMap::new();
    match s.value(key) {
        None => {}
        Some(Value::Table(table)) => {
            for (name, value) in table {
                let read = match &value {
                    Value::Array(two) if pairs && two.len() == 2 => {
                        two.first().and_then(finite).zip(two.get(1).and_then(finite))
                    }
                    one => finite(one).map(|n| (n, 0.0)),
                };
                match read {
                    Some(read) => drop(out.insert(name, read)),
                    None => s.problem(&format!("{key}.{name}"), format!("got {value}, expected {hint}")),
                }
            }
        }
        Some(other) => s.problem(key, format!("got {other}, expected a table: {{ name = 1 }}")),
    }
    out
}

fn read_sample(mut s: Section<'_>) -> Option<Sample> {
    let topic = s.required("topic", "\"sensors/d1/temp\"");
    let text = s.string("payload");
    let base64 = s.parsed("payload_base64", |text| {
        base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| format!("isn't base64: {e}"))
    });
    let payload = match (text, base64) {
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(bytes)) => Some(bytes),
        _ => {
            s.problem("payload", "or `payload_base64` is needed, one of the two");
            None
        }
    };
    let reject = s.parsed("reject", |code| match code {
        "any" => Ok(None),
        code => RejectReason::from_code(code).map(Some).ok_or_else(|| {
            let known = RejectReason::ALL.iter().map(|r| r.code()).collect::<Vec<_>>().join(", ");
            format!("got {code:?}, expected \"any\" or one of {known}")
        }),
    });
    let readings: Vec<ExpectedReading> = s.sections("expect").into_iter().map(read_expected).collect();
    let expect = match (reject, readings.is_empty()) {
        (Some(reason), true) => Some(Expect::Reject(reason)),
        (None, false) => Some(Expect::Readings(readings)),
        _ => {
            s.problem("expect", "or `reject` is needed, one of the two: what the payload must become");
            None
        }
    };
    s.finish();
    Some(Sample { topic, payload: payload?, expect: expect? })
}

fn read_expected(mut s: Section<'_>) -> ExpectedReading {
    let value = s.value("value").map(|value| match value {
        Value::String(text) => text,
        Value::Float(n) => n.to_string(),
        other => other.to_string(),
    });
    let expected = ExpectedReading {
        device: s.string("device"),
        metric: s.string("metric"),
        value,
        ts: s.string("ts"),
        unit: s.string("unit"),
    };
    s.finish();
    expected
}
