//! The agent as a process: started on its folder, its loops as tasks, killed where they stand, stopped in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tributary_agent::buffer::{Buffer, BufferThread};
use tributary_agent::config::{Config, parse};
use tributary_agent::ingest::mqtt::{self, Command, Event, Filter, Handle};
use tributary_agent::pipeline::{
    Clock, Deliverer, Intake, Sealer, Seams, Shared, count_start, first_status, new_live, open, report,
    subscribed_key,
};
use tributary_contract::time::Timestamp;

use super::bucket::{AgentFace, Store};
use super::hub::{Hub, HubClock, HubFaults, Program};
use super::script::{Kinds, Script};
use super::task::{Task, Wake, give_way, poll_once, sleep};

const SECOND: i64 = 1_000_000;

/// The gateway of every simulation.
pub const GATEWAY: &str = "gw-1";

/// The agent's end of the connection to the broker, as the task that owns the socket has it.
pub struct Link {
    events: Rc<RefCell<VecDeque<Event>>>,
    intake: Wake,
    /// What the pipeline wants sent.
    pub commands: UnboundedReceiver<Command>,
    /// Of the last connection.
    pub generation: u64,
    /// What was subscribed last, as it was kept.
    pub kept: Option<String>,
    /// Whether a session that the broker has is surely the one that was subscribed.
    pub sure: bool,
    /// What to subscribe.
    pub filters: Vec<Filter>,
}

impl Link {
    /// Hands an event to the pipeline.
    pub fn push(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.intake.set(0);
    }

    /// Whether the pipeline has taken everything.
    pub fn is_empty(&self) -> bool {
        self.events.borrow().is_empty()
    }

    /// How the filters are spelled when they are kept.
    pub fn wanted(&self) -> String {
        self.filters.iter().map(|f| format!("{} {}", f.qos, f.path)).collect::<Vec<_>>().join("\n")
    }

    /// Now, as messages are stamped: whole milliseconds.
    pub fn received_at(&self, hub: &Hub) -> Timestamp {
        Timestamp::from_millis(hub.wall().micros().div_euclid(1000))
    }
}

/// The agent.
pub struct Agent {
    hub: Arc<Hub>,
    store: Arc<Store>,
    config: Arc<Config>,
    state: State,
}

enum State {
    Down,
    Starting(Task<anyhow::Result<Life>>),
    Live(Box<Live>),
    Ending(Box<Live>, Task<anyhow::Result<()>>),
}

struct Life {
    shared: Arc<Shared>,
    intake: Intake,
    link: Link,
}

struct Live {
    link: Link,
    shared: Arc<Shared>,
    stop: Rc<Cell<bool>>,
    loops: Vec<Task<anyhow::Result<()>>>,
}

/// What a turn of the agent brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// It goes on.
    On,
    /// It is down now.
    Down,
}

impl Agent {
    /// An agent that isn't running, with its folder below `dir`.
    ///
    /// # Panics
    /// When the configuration isn't one.
    pub fn new(hub: Arc<Hub>, store: Arc<Store>, script: &Script, dir: PathBuf) -> Self {
        let mut config = config(script, &dir.join("state")).expect("the simulation's configuration");
        // Other processes change what is free on this disk; nothing here may depend on it.
        config.buffer.min_free = 0;
        // Smaller than an operator may choose, so that small runs have many segments, and many parts.
        config.segment.max_rows = script.max_rows;
        config.bucket.part_size = script.part_size;
        Self { hub, store, config: Arc::new(config), state: State::Down }
    }

    /// Whether nothing of it runs.
    pub const fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    /// Whether its loops run.
    pub const fn is_live(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    /// Where its buffer lies.
    pub fn folder(&self) -> PathBuf {
        self.config.state_dir.clone()
    }

    /// The connection's end, while the loops run or end.
    pub const fn link(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Live(live) | State::Ending(live, _) => Some(&mut live.link),
            State::Down | State::Starting(_) => None,
        }
    }

    /// What the loops share.
    pub const fn shared(&self) -> Option<&Arc<Shared>> {
        match &self.state {
            State::Live(live) => Some(&live.shared),
            State::Down | State::Starting(_) | State::Ending(..) => None,
        }
    }

    /// Begins to start it.
    pub fn start(&mut self) {
        self.hub.note("agent: starts");
        self.hub.count("agent starts", 1);
        let (config, hub) = (Arc::clone(&self.config), Arc::clone(&self.hub));
        self.state = State::Starting(Task::new("start", |_| start(config, hub)));
    }

    /// Ends it where it stands: what is in memory is gone, files stay as they are.
    pub fn kill(&mut self) {
        self.state = State::Down;
    }

