//! The whole decision for one message: source, limits, readings, copy or not; collected until a commit is due.
//!
//! A batch is drained, made durable in one transaction, and only then acknowledged. If the commit fails, the same
//! [`Collected`] is to be committed again: its messages are remembered as collected, and their copies count as such.

use tributary_contract::counters::MessageCounters;
use tributary_contract::quality::{Doubt, Quality};
use tributary_contract::reject::RejectReason;
use tributary_contract::time::Timestamp;

use super::backlog::Backlog;
use super::collect::{Collect, Due};
use super::decode::{Decoded, Decoders, DecodersError, Outgoing, Reject};
use super::redelivery::{Arriving, BrokerTraits, Judgement, Memory, Remembered, Rule, hash};
use super::{Ack, Publish, Session};
use crate::clock::without;
use crate::config::publish::is_announcement;
use crate::config::{Broker, Config, Limits, SECOND, Window};
use crate::reading::{Accepted, Rejected};

/// Bytes of a rejected payload that are kept.
pub const KEPT_PAYLOAD: usize = 1024;
/// Topics without source that one batch names.
const KEPT_UNMATCHED: usize = 16;
/// Where there is no window, an absence longer than this makes stale what waited meanwhile, microseconds.
const LATENESS: i64 = 10 * SECOND;

/// A batch, and what may follow once it is durable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Collected {
    /// Messages with readings, in order of arrival.
    pub accepted: Vec<Accepted>,
    /// Messages without, in order of arrival.
    pub rejected: Vec<Rejected>,
    /// What became of messages since the last batch.
    pub messages: MessageCounters,
    /// Copies since the last batch, in the order of [`Rule::ALL`].
    pub redelivered: [u64; 2],
    /// What the memory of redeliveries holds of this batch.
    pub memory: Vec<Remembered>,
    /// Sessions that brokers lost: each a gap.
    pub lost_sessions: Vec<LostSession>,
    /// After the commit: acknowledgements in order of arrival.
    pub acks: Vec<Ack>,
    /// What decoders must find again after a restart: position of the source and bytes. Durable with the batch.
    pub remembered: Vec<(usize, Vec<u8>)>,
    /// After the commit: what decoders want published, and at which broker (by position).
    pub outgoing: Vec<(usize, Outgoing)>,
    /// After the commit: connections that may subscribe, because the end of their old session is durable.
    pub subscribe: Vec<Permit>,
    /// Counts per source, in the order of the configuration.
    pub sources: Vec<SourceTally>,
    /// Bytes of the payloads of everything that came since the last batch.
    pub payload_bytes: u64,
    /// Messages per broker on topics that no source takes; acknowledged, and no part of the law of messages.
    pub unmatched: Vec<u64>,
    /// Some of these topics, each once.
    pub unmatched_topics: Vec<String>,
}

impl Collected {
    /// Whether anything in it must be durable before the acknowledgements go.
    pub fn needs_commit(&self) -> bool {
        self.messages.received > 0 || !self.memory.is_empty() || !self.lost_sessions.is_empty()
    }
}

/// A session that was lost with what the broker held for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostSession {
    /// Which broker, by position.
    pub broker: usize,
    /// When its last message was received, if any was since the start.
    pub since: Option<Timestamp>,
    /// When the new session began.
    pub at: Timestamp,
}

/// A connection that may subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Which broker, by position.
    pub broker: usize,
    /// Its connection.
    pub generation: u64,
}

/// What came for one source since the last batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceTally {
    /// Messages, copies included.
    pub messages: u64,
    /// Of these at QoS 0.
    pub qos0: u64,
    /// Rejected.
    pub rejected: u64,
    /// When the last one came.
    pub last_at: Option<Timestamp>,
}

/// Decides, and collects until a commit is due.
#[derive(Debug, Clone)]
pub struct Stage {
    decoders: Decoders,
    memory: Memory,
    collect: Collect,
    backlog: Backlog,
    /// What the topics begin with on which this gateway tells its windows.
    own_topics: Vec<String>,
    /// Each broker's marker topic and the generation of its live connection.
    markers: Vec<(Option<String>, u64)>,
    limits: Limits,
    /// What names each broker's connection in hashes.
    names: Vec<String>,
    last_received: Vec<Option<Timestamp>>,
    /// Whether the clock is synchronised that stamps what comes.
    synced: bool,
    pending: Collected,
}

