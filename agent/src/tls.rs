//! TLS towards brokers, the bucket and those who give keys for it: what to trust, who we are, and by what time
//! certificates are judged.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tributary_contract::time::Timestamp;

use crate::clock::BUILT;

/// Wall time; a function, so that tests turn the clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The files of one connection, each PEM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files<'a> {
    /// Certificates to trust; none: the system's.
    pub ca: Option<&'a Path>,
    /// Own certificate chain.
    pub cert: Option<&'a Path>,
    /// Own private key.
    pub key: Option<&'a Path>,
}

/// Why there can be no TLS. Never holds what is in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file of the settings.
    #[error("{what} {path}: {error}", path = path.display())]
    File {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// Nothing to trust.
    #[error("no system certificates to trust were found ({0}): set `ca_file`")]
    NoRoots(String),
    /// The library's own word.
    #[error("TLS: {0}")]
    Library(String),
    /// A certificate without its key, or the other way round.
    #[error("`cert_file` and `key_file` belong together: set both or none")]
    HalfIdentity,
}

/// The time by which certificates are judged: the greatest of the system's, the agent's, and when it was built. A gateway
/// that starts in 1970 would find every certificate not valid yet; the agent's clock shows at least the newest time ever
/// seen.
struct AgentTime(Clock);

impl fmt::Debug for AgentTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentTime")
    }
}

impl TimeProvider for AgentTime {
    fn current_time(&self) -> Option<UnixTime> {
        let system = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Some(UnixTime::since_unix_epoch(greatest(system, (self.0)())))
    }
}

/// Since the Unix epoch.
fn greatest(system: Duration, agent: Timestamp) -> Duration {
    system.max(Duration::from_micros(agent.max(BUILT).micros().unsigned_abs()))
}

/// The client's configuration: what `files` say, read now. `clock` says by what time certificates are valid.
///
/// # Errors
/// A file that can't be read or isn't what it should be, and a machine without certificates to trust.
pub fn client_config(files: Files<'_>, clock: Clock) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match files.ca {
        Some(path) => {
            for certificate in certificates("ca_file", path)? {
                let wrong = |e: rustls::Error| file("ca_file", path, e.to_string());
                roots.add(certificate).map_err(wrong)?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                let errors: Vec<_> = system.errors.iter().map(ToString::to_string).collect();
                return Err(TlsError::NoRoots(errors.join("; ")));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(AgentTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Library(e.to_string()))?
        .with_root_certificates(roots);
    let config = match (files.cert, files.key) {
        (None, None) => config.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("cert_file", cert)?;
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| file("key_file", key, plain(&e, "private key")))?;
            config.with_client_auth_cert(chain, secret).map_err(|e| file("key_file", key, e.to_string()))?
        }
        (Some(_), None) | (None, Some(_)) => return Err(TlsError::HalfIdentity),
    };
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |e: pem::Error| file(what, path, plain(&e, "certificate"));
    let read = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let list = read.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if list.is_empty() {
        return Err(file(what, path, "it holds no certificate in PEM".into()));
    }
    Ok(list)
}

/// The library's own words may quote a line of the file, and the file may be a key on one line.
fn plain(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("it holds no {wanted} in PEM"),
        _ => format!("it isn't PEM; expected a {wanted} between its lines BEGIN and END"),
    }
}

fn file(what: &'static str, path: &Path, error: String) -> TlsError {
    TlsError::File { what, path: path.into(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_judged_by_the_greatest_time_that_is_known() {
        let seconds =
            |system: u64, agent: i64| greatest(Duration::from_secs(system), Timestamp(agent)).as_secs();
        let built = BUILT.micros() as u64 / 1_000_000;
        assert_eq!(seconds(0, 0), built, "a start in 1970");
        assert_eq!(seconds(0, i64::MIN), built);
        assert_eq!(seconds(0, BUILT.micros() + 90_000_000), built + 90, "what the buffer has seen");
        assert_eq!(seconds(built + 100, 0), built + 100, "what the system says");
    }

    #[test]
    fn no_message_about_a_file_shows_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
        for text in [
            "hush",
            "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\n",
            "-----BEGIN X----- hush",
        ] {
            std::fs::write(&cert, text).unwrap();
            std::fs::write(&key, text).unwrap();
            let files = Files { ca: Some(&cert), cert: Some(&cert), key: Some(&key) };
            let error = client_config(files, Arc::new(|| BUILT)).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }
}