    /// Tells its loops to end in order.
    pub fn stop(&mut self) {
        if let State::Live(live) = std::mem::replace(&mut self.state, State::Down) {
            self.end(live, true);
        }
    }

    fn end(&mut self, mut live: Box<Live>, clean: bool) {
        live.stop.set(true);
        let intake = live.loops.iter().position(|t| t.name == "intake").map(|at| live.loops.remove(at));
        // Requests on their way are dropped; what they did is found out after the next start.
        live.loops.clear();
        let hub = Arc::clone(&self.hub);
        let ending = Task::new(if clean { "stop" } else { "end" }, |_| async move {
            if let Some(mut intake) = intake {
                while intake.poll().transpose()?.is_none() {
                    give_way().await;
                }
            }
            hub.note("agent: intake has ended");
            Ok(())
        });
        self.state = State::Ending(live, ending);
    }

    /// Names of tasks that want a turn, and when the others do.
    pub fn turns(&self, now: i64) -> (usize, Option<i64>) {
        match &self.state {
            State::Down => (0, None),
            State::Starting(_) | State::Ending(..) => (1, None),
            State::Live(live) => {
                let awake = live.loops.iter().filter(|t| t.wake.get() <= now).count();
                (awake, live.loops.iter().map(|t| t.wake.get()).filter(|w| *w > now).min())
            }
        }
    }

    /// Gives a turn to the `nth` of the tasks that want one.
    pub fn turn(&mut self, nth: usize, now: i64) -> Turned {
        let state = std::mem::replace(&mut self.state, State::Down);
        self.state = match state {
            State::Down => State::Down,
            State::Starting(mut task) => match task.poll() {
                None => State::Starting(task),
                Some(Ok(life)) => State::Live(Box::new(self.live(life))),
                Some(Err(e)) => {
                    self.hub.note(format!("agent: can't start: {e:#}"));
                    State::Down
                }
            },
            State::Live(mut live) => {
                let Some(task) = live.loops.iter_mut().filter(|t| t.wake.get() <= now).nth(nth) else {
                    self.state = State::Live(live);
                    return Turned::On;
                };
                let name = task.name;
                match task.poll() {
                    None => State::Live(live),
                    Some(ended) => {
                        live.loops.retain(|t| t.name != name);
                        let why = ended.err().unwrap_or_else(|| anyhow!("ended by itself"));
                        if !self.hub.is_dead(Program::Agent) {
                            self.hub.note(format!("agent: {name} ends this life: {why:#}"));
                            self.hub.count("lives ended by themselves", 1);
                            self.end(live, false);
                            return Turned::On;
                        }
                        State::Live(live)
                    }
                }
            }
            State::Ending(live, mut task) => match task.poll() {
                None => State::Ending(live, task),
                Some(Ok(())) if task.name == "stop" => {
                    let Live { shared, .. } = *live;
                    match Arc::into_inner(shared) {
                        Some(shared) => self.stop_buffer(shared),
                        None => State::Down,
                    }
                }
                Some(_) => State::Down,
            },
        };
        if self.hub.is_dead(Program::Agent) {
            self.kill();
        }
        if self.is_down() { Turned::Down } else { Turned::On }
    }

    fn stop_buffer(&self, shared: Shared) -> State {
        match super::task::finish(shared.buffer.stop()) {
            Ok(()) => self.hub.note("agent: stopped cleanly"),
            Err(e) => self.hub.note(format!("agent: can't stop cleanly: {e}")),
        }
        State::Down
    }

    fn live(&self, life: Life) -> Live {
        let Life { shared, intake, link } = life;
        let (hub, stop) = (Arc::clone(&self.hub), Rc::new(Cell::new(false)));
        let events = Rc::clone(&link.events);
        let stopped = Rc::clone(&stop);
        let took =
            Task::<anyhow::Result<()>>::new("intake", |wake| take_in(intake, events, hub, wake, stopped));
        let link = Link { intake: Rc::clone(&took.wake), ..link };
        let (hub, of, bucket) = (Arc::clone(&self.hub), Arc::clone(&shared), AgentFace(self.store.clone()));
        let seals = Task::<anyhow::Result<()>>::new("sealing", |wake| async move {
            let mut sealer = Sealer::new(Arc::clone(&of));
            loop {
                sealer.pass(&bucket, of.now()).await?;
                sleep(&hub, &wake, SECOND, || false).await;
            }
        });
        let (hub, of, bucket) = (Arc::clone(&self.hub), Arc::clone(&shared), AgentFace(self.store.clone()));
        let delivers = Task::<anyhow::Result<()>>::new("delivery", |wake| async move {
            let mut deliverer = Deliverer::new(Arc::clone(&of), Arc::new(bucket));
            loop {
                let wait = deliverer.pass(of.now()).await?;
                let wait = i64::try_from(wait.as_micros()).unwrap_or(SECOND);
                let mut sealed = Box::pin(of.sealed.notified());
                sleep(&hub, &wake, wait, || poll_once(&mut sealed).is_some()).await;
            }
        });
        let (hub, of) = (Arc::clone(&self.hub), Arc::clone(&shared));
        let reports = Task::<anyhow::Result<()>>::new("report", |wake| async move {
            loop {
                report(&of, of.now()).await?;
                of.status.borrow().counters.check().unwrap_or_else(|e| hub.violated(format!("status: {e}")));
                sleep(&hub, &wake, 5 * SECOND, || false).await;
            }
        });
        Live { link, shared, stop, loops: vec![took, seals, delivers, reports] }
    }
}

