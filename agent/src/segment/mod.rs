//! Segments: rows of one table and one UTC day as one Parquet file that never changes.
//!
//! **What comes in.** Summaries of what waits in the buffer ([`plan`]), then the rows themselves ([`parquet::Builder`]).
//!
//! **What goes out.** The bytes of a file and their digest. The file is complete in itself: its footer holds the
//! manifest, its rows say which segment brought them, and the receiver may register it as a data file as it is.
//!
//! **Why it never changes.** Number and digest are the segment's identity: the receiver counts a row once because the
//! same number always means the same bytes. So nothing is encoded twice under one number. The same rows give the same
//! bytes all the same (no time, no random names, no version of the agent in the file), which lets tests say so, but
//! nothing relies on it: another version of a library may well make other bytes.
//!
//! **What survives a crash.** Nothing here: rows lie in the journal until the transaction that seals them, the file's
//! bytes are made durable by the buffer. [`readback`] tells, from a file alone, what the buffer must know of it.
//!
//! **What is deliberately absent.** Disk, clock, and any choice by time of day: a stop seals nothing that isn't due.

pub mod plan;
pub mod encoding;
pub mod columns;
pub mod parquet;
pub mod readback;

#[cfg(test)]
mod tests;
