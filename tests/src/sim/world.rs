//! One simulation: the scheduler that draws who goes on, what goes wrong, and the letting run dry at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use iceberg::io::FileIO;
use tempfile::TempDir;
use tributary_agent::buffer::{Buffer, Progress};
use tributary_contract::desired::{Backfill, Desired};
use tributary_contract::id::Namespace;
use tributary_contract::time::Timestamp;

use super::agent::{Agent, GATEWAY, Turned};
use super::broker::Broker;
use super::bucket::Store;
use super::counts::Counts;
use super::hub::{Hub, Program};
use super::lake;
use super::oracle::Oracle;
use super::receiver::Receiver;
use super::script::{Kinds, Script};
use super::task::finish;
use crate::folder;

const SECOND: i64 = 1_000_000;
/// Rounds in which everything must have run dry.
const DRY_ROUNDS: u32 = 6_000;
/// After so many quiet looks in a row nothing more is expected.
const QUIET_LOOKS: u32 = 3;
/// Durable points that a program passes at most before it dies at one.
const POINTS: u64 = 80;

/// Everything of one simulation.
pub struct World {
    script: Script,
    hub: Arc<Hub>,
    store: Arc<Store>,
    broker: Broker,
    agent: Agent,
    receiver: Receiver,
    oracle: Oracle,
    files: FileIO,
    dir: TempDir,
    /// What operators ask of the gateway.
    desired: Desired,
}

/// What may happen next.
#[derive(Debug, Clone, Copy)]
enum Act {
    Publish,
    Send,
    Resend,
    Hear,
    Connect,
    Agent,
    Receiver,
    StartAgent,
    StartReceiver,
    LateEffects,
    Wait,
}

