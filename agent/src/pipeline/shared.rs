//! What the loops of the pipeline share: the buffer's thread, the windows, what only the running agent knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{Notify, watch};
use tributary_contract::status::{BrokerStatus, GatewayStatus, LinkStatus, ReceiptStatus, SourceStatus};
use tributary_contract::time::Timestamp;

use super::clock::Clock;
use super::link::Link;
use super::room;
use crate::alert::Alerts;
use crate::buffer::{AlertRow, BufferThread, Dictionary};
use crate::config::Config;
use crate::ingest::mqtt::Publisher;
use crate::status::flash::Meter;
use crate::window::Windows;

/// A new epoch has begun: everything that was folded from the old one begins anew. Not a failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a new epoch begins: {0}")]
pub struct StartAgain(pub String);

/// Shared by all loops of one life of the buffer.
pub struct Shared {
    /// Settings.
    pub config: Arc<Config>,
    /// The buffer's one thread.
    pub buffer: BufferThread,
    /// The buffer's dictionary of series.
    pub dictionary: Arc<Dictionary>,
    /// The window stage.
    windows: Arc<Mutex<Windows>>,
    /// The alerts.
    alerts: Mutex<Alerts>,
    /// The link.
    link: Mutex<Link>,
    /// What only the running agent knows.
    live: Arc<Mutex<Live>>,
    /// The newest status; also what the local endpoint shows.
    pub status: watch::Sender<Arc<GatewayStatus>>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// What publishes on the broker; empty until there is a connection.
    pub publisher: OnceLock<Publisher>,
    /// Something was committed, or a connection was made: there may be something to tell.
    pub committed: Notify,
    /// Something was sealed: delivery may have work.
    pub sealed: Notify,
}

/// What the stages behind the buffer remember.
pub struct Stages {
    /// The window stage.
    pub windows: Windows,
    /// The alerts.
    pub alerts: Alerts,
}

/// What isn't in the buffer, because it begins anew with each start.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// When the agent started.
    pub started_at: Timestamp,
    /// Broker connections, in the order of the configuration.
    pub brokers: Vec<BrokerStatus>,
    /// Whether each broker has given all that waited there while we were away.
    pub drained: Vec<bool>,
    /// Sources, in the order of the configuration.
    pub sources: Vec<SourceStatus>,
    /// The way to the bucket.
    pub link: LinkStatus,
    /// The last receipt.
    pub receipt: ReceiptStatus,
    /// Whether the clock could be believed when intake last looked at it.
    pub clock_synced: bool,
    /// Whether the disk is so near its end that each commit is judged.
    pub disk_close: bool,
    /// Why nothing is taken in now.
    pub intake_stopped: Option<String>,
    /// When the ballast was given up, until it is taken back.
    pub ballast_gone_at: Option<Timestamp>,
    /// That readings are shed, while they are.
    pub shedding: Option<String>,
    /// What this start found lost.
    pub losses: Vec<String>,
    /// What was written to flash since this process began.
    pub flash: Option<Meter>,
    /// Commits since then, and of these the present life's.
    pub commits: (u64, u64),
    /// Bytes of payloads since then.
    pub payload_bytes: u64,
    /// The commit interval that the flash budget leaves, microseconds; none before the first report.
    pub commit_interval: Option<i64>,
    /// When the state of the alerts was last kept, and up to which seq it then was.
    pub alerts_kept: Option<(Timestamp, u64)>,
    /// Alerts that are durable and wait for a connection to be told, oldest first.
    pub untold: Vec<AlertRow>,
    /// When what is counted of flash was last kept.
    pub flash_kept_at: Option<Timestamp>,
    /// Why the object `desired` in the bucket isn't taken, if so.
    pub desired_refused: Option<String>,
    /// What else an operator should know, by what it is about; a later one replaces an earlier one.
    pub notices: BTreeMap<&'static str, String>,
}

impl Live {
    /// The clock went forward by `by` microseconds: what was noted before goes with it.
    pub fn clock_stepped(&mut self, by: i64) {
        self.started_at = self.started_at.plus(by);
        for at in self.brokers.iter_mut().filter_map(|broker| broker.since.as_mut()) {
            *at = at.plus(by);
        }
        for at in self.sources.iter_mut().filter_map(|source| source.last_at.as_mut()) {
            *at = at.plus(by);
        }
    }
}

impl Shared {
    /// Puts the parts together.
    pub fn new(
        config: Arc<Config>,
        buffer: BufferThread,
        dictionary: Arc<Dictionary>,
        stages: Stages,
        live: Arc<Mutex<Live>>,
        status: watch::Sender<Arc<GatewayStatus>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            link: Mutex::new(Link::new(&config)),
            config,
            buffer,
            dictionary,
            windows: Arc::new(Mutex::new(stages.windows)),
            alerts: Mutex::new(stages.alerts),
            live,
            status,
            clock,
            publisher: OnceLock::new(),
            committed: Notify::new(),
            sealed: Notify::new(),
        }
    }

    /// The window stage, for as long as the guard lives. Never held over an await.
    pub fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The window stage for work on the buffer's thread, which must not hold on to that thread itself.
    pub fn window_stage(&self) -> Arc<Mutex<Windows>> {
        Arc::clone(&self.windows)
    }

    /// The alerts, for as long as the guard lives. Never held over an await.
    pub fn alerts(&self) -> MutexGuard<'_, Alerts> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link, for as long as the guard lives. Never held over an await.
    pub fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the ballast; false if there was none.
    pub(super) async fn give_up_ballast(&self, now: Timestamp) -> bool {
        room::give_up_ballast(&self.config.state_dir, &self.live, now).await
    }

    /// What only the running agent knows. Never held over an await.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }

    /// Now, UTC.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Locks; a panic elsewhere left plain counters behind, which are good enough.
pub fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}
