//! Keys from a file, or from a credential of systemd, which is a file too: read again for each request, so that a rotated
//! one takes effect by itself.

use std::path::PathBuf;

use aws_credential_types::Credentials;
use serde::Deserialize;

/// Keys in a TOML file. Only its path is ever shown.
#[derive(Debug, Clone)]
pub struct CredentialsFile {
    /// None: systemd hands this unit no credentials.
    path: Option<PathBuf>,
    /// The credential's name, where it is one of systemd.
    name: String,
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
    /// Not run as a unit, or as one without credentials.
    #[error(
        "systemd hands over no credential {name}: CREDENTIALS_DIRECTORY isn't set; write LoadCredential={name}:PATH into \
         the unit; to try it in a shell, use systemd-run -t -p LoadCredential={name}:PATH"
    )]
    NoUnit {
        /// The credential's name.
        name: String,
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
    /// The file at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path: Some(path), name: String::new() }
    }

    /// The credential `name`, in the folder that systemd made for this unit.
    pub fn of_systemd(name: &str, folder: Option<PathBuf>) -> Self {
        Self { path: folder.map(|folder| folder.join(name)), name: name.to_owned() }
    }

    /// The keys that it holds now.
    ///
    /// # Errors
    /// When it can't be read, or holds something else.
    pub fn read(&self) -> Result<Credentials, CredentialsFileError> {
        let Some(at) = &self.path else {
            return Err(CredentialsFileError::NoUnit { name: self.name.clone() });
        };
        let path = || at.clone();
        let text = std::fs::read_to_string(at)
            .map_err(|source| CredentialsFileError::Read { path: path(), source })?;
        // The parser's own message quotes the line, secret and all: it is dropped.
        let keys: Keys = toml::from_str(&text).map_err(|_| CredentialsFileError::Content { path: path() })?;
        if keys.access_key_id.is_empty() || keys.secret_access_key.is_empty() {
            return Err(CredentialsFileError::Content { path: path() });
        }
        Ok(Credentials::new(keys.access_key_id, keys.secret_access_key, keys.session_token, None, "file"))
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
            let error = CredentialsFile::at(path.clone()).read().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
        std::fs::write(&path, "access_key_id = \"id\"\nsecret_access_key = \"hush\"").unwrap();
        let file = CredentialsFile::at(path.clone());
        assert!(!format!("{file:?} {:?}", file.read().unwrap()).contains("hush"));
    }

    #[test]
    fn a_rotated_file_takes_effect_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        std::fs::write(&path, "access_key_id = \"one\"\nsecret_access_key = \"s\"").unwrap();
        let file = CredentialsFile::at(path.clone());
        std::fs::write(&path, "access_key_id = \"two\"\nsecret_access_key = \"s\"\nsession_token = \"t\"")
            .unwrap();
        let keys = file.read().unwrap();
        assert_eq!((keys.access_key_id(), keys.session_token()), ("two", Some("t")));
    }

    #[test]
    fn a_credential_of_systemd_is_a_file_of_its_folder_and_its_absence_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bucket"), "access_key_id = \"one\"\nsecret_access_key = \"s\"")
            .unwrap();
        let keys = CredentialsFile::of_systemd("bucket", Some(dir.path().to_owned())).read().unwrap();
        assert_eq!(keys.access_key_id(), "one");
        let error = CredentialsFile::of_systemd("bucket", None).read().unwrap_err().to_string();
        assert!(error.contains("LoadCredential=bucket:PATH"), "{error}");
    }
}
