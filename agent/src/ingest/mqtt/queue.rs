//! The bounded queue from connections to the pipeline: bounded in events, and in bytes of payloads.

use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Event;

struct Queued {
    broker: usize,
    event: Event,
    /// Given back when the event is taken.
    _room: Option<OwnedSemaphorePermit>,
}

/// The connections' end.
#[derive(Clone)]
pub struct EventSender {
    events: Sender<Queued>,
    room: Arc<Semaphore>,
    bytes: u32,
}

/// The pipeline's end.
pub struct EventReceiver {
    events: Receiver<Queued>,
}

/// A queue for at most `events` events and about `bytes` bytes of payloads; see [`super::QUEUE_EVENTS`].
pub fn queue(events: usize, bytes: usize) -> (EventSender, EventReceiver) {
    let bytes = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX).min(1 << 28);
    let (sender, receiver) = channel(events.max(1));
    let room = Arc::new(Semaphore::new(bytes as usize));
    (EventSender { events: sender, room, bytes }, EventReceiver { events: receiver })
}

impl EventSender {
    /// Waits for room. False when the receiver is gone. An event larger than the whole queue waits until it is empty.
    pub(super) async fn send(&self, broker: usize, event: Event) -> bool {
        let size = match &event {
            Event::Publish(publish) => publish.payload.len() + publish.topic.len(),
            Event::Connected { .. } | Event::Subscribed { .. } | Event::Disconnected { .. } => 0,
        };
        let size = u32::try_from(size).unwrap_or(u32::MAX).min(self.bytes);
        let room = match Arc::clone(&self.room).acquire_many_owned(size).await {
            Ok(room) => Some(room),
            Err(_) => return false,
        };
        self.events.send(Queued { broker, event, _room: room }).await.is_ok()
    }
}

impl EventReceiver {
    /// The next event and its broker (by position); `None` when all connections have stopped.
    pub async fn recv(&mut self) -> Option<(usize, Event)> {
        self.events.recv().await.map(|q| (q.broker, q.event))
    }

    /// The next event, if one waits.
    pub fn try_recv(&mut self) -> Option<(usize, Event)> {
        self.events.try_recv().ok().map(|q| (q.broker, q.event))
    }
}
