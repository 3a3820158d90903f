//! `backfill`: readings that are kept back are sent after all, by the running agent or, where none runs, after its next start.

use std::io::Write;

use serde_json::json;

use super::stopped::in_stopped;
use crate::buffer::Backfill;
use crate::config::Config;
use crate::tools::Found;
use crate::tools::access::Access;

/// Asks for what `what` means.
///
/// # Errors
/// The way to the buffer's, and writing.
pub fn backfill(
    config: &Config,
    what: Backfill,
    as_json: bool,
    out: &mut dyn Write,
    mut note: impl FnMut(&str),
) -> anyhow::Result<Found> {
    let readings = match Access::new(config).backfill(&what)? {
        Some(readings) => readings,
        None => in_stopped(config, |buffer, _| Ok(buffer.backfill(what)?))?,
    };
    if as_json {
        writeln!(out, "{}", json!({"readings": readings}))?;
    } else if readings > 0 {
        writeln!(out, "{readings} readings go with the next segments")?;
    }
    if readings == 0 {
        note(
            "nothing that is kept back and wasn't asked for lies there; `buffer stats` shows what the buffer holds",
        );
    }
    Ok(Found::Well)
}
