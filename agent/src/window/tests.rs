//! Windows as a whole: rows in, due windows out, folded, decided, restarted.

mod exact;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use proptest::prelude::*;
use tributary_contract::id::Namespace;
use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::series::SeriesId;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::Decided;
use super::align::Grid;
use super::emit::{AggregateRow, Emission, Emitter, Folded, Priors};
use super::fold::Aggregate;
use super::open::{Bounds, Windows};
use super::plan::Plan;
use crate::buffer::row::{BatchSpan, Row, SeriesEntry};
use crate::config::{Function, HOUR, MINUTE, SECOND, Selection, Window};
use crate::reading::Value;

fn minute_window() -> Window {
    Window { lateness: 5 * SECOND, correction_horizon: HOUR, ..Window::tumbling("1m", MINUTE) }
}

/// Keys 0 to 9 are metrics of device `d0`, 10 to 19 of `d1` and so on; the hundreds say the source.
fn dictionary(key: u32) -> Option<Arc<SeriesEntry>> {
    let (device, metric) = (format!("d{}", key % 100 / 10), format!("m{}", key % 10));
    let source = format!("s{}", key / 100);
    (key < 1000).then(|| Arc::new(SeriesEntry { key, ..SeriesEntry::of(&source, &device, &metric) }))
}

fn row(seq: u64, series: u32, seconds: i64, value: f64) -> Row {
    let ts = Timestamp(seconds * SECOND);
    Row {
        seq,
        ts,
        received_at: ts.plus(1000),
        series,
        value: Value::Float(value),
        quality: Quality::GOOD,
        row_tags: None,
        kept_back: false,
    }
}

/// A journal and what was decided on it: what is on disk.
#[derive(Default)]
struct Disk {
    batches: Vec<(BatchSpan, Vec<Row>)>,
    decided: Vec<Vec<u8>>,
}

struct World {
    definitions: Vec<Window>,
    ordinal: u32,
    disk: Disk,
    windows: Windows,
    emitted: Vec<AggregateRow>,
}

impl World {
    fn new(definitions: Vec<Window>) -> Self {
        let windows = Windows::new(&definitions, 0);
        Self { definitions, ordinal: 0, disk: Disk::default(), windows, emitted: Vec::new() }
    }

    fn append(&mut self, rows: Vec<Row>, now: Timestamp) {
        self.windows.observe(&rows, &dictionary, now);
        let times = || rows.iter().map(|r| r.ts);
        let span = BatchSpan {
            id: self.disk.batches.len() as i64,
            epoch: self.ordinal,
            first_seq: rows.first().map_or(0, |r| r.seq),
            rows: rows.len() as u32,
            min_ts: times().min().unwrap_or(now),
            max_ts: times().max().unwrap_or(now),
            min_received: now,
            committed_at: now,
        };
        self.disk.batches.push((span, rows));
    }

    fn restart(&mut self, now: Timestamp) {
        self.windows = Windows::new(&self.definitions, self.ordinal);
        for bytes in &self.disk.decided {
            self.windows.restore(&Decided::decode(bytes).unwrap());
        }
        for (span, rows) in &self.disk.batches {
            if self.windows.must_observe_again(span) {
                self.windows.observe(rows, &dictionary, now);
            }
        }
    }

    fn fold(&self, plan: Plan) -> Folded {
        let mut priors = Priors::of(&plan);
        for bytes in &self.disk.decided {
            priors.take(&Decided::decode(bytes).unwrap());
        }
        let mut emitter = Emitter::new(plan);
        // All of each batch that overlaps, and more than once.
        let scan = |from, to, take: &mut dyn FnMut(&Row)| -> Result<(), Infallible> {
            let met = self.disk.batches.iter().filter(|(span, _)| span.min_ts < to && span.max_ts >= from);
            met.clone().chain(met.take(1)).flat_map(|(_, rows)| rows).for_each(take);
            Ok(())
        };
        let Ok(()) = emitter.collect(&|key| priors.get(key), &dictionary, scan);
        emitter.finish(&|key| priors.get(key))
    }

