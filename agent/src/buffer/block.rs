//! The columnar block: the rows of one batch as compressed columns, and back, bit for bit.
//!
//! Seqs aren't in it: they run on from the batch's first. Layout before compression, all numbers varints:
//! version, number of rows, unit of receipt times; then per column all rows: event time (signed delta to the row
//! before), time of receipt (likewise, in milliseconds where all are whole ones), series key, quality (byte; its highest bit
//! says that the row is kept back), kind (byte), value by kind; then the distinct sets of row tags, and per row which of
//! them (0 is none).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tributary_contract::quality::Quality;
use tributary_contract::series::Tags;
use tributary_contract::time::Timestamp;
use zstd::bulk::Decompressor;

use super::row::Row;
use super::varint::{self, Reader, Short};
use crate::reading::Value;

/// Rows that one block may hold.
pub const MAX_ROWS: usize = 1 << 20;

/// Bytes that one block may hold before compression.
pub const MAX_BYTES: usize = 64 << 20;

const VERSION: u8 = 1;
const LEVEL: i32 = 3;

/// In a quality's byte: [`Row::kept_back`]. No doubt has this bit, and versions that don't know it drop it.
const KEPT_BACK: u8 = 0x80;

/// Why a block can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// More rows or bytes than a block may hold.
    #[error(
        "{rows} rows of {bytes} bytes don't fit a block of at most {MAX_ROWS} rows and {MAX_BYTES} bytes"
    )]
    TooLarge {
        /// Rows.
        rows: usize,
        /// Bytes before compression.
        bytes: usize,
    },
    /// Compression failed or the compressed bytes are damaged.
    #[error("block can't be compressed or inflated: {0}")]
    Zstd(#[from] std::io::Error),
    /// Ends too early.
    #[error("block is damaged: {0}")]
    Short(#[from] Short),
    /// Something in it can't be.
    #[error("block is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes `rows` as one block. Seqs are left out: the caller keeps the first, the others follow.
pub fn encode(rows: &[Row]) -> Result<Vec<u8>, BlockError> {
    let mut raw = vec![VERSION];
    varint::put(&mut raw, rows.len() as u64);
    let whole = rows.iter().all(|r| r.received_at.micros() % 1000 == 0);
    let unit = if whole { 1000 } else { 1 };
    varint::put(&mut raw, unit as u64);
    let mut last = 0i64;
    for row in rows {
        varint::put_signed(&mut raw, row.ts.micros().wrapping_sub(last));
        last = row.ts.micros();
    }
    last = 0;
    for row in rows {
        let at = row.received_at.micros() / unit;
        varint::put_signed(&mut raw, at.wrapping_sub(last));
        last = at;
    }
    rows.iter().for_each(|r| varint::put(&mut raw, u64::from(r.series)));
    raw.extend(rows.iter().map(|r| r.quality.bits() | if r.kept_back { KEPT_BACK } else { 0 }));
    raw.extend(rows.iter().map(|r| match r.value {
        Value::Float(_) => 0,
        Value::Int(_) => 1,
        Value::Bool(false) => 2,
        Value::Bool(true) => 3,
        Value::Text(_) => 4,
        Value::Great(_) => 5,
    }));
    for row in rows {
        match &row.value {
            Value::Float(f) => raw.extend_from_slice(&f.to_bits().to_le_bytes()),
            Value::Int(i) => varint::put_signed(&mut raw, *i),
            Value::Bool(_) => {}
            Value::Text(t) => varint::put_bytes(&mut raw, t.as_bytes()),
            Value::Great(n) => varint::put(&mut raw, *n),
        }
    }
    put_tags(&mut raw, rows);
    if rows.len() > MAX_ROWS || raw.len() > MAX_BYTES {
        return Err(BlockError::TooLarge { rows: rows.len(), bytes: raw.len() });
    }
    let mut out = Vec::new();
    varint::put(&mut out, raw.len() as u64);
    out.extend(zstd::bulk::compress(&raw, LEVEL)?);
    Ok(out)
}

fn put_tags(raw: &mut Vec<u8>, rows: &[Row]) {
    let mut known: HashMap<&Tags, u64> = HashMap::new();
    let mut sets: Vec<&Tags> = Vec::new();
    let mut which = Vec::with_capacity(rows.len());
    for row in rows {
        which.push(row.row_tags.as_deref().map_or(0, |tags| {
            *known.entry(tags).or_insert_with(|| {
                sets.push(tags);
                sets.len() as u64
            })
        }));
    }
    varint::put(raw, sets.len() as u64);
    for tags in &sets {
        varint::put(raw, tags.len() as u64);
        for (key, value) in *tags {
            varint::put_bytes(raw, key.as_bytes());
            varint::put_bytes(raw, value.as_bytes());
        }
    }
    if !sets.is_empty() {
        which.into_iter().for_each(|w| varint::put(raw, w));
    }
}

thread_local! {
    /// Making one takes longer than inflating a block of a few hundred rows does.
    static INFLATER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn inflate(packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    INFLATER.with_borrow_mut(|inflater| {
        let inflater = match inflater {
            Some(inflater) => inflater,
            none => none.insert(Decompressor::new()?),
        };
        inflater.decompress(packed, size)
    })
}

/// Reads a block whose first row has seq `first_seq`. Damaged or hostile bytes give an error; at most
/// [`MAX_BYTES`] and [`MAX_ROWS`] are ever allocated.
pub fn decode(block: &[u8], first_seq: u64) -> Result<Vec<Row>, BlockError> {
    let mut outer = Reader::new(block);
    let size = usize::try_from(outer.unsigned()?).map_err(|_| Short)?;
    if size > MAX_BYTES {
        return Err(BlockError::Damaged("its size is beyond the limit"));
    }
    let packed = outer.take(outer.left())?;
    let raw = inflate(packed, size)?;
    if raw.len() != size {
        return Err(BlockError::Damaged("its size isn't what it says"));
    }
    let mut r = Reader::new(&raw);
    if r.byte()? != VERSION {
        return Err(BlockError::Damaged("its version is unknown"));
    }
    // A row takes at least a byte each of event time, receipt, series, quality and kind.
    let rows = r.count(5)?;
    if rows > MAX_ROWS || first_seq.checked_add(rows as u64).is_none() {
        return Err(BlockError::Damaged("it has too many rows"));
    }
    let unit = match r.unsigned()? {
        1 => 1i64,
        1000 => 1000,
        _ => return Err(BlockError::Damaged("its unit of time is unknown")),
    };
    let ts = deltas(&mut r, rows)?;
    let received = deltas(&mut r, rows)?;
    let series: Vec<u32> = (0..rows)
        .map(|_| r.unsigned().and_then(|n| u32::try_from(n).map_err(|_| Short)))
        .collect::<Result<_, _>>()?;
    let quality = r.take(rows)?;
    let kinds = r.take(rows)?;
    let values: Vec<Value> = kinds.iter().map(|kind| value(&mut r, *kind)).collect::<Result<_, _>>()?;
    let sets = take_tags(&mut r)?;
    let mut out = Vec::with_capacity(rows);
    let columns = ts.into_iter().zip(received).zip(series).zip(quality).zip(values).enumerate();
    for (i, ((((ts, received), series), quality), value)) in columns {
        let which = if sets.is_empty() { 0 } else { r.unsigned()? };
        let row_tags = match which.checked_sub(1) {
            None => None,
            Some(set) => {
                let set = usize::try_from(set).ok().and_then(|s| sets.get(s));
                Some(set.ok_or(BlockError::Damaged("a row names tags that it doesn't hold"))?.clone())
            }
        };
        let received_at = received.checked_mul(unit).ok_or(BlockError::Damaged("a time is out of range"))?;
        out.push(Row {
            seq: first_seq + i as u64,
            ts: Timestamp(ts),
            received_at: Timestamp(received_at),
            series,
            value,
            quality: Quality::from_bits(*quality),
            row_tags,
            kept_back: quality & KEPT_BACK != 0,
        });
    }
    if r.left() > 0 {
        return Err(BlockError::Damaged("bytes are left over"));
    }
    Ok(out)
}

fn deltas(r: &mut Reader<'_>, rows: usize) -> Result<Vec<i64>, Short> {
    let mut last = 0i64;
    (0..rows)
        .map(|_| {
            last = last.wrapping_add(r.signed()?);
            Ok(last)
        })
        .collect()
}

fn value(r: &mut Reader<'_>, kind: u8) -> Result<Value, BlockError> {
    Ok(match kind {
        0 => {
            let mut bits = [0; 8];
            bits.copy_from_slice(r.take(8)?);
            Value::Float(f64::from_bits(u64::from_le_bytes(bits)))
        }
        1 => Value::Int(r.signed()?),
        2 => Value::Bool(false),
        3 => Value::Bool(true),
        4 => Value::Text(text(r.bytes()?)?),
        5 => Value::Great(r.unsigned()?),
        _ => return Err(BlockError::Damaged("a value is of no known kind")),
    })
}

fn text(bytes: &[u8]) -> Result<String, BlockError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| BlockError::Damaged("a text isn't UTF-8"))
}

fn take_tags(r: &mut Reader<'_>) -> Result<Vec<Arc<Tags>>, BlockError> {
    let sets = r.count(1)?;
    let mut out = Vec::new();
    for _ in 0..sets {
        let pairs = r.count(2)?;
        let mut tags = Tags::new();
        for _ in 0..pairs {
            let key = text(r.bytes()?)?;
            tags.insert(key, text(r.bytes()?)?);
        }
        out.push(Arc::new(tags));
    }
    Ok(out)
}

/// About how many bytes a reading takes in a sealed segment: the measured 4 to 5 of a number, texts and row tags as
/// they are, since they may not repeat.
pub fn estimate(row: &Row) -> u64 {
    let text = if let Value::Text(t) = &row.value { t.len() } else { 0 };
    let tags: usize = row.row_tags.iter().flat_map(|t| t.iter()).map(|(k, v)| k.len() + v.len()).sum();
    5 + (text + tags) as u64
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<f64>().prop_map(Value::Float),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(Value::Great),
            any::<bool>().prop_map(Value::Bool),
            ".{0,12}".prop_map(Value::Text),
        ]
    }

    fn any_row() -> impl Strategy<Value = Row> {
        let tags = prop::option::of(prop::collection::btree_map("[a-c]", "[a-c]{0,2}", 0..3));
        (any::<i64>(), any::<i64>(), any::<bool>(), any::<u32>(), any_value(), any::<u8>(), tags).prop_map(
            |(ts, received, whole, series, value, quality, tags)| Row {
                seq: 0,
                ts: Timestamp(ts),
                received_at: Timestamp(if whole { received / 1000 * 1000 } else { received }),
                series,
                value,
                quality: Quality::from_bits(quality),
                row_tags: tags.map(Arc::new),
                kept_back: quality & KEPT_BACK != 0,
            },
        )
    }

    fn bits(row: &Row) -> (Row, Option<u64>) {
        let float = if let Value::Float(f) = row.value { Some(f.to_bits()) } else { None };
        let value = if float.is_some() { Value::Bool(true) } else { row.value.clone() };
        (Row { value, ..row.clone() }, float)
    }

    proptest! {
        #[test]
        fn rows_come_back_bit_for_bit(mut rows in prop::collection::vec(any_row(), 0..40), first in 0u64..1 << 40) {
            rows.iter_mut().zip(first..).for_each(|(row, seq)| row.seq = seq);
            let back = decode(&encode(&rows).unwrap(), first).unwrap();
            prop_assert_eq!(back.iter().map(bits).collect::<Vec<_>>(), rows.iter().map(bits).collect::<Vec<_>>());
        }

        #[test]
        fn damaged_blocks_are_errors_or_rows_but_never_a_panic(
            rows in prop::collection::vec(any_row(), 1..20), at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index,
        ) {
            let mut block = encode(&rows).unwrap();
            let i = at.index(block.len());
            block[i] ^= 1 << bit;
            let _ = decode(&block, 1);
            let _ = decode(&block[..cut.index(block.len())], u64::MAX - 3);
        }

        #[test]
        fn hostile_columns_are_errors_or_rows_but_never_a_panic(mut raw: Vec<u8>, rows in 0u8..20) {
            raw.splice(0..0, [VERSION, rows, 1]);
            let mut block = Vec::new();
            varint::put(&mut block, raw.len() as u64);
            block.extend(zstd::bulk::compress(&raw, LEVEL).unwrap());
            let _ = decode(&block, 1);
        }
    }

    /// Seeded: `TRIBUTARY_SEED` and `TRIBUTARY_FUZZ` (inputs) change what is tried.
    #[test]
    fn no_mutation_of_a_block_makes_its_decoder_panic() {
        let env =
            |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
        let (seed, count) = (env("TRIBUTARY_SEED", 1), env("TRIBUTARY_FUZZ", 5_000));
        let mut random = fastrand::Rng::with_seed(seed);
        let mut read = 0;
        for number in 0..count {
            let rows: Vec<Row> = (1..random.u64(2..20))
                .map(|seq| Row {
                    seq,
                    ts: Timestamp(random.i64(..) >> random.u8(..64)),
                    received_at: Timestamp(random.i64(..) >> random.u8(..64)),
                    series: random.u32(..),
                    value: match random.u8(..5) {
                        0 => Value::Float(f64::from_bits(random.u64(..))),
                        1 => Value::Int(random.i64(..)),
                        2 => Value::Great(random.u64(..)),
                        3 => Value::Bool(random.bool()),
                        _ => Value::Text("ab".repeat(random.usize(..9))),
                    },
                    quality: Quality::from_bits(random.u8(..)),
                    row_tags: random.bool().then(|| Arc::new(Tags::from([("n".into(), seq.to_string())]))),
                    kept_back: random.bool(),
                })
                .collect();
            let block = encode(&rows).unwrap();
            let mut head = varint::Reader::new(&block);
            let size = head.unsigned().unwrap() as usize;
            // Half of the time beneath the compression, whose checks would hide most.
            let inside = random.bool();
            let mut bytes = if inside {
                zstd::bulk::decompress(&block[block.len() - head.left()..], size).unwrap()
            } else {
                block
            };
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..bytes.len());
                match random.u8(..4) {
                    0 => bytes[at] ^= 1 << random.u8(..8),
                    1 => bytes[at] = random.u8(..),
                    2 => drop(bytes.splice(at..at, [0xff; 9])),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            if inside {
                let mut block = Vec::new();
                varint::put(&mut block, bytes.len() as u64);
                block.extend(zstd::bulk::compress(&bytes, LEVEL).unwrap());
                bytes = block;
            }
            let outcome = std::panic::catch_unwind(|| decode(&bytes, 1).is_ok());
            let Ok(ok) = outcome else { panic!("seed {seed}, input {number}: {bytes:02x?}") };
            read += u64::from(ok);
        }
        println!("journal block: seed {seed}, {count} inputs, {read} read");
    }

    #[test]
    fn a_block_that_claims_great_size_is_refused_before_anything_is_allocated() {
        let mut block = Vec::new();
        varint::put(&mut block, u64::MAX / 2);
        assert!(matches!(decode(&block, 1), Err(BlockError::Damaged(_))));
        let mut raw = vec![VERSION];
        varint::put(&mut raw, MAX_ROWS as u64);
        let mut block = Vec::new();
        varint::put(&mut block, raw.len() as u64);
        block.extend(zstd::bulk::compress(&raw, LEVEL).unwrap());
        assert!(matches!(decode(&block, 1), Err(BlockError::Short(_))));
    }
}
