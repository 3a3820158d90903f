//! A TCP proxy between an MQTT broker and an agent that records both directions.
//!
//! Touches sockets and, if asked, the log file; what the packets mean is decided in [`super::record`]. A packet is
//! recorded before its bytes are passed on: a message is known before the agent can answer it, and an
//! acknowledgement before the broker can act on it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use bytes::BytesMut;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::numbers::NumberSet;
use super::record::{Counts, Entry, Extractor, Record, Sender};
use super::wire;

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
    record: Mutex<Record>,
    log: Option<Mutex<BufWriter<File>>>,
    counts: watch::Sender<Counts>,
    /// Counts the cuts; a connection ends when it changes.
    cuts: watch::Sender<u64>,
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
            record: Mutex::new(Record::new(extractor)),
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
        self.shared.record().acknowledged().len()
    }

    /// Whether the agent acknowledged the message with this number.
    #[must_use]
    pub fn is_acknowledged(&self, number: u64) -> bool {
        self.shared.record().acknowledged().contains(number)
    }

    /// A copy of all numbers acknowledged so far.
    #[must_use]
    pub fn acknowledged_numbers(&self) -> NumberSet {
        self.shared.record().acknowledged().clone()
    }

    /// The sums so far and the state of this moment.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.record().counts()
    }

    /// Tells of each change of [`Proxy::counts`]; `wait_for` on it waits until a condition holds.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Counts> {
        self.shared.counts.subscribe()
    }

    /// Closes every open connection on both sides at once; new ones are accepted as before. What either side had
    /// on the way is lost, and no acknowledgement counts that wasn't read before.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        // A panic while the lock was held would have left counts behind, never half a number.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records all whole packets at the start of `bytes` and returns how many bytes they take.
    fn take_in(&self, connection: u64, from: Sender, bytes: &[u8]) -> anyhow::Result<usize> {
        let mut taken = 0;
        let mut entries = Vec::new();
        let mut record = self.record();
        while let Some(frame) = wire::next_frame(bytes.get(taken..).unwrap_or_default())? {
            let entry = record.note(connection, from, frame)?;
            if self.log.is_some() {
                entries.extend(entry);
            }
            taken += frame.len;
        }
        let counts = record.counts();
        // Within the lock, so that the log's order is the record's.
        self.write(&entries).context("MQTT proxy: can't write its log")?;
        drop(record);
        self.counts.send_if_modified(|known| std::mem::replace(known, counts) != counts);
        Ok(taken)
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

    fn close(&self, connection: u64) {
        let counts = {
            let mut record = self.record();
            record.close(connection);
            record.counts()
        };
        self.counts.send_replace(counts);
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
    let connection = shared.record().open();
    let ended = tokio::select! {
        ended = carry(&shared, connection, Sender::Agent, agent_read, broker_write) => ended,
        ended = carry(&shared, connection, Sender::Broker, broker_read, agent_write) => ended,
        _ = cuts.changed() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(connection, error = %format!("{error:#}"), "MQTT proxy: connection ended");
        if error.downcast_ref::<wire::WireError>().is_some() {
            shared.record().unreadable();
        }
    }
    shared.close(connection);
}

/// Passes packets from `read` to `write` until `read` ends, recording each before it is passed on.
async fn carry(
    shared: &Shared,
    connection: u64,
    from: Sender,
    mut read: tokio::net::tcp::OwnedReadHalf,
    mut write: tokio::net::tcp::OwnedWriteHalf,
) -> anyhow::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        if read.read_buf(&mut buffer).await? == 0 {
            // Lets the other side read what was passed on before it sees the end.
            write.shutdown().await?;
            return Ok(());
        }
        if from == Sender::Broker {
            // rumqttd leaves Nagle's algorithm on: a group of messages would wait 40 ms for our delayed ACK of the one
            // before. The kernel forgets this setting, so it is made after each read.
            read.as_ref().set_quickack(true)?;
        }
        let taken = shared.take_in(connection, from, &buffer)?;
        let whole = buffer.split_to(taken);
        write.write_all(&whole).await?;
    }
}
