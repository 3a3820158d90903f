//! The buffer of an agent that doesn't run, for what changes it.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context, bail};

use crate::buffer::{Buffer, NoFaults, OpenSettings};
use crate::clock::Moment;
use crate::config::{Config, Upload};
use crate::pipeline::{Clock, SystemClock, fingerprint, uploading};

/// Opens the buffer as the agent would, has `work` done in it, and closes it in order.
///
/// # Errors
/// That another user owns it, or an agent runs; the buffer's, and those of `work`.
pub(super) fn in_stopped<T>(
    config: &Config,
    work: impl FnOnce(&mut Buffer, Moment) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let owner = std::fs::metadata(&config.state_dir)?.uid();
    let own = std::fs::metadata("/proc/self").map_or(owner, |m| m.uid());
    if owner != own {
        bail!(
            "{} belongs to user {owner}, this is user {own}: run this as the user that the agent runs as, or start the \
             agent, so that no file there becomes another's",
            config.state_dir.display()
        );
    }
    let clock = SystemClock::default();
    let settings = OpenSettings {
        dir: config.state_dir.clone(),
        gateway: config.gateway.clone(),
        now: clock.now(),
        fingerprint: fingerprint(),
        faults: std::sync::Arc::new(NoFaults),
    };
    let mut buffer = Buffer::open(&settings).context("opening the buffer")?.buffer;
    if let Some(newest) = buffer.newest()? {
        clock.has_seen(newest);
    }
    buffer.keep_back(uploading(config, Upload::Aggregates));
    let done = work(&mut buffer, clock.moment());
    let stopped = buffer.stop();
    let done = done?;
    stopped?;
    Ok(done)
}