impl Stage {
    /// A stage for the sources and brokers of `config`.
    pub fn new(config: &Config) -> Result<Self, DecodersError> {
        let traits =
            |b: &Broker| BrokerTraits { resends: b.resends, inflight_window: b.inflight_window.max(1) };
        let traits: Vec<_> = config.brokers.iter().map(traits).collect();
        let windows: Vec<_> = config.brokers.iter().map(|b| b.inflight_window).collect();
        let (sources, brokers) = (config.sources.len(), config.brokers.len());
        let lateness = config.windows.iter().map(|w| w.lateness).min().unwrap_or(LATENESS);
        Ok(Self {
            decoders: Decoders::new(config)?,
            memory: Memory::new(&traits, config.buffer.dedupe_window, config.buffer.dedupe_messages),
            collect: Collect::new(config.buffer.commit_interval, &windows),
            backlog: Backlog::new(lateness, brokers),
            own_topics: own_topics(config),
            markers: config.brokers.iter().map(|b| (b.marker.clone(), 0)).collect(),
            limits: config.limits.clone(),
            names: config.brokers.iter().map(connection_name).collect(),
            last_received: vec![None; brokers],
            synced: true,
            pending: empty(sources, brokers),
        })
    }

    /// Takes up what the journal remembers of the messages of one batch, oldest first; before the first connection.
    pub fn restore(&mut self, remembered: &[Remembered]) {
        for r in remembered {
            self.backlog.was_with(usize::from(r.connection), r.at);
        }
        self.memory.restore(remembered.iter().copied());
    }

    /// Takes up what the decoder of a source (by position) remembered; before the first connection.
    pub fn restore_decoder(&mut self, source: usize, kept: &[u8]) {
        self.decoders.restore(source, kept);
    }

    /// The buffer lost some of its past: what a broker calls DUP can't be told apart from now on.
    pub fn doubt_past(&mut self) {
        self.memory.doubt_past();
    }

    /// Whether times of receipt can be believed from now on. What is collected already must be drained before.
    pub fn clock_is(&mut self, synced: bool) {
        self.synced = synced;
    }

    /// The wall clock stepped by `by` microseconds. What is collected already must be drained before.
    pub fn clock_stepped(&mut self, by: i64) {
        self.memory.clock_stepped(by);
        self.backlog.clock_stepped(by);
        for last in self.last_received.iter_mut().flatten() {
            *last = last.plus(by);
        }
    }

    /// A connection was made. Where the broker has no session the batch is due at once, and its commit permits the
    /// connection to subscribe: before that is durable, ids of the new session must not meet those of the old.
    pub fn connected(&mut self, broker: usize, generation: u64, session: Session, at: Timestamp) {
        let connection = index(broker);
        self.collect.connected(broker);
        self.backlog.connected(broker, session, self.synced, at);
        if let Some((_, live)) = self.markers.get_mut(broker) {
            *live = generation;
        }
        match session {
            Session::Present => self.memory.new_connection(connection, generation, at),
            Session::New | Session::Lost => {
                self.memory.session_lost(connection, generation, at);
                self.collect.force();
                self.pending.subscribe.push(Permit { broker, generation });
            }
        }
        if session == Session::Lost {
            let since = self.last_received.get(broker).copied().flatten();
            self.pending.lost_sessions.push(LostSession { broker, since, at });
        }
    }

    /// The connection just made may have so many messages on the way to us.
    pub fn set_window(&mut self, broker: usize, window: u16) {
        self.collect.set_window(broker, window);
        self.memory.set_window(index(broker), window);
    }

    /// A marker was sent on the connection just made: what comes before it returns had waited at the broker.
    pub fn marked(&mut self, broker: usize) {
        self.backlog.marked(broker);
    }

    /// The connection ended, or couldn't be made; `alive` is when it surely still was there.
    pub fn disconnected(&mut self, broker: usize, alive: Timestamp) {
        self.backlog.disconnected(broker, alive);
    }

    /// Whether a broker is connected and has given all that waited there while we were away.
    pub fn is_drained(&mut self, broker: usize, now: Timestamp) -> bool {
        self.backlog.note(now);
        self.backlog.is_drained(broker)
    }

