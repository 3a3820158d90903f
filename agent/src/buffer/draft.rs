//! A segment's file while it is made: written under a temporary name and hashed as it comes, so that no segment is ever held
//! in memory as a whole. Edge: files.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tributary_contract::digest::Digest;

use super::Buffer;
use super::ballast::is_full;
use super::error::{BufferError, io};
use super::seal::Sealing;

/// What is written to it is for [`Buffer::finish_seal`]. Writing never fails, so that nobody has to carry an error of the disk
/// through an encoder: the first one is kept, the rest of the bytes go nowhere, and finishing tells.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    hash: Sha256,
    size: u64,
    file: io::Result<File>,
}

impl Draft {
    /// How many bytes were written to it.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is to become the file at `path`.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        self.path == path
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Ok(file) = &mut self.file
            && let Err(e) = file.write_all(bytes)
        {
            self.file = Err(e);
        }
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    /// Begins the file of a segment. One that never comes to anything is written over by the next, or swept by the next start.
    pub fn draft(&mut self, sealing: &Sealing) -> Result<Draft, BufferError> {
        self.guarded(|b| {
            let path = b.files.segment(sealing.epoch, sealing.number);
            let begun = b.files.hit("seal: before the file").and_then(|()| b.files.begin(&path));
            let file = match begun {
                Err(BufferError::Io { source, .. }) if is_full(&source) => Err(source),
                begun => Ok(begun?),
            };
            Ok(Draft { path, hash: Sha256::new(), size: 0, file })
        })
    }

    /// Makes a draft's bytes durable, still under its temporary name; tells their digest and count. Where there was no room for
    /// them nothing has happened yet, and nothing is left behind.
    pub(super) fn keep_draft(&self, draft: Draft) -> Result<(Digest, u64), BufferError> {
        let Draft { path, hash, size, file } = draft;
        let Err(source) = file.and_then(|file| file.sync_all()) else {
            return Ok((Digest(hash.finalize().into()), size));
        };
        let what = format!("can't write {}", path.display());
        if !is_full(&source) {
            return Err(io(what)(source));
        }
        self.files.discard(&path)?;
        Err(BufferError::NoRoom { what, source })
    }
}
