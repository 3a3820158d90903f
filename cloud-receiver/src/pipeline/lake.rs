//! The lake as registration sees it: look, decide, commit once.

use async_trait::async_trait;
use tributary_contract::id::Namespace;
use tributary_contract::table::Table;

use super::register::{Attempt, Offer, Register};
use crate::catalog::{CommitError, Lake, LedgerView, NewFile, StopReason, Verdict, decide};
use crate::dedupe::Known;

#[async_trait]
impl Register for Lake {
    async fn ahead(
        &self,
        namespace: &Namespace,
        table: Table,
        ledger: &str,
        known: Known,
    ) -> Result<Option<String>, String> {
        let look = self.look(namespace, table, ledger).await.map_err(|e| format!("{e:#}"))?;
        let view = LedgerView {
            ledger: ledger.to_owned(),
            uuid: known.uuid,
            batch: known.batch,
            last_snapshot: known.snapshot,
            expired: false,
        };
        Ok(match decide(&look, &view) {
            Verdict::Stop(reason @ StopReason::LedgerOlder { .. }) => Some(reason.to_string()),
            // Whatever else is wrong is found by the look before the commit, whose batch then waits for its cure.
            Verdict::Stop(_) | Verdict::Settled { .. } | Verdict::Commit => None,
        })
    }

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
