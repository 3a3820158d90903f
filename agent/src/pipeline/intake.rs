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
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tributary_contract::id::Namespace;
use tributary_contract::reject::GapReason;
use tributary_contract::time::Timestamp;

use super::clock::until;
use super::shared::Shared;
use crate::buffer::{Appended, GapRow, NewBatch, SourceFacts};
use crate::config::{MINUTE, MqttVersion, SECOND};
use crate::ingest::collect::Due;
use crate::ingest::mqtt::{Event, EventReceiver, Handle};
use crate::ingest::redelivery;
use crate::ingest::stage::{Collected, LostSession, Stage};
use crate::ingest::{Ack, Session};

/// A connection that found its session and then brought nothing for this long has given what waited, microseconds.
const QUIET: i64 = SECOND;
/// At the latest after this long, microseconds.
const DRAIN_MAX: i64 = 5 * MINUTE;
/// The longest wait without a look at the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What follows once a batch is durable.
struct After {
    acks: Vec<Ack>,
    permits: Vec<(usize, u64)>,
    appended: Appended,
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
    committing: Option<Committing>,
    /// Per broker: since when its connection, having found a session, may still bring what had waited.
    draining: Vec<Option<(Timestamp, Timestamp)>>,
}

impl Intake {
    /// An intake for connections that are being made.
    pub fn new(shared: Arc<Shared>, stage: Stage, handles: Vec<Handle>) -> Self {
        let limit = shared.config.limits.series;
        let facts = |s: &crate::config::Source| SourceFacts {
            name: s.name.clone(),
            namespace: s.namespace.clone(),
            max_series: limit,
        };
        let sources = Arc::new(shared.config.sources.iter().map(facts).collect());
        let draining = vec![None; handles.len()];
        Self { shared, stage, handles, sources, committing: None, draining }
    }

    /// Takes in until told to stop, then commits what was collected and closes the connections.
    ///
    /// # Errors
    /// The buffer's: nothing that wasn't durable has been acknowledged.
    pub async fn run(mut self, mut events: EventReceiver, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
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
        let due = self.stage.due(now);
        if due == Due::Now && self.committing.is_none() {
            self.begin_commit(now);
        }
        // While nothing may be taken in, or two batches are full, the queue fills and the tasks stop polling.
        let open = self.shared.live().intake_stopped.is_none() && due != Due::Now;
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
        self.commit().await?;
        self.begin_commit(self.shared.now());
        self.commit().await?;
        for handle in self.handles {
            handle.stop().await;
        }
        Ok(())
    }

    /// Takes one event of a connection.
    pub async fn take(&mut self, broker: usize, event: Event) {
        let now = self.shared.now();
        match event {
            Event::Publish(publish) => {
                if let Some(Some((_, last))) = self.draining.get_mut(broker) {
                    *last = now;
                }
                self.stage.take(publish);
            }
            Event::Connected { generation, session, protocol, at } => {
                self.stage.connected(broker, generation, session, at);
                let draining = session == Session::Present;
                if let Some(slot) = self.draining.get_mut(broker) {
                    *slot = draining.then_some((now, now));
                }
                let mut live = self.shared.live();
                if let Some(drained) = live.drained.get_mut(broker) {
                    *drained = !draining;
                }
                if let Some(status) = live.brokers.get_mut(broker) {
                    info!(broker = %status.url, ?session, ?protocol, "connected");
                    status.connected = true;
                    status.since = Some(at);
                    status.failing = None;
                    status.connects += 1;
                    status.protocol = if protocol == MqttVersion::V5 { "5" } else { "3.1.1" }.into();
                }
            }
            Event::Subscribed { granted, keep } => self.subscribed(broker, &granted, keep).await,
            Event::Disconnected { error } => {
                if let Some(slot) = self.draining.get_mut(broker) {
                    *slot = None;
                }
                let mut live = self.shared.live();
                if let Some(drained) = live.drained.get_mut(broker) {
                    *drained = false;
                }
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

    async fn subscribed(
        &mut self,
        broker: usize,
        granted: &[(crate::ingest::mqtt::Filter, Result<u8, String>)],
        keep: Option<String>,
    ) {
        for (filter, outcome) in granted {
            match outcome {
                Ok(qos) if *qos >= filter.qos => info!(filter = %filter.path, qos, "subscribed"),
                Ok(qos) => warn!(filter = %filter.path, qos, "the broker grants a lower QoS than asked for"),
                Err(why) => {
                    warn!(filter = %filter.path, "the broker refuses a subscription: {why}");
                    let text = format!("subscription {:?} is refused: {why}", filter.path);
                    self.shared.live().notices.insert("subscription", text);
                }
            }
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

    /// A broker that found our session and has been quiet has given what waited there.
    fn note_drained(&mut self, now: Timestamp) {
        for (broker, slot) in self.draining.iter_mut().enumerate() {
            if let Some((since, last)) = *slot
                && (now.since(last) >= QUIET || now.since(since) >= DRAIN_MAX || now < since)
            {
                *slot = None;
                if let Some(drained) = self.shared.live().drained.get_mut(broker) {
                    *drained = true;
                }
            }
        }
    }

    fn begin_commit(&mut self, now: Timestamp) {
        let collected = self.stage.drain(now);
        self.tally(&collected);
        let permits = collected.subscribe.iter().map(|p| (p.broker, p.generation)).collect();
        if !collected.needs_commit() {
            // Messages that no source takes need nothing durable.
            self.committed(After { acks: collected.acks, permits, appended: Appended::default() });
            return;
        }
        let Collected { accepted, rejected, messages, redelivered, memory, lost_sessions, acks, .. } =
            collected;
        let namespaces = self.shared.config.namespaces();
        let gaps = lost_sessions.iter().flat_map(|lost| gaps_of(lost, &namespaces, now)).collect();
        let batch = NewBatch {
            accepted,
            rejected,
            messages,
            redelivered,
            memory: redelivery::encode(&memory),
            gaps,
            committed_at: now,
        };
        let (shared, sources) = (Arc::clone(&self.shared), Arc::clone(&self.sources));
        self.committing = Some(Box::pin(async move {
            let appended = shared.buffer.run(move |b| b.append(batch, &sources)).await?;
            Ok(After { acks, permits, appended: appended.context("commit")? })
        }));
    }

    /// The batch is durable: now, and not before, the brokers may forget its messages.
    fn committed(&mut self, after: After) {
        for handle in &self.handles {
            handle.acknowledge(&after.acks);
            for (broker, generation) in &after.permits {
                if *broker == handle.broker() {
                    handle.permit(*generation);
                }
            }
        }
        if !after.appended.rows.is_empty() {
            let dictionary = |key| self.shared.dictionary.get(key);
            self.shared.windows().observe(&after.appended.rows, &dictionary, self.shared.now());
            self.shared.committed.notify_one();
        }
        let mut live = self.shared.live();
        for handle in &self.handles {
            if let Some(status) = live.brokers.get_mut(handle.broker()) {
                status.acknowledged = handle.acknowledged();
            }
        }
    }

    fn tally(&self, collected: &Collected) {
        let mut live = self.shared.live();
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
