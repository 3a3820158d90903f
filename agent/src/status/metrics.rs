//! The status in Prometheus' text format: few metrics, named for what they count.

use std::fmt::Write;

use tributary_contract::status::{GatewayStatus, Health};
use tributary_contract::time::Timestamp;

use super::health_word;

/// The exposition, version 0.0.4 of the format.
pub fn render(status: &GatewayStatus) -> String {
    let mut out = Out::default();
    let (m, r) = (&status.counters.messages, &status.counters.readings);
    out.family("tributary_info", "gauge", "The agent's version.");
    let named = [
        ("version", status.agent.as_str()),
        ("gateway", status.gateway.as_str()),
        ("epoch", &status.epoch.to_string()),
    ];
    out.sample("tributary_info", &named, 1.0);
    out.family("tributary_health", "gauge", "1 for the word that holds: ok, degraded or losing.");
    for health in [Health::Ok, Health::Degraded, Health::Losing] {
        let holds = f64::from(u8::from(health == status.health));
        out.sample("tributary_health", &[("health", health_word(health))], holds);
    }
    let messages = [("accepted", m.accepted), ("redelivered", m.redelivered), ("rejected", m.rejected)];
    out.counts(
        "tributary_messages_total",
        "Messages of this epoch by what became of them.",
        "became",
        &messages,
    );
    let readings = [
        ("journaled", r.journaled),
        ("moved-in", r.moved_in),
        ("sealed", r.sealed),
        ("summarised", r.summarised),
        ("shed", r.shed),
        ("expired", r.expired),
        ("torn", r.torn),
        ("moved-out", r.moved_out),
        ("registered", r.registered),
        ("quarantined", r.quarantined),
        ("discarded", r.discarded),
        ("superseded", r.superseded),
    ];
    out.counts(
        "tributary_readings_total",
        "Readings of this epoch, counted by each event of their way.",
        "event",
        &readings,
    );
    let waiting = [("waiting", r.waiting()), ("outstanding", r.outstanding())];
    out.family("tributary_readings", "gauge", "Readings that have no end yet.");
    for (state, n) in waiting {
        out.sample("tributary_readings", &[("state", state)], n as f64);
    }
    let rejected: Vec<_> = status.rejected.iter().map(|(reason, n)| (reason.as_str(), *n)).collect();
    out.counts("tributary_rejected_total", "Rejected messages by reason.", "reason", &rejected);
    out.one("tributary_buffer_bytes", "gauge", "Bytes of the buffer on disk.", status.buffer.bytes as f64);
    out.one("tributary_buffer_max_bytes", "gauge", "Budget of the buffer.", status.buffer.max_bytes as f64);
    out.one(
        "tributary_buffer_commits_total",
        "counter",
        "Durable commits since the start.",
        status.buffer.commits as f64,
    );
    if let Some(flash) = &status.flash {
        let own = "Bytes that the agent caused to be written since the start.";
        out.one("tributary_flash_own_bytes_total", "counter", own, flash.own_bytes as f64);
        if let Some(bytes) = flash.device_bytes {
            let help = "Bytes written to the device of the buffer since the start, by anybody.";
            out.one("tributary_flash_device_bytes_total", "counter", help, bytes as f64);
        }
        let payload = "Bytes of payloads taken in since the start.";
        out.one("tributary_payload_bytes_total", "counter", payload, flash.payload_bytes as f64);
        let interval = flash.commit_interval_ms as f64 / 1e3;
        out.one("tributary_commit_interval_seconds", "gauge", "Commit interval in force.", interval);
        if let Some(days) = flash.life_days {
            let help = "Days left of the device's rated endurance at the present rate.";
            out.one("tributary_flash_life_days", "gauge", help, days);
        }
    }
    if let Some(oldest) = status.buffer.oldest_unsafe {
        let help = "Event time of the oldest reading that isn't known as registered.";
        out.one("tributary_oldest_unsafe_timestamp_seconds", "gauge", help, seconds(oldest));
    }
    let s = &status.segments;
    out.family("tributary_segments", "gauge", "Segments on disk by state.");
    let states = [
        ("undelivered", s.undelivered),
        ("unregistered", s.unregistered),
        ("held", s.held),
        ("quarantined", s.quarantined),
        ("superseded", s.superseded),
    ];
    for (state, n) in states {
        out.sample("tributary_segments", &[("state", state)], n as f64);
    }
    let passed = [("sealed", s.sealed), ("delivered", s.delivered), ("registered", s.registered)];
    out.counts("tributary_segments_total", "Segments of this epoch that got this far.", "event", &passed);
    out.one(
        "tributary_backlog_bytes",
        "gauge",
        "Bytes of segments that aren't delivered.",
        s.backlog_bytes as f64,
    );
    out.one(
        "tributary_sent_bytes_total",
        "counter",
        "Bytes of objects sent since the start.",
        status.link.bytes_sent as f64,
    );
    out.one(
        "tributary_requests_total",
        "counter",
        "Requests to the bucket since the start.",
        status.link.requests as f64,
    );
    let failing = f64::from(u8::from(status.link.failing.is_some()));
    out.one("tributary_link_failing", "gauge", "1 while the bucket can't be reached or refuses us.", failing);
    if let Some(link) = &status.link.policy {
        let help = "Bytes on the wire on this local day, both ways, estimated.";
        out.one("tributary_link_today_bytes", "gauge", help, link.today_bytes as f64);
        let help = "Bytes on the wire in this local month, both ways, estimated.";
        out.one("tributary_link_month_bytes", "gauge", help, link.month_bytes as f64);
        let waits = f64::from(u8::from(link.waits.is_some()));
        out.one(
            "tributary_link_waits",
            "gauge",
            "1 while something waits for budget, hours or a pause.",
            waits,
        );
        if let Some(rate) = link.rate {
            let help = "Bytes a second that the link carries, as measured.";
            out.one("tributary_link_bytes_per_second", "gauge", help, rate as f64);
        }
        if let Some(seconds) = link.drain_seconds {
            let help = "Expected time until everything that waits is delivered.";
            out.one("tributary_link_drain_seconds", "gauge", help, seconds as f64);
        }
    }
    if let Some(at) = status.link.last_success {
        let help = "When the bucket last answered well.";
        out.one("tributary_link_last_success_timestamp_seconds", "gauge", help, seconds(at));
    }
    out.one(
        "tributary_receipt_revision",
        "gauge",
        "Revision of the last receipt taken.",
        status.receipt.revision as f64,
    );
    out.family("tributary_broker_connected", "gauge", "1 while the broker is connected.");
    for broker in &status.brokers {
        let connected = f64::from(u8::from(broker.connected));
        out.sample("tributary_broker_connected", &[("broker", &broker.url)], connected);
    }
    out.family("tributary_source_messages_total", "counter", "Messages since the start by source.");
    for source in &status.sources {
        out.sample("tributary_source_messages_total", &[("source", &source.name)], source.messages as f64);
    }
    out.0
}

