//! Whether a request still moves: the one limit that suits a slow link as well as a fast one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use tokio::time::Instant;

/// When something last moved.
#[derive(Debug, Clone)]
pub(super) struct Movement {
    began: Instant,
    last_ms: Arc<AtomicU64>,
}

/// Nothing moved for too long.
pub(super) struct Stalled;

impl Movement {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), last_ms: Arc::default() }
    }

    fn note(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// Waits for `work` until nothing has moved for `limit`.
    pub(super) async fn wait<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T, Stalled> {
        tokio::pin!(work);
        loop {
            let until = self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + limit;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep_until(until) => {
                    let last = self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
                    if Instant::now() >= last + limit {
                        return Err(Stalled);
                    }
                }
            }
        }
    }
}

/// A body that notes its movement.
pub(super) struct Moving {
    inner: SdkBody,
    movement: Movement,
}

impl Moving {
    pub(super) fn new(inner: SdkBody, movement: &Movement) -> Self {
        Self { inner, movement: movement.clone() }
    }
}

impl hyper::body::Body for Moving {
    type Data = Bytes;
    type Error = aws_smithy_types::body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.movement.note();
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.inner)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::Body::size_hint(&self.inner)
    }
}
