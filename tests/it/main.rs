//! Both programs as real processes, end to end: killed, doubled, cut off, fed with rubbish.
//!
//! Each test has a world of its own; what must hold is that every message the agent acknowledged is in the table once,
//! however often anything was killed, and that what can't be so is said in a sentence.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that can't go on ends there")]

mod kills;
mod neighbours;
mod rubbish;
mod outages;
mod redeliveries;
mod brokers;
mod refusals;
mod inflight;
mod storm;
mod bucket_faults;
mod bucket_kills;
mod multipart;
mod credentials;
mod upload_answers;
mod budgets;
mod backfill;
mod commands;
mod tools;
mod decoders;
mod sparkplug;
mod edge;
mod deleted;
mod buffers;
mod clock;
mod recovery;
mod link;
mod narrow;
mod house_rules;
