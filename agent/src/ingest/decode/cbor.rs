//! CBOR (RFC 8949) read within bounds: one item, nothing after it.
//!
//! Lengths in the payload are never believed: nothing is reserved before its bytes are there. Integer keys become their
//! digits, short byte strings their hex digits; tags are looked through, but for great numbers (2, 3).

use std::collections::BTreeMap;

use tributary_contract::reject::RejectReason;

use super::Reject;
use super::document::{Bounds, Budget, Doc};
use crate::reading::Value;

/// Byte strings up to this length are shown as hex digits; longer ones are no reading.
const SHOWN_BYTES: usize = 64;

/// Parses all of `payload`.
pub fn parse(payload: &[u8], bounds: Bounds) -> Result<Doc, Reject> {
    let mut parser = Parser { rest: payload, budget: Budget::new(bounds) };
    let doc = parser.item(0)?;
    if parser.rest.is_empty() { Ok(doc) } else { Err(malformed("bytes after the end of the item")) }
}

fn malformed(detail: &str) -> Reject {
    Reject::new(RejectReason::Malformed, format!("not CBOR: {detail}"))
}

struct Parser<'b> {
    rest: &'b [u8],
    budget: Budget,
}

/// The count in an item's head.
#[derive(Clone, Copy, PartialEq)]
enum Count {
    Of(u64),
    Open,
}

const BREAK: u8 = 0xff;

impl<'b> Parser<'b> {
    fn take(&mut self, n: u64) -> Result<&'b [u8], Reject> {
        let n = usize::try_from(n).map_err(|_| malformed("a length beyond the end"))?;
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Reject> {
        self.take(1)?.first().copied().ok_or_else(|| malformed("it ends too early"))
    }

    fn at_break(&mut self) -> bool {
        let there = self.rest.first() == Some(&BREAK);
        if there {
            self.rest = self.rest.get(1..).unwrap_or(&[]);
        }
        there
    }

    fn argument(&mut self, low: u8) -> Result<Count, Reject> {
        let size = match low {
            0..=23 => return Ok(Count::Of(u64::from(low))),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            31 => return Ok(Count::Open),
            _ => return Err(malformed("a reserved head")),
        };
        Ok(Count::Of(self.take(size)?.iter().fold(0, |n, b| (n << 8) | u64::from(*b))))
    }

    fn closed(&mut self, low: u8) -> Result<u64, Reject> {
        match self.argument(low)? {
            Count::Of(n) => Ok(n),
            Count::Open => Err(malformed("a number of no length")),
        }
    }

    fn item(&mut self, depth: usize) -> Result<Doc, Reject> {
        self.budget.spend()?;
        let head = self.byte()?;
        let (major, low) = (head >> 5, head & 0x1f);
        Ok(match major {
            0 => Doc::Scalar(Value::of_unsigned(self.closed(low)?)),
            1 => Doc::Scalar(negative(self.closed(low)?)),
            2 => hex(&self.string(2, low)?),
            3 => Doc::Scalar(Value::Text(self.text(low)?)),
            4 => self.array(low, self.budget.deeper(depth)?)?,
            5 => self.map(low, self.budget.deeper(depth)?)?,
            6 => self.tagged(low, self.budget.deeper(depth)?)?,
            _ => self.simple(low)?,
        })
    }

    fn string(&mut self, major: u8, low: u8) -> Result<Vec<u8>, Reject> {
        match self.argument(low)? {
            Count::Of(n) => Ok(self.take(n)?.to_vec()),
            Count::Open => {
                let mut all = Vec::new();
                while !self.at_break() {
                    let head = self.byte()?;
                    if head >> 5 != major {
                        return Err(malformed("a piece of a text of another kind"));
                    }
                    let n = self.closed(head & 0x1f)?;
                    all.extend_from_slice(self.take(n)?);
                }
                Ok(all)
            }
        }
    }

    fn text(&mut self, low: u8) -> Result<String, Reject> {
        String::from_utf8(self.string(3, low)?).map_err(|_| malformed("a text isn't UTF-8"))
    }

    fn array(&mut self, low: u8, depth: usize) -> Result<Doc, Reject> {
        let count = self.argument(low)?;
        let mut elements = Vec::new();
        while !self.ended(count, elements.len() as u64) {
            elements.push(self.item(depth)?);
        }
        Ok(Doc::Array(elements))
    }

    fn map(&mut self, low: u8, depth: usize) -> Result<Doc, Reject> {
        let count = self.argument(low)?;
        let mut members = BTreeMap::new();
        let mut seen = 0;
        while !self.ended(count, seen) {
            seen += 1;
            let Doc::Scalar(key) = self.item(depth)? else {
                return Err(malformed("a key that is no number or text"));
            };
            let value = self.item(depth)?;
            members.insert(key.to_string(), value);
        }
        Ok(Doc::Object(members))
    }

    fn ended(&mut self, count: Count, seen: u64) -> bool {
        match count {
            Count::Of(n) => seen >= n,
            Count::Open => self.at_break(),
        }
    }

