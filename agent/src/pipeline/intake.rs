//! Takes in: events of the connections through the ingest stage into durable batches, then the acknowledgements.
//!
//! While one batch is being committed the next is collected; there is never more than one commit on its way. A failed
//! commit ends this life of the pipeline: nothing of it was acknowledged, the brokers send it again.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tributary_contract::id::Namespace;
use tributary_contract::reject::GapReason;
use tributary_contract::time::Timestamp;

use super::clock::until;
use super::shared::Shared;
use super::thinning::verdict;
use crate::buffer::{Appended, Buffer, GapRow, NewBatch, SourceFacts};
use crate::clock::{Moment, Step, Watch, after_step};
use crate::config::{Config, HOUR, MqttVersion, SECOND, Upload};
use crate::ingest::Ack;
use crate::ingest::collect::Due;
use crate::ingest::deadband::Deadbands;
use crate::ingest::decode::Outgoing;
use crate::ingest::mqtt::{Event, EventReceiver, Handle};
use crate::ingest::redelivery;
use crate::ingest::stage::{Collected, LostSession, Stage};

/// How often the clock is looked at for steps.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long readings wait for the clock to be synchronised before their times stay bounded, microseconds.
const HOLD_MAX: i64 = HOUR;
/// The longest wait without a look at the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What follows once a batch is durable.
struct After {
    acks: Vec<Ack>,
    outgoing: Vec<(usize, Outgoing)>,
    permits: Vec<(usize, u64)>,
    appended: Appended,
    /// Why intake must rest now, if it must.
    stop: Option<String>,
}

/// What the intake may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Whether an event may be taken.
    pub open: bool,
    /// Whether a commit is on its way.
    pub committing: bool,
    /// How long until something is due by time alone.
    pub wait: Duration,
}

type Committing = Pin<Box<dyn Future<Output = anyhow::Result<After>> + Send>>;

/// The intake loop's own memory.
pub struct Intake {
    shared: Arc<Shared>,
    stage: Stage,
    handles: Vec<Handle>,
    sources: Arc<Vec<SourceFacts>>,
    deadbands: Deadbands,
    committing: Option<Committing>,
    /// The clock, as last looked at.
    moment: Moment,
    watch: Watch,
    looked_at: Option<Instant>,
    /// The last step: what was stamped before it may still be in the queue.
    step: Option<Step>,
    /// Uptime of the first batch that is held because the clock isn't synchronised.
    held_since: Option<i64>,
    /// The in-flight window that last counted for each broker.
    windows: Vec<u32>,
}

impl Intake {
    /// An intake for connections that are being made.
    pub fn new(shared: Arc<Shared>, stage: Stage, handles: Vec<Handle>) -> Self {
        let sources = Arc::new(facts_of(&shared.config));
        let windows = vec![0; handles.len()];
        let moment = shared.clock.moment();
        let deadbands = Deadbands::new(&shared.config);
        Self {
            shared,
            stage,
            handles,
            sources,
            deadbands,
            committing: None,
            moment,
            watch: Watch::default(),
            looked_at: None,
            step: None,
            held_since: None,
            windows,
        }
    }

