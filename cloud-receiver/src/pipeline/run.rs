//! The loops: each runs its pass, waits for a wake-up or its time, and goes on for ever, whatever fails.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tributary_contract::time::Timestamp;

use super::health::Part;
use super::{PassError, Pipeline};

/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a pass may go on after the receiver was asked to stop.
const LAST_PASS: Duration = Duration::from_secs(10);
/// The shortest time between two looks for changed statuses.
const STATUSES_EVERY: Duration = Duration::from_secs(10);

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_microsecond())
}

/// Runs all loops until `stop`; each then ends its pass, or leaves it after ten seconds.
pub async fn run(pipeline: Arc<Pipeline>, list_every: Duration, stop: CancellationToken) {
    let mut loops = JoinSet::new();
    let wait = pipeline.register.max_wait;
    let register_every = (wait / 4).clamp(Duration::from_millis(200), Duration::from_secs(10));
    let p = Arc::clone(&pipeline);
    loops.spawn(repeat(
        p,
        "arrivals",
        list_every,
        stop.clone(),
        |_| None,
        |p| async move {
            p.arrivals_pass(now()).await?;
            p.health.ok(Part::Bucket);
            p.health.ok(Part::Ledger);
            p.quarantine_pass().await
        },
    ));
    let p = Arc::clone(&pipeline);
    loops.spawn(repeat(
        p,
        "register",
        register_every,
        stop.clone(),
        |p| Some(&p.checked),
        |p| async move { p.register_pass(now()).await.map(|_| ()) },
    ));
    let p = Arc::clone(&pipeline);
    loops.spawn(repeat(
        p,
        "receipts",
        register_every,
        stop.clone(),
        |p| Some(&p.settled),
        |p| async move { p.receipts_pass(now()).await },
    ));
    let every = list_every.max(STATUSES_EVERY);
    loops.spawn(repeat(
        pipeline,
        "statuses",
        every,
        stop,
        |_| None,
        |p| async move { p.statuses_pass().await },
    ));
    while let Some(ended) = loops.join_next().await {
        if let Err(e) = ended {
            tracing::error!("a loop ended by itself: {e}");
        }
    }
}

async fn repeat<F>(
    pipeline: Arc<Pipeline>,
    name: &'static str,
    every: Duration,
    stop: CancellationToken,
    wake: fn(&Pipeline) -> Option<&Notify>,
    body: impl Fn(Arc<Pipeline>) -> F,
) where
    F: Future<Output = Result<(), PassError>>,
{
    let mut failures = 0;
    while !stop.is_cancelled() {
        let mut pass = Box::pin(guarded(body(Arc::clone(&pipeline))));
        let outcome = tokio::select! {
            outcome = &mut pass => outcome,
            () = stop.cancelled() => {
                if tokio::time::timeout(LAST_PASS, &mut pass).await.is_err() {
                    tracing::info!(name, "left in the middle; the next start goes on");
                }
                return;
            }
        };
        pipeline.health.beat();
        let pause = match outcome {
            Some(Ok(())) => {
                failures = 0;
                every
            }
            // Transactions roll back; what the pass had done is in the ledger, and the next one goes on from there.
            None => {
                failures += 1;
                tracing::error!(pass = name, "broke off by a defect of this program; it is tried again");
                backoff(failures, fastrand::f64())
            }
            Some(Err(e)) => {
                failures += 1;
                report(&pipeline, name, &e);
                backoff(failures, fastrand::f64())
            }
        };
        let woken = async {
            match wake(&pipeline) {
                // After a failure the pause is kept: a wake-up says that there is more to do, not that it can be done.
                Some(notify) if failures == 0 => notify.notified().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = woken => {}
        }
    }
}

/// What came of a pass; none if it panicked, which must not end its loop for ever.
async fn guarded<T>(pass: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(pass).catch_unwind().await.ok()
}

fn report(pipeline: &Pipeline, name: &str, error: &PassError) {
    if pipeline.health.failed(error.part(), error.to_string(), now()) {
        tracing::warn!(pass = name, "{error}; tried again until it works");
    } else {
        tracing::debug!(pass = name, "{error}");
    }
}

/// The pause after so many failures in a row: doubled from half a second to a minute, of which `luck` (0 to 1) takes up
/// to half, so that receivers don't come back all at once.
pub fn backoff(failures: u32, luck: f64) -> Duration {
    let doubled = Duration::from_millis(500) * 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 - luck.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pass_that_panics_does_not_end_its_loop() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let broken = guarded(async { assert_eq!(1, 2) }).await;
        std::panic::set_hook(hook);
        assert_eq!((broken, guarded(async { 3 }).await), (None, Some(3)));
    }

    #[test]
    fn pauses_grow_to_a_minute_and_never_beyond() {
        let pauses: Vec<u64> = (1..=9).map(|n| backoff(n, 0.0).as_millis() as u64).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(backoff(u32::MAX, 1.0), Duration::from_secs(30));
    }
}
