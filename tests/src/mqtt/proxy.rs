//! A TCP proxy between an MQTT broker and an agent that records both directions.
//!
//! Touches sockets and, if asked, the log file; what the packets mean is decided in [`super::record`], what is passed on
//! and when in [`super::relay`]. A packet is recorded before its bytes are passed on: a message is known before the agent
//! can answer it, and an acknowledgement before the broker can act on it. On command it delays, holds, loses, renames,
//! redelivers and cuts (see [`super::behaviour`]).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Context;
use bytes::BytesMut;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::behaviour::{Behaviour, Cut, Redelivery};
use super::numbers::NumberSet;
use super::record::{Counts, Entry, Extractor, Record, Sender};
use super::relay::{Answer, Next, Passed, Relay, Session};
use super::wire;

/// Bytes that are written at once.
const WRITE_BYTES: usize = 64 << 10;
/// PUBLISH packets that may wait here; beyond them the broker is read no more.
const KEPT_BACK: u64 = 10_000;

/// A running proxy; dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    state: Mutex<State>,
    log: Option<Mutex<BufWriter<File>>>,
    counts: watch::Sender<Counts>,
    /// Counts the cuts; a connection ends when it changes.
    cuts: watch::Sender<u64>,
}

/// All that is known; one lock, so that the record's order is that of the packets.
#[derive(Debug)]
struct State {
    record: Record,
    behaviour: Behaviour,
    cut: Option<Cut>,
    open: HashMap<u64, Open>,
    /// By client id.
    sessions: HashMap<String, Session>,
}

#[derive(Debug)]
struct Open {
    relay: Relay,
    wake: Arc<Wake>,
}

/// Wakes the tasks of one connection.
#[derive(Debug, Default)]
struct Wake {
    agent_writer: Notify,
    broker_writer: Notify,
    broker_reader: Notify,
}

/// One line of the log.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    #[serde(flatten)]
    entry: &'a Entry,
}

impl Proxy {
    /// Listens on `listen` (port 0 takes a free one) and passes each connection to `upstream` (`host:port`, plain
    /// TCP, resolved anew for each connection). `extractor` finds the running number in a message.
    ///
    /// # Errors
    /// When `listen` can't be bound.
    pub async fn start(listen: SocketAddr, upstream: &str, extractor: Extractor) -> anyhow::Result<Self> {
        Self::start_with_log(listen, upstream, extractor, None).await
    }