fn seconds(at: Timestamp) -> f64 {
    at.micros() as f64 / 1e6
}

#[derive(Default)]
struct Out(String);

impl Out {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{escaped}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn counts(&mut self, name: &str, help: &str, label: &str, counts: &[(&str, u64)]) {
        self.family(name, "counter", help);
        for (text, n) in counts {
            self.sample(name, &[(label, text)], *n as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{judge, tests::facts};

    #[test]
    fn the_exposition_has_a_type_for_every_sample_and_escapes_labels() {
        let mut f = facts();
        f.brokers[0].url = "mqtt://a\"b\\c\nd".into();
        f.rejected.insert("malformed".into(), 3);
        f.buffer.oldest_unsafe = Some(Timestamp(1_500_000));
        f.flash = Some(tributary_contract::status::FlashStatus {
            device_bytes: Some(7),
            life_days: Some(2.5),
            ..Default::default()
        });
        let text = render(&judge(f));
        let mut typed = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                typed = rest.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, typed, "{line}");
                line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
            }
        }
        assert!(text.contains("tributary_health{health=\"ok\"} 1\n"), "{text}");
        assert!(text.contains("tributary_broker_connected{broker=\"mqtt://a\\\"b\\\\c\\nd\"} 1\n"));
        assert!(text.contains("tributary_flash_device_bytes_total 7\n"));
        assert!(text.contains("tributary_flash_life_days 2.5\n"));
        assert!(text.contains("tributary_rejected_total{reason=\"malformed\"} 3\n"));
        assert!(text.contains("tributary_oldest_unsafe_timestamp_seconds 1.5\n"));
    }
}
