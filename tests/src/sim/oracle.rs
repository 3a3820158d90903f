//! What must be in the tables, by plain arithmetic on what sensors published and the gateway acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use super::broker::{Message, Sort};
use super::lake::{ReadingRow, Tables};
use super::script::{Kinds, WindowKind};

/// What happened, as far as it decides what must be true.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    /// Messages whose PUBACK left the gateway.
    pub acknowledged: BTreeSet<u32>,
    /// Messages that may be missing or doubled: acknowledged before someone removed or replaced the buffer.
    pub excused: BTreeSet<u32>,
    /// Whether the broker ever forgot acknowledgements further back than its in-flight window.
    pub forgot_far: bool,
    /// Messages that such a broker sent again over more than one connection.
    pub unknowable: BTreeSet<u32>,
    /// Whether the buffer was ever removed or replaced by an older copy.
    pub surgery: bool,
    /// Whether the wall clock was ever turned.
    pub clock_turned: bool,
    /// Which windows are closed.
    pub windows: Kinds,
}

/// What the oracle counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows of `readings`.
    pub rows: u64,
    /// Of these, marked as possible duplicates.
    pub marked: u64,
    /// Rows of `gaps`.
    pub gaps: u64,
    /// Windows compared with the readings.
    pub windows: u64,
    /// Epochs that have readings in the table.
    pub epochs: u64,
}

impl Oracle {
    /// Compares the tables with what was acknowledged.
    ///
    /// # Errors
    /// The first thing that is wrong, in a sentence.
    pub fn judge(&self, messages: &[Message], tables: &Tables) -> Result<Counted, String> {
        if let Some(file) = tables.doubled_files().first() {
            return Err(format!("a table has {file} twice"));
        }
        let mut rows: BTreeMap<u32, Vec<&ReadingRow>> = BTreeMap::new();
        let mut seqs = BTreeSet::new();
        for row in &tables.readings {
            if !seqs.insert((&row.epoch, row.seq)) {
                return Err(format!("epoch {} has seq {} twice", row.epoch, row.seq));
            }
            rows.entry(row.value as u32).or_default().push(row);
        }
        if let Some(number) = rows.keys().find(|n| !messages.iter().any(|m| m.number == **n)) {
            return Err(format!("nobody published message {number}"));
        }
        for message in messages {
            let found = rows.get(&message.number).map_or(&[][..], Vec::as_slice);
            self.judge_message(message, found, &tables.rejects)?;
        }
        let mut windows = 0;
        for kind in self.windows.all() {
            windows += self.judge_windows(tables, kind)?;
        }
        let epochs: BTreeSet<&String> = tables.readings.iter().map(|r| &r.epoch).collect();
        Ok(Counted {
            rows: tables.readings.len() as u64,
            marked: tables.readings.iter().filter(|r| is_marked(r)).count() as u64,
            gaps: tables.gaps.len() as u64,
            windows,
            epochs: epochs.len() as u64,
        })
    }

    fn judge_message(
        &self,
        message: &Message,
        rows: &[&ReadingRow],
        rejects: &[(String, i64)],
    ) -> Result<(), String> {
        let Message { number, sort, readings, .. } = message;
        let acknowledged = self.acknowledged.contains(number);
        let excused = self.excused.contains(number);
        if *sort == Sort::Rubbish {
            let payload = format!("{{\"a\":{number}");
            let times: i64 = rejects.iter().filter(|(p, _)| *p == payload).map(|(_, n)| n).sum();
            if acknowledged && !excused && times == 0 {
                return Err(format!("reject {number} was acknowledged and is in no table"));
            }
            return if rows.is_empty() { Ok(()) } else { Err(format!("reject {number} has readings")) };
        }
        let expected: BTreeSet<&str> = ["a", "b", "c"].into_iter().take(usize::from(*readings)).collect();
        for metric in &expected {
            let of_metric: Vec<_> = rows.iter().filter(|r| r.metric == *metric).collect();
            if acknowledged && !excused && of_metric.is_empty() {
                return Err(format!(
                    "message {number} ({sort:?}, {metric}) was acknowledged and isn't in the table"
                ));
            }
            let unmarked = of_metric.iter().filter(|r| !is_marked(r)).count();
            let copies = of_metric.len().saturating_sub(1);
            let tolerated = match sort {
                // Own time: once, whatever happened; but nobody can promise that for a buffer that was replaced.
                Sort::Timed | Sort::Loose => self.surgery,
                // Without: a copy may be there where nobody could know, and then it is marked.
                Sort::Plain => {
                    unmarked <= 1 || self.surgery || self.forgot_far || self.unknowable.contains(number)
                }
                Sort::Rubbish => false,
            };
            if copies > 0 && !tolerated {
                return Err(format!(
                    "message {number} ({sort:?}, {metric}) is in the table {} times, {unmarked} of them unmarked",
                    of_metric.len()
                ));
            }
        }
        match rows.iter().find(|r| !expected.contains(r.metric.as_str())) {
            Some(row) => Err(format!("message {number} has a strange metric {:?}", row.metric)),
            None => Ok(()),
        }
    }

    /// The newest revision of each window holds each reading of the table that belongs there.
    fn judge_windows(&self, tables: &Tables, kind: &WindowKind) -> Result<u64, String> {
        if self.surgery || self.clock_turned {
            return Ok(0);
        }
        let mut expected: BTreeMap<(&str, i64), i64> = BTreeMap::new();
        for row in tables.readings.iter().filter(|r| enters(r)) {
            let last = row.ts.div_euclid(kind.every) * kind.every;
            for back in 0..kind.size / kind.every {
                *expected.entry((&row.series, last - back * kind.every)).or_default() += 1;
            }
        }
        let mut newest: BTreeMap<(&str, i64), (i64, i64)> = BTreeMap::new();
        for row in tables.windows.iter().filter(|row| row.name == kind.name) {
            let entry = newest.entry((&row.series, row.start)).or_insert((row.revision, row.samples));
            *entry = (*entry).max((row.revision, row.samples));
        }
        for (key, samples) in &expected {
            let got = newest.get(key).map_or(0, |(_, samples)| *samples);
            if got != *samples {
                return Err(format!(
                    "window {} {} of series {}: the table has {samples} readings of it, its newest revision {got}",
                    kind.name, key.1, key.0
                ));
            }
        }
        match newest.keys().find(|key| !expected.contains_key(*key)) {
            Some(key) => {
                let (name, (series, start)) = (kind.name, key);
                Err(format!("window {name} {start} of series {series} has no readings in the table"))
            }
            None => Ok(expected.len() as u64),
        }
    }
}

fn is_marked(row: &ReadingRow) -> bool {
    row.quality.contains("possible-duplicate")
}

/// Whether a reading enters windows.
fn enters(row: &ReadingRow) -> bool {
    let has = |doubt: &str| row.quality.split(',').any(|d| d == doubt);
    let waited = (has("queued") || has("retained")) && row.ts == row.received_at;
    !has("future") && !has("clock-unsynced") && !waited
}