    /// As [`Proxy::start`]; each recorded packet is also appended to the file `log` as one JSON object a line:
    /// `at` (RFC 3339, UTC) and the fields of [`Entry`].
    ///
    /// # Errors
    /// When `listen` can't be bound or `log` can't be opened.
    pub async fn start_with_log(
        listen: SocketAddr,
        upstream: &str,
        extractor: Extractor,
        log: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("MQTT proxy: can't listen on {listen}; choose a free port"))?;
        let address = listener.local_addr().context("MQTT proxy: no local address")?;
        let log = match log {
            None => None,
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(&path);
                let file =
                    file.with_context(|| format!("MQTT proxy: can't open the log {}", path.display()))?;
                Some(Mutex::new(BufWriter::new(file)))
            }
        };
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            state: Mutex::new(State {
                record: Record::new(extractor),
                behaviour: Behaviour::default(),
                cut: None,
                open: HashMap::new(),
                sessions: HashMap::new(),
            }),
            log,
            counts: watch::Sender::new(Counts::default()),
            cuts: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where the agent connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many distinct numbers the agent acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.state().record.acknowledged().len()
    }

    /// Whether the agent acknowledged the message with this number.
    #[must_use]
    pub fn is_acknowledged(&self, number: u64) -> bool {
        self.shared.state().record.acknowledged().contains(number)
    }

    /// A copy of all numbers acknowledged so far.
    #[must_use]
    pub fn acknowledged_numbers(&self) -> NumberSet {
        self.shared.state().record.acknowledged().clone()
    }

    /// The sums so far and the state of this moment.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.state().counts()
    }

    /// Tells of each change of [`Proxy::counts`]; `wait_for` on it waits until a condition holds.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Counts> {
        self.shared.counts.subscribe()
    }

    /// Closes every open connection on both sides at once; new ones are accepted as before. What either side had
    /// on the way is lost, and no acknowledgement counts that wasn't read before.
    pub fn cut(&self) {
        let counts = {
            let mut state = self.shared.state();
            state.record.cut();
            state.counts()
        };
        self.shared.tell(counts);
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts once, when it is so far; replaces an earlier command that hasn't struck yet.
    pub fn cut_when(&self, cut: Cut) {
        self.shared.state().cut = Some(cut);
    }

    /// From now on, on open connections too, until the next call.
    pub fn behave(&self, behaviour: Behaviour) {
        let mut state = self.shared.state();
        state.behaviour = behaviour;
        state.open.values().for_each(|open| open.wake.all());
    }

    /// Gives messages to the agent once more, on each open connection that has been introduced. Returns how many; those
    /// that can't be named as wanted by the time they go are left out ([`Counts::injected`] tells).
    pub fn redeliver(&self, redelivery: Redelivery) -> usize {
        let (count, counts) = {
            let mut state = self.shared.state();
            let State { open, sessions, .. } = &mut *state;
            let mut count = 0;
            for open in open.values_mut() {
                if let Some(session) = sessions.get(open.relay.client_id()) {
                    count += open.relay.redeliver(session, &redelivery, Instant::now());
                    open.wake.all();
                }
            }
            (count, state.counts())
        };
        self.shared.tell(counts);
        count
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Wake {
    fn all(&self) {
        self.agent_writer.notify_one();
        self.broker_writer.notify_one();
        self.broker_reader.notify_one();
    }
}

impl State {
    fn counts(&self) -> Counts {
        let mut counts = self.record.counts();
        for open in self.open.values() {
            counts.kept_back += open.relay.publishes_waiting();
            counts.acknowledgements_kept_back += open.relay.acknowledgements_waiting();
        }
        counts
    }

    /// Counts down to a cut; true when it is so far.
    fn strikes(&mut self, at: impl Fn(Cut) -> Option<Option<Cut>>) -> bool {
        match self.cut.and_then(at) {
            Some(next) => {
                self.cut = next;
                next.is_none()
            }
            None => false,
        }
    }
}

/// What a writer does next.
#[derive(Debug)]
enum Step {
    /// Writes these bytes, and then, if told so, cuts.
    Write(Vec<u8>, bool),
    /// Waits, at most until then.
    Wait(Option<Instant>),
    /// All is written that will ever be.
    End,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held would have left counts behind, never half a number.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, counts: Counts) {
        self.counts.send_if_modified(|known| std::mem::replace(known, counts) != counts);
    }

    /// Takes in all whole packets at the start of `bytes`; returns how many bytes they take and whether all connections
    /// are to be cut now.
    fn take_in(&self, connection: u64, from: Sender, bytes: &[u8]) -> anyhow::Result<(usize, bool)> {
        let (mut taken, mut cut) = (0, false);
        let mut entries = Vec::new();
        let mut state = self.state();
        let now = Instant::now();
        while !cut && let Some(frame) = wire::next_frame(bytes.get(taken..).unwrap_or_default())? {
            taken += frame.len;
            let State { record, behaviour, open, sessions, .. } = &mut *state;
            let Some(Open { relay, .. }) = open.get_mut(&connection) else { continue };
            match from {
                Sender::Broker => {
                    let session = sessions.entry(relay.client_id().to_owned()).or_default();
                    relay.take_brokers(session, frame, now)?;
                }
                Sender::Agent => {
                    let session = sessions.entry(relay.client_id().to_owned()).or_default();
                    let answer = relay.take_agents(session, frame, behaviour, record.answers(), now)?;
                    let mut entry = record.note(connection, from, frame)?;
                    if let Some(entry) = &mut entry {
                        match answer {
                            Some(Answer::Passed(id)) => {
                                entry.brokers_id = (Some(id) != entry.id).then_some(id)
                            }
                            Some(Answer::Lost(id)) => {
                                entry.brokers_id = (Some(id) != entry.id).then_some(id);
                                entry.done = Some("lost");
                                record.lost();
                            }
                            Some(Answer::Kept) => entry.done = Some("kept"),
                            Some(Answer::Unmatched) | None => {}
                        }
                    }
                    entries.extend(entry);
                    if let Some(Answer::Passed(_)) = answer {
                        cut = state.strikes(|cut| match cut {
                            Cut::BeforeAcknowledgement(n) => {
                                Some((n > 1).then(|| Cut::BeforeAcknowledgement(n - 1)))
                            }
                            _ => None,
                        });
                        if cut && let Some(open) = state.open.get_mut(&connection) {
                            open.relay.forget_last_acknowledgement();
                        }
                    }
                }
            }
        }
        let counts = state.counts();
        // Within the lock, so that the log's order is the record's.
        self.write(&entries).context("MQTT proxy: can't write its log")?;
        if let Some(open) = state.open.get(&connection) {
            open.wake.agent_writer.notify_one();
            open.wake.broker_writer.notify_one();
        }
        drop(state);
        self.tell(counts);
        Ok((taken, cut))
    }

    /// What goes to the agent now, recorded.
    fn step_to_agent(&self, connection: u64, ended: bool) -> anyhow::Result<Step> {
        let (mut bytes, mut cut) = (Vec::new(), false);
        let mut entries = Vec::new();
        let mut state = self.state();
        let now = Instant::now();
        let mut step = None;
        while !cut && step.is_none() && bytes.len() < WRITE_BYTES {
            let State { behaviour, open, sessions, .. } = &mut *state;
            let Some(Open { relay, .. }) = open.get_mut(&connection) else { return Ok(Step::End) };
            let session = sessions.entry(relay.client_id().to_owned()).or_default();
            match relay.next_for_agent(session, behaviour, now)? {
                Next::Now(Passed { bytes: packet, publish, brokers_id, injected }) => {
                    let torn = publish
                        && state.strikes(|cut| match cut {
                            Cut::WithinPublish(n) => Some(n.checked_sub(1).map(Cut::WithinPublish)),
                            _ => None,
                        });
                    if torn {
                        bytes.extend_from_slice(packet.get(..packet.len() / 2).unwrap_or_default());
                        cut = true;
                        continue;
                    }
                    if let Some(frame) = wire::next_frame(&packet)? {
                        let record = &mut state.record;
                        if injected {
                            record.injected();
                        }
                        let entry = record.note(connection, Sender::Broker, frame)?;
                        let done = injected.then_some("injected");
                        entries.extend(entry.map(|entry| Entry { brokers_id, done, ..entry }));
                    }
                    bytes.extend_from_slice(&packet);
                    cut = publish
                        && state.strikes(|cut| match cut {
                            Cut::AfterPublishes(n) => Some((n > 1).then(|| Cut::AfterPublishes(n - 1))),
                            _ => None,
                        });
                }
                Next::At(at) => step = Some(Step::Wait(Some(at))),
                Next::Wait if ended && relay.is_done(true, behaviour) => step = Some(Step::End),
                Next::Wait => step = Some(Step::Wait(None)),
            }
        }
        if !bytes.is_empty() {
            step = Some(Step::Write(bytes, cut));
        }
        if let Some(open) = state.open.get(&connection) {
            open.wake.broker_reader.notify_one();
        }
        let counts = state.counts();
        self.write(&entries).context("MQTT proxy: can't write its log")?;
        drop(state);
        self.tell(counts);
        Ok(step.unwrap_or(Step::Wait(None)))
    }

    /// What goes to the broker now.
    fn step_to_broker(&self, connection: u64, ended: bool) -> Step {
        let (mut bytes, mut cut) = (Vec::new(), false);
        let mut state = self.state();
        let now = Instant::now();
        let mut step = None;
        while !cut && step.is_none() && bytes.len() < WRITE_BYTES {
            let State { behaviour, open, sessions, .. } = &mut *state;
            let Some(Open { relay, .. }) = open.get_mut(&connection) else { return Step::End };
            let session = sessions.entry(relay.client_id().to_owned()).or_default();
            match relay.next_for_broker(session, behaviour.acknowledgements, now) {
                Next::Now(packet) => {
                    bytes.extend_from_slice(&packet);
                    cut = packet.first().is_some_and(|first| first >> 4 == 4)
                        && state.strikes(|cut| match cut {
                            Cut::AfterAcknowledgement(n) => {
                                Some((n > 1).then(|| Cut::AfterAcknowledgement(n - 1)))
                            }
                            _ => None,
                        });
                }
                Next::At(at) => step = Some(Step::Wait(Some(at))),
                Next::Wait if ended && relay.is_done(false, behaviour) => step = Some(Step::End),
                Next::Wait => step = Some(Step::Wait(None)),
            }
        }
        if !bytes.is_empty() {
            step = Some(Step::Write(bytes, cut));
        }
        let counts = state.counts();
        drop(state);
        self.tell(counts);
        step.unwrap_or(Step::Wait(None))
    }

    fn write(&self, entries: &[Entry]) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        if entries.is_empty() {
            return Ok(());
        }
        let at = jiff::Timestamp::now().to_string();
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            serde_json::to_writer(&mut *log, &Line { at: at.clone(), entry })?;
            log.write_all(b"\n")?;
        }
        log.flush()
    }

    fn open(&self) -> (u64, Arc<Wake>) {
        let wake = Arc::new(Wake::default());
        let mut state = self.state();
        let connection = state.record.open();
        state.open.insert(connection, Open { relay: Relay::default(), wake: Arc::clone(&wake) });
        (connection, wake)
    }

    fn close(&self, connection: u64) {
        let counts = {
            let mut state = self.state();
            state.open.remove(&connection);
            state.record.close(connection);
            state.counts()
        };
        self.counts.send_replace(counts);
    }

    /// Cuts all connections because it was so far.
    fn cut(&self) {
        let counts = {
            let mut state = self.state();
            state.record.cut();
            state.counts()
        };
        self.tell(counts);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((agent, _)) => {
                // Subscribed before the task runs, so that a cut right after the accept is not missed.
                let cuts = shared.cuts.subscribe();
                tokio::spawn(serve(agent, Arc::clone(&shared), cuts));
            }
            Err(error) => {
                tracing::warn!(%error, "MQTT proxy: accept failed");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Carries one connection until either side ends it or it is cut.
async fn serve(agent: TcpStream, shared: Arc<Shared>, mut cuts: watch::Receiver<u64>) {
    let broker = match TcpStream::connect(&shared.upstream).await {
        Ok(broker) => broker,
        Err(error) => {
            tracing::warn!(%error, upstream = %shared.upstream, "MQTT proxy: broker unreachable");
            return;
        }
    };
    for socket in [&agent, &broker] {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "MQTT proxy: no TCP_NODELAY");
        }
    }
    let (agent_read, agent_write) = agent.into_split();
    let (broker_read, broker_write) = broker.into_split();
    let (connection, wake) = shared.open();
    let (agent_ended, broker_ended) = (watch::Sender::new(false), watch::Sender::new(false));
    let carrier = Carrier { shared: &shared, connection, wake: &wake };
    let ended = tokio::select! {
        Err(error) = carrier.read(Sender::Agent, agent_read, &agent_ended) => Err(error),
        Err(error) = carrier.read(Sender::Broker, broker_read, &broker_ended) => Err(error),
        ended = carrier.write(Sender::Broker, agent_write, &broker_ended) => ended,
        ended = carrier.write(Sender::Agent, broker_write, &agent_ended) => ended,
        _ = cuts.changed() => Ok(()),
        else => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(connection, error = %format!("{error:#}"), "MQTT proxy: connection ended");
        if error.downcast_ref::<wire::WireError>().is_some() {
            shared.state().record.unreadable();
        }
    }
    shared.close(connection);
}

