//! Why the buffer refuses, and what the caller has to do about it.

use std::io;
use std::path::PathBuf;

use tributary_contract::counters::LawBroken;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, IdError};

use super::block::BlockError;

/// Why an operation was not done. [`BufferError::poisons`] says whether the buffer must be opened again.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// A file could not be read or written.
    #[error("buffer: {what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The disk has no room for a segment's file: nothing of it is there.
    #[error("buffer: {what}: {source}; nothing was written")]
    NoRoom {
        /// What was tried, with the path.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// SQLite failed.
    #[error("buffer: database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored batch is damaged; opening the buffer again sets it aside and records the loss.
    #[error("buffer: batch {batch} is damaged ({why}): open the buffer again, it sets the batch aside")]
    Damaged {
        /// Which batch.
        batch: i64,
        /// What is wrong.
        why: String,
    },
    /// Something stored makes no sense; opening the buffer again decides.
    #[error("buffer: {0}")]
    Corrupt(String),
    /// A law would be broken: nothing was written.
    #[error("buffer: {0}; nothing was written")]
    Law(#[from] LawBroken),
    /// An earlier operation failed halfway.
    #[error("buffer: an earlier write failed halfway: open the buffer again")]
    Poisoned,
    /// The batch doesn't fit a block.
    #[error("buffer: {0}: commit fewer messages at a time")]
    TooLarge(BlockError),
    /// A message names a source that isn't in the list.
    #[error("buffer: message of source {0}, but there are only {1}")]
    UnknownSource(usize, usize),
    /// Segments from before the last stop must be read back first.
    #[error("buffer: {0} segments must be read back before anything is sealed")]
    ReadingBack(usize),
    /// The sealing isn't the newest any more.
    #[error("buffer: segment number {0} was begun in another state of the buffer: begin again")]
    StaleSealing(u64),
    /// The key isn't the sealing's.
    #[error("buffer: key {key} isn't that of the sealing begun: {expected}")]
    WrongKey {
        /// Key given.
        key: String,
        /// Gateway, epoch and number begun.
        expected: String,
    },
    /// A row is already sealed, shed or moved.
    #[error("buffer: rows of batch {0} were sealed, shed or moved meanwhile: pick again")]
    RowsTaken(i64),
    /// No such segment in the outbox.
    #[error("buffer: no segment {1} of epoch {0} in the outbox")]
    UnknownSegment(Epoch, u64),
    /// The state doesn't allow that.
    #[error("buffer: segment {number} of epoch {epoch} is {from}: it can't become {to}")]
    Transition {
        /// Epoch.
        epoch: Epoch,
        /// Number.
        number: u64,
        /// Its state.
        from: &'static str,
        /// The state that was asked for.
        to: &'static str,
    },
    /// Nothing to be read back by that name.
    #[error("buffer: segment {1} of epoch {0} isn't waiting to be read back")]
    NotPending(Epoch, u64),
    /// The bytes aren't those that the lease vouches for.
    #[error(
        "buffer: segment {number} has digest {got}, the lease says {expected}: look for it in the bucket"
    )]
    WrongBytes {
        /// Number.
        number: u64,
        /// Digest of the bytes.
        got: Digest,
        /// Digest in the lease.
        expected: Digest,
    },
    /// The manifest names another segment.
    #[error("buffer: manifest names {got}, expected {expected}")]
    WrongManifest {
        /// What it names.
        got: String,
        /// What was asked for.
        expected: String,
    },
    /// So many backfills are under way, and there may be no more.
    #[error("buffer: {0} backfills are under way: ask again when one of them has ended")]
    Backfills(usize),
    /// The epoch has no number left.
    #[error("buffer: {0}")]
    Number(#[from] IdError),
}

impl BufferError {
    /// Whether the disk had no room for it: once there is some, the same may succeed.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::NoRoom { source, .. } => super::ballast::is_full(source),
            Self::Sqlite(e) => e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }

    /// Whether memory and disk may disagree now: the buffer refuses everything until it is opened again.
    pub const fn poisons(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Sqlite(_) | Self::Damaged { .. } | Self::Corrupt(_) | Self::Poisoned => {
                true
            }
            Self::NoRoom { .. }
            | Self::Law(_)
            | Self::TooLarge(_)
            | Self::UnknownSource(..)
            | Self::ReadingBack(_)
            | Self::StaleSealing(_)
            | Self::WrongKey { .. }
            | Self::RowsTaken(_)
            | Self::UnknownSegment(..)
            | Self::Transition { .. }
            | Self::NotPending(..)
            | Self::WrongBytes { .. }
            | Self::WrongManifest { .. }
            | Self::Backfills(_)
            | Self::Number(_) => false,
        }
    }
}

/// Why the buffer can't be opened at all. Damage isn't among the reasons: a damaged buffer is set aside.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is locked: another agent works on this buffer; stop it first, or use another state_dir")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Written by a later version.
    #[error("{path} has schema version {got}, this agent knows up to {known}: upgrade the agent")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        got: i64,
        /// The greatest that is known.
        known: i64,
    },
    /// It belongs to another gateway.
    #[error("the buffer in {dir} is of gateway {got}, this agent is {expected}: use another state_dir")]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        got: String,
        /// Who opens it.
        expected: String,
    },
    /// The disk refuses: try again later.
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

impl OpenError {
    /// Whether waiting may mend it: a disk comes back, another agent's buffer doesn't become ours.
    pub const fn may_mend(&self) -> bool {
        match self {
            Self::Buffer(_) => true,
            Self::Locked { .. } | Self::Newer { .. } | Self::Foreign { .. } => false,
        }
    }
}

/// Wraps an I/O error with what was tried.
pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> BufferError {
    let what = what.into();
    move |source| BufferError::Io { what, source }
}