    fn seal(&mut self, emission: Emission) {
        self.disk.decided.push(emission.decided.encode());
        self.windows.applied(&emission.decided);
        self.emitted.extend(emission.rows);
    }

    /// Closes what may be closed; gives what was emitted.
    fn close(&mut self, now: Timestamp, drained: bool) -> Vec<AggregateRow> {
        let before = self.emitted.len();
        while let Some(plan) = self.windows.due(now, drained) {
            self.decide(plan);
        }
        self.emitted[before..].to_vec()
    }

    fn decide(&mut self, plan: Plan) {
        let folded = self.fold(plan);
        for emission in folded.emissions {
            self.seal(emission);
        }
        self.windows.passed_over(&folded.passed_over);
    }

    fn forget_what_no_window_needs(&mut self) {
        let retention = self.windows.retention();
        self.disk.batches.retain(|(span, _)| retention.needs(span));
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * SECOND)
}

#[test]
fn a_window_closes_when_the_watermark_of_its_device_passes_its_end() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 1, 20, 5.0), row(3, 10, 500, 9.0)], at(21));
    assert!(w.close(at(64), false).is_empty(), "another device's clock closes nothing");
    w.append(vec![row(4, 0, 64, 2.0)], at(64));
    assert!(w.close(at(64), false).is_empty(), "64 s less 5 s lateness isn't past 60 s");
    w.append(vec![row(5, 0, 65, 3.0)], at(65));
    let rows = w.close(at(65), false);
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|r| (r.start, r.end, r.revision, r.late) == (at(0), at(60), 1, 0)));
    assert_eq!((rows[0].aggregate.samples, rows[0].aggregate.last), (1, 1.0));
    assert!(w.close(at(66), false).is_empty(), "nothing is emitted twice");
}

#[test]
fn a_window_that_a_later_one_overtook_is_not_forgotten_by_a_restart() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 70, 1.0), row(2, 0, 200, 1.0)], at(200));
    let through = w.windows.through();
    // It belongs before the one that closes now, and comes after the look was taken.
    w.append(vec![row(3, 1, 10, 7.0)], at(200));
    let plan = w.windows.due_of(through, at(200), true).unwrap();
    assert_eq!(plan.windows.iter().map(|due| due.start).collect::<Vec<_>>(), [at(60)]);
    w.decide(plan);
    w.restart(at(201));
    let rows = w.close(at(201), true);
    assert!(rows.iter().any(|r| (r.start, r.aggregate.sum) == (at(0), Some(7.0))), "{rows:?}");
}

#[test]
fn one_wrong_stamp_moves_no_watermark_and_enters_no_window() {
    for doubt in [Doubt::Future, Doubt::ClockUnsynced] {
        let mut w = World::new(vec![minute_window()]);
        let mut wrong = row(2, 0, 400_000, 7.0);
        wrong.quality = Quality::GOOD.with(doubt);
        w.append(vec![row(1, 0, 10, 1.0), wrong], at(11));
        assert!(w.close(at(11), false).is_empty());
        assert_eq!(w.windows.waiting(), 1, "{doubt:?}");
        w.append(vec![row(3, 0, 30, 2.0), row(4, 0, 70, 0.0)], at(70));
        let rows = w.close(at(70), false);
        assert_eq!((rows.len(), rows[0].aggregate.samples, rows[0].late), (1, 2, 0));
    }
}

#[test]
fn what_waited_at_the_broker_enters_windows_only_with_a_time_of_its_own() {
    for doubt in [Doubt::Retained, Doubt::Queued] {
        let mut w = World::new(vec![minute_window()]);
        let mut own = row(1, 0, 10, 1.0);
        own.quality = Quality::GOOD.with(doubt);
        let mut receipt = own.clone();
        (receipt.seq, receipt.received_at) = (2, receipt.ts);
        w.append(vec![own, receipt, row(3, 0, 70, 0.0)], at(70));
        let rows = w.close(at(70), false);
        assert_eq!((rows.len(), rows[0].aggregate.samples), (1, 1));
        assert_eq!(rows[0].quality, Quality::GOOD.with(doubt));
    }
}

