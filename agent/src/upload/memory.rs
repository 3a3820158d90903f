//! A bucket in memory with a script of faults: deterministic, and as strict as S3 about conditions, parts and digests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tributary_contract::digest::Digest;

use super::answer::{Answer, Code, Got, Operation, Transport};
use super::bucket::{Bucket, Content, Fetched, Found};
use super::link::wire;
use crate::buffer::entry::PartDone;

/// What one request gets instead of its honest answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Whether the request has its effect.
    pub moment: Moment,
    /// What is answered.
    pub reply: Reply,
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the effect: it never happens.
    Before,
    /// After the effect.
    After,
    /// The effect comes late: right before the next request is looked at.
    Delayed,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status and a code.
    Status(u16, Option<Code>),
    /// Nothing.
    Nothing(Transport),
}

impl Fault {
    /// The request has no effect and gets `reply`.
    pub const fn before(reply: Reply) -> Self {
        Self { moment: Moment::Before, reply }
    }

    /// The request has its effect and gets no reply.
    pub const fn lost_reply() -> Self {
        Self { moment: Moment::After, reply: Reply::Nothing(Transport::NoReply) }
    }
}

/// A bucket in memory.
#[derive(Debug, Default)]
pub struct MemoryBucket {
    ignores_conditions: bool,
    hides_absence: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    opened: u64,
    script: VecDeque<Option<Fault>>,
    delayed: Vec<Request>,
    log: Vec<(Operation, String)>,
    created: BTreeMap<String, u64>,
    received: u64,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    digest: Option<Digest>,
}

#[derive(Debug)]
struct Upload {
    key: String,
    digest: Digest,
    parts: BTreeMap<u32, Bytes>,
}

/// A request with everything it needs, so that its effect can come late.
#[derive(Debug, Clone)]
enum Request {
    PutNew { key: String, bytes: Bytes, digest: Digest },
    CreateMultipart { key: String, digest: Digest },
    UploadPart { upload_id: String, number: u32, bytes: Bytes },
    ListParts { upload_id: String },
    Complete { upload_id: String, parts: Vec<PartDone> },
    Head { key: String },
    Get { key: String, if_none_match: Option<String>, limit: u64 },
    PutReplace { key: String, bytes: Bytes },
}

enum Success {
    Plain,
    Opened(String),
    Part(PartDone),
    Parts(Vec<PartDone>),
    Found(Found),
    Fetched(Fetched),
}

type Failure = (u16, Option<Code>);

impl MemoryBucket {
    /// Empty, honest, without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that overwrites in spite of `If-None-Match`.
    pub fn that_ignores_conditions() -> Self {
        Self { ignores_conditions: true, ..Self::default() }
    }

    /// One that answers 403 for what doesn't exist, as S3 does to those who may not list.
    pub fn that_hides_absence() -> Self {
        Self { hides_absence: true, ..Self::default() }
    }

