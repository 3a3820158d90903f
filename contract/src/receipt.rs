//! The receipt: what the receiver tells a gateway about its segments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::FORMAT_VERSION;
use crate::id::{Epoch, GatewayId};
use crate::manifest::Link;
use crate::range::Ranges;
use crate::reject::QuarantineReason;
use crate::time::Timestamp;

/// `<prefix>/receipts/<gateway>.json`. Replaced by the receiver under `If-Match`; its revision only grows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Format version.
    pub version: u32,
    /// For whom.
    pub gateway: GatewayId,
    /// Grows with every receipt for this gateway, also over a new ledger.
    pub revision: u64,
    /// When it was written, by the receiver's clock.
    pub written_at: Timestamp,
    /// Per epoch, what is known.
    pub epochs: BTreeMap<Epoch, EpochReceipt>,
    /// Newest snapshot per table, `namespace.table`.
    #[serde(default)]
    pub snapshots: BTreeMap<String, i64>,
}

/// What the receiver knows of one epoch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EpochReceipt {
    /// Numbers whose rows are in the tables.
    pub registered: Ranges,
    /// The highest registered number and its digest; by the chain of `previous` it vouches for the ones below it.
    pub highest: Option<Link>,
    /// Numbers that were refused, and why.
    #[serde(default)]
    pub quarantined: BTreeMap<u64, Quarantined>,
    /// Numbers that a later manifest calls sealed and that are not in the bucket.
    #[serde(default)]
    pub missing: Ranges,
    /// Numbers that the gateway declared void.
    #[serde(default)]
    pub void: Ranges,
}

/// A refused segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Code of the reason.
    pub reason: QuarantineReason,
    /// A sentence for people.
    pub detail: String,
}

/// Why a receipt can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Not the JSON of a receipt.
    #[error("receipt isn't readable: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later format.
    #[error("receipt has version {0}, this program knows up to {FORMAT_VERSION}: upgrade the agent")]
    Version(u32),
    /// For another gateway.
    #[error("receipt is for gateway {got}, expected {expected}")]
    Gateway {
        /// Whose it is.
        got: GatewayId,
        /// Who reads it.
        expected: GatewayId,
    },
}

impl Receipt {
    /// JSON for the bucket.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a receipt meant for `gateway`.
    pub fn from_json(json: &[u8], gateway: &GatewayId) -> Result<Self, ReceiptError> {
        let receipt: Self = serde_json::from_slice(json)?;
        if receipt.version == 0 || receipt.version > FORMAT_VERSION {
            return Err(ReceiptError::Version(receipt.version));
        }
        if receipt.gateway != *gateway {
            return Err(ReceiptError::Gateway { got: receipt.gateway, expected: gateway.clone() });
        }
        Ok(receipt)
    }
}
