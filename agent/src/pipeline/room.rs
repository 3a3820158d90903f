//! A full disk: gives up the ballast when there is no room to make room, and takes it back once there is.

use std::path::Path;
use std::sync::Mutex;

use tracing::{info, warn};
use tributary_contract::time::Timestamp;

use super::shared::{Live, Shared, lock};
use crate::buffer::{Ballast, BufferError, OpenError, ThreadError};
use crate::config::SECOND;
use crate::offload::offload;

/// What the ballast was given up for is to happen before it is taken back, microseconds.
const REST: i64 = 10 * SECOND;

/// What the status says until the ballast is there again.
pub(super) const GIVEN_UP: &str = "the disk was full: the ballast was given up";

/// Whether a failure says that the disk has no room.
pub(super) fn is_full(failure: &anyhow::Error) -> bool {
    failure.chain().any(|cause| {
        if let Some(e) = cause.downcast_ref::<BufferError>() {
            return e.is_full();
        }
        if let Some(OpenError::Buffer(e)) = cause.downcast_ref::<OpenError>() {
            return e.is_full();
        }
        match cause.downcast_ref::<ThreadError>() {
            Some(ThreadError::Buffer(e) | ThreadError::Open(OpenError::Buffer(e))) => e.is_full(),
            _ => false,
        }
    })
}

/// Gives up the ballast of the buffer in `dir`; false if there was none.
pub(super) async fn give_up_ballast(dir: &Path, live: &Mutex<Live>, now: Timestamp) -> bool {
    let ballast = Ballast::of(dir);
    match offload(move || ballast.give_up()).await {
        Ok(Ok(0)) => false,
        Ok(Ok(bytes)) => {
            note_given_up(bytes, &mut lock(live), now);
            true
        }
        Ok(Err(e)) => {
            warn!("{e}");
            false
        }
        Err(e) => {
            warn!("giving up the ballast ended early: {e}");
            false
        }
    }
}

/// Says that the ballast is gone.
pub(super) fn note_given_up(bytes: u64, live: &mut Live, now: Timestamp) {
    warn!(bytes, "the disk is full: the ballast was given up, to have room for making room");
    live.ballast_gone_at = Some(now);
    live.notices.insert("ballast", GIVEN_UP.to_owned());
}

/// Takes the ballast back when it is missing and the disk has room for it and for as much again.
///
/// # Errors
/// When the disk refuses for another reason than room.
pub(super) async fn keep_ballast(
    shared: &Shared,
    held: u64,
    free: Option<u64>,
    now: Timestamp,
) -> anyhow::Result<()> {
    let settings = &shared.config.buffer;
    let resting = shared.live().ballast_gone_at.is_some_and(|at| (0..REST).contains(&now.since(at)));
    let room = free.is_some_and(|free| has_room(settings.ballast, settings.min_free, free));
    if held >= settings.ballast || resting || !room {
        return Ok(());
    }
    let bytes = settings.ballast;
    if shared.buffer.run(move |b| b.ballast().take_back(bytes)).await?? {
        let mut live = shared.live();
        if live.ballast_gone_at.take().is_some() {
            info!(bytes, "the disk has room again: the ballast was taken back");
        }
        live.notices.remove("ballast");
    }
    Ok(())
}

const fn has_room(ballast: u64, min_free: u64, free: u64) -> bool {
    free >= ballast.saturating_mul(2) && free >= ballast.saturating_add(min_free)
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;

    use super::*;

    #[test]
    fn ballast_is_taken_back_only_where_that_leaves_the_disk_its_room() {
        assert!(has_room(8, 10, 18) && !has_room(8, 10, 17));
        assert!(has_room(8, 0, 16) && !has_room(8, 0, 15), "not the last bytes of the disk");
    }

    #[test]
    fn a_full_disk_is_recognised_wherever_it_shows() {
        let of = |kind: io::ErrorKind| BufferError::Io { what: "can't write".into(), source: kind.into() };
        let full = || of(io::ErrorKind::StorageFull);
        let failures = [
            Err::<(), _>(full()).context("commit").unwrap_err(),
            OpenError::Buffer(full()).into(),
            Err::<(), _>(OpenError::Buffer(full())).context("opening").unwrap_err(),
            ThreadError::Open(OpenError::Buffer(full())).into(),
            ThreadError::Buffer(full()).into(),
        ];
        for failure in &failures {
            assert!(is_full(failure), "{failure:?}");
        }
        assert!(!is_full(&of(io::ErrorKind::PermissionDenied).into()));
        assert!(!is_full(&BufferError::Poisoned.into()), "why it was poisoned another loop tells");
    }
}
