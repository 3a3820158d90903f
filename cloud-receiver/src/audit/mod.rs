//! The audit: both laws derived again from what the lake alone says, compared with what gateways and receipts say.
//!
//! In: the tables, the manifests of the segments in the bucket, receipts, statuses. Out: findings, each with the segment
//! or counter that doesn't fit. The ledger isn't asked: it is one of those that may be wrong. Nothing is changed, so that
//! a crash means nothing. Absent on purpose: a verdict on segments that are still on their way; they are counted.
//!
//! [`gather`] reads, [`judge`] compares.

pub mod gather;
pub mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;
use tributary_contract::id::{Epoch, GatewayId, SegmentId};
use tributary_contract::manifest::Manifest;
use tributary_contract::range::Ranges;
use tributary_contract::receipt::Receipt;
use tributary_contract::status::GatewayStatus;

/// Everything that is compared.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Rows of each segment, by the table that holds them.
    pub held: BTreeMap<SegmentId, BTreeMap<String, u64>>,
    /// Readings of one epoch whose seq is in the table more than once.
    pub doubled: Vec<(GatewayId, Epoch, i64)>,
    /// Rows that name no segment that could exist, by table.
    pub foreign: BTreeMap<String, u64>,
    /// What each segment in the bucket says of itself, or why it can't be read.
    pub segments: BTreeMap<SegmentId, Result<Manifest, String>>,
    /// The receipts.
    pub receipts: BTreeMap<GatewayId, Receipt>,
    /// The statuses.
    pub statuses: BTreeMap<GatewayId, GatewayStatus>,
    /// Numbers that gaps in the lake leave out of the tables for good.
    pub left_out: BTreeMap<(GatewayId, Epoch), Ranges>,
    /// Numbers that gaps in the lake call void.
    pub void: BTreeMap<(GatewayId, Epoch), Ranges>,
}

/// What doesn't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A receipt has it as registered and no table holds it.
    Removed,
    /// A number that nobody accounts for.
    Hole,
    /// Rows are there more than once.
    Doubled,
    /// A table holds another number of rows than the segment has.
    Rows,
    /// A counter or a law.
    Counter,
    /// Rows that no segment brought.
    Foreign,
    /// An object that can't be read.
    Unreadable,
}

/// One thing that doesn't fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Whose; none if it is nobody's.
    pub gateway: Option<GatewayId>,
    /// In which epoch.
    pub epoch: Option<Epoch>,
    /// The segment's number, where it is one segment's.
    pub number: Option<u64>,
    /// What kind.
    pub kind: Kind,
    /// A sentence for people.
    pub detail: String,
}

/// One epoch that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// Whose.
    pub gateway: GatewayId,
    /// Which.
    pub epoch: Epoch,
    /// Segments in tables.
    pub registered: u64,
    /// Readings in the table.
    pub readings: u64,
    /// Segments in the bucket that are in no table and that no receipt names: on their way.
    pub waiting: u64,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Verdict {
    /// What was looked at.
    pub epochs: Vec<Audited>,
    /// What doesn't fit; empty when all is well.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// For a terminal.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for e in &self.epochs {
            lines.push(format!(
                "{} {}: {} segments registered, {} readings, {} segments on their way",
                e.gateway, e.epoch, e.registered, e.readings, e.waiting
            ));
        }
        for f in &self.findings {
            let of = f.gateway.as_ref().map(|g| format!("{g}")).unwrap_or_default();
            let epoch = f.epoch.map(|e| format!(" {e}")).unwrap_or_default();
            let number = f.number.map(|n| format!(" {n}")).unwrap_or_default();
            lines.push(format!("! {of}{epoch}{number}: {}", f.detail));
        }
        lines.push(format!("{} findings", self.findings.len()));
        lines.join("\n")
    }
}
