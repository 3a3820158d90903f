//! What a connection needs of the files that its settings name: password, certificates, key.

use std::sync::Arc;

use super::{Clock, MqttError};
use crate::clock::BUILT;
use crate::config::Broker;
use crate::tls::{self, Files};

/// What the settings keep in files, read anew for each connection.
pub(super) struct Credentials {
    pub(super) login: Option<(String, String)>,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Credentials {
    /// Without a clock of the agent's: the machine's is enough for a look.
    pub(super) fn load(broker: &Broker) -> Result<Self, MqttError> {
        Self::load_by(broker, Arc::new(|| BUILT))
    }

    pub(super) fn load_by(broker: &Broker, clock: Clock) -> Result<Self, MqttError> {
        let password = match &broker.password_file {
            None => String::new(),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let wrong = |error: std::io::Error| MqttError::File {
                    what: "password_file",
                    path: path.clone(),
                    error: error.to_string(),
                };
                read.map_err(wrong)?.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        let files = Files {
            ca: broker.ca_file.as_deref(),
            cert: broker.cert_file.as_deref(),
            key: broker.key_file.as_deref(),
        };
        let tls = if broker.tls { Some(tls::client_config(files, clock)?) } else { None };
        Ok(Self { login: broker.username.clone().map(|name| (name, password)), tls })
    }
}
