//! What a receipt permits: which segments may go, which have to be looked for, and whether this buffer was copied.
//!
//! Letting go is the only way in which the last copy of data leaves a gateway, and it hangs on two things at once: this
//! buffer delivered the segment, *and* the receipt has it registered, vouched for by a digest that agrees with ours.
//! Receipts are read from a bucket that others can write to: a receipt that is old, forged or meant for a copy of this
//! buffer may stop segments from going, and must never make one go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::manifest::Link;
use tributary_contract::range::Ranges;
use tributary_contract::receipt::{EpochReceipt, Receipt};
use tributary_contract::reject::QuarantineReason;
use tributary_contract::time::Timestamp;

use crate::buffer::entry::{Entry, Progress};

/// Revisions not above the last one are reported after this long, microseconds.
pub const STALE_AFTER: i64 = 600_000_000;

/// What stays from one receipt to the next; persisted with the buffer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Revision of the last receipt taken; 0 before the first.
    pub revision: u64,
    /// Digest of its bytes: the same receipt read again is not a stale one.
    pub content: Option<Digest>,
    /// When it was taken.
    pub taken_at: Option<Timestamp>,
    /// Since when only revisions that can't be taken were seen.
    pub stale_since: Option<Timestamp>,
    /// Per epoch, the highest registered segment that agreed. Its own entry may be gone when it vouches again.
    pub highest: BTreeMap<Epoch, Link>,
    /// Epochs that forked. Nothing of them is let go any more; a person decides.
    pub forked: BTreeMap<Epoch, String>,
}

/// What this buffer knows of one of its epochs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochFacts {
    /// The highest number ever sealed; 0 for none.
    pub last: u64,
    /// Numbers that were never sealed and never will be.
    pub void: Ranges,
}

/// What this buffer knows of its segments.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// All entries of the outbox, of all epochs.
    pub entries: &'a [Entry],
    /// All epochs of this buffer.
    pub epochs: &'a BTreeMap<Epoch, EpochFacts>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptAction {
    /// Registered, and delivered by us: row and file may go.
    Release {
        /// Epoch.
        epoch: Epoch,
        /// Number.
        number: Number,
    },
    /// The receipt doesn't fit what we know: look at the object; if it is absent, it is sent again.
    LookFirst {
        /// Epoch.
        epoch: Epoch,
        /// Number.
        number: Number,
    },
    /// The receiver set it aside. The file stays.
    Quarantine {
        /// Epoch.
        epoch: Epoch,
        /// Number.
        number: Number,
        /// Code.
        reason: QuarantineReason,
        /// The receiver's words.
        detail: String,
    },
    /// Someone else sealed in this epoch: a copy of this buffer is or was running. Nothing of the epoch is let go; if
    /// it is the current one, a new one has to begin.
    Fork {
        /// Epoch.
        epoch: Epoch,
        /// The number that shows it.
        number: u64,
        /// A segment of ours that can never be registered, because another one has its number or it was set aside as a
        /// second branch: its rows have to go under another epoch. The lowest of several.
        taken: Option<Number>,
        /// In words, for the operator.
        why: String,
    },
}

/// What came of reading a receipt.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What to do, in growing order of epoch and number.
    pub actions: Vec<ReceiptAction>,
    /// What to remember; to be saved with, or before, doing it.
    pub memory: Memory,
    /// Whether the receipt was taken: new, or the last one again.
    pub taken: bool,
}

impl Memory {
    /// Whether receipts have been unusable for too long: the receiver's ledger may have lost its place.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.stale_since.is_some_and(|since| now.since(since) >= STALE_AFTER)
    }
}

/// Reads `receipt`, whose bytes have the digest `content`. To be called for each receipt that was fetched, and again
/// with the last one taken when entries became delivered after it.
pub fn read(
    receipt: &Receipt,
    content: Digest,
    memory: &Memory,
    known: &Known<'_>,
    now: Timestamp,
) -> Verdict {
    let mut memory = memory.clone();
    let again = receipt.revision == memory.revision && memory.content == Some(content);
    if receipt.revision <= memory.revision && !again {
        memory.stale_since.get_or_insert(now);
        return Verdict { actions: Vec::new(), memory, taken: false };
    }
    memory.stale_since = None;
    if !again {
        memory.revision = receipt.revision;
        memory.content = Some(content);
        memory.taken_at = Some(now);
    }
    let mut actions = Vec::new();
    for (&epoch, facts) in known.epochs {
        // An epoch that isn't ours belongs to a former disk of this gateway: nothing of it is here.
        if let Some(said) = receipt.epochs.get(&epoch) {
            let entries: Vec<_> = known.entries.iter().filter(|e| e.epoch == epoch).collect();
            one_epoch(epoch, said, facts, &entries, !again, &mut memory, &mut actions);
        }
    }
    Verdict { actions, memory, taken: true }
}

/// Entries that were delivered a day ago and are still without receipt: to be looked for.
pub fn unreceipted(entries: &[Entry], now: Timestamp) -> Vec<ReceiptAction> {
    // A delivery, and each look that finds it again, sets `next_at` a day ahead.
    let due = |e: &&Entry| matches!(e.state, Progress::Delivered { .. }) && e.next_at <= now;
    entries
        .iter()
        .filter(due)
        .map(|e| ReceiptAction::LookFirst { epoch: e.epoch, number: e.number })
        .collect()
}

