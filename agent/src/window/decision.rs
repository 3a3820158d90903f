//! Decisions of the window stage: which windows were emitted, as which revision, and what was known by then.
//!
//! They are the only thing that is stored of windows: the bytes of [`Decided::encode`] in the transaction of the seal,
//! and [`Seen`] once more in the segment's footer, so that a segment that is read back restores them too.
//!
//! Bytes, all integers as LEB128, signed ones zigzag: format (1, 2 where windows were thinned, 3 where some are of texts); seen (at, ordinal, through, settled, 0 or 1 and
//! open_from); texts (count, then length and UTF-8 each); windows (count, then text and size each); decisions (count,
//! then window, namespace's text, device's text, series in 8 bytes big-endian, start less the start before, revision,
//! samples, late each). Formats 2 and 3 have, behind open_from, whether the windows were frozen, and behind each decision 0,
//! or 1 and its mergeable part: which of the optional numbers are there (byte), then the part's numbers in 8 bytes each; in
//! format 3 also 2, for one of texts.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tributary_contract::id::Namespace;
use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use super::merge::Part;

const FORMAT: u64 = 1;
/// With what can be carried on of windows whose readings are gone.
const FORMAT_WITH_PARTS: u64 = 2;
/// With windows of texts.
const FORMAT_WITH_TEXTS: u64 = 3;

/// What the byte behind a decision says.
const KIND: &str = "whether there is a part, or it is of texts";

/// One window of one series, emitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Name of the window's definition.
    pub window: Arc<str>,
    /// Device.
    pub device: Arc<str>,
    /// Series.
    pub series: SeriesId,
    /// First instant of the window.
    pub start: Timestamp,
    /// First instant behind it.
    pub end: Timestamp,
    /// As which revision.
    pub revision: i32,
    /// How many readings it was computed from.
    pub samples: u64,
    /// How many of these had come after the window was first closed.
    pub late: u64,
    /// Whether these are texts: it had no numbers.
    pub of_texts: bool,
    /// What can be carried on without its readings, where these may be gone; of numbers alone. Few have one.
    pub part: Option<Box<Part>>,
}

/// What was known when a set of decisions was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Processing time.
    pub at: Timestamp,
    /// Ordinal of the epoch; seqs of different epochs can't be compared.
    pub ordinal: u32,
    /// Every reading up to this seq was looked at, none above it.
    pub through: u64,
    /// Every reading up to this seq whose window is closed has been decided on.
    pub settled: u64,
    /// Least start of a window that had readings and wasn't closed; none if there was no such window.
    pub open_from: Option<Timestamp>,
    /// The windows weren't closed: they were emitted as far as they were, because their readings had to go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
}

/// A set of decisions that becomes durable at once, with its segment of `aggregates`.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// What was known.
    pub seen: Seen,
    /// The decisions.
    pub decisions: Vec<Decision>,
}

/// Names one window of one series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DecisionKey {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Name of the window's definition.
    pub window: Arc<str>,
    /// Series.
    pub series: SeriesId,
    /// First instant of the window.
    pub start: Timestamp,
}

/// What is asked of an earlier decision on the same window.
#[derive(Debug, Clone, PartialEq)]
pub struct Prior {
    /// Ordinal of the epoch that took it.
    pub ordinal: u32,
    /// Its revision.
    pub revision: i32,
    /// First instant behind the window as it was then.
    pub end: Timestamp,
    /// How many readings it was computed from.
    pub samples: u64,
    /// How many of these were late.
    pub late: u64,
    /// The seq up to which it had looked.
    pub through: u64,
    /// Whether the readings were texts.
    pub of_texts: bool,
    /// What can be carried on without its readings.
    pub part: Option<Box<Part>>,
}

/// Why stored decisions can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// Written by a later version of the agent.
    #[error(
        "decisions have format {0}, this agent knows up to {FORMAT_WITH_TEXTS}: start the newer agent again"
    )]
    Format(u64),
    /// Not what [`Decided::encode`] wrote.
    #[error("decisions aren't readable: {what} at byte {at}")]
    Damaged {
        /// What was expected.
        what: &'static str,
        /// Where.
        at: usize,
    },
}

