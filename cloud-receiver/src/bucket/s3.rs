//! The bucket behind the S3 API, through the AWS SDK; its own retries are off, the loops look again.

use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedCredentialsProvider;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use tributary_contract::digest::Digest;
use tributary_contract::time::Timestamp;

use super::{Bucket, BucketError, Extent, Got, Listed, Object, Page, Put, Query, When};
use crate::config::{BucketConfig, StaticKeys};

/// A bucket behind the S3 API.
#[derive(Debug, Clone)]
pub struct S3Bucket {
    client: Client,
    bucket: String,
}

impl S3Bucket {
    /// Prepares a client; nothing is asked yet. `keys` are those of the configuration's file, if it names one.
    pub async fn new(config: &BucketConfig, keys: Option<&StaticKeys>) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .operation_attempt_timeout(Duration::from_secs(300))
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .region(Region::new(config.region.clone()));
        if let Some(keys) = keys {
            let StaticKeys { access_key_id, secret_access_key, session_token } = keys.clone();
            let fixed = aws_credential_types::Credentials::new(
                access_key_id,
                secret_access_key,
                session_token,
                None,
                "file of the configuration",
            );
            loader = loader.credentials_provider(SharedCredentialsProvider::new(fixed));
        }
        if let Some(endpoint) = &config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = loader.load().await;
        let own =
            aws_sdk_s3::config::Builder::from(&shared).force_path_style(config.endpoint.is_some()).build();
        Self { client: Client::from_conf(own), bucket: config.name.clone() }
    }
}

/// What the answer to a request means to us.
enum Answer {
    Absent,
    Conflict,
    Failed(String),
}

fn classify<E>(error: &SdkError<E, HttpResponse>) -> Answer
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|r| r.status().as_u16());
    match (status, error.code()) {
        // A bucket that isn't there is a fault, a key that isn't there is an answer.
        (_, Some("NoSuchBucket")) => Answer::Failed("the bucket doesn't exist".to_owned()),
        (Some(404), _) | (_, Some("NoSuchKey")) => Answer::Absent,
        // 409: another conditional write is under way; who looks again sees its outcome.
        (Some(412 | 409), _) => Answer::Conflict,
        (Some(status), code) => {
            let code = code.unwrap_or("without a code");
            let message = error.message().unwrap_or("no message");
            let id = error.request_id().map(|id| format!(", request {id}")).unwrap_or_default();
            Answer::Failed(format!("answered {status} {code}: {message}{id}"))
        }
        (None, _) => Answer::Failed(chain(error)),
    }
}

/// An error and what caused it, each sentence once, without the debug forms of either.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !said.iter().any(|earlier| earlier.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    said.join(": ")
}

fn failed<E>(what: String, error: &SdkError<E, HttpResponse>) -> BucketError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let why = match classify(error) {
        Answer::Absent => "not found".to_owned(),
        Answer::Conflict => "another write is under way".to_owned(),
        Answer::Failed(why) => why,
    };
    BucketError { what, why }
}

fn micros(time: Option<&aws_sdk_s3::primitives::DateTime>) -> Timestamp {
    Timestamp(time.and_then(|t| i64::try_from(t.as_nanos() / 1000).ok()).unwrap_or_default())
}

