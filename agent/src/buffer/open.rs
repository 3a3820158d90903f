//! Opening: whatever lies in the folder, the buffer starts, and what it can't vouch for is said. Edge: SQLite, files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use tributary_contract::id::{Epoch, Number, SegmentId};
use tributary_contract::key::SegmentKey;

use super::check::{self, Fault};
use super::dictionary::Dictionary;
use super::error::{BufferError, OpenError};
use super::files::{Files, SegmentFile};
use super::journal::Spans;
use super::lease::Lease;
use super::lease_file::LeaseFile;
use super::readback::ReadbackItem;
use super::rejects::Folding;
use super::waiting::Waiting;
use super::wal::{self, Scan};
use super::{Buffer, EpochBook, OpenSettings, corrupt, outbox, salvage, sqlite, uint};

/// What opening found, for the log and the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenEvent {
    /// Nothing was there.
    Created,
    /// The last stop was clean.
    Clean,
    /// The last run ended without a stop; everything acknowledged is there.
    Unclean,
    /// The lease can't be read; why.
    LeaseLost(String),
    /// The database or its log is damaged or gone; what, and where the files were copied.
    Damaged {
        /// What is wrong.
        why: String,
        /// The copy, if there was anything to copy.
        aside: Option<PathBuf>,
    },
    /// A new database was made from what had a right checksum.
    Salvaged {
        /// Batches taken over.
        batches: u64,
        /// Rows of any table that could not be read.
        lost: u64,
    },
    /// Another epoch began; why.
    NewEpoch {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        why: String,
    },
    /// So many segments must be read back before anything is sealed.
    ReadbackPending(usize),
}

/// An open buffer, and what opening found.
pub struct Opened {
    /// The buffer.
    pub buffer: Buffer,
    /// What was found.
    pub events: Vec<OpenEvent>,
}

/// Setting that keeps the reason for a new epoch until it has begun.
pub(super) const DOUBT: &str = "open.doubt";

/// More numbers than this between database and lease are no crash but nonsense.
const NUMBERS_IN_DOUBT: u64 = 100_000;

impl Buffer {
    /// Opens the buffer in `settings.dir`, or makes one. Damage never refuses: what can't be trusted is set aside and a
    /// new epoch begins. Refused are a folder that another process has, another gateway's, a later version's, and a disk
    /// that doesn't answer.
    pub fn open(settings: &OpenSettings) -> Result<Opened, OpenError> {
        match Self::open_once(settings, false) {
            // After a clean stop not everything is looked at: what is damaged all the same is found by the careful way.
            Err(OpenError::Buffer(e)) if is_about_content(&e) => Self::open_once(settings, true),
            other => other,
        }
    }

    fn open_once(settings: &OpenSettings, careful: bool) -> Result<Opened, OpenError> {
        let files = Files::lock(&settings.dir, settings.faults.clone())?;
        let mut events = Vec::new();
        let lease = read_lease(&files, settings, &mut events)?;
        let clean = !careful && lease.as_ref().is_some_and(|l| l.clean.is_some());
        let (sql, doubt) = open_database(&files, settings, clean, &mut events)?;
        let mut epochs = load_epochs(&sql)?;
        let found = files.segments()?;
        let had_epochs = !epochs.is_empty();
        let history = lease.is_some() || !found.is_empty();
        let mut why = doubt.map(|d| (d, true));
        if !had_epochs && history && why.is_none() {
            let gone = "the database is gone".to_owned();
            events.push(OpenEvent::Damaged { why: gone.clone(), aside: None });
            why = Some((gone, true));
        }
        if had_epochs && why.is_none() {
            why = distrust(&sql, &files, &lease, &epochs, settings, &found)?;
        }
        let unknown = add_unknown(&mut epochs, &lease, &found);
        let current = match epochs.last_entry().map(|e| e.remove()) {
            Some(book) => book,
            None => EpochBook::new(0, Epoch(files.random()?)),
        };
        events.push(match (had_epochs || history, clean) {
            (false, _) => OpenEvent::Created,
            (true, true) => OpenEvent::Clean,
            (true, false) => OpenEvent::Unclean,
        });

        let nothing = Lease::new(settings.gateway.clone(), current.epoch, current.ordinal);
        let lease = LeaseFile::found(&files, lease.unwrap_or(nothing));
        let mut buffer = Self {
            rejects: Folding::load(&sql)?,
            sql,
            files,
            lease,
            gateway: settings.gateway.clone(),
            current,
            older: epochs,
            dictionary: Arc::new(Dictionary::default()),
            waiting: Waiting::default(),
            spans: Spans::default(),
            pending: BTreeMap::new(),
            released: BTreeSet::new(),
            settled: false,
            next_seq: 1,
            next_batch: 1,
            next_number: 1,
            poisoned: false,
            commits: std::cell::Cell::new(0),
        };
        buffer.finish_open(settings, why, unknown, found, &mut events)?;
        Ok(Opened { buffer, events })
    }