impl Decision {
    /// Which window of which series.
    pub fn key(&self) -> DecisionKey {
        DecisionKey {
            namespace: self.namespace.clone(),
            window: Arc::clone(&self.window),
            series: self.series,
            start: self.start,
        }
    }
}

impl Decided {
    /// The decisions as [`Prior`]s, each with its key.
    pub fn priors(&self) -> impl Iterator<Item = (DecisionKey, Prior)> + '_ {
        self.decisions.iter().map(|d| {
            let Seen { ordinal, through, .. } = self.seen;
            let (revision, end, samples, late, part) = (d.revision, d.end, d.samples, d.late, d.part.clone());
            (d.key(), Prior { ordinal, revision, end, samples, late, through, of_texts: d.of_texts, part })
        })
    }

    /// The bytes that are stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut texts = Texts::default();
        let mut windows: Vec<(u64, i64)> = Vec::new();
        let mut rows = Vec::new();
        let mut before = 0i64;
        let with_texts = self.decisions.iter().any(|d| d.of_texts);
        let with_parts = with_texts || self.seen.frozen || self.decisions.iter().any(|d| d.part.is_some());
        for d in &self.decisions {
            let window = (texts.index(&d.window), d.end.0.wrapping_sub(d.start.0));
            let at = windows.iter().position(|w| *w == window).unwrap_or_else(|| {
                windows.push(window);
                windows.len() - 1
            });
            unsigned(&mut rows, at as u64);
            unsigned(&mut rows, texts.index(d.namespace.as_str()));
            unsigned(&mut rows, texts.index(&d.device));
            rows.extend_from_slice(&d.series.0.to_be_bytes());
            signed(&mut rows, d.start.0.wrapping_sub(before));
            before = d.start.0;
            signed(&mut rows, i64::from(d.revision));
            unsigned(&mut rows, d.samples);
            unsigned(&mut rows, d.late);
            match &d.part {
                _ if !with_parts => {}
                _ if d.of_texts => rows.push(2),
                None => rows.push(0),
                Some(part) => {
                    rows.push(1);
                    part.put(&mut rows);
                }
            }
        }
        let mut out = Vec::with_capacity(rows.len() + 64);
        let format = if with_texts { FORMAT_WITH_TEXTS } else { FORMAT_WITH_PARTS };
        unsigned(&mut out, if with_parts { format } else { FORMAT });
        signed(&mut out, self.seen.at.0);
        unsigned(&mut out, u64::from(self.seen.ordinal));
        unsigned(&mut out, self.seen.through);
        unsigned(&mut out, self.seen.settled);
        unsigned(&mut out, u64::from(self.seen.open_from.is_some()));
        if let Some(from) = self.seen.open_from {
            signed(&mut out, from.0);
        }
        if with_parts {
            out.push(u8::from(self.seen.frozen));
        }
        unsigned(&mut out, texts.list.len() as u64);
        for text in &texts.list {
            unsigned(&mut out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
        unsigned(&mut out, windows.len() as u64);
        for (text, size) in windows {
            unsigned(&mut out, text);
            signed(&mut out, size);
        }
        unsigned(&mut out, self.decisions.len() as u64);
        out.extend_from_slice(&rows);
        out
    }

    /// Reads what [`Decided::encode`] wrote; anything else is refused, and costs no more memory than its own length
    /// warrants.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecisionError> {
        let mut r = Reader { bytes, at: 0 };
        let format = r.unsigned()?;
        if !(FORMAT..=FORMAT_WITH_TEXTS).contains(&format) {
            return Err(DecisionError::Format(format));
        }
        let with_parts = format >= FORMAT_WITH_PARTS;
        let at = Timestamp(r.signed()?);
        let ordinal = u32::try_from(r.unsigned()?).map_err(|_| r.damaged("an ordinal"))?;
        let (through, settled) = (r.unsigned()?, r.unsigned()?);
        let open_from = match r.unsigned()? {
            0 => None,
            1 => Some(Timestamp(r.signed()?)),
            _ => return Err(r.damaged("a flag")),
        };
        let frozen = with_parts && r.flag()?;
        let texts: Vec<Arc<str>> = r.list(1, Reader::text)?;
        let text = |r: &mut Reader<'_>| {
            r.unsigned().and_then(|i| r.pick(&texts, i, "the number of a text").cloned())
        };
        let windows = r.list(2, |r| Ok((text(r)?, r.signed()?)))?;
        let mut before = 0i64;
        let decisions = r.list(15, |r| {
            let window = r.unsigned()?;
            let (window, size) = r.pick(&windows, window, "the number of a window")?.clone();
            let namespace =
                Namespace::new(text(r)?.to_string()).map_err(|_| r.damaged("the name of a namespace"))?;
            let device = text(r)?;
            let series = SeriesId(u64::from_be_bytes(r.eight()?));
            let start = before.wrapping_add(r.signed()?);
            before = start;
            let end = start.checked_add(size).filter(|end| *end > start).map(Timestamp);
            let end = end.ok_or_else(|| r.damaged("the end of a window behind its start"))?;
            let revision = i32::try_from(r.signed()?).map_err(|_| r.damaged("a revision"))?;
            let (samples, late, start) = (r.unsigned()?, r.unsigned()?, Timestamp(start));
            let (of_texts, part) = match if with_parts { r.byte(KIND)? } else { 0 } {
                0 => (false, None),
                1 => (false, Some(Box::new(r.part(samples)?))),
                2 if format == FORMAT_WITH_TEXTS => (true, None),
                _ => return Err(r.damaged(KIND)),
            };
            Ok(Decision {
                namespace,
                window,
                device,
                series,
                start,
                end,
                revision,
                samples,
                late,
                of_texts,
                part,
            })
        })?;
        if r.at != bytes.len() {
            return Err(r.damaged("the end"));
        }
        Ok(Self { seen: Seen { at, ordinal, through, settled, open_from, frozen }, decisions })
    }
}