#[test]
fn a_value_that_is_not_believed_leaves_only_its_doubt() {
    let mut w = World::new(vec![minute_window()]);
    let mut bad = row(2, 0, 20, 1e9);
    bad.quality = Quality::GOOD.with(Doubt::Device);
    let mut twice = row(3, 0, 30, 3.0);
    twice.quality = Quality::GOOD.with(Doubt::PossibleDuplicate);
    let mut text = row(4, 0, 35, 0.0);
    text.value = Value::Text("on".into());
    w.append(vec![row(1, 0, 10, 1.0), bad, twice, text, row(5, 0, 70, 0.0)], at(70));
    let rows = w.close(at(70), false);
    assert_eq!((rows[0].aggregate.samples, rows[0].aggregate.max), (2, 3.0));
    assert_eq!(rows[0].quality.to_string(), "possible-duplicate,device");
}

#[test]
fn a_window_of_more_readings_than_may_be_held_is_folded_stretch_by_stretch() {
    let bounds = Bounds { windows: 9, readings: 60 };
    let rows = |seq0: u64| -> Vec<Row> {
        (0..3000u64).map(|n| row(seq0 + n, (n % 2) as u32, (n / 60) as i64, (n * 7 % 1000) as f64)).collect()
    };
    // All at one instant, too.
    let instant: Vec<Row> = (0..300u64).map(|n| row(4000 + n, 0, 55, n as f64)).collect();
    let close = |bounds| {
        let mut w = World::new(vec![minute_window()]);
        w.windows = Windows::new(&w.definitions, 0).with_bounds(bounds);
        for some in rows(1).chunks(100).chain(instant.chunks(100)) {
            w.append(some.to_vec(), at(60));
        }
        w.append(vec![row(5000, 0, 130, 0.0)], at(131));
        let first = w.close(at(131), false);
        // A late one: the window is computed anew, however much there is.
        w.append(vec![row(5001, 0, 30, -5.0), row(5002, 0, 131, 0.0)], at(132));
        (first, w.close(at(133), false))
    };
    let (swept, whole) = (close(bounds), close(Bounds::default()));
    assert_eq!(whole.0.iter().map(|r| r.aggregate.samples).collect::<Vec<_>>(), [1800, 1500]);
    assert_eq!(
        (whole.1[0].revision, whole.1[0].aggregate.samples, whole.1[0].aggregate.min),
        (2, 1801, -5.0)
    );
    for (swept, whole) in swept.0.iter().zip(&whole.0).chain(swept.1.iter().zip(&whole.1)) {
        let (a, b) = (swept.aggregate, whole.aggregate);
        let error = a.percentile_error.unwrap();
        assert!(b.percentile_error.is_none() && swept.percentile_error().is_some());
        assert!((a.p95.unwrap() - b.p95.unwrap()).abs() <= b.p95.unwrap() * error * 1.01);
        let Aggregate { p50, p95, p99, percentile_error, .. } = b;
        let same =
            AggregateRow { aggregate: Aggregate { p50, p95, p99, percentile_error, ..a }, ..swept.clone() };
        assert_eq!(same, *whole);
    }
    assert_eq!((swept.0.len(), swept.1.len()), (2, 1));
}