fn one_epoch(
    epoch: Epoch,
    said: &EpochReceipt,
    facts: &EpochFacts,
    entries: &[&Entry],
    fresh: bool,
    memory: &mut Memory,
    actions: &mut Vec<ReceiptAction>,
) {
    let own = |number: u64| entries.iter().find(|e| e.number.get() == number);
    if let Some((number, why)) = forked(epoch, said, facts, entries, memory) {
        memory.forked.insert(epoch, why.clone());
        let other = |e: &Entry| said.highest.is_some_and(|h| h.number == e.number && h.digest != e.digest);
        let branch = |e: &Entry| {
            let refused = said.quarantined.get(&e.number.get());
            refused.is_some_and(|q| q.reason == QuarantineReason::Forked)
        };
        let lost = |e: &&&Entry| (other(e) || branch(e)) && e.state.may_become(&superseded());
        let taken = entries.iter().find(lost).map(|e| e.number);
        actions.push(ReceiptAction::Fork { epoch, number, taken, why });
        return;
    }
    // A fork was proved once; that a later receipt doesn't show it proves nothing.
    let mut vouched = 0;
    if !memory.forked.contains_key(&epoch)
        && let Some(highest) = said.highest
    {
        let number = highest.number.get();
        let remembered = memory.highest.get(&epoch).filter(|l| l.number == highest.number).map(|l| l.digest);
        // Neither its entry nor a memory of it: nothing to compare with, so it vouches for nothing.
        if own(number).map(|e| e.digest).or(remembered) == Some(highest.digest) {
            vouched = number;
            memory.highest.insert(epoch, highest);
        }
    }
    for entry in entries {
        let number = entry.number;
        let n = number.get();
        if let Some(q) = said.quarantined.get(&n) {
            match entry.state {
                Progress::Delivered { .. } => actions.push(ReceiptAction::Quarantine {
                    epoch,
                    number,
                    reason: q.reason,
                    detail: q.detail.clone(),
                }),
                // What was refused may not have been ours.
                Progress::Sealed | Progress::Uploading { .. } | Progress::Held { .. } if fresh => {
                    actions.push(ReceiptAction::LookFirst { epoch, number });
                }
                _ => {}
            }
        } else if said.registered.contains(n) {
            match entry.state {
                Progress::Delivered { .. } if n <= vouched => {
                    actions.push(ReceiptAction::Release { epoch, number });
                }
                // A person's or another epoch's business by now.
                Progress::Delivered { .. } | Progress::Quarantined { .. } | Progress::Superseded { .. } => {}
                Progress::Sealed | Progress::Uploading { .. } | Progress::Held { .. } => {
                    if fresh {
                        actions.push(ReceiptAction::LookFirst { epoch, number });
                    }
                }
            }
        } else if said.missing.contains(n) && fresh && matches!(entry.state, Progress::Delivered { .. }) {
            actions.push(ReceiptAction::LookFirst { epoch, number });
        }
    }
}

const fn superseded() -> Progress {
    Progress::Superseded { reason: String::new() }
}

/// Looks for what only a copy of this buffer can have caused. Gives the number that shows it, and the reason.
fn forked(
    epoch: Epoch,
    said: &EpochReceipt,
    facts: &EpochFacts,
    entries: &[&Entry],
    memory: &Memory,
) -> Option<(u64, String)> {
    let last = facts.last;
    let above = [
        ("registered", said.registered.last()),
        ("missing", said.missing.last()),
        ("quarantined", said.quarantined.keys().next_back().copied()),
        ("highest", said.highest.map(|l| l.number.get())),
    ];
    for (what, number) in above {
        if let Some(number) = number.filter(|n| *n > last) {
            return Some((
                number,
                format!("the receipt has {number} as {what}, the last number sealed here is {last}"),
            ));
        }
    }
    for (first, end) in facts.void.iter() {
        for (a, b) in said.registered.iter() {
            if a <= end && first <= b {
                let number = a.max(first);
                return Some((
                    number,
                    format!("the receipt has {number} registered, which was never sealed here"),
                ));
            }
        }
    }
    if let Some(highest) = said.highest {
        let number = highest.number.get();
        let entry = entries.iter().find(|e| e.number.get() == number).map(|e| e.digest);
        let remembered = memory.highest.get(&epoch).filter(|l| l.number == highest.number).map(|l| l.digest);
        if let Some(ours) = entry.or(remembered).filter(|d| *d != highest.digest) {
            let theirs = highest.digest;
            return Some((
                number,
                format!("the receipt has {number} with digest {theirs}, it was sealed here with {ours}"),
            ));
        }
    }
    let forked = said
        .quarantined
        .iter()
        .find(|(n, q)| q.reason == QuarantineReason::Forked && entries.iter().any(|e| e.number.get() == **n));
    forked.map(|(number, q)| {
        (*number, format!("the receiver set {number} aside as a second branch: {}", q.detail))
    })
}

#[cfg(test)]
mod tests;
