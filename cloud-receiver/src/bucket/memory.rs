//! A bucket in memory that answers as S3 does, with faults on demand: for tests of everything above it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tributary_contract::digest::Digest;
use tributary_contract::time::Timestamp;

use super::{Bucket, BucketError, Extent, Got, Listed, Object, Page, Put, Query, When};

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered by an error and has no effect.
    Refused,
    /// It takes effect, and then an error is answered.
    ReplyLost,
}

/// The bucket; shared by reference.
#[derive(Debug, Default)]
pub struct MemoryBucket {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Stored>,
    faults: VecDeque<(&'static str, Fault)>,
    requests: Vec<String>,
    writes: u64,
}

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    digest: Option<String>,
    modified: Timestamp,
}

impl MemoryBucket {
    /// Writes an object as a gateway does, with its digest in the metadata.
    pub fn deliver(&self, key: &str, bytes: impl Into<Bytes>, modified: Timestamp) {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes).to_string();
        self.store(key, bytes, Some(digest), modified);
    }

    /// Writes an object as anybody may, with any digest in the metadata.
    pub fn store(&self, key: &str, bytes: impl Into<Bytes>, digest: Option<String>, modified: Timestamp) {
        self.lock().write(key, bytes.into(), digest, modified);
    }

    /// Takes an object away.
    pub fn remove(&self, key: &str) {
        self.lock().objects.remove(key);
    }

    /// The bytes at `key`.
    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        self.lock().objects.get(key).map(|o| o.bytes.clone())
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// The next request of this operation (`list`, `get`, `head`, `put`, `copy`) meets `fault`.
    pub fn fail_next(&self, operation: &'static str, fault: Fault) {
        self.lock().faults.push_back((operation, fault));
    }

    /// Operation and key of all requests since the last call.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().requests)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform<T>(
        &self,
        operation: &'static str,
        key: &str,
        effect: impl FnOnce(&mut Inner) -> T,
    ) -> Result<T, BucketError> {
        let mut inner = self.lock();
        inner.requests.push(format!("{operation} {key}"));
        let error = |why: &str| BucketError { what: format!("{operation} {key}"), why: why.to_owned() };
        let planned = inner.faults.iter().position(|(o, _)| *o == operation);
        match planned.and_then(|i| inner.faults.remove(i)).map(|(_, f)| f) {
            Some(Fault::Refused) => Err(error("refused")),
            Some(Fault::ReplyLost) => {
                effect(&mut inner);
                Err(error("the reply was lost"))
            }
            None => Ok(effect(&mut inner)),
        }
    }
}

impl Inner {
    fn write(&mut self, key: &str, bytes: Bytes, digest: Option<String>, modified: Timestamp) -> String {
        self.writes += 1;
        let etag = format!("\"{}-{}\"", self.writes, bytes.len());
        let stored = Stored { bytes, etag: etag.clone(), digest, modified };
        self.objects.insert(key.to_owned(), stored);
        etag
    }

    fn page(&self, query: &Query) -> Page {
        let mut page = Page::default();
        let limit = query.limit.clamp(1, 1000);
        let behind = |key: &str, mark: &Option<String>| mark.as_deref().is_none_or(|m| key > m);
        for (key, o) in self.objects.range(query.prefix.clone()..) {
            let Some(rest) = key.strip_prefix(&query.prefix) else { break };
            if !behind(key, &query.start_after) {
                continue;
            }
            let folder = rest.split_once('/').filter(|_| query.folders).map(|(f, _)| f);
            let name = match folder {
                Some(folder) => format!("{}{folder}/", query.prefix),
                None => key.clone(),
            };
            if !behind(&name, &query.page) || page.folders.last() == Some(&name) {
                continue;
            }
            if page.objects.len() + page.folders.len() == limit {
                let last = [page.objects.last().map(|o| &o.key), page.folders.last()];
                page.next = last.into_iter().flatten().max().cloned();
                break;
            }
            match folder {
                Some(_) => page.folders.push(name),
                None => page.objects.push(Listed {
                    key: name,
                    size: o.bytes.len() as u64,
                    etag: o.etag.clone(),
                    modified: o.modified,
                }),
            }
        }
        page
    }
}

#[async_trait]
impl Bucket for MemoryBucket {
    async fn list(&self, query: &Query) -> Result<Page, BucketError> {
        self.perform("list", &query.prefix, |inner| inner.page(query))
    }

    async fn get(&self, key: &str, extent: Extent) -> Result<Got, BucketError> {
        self.perform("get", key, |inner| {
            let Some(o) = inner.objects.get(key) else { return Got::Absent };
            let size = o.bytes.len() as u64;
            let bytes = match extent {
                Extent::Whole { limit } if size > limit => return Got::TooLarge { size },
                Extent::Whole { .. } => o.bytes.clone(),
                Extent::Tail { bytes } => o.bytes.slice(size.saturating_sub(bytes) as usize..),
            };
            Got::Object(Object { bytes, etag: o.etag.clone(), digest: o.digest.clone() })
        })
    }

    async fn head(&self, key: &str) -> Result<Option<String>, BucketError> {
        self.perform("head", key, |inner| inner.objects.get(key).map(|o| o.etag.clone()))
    }

    async fn put(&self, key: &str, bytes: Bytes, _kind: &str, when: &When) -> Result<Put, BucketError> {
        self.perform("put", key, |inner| {
            let known = inner.objects.get(key).map(|o| &o.etag);
            let holds = match when {
                When::Always => true,
                When::Absent => known.is_none(),
                When::Matches(etag) => known == Some(etag),
            };
            if !holds {
                return Put::Conflict;
            }
            Put::Done(inner.write(key, bytes, None, Timestamp::default()))
        })
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), BucketError> {
        let copied = self.perform("copy", from, |inner| {
            let o = inner.objects.get(from).cloned()?;
            inner.write(to, o.bytes, o.digest, o.modified);
            Some(())
        })?;
        copied.ok_or_else(|| BucketError { what: format!("copy {from}"), why: "no such object".into() })
    }
}
