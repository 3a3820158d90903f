//! The ledger's file: opened by one receiver at a time, durable at each commit.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use uuid::Uuid;

use crate::offload::offload;

/// Version of `schema.sql`.
const SCHEMA_VERSION: i64 = 2;

/// Why the ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another receiver has it.
    #[error(
        "ledger {0} is in use by another receiver: stop that one, or give this one a ledger and a lake of its own"
    )]
    InUse(PathBuf),
    /// Written by a later version.
    #[error("ledger {path} has version {found}, this program knows {SCHEMA_VERSION}: upgrade the receiver")]
    Version {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: i64,
    },
    /// `ledger rebuild` didn't come to its end.
    #[error("a rebuild of ledger {0} was interrupted: run `ledger rebuild` again")]
    Rebuilding(PathBuf),
    /// Folder or lock file.
    #[error("ledger {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite.
    #[error("ledger: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The thread that used it ended.
    #[error("ledger: its task was stopped")]
    Stopped,
}

/// On which side of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Nothing of it is durable yet.
    Before,
    /// All of it is durable.
    After,
}

/// The open ledger. All methods block; [`LedgerHandle`] runs them off the runtime.
#[derive(Debug)]
pub struct Ledger {
    pub(super) db: Connection,
    pub(super) id: Uuid,
    _lock: Option<File>,
}

impl Ledger {
    /// Opens or creates the ledger at `path`, for this process alone.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let file = |source| LedgerError::File { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(file)?;
        }
        let lock =
            File::options().create(true).truncate(false).write(true).open(lock_path(path)).map_err(file)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::InUse(path.to_owned())),
            Err(TryLockError::Error(e)) => return Err(file(e)),
        }
        let mut db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut db, path)?;
        let id = read_id(&db)?;
        Ok(Self { db, id, _lock: Some(lock) })
    }

    /// Opens an existing ledger to read it, whoever has it.
    pub fn peek(path: &Path) -> Result<Self, LedgerError> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.busy_timeout(Duration::from_secs(5))?;
        let found = version(&db)?;
        // An older file is only read, and what is read of it hasn't changed.
        if !(1..=SCHEMA_VERSION).contains(&found) {
            return Err(LedgerError::Version { path: path.to_owned(), found });
        }
        let id = read_id(&db)?;
        Ok(Self { db, id, _lock: None })
    }

    /// Lets a test stop the program at each commit: `dies` is asked before it (an answer of true undoes it) and told after
    /// it. What is closed afterwards leaves its log as a crash would.
    ///
    /// # Errors
    /// SQLite's.
    pub fn with_faults(
        mut self,
        dies: impl Fn(Moment) -> bool + Send + Sync + 'static,
    ) -> Result<Self, LedgerError> {
        let dies = Arc::new(dies);
        let before = Arc::clone(&dies);
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        self.db.commit_hook(Some(move || before(Moment::Before)))?;
        self.db.wal_hook(Some(move |_: &mut Wal, _| {
            dies(Moment::After);
            Ok(())
        }))?;
        Ok(self)
    }

    /// The ledger's id, drawn when it was created: the tables that it owns carry it.
    pub fn id(&self) -> Uuid {
        self.id
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn version(db: &Connection) -> Result<i64, rusqlite::Error> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn migrate(db: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let found = version(db)?;
    match found {
        SCHEMA_VERSION => Ok(()),
        0 => {
            let tx = db.transaction()?;
            tx.execute_batch(include_str!("schema.sql"))?;
            tx.execute("INSERT INTO meta VALUES ('ledger', ?1)", [Uuid::new_v4().to_string()])?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            tx.commit()?;
            Ok(())
        }
        1 => {
            let tx = db.transaction()?;
            tx.execute_batch(include_str!("schema_2.sql"))?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            tx.commit()?;
            Ok(())
        }
        _ => Err(LedgerError::Version { path: path.to_owned(), found }),
    }
}

fn read_id(db: &Connection) -> Result<Uuid, LedgerError> {
    Ok(db.query_row("SELECT value FROM meta WHERE key = 'ledger'", [], |row| parsed(row, 0))?)
}

/// A column whose text is read by `FromStr`; a wrong text is an error that names the column.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse()
        .map_err(|e: T::Err| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

/// As [`parsed`], for a column that may be null.
pub(super) fn parsed_opt<T>(row: &Row<'_>, column: usize) -> Result<Option<T>, rusqlite::Error>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: Option<String> = row.get(column)?;
    let read = text.map(|t| t.parse()).transpose();
    read.map_err(|e: T::Err| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

/// A column of JSON.
pub(super) fn json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> Result<T, rusqlite::Error> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

/// A column of JSON that may be null; what can't be read any more counts as null.
pub(super) fn json_opt<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> Result<Option<T>, rusqlite::Error> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|t| serde_json::from_str(&t).ok()))
}

/// A count as SQLite holds it.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A count that came from [`int`].
pub(super) fn uint(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

/// Whether a query has a row, and which.
pub(super) fn optional<T>(result: Result<T, rusqlite::Error>) -> Result<Option<T>, LedgerError> {
    Ok(result.optional()?)
}

/// A ledger shared by the loops; each call runs on a thread that may block.
#[derive(Debug, Clone)]
pub struct LedgerHandle(Arc<Mutex<Ledger>>);

impl LedgerHandle {
    /// Shares `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        Self(Arc::new(Mutex::new(ledger)))
    }

    /// Runs `work` on the ledger. Once begun it runs to its end, even if the caller stops waiting.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let shared = Arc::clone(&self.0);
        let run = move || work(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
        offload(run).await.map_err(|_| LedgerError::Stopped)?
    }
}
