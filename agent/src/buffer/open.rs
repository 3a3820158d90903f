//! Opening: whatever lies in the folder, the buffer starts, and what it can't vouch for is said. Edge: SQLite, files.

mod database;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use tributary_contract::id::{Epoch, Number, SegmentId};
use tributary_contract::key::SegmentKey;

pub(super) use self::database::leave_word;
use self::database::{is_about_content, open_database};
use super::ballast::Ballast;
use super::check::Depth;
use super::dictionary::Dictionary;
use super::error::{BufferError, OpenError};
use super::files::{Files, SegmentFile};
use super::lease::Lease;
use super::lease_file::LeaseFile;
use super::readback::ReadbackItem;
use super::rejects::Folding;
use super::scan::Spans;
use super::sums::{self, Part};
use super::tail::Tail;
use super::waiting::Waiting;
use super::{Buffer, EpochBook, OpenSettings, corrupt, int, outbox, sqlite, uint};

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
    /// The database was of an older version.
    Migrated {
        /// Its version.
        from: i64,
        /// The present one.
        to: i64,
    },
    /// The disk was full: so many bytes of ballast were given up to open all the same.
    BallastGivenUp(u64),
}

/// An open buffer, and what opening found.
pub struct Opened {
    /// The buffer.
    pub buffer: Buffer,
    /// What was found.
    pub events: Vec<OpenEvent>,
}

/// How far what is there is believed: each way is taken where the one before stumbled over content.
#[derive(Debug, PartialEq)]
enum Care {
    /// After a clean stop only what is needed is looked at; after any other the structure and each checksum, but no row of
    /// a block whose checksum is right.
    Trust,
    /// Everything is looked at.
    Look,
    /// What every look found right makes no sense all the same; what was stumbled over.
    Salvage(String),
}

/// File that says that an operation stumbled over content: the next opening looks at everything.
const STUMBLED: &str = "stumbled";

/// Setting that keeps the reason for a new epoch until it has begun.
pub(super) const DOUBT: &str = "open.doubt";

/// More numbers than this between database and lease are no crash but nonsense.
const NUMBERS_IN_DOUBT: u64 = 100_000;

impl Buffer {
    /// Opens the buffer in `settings.dir`, or makes one. Damage never refuses: what can't be trusted is set aside and a
    /// new epoch begins. Refused are a folder that another process has, another gateway's, a later version's, and a disk
    /// that doesn't answer.
    pub fn open(settings: &OpenSettings) -> Result<Opened, OpenError> {
        match Self::open_careful(settings) {
            Err(OpenError::Buffer(e)) if e.is_full() => {
                let freed = Ballast::of(&settings.dir).give_up()?;
                if freed == 0 {
                    return Err(e.into());
                }
                let mut opened = Self::open_careful(settings)?;
                opened.events.push(OpenEvent::BallastGivenUp(freed));
                Ok(opened)
            }
            other => other,
        }
    }

    fn open_careful(settings: &OpenSettings) -> Result<Opened, OpenError> {
        let stumbled = settings.dir.join(STUMBLED);
        let mut care = if stumbled.exists() { Care::Look } else { Care::Trust };
        loop {
            let e = match Self::open_once(settings, &care) {
                Err(OpenError::Buffer(e)) if is_about_content(&e) => e,
                other => return other,
            };
            care = match care {
                Care::Trust => Care::Look,
                Care::Look => Care::Salvage(e.to_string()),
                Care::Salvage(_) => return Err(e.into()),
            };
        }
    }

