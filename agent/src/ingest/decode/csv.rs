//! CSV (RFC 4180, and what is commonly sent by that name): rows become objects that the general rules read.
//!
//! The separator is the setting's, or the one of `,`, `;`, tab and `|` of which the first row has most. The first row is a
//! header if the settings name no columns and none of its cells is a number. With `;` a comma in a number is its point. A
//! row of another length than the header rejects its message: its cells can't be believed.

use std::collections::BTreeMap;

use tributary_contract::reject::RejectReason;

use super::Reject;
use super::document::{Bounds, Doc};
use super::numeral;
use crate::reading::Value;

/// What is known of the rows beforehand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Separator; found out without.
    pub delimiter: Option<char>,
    /// Names of the columns, where no row names them; `-` for one that is no reading.
    pub columns: Vec<String>,
    /// Columns by the row's first cell; rows that begin with another are passed over. Columns of one name are joined by
    /// dots.
    pub by_first: BTreeMap<String, Vec<String>>,
}

const DELIMITERS: [char; 4] = [',', ';', '\t', '|'];

/// Whether a text is surely a table: two rows or more, of the same number of cells, more than one.
pub fn looks_like(text: &str) -> bool {
    let delimiter = delimiter_of(text);
    let Ok(rows) = rows(text, delimiter, usize::MAX) else { return false };
    let cells = rows.first().map_or(0, Vec::len);
    rows.len() > 1 && cells > 1 && rows.iter().all(|row| row.len() == cells)
}

/// Reads all rows.
pub fn parse(payload: &[u8], layout: &Layout, bounds: Bounds) -> Result<Doc, Reject> {
    let text = std::str::from_utf8(super::without_bom(payload))
        .map_err(|e| malformed(format!("expected UTF-8: {e}")))?;
    if text.contains('\0') {
        return Err(malformed("expected text, got NUL bytes".into()));
    }
    let delimiter = layout.delimiter.unwrap_or_else(|| delimiter_of(text));
    let mut rows = rows(text, delimiter, bounds.values)?.into_iter();
    let cell = |text: String| scalar(text, delimiter);
    if !layout.by_first.is_empty() {
        let known = rows.filter_map(|row| {
            let columns = layout.by_first.get(row.first()?.as_str())?;
            Some(object(columns, row.into_iter().skip(1), cell))
        });
        return Ok(Doc::Array(known.collect()));
    }
    let header = if layout.columns.is_empty() {
        let first = rows.next().unwrap_or_default();
        if first.iter().any(|c| numeral::plain(c.trim()).is_some()) {
            let all =
                std::iter::once(first).chain(rows).map(|row| Doc::Array(row.into_iter().map(cell).collect()));
            return Ok(Doc::Array(all.collect()));
        }
        first.into_iter().map(|c| c.trim().to_owned()).collect()
    } else {
        layout.columns.clone()
    };
    let mut objects = Vec::new();
    for (number, row) in (2..).zip(rows) {
        if row.len() != header.len() {
            return Err(malformed(format!(
                "row {number} has {} cells, expected {}",
                row.len(),
                header.len()
            )));
        }
        objects.push(object(&header, row.into_iter(), cell));
    }
    Ok(Doc::Array(objects))
}

fn malformed(detail: String) -> Reject {
    Reject::new(RejectReason::Malformed, format!("not CSV: {detail}"))
}

fn object(columns: &[String], cells: impl Iterator<Item = String>, cell: impl Fn(String) -> Doc) -> Doc {
    let mut members: BTreeMap<String, Doc> = BTreeMap::new();
    for (column, text) in columns.iter().zip(cells).filter(|(column, _)| *column != "-") {
        let joined = match members.get(column).and_then(Doc::as_text) {
            Some(before) => Doc::text(format!("{before}.{}", text.trim())),
            None => cell(text),
        };
        members.insert(column.clone(), joined);
    }
    Doc::Object(members)
}

/// An empty cell is nothing; a number or truth value is one.
fn scalar(text: String, delimiter: char) -> Doc {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Doc::Null;
    }
    let decimal = (delimiter == ';' && trimmed.matches(',').count() == 1).then(|| trimmed.replace(',', "."));
    match numeral::plain(trimmed).or_else(|| decimal.and_then(|d| numeral::plain(&d))) {
        Some(value) => Doc::Scalar(value),
        None => Doc::Scalar(Value::Text(trimmed.into())),
    }
}

