//! Validation: an object is believed only if key, digest, footer, manifest, schema and rows agree.
//!
//! In: an object's bytes and what its key and metadata claim. Out: [`Accepted`], with all that registration needs, or
//! [`Refused`], with a code and a sentence for people. A crash loses nothing: the verdict stands in the ledger or is
//! reached again. Absent on purpose: repair, and trust in what a writer says of its own file. Statistics can lie, so
//! rows are read; every column is decoded once, for a page that can't be decoded would break each query of the table.

pub mod check;
pub mod content;
pub mod inspect;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parquet::file::metadata::ParquetMetaData;
use tributary_contract::digest::Digest;
use tributary_contract::key::SegmentKey;
use tributary_contract::manifest::Manifest;
use tributary_contract::reject::QuarantineReason;

/// The longest object that is read, in bytes.
pub const MAX_OBJECT_BYTES: u64 = 64 << 20;
/// The most bytes that all columns of a file may inflate to.
pub const MAX_INFLATED_BYTES: u64 = 1 << 30;

/// A segment that may be registered.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What its key says; the manifest agrees.
    pub key: SegmentKey,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its Parquet footer.
    pub footer: Arc<ParquetMetaData>,
}

/// An object that must not be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Code.
    pub reason: QuarantineReason,
    /// What was expected, what was got.
    pub detail: String,
    /// Digest of its bytes, if they were read.
    pub digest: Option<Digest>,
}

impl Refused {
    /// A refusal before any byte was read.
    pub fn unread(reason: QuarantineReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), digest: None }
    }
}