#[test]
fn texts_enter_where_last_or_changes_is_chosen_and_only_where_there_are_no_numbers() {
    let chosen = |list: &[Function]| vec![("m0".to_owned(), list.iter().copied().collect())];
    let (last, min) = (Function::Last, Function::Min);
    let window = |functions| Window { functions, ..minute_window() };
    let text =
        |seq, seconds, text: &str| Row { value: Value::Text(text.into()), ..row(seq, 0, seconds, 0.0) };
    for functions in [Vec::new(), chosen(&[min])] {
        let mut w = World::new(vec![window(functions)]);
        w.append(vec![text(1, 10, "on"), text(2, 130, "off")], at(131));
        assert!(w.close(at(131), false).is_empty());
    }
    let mut w = World::new(vec![window(chosen(&[min, last, Function::Changes]))]);
    w.append(vec![text(1, 10, "on"), text(2, 50, "off"), text(3, 20, "on"), text(4, 130, "on")], at(131));
    let rows = w.close(at(131), false);
    let a = &rows[0].aggregate;
    assert_eq!(
        (rows.len(), rows[0].text.as_deref(), a.samples, rows[0].changes()),
        (1, Some("off"), 3, Some(1))
    );
    assert_eq!((a.last_ts, rows[0].statistic(last), rows[0].statistic(min)), (at(50), None, None));
    // A late text corrects it, over a restart; a late number says more.
    w.restart(at(132));
    w.append(vec![text(5, 55, "stuck")], at(133));
    let again = w.close(at(133), false);
    assert_eq!(
        (again[0].revision, again[0].text.as_deref(), again[0].aggregate.samples),
        (2, Some("stuck"), 4)
    );
    w.append(vec![row(6, 0, 56, 7.0)], at(134));
    let again = w.close(at(134), false);
    let said = (again[0].revision, again[0].text.as_deref(), again[0].statistic(last), again[0].late);
    assert_eq!(said, (3, None, Some(7.0), 2));
    w.append(vec![text(7, 57, "stuck")], at(135));
    assert!(w.close(at(135), false).is_empty(), "nor does a text take that back");
}

#[test]
fn a_window_of_texts_that_was_frozen_is_whole_again_where_all_of_them_are_there_when_it_closes() {
    let functions = vec![("*".to_owned(), [Function::Last].into_iter().collect())];
    let mut w = World::new(vec![Window { functions, ..minute_window() }]);
    let text =
        |seq, seconds, text: &str| Row { value: Value::Text(text.into()), ..row(seq, 0, seconds, 0.0) };
    w.append(vec![text(1, 10, "on"), row(2, 1, 10, 1.0)], at(11));
    let through = w.windows.through();
    let plan = w.windows.freeze(at(0), at(60), through, at(12)).unwrap();
    w.decide(plan);
    let before = w.emitted.clone();
    assert!(before.len() == 2 && before.iter().all(|r| r.partial));
    w.restart(at(13));
    w.append(vec![text(3, 130, "off")], at(131));
    let rows = w.close(at(131), false);
    let told: Vec<_> = rows.iter().map(|r| (r.text.as_deref(), r.revision, r.partial)).collect();
    assert_eq!(told, [(Some("on"), 2, false), (None, 2, false)]);
}

#[test]
fn a_silent_device_is_closed_by_processing_time_only_when_nothing_waits_for_it() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0)], at(10));
    assert!(w.close(at(400), false).is_empty(), "something may wait at the broker");
    assert!(w.close(at(300), true).is_empty(), "not silent for long enough");
    assert_eq!(w.close(at(400), true).len(), 1);
}

#[test]
fn silence_closes_no_window_whose_end_is_still_to_come() {
    let mut hour = minute_window();
    (hour.name, hour.size, hour.every) = ("1h".into(), HOUR, HOUR);
    let mut w = World::new(vec![hour]);
    w.append(vec![row(1, 0, 10, 1.0)], at(10));
    assert!(w.close(at(3599), true).is_empty());
    assert_eq!(w.close(at(3600), true).len(), 1);
}

#[test]
fn a_late_reading_emits_its_window_again_until_the_horizon_and_is_counted_afterwards() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 0, 70, 2.0)], at(70));
    assert_eq!(w.close(at(70), false).len(), 1);
    w.append(vec![row(3, 0, 30, 3.0), row(4, 0, 31, 3.0)], at(80));
    let again = w.close(at(80), false);
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].revision, again[0].late, again[0].aggregate.samples), (2, 2, 3));
    w.append(vec![row(5, 0, 5, 0.0)], at(90));
    let again = w.close(at(90), false);
    assert_eq!((again[0].revision, again[0].late, again[0].aggregate.first), (3, 3, 0.0));
    // An hour after the closing it can't be corrected any more.
    assert!(w.close(at(70 + 3600), false).is_empty());
    w.append(vec![row(6, 0, 40, 9.0)], at(70 + 3600));
    assert!(w.close(at(70 + 3600), false).is_empty());
    assert_eq!(w.windows.too_late(), 1);
}