fn delimiter_of(text: &str) -> char {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or("");
    let count = |d: &char| first.matches(*d).count();
    DELIMITERS.into_iter().rev().max_by_key(count).unwrap_or(',')
}

/// The cells of all rows but empty ones and comments; at most `most` cells.
fn rows(text: &str, delimiter: char, most: usize) -> Result<Vec<Vec<String>>, Reject> {
    let (mut rows, mut cells) = (Vec::new(), 0usize);
    let mut rest = text.chars().peekable();
    while rest.peek().is_some() {
        if rest.peek() == Some(&'#') {
            while rest.next().is_some_and(|c| c != '\n') {}
            continue;
        }
        let mut row = Vec::new();
        loop {
            let (cell, end) = next_cell(&mut rest, delimiter)?;
            cells += 1;
            if cells > most {
                return Err(Reject::new(
                    RejectReason::TooManyReadings,
                    "more cells than the limit on readings allows for",
                ));
            }
            row.push(cell);
            if end {
                break;
            }
        }
        if row.len() > 1 || row.iter().any(|cell| !cell.trim().is_empty()) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The next cell, and whether its row ends with it.
fn next_cell(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    delimiter: char,
) -> Result<(String, bool), Reject> {
    let mut cell = String::new();
    if rest.peek() == Some(&'"') {
        rest.next();
        loop {
            match rest.next() {
                Some('"') if rest.peek() == Some(&'"') => cell.extend(rest.next()),
                Some('"') => break,
                Some(c) => cell.push(c),
                None => return Err(malformed("a quoted cell without its end".into())),
            }
        }
    }
    loop {
        match rest.next() {
            None | Some('\n') => return Ok((cell, true)),
            Some('\r') => {}
            Some(c) if c == delimiter => return Ok((cell, false)),
            Some(c) => cell.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 9, values: 100 };

    fn said(text: &str, layout: &Layout) -> Result<String, RejectReason> {
        let show = |doc: &Doc| match doc {
            Doc::Object(m) => {
                m.iter().map(|(k, v)| format!("{k}={}", v.shown())).collect::<Vec<_>>().join(" ")
            }
            Doc::Array(c) => c.iter().map(Doc::shown).collect::<Vec<_>>().join(" "),
            other => other.shown(),
        };
        match parse(text.as_bytes(), layout, BOUNDS) {
            Ok(Doc::Array(rows)) => Ok(rows.iter().map(show).collect::<Vec<_>>().join("; ")),
            Ok(other) => panic!("{other:?}"),
            Err(reject) => Err(reject.reason),
        }
    }

    #[test]
    fn rows_are_named_by_their_header_or_by_the_settings() {
        let none = Layout::default();
        for (text, expected) in [
            (
                "time,a,b\n2024-05-01T08:00:00Z,1,\"x, \"\"y\"\"\"\r\n",
                "a=1 b=\"x, \\\"y\\\"\" time=\"2024-05-01T08:00:00Z\"",
            ),
            ("a;b\n1,5;2\n", "a=1.5 b=2"),
            ("a\tb\n1\ttrue", "a=1 b=true"),
            ("# note\n\na|b\n1|", "a=1 b=null"),
            ("3.3,4,hello", "3.3 4 \"hello\""),
            ("", ""),
        ] {
            assert_eq!(said(text, &none).as_deref(), Ok(expected), "{text:?}");
        }
        let named = Layout { columns: vec!["a".into(), "-".into(), "c".into()], ..Layout::default() };
        assert_eq!(said("1,2,3\n4,5,6", &named).as_deref(), Ok("a=1 c=3; a=4 c=6"));
        let by_first = Layout {
            by_first: BTreeMap::from([("200".into(), ["m", "m", "value"].map(String::from).to_vec())]),
            ..Layout::default()
        };
        assert_eq!(said("200,c8y,temp,21.5,C\n501,x", &by_first).as_deref(), Ok("m=\"c8y.temp\" value=21.5"));
    }

    #[test]
    fn what_is_no_table_is_rejected() {
        let none = Layout::default();
        for bad in ["a,b\n1", "a,b\n1,2,3", "a,b\n\"1,2", "a\0,b\n1,2"] {
            assert_eq!(said(bad, &none), Err(RejectReason::Malformed), "{bad:?}");
        }
        assert_eq!(said(&"a,b\n".repeat(51), &none), Err(RejectReason::TooManyReadings));
        assert!(looks_like("a,b\n1,2\n3,4") && !looks_like("a,b") && !looks_like("hello\nworld"));
    }
}
