//! Recovery: ledger and tables have come apart, and a person says how they come together again.
//!
//! In: the ledger, which no receiver holds meanwhile, the tables, the bucket. Out: a ledger that agrees with the tables,
//! and what a [`Report`] says. Each command first reads, then changes the ledger in one transaction; what a rebuild
//! changes before that (it takes the tables over, each by one commit) is found again by the next run. Killed anywhere and
//! run again, a command ends where an undisturbed one does. Absent on purpose: any deletion, and any commit of rows; the
//! receiver registers what waits when it runs again.
//!
//! | what happened                               | command           | afterwards                                     |
//! |---------------------------------------------|-------------------|------------------------------------------------|
//! | ledger lost, older than the tables, foreign | `rebuild`         | what tables and receipts name is registered    |
//! | table dropped and created again, or `main`  | `reregister`      | what the table lacks goes into it again, once  |
//! | moved back by an operator                   | `accept-rollback` | what the table lacks stays out, a gap says so  |

pub mod rebuild;
pub mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId, SegmentId};
use tributary_contract::key::{Prefix, SegmentKey};
use tributary_contract::range::Ranges;

use crate::bucket::{Bucket, Extent, Got};
use crate::catalog::{Holdings, Lake, Look};
use crate::dedupe::{Again, Found};
use crate::offload::offload;
use crate::validate::MAX_OBJECT_BYTES;
use crate::validate::inspect::judge;

/// What a recovery works with.
pub struct Parts<'a> {
    /// The catalog.
    pub lake: &'a Lake,
    /// Where gateways deliver.
    pub bucket: &'a dyn Bucket,
    /// Our part of it.
    pub prefix: &'a Prefix,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
}

/// What a command did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Its name.
    pub command: &'static str,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The ledger's id afterwards; unknown before a rebuild draws it.
    pub ledger: Option<String>,
    /// Per table, by name.
    pub tables: Vec<TableReport>,
    /// Receipts that were read and will be written anew; for a rebuild.
    pub receipts: u64,
    /// Numbers that count as registered though no table holds them; for a rebuild.
    pub left_out: u64,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// What became of one table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TableReport {
    /// `namespace.table`
    pub table: String,
    /// Its newest batch.
    pub batch: u64,
    /// The head of `main`.
    pub snapshot: Option<i64>,
    /// Segments in it.
    pub segments: u64,
    /// Rows of these segments.
    pub rows: u64,
    /// Segments that go into it again.
    pub again: Vec<String>,
    /// Segments that stay out of it for good.
    pub left_out: Vec<String>,
    /// Segments that aren't in it and can't be registered again, each with the reason.
    pub gone: Vec<String>,
}

impl Report {
    /// For a terminal.
    pub fn text(&self) -> String {
        let will = if self.dry_run { "would be" } else { "are" };
        let mut lines = Vec::new();
        for t in &self.tables {
            lines.push(format!(
                "{}: batch {}, {} segments with {} rows are in it",
                t.table, t.batch, t.segments, t.rows
            ));
            let lists = [
                (&t.again, format!("{will} registered again by the next run of the receiver")),
                (&t.left_out, format!("{will} left out for good")),
                (&t.gone, "can't be registered again".to_owned()),
            ];
            for (segments, what) in lists.iter().filter(|(segments, _)| !segments.is_empty()) {
                lines.push(format!("  {} segments {what}:", segments.len()));
                lines.extend(segments.iter().map(|s| format!("    {s}")));
            }
        }
        if self.command == rebuild::COMMAND {
            lines.push(format!("{} receipts {will} written anew, above their revisions", self.receipts));
        }
        if self.left_out > 0 {
            lines.push(format!(
                "{} numbers count as registered that no table holds; `ledger reregister TABLE` registers those again \
                 that are still in the bucket",
                self.left_out
            ));
        }
        lines.extend(self.notes.iter().cloned());
        if let Some(id) = &self.ledger {
            lines.push(format!("ledger {id}"));
        }
        if self.dry_run {
            lines.push("nothing was changed".to_owned());
        }
        lines.join("\n")
    }
}

/// A table as the ledger keeps it.
fn found(look: &Look, own_gaps: Vec<String>) -> Found {
    Found {
        namespace: look.namespace.clone(),
        table: look.table,
        uuid: look.uuid,
        batch: look.batch,
        snapshot: look.snapshot,
        rows: look.rows.unwrap_or_default(),
        files: look.files.unwrap_or_default(),
        own_gaps,
    }
}

fn table_report(look: &Look, held: &Holdings) -> TableReport {
    TableReport {
        table: look.name(),
        batch: look.batch,
        snapshot: look.snapshot,
        segments: held.segments.len() as u64,
        rows: held.segments.values().fold(0, |sum: u64, h| sum.saturating_add(h.rows)),
        ..TableReport::default()
    }
}

/// Reads a segment and checks it as if it had just arrived. The inner error says why it can't be registered.
async fn read_again(
    bucket: &dyn Bucket,
    object_key: &str,
    key: &SegmentKey,
    known: Option<Digest>,
) -> anyhow::Result<Result<Again, String>> {
    let object = match bucket.get(object_key, Extent::Whole { limit: MAX_OBJECT_BYTES }).await? {
        Got::Object(object) => object,
        Got::Absent => return Ok(Err("it is gone from the bucket".to_owned())),
        Got::TooLarge { size } => return Ok(Err(format!("it has {size} bytes now"))),
    };
    let (etag, of) = (object.etag.clone(), key.clone());
    Ok(match offload(move || judge(object, &of)).await? {
        Ok(accepted) if known.is_some_and(|known| known != accepted.digest) => {
            Err(format!("its bytes have digest {}, other ones were registered", accepted.digest))
        }
        Ok(accepted) => Ok(Again { object_key: object_key.to_owned(), etag, accepted }),
        Err(refused) => Err(format!("{}: {}", refused.reason, refused.detail)),
    })
}

/// Numbers by gateway and epoch.
type Numbers = BTreeMap<(GatewayId, Epoch), Ranges>;

fn insert(numbers: &mut Numbers, id: &SegmentId) {
    numbers.entry((id.gateway.clone(), id.epoch)).or_default().insert(id.number.get());
}