    fn tagged(&mut self, low: u8, depth: usize) -> Result<Doc, Reject> {
        let tag = self.closed(low)?;
        if tag != 2 && tag != 3 {
            return self.item(depth);
        }
        self.budget.spend()?;
        let head = self.byte()?;
        if head >> 5 != 2 {
            return Err(malformed("a great number that is no byte string"));
        }
        let bytes = self.string(2, head & 0x1f)?;
        let size = bytes.iter().fold(0.0, |n, b| n * 256.0 + f64::from(*b));
        Ok(Doc::number(if tag == 2 { size } else { -1.0 - size }))
    }

    fn simple(&mut self, low: u8) -> Result<Doc, Reject> {
        Ok(match low {
            20 => Doc::Scalar(Value::Bool(false)),
            21 => Doc::Scalar(Value::Bool(true)),
            0..=19 | 22 | 23 => Doc::Null,
            24 => {
                self.byte()?;
                Doc::Null
            }
            25 => Doc::number(half(self.closed(low)? as u16)),
            26 => Doc::number(single(f32::from_bits(self.closed(low)? as u32))),
            27 => Doc::number(f64::from_bits(self.closed(low)?)),
            _ => return Err(malformed("a break where an item should be")),
        })
    }
}

fn negative(n: u64) -> Value {
    match i64::try_from(n) {
        Ok(n) => Value::Int(-1 - n),
        Err(_) => Value::Float(-1.0 - n as f64),
    }
}

fn hex(bytes: &[u8]) -> Doc {
    if bytes.is_empty() || bytes.len() > SHOWN_BYTES {
        return Doc::Null;
    }
    Doc::text(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

/// A single as the double of the same shortest decimal: what a device calls 21.7 stays 21.7.
pub(super) fn single(number: f32) -> f64 {
    if number.is_finite() {
        number.to_string().parse().unwrap_or(f64::from(number))
    } else {
        f64::from(number)
    }
}

/// Half precision, RFC 8949 appendix D.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let size = match (bits >> 10) & 0x1f {
        0 => fraction * 2f64.powi(-24),
        31 if bits & 0x3ff == 0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (fraction + 1024.0) * 2f64.powi(i32::from(exponent) - 25),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 32, values: 1000 };

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
        digits.chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        for (hex, value) in [
            ("1903e8", Value::Int(1000)),
            ("1bffffffffffffffff", Value::Great(u64::MAX)),
            ("c249010000000000000000", Value::Float(18_446_744_073_709_551_616.0)),
            ("3bffffffffffffffff", Value::Float(-18_446_744_073_709_551_616.0)),
            ("3903e7", Value::Int(-1000)),
            ("f93e00", Value::Float(1.5)),
            ("f97bff", Value::Float(65504.0)),
            ("f90001", Value::Float(5.960_464_477_539_063e-8)),
            ("fa47c35000", Value::Float(100_000.0)),
            ("fb3ff199999999999a", Value::Float(1.1)),
            ("f5", Value::Bool(true)),
            ("7f657374726561646d696e67ff", Value::Text("streaming".into())),
            ("c11a514b67b0", Value::Int(1_363_896_240)),
            ("4401020304", Value::Text("01020304".into())),
        ] {
            assert_eq!(parse(&bytes(hex), BOUNDS), Ok(Doc::Scalar(value)), "{hex}");
        }
        for hex in ["f97c00", "f97e00", "faff800000", "fb7ff8000000000000", "f6", "f7", "f0", "f8ff"] {
            assert_eq!(parse(&bytes(hex), BOUNDS), Ok(Doc::Null), "{hex}");
        }
        let read = parse(&bytes("bf6346756ef563416d7421ff"), BOUNDS).unwrap();
        assert_eq!(read.get("Amt"), Some(&Doc::Scalar(Value::Int(-2))));
        let read = parse(&bytes("a201020304"), BOUNDS).unwrap();
        assert_eq!(read.get("3"), Some(&Doc::Scalar(Value::Int(4))));
    }

    #[test]
    fn hostile_lengths_cost_nothing() {
        for hex in [
            "bbffffffffffffffff",
            "9bffffffffffffffff",
            "5bffffffffffffffff",
            "7affffffff61",
            "9f",
            "bf61",
            "ff",
            "1c",
            "0000",
            "a1f601",
            "62c328",
            "5f6161ff",
        ] {
            assert_eq!(parse(&bytes(hex), BOUNDS).unwrap_err().reason, RejectReason::Malformed, "{hex}");
        }
        assert_eq!(parse(&[0x9f; 100_000], BOUNDS).unwrap_err().reason, RejectReason::TooDeep);
        assert_eq!(parse(&[0xc1; 100_000], BOUNDS).unwrap_err().reason, RejectReason::TooDeep);
        let mut many = vec![0x9a, 0, 0, 0xff, 0xff];
        many.resize(66_000, 0);
        assert_eq!(parse(&many, BOUNDS).unwrap_err().reason, RejectReason::TooManyReadings);
    }

    #[test]
    fn a_single_keeps_the_decimal_that_was_meant() {
        assert_eq!(single(21.7), 21.7);
        assert_eq!(single(0.1), 0.1);
        assert!(single(f32::NAN).is_nan());
    }
}
