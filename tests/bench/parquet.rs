//! What a row of real measurements takes in a segment: by the settings that segments are written by, with one of them
//! changed at a time, and beside what others make of the same rows.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use parquet::file::properties::EnabledStatistics;
use serde::Deserialize;
use tributary_agent::segment::columns::{Provenance, TableRow};
use tributary_agent::segment::encoding::{Choice, Settings, choice};
use tributary_agent::segment::parquet::Builder;
use tributary_agent::window::decision::Seen;
use tributary_agent::window::emit::AggregateRow;
use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::Counters;
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number};
use tributary_contract::manifest::Manifest;
use tributary_contract::range::Ranges;
use tributary_contract::schema::ColumnType;
use tributary_contract::status::ShortStatus;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use crate::cost::Cost;
use crate::figures::{Figure, Figures};
use crate::real::{self, Days, Real};
use crate::tell;

/// Rows that a segment of a set has on average at least, for choices to be measured on it: below, nearly all is footer.
const FULL: usize = 1000;

/// Where the Python is that has pyarrow and pcodec; `tests/run bench` sets it.
const PYTHON: &str = "TRIBUTARY_BENCH_PYTHON";

/// Adds all figures of this part.
///
/// # Errors
/// When the data or the programs compared with fail.
pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let real = Real::read()?;
    let scratch = tempfile::tempdir()?;
    let mut sizes = HashMap::new();
    for set in &real.sets {
        let folder = scratch.path().join(&set.name);
        fs::create_dir(&folder)?;
        let shipped = part(&set.name, &real, &set.days, |b| b, Some(&folder), figures)?;
        sizes.insert(set.name.clone(), (shipped, rows(&set.days)));
        if is_full(&set.days) {
            // What whole milliseconds save: the same, received at any microsecond.
            let mut exact = set.days.clone();
            for row in exact.values_mut().flatten() {
                row.received_at =
                    row.received_at.plus((row.seq.wrapping_mul(0x9E37_79B9) >> 7 & 1023).min(999) as i64);
            }
            let settings = Settings::of(Table::Readings);
            let bytes = write(&real, &exact, &settings, |b| b, None)?;
            variant(
                figures,
                &format!("{}:received_at=microseconds", set.name),
                bytes,
                shipped,
                rows(&set.days),
            );
        }
    }
    for set in real.sets.iter().filter(|set| is_full(&set.days)) {
        let of_windows = real::aggregates(&set.days);
        let name = format!("aggregates-of-{}", set.name);
        part(
            &name,
            &real,
            &of_windows,
            |b: Builder<AggregateRow, Vec<u8>>| b.with_seen(seen()),
            None,
            figures,
        )?;
    }
    for peer in peers(scratch.path())? {
        let (ours, rows) = sizes.get(&peer.set).copied().context("a set that nobody wrote")?;
        for (name, bytes) in [("defaults", peer.defaults), ("best", peer.best), ("pco", peer.pco)] {
            let each = bytes as f64 / rows as f64;
            figures.add(Figure::of(format!("{name}_bytes_per_reading@{}", peer.set), &[each], "B", PEERS));
            let ratio = ours as f64 / bytes as f64;
            figures.add(Figure::of(format!("parquet_vs_{name}@{}", peer.set), &[ratio], "×", PEERS));
        }
    }
    Ok(())
}

const PEERS: &str = "pyarrow's defaults, its best, pco for each series and column";
const OURS: &str = "segments as they are shipped";
const CHANGED: &str = "one setting changed; gain: what the shipped one saves";

/// What a builder is told beside its settings.
type Prepare<R> = fn(Builder<R, Vec<u8>>) -> Builder<R, Vec<u8>>;

/// One table's rows of one set: by the shipped settings, whose bytes it returns, and by others.
fn part<R: TableRow + Clone>(
    name: &str,
    real: &Real,
    days: &Days<R>,
    prepare: Prepare<R>,
    folder: Option<&Path>,
    figures: &mut Figures,
) -> anyhow::Result<u64> {
    let rows = rows(days);
    tell(&format!("{name}: {rows} rows in {} segments", days.len()));
    let bytes = write(real, days, &Settings::of(R::TABLE), prepare, folder)?;
    let what = if R::TABLE == Table::Readings { "reading" } else { "row" };
    let each = bytes as f64 / rows as f64;
    figures.add(Figure::of(format!("parquet_bytes_per_{what}@{name}"), &[each], "B", OURS));
    if is_full(days) {
        for (changed, settings) in others(R::TABLE) {
            let before = Cost::of(std::process::id())?;
            let with = write(real, days, &settings, prepare, None)?;
            let cpu = Cost::of(std::process::id())?.since(before).cpu_seconds / rows as f64 * 1e6;
            variant(figures, &format!("{name}:{changed}"), with, bytes, rows);
            if changed.starts_with("level") {
                let cost = Figure::of(format!("parquet_cpu@{name}:{changed}"), &[cpu], "µs", CHANGED);
                figures.add(cost);
            }
        }
    }
    Ok(bytes)
}

