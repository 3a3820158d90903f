//! Real measurements as rows of the tables: what the part that measures Parquet writes. Edge: files.
//!
//! The carried data always; where a folder of more of it lies beside the checkout (`TRIBUTARY_SHARED`, by default
//! `../shared`), that too.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use tributary_agent::buffer::row::{Row, SeriesEntry};
use tributary_agent::config::{Functions, HOUR, MINUTE};
use tributary_agent::reading::Value;
use tributary_agent::window::emit::AggregateRow;
use tributary_agent::window::fold::{Sample, fold};
use tributary_contract::id::Namespace;
use tributary_contract::quality::Quality;
use tributary_contract::series::{SeriesId, Tags};
use tributary_contract::time::{DAY_MICROS, Day, Timestamp};

/// Readings, or aggregates of them, by the day whose segments they make.
pub(crate) type Days<R> = BTreeMap<Day, Vec<R>>;

/// Measurements of one origin.
#[derive(Debug)]
pub(crate) struct Set {
    /// Name of the file, without its endings.
    pub(crate) name: String,
    /// In the order of receipt.
    pub(crate) days: Days<Row>,
}

/// All sets and the series of their rows.
#[derive(Debug, Default)]
pub(crate) struct Real {
    pub(crate) sets: Vec<Set>,
    entries: Vec<Arc<SeriesEntry>>,
    keys: HashMap<(String, String), u32>,
}

impl Real {
    /// Reads every set, and puts behind them one of all their readings, their times squeezed into one day in whole
    /// milliseconds: a gateway that is many times as busy.
    ///
    /// # Errors
    /// When a file can't be read.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let mut real = Self::default();
        for file in files()? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let name = name.split('.').next().unwrap_or_default().to_owned();
            let rows = real.rows_of(&file)?;
            real.sets.push(Set { name, days: by_day(in_order_of_receipt(rows)) });
        }
        let squeezed: Vec<Row> = real.sets.iter().flat_map(|set| real.squeeze(&set.days)).collect();
        real.sets.push(Set { name: "one-day".to_owned(), days: by_day(in_order_of_receipt(squeezed)) });
        Ok(real)
    }

    /// The series of that key.
    pub(crate) fn entry(&self, key: u32) -> Option<Arc<SeriesEntry>> {
        self.entries.get(key as usize).cloned()
    }

    fn rows_of(&mut self, file: &Path) -> anyhow::Result<Vec<Row>> {
        let packed = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let text = String::from_utf8(zstd::decode_all(packed.as_slice())?)?;
        let mut rows = Vec::new();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let [ts, device, metric, value] = fields[..] else { bail!("{line:?} has not four fields") };
            // Empty or `NA` where nothing was measured.
            let Ok(value) = value.parse::<f64>() else { continue };
            let ts = ts.parse::<jiff::Timestamp>().with_context(|| format!("time {ts:?}"))?;
            let ts = Timestamp(ts.as_microsecond());
            rows.push(Row {
                seq: 0,
                ts,
                received_at: received_at(ts, device),
                series: self.series(device, metric, ts),
                value: Value::Float(value),
                quality: Quality::GOOD,
                row_tags: None,
                kept_back: false,
            });
        }
        Ok(rows)
    }

    fn series(&mut self, device: &str, metric: &str, ts: Timestamp) -> u32 {
        let entries = &mut self.entries;
        *self.keys.entry((device.to_owned(), metric.to_owned())).or_insert_with(|| {
            let key = entries.len() as u32;
            entries.push(Arc::new(SeriesEntry {
                key,
                id: SeriesId::of(device, metric, &Tags::new()),
                namespace: Namespace::default(),
                source: "real".to_owned(),
                device: device.to_owned(),
                metric: metric.to_owned(),
                tags: Tags::from([("site".to_owned(), "north".to_owned())]),
                unit: None,
                value_type: "double",
                first_ts: ts,
                last_ts: ts,
            }));
            key
        })
    }

    fn squeeze(&self, days: &Days<Row>) -> Vec<Row> {
        let times = || days.values().flatten().map(|r| r.ts.0);
        let (from, to) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
        let factor = (to - from) / DAY_MICROS + 1;
        let squeezed = |row: &Row| {
            let ts = Timestamp::from_millis((row.ts.0 - from) / factor / 1000);
            let device = self.entries.get(row.series as usize).map_or("", |e| e.device.as_str());
            Row { ts, received_at: received_at(ts, device), ..row.clone() }
        };
        days.values().flatten().map(squeezed).collect()
    }
}

/// Windows of ten minutes and of an hour over those readings, every usual statistic filled in.
pub(crate) fn aggregates(days: &Days<Row>) -> Days<AggregateRow> {
    let mut windows: BTreeMap<(i64, Timestamp, u32), Vec<Sample>> = BTreeMap::new();
    for row in days.values().flatten() {
        let Some(value) = row.value.numeric() else { continue };
        for size in [10 * MINUTE, HOUR] {
            let start = Timestamp(row.ts.0.div_euclid(size) * size);
            let sample = Sample { ts: row.ts, seq: row.seq, value };
            windows.entry((size, start, row.series)).or_default().push(sample);
        }
    }
    let mut rows = Days::new();
    for ((size, start, series), samples) in windows {
        let end = start.plus(size);
        let Some(aggregate) = fold(&samples, None, start, end) else { continue };
        rows.entry(start.day()).or_insert_with(Vec::new).push(AggregateRow {
            start,
            end,
            window: if size == HOUR { "1h".into() } else { "10m".into() },
            series,
            aggregate,
            revision: 1,
            late: 0,
            partial: false,
            quality: Quality::GOOD,
            text: None,
            functions: Functions::USUAL,
        });
    }
    rows
}

fn files() -> anyhow::Result<Vec<PathBuf>> {
    let root = tributary_tests::workspace::folder();
    let carried = root.join("tests/data/surfrad-alamosa.csv.zst");
    let shared = std::env::var_os("TRIBUTARY_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    let mut files = vec![carried.clone()];
    if let Ok(more) = fs::read_dir(shared.join("data/timeseries")) {
        for entry in more {
            let path = entry?.path();
            let packed = path.to_string_lossy().ends_with(".csv.zst");
            if packed && path.file_name() != carried.file_name() {
                files.push(path);
            }
        }
    }
    files[1..].sort();
    Ok(files)
}

/// Numbers the rows as a journal would.
fn in_order_of_receipt(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|r| r.ts);
    for (seq, row) in (1..).zip(&mut rows) {
        row.seq = seq;
    }
    rows
}

/// What a device measured at one time is one message, received 5 to 132 milliseconds later.
fn received_at(ts: Timestamp, device: &str) -> Timestamp {
    let noise = SeriesId::of(device, &ts.0.to_string(), &Tags::new()).0;
    Timestamp::from_millis(ts.0.div_euclid(1000) + 5 + (noise >> 57) as i64)
}

fn by_day(rows: Vec<Row>) -> Days<Row> {
    let mut days = Days::new();
    for row in rows {
        days.entry(row.ts.day()).or_insert_with(Vec::new).push(row);
    }
    days
}
