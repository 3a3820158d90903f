//! Reads what the kernel counts of writing: by this process, and to the device of a folder. Edge: `/proc`, `/sys`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::status::flash::Sample;

/// Where the counters of one folder's device are.
#[derive(Debug, Clone)]
pub struct Counters {
    /// The device's `stat`; none where the folder isn't on a device of its own kind, as in memory.
    device: Option<PathBuf>,
}

impl Counters {
    /// Those of the device that holds `folder`: the whole device, not its partition.
    pub fn of(folder: &Path) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let found = fs::metadata(folder).ok().and_then(|meta| {
            let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
            let node = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
            let whole = if node.join("partition").exists() { node.parent()?.to_owned() } else { node };
            Some(whole.join("stat"))
        });
        Self { device: found.filter(|path| path.exists()) }
    }

    /// The counters now. What can't be read counts nothing.
    pub fn read(&self) -> Sample {
        let own = fs::read_to_string("/proc/self/io").map_or(0, |text| written(&text));
        let device = self.device.as_ref().and_then(|path| sectors(&fs::read_to_string(path).ok()?));
        Sample { own, device: device.map(|sectors| sectors.saturating_mul(512)) }
    }
}

/// Bytes that a process caused to be written, from the text of its `io`.
fn written(text: &str) -> u64 {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    of("write_bytes:").saturating_sub(of("cancelled_write_bytes:"))
}

/// Sectors of 512 bytes written, from the text of a device's `stat`.
fn sectors(text: &str) -> Option<u64> {
    text.split_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read_as_its_documentation_has_them() {
        let io = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
        assert_eq!(written(io), 4096);
        assert_eq!(written("nothing"), 0);
        assert_eq!(sectors("  10 11 12 13  20 21 4242 23 0 24 25\n"), Some(4242));
        assert_eq!(sectors("1 2"), None);
    }

    #[test]
    fn a_folder_that_is_on_no_device_has_no_counter_of_one() {
        assert_eq!(Counters::of(Path::new("/proc")).read().device, None);
        assert_eq!(Counters::of(Path::new("/nowhere")).read().device, None);
    }
}
