//! The passes between receiver and gateways: receipts out, statuses in.

use futures::StreamExt;
use tributary_contract::id::GatewayId;
use tributary_contract::status::GatewayStatus;
use tributary_contract::time::Timestamp;

use super::{PassError, Pipeline};
use crate::bucket::{Extent, Got, Listed, Query};
use crate::receipt::write::write;

/// Receipts in one pass.
const RECEIPTS: usize = 1000;
/// Requests at a time.
const AT_ONCE: usize = 8;
/// The longest status that is read, in bytes.
const MAX_STATUS_BYTES: u64 = 1 << 20;

impl Pipeline {
    /// Writes the receipts that are due; one gateway's trouble leaves the others alone.
    pub async fn receipts_pass(&self, now: Timestamp) -> Result<(), PassError> {
        let due = self.ledger.call(|l| l.due_receipts(RECEIPTS)).await?;
        let written = futures::stream::iter(due)
            .map(|due| write(self.bucket.as_ref(), &self.ledger, &self.prefix, due, now))
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        self.health.beat();
        written.into_iter().find_map(Result::err).map_or(Ok(()), |e| Err(e.into()))
    }

    /// Takes over the status objects that changed.
    pub async fn statuses_pass(&self) -> Result<(), PassError> {
        let known = self.ledger.call(|l| l.status_etags()).await?;
        let folder = self.prefix.statuses();
        let mut query = Query { prefix: folder.clone(), limit: 1000, ..Query::default() };
        loop {
            let page = self.bucket.list(&query).await?;
            let changed = page.objects.into_iter().filter_map(|o| {
                let name = o.key.strip_prefix(&folder)?.strip_suffix(".json")?;
                let gateway = name.parse::<GatewayId>().ok()?;
                (known.get(&gateway) != Some(&o.etag)).then_some((gateway, o))
            });
            let mut reads = futures::stream::iter(changed.collect::<Vec<_>>())
                .map(|(gateway, object)| self.take_status(gateway, object))
                .buffer_unordered(AT_ONCE);
            while let Some(taken) = reads.next().await {
                taken?;
                self.health.beat();
            }
            match page.next {
                Some(next) => query.page = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn take_status(&self, gateway: GatewayId, listed: Listed) -> Result<(), PassError> {
        let status = match self.bucket.get(&listed.key, Extent::Whole { limit: MAX_STATUS_BYTES }).await? {
            Got::Object(object) => serde_json::from_slice::<GatewayStatus>(&object.bytes).ok(),
            Got::TooLarge { .. } => None,
            Got::Absent => return Ok(()),
        };
        let status = status.filter(|s| s.gateway == gateway);
        if status.is_none() {
            tracing::warn!(key = %listed.key, "status can't be read, or is another gateway's");
        }
        let note = self
            .ledger
            .call(move |l| l.note_status(&gateway, &listed.etag, listed.modified, status.as_ref()));
        Ok(note.await?)
    }
}
