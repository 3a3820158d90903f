//! What the reader of the configuration promises.

use super::*;
use crate::config::{Condition, Hours, Link, Order, Severity};

fn parse_one(text: &str) -> Result<Config, Vec<Problem>> {
    let env = |name: &str| (name == "SITE").then(|| "north".to_owned());
    let facts =
        Facts { env: &env, hostname: Some("edge-7".into()), serial: None, zones: &crate::config::Zone::read };
    parse(&[("agent.toml".into(), text.into())], &facts)
}

const SMALL: &str = r#"
gateway = "gw-1"
[[broker]]
url = "mqtt://127.0.0.1"
[[source]]
name = "plant"
topics = ["sensors/{device}/{metric}"]
[bucket]
url = "s3://lake/site"
"#;

#[test]
fn a_small_file_is_enough_and_the_rest_has_defaults() {
    let config = parse_one(SMALL).unwrap();
    assert_eq!(config.gateway.as_str(), "gw-1");
    assert_eq!((config.brokers[0].port, config.brokers[0].inflight_window), (1883, 1000));
    assert_eq!(config.brokers[0].client_id, "gw-1");
    assert_eq!(config.brokers[0].marker.as_deref(), Some("tributary/gw-1/marker"));
    assert_eq!(config.buffer, Buffer::default());
    assert_eq!(config.segment, Segment::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.bucket.prefix.as_str(), "site");
    assert_eq!(config.namespaces(), [Namespace::default()]);
}

#[test]
fn every_problem_is_named_at_once_with_its_path() {
    let text = r#"
gateway = "raspberrypi"
sate_dir = "/x"
[[broker]]
url = "tcp://h"
inflight_window = 0
marker = "a/+"
[[source]]
name = "a"
topics = []
qos = 2
decoder = "xml"
[buffer]
commit_interval = 5
max_bytes = "huge"
[[window]]
name = "w"
size = "7m"
[bucket]
url = "lake"
credentials = { secret = "x" }
[link]
hours = ["night"]
[status]
listen = "0.0.0.0:80"
"#;
    let problems = parse_one(text).unwrap_err();
    let paths: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
    for expected in [
        "gateway",
        "sate_dir",
        "broker[0].url",
        "broker[0].inflight_window",
        "broker[0].marker",
        "source[0].topics",
        "source[0].qos",
        "source[0].decoder",
        "buffer.commit_interval",
        "buffer.max_bytes",
        "window[0].size",
        "bucket.url",
        "bucket.credentials",
        "link.hours[0]",
        "status.listen",
    ] {
        assert!(paths.contains(&expected), "{expected} is missing in {paths:?}");
    }
    let text = problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("did you mean `state_dir`?"), "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn an_empty_file_says_what_is_missing() {
    let problems = parse_one("").unwrap_err();
    let paths: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(paths, ["gateway", "broker", "source", "bucket.url"]);
}

#[test]
fn a_syntax_error_names_file_and_line() {
    let problems = parse_one("gateway = \n").unwrap_err();
    assert!(problems[0].to_string().contains("agent.toml") && problems[0].to_string().contains("line 1"));
}

#[test]
fn environment_and_host_name_are_filled_in() {
    let text = SMALL.replace("gw-1", "{hostname}").replace("lake/site", "lake/${SITE}");
    let config = parse_one(&text).unwrap();
    assert_eq!((config.gateway.as_str(), config.bucket.prefix.as_str()), ("edge-7", "north"));
    let problems = parse_one(&SMALL.replace("lake/site", "lake/${ABSENT}")).unwrap_err();
    assert!(problems[0].to_string().contains("ABSENT isn't set"), "{problems:?}");
    let problems = parse_one(&SMALL.replace("gw-1", "{serial}")).unwrap_err();
    assert!(problems[0].to_string().contains("no board serial number"), "{problems:?}");
}

#[test]
fn later_files_win_and_lists_of_tables_are_joined() {
    let more = "gateway = \"gw-2\"\n[[source]]\nname = \"b\"\ntopics = [\"b/#\"]\n[buffer]\ncommit_interval = \"2s\"\n";
    let env = |_: &str| None;
    let facts = Facts { env: &env, hostname: None, serial: None, zones: &crate::config::Zone::read };
    let config = parse(&[("a".into(), SMALL.into()), ("b".into(), more.into())], &facts).unwrap();
    assert_eq!(config.gateway.as_str(), "gw-2");
    assert_eq!(config.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["plant", "b"]);
    assert_eq!(config.buffer.commit_interval, 2 * SECOND);
}