#[derive(Default)]
struct Texts {
    list: Vec<String>,
    numbers: HashMap<String, u64>,
}

impl Texts {
    fn index(&mut self, text: &str) -> u64 {
        if let Some(&n) = self.numbers.get(text) {
            return n;
        }
        let n = self.list.len() as u64;
        self.list.push(text.to_owned());
        self.numbers.insert(text.to_owned(), n);
        n
    }
}

fn unsigned(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn signed(out: &mut Vec<u8>, n: i64) {
    unsigned(out, ((n << 1) ^ (n >> 63)) as u64);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn damaged(&self, what: &'static str) -> DecisionError {
        DecisionError::Damaged { what, at: self.at }
    }

    fn unsigned(&mut self) -> Result<u64, DecisionError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let &byte = self.bytes.get(self.at).ok_or_else(|| self.damaged("a number"))?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return Err(self.damaged("a number of 64 bits"));
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(self.damaged("a number of 64 bits"))
    }

    fn signed(&mut self) -> Result<i64, DecisionError> {
        let n = self.unsigned()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&[u8], DecisionError> {
        let end = self.at.checked_add(len).ok_or_else(|| self.damaged(what))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| self.damaged(what))?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, DecisionError> {
        self.take(1, what).map(|bytes| bytes.iter().sum())
    }

    fn flag(&mut self) -> Result<bool, DecisionError> {
        match self.byte("a flag")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.damaged("a flag")),
        }
    }

    fn part(&mut self, samples: u64) -> Result<Part, DecisionError> {
        let at = self.at;
        let bytes = self.take(Part::BYTES, "a mergeable part")?;
        Part::read(bytes, samples)
            .ok_or(DecisionError::Damaged { what: "a mergeable part of finite numbers", at })
    }

    fn eight(&mut self) -> Result<[u8; 8], DecisionError> {
        let mut out = [0; 8];
        out.copy_from_slice(self.take(8, "eight bytes")?);
        Ok(out)
    }

    fn text(&mut self) -> Result<Arc<str>, DecisionError> {
        let len = usize::try_from(self.unsigned()?).map_err(|_| self.damaged("the length of a text"))?;
        let at = self.at;
        let bytes = self.take(len, "a text")?;
        std::str::from_utf8(bytes).map(Arc::from).map_err(|_| DecisionError::Damaged { what: "UTF-8", at })
    }

    fn pick<'t, T>(&self, list: &'t [T], n: u64, what: &'static str) -> Result<&'t T, DecisionError> {
        usize::try_from(n).ok().and_then(|n| list.get(n)).ok_or_else(|| self.damaged(what))
    }

    /// A counted list whose items take at least `least` bytes each.
    fn list<T>(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecisionError>,
    ) -> Result<Vec<T>, DecisionError> {
        let count = self.unsigned()?;
        let room = self.bytes.len().saturating_sub(self.at) / least;
        let count = usize::try_from(count).ok().filter(|c| *c <= room);
        let count = count.ok_or_else(|| self.damaged("a count that the bytes have room for"))?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(item(self)?);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::MINUTE;

    fn example() -> Decided {
        let decision = |device: &str, minute: i64, revision| Decision {
            namespace: Namespace::default(),
            window: Arc::from("1m"),
            device: Arc::from(device),
            series: SeriesId(0xfeed_0000_0000_0001),
            start: Timestamp(minute * MINUTE),
            end: Timestamp((minute + 1) * MINUTE),
            revision,
            samples: 60,
            late: 0,
            of_texts: false,
            part: None,
        };
        Decided {
            seen: Seen {
                at: Timestamp(77),
                ordinal: 3,
                through: 1_000,
                settled: 990,
                open_from: Some(Timestamp(-5)),
                frozen: false,
            },
            decisions: vec![
                decision("a", -3, 1),
                decision("ä", -2, 3_000_001),
                decision("a", 1_000_000, i32::MAX),
            ],
        }
    }

    #[test]
    fn decisions_of_one_seal_take_few_bytes_each() {
        let mut many = example();
        many.decisions = (0..1000).map(|_| many.decisions[0].clone()).collect();
        let bytes = many.encode().len();
        assert!(bytes < 17 * 1000, "{bytes} bytes for 1,000 decisions");
    }

    #[test]
    fn damaged_decisions_are_refused() {
        let good = example().encode();
        assert_eq!(Decided::decode(&good).unwrap(), example());
        for len in 0..good.len() {
            assert!(Decided::decode(&good[..len]).is_err(), "cut to {len}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(Decided::decode(&longer).is_err());
        assert!(matches!(Decided::decode(&[9]), Err(DecisionError::Format(9))));
        // A count of 2^63 with nothing behind it.
        let huge = [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(Decided::decode(&huge), Err(DecisionError::Damaged { .. })));
    }

    prop_compose! {
        fn any_decision()(ns in "[a-z0-9_]{1,5}", window in ".{0,5}", device in ".{0,5}", series in any::<u64>(),
                          start in i64::MIN..i64::MAX / 2, size in 1..i64::MAX / 2, revision in any::<i32>(),
                          samples in any::<u64>(), late in any::<u64>(),
                          part in prop::option::of(crate::window::merge::tests::any_part()),
                          texts in prop::bool::weighted(0.2)) -> Decision {
            // A part's own number of readings is the decision's.
            let samples = part.as_ref().map_or(samples, |p: &Part| p.samples());
            Decision { namespace: Namespace::new(ns).unwrap(), window: window.into(), device: device.into(),
                       series: SeriesId(series), start: Timestamp(start), end: Timestamp(start + size),
                       revision, samples, late, of_texts: texts && part.is_none(), part: part.map(Box::new) }
        }
    }

    proptest! {
        #[test]
        fn decisions_come_back(decisions in prop::collection::vec(any_decision(), 0..20), at in any::<i64>(),
                               ordinal in any::<u32>(), seqs in any::<(u64, u64)>(), open in any::<Option<i64>>(),
                               frozen in any::<bool>()) {
            let seen = Seen { at: Timestamp(at), ordinal, through: seqs.0, settled: seqs.1,
                              open_from: open.map(Timestamp), frozen };
            let set = Decided { seen, decisions };
            prop_assert_eq!(Decided::decode(&set.encode()).unwrap(), set);
        }

        #[test]
        fn hostile_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
                                     noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut bytes = example().encode();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = Decided::decode(&bytes);
            let _ = Decided::decode(&noise);
        }
    }
}
