//! The access log: what was asked, what was answered, and how many bytes went each way.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Request, Response};
use serde::{Deserialize, Serialize};

use super::model::now_ms;
use super::percent;

/// Requests that stay readable in memory; older ones are only in the file.
pub const KEPT: usize = 65_536;

/// One request, as [`super::S3Server::log`] returns it and the log file holds it, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Arrival, milliseconds since 1970.
    pub at_ms: u64,
    /// HTTP method.
    pub method: String,
    /// Bucket of the path.
    pub bucket: Option<String>,
    /// Key of the path.
    pub key: Option<String>,
    /// The query, such as `partNumber` and `uploadId`; signatures are left out.
    pub query: BTreeMap<String, String>,
    /// HTTP status; `None` while unanswered, or if the client or the server left before.
    pub status: Option<u16>,
    /// Bytes of the request's body, as they came over the wire.
    pub received: u64,
    /// Bytes of the answer's body handed to the wire.
    pub sent: u64,
}

/// Requests in order of arrival.
pub struct Log {
    entries: Mutex<VecDeque<Arc<Entry>>>,
    file: Option<Mutex<File>>,
}

struct Entry {
    request: Access,
    status: AtomicU16,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Entry {
    fn snapshot(&self) -> Access {
        let status = self.status.load(Ordering::Acquire);
        Access {
            status: (status != 0).then_some(status),
            received: self.received.load(Ordering::Acquire),
            sent: self.sent.load(Ordering::Acquire),
            ..self.request.clone()
        }
    }
}

impl Log {
    /// An empty log that also appends to `file`.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn open(file: Option<&Path>) -> io::Result<Self> {
        let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { entries: Mutex::default(), file: file.map(open).transpose()?.map(Mutex::new) })
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest requests, at most [`KEPT`], oldest first; those under way included.
    pub fn snapshot(&self) -> Vec<Access> {
        self.entries().iter().map(|entry| entry.snapshot()).collect()
    }

    /// Notes the arrival of a request; its body is counted as it is read.
    pub fn begin<B>(self: &Arc<Self>, request: Request<B>) -> (Pending, Request<Counted<B>>) {
        let entry = Arc::new(Entry {
            request: describe(&request),
            status: AtomicU16::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let mut entries = self.entries();
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry.clone());
        drop(entries);
        let request = request.map(|body| Counted { body, count: Count::Received(entry.clone()) });
        (Pending { log: self.clone(), entry }, request)
    }
}

fn describe<B>(request: &Request<B>) -> Access {
    let path = request.uri().path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let named = |text: &str| (!text.is_empty()).then(|| percent::decode(text));
    let query = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    Access {
        at_ms: now_ms(),
        method: request.method().to_string(),
        bucket: named(bucket),
        key: named(key),
        query: query
            .filter(|(name, _)| !name.to_ascii_lowercase().starts_with("x-amz-"))
            .map(|(name, value)| (percent::decode(name), percent::decode(value)))
            .collect(),
        status: None,
        received: 0,
        sent: 0,
    }
}

/// A request under way; it becomes a line of the file when it ends, however it ends.
pub struct Pending {
    log: Arc<Log>,
    entry: Arc<Entry>,
}

impl Pending {
    /// Notes the answer; its body is counted as it is sent.
    pub fn answer<B>(self, response: Response<B>) -> Response<Counted<B>> {
        self.entry.status.store(response.status().as_u16(), Ordering::Release);
        response.map(|body| Counted { body, count: Count::Sent(self) })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(file) = &self.log.file else { return };
        let line = serde_json::to_string(&self.entry.snapshot()).map(|line| line + "\n");
        let written = line
            .map_err(io::Error::from)
            .and_then(|line| file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes()));
        if let Err(error) = written {
            tracing::warn!(%error, "a line of the access log is lost");
        }
    }
}

/// A body whose bytes are counted.
pub struct Counted<B> {
    body: B,
    count: Count,
}

enum Count {
    Received(Arc<Entry>),
    Sent(Pending),
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            let counter = match &self.count {
                Count::Received(entry) => &entry.received,
                Count::Sent(pending) => &pending.entry.sent,
            };
            counter.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