    /// Takes in until told to stop, then commits what was collected and closes the connections.
    ///
    /// # Errors
    /// The buffer's: nothing that wasn't durable has been acknowledged.
    pub async fn run(mut self, mut events: EventReceiver, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                self.looked_at = Some(Instant::now());
                self.note_acknowledged();
                self.look_at_clock().await?;
            }
            let Turn { open, committing, wait } = self.turn();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                done = self.commit(), if committing => done?,
                event = events.recv(), if open => {
                    let Some((broker, event)) = event else { break };
                    self.take(broker, event).await;
                }
                () = sleep(wait) => {}
            }
        }
        self.finish().await
    }

    /// Begins the commit that is due, and says what may come next.
    pub fn turn(&mut self) -> Turn {
        let now = self.shared.now();
        self.note_drained(now);
        if let Some(interval) = self.shared.live().commit_interval {
            self.stage.set_commit_interval(interval);
        }
        let due = self.stage.due(now);
        let rests = self.shared.live().intake_stopped.is_some();
        if due == Due::Now && self.committing.is_none() && !rests {
            self.begin_commit(now);
        }
        // While nothing may be taken in, or two batches are full, the queue fills and the tasks stop polling.
        let open = !rests && due != Due::Now;
        let wait = match due {
            Due::At(at) => until(at, now, LONGEST_WAIT),
            Due::Now | Due::Never => LONGEST_WAIT,
        };
        Turn { open, committing: self.committing.is_some(), wait }
    }

    /// Waits for the commit on its way, if one is, and acknowledges what it holds. Dropping this halfway loses nothing:
    /// the next call waits for the same commit.
    ///
    /// # Errors
    /// The buffer's: nothing of the batch was acknowledged.
    pub async fn commit(&mut self) -> anyhow::Result<()> {
        let Some(committing) = &mut self.committing else { return Ok(()) };
        let done = committing.await;
        self.committing = None;
        self.committed(done?);
        Ok(())
    }

    /// Commits what was collected, acknowledges it, and closes the connections.
    ///
    /// # Errors
    /// The buffer's: what wasn't durable was not acknowledged.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.flush(self.shared.now()).await?;
        for handle in self.handles {
            handle.stop().await;
        }
        Ok(())
    }

    /// Commits what is collected, by the clock that shows `now`, and returns when it is durable.
    pub(super) async fn flush(&mut self, now: Timestamp) -> anyhow::Result<()> {
        self.commit().await?;
        self.begin_commit(now);
        self.commit().await
    }

    /// Keeps apart what was stamped before and after a step of the clock, and stamps what was held once that can be done.
    ///
    /// # Errors
    /// The buffer's.
    pub(super) async fn look_at_clock(&mut self) -> anyhow::Result<()> {
        let now = self.shared.clock.moment();
        let before = std::mem::replace(&mut self.moment, now);
        if let Some(step) = self.watch.look(now) {
            info!(by_seconds = step.by / SECOND, synchronised = now.synced, "the clock stepped");
            self.moment = step.before;
            self.flush(step.before.wall).await?;
            self.moment = now;
            self.stage.clock_stepped(step.by);
            self.deadbands.forget();
            self.shared.windows().clock_stepped(step.by);
            self.shared.alerts().clock_stepped(step.by);
            self.shared.live().clock_stepped(step.by);
            self.step = Some(step);
        } else if before.synced != now.synced {
            // On a machine that doesn't say how long it runs.
            self.moment = before;
            self.flush(before.wall).await?;
            self.moment = now;
        }
        self.shared.clock.settle(now);
        self.stage.clock_is(now.synced);
        self.shared.live().clock_synced = now.synced;
        self.stamp(now).await
    }

    /// Gives times to what was held, if the clock is synchronised; leaves them bounded if sealing can't wait any longer.
    async fn stamp(&mut self, now: Moment) -> anyhow::Result<()> {
        let held = self.shared.buffer.run(|b| b.held()).await?;
        if held == 0 {
            self.held_since = None;
            self.shared.live().notices.remove("clock");
            return Ok(());
        }
        let since = *self.held_since.get_or_insert(now.uptime);
        let full = {
            let status = self.shared.status.borrow();
            status.buffer.bytes >= status.buffer.max_bytes / 2 && status.buffer.max_bytes > 0
        };
        // Without uptime nobody could say later by how much the clock was wrong.
        let waits = now.boot != 0 && now.uptime.saturating_sub(since) < HOLD_MAX && !full;
        if !now.synced && waits {
            let text = format!(
                "the clock isn't synchronised: {held} batches of readings wait for their times; check the time service"
            );
            self.shared.live().notices.insert("clock", text);
            return Ok(());
        }
        let stamped = self.shared.buffer.run(move |b| b.stamp(&now, &redelivery::moved)).await?;
        let stamped = stamped.context("stamping what was held")?;
        info!(
            held,
            stamped = stamped.len(),
            "readings have their times now; the others are bounded and marked"
        );
        let dictionary = |key| self.shared.dictionary.get(key);
        for rows in &stamped {
            self.shared.windows().observe(rows, &dictionary, now.wall);
            self.shared.alerts().observe(rows, &dictionary, now.wall);
        }
        self.held_since = None;
        self.shared.live().notices.remove("clock");
        self.shared.committed.notify_one();
        Ok(())
    }

    /// Takes one event of a connection.
    pub async fn take(&mut self, broker: usize, event: Event) {
        let now = self.shared.now();
        match event {
            Event::Publish(mut publish) => {
                publish.received_at = self.by_this_clock(publish.received_at);
                self.stage.take(publish);
            }
            Event::Connected { generation, session, protocol, window, marker, at } => {
                let at = self.by_this_clock(at);
                self.stage.connected(broker, generation, session, at);
                self.stage.set_window(broker, window);
                if marker {
                    self.stage.marked(broker);
                }
                self.note_drained(now);
                let mut live = self.shared.live();
                if let Some(status) = live.brokers.get_mut(broker) {
                    info!(broker = %status.url, ?session, ?protocol, window, "connected");
                    status.connected = true;
                    status.since = Some(at);
                    status.failing = None;
                    status.connects += 1;
                    status.protocol = if protocol == MqttVersion::V5 { "5" } else { "3.1.1" }.into();
                }
                // What waits to be told waits no longer.
                self.shared.committed.notify_one();
            }
            Event::Subscribed { granted, keep } => self.subscribed(broker, &granted, keep).await,
            Event::Disconnected { error, alive } => {
                self.stage.disconnected(broker, self.by_this_clock(alive));
                self.note_drained(now);
                let mut live = self.shared.live();
                if let Some(status) = live.brokers.get_mut(broker) {
                    if status.failing.as_deref() != Some(&error) {
                        warn!(broker = %status.url, "disconnected: {error}");
                    }
                    if status.connected {
                        status.since = Some(now);
                    }
                    status.connected = false;
                    status.failing = Some(error);
                }
            }
        }
    }

    /// A time that a connection gave, perhaps before the last step of the clock, as the clock has it now.
    fn by_this_clock(&self, at: Timestamp) -> Timestamp {
        self.step.as_ref().map_or(at, |step| after_step(at, step))
    }

    async fn subscribed(
        &mut self,
        broker: usize,
        granted: &[(crate::ingest::mqtt::Filter, Result<u8, String>)],
        keep: Option<String>,
    ) {
        let mut refused = Vec::new();
        for (filter, outcome) in granted {
            match outcome {
                Ok(qos) if *qos >= filter.qos => info!(filter = %filter.path, qos, "subscribed"),
                Ok(qos) => warn!(filter = %filter.path, qos, "the broker grants a lower QoS than asked for"),
                Err(why) => {
                    warn!(filter = %filter.path, "the broker refuses a subscription: {why}; it is asked again");
                    refused.push(format!("{:?} ({why})", filter.path));
                }
            }
        }
        if !refused.is_empty() {
            let text = format!(
                "broker {} refuses the subscription {}: let this client read it, or take it out of the sources; the \
                 broker is asked again",
                broker + 1,
                refused.join(", ")
            );
            self.shared.live().notices.insert("subscription", text);
        }
        let Some(keep) = keep else { return };
        self.shared.live().notices.remove("subscription");
        let key = subscribed_key(broker);
        let kept = self.shared.buffer.run(move |b| b.set_setting(&key, keep.as_bytes())).await;
        if !matches!(kept, Ok(Ok(()))) {
            // It costs a SUBSCRIBE at the next start.
            warn!("what was subscribed could not be kept");
        }
    }

    /// Tells the others which brokers have given what waited there.
    fn note_drained(&mut self, now: Timestamp) {
        let mut live = self.shared.live();
        for (broker, drained) in live.drained.iter_mut().enumerate() {
            *drained = self.stage.is_drained(broker, now);
        }
    }

    fn begin_commit(&mut self, now: Timestamp) {
        let collected = self.stage.drain(now);
        self.tally(&collected);
        self.note_windows();
        let permits = collected.subscribe.iter().map(|p| (p.broker, p.generation)).collect();
        if !collected.needs_commit() {
            // Messages that no source takes need nothing durable.
            let Collected { acks, outgoing, .. } = collected;
            self.committed(After { acks, outgoing, permits, appended: Appended::default(), stop: None });
            return;
        }
        let Collected {
            mut accepted,
            rejected,
            messages,
            redelivered,
            memory,
            lost_sessions,
            acks,
            outgoing,
            remembered,
            ..
        } = collected;
        let readings = accepted.iter().map(|message| message.readings.len()).sum();
        // What finds no room in a window is to be sent, whatever its deadband.
        if self.moment.synced && self.shared.windows().has_room_for(readings) {
            self.deadbands.mark(&mut accepted);
        } else {
            self.deadbands.forget();
        }
        let namespaces = self.shared.config.namespaces();
        let gaps = lost_sessions.iter().flat_map(|lost| gaps_of(lost, &namespaces, now)).collect();
        let batch = NewBatch {
            accepted,
            rejected,
            messages,
            redelivered,
            memory: redelivery::encode(&memory),
            gaps,
            settings: Vec::new(),
            committed_at: now,
        };
        let (shared, sources) = (Arc::clone(&self.shared), Arc::clone(&self.sources));
        let passed = now.since(self.moment.wall);
        let moment = Moment { wall: now, uptime: self.moment.uptime.saturating_add(passed), ..self.moment };
        self.committing = Some(Box::pin(async move {
            let append = move |b: &mut Buffer| {
                // Before the messages that they come from: a crash in between brings those again.
                for (source, bytes) in &remembered {
                    if let Some(facts) = sources.get(*source) {
                        b.set_setting(&decoder_key(&facts.name), bytes)?;
                    }
                }
                b.append_at(batch, &sources, moment)
            };
            let appended = shared.buffer.run(append).await?.context("commit")?;
            let close = shared.live().disk_close;
            let stop = if close { verdict(&shared, false).await?.1.stop } else { None };
            Ok(After { acks, outgoing, permits, appended, stop: stop.map(|stop| stop.to_string()) })
        }));
    }

    /// The batch is durable: now, and not before, the brokers may forget its messages.
    fn committed(&mut self, after: After) {
        for handle in &self.handles {
            handle.acknowledge(&after.acks);
            for (_, message) in after.outgoing.iter().filter(|(broker, _)| *broker == handle.broker()) {
                handle.publish(message.clone());
            }
            for (broker, generation) in &after.permits {
                if *broker == handle.broker() {
                    handle.permit(*generation);
                }
            }
        }
        if !after.appended.rows.is_empty() {
            let dictionary = |key| self.shared.dictionary.get(key);
            self.shared.windows().observe(&after.appended.rows, &dictionary, self.shared.now());
            self.shared.alerts().observe(&after.appended.rows, &dictionary, self.shared.now());
            self.shared.committed.notify_one();
        }
        if after.stop.is_some() {
            self.shared.live().intake_stopped = after.stop;
        }
    }

    /// Says how many acknowledgements were sent: after their commit, when the connections come to it.
    fn note_acknowledged(&self) {
        let mut live = self.shared.live();
        for handle in &self.handles {
            if let Some(status) = live.brokers.get_mut(handle.broker()) {
                status.acknowledged = handle.acknowledged();
            }
        }
    }

    /// Says when a broker was found to send fewer messages at once than it may.
    fn note_windows(&mut self) {
        let live = self.shared.live();
        for (broker, (known, status)) in self.windows.iter_mut().zip(&live.brokers).enumerate() {
            let window = self.stage.window(broker);
            if std::mem::replace(known, window) > window {
                info!(broker = %status.url, window, "the broker's in-flight window seems to be smaller than it was said to be");
            }
        }
    }

    fn tally(&self, collected: &Collected) {
        let mut live = self.shared.live();
        live.payload_bytes += collected.payload_bytes;
        for (status, tally) in live.sources.iter_mut().zip(&collected.sources) {
            status.messages += tally.messages;
            status.qos0 += tally.qos0;
            status.rejected += tally.rejected;
            status.last_at = tally.last_at.or(status.last_at);
        }
        for (status, unmatched) in live.brokers.iter_mut().zip(&collected.unmatched) {
            status.unmatched += unmatched;
        }
        for rejected in &collected.rejected {
            // The row in `rejects` is the record; this line is for those who watch the log.
            tracing::debug!(topic = %rejected.topic.escape_debug(), reason = %rejected.reason, "rejected");
        }
    }
}

