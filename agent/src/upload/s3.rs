//! The bucket on S3 and what speaks its protocol: one SDK call per method, and its failures as plain answers.

mod counting;
mod describe;
mod movement;
mod throttle;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, Length, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use sha2::Digest as _;
use tributary_contract::digest::Digest;
use tributary_contract::time::Timestamp;

use self::counting::Counting;
use self::describe::describe;
use self::movement::{Movement, Moving, Stalled};
use self::throttle::Throttle;
use super::answer::{Answer, Got, Operation, Transport};
use super::bucket::{Bucket, Content, Fetched, Found};
use super::credentials::{CredentialsFile, Keys, is_refusal};
use super::http::{Http, Trust, chain};
use crate::buffer::entry::PartDone;
use crate::config;
use crate::tls::Clock;

/// How long nothing may move before a request is given up: no byte of the body taken by the system, no reply after
/// the last one. Not a limit on the whole request: a slow link takes an hour for what a fast one does in a second,
/// and both are well. The system's send buffer hides movement, hence so long; what a slow link needs to carry what is
/// in there comes on top ([`Throttle::patience`]).
const STALL: Duration = Duration::from_secs(300);

/// A bucket behind the S3 protocol.
#[derive(Debug, Clone)]
pub struct S3Bucket {
    client: Client,
    keys: Keys,
    name: String,
    stall: Duration,
    throttle: Arc<Throttle>,
}

impl S3Bucket {
    /// Prepares the client; asks neither bucket nor file yet: whatever is wrong with keys or certificates is the answer to
    /// each request, until it is right. `clock` says by what time certificates are judged.
    pub async fn new(settings: &config::Bucket, clock: Clock) -> Self {
        let throttle = Arc::new(Throttle::new());
        let region = Region::new(settings.region.clone());
        let keys = match &settings.credentials {
            config::Credentials::File(path) => Keys::File(CredentialsFile::at(path.clone())),
            config::Credentials::Systemd(name) => {
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into);
                Keys::File(CredentialsFile::of_systemd(name, folder))
            }
            config::Credentials::Iot(iot) => {
                Keys::of_iot((**iot).clone(), settings.proxy.clone(), Arc::clone(&clock))
            }
            config::Credentials::Default => {
                let http = Http::new(Trust::new(None, None, Arc::clone(&clock)), &settings.proxy);
                Keys::of_chain(http, region.clone(), Arc::clone(&clock)).await
            }
        };
        let http = Http::new(Trust::new(settings.ca_file.clone(), None, clock), &settings.proxy);
        let http = SharedHttpClient::new(http);
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(Counting::around(http, &throttle))
            .region(region)
            .credentials_provider(SharedCredentialsProvider::new(keys.clone()))
            // It goes by the time of day; ours doesn't.
            .identity_cache(IdentityCache::no_cache())
            // Repeating is decided in one place, `step.rs`: a repetition behind its back would hide a lost reply.
            .retry_config(RetryConfig::disabled())
            // Its grace period ends while the system's send buffer still drains into a slow link.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // We give our own; the SDK's would be sent in trailers that not every store reads.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &settings.endpoint {
            // Stores other than AWS seldom have a DNS name per bucket.
            builder = builder.endpoint_url(endpoint).force_path_style(true);
        }
        let client = Client::from_conf(builder.build());
        Self { client, keys, name: settings.name.clone(), stall: STALL, throttle }
    }

    /// The same bucket at no more than `rate` bytes a second on the wire, both ways; 0 for no limit.
    pub fn with_rate(self, rate: u64) -> Self {
        self.throttle.limit(rate);
        self
    }

    /// The same bucket, giving a request up when nothing moved for `stall`.
    pub fn with_stall_limit(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// The store's clock, whole seconds, by the head of its answer about something that isn't there; none where it doesn't
    /// say.
    pub async fn date(&self, near: &str) -> Option<Timestamp> {
        let absent = format!("{near}.{:016x}", fastrand::u64(..));
        let refused = self.client.head_object().bucket(&self.name).key(absent).send().await.err()?;
        let date = refused.raw_response()?.headers().get("date")?;
        let parsed = jiff::fmt::rfc2822::parse(date).ok()?;
        Some(Timestamp(parsed.timestamp().as_microsecond()))
    }

    /// Waits for one SDK call as long as it moves, and describes its failure.
    async fn ask<T, E>(
        &self,
        operation: Operation,
        movement: &Movement,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Answer>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        self.carry(operation, movement, 0, call).await
    }

    /// The same for a request with a body of that many bytes.
    async fn carry<T, E>(
        &self,
        operation: Operation,
        movement: &Movement,
        body: u64,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Answer>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let (began, limit) = (Instant::now(), self.stall + self.throttle.patience(body));
        match movement.wait(limit, call).await {
            Ok(Ok(done)) => {
                self.throttle.stored(body, began.elapsed());
                Ok(done)
            }
            Ok(Err(e)) => {
                let answer = describe(operation, e);
                if is_refusal(&answer) {
                    self.keys.refuse();
                }
                Err(answer)
            }
            Err(Stalled) => {
                self.throttle.stood_still();
                Err(stalled(operation, limit))
            }
        }
    }

    /// The body of a request; every piece that the connection takes counts as movement.
    async fn body(
        &self,
        content: Content,
        operation: Operation,
        movement: &Movement,
    ) -> Result<ByteStream, Answer> {
        let (inner, gives_way) = match content {
            // In memory: signed with the request.
            Content::Bytes(bytes) => return Ok(ByteStream::from(bytes)),
            Content::File { path, offset, length, gives_way } => {
                let there = tokio::fs::metadata(&path).await.map_err(|e| unreadable(operation, &e))?.len();
                if there < offset.saturating_add(length) {
                    let detail =
                        format!("{} has {there} bytes, {} are to be sent", path.display(), offset + length);
                    return Err(Answer { operation, got: Got::Nothing(Transport::File), detail });
                }
                let stretch = ByteStream::read_from().path(path).offset(offset).length(Length::Exact(length));
                (stretch.build().await, gives_way)
            }
        };
        let inner = inner.map_err(|e| unreadable(operation, &e))?.into_inner();
        let moving = Moving::new(inner, movement, &self.throttle, gives_way);
        Ok(ByteStream::new(SdkBody::from_body_1_x(moving)))
    }
}

