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
            holds: None,
        };
        Ok(match decide(&look, &view) {
            Verdict::Stop(reason @ StopReason::LedgerOlder { .. }) => Some(reason.to_string()),
            // Whatever else is wrong is found by the look before the commit, whose batch then waits for its cure.
            Verdict::Stop(_) | Verdict::Settled { .. } | Verdict::Unsure { .. } | Verdict::Commit => None,
        })
    }

    async fn attempt(&self, offer: &Offer) -> Result<Attempt, String> {
        let look =
            self.look(&offer.namespace, offer.table, &offer.ledger).await.map_err(|e| format!("{e:#}"))?;
        let mut view = LedgerView {
            ledger: offer.ledger.clone(),
            uuid: offer.known.uuid,
            batch: offer.n,
            last_snapshot: offer.known.snapshot,
            holds: None,
        };
        let uuid = look.uuid;
        let mut verdict = decide(&look, &view);
        if let Verdict::Unsure { batch } = verdict {
            let holds = if batch == offer.n {
                let segments: Vec<_> = offer.files.iter().filter_map(|f| f.segment.clone()).collect();
                let files: Vec<&str> = offer.files.iter().map(|f| f.uri.as_str()).collect();
                look.holds_any(&segments, &files).await
            } else {
                match &offer.before {
                    None => return Ok(Attempt::Prove),
                    // The ledger has nothing in this table that could be missing.
                    Some(before) if before.is_empty() => Ok(true),
                    Some(before) => look.holds_any(before, &[]).await,
                }
            };
            view.holds = Some(holds.map_err(|e| format!("{e:#}"))?);
            verdict = decide(&look, &view);
        }
        match verdict {
            Verdict::Settled { snapshot } => return Ok(Attempt::Settled { snapshot, uuid }),
            Verdict::Stop(reason) => return Ok(Attempt::Stop(reason.to_string())),
            Verdict::Unsure { batch } => {
                return Err(format!("{}: nothing shows whether batch {batch} is in it", look.name()));
            }
            Verdict::Commit => {}
        }
        let files = offer.files.iter().cloned().map(|f| NewFile {
            uri: f.uri,
            size: f.size,
            namespace: f.namespace,
            table: f.table,
            day: f.day,
            footer: f.footer,
        });
        Ok(match self.commit(&look, offer.n, files.collect()).await {
            Ok(committed) => Attempt::Settled { snapshot: Some(committed.snapshot_id), uuid },
            Err(e @ (CommitError::Conflict | CommitError::Unknown(_))) => Attempt::Again(e.to_string()),
            Err(e @ CommitError::Refused(_)) => Attempt::Refused(e.to_string()),
        })
    }
}
