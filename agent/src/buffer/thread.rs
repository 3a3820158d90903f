//! The one owner of the buffer, a thread: closures go in, answers come out. Edge: a thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::error::{BufferError, OpenError};
use super::open::OpenEvent;
use super::{Buffer, OpenSettings};

/// Why a closure gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// The buffer isn't open: it was stopped, or opening it again failed.
    #[error("the buffer isn't open")]
    Closed,
    /// The closure panicked; the buffer must be opened again.
    #[error("an operation on the buffer panicked: {0}; open the buffer again")]
    Panicked(String),
    /// The buffer could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The buffer could not be stopped cleanly.
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

type Job = Box<dyn FnOnce(&mut Option<Buffer>) + Send>;

/// A handle to the thread; the thread ends when the last one is dropped.
pub struct BufferThread(Place);

enum Place {
    Thread { jobs: mpsc::Sender<Job>, thread: Option<JoinHandle<()>> },
    Here(Box<Mutex<Option<Buffer>>>),
}

impl BufferThread {
    /// Starts the thread with an open buffer.
    pub fn start(buffer: Buffer) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().name("buffer".into()).spawn(move || {
            let mut buffer = Some(buffer);
            while let Ok(job) = queue.recv() {
                job(&mut buffer);
            }
        })?;
        Ok(Self(Place::Thread { jobs, thread: Some(thread) }))
    }

    /// No thread at all: each closure runs where its caller is polled, and the caller gives way before and after. For
    /// simulations that own the only thread. Dropping the handle closes the buffer as a crash would.
    pub fn here(buffer: Buffer) -> std::io::Result<Self> {
        Ok(Self(Place::Here(Box::new(Mutex::new(Some(buffer))))))
    }

    /// Runs `f` on the thread, after everything that was sent before it. It runs even if the caller doesn't wait.
    pub async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Buffer) -> T + Send + 'static,
    ) -> Result<T, ThreadError> {
        self.send(move |slot| {
            let buffer = slot.as_mut().ok_or(ThreadError::Closed)?;
            catch_unwind(AssertUnwindSafe(|| f(buffer))).map_err(|panic| {
                buffer.poisoned = true;
                ThreadError::Panicked(message(&*panic))
            })
        })
        .await
    }

    /// Closes the buffer as it is, as a crash would, and opens it again: after an error that poisons.
    pub async fn reopen(&self, settings: OpenSettings) -> Result<Vec<OpenEvent>, ThreadError> {
        self.send(move |slot| {
            // The lock is free only once the old one is gone.
            drop(slot.take());
            let opened = Buffer::open(&settings)?;
            *slot = Some(opened.buffer);
            Ok(opened.events)
        })
        .await
    }

    /// Stops the buffer cleanly, and the thread.
    pub async fn stop(mut self) -> Result<(), ThreadError> {
        let stopped = self.send(|slot| Ok(slot.take().ok_or(ThreadError::Closed)?.stop()?)).await;
        self.join();
        stopped
    }

    /// Closes the buffer as it is, as a crash would, and waits until it is gone: before that nobody can open it again.
    pub async fn close(mut self) {
        // Without an answer the thread has ended, and the buffer with it.
        let _ = self
            .send(|slot| {
                drop(slot.take());
                Ok(())
            })
            .await;
        self.join();
    }

    fn join(&mut self) {
        let Place::Thread { jobs, thread } = &mut self.0 else { return };
        let (closed, _) = mpsc::channel();
        *jobs = closed;
        if let Some(thread) = thread.take() {
            // Nothing is left in its queue; a panic of a closure was reported to its caller.
            let _ = thread.join();
        }
    }

    async fn send<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Option<Buffer>) -> Result<T, ThreadError> + Send + 'static,
    ) -> Result<T, ThreadError> {
        let jobs = match &self.0 {
            Place::Thread { jobs, .. } => jobs,
            Place::Here(buffer) => {
                yield_now().await;
                let done = f(&mut buffer.lock().unwrap_or_else(PoisonError::into_inner));
                yield_now().await;
                return done;
            }
        };
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |slot| {
            // Nobody may be waiting any more: the work counts all the same.
            let _ = reply.send(f(slot));
        });
        jobs.send(job).map_err(|_| ThreadError::Closed)?;
        answer.await.map_err(|_| ThreadError::Closed)?
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
