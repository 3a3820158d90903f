//! Values of Sparkplug's data types: what a field of the wire means, tables, templates and arrays taken apart.

use tributary_contract::reject::RejectReason;

use super::wire::{Metric, Raw, Table};
use crate::ingest::decode::Reject;
use crate::ingest::decode::cbor::single;
use crate::reading::Value;

/// The values of a metric, each with its name: one, or those of its parts. None where it says nothing that is a reading.
pub fn of(name: &str, datatype: u64, raw: &Raw, most: usize) -> Result<Vec<(String, Value)>, Reject> {
    let mut out = Vec::new();
    put(name, datatype, raw, most, &mut out)?;
    Ok(out)
}

fn put(
    name: &str,
    datatype: u64,
    raw: &Raw,
    most: usize,
    out: &mut Vec<(String, Value)>,
) -> Result<(), Reject> {
    if out.len() > most {
        let detail = format!("more than {most} readings in one message");
        return Err(Reject::new(RejectReason::TooManyReadings, detail));
    }
    match raw {
        Raw::Table(table) => put_table(name, table, most, out),
        Raw::Template(_, true) | Raw::Nothing => Ok(()),
        Raw::Template(metrics, false) => {
            for Metric { name: inner, datatype, value, is_null, .. } in metrics {
                if let (Some(inner), false) = (inner, is_null) {
                    put(&format!("{name}/{inner}"), datatype.unwrap_or(0), value, most, out)?;
                }
            }
            Ok(())
        }
        Raw::Bytes(bytes) => {
            for (at, value) in elements(datatype, bytes, most.saturating_add(1)).into_iter().enumerate() {
                put_one(format!("{name}[{at}]"), value, most, out)?;
            }
            Ok(())
        }
        simple => match scalar(datatype, simple) {
            Some(value) => put_one(name.into(), value, most, out),
            None => Ok(()),
        },
    }
}

fn put_one(name: String, value: Value, most: usize, out: &mut Vec<(String, Value)>) -> Result<(), Reject> {
    if out.len() >= most {
        let detail = format!("more than {most} readings in one message");
        return Err(Reject::new(RejectReason::TooManyReadings, detail));
    }
    out.push((name, value));
    Ok(())
}

fn put_table(name: &str, table: &Table, most: usize, out: &mut Vec<(String, Value)>) -> Result<(), Reject> {
    for (at, row) in table.rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let datatype = table.types.get(column).copied().unwrap_or(0);
            let title = table.columns.get(column).cloned().unwrap_or_else(|| column.to_string());
            if let Some(value) = scalar(datatype, cell) {
                put_one(format!("{name}[{at}].{title}"), value, most, out)?;
            }
        }
    }
    Ok(())
}

/// A simple value by its data type; by its field where the type isn't known. None where it isn't finite.
fn scalar(datatype: u64, raw: &Raw) -> Option<Value> {
    Some(match (datatype, raw) {
        (1, Raw::Int(n)) => Value::Int(i64::from(*n as i8)),
        (2, Raw::Int(n)) => Value::Int(i64::from(*n as i16)),
        (3, Raw::Int(n)) => Value::Int(i64::from(*n as i32)),
        (4, Raw::Int(n) | Raw::Long(n)) => Value::Int(*n as i64),
        (11, Raw::Int(n) | Raw::Long(n)) => Value::Bool(*n != 0),
        (_, Raw::Int(n) | Raw::Long(n)) => Value::of_unsigned(*n),
        (_, Raw::Float(f)) => finite(single(*f))?,
        (_, Raw::Double(f)) => finite(*f)?,
        (_, Raw::Bool(b)) => Value::Bool(*b),
        (_, Raw::Text(text)) => Value::Text(text.clone()),
        (_, Raw::Nothing | Raw::Bytes(_) | Raw::Table(_) | Raw::Template(..)) => return None,
    })
}

fn finite(number: f64) -> Option<Value> {
    number.is_finite().then_some(Value::Float(number))
}

/// The elements of an array, at most `most`; bytes of any other type are no readings.
fn elements(datatype: u64, bytes: &[u8], most: usize) -> Vec<Value> {
    let little = |chunk: &[u8]| chunk.iter().rev().fold(0u64, |n, b| (n << 8) | u64::from(*b));
    let all = |size: usize, read: fn(u64) -> Option<Value>| {
        bytes.chunks_exact(size).filter_map(|chunk| read(little(chunk))).take(most).collect()
    };
    match datatype {
        22 => all(1, |n| Some(Value::Int(i64::from(n as u8 as i8)))),
        23 => all(2, |n| Some(Value::Int(i64::from(n as u16 as i16)))),
        24 => all(4, |n| Some(Value::Int(i64::from(n as u32 as i32)))),
        25 => all(8, |n| Some(Value::Int(n as i64))),
        26 => all(1, |n| Some(Value::of_unsigned(n))),
        27 => all(2, |n| Some(Value::of_unsigned(n))),
        28 => all(4, |n| Some(Value::of_unsigned(n))),
        29 | 34 => all(8, |n| Some(Value::of_unsigned(n))),
        30 => all(4, |n| finite(single(f32::from_bits(n as u32)))),
        31 => all(8, |n| finite(f64::from_bits(n))),
        32 => booleans(bytes, most),
        33 => texts(bytes, most),
        _ => Vec::new(),
    }
}

/// A count of four bytes, then bits, the first in the highest place.
fn booleans(bytes: &[u8], most: usize) -> Vec<Value> {
    let Some((count, bits)) = bytes.split_at_checked(4) else { return Vec::new() };
    let count = count.iter().rev().fold(0usize, |n, b| (n << 8) | usize::from(*b));
    let each = bits.iter().flat_map(|byte| (0..8).map(move |at| Value::Bool(byte & (0x80 >> at) != 0)));
    each.take(count.min(most)).collect()
}

/// Texts that end with NUL.
fn texts(bytes: &[u8], most: usize) -> Vec<Value> {
    let whole = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let each = whole.split(|b| *b == 0).filter_map(|text| std::str::from_utf8(text).ok());
    each.take(most).map(|text| Value::Text(text.into())).collect()
}
