//! The database at an opening: what is looked at before it is believed, and what is made of it where it can't be. Edge:
//! SQLite, files.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _};

use super::{Care, DOUBT, OpenEvent, STUMBLED};
use crate::buffer::check::{self, Beside, Depth, Looked};
use crate::buffer::error::{BufferError, OpenError};
use crate::buffer::files::Files;
use crate::buffer::lease::Lease;
use crate::buffer::salvage::Saved;
use crate::buffer::tail::Tail;
use crate::buffer::wal::{self, Scan};
use crate::buffer::{OpenSettings, migrate, salvage, sqlite};

/// Opens the database after a look at its log; what is wrong comes back as the reason for a new epoch.
pub(super) fn open_database(
    files: &Files,
    settings: &OpenSettings,
    lease: Option<&Lease>,
    depth: Depth,
    care: &Care,
    events: &mut Vec<OpenEvent>,
) -> Result<(Connection, Option<String>), OpenError> {
    files.take_salvaged()?;
    let log = Files::bytes_of(&files.wal());
    if !files.database().exists() && log <= wal::HEADER as u64 {
        files.remove(&files.wal())?;
        return Ok((created(files)?, None));
    }
    let damage = if !files.database().exists() {
        Some("the database is gone, its log is there".to_owned())
    } else if let Care::Salvage(why) = care {
        Some(why.clone())
    } else if depth == Depth::Nothing && log == 0 {
        None
    } else {
        log_fault(files)?
    };
    let trusted = match damage {
        Some(why) => {
            refuse_newer(files)?;
            Err(why)
        }
        None => trusted(files, settings, depth)?,
    };
    match trusted {
        Ok((sql, found, migrated)) => {
            events.extend(migrated.map(|from| OpenEvent::Migrated { from, to: sqlite::SCHEMA }));
            let mut doubt = None;
            if !found.is_well() {
                let why = found.why();
                let aside = Some(files.aside(settings.now.micros())?);
                events.push(OpenEvent::Damaged { why: why.clone(), aside });
                check::repair(&sql, &found, &why, Beside { files, lease })?;
                doubt = Some(why);
            }
            let kept: Option<Vec<u8>> = sql
                .query_row("SELECT value FROM setting WHERE key = ?1", [DOUBT], |r| r.get(0))
                .optional()
                .map_err(BufferError::from)?;
            let doubt = doubt.or(kept.map(|why| String::from_utf8_lossy(&why).into_owned()));
            Ok((sql, doubt))
        }
        Err(why) => {
            let folder = files.aside(settings.now.micros())?;
            events.push(OpenEvent::Damaged { why: why.clone(), aside: Some(folder.clone()) });
            let Saved { batches, lost } = salvage::salvage(files, &folder, &settings.gateway, &why, lease)?;
            events.push(OpenEvent::Salvaged { batches, lost });
            files.take_salvaged()?;
            let sql = sqlite::open(&files.database()).map_err(BufferError::from)?;
            Ok((sql, Some(why)))
        }
    }
}

fn created(files: &Files) -> Result<Connection, BufferError> {
    files.hit("open: before the database is made")?;
    let sql = sqlite::open(&files.database())?;
    sqlite::create(&sql)?;
    crate::buffer::files::sync_parent(&files.database())?;
    Ok(sql)
}

/// What is wrong with the log before SQLite sees it.
fn log_fault(files: &Files) -> Result<Option<String>, BufferError> {
    // Bytes 18 and 19 of the database say whether it is in WAL mode.
    let in_wal_mode = files.head(&files.database(), 100)?.get(18..20) == Some(&[2, 2]);
    let Some(log) = files.read(&files.wal())? else {
        let lease = files.read(&files.lease())?;
        return Ok((in_wal_mode && lease.is_some()).then(|| "the write-ahead log is gone".to_owned()));
    };
    if !in_wal_mode && log.len() > wal::HEADER {
        // SQLite would throw the log away.
        return Ok(Some("the header of the database is damaged".to_owned()));
    }
    Ok(match wal::scan(&log) {
        Scan::Whole { .. } | Scan::Torn { .. } => None,
        Scan::Damaged { frame: Some(frame) } => {
            Some(format!("the write-ahead log is damaged at frame {frame}, and commits lie behind it"))
        }
        Scan::Damaged { frame: None } => Some("the header of the write-ahead log is damaged".to_owned()),
    })
}

/// Opens and checks; the inner error says why the database can't be used. Also tells which rows can't.
fn trusted(
    files: &Files,
    settings: &OpenSettings,
    depth: Depth,
) -> Result<Result<Trusted, String>, OpenError> {
    let path = files.database();
    match look(files, settings, depth) {
        Ok(Look::Newer(got)) => Err(OpenError::Newer { path, got, known: sqlite::SCHEMA }),
        Ok(Look::Foreign(got)) => {
            Err(OpenError::Foreign { dir: settings.dir.clone(), got, expected: settings.gateway.to_string() })
        }
        Ok(Look::Ours(trusted)) => Ok(Ok(trusted)),
        Err(BufferError::Sqlite(e)) if !is_damage(&e) => Err(BufferError::Sqlite(e).into()),
        Err(BufferError::Io { what, source }) => Err(BufferError::Io { what, source }.into()),
        Err(e) => Ok(Err(e.to_string())),
    }
}