#[test]
fn what_a_source_uploads_is_one_of_three_and_aggregates_need_a_window() {
    let with = |upload: &str, more: &str| {
        let source = format!("name = \"plant\"\nupload = \"{upload}\"");
        parse_one(&format!("{}{more}", SMALL.replace("name = \"plant\"", &source)))
    };
    let window = "\n[[window]]\nname = \"1m\"\n";
    assert_eq!(with("both", "").unwrap().sources[0].upload, Upload::Both);
    assert_eq!(with("readings", "").unwrap().sources[0].upload, Upload::Readings);
    assert_eq!(with("aggregates", window).unwrap().sources[0].upload, Upload::Aggregates);
    let problems = with("aggregates", "").unwrap_err();
    assert!(problems[0].to_string().contains("nothing would be uploaded"), "{problems:?}");
    assert_eq!(with("raw", "").unwrap_err()[0].path, "source[0].upload");
}

#[test]
fn windows_hop_lie_in_zones_and_choose_what_they_take_and_tell() {
    let with = |text: &str| parse_one(&format!("{SMALL}\n[[window]]\nname = \"w\"\n{text}"));
    let text = "size = \"5m\"\nevery = \"1m\"\ntime_zone = \"Asia/Kathmandu\"\nsources = [\"plant\"]\n\
                metrics = [\"temp*\"]\nfunctions = { \"temp*\" = [\"min\", \"max\"], \"x\" = [] }";
    let window = with(text).unwrap().windows.remove(0);
    assert_eq!((window.size, window.every), (5 * MINUTE, MINUTE));
    assert_eq!(window.zone.map(|z| z.name).as_deref(), Some("Asia/Kathmandu"));
    assert_eq!((window.of.sources, window.of.metrics), (vec!["plant".to_owned()], vec!["temp*".to_owned()]));
    let few: Functions = [Function::Min, Function::Max].into_iter().collect();
    assert_eq!(window.functions[0], ("temp*".to_owned(), few));
    let plain = with("size = \"1h\"\ntime_zone = \"UTC\"\nfunctions = [\"mean\"]").unwrap().windows.remove(0);
    assert_eq!((plain.every, plain.zone, plain.functions.len()), (HOUR, None, 1));
    for (text, path, hint) in [
        ("size = \"50m\"", "window[0].size", "doesn't divide a day"),
        ("size = \"5m\"\nevery = \"2m\"", "window[0].every", "whole number of steps"),
        ("size = \"1d\"\nevery = \"1m\"", "window[0].every", "1440 windows"),
        ("time_zone = \"Europe/Nowhere\"", "window[0].time_zone", "tzdata"),
        ("functions = [\"median\"]", "window[0].functions", "p50"),
        ("publish = \"windows/#\"", "window[0].publish", "'#'"),
        ("publish = \"{device}/x\"", "window[0].publish", "level of its own"),
        ("functions = { t = \"min\" }", "window[0].functions.t", "a list"),
    ] {
        let problems = with(text).unwrap_err();
        let found = problems.iter().any(|p| p.path == path && p.message.contains(hint));
        assert!(found, "{text}: {problems:?}");
    }
}

#[test]
fn an_alert_has_one_condition_and_closes_on_its_right_side() {
    let with = |text: &str| parse_one(&format!("{SMALL}\n[[alert]]\nname = \"a\"\n{text}"));
    let rule = |text: &str| with(text).unwrap().alerts.remove(0);
    let hot =
        rule("above = 80\nclear = 75.5\nhold = \"30s\"\nseverity = \"critical\"\nmetrics = [\"temp*\"]");
    assert_eq!(hot.condition, Condition::Above { threshold: 80.0, clear: 75.5 });
    assert_eq!(
        (hot.severity, hot.hold, hot.of.metrics),
        (Severity::Critical, 30 * SECOND, vec!["temp*".to_owned()])
    );
    assert_eq!(rule("below = -3.5").condition, Condition::Below { threshold: -3.5, clear: -3.5 });
    assert_eq!(rule("changes = 2").condition, Condition::Changes { per_second: 2.0 });
    let odd = rule("deviates = 6.5\nover = 500");
    assert_eq!(odd.condition, Condition::Deviates { deviations: 6.5, readings: 500.0 });
    let silent = rule("silent = \"10m\"\npublish = \"tributary/{gateway}/alerts/{rule}/{device}\"");
    assert_eq!(
        (silent.condition, silent.severity),
        (Condition::Silent { after: 10 * MINUTE }, Severity::Warning)
    );
    assert!(silent.publish.is_some());
    for (text, path, hint) in [
        ("", "alert[0].above", "exactly one"),
        ("above = 1\nbelow = 0", "alert[0].above", "exactly one"),
        ("above = \"80\"", "alert[0].above", "expected a number"),
        ("above = nan", "alert[0].above", "expected a number"),
        ("above = 80\nclear = 81", "alert[0].clear", "never stay open"),
        ("below = 5\nclear = 4", "alert[0].clear", "never stay open"),
        ("changes = 0", "alert[0].changes", "greater than 0"),
        ("deviates = 0.5", "alert[0].deviates", "1 at least"),
        ("deviates = 6\nover = 1", "alert[0].over", "from 10"),
        ("silent = \"10m\"\nclear = 1", "alert[0].clear", "belongs to"),
        ("silent = 10", "alert[0].silent", "unit"),
        ("above = 1\nseverity = \"bad\"", "alert[0].severity", "critical"),
        ("above = 1\n[[alert]]\nname = \"a\"\nabove = 2", "alert[1].name", "used twice"),
    ] {
        let problems = with(text).unwrap_err();
        let found = problems.iter().any(|p| p.path == path && p.message.contains(hint));
        assert!(found, "{text}: {problems:?}");
    }
}

