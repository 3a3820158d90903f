//! Delivers: sends what is sealed (`sending`), reads receipts and lets go of what they permit (`receipts`), reads what
//! operators ask for (`desired`), and writes the status object.

mod desired;
mod receipts;
mod sending;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, error, info, warn};
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::receipt::Receipt;
use tributary_contract::status::Health;
use tributary_contract::time::Timestamp;

use self::sending::OnTheWay;
use super::clock::until;
use super::link::KEPT;
use super::report::report;
use super::shared::{Shared, StartAgain};
use super::thinning::verdict;
use crate::buffer::{Entry, Progress};
use crate::clock::STEP;
use crate::config::ReleaseOn;
use crate::upload::answer::Answer;
use crate::upload::backoff::Jitter;
use crate::upload::bucket::Bucket;
use crate::upload::classify::Outcome;
use crate::upload::link::{Class, Permit};
use crate::upload::perform::perform;
use crate::upload::poll::Poll;
use crate::upload::probe::{Probe, probe};
use crate::upload::receipt::Memory;
use crate::upload::step::{BACKOFF, Doubt, Event, Step, Task, advance, next_step};

/// Entries taken from the outbox at once.
const AT_ONCE: usize = 32;
/// Batches deleted in one transaction.
const TRIM_AT_ONCE: usize = 256;
/// The longest the loop sleeps without being woken.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The delivering loop's own memory.
pub struct Deliverer<B> {
    shared: Arc<Shared>,
    bucket: Arc<B>,
    /// What must be found out about entries that were tried; losing it costs requests.
    doubts: HashMap<(Epoch, Number), Doubt>,
    probed: Option<Probe>,
    poll: Poll,
    memory: Option<Memory>,
    /// When the object `desired` was last asked for, and its version then.
    desired_at: Option<Timestamp>,
    desired_etag: Option<String>,
    /// The last receipt that was taken, to be read again when entries become delivered after it.
    last_receipt: Option<(Receipt, Digest)>,
    /// Nothing is asked of the bucket before this.
    rest_until: Timestamp,
    /// When the last pass began: a later one that begins before it came after a step of the clock.
    passed_at: Timestamp,
    failures: u32,
    /// When the status object was last written, with which health.
    status_written: Option<(Timestamp, Health)>,
    /// When anything was last uploaded.
    uploaded_at: Timestamp,
    /// Whether segments were let go of since the status object was last considered.
    let_go: bool,
    /// Whether what was held when we started got its one more chance.
    held_tried: bool,
    /// Uploads on their way.
    on_the_way: Vec<OnTheWay>,
    /// Uploads of which the next request is to follow.
    going_on: VecDeque<(Task, Class)>,
    /// The next of the outbox in their order; none where it has to be asked again.
    queue: Option<VecDeque<(Entry, Class)>>,
    /// When the receipt, the journal and the status were last looked after.
    tended_at: Timestamp,
    /// Whether nothing more is begun before the next pass, because that has to shed.
    closing: bool,
    /// Whether what an earlier life kept of the link was read.
    restored: bool,
}

