//! Checksums of rows: what tells a flipped bit from a name, a number or a counter.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};

use super::corrupt;
use super::error::BufferError;

/// A value that a checksum covers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Maybe(Option<&'a str>),
}

/// The checksum of a row: CRC-32 over each value behind its kind and length.
pub(super) fn sum(parts: &[Part<'_>]) -> i64 {
    let mut crc = crc32fast::Hasher::new();
    for part in parts {
        match part {
            Part::Int(n) => add(&mut crc, b'i', &n.to_le_bytes()),
            Part::Text(text) | Part::Maybe(Some(text)) => add(&mut crc, b't', text.as_bytes()),
            Part::Bytes(bytes) => add(&mut crc, b'b', bytes),
            Part::Maybe(None) => add(&mut crc, b'n', &[]),
        }
    }
    i64::from(crc.finalize())
}

fn add(crc: &mut crc32fast::Hasher, kind: u8, bytes: &[u8]) {
    crc.update(&[kind]);
    crc.update(&(bytes.len() as u64).to_le_bytes());
    crc.update(bytes);
}

/// A table whose rows carry a checksum in the column `crc`.
pub(super) struct Summed {
    table: &'static str,
    /// What names a row.
    key: &'static [&'static str],
    /// What the checksum covers, in this order; the key is among it.
    covered: &'static [&'static str],
}

/// All of them. What may change by itself, such as the progress of a segment, isn't covered.
pub(super) const SUMMED: [Summed; 5] = [
    Summed { table: "state", key: &["id"], covered: &["gateway", "fingerprint", "opened", "version"] },
    Summed {
        table: "epoch",
        key: &["ordinal"],
        covered: &["ordinal", "epoch", "last_number", "last_digest", "void", "books"],
    },
    Summed {
        table: "series",
        key: &["key"],
        covered: &["key", "namespace", "source", "device", "metric", "tags", "unit"],
    },
    Summed {
        table: "outbox",
        key: &["epoch", "number"],
        covered: &["epoch", "number", "namespace", "tbl", "day", "digest", "size", "rows"],
    },
    Summed {
        table: "segment_rows",
        key: &["epoch", "number", "batch"],
        covered: &["epoch", "number", "batch", "rows"],
    },
];

/// Refuses a row whose values, in the columns that are covered, don't have the checksum in `at`. NULL there is right: the
/// row came from a version without checksums.
pub(super) fn verify(
    what: &'static str,
    r: &Row<'_>,
    at: usize,
    parts: &[Part<'_>],
) -> Result<(), BufferError> {
    match r.get::<_, Option<i64>>(at)? {
        Some(crc) if crc != sum(parts) => Err(corrupt(what)("a row whose checksum is wrong".into())),
        _ => Ok(()),
    }
}

/// Computes the checksums that are missing.
pub(super) fn compute(sql: &Connection) -> Result<(), BufferError> {
    for Summed { table, key, covered } in SUMMED {
        let (keys, list) = (key.join(", "), covered.join(", "));
        let rows: Vec<(Vec<rusqlite::types::Value>, i64)> = {
            let mut select = sql.prepare(&format!("SELECT {list}, {keys} FROM {table} WHERE crc IS NULL"))?;
            let mut found = select.query([])?;
            let mut rows = Vec::new();
            while let Some(r) = found.next()? {
                let parts = (0..covered.len()).map(|i| r.get_ref(i)).collect::<Result<Vec<_>, _>>()?;
                let parts: Vec<Part<'_>> = parts.into_iter().map(part).collect();
                let key = (covered.len()..covered.len() + key.len()).map(|i| r.get(i));
                rows.push((key.collect::<Result<_, _>>()?, sum(&parts)));
            }
            rows
        };
        let same = key.iter().map(|k| format!("{k} = ?")).collect::<Vec<_>>().join(" AND ");
        let mut update = sql.prepare(&format!("UPDATE {table} SET crc = ? WHERE {same}"))?;
        for (key, crc) in rows {
            update
                .execute(params_from_iter([rusqlite::types::Value::Integer(crc)].into_iter().chain(key)))?;
        }
    }
    Ok(())
}

fn part(value: ValueRef<'_>) -> Part<'_> {
    match value {
        ValueRef::Integer(n) => Part::Int(n),
        ValueRef::Text(text) => Part::Text(str::from_utf8(text).unwrap_or_default()),
        ValueRef::Blob(bytes) => Part::Bytes(bytes),
        ValueRef::Null | ValueRef::Real(_) => Part::Maybe(None),
    }
}
