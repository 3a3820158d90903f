//! Rules over a journal that is judged again after each death: each change is there once.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tributary_contract::quality::{Doubt, Quality};

use super::*;
use crate::config::{SECOND, Selection, Severity};
use crate::reading::Value;

fn rule(name: &str, condition: Condition) -> AlertRule {
    AlertRule {
        name: name.to_owned(),
        severity: Severity::Warning,
        of: Selection::default(),
        condition,
        hold: 0,
        publish: None,
    }
}

fn rules() -> Vec<AlertRule> {
    vec![
        rule("hot", Condition::Above { threshold: 50.0, clear: 40.0 }),
        AlertRule {
            hold: 5 * SECOND,
            ..rule("cold for long", Condition::Below { threshold: 10.0, clear: 10.0 })
        },
        AlertRule {
            of: Selection { devices: vec!["d1".into()], ..Selection::default() },
            ..rule("leaps", Condition::Changes { per_second: 30.0 })
        },
    ]
}

fn dictionary(key: u32) -> Option<Arc<SeriesEntry>> {
    Some(Arc::new(SeriesEntry { key, ..SeriesEntry::of("plant", &format!("d{key}"), "temp") }))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * SECOND)
}

fn row(seq: u64, series: u32, seconds: i64, value: f64) -> Row {
    Row {
        seq,
        ts: at(seconds),
        received_at: at(seconds),
        series,
        value: Value::Float(value),
        quality: Quality::GOOD,
        row_tags: None,
        kept_back: false,
    }
}

fn told(alerts: &mut Alerts) -> Vec<(String, String, i64, bool)> {
    let (rows, _) = alerts.take(false).unwrap_or_default();
    rows.into_iter().map(|a| (a.rule, a.device, a.ts.0 / SECOND, a.open)).collect()
}

#[test]
fn readings_open_and_close_alerts_of_the_rules_that_look_at_them() {
    let mut alerts = Alerts::new(&rules(), 0);
    let doubtful = Row { quality: Quality::GOOD.with(Doubt::OutOfRange), ..row(3, 0, 2, 900.0) };
    let rows = [
        row(1, 0, 0, 20.0),
        row(2, 0, 1, 60.0),
        doubtful,
        row(4, 0, 0, 10.0),
        row(5, 1, 0, 5.0),
        row(6, 1, 4, 5.0),
        row(7, 1, 6, 5.0),
        row(8, 1, 7, 45.0),
    ];
    alerts.observe(&rows, &dictionary, at(10));
    let of = |rule: &str, device: &str, at, open| (rule.to_owned(), device.to_owned(), at, open);
    assert_eq!(
        told(&mut alerts),
        [
            of("hot", "d0", 1, true),
            of("cold for long", "d1", 6, true),
            of("cold for long", "d1", 7, false),
            of("leaps", "d1", 7, true),
        ]
    );
    assert_eq!((alerts.open(), alerts.through()), (2, 8));
    assert_eq!(alerts.take(false), None);
    assert!(alerts.take(true).is_some_and(|(rows, _)| rows.is_empty()));
}

#[test]
fn a_series_of_which_nothing_comes_is_silent_also_when_it_never_spoke_since_the_start() {
    let mut alerts = Alerts::new(&[rule("silent", Condition::Silent { after: 60 * SECOND })], 0);
    alerts.follow(&dictionary(1).unwrap(), at(-500));
    alerts.tick(at(-1), false);
    alerts.tick(at(0), true);
    alerts.observe(&[row(1, 0, 10, 1.0)], &dictionary, at(10));
    alerts.tick(at(59), true);
    assert_eq!(told(&mut alerts), [], "what nobody could hear wasn't silent");
    alerts.tick(at(65), true);
    alerts.tick(at(66), true);
    assert_eq!(told(&mut alerts), [("silent".to_owned(), "d1".to_owned(), 60, true)]);
    alerts.clock_stepped(-1000 * SECOND);
    alerts.tick(at(-931), true);
    assert_eq!(told(&mut alerts), [], "60 s of silence of d0 aren't over by that clock");
    alerts.tick(at(-930), true);
    assert_eq!(told(&mut alerts), [("silent".to_owned(), "d0".to_owned(), -930, true)]);
    alerts.observe(&[row(2, 1, -900, 1.0)], &dictionary, at(-900));
    assert_eq!(told(&mut alerts), [("silent".to_owned(), "d1".to_owned(), -900, false)]);
}

#[test]
fn a_rule_that_changes_its_mind_with_every_reading_is_noted_so_often_an_hour() {
    let mut alerts = Alerts::new(&rules()[..1], 0);
    let flaps = |first: u64| -> Vec<Row> {
        (first..first + 1000).map(|n| row(n, 0, n as i64, if n % 2 == 0 { 60.0 } else { 30.0 })).collect()
    };
    alerts.observe(&flaps(3600), &dictionary, at(5000));
    assert_eq!(told(&mut alerts).len() as u32, OF_A_SERIES);
    // Another series has room of its own; and this one again in the next hour, from the state in which it was left.
    alerts.observe(&[row(4700, 1, 4700, 60.0)], &dictionary, at(5000));
    assert_eq!(told(&mut alerts).len(), 1);
    assert!(alerts.muted().is_some_and(|(count, rule)| count > 100 && rule == "hot"));
    alerts.observe(&flaps(7201)[..2], &dictionary, at(9000));
    let states: Vec<bool> = told(&mut alerts).into_iter().map(|(.., open)| open).collect();
    assert_eq!(states, [true]);
}

