//! Every image of every page that a damaged database and its log still hold, and rows put together from them. Edge: files.
//!
//! A page may lie in the database, in a frame of the log that SQLite would play, in one behind damage, and in one left
//! over from an earlier round of the log. Which of them belongs to a row is for the row's own checksum to say.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::error::{BufferError, io};
use super::leaf::{self, Cell};
use super::sqlite::PAGE;
use super::wal::{self, Frame};

/// Pages read at once while all are looked at.
const STRETCH: usize = 1024;
/// So many ways of putting one row together are tried.
const TRIES: usize = 256;

/// Where an image of a page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the database.
    Database,
    /// In a frame of the log, counted from 0.
    Frame(usize),
}

/// Which frames of a log are taken for what they say they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Those whose checksum is right.
    Right,
    /// Every one.
    All,
}

/// A database and its log, page by page.
pub struct Pages {
    database: Option<File>,
    log: Vec<u8>,
    frames: Vec<Frame>,
    by_page: HashMap<u32, Vec<usize>>,
}

impl Pages {
    /// Looks at the two files; either may be missing.
    ///
    /// # Errors
    /// When one is there and can't be read.
    pub fn open(database: &Path, log: &Path) -> Result<Self, BufferError> {
        let absent = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
        let database = match File::open(database) {
            Ok(file) => Some(file),
            Err(e) if absent(&e) => None,
            Err(e) => return Err(io(format!("can't read {}", database.display()))(e)),
        };
        let log = match std::fs::read(log) {
            Ok(bytes) => bytes,
            Err(e) if absent(&e) => Vec::new(),
            Err(e) => return Err(io(format!("can't read {}", log.display()))(e)),
        };
        let frames = wal::frames(&log, PAGE);
        let mut by_page: HashMap<u32, Vec<usize>> = HashMap::new();
        for (i, frame) in frames.iter().enumerate() {
            by_page.entry(frame.page).or_default().push(i);
        }
        Ok(Self { database, log, frames, by_page })
    }

    /// Calls `f` for each row in each leaf of a table, those of the database first, then frame by frame.
    ///
    /// # Errors
    /// What `f` returns. A stretch of the database that the disk doesn't give is passed over.
    pub fn each_cell(
        &self,
        mut f: impl FnMut(Place, &Cell<'_>) -> Result<(), BufferError>,
    ) -> Result<(), BufferError> {
        if let Some(file) = &self.database {
            let pages = file.metadata().map_or(0, |m| m.len()) / PAGE as u64;
            let mut stretch = vec![0; STRETCH * PAGE];
            for first in (0..pages).step_by(STRETCH) {
                let count = usize::try_from(pages - first).unwrap_or(STRETCH).min(STRETCH);
                let Some(part) = stretch.get_mut(..count * PAGE) else { continue };
                if file.read_exact_at(part, first * PAGE as u64).is_err() {
                    // Somewhere in it the medium is unreadable: page by page the rest still comes.
                    for (i, page) in part.chunks_exact_mut(PAGE).enumerate() {
                        if file.read_exact_at(page, (first + i as u64) * PAGE as u64).is_err() {
                            page.fill(0);
                        }
                    }
                }
                for page in part.chunks_exact(PAGE) {
                    leaf::cells(page).iter().try_for_each(|cell| f(Place::Database, cell))?;
                }
            }
        }
        for (i, frame) in self.frames.iter().enumerate() {
            leaf::cells(self.of_frame(frame)).iter().try_for_each(|cell| f(Place::Frame(i), cell))?;
        }
        Ok(())
    }

    /// The record of a row found at `place`: the first that `right` agrees to, of the ways in which images of its
    /// overflow pages can follow each other with at most one of them not the likeliest; once with frames whose checksum
    /// is wrong last, and once with them in their turn, for it may be only the checksum that is damaged.
    pub fn whole(&self, place: Place, cell: &Cell<'_>, right: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let found = |trust| {
            let (first, ways) = self.follow(place, cell, trust, None);
            if let Some(record) = first.filter(|r| right(r)) {
                return Some(record);
            }
            let others =
                ways.iter().enumerate().flat_map(|(step, n)| (1..*n).map(move |other| (step, other)));
            others
                .take(TRIES)
                .find_map(|other| self.follow(place, cell, trust, Some(other)).0.filter(|r| right(r)))
        };
        let spills = cell.local.len() < cell.size;
        found(Trust::Right).or_else(|| spills.then(|| found(Trust::All)).flatten())
    }

