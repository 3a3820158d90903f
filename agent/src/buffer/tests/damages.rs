//! Hundreds of seeded damages, each on a buffer of its own: it starts, keeps what is intact, and says what is lost.
//!
//! What is intact is decided by `walk.rs`, from the files alone. `TRIBUTARY_LONG=1` makes it ten thousand. The test runs
//! itself again without root's privileges, where it has them: to root no file is read-only and no owner is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Instant;

use fastrand::Rng;
use tributary_contract::reject::GapReason;

use super::walk::{Bytes, intact};
use super::*;

const DAMAGES: u64 = 600;
const LONG: u64 = 10_000;
/// Buffers that are damaged, each by many seeds.
const ORIGINALS: u64 = 16;
const CHILD: &str = "TRIBUTARY_UNPRIVILEGED";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Bits,
    Truncation,
    ZeroPages,
    Garbage,
    NoLog,
    NoLease,
    NoDatabase,
    ReadOnly,
    Unreadable,
    StaleLock,
    Two,
}

const KINDS: [Kind; 11] = [
    Kind::Bits,
    Kind::Truncation,
    Kind::ZeroPages,
    Kind::Garbage,
    Kind::NoLog,
    Kind::NoLease,
    Kind::NoDatabase,
    Kind::ReadOnly,
    Kind::Unreadable,
    Kind::StaleLock,
    Kind::Two,
];

/// A buffer before it is damaged.
struct Original {
    world: World,
    /// Its folder as it was, and one more name of its database: a copy in another file would be told by its inode.
    kept: TempDir,
    files: Bytes,
    root: u32,
    /// Values that each batch in the journal stands for.
    batches: BTreeMap<i64, Vec<i64>>,
    /// Every value that was acknowledged.
    acknowledged: BTreeSet<i64>,
    /// Every (epoch, seq) that was ever given out.
    seqs: BTreeSet<(Epoch, u64)>,
    bucket: BTreeMap<(Epoch, u64), Vec<u8>>,
    now: Timestamp,
    clean: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    damages: u64,
    started: u64,
    batches: u64,
    intact: u64,
    kept: u64,
    twice: u64,
}

/// A batch within one day, whose bytes don't shrink.
fn batch(world: &mut World, rng: &mut Rng, rows: usize) -> NewBatch {
    let first = world.next_value;
    let mut batch = world.batch(rows);
    for (i, reading) in batch.accepted[0].readings.iter_mut().enumerate() {
        reading.ts = Timestamp(START + rng.i64(0..80_000_000_000));
        reading.metric = format!("m{}", (first + i as i64) % 7);
    }
    batch
}

/// A story of a seed, left as a crash or a clean stop leaves it.
fn original(seed: u64) -> Original {
    let mut rng = Rng::with_seed(seed);
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    let (mut acknowledged, mut seqs) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..rng.usize(10..60) {
        match rng.u32(0..20) {
            0..=11 => {
                let rows = match rng.u32(0..8) {
                    0 => rng.usize(500..3000),
                    1 | 2 => rng.usize(30..300),
                    _ => rng.usize(1..8),
                };
                let first = world.next_value;
                let batch = batch(&mut world, &mut rng, rows);
                let appended = buffer.append(batch, &sources()).unwrap();
                seqs.extend(appended.rows.iter().map(|r| (buffer.epoch(), r.seq)));
                acknowledged.extend(first..world.next_value);
            }
            12 | 13 => drop(world.seal(&mut buffer).unwrap()),
            14 | 15 => world.deliver(&mut buffer).unwrap(),
            16 => world.release(&mut buffer).unwrap(),
            17 => drop(buffer.trim(20, &|_| false).unwrap()),
            18 if rng.u32(0..3) == 0 => drop(buffer.new_epoch("a fork", world.now).unwrap()),
            _ => {
                if rng.bool() {
                    buffer.stop().unwrap();
                } else {
                    drop(buffer);
                }
                buffer = world.open().0;
            }
        }
    }
    let mut batches: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let value = |row: &Row| if let Value::Int(value) = row.value { value } else { panic!("{row:?}") };
    let ids = buffer.batches(|_| true).unwrap();
    buffer
        .scan_batches(&ids, |span, rows| {
            batches.insert(span.id, rows.iter().map(value).collect());
        })
        .unwrap();
    let root = buffer
        .sql
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'batch'", [], |r| r.get(0))
        .unwrap();
    let clean = rng.u32(0..5) == 0;
    if clean {
        buffer.stop().unwrap();
    } else {
        drop(buffer);
    }
    let kept = scratch();
    copy(&world.path(""), &kept.path().join("state"));
    fs::hard_link(world.path("buffer.db"), kept.path().join("database")).unwrap();
    let read = |name: &str| fs::read(world.path(name)).unwrap_or_default();
    let files = Bytes { database: read("buffer.db"), log: read("buffer.db-wal") };
    let (bucket, now) = (world.bucket.clone(), world.now);
    Original { world, kept, files, root, batches, acknowledged, seqs, bucket, now, clean }
}