#[test]
fn a_series_first_heard_of_in_a_closed_window_begins_with_the_first_revision() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 0, 70, 2.0)], at(70));
    w.close(at(70), false);
    w.append(vec![row(3, 1, 30, 3.0)], at(80));
    let rows = w.close(at(80), false);
    assert_eq!((rows.len(), rows[0].revision, rows[0].late), (1, 1, 1));
}

#[test]
fn a_new_epoch_goes_on_with_known_revisions_and_begins_unknown_ones_at_a_million_each() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 0, 70, 2.0)], at(70));
    w.close(at(70), false);
    w.ordinal = 3;
    w.restart(at(71));
    assert!(w.close(at(71), false).is_empty(), "what was decided stays decided in a new epoch");
    w.append(vec![row(3, 0, 20, 1.0), row(4, 0, 140, 1.0)], at(140));
    let rows = w.close(at(140), false);
    let revisions: Vec<_> = rows.iter().map(|r| (r.start, r.revision, r.late)).collect();
    assert_eq!(revisions, [(at(0), 2, 1), (at(60), 3_000_001, 0)]);
}

#[test]
fn closing_comes_to_an_end_although_late_readings_keep_coming() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0)], at(10));
    let now = at(1000); // long silent
    let through = w.windows.through();
    let mut seq = 1;
    while let Some(plan) = w.windows.due_of(through, now, true) {
        w.decide(plan);
        seq += 1;
        assert!(seq < 10, "the window is emitted again and again");
        w.append(vec![row(seq, 0, 11, 1.0)], now);
    }
    assert_eq!((seq, w.windows.waiting()), (2, 1));
    let through = w.windows.through();
    assert!(
        w.windows.due_of(through, now, true).is_some_and(|plan| plan.windows.iter().any(|w| w.late)),
        "due the next time"
    );
}

#[test]
fn a_restart_takes_no_decision_twice_and_forgets_no_late_reading() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0)], at(10));
    w.append(vec![row(2, 0, 70, 2.0)], at(70));
    w.close(at(70), false);
    w.append(vec![row(3, 0, 30, 3.0)], at(80));
    w.restart(at(81));
    let rows = w.close(at(81), false);
    assert_eq!((rows.len(), rows[0].revision, rows[0].aggregate.samples), (1, 2, 2));
    w.restart(at(82));
    assert!(w.close(at(82), false).is_empty());
    w.append(vec![row(4, 0, 130, 3.0)], at(130));
    let rows = w.close(at(130), false);
    assert_eq!((rows.len(), rows[0].start, rows[0].aggregate.samples), (1, at(60), 1));
}

#[test]
fn a_restart_observes_only_what_is_open_or_undecided() {
    let mut w = World::new(vec![minute_window()]);
    for minute in 0..100 {
        let seconds = minute * 60;
        w.append(vec![row(minute as u64 + 1, 0, seconds + 10, 1.0)], at(seconds + 10));
        w.close(at(seconds + 10), false);
    }
    w.restart(at(6000));
    let again = w.disk.batches.iter().filter(|(span, _)| w.windows.must_observe_again(span)).count();
    assert!(again <= 2, "{again} of 100 batches");
}

#[test]
fn a_correction_never_says_less_than_what_it_corrects() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0)], at(10));
    w.append(vec![row(2, 0, 70, 2.0)], at(70));
    w.close(at(70), false);
    w.disk.batches.remove(0);
    w.append(vec![row(3, 0, 30, 3.0)], at(80));
    assert!(w.close(at(80), false).is_empty());
    assert_eq!((w.windows.too_late(), w.windows.waiting()), (1, 1));
}

#[test]
fn what_differs_only_in_its_source_is_one_series() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 100, 20, 3.0), row(3, 0, 70, 0.0)], at(70));
    let rows = w.close(at(70), false);
    assert_eq!((rows.len(), rows[0].aggregate.samples, rows[0].series), (1, 2, 100));
}