    /// Decides on one message and collects the outcome. Ask [`Stage::due`] after each.
    pub fn take(&mut self, publish: Publish) {
        let at = publish.received_at;
        let awaited = publish.qos > 0;
        let bytes = publish.topic.len() + publish.payload.len();
        self.collect.arrived(publish.broker, bytes, awaited, at);
        self.pending.payload_bytes += publish.payload.len() as u64;
        if awaited {
            self.pending.acks.push(Ack {
                broker: publish.broker,
                generation: publish.generation,
                packet_id: publish.packet_id,
                qos: publish.qos,
            });
        }
        if let Some(last) = self.last_received.get_mut(publish.broker) {
            *last = Some(at);
        }
        self.backlog.arrived(publish.broker, at);
        if is_marker(&publish.topic) || self.is_own_marker(&publish) {
            self.marker(&publish);
            return;
        }
        if is_announcement(&publish.topic) || self.own_topics.iter().any(|own| publish.topic.starts_with(own))
        {
            // Windows that were told, by us or by another gateway: taken in, each would make new ones for ever.
            self.passed_by(&publish);
            return;
        }
        match self.decoders.source_of(&publish.topic) {
            Some(source) => self.matched(source, publish),
            None => self.unmatched(publish),
        }
    }

    fn is_own_marker(&self, publish: &Publish) -> bool {
        self.markers.get(publish.broker).is_some_and(|(topic, _)| topic.as_ref() == Some(&publish.topic))
    }

    /// A marker, ours or another gateway's: acknowledged in its turn, and no message of any source.
    fn marker(&mut self, publish: &Publish) {
        self.passed_by(publish);
        let live = self.markers.get(publish.broker).map(|(_, live)| live.to_string());
        let own = self.is_own_marker(publish) && live.is_some_and(|live| publish.payload == live.as_bytes());
        if own {
            self.backlog.marker_returned(publish.broker);
        }
    }

    /// A message of no source: its id stands for nothing that is remembered.
    fn passed_by(&mut self, publish: &Publish) {
        if publish.qos > 0 {
            self.memory.forget_id(index(publish.broker), publish.packet_id);
        }
    }

    fn unmatched(&mut self, publish: Publish) {
        self.passed_by(&publish);
        if let Some(count) = self.pending.unmatched.get_mut(publish.broker) {
            *count += 1;
        }
        let topics = &mut self.pending.unmatched_topics;
        if topics.len() < KEPT_UNMATCHED && !topics.contains(&publish.topic) {
            topics.push(publish.topic);
        }
    }

    fn matched(&mut self, source: usize, publish: Publish) {
        let outcome = self.decode(source, &publish);
        let judgement = self.judge(&publish, outcome.as_ref().is_ok_and(|d| d.own_time));
        let tally = self.pending.sources.get_mut(source);
        self.pending.messages.received += 1;
        if let Some(tally) = tally {
            tally.messages += 1;
            tally.qos0 += u64::from(publish.qos == 0);
            tally.last_at = Some(publish.received_at);
            let rejected = outcome.is_err() && !matches!(judgement, Judgement::Redelivered(_));
            tally.rejected += u64::from(rejected);
        }
        match (judgement, outcome) {
            (Judgement::Redelivered(rule), _) => {
                self.pending.messages.redelivered += 1;
                match rule {
                    Rule::Session => self.pending.redelivered[0] += 1,
                    Rule::Content => self.pending.redelivered[1] += 1,
                }
            }
            (Judgement::Fresh | Judgement::PossibleDuplicate, Ok(Decoded { mut readings, own_time })) => {
                if judgement == Judgement::PossibleDuplicate {
                    readings.iter_mut().for_each(|r| r.quality = r.quality.with(Doubt::PossibleDuplicate));
                }
                if !own_time && self.backlog.is_stale(publish.broker) {
                    let stamped = readings.iter_mut().filter(|r| r.ts == publish.received_at);
                    stamped.for_each(|r| r.quality = r.quality.with(Doubt::Queued));
                }
                self.pending.messages.accepted += 1;
                self.pending.accepted.push(Accepted { source, received_at: publish.received_at, readings });
            }
            (Judgement::Fresh | Judgement::PossibleDuplicate, Err(Reject { reason, detail })) => {
                let kept = publish.payload.get(..KEPT_PAYLOAD).unwrap_or(&publish.payload);
                self.pending.messages.rejected += 1;
                self.pending.rejected.push(Rejected {
                    source,
                    received_at: publish.received_at,
                    reason,
                    detail,
                    size: publish.size as u64,
                    payload: kept.to_vec(),
                    topic: publish.topic,
                });
            }
        }
    }