/// Puts everything back to before any damage, the database as the very file that it was.
fn restore(original: &mut Original) {
    let (world, kept) = (&mut original.world, original.kept.path());
    fs::remove_dir_all(world.path("")).unwrap();
    copy(&kept.join("state"), &world.path(""));
    fs::remove_file(world.path("buffer.db")).unwrap();
    fs::set_permissions(kept.join("database"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(kept.join("database"), &original.files.database).unwrap();
    fs::hard_link(kept.join("database"), world.path("buffer.db")).unwrap();
    world.now = original.now;
    world.bucket = original.bucket.clone();
    world.next_value = original.acknowledged.len() as i64;
}

fn change(path: &Path, f: impl FnOnce(&mut Vec<u8>)) {
    let mode = fs::metadata(path).map(|m| m.permissions());
    if let Ok(mode) = mode {
        // It may be unreadable from a damage before this one.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = fs::read(path).unwrap();
        if !bytes.is_empty() {
            f(&mut bytes);
            // In place: the file stays the same file.
            fs::write(path, bytes).unwrap();
        }
        fs::set_permissions(path, mode).unwrap();
    }
}

fn damage(dir: &Path, kind: Kind, rng: &mut Rng) {
    let any = |rng: &mut Rng| {
        let name = ["buffer.db", "buffer.db", "buffer.db-wal", "buffer.db-wal", "lease", "tail"];
        let path = dir.join(name[rng.usize(0..name.len())]);
        if path.exists() { path } else { dir.join("buffer.db") }
    };
    let mode = |path: &Path, mode| {
        if path.exists() {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    match kind {
        Kind::Bits => change(&any(rng), |bytes| {
            for _ in 0..rng.usize(1..9) {
                let at = rng.usize(0..bytes.len());
                bytes[at] ^= 1 << rng.u32(0..8);
            }
        }),
        Kind::Truncation => change(&any(rng), |bytes| bytes.truncate(rng.usize(0..bytes.len()))),
        Kind::ZeroPages => change(&any(rng), |bytes| {
            for _ in 0..rng.usize(1..5) {
                let first = rng.usize(0..bytes.len().div_ceil(512)) * 512;
                let end = (first + 512 * rng.usize(1..17)).min(bytes.len());
                bytes[first..end].fill(0);
            }
        }),
        Kind::Garbage => change(&any(rng), |bytes| {
            let first = rng.usize(0..bytes.len());
            let end = (first + rng.usize(1..6000)).min(bytes.len());
            rng.fill(&mut bytes[first..end]);
        }),
        Kind::NoLog => fs::remove_file(dir.join("buffer.db-wal")).unwrap_or_default(),
        Kind::NoLease => fs::remove_file(dir.join("lease")).unwrap_or_default(),
        Kind::NoDatabase => fs::remove_file(dir.join("buffer.db")).unwrap_or_default(),
        Kind::ReadOnly => mode(&any(rng), 0o444),
        Kind::Unreadable => mode(&any(rng), 0),
        Kind::StaleLock => {
            for name in ["lock", "buffer.db-shm", "lease.tmp", "buffer.db.new"] {
                fs::remove_file(dir.join(name)).unwrap_or_default();
                fs::write(dir.join(name), b"of a life long gone").unwrap();
                mode(&dir.join(name), if rng.bool() { 0o444 } else { 0o644 });
            }
        }
        Kind::Two => {
            for _ in 0..2 {
                let kind = KINDS[rng.usize(0..KINDS.len() - 1)];
                damage(dir, kind, rng);
            }
        }
    }
}

/// Damages a copy and starts on it; panics where a promise is broken.
fn suffer(original: &mut Original, kind: Kind, seed: u64) -> Figures {
    let mut rng = Rng::with_seed(seed);
    restore(original);
    let Original { world, files, root, batches, acknowledged, seqs, clean, .. } = original;
    damage(&world.path(""), kind, &mut rng);
    let read = |name: &str| {
        let path = world.path(name);
        // What can't be read for want of permission has lost nothing.
        let restored = fs::metadata(&path).map(|m| m.permissions());
        if let Ok(mode) = &restored
            && mode.mode() & 0o400 == 0
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let bytes = fs::read(&path).unwrap_or_default();
        if let Ok(mode) = restored {
            fs::set_permissions(&path, mode).unwrap();
        }
        bytes
    };
    let after = Bytes { database: read("buffer.db"), log: read("buffer.db-wal") };
    let intact = intact(files, &after, *root);
    // The end of a log and the note of it gone together: nothing on the disk tells that there was more.
    let untold = tail::parse(&read("tail")).is_none();

    let opened = Buffer::open(&world.settings()).unwrap_or_else(|e| panic!("seed {seed}, {kind:?}: {e}"));
    let (mut buffer, mut events) = (opened.buffer, opened.events);
    let mut rows = Vec::new();
    // After a clean stop not everything is looked at: what is found later costs one more life.
    for life in 0.. {
        let lived = live(world, &mut buffer);
        match lived {
            Ok(found) => {
                rows = found;
                break;
            }
            Err(e) => {
                assert!(life < 3, "seed {seed}, {kind:?}: life {life}: {e}; {events:?}");
                drop(buffer);
                let opened = Buffer::open(&world.settings());
                let opened = opened.unwrap_or_else(|e| panic!("seed {seed}, {kind:?}, again: {e}"));
                buffer = opened.buffer;
                events.extend(opened.events);
            }
        }
    }
    let context = format!("seed {seed}, {kind:?}, clean {clean}: {events:?}");
    // Seqs and numbers: those of the lake agree with each other, and the new ones are new.
    let mut names: BTreeMap<(Epoch, u64), i64> = BTreeMap::new();
    for (epoch, seq, value, _) in &rows {
        let known = names.insert((*epoch, *seq), *value);
        assert!(known.is_none(), "{epoch}/{seq} stands for two readings: {context}");
        let fresh = *value >= acknowledged.len() as i64;
        assert!(!fresh || !seqs.contains(&(*epoch, *seq)), "seq {seq} came again: {context}");
    }
    let mut seen: BTreeMap<i64, [u64; 2]> = BTreeMap::new();
    rows.iter().for_each(|(_, _, value, good)| seen.entry(*value).or_default()[usize::from(*good)] += 1);
    let kept = |id: &i64| batches[id].iter().all(|v| seen.contains_key(v));
    for id in &intact {
        assert!(kept(id), "batch {id} is intact and not kept: {context}");
    }
    let lost: Vec<i64> = acknowledged.iter().filter(|v| !seen.contains_key(v)).copied().collect();
    let gaps = buffer.gaps_to_seal().unwrap();
    let torn = gaps.iter().filter(|g| g.reason == GapReason::Torn).count();
    if !lost.is_empty() && !untold {
        assert!(torn > 0, "{} readings are lost without a word, first {}: {context}", lost.len(), lost[0]);
        assert!(
            buffer.ordinal() > 0 || events.iter().any(|e| matches!(e, OpenEvent::NewEpoch { .. })),
            "{context}"
        );
    }
    for (value, [_, good]) in &seen {
        assert!(*good <= 1, "{value} counts {good} times and nothing says so: {context}");
    }
    Figures {
        damages: 0,
        started: 1,
        batches: batches.len() as u64,
        intact: intact.len() as u64,
        kept: batches.keys().filter(|id| kept(id)).count() as u64,
        twice: seen.values().filter(|[doubtful, good]| doubtful + good > 1).count() as u64,
    }
}

/// Reads back, takes in something new, and delivers everything; gives the lake's rows as (epoch, seq, value, good).
fn live(world: &mut World, buffer: &mut Buffer) -> Result<Vec<(Epoch, u64, i64, bool)>, BufferError> {
    world.read_back(buffer)?;
    world.append(buffer, 3)?;
    while world.seal(buffer)?.is_some() {}
    world.deliver(buffer)?;
    // What sealing asks for as well.
    buffer.gaps_to_seal()?;
    buffer.rejects_to_seal(9)?;
    buffer.alerts_to_seal()?;
    let stats = buffer.stats()?;
    stats.books.counters.check()?;
    assert_eq!(stats.books.counters.readings.waiting(), stats.waiting_rows);
    let mut rows = Vec::new();
    for ((epoch, _), bytes) in &world.bucket {
        let (_, held): Segment = serde_json::from_slice(bytes).unwrap();
        rows.extend(held.into_iter().map(|(seq, value, good)| (*epoch, seq, value, good)));
    }
    Ok(rows)
}

#[test]
fn after_any_damage_the_buffer_starts_keeps_what_is_intact_and_says_what_is_lost() {
    if std::env::var_os(CHILD).is_none() && is_root() {
        return unprivileged(
            "buffer::tests::damages::after_any_damage_the_buffer_starts_keeps_what_is_intact_and_says_what_is_lost",
        );
    }
    let began = Instant::now();
    let mut originals: Vec<Original> = (0..ORIGINALS).map(original).collect();
    let mut figures: BTreeMap<Kind, Figures> = BTreeMap::new();
    let count = if std::env::var_os("TRIBUTARY_LONG").is_some() { LONG } else { DAMAGES };
    let seeds = std::env::var("TRIBUTARY_SEED").ok().and_then(|s| s.parse().ok());
    let mut broken = Vec::new();
    for seed in seeds.map_or(0..count, |seed| seed..seed + 1) {
        let kind = KINDS[seed as usize % KINDS.len()];
        let original = &mut originals[(seed / KINDS.len() as u64 % ORIGINALS) as usize];
        let sum = figures.entry(kind).or_default();
        sum.damages += 1;
        let Ok(one) = catch_unwind(AssertUnwindSafe(|| suffer(original, kind, seed))) else {
            broken.push((seed, kind));
            continue;
        };
        sum.started += one.started;
        sum.batches += one.batches;
        sum.intact += one.intact;
        sum.kept += one.kept;
        sum.twice += one.twice;
    }
    println!(
        "{:12} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "", "damages", "started", "batches", "intact", "kept", "twice"
    );
    for (kind, f) in &figures {
        let Figures { damages, started, batches, intact, kept, twice } = f;
        let kind = format!("{kind:?}");
        println!("{kind:12} {damages:>7} {started:>7} {batches:>7} {intact:>7} {kept:>7} {twice:>7}");
    }
    println!("{:.1} s", began.elapsed().as_secs_f64());
    assert!(broken.is_empty(), "{} broken promises, seeds {broken:?}", broken.len());
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|s| s.lines().any(|l| l.starts_with("CapEff:") && !l.ends_with("0000000000000000")))
}

/// Runs a test of this program again, without any capability.
fn unprivileged(test: &str) {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    let output = command.output().expect("setpriv, of util-linux, runs the test without privileges");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "the test itself ran: {said}");
}
