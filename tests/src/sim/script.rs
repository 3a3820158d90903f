//! What a seed decides before anything happens: how large the run is, what kind of broker, how often what goes wrong.

use tributary_contract::time::Timestamp;

/// 2026-01-01T12:00:00 UTC.
const NOON: i64 = 1_767_268_800_000_000;
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;

/// How a broker sends again what wasn't acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Under the same id, with DUP: Mosquitto, and what the standard says.
    Marks,
    /// Under new ids, without DUP: rumqttd.
    Renumbers,
    /// As the first, and also on the live connection.
    Resends,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Script {
    /// Steps before everything is let run dry.
    pub steps: u64,
    /// Messages that sensors publish.
    pub messages: u32,
    /// The broker.
    pub kind: Kind,
    /// How many unacknowledged messages it has on the way.
    pub window: u16,
    /// What the wall clock shows at first.
    pub begin: Timestamp,
    /// Whether the agent closes windows.
    pub windows: bool,
    /// Readings at which a segment is sealed.
    pub max_rows: u64,
    /// Bytes above which a segment goes in parts.
    pub part_size: u64,
    /// Milliseconds that a message may wait for its commit.
    pub commit_ms: u64,
    /// Segments in one batch of the receiver.
    pub max_files: usize,
    /// Probability that a request to the bucket or the catalog meets a fault.
    pub fault_rate: f64,
    /// Probabilities per step.
    pub chances: Chances,
    /// Whether there are windows that hop besides.
    pub hopping: bool,
    /// Whether there are windows in a time zone besides.
    pub zoned: bool,
    /// Whether readings with their own time stay at the gateway until somebody asks for them, where there are windows.
    pub kept: bool,
}

/// One kind of windows. The offsets of its zone are whole multiples of a step, so that its windows begin as those of UTC.
#[derive(Debug, Clone, Copy)]
pub struct WindowKind {
    /// Name.
    pub name: &'static str,
    /// Length, microseconds.
    pub size: i64,
    /// From one begin to the next, microseconds.
    pub every: i64,
    /// Time zone.
    pub zone: &'static str,
}

const KINDS: [WindowKind; 3] = [
    WindowKind { name: "10s", size: 10_000_000, every: 10_000_000, zone: "UTC" },
    WindowKind { name: "30s every 10s", size: 30_000_000, every: 10_000_000, zone: "UTC" },
    WindowKind { name: "local", size: 20_000_000, every: 20_000_000, zone: "America/St_Johns" },
];

/// Which kinds of windows there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kinds([bool; 3]);

impl Kinds {
    /// Those of the script.
    pub fn of(script: &Script) -> Self {
        Self([true, script.hopping, script.zoned].map(|there| there && script.windows))
    }

    /// One after the other.
    pub fn all(self) -> impl Iterator<Item = &'static WindowKind> {
        KINDS.iter().zip(self.0).filter(|(_, there)| *there).map(|(kind, _)| kind)
    }
}

/// What goes wrong, each with its probability per step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chances {
    /// The agent is killed where it stands.
    pub kill_agent: f64,
    /// The receiver is.
    pub kill_receiver: f64,
    /// A program that starts is set to die at a durable point.
    pub die_at_point: f64,
    /// The agent is told to stop.
    pub stop_agent: f64,
    /// The connection to the broker breaks.
    pub cut_link: f64,
    /// The broker loses its sessions.
    pub lose_session: f64,
    /// The broker goes back to an older state of its sessions.
    pub forget: f64,
    /// The wall clock steps.
    pub turn_clock: f64,
    /// An object is deleted before it is registered.
    pub delete: f64,
    /// Operators ask for readings.
    pub ask: f64,
    /// Another's object takes a segment's name (per segment).
    pub foreign: f64,
    /// The lease file is lost while the agent is down (per start).
    pub lose_lease: f64,
    /// The buffer is removed, or an older copy of it restored, while the agent is down (per start).
    pub surgery: f64,
}

impl Script {
    /// The script of a seed.
    pub fn of(seed: u64) -> Self {
        // Other dice than those of the run: the script's length doesn't shift them.
        let mut dice = fastrand::Rng::with_seed(seed ^ 0x5eed_0f5c_0000_0000);
        let mut rare = |share: f64, p: f64| if dice.f64() < share { p * dice.f64() } else { 0.0 };
        let chances = Chances {
            kill_agent: rare(0.7, 0.01),
            kill_receiver: rare(0.5, 0.008),
            die_at_point: rare(0.7, 1.0),
            stop_agent: rare(0.3, 0.004),
            cut_link: rare(0.6, 0.02),
            lose_session: rare(0.1, 0.004),
            forget: rare(0.1, 0.004),
            turn_clock: rare(0.15, 0.01),
            delete: rare(0.1, 0.01),
            foreign: rare(0.06, 0.3),
            lose_lease: rare(0.05, 0.6),
            surgery: rare(0.04, 0.6),
            ask: 0.0,
        };
        let fault_rate = rare(0.7, 0.15);
        let kind = [Kind::Marks, Kind::Marks, Kind::Renumbers, Kind::Resends][dice.usize(..4)];
        let near_midnight = 12 * HOUR - dice.i64(5..40) * SECOND;
        Self {
            steps: dice.u64(150..900),
            messages: dice.u32(4..50),
            kind,
            window: dice.u16(2..24),
            begin: Timestamp(NOON + if dice.u8(..4) == 0 { near_midnight } else { 0 }),
            windows: dice.bool(),
            max_rows: dice.u64(2..40),
            part_size: if dice.u8(..4) == 0 { 4000 } else { 8 << 20 },
            commit_ms: [100, 500, 1000][dice.usize(..3)],
            max_files: dice.usize(1..6),
            fault_rate,
            hopping: dice.bool(),
            zoned: dice.bool(),
            kept: dice.bool(),
            chances: Chances { ask: if dice.bool() { 0.02 } else { 0.0 }, ..chances },
        }
    }
}
