//! The access keys that may sign requests: a set that changes while the server runs, as sessions begin and end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

/// Access keys; clones are the same set.
#[derive(Clone, Default)]
pub struct Keys(Arc<Mutex<BTreeMap<String, Key>>>);

struct Key {
    secret: SecretKey,
    /// What requests must carry beside the signature; none for keys that aren't a session's.
    token: Option<String>,
    /// From here on it has expired.
    ends: Option<Instant>,
    used: u64,
}

impl Keys {
    fn set(&self) -> MutexGuard<'_, BTreeMap<String, Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes requests signed with this key from now on; with a token only those that carry it.
    pub fn admit(&self, id: &str, secret: &str, token: Option<&str>) {
        let key = Key { secret: secret.into(), token: token.map(str::to_owned), ends: None, used: 0 };
        self.set().insert(id.to_owned(), key);
    }

    /// Takes requests of this session for so long.
    pub fn admit_for(&self, id: &str, secret: &str, token: &str, lifetime: Duration) {
        let ends = Some(Instant::now() + lifetime);
        let key = Key { secret: secret.into(), token: Some(token.to_owned()), ends, used: 0 };
        self.set().insert(id.to_owned(), key);
    }

    /// Ends the session: its requests are answered with `ExpiredToken`.
    pub fn expire(&self, id: &str) {
        if let Some(key) = self.set().get_mut(id) {
            key.ends = Some(Instant::now());
        }
    }

    /// Knows the key no more: its requests are answered with `InvalidAccessKeyId`.
    pub fn remove(&self, id: &str) {
        self.set().remove(id);
    }

    /// How many requests were let in that this key had signed.
    #[must_use]
    pub fn used(&self, id: &str) -> u64 {
        self.set().get(id).map_or(0, |key| key.used)
    }

    /// Lets a request in whose signature is right, if its session is.
    pub(super) fn check(&self, id: &str, token: Option<&str>) -> S3Result<()> {
        let mut set = self.set();
        let Some(key) = set.get_mut(id) else { return Err(unknown()) };
        if key.token.as_deref() != token {
            return Err(s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid."));
        }
        if key.ends.is_some_and(|end| Instant::now() >= end) {
            return Err(s3_error!(ExpiredToken, "The provided token has expired."));
        }
        key.used += 1;
        Ok(())
    }
}

fn unknown() -> s3s::S3Error {
    s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records.")
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.set().get(access_key).map(|key| key.secret.clone()).ok_or_else(unknown)
    }
}
