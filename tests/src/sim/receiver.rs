//! The receiver as a process: started on its ledger and catalog, each pass a task, killed where they stand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iceberg::io::FileIO;
use tributary_contract::id::Namespace;
use tributary_contract::key::Prefix;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;
use tributary_receiver::catalog::{Lake, SqliteCatalog};
use tributary_receiver::config::RegisterConfig;
use tributary_receiver::dedupe::{Known, Ledger, LedgerHandle, Moment};
use tributary_receiver::pipeline::register::{Attempt, Offer, Register};
use tributary_receiver::pipeline::{PassError, Pipeline, Places};

use super::agent::Turned;
use super::bucket::{ReceiverFace, Store};
use super::hub::{Fate, Hub, Program};
use super::lake::{URI_BASE, WAREHOUSE};
use super::task::{Task, give_way, sleep};

const SECOND: i64 = 1_000_000;

/// The receiver.
pub struct Receiver {
    hub: Arc<Hub>,
    store: Arc<Store>,
    files: FileIO,
    dir: PathBuf,
    max_files: usize,
    state: State,
}

enum State {
    Down,
    Starting(Task<anyhow::Result<Pipeline>>),
    Live(Vec<Task<()>>),
}

impl Receiver {
    /// A receiver that isn't running, with ledger and catalog below `dir` and the warehouse in `files`.
    pub const fn new(
        hub: Arc<Hub>,
        store: Arc<Store>,
        files: FileIO,
        dir: PathBuf,
        max_files: usize,
    ) -> Self {
        Self { hub, store, files, dir, max_files, state: State::Down }
    }

    /// Whether nothing of it runs.
    pub const fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    /// Begins to start it.
    pub fn start(&mut self) {
        self.hub.note("receiver: starts");
        self.hub.count("receiver starts", 1);
        let (hub, store, files) = (Arc::clone(&self.hub), Arc::clone(&self.store), self.files.clone());
        let (dir, max_files) = (self.dir.clone(), self.max_files);
        self.state = State::Starting(Task::new("start", |_| start(hub, store, files, dir, max_files)));
    }

    /// Ends it where it stands.
    pub fn kill(&mut self) {
        self.state = State::Down;
    }

    /// How many tasks want a turn, and when the others do.
    pub fn turns(&self, now: i64) -> (usize, Option<i64>) {
        match &self.state {
            State::Down => (0, None),
            State::Starting(_) => (1, None),
            State::Live(loops) => {
                let awake = loops.iter().filter(|t| t.wake.get() <= now).count();
                (awake, loops.iter().map(|t| t.wake.get()).filter(|w| *w > now).min())
            }
        }
    }

    /// Gives a turn to the `nth` of the tasks that want one.
    pub fn turn(&mut self, nth: usize, now: i64) -> Turned {
        match &mut self.state {
            State::Down => {}
            State::Starting(task) => match task.poll() {
                None => {}
                Some(Ok(pipeline)) => self.state = State::Live(self.loops(pipeline)),
                Some(Err(e)) => {
                    self.hub.note(format!("receiver: can't start: {e:#}"));
                    self.state = State::Down;
                }
            },
            State::Live(loops) => {
                if let Some(task) = loops.iter_mut().filter(|t| t.wake.get() <= now).nth(nth)
                    && task.poll().is_some()
                {
                    self.hub.violated("a loop of the receiver ended by itself");
                }
            }
        }
        if self.hub.is_dead(Program::Receiver) {
            self.kill();
        }
        if self.is_down() { Turned::Down } else { Turned::On }
    }

    fn loops(&self, pipeline: Pipeline) -> Vec<Task<()>> {
        let pipeline = Arc::new(pipeline);
        let repeat = |name, every, pass| {
            let (hub, pipeline) = (Arc::clone(&self.hub), Arc::clone(&pipeline));
            Task::new(name, move |wake| async move {
                loop {
                    let done = one_pass(pass, &pipeline, hub.wall()).await;
                    if let Err(e) = done {
                        // Its words hold ids that the catalog library draws.
                        hub.note(format!("receiver: {name}: {:?} fails", e.part()));
                    }
                    sleep(&hub, &wake, every, || false).await;
                }
            })
        };
        vec![
            repeat("arrivals", 2 * SECOND, Pass::Arrivals),
            repeat("register", SECOND, Pass::Register),
            repeat("receipts", SECOND, Pass::Receipts),
            repeat("statuses", 10 * SECOND, Pass::Statuses),
        ]
    }
}

#[derive(Clone, Copy)]
enum Pass {
    Arrivals,
    Register,
    Receipts,
    Statuses,
}

async fn one_pass(pass: Pass, pipeline: &Pipeline, now: Timestamp) -> Result<(), PassError> {
    match pass {
        Pass::Arrivals => {
            pipeline.arrivals_pass(now).await?;
            pipeline.quarantine_pass().await
        }
        Pass::Register => pipeline.register_pass(now).await.map(|_| ()),
        Pass::Receipts => pipeline.receipts_pass(now).await,
        Pass::Statuses => pipeline.statuses_pass().await,
    }
}

async fn start(
    hub: Arc<Hub>,
    store: Arc<Store>,
    files: FileIO,
    dir: PathBuf,
    max_files: usize,
) -> anyhow::Result<Pipeline> {
    give_way().await;
    let of = Arc::clone(&hub);
    let mut ledger = Ledger::open(&dir.join("ledger.db"))?.with_faults(move |moment| {
        of.passes(
            Program::Receiver,
            match moment {
                Moment::Before => "ledger: before a commit",
                Moment::After => "ledger: after a commit",
            },
        )
    })?;
    ledger.clear_stops()?;
    let id = ledger.id().to_string();
    let catalog = SqliteCatalog::open(&dir.join("catalog.db"), files, WAREHOUSE.to_owned()).await?;
    let lake = Lake::over(Arc::new(catalog), WAREHOUSE.to_owned(), BTreeMap::new());
    let lake = FaultyLake { lake, hub, store: Arc::clone(&store) };
    let places = Places { prefix: Prefix::new("site")?, uri_base: URI_BASE.to_owned() };
    let register = RegisterConfig { max_files, max_wait: Duration::from_secs(2) };
    let ledger = LedgerHandle::new(ledger);
    Ok(Pipeline::new(Arc::new(ReceiverFace(store)), Arc::new(lake), ledger, id, places, register))
}

/// The real lake, out of reach at times, or not heard.
struct FaultyLake {
    lake: Lake,
    hub: Arc<Hub>,
    store: Arc<Store>,
}

#[async_trait]
impl Register for FaultyLake {
    async fn ahead(
        &self,
        namespace: &Namespace,
        table: Table,
        ledger: &str,
        known: Known,
    ) -> Result<Option<String>, String> {
        self.lake.ahead(namespace, table, ledger, known).await
    }

    async fn attempt(&self, offer: &Offer) -> Result<Attempt, String> {
        for file in &offer.files {
            self.store.offered(file.uri.strip_prefix(URI_BASE).unwrap_or(&file.uri));
        }
        let fate = self.hub.fate(false);
        self.hub.note(format!("catalog: batch {} of {}: {fate:?}", offer.n, offer.table));
        match fate {
            Fate::Honest => self.lake.attempt(offer).await,
            Fate::Refused(refusal) => Err(format!("{refusal:?}")),
            Fate::ReplyLost | Fate::Late => {
                self.lake.attempt(offer).await?;
                if self.hub.chance(0.5) {
                    Ok(Attempt::Again("no answer".into()))
                } else {
                    Err("reset".into())
                }
            }
        }
    }
}
