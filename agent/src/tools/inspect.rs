//! `buffer inspect`: one batch, one segment or one series, with everything that is known of it.

use std::io::Write;

use anyhow::bail;
use serde_json::json;
use tributary_contract::time::Timestamp;

use super::Found;
use super::access::{Access, AccessError};
use super::line;
use super::pick::Pick;
use super::text::{Table, bytes, plain};
use super::walk::{self, Names};
use crate::buffer::reader::{Ask, BatchFacts, Page, RowState, SegmentFacts};
use crate::buffer::row::SeriesEntry;

/// Rows of a batch that people are shown; all are in the JSON.
const ROWS: usize = 20;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A batch, by its id.
    Batch(i64),
    /// A segment, by its number, of the epoch named or of the newest that has it.
    Segment(Option<String>, u64),
    /// A series, by its name in the tables (16 hex digits) or its key in the dictionary.
    Series(String),
}

/// Reads `batch 17`, `segment 12`, `segment EPOCH-12`, `series 00c0ffee00c0ffee` or `series 3`.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse(kind: &str, name: &str) -> Result<What, String> {
    let wrong = |expected: &str| format!("invalid {kind} {name:?}: expected {expected}");
    match kind {
        "batch" => name.parse().map(What::Batch).map_err(|_| wrong("the id of a batch, a whole number")),
        "segment" => {
            let (epoch, number) = match name.split_once('-') {
                Some((epoch, number)) => (Some(epoch.to_owned()), number),
                None => (None, name),
            };
            let expected = "its number, or EPOCH-NUMBER, as its file is named";
            let number = number.trim_end_matches(".parquet").parse().map_err(|_| wrong(expected))?;
            let is_epoch = |e: &String| e.parse::<tributary_contract::id::Epoch>().is_ok();
            if epoch.as_ref().is_some_and(|e| !is_epoch(e)) {
                return Err(wrong(expected));
            }
            Ok(What::Segment(epoch, number))
        }
        "series" => {
            let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit());
            let fits = digits && (name.len() == 16 || name.parse::<u32>().is_ok());
            if !fits {
                return Err(wrong("its 16 hex digits of the column `series`, or its key in the dictionary"));
            }
            Ok(What::Series(name.to_lowercase()))
        }
        _ => Err(format!("{kind:?} can't be inspected: name batch, segment or series")),
    }
}

