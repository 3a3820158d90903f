//! The bucket as a model with faults: one store, seen by the agent through its trait and by the receiver through its.
//!
//! As strict as S3: create-only under `If-None-Match`, replacement under `If-Match`, digests checked, an etag says what
//! the bytes are and how they came. Each request gives way before its effect and again before its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tributary_agent::buffer::PartDone;
use tributary_agent::upload::answer::{Answer, Code, Got as AgentGot, Operation, Transport};
use tributary_agent::upload::bucket::{Bucket as AgentBucket, Content, Fetched, Found};
use tributary_contract::digest::Digest;
use tributary_contract::time::Timestamp;
use tributary_receiver::bucket::{
    Bucket as ReceiverBucket, BucketError, Extent, Got, Listed, Object, Page, Put, Query, When,
};

use super::hub::{Fate, Hub, Refusal};
use super::manifests::Manifests;
use super::task::give_way;

/// How long a listing may lag behind, microseconds.
const LAG: i64 = 3_000_000;

/// The store.
pub struct Store {
    hub: Arc<Hub>,
    /// Probability that another's object takes the name of a segment before it comes.
    foreign: f64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, Upload>,
    opened: u64,
    late: Vec<Write>,
    /// Segments that the catalog may refer to: nobody deletes these.
    offered: BTreeSet<String>,
    foreign: BTreeSet<String>,
    manifests: Manifests,
    calm: bool,
    /// Whether a buffer went back in time: then numbers may come twice, and nobody promises otherwise.
    unsure: bool,
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    digest: Option<String>,
    written: i64,
    modified: Timestamp,
}

struct Upload {
    key: String,
    digest: Digest,
    parts: BTreeMap<u32, Bytes>,
}

/// A write with all it needs, so that its effect can come late.
#[derive(Clone)]
struct Write {
    key: String,
    bytes: Bytes,
    digest: Option<Digest>,
    when: When,
    parts: usize,
}

/// What became of a write.
enum Wrote {
    Done(String),
    Taken,
}

/// Why there is no honest answer.
enum Trouble {
    Refused(Refusal),
    ReplyLost,
}

impl Store {
    /// An empty store.
    pub fn new(hub: Arc<Hub>, foreign: f64) -> Self {
        Self { hub, foreign, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what is late has come, and nobody takes names.
    pub fn calm(&self) {
        self.settle_late();
        self.state().calm = true;
    }

    /// From now on numbers may come twice.
    pub fn unsure(&self) {
        self.state().unsure = true;
    }

    /// The bytes of an object.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).map(|o| o.bytes.clone())
    }

    /// Keys of all objects that lie there.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// An operator's object takes the place of what lies there.
    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        let write =
            Write { key: key.into(), bytes: bytes.into(), digest: None, when: When::Always, parts: 0 };
        let _ = self.write(&mut self.state(), &write);
    }

    /// Notes that the catalog may refer to an object from now on.
    pub fn offered(&self, key: &str) {
        self.state().offered.insert(key.to_owned());
    }

    /// Deletes one of the segments that no table can have yet; gives its key.
    pub fn delete_unregistered(&self) -> Option<String> {
        let mut state = self.state();
        let free: Vec<String> = state
            .objects
            .keys()
            .filter(|k| {
                k.contains("/segments/") && !state.offered.contains(*k) && !state.foreign.contains(*k)
            })
            .cloned()
            .collect();
        let key = free.get(self.hub.pick(free.len()))?.clone();
        state.objects.remove(&key);
        Some(key)
    }

    /// Lets effects that come late come now.
    pub fn settle_late(&self) {
        let mut state = self.state();
        for write in std::mem::take(&mut state.late) {
            // Nobody is there to hear how it went.
            let _ = self.write(&mut state, &write);
        }
    }

    fn write(&self, state: &mut State, write: &Write) -> Wrote {
        let Write { key, bytes, digest, when, parts } = write;
        let known = state.objects.get(key).map(|o| &o.etag);
        let holds = match when {
            When::Always => true,
            When::Absent => known.is_none(),
            When::Matches(etag) => known == Some(etag),
        };
        if !holds {
            return Wrote::Taken;
        }
        let mut etag = Digest::of(bytes).to_string();
        etag.truncate(16);
        if *parts > 0 {
            etag += &format!("-{parts}");
        }
        if key.contains("/segments/")
            && !state.unsure
            && let Err(broken) = state.manifests.created(key, bytes)
        {
            self.hub.violated(broken);
        }
        let stored = Stored {
            bytes: bytes.clone(),
            etag: etag.clone(),
            digest: digest.map(|d| d.to_string()),
            written: self.hub.steady(),
            modified: self.hub.wall(),
        };
        state.objects.insert(key.clone(), stored);
        Wrote::Done(etag)
    }

