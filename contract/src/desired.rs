//! Desired state: what operators ask of a gateway, through the receiver.

use serde::{Deserialize, Serialize};

use crate::FORMAT_VERSION;
use crate::id::{GatewayId, Namespace};
use crate::time::Timestamp;

/// The longest document that is read, bytes.
pub const MAX_BYTES: u64 = 64 << 10;
/// Backfill requests of one document.
pub const MAX_BACKFILLS: usize = 100;
/// The longest name of a request, bytes.
pub const MAX_ID: usize = 128;

/// `<prefix>/desired/<gateway>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Format version.
    pub version: u32,
    /// For whom.
    pub gateway: GatewayId,
    /// Grows with each change; an agent takes only a greater one than its last.
    pub revision: u64,
    /// Settings that may change remotely, as the agent's configuration names them.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Ranges of raw readings to send.
    #[serde(default)]
    pub backfills: Vec<Backfill>,
    /// Whether uploads rest (collecting goes on).
    #[serde(default)]
    pub paused: bool,
}

/// A request for raw readings that were kept on the gateway; matches `from <= ts < to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// Unique name of the request.
    pub id: String,
    /// Owner of the data.
    pub namespace: Namespace,
    /// One device, else all.
    #[serde(default)]
    pub device: Option<String>,
    /// One metric, else all.
    #[serde(default)]
    pub metric: Option<String>,
    /// First event time wanted.
    pub from: Timestamp,
    /// First event time no longer wanted.
    pub to: Timestamp,
}

/// Why a desired document can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// Not the JSON of a desired document.
    #[error("it isn't readable: {0}")]
    Json(#[from] serde_json::Error),
    /// Longer than [`MAX_BYTES`].
    #[error("it has {0} bytes, at most {MAX_BYTES} are read: take out requests that have ended")]
    TooLong(usize),
    /// Written by a later format.
    #[error("it has version {0}, this program knows up to {FORMAT_VERSION}: upgrade this program")]
    Version(u32),
    /// For another gateway.
    #[error("it is for gateway {got}, expected {expected}")]
    Gateway {
        /// Whose it is.
        got: GatewayId,
        /// Who reads it.
        expected: GatewayId,
    },
    /// More than [`MAX_BACKFILLS`].
    #[error("it asks for {0} backfills, at most {MAX_BACKFILLS} may stand: take out those that have ended")]
    TooMany(usize),
    /// A request without a usable name.
    #[error("the id {0:?} of a backfill isn't usable: give 1 to {MAX_ID} bytes without control characters")]
    Id(String),
    /// Two requests of one name.
    #[error("it has the backfill {0:?} twice: give each request an id of its own")]
    Twice(String),
}

impl Desired {
    /// One in which nothing is asked for yet.
    pub fn new(gateway: GatewayId) -> Self {
        let (settings, backfills) = (serde_json::Map::new(), Vec::new());
        Self { version: FORMAT_VERSION, gateway, revision: 0, settings, backfills, paused: false }
    }

    /// JSON for the bucket.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a document meant for `gateway`.
    ///
    /// # Errors
    /// Whatever makes the document as a whole unusable. A single request may still be senseless: see [`Backfill::senseless`].
    pub fn from_json(json: &[u8], gateway: &GatewayId) -> Result<Self, DesiredError> {
        if json.len() as u64 > MAX_BYTES {
            return Err(DesiredError::TooLong(json.len()));
        }
        let desired: Self = serde_json::from_slice(json)?;
        if desired.version == 0 || desired.version > FORMAT_VERSION {
            return Err(DesiredError::Version(desired.version));
        }
        if desired.gateway != *gateway {
            return Err(DesiredError::Gateway { got: desired.gateway, expected: gateway.clone() });
        }
        desired.check()?;
        Ok(desired)
    }

    /// Whether its requests are few enough, and each has a name of its own.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), DesiredError> {
        if self.backfills.len() > MAX_BACKFILLS {
            return Err(DesiredError::TooMany(self.backfills.len()));
        }
        let mut ids = std::collections::BTreeSet::new();
        for Backfill { id, .. } in &self.backfills {
            if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
                return Err(DesiredError::Id(id.chars().take(MAX_ID).collect()));
            }
            if !ids.insert(id) {
                return Err(DesiredError::Twice(id.clone()));
            }
        }
        Ok(())
    }
}

impl Backfill {
    /// Why no reading could ever match, if so.
    pub fn senseless(&self) -> Option<String> {
        let Self { from, to, device, metric, .. } = self;
        if from >= to {
            return Some(format!("its range ends ({to}) before it begins ({from})"));
        }
        let empty = |name: &Option<String>| name.as_deref() == Some("");
        let names = [("device", device), ("metric", metric)];
        let (what, _) = names.into_iter().find(|(_, name)| empty(name))?;
        Some(format!("its {what} is empty: leave it out to ask for all"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway() -> GatewayId {
        GatewayId::new("gw-1").unwrap()
    }

    fn request(id: &str) -> Backfill {
        let (from, to) = (Timestamp(0), Timestamp(1));
        Backfill { id: id.into(), namespace: Namespace::default(), device: None, metric: None, from, to }
    }

    fn why(change: impl FnOnce(&mut Desired)) -> String {
        let mut desired = Desired { revision: 1, ..Desired::new(gateway()) };
        change(&mut desired);
        Desired::from_json(desired.to_json().as_bytes(), &gateway()).unwrap_err().to_string()
    }

    #[test]
    fn what_no_operator_can_have_meant_is_refused_with_its_reason() {
        assert!(why(|d| d.version = 2).contains("upgrade"));
        assert!(why(|d| d.version = 0).contains("version 0"));
        assert!(why(|d| d.gateway = GatewayId::new("gw-2").unwrap()).contains("gw-2"));
        assert!(why(|d| d.backfills.push(request(""))).contains("1 to 128 bytes"));
        assert!(why(|d| d.backfills.push(request(&"x".repeat(129)))).contains("isn't usable"));
        assert!(why(|d| d.backfills.push(request("a\u{1b}[2J"))).contains("control characters"));
        assert!(why(|d| d.backfills = vec![request("a"), request("a")]).contains("\"a\" twice"));
        let many = |n: usize| (0..n).map(|i| request(&i.to_string())).collect::<Vec<_>>();
        assert!(why(|d| d.backfills = many(101)).contains("101 backfills"));
        assert!(why(|d| d.backfills.push(request(&"x".repeat(70_000)))).contains("bytes"));
        for json in ["", "[]", "{}", "{\"version\":1}", "\u{0}"] {
            let refused = Desired::from_json(json.as_bytes(), &gateway()).unwrap_err();
            assert!(refused.to_string().contains("isn't readable"), "{refused}");
        }
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let json = r#"{"version":1,"gateway":"gw-1","revision":7,"later":{"a":[1]},
            "backfills":[{"id":"a","namespace":"t","from":1,"to":2,"later":true}]}"#;
        let desired = Desired::from_json(json.as_bytes(), &gateway()).unwrap();
        assert_eq!((desired.revision, desired.backfills.len(), desired.paused), (7, 1, false));
    }

    #[test]
    fn a_request_that_nothing_can_match_says_why() {
        assert_eq!(request("a").senseless(), None);
        let same = Backfill { to: Timestamp(0), ..request("a") };
        assert!(same.senseless().unwrap().contains("ends"));
        let empty = Backfill { metric: Some(String::new()), ..request("a") };
        assert!(empty.senseless().unwrap().contains("metric is empty"));
    }
}