fn variant(figures: &mut Figures, name: &str, with: u64, shipped: u64, rows: usize) {
    let each = |bytes: f64| [bytes / rows as f64];
    figures.add(Figure::of(format!("parquet_bytes@{name}"), &each(with as f64), "B", CHANGED));
    let gain = each(with as f64 - shipped as f64);
    figures.add(Figure::of(format!("parquet_gain@{name}"), &gain, "B", CHANGED));
}

/// The shipped settings with one of them changed, each under a name.
fn others(table: Table) -> Vec<(String, Settings)> {
    let shipped = Settings::of(table);
    let mut all = Vec::new();
    let mut change = |name: String, change: &dyn Fn(&mut Settings)| {
        let mut settings = shipped.clone();
        change(&mut settings);
        all.push((name, settings));
    };
    for level in [1, 3, 9, 15, 19] {
        change(format!("level={level}"), &|s| s.level = level);
    }
    change("unsorted".to_owned(), &|s| s.sorted = false);
    if !shipped.whole.is_empty() {
        change("whole=none".to_owned(), &|s| s.whole.clear());
    }
    for rows in [16_384, 31_744, 63_488, 65_536, 262_144] {
        change(format!("row_group={rows}"), &|s| s.row_group = rows);
    }
    for rows in [4_096, 8_192, 20_480, 31_744, 65_536] {
        change(format!("page_rows={rows}"), &|s| s.page_rows = rows);
    }
    change("statistics=none".to_owned(), &|s| s.statistics = EnabledStatistics::None);
    change("statistics=page".to_owned(), &|s| s.statistics = EnabledStatistics::Page);
    change("filter=device".to_owned(), &|s| s.filters = vec!["device"]);
    for column in table.columns() {
        let possible: &[Choice] = match column.kind {
            ColumnType::Timestamp | ColumnType::Long => &[Choice::Dictionary, Choice::Plain, Choice::Delta],
            ColumnType::Double => &[Choice::Dictionary, Choice::Plain, Choice::Split],
            ColumnType::Int => &[Choice::Dictionary, Choice::Plain],
            ColumnType::String | ColumnType::StringMap { .. } => &[Choice::Dictionary, Choice::Plain],
            ColumnType::Boolean | ColumnType::Binary => &[],
        };
        for other in possible.iter().filter(|other| **other != choice(column.name)) {
            let name = format!("{}={other:?}", column.name).to_lowercase();
            change(name, &|s| s.instead = vec![(column.name, *other)]);
        }
    }
    all
}

fn rows<R>(days: &Days<R>) -> usize {
    days.values().map(Vec::len).sum()
}

fn is_full<R>(days: &Days<R>) -> bool {
    rows(days) >= FULL * days.len()
}

/// Writes a segment for each day; how many bytes they have, all together.
fn write<R: TableRow + Clone>(
    real: &Real,
    days: &Days<R>,
    settings: &Settings,
    prepare: Prepare<R>,
    folder: Option<&Path>,
) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for (number, (day, rows)) in (1..).zip(days) {
        let (gateway, epoch, number) = (GatewayId::new("gw-1")?, Epoch(0x1f2e), Number::new(number)?);
        let provenance = Provenance { gateway: gateway.clone(), epoch, number };
        let mut builder = prepare(Builder::new(*day, provenance, Vec::new()).with_settings(settings.clone()));
        for row in rows {
            builder.push(row.clone(), &|key| real.entry(key))?;
        }
        let facts = builder.facts().context("a day without rows")?;
        let encoded = builder.finish(&Manifest {
            version: FORMAT_VERSION,
            gateway,
            epoch,
            number,
            previous: None,
            namespace: Namespace::default(),
            table: R::TABLE,
            day: *day,
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
        })?;
        bytes += encoded.len() as u64;
        if let Some(folder) = folder {
            fs::write(folder.join(format!("{day}.parquet")), &encoded)?;
        }
    }
    Ok(bytes)
}

fn seen() -> Seen {
    Seen { at: Timestamp(0), ordinal: 0, through: 0, settled: 0, open_from: None, frozen: false }
}

/// What others take for the rows of one set, bytes.
#[derive(Debug, Deserialize)]
struct Peer {
    set: String,
    defaults: u64,
    best: u64,
    pco: u64,
}

/// Has the segments in `folder` written again by others; nothing where there is no Python for it.
fn peers(folder: &Path) -> anyhow::Result<Vec<Peer>> {
    let Some(python) = std::env::var_os(PYTHON) else {
        tell(&format!("{PYTHON} names no Python with pyarrow and pcodec: compared with nothing"));
        return Ok(Vec::new());
    };
    tell("pyarrow and pco on the same rows");
    let script = tributary_tests::workspace::folder().join("tests/bench/parquet_peers.py");
    let output = Command::new(python).arg(script).arg(folder).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).context("what a peer takes")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_setting_differs_from_the_shipped_ones_in_one_thing() {
        for table in [Table::Readings, Table::Aggregates] {
            let shipped = Settings::of(table);
            let all = others(table);
            assert!(
                all.iter().filter(|(_, settings)| *settings == shipped).count() <= 3,
                "level, group, page"
            );
            assert!(table.columns().iter().any(|c| all.iter().any(|(name, _)| name.starts_with(c.name))));
        }
    }
}