#[test]
fn a_window_holds_only_what_its_filters_let_in() {
    let of = |name: &str, of: Selection| Window { name: name.into(), of, ..minute_window() };
    let all = Selection::default();
    let globs = |text: &str| vec![text.to_owned()];
    let mut w = World::new(vec![
        of("all", all.clone()),
        of("source", Selection { sources: globs("s1"), ..all.clone() }),
        of("device", Selection { devices: globs("d1*"), ..all.clone() }),
        of("nothing", Selection { metrics: globs("m[0]"), ..all.clone() }),
    ]);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 100, 20, 3.0), row(3, 10, 30, 5.0)], at(30));
    let mut rows: Vec<_> =
        w.close(at(500), true).iter().map(|r| (r.window.to_string(), r.aggregate.sum.unwrap())).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let expected = [("all", 4.0), ("all", 5.0), ("device", 5.0), ("source", 3.0)];
    assert_eq!(rows, expected.map(|(name, sum)| (name.to_owned(), sum)));
}

#[test]
fn hopping_windows_close_one_after_the_other_each_with_all_it_overlaps() {
    let hopping = Window { size: 3 * MINUTE, name: "3m".into(), ..minute_window() };
    let mut w = World::new(vec![hopping]);
    for minute in 0..5 {
        w.append(vec![row(minute as u64 + 1, 0, minute * 60 + 30, minute as f64)], at(minute * 60 + 30));
    }
    let told = |rows: Vec<AggregateRow>| -> Vec<_> {
        rows.iter().map(|r| (r.start.0 / MINUTE, r.revision, r.aggregate.sum.unwrap())).collect()
    };
    assert_eq!(told(w.close(at(270), false)), [(-2, 1, 0.0), (-1, 1, 1.0), (0, 1, 3.0), (1, 1, 6.0)]);
    w.append(vec![row(6, 0, 65, 10.0)], at(271));
    assert_eq!(told(w.close(at(271), false)), [(-1, 2, 11.0), (0, 2, 13.0), (1, 2, 16.0)]);
    assert_eq!(w.windows.watermark(&Namespace::default(), Table::Aggregates), Some(at(120)));
    assert_eq!(w.windows.waiting(), 3, "of the minutes 2, 3 and 4");
}

#[test]
fn beyond_the_limit_no_window_is_opened_and_those_that_are_hold_all_of_their_readings() {
    let mut w = World::new(vec![minute_window()]);
    w.windows = Windows::new(&[minute_window()], 0).at_most(2);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 1, 20, 2.0), row(3, 2, 30, 3.0), row(4, 0, 40, 4.0)], at(40));
    assert_eq!((w.windows.waiting(), w.windows.refused()), (2, 1));
    let rows = w.close(at(400), true);
    let samples: Vec<u64> = rows.iter().map(|r| r.aggregate.samples).collect();
    assert_eq!((samples, w.windows.waiting()), (vec![2, 1], 0));
    w.append(vec![row(5, 2, 31, 5.0)], at(401));
    let rows = w.close(at(401), true);
    assert_eq!(rows[0].aggregate.sum, Some(8.0), "with what was refused");
}

#[test]
fn a_plan_is_bounded_and_takes_the_series_of_a_window_together() {
    let bounds = Bounds { windows: 4, readings: 1000 };
    let mut windows = Windows::new(&[minute_window()], 0).with_bounds(bounds);
    let rows: Vec<Row> =
        (0..60).map(|i| row(i + 1, (i % 3) as u32 + 10 * (i % 2) as u32, i as i64 * 20, 1.0)).collect();
    windows.observe(&rows[..3], &dictionary, at(0));
    assert!(!windows.fill_a_plan(at(2000), true), "too few");
    windows.observe(&rows[3..], &dictionary, at(0));
    assert!(windows.fill_a_plan(at(2000), true));
    let plan = windows.due(at(2000), true).unwrap();
    assert!(plan.windows.len() <= 4 && !plan.windows.is_empty(), "{}", plan.windows.len());
    let mut world = World::new(vec![minute_window()]);
    world.windows = Windows::new(&[minute_window()], 0).with_bounds(bounds);
    world.append(rows, at(0));
    let emitted: u64 = world.close(at(2000), true).iter().map(|r| r.aggregate.samples).sum();
    assert_eq!((emitted, world.windows.waiting()), (60, 0));
}

