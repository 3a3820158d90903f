//! The lake as registration sees it: look, decide, commit once.

use async_trait::async_trait;

use super::register::{Attempt, Offer, Register};
use crate::catalog::{CommitError, Lake, LedgerView, NewFile, Verdict, decide};

#[async_trait]
impl Register for Lake {
    async fn attempt(&self, offer: &Offer) -> Result<Attempt, String> {
        let look =
            self.look(&offer.namespace, offer.table, &offer.ledger).await.map_err(|e| format!("{e:#}"))?;
        let view = LedgerView {
            ledger: offer.ledger.clone(),
            uuid: offer.known.uuid,
            batch: offer.n,
            last_snapshot: offer.known.snapshot,
            // This receiver expires no snapshots.
            expired: false,
        };
        let uuid = look.uuid;
        match decide(&look, &view) {
            Verdict::Settled { snapshot } => return Ok(Attempt::Settled { snapshot, uuid }),
            Verdict::Stop(reason) => return Ok(Attempt::Stop(reason.to_string())),
            Verdict::Commit => {}
        }
        let files = offer.files.iter().cloned().map(|f| NewFile {
            uri: f.uri,
            size: f.size,
            key: f.key,
            footer: f.footer,
        });
        Ok(match self.commit(&look, offer.n, files.collect()).await {
            Ok(committed) => Attempt::Settled { snapshot: Some(committed.snapshot_id), uuid },
            Err(e @ (CommitError::Conflict | CommitError::Unknown(_))) => Attempt::Again(e.to_string()),
            Err(e @ CommitError::Refused(_)) => Attempt::Refused(e.to_string()),
        })
    }
}
