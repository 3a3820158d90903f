//! Sparkplug's one message, read from protobuf within bounds, and its one command written.
//!
//! By hand because it is one message of seven kinds of parts: a generated reader would cost more code than it saves.

use tributary_contract::reject::RejectReason;

use crate::ingest::decode::Reject;

/// A message.
#[derive(Debug, Default)]
pub struct Payload {
    /// Milliseconds since 1970.
    pub timestamp: Option<u64>,
    /// 0 to 255.
    pub seq: Option<u64>,
    /// Says of a body that isn't plain how it is packed.
    pub uuid: Option<String>,
    /// Metrics.
    pub metrics: Vec<Metric>,
}

/// One metric.
#[derive(Debug, Default)]
pub struct Metric {
    /// Absent where an alias stands for it.
    pub name: Option<String>,
    /// Number given by the birth.
    pub alias: Option<u64>,
    /// Milliseconds since 1970.
    pub timestamp: Option<u64>,
    /// One of Sparkplug's data types.
    pub datatype: Option<u64>,
    /// Whether it says that there is no value.
    pub is_null: bool,
    /// Texts among its properties.
    pub unit: Option<String>,
    /// The property `Quality`.
    pub quality: Option<u64>,
    /// Value.
    pub value: Raw,
}

/// A value as the wire has it.
#[derive(Debug, Default, PartialEq)]
pub enum Raw {
    /// None, or one that this reader doesn't know.
    #[default]
    Nothing,
    /// Of up to 32 bits, negative ones as two's complement.
    Int(u64),
    /// Of 64 bits.
    Long(u64),
    /// Single.
    Float(f32),
    /// Double.
    Double(f64),
    /// Truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// Bytes, arrays among them.
    Bytes(Vec<u8>),
    /// A table.
    Table(Table),
    /// Metrics within a metric, and whether it only defines them.
    Template(Vec<Metric>, bool),
}

/// A table in a metric.
#[derive(Debug, Default, PartialEq)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Data types of the columns.
    pub types: Vec<u64>,
    /// Cells by row.
    pub rows: Vec<Vec<Raw>>,
}

impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.alias == other.alias && self.value == other.value
    }
}

/// Nesting of templates.
const DEPTH: usize = 8;

/// What a message may hold.
struct Budget {
    values: usize,
}

impl Budget {
    fn spend(&mut self) -> Result<(), Reject> {
        self.values = self.values.checked_sub(1).ok_or_else(|| {
            Reject::new(RejectReason::TooManyReadings, "more values than the limit on readings allows for")
        })?;
        Ok(())
    }
}

fn malformed(detail: &str) -> Reject {
    Reject::new(RejectReason::Malformed, format!("not Sparkplug B: {detail}"))
}

/// One field of a message.
enum Field<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'b [u8]),
}

struct Fields<'b> {
    rest: &'b [u8],
}

impl<'b> Fields<'b> {
    fn varint(&mut self) -> Result<u64, Reject> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.rest.split_first().ok_or_else(|| malformed("it ends too early"))?;
            self.rest = rest;
            let bits = u64::from(first & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            n |= bits << shift;
            if first & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(malformed("a number of more than 64 bits"))
    }

    fn take(&mut self, n: u64) -> Result<&'b [u8], Reject> {
        let n = usize::try_from(n).map_err(|_| malformed("a length beyond the end"))?;
        let (taken, rest) =
            self.rest.split_at_checked(n).ok_or_else(|| malformed("a length beyond the end"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'b>)>, Reject> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let little = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| (n << 8) | u64::from(*b));
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(little(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(little(self.take(4)?) as u32),
            _ => return Err(malformed("a field of no known kind")),
        };
        match key >> 3 {
            0 => Err(malformed("a field without number")),
            number => Ok(Some((number, field))),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, Reject> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| malformed("a text isn't UTF-8"))
}

/// Reads a message of at most `values` values.
pub fn read(bytes: &[u8], values: usize) -> Result<Payload, Reject> {
    let (mut payload, mut budget) = (Payload::default(), Budget { values });
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Varint(n)) => payload.timestamp = Some(n),
            (2, Field::Bytes(bytes)) => payload.metrics.push(metric(bytes, 0, &mut budget)?),
            (3, Field::Varint(n)) => payload.seq = Some(n),
            (4, Field::Bytes(bytes)) => payload.uuid = Some(text(bytes)?),
            _ => {}
        }
    }
    Ok(payload)
}

fn metric(bytes: &[u8], depth: usize, budget: &mut Budget) -> Result<Metric, Reject> {
    budget.spend()?;
    let mut metric = Metric::default();
    let mut fields = Fields { rest: bytes };
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => metric.name = Some(text(bytes)?),
            (2, Field::Varint(n)) => metric.alias = Some(n),
            (3, Field::Varint(n)) => metric.timestamp = Some(n),
            (4, Field::Varint(n)) => metric.datatype = Some(n),
            (7, Field::Varint(n)) => metric.is_null = n != 0,
            (9, Field::Bytes(bytes)) => properties(bytes, &mut metric, budget)?,
            (16, Field::Bytes(bytes)) => metric.value = Raw::Bytes(bytes.to_vec()),
            (17, Field::Bytes(bytes)) => metric.value = Raw::Table(table(bytes, budget)?),
            (18, Field::Bytes(bytes)) => metric.value = template(bytes, depth, budget)?,
            (10.., field) => {
                if let Some(value) = simple(number - 10, field)? {
                    metric.value = value;
                }
            }
            _ => {}
        }
    }
    Ok(metric)
}

