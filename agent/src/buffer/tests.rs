//! A world for the buffer's promises: a folder, a script of crashes, a bucket that remembers, and plain arithmetic.

mod backfill;
mod damage;
mod damages;
mod model;
mod promises;
mod reading;
mod requests;
mod senseless;
mod thin;
mod versions;
mod walk;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::MessageCounters;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number, SegmentId};
use tributary_contract::key::SegmentKey;
use tributary_contract::manifest::Manifest;
use tributary_contract::quality::Quality;
use tributary_contract::table::Table;
use tributary_contract::time::{Day, Timestamp};

use super::*;
use crate::reading::{Accepted, Reading, Rejected, Value};

/// Lets the buffer die at the n-th point, and remembers which points it passed.
#[derive(Default)]
struct Script {
    left: Mutex<Option<usize>>,
    seen: Mutex<Vec<&'static str>>,
}

impl Faults for Script {
    fn hit(&self, point: &'static str) -> io::Result<()> {
        self.seen.lock().unwrap().push(point);
        let mut left = self.left.lock().unwrap();
        match left.as_mut() {
            Some(0) => Err(io::Error::other("crash")),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Seals a segment whose bytes are at hand.
fn finish_seal(
    buffer: &mut Buffer,
    sealing: &Sealing,
    key: &SegmentKey,
    bytes: &[u8],
    manifest: &Manifest,
    contents: &Contents,
) -> Result<Digest, BufferError> {
    let mut draft = buffer.draft(sealing)?;
    draft.write_all(bytes).unwrap();
    buffer.finish_seal(sealing, key, draft, manifest, contents)
}

impl Script {
    fn die_after(&self, points: usize) {
        *self.left.lock().unwrap() = Some(points);
    }

    fn live(&self) {
        *self.left.lock().unwrap() = None;
    }
}

/// A segment as these tests encode it: manifest, and (seq, value, good) of each row.
type Segment = (Manifest, Vec<(u64, i64, bool)>);

struct World {
    dir: TempDir,
    script: Arc<Script>,
    fingerprint: String,
    now: Timestamp,
    next_value: i64,
    bucket: BTreeMap<(Epoch, u64), Vec<u8>>,
}

const GATEWAY: &str = "gw-1";
/// 2026-01-01T00:00:00 UTC.
const START: i64 = 1_767_225_600_000_000;

fn sources() -> Vec<SourceFacts> {
    let source = |name: &str, namespace: Namespace, max_series, priority| SourceFacts {
        name: name.into(),
        namespace,
        max_series,
        max_device_series: max_series,
        priority,
        kept: false,
    };
    vec![
        source("plant", Namespace::default(), 10, 5),
        source("office", Namespace::new("office").unwrap(), 1, 5),
        source("hall", Namespace::default(), 10, 2),
    ]
}

/// In memory where there is a file system for that: nothing here depends on a disk.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

fn reading(metric: &str, value: Value, ts: Timestamp) -> Reading {
    Reading {
        ts,
        device: "boiler".into(),
        metric: metric.into(),
        tags: Default::default(),
        row_tags: Default::default(),
        value,
        unit: None,
        quality: Quality::GOOD,
        kept_back: false,
    }
}

impl World {
    fn new() -> Self {
        Self {
            dir: scratch(),
            script: Arc::default(),
            fingerprint: "board-1".into(),
            now: Timestamp(START),
            next_value: 0,
            bucket: BTreeMap::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("state").join(name)
    }

    fn settings(&self) -> OpenSettings {
        OpenSettings {
            dir: self.dir.path().join("state"),
            gateway: GatewayId::new(GATEWAY).unwrap(),
            now: self.now,
            fingerprint: self.fingerprint.clone(),
            faults: self.script.clone(),
        }
    }

    fn open(&mut self) -> (Buffer, Vec<OpenEvent>) {
        self.now = self.now.plus(1_000_000);
        let opened = Buffer::open(&self.settings()).unwrap();
        (opened.buffer, opened.events)
    }

    /// A batch of `rows` readings whose values count on, an hour of event time apart.
    fn batch(&mut self, rows: usize) -> NewBatch {
        self.now = self.now.plus(1_000_000);
        let one = |i: usize| {
            let value = self.next_value + i as i64;
            reading(["t", "p"][i % 2], Value::Int(value), Timestamp(START + value * 3_600_000_000))
        };
        let readings: Vec<Reading> = (0..rows).map(one).collect();
        self.next_value += rows as i64;
        NewBatch {
            accepted: vec![Accepted { source: 0, received_at: self.now, readings }],
            messages: MessageCounters { received: 1, accepted: 1, ..Default::default() },
            committed_at: self.now,
            ..Default::default()
        }
    }

    fn append(&mut self, buffer: &mut Buffer, rows: usize) -> Result<Appended, BufferError> {
        let batch = self.batch(rows);
        buffer.append(batch, &sources())
    }

    /// The same with every third reading from the source of least priority.
    fn append_mixed(&mut self, buffer: &mut Buffer, rows: usize) -> Result<Appended, BufferError> {
        let mut batch = self.batch(rows);
        let mut of_hall = batch.accepted.clone();
        for (message, is_hall) in [(&mut batch.accepted, false), (&mut of_hall, true)] {
            let keep = |r: &Reading| matches!(r.value, Value::Int(v) if (v % 3 == 0) == is_hall);
            message.iter_mut().for_each(|m| m.readings.retain(keep));
        }
        of_hall.iter_mut().for_each(|m| m.source = 2);
        // What goes last comes first: the buffer puts it in order.
        batch.accepted.extend(of_hall);
        batch.messages = MessageCounters { received: 2, accepted: 2, ..Default::default() };
        buffer.append(batch, &sources())
    }

    /// The same as [`World::append`], where every other reading lies in a deadband.
    fn append_kept(&mut self, buffer: &mut Buffer, rows: usize) -> Result<Appended, BufferError> {
        let mut batch = self.batch(rows);
        for reading in batch.accepted.iter_mut().flat_map(|m| &mut m.readings) {
            reading.kept_back = matches!(reading.value, Value::Int(v) if v % 2 == 1);
        }
        buffer.append(batch, &sources())
    }

    /// Gives up the first `batches` that are to go; the first half of each is represented. Tells how many readings.
    fn give_up(&mut self, buffer: &mut Buffer, batches: usize) -> Result<GivenUp, BufferError> {
        let priority = |name: &str| sources().iter().find(|s| s.name == name).map_or(9, |s| s.priority);
        let mut cuts = Vec::new();
        for batch in buffer.first_to_go(&priority).into_iter().take(batches) {
            if let Some(waits) = buffer.waits(batch)? {
                let half = waits.rows.len() / 2;
                let fate = |i| if i < half { Fate::Summarised } else { Fate::Shed };
                cuts.push(Cut { batch, fates: (0..waits.rows.len()).map(fate).collect() });
            }
        }
        let recall = Recall { since: self.now.plus(-5_000_000), readings: 100, in_flight: 0 };
        buffer.give_up(&cuts, recall, self.now)
    }

    fn manifest(
        &self,
        sealing: &Sealing,
        namespace: &Namespace,
        table: Table,
        day: Day,
        rows: u64,
    ) -> Manifest {
        let mut counters = sealing.counters;
        counters.readings.sealed += if table == Table::Readings { rows } else { 0 };
        let seq = (table == Table::Readings).then_some(1);
        Manifest {
            version: FORMAT_VERSION,
            gateway: GatewayId::new(GATEWAY).unwrap(),
            epoch: sealing.epoch,
            number: sealing.number,
            previous: sealing.previous,
            namespace: namespace.clone(),
            table,
            day,
            rows,
            min_seq: seq,
            max_seq: seq,
            min_ts: day.start(),
            max_ts: day.start(),
            watermark: None,
            void: sealing.void.clone(),
            outstanding: sealing.outstanding.clone(),
            closed: sealing.closed.clone(),
            counters,
            status: Default::default(),
        }
    }

    /// Seals the first group that waits; none if nothing does.
    fn seal(&mut self, buffer: &mut Buffer) -> Result<Option<Number>, BufferError> {
        let Some(group) = buffer.rows_to_seal().into_iter().next() else { return Ok(None) };
        let sealing = buffer.begin_seal()?;
        let Some(contents) = buffer.pick_rows(&group.namespace, group.day, 1000, 1 << 20)? else {
            return Ok(None);
        };
        let mut taken = Vec::new();
        buffer.each_row(&contents, |row| taken.push(row))?;
        let manifest =
            self.manifest(&sealing, &group.namespace, Table::Readings, group.day, taken.len() as u64);
        manifest.counters.check().unwrap();
        let rows = taken.iter().map(|row| {
            let Value::Int(value) = row.value else { panic!("{row:?}") };
            (row.seq, value, row.quality.is_good())
        });
        let segment: Segment = (manifest.clone(), rows.collect());
        let bytes = serde_json::to_vec(&segment).unwrap();
        finish_seal(buffer, &sealing, &manifest.key(), &bytes, &manifest, &contents)?;
        Ok(Some(sealing.number))
    }

    /// Sends everything that is due.
    fn deliver(&mut self, buffer: &mut Buffer) -> Result<(), BufferError> {
        for entry in buffer.due(self.now, usize::MAX)? {
            let bytes = std::fs::read(buffer.segment_path(entry.epoch, entry.number)).unwrap();
            assert_eq!(Digest::of(&bytes), entry.digest);
            let there = self.bucket.entry((entry.epoch, entry.number.get())).or_insert(bytes.clone());
            assert_eq!(*there, bytes, "one name, two contents: {}/{}", entry.epoch, entry.number);
            buffer.delivered(entry.epoch, entry.number, self.now, self.now)?;
        }
        Ok(())
    }

    /// Lets go of everything that is delivered.
    fn release(&mut self, buffer: &mut Buffer) -> Result<(), BufferError> {
        let all = buffer.entries()?;
        let delivered = all.iter().filter(|e| matches!(e.state, Progress::Delivered { .. }));
        buffer.release(&delivered.map(|e| (e.epoch, e.number)).collect::<Vec<_>>())
    }

    /// Reads back what is pending, from the folder, else from the bucket, else void.
    fn read_back(&mut self, buffer: &mut Buffer) -> Result<Vec<Adopted>, BufferError> {
        let mut out = Vec::new();
        for item in buffer.pending_readback() {
            let file = item.file.as_ref().and_then(|path| std::fs::read(path).ok());
            let bytes = file.or_else(|| self.bucket.get(&(item.epoch, item.number.get())).cloned());
            match bytes {
                Some(bytes) => {
                    let (manifest, rows): Segment = serde_json::from_slice(&bytes).unwrap();
                    let contents = ReadbackContents::Seqs(rows.iter().map(|r| r.0).collect());
                    let (size, digest) = (bytes.len() as u64, Digest::of(&bytes));
                    out.push(buffer.adopt(&item, &manifest, &contents, size, digest, self.now)?);
                }
                None => buffer.declare_void(item.epoch, item.number)?,
            }
        }
        buffer.finish_readback(self.now)?;
        Ok(out)
    }

    /// Everything into the bucket, then its rows as (value, good).
    fn drain(&mut self, buffer: &mut Buffer) -> Vec<(i64, bool)> {
        while self.seal(buffer).unwrap().is_some() {}
        self.deliver(buffer).unwrap();
        self.check(buffer);
        let mut rows = Vec::new();
        for bytes in self.bucket.values() {
            let (manifest, held): Segment = serde_json::from_slice(bytes).unwrap();
            assert_eq!(manifest.rows, held.len() as u64);
            rows.extend(held.iter().map(|r| (r.1, r.2)));
        }
        rows.sort_unstable();
        rows
    }

    /// The laws, and that the computed sides agree with what is there.
    fn check(&self, buffer: &mut Buffer) {
        let stats = buffer.stats().unwrap();
        let counters = stats.books.counters;
        counters.check().unwrap();
        assert_eq!(counters.readings.waiting(), stats.waiting_rows, "{counters:?}");
        let entries = buffer.entries().unwrap();
        let outstanding = |e: &&Entry| e.epoch == stats.epoch && e.state.outstanding();
        let rows: u64 = entries.iter().filter(outstanding).map(|e| e.rows).sum();
        assert_eq!(counters.readings.outstanding(), rows, "{counters:?}");
        assert_eq!(
            stats.outstanding.iter().flat_map(|(a, b)| a..=b).collect::<Vec<_>>(),
            entries.iter().filter(outstanding).map(|e| e.number.get()).collect::<Vec<_>>()
        );
    }
}

/// What was acknowledged, each once, in order.
fn once(values: impl IntoIterator<Item = i64>) -> Vec<(i64, bool)> {
    values.into_iter().map(|v| (v, true)).collect()
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for found in std::fs::read_dir(from).unwrap() {
        let (path, name) = found.map(|f| (f.path(), f.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name))
        } else {
            std::fs::copy(&path, to.join(name)).map(|_| ()).unwrap()
        }
    }
}
