//! Whom a client trusts and who it is, as TLS needs it: read from its files when the first connection needs it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;

use crate::tls::{Clock, Files, TlsError, client_config};

/// The files of a client, and what was read from them.
pub struct Trust {
    /// Certificates to trust, PEM; none: the system's.
    ca: Option<PathBuf>,
    /// Own certificate chain and private key, PEM.
    own: Option<(PathBuf, PathBuf)>,
    clock: Clock,
    /// Kept, because it knows the sessions that can be resumed: a whole handshake costs some kilobytes.
    read: Mutex<Option<Arc<ClientConfig>>>,
}

impl Trust {
    /// Reads nothing yet. `own`: certificate chain and key of ours; `clock` says by what time others are judged.
    pub fn new(ca: Option<PathBuf>, own: Option<(PathBuf, PathBuf)>, clock: Clock) -> Self {
        Self { ca, own, clock, read: Mutex::default() }
    }

    /// What the files say, or said when they were read last.
    ///
    /// # Errors
    /// When they can't be read now.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*read {
            return Ok(Arc::clone(config));
        }
        let files = Files {
            ca: self.ca.as_deref(),
            cert: self.own.as_ref().map(|(cert, _)| cert.as_path()),
            key: self.own.as_ref().map(|(_, key)| key.as_path()),
        };
        let config = client_config(files, Arc::clone(&self.clock))?;
        *read = Some(Arc::clone(&config));
        Ok(config)
    }

    /// A handshake failed: the files are read again for the next one, somebody may have set them right.
    pub(super) fn doubt(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