async fn start(config: Arc<Config>, hub: Arc<Hub>) -> anyhow::Result<Life> {
    let clock: Arc<dyn Clock> = Arc::new(HubClock(Arc::clone(&hub)));
    let live = Arc::new(Mutex::new(new_live(&config, clock.now())));
    let (status, _) = watch::channel(Arc::new(first_status(&config, &*clock)));
    let seams = Seams {
        faults: Arc::new(HubFaults(Arc::clone(&hub))),
        buffer: BufferThread::here,
        fingerprint: || "machine".to_owned(),
    };
    let (shared, stage) = open(&config, &live, &status, &clock, seams).await?;
    let shared = Arc::new(shared);
    report(&shared, clock.now()).await?;
    let start = shared.buffer.run(|b: &mut Buffer| count_start(b)).await??;
    let key = subscribed_key(0);
    let kept = shared.buffer.run(move |b| b.setting(&key)).await??;
    let (handle, commands) = Handle::without_task(0);
    let link = Link {
        events: Rc::default(),
        intake: Wake::default(),
        commands,
        generation: u64::from(start) << 32,
        kept: kept.and_then(|bytes| String::from_utf8(bytes).ok()),
        // A start may have been killed between a CONNACK and its SUBSCRIBE.
        sure: false,
        filters: mqtt::filters(&config).map_err(|e| anyhow!("{e}"))?,
    };
    let intake = Intake::new(Arc::clone(&shared), stage, vec![handle]);
    Ok(Life { shared, intake, link })
}

async fn take_in(
    mut intake: Intake,
    events: Rc<RefCell<VecDeque<Event>>>,
    hub: Arc<Hub>,
    wake: Wake,
    stop: Rc<Cell<bool>>,
) -> anyhow::Result<()> {
    while !stop.get() {
        let turn = intake.turn();
        let waits = !events.borrow().is_empty();
        if turn.open && waits && (!turn.committing || hub.chance(0.5)) {
            let event = events.borrow_mut().pop_front();
            if let Some(event) = event {
                intake.take(0, event).await;
            }
        } else if turn.committing {
            poll_once(intake.commit()).transpose()?;
        } else {
            wake.set(hub.steady() + i64::try_from(turn.wait.as_micros()).unwrap_or(SECOND));
        }
        give_way().await;
    }
    wake.set(0);
    intake.finish().await
}

fn config(script: &Script, state_dir: &std::path::Path) -> anyhow::Result<Config> {
    let mut windows = String::new();
    for kind in Kinds::of(script).all() {
        let _ = writeln!(
            windows,
            "[[window]]\nname = \"{}\"\nsize = \"{}s\"\nevery = \"{}s\"\ntime_zone = \"{}\"\nlateness = \"2s\"\n\
             idle = \"20s\"\ncorrection_horizon = \"1d\"",
            kind.name,
            kind.size / SECOND,
            kind.every / SECOND,
            kind.zone
        );
    }
    let text = format!(
        r#"
        gateway = "{GATEWAY}"
        state_dir = "{}"
        [[broker]]
        url = "mqtt://127.0.0.1"
        inflight_window = {}
        resends = {}
        [[source]]
        name = "timed"
        topics = ["timed/{{device}}"]
        decoder = "json"
        time = "t"
        upload = "{upload}"
        [[source]]
        name = "plain"
        topics = ["plain/{{device}}"]
        decoder = "json"
        [buffer]
        commit_interval = "{}ms"
        dedupe_window = "7d"
        retain = "3000d"
        [bucket]
        url = "s3://lake/site"
        [segment]
        max_age = "2s"
        {windows}
        "#,
        state_dir.display(),
        script.window,
        script.kind == super::script::Kind::Resends,
        script.commit_ms,
        upload = if script.kept && script.windows { "aggregates" } else { "both" },
    );
    let facts = parse::Facts {
        env: &|_| None,
        hostname: None,
        serial: None,
        zones: &tributary_agent::config::Zone::read,
    };
    parse::parse(&[("agent.toml".into(), text)], &facts).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!(all.join("; "))
    })
}
