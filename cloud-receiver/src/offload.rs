//! Work for the processor or the disk, kept off the runtime's own threads. Edge: threads.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking, yield_now};

/// Runs `work` where it may block. On a runtime of several threads that is a thread of its own, where it runs to its end
/// even if nobody waits any more. On one thread there is no better place than here; what else has something to do gets
/// its turn before and after, so that a simulation that owns the only thread may stop the program at either moment.
///
/// # Errors
/// When `work` panicked on its thread.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => spawn_blocking(work).await,
        _ => {
            yield_now().await;
            let done = work();
            yield_now().await;
            Ok(done)
        }
    }
}
