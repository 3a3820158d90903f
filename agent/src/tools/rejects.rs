//! `rejects list` and `rejects show`: messages that couldn't be decoded, until the lake has them.

use std::io::Write;

use anyhow::bail;

use super::Found;
use super::access::Access;
use super::text::{Table, plain};
use super::walk;
use crate::buffer::reader::{Fault, RejectFacts};

/// Letters of a payload or detail in the table.
const SHOWN: usize = 60;

/// Which rejects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Of this source.
    pub source: Option<String>,
    /// Of this reason.
    pub reason: Option<String>,
}

impl Choice {
    /// Whether a reject is among them.
    pub fn wants(&self, reject: &RejectFacts) -> bool {
        self.source.as_ref().is_none_or(|s| *s == reject.source)
            && self.reason.as_ref().is_none_or(|r| *r == reject.reason)
    }
}

/// A line a reject, oldest first.
///
/// # Errors
/// The way to the buffer's, and writing.
pub fn list(
    access: &mut Access,
    choice: &Choice,
    as_json: bool,
    out: &mut dyn Write,
    mut note: impl FnMut(&str),
) -> anyhow::Result<Found> {
    let (rejects, wrong) = walk::rejects(access)?;
    let mut table =
        Table::new(&[">id", "received", "source", "reason", ">times", ">bytes", "state", "topic", "detail"]);
    for reject in rejects.iter().filter(|r| choice.wants(r)) {
        if as_json {
            writeln!(out, "{}", serde_json::to_string(&shown(reject))?)?;
            continue;
        }
        table.row(vec![
            reject.id.to_string(),
            reject.received_at.to_string(),
            reject.source.clone(),
            reject.reason.clone(),
            reject.occurrences.to_string(),
            reject.size.to_string(),
            state(reject).into(),
            cut(&reject.topic),
            cut(reject.detail.as_deref().unwrap_or_default()),
        ]);
    }
    if !as_json {
        if table.is_empty() {
            note("no rejects are in the buffer: those that the lake has are rows of its table `rejects`");
        } else {
            write!(out, "{}", table.render())?;
        }
    }
    for Fault { what, why } in &wrong {
        note(&format!("{what} is left out: {why}"));
    }
    Ok(if wrong.is_empty() { Found::Well } else { Found::Faults })
}

/// One reject with its payload.
///
/// # Errors
/// That it isn't there; the way to the buffer's, and writing.
pub fn show(access: &mut Access, id: i64, as_json: bool, out: &mut dyn Write) -> anyhow::Result<Found> {
    let (rejects, _) = walk::rejects(access)?;
    let Some(reject) = rejects.iter().find(|r| r.id == id) else {
        bail!("no reject {id} is in the buffer; `rejects list` shows those that are");
    };
    if as_json {
        writeln!(out, "{}", serde_json::to_string(&shown(reject))?)?;
        return Ok(Found::Well);
    }
    writeln!(out, "{:<10} {} ({})", "reject", reject.id, state(reject))?;
    writeln!(out, "{:<10} {}", "received", reject.received_at)?;
    writeln!(out, "{:<10} {}", "topic", plain(&reject.topic))?;
    writeln!(out, "{:<10} {}, namespace {}", "source", plain(&reject.source), plain(&reject.namespace))?;
    writeln!(
        out,
        "{:<10} {}: {}",
        "reason",
        reject.reason,
        plain(reject.detail.as_deref().unwrap_or_default())
    )?;
    writeln!(out, "{:<10} {}", "times", reject.occurrences)?;
    match reject.payload() {
        None => writeln!(out, "{:<10} {} bytes, none kept", "payload", reject.size)?,
        Some(payload) => {
            writeln!(out, "{:<10} {} bytes, {} kept", "payload", reject.size, payload.len())?;
            out.write_all(legible(&payload).as_bytes())?;
        }
    }
    Ok(Found::Well)
}

/// For programs: times as text, the payload as text, too, where it is one.
fn shown(reject: &RejectFacts) -> serde_json::Value {
    let mut row = serde_json::to_value(reject).unwrap_or_default();
    row["received_at"] = reject.received_at.to_string().into();
    row["payload"] = reject.payload().and_then(|bytes| String::from_utf8(bytes).ok()).into();
    row
}

/// What became of it, and whether it can be tried again.
fn state(reject: &RejectFacts) -> &'static str {
    if reject.retried {
        "retried"
    } else if can_be_retried(reject).is_err() {
        "not whole"
    } else if reject.segment.is_some() {
        "sealed"
    } else {
        "waiting"
    }
}

/// Why a reject can't be tried again, if so.
///
/// # Errors
/// A sentence.
pub fn can_be_retried(reject: &RejectFacts) -> Result<Vec<u8>, String> {
    if reject.retried {
        return Err("it was retried before".into());
    }
    let kept = reject.payload().unwrap_or_default();
    if kept.len() as u64 != reject.size {
        return Err(format!("of its {} bytes only {} are kept", reject.size, kept.len()));
    }
    Ok(kept)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A text as it is, anything else byte by byte.
fn legible(payload: &[u8]) -> String {
    match str::from_utf8(payload) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n') => {
            format!("{}\n", text.trim_end_matches('\n'))
        }
        _ => dump(payload),
    }
}

/// Sixteen bytes a line: offset, hex, letters.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let letter = |b: &u8| if (32..127).contains(b) { char::from(*b) } else { '.' };
        text += &format!(
            "  {:04x}  {:<47}  {}\n",
            i * 16,
            hex.join(" "),
            line.iter().map(letter).collect::<String>()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use tributary_contract::time::Timestamp;

    use super::*;

    fn reject(payload: Option<&[u8]>, size: u64) -> RejectFacts {
        RejectFacts {
            id: 1,
            namespace: "tributary".into(),
            received_at: Timestamp(0),
            topic: "a/b".into(),
            source: "plant".into(),
            reason: "malformed".into(),
            detail: None,
            size,
            payload_base64: payload.map(|p| base64::engine::general_purpose::STANDARD.encode(p)),
            occurrences: 1,
            segment: None,
            retried: false,
        }
    }

    #[test]
    fn only_what_was_kept_whole_can_be_tried_again_and_only_once() {
        assert_eq!(can_be_retried(&reject(Some(b"{}"), 2)), Ok(b"{}".to_vec()));
        assert_eq!(can_be_retried(&reject(None, 0)), Ok(Vec::new()), "an empty payload is whole");
        assert!(can_be_retried(&reject(Some(b"{}"), 2000)).unwrap_err().contains("only 2"));
        assert!(can_be_retried(&reject(None, 7)).is_err());
        let done = RejectFacts { retried: true, ..reject(Some(b"{}"), 2) };
        assert!(can_be_retried(&done).unwrap_err().contains("before"));
        assert_eq!((state(&done), state(&reject(None, 7))), ("retried", "not whole"));
    }

    #[test]
    fn a_payload_is_shown_as_text_where_it_is_one_and_else_byte_by_byte() {
        assert_eq!(legible("{\"t\":\n\"é\"}".as_bytes()), "{\"t\":\n\"é\"}\n");
        let text = legible(b"0123456789abcdef\x1b[");
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("  0010  1b 5b                                            .[\n"), "{text}");
    }

    #[test]
    fn a_long_topic_is_cut_between_letters() {
        assert_eq!(cut(&"é".repeat(61)), format!("{}…", "é".repeat(60)));
        assert_eq!(cut("é"), "é");
    }
}
