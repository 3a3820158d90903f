//! The keys that requests to the bucket are signed with: where they come from, and how long they are used.
//!
//! The SDK asks for each request; its own cache is off, because it goes by the time of day. Keys of a file are read each
//! time. Others are kept here and fetched again as [`refresh`] says, and when the bucket refuses them. Nothing secret is
//! ever part of a message: what a source sent is dropped where it can't be read.

mod file;
mod iot;
pub mod refresh;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::config::Region;
use tokio::sync::Mutex;
use tracing::{info, warn};
use tributary_contract::time::Timestamp;

pub use self::file::{CredentialsFile, CredentialsFileError};
use self::iot::IotSource;
use self::refresh::{Due, Failed, Known, Lease, due};
use super::answer::{Answer, Code, Got, Operation};
use super::backoff::Jitter;
use super::http::{Http, chain};
use crate::config::{Iot, Proxy};
use crate::tls::Clock;

/// How long the SDK's chain may take: it asks one place after the other.
const CHAIN_PATIENCE: Duration = Duration::from_secs(30);

/// The keys of a bucket's client; clones share what was fetched.
#[derive(Clone)]
pub enum Keys {
    /// Read for each request.
    File(CredentialsFile),
    /// Fetched when that is due.
    Fetched(Arc<Keeper>),
}

/// Who gives keys that end.
enum Source {
    Iot(IotSource),
    Chain(SharedCredentialsProvider, Clock),
}

/// Keeps keys as long as they are good, and fetches others in time.
pub struct Keeper {
    source: Source,
    kept: Mutex<Kept>,
    refused: AtomicBool,
}

#[derive(Default)]
struct Kept {
    keys: Option<Credentials>,
    known: Known,
    /// What the last fetch said, if it failed.
    why: Option<Why>,
}

/// A failure that can be told again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
struct Why {
    text: String,
    /// Whether only a person can help.
    is_final: bool,
}

impl From<Why> for CredentialsError {
    fn from(why: Why) -> Self {
        if why.is_final {
            CredentialsError::invalid_configuration(why)
        } else {
            CredentialsError::provider_error(why)
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Whether the bucket says with this answer that it takes our keys no more.
pub fn is_refusal(answer: &Answer) -> bool {
    match &answer.got {
        Got::Reply { code: Some(Code::ExpiredToken | Code::InvalidAccessKeyId), .. } => true,
        // A reply to HEAD has no code; this is the status of an expired token, and of nothing else that we could cause.
        Got::Reply { code: None, status: 400 } => answer.operation == Operation::Head,
        Got::Reply { .. } | Got::Nothing(_) => false,
    }
}

impl Keys {
    /// Keys that AWS IoT gives. Reads no file yet.
    pub fn of_iot(iot: Iot, proxy: Proxy, clock: Clock) -> Self {
        Keys::Fetched(Arc::new(Keeper::new(Source::Iot(IotSource::new(iot, proxy, clock)))))
    }

    /// Keys that the SDK's chain finds: in the environment, a profile, a web identity's file, at the container's endpoint
    /// (that of Greengrass is one), at the instance's. `http` is the client for those.
    pub async fn of_chain(http: Http, region: Region, clock: Clock) -> Self {
        let config =
            ProviderConfig::without_region().with_http_client(http).with_region(Some(region.clone()));
        let chain = DefaultCredentialsChain::builder().configure(config).region(region).build().await;
        Self::of_provider(chain, clock)
    }

    fn of_provider(provider: impl ProvideCredentials + 'static, clock: Clock) -> Self {
        let chain = SharedCredentialsProvider::new(provider);
        Keys::Fetched(Arc::new(Keeper::new(Source::Chain(chain, clock))))
    }

    /// The bucket has refused the keys in use: others are fetched for the next request.
    pub fn refuse(&self) {
        if let Keys::Fetched(keeper) = self {
            keeper.refused.store(true, Ordering::Release);
        }
    }
}

impl Keeper {
    fn new(source: Source) -> Self {
        Self { source, kept: Mutex::default(), refused: AtomicBool::new(false) }
    }

    async fn keys(&self) -> Result<Credentials, CredentialsError> {
        // Held during a fetch: whoever else wants keys meanwhile waits for the same ones.
        let mut kept = self.kept.lock().await;
        kept.known.refused |= self.refused.swap(false, Ordering::AcqRel);
        let asked = Instant::now();
        let due = due(&kept.known, asked);
        match due {
            Due::Keep | Due::Fail => {}
            Due::Renew | Due::Fetch => match self.fetch().await {
                Ok((keys, lifetime)) => {
                    info!(seconds = lifetime.as_secs(), "fresh keys for the bucket");
                    let lease = Lease::new(asked, lifetime, Jitter::new(fastrand::f64()));
                    *kept = Kept {
                        keys: Some(keys),
                        known: Known { lease: Some(lease), ..Known::default() },
                        why: None,
                    };
                }
                Err(why) => {
                    let times = kept.known.failed.map_or(0, |failed| failed.times).saturating_add(1);
                    kept.known.failed = Some(Failed { at: Instant::now(), times });
                    if due == Due::Renew {
                        warn!("no fresh keys for the bucket, the old ones are still good: {why}");
                    }
                    kept.why = Some(why);
                }
            },
        }
        let good = matches!(due, Due::Keep | Due::Renew) || kept.why.is_none();
        match (&kept.keys, &kept.why) {
            (Some(keys), _) if good => Ok(keys.clone()),
            (_, Some(why)) => Err(why.clone().into()),
            (_, None) => Err(CredentialsError::not_loaded("nothing was fetched yet")),
        }
    }

    async fn fetch(&self) -> Result<(Credentials, Duration), Why> {
        match &self.source {
            Source::Iot(iot) => {
                iot.fetch().await.map_err(|e| Why { text: chain(&e), is_final: e.is_final() })
            }
            Source::Chain(places, clock) => {
                let given = tokio::time::timeout(CHAIN_PATIENCE, places.provide_credentials()).await;
                let silent = |_| Why {
                    text: format!("nobody gave keys within {} s", CHAIN_PATIENCE.as_secs()),
                    is_final: false,
                };
                let keys = given.map_err(silent)?.map_err(|e| {
                    let is_final = matches!(
                        e,
                        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)
                    );
                    Why { text: chain(&e), is_final }
                })?;
                Ok(without_expiry(keys, clock()))
            }
        }
    }
}

/// The keys without a time at which anybody could find them expired, and how long they last by our clock: who gives keys
/// to the chain may show a time, but the chain doesn't pass it on.
fn without_expiry(mut keys: Credentials, now: Timestamp) -> (Credentials, Duration) {
    let lifetime = match keys.expiry() {
        None => refresh::UNKNOWN,
        Some(at) => {
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            refresh::lifetime(Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)), now)
        }
    };
    *keys.expiry_mut() = None;
    (keys, lifetime)
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        match self {
            Keys::File(file) => future::ProvideCredentials::ready(
                file.read().map_err(CredentialsError::invalid_configuration),
            ),
            Keys::Fetched(keeper) => future::ProvideCredentials::new(keeper.keys()),
        }
    }
}

#[cfg(test)]
mod tests;
