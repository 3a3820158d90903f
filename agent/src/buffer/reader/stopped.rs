//! A stopped agent's buffer, opened for reading: not one byte of its folder changes. Edge: SQLite, files.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use tributary_contract::id::GatewayId;

use super::{Ask, Page, look};
use crate::buffer::error::BufferError;
use crate::buffer::files::Files;
use crate::buffer::{sqlite, wal};

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing is there.
    #[error(
        "no buffer lies in {0}: the agent makes it at its first start; does `state_dir` name the right folder?"
    )]
    Absent(PathBuf),
    /// The folder can't be opened.
    #[error("{path} can't be read: {source}; run this as the user that the agent runs as")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database is gone, or half of a salvage.
    #[error(
        "{0} is in no state to be read, its database is gone; start the agent: it salvages what is there"
    )]
    Half(PathBuf),
    /// Of another version.
    #[error("{path} has schema version {got}, this program reads {known}: {todo}", todo = if *got > *known {
        "upgrade it"
    } else {
        "start the agent once, it brings the buffer to this version"
    })]
    Version {
        /// The database.
        path: PathBuf,
        /// Its version.
        got: i64,
        /// Ours.
        known: i64,
    },
    /// SQLite can't read it.
    #[error(
        "{path} can't be read: {source}; start the agent: it keeps what is intact, and sets the damaged file aside"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A page can't be read.
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

/// The open file. While it lives, no agent can start on the folder: keep it for moments only.
pub struct Stopped {
    sql: Connection,
    dir: PathBuf,
    gateway: GatewayId,
    _lock: File,
}

impl Stopped {
    /// Opens it; none if an agent has the folder. `gateway` is whose it should be.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(dir: &Path, gateway: &GatewayId) -> Result<Option<Self>, ReadError> {
        let folder = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReadError::Absent(dir.to_owned()),
            _ => ReadError::Folder { path: dir.to_owned(), source },
        };
        let lock = File::open(dir).map_err(folder)?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(folder(source)),
        }
        let path = dir.join("buffer.db");
        let log = Files::bytes_of(&dir.join("buffer.db-wal"));
        if let Err(source) = File::open(&path) {
            return Err(match source.kind() {
                io::ErrorKind::NotFound if log > 0 || dir.join("buffer.db.salvaged").exists() => {
                    ReadError::Half(dir.to_owned())
                }
                io::ErrorKind::NotFound => ReadError::Absent(dir.to_owned()),
                _ => ReadError::Folder { path, source },
            });
        }
        let sql = reading(&path, log > wal::HEADER as u64);
        let damaged = |source| ReadError::Damaged { path: path.clone(), source };
        let sql = sql.map_err(damaged)?;
        let got = sqlite::version(&sql).map_err(damaged)?;
        if got != sqlite::SCHEMA {
            return Err(ReadError::Version { path, got, known: sqlite::SCHEMA });
        }
        Ok(Some(Self { sql, dir: dir.to_owned(), gateway: gateway.clone(), _lock: lock }))
    }

    /// Answers one question.
    ///
    /// # Errors
    /// SQLite's.
    pub fn read(&self, ask: &Ask) -> Result<Page, ReadError> {
        Ok(look(&self.sql, &self.dir, &self.gateway, ask)?)
    }

    /// What SQLite finds wrong in the structure of its file, if anything; takes as long as reading all of it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn structure(&self) -> Result<Option<String>, ReadError> {
        Ok(sqlite::fault(&self.sql).map_err(BufferError::from)?)
    }
}

/// A connection that only reads. With a log, SQLite's index of it is kept in memory and no file is locked: the folder is.
/// Without, the log's very absence must stay as it is (the next start draws its conclusions from it), so that SQLite is
/// told that nothing changes.
fn reading(path: &Path, log: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if log {
        let sql = Connection::open_with_flags_and_vfs(path, flags, "unix-none")?;
        sql.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
        return Ok(sql);
    }
    let mut uri = String::from("file:");
    for byte in std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte))
            }
            _ => uri += &format!("%{byte:02X}"),
        }
    }
    Connection::open_with_flags(uri + "?immutable=1", flags | OpenFlags::SQLITE_OPEN_URI)
}
