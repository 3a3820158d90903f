//! `tail`: the newest readings, and those that come.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::Found;
use super::access::{Access, AccessError};
use super::line;
use super::pick::Pick;
use super::text::plain;
use super::walk::{self, Names, Reading};
use crate::buffer::reader::{Ask, Fault, Page};

/// How often it is asked for more.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Prints the newest `count` readings that are picked, oldest first, and with `follow` what comes, until the pipe is closed.
///
/// # Errors
/// The way to the buffer's, and writing.
pub fn tail(
    access: &mut Access,
    pick: &Pick,
    count: usize,
    follow: bool,
    as_json: bool,
    out: &mut dyn Write,
    mut note: impl FnMut(&str),
) -> anyhow::Result<Found> {
    let mut names = Names::default();
    let (mut found, mut wrong): (Vec<Reading>, Vec<Fault>) = Default::default();
    // Newest first: readings are turned round at the end.
    let (mut before, mut newest) = (i64::MAX, i64::MIN);
    while found.len() < count || newest == i64::MIN {
        let Page::Batches { batches, faults, next } = access.ask(&Ask::BatchesBefore { before })? else {
            return Err(AccessError::Confused.into());
        };
        wrong.extend(faults);
        for batch in &batches {
            newest = newest.max(batch.id);
            if found.len() >= count {
                break;
            }
            match names.readings(access, batch)? {
                Ok((readings, _)) => {
                    let wanted = readings.into_iter().rev().filter(|r| r.is_in(pick));
                    found.extend(wanted.take(count - found.len()));
                }
                Err(why) => wrong.push(Fault::new(format!("batch {}", batch.id), why)),
            }
        }
        match next {
            Some(next) => before = next,
            None => break,
        }
    }
    for Fault { what, why } in &wrong {
        note(&format!("{what} is left out: {why}"));
    }
    let mut printer = Printer { gateway: access.gateway().clone(), as_json };
    found.iter().rev().try_for_each(|r| printer.print(r, out))?;
    out.flush()?;
    if !follow {
        return Ok(if wrong.is_empty() { Found::Well } else { Found::Faults });
    }
    let mut after = newest;
    let mut ran = true;
    loop {
        let mut more = Vec::new();
        let looked = walk::batches(access, &Pick::default(), after, |access, batch| {
            if let Ok((readings, _)) = names.readings(access, &batch)? {
                more.extend(readings.into_iter().filter(|r| r.is_in(pick)));
            }
            // Only now: a batch whose names can't be had yet comes again.
            after = batch.id;
            Ok(true)
        });
        match looked {
            // An agent may take its time to start.
            Err(e) if matches!(e.downcast_ref(), Some(AccessError::Silent { .. })) => {}
            other => drop(other?),
        }
        if ran && !access.running() {
            note("no agent runs on this buffer: nothing comes until one does");
        }
        ran = access.running();
        more.iter().try_for_each(|r| printer.print(r, out))?;
        out.flush()?;
        std::thread::sleep(LOOK_AGAIN);
    }
}

struct Printer {
    gateway: tributary_contract::id::GatewayId,
    as_json: bool,
}

impl Printer {
    fn print(&mut self, r: &Reading, out: &mut dyn Write) -> std::io::Result<()> {
        if self.as_json {
            return out.write_all(line::json(r, &self.gateway).as_bytes());
        }
        let unit = r.series.unit.as_deref().map(|u| format!(" {u}")).unwrap_or_default();
        let quality = r.row.quality.to_column().map(|q| format!("  [{q}]")).unwrap_or_default();
        let value = match &r.row.value {
            crate::reading::Value::Text(text) => json!(text).to_string(),
            other => other.to_string(),
        };
        let text = format!(
            "{:<27}  {}  {}  {}  {value}{unit}{quality}",
            r.row.ts.to_string(),
            r.series.source,
            r.series.device,
            r.series.metric
        );
        writeln!(out, "{}", plain(&text))
    }
}
