//! Deadbands: which readings say so little that the aggregates of their windows may stand for them.
//!
//! A reading is *kept back* when it lies within its series' deadband around the last reading that was sent, which came
//! before it by arrival and not after it by event time. What can't be believed or compared is always sent: a reading with
//! any doubt, a text, one that is older than the last one sent, and the first after a start. So that a silent device can
//! be told from a steady one, one is sent anyway when the last lies [`Source::deadband_every`] back by event time.
//!
//! Nothing may be kept back that no aggregate will stand for: a reading of a series that no window takes, or one that may
//! come too late for a correction of its windows.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use super::decode::pattern::{glob, selects};
use crate::config::{Config, Source, Window};
use crate::reading::{Accepted, Reading};

/// Series whose last sent reading is remembered; readings of more are all sent.
const REMEMBERED: usize = 1_000_000;

/// The deadbands of all sources, and what was last sent of each series.
#[derive(Debug, Clone, Default)]
pub struct Deadbands {
    /// By position of the source; none for those without.
    sources: Vec<Option<Bands>>,
    series: HashMap<(usize, SeriesId), Known>,
}

#[derive(Debug, Clone)]
struct Bands {
    source: String,
    /// By glob of metrics.
    of: Vec<(String, f64)>,
    every: i64,
    windows: Arc<[Window]>,
}

/// What is known of a series.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// None where all is sent.
    band: Option<Band>,
    last: Option<(Timestamp, f64)>,
}

/// A series' deadband.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Band {
    /// How far a value may lie from the last one sent.
    width: f64,
    /// How old a reading may be when it is received, microseconds: so long each of its windows can be corrected.
    oldest: i64,
}

impl Deadbands {
    /// Those of the configuration; nothing was sent yet.
    pub fn new(config: &Config) -> Self {
        let windows: Arc<[Window]> = config.windows.clone().into();
        let of = |source: &Source| {
            (!source.deadband.is_empty()).then(|| Bands {
                source: source.name.clone(),
                of: source.deadband.clone(),
                every: source.deadband_every,
                windows: Arc::clone(&windows),
            })
        };
        Self { sources: config.sources.iter().map(of).collect(), series: HashMap::new() }
    }

    /// Marks what is to be kept back of `messages`, which come in their order of arrival.
    pub fn mark(&mut self, messages: &mut [Accepted]) {
        for message in messages {
            if let Some(Some(bands)) = self.sources.get(message.source) {
                for reading in &mut message.readings {
                    let id = SeriesId::of(&reading.device, &reading.metric, &reading.tags);
                    let key = (message.source, id);
                    if self.series.len() >= REMEMBERED && !self.series.contains_key(&key) {
                        continue;
                    }
                    let first = || Known { band: bands.of(&reading.device, &reading.metric), last: None };
                    let known = self.series.entry(key).or_insert_with(first);
                    let age = message.received_at.since(reading.ts);
                    reading.kept_back = known.keeps_back(reading, age, bands.every);
                }
            }
        }
    }

    /// What was marked since the last commit may not have become durable, or times aren't what they were: of each series
    /// the next reading is sent.
    pub fn forget(&mut self) {
        self.series.clear();
    }
}

impl Bands {
    /// The deadband of a series: the longest glob of those that match decides, and a window must take it.
    fn of(&self, device: &str, metric: &str) -> Option<Band> {
        let matching = self.of.iter().filter(|(g, _)| glob(g, metric));
        let (_, width) = matching.max_by_key(|(g, _)| g.len())?;
        let taking = self.windows.iter().filter(|w| selects(&w.of, &self.source, device, metric));
        let oldest = taking.map(|w| w.correction_horizon).min()?;
        Some(Band { width: *width, oldest })
    }
}

