//! What the agent needs of a bucket, as a trait: the real one is `s3.rs`, the one for tests `memory.rs`.

use std::fs::File;
use std::future::Future;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;
use tributary_contract::digest::Digest;

use super::answer::Answer;
use crate::buffer::entry::PartDone;
use crate::offload::offload;

/// Bytes of a file that are held at once.
const PIECE: usize = 64 * 1024;

/// Bytes to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A stretch of a file; it is streamed.
    File {
        /// Which file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Whether it gives way to what is sent beside it and doesn't.
        gives_way: bool,
    },
    /// Small bytes in memory.
    Bytes(Bytes),
}

/// What a look at an object gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its digest, where metadata or a checksum over the whole object says it.
    pub digest: Option<Digest>,
    /// Its bytes.
    pub size: u64,
}

/// A small object as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Its bytes.
    Body {
        /// All of them.
        bytes: Bytes,
        /// The store's tag of this version, for the next question.
        etag: Option<String>,
    },
    /// It still is the version that was named in the question.
    Unchanged,
}

/// A bucket, or one that behaves so. Each call is one request: nothing is tried twice behind it.
pub trait Bucket: Send + Sync {
    /// Creates the object `key` in one request if the name is free. `digest` is that of `content`: it travels as
    /// checksum, which the store checks, and in the object's metadata.
    fn put_new(
        &self,
        key: &str,
        content: Content,
        digest: Digest,
    ) -> impl Future<Output = Result<(), Answer>> + Send;

    /// Opens a multipart upload for `key`, with `digest` of the whole in the metadata; gives its upload id.
    fn create_multipart(
        &self,
        key: &str,
        digest: Digest,
    ) -> impl Future<Output = Result<String, Answer>> + Send;

    /// Sends part `number` (from 1) with a checksum of its own. Repeating it replaces the part.
    fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        content: Content,
    ) -> impl Future<Output = Result<PartDone, Answer>> + Send;

    /// All parts that the store has, by growing number.
    fn list_parts(
        &self,
        key: &str,
        upload_id: &str,
    ) -> impl Future<Output = Result<Vec<PartDone>, Answer>> + Send;

    /// Makes the object of its parts if the name is free.
    fn complete(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[PartDone],
    ) -> impl Future<Output = Result<(), Answer>> + Send;

    /// Looks at an object without reading it.
    fn head(&self, key: &str) -> impl Future<Output = Result<Found, Answer>> + Send;

    /// Reads an object of at most `limit` bytes, unless it still is the version `if_none_match`.
    fn get(
        &self,
        key: &str,
        if_none_match: Option<&str>,
        limit: u64,
    ) -> impl Future<Output = Result<Fetched, Answer>> + Send;

    /// Creates or replaces an object: only the gateway's own status.
    fn put_replace(&self, key: &str, bytes: Bytes) -> impl Future<Output = Result<(), Answer>> + Send;

    /// Bytes that all requests so far took on the wire, both ways; 0 where nobody counts them.
    fn traffic(&self) -> u64 {
        0
    }
}

impl Content {
    /// How many bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::File { length, .. } => *length,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads it piece by piece (at most 64 KiB each) and gives all pieces to `take`. A file that ends early is an
    /// error: what would be sent isn't what was sealed.
    pub async fn each_piece(&self, mut take: impl FnMut(&[u8]) + Send) -> std::io::Result<()> {
        let (path, offset, length) = match self {
            Content::Bytes(bytes) => {
                take(bytes);
                return Ok(());
            }
            Content::File { path, offset, length, .. } => (path, *offset, *length),
        };
        let from = path.clone();
        let open = move || {
            let mut file = File::open(from)?;
            file.seek(SeekFrom::Start(offset)).map(|_| file)
        };
        let mut file = offload(open).await.map_err(std::io::Error::other)??;
        let mut left = length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = move || -> std::io::Result<(File, Vec<u8>)> {
                let mut piece = vec![0; want];
                let got = file.read(&mut piece)?;
                piece.truncate(got);
                Ok((file, piece))
            };
            let (back, piece) = offload(read).await.map_err(std::io::Error::other)??;
            file = back;
            if piece.is_empty() {
                let short = format!("{} ends {left} bytes early", path.display());
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, short));
            }
            take(&piece);
            left -= piece.len() as u64;
        }
        Ok(())
    }
}
