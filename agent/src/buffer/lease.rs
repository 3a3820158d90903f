//! The lease: what a second small file remembers, so that no seq and no number is used twice whatever the database lost.
//!
//! Lines of text, each behind the CRC-32 of the rest of it. The first names gateway, epoch and ordinal; `lease` says
//! below which seq and number everything may be in use, `segment` a segment about to appear, `opened` how often the
//! database was opened, `clean` where to go on after a clean stop. A last line without its end was being written when power went and is ignored; anything else
//! that is wrong makes the whole file unbelievable.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId, Namespace};
use tributary_contract::manifest::Manifest;
use tributary_contract::table::Table;
use tributary_contract::time::Day;

/// A segment that was about to appear: enough to recognise its bytes and to find its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Owner of its rows.
    pub namespace: Namespace,
    /// Table of its rows.
    pub table: Table,
    /// Day of its rows.
    pub day: Day,
}

impl Named {
    /// What the lease keeps of a segment.
    pub fn of(manifest: &Manifest, digest: Digest) -> Self {
        Self { digest, namespace: manifest.namespace.clone(), table: manifest.table, day: manifest.day }
    }
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Whose buffer.
    pub gateway: GatewayId,
    /// Current epoch.
    pub epoch: Epoch,
    /// How many epochs were before it.
    pub ordinal: u32,
    /// Every seq in use is below.
    pub seq_end: u64,
    /// Every number in use is below.
    pub number_end: u64,
    /// Segments that were about to appear, by epoch and number.
    pub segments: BTreeMap<(Epoch, u64), Named>,
    /// How often the database had been opened when it was last known to be ours; 0 if that isn't known.
    pub opened: u64,
    /// After a clean stop: where to go on.
    pub clean: Option<Clean>,
}

/// Where to go on after a clean stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clean {
    /// The next seq.
    pub seq: u64,
    /// The next number.
    pub number: u64,
    /// The next batch: tells an older copy of the database. None in a lease of an older version.
    pub batch: Option<u64>,
}

/// Why a lease can't be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lease can't be read: line {line}: {why}")]
pub struct LeaseError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: &'static str,
}

impl Lease {
    /// A lease of a new epoch in which nothing is in use.
    pub const fn new(gateway: GatewayId, epoch: Epoch, ordinal: u32) -> Self {
        let segments = BTreeMap::new();
        Self { gateway, epoch, ordinal, seq_end: 1, number_end: 1, segments, opened: 0, clean: None }
    }

    /// The whole file.
    pub fn to_text(&self) -> String {
        let mut out =
            line(format_args!("tributary-lease 1 {} {} {}", self.gateway, self.epoch, self.ordinal));
        out += &lease_line(self.seq_end, self.number_end);
        for ((epoch, number), named) in &self.segments {
            out += &segment_line(*epoch, *number, named);
        }
        if self.opened > 0 {
            out += &opened_line(self.opened);
        }
        if let Some(clean) = self.clean {
            out += &clean_line(clean);
        }
        out
    }

    /// Reads the file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeaseError> {
        let mut lease: Option<Lease> = None;
        for (i, raw) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            let wrong = |why| LeaseError { line: i + 1, why };
            let Some(raw) = raw.strip_suffix(b"\n") else { break };
            let text = str::from_utf8(raw).map_err(|_| wrong("it isn't text"))?;
            let (sum, content) = text.split_once(' ').ok_or(wrong("it has no checksum"))?;
            if sum != format!("{:08x}", crc32fast::hash(content.as_bytes())) {
                return Err(wrong("its checksum is wrong"));
            }
            let words: Vec<&str> = content.split(' ').collect();
            match (&mut lease, words.as_slice()) {
                (None, ["tributary-lease", "1", gateway, epoch, ordinal]) => {
                    let gateway = gateway.parse().map_err(|_| wrong("its gateway is none"))?;
                    let epoch = epoch.parse().map_err(|_| wrong("its epoch is none"))?;
                    let ordinal = ordinal.parse().map_err(|_| wrong("its ordinal is no number"))?;
                    lease = Some(Self::new(gateway, epoch, ordinal));
                }
                (Some(lease), ["lease", seq, number]) => {
                    let (seq, number) = pair(seq, number).ok_or(wrong("its ends are no numbers"))?;
                    lease.seq_end = lease.seq_end.max(seq);
                    lease.number_end = lease.number_end.max(number);
                    lease.clean = None;
                }
                (Some(lease), ["segment", epoch, number, digest, namespace, table, day]) => {
                    let epoch = epoch.parse().map_err(|_| wrong("its epoch is none"))?;
                    let number = number.parse().map_err(|_| wrong("its number is none"))?;
                    let digest = digest.parse().map_err(|_| wrong("its digest is none"))?;
                    let namespace = namespace.parse().map_err(|_| wrong("its namespace is none"))?;
                    let table = table.parse().map_err(|_| wrong("its table is none"))?;
                    let day = day.parse().map_err(|_| wrong("its day is none"))?;
                    lease.segments.insert((epoch, number), Named { digest, namespace, table, day });
                    lease.clean = None;
                }
                (Some(lease), ["opened", times]) => {
                    lease.opened = times.parse().map_err(|_| wrong("its count is no number"))?;
                }
                (Some(lease), ["clean", seq, number, rest @ ..]) if rest.len() < 2 => {
                    let (seq, number) = pair(seq, number).ok_or(wrong("its ends are no numbers"))?;
                    let batch = rest.first().map(|batch| batch.parse()).transpose();
                    let batch = batch.map_err(|_| wrong("its batch is no number"))?;
                    lease.clean = Some(Clean { seq, number, batch });
                }
                _ => return Err(wrong("it is of no known kind")),
            }
        }
        lease.ok_or(LeaseError { line: 1, why: "there is none" })
    }
}

