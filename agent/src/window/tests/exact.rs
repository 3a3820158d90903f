//! The newest revision of each window against an oracle that knows all readings and nothing of our arithmetic.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{Timestamp as Instant, ToSpan};
use proptest::prelude::*;
use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::series::SeriesId;
use tributary_contract::time::{DAY_MICROS, Timestamp};

use super::{World, at, dictionary, row};
use crate::buffer::row::Row;
use crate::config::{Function, Functions, HOUR, MINUTE, SECOND, Window, Zone};
use crate::reading::Value;
use crate::window::emit::AggregateRow;
use crate::window::open::{Bounds, Windows};

const BERLIN: &str = "Europe/Berlin";

/// The one into whose windows no texts enter.
const OF_NUMBERS: &str = "5m every 1m";

/// Tumbling, hopping, of local days, and of local quarters of a day that begin every three hours.
fn definitions() -> Vec<Window> {
    let chosen =
        |name: &str| if name == OF_NUMBERS { None } else { Some(("*".to_owned(), Functions::OF_TEXTS)) };
    let of = |name: &str, size: i64, every: i64, zone: Option<&str>| Window {
        functions: chosen(name).into_iter().collect(),
        every,
        zone: zone.map(|name| Zone::read(name).unwrap()),
        lateness: 5 * SECOND,
        correction_horizon: i64::MAX,
        ..Window::tumbling(name, size)
    };
    vec![
        of("1m", MINUTE, MINUTE, None),
        of(OF_NUMBERS, 5 * MINUTE, MINUTE, None),
        of("day", DAY_MICROS, DAY_MICROS, Some(BERLIN)),
        of("6h every 3h", 6 * HOUR, 3 * HOUR, Some(BERLIN)),
    ]
}

/// The windows of the definition of that name that hold `ts`, from the calendar alone.
fn windows_of(name: &str, ts: Timestamp) -> Vec<(Timestamp, Timestamp)> {
    let local = Instant::from_microsecond(ts.0).unwrap().to_zoned(TimeZone::get(BERLIN).unwrap());
    let micros = |z: &jiff::Zoned| Timestamp(z.timestamp().as_microsecond());
    match name {
        "1m" | "5m every 1m" => {
            let n = if name == "1m" { 1 } else { 5 };
            let starts = (0..2000).map(|minute| ts.0 - ts.0 % HOUR - 6 * MINUTE + minute * MINUTE);
            let holds = |start: &i64| *start <= ts.0 && ts.0 < start + n * MINUTE;
            starts.filter(holds).map(|start| (Timestamp(start), Timestamp(start + n * MINUTE))).collect()
        }
        "day" => {
            let start = local.start_of_day().unwrap();
            let end = start.checked_add(1.day()).unwrap();
            vec![(micros(&start), micros(&end))]
        }
        _ => {
            // Clocks are turned between two and three: every third hour is shown once, or is where three begins.
            let day = local.start_of_day().unwrap();
            let border = |n: i64| {
                let date = day.date().checked_add(n.div_euclid(8).days()).unwrap();
                let hour = date.at((n.rem_euclid(8) * 3) as i8, 0, 0, 0);
                micros(&hour.to_zoned(TimeZone::get(BERLIN).unwrap()).unwrap())
            };
            let windows = (-3..9).map(|n| (border(n), border(n + 2)));
            windows.filter(|(start, end)| *start <= ts && ts < *end).collect()
        }
    }
}

fn near(got: f64, expected: f64, scale: f64) -> bool {
    (got - expected).abs() <= 1e-9 * scale.max(f64::MIN_POSITIVE)
}