#[test]
fn batches_are_kept_for_open_and_correctable_windows_and_for_what_holds_at_their_start() {
    let mut w = World::new(vec![minute_window()]);
    let span = |from: i64, to: i64, committed: i64| BatchSpan {
        id: 0,
        epoch: 0,
        first_seq: 0,
        rows: 1,
        min_ts: at(from),
        max_ts: at(to),
        min_received: at(committed),
        committed_at: at(committed),
    };
    w.append(vec![row(1, 0, 610, 1.0)], at(610));
    assert!(w.windows.retention().needs(&span(610, 610, 610)));
    assert!(w.windows.retention().needs(&span(540, 545, 545)), "the value at its start");
    assert!(!w.windows.retention().needs(&span(500, 539, 539)));
    assert!(!w.windows.retention().needs(&span(660, 700, 700)));
    w.append(vec![row(2, 0, 680, 1.0)], at(680));
    w.close(at(680), false);
    assert!(w.windows.retention().needs(&span(610, 610, 610)), "it may still be corrected");
    w.close(at(680 + 1000), true);
    w.close(at(680 + 6000), true);
    assert!(!w.windows.retention().needs(&span(0, 800, 800)), "beyond all corrections");
    w.append(vec![row(3, 0, 9010, 1.0)], at(9010));
    assert!(!w.windows.retention().needs(&span(800, i64::MAX / SECOND, 800)) || 800 + 86_400 >= 8_940);
    let stale = span(0, i64::MAX / SECOND, -90_000);
    assert!(!w.windows.retention().needs(&stale), "a stamp of the far future keeps no batch for ever");
}

#[test]
fn decisions_dropped_for_age_leave_behind_up_to_where_a_silent_device_was_closed() {
    let mut w = World::new(vec![minute_window()]);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 1, 70, 1.0), row(3, 0, 130, 2.0)], at(130));
    w.close(at(130), false);
    let all = Decided::decode(&w.disk.decided[0]).unwrap();
    assert!(!w.windows.may_drop(&all), "both can still be corrected");
    w.close(at(130 + 3600), false);
    assert!(w.windows.may_drop(&all));
    let kept = w.windows.still_needed(&all).unwrap();
    assert_eq!((all.decisions.len(), kept.decisions.len()), (2, 1));
    w.disk.decided = vec![kept.encode()];
    w.disk.batches.clear();
    w.restart(at(90_000));
    w.close(at(90_000), true);
    w.append(vec![row(9, 0, 20, 5.0)], at(90_000));
    assert!(w.close(at(90_000), true).is_empty());
    assert_eq!(w.windows.too_late(), 1);
}

