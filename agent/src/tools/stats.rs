//! `buffer stats`: how much lies in the buffer, since when, by source, device and state.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use serde_json::json;
use tributary_contract::time::Timestamp;

use super::Found;
use super::access::Access;
use super::pick::Pick;
use super::text::{Table, bytes, plain};
use super::walk::{self, Names};
use crate::buffer::reader::{Fault, RowState};

/// Devices that people are shown; all are in the JSON.
const DEVICES: usize = 20;

/// Readings of one group by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    by_state: [u64; 3],
    span: Option<(Timestamp, Timestamp)>,
}

impl Tally {
    fn add(&mut self, state: RowState, ts: Timestamp) {
        let [waiting, sealed, shed] = &mut self.by_state;
        match state {
            RowState::Waiting => *waiting += 1,
            RowState::Sealed => *sealed += 1,
            RowState::Shed => *shed += 1,
            // Counted where it stands now.
            RowState::Moved => return,
        }
        let (least, greatest) = self.span.unwrap_or((ts, ts));
        self.span = Some((least.min(ts), greatest.max(ts)));
    }

    fn join(&mut self, other: &Tally) {
        self.by_state.iter_mut().zip(other.by_state).for_each(|(mine, theirs)| *mine += theirs);
        let spans = [self.span, other.span].into_iter().flatten();
        let least = spans.clone().map(|s| s.0).min();
        self.span = least.zip(spans.map(|s| s.1).max());
    }

    fn all(&self) -> u64 {
        self.by_state.iter().sum()
    }

    fn cells(&self) -> Vec<String> {
        let shown = |ts: Option<Timestamp>| ts.map(|t| t.to_string()).unwrap_or_default();
        let mut cells = vec![self.all().to_string()];
        cells.extend(self.by_state.iter().map(u64::to_string));
        cells.extend([shown(self.span.map(|s| s.0)), shown(self.span.map(|s| s.1))]);
        cells
    }

    fn json(&self) -> serde_json::Value {
        let [waiting, sealed, shed] = self.by_state;
        json!({
            "readings": self.all(), "waiting": waiting, "sealed": sealed, "shed": shed,
            "oldest": self.span.map(|s| s.0.to_string()), "newest": self.span.map(|s| s.1.to_string()),
        })
    }
}