/// What is wrong with a row, whose window has these readings, in the order of time and seq; `before` are those that may
/// have held at its start.
fn judge(row: &AggregateRow, readings: &[&Row], before: &[&Row]) -> Result<(), String> {
    let (a, value) = (&row.aggregate, |r: &&Row| r.value.numeric().unwrap());
    let mut values: Vec<f64> = readings.iter().map(value).collect();
    let (n, size) = (values.len() as f64, values.iter().map(|v| v.abs()).sum::<f64>());
    let (first, last) = (readings[0], readings[readings.len() - 1]);
    let wrong = |what: &str| Err(format!("{what} of {row:?} isn't that of {readings:?}"));
    if (a.samples, a.first_ts, a.last_ts) != (values.len() as u64, first.ts, last.ts) {
        return wrong("number or time");
    }
    if (a.first, a.last) != (value(&first), value(&last)) {
        return wrong("first or last");
    }
    let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    if (a.min, a.max) != (min, max) {
        return wrong("least or greatest");
    }
    // Multiples of 2^-10 below 2^40 are exact in integers.
    let exact = values.iter().map(|v| (v * 1024.0) as i128).sum::<i128>() as f64 / 1024.0;
    if !near(a.sum.unwrap(), exact, size) || !near(a.mean.unwrap(), exact / n, size) {
        return wrong("sum or mean");
    }
    let mean = exact / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    match a.stddev {
        None if values.len() == 1 => {}
        Some(stddev) if values.len() > 1 && near(stddev, (squares / (n - 1.0)).sqrt(), size) => {}
        _ => return wrong("deviation"),
    }
    values.sort_by(f64::total_cmp);
    for (p, got) in [(0.5, a.p50), (0.95, a.p95), (0.99, a.p99)] {
        let h = (n - 1.0) * p;
        let (below, above) = (values[h.floor() as usize], values[h.ceil() as usize]);
        if !near(got.unwrap(), below + (above - below) * (h - h.floor()), size) {
            return wrong("percentile");
        }
    }
    // A late reading corrects its own window, not what it carries over into the next: any one that was known then may
    // have been the last before.
    let in_order: Vec<f64> = readings.iter().map(value).collect();
    let length = row.end.since(row.start) as f64;
    let carried = before.iter().map(|r| Some(value(r))).chain([None]);
    let held = |carried: Option<f64>| {
        let (mut borders, mut area, mut known) = (vec![(row.start, carried)], 0.0, 0.0);
        borders.extend(readings.iter().map(|r| (r.ts, Some(value(r)))));
        let ends = borders.iter().skip(1).map(|(ts, _)| *ts).chain([row.end]);
        for ((from, value), until) in borders.iter().zip(ends) {
            let time = until.since(*from) as f64;
            area += value.unwrap_or(0.0) * time;
            known += if value.is_some() { time } else { 0.0 };
        }
        (area / known, known / length)
    };
    let steps = |carried: Option<f64>| {
        let with_foot: Vec<f64> = carried.into_iter().chain(in_order.iter().copied()).collect();
        let (mut grown, mut changes) = (0.0, 0);
        for pair in with_foot.windows(2) {
            grown += if pair[1] < pair[0] { pair[1].max(0.0) } else { pair[1] - pair[0] };
            changes += u64::from(pair[0] != pair[1]);
        }
        (with_foot.len() > 1).then_some((grown, changes))
    };
    let fits = |carried: Option<f64>| {
        let ((mean, share), scale) = (held(carried), size + carried.unwrap_or(0.0).abs());
        let stepped = match (steps(carried), a.increase.zip(a.rate).zip(a.changes)) {
            (None, None) => true,
            (Some((grown, changes)), Some(((increase, rate), changed))) => {
                let seconds = share * length / 1e6;
                near(increase, grown, scale) && near(rate * seconds, grown, scale) && changes == changed
            }
            _ => false,
        };
        stepped && near(a.time_weighted_mean.unwrap(), mean, scale) && near(a.coverage, share, 1.0)
    };
    if carried.clone().any(fits) { Ok(()) } else { wrong("time-weighted mean, increase or changes") }
}

/// The same of a row of texts.
fn judge_texts(row: &AggregateRow, readings: &[&Row], before: &[&Row]) -> Result<(), String> {
    let texts: Vec<String> = readings.iter().map(|r| r.value.to_string()).collect();
    let (first, last) = (readings[0], readings[readings.len() - 1]);
    let changes = |foot: Option<String>| {
        let with_foot: Vec<String> = foot.into_iter().chain(texts.iter().cloned()).collect();
        let changed = with_foot.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
        (with_foot.len() > 1).then_some(changed)
    };
    let mut feet = before.iter().map(|r| Some(r.value.to_string())).chain([None]);
    let a = &row.aggregate;
    let right = row.text.as_deref() == texts.last().map(String::as_str)
        && (a.samples, a.first_ts, a.last_ts) == (texts.len() as u64, first.ts, last.ts)
        && Function::ALL.into_iter().all(|f| row.statistic(f).is_none())
        && feet.any(|foot| changes(foot) == row.changes());
    if right { Ok(()) } else { Err(format!("{row:?} isn't of {readings:?}")) }
}

