//! Reads the configuration from TOML and names every problem at once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::Value;
use tributary_contract::id::{GatewayId, Namespace};
use tributary_contract::time::DAY_MICROS;

pub use super::section::Problem;
use super::section::{Problems, Section};
use super::{
    Broker, Buffer, Config, Function, Functions, HOUR, Limits, MINUTE, MqttVersion, PRIORITY, ReleaseOn,
    SECOND, Segment, Selection, Source, Status, TopicPattern, Upload, Window, Zone, alerts, bucket, decoding,
    link,
};

/// What the configuration may refer to but can't know: read once, at the edge.
pub struct Facts<'a> {
    /// Environment variables, for `${NAME}`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Host name, for `{hostname}`.
    pub hostname: Option<String>,
    /// Serial number of the board, for `{serial}`.
    pub serial: Option<String>,
    /// The time zones that this machine knows, by their names.
    pub zones: &'a dyn Fn(&str) -> Option<Zone>,
}

/// Host names that many gateways share out of the box.
const STOCK_NAMES: &[&str] = &[
    "raspberrypi",
    "localhost",
    "raspberry",
    "debian",
    "ubuntu",
    "gateway",
    "beaglebone",
    "orangepi",
    "armbian",
];

/// Largest duration that settings take: ten years.
const LONG: i64 = 3650 * DAY_MICROS;

/// Reads `texts` (the file, then those of `conf.d`, each with its name), merges them and checks everything.
/// Later files win over earlier ones; lists of tables (`[[source]]`, …) are joined.
pub fn parse(texts: &[(String, String)], facts: &Facts<'_>) -> Result<Config, Vec<Problem>> {
    let problems: Problems = RefCell::new(Vec::new());
    let mut merged = toml::Table::new();
    for (name, text) in texts {
        match text.parse::<toml::Table>() {
            Ok(table) => merge(&mut merged, table),
            Err(e) => problems.borrow_mut().push(Problem {
                path: String::new(),
                message: format!("{name}: {}", e.to_string().trim_end()),
            }),
        }
    }
    if !problems.borrow().is_empty() {
        return Err(problems.into_inner());
    }
    expand_table(&mut merged, "", facts, &problems);
    let config = read(Section::root(merged, &problems), facts);
    let problems = problems.into_inner();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(new)) if new.iter().all(Value::is_table) => {
                old.extend(new)
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn expand_table(table: &mut toml::Table, path: &str, facts: &Facts<'_>, problems: &Problems) {
    for (key, value) in table.iter_mut() {
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        expand(value, &path, facts, problems);
    }
}

fn expand(value: &mut Value, path: &str, facts: &Facts<'_>, problems: &Problems) {
    match value {
        Value::String(text) => match expand_text(text, facts.env) {
            Ok(expanded) => *text = expanded,
            Err(message) => problems.borrow_mut().push(Problem { path: path.to_owned(), message }),
        },
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                expand(item, &format!("{path}[{i}]"), facts, problems);
            }
        }
        Value::Table(table) => expand_table(table, path, facts, problems),
        _ => {}
    }
}