/// Counts everything, reading each block once.
///
/// # Errors
/// The way to the buffer's, and writing.
pub fn stats(
    access: &mut Access,
    pick: &Pick,
    as_json: bool,
    out: &mut dyn Write,
    mut note: impl FnMut(&str),
) -> anyhow::Result<Found> {
    let facts = walk::facts(access)?;
    let mut names = Names::default();
    let mut wrong = names.load(access)?;
    let (mut series, mut batches): (HashMap<u32, Tally>, u64) = Default::default();
    let mut unread = Vec::new();
    wrong.extend(walk::batches(access, pick, i64::MIN, |access, batch| {
        batches += 1;
        match names.readings(access, &batch)? {
            Ok((readings, _)) => {
                for r in readings.iter().filter(|r| r.is_in(pick)) {
                    series.entry(r.row.series).or_default().add(r.state, r.row.ts);
                }
            }
            Err(why) => unread.push(Fault::new(format!("batch {}", batch.id), why)),
        }
        Ok(true)
    })?);
    wrong.extend(unread);
    let (segments, faults) = walk::segments(access)?;
    wrong.extend(faults);
    let mut states: BTreeMap<(&str, &str), (u64, u64, u64)> = BTreeMap::new();
    for segment in &segments {
        let sum = states.entry((segment.progress.name(), segment.table.as_str())).or_default();
        *sum = (sum.0 + 1, sum.1 + segment.rows, sum.2 + segment.size);
    }
    let mut sources: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut devices: BTreeMap<(&str, &str), Tally> = BTreeMap::new();
    for (key, tally) in &series {
        let Some(entry) = names.get(*key) else { continue };
        sources.entry(&entry.source).or_default().join(tally);
        devices.entry((&entry.source, &entry.device)).or_default().join(tally);
    }
    let flash: Option<serde_json::Value> = facts.flash.as_deref().and_then(|f| serde_json::from_str(f).ok());
    for Fault { what, why } in &wrong {
        note(&format!("{what}: {why}"));
    }

    if as_json {
        let groups = |tally: &Tally, names: serde_json::Value| {
            let mut row = names;
            if let (Some(row), serde_json::Value::Object(more)) = (row.as_object_mut(), tally.json()) {
                row.extend(more);
            }
            row
        };
        let shown = json!({
            "state_dir": access.dir.display().to_string(),
            "agent_runs": access.running(),
            "gateway": facts.gateway,
            "epochs": facts.epochs,
            "batches": batches,
            "series": names.all().count(),
            "database_bytes": facts.database_bytes,
            "segment_bytes": facts.segment_bytes,
            "aside_bytes": facts.aside_bytes,
            "ballast_bytes": facts.ballast_bytes,
            "flash": flash,
            "sources": sources.iter().map(|(s, t)| groups(t, json!({"source": s}))).collect::<Vec<_>>(),
            "devices": devices
                .iter()
                .map(|((s, d), t)| groups(t, json!({"source": s, "device": d})))
                .collect::<Vec<_>>(),
            "segments": states
                .iter()
                .map(|((state, table), (count, rows, size))| {
                    json!({"state": state, "table": table, "segments": count, "rows": rows, "bytes": size})
                })
                .collect::<Vec<_>>(),
        });
        writeln!(out, "{shown}")?;
        return Ok(ended(&wrong));
    }
    let runs = if access.running() { "an agent has it open" } else { "no agent runs on it" };
    writeln!(out, "{:<10} {} ({runs})", "folder", access.dir.display())?;
    if let Some(epoch) = walk::current(&facts) {
        let r = &epoch.counters.readings;
        writeln!(out, "{:<10} {}, {} before it", "epoch", epoch.epoch, epoch.ordinal)?;
        writeln!(
            out,
            "{:<10} {} journaled, {} waiting, {} sealed, {} registered, {} outstanding, {} shed",
            "counted",
            r.journaled,
            r.waiting(),
            r.sealed,
            r.registered,
            r.outstanding(),
            r.shed
        )?;
    }
    writeln!(
        out,
        "{:<10} database {}, segments {}, ballast {}, set aside {}; {batches} batches, {} series",
        "disk",
        bytes(facts.database_bytes),
        bytes(facts.segment_bytes),
        bytes(facts.ballast_bytes),
        bytes(facts.aside_bytes),
        names.all().count()
    )?;
    if let Some(flash) = &flash {
        let of = |key: &str| bytes(flash[key].as_u64().unwrap_or(0));
        writeln!(out, "{:<10} {} by the agent, {} by all, as last kept", "flash", of("own"), of("device"))?;
    }
    let columns = [">readings", ">waiting", ">sealed", ">shed", "oldest", "newest"];
    let mut table = Table::new(&[&["source"][..], &columns].concat());
    for (source, tally) in &sources {
        table.row([vec![(*source).to_owned()], tally.cells()].concat());
    }
    writeln!(out, "\n{}", table.render().trim_end())?;
    let mut table = Table::new(&[&["source", "device"][..], &columns].concat());
    let mut greatest: Vec<_> = devices.iter().collect();
    greatest.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.all()));
    for ((source, device), tally) in greatest.iter().take(DEVICES) {
        table.row([vec![(*source).to_owned(), (*device).to_owned()], tally.cells()].concat());
    }
    writeln!(out, "\n{}", table.render().trim_end())?;
    if greatest.len() > DEVICES {
        writeln!(out, "and {} more devices: --json names them", greatest.len() - DEVICES)?;
    }
    let mut table = Table::new(&["segments", "table", ">count", ">rows", ">bytes"]);
    for ((state, of), (count, rows, size)) in &states {
        table.row(vec![plain(state), plain(of), count.to_string(), rows.to_string(), bytes(*size)]);
    }
    if !table.is_empty() {
        writeln!(out, "\n{}", table.render().trim_end())?;
    }
    Ok(ended(&wrong))
}

const fn ended(wrong: &[Fault]) -> Found {
    if wrong.is_empty() { Found::Well } else { Found::Faults }
}
