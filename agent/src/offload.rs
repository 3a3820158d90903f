//! Work for the processor or the disk, kept off the loop that talks to the broker. Edge: threads.

use std::cell::Cell;

use tokio::task::{JoinError, spawn_blocking, yield_now};

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread does itself what it would offload: for a simulation, which owns the only thread, so that the
/// same seed is the same run.
pub fn stay_here() {
    HERE.set(true);
}

/// Runs `work`, which may block, on a thread of its own. Where the caller's thread was told to [`stay_here`], what else
/// has something to do gets its turn before and after, so that the program may be stopped at either moment.
///
/// # Errors
/// When `work` panicked on its thread.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if !HERE.get() {
        return spawn_blocking(work).await;
    }
    yield_now().await;
    let done = work();
    yield_now().await;
    Ok(done)
}