    /// Appends to the script: each request takes the next line, and without one has no fault.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.state().script.extend(faults);
    }

    /// Forgets what is left of the script.
    pub fn end_script(&self) {
        self.state().script.clear();
    }

    /// The bytes of an object.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).map(|o| o.bytes.clone())
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Removes an object behind the back of everyone.
    pub fn delete(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// Forgets all open uploads, as a bucket's lifecycle rule does.
    pub fn abort_uploads(&self) {
        self.state().uploads.clear();
    }

    /// How often an object came to be under `key`, replacements included.
    pub fn creations(&self, key: &str) -> u64 {
        self.state().created.get(key).copied().unwrap_or(0)
    }

    /// Every request so far: what, and on which key or upload.
    pub fn log(&self) -> Vec<(Operation, String)> {
        self.state().log.clone()
    }

    /// Bytes of all bodies so far.
    pub fn received(&self) -> u64 {
        self.state().received
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere has already failed.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn answer(&self, request: Request) -> Result<Success, Answer> {
        let mut state = self.state();
        for late in std::mem::take(&mut state.delayed) {
            // Nobody is there to hear how it went.
            drop(self.effect(&mut state, &late));
        }
        let operation = request.operation();
        let named = request.named().to_owned();
        state.log.push((operation, named));
        let fault = state.script.pop_front().flatten();
        let honest = match fault.as_ref().map(|f| f.moment) {
            Some(Moment::Before) => None,
            Some(Moment::Delayed) => {
                state.delayed.push(request);
                None
            }
            Some(Moment::After) | None => Some(self.effect(&mut state, &request)),
        };
        let got = match (fault, honest) {
            (Some(Fault { reply: Reply::Status(status, code), .. }), _) => Got::Reply { status, code },
            (Some(Fault { reply: Reply::Nothing(transport), .. }), _) => Got::Nothing(transport),
            (None, Some(Ok(success))) => return Ok(success),
            (None, Some(Err((status, code)))) => Got::Reply { status, code },
            (None, None) => Got::Nothing(Transport::NoReply),
        };
        Err(Answer { operation, got, detail: String::new() })
    }

    fn effect(&self, state: &mut State, request: &Request) -> Result<Success, Failure> {
        let bad_digest = || (400, Some(Code::BadDigest));
        match request {
            Request::PutNew { key, bytes, digest } => {
                state.received += bytes.len() as u64;
                self.check_free(state, key)?;
                if Digest::of(bytes) != *digest {
                    return Err(bad_digest());
                }
                state.create(key, bytes.clone(), Some(*digest));
                Ok(Success::Plain)
            }
            Request::CreateMultipart { key, digest } => {
                state.opened += 1;
                let upload_id = format!("upload-{}", state.opened);
                let upload = Upload { key: key.clone(), digest: *digest, parts: BTreeMap::new() };
                state.uploads.insert(upload_id.clone(), upload);
                Ok(Success::Opened(upload_id))
            }
            Request::UploadPart { upload_id, number, bytes } => {
                state.received += bytes.len() as u64;
                state.upload(upload_id)?.parts.insert(*number, bytes.clone());
                Ok(Success::Part(part(*number, bytes)))
            }
            Request::ListParts { upload_id } => {
                let parts = &state.upload(upload_id)?.parts;
                Ok(Success::Parts(parts.iter().map(|(number, bytes)| part(*number, bytes)).collect()))
            }
            Request::Complete { upload_id, parts } => {
                let upload = state.upload(upload_id)?;
                let (key, digest) = (upload.key.clone(), upload.digest);
                let mut whole = Vec::new();
                for named in parts {
                    match upload.parts.get(&named.number) {
                        Some(bytes) if part(named.number, bytes) == *named => whole.extend_from_slice(bytes),
                        _ => return Err((400, Some(Code::InvalidPart))),
                    }
                }
                self.check_free(state, &key)?;
                state.uploads.remove(upload_id);
                state.create(&key, whole.into(), Some(digest));
                Ok(Success::Plain)
            }
            Request::Head { key } => match state.objects.get(key) {
                Some(o) => Ok(Success::Found(Found { digest: o.digest, size: o.bytes.len() as u64 })),
                None => Err((self.absent(), None)),
            },
            Request::Get { key, if_none_match, limit } => match state.objects.get(key) {
                Some(o) if o.bytes.len() as u64 > *limit => Err((200, None)),
                Some(o) => {
                    let etag = Digest::of(&o.bytes).to_string();
                    if if_none_match.as_deref() == Some(&etag) {
                        return Ok(Success::Fetched(Fetched::Unchanged));
                    }
                    Ok(Success::Fetched(Fetched::Body { bytes: o.bytes.clone(), etag: Some(etag) }))
                }
                None => {
                    let code = if self.hides_absence { Code::AccessDenied } else { Code::NoSuchKey };
                    Err((self.absent(), Some(code)))
                }
            },
            Request::PutReplace { key, bytes } => {
                state.received += bytes.len() as u64;
                state.create(key, bytes.clone(), None);
                Ok(Success::Plain)
            }
        }
    }

    const fn absent(&self) -> u16 {
        if self.hides_absence { 403 } else { 404 }
    }

    fn check_free(&self, state: &State, key: &str) -> Result<(), Failure> {
        if state.objects.contains_key(key) && !self.ignores_conditions {
            return Err((412, Some(Code::PreconditionFailed)));
        }
        Ok(())
    }
}

impl State {
    fn create(&mut self, key: &str, bytes: Bytes, digest: Option<Digest>) {
        self.objects.insert(key.to_owned(), Object { bytes, digest });
        *self.created.entry(key.to_owned()).or_default() += 1;
    }

    fn upload(&mut self, upload_id: &str) -> Result<&mut Upload, Failure> {
        self.uploads.get_mut(upload_id).ok_or((404, Some(Code::NoSuchUpload)))
    }
}

fn part(number: u32, bytes: &Bytes) -> PartDone {
    let etag = format!("\"{}\"", Digest::of(bytes));
    PartDone { number, size: bytes.len() as u64, etag, checksum: String::new() }
}

impl Request {
    const fn operation(&self) -> Operation {
        match self {
            Request::PutNew { .. } => Operation::PutNew,
            Request::CreateMultipart { .. } => Operation::CreateMultipart,
            Request::UploadPart { .. } => Operation::UploadPart,
            Request::ListParts { .. } => Operation::ListParts,
            Request::Complete { .. } => Operation::Complete,
            Request::Head { .. } => Operation::Head,
            Request::Get { .. } => Operation::Get,
            Request::PutReplace { .. } => Operation::PutReplace,
        }
    }

    fn named(&self) -> &str {
        match self {
            Request::PutNew { key, .. }
            | Request::CreateMultipart { key, .. }
            | Request::Head { key }
            | Request::Get { key, .. }
            | Request::PutReplace { key, .. } => key,
            Request::UploadPart { upload_id, .. }
            | Request::ListParts { upload_id }
            | Request::Complete { upload_id, .. } => upload_id,
        }
    }
}

/// An answer of another kind than the question can't come: each request has one kind of success.
const OTHER_KIND: Got = Got::Nothing(Transport::NotBuilt);

macro_rules! expect {
    ($answer:expr, $operation:ident, $pattern:pat => $value:expr) => {
        match $answer? {
            $pattern => Ok($value),
            _ => Err(Answer { operation: Operation::$operation, got: OTHER_KIND, detail: String::new() }),
        }
    };
}

async fn all(content: Content, operation: Operation) -> Result<Bytes, Answer> {
    let mut bytes = Vec::new();
    match content.each_piece(|piece| bytes.extend_from_slice(piece)).await {
        Ok(()) => Ok(bytes.into()),
        Err(e) => Err(Answer { operation, got: Got::Nothing(Transport::File), detail: e.to_string() }),
    }
}

impl Bucket for MemoryBucket {
    async fn put_new(&self, key: &str, content: Content, digest: Digest) -> Result<(), Answer> {
        let bytes = all(content, Operation::PutNew).await?;
        expect!(self.answer(Request::PutNew { key: key.into(), bytes, digest }), PutNew, Success::Plain => ())
    }

    async fn create_multipart(&self, key: &str, digest: Digest) -> Result<String, Answer> {
        let request = Request::CreateMultipart { key: key.into(), digest };
        expect!(self.answer(request), CreateMultipart, Success::Opened(id) => id)
    }

    async fn upload_part(
        &self,
        _key: &str,
        upload_id: &str,
        number: u32,
        content: Content,
    ) -> Result<PartDone, Answer> {
        let bytes = all(content, Operation::UploadPart).await?;
        let request = Request::UploadPart { upload_id: upload_id.into(), number, bytes };
        expect!(self.answer(request), UploadPart, Success::Part(part) => part)
    }

    async fn list_parts(&self, _key: &str, upload_id: &str) -> Result<Vec<PartDone>, Answer> {
        let request = Request::ListParts { upload_id: upload_id.into() };
        expect!(self.answer(request), ListParts, Success::Parts(parts) => parts)
    }

    async fn complete(&self, _key: &str, upload_id: &str, parts: &[PartDone]) -> Result<(), Answer> {
        let request = Request::Complete { upload_id: upload_id.into(), parts: parts.to_vec() };
        expect!(self.answer(request), Complete, Success::Plain => ())
    }

    async fn head(&self, key: &str) -> Result<Found, Answer> {
        expect!(self.answer(Request::Head { key: key.into() }), Head, Success::Found(found) => found)
    }

    async fn get(&self, key: &str, if_none_match: Option<&str>, limit: u64) -> Result<Fetched, Answer> {
        let if_none_match = if_none_match.map(str::to_owned);
        let request = Request::Get { key: key.into(), if_none_match, limit };
        expect!(self.answer(request), Get, Success::Fetched(fetched) => fetched)
    }

    async fn put_replace(&self, key: &str, bytes: Bytes) -> Result<(), Answer> {
        expect!(self.answer(Request::PutReplace { key: key.into(), bytes }), PutReplace, Success::Plain => ())
    }

    fn traffic(&self) -> u64 {
        let state = self.state();
        // Each request and its answer, as the policy reckons them before it sends one.
        wire::request(0) * state.log.len() as u64 + wire::message(state.received)
    }
}