    fn finish_open(
        &mut self,
        settings: &OpenSettings,
        why: Option<(String, bool)>,
        unknown: bool,
        found: Vec<SegmentFile>,
        events: &mut Vec<OpenEvent>,
    ) -> Result<(), BufferError> {
        let gone = outbox::sweep_released(&self.sql, &self.files, |o| self.book(o).map(|b| b.epoch))?;
        let swept: BTreeSet<(u32, u64)> = gone.iter().copied().collect();
        self.load()?;
        self.pending = self.to_read_back(found, &swept)?;
        self.go_on_behind_the_lease();
        if !self.pending.is_empty() {
            events.push(OpenEvent::ReadbackPending(self.pending.len()));
        }
        let why = why.or_else(|| {
            unknown.then(|| ("segments of an epoch lie here that the database doesn't know".to_owned(), true))
        });
        let fingerprint = format!("{}/{}", settings.fingerprint, self.files.inode()?);
        self.transact(["open: before", "open: after"], |tx| {
            self.older.values().try_for_each(|book| book.save(tx))?;
            self.current.save(tx)?;
            outbox::forget_released(tx, &swept)?;
            if let Some((why, _)) = &why {
                let sql = "INSERT INTO setting (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
                tx.execute(sql, params![DOUBT, why.as_bytes()])?;
            }
            Ok(())
        })?;
        match why {
            Some((why, torn)) => {
                self.begin_epoch(&why, torn, settings.now)?;
                events.push(OpenEvent::NewEpoch { epoch: self.current.epoch, why });
            }
            None => {
                // What the log holds is in the database before the lease forgets the segments that vouch for it.
                sqlite::checkpoint(&self.sql)?;
                self.write_lease()?;
            }
        }
        // Only now: had we died before, the doubt and the other fingerprint would still be there.
        self.transact(["open: before the fingerprint", "open: after the fingerprint"], |tx| {
            tx.execute("DELETE FROM setting WHERE key = ?1", [DOUBT])?;
            tx.execute(
                "INSERT INTO state (id, gateway, fingerprint, opened) VALUES (1, ?1, ?2, 1)
                 ON CONFLICT (id) DO UPDATE SET fingerprint = ?2, opened = opened + 1",
                params![self.gateway.as_str(), fingerprint],
            )?;
            Ok(())
        })?;
        if self.pending.is_empty() {
            self.settle(settings.now)?;
        }
        Ok(())
    }

