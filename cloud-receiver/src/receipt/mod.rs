//! Receipts: what a gateway may let go of, what it must send again, what was refused.
//!
//! In: the ledger's facts of one gateway. Out: `<prefix>/receipts/<gateway>.json`, replaced under a condition, with a
//! revision that only grows, also when the ledger is a new one and the bucket holds an older receiver's receipt. A crash
//! after the write and before the ledger notes it writes once more, with a higher revision. Absent on purpose: history.

pub mod write;
#[cfg(test)]
mod tests;

use tributary_contract::FORMAT_VERSION;
use tributary_contract::id::GatewayId;
use tributary_contract::range::Ranges;
use tributary_contract::receipt::{EpochReceipt, Receipt};
use tributary_contract::time::Timestamp;

use crate::dedupe::{EpochFacts, ReceiptFacts};

/// The most reasons of refused numbers that one epoch's receipt carries; the newest are kept.
const MAX_QUARANTINED: usize = 1000;

/// The receipt of `gateway`.
pub fn receipt(gateway: &GatewayId, facts: ReceiptFacts, now: Timestamp) -> Receipt {
    let epochs = facts.epochs.into_iter().map(|(epoch, facts)| (epoch, epoch_receipt(facts))).collect();
    Receipt {
        version: FORMAT_VERSION,
        gateway: gateway.clone(),
        revision: facts.revision,
        written_at: now,
        epochs,
        snapshots: facts.snapshots,
    }
}

/// Numbers that the gateway calls sealed and that are neither in the bucket nor settled.
pub fn missing(facts: &EpochFacts) -> Ranges {
    let mut missing = Ranges::new();
    // Not above the newest manifest: what was sealed after it isn't known here.
    for (first, last) in facts.outstanding.iter() {
        missing.insert_range(first, last.min(facts.newest));
    }
    for known in [&facts.registered, &facts.refused, &facts.void, &facts.present] {
        missing = missing.without(known);
    }
    missing
}

fn epoch_receipt(facts: EpochFacts) -> EpochReceipt {
    let missing = missing(&facts);
    let mut quarantined = facts.quarantined;
    while quarantined.len() > MAX_QUARANTINED {
        quarantined.pop_first();
    }
    // A number that was declared void and came all the same is what it is: registered.
    let void = facts.void.without(&facts.registered);
    EpochReceipt { registered: facts.registered, highest: facts.highest, quarantined, missing, void }
}