impl<B: Bucket + 'static> Deliverer<B> {
    /// A deliverer that knows nothing of the bucket yet.
    pub fn new(shared: Arc<Shared>, bucket: Arc<B>) -> Self {
        let now = shared.now();
        // What others asked of it before isn't ours to count.
        shared.link().counts_from(bucket.traffic());
        let link = &shared.config.link;
        Self {
            poll: Poll::new(link.receipt_pause, link.receipt_longest, now),
            shared,
            bucket,
            doubts: HashMap::new(),
            probed: None,
            memory: None,
            desired_at: None,
            desired_etag: None,
            last_receipt: None,
            rest_until: Timestamp(i64::MIN),
            passed_at: Timestamp(i64::MIN),
            failures: 0,
            status_written: None,
            uploaded_at: now,
            let_go: false,
            held_tried: false,
            on_the_way: Vec::new(),
            going_on: VecDeque::new(),
            queue: None,
            tended_at: now,
            closing: false,
            restored: false,
        }
    }

    /// Does what is due at `now`; gives the wait until something may be due again.
    ///
    /// # Errors
    /// Whatever the buffer says. What the bucket says is no error here: it is tried again, and shown.
    pub async fn pass(&mut self, now: Timestamp) -> anyhow::Result<Duration> {
        self.bound_waits(now);
        self.make_room(now).await?;
        self.restore(now).await?;
        self.shared.link().nothing_waits();
        self.account().await?;
        if now < self.rest_until {
            return Ok(until(self.rest_until, now, LONGEST_SLEEP));
        }
        // It is over, and stays so when the clock steps back before its end.
        self.rest_until = Timestamp(i64::MIN);
        if !self.probe(now).await {
            let at = self.shared.link().waits_until().unwrap_or(self.rest_until);
            return Ok(until(at, now, LONGEST_SLEEP));
        }
        self.try_held(now).await?;
        let mut delivered = self.send().await?;
        delivered |= self.look_again(now).await?;
        self.tend(now, delivered).await?;
        self.next_wait().await
    }

    /// Reads what an earlier life kept of receipts and of the link, once.
    async fn restore(&mut self, now: Timestamp) -> anyhow::Result<()> {
        if self.restored {
            return Ok(());
        }
        self.restore_memory(now).await?;
        let max_age = self.shared.config.segment.max_age;
        let (kept, new) = self
            .shared
            .buffer
            .run(move |b| -> anyhow::Result<_> {
                Ok((b.setting(KEPT)?, b.first_since(now.plus(max_age.saturating_mul(-2)))?))
            })
            .await??;
        let mut link = self.shared.link();
        link.restore(kept.as_deref());
        if let Some((epoch, number)) = new {
            link.found_new(epoch, number, now);
        }
        self.restored = true;
        Ok(())
    }

    /// Brings the books of the link up to date, and what has to be durable of them to the disk.
    async fn account(&self) -> anyhow::Result<()> {
        let (now, trusted) = (self.shared.now(), self.shared.live().clock_synced);
        let keep = self.shared.link().account(self.bucket.traffic(), now, trusted);
        if let Some(json) = keep {
            self.shared.buffer.run(move |b| b.set_setting(KEPT, &json)).await??;
        }
        Ok(())
    }

    /// Whether the link lets a request of that class with a body of that many bytes go now.
    fn may_go(&self, class: Class, body: u64) -> bool {
        self.shared.link().permit(class, body, self.shared.now()) == Permit::Now
    }

    /// Sheds aggregates where even they don't fit any more. Here, because nobody else may have one of them in hand.
    async fn make_room(&self, now: Timestamp) -> anyhow::Result<()> {
        let (_, verdict) = verdict(&self.shared, false).await?;
        if verdict.aggregates > 0 {
            let goal = verdict.aggregates;
            let bytes = self.shared.buffer.run(move |b| b.shed_aggregates(goal, now)).await??;
            if bytes > 0 {
                warn!(bytes, "shed: there is no room even for aggregates");
                let why = "the buffer is full: aggregates are shed that the bucket doesn't have".to_owned();
                let mut live = self.shared.live();
                if !live.losses.contains(&why) {
                    live.losses.push(why);
                }
            }
        }
        Ok(())
    }

    /// No wait is longer than it may ever be: one that is was begun before the clock stepped back.
    fn bound_waits(&mut self, now: Timestamp) {
        if now.plus(STEP) < self.passed_at {
            self.rest_until = Timestamp(i64::MIN);
        }
        self.passed_at = now;
        self.rest_until = self.rest_until.min(now.plus(BACKOFF.longest()));
        self.poll.not_beyond(now);
        self.uploaded_at = self.uploaded_at.min(now);
        self.desired_at = self.desired_at.map(|at| at.min(now));
        self.status_written = self.status_written.map(|(at, health)| (at.min(now), health));
    }

    /// Gives what is held one more chance: a start is where an operator's repair shows.
    async fn try_held(&mut self, now: Timestamp) -> anyhow::Result<()> {
        if self.held_tried {
            return Ok(());
        }
        let entries = self.shared.buffer.run(|b| b.entries()).await??;
        for held in entries.into_iter().filter(|e| matches!(e.state, Progress::Held { .. })) {
            let again = Task::retry_held(held.clone(), now);
            self.save(&held, &again.entry, now).await?;
            self.doubts.insert((held.epoch, held.number), again.doubt);
        }
        self.held_tried = true;
        Ok(())
    }

    /// Asks the store, once a start, whether it honours create-only requests.
    async fn probe(&mut self, now: Timestamp) -> bool {
        match self.probed {
            Some(Probe::Honoured) => return true,
            Some(Probe::Ignored) | None => {}
        }
        let key = self.shared.config.bucket.prefix.status(&self.shared.config.gateway);
        let status = self.status_json();
        if !self.may_go(Class::Status, 2 * status.len() as u64) {
            return false;
        }
        match probe(&*self.bucket, &key, status).await {
            Ok(Probe::Honoured) => {
                self.probed = Some(Probe::Honoured);
                self.shared.live().notices.remove("store");
                self.went_well();
                true
            }
            Ok(Probe::Ignored) => {
                self.probed = Some(Probe::Ignored);
                error!("{}", Probe::REFUSAL);
                self.shared.live().notices.insert("store", Probe::REFUSAL.to_owned());
                self.rest_until = now.plus(BACKOFF.longest());
                false
            }
            Err(answer) => {
                self.went_wrong(&answer, now);
                false
            }
        }
    }

    /// Takes one entry as far as it goes now, and nothing beside it. True: it was delivered, or found to be.
    async fn work(&mut self, mut task: Task) -> anyhow::Result<bool> {
        let part_size = self.shared.config.bucket.part_size;
        let prefix = self.shared.config.bucket.prefix.clone();
        let (epoch, number) = (task.entry.epoch, task.entry.number);
        let file = self.shared.buffer.run(move |b| b.segment_path(epoch, number)).await?;
        loop {
            let step = next_step(&task, part_size);
            if step == Step::Nothing || task.entry.next_at > self.shared.now() {
                break;
            }
            debug!(segment = %task.entry.key.file_name(), ?step, "upload");
            let done = perform(&*self.bucket, &prefix, &task.entry, &file, &step, false).await;
            let Some(event) = done else { break };
            match self.settle(task, &step, &event).await? {
                Settled::Delivered => return Ok(true),
                Settled::GoesOn(after) => task = *after,
                Settled::Rests => return Ok(false),
            }
        }
        self.put_by(&task);
        Ok(false)
    }

    /// Writes down what came of a step, and says how it goes on.
    async fn settle(&mut self, task: Task, step: &Step, event: &Event) -> anyhow::Result<Settled> {
        let now = self.shared.now();
        self.count(step, event, now, &task.entry);
        let after = advance(&task, event, now, Jitter::new(fastrand::f64()));
        let was_delivered = matches!(task.entry.state, Progress::Delivered { .. });
        let is_delivered = matches!(after.entry.state, Progress::Delivered { .. });
        self.save(&task.entry, &after.entry, now).await?;
        if is_delivered && (!was_delivered || after.doubt == Doubt::None) {
            if !was_delivered {
                info!(segment = %after.entry.key.file_name(), bytes = after.entry.size, "delivered");
                self.uploaded_at = now;
            }
            return Ok(Settled::Delivered);
        }
        if let Event::Failed { outcome, answer } = event {
            if concerns_all(*outcome) {
                self.went_wrong(answer, now);
                self.rest_until = self.rest_until.max(after.entry.next_at.min(now.plus(BACKOFF.longest())));
                self.put_by(&after);
                return Ok(Settled::Rests);
            }
            warn!(segment = %after.entry.key.file_name(), "{answer}");
        } else {
            self.went_well();
        }
        Ok(Settled::GoesOn(Box::new(after)))
    }

    /// Remembers what is in doubt of a task that isn't worked on for now.
    fn put_by(&mut self, task: &Task) {
        if let Some(doubt) = task.kept() {
            self.doubts.insert((task.entry.epoch, task.entry.number), doubt);
        }
    }

    /// Writes down how far an entry is, if that changed.
    async fn save(&mut self, before: &Entry, after: &Entry, now: Timestamp) -> anyhow::Result<()> {
        if before == after {
            return Ok(());
        }
        let entry = after.clone();
        match &after.state {
            Progress::Superseded { reason } => {
                let reason = reason.clone();
                warn!(segment = %entry.key.file_name(), "superseded: {reason}");
                let name = entry.key.file_name();
                self.shared.live().notices.insert("superseded", format!("segment {name}: {reason}"));
                let why = reason.clone();
                self.shared
                    .buffer
                    .run(move |b| b.supersede(entry.epoch, entry.number, &reason, now))
                    .await??;
                // Its rows wait under another epoch now, and decisions in it no longer stand: windows are folded anew.
                return Err(StartAgain(why).into());
            }
            _ => {
                self.shared
                    .buffer
                    .run(move |b| {
                        let Entry { epoch, number, state, attempts, next_at, .. } = &entry;
                        b.save_progress(*epoch, *number, state, *attempts, *next_at)
                    })
                    .await??;
            }
        }
        Ok(())
    }

    /// Deletes batches that nothing needs any more.
    async fn trim(&self) -> anyhow::Result<()> {
        let retention = Arc::new(self.shared.windows().retention());
        let in_flight = super::in_flight(&self.shared.config);
        loop {
            let needed = Arc::clone(&retention);
            let trimmed = self
                .shared
                .buffer
                .run(move |b| {
                    // Without them a restart would take what the brokers send again for new.
                    let floor = b.memory_floor(in_flight)?;
                    b.trim(TRIM_AT_ONCE, &|span| needed.needs(span) || span.id >= floor)
                })
                .await??;
            if trimmed > 0 {
                debug!(batches = trimmed, "journal trimmed");
            }
            // Passes may be a minute apart, in which many more batches are committed than one transaction deletes.
            if trimmed < TRIM_AT_ONCE as u64 {
                return Ok(());
            }
        }
    }

    /// Writes the status object when it is due (see [`status_due`]).
    async fn write_status(&mut self, now: Timestamp) -> anyhow::Result<()> {
        if std::mem::take(&mut self.let_go) {
            // What was let go of is to be in it.
            report(&self.shared, now).await?;
        }
        let (health, safe) = {
            let status = self.shared.status.borrow();
            (status.health, status.buffer.oldest_unsafe.is_none())
        };
        let every = self.shared.config.status.every;
        if now < self.rest_until
            || !status_due(self.status_written, self.uploaded_at, health, safe, every, now)
        {
            return Ok(());
        }
        let key = self.shared.config.bucket.prefix.status(&self.shared.config.gateway);
        let json = self.status_json();
        if !self.may_go(Class::Status, json.len() as u64) {
            return Ok(());
        }
        self.shared.live().link.requests += 1;
        match self.bucket.put_replace(&key, json).await {
            Ok(()) => {
                self.went_well();
                self.status_written = Some((self.shared.now(), health));
            }
            Err(answer) => self.went_wrong(&answer, now),
        }
        Ok(())
    }

    fn status_json(&self) -> Bytes {
        let status = Arc::clone(&self.shared.status.borrow());
        Bytes::from(serde_json::to_vec(&*status).unwrap_or_default())
    }

    async fn is_outstanding(&self) -> anyhow::Result<bool> {
        let delivered = self.shared.buffer.run(|b| b.unconfirmed(Timestamp(i64::MAX), 1)).await??;
        Ok(!delivered.is_empty())
    }

    async fn next_wait(&self) -> anyhow::Result<Duration> {
        let now = self.shared.now();
        if now < self.rest_until {
            return Ok(until(self.rest_until, now, LONGEST_SLEEP));
        }
        let waiting = self.shared.buffer.run(|b| b.due(Timestamp(i64::MAX), 1)).await??;
        // What is due already waits for the link.
        let (held_up, again) = {
            let link = self.shared.link();
            (link.has_to_wait(), link.waits_until())
        };
        let retry = waiting.first().map(|e| e.next_at).filter(|at| !held_up || *at > now);
        let receipt = self.poll.due(self.is_outstanding().await?);
        let registered = self.shared.config.buffer.release_on == ReleaseOn::Registered;
        let receipt = receipt.filter(|at| registered && (!held_up || *at > now));
        let status =
            self.status_written.map(|(at, _)| at.max(self.uploaded_at).plus(self.shared.config.status.every));
        let status = status.filter(|at| !held_up || *at > now);
        let next = [retry, receipt, status, again].into_iter().flatten().min();
        Ok(next.map_or(LONGEST_SLEEP, |at| until(at, now, LONGEST_SLEEP)))
    }

    fn count(&self, step: &Step, event: &Event, now: Timestamp, entry: &Entry) {
        let mut live = self.shared.live();
        live.link.requests += 1;
        let failed = matches!(event, Event::Failed { .. });
        live.link.bytes_sent += match step {
            Step::Put if !failed => entry.size,
            Step::UploadPart { length, .. } if !failed => *length,
            _ => 0,
        };
        if !failed {
            live.link.last_success = Some(now);
        }
    }

    fn went_well(&mut self) {
        self.failures = 0;
        let mut live = self.shared.live();
        live.link.last_success = Some(self.shared.now());
        live.link.failing = None;
        live.link.failing_since = None;
    }

    fn went_wrong(&mut self, answer: &Answer, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        self.shared.link().failed();
        self.rest_until = now.plus(BACKOFF.delay(self.failures, Jitter::new(fastrand::f64())));
        let mut live = self.shared.live();
        let text = answer.to_string();
        if live.link.failing.as_deref() != Some(&text) {
            warn!("bucket: {text}");
        }
        live.link.failing = Some(text);
        live.link.failing_since.get_or_insert(now);
    }
}

