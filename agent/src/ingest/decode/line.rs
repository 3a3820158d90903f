//! Line protocol: `measurement,tag=a field=1,other=2i 1714550400000000000`, a point a line.
//!
//! The metric is `measurement.field`. The device is what the topic says, else the first tag that names one, else the
//! topic; all other tags identify the series. A line that can't be read rejects its message.

use tributary_contract::quality::Quality;
use tributary_contract::reject::RejectReason;
use tributary_contract::series::Tags;

use super::document::Doc;
use super::{Found, Names, Reject, bounded, numeral, time, wellknown};
use crate::config::{Limits, TimeUnit};
use crate::reading::Value;

/// Tags that name the device, best first, beside the well-known names.
const DEVICE_TAGS: [&str; 8] =
    ["device", "device_id", "deviceId", "sensor", "host", "hostname", "server", "source"];

/// Whether a text is surely line protocol: its first point has fields that are what fields must be.
pub fn looks_like(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let limits = Limits { readings: 1000, ..Limits::default() };
    first.is_some_and(|line| {
        read(line.as_bytes(), &Names::default(), None, &limits).is_ok_and(|f| !f.is_empty())
    })
}

/// Reads all points. Times are nanoseconds unless `unit` says something else or their size does.
pub(super) fn read(
    payload: &[u8],
    names: &Names,
    unit: Option<TimeUnit>,
    limits: &Limits,
) -> Result<Vec<Found>, Reject> {
    let text = std::str::from_utf8(super::without_bom(payload))
        .map_err(|e| malformed(1, &format!("expected UTF-8: {e}")))?;
    let mut reader = Reader { rest: text, line: 1 };
    let mut found = Vec::new();
    while reader.next_point() {
        let point = reader.point()?;
        let ts = match &point.time {
            None => None,
            Some(digits) => {
                let n: i64 =
                    digits.parse().map_err(|_| malformed(reader.line, "a time that is no whole number"))?;
                let at = time::configured(&Doc::Scalar(Value::Int(n)), unit);
                Some(at.map_err(|detail| {
                    Reject::new(RejectReason::BadTime, format!("line {}: {detail}", reader.line))
                })?)
            }
        };
        let mut tags = Tags::new();
        for (key, value) in point.tags {
            tags.insert(bounded("tag", key, limits)?, bounded("tag", value, limits)?);
        }
        let device = match (&names.device, device_tag(&tags)) {
            (Some(said), _) => Some(said.clone()),
            (None, Some(tag)) => tags.remove(&tag),
            (None, None) => names.by_topic.as_ref().map(|(_, topic)| topic.clone()),
        };
        for (field, value) in point.fields {
            if found.len() >= limits.readings {
                let detail = format!("more than {} readings in one message", limits.readings);
                return Err(Reject::new(RejectReason::TooManyReadings, detail));
            }
            if let Value::Text(text) = &value {
                bounded("value", text.clone(), limits)?;
            }
            found.push(Found {
                ts,
                device: device.clone(),
                metric: Some(bounded("metric", format!("{}.{field}", point.measurement), limits)?),
                tags: tags.clone(),
                row_tags: Tags::new(),
                value,
                unit: None,
                quality: Quality::GOOD,
            });
        }
    }
    Ok(found)
}

fn device_tag(tags: &Tags) -> Option<String> {
    let known = DEVICE_TAGS.into_iter().find(|known| tags.contains_key(*known)).map(str::to_owned);
    known.or_else(|| tags.keys().find(|key| wellknown::is_device(key)).cloned())
}

fn malformed(line: usize, detail: &str) -> Reject {
    Reject::new(RejectReason::Malformed, format!("line {line} of line protocol: {detail}"))
}

struct Point {
    measurement: String,
    tags: Vec<(String, String)>,
    fields: Vec<(String, Value)>,
    time: Option<String>,
}