/// Which window: its definition, its series, its start.
type Name = (Arc<str>, SeriesId, Timestamp);

/// The newest revisions against all readings that enter windows.
fn compare(emitted: &[AggregateRow], all: &[Row]) -> Result<(), String> {
    let mut newest: BTreeMap<Name, &AggregateRow> = BTreeMap::new();
    for row in emitted {
        let id = dictionary(row.series).unwrap().id;
        let known = newest.entry((row.window.clone(), id, row.start)).or_insert(row);
        if known.revision < row.revision {
            *known = row;
        }
    }
    let mut expected: BTreeMap<Name, (Timestamp, Vec<&Row>)> = BTreeMap::new();
    let mut of_series: BTreeMap<SeriesId, Vec<&Row>> = BTreeMap::new();
    for row in all.iter().filter(|r| !r.quality.has(Doubt::Future) && !r.quality.has(Doubt::ClockUnsynced)) {
        let id = dictionary(row.series).unwrap().id;
        of_series.entry(id).or_default().push(row);
        let is_text = |row: &Row| matches!(row.value, Value::Text(_));
        for d in definitions().iter().filter(|d| d.name != OF_NUMBERS || !is_text(row)) {
            for (start, end) in windows_of(&d.name, row.ts) {
                let window = expected.entry((d.name.as_str().into(), id, start)).or_insert((end, Vec::new()));
                window.1.push(row);
            }
        }
    }
    if let Some(key) = newest.keys().find(|key| !expected.contains_key(*key)) {
        return Err(format!("{key:?} has no readings"));
    }
    for (key, (end, mut readings)) in expected {
        let Some(row) = newest.get(&key) else { return Err(format!("{key:?} is missing")) };
        readings.sort_by_key(|r| (r.ts, r.seq));
        if row.end != end {
            return Err(format!("{key:?} ends at {:?}, not at {end:?}", row.end));
        }
        // Where there are numbers, the row is of them.
        let is_number = |r: &&Row| r.value.numeric().is_some();
        let of_numbers = readings.iter().any(is_number);
        readings.retain(|r| is_number(r) == of_numbers);
        let before: Vec<&Row> = of_series[&key.1]
            .iter()
            .filter(|r| r.ts < key.2 && is_number(r) == of_numbers)
            .copied()
            .collect();
        let judged = if of_numbers { judge } else { judge_texts };
        judged(row, &readings, &before).map_err(|e| format!("{key:?}: {e}"))?;
    }
    Ok(())
}

