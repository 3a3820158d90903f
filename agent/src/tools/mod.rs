//! Tools: looking into a buffer, the running agent's or a stopped one's, and trying rejects again.
//!
//! *In:* questions of a person at the gateway. *Out:* tables, JSON, files. *Survives a crash:* nothing; only a retry of
//! rejects changes the buffer, in one transaction each. *Absent:* a second opinion on who owns the buffer. Whoever has the
//! folder's lock owns it: if an agent has, it is asked over its socket in the folder (`control.rs`) and answers between two
//! commits; if none has, the file is opened for reading for moments at a time, so that an agent can start meanwhile
//! (`access.rs`). Everything is read in pages (`crate::buffer::reader`), and what can be done with them is done here.

pub mod access;
pub mod control;
pub mod pick;
pub mod text;
pub mod walk;
pub mod verify;
pub mod stats;
pub mod inspect;
pub mod line;
pub mod parquet;
pub mod export;
pub mod tail;
pub mod rejects;

/// How a tool ended when nothing kept it from its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// All is well.
    Well,
    /// Something is wrong, and was said.
    Faults,
}
