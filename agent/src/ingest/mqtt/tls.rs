//! TLS towards a broker: what to trust, and who we are.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tributary_contract::time::Timestamp;

use super::{Clock, MqttError};
use crate::clock::BUILT;
use crate::config::Broker;

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

/// The client's configuration for `broker`: its `ca_file`, else the system's certificates; a client certificate where
/// one is set. `clock` says by what time certificates are valid.
pub(super) fn client_config(broker: &Broker, clock: Clock) -> Result<Arc<ClientConfig>, MqttError> {
    let mut roots = RootCertStore::empty();
    match &broker.ca_file {
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
                return Err(MqttError::NoRoots(errors.join("; ")));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(AgentTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(|e| MqttError::Tls(e.to_string()))?
        .with_root_certificates(roots);
    let config = match (&broker.cert_file, &broker.key_file) {
        (None, None) => config.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("cert_file", cert)?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|e| file("key_file", key, e.to_string()))?;
            config.with_client_auth_cert(chain, secret).map_err(|e| file("key_file", key, e.to_string()))?
        }
        (Some(_), None) | (None, Some(_)) => return Err(MqttError::HalfIdentity),
    };
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, MqttError> {
    let wrong = |e: rustls::pki_types::pem::Error| file(what, path, e.to_string());
    let read = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let list = read.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if list.is_empty() {
        return Err(file(what, path, "it holds no certificate in PEM".into()));
    }
    Ok(list)
}

fn file(what: &'static str, path: &Path, error: String) -> MqttError {
    MqttError::File { what, path: path.into(), error }
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
}