/// The four movements of one connection.
struct Carrier<'a> {
    shared: &'a Shared,
    connection: u64,
    wake: &'a Wake,
}

impl Carrier<'_> {
    /// Takes in what `from` sends, until it ends.
    async fn read(
        &self,
        from: Sender,
        mut read: OwnedReadHalf,
        ended: &watch::Sender<bool>,
    ) -> anyhow::Result<std::convert::Infallible> {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            if read.read_buf(&mut buffer).await? == 0 {
                ended.send_replace(true);
                // The writers end the connection, once they have passed on what was read.
                self.wake.all();
                std::future::pending::<()>().await;
            }
            if from == Sender::Broker {
                // rumqttd leaves Nagle's algorithm on: a group of messages would wait 40 ms for our delayed ACK of the
                // one before. The kernel forgets this setting, so it is made after each read.
                read.as_ref().set_quickack(true)?;
            }
            let (taken, cut) = self.shared.take_in(self.connection, from, &buffer)?;
            drop(buffer.split_to(taken));
            if cut {
                self.shared.cut();
                std::future::pending::<()>().await;
            }
            while from == Sender::Broker && self.is_full() {
                self.wake.broker_reader.notified().await;
            }
        }
    }

    fn is_full(&self) -> bool {
        let state = self.shared.state();
        state.open.get(&self.connection).is_some_and(|open| open.relay.publishes_waiting() > KEPT_BACK)
    }

    /// Passes on what `from` sent, as commanded, until that has ended and all is passed on.
    async fn write(
        &self,
        from: Sender,
        mut write: OwnedWriteHalf,
        ended: &watch::Sender<bool>,
    ) -> anyhow::Result<()> {
        loop {
            let ended = *ended.borrow();
            let (step, woken) = match from {
                Sender::Broker => {
                    (self.shared.step_to_agent(self.connection, ended)?, &self.wake.agent_writer)
                }
                Sender::Agent => {
                    (self.shared.step_to_broker(self.connection, ended), &self.wake.broker_writer)
                }
            };
            match step {
                Step::Write(bytes, cut) => {
                    write.write_all(&bytes).await?;
                    if cut {
                        self.shared.cut();
                        return Ok(());
                    }
                }
                Step::Wait(None) => woken.notified().await,
                Step::Wait(Some(at)) => tokio::select! {
                    () = woken.notified() => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                },
                Step::End => {
                    // Lets the other side read what was passed on before it sees the end.
                    write.shutdown().await?;
                    return Ok(());
                }
            }
        }
    }
}
