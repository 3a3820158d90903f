//! Receipts: read when they are due, and what they permit is let go.

use std::collections::BTreeMap;

use anyhow::Context;
use tracing::{error, info, warn};
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::range::Ranges;
use tributary_contract::receipt::Receipt;
use tributary_contract::time::Timestamp;

use super::{AT_ONCE, Deliverer};
use crate::buffer::{Entry, EpochEnd, Progress};
use crate::config::ReleaseOn;
use crate::pipeline::shared::StartAgain;
use crate::upload::bucket::{Bucket, Fetched};
use crate::upload::classify::{Outcome, classify};
use crate::upload::link::Class;
use crate::upload::receipt::{EpochFacts, Known, Memory, ReceiptAction, read, unreceipted};
use crate::upload::step::{Task, Why};

/// The buffer's name for the memory of receipts.
const MEMORY: &str = "receipt-memory";
/// The greatest receipt that is read, bytes.
const RECEIPT_MAX: u64 = 8 << 20;

impl<B: Bucket + 'static> Deliverer<B> {
    /// Looks for what was delivered long ago and never registered.
    pub(super) async fn look_again(&mut self, now: Timestamp) -> anyhow::Result<bool> {
        if !self.may_go(Class::Live, 0) {
            return Ok(false);
        }
        let waiting = self.shared.buffer.run(move |b| b.unconfirmed(now, AT_ONCE)).await??;
        let mut found = false;
        for action in unreceipted(&waiting, now) {
            if let ReceiptAction::LookFirst { epoch, number } = action
                && let Some(entry) = waiting.iter().find(|e| (e.epoch, e.number) == (epoch, number))
            {
                found |= self.work(Task::look(entry.clone(), Why::NoReceipt, now)).await?;
            }
        }
        Ok(found)
    }

    /// Asks for the receipt if that is due, or reads the last one again because more was delivered.
    pub(super) async fn read_receipt(&mut self, now: Timestamp, delivered: bool) -> anyhow::Result<()> {
        if self.shared.config.buffer.release_on == ReleaseOn::Delivered {
            return Ok(());
        }
        // What is still to be read back would seem to be a number that was never sealed here.
        if self.shared.buffer.run(|b| b.is_reading_back()).await? {
            return Ok(());
        }
        if delivered {
            self.take_last_receipt(now).await?;
        }
        let outstanding = self.is_outstanding().await?;
        if self.poll.due(outstanding).is_none_or(|at| at > now) || !self.may_go(Class::Live, 0) {
            return Ok(());
        }
        let key = self.shared.config.bucket.prefix.receipt(&self.shared.config.gateway);
        self.shared.live().link.requests += 1;
        match self.bucket.get(&key, self.poll.etag(), RECEIPT_MAX).await {
            Ok(Fetched::Unchanged) => {
                self.went_well();
                self.poll.nothing_new(now);
            }
            Ok(Fetched::Body { bytes, etag }) => {
                self.went_well();
                match Receipt::from_json(&bytes, &self.shared.config.gateway) {
                    Ok(receipt) => {
                        self.poll.changed(etag, now);
                        if self.take_receipt(receipt, Digest::of(&bytes), now).await? {
                            self.take_last_receipt(now).await?;
                        }
                    }
                    Err(e) => {
                        warn!("{key}: {e}");
                        self.poll.nothing_new(now);
                    }
                }
            }
            Err(answer) => {
                if !matches!(classify(&answer), Outcome::Absent | Outcome::Unknown) {
                    self.went_wrong(&answer, now);
                }
                self.poll.nothing_new(now);
            }
        }
        Ok(())
    }

    /// Reads the last receipt again: it may permit to let go of what was found delivered since.
    async fn take_last_receipt(&mut self, now: Timestamp) -> anyhow::Result<()> {
        if let Some((receipt, content)) = self.last_receipt.take() {
            self.take_receipt(receipt, content, now).await?;
        }
        Ok(())
    }

    /// Does what a receipt says. True: something that it speaks of was found delivered only now.
    async fn take_receipt(
        &mut self,
        receipt: Receipt,
        content: Digest,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let memory = self.memory().await?;
        let (entries, epochs) = self
            .shared
            .buffer
            .run(|b| -> anyhow::Result<(Vec<Entry>, Vec<EpochEnd>)> { Ok((b.entries()?, b.epochs())) })
            .await??;
        let epochs: BTreeMap<Epoch, EpochFacts> =
            epochs.into_iter().map(|e| (e.epoch, EpochFacts { last: e.last, void: e.void })).collect();
        let verdict = read(&receipt, content, &memory, &Known { entries: &entries, epochs: &epochs }, now);
        if verdict.memory != memory {
            let json = serde_json::to_vec(&verdict.memory).context("memory of receipts")?;
            self.shared.buffer.run(move |b| b.set_setting(MEMORY, &json)).await??;
        }
        self.remember(verdict.memory, now);
        let mut release: Vec<(Epoch, Number)> = Vec::new();
        let mut found = false;
        for action in verdict.actions {
            match action {
                ReceiptAction::Release { epoch, number } => release.push((epoch, number)),
                // What is on its way will say itself whether it was there.
                ReceiptAction::LookFirst { epoch, number } if self.is_on_the_way(epoch, number) => {}
                ReceiptAction::LookFirst { epoch, number } => {
                    if let Some(entry) = entries.iter().find(|e| (e.epoch, e.number) == (epoch, number)) {
                        found |= self.work(Task::look(entry.clone(), Why::Receipt, now)).await?;
                    }
                }
                ReceiptAction::Quarantine { epoch, number, reason, detail } => {
                    warn!(%epoch, %number, "the receiver set a segment aside: {reason}: {detail}");
                    let why = format!("{reason}: {detail}");
                    self.shared.buffer.run(move |b| b.quarantine(epoch, number, &why)).await??;
                }
                ReceiptAction::Fork { epoch, number, taken, why } => {
                    error!(%epoch, number, "{why}");
                    self.shared.live().notices.insert("fork", why.clone());
                    let reason = why.clone();
                    let begun = self
                        .shared
                        .buffer
                        .run(move |b| {
                            if let Some(number) = taken {
                                b.supersede(epoch, number, &reason, now).map(|_| true)
                            } else if b.epoch() == epoch {
                                b.new_epoch(&reason, now).map(|_| true)
                            } else {
                                Ok(false)
                            }
                        })
                        .await??;
                    if begun {
                        return Err(StartAgain(why).into());
                    }
                }
            }
        }
        if !release.is_empty() {
            info!(segments = release.len(), "registered; let go");
            self.shared.buffer.run(move |b| b.release(&release)).await??;
            self.let_go = true;
        }
        let covered: Vec<(Epoch, Ranges)> =
            receipt.epochs.iter().map(|(epoch, said)| (*epoch, said.void.clone())).collect();
        self.shared
            .buffer
            .run(move |b| -> anyhow::Result<()> {
                for (epoch, void) in covered.iter().filter(|(_, v)| !v.is_empty()) {
                    b.forget_void(*epoch, void)?;
                }
                Ok(())
            })
            .await??;
        if verdict.taken {
            self.last_receipt = Some((receipt, content));
        }
        Ok(found)
    }

    /// Keeps the memory of receipts at hand, and shows what it says.
    fn remember(&mut self, memory: Memory, now: Timestamp) {
        let mut live = self.shared.live();
        live.receipt.revision = memory.revision;
        live.receipt.at = memory.taken_at;
        live.receipt.stale = memory.is_stale(now);
        live.receipt.forked = !memory.forked.is_empty();
        drop(live);
        self.memory = Some(memory);
    }

    /// What an earlier life knew of receipts: a fork is shown though no receipt may come any more.
    pub(super) async fn restore_memory(&mut self, now: Timestamp) -> anyhow::Result<()> {
        let memory = self.memory().await?;
        self.remember(memory, now);
        Ok(())
    }

    async fn memory(&mut self) -> anyhow::Result<Memory> {
        if let Some(memory) = &self.memory {
            return Ok(memory.clone());
        }
        let stored = self.shared.buffer.run(|b| b.setting(MEMORY)).await??;
        Ok(stored.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default())
    }

    /// Without a receiver, the bucket's word is enough, because the operator said so.
    pub(super) async fn let_go_of_delivered(&mut self) -> anyhow::Result<()> {
        if self.shared.config.buffer.release_on != ReleaseOn::Delivered {
            return Ok(());
        }
        self.let_go |= self
            .shared
            .buffer
            .run(|b| -> anyhow::Result<bool> {
                let entries = b.entries()?;
                let delivered: Vec<_> = entries
                    .iter()
                    .filter(|e| matches!(e.state, Progress::Delivered { .. }))
                    .map(|e| (e.epoch, e.number))
                    .collect();
                if !delivered.is_empty() {
                    b.release(&delivered)?;
                }
                Ok(!delivered.is_empty())
            })
            .await??;
        Ok(())
    }
}
