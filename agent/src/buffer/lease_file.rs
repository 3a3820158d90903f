//! The lease on disk: lines appended and synced before what they allow is done. Edge: files.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use tributary_contract::id::Epoch;

use super::error::{BufferError, io};
use super::files::Files;
use super::lease::{self, Clean, Lease, Named};

/// Seqs leased at a time: a sync more per so many readings.
pub const SEQ_BLOCK: u64 = 1 << 20;

/// Numbers leased at a time; so many at most become void by a crash.
pub const NUMBER_BLOCK: u64 = 16;

/// Bytes of the file beyond which it is worth writing anew.
pub const COMPACT_AT: u64 = 64 << 10;

/// The open file and what it says.
pub struct LeaseFile {
    path: PathBuf,
    /// None until it is first replaced.
    file: Option<File>,
    bytes: u64,
    now: Lease,
}

impl LeaseFile {
    /// Writes the file anew, in one step that a power cut can't halve.
    pub fn replace(files: &Files, lease: Lease) -> Result<Self, BufferError> {
        let (path, text) = (files.lease(), lease.to_text());
        files.hit("lease: before it is replaced")?;
        files.prepare(&path, text.as_bytes())?;
        files.appear(&path)?;
        files.hit("lease: replaced")?;
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(io(format!("can't open {}", path.display())))?;
        Ok(Self { path, file: Some(file), bytes: text.len() as u64, now: lease })
    }

    /// A lease as it was found; [`LeaseFile::replace`] must come before anything is given out.
    pub fn found(files: &Files, lease: Lease) -> Self {
        Self { path: files.lease(), file: None, bytes: 0, now: lease }
    }

    /// What the file says.
    pub const fn now(&self) -> &Lease {
        &self.now
    }

    /// Whether the file has grown enough to be written anew.
    pub const fn is_long(&self) -> bool {
        self.bytes > COMPACT_AT
    }

    /// Makes every seq below `end` usable.
    pub fn need_seq(&mut self, files: &Files, end: u64) -> Result<(), BufferError> {
        if end <= self.now.seq_end {
            return Ok(());
        }
        let end = end.saturating_add(SEQ_BLOCK);
        self.append(files, &lease::lease_line(end, self.now.number_end))?;
        self.now.seq_end = end;
        Ok(())
    }

    /// Names a segment that is about to appear, and leases its number.
    pub fn name_segment(
        &mut self,
        files: &Files,
        epoch: Epoch,
        number: u64,
        named: Named,
    ) -> Result<(), BufferError> {
        let mut text = String::new();
        let mut end = self.now.number_end;
        if number >= end {
            end = number.saturating_add(NUMBER_BLOCK);
            text = lease::lease_line(self.now.seq_end, end);
        }
        text += &lease::segment_line(epoch, number, &named);
        self.append(files, &text)?;
        self.now.number_end = end;
        self.now.segments.insert((epoch, number), named);
        Ok(())
    }

    /// Marks a clean stop.
    pub fn stop(&mut self, files: &Files, clean: Clean) -> Result<(), BufferError> {
        self.append(files, &lease::clean_line(clean))
    }

    /// Notes how often the database was opened, after it says so itself.
    pub fn opened(&mut self, files: &Files, times: u64) -> Result<(), BufferError> {
        self.append(files, &lease::opened_line(times))?;
        self.now.opened = times;
        Ok(())
    }

    fn append(&mut self, files: &Files, text: &str) -> Result<(), BufferError> {
        files.hit("lease: before a line")?;
        let write = |file: &mut File| {
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        let file = self.file.as_mut();
        let file = file.ok_or_else(|| BufferError::Corrupt("the lease isn't written yet".into()))?;
        write(file).map_err(io(format!("can't write {}", self.path.display())))?;
        self.bytes += text.len() as u64;
        files.hit("lease: line written")
    }
}
