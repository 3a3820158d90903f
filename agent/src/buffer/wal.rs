//! Whether a SQLite write-ahead log has lost commits: a scan of its bytes before SQLite opens it.
//!
//! SQLite stops at the first frame whose checksum is wrong and silently drops every commit behind it. After a power cut
//! that is right: the last transaction was never synced. It is damage when a *later* transaction of the same log is
//! there, because each transaction is synced before the next begins. Format: <https://sqlite.org/fileformat2.html>,
//! "The Write-Ahead Log". Damage inside the last transaction can't be told from a torn write and counts as one.

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Every frame of the log is right, or it has none.
    Whole {
        /// Frames up to the last commit.
        frames: usize,
    },
    /// It ends in a transaction that was never synced.
    Torn {
        /// Frames that are right before it.
        frames: usize,
    },
    /// Commits lie behind a wrong frame.
    Damaged {
        /// The wrong frame, counted from 0; none if the log's own header is wrong.
        frame: Option<usize>,
    },
}

/// Bytes before the first frame.
pub const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Sums(u32, u32);

fn word(bytes: &[u8], at: usize, big: bool) -> u32 {
    let mut w = [0; 4];
    if let Some(found) = bytes.get(at..at + 4) {
        w.copy_from_slice(found);
    }
    if big { u32::from_be_bytes(w) } else { u32::from_le_bytes(w) }
}

fn add(mut sums: Sums, bytes: &[u8], big: bool) -> Sums {
    for pair in bytes.chunks_exact(8) {
        sums.0 = sums.0.wrapping_add(word(pair, 0, big)).wrapping_add(sums.1);
        sums.1 = sums.1.wrapping_add(word(pair, 4, big)).wrapping_add(sums.0);
    }
    sums
}

/// A frame as it lies in the log, whether or not SQLite would come that far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The page that it says it is.
    pub page: u32,
    /// Where its bytes of the page begin.
    pub at: usize,
    /// Whether its checksum agrees with the frame before it.
    pub right: bool,
    /// Whether it is of the log's present round, and not left over from the one before.
    pub present: bool,
    /// Whether it ends a transaction.
    pub commits: bool,
}

/// All frames of a log of pages of `page` bytes, in order, whatever its header says.
pub fn frames(log: &[u8], page: usize) -> Vec<Frame> {
    let Some((header, rest)) = log.split_at_checked(HEADER) else { return Vec::new() };
    let big = word(header, 0, true) == MAGIC | 1;
    let mut before = (Sums(word(header, 24, true), word(header, 28, true)), &header[16..24]);
    let each = rest.chunks_exact(FRAME_HEADER + page).enumerate();
    each.map(|(i, frame)| {
        let salt = &frame[8..16];
        let sums = add(add(before.0, &frame[..8], big), &frame[FRAME_HEADER..], big);
        let said = Sums(word(frame, 16, true), word(frame, 20, true));
        let right = sums == said && salt == before.1;
        before = (said, salt);
        let at = HEADER + i * (FRAME_HEADER + page) + FRAME_HEADER;
        let present = *salt == header[16..24];
        Frame { page: word(frame, 0, true), at, right, present, commits: word(frame, 4, true) != 0 }
    })
    .collect()
}

/// Scans the bytes of a whole log.
pub fn scan(log: &[u8]) -> Scan {
    let Some((header, frames)) = log.split_at_checked(HEADER) else { return Scan::Whole { frames: 0 } };
    if header.iter().all(|b| *b == 0) && frames.iter().all(|b| *b == 0) {
        return Scan::Whole { frames: 0 };
    }
    let magic = word(header, 0, true);
    let big = magic & 1 == 1;
    let page = word(header, 8, true) as usize;
    let stored = Sums(word(header, 24, true), word(header, 28, true));
    let sane = magic & !1 == MAGIC && page.is_power_of_two() && (512..=65_536).contains(&page);
    if !sane || add(Sums(0, 0), &header[..24], big) != stored {
        // The header is synced before the first frame is written: a wrong one with frames behind it was right once.
        return if frames.is_empty() { Scan::Whole { frames: 0 } } else { Scan::Damaged { frame: None } };
    }
    let salt = &header[16..24];
    let frames: Vec<&[u8]> = frames.chunks_exact(FRAME_HEADER + page).collect();
    let sums_of = |frame: &[u8]| Sums(word(frame, 16, true), word(frame, 20, true));
    let agrees = |before: Sums, frame: &[u8]| {
        let sums = add(add(before, &frame[..8], big), &frame[FRAME_HEADER..], big);
        frame[8..16] == *salt && sums == sums_of(frame)
    };
    let commits = |frame: &[u8]| word(frame, 4, true) != 0;
    let (mut sums, mut good, mut committed) = (stored, 0, 0);
    for frame in &frames {
        if !agrees(sums, frame) {
            break;
        }
        sums = sums_of(frame);
        good += 1;
        if commits(frame) {
            committed = good;
        }
    }
    // Behind the wrong frame each frame is judged by the sums that the frame before it carries.
    let rest = frames.get(good..).unwrap_or_default();
    let mut ends = rest.first().is_some_and(|wrong| wrong[8..16] == *salt && commits(wrong));
    for pair in rest.windows(2) {
        if let [before, frame] = pair
            && agrees(sums_of(before), frame)
        {
            if ends && commits(frame) {
                return Scan::Damaged { frame: Some(good) };
            }
            ends = ends || commits(frame);
        }
    }
    if good == frames.len() && committed == good {
        Scan::Whole { frames: good }
    } else {
        Scan::Torn { frames: committed }
    }
}
