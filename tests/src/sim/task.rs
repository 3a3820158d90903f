//! A loop of a program as the scheduler sees it: polled once a turn, asleep until a moment, dropped to kill it.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::hub::Hub;

/// When a sleeping task wants its next turn, by the clock that never steps back, microseconds.
pub type Wake = Rc<Cell<i64>>;

/// Something that goes on when it is polled.
pub struct Task<T> {
    /// For the trace.
    pub name: &'static str,
    /// Until when it sleeps.
    pub wake: Wake,
    future: Pin<Box<dyn Future<Output = T>>>,
}

impl<T> Task<T> {
    /// A task around what `body` makes of its wake-up cell.
    pub fn new<F: Future<Output = T> + 'static>(name: &'static str, body: impl FnOnce(Wake) -> F) -> Self {
        let wake = Wake::default();
        Self { name, future: Box::pin(body(Rc::clone(&wake))), wake }
    }

    /// Goes on to its next await.
    pub fn poll(&mut self) -> Option<T> {
        match self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(out) => Some(out),
            Poll::Pending => None,
        }
    }
}

/// Polls once; a future that can be waited for again later loses nothing by it.
pub fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => Some(out),
        Poll::Pending => None,
    }
}

/// Runs a future to its end while nothing else goes on; for questions of the oracle.
///
/// # Panics
/// When it waits for something that only others could do.
pub fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..1_000_000 {
        if let Poll::Ready(out) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return out;
        }
    }
    panic!("a question waits for something that nobody does");
}

/// Gives way once.
pub async fn give_way() {
    let mut gave = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut gave, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Sleeps; `early` is asked once a second whether to stop sleeping.
pub async fn sleep(hub: &Hub, wake: &Wake, micros: i64, mut early: impl FnMut() -> bool) {
    const LOOK: i64 = 1_000_000;
    let until = hub.steady() + micros.max(1);
    while hub.steady() < until && !early() {
        wake.set(until.min(hub.steady() + LOOK));
        give_way().await;
    }
    wake.set(0);
}