    /// Segments that lease or folder know and the outbox doesn't.
    fn to_read_back(
        &self,
        found: Vec<SegmentFile>,
        swept: &BTreeSet<(u32, u64)>,
    ) -> Result<BTreeMap<(Epoch, u64), ReadbackItem>, BufferError> {
        let lease = self.lease.now();
        let mut known: BTreeSet<(Epoch, u64)> = BTreeSet::new();
        {
            let mut select = self.sql.prepare("SELECT epoch, number FROM outbox")?;
            let mut rows = select.query([])?;
            while let Some(r) = rows.next()? {
                if let Some(book) = self.book(r.get(0)?) {
                    known.insert((book.epoch, uint(r.get(1)?)));
                }
            }
        }
        let mut pending = BTreeMap::new();
        let mut add = |epoch: Epoch, number: u64, file: Option<PathBuf>| {
            let Some(book) = self.ordinal_of(epoch).and_then(|o| self.book(o)) else { return };
            let Ok(name) = Number::new(number) else { return };
            let settled = number <= book.last_number || book.void.contains(number);
            if known.contains(&(epoch, number))
                || swept.contains(&(book.ordinal, number))
                || (settled && file.is_none())
            {
                return;
            }
            let named = lease.segments.get(&(epoch, number));
            let id = SegmentId { gateway: lease.gateway.clone(), epoch, number: name };
            let key =
                named.map(|n| SegmentKey { id, namespace: n.namespace.clone(), table: n.table, day: n.day });
            let digest = named.map(|n| n.digest);
            pending.entry((epoch, number)).or_insert(ReadbackItem { epoch, number: name, digest, key, file });
        };
        for file in found {
            add(file.epoch, file.number.get(), Some(file.path));
        }
        for (epoch, number) in lease.segments.keys() {
            add(*epoch, *number, None);
        }
        // Numbers below the highest that is known were given out, too.
        let of_lease: Vec<u64> =
            pending.keys().filter(|(epoch, _)| *epoch == lease.epoch).map(|(_, n)| *n).collect();
        if let Some(book) = self.ordinal_of(lease.epoch).and_then(|o| self.book(o)) {
            let highest = of_lease.last().copied().unwrap_or(0);
            let lowest = (book.last_number + 1).max(highest.saturating_sub(NUMBERS_IN_DOUBT));
            for number in lowest..highest {
                let Ok(name) = Number::new(number) else { continue };
                let id = (lease.epoch, number);
                if !known.contains(&id) && !book.void.contains(number) {
                    pending.entry(id).or_insert(ReadbackItem {
                        epoch: lease.epoch,
                        number: name,
                        digest: None,
                        key: None,
                        file: None,
                    });
                }
            }
        }
        Ok(pending)
    }

    /// Sets the next seq and number: after a clean stop where it left off, else at the lease's end. Numbers that were
    /// leased and that nothing knows are void.
    fn go_on_behind_the_lease(&mut self) {
        let lease = self.lease.now();
        let highest = self.pending.keys().filter(|(e, _)| *e == self.current.epoch).map(|(_, n)| *n).max();
        let highest = highest.unwrap_or(0).max(self.current.last_number);
        let mut next = (self.next_seq, highest + 1);
        if lease.epoch == self.current.epoch {
            let (seq, number) = lease.clean.unwrap_or((lease.seq_end, lease.number_end));
            next = (next.0.max(seq), next.1.max(number));
            if lease.clean.is_none() {
                self.current.void.insert_range(highest + 1, next.1 - 1);
            }
        }
        next.1 = next.1.max(self.current.void.last().map_or(0, |n| n + 1));
        (self.next_seq, self.next_number) = next;
    }
}

fn read_lease(
    files: &Files,
    settings: &OpenSettings,
    events: &mut Vec<OpenEvent>,
) -> Result<Option<Lease>, OpenError> {
    let Some(bytes) = files.read(&files.lease())? else { return Ok(None) };
    match Lease::parse(&bytes) {
        Ok(lease) if lease.gateway != settings.gateway => Err(OpenError::Foreign {
            dir: settings.dir.clone(),
            got: lease.gateway.to_string(),
            expected: settings.gateway.to_string(),
        }),
        Ok(lease) => Ok(Some(lease)),
        Err(e) => {
            events.push(OpenEvent::LeaseLost(e.to_string()));
            Ok(None)
        }
    }
}

