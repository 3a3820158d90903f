//! Writes a gateway's object `desired` under the condition that nobody else wrote it meanwhile.

use bytes::Bytes;
use tributary_contract::desired::{Desired, DesiredError, MAX_BYTES};
use tributary_contract::id::GatewayId;
use tributary_contract::key::Prefix;
use tributary_contract::status::GatewayStatus;

use super::{Unwritable, Wanted, with_backfill};
use crate::bucket::{Bucket, BucketError, Extent, Got, Put, When};

/// How often a write that lost a race is tried.
const ATTEMPTS: usize = 4;
/// The longest status that is read, bytes.
const STATUS_BYTES: u64 = 1 << 20;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Name of the request.
    pub id: String,
    /// Revision of the document.
    pub revision: u64,
    /// Whether the gateway ever wrote a status.
    pub known: bool,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The bucket. The write may have happened: the same request again asks for nothing twice.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The request.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// What lies there isn't a document that this program could keep the rest of.
    #[error("{key} isn't usable ({why}): mend it, or remove it")]
    Unreadable {
        /// Its key.
        key: String,
        /// Why.
        why: DesiredError,
    },
    /// Someone else is quicker.
    #[error("{0} was replaced by someone else {ATTEMPTS} times: try again")]
    Contested(String),
}

/// Asks `gateway` for a range of readings.
///
/// # Errors
/// Why nothing was asked.
pub async fn ask(
    bucket: &dyn Bucket,
    prefix: &Prefix,
    gateway: &GatewayId,
    wanted: &Wanted,
) -> Result<Written, WriteError> {
    let key = prefix.desired(gateway);
    let extent = Extent::Whole { limit: STATUS_BYTES };
    let status = match bucket.get(&prefix.status(gateway), extent).await? {
        Got::Object(object) => serde_json::from_slice::<GatewayStatus>(&object.bytes).ok(),
        Got::TooLarge { .. } | Got::Absent => None,
    };
    let status = status.filter(|s| s.gateway == *gateway);
    for _ in 0..ATTEMPTS {
        let unreadable = |why| WriteError::Unreadable { key: key.clone(), why };
        let (current, when) = match bucket.get(&key, Extent::Whole { limit: MAX_BYTES }).await? {
            Got::Object(object) => {
                let current = Desired::from_json(&object.bytes, gateway).map_err(unreadable)?;
                (Some(current), When::Matches(object.etag))
            }
            Got::TooLarge { size } => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                return Err(unreadable(DesiredError::TooLong(size)));
            }
            Got::Absent => (None, When::Absent),
        };
        let (desired, id) = with_backfill(current, gateway, status.as_ref(), wanted)?;
        let json = Bytes::from(desired.to_json());
        match bucket.put(&key, json, "application/json", &when).await? {
            Put::Done(_) => {
                return Ok(Written { id, revision: desired.revision, known: status.is_some() });
            }
            Put::Conflict => {}
        }
    }
    Err(WriteError::Contested(key))
}