#[test]
fn the_watermark_of_a_table_is_the_least_of_its_live_devices() {
    let mut w = World::new(vec![minute_window()]);
    let ns = Namespace::default();
    assert_eq!(w.windows.watermark(&ns, Table::Readings), None);
    w.append(vec![row(1, 0, 10, 1.0), row(2, 10, 100, 1.0)], at(100));
    assert_eq!(w.windows.watermark(&ns, Table::Readings), Some(at(5)));
    assert_eq!(w.windows.watermark(&ns, Table::Aggregates), Some(at(0)));
    w.append(vec![row(3, 0, 200, 1.0)], at(200));
    assert_eq!(w.windows.watermark(&ns, Table::Aggregates), Some(at(0)), "closed, but not emitted");
    w.close(at(200), false);
    assert_eq!(w.windows.watermark(&ns, Table::Aggregates), Some(at(60)));
    w.close(at(450), true);
    assert_eq!(
        w.windows.watermark(&ns, Table::Readings),
        Some(at(195)),
        "a silent device holds nothing back"
    );
    assert_eq!(w.windows.watermark(&ns, Table::Gaps), None);
    assert_eq!(w.windows.watermark(&Namespace::new("other").unwrap(), Table::Readings), None);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u32, i64)>),
    Close { drained: bool, then_die_after: Option<usize> },
    Restart,
    Pass(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let readings = prop::collection::vec((prop::sample::select(vec![0u32, 1, 10, 100]), -400i64..40), 1..12);
    let step = prop_oneof![
        6 => readings.prop_map(Step::Append),
        3 => (any::<bool>(), prop::option::weighted(0.3, 0usize..3))
            .prop_map(|(drained, then_die_after)| Step::Close { drained, then_die_after }),
        1 => Just(Step::Restart),
        2 => (0i64..400).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

/// Samples by window and series, of the newest revision.
fn newest(emitted: &[AggregateRow]) -> BTreeMap<(Arc<str>, Timestamp, SeriesId), (i32, u64)> {
    let mut newest = BTreeMap::new();
    for row in emitted {
        let id = dictionary(row.series).unwrap().id;
        let known = newest.entry((row.window.clone(), row.start, id)).or_insert((0, 0));
        assert!(row.revision > known.0, "revision {} after {known:?}", row.revision);
        assert!(row.aggregate.samples > known.1, "{} readings after {known:?}", row.aggregate.samples);
        *known = (row.revision, row.aggregate.samples);
    }
    newest
}

fn run(steps: Vec<Step>, definitions: &[Window], restarts: bool) -> (World, Vec<Row>) {
    let mut w = World::new(definitions.to_vec());
    let bounds = Bounds { windows: 5, readings: 40 };
    w.windows = Windows::new(definitions, 0).with_bounds(bounds);
    let (mut now, mut seq, mut all) = (86_500i64, 0, Vec::new());
    for step in steps {
        match step {
            Step::Append(readings) => {
                let rows: Vec<Row> = readings
                    .into_iter()
                    .map(|(series, ago)| {
                        seq += 1;
                        row(seq, series, now + ago, seq as f64)
                    })
                    .collect();
                all.extend(rows.clone());
                w.append(rows, at(now));
            }
            Step::Close { drained, then_die_after: None } => {
                w.close(at(now), drained);
            }
            Step::Close { drained, then_die_after: Some(emissions) } => {
                if restarts && let Some(plan) = w.windows.due(at(now), drained) {
                    let folded = w.fold(plan);
                    for emission in folded.emissions.into_iter().take(emissions) {
                        w.seal(emission);
                    }
                    w.restart(at(now));
                }
            }
            Step::Restart if restarts => w.restart(at(now)),
            Step::Restart => w.forget_what_no_window_needs(),
            Step::Pass(seconds) => now += seconds,
        }
    }
    w.close(at(now + 100_000), true);
    (w, all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_dies_and_restarts_each_reading_is_in_its_window_in_the_end(steps in steps()) {
        let mut small = minute_window();
        small.correction_horizon = i64::MAX;
        let mut great = small.clone();
        (great.name, great.size, great.every) = ("10m".into(), 10 * MINUTE, 10 * MINUTE);
        let definitions = [small, great];
        let (w, all) = run(steps, &definitions, true);
        let mut expected: BTreeMap<(Arc<str>, Timestamp, SeriesId), u64> = BTreeMap::new();
        for row in &all {
            for d in &definitions {
                let id = dictionary(row.series).unwrap().id;
                let start = Grid::of(d).cell(row.ts).0;
                *expected.entry((d.name.as_str().into(), start, id)).or_default() += 1;
            }
        }
        let got: BTreeMap<_, _> = newest(&w.emitted).into_iter().map(|(k, (_, samples))| (k, samples)).collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!((w.windows.waiting(), w.windows.too_late()), (0, 0));
    }

    #[test]
    fn with_batches_let_go_each_reading_is_in_its_window_or_counted_as_too_late(steps in steps()) {
        let mut window = minute_window();
        window.correction_horizon = 5 * MINUTE;
        let (w, all) = run(steps, &[window], false);
        let samples: u64 = newest(&w.emitted).values().map(|(_, samples)| samples).sum();
        prop_assert_eq!(samples + w.windows.too_late(), all.len() as u64);
    }
}
