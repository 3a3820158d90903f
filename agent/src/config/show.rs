//! What is in force, as lines of `key = value` for people.

use super::{Condition, Config, Credentials, Function, MqttVersion, ReleaseOn, Upload};

/// The effective configuration, one key a line. Names files that hold secrets, never the secrets.
pub fn show(c: &Config) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut line = |key: &str, value: String| lines.push(format!("{key} = {value}\n"));
    line("gateway", quote(c.gateway.as_str()));
    line("state_dir", quote(&c.state_dir.display().to_string()));
    for (k, v) in &c.tags {
        line(&format!("tags.{k}"), quote(v));
    }
    for (i, b) in c.brokers.iter().enumerate() {
        let at = |key: &str| format!("broker[{i}].{key}");
        let scheme = if b.tls { "mqtts" } else { "mqtt" };
        line(&at("url"), quote(&format!("{scheme}://{}:{}", b.host, b.port)));
        line(&at("client_id"), quote(&b.client_id));
        line(&at("version"), quote(if b.version == MqttVersion::V5 { "5" } else { "3.1.1" }));
        line(&at("inflight_window"), b.inflight_window.to_string());
        line(&at("marker"), quote(b.marker.as_deref().unwrap_or("off")));
        line(&at("resends"), b.resends.to_string());
        line(&at("keep_alive"), duration(b.keep_alive));
        line(&at("session_expiry"), duration(b.session_expiry));
    }
    for (i, s) in c.sources.iter().enumerate() {
        let at = |key: &str| format!("source[{i}].{key}");
        line(&at("name"), quote(&s.name));
        line(&at("topics"), format!("{:?}", s.topics));
        line(&at("qos"), s.qos.to_string());
        line(&at("decoder"), quote(s.decoder.word()));
        for (key, path) in [
            ("time", &s.time),
            ("value", &s.value),
            ("device", &s.device),
            ("metric", &s.metric),
            ("unit", &s.unit),
        ] {
            if let Some(path) = path {
                line(&at(key), quote(path));
            }
        }
        line(&at("namespace"), quote(s.namespace.as_str()));
        line(&at("priority"), s.priority.to_string());
        let upload = match s.upload {
            Upload::Both => "both",
            Upload::Readings => "readings",
            Upload::Aggregates => "aggregates",
        };
        line(&at("upload"), quote(upload));
        for (metric, band) in &s.deadband {
            line(&at(&format!("deadband.{}", quote(metric))), band.to_string());
        }
        if !s.deadband.is_empty() {
            line(&at("deadband_every"), duration(s.deadband_every));
        }
    }
    line("buffer.max_bytes", bytes(c.buffer.max_bytes));
    line("buffer.min_free", bytes(c.buffer.min_free));
    line("buffer.ballast", bytes(c.buffer.ballast));
    line("buffer.commit_interval", duration(c.buffer.commit_interval));
    line("buffer.flash_per_day", bytes(c.buffer.flash_per_day));
    line("buffer.flash_endurance", bytes(c.buffer.flash_endurance));
    let release = if c.buffer.release_on == ReleaseOn::Registered { "registered" } else { "delivered" };
    line("buffer.release_on", quote(release));
    line("buffer.retain", duration(c.buffer.retain));
    line("buffer.dedupe_window", duration(c.buffer.dedupe_window));
    line("buffer.dedupe_messages", c.buffer.dedupe_messages.to_string());
    for (i, w) in c.windows.iter().enumerate() {
        let at = |key: &str| format!("window[{i}].{key}");
        line(&at("name"), quote(&w.name));
        line(&at("size"), duration(w.size));
        line(&at("every"), duration(w.every));
        line(&at("time_zone"), quote(w.zone.as_ref().map_or("UTC", |z| &z.name)));
        for (key, globs) in w.of.keys() {
            if !globs.is_empty() {
                line(&at(key), list(globs.iter().map(String::as_str)));
            }
        }
        for (glob, functions) in &w.functions {
            let names = Function::ALL.iter().filter(|f| functions.has(**f)).map(|f| f.name());
            line(&format!("{}.{}", at("functions"), quote(glob)), list(names));
        }
        if let Some(topic) = &w.publish {
            line(&at("publish"), quote(&topic.to_string()));
        }
        line(&at("lateness"), duration(w.lateness));
        line(&at("idle"), duration(w.idle));
        line(&at("correction_horizon"), duration(w.correction_horizon));
    }
    for (i, a) in c.alerts.iter().enumerate() {
        let at = |key: &str| format!("alert[{i}].{key}");
        line(&at("name"), quote(&a.name));
        line(&at("severity"), quote(a.severity.name()));
        for (key, globs) in a.of.keys() {
            if !globs.is_empty() {
                line(&at(key), list(globs.iter().map(String::as_str)));
            }
        }
        match a.condition {
            Condition::Above { threshold, clear } => {
                line(&at("above"), threshold.to_string());
                line(&at("clear"), clear.to_string());
            }
            Condition::Below { threshold, clear } => {
                line(&at("below"), threshold.to_string());
                line(&at("clear"), clear.to_string());
            }
            Condition::Changes { per_second } => line(&at("changes"), per_second.to_string()),
            Condition::Deviates { deviations, readings } => {
                line(&at("deviates"), deviations.to_string());
                line(&at("over"), readings.to_string());
            }
            Condition::Silent { after } => line(&at("silent"), duration(after)),
        }
        line(&at("hold"), duration(a.hold));
        if let Some(topic) = &a.publish {
            line(&at("publish"), quote(&topic.to_string()));
        }
    }
    line("segment.max_rows", c.segment.max_rows.to_string());
    line("segment.max_bytes", bytes(c.segment.max_bytes));
    line("segment.max_age", duration(c.segment.max_age));
    line("bucket.url", quote(&format!("s3://{}/{}", c.bucket.name, c.bucket.prefix.as_str())));
    if let Some(endpoint) = &c.bucket.endpoint {
        line("bucket.endpoint", quote(endpoint));
    }
    line("bucket.region", quote(&c.bucket.region));
    line("bucket.credentials", c.bucket.credentials.show());
    if let Credentials::Iot(iot) = &c.bucket.credentials {
        let at = |key: &str| format!("bucket.iot.{key}");
        line(&at("endpoint"), quote(&iot.endpoint));
        line(&at("role_alias"), quote(&iot.role_alias));
        line(&at("thing_name"), quote(&iot.thing_name));
        line(&at("cert_file"), quote(&iot.cert_file.display().to_string()));
        line(&at("key_file"), quote(&iot.key_file.display().to_string()));
        if let Some(path) = &iot.ca_file {
            line(&at("ca_file"), quote(&path.display().to_string()));
        }
    }
    if let Some(path) = &c.bucket.ca_file {
        line("bucket.ca_file", quote(&path.display().to_string()));
    }
    line("bucket.proxy", quote(c.bucket.proxy.word()));
    line("bucket.part_size", bytes(c.bucket.part_size));
    let l = &c.link;
    line("link.profile", quote(l.profile.name()));
    line("link.paused", l.paused.to_string());
    line("link.max_rate", bytes(l.max_rate));
    line("link.max_per_day", bytes(l.max_per_day));
    line("link.max_per_month", bytes(l.max_per_month));
    let hours: Vec<String> = l.hours.iter().map(ToString::to_string).collect();
    line("link.hours", list(hours.iter().map(String::as_str)));
    line("link.time_zone", quote(l.zone.as_ref().map_or("UTC", |z| &z.name)));
    line("link.order", quote(l.order.name()));
    line("link.uploads", l.uploads.to_string());
    line("link.receipt_pause", duration(l.receipt_pause));
    line("link.receipt_longest", duration(l.receipt_longest));
    line("status.listen", quote(&c.status.listen.map_or("off".into(), |a| a.to_string())));
    line("status.every", duration(c.status.every));
    line("limits.payload", bytes(c.limits.payload as u64));
    line("limits.depth", c.limits.depth.to_string());
    line("limits.readings", c.limits.readings.to_string());
    line("limits.text", bytes(c.limits.text as u64));
    line("limits.series", c.limits.series.to_string());
    line("limits.device_series", c.limits.device_series.to_string());
    line("limits.open_windows", c.limits.open_windows.to_string());
    lines.concat()
}

fn list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(quote).collect::<Vec<_>>().join(", "))
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn bytes(n: u64) -> String {
    quote(&bytesize::ByteSize(n).display().iec().to_string())
}

fn duration(micros: i64) -> String {
    let duration = std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    quote(&humantime::format_duration(duration).to_string())
}
