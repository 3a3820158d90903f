//! `buffer verify`: everything that the buffer holds is read and compared; one line a finding, and a sum.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::json;
use tributary_contract::digest::Digest;

use super::Found;
use super::access::{Access, AccessError};
use super::pick::Pick;
use super::text::plain;
use super::walk::{self, Names};
use crate::buffer::reader::{Ask, BatchFacts, Facts, Fault, Page, RowState, SegmentFacts};

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    batches: u64,
    readings: u64,
    series: u64,
    segments: u64,
    rejects: u64,
    gaps: u64,
}

/// What goes on from batch to batch.
#[derive(Debug, Default)]
struct Line {
    /// Per epoch: batch and end of its newest seq.
    ends: BTreeMap<u32, (i64, u64)>,
    /// Per epoch: rows that wait.
    waiting: BTreeMap<u32, u64>,
}

impl Line {
    /// What is wrong with a batch, beside what is wrong within it.
    fn follow(&mut self, batch: &BatchFacts) -> Option<String> {
        if batch.rows == 0 {
            return None;
        }
        let end = batch.first_seq.saturating_add(u64::from(batch.rows));
        let before = self.ends.insert(batch.epoch, (batch.id, end));
        let (id, reached) = before.filter(|(_, reached)| *reached > batch.first_seq)?;
        let first = batch.first_seq;
        Some(format!("its first seq is {first}, but batch {id} of the same epoch reaches to {}", reached - 1))
    }
}

/// Looks at everything. With `structure`, SQLite looks at its file, too, which keeps an agent from starting meanwhile.
///
/// # Errors
/// The way to the buffer's, and writing.
pub fn verify(
    access: &mut Access,
    structure: bool,
    as_json: bool,
    out: &mut dyn Write,
    mut note: impl FnMut(&str),
) -> anyhow::Result<Found> {
    let mut faults = Vec::new();
    if structure {
        match access.structure()? {
            Some(found) => faults.extend(found.map(|why| Fault::new("buffer.db", why))),
            None => {
                note("an agent has the buffer: the structure of its file wasn't looked at; stop it for that")
            }
        }
    }
    let mut seen = Seen::default();
    let before = walk::facts(access)?;
    let ran = access.running();
    let mut names = Names::default();
    faults.extend(names.load(access)?);
    let mut line = Line::default();
    let mut own = Vec::new();
    let everything = Pick::default();
    let unread = walk::batches(access, &everything, i64::MIN, |access, batch| {
        seen.batches += 1;
        let what = || format!("batch {}", batch.id);
        match names.readings(access, &batch)? {
            Err(why) => own.push(Fault::new(what(), why)),
            Ok((readings, nameless)) => {
                seen.readings += u64::from(batch.rows);
                if nameless > 0 {
                    let why =
                        format!("{nameless} of its readings are of series that the dictionary doesn't have");
                    own.push(Fault::new(what(), why));
                }
                if readings.iter().any(|r| r.row.ts < batch.min_ts || r.row.ts > batch.max_ts) {
                    own.push(Fault::new(what(), "its readings lie outside the range of times that it names"));
                }
                let waits = readings.iter().filter(|r| r.state == RowState::Waiting).count() as u64;
                *line.waiting.entry(batch.epoch).or_default() += waits + nameless;
            }
        }
        own.extend(line.follow(&batch).map(|why| Fault::new(what(), why)));
        Ok(true)
    })?;
    faults.extend(own);
    faults.extend(unread);
    seen.series = names.all().count() as u64;
    let (segments, wrong) = walk::segments(access)?;
    faults.extend(wrong);
    seen.segments = segments.len() as u64;
    for segment in &segments {
        faults.extend(segment_faults(access, segment)?);
    }
    for name in strays(access)? {
        note(&format!(
            "segments/{name} has no row: the next start reads it back, it isn't lost (a start that is under way may \
             not have come to it)"
        ));
    }
    let (rejects, wrong) = walk::rejects(access)?;
    seen.rejects = rejects.len() as u64;
    faults.extend(wrong);
    match access.ask(&Ask::Others)? {
        Page::Others { gaps, faults: wrong } => {
            seen.gaps = gaps;
            faults.extend(wrong);
        }
        _ => return Err(AccessError::Confused.into()),
    }
    let after = walk::facts(access)?;
    let still = !ran && !access.running() && before == after;
    faults.extend(books(&after, still.then_some(&line.waiting)));

    if as_json {
        let sum = json!({
            "batches": seen.batches, "readings": seen.readings, "series": seen.series, "segments": seen.segments,
            "rejects": seen.rejects, "gaps": seen.gaps, "agent_runs": access.running(), "faults": faults,
        });
        writeln!(out, "{sum}")?;
    } else {
        for Fault { what, why } in &faults {
            writeln!(out, "{}: {}", plain(what), plain(why))?;
        }
        let Seen { batches, readings, series, segments, rejects, gaps } = seen;
        writeln!(
            out,
            "{batches} batches with {readings} readings, {series} series, {segments} segments, {rejects} rejects, {gaps} \
             gaps looked at: {}",
            match faults.len() {
                0 => "all as it should be".to_owned(),
                n => format!("{n} finding(s)"),
            }
        )?;
    }
    if !faults.is_empty() {
        note("start the agent (again): a start keeps all that is intact, and the lake is told what is lost");
    }
    Ok(if faults.is_empty() { Found::Well } else { Found::Faults })
}