    fn decode(&mut self, source: usize, publish: &Publish) -> Result<Decoded, Reject> {
        if publish.size > self.limits.payload {
            let detail = format!("{} bytes, the limit is {}", publish.size, self.limits.payload);
            return Err(Reject::new(RejectReason::TooLarge, detail));
        }
        let Publish { topic, payload, received_at, retain, .. } = publish;
        let outcome = self.decoders.decode(source, topic, payload, *received_at, *retain);
        let asked = self.decoders.take_outgoing();
        self.pending.outgoing.extend(asked.into_iter().map(|message| (publish.broker, message)));
        let mut decoded = outcome?;
        if !self.synced {
            for reading in &mut decoded.readings {
                reading.quality = unsynced(reading.quality, reading.ts == *received_at);
            }
        }
        Ok(decoded)
    }

    /// A message of QoS 0 is never sent again, so it is neither judged nor remembered.
    fn judge(&mut self, publish: &Publish, own_time: bool) -> Judgement {
        if publish.qos == 0 {
            return Judgement::Fresh;
        }
        let name = self.names.get(publish.broker).map_or("", String::as_str);
        let arriving = Arriving {
            connection: index(publish.broker),
            generation: publish.generation,
            packet_id: publish.packet_id,
            dup: publish.dup,
            own_time,
            hash: hash(name, &publish.topic, &publish.payload),
            at: publish.received_at,
        };
        let judgement = self.memory.judge(&arriving);
        if !matches!(judgement, Judgement::Redelivered(_)) {
            self.memory.remember(&arriving);
        }
        judgement
    }

    /// How long a message may wait for its commit from now on, microseconds.
    pub fn set_commit_interval(&mut self, interval: i64) {
        self.collect.set_interval(interval);
    }

    /// When the batch is due.
    pub fn due(&self, now: Timestamp) -> Due {
        self.collect.due(now)
    }

    /// Hands over what is collected, and begins the next batch.
    pub fn drain(&mut self, now: Timestamp) -> Collected {
        self.collect.drained(now);
        let next = empty(self.pending.sources.len(), self.pending.unmatched.len());
        let mut collected = std::mem::replace(&mut self.pending, next);
        collected.memory = self.memory.export();
        collected.remembered = self.decoders.export();
        collected
    }

    /// Messages that the memory of redeliveries holds.
    pub fn remembered(&self) -> usize {
        self.memory.len()
    }

    /// The in-flight window that counts for a broker at present: it may have been lowered.
    pub fn window(&self, broker: usize) -> u32 {
        self.collect.window(broker)
    }
}

/// The quality of a reading that was `stamped` by a clock that isn't synchronised, or that has a time of its own: of that
/// nobody can say now whether it lies ahead.
fn unsynced(quality: Quality, stamped: bool) -> Quality {
    if stamped { quality.with(Doubt::ClockUnsynced) } else { without(quality, Doubt::Future) }
}

/// Whether a topic is a gateway's marker by its default name: one that takes everything sees those of others too.
fn is_marker(topic: &str) -> bool {
    topic
        .strip_prefix("tributary/")
        .and_then(|rest| rest.strip_suffix("/marker"))
        .is_some_and(|id| !id.contains('/'))
}

/// What the topics begin with on which the windows and alerts of `config` are told.
fn own_topics(config: &Config) -> Vec<String> {
    let beginning = |w: &Window| Some(w.publish.as_ref()?.beginning(config.gateway.as_str(), &w.name));
    let windows = config.windows.iter().filter_map(beginning);
    let alerts = config
        .alerts
        .iter()
        .filter_map(|rule| Some(rule.publish.as_ref()?.beginning(config.gateway.as_str(), &rule.name)));
    windows.chain(alerts).collect()
}

/// The name under which a broker's session is known: the same client at the same place.
pub fn connection_name(broker: &Broker) -> String {
    format!("{}@{}:{}", broker.client_id, broker.host, broker.port)
}

fn index(broker: usize) -> u16 {
    u16::try_from(broker).unwrap_or(u16::MAX)
}

fn empty(sources: usize, brokers: usize) -> Collected {
    Collected {
        sources: vec![SourceTally::default(); sources],
        unmatched: vec![0; brokers],
        ..Collected::default()
    }
}

#[cfg(test)]
mod tests;