    /// One request: gives way, meets its fate, gives way again.
    async fn perform<T: Send>(
        &self,
        what: &str,
        key: &str,
        late: Option<Write>,
        effect: impl FnOnce(&Self, &mut State) -> T + Send,
    ) -> Result<T, Trouble> {
        give_way().await;
        let fate = self.hub.fate(late.is_some());
        let name = key.rsplit_once("/segments/").map_or(key, |(_, rest)| rest);
        self.hub.note(format!("bucket: {what} {name}: {fate:?}"));
        let outcome = match (fate, late) {
            (Fate::Honest, _) => Ok(effect(self, &mut self.state())),
            (Fate::ReplyLost, _) => {
                effect(self, &mut self.state());
                Err(Trouble::ReplyLost)
            }
            (Fate::Late, Some(write)) => {
                self.state().late.push(write);
                Err(Trouble::ReplyLost)
            }
            (Fate::Late, None) => Err(Trouble::ReplyLost),
            (Fate::Refused(refusal), _) => Err(Trouble::Refused(refusal)),
        };
        give_way().await;
        outcome
    }

    /// Somebody else's object under that name, before ours comes.
    fn intrude(&self, key: &str) {
        if key.contains("/segments/") && self.hub.chance(self.foreign) {
            let mut state = self.state();
            if state.calm || state.objects.contains_key(key) {
                return;
            }
            let bytes = Bytes::from_static(b"not a segment");
            let stored = Stored {
                digest: Some(Digest::of(&bytes).to_string()),
                bytes,
                etag: "foreign".into(),
                written: self.hub.steady(),
                modified: self.hub.wall(),
            };
            state.objects.insert(key.to_owned(), stored);
            state.foreign.insert(key.to_owned());
            self.hub.count("names taken by others", 1);
            self.hub.note("somebody takes the name of the next segment");
        }
    }
}

fn answer(operation: Operation, trouble: Trouble) -> Answer {
    let got = match trouble {
        Trouble::ReplyLost | Trouble::Refused(Refusal::Broken) => AgentGot::Nothing(Transport::NoReply),
        Trouble::Refused(Refusal::Unreachable) => AgentGot::Nothing(Transport::NoConnection),
        Trouble::Refused(Refusal::Busy) => AgentGot::Reply { status: 503, code: Some(Code::SlowDown) },
        Trouble::Refused(Refusal::Failed) => AgentGot::Reply { status: 500, code: Some(Code::InternalError) },
        Trouble::Refused(Refusal::Forbidden) => {
            AgentGot::Reply { status: 403, code: Some(Code::AccessDenied) }
        }
    };
    Answer { operation, got, detail: String::new() }
}

fn refused(operation: Operation, status: u16, code: Code) -> Answer {
    Answer { operation, got: AgentGot::Reply { status, code: Some(code) }, detail: String::new() }
}

fn part(number: u32, bytes: &Bytes) -> PartDone {
    let etag = format!("\"{}\"", Digest::of(bytes));
    PartDone { number, size: bytes.len() as u64, etag, checksum: String::new() }
}

/// The store as the agent sees it.
#[derive(Clone)]
pub struct AgentFace(pub Arc<Store>);

async fn body(content: Content, operation: Operation) -> Result<Bytes, Answer> {
    let unreadable = |e: std::io::Error| Answer {
        operation,
        got: AgentGot::Nothing(Transport::File),
        detail: e.to_string(),
    };
    match content {
        Content::Bytes(bytes) => Ok(bytes),
        Content::File { path, offset, length, .. } => {
            let all = std::fs::read(path).map_err(unreadable)?;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
            let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            let short = || unreadable(std::io::Error::other("the file ends early"));
            all.get(from..to).map(Bytes::copy_from_slice).ok_or_else(short)
        }
    }
}