/// What the buffer must know of each source.
pub fn facts_of(config: &Config) -> Vec<SourceFacts> {
    let facts = |s: &crate::config::Source| SourceFacts {
        name: s.name.clone(),
        namespace: s.namespace.clone(),
        max_series: config.limits.series,
        max_device_series: config.limits.device_series,
        priority: s.priority,
        kept: s.upload == Upload::Aggregates,
    };
    config.sources.iter().map(facts).collect()
}

/// The setting that keeps what the decoder of a source remembers.
pub fn decoder_key(source: &str) -> String {
    format!("decoder-{source}")
}

/// The setting that keeps what was subscribed at a broker.
pub fn subscribed_key(broker: usize) -> String {
    format!("subscribed-{broker}")
}

/// What a lost session means for each namespace: something may be missing since its last message, nobody knows what.
fn gaps_of(lost: &LostSession, namespaces: &[Namespace], now: Timestamp) -> Vec<GapRow> {
    let row = |namespace: &Namespace| GapRow {
        namespace: namespace.clone(),
        from_ts: lost.since.unwrap_or(lost.at),
        to_ts: lost.at,
        id: format!("session-{}-{}-{namespace}", lost.broker, lost.at.micros()),
        cancels: None,
        source: None,
        device: None,
        metric: None,
        reason: GapReason::SessionLost,
        readings: None,
        bytes: None,
        first_seq: None,
        last_seq: None,
        detail: Some(format!("broker {} had no session for this gateway any more", lost.broker + 1)),
        recorded_at: now,
    };
    namespaces.iter().map(row).collect()
}

/// Names of the rules by which copies were recognised, for the status.
pub fn redelivered_by_rule(counts: [u64; 2]) -> BTreeMap<String, u64> {
    redelivery::Rule::ALL.iter().zip(counts).map(|(rule, n)| (rule.code().to_owned(), n)).collect()
}