/// What came of a step.
enum Settled {
    /// The entry is delivered.
    Delivered,
    /// There is more to ask, now or later.
    GoesOn(Box<Task>),
    /// The link isn't well: nothing more is asked for now.
    Rests,
}

/// Whether the status object is to be written: health changed, or nothing else told of us for `every` microseconds, or
/// the last upload has nothing to follow it. Its manifest says that its own readings are unsafe, and by now they aren't.
fn status_due(
    written: Option<(Timestamp, Health)>,
    uploaded_at: Timestamp,
    health: Health,
    safe: bool,
    every: i64,
    now: Timestamp,
) -> bool {
    written.is_none_or(|(at, was)| {
        was != health || now.since(at.max(uploaded_at)) >= every || (safe && uploaded_at > at)
    })
}

/// Whether an outcome says something of the link or the store rather than of one segment.
const fn concerns_all(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Later | Outcome::Stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_has_fallen_idle_says_that_its_last_segment_is_safe() {
        let due = |safe, uploaded_at, now| {
            let written = Some((Timestamp(100), Health::Ok));
            status_due(written, Timestamp(uploaded_at), Health::Ok, safe, 1_000, Timestamp(now))
        };
        assert!(!due(false, 200, 300), "more will be uploaded and tell");
        assert!(due(true, 200, 300));
        assert!(!due(true, 50, 300), "said already");
        assert!(due(false, 200, 1_200) && !due(false, 200, 1_199), "the last upload told of us");
    }

    #[test]
    fn a_change_of_health_is_told_at_once() {
        let written = Some((Timestamp(100), Health::Ok));
        assert!(status_due(written, Timestamp(100), Health::Degraded, false, 1_000, Timestamp(101)));
        assert!(status_due(None, Timestamp(100), Health::Ok, false, 1_000, Timestamp(101)));
    }
}