impl World {
    /// The world of a seed, before its first step.
    ///
    /// # Errors
    /// When there is no place for its files.
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        let script = Script::of(seed);
        // Pauses after failures are drawn from here.
        fastrand::seed(seed);
        let hub = Arc::new(Hub::new(seed, script.begin, script.fault_rate));
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let dir = dir.context("a folder for the simulation")?;
        let store = Arc::new(Store::new(Arc::clone(&hub), script.chances.foreign));
        let files = FileIO::new_with_memory();
        let (h, s) = (Arc::clone(&hub), Arc::clone(&store));
        let cloud = dir.path().join("cloud");
        Ok(Self {
            broker: Broker::new(Arc::clone(&hub), &script),
            agent: Agent::new(Arc::clone(&hub), Arc::clone(&store), &script, dir.path().to_owned()),
            receiver: Receiver::new(h, s, files.clone(), cloud, script.max_files),
            oracle: Oracle { windows: Kinds::of(&script), ..Oracle::default() },
            desired: Desired::new(GATEWAY.parse()?),
            files,
            dir,
            script,
            hub,
            store,
        })
    }

    /// The trace so far, and its digest.
    pub fn trace(&self) -> (Vec<String>, u64) {
        self.hub.trace()
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// What doesn't hold, in a sentence.
    pub fn run(&mut self) -> Result<Counts, String> {
        for _ in 0..self.script.steps {
            self.step();
            self.go_wrong();
            self.check()?;
        }
        self.hub.note("faults stop; everything is let run dry");
        self.hub.calm();
        self.store.calm();
        self.run_dry()?;
        self.judge()
    }

    fn check(&self) -> Result<(), String> {
        self.hub.violation().map_or(Ok(()), Err)
    }

    /// One step of somebody.
    fn step(&mut self) {
        self.hub.pass(self.hub.below(4_000) as i64);
        let now = self.hub.steady();
        let (agents, agent_at) = self.agent.turns(now);
        let (passes, receiver_at) = self.receiver.turns(now);
        let linked = self.agent.link().is_some();
        let unpublished = self.broker.messages.len() < self.script.messages as usize;
        let acts = [
            (Act::Publish, if unpublished { 3 } else { 0 }),
            (Act::Send, if self.broker.is_connected() { 5 } else { 0 }),
            (Act::Resend, u64::from(self.broker.is_connected())),
            (Act::Hear, if linked { 4 } else { 0 }),
            (Act::Connect, if self.agent.is_live() && !self.broker.is_connected() { 4 } else { 0 }),
            (Act::Agent, agents as u64 * 6),
            (Act::Receiver, passes as u64 * 5),
            (Act::StartAgent, if self.agent.is_down() { 3 } else { 0 }),
            (Act::StartReceiver, if self.receiver.is_down() { 3 } else { 0 }),
            (Act::LateEffects, 1),
            (Act::Wait, 4),
        ];
        let total: u64 = acts.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.hub.below(total);
        let act = acts.iter().find(|(_, weight)| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        match act.map_or(Act::Wait, |(act, _)| *act) {
            Act::Publish => self.broker.publish(),
            Act::Send => {
                if let Some(link) = self.agent.link() {
                    self.broker.send(link);
                }
            }
            Act::Resend => {
                if self.hub.chance(0.2) {
                    self.broker.resend();
                }
            }
            Act::Hear => self.hear(),
            Act::Connect => {
                if let Some(link) = self.agent.link() {
                    self.broker.connect(link);
                }
            }
            Act::Agent => self.turn_agent(self.hub.pick(agents)),
            Act::Receiver => {
                let nth = self.hub.pick(passes);
                if self.receiver.turn(nth, now) == Turned::Down {
                    self.hub.count("receiver deaths", 1);
                }
            }
            Act::StartAgent => self.start_agent(),
            Act::StartReceiver => self.start_receiver(),
            Act::LateEffects => self.store.settle_late(),
            Act::Wait => {
                let next = [agent_at, receiver_at].into_iter().flatten().min().unwrap_or(now + SECOND);
                let far = if self.hub.chance(0.02) { 60 * SECOND } else { 0 };
                self.hub.pass((next - now).clamp(0, 2 * SECOND) + far);
            }
        }
    }

    fn turn_agent(&mut self, nth: usize) {
        let was_live = self.agent.link().is_some();
        if self.agent.turn(nth, self.hub.steady()) == Turned::Down {
            self.hub.count("agent deaths", u64::from(self.hub.is_dead(Program::Agent)));
            if was_live {
                self.broker.cut(None);
            }
        }
    }

    /// What the agent acknowledged leaves the gateway; at times the connection breaks before the broker hears it.
    fn hear(&mut self) {
        let broken = self.hub.chance(self.script.chances.cut_link * 5.0);
        let Some(link) = self.agent.link() else { return };
        let sent = self.broker.hear(link, || !broken);
        if broken && !sent.is_empty() {
            self.hub.count("acknowledgements lost on their way", sent.len() as u64);
            self.broker.cut(Some(link));
        }
        self.hub.count("acknowledgements", sent.len() as u64);
        self.oracle.acknowledged.extend(sent);
    }

    fn start_agent(&mut self) {
        let chances = self.script.chances;
        if self.hub.chance(chances.lose_lease) && fs::remove_file(self.agent.folder().join("lease")).is_ok() {
            self.hub.count("leases lost", 1);
            self.hub.note("operator: the lease is lost");
        }
        if self.hub.chance(chances.surgery) {
            self.surgery();
        }
        let dies = self.hub.chance(chances.die_at_point);
        self.hub.arm(Program::Agent, dies.then(|| self.hub.below(POINTS) as u32));
        self.agent.start();
    }

    fn start_receiver(&mut self) {
        let dies = self.hub.chance(self.script.chances.die_at_point);
        self.hub.arm(Program::Receiver, dies.then(|| self.hub.below(POINTS) as u32));
        self.receiver.start();
    }

    /// The buffer is removed, or an older copy of it takes its place; without a copy, one is made.
    fn surgery(&mut self) {
        let (state, copy) = (self.agent.folder(), self.dir.path().join("copy"));
        if !state.exists() {
            return;
        }
        let what = self.hub.below(3);
        let done = match (what, copy.exists()) {
            (0, _) => fs::remove_dir_all(&state).map(|()| "removed"),
            (_, false) => {
                let _ = folder::copy(&state, &copy);
                return;
            }
            (1, true) => {
                fs::remove_dir_all(&state).and_then(|()| folder::copy(&copy, &state)).map(|()| "restored")
            }
            (_, true) => clear_files(&state)
                .and_then(|()| folder::copy(&copy, &state))
                .map(|()| "restored over what was there"),
        };
        if let Ok(done) = done {
            self.hub.note(format!("operator: the buffer is {done}"));
            self.hub.count("buffers removed or restored", 1);
            self.oracle.surgery = true;
            self.store.unsure();
            self.oracle.excused = self.oracle.acknowledged.clone();
        }
    }

    /// What goes wrong besides, after a step.
    fn go_wrong(&mut self) {
        let chances = self.script.chances;
        if !self.agent.is_down() && self.hub.chance(chances.kill_agent) {
            self.hub.note("agent: killed");
            self.hub.count("agent kills", 1);
            self.agent.kill();
            self.broker.cut(None);
        }
        if !self.receiver.is_down() && self.hub.chance(chances.kill_receiver) {
            self.hub.note("receiver: killed");
            self.hub.count("receiver kills", 1);
            self.receiver.kill();
        }
        if self.agent.is_live() && self.hub.chance(chances.stop_agent) {
            self.hub.note("agent: told to stop");
            self.agent.stop();
        }
        if self.hub.chance(chances.cut_link) {
            self.broker.cut(self.agent.link());
        }
        if self.hub.chance(chances.lose_session) {
            self.broker.lose_session(self.agent.link());
        }
        if self.hub.chance(chances.forget) {
            self.oracle.forgot_far |= self.broker.forget(self.agent.link()).unwrap_or(false);
        }
        if self.hub.chance(chances.turn_clock) {
            let most = [10, 3600, 2 * 86_400][self.hub.pick(3)] * SECOND;
            let micros = self.hub.below(2 * most as u64) as i64 - most;
            self.hub.turn_clock(micros);
            self.hub.note(format!("clock: turned by {:.3} s", micros as f64 / 1e6));
            self.hub.count("clock turns", 1);
            self.oracle.clock_turned = true;
        }
        if self.hub.chance(chances.ask) {
            let from = self.hub.wall().plus(-(self.hub.below(60 * SECOND as u64) as i64));
            self.ask(from, from.plus(self.hub.below(60 * SECOND as u64) as i64));
        }
        if self.hub.chance(chances.delete)
            && let Some(key) = self.store.delete_unregistered()
        {
            self.hub.note(format!("operator: deletes {key}"));
            self.hub.count("objects deleted", 1);
        }
    }

    /// Asks for the readings of a range, beside the last few that were asked for.
    fn ask(&mut self, from: Timestamp, to: Timestamp) {
        let desired = &mut self.desired;
        desired.revision += 1;
        let (id, namespace) = (format!("r{}", desired.revision), Namespace::default());
        desired.backfills.push(Backfill { id, namespace, device: None, metric: None, from, to });
        let gone = desired.backfills.len().saturating_sub(5);
        desired.backfills.drain(..gone);
        self.hub.note(format!("operator: asks for {from} to {to}"));
        self.hub.count("backfills asked for", 1);
        self.store.put(&format!("site/desired/{GATEWAY}.json"), desired.to_json().into_bytes());
    }

    /// Everybody goes on until nobody has anything left to do.
    fn run_dry(&mut self) -> Result<(), String> {
        let (mut quiet, mut objects) = (0, 0);
        for round in 0..DRY_ROUNDS {
            self.dry_round();
            self.check()?;
            if round % 8 != 7 {
                continue;
            }
            // What is kept back until somebody asks has to be asked for.
            if self.what_is_left().is_some_and(|left| left.contains("wait to be sealed")) {
                self.ask(Timestamp(i64::MIN), Timestamp(i64::MAX));
            }
            let lies = self.store.keys().len();
            quiet = if self.what_is_left().is_none() && lies == objects { quiet + 1 } else { 0 };
            objects = lies;
            if quiet >= QUIET_LOOKS {
                return Ok(());
            }
            // The longer nothing helps, the further time goes on between two looks.
            self.hub.pass(match (quiet, round) {
                (1.., _) => 60 * SECOND,
                (0, ..400) => 0,
                (0, ..1200) => 60 * SECOND,
                (0, _) => 1800 * SECOND,
            });
        }
        let left = self.what_is_left().unwrap_or_else(|| "objects still come and go".into());
        Err(format!("it never runs dry: {left}"))
    }

    fn dry_round(&mut self) {
        if self.agent.is_down() {
            self.hub.arm(Program::Agent, None);
            self.agent.start();
        }
        if self.receiver.is_down() {
            self.hub.arm(Program::Receiver, None);
            self.receiver.start();
        }
        if self.agent.is_live()
            && let Some(link) = self.agent.link()
        {
            if !self.broker.is_connected() {
                self.broker.connect(link);
            }
            while self.broker.send(link) {}
        }
        self.hear();
        let now = self.hub.steady();
        let (mut awake, mut next) = (0, Vec::new());
        for _ in 0..6 {
            let (agents, agent_at) = self.agent.turns(now);
            (0..agents).rev().for_each(|nth| self.turn_agent(nth));
            let (passes, receiver_at) = self.receiver.turns(now);
            (0..passes).rev().for_each(|nth| {
                self.receiver.turn(nth, now);
            });
            awake = agents + passes;
            next = [agent_at, receiver_at].into_iter().flatten().collect();
        }
        self.hub.pass(1_000);
        if awake == 0 {
            self.hub.pass(next.iter().min().map_or(SECOND, |at| at - now));
        }
    }

    /// What still has to be done before the oracle may judge.
    fn what_is_left(&mut self) -> Option<String> {
        if !self.broker.is_dry() {
            return Some("the broker has unacknowledged messages".into());
        }
        if self.agent.link().is_some_and(|link| !link.is_empty()) {
            return Some("events wait for the intake".into());
        }
        let Some(shared) = self.agent.shared() else { return Some("the agent doesn't run".into()) };
        let forked = self.oracle.surgery && shared.live().receipt.forked;
        let looked = finish(shared.buffer.run(move |b: &mut Buffer| -> anyhow::Result<Option<String>> {
            let stats = b.stats()?;
            if stats.pending_readback > 0 {
                return Ok(Some(format!("{} segments wait to be read back", stats.pending_readback)));
            }
            if stats.waiting_rows > 0 {
                return Ok(Some(format!("{} readings wait to be sealed", stats.waiting_rows)));
            }
            let side = b.gaps_to_seal()?.len() + b.rejects_to_seal(9)?.len() + b.series_to_seal().len();
            if side > 0 {
                return Ok(Some(format!("{side} rows of other tables wait to be sealed")));
            }
            let requests = b.desired_status().map(|desired| desired.backfills).unwrap_or_default();
            if let Some(one) =
                requests.iter().find(|one| !forked && one.state != "done" && one.state != "refused")
            {
                return Ok(Some(format!("backfill {} is {}", one.id, one.state)));
            }
            let entries = b.entries()?;
            let current = b.epoch();
            let open = entries.iter().find(|e| match e.state {
                Progress::Quarantined { .. } | Progress::Superseded { .. } => false,
                // Kept until a person decides.
                Progress::Delivered { .. } => !(forked && e.epoch != current),
                Progress::Sealed | Progress::Uploading { .. } | Progress::Held { .. } => true,
            });
            Ok(open.map(|e| format!("segment {} is {}", e.key.file_name(), e.state.name())))
        }));
        match looked {
            Ok(Ok(left)) => left,
            Ok(Err(e)) => Some(format!("the buffer can't be asked: {e:#}")),
            Err(e) => Some(format!("the buffer can't be asked: {e}")),
        }
    }

    fn judge(&self) -> Result<Counts, String> {
        let catalog = self.dir.path().join("cloud").join("catalog.db");
        let read = finish(lake::read(&catalog, self.files.clone(), &self.store));
        let tables = read.map_err(|e| format!("the tables can't be read: {e:#}"))?;
        let oracle = Oracle { unknowable: self.broker.unknowable.clone(), ..self.oracle.clone() };
        let counted = oracle.judge(&self.broker.messages, &tables)?;
        let mut counts = self.hub.counts();
        counts.add("messages acknowledged", self.oracle.acknowledged.len() as u64);
        counts.add("rows", counted.rows);
        counts.add("rows marked possible-duplicate", counted.marked);
        counts.add("gaps", counted.gaps);
        counts.add("windows compared", counted.windows);
        counts.add("epochs", counted.epochs);
        counts.add("seeds", 1);
        if let Some(shared) = self.agent.shared() {
            let stats = finish(shared.buffer.run(|b: &mut Buffer| b.stats()));
            let books = stats.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?.books;
            books.counters.check().map_err(|e| format!("the final counters: {e}"))?;
            counts.add("redeliveries absorbed", books.counters.messages.redelivered);
            let readings = books.counters.readings;
            if readings.waiting() + readings.outstanding() > 0 {
                return Err(format!("everything is dry, yet the counters say {readings:?}"));
            }
        }
        Ok(counts)
    }
}

/// Removes the log and the segments, and leaves the other files to be overwritten.
fn clear_files(state: &Path) -> std::io::Result<()> {
    let log: PathBuf = state.join("buffer.db-wal");
    if log.exists() {
        fs::remove_file(log)?;
    }
    fs::remove_dir_all(state.join("segments"))
}