impl AgentBucket for AgentFace {
    async fn put_new(&self, key: &str, content: Content, digest: Digest) -> Result<(), Answer> {
        const OP: Operation = Operation::PutNew;
        let bytes = body(content, OP).await?;
        if Digest::of(&bytes) != digest {
            return Err(refused(OP, 400, Code::BadDigest));
        }
        self.0.intrude(key);
        let write = Write { key: key.into(), bytes, digest: Some(digest), when: When::Absent, parts: 0 };
        let done = self.0.perform("put", key, Some(write.clone()), |store, state| store.write(state, &write));
        match done.await.map_err(|t| answer(OP, t))? {
            Wrote::Done(_) => Ok(()),
            Wrote::Taken => Err(refused(OP, 412, Code::PreconditionFailed)),
        }
    }

    async fn create_multipart(&self, key: &str, digest: Digest) -> Result<String, Answer> {
        self.0.intrude(key);
        let done = self.0.perform("create multipart", key, None, |_, state| {
            state.opened += 1;
            let id = format!("upload-{}", state.opened);
            let upload = Upload { key: key.to_owned(), digest, parts: BTreeMap::new() };
            state.uploads.insert(id.clone(), upload);
            id
        });
        done.await.map_err(|t| answer(Operation::CreateMultipart, t))
    }

    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        content: Content,
    ) -> Result<PartDone, Answer> {
        const OP: Operation = Operation::UploadPart;
        let bytes = body(content, OP).await?;
        let done = self.0.perform("part of", key, None, |_, state| {
            let upload = state.uploads.get_mut(upload_id)?;
            upload.parts.insert(number, bytes.clone());
            Some(part(number, &bytes))
        });
        done.await.map_err(|t| answer(OP, t))?.ok_or_else(|| refused(OP, 404, Code::NoSuchUpload))
    }

    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<PartDone>, Answer> {
        const OP: Operation = Operation::ListParts;
        let done = self.0.perform("list parts of", key, None, |_, state| {
            let upload = state.uploads.get(upload_id)?;
            Some(upload.parts.iter().map(|(number, bytes)| part(*number, bytes)).collect())
        });
        done.await.map_err(|t| answer(OP, t))?.ok_or_else(|| refused(OP, 404, Code::NoSuchUpload))
    }

    async fn complete(&self, key: &str, upload_id: &str, parts: &[PartDone]) -> Result<(), Answer> {
        const OP: Operation = Operation::Complete;
        let done = self.0.perform("complete", key, None, |store, state| {
            let Some(upload) = state.uploads.get(upload_id) else {
                return Err(refused(OP, 404, Code::NoSuchUpload));
            };
            let mut whole = Vec::new();
            for named in parts {
                match upload.parts.get(&named.number) {
                    Some(bytes) if part(named.number, bytes) == *named => whole.extend_from_slice(bytes),
                    _ => return Err(refused(OP, 400, Code::InvalidPart)),
                }
            }
            let write = Write {
                key: upload.key.clone(),
                bytes: whole.into(),
                digest: Some(upload.digest),
                when: When::Absent,
                parts: parts.len(),
            };
            match store.write(state, &write) {
                Wrote::Done(_) => {
                    state.uploads.remove(upload_id);
                    Ok(())
                }
                Wrote::Taken => Err(refused(OP, 412, Code::PreconditionFailed)),
            }
        });
        done.await.map_err(|t| answer(OP, t))?
    }

    async fn head(&self, key: &str) -> Result<Found, Answer> {
        const OP: Operation = Operation::Head;
        let done = self.0.perform("look at", key, None, |_, state| {
            let o = state.objects.get(key)?;
            let digest = o.digest.as_ref().and_then(|d| d.parse().ok());
            Some(Found { digest, size: o.bytes.len() as u64 })
        });
        let absent = || Answer {
            operation: OP,
            got: AgentGot::Reply { status: 404, code: None },
            detail: String::new(),
        };
        done.await.map_err(|t| answer(OP, t))?.ok_or_else(absent)
    }

    async fn get(&self, key: &str, if_none_match: Option<&str>, limit: u64) -> Result<Fetched, Answer> {
        const OP: Operation = Operation::Get;
        let done = self.0.perform("get", key, None, |_, state| {
            let o = state.objects.get(key)?;
            if if_none_match == Some(o.etag.as_str()) {
                return Some(Fetched::Unchanged);
            }
            debug_assert!(o.bytes.len() as u64 <= limit);
            Some(Fetched::Body { bytes: o.bytes.clone(), etag: Some(o.etag.clone()) })
        });
        done.await.map_err(|t| answer(OP, t))?.ok_or_else(|| refused(OP, 404, Code::NoSuchKey))
    }

    async fn put_replace(&self, key: &str, bytes: Bytes) -> Result<(), Answer> {
        let write = Write { key: key.into(), bytes, digest: None, when: When::Always, parts: 0 };
        let done =
            self.0.perform("replace", key, Some(write.clone()), |store, state| store.write(state, &write));
        done.await.map(|_| ()).map_err(|t| answer(Operation::PutReplace, t))
    }
}