impl Known {
    fn keeps_back(&mut self, reading: &Reading, age: i64, every: i64) -> bool {
        let Some(Band { width, .. }) = self.band.filter(|band| age < band.oldest) else { return false };
        let value = reading.value.numeric().filter(|v| v.is_finite() && reading.quality.is_good());
        let Some(value) = value else { return false };
        if let Some((ts, last)) = self.last {
            if reading.ts < ts {
                return false;
            }
            if (value - last).abs() <= width && reading.ts.since(ts) < every {
                return true;
            }
        }
        self.last = Some((reading.ts, value));
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tributary_contract::quality::{Doubt, Quality};

    use super::*;
    use crate::config::{HOUR, MINUTE, SECOND, Selection};
    use crate::reading::Value;

    fn reading(at: i64, value: Value) -> Reading {
        Reading {
            ts: Timestamp(at * SECOND),
            device: "d".into(),
            metric: "temperature".into(),
            tags: Default::default(),
            row_tags: Default::default(),
            value,
            unit: None,
            quality: Quality::GOOD,
            kept_back: false,
        }
    }

    fn bands(of: &[(&str, f64)], taken: Vec<Selection>) -> Deadbands {
        let of = of.iter().map(|(g, band)| ((*g).to_owned(), *band)).collect();
        let windows = taken.into_iter().map(|of| Window { of, ..Window::tumbling("1m", MINUTE) }).collect();
        let bands = Bands { source: "plant".into(), of, every: HOUR, windows };
        Deadbands { sources: vec![None, Some(bands)], series: HashMap::new() }
    }

    fn kept_back(deadbands: &mut Deadbands, source: usize, readings: Vec<Reading>) -> Vec<bool> {
        kept_back_at(deadbands, source, 0, readings)
    }

    fn kept_back_at(deadbands: &mut Deadbands, source: usize, at: i64, readings: Vec<Reading>) -> Vec<bool> {
        let mut messages = [Accepted { source, received_at: Timestamp(at * SECOND), readings }];
        deadbands.mark(&mut messages);
        messages[0].readings.iter().map(|r| r.kept_back).collect()
    }

    #[test]
    fn what_moves_less_than_the_band_is_kept_back_until_it_has_moved_from_the_last_that_was_sent() {
        let mut d = bands(&[("temp*", 0.5)], vec![Selection::default()]);
        let values = [20.0, 20.5, 19.5, 20.51, 20.6, 20.0];
        let readings = (0..).zip(values).map(|(at, v)| reading(at, Value::Float(v))).collect::<Vec<_>>();
        let expected = [false, true, true, false, true, false];
        assert_eq!(kept_back(&mut d, 1, readings.clone()), expected);
        assert_eq!(kept_back(&mut d, 0, readings.clone()), [false; 6], "a source without");
        d.forget();
        assert_eq!(kept_back(&mut d, 1, readings), expected);
    }

    #[test]
    fn one_is_sent_each_hour_and_so_is_what_has_a_doubt_is_text_or_comes_late() {
        let mut d = bands(&[("*", 1.0)], vec![Selection::default()]);
        let n = |at| reading(at, Value::Int(5));
        let doubtful = Reading { quality: Quality::GOOD.with(Doubt::Future), ..n(99) };
        let readings =
            vec![n(10), n(11), doubtful, reading(12, Value::Text("5".into())), n(9), n(3609), n(3610)];
        let kept = kept_back(&mut d, 1, readings);
        assert_eq!(kept, [false, true, false, false, false, true, false]);
    }

    #[test]
    fn a_series_that_no_window_takes_is_sent_whole_and_the_longest_glob_decides() {
        let of_pumps = Selection { devices: vec!["pump*".into()], ..Selection::default() };
        let mut d = bands(&[("*", 9.0)], vec![of_pumps]);
        let n = |at, device: &str| Reading { device: device.into(), ..reading(at, Value::Int(1)) };
        assert_eq!(
            kept_back(&mut d, 1, vec![n(0, "fan"), n(1, "fan"), n(1, "pump1"), n(2, "pump1")]),
            [false, false, false, true]
        );
        let d = bands(&[("*", 9.0), ("temp*", 0.0)], vec![Selection::default()]);
        let bands = d.sources[1].as_ref().unwrap();
        let width = |metric| bands.of("d", metric).map(|band| band.width);
        assert_eq!((width("temperature"), width("x")), (Some(0.0), Some(9.0)));
    }

    #[test]
    fn what_may_come_too_late_for_a_correction_is_sent() {
        let mut d = bands(&[("*", 1.0)], vec![Selection::default()]);
        let n = |at| vec![reading(at, Value::Int(5))];
        let day = 24 * 3600;
        assert_eq!(kept_back_at(&mut d, 1, 0, n(0)), [false]);
        assert_eq!(kept_back_at(&mut d, 1, day, n(1)), [true]);
        assert_eq!(kept_back_at(&mut d, 1, day + 2, n(2)), [false]);
    }

    proptest! {
        /// Whoever draws a step line through what was sent is off by no more than the band, at each good reading that
        /// came in order.
        #[test]
        fn a_step_line_through_what_is_sent_is_nowhere_off_by_more_than_the_band(
            steps in prop::collection::vec((1i64..900, -2.0..2.0f64), 1..200), band in 0.0..3.0f64,
        ) {
            let mut d = bands(&[("*", band)], vec![Selection::default()]);
            let (mut at, mut value) = (0, 0.0);
            let mut readings = Vec::new();
            for (seconds, by) in steps {
                (at, value) = (at + seconds, value + by);
                readings.push(reading(at, Value::Float(value)));
            }
            let kept = kept_back(&mut d, 1, readings.clone());
            let mut line = None::<(Timestamp, f64)>;
            for (r, kept) in readings.iter().zip(kept) {
                let value = r.value.numeric().unwrap();
                if !kept {
                    line = Some((r.ts, value));
                }
                let (since, sent) = line.expect("the first is sent");
                prop_assert!((value - sent).abs() <= band || !kept);
                prop_assert!(r.ts.since(since) < HOUR);
            }
        }
    }
}
