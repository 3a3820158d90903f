//! The tail: the newest batch that was durable, noted beside the database after each commit. Edge: files.
//!
//! A log that lost its end looks like one whose last transactions never were, to SQLite and to our own scan of it. The
//! note tells the two apart: it is written *after* the commit and never synced, so that it costs no flush and is at most
//! older than the truth, never newer. A database whose newest batch is below it has lost commits, or is an older copy.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The note on disk, and what was last written to it.
#[derive(Debug, Default)]
pub struct Tail {
    file: Option<File>,
    noted: i64,
}

impl Tail {
    /// What the note at `path` says; none if there is none that can be believed.
    pub fn read(path: &Path) -> Option<i64> {
        parse(&std::fs::read(path).ok()?)
    }

    /// The note at `path`, saying `newest` from now on, whatever it said before. Where it can't be written, a lost end of
    /// the log will not be told from a power cut; nothing else hangs on it.
    pub fn begin(path: &Path, newest: i64) -> Self {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).ok();
        let tail = Self { file, noted: newest };
        tail.write();
        tail
    }

    /// Notes that a batch is durable.
    pub fn note(&mut self, batch: i64) {
        if batch > self.noted {
            self.noted = batch;
            self.write();
        }
    }

    fn write(&self) {
        if let Some(file) = &self.file {
            // In place and of one length; a note that is torn all the same isn't believed.
            let _ = file.write_all_at(text(self.noted).as_bytes(), 0);
        }
    }
}

fn text(batch: i64) -> String {
    let number = format!("{batch:019}");
    format!("{:08x} {number}\n", crc32fast::hash(number.as_bytes()))
}

pub(super) fn parse(bytes: &[u8]) -> Option<i64> {
    let batch = str::from_utf8(bytes).ok()?.split([' ', '\n']).nth(1)?.parse().ok()?;
    (text(batch).as_bytes() == bytes).then_some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_says_the_newest_batch_and_no_other_bytes_are_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail");
        assert_eq!(Tail::read(&path), None);
        let mut tail = Tail::begin(&path, 41);
        assert_eq!(Tail::read(&path), Some(41));
        [43, 42].into_iter().for_each(|batch| tail.note(batch));
        assert_eq!(Tail::read(&path), Some(43));
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(parse(&damaged), None, "{at}");
            assert_eq!(parse(&whole[..at]), None, "{at}");
        }
        Tail::begin(&path, 7);
        assert_eq!(Tail::read(&path), Some(7), "what was lost is not waited for");
    }
}