    fn open_once(settings: &OpenSettings, care: &Care) -> Result<Opened, OpenError> {
        let files = Files::lock(&settings.dir, settings.faults.clone())?;
        let mut events = Vec::new();
        let mut mended = Vec::new();
        for path in [files.database(), files.wal(), files.lease(), files.tail()] {
            mended.extend(files.own(&path, settings.now.micros())?);
        }
        events.extend(mended.into_iter().map(|why| OpenEvent::Damaged { why, aside: None }));
        let lease = read_lease(&files, settings, &mut events)?;
        let clean = *care == Care::Trust && lease.as_ref().is_some_and(|l| l.clean.is_some());
        let depth = match care {
            Care::Trust if clean => Depth::Nothing,
            Care::Trust => Depth::Sums,
            Care::Look | Care::Salvage(_) => Depth::Rows,
        };
        let (sql, doubt) = open_database(&files, settings, lease.as_ref(), depth, care, &mut events)?;
        let mut epochs = load_epochs(&sql)?;
        let found = files.segments()?;
        let had_epochs = !epochs.is_empty();
        let noted = Tail::read(&files.tail()).is_some_and(|newest| newest > 0);
        let history = lease.is_some() || !found.is_empty() || noted;
        let mut why = doubt.map(|d| (d, true));
        if !had_epochs && history && why.is_none() {
            let gone = "the database is gone".to_owned();
            events.push(OpenEvent::Damaged { why: gone.clone(), aside: None });
            why = Some((gone, true));
        }
        let older = older_copy(&sql, lease.as_ref(), &epochs)?;
        if older.is_some()
            && let Some((lease, mut newest)) = lease.as_ref().zip(epochs.last_entry())
        {
            // It may have gone on after the copy was made: what it then gave out, only the lease can bound.
            let book = newest.get_mut();
            book.books.rebuilt = true;
            if book.epoch == lease.epoch {
                book.last_number = book.last_number.max(lease.number_end.saturating_sub(1));
            }
        }
        why = why.or(older.map(|older| (older, true)));
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
            gaps: Default::default(),
            sql,
            files,
            lease,
            gateway: settings.gateway.clone(),
            current,
            older: epochs,
            dictionary: Arc::new(Dictionary::default()),
            waiting: Waiting::default(),
            requests: Default::default(),
            held: BTreeMap::new(),
            spans: Spans::default(),
            pending: BTreeMap::new(),
            released: BTreeSet::new(),
            settled: false,
            next_seq: 1,
            next_batch: 1,
            next_number: 1,
            tail: Tail::default(),
            poisoned: false,
            commits: std::cell::Cell::new(0),
        };
        buffer.finish_open(settings, why, unknown, found, &mut events)?;
        buffer.files.remove(&settings.dir.join(STUMBLED))?;
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
        let opened =
            self.transact(["open: before the fingerprint", "open: after the fingerprint"], |tx| {
                tx.execute("DELETE FROM setting WHERE key = ?1", [DOUBT])?;
                let before: Option<i64> =
                    tx.query_row("SELECT opened FROM state", [], |r| r.get(0)).optional()?;
                let opened = uint(before.unwrap_or(0)).max(self.lease.now().opened) + 1;
                let gateway = self.gateway.as_str();
                let covered = [Part::Text(gateway), Part::Text(&fingerprint), Part::Int(int(opened))];
                let [a, b, c] = covered;
                let crc = sums::sum(&[a, b, c, Part::Int(sqlite::SCHEMA)]);
                tx.execute(
                    "INSERT OR REPLACE INTO state (id, gateway, fingerprint, opened, version, crc)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5)",
                    params![gateway, fingerprint, int(opened), sqlite::SCHEMA, crc],
                )?;
                Ok(opened)
            })?;
        self.lease.opened(&self.files, opened)?;
        self.tail = Tail::begin(&self.files.tail(), self.newest_batch()?);
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
            let settled = !book.books.rebuilt && (number <= book.last_number || book.void.contains(number));
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
        // Of an epoch whose books are lost they may be long registered: nobody knows, and its end says enough.
        let known_book = self.ordinal_of(lease.epoch).and_then(|o| self.book(o)).filter(|b| !b.books.rebuilt);
        if let Some(book) = known_book {
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
            let (seq, number) = lease.clean.map_or((lease.seq_end, lease.number_end), |c| (c.seq, c.number));
            next = (next.0.max(seq), next.1.max(number));
            // Where the books are lost, nobody knows which of them are in use.
            if lease.clean.is_none() && !self.current.books.rebuilt {
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

pub(super) const EPOCH_COLUMNS: &str = "ordinal, epoch, last_number, last_digest, void, books, crc";

/// Reads a row of [`EPOCH_COLUMNS`].
pub(super) fn read_epoch(r: &rusqlite::Row<'_>) -> Result<EpochBook, BufferError> {
    let (epoch, void, books): (String, String, String) = (r.get(1)?, r.get(4)?, r.get(5)?);
    let digest: Option<String> = r.get(3)?;
    let (ordinal, last) = (Part::Int(r.get(0)?), Part::Int(r.get(2)?));
    let digest_part = Part::Maybe(digest.as_deref());
    let all = [ordinal, Part::Text(&epoch), last, digest_part, Part::Text(&void), Part::Text(&books)];
    sums::verify("epoch", r, 6, &all)?;
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
pub(super) fn load_epochs(sql: &Connection) -> Result<BTreeMap<u32, EpochBook>, BufferError> {
    let mut epochs = BTreeMap::new();
    let mut select = sql.prepare(&format!("SELECT {EPOCH_COLUMNS} FROM epoch"))?;
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

/// Why this must be an older copy of the database, if it must: the lease knows more than it does.
fn older_copy(
    sql: &Connection,
    lease: Option<&Lease>,
    epochs: &BTreeMap<u32, EpochBook>,
) -> Result<Option<String>, BufferError> {
    let Some((lease, (_, newest))) = lease.zip(epochs.iter().next_back()) else { return Ok(None) };
    let ahead = lease.ordinal > newest.ordinal;
    if ahead || (lease.ordinal == newest.ordinal && lease.epoch != newest.epoch) {
        return Ok(Some("the database is older than the lease".to_owned()));
    }
    let opened: Option<i64> = sql.query_row("SELECT opened FROM state", [], |r| r.get(0)).optional()?;
    // Each opening is counted by the database first. Where damage took its count, nothing is known.
    if let Some(opened) = opened.map(uint).filter(|opened| *opened < lease.opened) {
        return Ok(Some(format!(
            "an older copy of the database lies here: it was opened {opened} times, the lease knows of {}",
            lease.opened
        )));
    }
    // The newest batch is never deleted.
    let newest: Option<i64> = sql.query_row("SELECT max(id) FROM batch", [], |r| r.get(0))?;
    let expected = lease.clean.and_then(|c| c.batch);
    let missing = newest.zip(expected).is_some_and(|(id, batch)| uint(id).saturating_add(1) < batch);
    Ok(missing.then(|| "an older copy of the database lies here: its newest batches are gone".to_owned()))
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
    if lease.is_none() {
        // A crash of the very first start: nothing was given out yet.
        let batches: bool = sql.query_row("SELECT EXISTS (SELECT 1 FROM batch)", [], |r| r.get(0))?;
        let fresh = epochs.len() == 1 && !batches && newest.last_number == 0 && found.is_empty();
        return Ok((!fresh).then(|| ("the lease is lost".to_owned(), false)));
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
    let mut last: BTreeMap<Epoch, u64> = BTreeMap::new();
    let of_files = found.iter().map(|f| (f.epoch, f.number.get()));
    let of_lease = lease
        .iter()
        .flat_map(|l| l.segments.keys().copied().chain([(l.epoch, l.number_end.saturating_sub(1))]));
    for (epoch, number) in of_files.chain(of_lease) {
        let known = last.entry(epoch).or_default();
        *known = number.max(*known);
    }
    // The lease's own epoch comes last and has its ordinal, if that is free.
    for (ordinal, epoch) in named {
        if epochs.values().any(|b| b.epoch == epoch) {
            continue;
        }
        let next = epochs.keys().next_back().map_or(0, |o| o + 1);
        let ordinal = ordinal.filter(|o| *o > next).unwrap_or(next);
        let mut book = EpochBook::new(ordinal, epoch);
        book.books.rebuilt = true;
        book.last_number = last.get(&epoch).copied().unwrap_or(0);
        epochs.insert(ordinal, book);
        any = true;
    }
    any
}