#[async_trait]
impl Bucket for S3Bucket {
    async fn list(&self, query: &Query) -> Result<Page, BucketError> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(&query.prefix)
            .set_start_after(query.start_after.clone())
            .set_delimiter(query.folders.then(|| "/".to_owned()))
            .set_continuation_token(query.page.clone())
            .max_keys(i32::try_from(query.limit.clamp(1, 1000)).unwrap_or(1000));
        let answer = request.send().await.map_err(|e| failed(format!("list {}", query.prefix), &e))?;
        let objects = answer.contents().iter().filter_map(|o| {
            Some(Listed {
                key: o.key()?.to_owned(),
                size: u64::try_from(o.size().unwrap_or_default()).unwrap_or_default(),
                etag: o.e_tag().unwrap_or_default().to_owned(),
                modified: micros(o.last_modified()),
            })
        });
        let folders = answer.common_prefixes().iter().filter_map(|p| p.prefix().map(str::to_owned));
        Ok(Page {
            objects: objects.collect(),
            folders: folders.collect(),
            next: answer
                .next_continuation_token()
                .filter(|_| answer.is_truncated() == Some(true))
                .map(Into::into),
        })
    }

    async fn get(&self, key: &str, extent: Extent) -> Result<Got, BucketError> {
        let what = || format!("get {key}");
        let range = match extent {
            Extent::Whole { .. } => None,
            Extent::Tail { bytes } => Some(format!("bytes=-{}", bytes.max(1))),
        };
        let request = self.client.get_object().bucket(&self.bucket).key(key).set_range(range);
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(e) => match classify(&e) {
                Answer::Absent => return Ok(Got::Absent),
                Answer::Conflict | Answer::Failed(_) => return Err(failed(what(), &e)),
            },
        };
        let length = u64::try_from(answer.content_length().unwrap_or_default()).unwrap_or_default();
        let limit = match extent {
            Extent::Whole { limit } => limit,
            Extent::Tail { bytes } => bytes.max(1),
        };
        if length > limit {
            return Ok(Got::TooLarge { size: length });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        while let Some(chunk) = answer.body.next().await {
            let chunk = chunk.map_err(|e| BucketError { what: what(), why: format!("broke off: {e}") })?;
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Ok(Got::TooLarge { size: (bytes.len() + chunk.len()) as u64 });
            }
            bytes.extend_from_slice(&chunk);
        }
        if answer.content_length().is_some() && bytes.len() as u64 != length {
            let why = format!("broke off after {} of {length} bytes", bytes.len());
            return Err(BucketError { what: what(), why });
        }
        let digest = answer.metadata().and_then(|m| m.get(Digest::METADATA_KEY)).cloned();
        let etag = answer.e_tag().unwrap_or_default().to_owned();
        Ok(Got::Object(Object { bytes: Bytes::from(bytes), etag, digest }))
    }

    async fn head(&self, key: &str) -> Result<Option<String>, BucketError> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(answer) => Ok(Some(answer.e_tag().unwrap_or_default().to_owned())),
            Err(e) => match classify(&e) {
                Answer::Absent => Ok(None),
                Answer::Conflict | Answer::Failed(_) => Err(failed(format!("head {key}"), &e)),
            },
        }
    }

    async fn put(&self, key: &str, bytes: Bytes, kind: &str, when: &When) -> Result<Put, BucketError> {
        let mut request =
            self.client.put_object().bucket(&self.bucket).key(key).content_type(kind).body(bytes.into());
        request = match when {
            When::Always => request,
            When::Absent => request.if_none_match("*"),
            When::Matches(etag) => request.if_match(etag),
        };
        match request.send().await {
            Ok(answer) => Ok(Put::Done(answer.e_tag().unwrap_or_default().to_owned())),
            Err(e) => match (classify(&e), when) {
                (Answer::Conflict, When::Absent | When::Matches(_)) => Ok(Put::Conflict),
                // If-Match on a key that is gone.
                (Answer::Absent, When::Matches(_)) => Ok(Put::Conflict),
                _ => Err(failed(format!("put {key}"), &e)),
            },
        }
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), BucketError> {
        let source = format!("{}/{}", self.bucket, percent(from));
        let request = self.client.copy_object().bucket(&self.bucket).key(to).copy_source(source);
        request.send().await.map(|_| ()).map_err(|e| failed(format!("copy {from}"), &e))
    }
}

/// The key as `x-amz-copy-source` wants it: all but unreserved characters and `/` escaped.
fn percent(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/');
    let mut out = String::with_capacity(key.len());
    for b in key.bytes() {
        if plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_names_its_source_with_every_unusual_byte_escaped() {
        assert_eq!(percent("p/gw:1/a b+ä.parquet"), "p/gw%3A1/a%20b%2B%C3%A4.parquet");
    }
}
