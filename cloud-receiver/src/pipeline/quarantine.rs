//! The pass that lays a copy of each refused object, with its reason beside it, into the quarantine.

use bytes::Bytes;
use serde_json::json;

use super::{PassError, Pipeline};
use crate::bucket::When;
use crate::dedupe::ToCopy;

/// Copies in one pass.
const COPIES: usize = 200;
/// What one request of the S3 API copies at most; a larger object stays where it is.
const MAX_COPY_BYTES: u64 = 5 << 30;

impl Pipeline {
    /// Copies what was refused since. The original stays: nothing that a gateway wrote is deleted.
    pub async fn quarantine_pass(&self) -> Result<(), PassError> {
        for refused in self.ledger.call(|l| l.to_copy(COPIES)).await? {
            self.copy_one(refused).await?;
            self.health.beat();
        }
        Ok(())
    }

    async fn copy_one(&self, refused: ToCopy) -> Result<(), PassError> {
        let ToCopy { row, key, size, reason, detail, at } = refused;
        let target = self.prefix.quarantine(&key);
        let copied = size <= MAX_COPY_BYTES;
        if copied && let Err(e) = self.bucket.copy(&key, &target).await {
            // Gone: there is nothing to copy any more, the reason is still worth keeping.
            if self.bucket.head(&key).await?.is_some() {
                return Err(e.into());
            }
        }
        let reason = json!({
            "version": 1,
            "key": key,
            "copied": copied,
            "reason": reason.code(),
            "sentence": reason.sentence(),
            "detail": detail,
            "refused_at": at.to_string(),
        });
        let bytes = Bytes::from(reason.to_string());
        self.bucket.put(&format!("{target}.reason.json"), bytes, "application/json", &When::Always).await?;
        self.ledger.call(move |l| l.copied(row)).await?;
        Ok(())
    }
}
