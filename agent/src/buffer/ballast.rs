//! The ballast: a file that only takes up room, so that a full disk still has some for what makes room. Edge: files.
//!
//! It is given up, and never written for anything else, when a transaction that sheds can't be written, and taken back
//! once the disk has room for it. Reserving it costs no flash where the file system can promise blocks without writing.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::error::{BufferError, io};
use super::files::sync_parent;

/// Bytes written at once where blocks can't be promised.
const PIECE: usize = 64 << 10;

/// The ballast of a buffer's folder.
#[derive(Debug, Clone)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// The ballast of the buffer in `dir`, there or not.
    pub fn of(dir: &Path) -> Self {
        Self { path: dir.join("ballast") }
    }

    /// Bytes that it holds now; 0 while it is given up.
    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    /// Frees what it holds, and tells how many bytes that was. The room is there when this returns.
    ///
    /// # Errors
    /// When the file can't be cut or removed.
    pub fn give_up(&self) -> Result<u64, BufferError> {
        let held = self.bytes();
        if held == 0 {
            return Ok(0);
        }
        // Cut before it is removed: a removal alone may itself need room, and frees nothing before it is durable.
        let cut = || {
            let file = OpenOptions::new().write(true).open(&self.path)?;
            file.set_len(0)?;
            file.sync_all()?;
            std::fs::remove_file(&self.path)
        };
        cut().map_err(io(format!("can't give up {}", self.path.display())))?;
        Ok(held)
    }

    /// Takes `bytes` back, if the disk has them; false if it hasn't, and then nothing is kept of the try. Whoever calls
    /// this has looked whether more than that is free.
    ///
    /// # Errors
    /// When the disk refuses for another reason than room.
    pub fn take_back(&self, bytes: u64) -> Result<bool, BufferError> {
        if self.bytes() >= bytes {
            return Ok(true);
        }
        let what = || io(format!("can't take back {}", self.path.display()));
        match fill(&self.path, bytes) {
            Ok(()) => {
                sync_parent(&self.path)?;
                Ok(true)
            }
            Err(e) => {
                let full = is_full(&e);
                match std::fs::remove_file(&self.path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(what()(e)),
                    _ => {}
                }
                if full { Ok(false) } else { Err(what()(e)) }
            }
        }
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn fill(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => write(&mut file, bytes)?,
        Err(e) => return Err(e.into()),
    }
    file.sync_all()
}

/// Writes bytes that no file system makes smaller.
fn write(file: &mut File, bytes: u64) -> std::io::Result<()> {
    let mut noise = fastrand::Rng::with_seed(bytes);
    let mut piece = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        noise.fill(&mut piece);
        let now = piece.get(..usize::try_from(left).unwrap_or(PIECE).min(PIECE)).unwrap_or(&piece);
        file.write_all(now)?;
        left -= now.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_is_taken_given_up_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::of(dir.path());
        assert_eq!((ballast.bytes(), ballast.give_up().unwrap()), (0, 0), "nothing to give up");
        for _ in 0..2 {
            assert!(ballast.take_back(300_000).unwrap());
            assert!(ballast.take_back(300_000).unwrap(), "it is there already");
            assert_eq!(ballast.bytes(), 300_000);
            assert_eq!(ballast.give_up().unwrap(), 300_000);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_file_system_that_promises_nothing_gets_bytes_that_can_not_be_made_smaller() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes = 2 * PIECE as u64 + 7;
        write(&mut File::create(&path).unwrap(), bytes).unwrap();
        let held = std::fs::read(&path).unwrap();
        assert_eq!(held.len() as u64, bytes);
        let packed = zstd::bulk::compress(&held, 3).unwrap();
        assert!(packed.len() as f64 > 0.9 * held.len() as f64, "{}", packed.len());
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_and_no_lack_of_room() {
        let dir = tempfile::tempdir().unwrap();
        let gone = Ballast::of(&dir.path().join("gone"));
        assert!(matches!(gone.take_back(10), Err(BufferError::Io { .. })));
    }
}