#[test]
fn a_link_is_a_profile_and_what_is_set_beside_it_and_says_what_is_wrong() {
    let with = |text: &str| parse_one(&format!("{SMALL}\n{text}"));
    let plain = with("").unwrap();
    assert_eq!(plain.link, Link::default());
    let metered = with("[link]\nprofile = \"metered\"").unwrap();
    assert_eq!((metered.segment.max_age, metered.status.every), (HOUR, 2 * HOUR));
    assert_eq!((metered.link.receipt_pause, metered.link.receipt_longest), (MINUTE, HOUR));
    let own = "[link]\nprofile = \"metered\"\nreceipt_pause = \"5m\"\nuploads = 2\n[segment]\nmax_age = \"30m\"\n\
               [status]\nevery = \"1h\"";
    let own = with(own).unwrap();
    assert_eq!((own.segment.max_age, own.status.every), (30 * MINUTE, HOUR), "set by hand, it holds");
    assert_eq!((own.link.receipt_pause, own.link.uploads), (5 * MINUTE, 2));
    let full = "[link]\npaused = true\nmax_rate = \"16KiB\"\nmax_per_day = \"10MiB\"\nmax_per_month = \"200MiB\"\n\
                hours = [\"22:00-06:00\", \"12:00-13:30\"]\ntime_zone = \"Europe/Berlin\"\norder = \"newest-first\"";
    let full = with(full).unwrap();
    assert!(full.link.paused && full.link.order == Order::NewestFirst);
    assert_eq!((full.link.max_rate, full.link.max_per_day), (16 << 10, 10 << 20));
    assert_eq!(full.link.hours[1], Hours { from: 12 * HOUR, to: 13 * HOUR + 30 * MINUTE });
    let shown = crate::config::show::show(&full);
    for line in [
        "link.hours = [\"22:00-06:00\", \"12:00-13:30\"]",
        "link.max_rate = \"16.0 KiB\"",
        "link.order = \"newest-first\"",
    ] {
        assert!(shown.contains(line), "no {line} in {shown}");
    }
    for (text, path, hint) in [
        ("profile = \"cheap\"", "link.profile", "metered"),
        ("paused = 1", "link.paused", "true or false"),
        ("max_rate = \"10B\"", "link.max_rate", "512"),
        ("max_per_day = \"1KiB\"", "link.max_per_day", "0B"),
        ("max_per_day = \"2MiB\"\nmax_per_month = \"1MiB\"", "link.max_per_day", "smaller"),
        ("hours = [\"22-06\"]", "link.hours[0]", "22:00-06:00"),
        ("hours = \"22:00-06:00\"", "link.hours", "a list"),
        ("time_zone = \"Berlin\"", "link.time_zone", "tzdata"),
        ("order = \"random\"", "link.order", "oldest-first"),
        ("uploads = 0", "link.uploads", "from 1 to 8"),
        ("receipt_pause = \"10m\"", "link.receipt_longest", "shorter"),
        ("rate = \"1MiB\"", "link.rate", "known here"),
    ] {
        let problems = with(&format!("[link]\n{text}")).unwrap_err();
        let found = problems.iter().any(|p| p.path == path && p.message.contains(hint));
        assert!(found, "{text}: {problems:?}");
    }
}

#[test]
fn broker_urls_are_read_with_their_ports() {
    assert_eq!(parse_broker_url("mqtts://h").unwrap(), (true, "h".into(), 8883));
    assert_eq!(parse_broker_url("mqtt://[::1]:99").unwrap(), (false, "::1".into(), 99));
    assert_eq!(parse_broker_url("mqtt://[::1]").unwrap(), (false, "::1".into(), 1883));
    for bad in ["h:1883", "mqtt://", "mqtt://u:p@h", "mqtt://h:0", "mqtt://h:x", "mqtt://h/path"] {
        assert!(parse_broker_url(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_shipped_file_holds_every_key_with_its_default() {
    let shipped = include_str!("../../../config/agent.toml");
    // Every optional line stands commented out with its default; taking the marks away must change nothing.
    let minimal = parse_one(shipped).unwrap();
    let full: String = shipped
        .lines()
        .map(|l| l.strip_prefix("#= ").map_or_else(|| l.to_owned(), str::to_owned) + "\n")
        .collect();
    assert_ne!(full, shipped);
    assert_eq!(parse_one(&full).unwrap(), minimal);
}
