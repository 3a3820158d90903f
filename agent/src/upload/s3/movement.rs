//! Whether a request still moves: the one limit that suits a slow link as well as a fast one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::throttle::{Throttle, Urgent};

/// While a body waits for its turn, it says so often that it is well.
const A_WHILE: Duration = Duration::from_secs(20);

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

/// A body that notes its movement, counts itself, and keeps to the rate.
pub(super) struct Moving {
    inner: SdkBody,
    movement: Movement,
    throttle: Arc<Throttle>,
    /// When the last piece went.
    last: Instant,
    /// While it waits for the rate, or for a body to which it gives way.
    waits: Option<Pin<Box<Sleep>>>,
    /// That it doesn't give way; else none.
    urgent: Option<Urgent>,
}

impl Moving {
    pub(super) fn new(
        inner: SdkBody,
        movement: &Movement,
        throttle: &Arc<Throttle>,
        gives_way: bool,
    ) -> Self {
        Self {
            inner,
            movement: movement.clone(),
            throttle: Arc::clone(throttle),
            last: Instant::now(),
            waits: None,
            urgent: (!gives_way).then(|| throttle.urgent()),
        }
    }

    /// Waits until the next piece may go.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sleep) = &mut self.waits {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.waits = None;
            }
            // To wait for one's turn isn't to stand still.
            self.movement.note();
            let wait = if self.urgent.is_some() {
                self.throttle.wait()
            } else {
                self.throttle.wait_behind(self.last.into_std())
            };
            match wait {
                Some(wait) => self.waits = Some(Box::pin(tokio::time::sleep(wait.min(A_WHILE)))),
                None => return Poll::Ready(()),
            }
        }
    }
}

impl hyper::body::Body for Moving {
    type Data = Bytes;
    type Error = aws_smithy_types::body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::ready!(self.poll_turn(cx));
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(data)) = frame.as_ref().map(|f| f.as_ref().map(hyper::body::Frame::data_ref))
            && let Some(data) = data
        {
            self.throttle.passed(data.len() as u64);
            self.last = Instant::now();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.inner)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::Body::size_hint(&self.inner)
    }
}
