//! Edge: reads the configuration's files and the machine's facts.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::parse::{Facts, Problem, parse};
use super::{Config, Zone};

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// A file can't be read; a sentence says which and why.
    Unreadable(String),
    /// It can be read, but not followed.
    Problems(Vec<Problem>),
}

/// Reads `file`, then `conf.d/*.toml` beside it in the order of their names.
pub fn load(file: &Path) -> Result<Config, LoadError> {
    let mut texts = vec![(file.display().to_string(), read(file)?)];
    let folder = file.parent().unwrap_or_else(|| Path::new(".")).join("conf.d");
    if folder.is_dir() {
        let entries = std::fs::read_dir(&folder).map_err(|e| unreadable(&folder, &e))?;
        let mut more: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        more.retain(|p| p.extension().is_some_and(|e| e == "toml"));
        more.sort();
        for path in more {
            texts.push((path.display().to_string(), read(&path)?));
        }
    }
    let env = |name: &str| std::env::var(name).ok();
    let facts = Facts { env: &env, hostname: hostname(), serial: board_serial(), zones: &Zone::read };
    parse(&texts, &facts).map_err(LoadError::Problems)
}

/// No configuration is longer, bytes. What is (a device, a log named by mistake) would fill the memory.
const LONGEST: u64 = 1 << 20;

fn read(path: &Path) -> Result<String, LoadError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 > LONGEST => {
            let e = io::Error::other("it is longer than 1 MiB, which no configuration is");
            Err(unreadable(path, &e))
        }
        Ok(_) => Ok(text),
        Err(e) => Err(unreadable(path, &e)),
    }
}

fn unreadable(path: &Path, e: &std::io::Error) -> LoadError {
    LoadError::Unreadable(format!("{}: can't be read: {e}; name the file with --config FILE", path.display()))
}

fn one_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!line.is_empty()).then(|| line.to_owned())
}

fn hostname() -> Option<String> {
    one_line("/proc/sys/kernel/hostname")
}

/// The serial number of the board: device tree on ARM, DMI on PCs.
pub fn board_serial() -> Option<String> {
    one_line("/sys/firmware/devicetree/base/serial-number")
        .or_else(|| one_line("/sys/class/dmi/id/board_serial"))
}

/// The machine id of systemd.
pub fn machine_id() -> Option<String> {
    one_line("/etc/machine-id").or_else(|| one_line("/var/lib/dbus/machine-id"))
}
