//! The bucket as the receiver needs it: list, read, look, write under a condition, copy.
//!
//! In: keys and bytes. Out: what the bucket answered, each failure classified once. Nothing here is durable by itself:
//! a write has happened when the bucket said so, and may have happened when it said nothing. Absent on purpose: delete
//! (the receiver deletes nothing that a gateway wrote) and retries (the loops look again).

pub mod memory;
pub mod s3;

use async_trait::async_trait;
use bytes::Bytes;
use tributary_contract::time::Timestamp;

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Keys that begin so.
    pub prefix: String,
    /// Only keys that sort behind this one.
    pub start_after: Option<String>,
    /// Whether keys with a `/` behind the prefix are folded into folders.
    pub folders: bool,
    /// Where the page before ended.
    pub page: Option<String>,
    /// At most so many objects and folders; the bucket's own limit is 1000.
    pub limit: usize,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects in the order of their keys.
    pub objects: Vec<Listed>,
    /// Folders, with the prefix and the closing `/`.
    pub folders: Vec<String>,
    /// What to pass as [`Query::page`] for the next page; none after the last.
    pub next: Option<String>,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// The bucket's name for these bytes.
    pub etag: String,
    /// When it was written, by the bucket's clock.
    pub modified: Timestamp,
}

/// An object that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// All bytes, or the last ones if a tail was asked for.
    pub bytes: Bytes,
    /// The bucket's name for these bytes.
    pub etag: String,
    /// `x-amz-meta-tributary-digest`, as it stands there.
    pub digest: Option<String>,
}

/// How much of an object to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it, if it isn't longer than so many bytes.
    Whole {
        /// The greatest length taken.
        limit: u64,
    },
    /// The last so many bytes.
    Tail {
        /// How many.
        bytes: u64,
    },
}

/// What reading found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// The object.
    Object(Object),
    /// No object has this key.
    Absent,
    /// It is longer than the limit.
    TooLarge {
        /// Its bytes.
        size: u64,
    },
}

/// Under which condition to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// In any case.
    Always,
    /// Only if no object has this key.
    Absent,
    /// Only if the object still has this etag.
    Matches(String),
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// Written; its etag.
    Done(String),
    /// The condition didn't hold: nothing was written.
    Conflict,
}

/// A request that wasn't answered as hoped. The same request may be tried again later; a write may have happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bucket: {what}: {why}")]
pub struct BucketError {
    /// Operation and key.
    pub what: String,
    /// What was answered.
    pub why: String,
}

/// The operations.
#[async_trait]
pub trait Bucket: Send + Sync {
    /// One page of a listing.
    async fn list(&self, query: &Query) -> Result<Page, BucketError>;
    /// Reads the object at `key`.
    async fn get(&self, key: &str, extent: Extent) -> Result<Got, BucketError>;
    /// The etag of the object at `key`; `None` if there is none.
    async fn head(&self, key: &str) -> Result<Option<String>, BucketError>;
    /// Writes `bytes` at `key`.
    async fn put(&self, key: &str, bytes: Bytes, kind: &str, when: &When) -> Result<Put, BucketError>;
    /// Copies the object at `from`, of at most 5 GB, to `to`.
    async fn copy(&self, from: &str, to: &str) -> Result<(), BucketError>;
}