/// The six simple values, which stand in the same order wherever they do.
fn simple(place: u64, field: Field<'_>) -> Result<Option<Raw>, Reject> {
    Ok(Some(match (place, field) {
        (0, Field::Varint(n)) => Raw::Int(n),
        (1, Field::Varint(n)) => Raw::Long(n),
        (2, Field::Fixed32(bits)) => Raw::Float(f32::from_bits(bits)),
        (3, Field::Fixed64(bits)) => Raw::Double(f64::from_bits(bits)),
        (4, Field::Varint(n)) => Raw::Bool(n != 0),
        (5, Field::Bytes(bytes)) => Raw::Text(text(bytes)?),
        _ => return Ok(None),
    }))
}

fn properties(bytes: &[u8], metric: &mut Metric, budget: &mut Budget) -> Result<(), Reject> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(bytes)) => keys.push(text(bytes)?),
            (2, Field::Bytes(bytes)) => {
                budget.spend()?;
                let mut value = Raw::Nothing;
                let mut inner = Fields { rest: bytes };
                while let Some((number, field)) = inner.next()? {
                    if let (3.., Some(found)) = (number, simple(number.wrapping_sub(3), field)?) {
                        value = found;
                    }
                }
                values.push(value);
            }
            _ => {}
        }
    }
    for (key, value) in keys.iter().zip(values) {
        match (key.to_ascii_lowercase().as_str(), value) {
            ("engunit" | "engunits" | "engineeringunit" | "unit" | "units", Raw::Text(unit)) => {
                metric.unit = Some(unit)
            }
            ("quality", Raw::Int(n) | Raw::Long(n)) => metric.quality = Some(n),
            _ => {}
        }
    }
    Ok(())
}

fn table(bytes: &[u8], budget: &mut Budget) -> Result<Table, Reject> {
    let mut table = Table::default();
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            (2, Field::Bytes(bytes)) => {
                budget.spend()?;
                table.columns.push(text(bytes)?);
            }
            (3, Field::Varint(n)) => {
                budget.spend()?;
                table.types.push(n);
            }
            (3, Field::Bytes(bytes)) => {
                let mut packed = Fields { rest: bytes };
                while !packed.rest.is_empty() {
                    budget.spend()?;
                    table.types.push(packed.varint()?);
                }
            }
            (4, Field::Bytes(bytes)) => {
                budget.spend()?;
                table.rows.push(row(bytes, budget)?);
            }
            _ => {}
        }
    }
    Ok(table)
}

fn row(bytes: &[u8], budget: &mut Budget) -> Result<Vec<Raw>, Reject> {
    let mut row = Vec::new();
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        let (1, Field::Bytes(bytes)) = field else { continue };
        budget.spend()?;
        let mut cell = Raw::Nothing;
        let mut inner = Fields { rest: bytes };
        while let Some((number, field)) = inner.next()? {
            if let Some(found) = simple(number - 1, field)? {
                cell = found;
            }
        }
        row.push(cell);
    }
    Ok(row)
}

fn template(bytes: &[u8], depth: usize, budget: &mut Budget) -> Result<Raw, Reject> {
    if depth >= DEPTH {
        return Err(Reject::new(RejectReason::TooDeep, format!("templates nested deeper than {DEPTH}")));
    }
    let (mut metrics, mut defines) = (Vec::new(), false);
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            (2, Field::Bytes(bytes)) => metrics.push(metric(bytes, depth + 1, budget)?),
            (5, Field::Varint(n)) => defines = n != 0,
            _ => {}
        }
    }
    Ok(Raw::Template(metrics, defines))
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The command that asks a node to be born again, sent at `millis`.
pub fn rebirth(millis: u64) -> Vec<u8> {
    const NAME: &[u8] = b"Node Control/Rebirth";
    const BOOLEAN: u8 = 11;
    let mut metric = vec![0x0a, NAME.len() as u8];
    metric.extend_from_slice(NAME);
    metric.extend_from_slice(&[0x20, BOOLEAN, 0x70, 1]);
    let mut out = vec![0x08];
    put_varint(&mut out, millis);
    out.extend_from_slice(&[0x12, metric.len() as u8]);
    out.extend(metric);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_reads_back() {
        let read = read(&rebirth(1_714_550_400_000), 10).unwrap();
        assert_eq!(read.timestamp, Some(1_714_550_400_000));
        assert_eq!(read.metrics[0].name.as_deref(), Some("Node Control/Rebirth"));
        assert_eq!((read.metrics[0].datatype, &read.metrics[0].value), (Some(11), &Raw::Bool(true)));
    }

    #[test]
    fn cut_and_boasting_messages_are_malformed() {
        let whole = rebirth(1_714_550_400_000);
        for end in [1, 3, 8, 9, 20, whole.len() - 1] {
            assert_eq!(read(&whole[..end], 10).unwrap_err().reason, RejectReason::Malformed, "{end}");
        }
        for bad in [
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2],
            b"{\"timestamp\":1}",
            &[0x03],
            &[0x00, 0x00],
        ] {
            assert_eq!(read(bad, 10).unwrap_err().reason, RejectReason::Malformed, "{bad:02x?}");
        }
        assert_eq!(read(&[0x12, 0].repeat(11), 10).unwrap_err().reason, RejectReason::TooManyReadings);
        let mut nested = vec![0x0a, 1, b'a'];
        for _ in 0..20 {
            let mut template = vec![0x12, nested.len() as u8];
            template.extend(&nested);
            nested = vec![0x92, 1, template.len() as u8];
            nested.extend(template);
        }
        let mut outer = vec![0x12, nested.len() as u8];
        outer.extend(nested);
        assert_eq!(read(&outer, 100).unwrap_err().reason, RejectReason::TooDeep);
    }
}
