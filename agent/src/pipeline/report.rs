//! Reports: collects what all stages know into the status, once a second, and decides whether intake must rest.

use std::sync::Arc;

use tributary_contract::status::{BufferStatus, DesiredStatus, FlashStatus, SegmentStatus};
use tributary_contract::time::Timestamp;

use super::counters::Counters;
use super::intake::redelivered_by_rule;
use super::room::keep_ballast;
use super::shared::Shared;
use super::thinning::verdict;
use crate::buffer::Stats;
use crate::buffer::reader::FLASH;
use crate::config::HOUR;
use crate::status::flash::{Kept, Limits, Meter};
use crate::status::{Facts, judge};

/// Collects and publishes the status at `now`.
///
/// # Errors
/// The buffer's.
pub async fn report(shared: &Shared, now: Timestamp) -> anyhow::Result<()> {
    let (stats, refused_segments, desired) = shared
        .buffer
        .run(|b| -> anyhow::Result<_> {
            Ok((b.stats()?, b.refused_segments(REFUSED_SHOWN)?, b.desired_status()))
        })
        .await??;
    let free = free_bytes(&shared.config.state_dir);
    keep_ballast(shared, stats.ballast_bytes, free, now).await?;
    let resting = shared.live().intake_stopped.is_some();
    let (sizes, verdict) = verdict(shared, resting).await?;
    let stopped = verdict.stop.map(|stop| stop.to_string());
    let refused = shared.windows().refused();
    let live = {
        let mut live = shared.live();
        live.intake_stopped = stopped;
        live.disk_close = verdict.close;
        if refused > 0 {
            let most = shared.config.limits.open_windows;
            let why = format!(
                "{refused} readings since the start entered not all of their windows, for {most} were open: raise \
                 limits.open_windows, or have fewer windows; they are in `readings`"
            );
            live.notices.insert("windows", why);
        }
        live.clone()
    };
    let flash = flash(shared, &stats, now).await?;
    let of = |state: &str| stats.segments.get(state).map_or(0, |c| c.count);
    let books = &stats.books;
    let link = {
        let link = shared.link();
        if link.is_busy() {
            // Something more urgent may have become due meanwhile, or a status.
            shared.sealed.notify_one();
        }
        link.status(live.link, stats.backlog_bytes, of("sealed") + of("uploading"), now)
    };
    let facts = Facts {
        gateway: shared.config.gateway.clone(),
        epoch: stats.epoch,
        at: now,
        started_at: live.started_at,
        tags: shared.config.tags.clone(),
        namespaces: shared.config.namespaces(),
        counters: books.counters,
        redelivered: redelivered_by_rule(books.redelivered),
        rejected: books.rejected.iter().map(|(reason, n)| (reason.code().to_owned(), *n)).collect(),
        too_late: shared.windows().too_late(),
        alerts: shared.alerts().open() as u64,
        buffer: BufferStatus {
            bytes: stats.bytes,
            reusable: sizes.reusable,
            max_bytes: shared.config.buffer.max_bytes,
            disk_free: free,
            batches: stats.batches,
            oldest_unsafe: stats.oldest_unsafe,
            commits: stats.commits,
            ordinal: u64::from(stats.ordinal),
        },
        segments: SegmentStatus {
            last_number: stats.last_number,
            sealed: books.segments_sealed,
            delivered: books.segments_delivered,
            registered: books.segments_registered,
            undelivered: of("sealed") + of("uploading") + of("held"),
            backlog_bytes: stats.backlog_bytes,
            unregistered: of("delivered"),
            held: of("held"),
            quarantined: of("quarantined"),
            superseded: of("superseded"),
            refused: refused_segments,
        },
        link,
        brokers: live.brokers,
        sources: live.sources,
        receipt: live.receipt,
        flash: Some(flash),
        desired: desired_of(desired, live.desired_refused),
        intake_stopped: live.intake_stopped,
        losses: live.losses.into_iter().chain(live.shedding).collect(),
        notices: live.notices.into_values().collect(),
    };
    shared.status.send_replace(Arc::new(judge(facts)));
    Ok(())
}

/// What was taken of the object `desired`, and why the one that lies in the bucket isn't; none where nobody asks for anything.
fn desired_of(taken: Option<DesiredStatus>, refused: Option<String>) -> Option<DesiredStatus> {
    if taken.is_none() && refused.is_none() {
        return None;
    }
    Some(DesiredStatus { refused, ..taken.unwrap_or_default() })
}

/// Segments that don't go their way, with their reasons, in the status.
const REFUSED_SHOWN: usize = 20;

/// How often that is kept, microseconds.
const KEEP_EVERY: i64 = HOUR;

/// Counts what was written, and sets the commit interval by the day's budget.
async fn flash(shared: &Shared, stats: &Stats, now: Timestamp) -> anyhow::Result<FlashStatus> {
    let settings = &shared.config.buffer;
    let limits = Limits {
        per_day: settings.flash_per_day,
        endurance: settings.flash_endurance,
        interval: settings.commit_interval,
    };
    let sample = Counters::of(&shared.config.state_dir).read();
    let begun = shared.live().flash;
    let mut meter = match begun {
        Some(meter) => meter,
        None => {
            let kept = shared.buffer.run(|b| b.setting(FLASH)).await??;
            let kept = kept.and_then(|json| serde_json::from_slice::<Kept>(&json).ok());
            Meter::new(kept.unwrap_or_default(), sample, now)
        }
    };
    meter.add(sample, now);
    let (status, keep) = {
        let mut live = shared.live();
        // A new life of the buffer counts its commits from nothing.
        let (all, before) = live.commits;
        let more = if stats.commits >= before { stats.commits - before } else { stats.commits };
        live.commits = (all + more, stats.commits);
        let interval = meter.interval(&limits, all + more, now);
        live.commit_interval = Some(interval);
        live.flash = Some(meter);
        let counted = limits.per_day > 0 || limits.endurance > 0;
        let keep = counted && live.flash_kept_at.is_none_or(|at| !(0..KEEP_EVERY).contains(&now.since(at)));
        if keep {
            live.flash_kept_at = Some(now);
        }
        (meter.status(&limits, live.payload_bytes, interval, now), keep)
    };
    if keep {
        let json = serde_json::to_vec(&meter.kept())?;
        shared.buffer.run(move |b| b.set_setting(FLASH, &json)).await??;
    }
    Ok(status)
}

/// Free bytes of the file system that holds `path`, for one without privileges.
pub(super) fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
