//! Kill anywhere, in process: both programs' real logic on one thread, under a seeded scheduler and a hand-turned clock.
//!
//! **What is real.** The agent's intake, sealing, delivery and report over its buffer (SQLite in a temporary folder); the
//! receiver's passes over its ledger (SQLite), the SQLite catalog and Iceberg commits. **What is a model.** The broker
//! with its sensors ([`broker`]), the bucket ([`bucket`]), files of the warehouse (in memory), the clock, the dice.
//!
//! **A step.** The scheduler ([`world`]) draws who goes on: a loop of one of the programs, polled once; the broker; the
//! link; an operator. Each await gives way, so programs interleave at each of them, and a program may be killed at each:
//! its loops are dropped where they stand, its files stay as they are, and it is started again on them. Programs also die
//! inside a durable step: at the named points of the buffer, and before and after each commit of the ledger.
//!
//! **Then** faults stop, everything is let run dry, and [`oracle`] compares plain arithmetic with what is in the tables.
//!
//! **The same seed gives the same run**: dice, clock, epochs and pauses are drawn from the seed and nothing runs
//! elsewhere. The digest of the trace says so. Ids that only the catalog library draws are not part of it.
//!
//! Absent on purpose: power cuts that lose unsynced bytes, two receivers, real sockets. Other tests have those.

pub mod agent;
pub mod broker;
pub mod bucket;
pub mod campaign;
pub mod counts;
pub mod hub;
pub mod lake;
pub mod manifests;
pub mod oracle;
pub mod receiver;
pub mod script;
pub mod task;
pub mod world;

pub use campaign::{Campaign, Failure, run_seed};
pub use counts::Counts;
