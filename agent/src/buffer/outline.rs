//! What of a batch waits, in a few numbers: said in the batch's head, so that a start needn't read its block.
//!
//! Behind the counters of a head stand pairs of a name and a number. A part of the rows, those of one namespace and day,
//! is: `~part` (rows), `~bytes` (about as many in a segment), `~from` and `~to` (least and greatest event time,
//! microseconds behind the least of the batch), `~of` (key of one of its series, which has the namespace), `~last` (the
//! greatest key of its series), and `~sent` (key of a series, once for each source that has rows which lie in no
//! deadband). Versions that don't know these names pass them over.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_contract::id::Namespace;
use tributary_contract::time::{Day, Timestamp};

use super::block;
use super::row::{BatchSpan, Row, SeriesEntry};
use super::stamp::pairs;
use super::varint::{self, Short};

const PART: &[u8] = b"~part";
const BYTES: &[u8] = b"~bytes";
const FROM: &[u8] = b"~from";
const TO: &[u8] = b"~to";
const OF: &[u8] = b"~of";
const LAST: &[u8] = b"~last";
const SENT: &[u8] = b"~sent";

/// Parts that a head may outline. A batch of more is rare, and is read.
const MOST: usize = 8;

/// Rows of one batch, namespace and day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    pub rows: u64,
    /// About how many bytes their segment would have.
    pub bytes: u64,
    pub min_ts: Timestamp,
    pub max_ts: Timestamp,
    /// Key of one of their series: its namespace is that of all.
    pub of: u32,
    /// The greatest key of their series.
    pub last: u32,
    /// Keys of series, one of each source that has rows which lie in no deadband.
    pub sent: Vec<u32>,
}

/// What is known of a series while rows are outlined.
struct Known {
    /// Place of its namespace among those of the rows.
    namespace: usize,
    /// Place of its source among those of the rows.
    source: usize,
}

/// A part under way.
struct Group {
    of: (usize, Day),
    outline: Outline,
    /// Places of the sources in `outline.sent`.
    sources: Vec<usize>,
}

/// Outlines rows of one batch. A series that `lookup` doesn't know belongs to the default namespace and to no source.
pub(super) fn outline<'a>(
    rows: impl Iterator<Item = &'a Row>,
    lookup: impl Fn(u32) -> Option<Arc<SeriesEntry>>,
) -> Vec<Outline> {
    let mut known: HashMap<u32, Known> = HashMap::new();
    let (mut namespaces, mut sources): (Vec<Namespace>, Vec<String>) = (Vec::new(), Vec::new());
    // Few, and rows of one of them mostly follow one another.
    let mut groups: Vec<Group> = Vec::new();
    let mut at = 0;
    for row in rows {
        let Known { namespace, source } = known.entry(row.series).or_insert_with(|| {
            let entry = lookup(row.series);
            let name = entry.as_ref().map(|e| e.namespace.clone()).unwrap_or_default();
            let namespace = place(&mut namespaces, &name, Clone::clone);
            let source = place(&mut sources, entry.as_ref().map_or("", |e| &e.source), str::to_owned);
            Known { namespace, source }
        });
        let of = (*namespace, row.ts.day());
        if groups.get(at).is_none_or(|group| group.of != of) {
            at = groups.iter().position(|group| group.of == of).unwrap_or_else(|| {
                groups.push(Group { of, outline: Outline::begin(row), sources: Vec::new() });
                groups.len() - 1
            });
        }
        let Some(Group { outline, sources, .. }) = groups.get_mut(at) else { continue };
        outline.rows += 1;
        outline.bytes += block::estimate(row);
        outline.min_ts = outline.min_ts.min(row.ts);
        outline.max_ts = outline.max_ts.max(row.ts);
        outline.last = outline.last.max(row.series);
        if !row.kept_back && !sources.contains(source) {
            sources.push(*source);
            outline.sent.push(row.series);
        }
    }
    groups.into_iter().map(|group| group.outline).collect()
}

fn place<T: ?Sized + PartialEq, O: std::borrow::Borrow<T>>(
    known: &mut Vec<O>,
    wanted: &T,
    own: impl Fn(&T) -> O,
) -> usize {
    known.iter().position(|k| k.borrow() == wanted).unwrap_or_else(|| {
        known.push(own(wanted));
        known.len() - 1
    })
}

impl Outline {
    fn begin(row: &Row) -> Self {
        let (ts, key) = (row.ts, row.series);
        Self { rows: 0, bytes: 0, min_ts: ts, max_ts: ts, of: key, last: key, sent: Vec::new() }
    }
}

