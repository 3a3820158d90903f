//! Sends what is due, in the order and at the times that the link's policy says, a few uploads at once.
//!
//! Each upload on its way is one request; what comes of it is settled by this loop alone, one after the other, so that
//! nothing else has to know that there are several.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tracing::debug;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::time::{DAY_MICROS, Timestamp};

use super::{AT_ONCE, Deliverer, Settled};
use crate::buffer::Entry;
use crate::config::{Order, SECOND};
use crate::pipeline::thinning::verdict;
use crate::upload::bucket::Bucket;
use crate::upload::link::order::may_begin;
use crate::upload::link::{Class, Permit};
use crate::upload::perform::perform;
use crate::upload::step::{Event, Step, Task, next_step};

/// While uploads go on, receipt, journal and status are looked after this often, microseconds.
const TEND_EVERY: i64 = 15 * SECOND;

/// One request on its way.
pub(super) struct OnTheWay {
    task: Task,
    class: Class,
    step: Step,
    began: Timestamp,
    /// Never locked: whoever polls it has it alone, and a lock is what makes that plain to the compiler.
    done: Mutex<Pin<Box<dyn Future<Output = Option<Event>> + Send>>>,
}

impl OnTheWay {
    /// Bytes of its body.
    fn body(&self) -> u64 {
        body(&self.step, &self.task.entry)
    }
}

/// Bytes of a step's body.
fn body(step: &Step, entry: &Entry) -> u64 {
    match step {
        Step::Put => entry.size,
        Step::UploadPart { length, .. } => *length,
        Step::CreateMultipart { .. }
        | Step::ListParts { .. }
        | Step::Complete { .. }
        | Step::Look
        | Step::Nothing => 0,
    }
}

/// What became of the wish to begin.
enum Begun {
    /// It is on its way.
    Yes,
    /// There is nothing to ask of the bucket for it now.
    Nothing,
    /// It has to wait, and so does whatever is less urgent.
    Waits,
}