impl Bucket for S3Bucket {
    async fn put_new(&self, key: &str, content: Content, digest: Digest) -> Result<(), Answer> {
        let (movement, size) = (Movement::new(), content.len());
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .if_none_match("*")
            .checksum_sha256(BASE64.encode(digest.0))
            .metadata(Digest::METADATA_KEY, digest.to_string())
            .content_length(length(&content))
            .body(self.body(content, Operation::PutNew, &movement).await?);
        self.carry(Operation::PutNew, &movement, size, request.send()).await.map(drop)
    }

    async fn create_multipart(&self, key: &str, digest: Digest) -> Result<String, Answer> {
        let operation = Operation::CreateMultipart;
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .metadata(Digest::METADATA_KEY, digest.to_string());
        let opened = self.ask(operation, &Movement::new(), request.send()).await?;
        match opened.upload_id {
            Some(upload_id) if !upload_id.is_empty() => Ok(upload_id),
            _ => Err(unusable(operation, "the reply names no upload id")),
        }
    }

    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        content: Content,
    ) -> Result<PartDone, Answer> {
        let operation = Operation::UploadPart;
        let mut hash = sha2::Sha256::new();
        content.each_piece(|piece| hash.update(piece)).await.map_err(|e| unreadable(operation, &e))?;
        let checksum = BASE64.encode(hash.finalize());
        let size = content.len();
        let movement = Movement::new();
        let request = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload_id)
            .part_number(part_number(number))
            .checksum_sha256(&checksum)
            .content_length(length(&content))
            .body(self.body(content, operation, &movement).await?);
        let stored = self.carry(operation, &movement, size, request.send()).await?;
        match stored.e_tag {
            Some(etag) => Ok(PartDone { number, size, etag, checksum }),
            None => Err(unusable(operation, "the reply names no ETag")),
        }
    }

    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<PartDone>, Answer> {
        let operation = Operation::ListParts;
        let mut parts: Vec<PartDone> = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let request = self
                .client
                .list_parts()
                .bucket(&self.name)
                .key(key)
                .upload_id(upload_id)
                .set_part_number_marker(marker.clone());
            let page = self.ask(operation, &Movement::new(), request.send()).await?;
            for part in page.parts.unwrap_or_default() {
                if let (Some(number), Some(size), Some(etag)) = (part.part_number, part.size, part.e_tag)
                    && let (Ok(number), Ok(size)) = (u32::try_from(number), u64::try_from(size))
                {
                    parts.push(PartDone {
                        number,
                        size,
                        etag,
                        checksum: part.checksum_sha256.unwrap_or_default(),
                    });
                }
            }
            if page.is_truncated != Some(true) {
                parts.sort_by_key(|p| p.number);
                return Ok(parts);
            }
            if page.next_part_number_marker.is_none() || page.next_part_number_marker == marker {
                return Err(unusable(operation, "the list of parts doesn't end"));
            }
            marker = page.next_part_number_marker;
        }
    }

    async fn complete(&self, key: &str, upload_id: &str, parts: &[PartDone]) -> Result<(), Answer> {
        let parts = parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(part_number(part.number))
                .e_tag(&part.etag)
                .set_checksum_sha256(Some(part.checksum.clone()).filter(|c| !c.is_empty()))
                .build()
        });
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload_id)
            .if_none_match("*")
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build());
        let operation = Operation::Complete;
        let made = self.ask(operation, &Movement::new(), request.send()).await?;
        // The store begins its reply with 200 before it knows how it ends; only a whole one counts.
        match made.e_tag {
            Some(_) => Ok(()),
            None => Err(unusable(operation, "the reply names no ETag")),
        }
    }

    async fn head(&self, key: &str) -> Result<Found, Answer> {
        let operation = Operation::Head;
        let request =
            self.client.head_object().bucket(&self.name).key(key).checksum_mode(ChecksumMode::Enabled);
        let seen = self.ask(operation, &Movement::new(), request.send()).await?;
        let Some(Ok(size)) = seen.content_length.map(u64::try_from) else {
            return Err(unusable(operation, "the reply names no length"));
        };
        let named = seen.metadata.as_ref().and_then(|m| m.get(Digest::METADATA_KEY));
        // A checksum over parts has `-<parts>` at its end and doesn't read as base64: it is none over the whole.
        let checked = seen
            .checksum_sha256
            .as_deref()
            .and_then(|text| BASE64.decode(text).ok())
            .and_then(|raw| raw.try_into().ok().map(Digest));
        Ok(Found { digest: named.and_then(|text| text.parse().ok()).or(checked), size })
    }

    async fn get(&self, key: &str, if_none_match: Option<&str>, limit: u64) -> Result<Fetched, Answer> {
        let operation = Operation::Get;
        let request = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .set_if_none_match(if_none_match.map(str::to_owned));
        let mut read = match self.ask(operation, &Movement::new(), request.send()).await {
            Err(Answer { got: Got::Reply { status: 304, .. }, .. }) => return Ok(Fetched::Unchanged),
            other => other?,
        };
        let too_long = || unusable(operation, &format!("the object is longer than {limit} bytes"));
        if read.content_length.is_some_and(|n| u64::try_from(n).is_ok_and(|n| n > limit)) {
            return Err(too_long());
        }
        let mut bytes = BytesMut::new();
        loop {
            match Movement::new().wait(self.stall, read.body.next()).await {
                Err(Stalled) => return Err(stalled(operation, self.stall)),
                Ok(None) => return Ok(Fetched::Body { bytes: bytes.freeze(), etag: read.e_tag }),
                Ok(Some(Err(e))) => return Err(no_reply(operation, chain(&e))),
                Ok(Some(Ok(piece))) => bytes.extend_from_slice(&piece),
            }
            if bytes.len() as u64 > limit {
                return Err(too_long());
            }
        }
    }

    async fn put_replace(&self, key: &str, bytes: Bytes) -> Result<(), Answer> {
        let operation = Operation::PutReplace;
        let movement = Movement::new();
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .content_type("application/json")
            .checksum_sha256(BASE64.encode(Digest::of(&bytes).0))
            .body(self.body(Content::Bytes(bytes), operation, &movement).await?);
        self.ask(operation, &movement, request.send()).await.map(drop)
    }

    fn traffic(&self) -> u64 {
        self.throttle.total()
    }
}

fn length(content: &Content) -> i64 {
    i64::try_from(content.len()).unwrap_or(i64::MAX)
}

fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn unreadable(operation: Operation, error: &(dyn Error + 'static)) -> Answer {
    Answer { operation, got: Got::Nothing(Transport::File), detail: chain(error) }
}

fn no_reply(operation: Operation, detail: String) -> Answer {
    Answer { operation, got: Got::Nothing(Transport::NoReply), detail }
}

fn stalled(operation: Operation, limit: Duration) -> Answer {
    no_reply(operation, format!("nothing moved for {} s", limit.as_secs()))
}

/// A reply that claims success but can't be used.
fn unusable(operation: Operation, detail: &str) -> Answer {
    Answer { operation, got: Got::Reply { status: 200, code: None }, detail: detail.to_owned() }
}

#[cfg(test)]
mod tests;
