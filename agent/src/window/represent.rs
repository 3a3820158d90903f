//! Which readings an emitted aggregate stands for, so that they may leave the journal without being lost altogether.
//!
//! Asked first with the readings in question, then with the decisions that are kept, then for each reading. A reading is
//! represented if it enters windows, and of each definition the newest decision on its window had seen it. What came too
//! late for its window, or has no number, isn't.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_contract::id::Namespace;
use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use super::decision::Decided;
use super::definition::Definition;
use super::windowed_value;
use crate::buffer::row::{Row, SeriesEntry};
use crate::config::Window;

/// The readings in question, and what is known of their windows.
#[derive(Debug)]
pub struct Represented {
    ordinal: u32,
    definitions: Arc<[Definition]>,
    series: HashMap<(Namespace, SeriesId), u32>,
    /// By dictionary key: the series, and the numbers of the definitions that take it.
    keys: HashMap<u32, (u32, Arc<[u16]>)>,
    /// By definition, series and start: its end, and up to which seq of this epoch a decision has looked; none before one
    /// was found.
    windows: HashMap<(u16, u32, Timestamp), (Timestamp, Option<u64>)>,
}

impl Represented {
    /// Nothing in question yet, in the epoch of that ordinal.
    pub fn new(definitions: &[Window], ordinal: u32) -> Self {
        Self {
            ordinal,
            definitions: Definition::all(definitions),
            series: HashMap::new(),
            keys: HashMap::new(),
            windows: HashMap::new(),
        }
    }

    /// Puts a reading in question.
    pub fn ask(&mut self, row: &Row, entry: &SeriesEntry) {
        if windowed_value(row).is_none() {
            return;
        }
        let next = self.series.len() as u32;
        let series = *self.series.entry((entry.namespace.clone(), entry.id)).or_insert(next);
        let definitions = &self.definitions;
        let (_, enters) = self.keys.entry(row.series).or_insert_with(|| {
            let taking = (0u16..).zip(definitions.iter()).filter(|(_, d)| entry.is_of(&d.window.of));
            (series, taking.map(|(number, _)| number).collect())
        });
        let mut held = Vec::new();
        for &number in enters.iter() {
            let Some(definition) = definitions.get(usize::from(number)) else { continue };
            definition.grid.holding(row.ts, &mut held);
            for &(start, end) in &held {
                self.windows.entry((number, series, start)).or_insert((end, None));
            }
        }
    }

    /// Whether nothing is in question that a decision could stand for.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Takes a set of decisions; sets come in the order in which they were taken.
    pub fn take(&mut self, decided: &Decided) {
        // Seqs of another epoch can't be compared. What it decided on was taken over by this one, and stands.
        let seen = if decided.seen.ordinal == self.ordinal { decided.seen.through } else { u64::MAX };
        for d in &decided.decisions {
            let Some(&series) = self.series.get(&(d.namespace.clone(), d.series)) else { continue };
            let number = self.definitions.iter().position(|known| known.name == d.window);
            let Some(number) = number else { continue };
            if let Some((_, known)) =
                self.windows.get_mut(&(number as u16, series, d.start)).filter(|(end, _)| *end == d.end)
            {
                *known = Some(seen);
            }
        }
    }

    /// Whether an aggregate stands for the reading.
    pub fn has(&self, row: &Row) -> bool {
        let Some((series, enters)) = self.keys.get(&row.series) else { return false };
        if windowed_value(row).is_none() || enters.is_empty() {
            return false;
        }
        let mut held = Vec::new();
        enters.iter().all(|&number| {
            let Some(definition) = self.definitions.get(usize::from(number)) else { return false };
            definition.grid.holding(row.ts, &mut held);
            held.iter().all(|&(start, _)| {
                let known = self.windows.get(&(number, *series, start));
                known.is_some_and(|(_, through)| through.is_some_and(|through| row.seq <= through))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use tributary_contract::quality::Quality;

    use super::super::decision::{Decision, Seen};
    use super::*;
    use crate::config::MINUTE;
    use crate::reading::Value;

    fn window(name: &str, size: i64) -> Window {
        Window { lateness: 0, idle: MINUTE, correction_horizon: 0, ..Window::tumbling(name, size) }
    }

    fn entry() -> SeriesEntry {
        SeriesEntry { key: 3, id: SeriesId(77), ..SeriesEntry::of("plant", "d", "m") }
    }

    fn row(seq: u64, ts: i64, value: Value) -> Row {
        let (ts, received_at) = (Timestamp(ts), Timestamp(ts + 1));
        Row {
            seq,
            ts,
            received_at,
            series: 3,
            value,
            quality: Quality::GOOD,
            row_tags: None,
            kept_back: false,
        }
    }

    fn decided(ordinal: u32, window: &str, size: i64, start: i64, through: u64) -> Decided {
        let decision = Decision {
            namespace: Namespace::default(),
            window: Arc::from(window),
            device: Arc::from("d"),
            series: SeriesId(77),
            start: Timestamp(start),
            end: Timestamp(start + size),
            revision: 1,
            samples: 1,
            late: 0,
            of_texts: false,
            part: None,
        };
        let seen =
            Seen { at: Timestamp(0), ordinal, through, settled: through, open_from: None, frozen: false };
        Decided { seen, decisions: vec![decision] }
    }

    #[test]
    fn a_reading_is_represented_once_each_of_its_windows_was_decided_with_it() {
        let windows = [window("1m", MINUTE), window("1h", 60 * MINUTE)];
        let mut asked = Represented::new(&windows, 2);
        let (early, late) = (row(5, 10, Value::Float(1.0)), row(9, 20, Value::Float(1.0)));
        let text = row(6, 10, Value::Text("on".into()));
        for row in [&early, &late, &text] {
            asked.ask(row, &entry());
        }
        asked.take(&decided(2, "1m", MINUTE, 0, 7));
        assert!(!asked.has(&early), "the hour is open");
        asked.take(&decided(2, "1h", MINUTE, 0, 7));
        assert!(!asked.has(&early), "another size is another window");
        asked.take(&decided(2, "1h", 60 * MINUTE, 0, 7));
        assert!(asked.has(&early) && !asked.has(&late) && !asked.has(&text));
        asked.take(&decided(2, "1m", MINUTE, 0, 9));
        assert!(!asked.has(&late));
        asked.take(&decided(2, "1h", 60 * MINUTE, 0, 9));
        assert!(asked.has(&late), "the corrections have it");
    }

    #[test]
    fn what_an_older_epoch_decided_stands_for_what_was_moved_from_it() {
        let mut asked = Represented::new(&[window("1m", MINUTE)], 2);
        let moved = row(1_000, 10, Value::Int(4));
        asked.ask(&moved, &entry());
        asked.take(&decided(1, "1m", MINUTE, 0, 7));
        assert!(asked.has(&moved));
        assert!(!Represented::new(&[], 2).has(&moved), "without windows there are no aggregates");
    }
}
