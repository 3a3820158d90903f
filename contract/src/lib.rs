//! What the gateway and the cloud must agree on, and nothing else: names, keys, tables, manifest, receipt, status.
//!
//! The prose of the same agreement is `contract/FORMAT.md`; `contract/golden/` holds frozen files of every version.
//! This crate touches neither clock nor disk nor network. Its modules stand in the order in which a reader needs them.

#![forbid(unsafe_code)]

pub mod id;
pub mod time;
pub mod range;
pub mod digest;
pub mod series;
pub mod quality;
pub mod table;
pub mod schema;
pub mod key;
pub mod counters;
pub mod manifest;
pub mod receipt;
pub mod status;
pub mod desired;
pub mod reject;

/// Version of manifest, receipt, status and desired documents written by this crate. Readers accept this and older ones.
pub const FORMAT_VERSION: u32 = 1;
