//! Keys from a file: read again whenever the SDK asks for keys, so that a rotated file takes effect by itself.

use std::path::{Path, PathBuf};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use serde::Deserialize;

/// Keys in a TOML file. Only the path is ever shown.
#[derive(Debug, Clone)]
pub struct CredentialsFile {
    path: PathBuf,
}

/// Why a file gives no keys. Never holds any of its text.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsFileError {
    /// Can't be read.
    #[error("credentials file {path}: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Isn't what it should be.
    #[error(
        "credentials file {path}: expected TOML with access_key_id, secret_access_key and perhaps session_token, \
         each a text, and nothing else",
        path = path.display()
    )]
    Content {
        /// Which file.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl CredentialsFile {
    /// Checks that the file gives keys now.
    pub fn new(path: &Path) -> Result<Self, CredentialsFileError> {
        let file = Self { path: path.to_owned() };
        file.read()?;
        Ok(file)
    }

    fn read(&self) -> Result<Credentials, CredentialsFileError> {
        let path = || self.path.clone();
        let text = std::fs::read_to_string(&self.path)
            .map_err(|source| CredentialsFileError::Read { path: path(), source })?;
        // The parser's own message quotes the line, secret and all: it is dropped.
        let keys: Keys = toml::from_str(&text).map_err(|_| CredentialsFileError::Content { path: path() })?;
        if keys.access_key_id.is_empty() || keys.secret_access_key.is_empty() {
            return Err(CredentialsFileError::Content { path: path() });
        }
        Ok(Credentials::new(keys.access_key_id, keys.secret_access_key, keys.session_token, None, "file"))
    }
}

impl ProvideCredentials for CredentialsFile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.read().map_err(CredentialsError::provider_error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_about_a_credentials_file_shows_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        for text in [
            "secret_access_key = \"hush\"",
            "access_key_id = \"hush\"\nsecret_access_key = hush",
            "access_key_id = \"a\"\nsecret_access_key = \"hush\"\nmore = \"hush\"",
            "access_key_id = \"hush\"\nsecret_access_key = \"\"",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = CredentialsFile::new(&path).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
        std::fs::write(&path, "access_key_id = \"id\"\nsecret_access_key = \"hush\"").unwrap();
        let file = CredentialsFile::new(&path).unwrap();
        assert!(!format!("{file:?} {:?}", file.read().unwrap()).contains("hush"));
    }

    #[test]
    fn a_rotated_file_takes_effect_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        std::fs::write(&path, "access_key_id = \"one\"\nsecret_access_key = \"s\"").unwrap();
        let file = CredentialsFile::new(&path).unwrap();
        std::fs::write(&path, "access_key_id = \"two\"\nsecret_access_key = \"s\"\nsession_token = \"t\"")
            .unwrap();
        let keys = file.read().unwrap();
        assert_eq!((keys.access_key_id(), keys.session_token()), ("two", Some("t")));
    }
}