/// Puts environment variables in the place of `${NAME}`; `$$` stands for a dollar.
fn expand_text(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(after) = from.strip_prefix("${") {
            let (name, after) =
                after.split_once('}').ok_or("has `${` without `}`; write `$$` for a dollar")?;
            let value = env(name).ok_or_else(|| format!("environment variable {name} isn't set"))?;
            out.push_str(&value);
            rest = after;
        } else {
            out.push('$');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn read(mut root: Section<'_>, facts: &Facts<'_>) -> Option<Config> {
    let gateway = read_gateway(&mut root, facts);
    let state_dir = root.string("state_dir").unwrap_or_else(|| "/var/lib/tributary".into());
    let tags = root.map("tags");
    let brokers = read_brokers(&mut root, gateway.as_ref());
    let sources = read_sources(&mut root);
    let buffer = read_buffer(root.section("buffer"));
    let windows = read_windows(&mut root, facts);
    for (i, source) in sources.iter().enumerate() {
        if source.upload == Upload::Aggregates && windows.is_empty() {
            let why =
                "is \"aggregates\", but there is no [[window]] that makes any: nothing would be uploaded";
            root.problem(&format!("source[{i}].upload"), why);
        }
    }
    for (i, source) in sources.iter().enumerate() {
        if !source.deadband.is_empty() && windows.is_empty() {
            let why = "is set, but there is no [[window]] whose aggregates could stand for what is kept back";
            root.problem(&format!("source[{i}].deadband"), why);
        }
    }
    let alerts = alerts::read(&mut root);
    let link = link::read(&mut root, facts);
    let segment = read_segment(root.section("segment"), link.profile.segment());
    let bucket = bucket::read(&mut root, gateway.as_ref());
    let status = read_status(root.section("status"), link.profile.status());
    let limits = read_limits(root.section("limits"));
    root.finish();
    Some(Config {
        gateway: gateway?,
        state_dir: PathBuf::from(state_dir),
        tags,
        brokers,
        sources,
        buffer,
        windows,
        alerts,
        segment,
        bucket: bucket?,
        link,
        status,
        limits,
    })
}

fn read_gateway(root: &mut Section<'_>, facts: &Facts<'_>) -> Option<GatewayId> {
    let mut name = root.required("gateway", "\"plant-7-gw-2\"");
    if name.is_empty() {
        return None;
    }
    for (mark, fact, what) in
        [("{hostname}", &facts.hostname, "host name"), ("{serial}", &facts.serial, "board serial number")]
    {
        if name.contains(mark) {
            match fact {
                Some(value) => name = name.replace(mark, value),
                None => {
                    root.problem(
                        "gateway",
                        format!("{mark} can't be filled in: this machine tells no {what}"),
                    );
                    return None;
                }
            }
        }
    }
    if STOCK_NAMES.contains(&name.to_ascii_lowercase().as_str()) {
        root.problem(
            "gateway",
            format!("{name:?} is a name that many machines share; choose one that no other gateway has"),
        );
        return None;
    }
    match GatewayId::new(name) {
        Ok(id) => Some(id),
        Err(e) => {
            root.problem("gateway", e.to_string());
            None
        }
    }
}

fn read_brokers(root: &mut Section<'_>, gateway: Option<&GatewayId>) -> Vec<Broker> {
    let mut brokers: Vec<Broker> = Vec::new();
    let sections = root.sections("broker");
    if sections.is_empty() {
        root.problem("broker", "is missing; write `[[broker]]` and `url = \"mqtt://127.0.0.1:1883\"`");
    }
    for mut s in sections {
        let url = s.required("url", "\"mqtt://127.0.0.1:1883\"");
        let (tls, host, port) = match parse_broker_url(&url) {
            Ok(parts) => parts,
            Err(message) => {
                if !url.is_empty() {
                    s.problem("url", message);
                }
                (false, String::new(), 1883)
            }
        };
        let version =
            s.choice("version", &[("5", MqttVersion::V5), ("3.1.1", MqttVersion::V311)], MqttVersion::V5);
        let window = if version == MqttVersion::V5 { 1000 } else { 20 };
        let client_id =
            s.string("client_id").unwrap_or_else(|| gateway.map(|g| g.to_string()).unwrap_or_default());
        if client_id.is_empty() && gateway.is_some() {
            s.problem("client_id", "is empty; the broker keeps the session under this name, so it needs one");
        }
        let marker = match s.string("marker") {
            None => Some(format!("tributary/{}/marker", client_id.replace(['/', '+', '#'], "-"))),
            Some(off) if off == "off" => None,
            Some(topic) if topic.is_empty() || topic.contains(['+', '#', '\0']) => {
                s.problem("marker", format!("got {topic:?}, expected a topic without wildcards, or \"off\""));
                None
            }
            Some(topic) => Some(topic),
        };
        let broker = Broker {
            host,
            port,
            tls,
            client_id,
            version,
            username: s.string("username"),
            password_file: s.string("password_file").map(PathBuf::from),
            ca_file: s.string("ca_file").map(PathBuf::from),
            cert_file: s.string("cert_file").map(PathBuf::from),
            key_file: s.string("key_file").map(PathBuf::from),
            inflight_window: s.integer("inflight_window", 1..=65_535, window) as u16,
            marker,
            resends: s.boolean("resends", false),
            keep_alive: s.duration("keep_alive", 5 * SECOND..=18 * HOUR, 30 * SECOND),
            session_expiry: s.duration("session_expiry", SECOND..=LONG, 30 * DAY_MICROS),
        };
        if broker.cert_file.is_some() != broker.key_file.is_some() {
            s.problem("cert_file", "and `key_file` belong together; set both or none");
        }
        if !broker.tls && (broker.ca_file.is_some() || broker.cert_file.is_some()) {
            s.problem("url", "certificates are set, but the URL is without TLS; write mqtts://");
        }
        if brokers
            .iter()
            .any(|b| b.host == broker.host && b.port == broker.port && b.client_id == broker.client_id)
        {
            s.problem(
                "client_id",
                "is used by another [[broker]] of the same address; they would cut each other off",
            );
        }
        s.finish();
        brokers.push(broker);
    }
    brokers
}

/// `mqtt://host[:port]` or `mqtts://host[:port]`.
fn parse_broker_url(url: &str) -> Result<(bool, String, u16), String> {
    let example = "write mqtt://HOST:1883 or mqtts://HOST:8883";
    let (tls, rest) = match url.split_once("://") {
        Some(("mqtt", rest)) => (false, rest),
        Some(("mqtts", rest)) => (true, rest),
        _ => return Err(format!("got {url:?}, {example}")),
    };
    if rest.contains('@') {
        return Err("holds credentials; use `username` and `password_file`".into());
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let default = if tls { 8883 } else { 1883 };
    let (host, port) = match rest.rsplit_once(':') {
        // A bare IPv6 address stands in brackets: `[::1]` or `[::1]:1883`.
        Some((host, port)) if !port.contains(']') => {
            (host, port.parse::<u16>().map_err(|_| format!("got port {port:?}, {example}"))?)
        }
        _ => (rest, default),
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(['/', '?', '#', ' ']) || port == 0 {
        return Err(format!("got {url:?}, {example}"));
    }
    Ok((tls, host.to_owned(), port))
}

fn read_sources(root: &mut Section<'_>) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    let sections = root.sections("source");
    if sections.is_empty() {
        root.problem(
            "source",
            "is missing; write `[[source]]`, `name = \"plant\"` and `topics = [\"sensors/#\"]`",
        );
    }
    for mut s in sections {
        let name = s.required("name", "\"plant\"");
        if sources.iter().any(|o| o.name == name && !name.is_empty()) {
            s.problem("name", format!("{name:?} is used twice; each source needs its own name"));
        }
        let topics = s.strings("topics");
        if topics.is_empty() {
            s.problem("topics", "is missing or empty; write `topics = [\"sensors/{device}/{metric}\"]`");
        }
        if let Some(qos) = s.value("qos") {
            check_qos(&s, &qos);
        }
        let decoder = decoding::read_decoder(&mut s);
        let source = Source {
            name,
            topics,
            qos: 1,
            decoder,
            time: s.string("time"),
            value: s.string("value"),
            device: s.string("device"),
            metric: s.string("metric"),
            unit: s.string("unit"),
            payload_tags: s.map("payload_tags"),
            row_tags: s.map("row_tags"),
            decoding: decoding::read(&mut s),
            tags: s.map("tags"),
            namespace: s.parsed("namespace", |n| Namespace::new(n)).unwrap_or_default(),
            priority: s.integer("priority", 1..=9, i64::from(PRIORITY)) as u8,
            upload: s.choice(
                "upload",
                &[("both", Upload::Both), ("readings", Upload::Readings), ("aggregates", Upload::Aggregates)],
                Upload::Both,
            ),
            deadband: read_deadband(&mut s),
            deadband_every: s.duration("deadband_every", SECOND..=LONG, HOUR),
        };
        if !source.deadband.is_empty() && source.upload != Upload::Both {
            s.problem(
                "deadband",
                "is for readings and aggregates that are both uploaded: `upload` says otherwise",
            );
        }
        s.finish();
        sources.push(source);
    }
    sources
}

/// `{ "temp*" = 0.5 }`
fn read_deadband(s: &mut Section<'_>) -> Vec<(String, f64)> {
    let bands = decoding::numbers(s, "deadband", false);
    let bands: Vec<(String, f64)> = bands.into_iter().map(|(metric, (band, _))| (metric, band)).collect();
    for (metric, band) in bands.iter().filter(|(_, band)| *band < 0.0) {
        s.problem(
            "deadband",
            format!("of {metric:?} is {band}; it must be 0 at least: a distance, up or down"),
        );
    }
    bands
}

fn check_qos(s: &Section<'_>, value: &Value) {
    match value {
        Value::Integer(1) => {}
        Value::Integer(2) => s.problem(
            "qos",
            "2 is refused: a persistent QoS 2 session can't be kept through the client library; write 1",
        ),
        _ => s.problem("qos", "expected 1, the QoS at which a message is acknowledged after it is durable"),
    }
}

fn read_buffer(mut s: Section<'_>) -> Buffer {
    let d = Buffer::default();
    let buffer = Buffer {
        max_bytes: s.bytes("max_bytes", 16 << 20..=1 << 50, d.max_bytes),
        min_free: s.bytes("min_free", 0..=1 << 50, d.min_free),
        ballast: s.bytes("ballast", 0..=1 << 30, d.ballast),
        commit_interval: s.duration("commit_interval", 10_000..=MINUTE, d.commit_interval),
        flash_per_day: s.bytes("flash_per_day", 0..=1 << 50, d.flash_per_day),
        flash_endurance: s.bytes("flash_endurance", 0..=1 << 60, d.flash_endurance),
        release_on: s.choice(
            "release_on",
            &[("registered", ReleaseOn::Registered), ("delivered", ReleaseOn::Delivered)],
            d.release_on,
        ),
        retain: s.duration("retain", 0..=LONG, d.retain),
        dedupe_window: s.duration("dedupe_window", 0..=7 * DAY_MICROS, d.dedupe_window),
        dedupe_messages: s.integer("dedupe_messages", 0..=10_000_000, d.dedupe_messages as i64) as usize,
    };
    s.finish();
    buffer
}

/// How many windows of one kind may hold the same reading: each is folded from the journal by itself.
const OVERLAPS: i64 = 60;

fn read_windows(root: &mut Section<'_>, facts: &Facts<'_>) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for mut s in root.sections("window") {
        let name = s.required("name", "\"1m\"");
        if windows.iter().any(|w| w.name == name && !name.is_empty()) {
            s.problem("name", format!("{name:?} is used twice; each window needs its own name"));
        }
        let size = s.duration("size", SECOND..=366 * DAY_MICROS, MINUTE);
        let every = s.duration("every", SECOND..=366 * DAY_MICROS, size);
        if DAY_MICROS % every != 0 && every % DAY_MICROS != 0 {
            s.problem(
                if every == size { "size" } else { "every" },
                "doesn't divide a day; use for example \"1m\", \"5m\", \"15m\", \"1h\" or \"1d\"",
            );
        }
        if size % every != 0 {
            s.problem("every", "doesn't divide `size`: the window must be a whole number of steps");
        } else if size / every > OVERLAPS {
            s.problem(
                "every",
                format!(
                    "is too short: each reading would be in {} windows, {OVERLAPS} at most",
                    size / every
                ),
            );
        }
        let d = Window::tumbling(&name, size);
        let window = Window {
            every,
            zone: read_zone(&mut s, facts),
            of: Selection::read(&mut s),
            functions: read_functions(&mut s),
            publish: s.parsed("publish", TopicPattern::parse),
            lateness: s.duration("lateness", 0..=7 * DAY_MICROS, d.lateness),
            idle: s.duration("idle", SECOND..=30 * DAY_MICROS, d.idle),
            correction_horizon: s.duration("correction_horizon", 0..=30 * DAY_MICROS, d.correction_horizon),
            ..d
        };
        s.finish();
        windows.push(window);
    }
    windows
}

pub(super) fn read_zone(s: &mut Section<'_>, facts: &Facts<'_>) -> Option<Zone> {
    s.parsed("time_zone", |name| {
        if name == "UTC" {
            return Ok(None);
        }
        (facts.zones)(name).map(Some).ok_or_else(|| {
            format!(
                "time zone {name:?} isn't known on this machine; write one of the tz database, for example \
                 \"Europe/Berlin\", and install the package `tzdata` where /usr/share/zoneinfo is missing"
            )
        })
    })
    .flatten()
}

/// `["min", "max"]` for all metrics, or `{ "temp*" = ["mean"] }` for some.
fn read_functions(s: &mut Section<'_>) -> Vec<(String, Functions)> {
    let value = s.value("functions");
    let of = |key: &str, value: Value| {
        let Value::Array(names) = value else {
            s.problem(key, "expected a list of names: [\"min\", \"max\"]");
            return None;
        };
        let read = names.iter().map(|name| name.as_str().unwrap_or_default().parse::<Function>());
        match read.collect::<Result<Functions, String>>() {
            Ok(functions) => Some(functions),
            Err(e) => {
                s.problem(key, e);
                None
            }
        }
    };
    match value {
        None => Vec::new(),
        Some(Value::Table(table)) => {
            let each = |(glob, names)| of(&format!("functions.{glob}"), names).map(|f| (glob, f));
            table.into_iter().filter_map(each).collect()
        }
        Some(list) => of("functions", list).map(|f| ("*".to_owned(), f)).into_iter().collect(),
    }
}

fn read_segment(mut s: Section<'_>, d: Segment) -> Segment {
    let segment = Segment {
        max_rows: s.integer("max_rows", 1000..=10_000_000, d.max_rows as i64) as u64,
        max_bytes: s.bytes("max_bytes", 64 << 10..=64 << 20, d.max_bytes),
        max_age: s.duration("max_age", SECOND..=DAY_MICROS, d.max_age),
    };
    s.finish();
    segment
}

fn read_status(mut s: Section<'_>, d: Status) -> Status {
    let listen = match s.string("listen") {
        None => d.listen,
        Some(off) if off == "off" => None,
        Some(text) => match text.parse::<std::net::SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Some(address),
            Ok(_) => {
                s.problem(
                    "listen",
                    format!("got {text:?}; it has no password, so it must be a loopback address"),
                );
                None
            }
            Err(_) => {
                s.problem("listen", format!("got {text:?}; write \"127.0.0.1:9617\" or \"off\""));
                None
            }
        },
    };
    let status = Status { listen, every: s.duration("every", SECOND..=DAY_MICROS, d.every) };
    s.finish();
    status
}

fn read_limits(mut s: Section<'_>) -> Limits {
    let d = Limits::default();
    let limits = Limits {
        payload: s.bytes("payload", 16..=16 << 20, d.payload as u64) as usize,
        depth: s.integer("depth", 1..=100, d.depth as i64) as usize,
        readings: s.integer("readings", 1..=1_000_000, d.readings as i64) as usize,
        text: s.bytes("text", 16..=1 << 20, d.text as u64) as usize,
        series: s.integer("series", 1..=10_000_000, d.series as i64) as usize,
        device_series: s.integer("device_series", 1..=10_000_000, d.device_series as i64) as usize,
        open_windows: s.integer("open_windows", 1..=100_000_000, d.open_windows as i64) as usize,
    };
    s.finish();
    limits
}

impl Config {
    /// The namespaces that this gateway writes, each once.
    pub fn namespaces(&self) -> Vec<Namespace> {
        self.sources.iter().map(|s| s.namespace.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
