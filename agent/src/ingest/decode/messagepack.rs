//! MessagePack read within bounds: one value, nothing after it.
//!
//! As with CBOR, no length is believed before its bytes are there. Of the extension types the time stamp (-1) is known;
//! others are nothing.

use std::collections::BTreeMap;

use tributary_contract::reject::RejectReason;

use super::Reject;
use super::cbor::single;
use super::document::{Bounds, Budget, Doc};
use crate::reading::Value;

/// Parses all of `payload`.
pub fn parse(payload: &[u8], bounds: Bounds) -> Result<Doc, Reject> {
    let mut parser = Parser { rest: payload, budget: Budget::new(bounds) };
    let doc = parser.value(0)?;
    if parser.rest.is_empty() { Ok(doc) } else { Err(malformed("bytes after the end of the value")) }
}

fn malformed(detail: &str) -> Reject {
    Reject::new(RejectReason::Malformed, format!("not MessagePack: {detail}"))
}

struct Parser<'b> {
    rest: &'b [u8],
    budget: Budget,
}

impl<'b> Parser<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], Reject> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// A big-endian number of `size` bytes, at most eight.
    fn number(&mut self, size: usize) -> Result<u64, Reject> {
        Ok(self.take(size)?.iter().fold(0, |n, b| (n << 8) | u64::from(*b)))
    }

    fn length(&mut self, size: usize) -> Result<usize, Reject> {
        usize::try_from(self.number(size)?).map_err(|_| malformed("a length beyond the end"))
    }

    fn value(&mut self, depth: usize) -> Result<Doc, Reject> {
        self.budget.spend()?;
        let head = self.number(1)? as u8;
        let int = |n: i64| Ok(Doc::Scalar(Value::Int(n)));
        match head {
            0x00..=0x7f => int(i64::from(head)),
            0xe0..=0xff => int(i64::from(head as i8)),
            0x80..=0x8f => self.map(usize::from(head & 0x0f), depth),
            0x90..=0x9f => self.array(usize::from(head & 0x0f), depth),
            0xa0..=0xbf => self.text(usize::from(head & 0x1f)),
            0xc0 => Ok(Doc::Null),
            0xc2 | 0xc3 => Ok(Doc::Scalar(Value::Bool(head == 0xc3))),
            0xc4..=0xc6 => {
                let length = self.length(1 << (head - 0xc4))?;
                self.take(length)?;
                Ok(Doc::Null)
            }
            0xc7..=0xc9 => {
                let length = self.length(1 << (head - 0xc7))?;
                self.extension(length)
            }
            0xca => Ok(Doc::number(single(f32::from_bits(self.number(4)? as u32)))),
            0xcb => Ok(Doc::number(f64::from_bits(self.number(8)?))),
            0xcc..=0xcf => Ok(Doc::Scalar(Value::of_unsigned(self.number(1 << (head - 0xcc))?))),
            0xd0 => int(i64::from(self.number(1)? as u8 as i8)),
            0xd1 => int(i64::from(self.number(2)? as u16 as i16)),
            0xd2 => int(i64::from(self.number(4)? as u32 as i32)),
            0xd3 => int(self.number(8)? as i64),
            0xd4..=0xd8 => self.extension(1 << (head - 0xd4)),
            0xd9..=0xdb => {
                let length = self.length(1 << (head - 0xd9))?;
                self.text(length)
            }
            0xdc | 0xdd => {
                let count = self.length(if head == 0xdc { 2 } else { 4 })?;
                self.array(count, depth)
            }
            0xde | 0xdf => {
                let count = self.length(if head == 0xde { 2 } else { 4 })?;
                self.map(count, depth)
            }
            0xc1 => Err(malformed("a head that is never used")),
        }
    }

    fn text(&mut self, length: usize) -> Result<Doc, Reject> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| malformed("a text isn't UTF-8"))?;
        Ok(Doc::text(text))
    }

    fn array(&mut self, count: usize, depth: usize) -> Result<Doc, Reject> {
        let depth = self.budget.deeper(depth)?;
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(self.value(depth)?);
        }
        Ok(Doc::Array(elements))
    }

    fn map(&mut self, count: usize, depth: usize) -> Result<Doc, Reject> {
        let depth = self.budget.deeper(depth)?;
        let mut members = BTreeMap::new();
        for _ in 0..count {
            let Doc::Scalar(key) = self.value(depth)? else {
                return Err(malformed("a key that is no number or text"));
            };
            let value = self.value(depth)?;
            members.insert(key.to_string(), value);
        }
        Ok(Doc::Object(members))
    }

    /// A time stamp becomes seconds since 1970, whole where they are.
    fn extension(&mut self, length: usize) -> Result<Doc, Reject> {
        let kind = self.number(1)? as u8 as i8;
        let (nanos, seconds) = match (kind, length) {
            (-1, 4) => (0, self.number(4)? as i64),
            (-1, 8) => {
                let both = self.number(8)?;
                (both >> 34, (both & 0x3_ffff_ffff) as i64)
            }
            (-1, 12) => (self.number(4)?, self.number(8)? as i64),
            _ => {
                self.take(length)?;
                return Ok(Doc::Null);
            }
        };
        if nanos == 0 {
            return Ok(Doc::Scalar(Value::Int(seconds)));
        }
        Ok(Doc::number(seconds as f64 + nanos as f64 / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 32, values: 1000 };

    #[test]
    fn each_kind_of_value_is_read() {
        for (bytes, value) in [
            (&[0x7f][..], Value::Int(127)),
            (&[0xff], Value::Int(-1)),
            (&[0xcc, 0xff], Value::Int(255)),
            (&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Value::Great(u64::MAX)),
            (&[0xd0, 0x80], Value::Int(-128)),
            (&[0xd1, 0x80, 0x00], Value::Int(-32768)),
            (&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], Value::Int(i64::MIN)),
            (&[0xca, 0x41, 0xad, 0x99, 0x9a], Value::Float(21.7)),
            (&[0xcb, 0x40, 0x35, 0x80, 0, 0, 0, 0, 0], Value::Float(21.5)),
            (&[0xc3], Value::Bool(true)),
            (&[0xa2, b'o', b'k'], Value::Text("ok".into())),
            (&[0xd9, 2, b'o', b'k'], Value::Text("ok".into())),
            (&[0xd6, 0xff, 0x66, 0x31, 0xf6, 0x80], Value::Int(1_714_550_400)),
        ] {
            assert_eq!(parse(bytes, BOUNDS), Ok(Doc::Scalar(value)), "{bytes:02x?}");
        }
        for nothing in [&[0xc0][..], &[0xc4, 1, 7], &[0xd4, 5, 0], &[0xca, 0x7f, 0xc0, 0, 0]] {
            assert_eq!(parse(nothing, BOUNDS), Ok(Doc::Null), "{nothing:02x?}");
        }
        let read = parse(&[0x82, 0xa1, b'a', 1, 2, 0x91, 3], BOUNDS).unwrap();
        assert_eq!(read.get("a"), Some(&Doc::Scalar(Value::Int(1))));
        assert_eq!(read.get("2"), Some(&Doc::Array(vec![Doc::Scalar(Value::Int(3))])));
    }

    #[test]
    fn hostile_lengths_cost_nothing() {
        for bad in [
            &[0xdf, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
            &[0xdb, 0xff, 0xff, 0xff, 0xff, b'a'],
            &[0xc6, 0xff, 0xff, 0xff, 0xff],
            &[0xc9, 0xff, 0xff, 0xff, 0xff, 1],
            &[0xc1],
            &[],
            &[0x01, 0x01],
            &[0x81, 0xc0, 0x01],
            &[0xa1, 0xff],
        ] {
            assert_eq!(parse(bad, BOUNDS).unwrap_err().reason, RejectReason::Malformed, "{bad:02x?}");
        }
        assert_eq!(parse(&[0x91; 100_000], BOUNDS).unwrap_err().reason, RejectReason::TooDeep);
        let mut many = vec![0xdd, 0, 0, 0xff, 0xff];
        many.resize(66_000, 0);
        assert_eq!(parse(&many, BOUNDS).unwrap_err().reason, RejectReason::TooManyReadings);
    }
}
