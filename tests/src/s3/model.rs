//! What the server remembers of objects, uploads and parts; written as JSON behind the bytes they describe.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::sums::{Algorithm, Kind, Sum};

/// Headers that an object is given at its creation and returned with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`, which is of the transfer only.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `x-amz-meta-*`, without that prefix.
    pub user: BTreeMap<String, String>,
}

/// One object, as it stands in the index and behind its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Time of creation, milliseconds since 1970.
    pub modified_ms: u64,
    /// The headers it was given.
    pub head: Head,
    /// Its checksum.
    pub sum: Sum,
    /// The multipart upload that made it, so that a repeated Complete is recognised after a restart too.
    pub assembled: Option<Assembled>,
}

/// What a Complete named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assembled {
    /// Upload id.
    pub upload_id: String,
    /// Part numbers and ETags, in order.
    pub parts: Vec<(u16, String)>,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upload {
    /// Upload id; ids sort by time of creation.
    pub id: String,
    /// Key of the object to be.
    pub key: String,
    /// Time of creation, milliseconds since 1970.
    pub initiated_ms: u64,
    /// Headers of the object to be.
    pub head: Head,
    /// Algorithm named at creation; without one S3 computes CRC64NVME by itself.
    pub algorithm: Option<Algorithm>,
    /// What the checksum of the object will cover.
    pub kind: Kind,
    /// Parts by number; kept in files of their own.
    #[serde(skip)]
    pub parts: BTreeMap<u16, Part>,
}

impl Upload {
    /// The algorithm of the finished object.
    pub fn effective_algorithm(&self) -> Algorithm {
        self.algorithm.unwrap_or(Algorithm::Crc64Nvme)
    }
}

/// One part of an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// Its number, 1 to 10,000.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// Raw MD5; in hex it is the ETag.
    pub md5: [u8; 16],
    /// Its checksum.
    pub sum: Sum,
    /// Time of arrival, milliseconds since 1970.
    pub modified_ms: u64,
}

impl Part {
    /// ETag without quotes.
    pub fn etag(&self) -> String {
        super::sums::hex(&self.md5)
    }
}

/// Milliseconds since 1970 by the system's clock.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// The time of `ms` milliseconds since 1970.
pub fn time_of(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}