impl<B: Bucket + 'static> Deliverer<B> {
    /// Sends until nothing more is due or may go. True: something was delivered.
    pub(super) async fn send(&mut self) -> anyhow::Result<bool> {
        (self.closing, self.tended_at) = (false, self.shared.now());
        self.queue = None;
        let (mut delivered, mut untold) = (false, false);
        loop {
            self.begin_what_may().await?;
            if self.on_the_way.is_empty() {
                break;
            }
            let done = self.next_done().await;
            if done.is_none() {
                self.queue = None;
            }
            if let Some((way, event)) = done {
                // It was due when the outbox was asked, and stands in there still if it was on its way then.
                let of = |entry: &Entry| (entry.epoch, entry.number);
                if let Some(queue) = &mut self.queue {
                    queue.retain(|(entry, _)| of(entry) != of(&way.task.entry));
                }
                let now = self.shared.now();
                let arrived = event.as_ref().is_some_and(|e| !matches!(e, Event::Failed { .. }));
                self.shared.link().ends(way.began, way.body(), arrived, now);
                let Some(event) = event else { continue };
                match self.settle(way.task, &way.step, &event).await? {
                    Settled::Delivered => (delivered, untold) = (true, true),
                    Settled::GoesOn(task) => self.going_on.push_back((*task, way.class)),
                    Settled::Rests => {}
                }
            }
            let now = self.shared.now();
            if !(0..TEND_EVERY).contains(&now.since(self.tended_at)) {
                self.tended_at = now;
                // Receipts may have settled some of what is in there.
                self.queue = None;
                self.tend(now, std::mem::take(&mut untold)).await?;
                let (_, room) = verdict(&self.shared, false).await?;
                self.closing = room.aggregates > 0;
            }
        }
        Ok(delivered)
    }

    /// Begins whatever there is a place for.
    async fn begin_what_may(&mut self) -> anyhow::Result<()> {
        while let Some((task, class)) = self.going_on.pop_front() {
            if self.closing {
                self.put_by(&task);
            } else {
                // Where it has to wait, the outbox offers it again.
                self.begin(task, class).await?;
            }
        }
        let mut asked = false;
        while !self.closing && self.shared.now() >= self.rest_until {
            let Some((entry, class)) = self.queue.as_mut().and_then(VecDeque::pop_front) else {
                // What is on its way is due, too: once is enough.
                if asked && self.queue.is_some() {
                    return Ok(());
                }
                self.ask_outbox().await?;
                asked = true;
                continue;
            };
            if self.is_on_the_way(entry.epoch, entry.number) {
                continue;
            }
            let others: Vec<Class> = self.on_the_way.iter().map(|way| way.class).collect();
            let at_once = self.shared.link().at_once();
            let waits = if may_begin(class, &others, at_once) {
                let task = match self.doubts.remove(&(entry.epoch, entry.number)) {
                    Some(doubt) => Task { entry: entry.clone(), doubt },
                    None => Task::resume(entry.clone()),
                };
                matches!(self.begin(task, class).await?, Begun::Waits)
            } else {
                true
            };
            if waits {
                // Whatever is less urgent waits behind it.
                if let Some(queue) = &mut self.queue {
                    queue.push_front((entry, class));
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Asks the outbox what is due, in its order.
    async fn ask_outbox(&mut self) -> anyhow::Result<()> {
        let now = self.shared.now();
        let (new_from, newest_first) = {
            let mut link = self.shared.link();
            (link.new_from(now), link.order() == Order::NewestFirst)
        };
        let limit = AT_ONCE + self.on_the_way.len();
        // What is of an earlier day is backlog, however late it was sealed: asked for by hand, or queued at a broker.
        let since = now.plus(-DAY_MICROS).day();
        let due = self
            .shared
            .buffer
            .run(move |b| b.due_in_order(now, new_from, since, newest_first, limit))
            .await??;
        let in_order = due.into_iter().map(|(mut entry, is_new)| {
            // What was put off before the clock stepped back may be tried now.
            entry.next_at = entry.next_at.min(now);
            let class = Class::of(entry.key.table, is_new);
            (entry, class)
        });
        self.queue = Some(in_order.collect());
        Ok(())
    }

    /// Begins the next request of a task, if the link lets it.
    async fn begin(&mut self, task: Task, class: Class) -> anyhow::Result<Begun> {
        let now = self.shared.now();
        let step = next_step(&task, self.shared.config.bucket.part_size);
        if step == Step::Nothing || task.entry.next_at > now || now < self.rest_until {
            self.put_by(&task);
            return Ok(Begun::Nothing);
        }
        let body = body(&step, &task.entry);
        // What was permitted must be in the books before it goes: they are written ahead, never after.
        self.account().await?;
        let permit = self.shared.link().permit(class, body, now);
        match permit {
            Permit::Now => {}
            Permit::At(..) | Permit::Never(_) => {
                self.put_by(&task);
                return Ok(Begun::Waits);
            }
        }
        self.shared.link().begins(body, now);
        self.account().await?;
        debug!(segment = %task.entry.key.file_name(), ?step, ?class, "upload");
        let (epoch, number) = (task.entry.epoch, task.entry.number);
        let file = self.shared.buffer.run(move |b| b.segment_path(epoch, number)).await?;
        let prefix = self.shared.config.bucket.prefix.clone();
        let (bucket, entry, asked) = (Arc::clone(&self.bucket), task.entry.clone(), step.clone());
        let gives_way = class.is_backlog();
        let done: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { perform(&*bucket, &prefix, &entry, &file, &asked, gives_way).await });
        self.on_the_way.push(OnTheWay { task, class, step, began: now, done: Mutex::new(done) });
        Ok(Begun::Yes)
    }

    /// Waits for the first request that is done; none: something was sealed, and may be more urgent.
    async fn next_done(&mut self) -> Option<(OnTheWay, Option<Event>)> {
        let shared = Arc::clone(&self.shared);
        let mut sealed = pin!(shared.sealed.notified());
        poll_fn(|cx| {
            for at in 0..self.on_the_way.len() {
                let Some(way) = self.on_the_way.get_mut(at) else { break };
                let done = way.done.get_mut().unwrap_or_else(PoisonError::into_inner);
                if let Poll::Ready(event) = done.as_mut().poll(cx) {
                    return Poll::Ready(Some((self.on_the_way.remove(at), event)));
                }
            }
            sealed.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// Whether a request for that segment is on its way, or is to follow.
    pub(super) fn is_on_the_way(&self, epoch: Epoch, number: Number) -> bool {
        let is = |task: &Task| (task.entry.epoch, task.entry.number) == (epoch, number);
        self.on_the_way.iter().any(|way| is(&way.task)) || self.going_on.iter().any(|(task, _)| is(task))
    }

    /// Looks after receipt, journal and status; `delivered` says that something was since the last time.
    pub(super) async fn tend(&mut self, now: Timestamp, delivered: bool) -> anyhow::Result<()> {
        if delivered {
            self.poll.delivered(self.shared.now());
        }
        self.read_receipt(now, delivered).await?;
        self.let_go_of_delivered().await?;
        self.trim().await?;
        self.write_status(now).await?;
        self.read_desired(now).await
    }
}