fn pair(a: &str, b: &str) -> Option<(u64, u64)> {
    Some((a.parse().ok()?, b.parse().ok()?))
}

fn line(content: std::fmt::Arguments<'_>) -> String {
    let content = content.to_string();
    let mut out = String::with_capacity(content.len() + 10);
    // Writing to a String can't fail.
    let _ = writeln!(out, "{:08x} {content}", crc32fast::hash(content.as_bytes()));
    out
}

/// The line that leases everything below `seq_end` and `number_end`.
pub fn lease_line(seq_end: u64, number_end: u64) -> String {
    line(format_args!("lease {seq_end} {number_end}"))
}

/// The line that names a segment before it appears.
pub fn segment_line(epoch: Epoch, number: u64, named: &Named) -> String {
    let Named { digest, namespace, table, day } = named;
    line(format_args!("segment {epoch} {number} {digest} {namespace} {table} {day}"))
}

/// The line of a clean stop.
pub fn clean_line(Clean { seq, number, batch }: Clean) -> String {
    match batch {
        Some(batch) => line(format_args!("clean {seq} {number} {batch}")),
        None => line(format_args!("clean {seq} {number}")),
    }
}

/// The line that tells how often the database was opened.
pub fn opened_line(times: u64) -> String {
    line(format_args!("opened {times}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(bytes: &[u8]) -> Named {
        let (namespace, day) = (Namespace::default(), Day(16_801));
        Named { digest: Digest::of(bytes), namespace, table: Table::Readings, day }
    }

    fn sample() -> Lease {
        let mut lease = Lease::new(GatewayId::new("gw-1").unwrap(), Epoch(7), 2);
        (lease.seq_end, lease.number_end) = (2000, 17);
        lease.segments.insert((Epoch(3), 4), named(b"a"));
        lease.segments.insert((Epoch(7), 5), named(b"b"));
        lease
    }

    #[test]
    fn a_lease_reads_back_and_a_clean_stop_counts_only_as_its_last_line() {
        let mut lease = sample();
        lease.opened = 7;
        for batch in [None, Some(90)] {
            lease.clean = Some(Clean { seq: 1500, number: 6, batch });
            assert_eq!(Lease::parse(lease.to_text().as_bytes()), Ok(lease.clone()));
        }
        let text = lease.to_text();
        let more = text + &segment_line(Epoch(7), 6, &named(b"c"));
        assert_eq!(Lease::parse(more.as_bytes()).unwrap().clean, None);
    }

    #[test]
    fn a_last_line_cut_anywhere_is_as_if_it_was_never_written() {
        let text = sample().to_text();
        let added = segment_line(Epoch(7), 6, &named(b"c"));
        for cut in 0..added.len() {
            let torn = text.clone() + &added[..cut];
            assert_eq!(Lease::parse(torn.as_bytes()), Ok(sample()), "{cut}");
        }
    }

    #[test]
    fn any_flipped_bit_but_in_the_last_line_end_is_noticed() {
        let text = sample().to_text().into_bytes();
        for at in 0..text.len() - 1 {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[at] ^= 1 << bit;
                assert_ne!(Lease::parse(&damaged), Ok(sample()), "{at} {bit}");
                // A flip may tear a line in two or join two, but never yields a lower end that is believed.
                if let Ok(read) = Lease::parse(&damaged) {
                    panic!("byte {at} bit {bit} went unnoticed: {read:?}");
                }
            }
        }
        assert!(Lease::parse(b"").is_err());
    }
}
