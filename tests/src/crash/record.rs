//! The log of a campaign: a JSON line a round, from which an interrupted one goes on.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::counts::Counts;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The campaign.
    pub seed: u64,
    /// Number of the round, from 1.
    pub round: u64,
    /// MQTT version and broker.
    pub world: String,
    /// Why the round failed; a failed one is run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What is known of one campaign.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    seed: u64,
    entries: Vec<Entry>,
}

impl Record {
    /// Reads the rounds of `seed` from the log at `path`, if there is one. A line that a kill cut short is left out.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn open(path: &Path, seed: u64) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        };
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let entries = entries.filter(|entry| entry.seed == seed).collect();
        Ok(Self { path: path.to_owned(), seed, entries })
    }

    /// Rounds that were run to their end and passed.
    #[must_use]
    pub fn passed(&self) -> BTreeSet<u64> {
        self.entries.iter().filter(|entry| entry.failed.is_none()).map(|entry| entry.round).collect()
    }

    /// How often a round failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.entries.iter().filter(|entry| entry.failed.is_some()).count()
    }

    /// The sums over all rounds that passed, each counted once.
    #[must_use]
    pub fn sums(&self) -> Counts {
        let (mut sums, mut seen) = (Counts::default(), BTreeSet::new());
        for entry in self.entries.iter().filter(|entry| entry.failed.is_none()) {
            if seen.insert(entry.round) {
                sums.add(&entry.counts);
            }
        }
        sums
    }

    /// Appends a round.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn append(
        &mut self,
        round: u64,
        world: String,
        outcome: Result<Counts, String>,
    ) -> anyhow::Result<()> {
        let (counts, failed) = match outcome {
            Ok(counts) => (counts, None),
            Err(why) => (Counts::default(), Some(why)),
        };
        let entry = Entry { seed: self.seed, round, world, failed, counts };
        let write = || -> std::io::Result<()> {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            let mut line = Vec::new();
            if fs::read(&self.path)?.last().is_some_and(|last| *last != b'\n') {
                line.push(b'\n'); // a kill cut the last one short
            }
            serde_json::to_writer(&mut line, &entry)?;
            line.push(b'\n');
            file.write_all(&line)
        };
        write().with_context(|| format!("can't write {}", self.path.display()))?;
        self.entries.push(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_goes_on_where_it_was_interrupted_and_failed_rounds_are_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/crash.jsonl");
        let counts = |rows| Counts { rows, ..Counts::default() };
        let mut record = Record::open(&path, 1).unwrap();
        record.append(1, "w".into(), Ok(counts(5))).unwrap();
        record.append(2, "w".into(), Err("lost one".into())).unwrap();
        record.append(3, "w".into(), Ok(counts(7))).unwrap();
        Record::open(&path, 2).unwrap().append(1, "w".into(), Ok(counts(100))).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"seed":1,"round":4,"wor"#).unwrap();

        let again = Record::open(&path, 1).unwrap();
        assert_eq!(again.passed(), BTreeSet::from([1, 3]));
        assert_eq!((again.failed(), again.sums().rows), (1, 12));
        let mut other = Record::open(&path, 2).unwrap();
        other.append(2, "w".into(), Ok(counts(1))).unwrap();
        assert_eq!(Record::open(&path, 2).unwrap().sums().rows, 101);
    }
}