/// Shows one thing.
///
/// # Errors
/// That it isn't there; the way to the buffer's, and writing.
pub fn inspect(
    access: &mut Access,
    what: &What,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Found> {
    match what {
        What::Batch(id) => batch(access, *id, as_json, out),
        What::Segment(epoch, number) => segment(access, epoch.as_deref(), *number, as_json, out),
        What::Series(name) => series(access, name, as_json, out),
    }
}

fn batch(access: &mut Access, id: i64, as_json: bool, out: &mut dyn Write) -> anyhow::Result<Found> {
    let everything = Pick::default();
    let ask = Ask::Batches { after: id.saturating_sub(1), from: everything.from, to: everything.to };
    let Page::Batches { batches, .. } = access.ask(&ask)? else { return Err(AccessError::Confused.into()) };
    let Some(batch) = batches.into_iter().find(|b| b.id == id) else {
        let facts = walk::facts(access)?;
        match facts.oldest_batch.zip(facts.newest_batch) {
            Some((oldest, newest)) => {
                bail!("no batch {id} is there; those that are lie between {oldest} and {newest}")
            }
            None => bail!("no batch {id} is there: the journal is empty"),
        }
    };
    let mut names = Names::default();
    let readings = names.readings(access, &batch)?;
    let gateway = access.gateway().clone();
    let well = readings.is_ok();
    if as_json {
        let (rows, fault) = match readings {
            Ok((readings, nameless)) => {
                let rows = readings.iter().map(|r| {
                    let mut row: serde_json::Value =
                        serde_json::from_str(&line::json(r, &gateway)).unwrap_or_default();
                    row["state"] = r.state.word().into();
                    row
                });
                (
                    json!(rows.collect::<Vec<_>>()),
                    (nameless > 0).then(|| format!("{nameless} without series")),
                )
            }
            Err(why) => (json!([]), Some(why)),
        };
        writeln!(out, "{}", json!({"batch": head(&batch), "fault": fault, "readings": rows}))?;
    } else {
        let BatchFacts { id, epoch, first_seq, rows, .. } = &batch;
        writeln!(out, "{:<10} {id}, of the epoch with {epoch} before it", "batch")?;
        let last = first_seq.saturating_add(u64::from(*rows)).saturating_sub(1);
        writeln!(out, "{:<10} {rows}, seqs {first_seq} to {last}, {} ended", "readings", batch.ended)?;
        writeln!(out, "{:<10} {} to {}", "times", batch.min_ts, batch.max_ts)?;
        let doubt = if batch.synced { "" } else { ", by a clock that wasn't synchronised" };
        writeln!(out, "{:<10} {}{doubt}", "committed", batch.committed_at)?;
        let block = bytes(batch.block.len() as u64);
        writeln!(out, "{:<10} block {block}, memory {}", "bytes", bytes(batch.memory_bytes))?;
        match readings {
            Err(why) => writeln!(out, "{:<10} {}", "DAMAGED", plain(&why))?,
            Ok((readings, nameless)) => {
                let mut table =
                    Table::new(&[">seq", "time", "state", "source", "device", "metric", "value", "quality"]);
                for r in readings.iter().take(ROWS) {
                    table.row(vec![
                        r.row.seq.to_string(),
                        r.row.ts.to_string(),
                        r.state.word().into(),
                        r.series.source.clone(),
                        r.series.device.clone(),
                        r.series.metric.clone(),
                        r.row.value.to_string(),
                        r.row.quality.to_column().unwrap_or_default(),
                    ]);
                }
                writeln!(out, "\n{}", table.render().trim_end())?;
                if readings.len() > ROWS {
                    writeln!(out, "and {} more: --json shows them", readings.len() - ROWS)?;
                }
                if nameless > 0 {
                    writeln!(out, "and {nameless} of series that the dictionary doesn't have")?;
                }
            }
        }
    }
    Ok(if well { Found::Well } else { Found::Faults })
}

fn head(batch: &BatchFacts) -> serde_json::Value {
    json!({
        "id": batch.id,
        "ordinal": batch.epoch,
        "first_seq": batch.first_seq,
        "rows": batch.rows,
        "ended": batch.ended,
        "from_ts": batch.min_ts.to_string(),
        "to_ts": batch.max_ts.to_string(),
        "committed_at": batch.committed_at.to_string(),
        "clock_synced": batch.synced,
        "block_bytes": batch.block.len(),
        "memory_bytes": batch.memory_bytes,
    })
}

fn segment(
    access: &mut Access,
    epoch: Option<&str>,
    number: u64,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Found> {
    let (segments, _) = walk::segments(access)?;
    let fits = |s: &&SegmentFacts| s.number == number && epoch.is_none_or(|e| s.epoch.to_string() == e);
    let Some(segment) = segments.iter().rfind(fits) else {
        bail!(
            "no segment {number} is in the outbox: it was never sealed here, or the lake has it and it was let go of \
             (`buffer stats` shows what is there)"
        );
    };
    let SegmentFacts { epoch, number, name, digest, size, rows, progress, attempts, .. } = segment;
    let well = segment.contradicted.is_empty();
    if as_json {
        writeln!(out, "{}", serde_json::to_string(segment)?)?;
    } else {
        writeln!(out, "{:<10} {number} of epoch {epoch}", "segment")?;
        writeln!(out, "{:<10} {}", "object", plain(name))?;
        writeln!(out, "{:<10} {digest}", "digest")?;
        writeln!(out, "{:<10} {rows} rows, {}", "holds", bytes(*size))?;
        let detail = serde_json::to_string(progress)?;
        writeln!(out, "{:<10} {}  {}", "state", progress.name(), plain(&detail))?;
        writeln!(
            out,
            "{:<10} {attempts} failed since the last success, next {}",
            "attempts", segment.next_at
        )?;
        let file = segment.file.map_or("gone".to_owned(), bytes);
        writeln!(out, "{:<10} segments/{}, {file}", "file", segment.file_name())?;
        for why in &segment.contradicted {
            writeln!(out, "{:<10} {}", "DAMAGED", plain(why))?;
        }
    }
    Ok(if well { Found::Well } else { Found::Faults })
}

fn series(access: &mut Access, name: &str, as_json: bool, out: &mut dyn Write) -> anyhow::Result<Found> {
    let mut names = Names::default();
    names.load(access)?;
    let fits = |s: &&std::sync::Arc<SeriesEntry>| {
        if name.len() == 16 { s.id.to_string() == name } else { s.key.to_string() == name }
    };
    let mut found: Vec<std::sync::Arc<SeriesEntry>> = names.all().filter(fits).cloned().collect();
    found.sort_by_key(|s| s.key);
    let Some(first) = found.first().cloned() else {
        bail!("no series {name} is in the dictionary");
    };
    let (mut states, mut newest) = ([0_u64; 4], None::<(Timestamp, String)>);
    let mut span: Option<(Timestamp, Timestamp)> = None;
    walk::batches(access, &Pick::default(), i64::MIN, |access, batch| {
        if let Ok((readings, _)) = names.readings(access, &batch)? {
            for r in readings.iter().filter(|r| r.series.id == first.id) {
                let [waiting, sealed, shed, moved] = &mut states;
                *match r.state {
                    RowState::Waiting => waiting,
                    RowState::Sealed => sealed,
                    RowState::Shed => shed,
                    RowState::Moved => moved,
                } += 1;
                let ts = r.row.ts;
                span = Some(span.map_or((ts, ts), |(a, b)| (a.min(ts), b.max(ts))));
                if newest.as_ref().is_none_or(|(at, _)| *at <= ts) {
                    newest = Some((ts, r.row.value.to_string()));
                }
            }
        }
        Ok(true)
    })?;
    let [waiting, sealed, shed, moved] = states;
    if as_json {
        let shown = json!({
            "series": first.id.to_string(),
            "keys": found.iter().map(|s| json!({
                "key": s.key, "namespace": s.namespace, "source": s.source, "unit": s.unit, "value_type": s.value_type,
            })).collect::<Vec<_>>(),
            "device": first.device, "metric": first.metric, "tags": first.tags,
            "waiting": waiting, "sealed": sealed, "shed": shed, "moved": moved,
            "oldest": span.map(|s| s.0.to_string()), "newest": span.map(|s| s.1.to_string()),
            "value": newest.map(|(_, value)| value),
        });
        writeln!(out, "{shown}")?;
        return Ok(Found::Well);
    }
    writeln!(out, "{:<10} {}", "series", first.id)?;
    writeln!(out, "{:<10} {}", "device", plain(&first.device))?;
    writeln!(out, "{:<10} {}", "metric", plain(&first.metric))?;
    for (key, value) in &first.tags {
        writeln!(out, "{:<10} {}", "tag", plain(&format!("{key} = {value}")))?;
    }
    for s in &found {
        let unit = s.unit.as_deref().unwrap_or("none");
        let text = format!(
            "{}: source {}, namespace {}, unit {unit}, {}",
            s.key, s.source, s.namespace, s.value_type
        );
        writeln!(out, "{:<10} {}", "key", plain(&text))?;
    }
    writeln!(out, "{:<10} {waiting} waiting, {sealed} sealed, {shed} shed, {moved} moved", "readings")?;
    if let Some((from, to)) = span {
        writeln!(out, "{:<10} {from} to {to}", "times")?;
    }
    if let Some((at, value)) = newest {
        writeln!(out, "{:<10} {} at {at}", "value", plain(&value))?;
    }
    Ok(Found::Well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_inspect_is_read_and_rubbish_gets_a_sentence() {
        assert_eq!(parse("batch", "17"), Ok(What::Batch(17)));
        assert_eq!(parse("segment", "12"), Ok(What::Segment(None, 12)));
        let named = parse("segment", "00000000deadbeef-0000000012.parquet");
        assert_eq!(named, Ok(What::Segment(Some("00000000deadbeef".into()), 12)));
        assert_eq!(parse("series", "00C0FFEE00c0ffee"), Ok(What::Series("00c0ffee00c0ffee".into())));
        assert_eq!(parse("series", "3"), Ok(What::Series("3".into())));
        for (kind, name) in [
            ("batch", "first"),
            ("batch", "99999999999999999999"),
            ("segment", "x-1"),
            ("segment", "-1"),
            ("series", "pump"),
            ("series", ""),
            ("series", "é"),
            ("page", "1"),
        ] {
            let why = parse(kind, name).unwrap_err();
            assert!(why.contains("expected") || why.contains("name batch"), "{kind} {name}: {why}");
        }
    }
}