/// What is wrong with a segment. What a running agent has let go of meanwhile is nothing.
fn segment_faults(access: &mut Access, segment: &SegmentFacts) -> Result<Vec<Fault>, AccessError> {
    let mut why = segment.contradicted.clone();
    if why.is_empty() && segment.file.is_some() {
        let bytes = std::fs::read(access.dir.join("segments").join(segment.file_name()));
        match bytes {
            Ok(bytes) if Digest::of(&bytes).to_string() == segment.digest => {}
            Ok(_) => why.push("the bytes of its file aren't those that were sealed".into()),
            Err(e) => why.push(format!("its file can't be read: {e}")),
        }
        if !why.is_empty() && access.running() {
            let after = (segment.ordinal, segment.number.saturating_sub(1));
            let Page::Segments { segments, .. } = access.ask(&Ask::Segments { after })? else {
                return Err(AccessError::Confused);
            };
            let again = segments.first().filter(|s| (s.epoch, s.number) == (segment.epoch, segment.number));
            if again.is_none_or(|s| s.file.is_none() && s.contradicted.is_empty()) {
                why.clear();
            }
        }
    }
    let what = format!("segment {} of epoch {}", segment.number, segment.epoch);
    Ok(why.into_iter().map(|why| Fault::new(what.clone(), why)).collect())
}

fn strays(access: &mut Access) -> Result<Vec<String>, AccessError> {
    match access.ask(&Ask::Strays)? {
        Page::Strays(names) => Ok(names),
        _ => Err(AccessError::Confused),
    }
}

/// Whether the counters hold what the rows say. `waiting` is per epoch, where nothing changed while it was counted.
fn books(facts: &Facts, waiting: Option<&BTreeMap<u32, u64>>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let current = walk::current(facts).map(|e| e.ordinal);
    for epoch in &facts.epochs {
        let what = || format!("counters of epoch {}", epoch.epoch);
        if let Some(why) = &epoch.law {
            faults.push(Fault::new(what(), why));
            continue;
        }
        if epoch.rebuilt {
            continue;
        }
        let r = &epoch.counters.readings;
        if r.outstanding() != epoch.outstanding {
            let why = format!(
                "{} readings should be outstanding, the segments without receipt hold {}",
                r.outstanding(),
                epoch.outstanding
            );
            faults.push(Fault::new(what(), why));
        }
        let is_current = Some(epoch.ordinal) == current;
        let counted = match waiting {
            Some(waiting) => Some(waiting.get(&epoch.ordinal).copied().unwrap_or(0)),
            None => facts.waiting.filter(|_| is_current),
        };
        if is_current && let Some(counted) = counted.filter(|n| *n != r.waiting()) {
            let why = format!("{} readings should wait, the batches have {counted}", r.waiting());
            faults.push(Fault::new(what(), why));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use tributary_contract::time::Timestamp;

    use super::*;

    fn batch(id: i64, epoch: u32, first_seq: u64, rows: u32) -> BatchFacts {
        let at = Timestamp(0);
        BatchFacts {
            id,
            epoch,
            first_seq,
            rows,
            min_ts: at,
            max_ts: at,
            committed_at: at,
            synced: true,
            ended: 0,
            memory_bytes: 0,
            fault: None,
            block: Vec::new(),
            sealed: Vec::new(),
            shed: Vec::new(),
            moved: Vec::new(),
        }
    }

    #[test]
    fn seqs_of_an_epoch_never_overlap_but_may_have_holes() {
        let mut line = Line::default();
        for fine in [batch(1, 0, 1, 5), batch(2, 0, 6, 0), batch(3, 0, 100, 2), batch(4, 1, 1, 7)] {
            assert_eq!(line.follow(&fine), None, "{fine:?}");
        }
        assert!(line.follow(&batch(5, 0, 101, 1)).unwrap().contains("batch 3"));
    }
}