/// Writes the outline of all rows of a batch behind the counters of its head.
pub(super) fn put(head: &mut Vec<u8>, parts: &[Outline]) {
    let Some(least) = parts.iter().map(|part| part.min_ts).min() else { return };
    if parts.len() > MOST {
        return;
    }
    let behind = |ts: Timestamp| ts.0.wrapping_sub(least.0) as u64;
    let mut pair = |name: &[u8], number: u64| {
        varint::put_bytes(head, name);
        varint::put(head, number);
    };
    for part in parts {
        pair(PART, part.rows);
        pair(BYTES, part.bytes);
        pair(FROM, behind(part.min_ts));
        pair(TO, behind(part.max_ts));
        pair(OF, u64::from(part.of));
        pair(LAST, u64::from(part.last));
        part.sent.iter().for_each(|key| pair(SENT, u64::from(*key)));
    }
}

/// The outline that stands in the head of a batch. None where there is none, or where it isn't of all rows.
///
/// # Errors
/// The head ends early.
pub(super) fn read(head: &[u8], span: &BatchSpan) -> Result<Option<Vec<Outline>>, Short> {
    let mut parts: Vec<Outline> = Vec::new();
    let ts = |behind: u64| Timestamp(span.min_ts.0.wrapping_add(behind as i64));
    for (name, number) in pairs(head)? {
        let key = u32::try_from(number).map_err(|_| Short);
        if name == PART {
            let (min_ts, max_ts) = (span.min_ts, span.max_ts);
            parts.push(Outline { rows: number, bytes: 0, min_ts, max_ts, of: 0, last: 0, sent: Vec::new() });
        }
        let Some(part) = parts.last_mut() else { continue };
        match name {
            BYTES => part.bytes = number,
            FROM => part.min_ts = ts(number),
            TO => part.max_ts = ts(number),
            OF => part.of = key?,
            LAST => part.last = key?,
            SENT => part.sent.push(key?),
            _ => {}
        }
    }
    let rows = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.rows));
    Ok((rows > 0 && rows == u64::from(span.rows)).then_some(parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Books;

    fn entry(key: u32, namespace: &str, source: &str) -> Arc<SeriesEntry> {
        Arc::new(SeriesEntry {
            key,
            id: tributary_contract::series::SeriesId(u64::from(key)),
            namespace: Namespace::new(namespace).unwrap(),
            source: source.into(),
            device: "d".into(),
            metric: format!("m{key}"),
            tags: Default::default(),
            unit: None,
            value_type: "double",
            first_ts: Timestamp(0),
            last_ts: Timestamp(0),
        })
    }

    fn row(series: u32, ts: i64, kept_back: bool) -> Row {
        Row {
            seq: 0,
            ts: Timestamp(ts),
            received_at: Timestamp(ts),
            series,
            value: crate::reading::Value::Int(1),
            quality: Default::default(),
            row_tags: None,
            kept_back,
        }
    }

    const DAY: i64 = 86_400_000_000;

    #[test]
    fn a_head_says_of_each_namespace_and_day_what_waits() {
        let lookup = |key| match key {
            1 => Some(entry(1, "a", "plant")),
            2 => Some(entry(2, "a", "hall")),
            3 => Some(entry(3, "b", "plant")),
            _ => None,
        };
        let rows =
            [row(1, 5, false), row(2, 9, true), row(3, 7, true), row(1, DAY + 3, false), row(2, DAY, false)];
        let parts = outline(rows.iter(), lookup);
        let told: Vec<_> =
            parts.iter().map(|p| (p.rows, p.min_ts.0, p.max_ts.0, p.of, p.last, p.sent.clone())).collect();
        assert_eq!(
            told,
            [(2, 5, 9, 1, 2, vec![1]), (1, 7, 7, 3, 3, vec![]), (2, DAY, DAY + 3, 1, 2, vec![1, 2])]
        );
        let mut head = Books::default().head();
        let span = BatchSpan {
            id: 1,
            epoch: 0,
            first_seq: 1,
            rows: 5,
            min_ts: Timestamp(5),
            max_ts: Timestamp(DAY + 3),
            min_received: Timestamp(0),
            committed_at: Timestamp(0),
        };
        assert_eq!(read(&head, &span), Ok(None), "of a version that wrote none");
        put(&mut head, &parts);
        assert_eq!(read(&head, &span), Ok(Some(parts)));
        assert_eq!(read(&head, &BatchSpan { rows: 4, ..span }), Ok(None), "not of all its rows");
        let mut read = Books::default();
        read.take_head(&head).unwrap();
        assert_eq!(read, Books::default(), "counters are read as before");
    }
}
