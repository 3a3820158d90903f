//! Desired state: what operators ask of a gateway, through the receiver.

use serde::{Deserialize, Serialize};

use crate::id::{GatewayId, Namespace};
use crate::time::Timestamp;

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
