//! What everything in one simulation shares: seeded dice, the hand-turned clock, the trace, and who just died.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tributary_agent::buffer::Faults;
use tributary_agent::pipeline::Clock;
use tributary_contract::time::Timestamp;

use super::counts::Counts;

/// One of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// On the gateway.
    Agent,
    /// In the cloud.
    Receiver,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has its effect and is answered.
    Honest,
    /// It has no effect; there is no answer, or one that says so.
    Refused(Refusal),
    /// It has its effect, and the answer is lost.
    ReplyLost,
    /// No answer, and the effect comes later, when nobody waits for it any more. Only writes have this fate.
    Late,
}

/// How a request without effect is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No connection.
    Unreachable,
    /// The connection broke.
    Broken,
    /// 503
    Busy,
    /// 500
    Failed,
    /// 403
    Forbidden,
}

/// Shared by all parts of one simulation.
pub struct Hub(Mutex<State>);

struct State {
    dice: fastrand::Rng,
    steady: i64,
    offset: i64,
    trace: Vec<String>,
    digest: u64,
    fault_rate: f64,
    dead: [bool; 2],
    dies_in: [Option<u32>; 2],
    violation: Option<String>,
    counts: Counts,
}

impl Hub {
    /// A hub whose dice are seeded and whose wall clock shows `wall`.
    pub fn new(seed: u64, wall: Timestamp, fault_rate: f64) -> Self {
        Self(Mutex::new(State {
            dice: fastrand::Rng::with_seed(seed),
            steady: 0,
            offset: wall.micros(),
            trace: Vec::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            fault_rate,
            dead: [false; 2],
            dies_in: [None; 2],
            violation: None,
            counts: Counts::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True with probability `p`.
    pub fn chance(&self, p: f64) -> bool {
        p > 0.0 && self.state().dice.f64() < p
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.state().dice.u64(..end) }
    }

    /// A place in a list of `length`; 0 for an empty one.
    pub fn pick(&self, length: usize) -> usize {
        if length == 0 { 0 } else { self.state().dice.usize(..length) }
    }

    /// Microseconds since the simulation began; never steps back.
    pub fn steady(&self) -> i64 {
        self.state().steady
    }

    /// The wall clock of everyone.
    pub fn wall(&self) -> Timestamp {
        let state = self.state();
        Timestamp(state.steady + state.offset)
    }

    /// Lets time pass.
    pub fn pass(&self, micros: i64) {
        self.state().steady += micros.max(0);
    }

    /// Turns the wall clock, back or forth.
    pub fn turn_clock(&self, micros: i64) {
        self.state().offset += micros;
    }

    /// Appends a line to the trace.
    pub fn note(&self, line: impl Into<String>) {
        let line = line.into();
        let mut state = self.state();
        let line = format!("{:>10.3} {line}", state.steady as f64 / 1e6);
        for byte in line.bytes() {
            state.digest = (state.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        state.trace.push(line);
    }

    /// The trace and its digest so far (FNV-1a).
    pub fn trace(&self) -> (Vec<String>, u64) {
        let state = self.state();
        (state.trace.clone(), state.digest)
    }

    /// Digest of the trace so far.
    pub fn digest(&self) -> u64 {
        self.state().digest
    }

    /// Adds to a count.
    pub fn count(&self, name: &'static str, n: u64) {
        self.state().counts.add(name, n);
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// From now on everything works and nobody dies.
    pub fn calm(&self) {
        let mut state = self.state();
        state.fault_rate = 0.0;
        state.dies_in = [None; 2];
    }

    /// Draws the fate of a request; `may_be_late` for writes.
    pub fn fate(&self, may_be_late: bool) -> Fate {
        let mut state = self.state();
        let rate = state.fault_rate;
        if rate <= 0.0 || state.dice.f64() >= rate {
            return Fate::Honest;
        }
        let (fate, name) = match state.dice.u8(..10) {
            0..4 => (Fate::ReplyLost, "fault: reply lost"),
            4 if may_be_late => (Fate::Late, "fault: effect late"),
            4 | 5 => (Fate::Refused(Refusal::Unreachable), "fault: unreachable"),
            6 => (Fate::Refused(Refusal::Broken), "fault: broken before"),
            7 => (Fate::Refused(Refusal::Busy), "fault: busy"),
            8 => (Fate::Refused(Refusal::Failed), "fault: failed"),
            _ => (Fate::Refused(Refusal::Forbidden), "fault: forbidden"),
        };
        state.counts.add(name, 1);
        fate
    }

    /// Something that must never be; the first one counts.
    pub fn violated(&self, what: impl Into<String>) {
        self.state().violation.get_or_insert(what.into());
    }

    /// What must never be and was.
    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    /// Lets a program die at the `passes`-th durable point from now.
    pub fn arm(&self, program: Program, passes: Option<u32>) {
        let mut state = self.state();
        state.dies_in[program as usize] = passes;
        state.dead[program as usize] = false;
    }

    /// Whether the program died at a point since it was armed.
    pub fn is_dead(&self, program: Program) -> bool {
        self.state().dead[program as usize]
    }

    /// A program passes a durable point; true if it dies there.
    pub fn passes(&self, program: Program, point: &'static str) -> bool {
        let mut state = self.state();
        let at = program as usize;
        if state.dead[at] {
            return true;
        }
        match &mut state.dies_in[at] {
            Some(0) => {
                state.dead[at] = true;
                state.counts.died(point);
            }
            Some(left) => {
                *left -= 1;
                return false;
            }
            None => return false,
        }
        drop(state);
        self.note(format!("{program:?} dies at {point:?}"));
        true
    }
}

/// The hub as the agent's clock.
pub struct HubClock(pub std::sync::Arc<Hub>);

impl Clock for HubClock {
    fn now(&self) -> Timestamp {
        self.0.wall()
    }
}

/// The hub as what the agent's buffer may die of.
pub struct HubFaults(pub std::sync::Arc<Hub>);

impl Faults for HubFaults {
    fn hit(&self, point: &'static str) -> io::Result<()> {
        if self.0.passes(Program::Agent, point) { Err(io::Error::other("killed")) } else { Ok(()) }
    }

    fn random(&self) -> io::Result<u64> {
        Ok(self.0.below(u64::MAX))
    }
}
