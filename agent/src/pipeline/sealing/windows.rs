//! Windows on their way into segments: which close now, what comes of them, and decisions that nobody needs any more.

use tracing::debug;
use tributary_contract::time::Timestamp;

use super::super::announce::tell;
use super::super::folding::fold;
use super::Sealer;
use crate::buffer::Contents;
use crate::config::HOUR;
use crate::window::emit::Emission;
use crate::window::{Decided, Plan};

/// Sets of decisions, one of each segment of aggregates, that are looked through at once.
const DECISIONS_AT_ONCE: usize = 32;
/// How often decisions are looked through for those that nobody needs any more, microseconds.
const FORGET_EVERY: i64 = HOUR;

impl Sealer {
    /// Folds and seals windows that may close: all of them once per `segment.max_age`, for each answer is a segment; as many
    /// as make a whole segment at once.
    pub(super) async fn close_windows(&mut self, now: Timestamp) -> anyhow::Result<u64> {
        if self.shared.config.windows.is_empty() {
            return Ok(0);
        }
        let all =
            self.windows_at.is_none_or(|at| now.since(at) >= self.shared.config.segment.max_age || at > now);
        if all {
            self.windows_at = Some(now);
        }
        // What comes late while this goes on waits for the next time: else a device that was taken for silent and goes on
        // would have its window emitted again and again, a segment each, and nothing else would be sealed.
        let through = self.shared.windows().through();
        let mut sealed = 0;
        loop {
            let drained = self.shared.live().drained.iter().all(|d| *d);
            // By the clock of this very moment: a step that the windows have taken note of since isn't silence.
            let at = self.shared.now();
            let plan = {
                let mut windows = self.shared.windows();
                if all || windows.fill_a_plan(at, drained) {
                    windows.due_of(through, at, drained)
                } else {
                    None
                }
            };
            let Some(plan) = plan else { return Ok(sealed) };
            debug!(windows = plan.windows.len(), "closing windows");
            sealed += self.emit(plan, now).await?;
        }
    }

    /// Folds the windows of a plan and seals what comes of it; tells how many segments that made.
    pub(in crate::pipeline) async fn emit(&self, plan: Plan, now: Timestamp) -> anyhow::Result<u64> {
        let frozen = plan.seen.frozen;
        let folded = fold(&self.shared, plan).await?;
        if !frozen {
            // What closed since the last pass of those that tell: sealed, nobody would know of it any more.
            tell(&self.shared, &folded);
        }
        let sealed = folded.emissions.len() as u64;
        for emission in folded.emissions {
            self.seal_emission(emission, now).await?;
        }
        if !frozen {
            self.shared.windows().passed_over(&folded.passed_over);
        }
        Ok(sealed)
    }

    /// Drops decisions on windows that can't be corrected any more, but for what still says up to where they are closed.
    pub(super) async fn forget_decisions(&mut self, now: Timestamp) -> anyhow::Result<()> {
        let recent = self.forgot_at.is_some_and(|at| (0..FORGET_EVERY).contains(&now.since(at)));
        if recent || self.shared.config.windows.is_empty() {
            return Ok(());
        }
        self.forgot_at = Some(now);
        // A day of many windows doesn't fit into memory at once.
        let mut after = None;
        loop {
            let kept =
                self.shared.buffer.run(move |b| b.settled_decisions(after, DECISIONS_AT_ONCE)).await??;
            let Some(last) = kept.last() else { break };
            after = Some((last.ordinal, last.number));
            let mut changed = Vec::new();
            {
                let windows = self.shared.windows();
                for mut row in kept {
                    // What can't be read is of no use to anyone.
                    let Ok(decided) = Decided::decode(&row.decisions) else { continue };
                    if !windows.may_drop(&decided) {
                        continue;
                    }
                    let needed = windows.still_needed(&decided);
                    if needed.as_ref().is_none_or(|n| n.decisions.len() < decided.decisions.len()) {
                        row.decisions = needed.map(|n| n.encode()).unwrap_or_default();
                        changed.push(row);
                    }
                }
            }
            if !changed.is_empty() {
                debug!(segments = changed.len(), "decisions forgotten");
                self.shared.buffer.run(move |b| b.replace_decisions(&changed)).await??;
            }
        }
        Ok(())
    }

    async fn seal_emission(&self, emission: Emission, now: Timestamp) -> anyhow::Result<()> {
        let Emission { namespace, day, rows, decided } = emission;
        let newest = decided.decisions.iter().map(|d| d.end).max().unwrap_or(now);
        let contents = Contents::Aggregates { decisions: decided.encode(), newest };
        self.seal(&namespace, day, rows, contents, Some(decided.seen), now, None).await?;
        self.shared.windows().applied(&decided);
        Ok(())
    }
}