#[derive(Debug, Clone)]
enum Step {
    /// Series, seconds before or after now, value, and what is doubtful about it.
    Append(Vec<(u32, i64, Value, Option<Doubt>)>),
    /// A message comes again, and nothing can tell that it is a copy.
    Again,
    Close {
        drained: bool,
        then_die_after: Option<usize>,
    },
    Restart,
    NewEpoch,
    Pass(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![
        (-1_000_000i64..1_000_000).prop_map(|v| v as f64 / 1024.0),
        (0i64..50).prop_map(|v| v as f64),
        (-(1i64 << 40)..1 << 40).prop_map(|v| v as f64),
    ];
    let text = prop::sample::select(vec!["on", "off", "unavailable"]);
    let value = prop_oneof![
        5 => value.prop_map(Value::Float),
        1 => text.prop_map(|text| Value::Text(text.to_owned())),
    ];
    let doubt = prop::option::weighted(
        0.15,
        prop::sample::select(vec![Doubt::Future, Doubt::ClockUnsynced, Doubt::PossibleDuplicate]),
    );
    let ago = prop_oneof![4 => -30i64..5, 2 => -900i64..0, 1 => -40_000i64..0];
    let readings = (prop::sample::select(vec![0u32, 1, 10, 100]), ago, value, doubt);
    let step = prop_oneof![
        6 => prop::collection::vec(readings, 1..10).prop_map(Step::Append),
        1 => Just(Step::Again),
        3 => (any::<bool>(), prop::option::weighted(0.3, 0usize..3))
            .prop_map(|(drained, then_die_after)| Step::Close { drained, then_die_after }),
        1 => Just(Step::Restart),
        1 => Just(Step::NewEpoch),
        2 => prop_oneof![0i64..400, 0i64..20_000].prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..40)
}

fn run(steps: Vec<Step>, begin: i64) -> (World, Vec<Row>) {
    let mut w = World::new(definitions());
    w.windows = Windows::new(&definitions(), 0).with_bounds(Bounds { windows: 9, readings: 60 });
    let (mut now, mut seq, mut all) = (begin, 0, Vec::<Row>::new());
    for step in steps {
        match step {
            Step::Append(readings) => {
                let mut rows = Vec::new();
                for (series, ago, value, doubt) in readings {
                    seq += 1;
                    let quality = doubt.map_or(Quality::GOOD, |d| Quality::GOOD.with(d));
                    rows.push(Row { quality, value, ..row(seq, series, now + ago, 0.0) });
                }
                all.extend(rows.clone());
                w.append(rows, at(now));
            }
            Step::Again => {
                let Some(mut again) = all.last().cloned() else { continue };
                seq += 1;
                (again.seq, again.quality) = (seq, again.quality.with(Doubt::PossibleDuplicate));
                all.push(again.clone());
                w.append(vec![again], at(now));
            }
            Step::Close { drained, then_die_after: None } => drop(w.close(at(now), drained)),
            Step::Close { drained, then_die_after: Some(emissions) } => {
                if let Some(plan) = w.windows.due(at(now), drained) {
                    for emission in w.fold(plan).emissions.into_iter().take(emissions) {
                        w.seal(emission);
                    }
                    w.restart(at(now));
                }
            }
            Step::Restart => w.restart(at(now)),
            Step::NewEpoch => {
                w.ordinal += 1;
                w.restart(at(now));
            }
            Step::Pass(seconds) => now += seconds,
        }
    }
    w.close(at(now + 200_000), true);
    (w, all)
}

/// Two hours before the clocks of Berlin are set forward, before they are set back, and before a night in which nothing happens.
const NIGHTS: [i64; 3] = [1_711_846_800 - 7200, 1_729_990_800 - 7200, 1_721_091_600 - 7200];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        if std::env::var_os("TRIBUTARY_LONG").is_some() { 20_000 } else { 300 }
    ))]

    #[test]
    fn the_newest_revision_is_the_aggregate_of_all_readings_of_its_window(
        steps in steps(), night in prop::sample::select(&NIGHTS),
    ) {
        let (w, all) = run(steps, night);
        prop_assert_eq!((w.windows.waiting(), w.windows.too_late()), (0, 0));
        compare(&w.emitted, &all).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn neither_how_readings_are_split_nor_their_order_within_the_lateness_changes_a_bit(
        values in prop::collection::vec((1i64..4, -1e9..1e9f64, any::<bool>(), 0i64..4), 2..200),
        night in prop::sample::select(&NIGHTS),
    ) {
        let mut seconds = night;
        let mut plain = Vec::new();
        for (seq, (step, value, ..)) in (1..).zip(&values) {
            seconds += step;
            plain.push(row(seq, 0, seconds, *value));
        }
        // Some come by another source, and each up to four seconds later than it should: less than the lateness.
        let mut shuffled: Vec<(i64, Row)> = plain.iter().zip(&values).map(|(r, (.., other, late))| {
            (r.ts.0 + late * SECOND, Row { series: if *other { 100 } else { 0 }, ..r.clone() })
        }).collect();
        shuffled.sort_by_key(|(arrival, r)| (*arrival, r.ts));
        let shuffled: Vec<Row> = (1..).zip(shuffled).map(|(seq, (_, r))| Row { seq, ..r }).collect();
        let emitted = |rows: Vec<Row>| {
            let mut w = World::new(definitions());
            for some in rows.chunks(7) {
                let now = some.iter().map(|r| r.ts).max().unwrap();
                w.append(some.to_vec(), now);
                w.close(now, false);
            }
            w.close(at(seconds + 200_000), true);
            let key = |r: &AggregateRow| (r.window.clone(), r.start);
            let mut rows: Vec<_> = w.emitted.iter().map(|r| (key(r), r.revision, r.aggregate)).collect();
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            rows
        };
        let (a, b) = (emitted(plain), emitted(shuffled));
        prop_assert!(a.iter().all(|(_, revision, _)| *revision == 1));
        prop_assert_eq!(a, b);
    }
}