    /// Follows a chain, at one step by another image than the likeliest; tells how many images each step had.
    fn follow(
        &self,
        place: Place,
        cell: &Cell<'_>,
        trust: Trust,
        other: Option<(usize, usize)>,
    ) -> (Option<Vec<u8>>, Vec<usize>) {
        let (mut record, mut ways) = (cell.local.to_vec(), Vec::new());
        let mut next = cell.overflow;
        while record.len() < cell.size {
            let images = self.images(next, place, trust);
            let choice = other.filter(|(step, _)| *step == ways.len()).map_or(0, |(_, image)| image);
            ways.push(images.len());
            let Some(page) = images.get(choice).and_then(|image| self.page(next, *image)) else {
                return (None, ways);
            };
            let Some((after, bytes)) = leaf::overflow(&page) else { return (None, ways) };
            let wanted = bytes.len().min(cell.size - record.len());
            record.extend(bytes.iter().take(wanted));
            next = after;
        }
        (Some(record), ways)
    }

    /// Where images of a page lie, the likeliest first for a row found at `place`: as of the transaction that wrote the
    /// leaf, then of later ones, then left over from earlier rounds, then in frames whose checksum is wrong, unless these
    /// are trusted like the others.
    fn images(&self, page: u32, place: Place, trust: Trust) -> Vec<Place> {
        let all = self.by_page.get(&page).map_or(&[][..], Vec::as_slice);
        let of = |keep: &dyn Fn(&Frame, usize) -> bool| -> Vec<Place> {
            let kept = all.iter().filter(|i| self.frames.get(**i).is_some_and(|f| keep(f, **i)));
            kept.map(|i| Place::Frame(*i)).collect()
        };
        let trusted = |f: &Frame| f.right || trust == Trust::All;
        let end = match place {
            Place::Database => None,
            Place::Frame(i) => Some((i..self.frames.len()).find(|n| self.frames[*n].commits).unwrap_or(i)),
        };
        let mut out = of(&|f, i| trusted(f) && f.present && end.is_some_and(|end| i <= end));
        out.reverse();
        if self.database.is_some() {
            out.push(Place::Database);
        }
        out.extend(of(&|f, i| trusted(f) && f.present && end.is_none_or(|end| i > end)));
        out.extend(of(&|f, _| trusted(f) && !f.present).into_iter().rev());
        out.extend(of(&|f, _| !trusted(f)).into_iter().rev());
        out
    }

    fn page(&self, number: u32, place: Place) -> Option<Vec<u8>> {
        match place {
            Place::Frame(i) => Some(self.of_frame(self.frames.get(i)?).to_vec()),
            Place::Database => {
                let mut page = vec![0; PAGE];
                let at = u64::from(number.checked_sub(1)?) * PAGE as u64;
                self.database.as_ref()?.read_exact_at(&mut page, at).ok()?;
                Some(page)
            }
        }
    }

    fn of_frame(&self, frame: &Frame) -> &[u8] {
        self.log.get(frame.at..frame.at + PAGE).unwrap_or_default()
    }

    /// How new an image is against others of the same page: the greater, the newer.
    pub fn rank(&self, place: Place) -> i64 {
        match place {
            Place::Database => 0,
            Place::Frame(i) => {
                let present = self.frames.get(i).is_some_and(|f| f.present);
                let i = i64::try_from(i).unwrap_or(i64::MAX);
                if present { i.saturating_add(1) } else { i - i64::from(u32::MAX) }
            }
        }
    }
}
