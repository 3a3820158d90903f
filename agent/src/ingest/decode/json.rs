//! JSON read within bounds: exact numbers, sorted keys, the last of duplicate keys wins.
//!
//! Written by hand because the general parser rounds long decimals a second time, and bounds nesting but not the
//! number of values: a hostile payload could inflate a hundredfold before anything could look at it.

use std::collections::BTreeMap;

use tributary_contract::reject::RejectReason;

use super::Reject;
use super::document::{Bounds, Budget, Doc};
use crate::reading::Value;

/// Parses all of `payload`; a byte order mark before it is tolerated, anything after it isn't.
pub fn parse(payload: &[u8], bounds: Bounds) -> Result<Doc, Reject> {
    let text = std::str::from_utf8(super::without_bom(payload))
        .map_err(|e| malformed(format!("expected JSON in UTF-8: {e}")))?;
    let mut parser = Parser { text, at: 0, budget: Budget::new(bounds) };
    let value = parser.value(0)?;
    parser.space();
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.expected("the end of the document")),
    }
}

fn malformed(detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::Malformed, detail)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    budget: Budget,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expected(&self, what: &str) -> Reject {
        let got = match self.rest().chars().next() {
            Some(c) => format!("{c:?}"),
            None => "the end".into(),
        };
        malformed(format!("at byte {}: expected {what}, got {got}", self.at))
    }

    fn value(&mut self, depth: usize) -> Result<Doc, Reject> {
        self.space();
        self.budget.spend()?;
        match self.peek() {
            Some(b'{') => self.object(self.budget.deeper(depth)?),
            Some(b'[') => self.array(self.budget.deeper(depth)?),
            Some(b'"') => Ok(Doc::Scalar(Value::Text(self.string()?))),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for (word, value) in [
                    ("true", Doc::Scalar(Value::Bool(true))),
                    ("false", Doc::Scalar(Value::Bool(false))),
                    ("null", Doc::Null),
                ] {
                    if self.rest().starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(self.expected("a value"))
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Doc, Reject> {
        self.at += 1;
        let mut members = BTreeMap::new();
        self.space();
        if self.take(b'}') {
            return Ok(Doc::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in double quotes"));
            }
            let key = self.string()?;
            self.space();
            if !self.take(b':') {
                return Err(self.expected("`:`"));
            }
            let value = self.value(depth)?;
            members.insert(key, value);
            self.space();
            if self.take(b'}') {
                return Ok(Doc::Object(members));
            }
            if !self.take(b',') {
                return Err(self.expected("`,` or `}`"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Doc, Reject> {
        self.at += 1;
        let mut elements = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Doc::Array(elements));
        }
        loop {
            elements.push(self.value(depth)?);
            self.space();
            if self.take(b']') {
                return Ok(Doc::Array(elements));
            }
            if !self.take(b',') {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    fn digits(&mut self) -> Result<(), Reject> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.expected("a digit"));
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Doc, Reject> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            whole = false;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let spelled = self.text.get(start..self.at).unwrap_or("");
        if let (true, Ok(n)) = (whole, spelled.parse::<i64>()) {
            return Ok(Doc::Scalar(Value::Int(n)));
        }
        if let (true, Ok(n)) = (whole, spelled.parse::<u64>()) {
            return Ok(Doc::Scalar(Value::of_unsigned(n)));
        }
        match spelled.parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(Doc::Scalar(Value::Float(n))),
            _ => Err(malformed(format!("{:?} isn't a finite number", super::shown(spelled)))),
        }
    }

    fn string(&mut self) -> Result<String, Reject> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = self.rest();
            let plain = rest.bytes().position(|b| b < 0x20 || b == b'"' || b == b'\\').unwrap_or(rest.len());
            out.push_str(rest.get(..plain).unwrap_or(""));
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    out.push(self.escaped()?);
                }
                _ => return Err(self.expected("the rest of a text")),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, Reject> {
        let plain = match self.peek() {
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            _ => return Err(self.expected("an escape")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unit(&mut self) -> Result<u32, Reject> {
        let hex = self.rest().get(..4).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = hex.and_then(|h| u32::from_str_radix(h, 16).ok());
        let unit = unit.ok_or_else(|| self.expected("four hex digits"))?;
        self.at += 4;
        Ok(unit)
    }

    fn unicode(&mut self) -> Result<char, Reject> {
        let first = self.unit()?;
        let code = if (0xd800..0xdc00).contains(&first) && self.rest().starts_with("\\u") {
            self.at += 2;
            let second = self.unit()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(malformed("a lone surrogate in a text"));
            }
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| malformed("a lone surrogate in a text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { depth: 32, values: 100_000 };

    fn like(json: &Doc) -> serde_json::Value {
        match json {
            Doc::Null => serde_json::Value::Null,
            Doc::Scalar(Value::Bool(b)) => (*b).into(),
            Doc::Scalar(Value::Int(i)) => (*i).into(),
            Doc::Scalar(Value::Float(f)) => (*f).into(),
            Doc::Scalar(Value::Great(n)) => (*n).into(),
            Doc::Scalar(Value::Text(t)) => t.as_str().into(),
            Doc::Array(a) => a.iter().map(like).collect(),
            Doc::Object(o) => {
                serde_json::Value::Object(o.iter().map(|(k, v)| (k.clone(), like(v))).collect())
            }
        }
    }

    #[test]
    fn numbers_are_the_nearest_double_and_integers_exact() {
        for (text, value) in [
            ("21.500", Value::Float(21.5)),
            ("-0", Value::Int(0)),
            ("9007199254740993", Value::Int(9_007_199_254_740_993)),
            ("-9223372036854775808", Value::Int(i64::MIN)),
            ("9223372036854775808", Value::Float(9.223_372_036_854_776e18)),
            ("9223372036854775809", Value::Great(9_223_372_036_854_775_809)),
            ("18446744073709551616", Value::Float(1.844_674_407_370_955_2e19)),
            ("0.1000000000000000055511151231257827", Value::Float(0.1)),
            ("0.30000000000000004", Value::Float(0.1 + 0.2)),
            ("1e-400", Value::Float(0.0)),
            ("5E2", Value::Float(500.0)),
        ] {
            assert_eq!(parse(text.as_bytes(), BOUNDS), Ok(Doc::Scalar(value)), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for bad in [
            "",
            "{",
            "{\"a\":1",
            "[1,2",
            "{\"a\":NaN}",
            "{\"a\":Infinity}",
            "{'a':1}",
            "{\"a\":1,}",
            "[1,]",
            "{\"a\":.5}",
            "{\"a\":0x1F}",
            "{\"a\":1e400}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":+1}",
            "{\"a\" 1}",
            "{\"a\":1} {}",
            "{}\0",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"a\nb\"",
            "tru",
            "nul",
            "-",
            "1e",
            "\"é\\u00e",
        ] {
            assert_eq!(parse(bad.as_bytes(), BOUNDS).unwrap_err().reason, RejectReason::Malformed, "{bad:?}");
        }
        assert_eq!(parse(b"{\"n\":\"\xc3(\"}", BOUNDS).unwrap_err().reason, RejectReason::Malformed);
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(parse(&deep(32), BOUNDS).is_ok());
        assert_eq!(parse(&deep(33), BOUNDS).unwrap_err().reason, RejectReason::TooDeep);
        assert_eq!(parse(&vec![b'['; 200_000], BOUNDS).unwrap_err().reason, RejectReason::TooDeep);
        let lax = Bounds { depth: usize::MAX, values: 1_000_000 };
        assert_eq!(parse(&deep(10_000), lax).unwrap_err().reason, RejectReason::TooDeep);
        let few = Bounds { depth: 2, values: 3 };
        assert!(parse(b"[1,2]", few).is_ok());
        assert_eq!(parse(b"[1,2,3]", few).unwrap_err().reason, RejectReason::TooManyReadings);
    }

    #[test]
    fn the_last_of_duplicate_keys_wins_and_a_byte_order_mark_is_tolerated() {
        let parsed = parse(b"\xef\xbb\xbf{\"a\":1, \"a\":2}", BOUNDS).unwrap();
        assert_eq!(like(&parsed), serde_json::json!({"a": 2}));
    }

    fn document() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (-1e6..1e6_f64).prop_map(|f| ((f * 100.0).round() / 100.0 + 0.001).into()),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_what_another_writer_wrote(value in document()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(like(&parse(text.as_bytes(), BOUNDS).unwrap()), value.clone());
            }
        }

        #[test]
        fn it_accepts_just_what_another_parser_accepts(text in "[\\[\\]{}\",:0-9.eE+\\-tfnrualse\\\\ ]{0,24}") {
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(parse(text.as_bytes(), BOUNDS).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, BOUNDS);
        }
    }
}