#[test]
fn alerts_of_a_rule_that_is_no_more_are_closed_and_what_can_not_be_read_says_nothing() {
    let mut alerts = Alerts::new(&rules(), 0);
    alerts.observe(&[row(1, 0, 1, 60.0), row(2, 2, 2, 60.0)], &dictionary, at(2));
    let (_, kept) = alerts.take(false).unwrap();
    let mut again = Alerts::new(&rules()[1..], 0);
    assert_eq!(again.restore(Some(&kept), 9, at(5)), Some(2));
    let of = |device: &str| ("hot".to_owned(), device.to_owned(), 5, false);
    assert_eq!((told(&mut again).len(), again.open()), (2, 0));
    let mut again = Alerts::new(&[], 0);
    again.restore(Some(&kept), 9, at(5));
    assert!(!again.is_idle());
    let mut closed = told(&mut again);
    closed.sort();
    assert_eq!(closed, [of("d0"), of("d2")]);
    assert!(again.is_idle());
    for bytes in [&b""[..], b"{}", b"[1,2]", &kept[..kept.len() - 1]] {
        let mut again = Alerts::new(&rules(), 0);
        assert_eq!((again.restore(Some(bytes), 7, at(5)), again.through(), again.open()), (None, 7, 0));
    }
    // In another epoch seqs say nothing: what is open stays open, and only what comes is judged.
    let mut again = Alerts::new(&rules(), 1);
    assert_eq!((again.restore(Some(&kept), 7, at(5)), again.through(), again.open()), (None, 7, 2));
    again.observe(&[row(8, 0, 9, 30.0)], &dictionary, at(9));
    assert_eq!(told(&mut again), [("hot".to_owned(), "d0".to_owned(), 9, false)]);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u32, i64, f64)>),
    Save,
    Die,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![Just(5.0), Just(20.0), Just(45.0), Just(60.0), 0.0..100.0f64];
    let readings = prop::collection::vec((0u32..3, -3i64..4, value), 1..8);
    let step = prop_oneof![4 => readings.prop_map(Step::Append), 2 => Just(Step::Save), 1 => Just(Step::Die)];
    prop::collection::vec(step, 1..40)
}

/// What the rules say of all readings in one go, by each series' readings that are newer than all before.
fn expected(all: &[Row]) -> BTreeMap<String, (i64, bool)> {
    let mut out = BTreeMap::new();
    for series in 0..3u32 {
        let device = format!("d{series}");
        let mut line: Vec<(i64, f64)> = Vec::new();
        for r in all.iter().filter(|r| r.series == series) {
            if line.last().is_none_or(|(ts, _)| *ts < r.ts.0) {
                line.push((r.ts.0, r.value.numeric().unwrap()));
            }
        }
        let mut note = |rule: &str, ts: i64, open: bool| {
            out.insert(format!("{rule} {device} {ts} {open}"), (ts, open));
        };
        let (mut hot, mut cold, mut leaps, mut cold_since) = (false, false, false, None);
        for (i, (ts, v)) in line.iter().enumerate() {
            match (hot, *v) {
                (false, v) if v > 50.0 => (hot, ()) = (true, note("hot", *ts, true)),
                (true, v) if v <= 40.0 => (hot, ()) = (false, note("hot", *ts, false)),
                _ => {}
            }
            if *v < 10.0 {
                let since = *cold_since.get_or_insert(*ts);
                if !cold && ts - since >= 5 * SECOND {
                    (cold, ()) = (true, note("cold for long", *ts, true));
                }
            } else {
                cold_since = None;
                if cold {
                    (cold, ()) = (false, note("cold for long", *ts, false));
                }
            }
            if i > 0 && series == 1 {
                let rate = (v - line[i - 1].1) / ((ts - line[i - 1].0) as f64 / 1e6);
                if leaps != (rate.abs() > 30.0) {
                    leaps = !leaps;
                    note("leaps", *ts, leaps);
                }
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn whenever_it_dies_each_change_is_there_once_as_if_it_had_never_died(steps in steps()) {
        let mut alerts = Alerts::new(&rules(), 0);
        let (mut journal, mut seq, mut now) = (Vec::<Row>::new(), 0, 100);
        // What is durable: rows by their names, and the state.
        let mut rows: BTreeMap<String, (i64, bool)> = BTreeMap::new();
        let mut kept: Option<Vec<u8>> = None;
        let mut save = |alerts: &mut Alerts, kept: &mut Option<Vec<u8>>| {
            if let Some((changes, state)) = alerts.take(true) {
                for a in changes {
                    let name = format!("{} {} {} {}", a.rule, a.device, a.ts.0, a.open);
                    rows.insert(name, (a.ts.0, a.open));
                }
                *kept = Some(state);
            }
        };
        // The state that a first start keeps at once: what is judged begins there.
        alerts.restore(None, 0, at(now));
        save(&mut alerts, &mut kept);
        for step in steps {
            match step {
                Step::Append(readings) => {
                    let mut batch = Vec::new();
                    for (series, later, value) in readings {
                        (seq, now) = (seq + 1, now + 1);
                        batch.push(row(seq, series, now + later, value));
                    }
                    journal.extend(batch.clone());
                    alerts.observe(&batch, &dictionary, at(now));
                }
                Step::Save => save(&mut alerts, &mut kept),
                Step::Die => {
                    alerts = Alerts::new(&rules(), 0);
                    let after = alerts.restore(kept.as_deref(), seq, at(now)).unwrap();
                    // What holds, and the reading before, come from the readings before: those are seen again.
                    let (seen, new) = journal.split_at(journal.partition_point(|r| r.seq <= after));
                    alerts.remember(seen, &dictionary, at(now));
                    alerts.observe(new, &dictionary, at(now));
                }
            }
        }
        save(&mut alerts, &mut kept);
        prop_assert_eq!(rows, expected(&journal));
    }
}