struct Reader<'t> {
    rest: &'t str,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or("");
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn spaces(&mut self) {
        while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\r')) {
            self.bump();
        }
    }

    /// Goes to the next point; false at the end.
    fn next_point(&mut self) -> bool {
        loop {
            self.spaces();
            match self.peek() {
                None => return false,
                Some('\n') => drop(self.bump()),
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.bump();
                    }
                }
                Some(_) => return true,
            }
        }
    }

    /// A name up to one of `ends`; a backslash takes the special meaning from one of `special`.
    fn name(&mut self, ends: &[char], special: &[char]) -> Result<String, Reject> {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if ends.contains(&c) || c == '\n' {
                break;
            }
            self.bump();
            match self.peek() {
                Some(next) if c == '\\' && special.contains(&next) => {
                    self.bump();
                    name.push(next);
                }
                _ => name.push(c),
            }
        }
        if name.is_empty() { Err(malformed(self.line, "a name is missing")) } else { Ok(name) }
    }

    fn point(&mut self) -> Result<Point, Reject> {
        let measurement = self.name(&[',', ' '], &[',', ' ', '\\'])?;
        let mut tags = Vec::new();
        while self.peek() == Some(',') {
            self.bump();
            let key = self.name(&['=', ',', ' '], &['=', ',', ' ', '\\'])?;
            if self.peek() != Some('=') {
                return Err(malformed(self.line, "a tag without value"));
            }
            self.bump();
            tags.push((key, self.name(&[',', ' ', '='], &['=', ',', ' ', '\\'])?));
        }
        self.spaces();
        let mut fields = vec![self.field()?];
        while self.peek() == Some(',') {
            self.bump();
            fields.push(self.field()?);
        }
        self.spaces();
        let time = match self.peek() {
            None | Some('\n') => None,
            Some(_) => Some(self.name(&[' ', '\r'], &[])?),
        };
        self.spaces();
        match self.peek() {
            None | Some('\n') => Ok(Point { measurement, tags, fields, time }),
            Some(_) => Err(malformed(self.line, "more than measurement, fields and time")),
        }
    }

    fn field(&mut self) -> Result<(String, Value), Reject> {
        if matches!(self.peek(), None | Some('\n')) {
            return Err(malformed(self.line, "no field"));
        }
        let key = self.name(&['=', ',', ' '], &['=', ',', ' ', '\\'])?;
        if self.peek() != Some('=') {
            return Err(malformed(self.line, "no field"));
        }
        self.bump();
        if self.peek() == Some('"') {
            return Ok((key, Value::Text(self.quoted()?)));
        }
        let spelled = self.name(&[',', ' ', '\r'], &[])?;
        match value(&spelled) {
            Some(value) => Ok((key, value)),
            None => {
                Err(malformed(self.line, &format!("{:?} is no value of a field", super::shown(&spelled))))
            }
        }
    }

    fn quoted(&mut self) -> Result<String, Reject> {
        self.bump();
        let mut text = String::new();
        loop {
            match (self.bump(), self.peek()) {
                (Some('\\'), Some(next @ ('"' | '\\'))) => {
                    self.bump();
                    text.push(next);
                }
                (Some('"'), _) => return Ok(text),
                (Some(c), _) => text.push(c),
                (None, _) => return Err(malformed(self.line, "a text without its end")),
            }
        }
    }
}

fn value(spelled: &str) -> Option<Value> {
    match spelled {
        "t" | "T" => return Some(Value::Bool(true)),
        "f" | "F" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(whole) = spelled.strip_suffix('i') {
        return whole.parse().ok().map(Value::Int);
    }
    if let Some(whole) = spelled.strip_suffix('u') {
        return whole.parse().ok().map(Value::of_unsigned);
    }
    match numeral::plain(spelled)? {
        // A number without `i` is a double, whole or not.
        Value::Int(n) if (n as f64) as i64 == n => Some(Value::Float(n as f64)),
        Value::Int(n) => Some(Value::Float(n as f64)),
        Value::Great(n) => Some(Value::Float(n as f64)),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Vec<String>, RejectReason> {
        let found =
            read(text.as_bytes(), &Names::default(), None, &Limits::default()).map_err(|r| r.reason)?;
        let show = |f: &Found| {
            let tags = f.tags.iter().map(|(k, v)| format!(" {k}={v}")).collect::<String>();
            let at = f.ts.map(|ts| format!(" @{}", ts.micros())).unwrap_or_default();
            format!(
                "{} {} {:?}{tags}{at}",
                f.device.as_deref().unwrap_or("-"),
                f.metric.as_deref().unwrap_or("-"),
                f.value
            )
        };
        Ok(found.iter().map(show).collect())
    }

    #[test]
    fn points_are_read_with_tags_fields_and_time() {
        let text = "# a comment\n\nweather,host=gw\\ 1,place=hall\\,2 temp=21.5,n=7i,ok=t,note=\"a \\\"b\\\", c\" 1714550400000000000\ncpu value=1\r\n";
        assert_eq!(
            said(text).unwrap(),
            [
                "gw 1 weather.temp Float(21.5) place=hall,2 @1714550400000000",
                "gw 1 weather.n Int(7) place=hall,2 @1714550400000000",
                "gw 1 weather.ok Bool(true) place=hall,2 @1714550400000000",
                "gw 1 weather.note Text(\"a \\\"b\\\", c\") place=hall,2 @1714550400000000",
                "- cpu.value Float(1.0)",
            ]
        );
        assert_eq!(said("m v=18446744073709551615u").unwrap(), ["- m.v Great(18446744073709551615)"]);
        assert_eq!(said("m v=\"two\nlines\"").unwrap(), ["- m.v Text(\"two\\nlines\")"]);
        assert_eq!(said("").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_point_rejects_its_message() {
        for bad in [
            "cpu",
            "cpu value",
            "cpu value=",
            "cpu,a= v=1",
            "cpu,a v=1",
            ",a=b v=1",
            "cpu v=1i2",
            "cpu v=abc",
            "cpu v=nan",
            "cpu v=9223372036854775808i",
            "cpu v=18446744073709551616u",
            "cpu v=-1u",
            "cpu v=\"a",
            "cpu v=1 x",
            "cpu v=1 1 1",
            "cpu v=1,",
            "cpu v=1\ncpu v=x",
            "\\\\",
        ] {
            assert_eq!(said(bad), Err(RejectReason::Malformed), "{bad:?}");
        }
        assert!(looks_like("cpu,host=a v=1") && !looks_like("hello world") && !looks_like("a b=c"));
    }
}
