//! Prints how many bytes a reading takes in a segment: `bytes_per_reading [--out DIR] FILE.csv.zst …`, each file with the
//! columns `ts,device,metric,value`.
//!
//! First each UTC day as a segment of its own, as on a gateway; then all files as one day, their times squeezed into it in
//! whole milliseconds, as on a gateway that is many times as busy. With `--out`, the segments are written there, for other
//! readers to look at.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tributary_agent::buffer::row::{Row, SeriesEntry};
use tributary_agent::reading::Value;
use tributary_agent::segment::columns::Provenance;
use tributary_agent::segment::parquet::{Builder, Encoded};
use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::Counters;
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number};
use tributary_contract::manifest::Manifest;
use tributary_contract::quality::Quality;
use tributary_contract::range::Ranges;
use tributary_contract::series::{SeriesId, Tags};
use tributary_contract::status::ShortStatus;
use tributary_contract::table::Table;
use tributary_contract::time::{DAY_MICROS, Day, Timestamp};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut out, mut files) = (None, Vec::new());
    while let Some(argument) = arguments.next() {
        if argument == "--out" {
            out = Some(PathBuf::from(arguments.next().context("--out needs a folder")?));
        } else {
            files.push(PathBuf::from(argument));
        }
    }
    if files.is_empty() {
        bail!("name at least one FILE.csv.zst");
    }
    let mut dictionary = Dictionary::default();
    let mut all = Vec::new();
    for file in &files {
        let rows = dictionary.read(file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        measure(&name, &rows, &dictionary, out.as_deref())?;
        all.push(rows);
    }
    let squeezed: Vec<Row> = all.iter().flat_map(|rows| squeeze(rows, &dictionary)).collect();
    measure("all as one day", &in_order_of_receipt(squeezed), &dictionary, out.as_deref())
}

#[derive(Default)]
struct Dictionary {
    entries: Vec<Arc<SeriesEntry>>,
    keys: HashMap<(String, String), u32>,
}

impl Dictionary {
    fn read(&mut self, file: &std::path::Path) -> Result<Vec<Row>> {
        let packed = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let text = String::from_utf8(zstd::decode_all(packed.as_slice())?)?;
        let mut rows = Vec::new();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let [ts, device, metric, value] = fields[..] else { bail!("{line:?} has not four fields") };
            let Ok(value) = value.parse::<f64>() else { continue };
            let ts = ts.parse::<jiff::Timestamp>().with_context(|| format!("time {ts:?}"))?;
            rows.push(self.row(Timestamp(ts.as_microsecond()), device, metric, value));
        }
        Ok(in_order_of_receipt(rows))
    }

    fn row(&mut self, ts: Timestamp, device: &str, metric: &str, value: f64) -> Row {
        let entries = &mut self.entries;
        let series = *self.keys.entry((device.to_owned(), metric.to_owned())).or_insert_with(|| {
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
        });
        let value = Value::Float(value);
        let received_at = received_at(ts, device);
        Row {
            seq: 0,
            ts,
            received_at,
            series,
            value,
            quality: Quality::GOOD,
            row_tags: None,
            kept_back: false,
        }
    }
}

/// Numbers the rows as a journal would. What a device measured at one time is one message, received a few to a few
/// hundred milliseconds later.
fn in_order_of_receipt(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|r| r.ts);
    for (seq, row) in (1..).zip(&mut rows) {
        row.seq = seq;
    }
    rows
}

fn received_at(ts: Timestamp, device: &str) -> Timestamp {
    let noise = SeriesId::of(device, &ts.0.to_string(), &Tags::new()).0;
    Timestamp::from_millis(ts.0.div_euclid(1000) + 5 + (noise >> 57) as i64)
}

fn squeeze(rows: &[Row], dictionary: &Dictionary) -> Vec<Row> {
    let times = || rows.iter().map(|r| r.ts.0);
    let (from, to) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    let factor = (to - from) / DAY_MICROS + 1;
    let squeezed = |row: &Row| {
        let ts = Timestamp::from_millis((row.ts.0 - from) / factor / 1000);
        let device = dictionary.entries.get(row.series as usize).map_or("", |e| e.device.as_str());
        Row { ts, received_at: received_at(ts, device), ..row.clone() }
    };
    rows.iter().map(squeezed).collect()
}

fn measure(name: &str, rows: &[Row], dictionary: &Dictionary, out: Option<&std::path::Path>) -> Result<()> {
    let mut days: BTreeMap<Day, Vec<Row>> = BTreeMap::new();
    for row in rows {
        days.entry(row.ts.day()).or_default().push(row.clone());
    }
    let (segments, began) = (days.len(), Instant::now());
    let mut bytes = 0;
    for (number, (day, rows)) in (1..).zip(days) {
        let encoded = encode(number, day, rows, dictionary)?;
        bytes += encoded.bytes.len();
        if let Some(folder) = out {
            let stem = name.split('.').next().unwrap_or(name).replace(' ', "-");
            std::fs::write(folder.join(format!("{stem}-{day}.parquet")), &encoded.bytes)?;
        }
    }
    let (count, took) = (rows.len() as f64, began.elapsed().as_secs_f64());
    writeln!(
        io::stdout(),
        "{name}: {} readings in {segments} segments, {:.2} bytes a reading, {:.2} million readings a second",
        rows.len(),
        bytes as f64 / count,
        count / took / 1e6
    )?;
    Ok(())
}

fn encode(number: u64, day: Day, rows: Vec<Row>, dictionary: &Dictionary) -> Result<Encoded> {
    let (gateway, epoch, number) = (GatewayId::new("gw-1")?, Epoch(0x1f2e), Number::new(number)?);
    let mut builder = Builder::<Row>::new(day, Provenance { gateway: gateway.clone(), epoch, number });
    for row in rows {
        builder.push(row, &|key| dictionary.entries.get(key as usize).cloned())?;
    }
    let facts = builder.facts().context("a day without readings")?;
    let manifest = Manifest {
        version: FORMAT_VERSION,
        gateway,
        epoch,
        number,
        previous: None,
        namespace: Namespace::default(),
        table: Table::Readings,
        day,
        rows: facts.rows,
        min_seq: facts.seqs.map(|s| s.0),
        max_seq: facts.seqs.map(|s| s.1),
        min_ts: facts.min_ts,
        max_ts: facts.max_ts,
        watermark: None,
        void: Ranges::new(),
        outstanding: Ranges::new(),
        closed: Vec::new(),
        counters: Counters::default(),
        status: ShortStatus::default(),
    };
    Ok(builder.finish(&manifest)?)
}
