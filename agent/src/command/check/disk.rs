//! The folder: whether it can be written, on what it lies, how much is free, how long making something durable takes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Finding;
use crate::config::Config;
use crate::tools::text::bytes;

/// How often a block is written and made durable: the median counts.
const TRIES: usize = 9;
/// Bytes of a block of most file systems.
const BLOCK: usize = 4096;
/// File systems that are gone with the power, by their magic numbers: tmpfs, ramfs.
const IN_MEMORY: [i128; 2] = [0x0102_1994, 0x8584_58f6];

/// What was found out.
struct Disk {
    free: u64,
    in_memory: bool,
    /// How long a block takes to be durable; the error says why none can be written. None where the folder isn't there.
    sync: Option<io::Result<Duration>>,
}

/// Looks at the folder; writes a block there, and takes it away again.
pub(super) fn disk(config: &Config) -> Vec<Finding> {
    let dir = &config.state_dir;
    let shown = dir.display();
    match fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => {
            return vec![Finding::Bad(format!("state_dir {shown} is no folder; name another"))];
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return vec![Finding::Bad(format!("state_dir {shown}: {e}"))],
    }
    match look(dir) {
        Ok(disk) => judge(config, &disk),
        Err(e) => vec![Finding::Bad(format!("the file system of state_dir {shown} can't be looked at: {e}"))],
    }
}

fn look(dir: &Path) -> io::Result<Disk> {
    let mut there: PathBuf = dir.to_owned();
    while !there.exists() && there.pop() {}
    if there.as_os_str().is_empty() {
        there.push(".");
    }
    let (stat, kind) = (rustix::fs::statvfs(&there)?, rustix::fs::statfs(&there)?);
    // Its type differs from one kind of machine to the other.
    let kind = i128::from(kind.f_type) & 0xffff_ffff;
    let sync = dir.exists().then(|| time_sync(dir));
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    Ok(Disk { free, in_memory: IN_MEMORY.contains(&kind), sync })
}

fn time_sync(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(format!("check-{}.tmp", std::process::id()));
    let timed = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut times = Vec::with_capacity(TRIES);
        for _ in 0..TRIES {
            let began = Instant::now();
            file.write_all(&[0x5a; BLOCK])?;
            file.sync_data()?;
            times.push(began.elapsed());
        }
        times.sort();
        Ok(times.get(TRIES / 2).copied().unwrap_or_default())
    })();
    match fs::remove_file(&path) {
        Err(e) if timed.is_ok() => Err(e),
        _ => timed,
    }
}

fn judge(config: &Config, disk: &Disk) -> Vec<Finding> {
    let shown = config.state_dir.display();
    let mut findings = Vec::new();
    findings.push(match &disk.sync {
        None => {
            Finding::Note(format!("state_dir {shown} isn't there yet; the agent makes it at its first start"))
        }
        Some(Err(e)) => Finding::Bad(format!(
            "state_dir {shown} can't be written: {e}; change its owner or mode, or run this as the agent's user"
        )),
        Some(Ok(took)) => {
            let ms = took.as_secs_f64() * 1e3;
            let interval = u64::try_from(config.buffer.commit_interval).unwrap_or(0);
            // A commit writes a few blocks: where each takes a tenth of the interval, they take most of it.
            if took.as_micros() * 10 > u128::from(interval) {
                Finding::Note(format!(
                    "state_dir {shown}: a block takes {ms:.1} ms to be durable, too long for commits every {} ms; raise \
                     buffer.commit_interval, or use another disk",
                    interval / 1000
                ))
            } else {
                Finding::Good(format!("state_dir {shown}: a block is durable within {ms:.1} ms"))
            }
        }
    });
    if disk.in_memory {
        findings.push(Finding::Note(format!(
            "state_dir {shown} lies in memory: what is acknowledged there is gone with the power; use a disk"
        )));
    }
    let (free, least, most) = (disk.free, config.buffer.min_free, config.buffer.max_bytes);
    let (has, must, may) = (bytes(free), bytes(least), bytes(most));
    findings.push(if free < least {
        Finding::Bad(format!(
            "disk: {has} are free, buffer.min_free is {must}: nothing would be taken in; make room, or lower it"
        ))
    } else if free < least.saturating_add(most) {
        Finding::Note(format!(
            "disk: {has} are free; the buffer may grow to {may} and must leave {must}: it will stop before that"
        ))
    } else {
        Finding::Good(format!("disk: {has} are free; the buffer may grow to {may} and must leave {must}"))
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Decoder;
    use crate::ingest::decode::tests::{config, source};

    fn said(free: u64, in_memory: bool, sync: Option<io::Result<Duration>>) -> Vec<String> {
        let mut config = config(vec![source("#", Decoder::Auto)]);
        (config.buffer.min_free, config.buffer.max_bytes) = (100, 1000);
        config.buffer.commit_interval = 1_000_000;
        judge(&config, &Disk { free, in_memory, sync }).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_disk_that_is_slow_full_in_memory_or_forbidden_is_told_apart() {
        let fast = || Some(Ok(Duration::from_millis(5)));
        let well = said(2000, false, fast());
        assert!(well.iter().all(|s| s.starts_with("ok")) && well[0].contains("within 5.0 ms"), "{well:?}");
        assert!(said(2000, false, Some(Ok(Duration::from_millis(150))))[0].starts_with("warn  "));
        assert!(said(2000, false, None)[0].contains("isn't there yet"));
        assert!(said(2000, true, fast())[1].contains("in memory"));
        assert!(said(99, false, fast())[1].starts_with("FAIL  disk"));
        assert!(said(1099, false, fast())[1].starts_with("warn  disk"));
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(said(2000, false, Some(Err(denied)))[0].starts_with("FAIL  state_dir"));
    }

    #[test]
    fn a_look_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let disk = look(dir.path()).unwrap();
        assert!(disk.sync.unwrap().is_ok() && disk.free > 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(look(&dir.path().join("not/there/yet")).unwrap().sync.is_none());
    }
}