/// The database, what is wrong with its rows, and the version from which it was migrated, if it was.
type Trusted = (Connection, Looked, Option<i64>);

enum Look {
    Ours(Trusted),
    Newer(i64),
    Foreign(String),
}

/// Refuses a later version's database before anything of it is touched.
fn refuse_newer(files: &Files) -> Result<(), OpenError> {
    let path = files.database();
    let header = files.head(&path, 100)?;
    let version = header.get(60..64).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | i64::from(*b)));
    // In the header of a damaged database a great number is a flipped bit, not a version.
    let believable = header.starts_with(b"SQLite format 3\0") && version < sqlite::SCHEMA + 1000;
    if believable && version > sqlite::SCHEMA {
        return Err(OpenError::Newer { path, got: version, known: sqlite::SCHEMA });
    }
    Ok(())
}

fn look(files: &Files, settings: &OpenSettings, depth: Depth) -> Result<Look, BufferError> {
    let sql = sqlite::open(&files.database())?;
    let version = sqlite::version(&sql)?;
    if version > sqlite::SCHEMA {
        // The row says it once more: there a flipped bit shows.
        return match sqlite::version_in_row(&sql) {
            Some(known) if known <= sqlite::SCHEMA => {
                Err(BufferError::Corrupt(format!("its header says version {version}, its row {known}")))
            }
            _ => Ok(Look::Newer(version)),
        };
    }
    if version == 0 {
        let tables: i64 = sql.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
        if tables > 0 {
            return Err(BufferError::Corrupt("the database has tables, but no version".into()));
        }
        sqlite::create(&sql)?;
    }
    if depth > Depth::Nothing
        && let Some(fault) = sqlite::fault(&sql)?
    {
        return Err(BufferError::Corrupt(format!("the database is damaged: {fault}")));
    }
    let older = (1..sqlite::SCHEMA).contains(&version).then_some(version);
    if let Some(from) = older {
        files.hit("open: before the migration")?;
        migrate::migrate(&sql, from)?;
        files.hit("open: after the migration")?;
    }
    let gateway: Option<String> = sql
        .query_row("SELECT gateway, fingerprint, opened, version, crc FROM state", [], |r| {
            Ok(check::read_state(r).is_ok().then(|| r.get(0)))
        })
        .optional()?
        .flatten()
        .transpose()?;
    if let Some(got) = gateway.filter(|g| g != settings.gateway.as_str()) {
        return Ok(Look::Foreign(got));
    }
    let newest: i64 = sql.query_row("SELECT coalesce(max(id), 0) FROM batch", [], |r| r.get(0))?;
    if let Some(noted) = Tail::read(&files.tail()).filter(|noted| *noted > newest) {
        return Err(BufferError::Corrupt(format!(
            "commits are missing: the newest batch is {newest}, batch {noted} was durable"
        )));
    }
    // A segment whose state has no meaning is found by no search: it would wait for ever, and nothing would fail.
    let strange: bool = sql.query_row(STRANGE, [], |r| r.get(0))?;
    let depth = if strange { Depth::Rows } else { depth };
    let found = check::look(&sql, &settings.gateway, depth)?;
    Ok(Look::Ours((sql, found, older)))
}

const STRANGE: &str = "SELECT EXISTS (SELECT 1 FROM outbox WHERE state NOT IN
    ('sealed', 'uploading', 'delivered', 'held', 'quarantined', 'superseded', 'released'))";

/// Leaves word for the next opening that an operation stumbled over content, if that is what the error says.
pub(in crate::buffer) fn leave_word(dir: &Path, e: &BufferError) {
    if is_about_content(e) {
        // Where the disk takes no file, the next opening doesn't look at rows, and may stumble once more.
        let _ = std::fs::File::create(dir.join(STUMBLED));
    }
}

pub(super) fn is_about_content(e: &BufferError) -> bool {
    match e {
        BufferError::Damaged { .. }
        | BufferError::Corrupt(_)
        | BufferError::Law(_)
        | BufferError::Number(_) => true,
        BufferError::Sqlite(e) => is_damage(e),
        _ => false,
    }
}

/// Whether an error means that the file's content is wrong, rather than that the disk or the system refuses.
fn is_damage(e: &rusqlite::Error) -> bool {
    match e {
        rusqlite::Error::SqliteFailure(e, _) => {
            // Files were made writable before: read-only is what a damaged header says. So is a file that ends too early.
            matches!(
                e.code,
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::Unknown
                    | ErrorCode::ReadOnly
            ) || e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ
        }
        // Our statements are right: where they aren't, the names in the database are wrong.
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::QueryReturnedNoRows => true,
        _ => false,
    }
}
