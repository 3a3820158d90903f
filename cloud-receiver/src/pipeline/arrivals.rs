//! The pass that lists the bucket, inspects what is new and tells the ledger.

use std::sync::Mutex;
use std::sync::PoisonError;

use futures::StreamExt;
use tokio::sync::Semaphore;
use tributary_contract::time::Timestamp;

use super::{PassError, Pipeline};
use crate::arrival::listing::{arrivals, discover};
use crate::arrival::{Arrival, EpochFolder, classify};
use crate::bucket::Listed;
use crate::dedupe::{LedgerError, Pending, Recorded, Seen};
use crate::validate::MAX_OBJECT_BYTES;
use crate::validate::inspect::{Inspected, inspect, too_large};

/// Epochs listed at a time.
const LISTINGS: usize = 8;
/// Objects inspected at a time in one epoch.
const INSPECTIONS: usize = 4;
/// MiB of objects held in memory at a time, over all epochs.
const MEMORY_MIB: u32 = 128;
/// After so many failures a pass gives up: the bucket is away, not one object.
const FAILURES: usize = 8;

/// What one pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Segments that may be registered.
    pub checked: u64,
    /// Segments that were known already.
    pub replayed: u64,
    /// Objects that were refused.
    pub quarantined: u64,
}

/// What the workers of one pass share.
struct Shared {
    memory: Semaphore,
    found: Mutex<Found>,
    failures: Mutex<Vec<PassError>>,
}

impl Shared {
    fn failed(&self, error: PassError) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    }

    fn gave_up(&self) -> bool {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len() >= FAILURES
    }

    fn count(&self, recorded: &Recorded) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match recorded {
            Recorded::Checked => found.checked += 1,
            Recorded::Replay => found.replayed += 1,
            Recorded::Quarantined(..) => found.quarantined += 1,
        }
    }
}

impl Pipeline {
    /// Lists, inspects, records. An object that can't be read now doesn't hold up the others.
    pub async fn arrivals_pass(&self, now: Timestamp) -> Result<Found, PassError> {
        let found = discover(self.bucket.as_ref(), &self.prefix).await?;
        self.note_seen(found.strays, now).await?;
        let shared = Shared {
            memory: Semaphore::new(MEMORY_MIB as usize),
            found: Mutex::default(),
            failures: Mutex::default(),
        };
        futures::stream::iter(found.epochs)
            .for_each_concurrent(LISTINGS, |folder| {
                let shared = &shared;
                async move {
                    if let Err(e) = self.epoch_pass(&folder, shared, now).await {
                        shared.failed(e);
                    }
                }
            })
            .await;
        let found = shared.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        if found.checked > 0 {
            self.checked.notify_one();
        }
        if found.quarantined > 0 {
            self.settled.notify_one();
        }
        match shared.failures.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().next() {
            Some(first) => Err(first),
            None => Ok(found),
        }
    }

    async fn epoch_pass(
        &self,
        folder: &EpochFolder,
        shared: &Shared,
        now: Timestamp,
    ) -> Result<(), PassError> {
        let of = folder.clone();
        let Some(settled) = self.ledger.call(move |l| l.settled(&of.gateway, of.epoch)).await? else {
            return Ok(());
        };
        let mut page = None;
        while !shared.gave_up() {
            let listed = arrivals(self.bucket.as_ref(), &self.prefix, folder, settled, page).await?;
            let pending = self.note_seen(listed.objects, now).await?;
            // In the order of their numbers, so that of two branches of a chain the older one is known first.
            let mut inspections =
                futures::stream::iter(pending).map(|p| self.inspect_one(p, shared)).buffered(INSPECTIONS);
            while let Some((pending, inspected)) = inspections.next().await {
                match self.record(&pending, inspected, now).await {
                    Ok(recorded) => recorded.iter().for_each(|r| shared.count(r)),
                    Err(e) => shared.failed(e),
                }
                self.health.beat();
            }
            page = listed.next;
            if page.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn note_seen(&self, objects: Vec<Listed>, now: Timestamp) -> Result<Vec<Pending>, LedgerError> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let seen = objects.into_iter().map(|listed| {
            let key = match classify(&self.prefix, &listed.key) {
                Arrival::Segment(key) => Ok(key),
                Arrival::Stray(why) => Err(why.to_string()),
            };
            Seen { listed, key }
        });
        let seen: Vec<Seen> = seen.collect();
        self.ledger.call(move |l| l.note_seen(&seen, now)).await
    }

    async fn inspect_one(
        &self,
        pending: Pending,
        shared: &Shared,
    ) -> (Pending, Result<Inspected, PassError>) {
        if pending.size > MAX_OBJECT_BYTES {
            let refused = Inspected::Refused(too_large(pending.size));
            return (pending, Ok(refused));
        }
        if shared.gave_up() {
            let away = crate::bucket::BucketError {
                what: format!("get {}", pending.object_key),
                why: "not tried: others failed before it".to_owned(),
            };
            return (pending, Err(away.into()));
        }
        let mib = u32::try_from(pending.size >> 20).unwrap_or(MEMORY_MIB).saturating_add(1).min(MEMORY_MIB);
        // The semaphore is never closed.
        let _permit = shared.memory.acquire_many(mib).await;
        let inspected = inspect(self.bucket.as_ref(), &pending.object_key, &pending.key).await;
        (pending, inspected.map_err(PassError::from))
    }

    async fn record(
        &self,
        pending: &Pending,
        inspected: Result<Inspected, PassError>,
        now: Timestamp,
    ) -> Result<Option<Recorded>, PassError> {
        let of = pending.clone();
        let recorded = match inspected? {
            Inspected::Accepted(accepted) => {
                let footer = accepted.footer.clone();
                let recorded = self.ledger.call(move |l| l.accept(&of, &accepted, now)).await?;
                if recorded == Recorded::Checked {
                    self.keep_footer(pending.row, footer);
                }
                recorded
            }
            Inspected::Refused(refused) => self.ledger.call(move |l| l.refuse(&of, &refused, now)).await?,
            Inspected::Absent => {
                self.ledger.call(move |l| l.forget_seen(of.row)).await?;
                return Ok(None);
            }
        };
        if let Recorded::Quarantined(reason, detail) = &recorded {
            tracing::warn!(key = %pending.object_key, %reason, %detail, "segment refused");
        }
        Ok(Some(recorded))
    }
}