/// Opens the database after a look at its log; what is wrong comes back as the reason for a new epoch.
fn open_database(
    files: &Files,
    settings: &OpenSettings,
    clean: bool,
    events: &mut Vec<OpenEvent>,
) -> Result<(Connection, Option<String>), OpenError> {
    files.take_salvaged()?;
    if !files.database().exists() {
        // A log without its database belongs to nothing.
        files.remove(&files.wal())?;
        return Ok((created(files)?, None));
    }
    let mut doubt = None;
    if !clean && let Some(why) = log_fault(files)? {
        let aside = Some(files.aside(settings.now.micros())?);
        events.push(OpenEvent::Damaged { why: why.clone(), aside });
        doubt = Some(why);
    }
    match trusted(files, settings, clean)? {
        Ok((sql, bad)) => {
            if let Some(first) = bad.first() {
                let why = format!("{} rows of the database are damaged, first {first}", bad.len());
                let aside = Some(files.aside(settings.now.micros())?);
                events.push(OpenEvent::Damaged { why: why.clone(), aside });
                check::repair(&sql, &bad, &why)?;
                doubt.get_or_insert(why);
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
            let (batches, lost) = salvage::salvage(files, &folder, &settings.gateway, &why)?;
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
    super::files::sync_parent(&files.database())?;
    Ok(sql)
}

/// What is wrong with the log before SQLite sees it.
fn log_fault(files: &Files) -> Result<Option<String>, BufferError> {
    let Some(log) = files.read(&files.wal())? else {
        let header = files.read(&files.database())?.unwrap_or_default();
        // Bytes 18 and 19 of the database say whether it is in WAL mode.
        let in_wal_mode = header.get(18..20) == Some(&[2, 2]);
        let lease = files.read(&files.lease())?;
        return Ok((in_wal_mode && lease.is_some()).then(|| "the write-ahead log is gone".to_owned()));
    };
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
    clean: bool,
) -> Result<Result<(Connection, Vec<Fault>), String>, OpenError> {
    let path = files.database();
    match look(files, settings, clean) {
        Ok((_, version, _, _)) if version > sqlite::SCHEMA => {
            Err(OpenError::Newer { path, got: version, known: sqlite::SCHEMA })
        }
        Ok((_, _, Some(gateway), _)) if gateway != settings.gateway.as_str() => Err(OpenError::Foreign {
            dir: settings.dir.clone(),
            got: gateway,
            expected: settings.gateway.to_string(),
        }),
        Ok((sql, _, _, bad)) => Ok(Ok((sql, bad))),
        Err(BufferError::Sqlite(e)) if !is_damage(&e) => Err(BufferError::Sqlite(e).into()),
        Err(BufferError::Io { what, source }) => Err(BufferError::Io { what, source }.into()),
        Err(e) => Ok(Err(e.to_string())),
    }
}

type Look = (Connection, i64, Option<String>, Vec<Fault>);

fn look(files: &Files, settings: &OpenSettings, clean: bool) -> Result<Look, BufferError> {
    let sql = sqlite::open(&files.database())?;
    let version = sqlite::version(&sql)?;
    if version > sqlite::SCHEMA {
        return Ok((sql, version, None, Vec::new()));
    }
    if version == 0 {
        let tables: i64 = sql.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
        if tables > 0 {
            return Err(BufferError::Corrupt("the database has tables, but no version".into()));
        }
        sqlite::create(&sql)?;
    }
    if !clean && let Some(fault) = sqlite::fault(&sql)? {
        return Err(BufferError::Corrupt(format!("the database is damaged: {fault}")));
    }
    let gateway = sql.query_row("SELECT gateway FROM state", [], |r| r.get(0)).optional()?;
    let faults = if clean { Vec::new() } else { check::faults(&sql, &settings.gateway)? };
    Ok((sql, version, gateway, faults))
}

fn is_about_content(e: &BufferError) -> bool {
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
            matches!(e.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
        }
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::QueryReturnedNoRows => true,
        _ => false,
    }
}

pub(super) const EPOCH_COLUMNS: &str = "ordinal, epoch, last_number, last_digest, void, books";

/// Reads a row of [`EPOCH_COLUMNS`].
pub(super) fn read_epoch(r: &rusqlite::Row<'_>) -> Result<EpochBook, BufferError> {
    let (epoch, void, books): (String, String, String) = (r.get(1)?, r.get(4)?, r.get(5)?);
    let digest: Option<String> = r.get(3)?;
    Ok(EpochBook {
        ordinal: r.get(0)?,
        epoch: epoch.parse()?,
        last_number: uint(r.get(2)?),
        last_digest: digest.map(|d| d.parse().map_err(|_| corrupt("digest")(d))).transpose()?,
        void: serde_json::from_str(&void).map_err(|_| corrupt("void numbers")(void))?,
        books: serde_json::from_str(&books).map_err(|_| corrupt("books")(books))?,
    })
}

/// All epochs by ordinal; the counters of the newest as of its newest batch.
fn load_epochs(sql: &Connection) -> Result<BTreeMap<u32, EpochBook>, BufferError> {
    let mut epochs = BTreeMap::new();
    let mut select =
        sql.prepare("SELECT ordinal, epoch, last_number, last_digest, void, books FROM epoch")?;
    let mut found = select.query([])?;
    while let Some(r) = found.next()? {
        let book = read_epoch(r)?;
        epochs.insert(book.ordinal, book);
    }
    if let Some((ordinal, book)) = epochs.iter_mut().next_back() {
        let sql_head = "SELECT head FROM batch WHERE epoch = ?1 ORDER BY id DESC LIMIT 1";
        let head: Option<Vec<u8>> = sql.query_row(sql_head, [ordinal], |r| r.get(0)).optional()?;
        // A head that can't be read belongs to a batch that is about to be taken out.
        if let Some(head) = head {
            let _ = book.books.take_head(&head);
        }
    }
    Ok(epochs)
}

/// Why a database that is whole can't vouch for its past all the same, and whether commits are lost.
fn distrust(
    sql: &Connection,
    files: &Files,
    lease: &Option<Lease>,
    epochs: &BTreeMap<u32, EpochBook>,
    settings: &OpenSettings,
    found: &[SegmentFile],
) -> Result<Option<(String, bool)>, BufferError> {
    let Some((_, newest)) = epochs.iter().next_back() else { return Ok(None) };
    let Some(lease) = lease else {
        // A crash of the very first start: nothing was given out yet.
        let batches: bool = sql.query_row("SELECT EXISTS (SELECT 1 FROM batch)", [], |r| r.get(0))?;
        let fresh = epochs.len() == 1 && !batches && newest.last_number == 0 && found.is_empty();
        return Ok((!fresh).then(|| ("the lease is lost".to_owned(), false)));
    };
    let ahead = lease.ordinal > newest.ordinal;
    if ahead || (lease.ordinal == newest.ordinal && lease.epoch != newest.epoch) {
        return Ok(Some(("the database is older than the lease".to_owned(), true)));
    }
    let stored: Option<String> =
        sql.query_row("SELECT fingerprint FROM state", [], |r| r.get(0)).optional()?;
    let here = format!("{}/{}", settings.fingerprint, files.inode()?);
    Ok(stored.filter(|s| *s != here).map(|_| {
        ("the buffer was copied or restored: it is on another machine or in another file".to_owned(), false)
    }))
}

/// Adds epochs that lease or folder name and the database doesn't, all below the current one's ordinal if it is to stay.
/// Tells whether there were any.
fn add_unknown(epochs: &mut BTreeMap<u32, EpochBook>, lease: &Option<Lease>, found: &[SegmentFile]) -> bool {
    let mut named: Vec<(Option<u32>, Epoch)> = found.iter().map(|f| (None, f.epoch)).collect();
    if let Some(lease) = lease {
        named.extend(lease.segments.keys().map(|(epoch, _)| (None, *epoch)));
        named.push((Some(lease.ordinal), lease.epoch));
    }
    let mut any = false;
    // The lease's own epoch comes last and has its ordinal, if that is free.
    for (ordinal, epoch) in named {
        if epochs.values().any(|b| b.epoch == epoch) {
            continue;
        }
        let next = epochs.keys().next_back().map_or(0, |o| o + 1);
        let ordinal = ordinal.filter(|o| *o > next).unwrap_or(next);
        epochs.insert(ordinal, EpochBook::new(ordinal, epoch));
        any = true;
    }
    any
}