/// The store as the receiver sees it.
#[derive(Clone)]
pub struct ReceiverFace(pub Arc<Store>);

fn failed(what: &str, key: &str, trouble: Trouble) -> BucketError {
    let why = match trouble {
        Trouble::ReplyLost => "no reply".to_owned(),
        Trouble::Refused(refusal) => format!("{refusal:?}"),
    };
    BucketError { what: format!("{what} {key}"), why }
}

#[async_trait]
impl ReceiverBucket for ReceiverFace {
    async fn list(&self, query: &Query) -> Result<Page, BucketError> {
        let lag = if self.0.hub.chance(0.1) { LAG } else { 0 };
        let done = self.0.perform("list", &query.prefix, None, |store, state| {
            page(state, query, store.hub.steady() - if state.calm { 0 } else { lag })
        });
        done.await.map_err(|t| failed("list", &query.prefix, t))
    }

    async fn get(&self, key: &str, extent: Extent) -> Result<Got, BucketError> {
        let done = self.0.perform("read", key, None, |_, state| {
            let Some(o) = state.objects.get(key) else { return Got::Absent };
            let size = o.bytes.len() as u64;
            let bytes = match extent {
                Extent::Whole { limit } if size > limit => return Got::TooLarge { size },
                Extent::Whole { .. } => o.bytes.clone(),
                Extent::Tail { bytes } => {
                    o.bytes.slice(usize::try_from(size.saturating_sub(bytes)).unwrap_or(0)..)
                }
            };
            Got::Object(Object { bytes, etag: o.etag.clone(), digest: o.digest.clone() })
        });
        done.await.map_err(|t| failed("get", key, t))
    }

    async fn head(&self, key: &str) -> Result<Option<String>, BucketError> {
        // Whoever deletes between this look and the commit that follows it deletes from the table.
        if key.contains("/segments/") {
            self.0.offered(key);
        }
        let done =
            self.0.perform("look for", key, None, |_, state| state.objects.get(key).map(|o| o.etag.clone()));
        done.await.map_err(|t| failed("head", key, t))
    }

    async fn put(&self, key: &str, bytes: Bytes, _: &str, when: &When) -> Result<Put, BucketError> {
        let write = Write { key: key.into(), bytes, digest: None, when: when.clone(), parts: 0 };
        let done =
            self.0.perform("write", key, Some(write.clone()), |store, state| store.write(state, &write));
        Ok(match done.await.map_err(|t| failed("put", key, t))? {
            Wrote::Done(etag) => Put::Done(etag),
            Wrote::Taken => Put::Conflict,
        })
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), BucketError> {
        let done = self.0.perform("copy", from, None, |_, state| {
            let stored = state.objects.get(from)?.clone();
            state.objects.insert(to.to_owned(), stored);
            Some(())
        });
        let absent = || BucketError { what: format!("copy {from}"), why: "no such object".into() };
        done.await.map_err(|t| failed("copy", from, t))?.ok_or_else(absent)
    }
}

/// One page of a listing that shows what was written before `until`.
fn page(state: &State, query: &Query, until: i64) -> Page {
    let mut page = Page::default();
    let behind = |key: &str, mark: &Option<String>| mark.as_deref().is_none_or(|m| key > m);
    for (key, o) in state.objects.range(query.prefix.clone()..) {
        let Some(rest) = key.strip_prefix(&query.prefix) else { break };
        if !behind(key, &query.start_after) || o.written > until {
            continue;
        }
        let folder = rest.split_once('/').filter(|_| query.folders).map(|(f, _)| f);
        let name = folder.map_or_else(|| key.clone(), |f| format!("{}{f}/", query.prefix));
        if !behind(&name, &query.page) || page.folders.last() == Some(&name) {
            continue;
        }
        if page.objects.len() + page.folders.len() == query.limit.clamp(1, 1000) {
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
