//! Writes receipts that are due into the bucket, each above what lies there.

use bytes::Bytes;
use tributary_contract::id::GatewayId;
use tributary_contract::key::Prefix;
use tributary_contract::receipt::Receipt;
use tributary_contract::time::Timestamp;

use super::receipt;
use crate::bucket::{Bucket, BucketError, Extent, Got, Put, When};
use crate::dedupe::{DueReceipt, LedgerError, LedgerHandle};

/// The longest receipt that is read back.
pub const MAX_BYTES: u64 = 16 << 20;
/// How often a write that lost a race is tried within one pass.
const ATTEMPTS: usize = 4;

/// Why a receipt wasn't written; it stays due.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Someone else writes this gateway's receipts.
    #[error(
        "receipt of {0} was replaced by someone else {ATTEMPTS} times: does another receiver write to this bucket?"
    )]
    Contested(GatewayId),
}

/// Writes the receipt of one gateway and notes it.
pub async fn write(
    bucket: &dyn Bucket,
    ledger: &LedgerHandle,
    prefix: &Prefix,
    due: DueReceipt,
    now: Timestamp,
) -> Result<u64, WriteError> {
    let DueReceipt { gateway, mut etag } = due;
    let key = prefix.receipt(&gateway);
    for attempt in 0..ATTEMPTS {
        // Without an etag of our own, or after losing a race, what lies there decides how high we go.
        if etag.is_none() || attempt > 0 {
            etag = rise_above(bucket, ledger, &key, &gateway).await?;
        }
        let of = gateway.clone();
        let facts = ledger.call(move |l| l.receipt_facts(&of)).await?;
        let document = receipt(&gateway, facts, now);
        let when = etag.clone().map_or(When::Absent, When::Matches);
        match bucket.put(&key, Bytes::from(document.to_json()), "application/json", &when).await? {
            Put::Done(written) => {
                let (of, revision) = (gateway, document.revision);
                ledger.call(move |l| l.receipt_written(&of, revision, &written, now)).await?;
                return Ok(revision);
            }
            Put::Conflict => {}
        }
    }
    Err(WriteError::Contested(gateway))
}

/// Reads the bucket's receipt, raises the ledger's revision above it, and returns its etag.
async fn rise_above(
    bucket: &dyn Bucket,
    ledger: &LedgerHandle,
    key: &str,
    gateway: &GatewayId,
) -> Result<Option<String>, WriteError> {
    let (bytes, etag) = match bucket.get(key, Extent::Whole { limit: MAX_BYTES }).await? {
        Got::Object(object) => (object.bytes, Some(object.etag)),
        // Too large to be a receipt of any receiver; it is replaced as a damaged one is.
        Got::TooLarge { .. } => (Bytes::new(), bucket.head(key).await?),
        Got::Absent => return Ok(None),
    };
    let epochs = Receipt::from_json(&bytes, gateway).map(|r| r.epochs).unwrap_or_default();
    let (of, seen, revision) = (gateway.clone(), etag.clone(), revision_of(&bytes));
    ledger.call(move |l| l.raise_revision(&of, revision, seen.as_deref(), &epochs)).await?;
    Ok(etag)
}

/// The revision of a receipt of any format version; 0 if it can't be found.
pub fn revision_of(json: &[u8]) -> u64 {
    let document = serde_json::from_slice::<serde_json::Value>(json).unwrap_or_default();
    document.get("revision").and_then(serde_json::Value::as_u64).unwrap_or_default()
}
