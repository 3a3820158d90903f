//! The script of faults: which requests are struck, and how; nothing here touches a connection.

use std::time::Duration;

use super::operation::{Asked, Operation};

/// One fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Which requests it strikes.
    pub which: Which,
    /// How.
    pub spoil: Spoil,
}

/// Which requests a fault strikes: those that match, from the `first` match on, `times` at most.
#[derive(Debug, Clone, PartialEq)]
pub struct Which {
    /// The operation; none stands for all.
    pub operation: Option<Operation>,
    /// A text that the key holds; empty for all.
    pub key: &'static str,
    /// The first match that is struck, from 1.
    pub first: u32,
    /// How many are struck at most.
    pub times: u32,
    /// How probable it is that one of them is struck, 0 to 1.
    pub chance: f64,
    /// Only requests that the server answered so; the fault must be one that comes after the effect.
    pub answered: Option<u16>,
}

impl Default for Which {
    /// The next request, whatever it is.
    fn default() -> Self {
        Self { operation: None, key: "", first: 1, times: 1, chance: 1.0, answered: None }
    }
}

/// What becomes of a request that is struck.
#[derive(Debug, Clone, PartialEq)]
pub enum Spoil {
    /// Before the effect: the connection is closed, the server hears nothing.
    Cut,
    /// Before the effect: the server gets half of the body, then both connections are closed.
    CutBody,
    /// Before the effect: the server hears nothing, this is answered.
    Instead(Reply),
    /// On the way: one bit in the middle of the body is another. Strikes only requests with a body.
    FlipBit,
    /// After the effect: this is answered.
    After(Reply),
    /// After the effect: the connection is closed without a reply.
    LoseReply,
    /// After the effect: the connection is closed in the middle of the reply.
    ShortReply,
    /// Nothing is wrong, but after each piece of either body nothing moves for this long.
    Slow(Duration),
}

impl Spoil {
    /// Whether the server does what was asked, if it would.
    #[must_use]
    pub const fn has_effect(&self) -> bool {
        match self {
            Self::Cut | Self::CutBody | Self::Instead(_) | Self::FlipBit => false,
            Self::After(_) | Self::LoseReply | Self::ShortReply | Self::Slow(_) => true,
        }
    }
}

/// An answer that the server didn't give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status; 200 too.
    pub status: u16,
    /// Code of the error in the body; none for an empty body.
    pub code: Option<&'static str>,
}

impl Reply {
    /// A status with an error in the body.
    #[must_use]
    pub const fn error(status: u16, code: &'static str) -> Self {
        Self { status, code: Some(code) }
    }

    /// A status and nothing else.
    #[must_use]
    pub const fn bare(status: u16) -> Self {
        Self { status, code: None }
    }

    /// The body, as S3 words it.
    #[must_use]
    pub fn body(&self) -> String {
        self.code.map_or_else(String::new, |code| {
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>a fault by script\
                 </Message></Error>"
            )
        })
    }
}

/// Names a fault of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultId(usize);

/// Faults in the order in which they are asked; the first that strikes is the only one.
#[derive(Debug)]
pub struct Script {
    faults: Vec<Armed>,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    on: bool,
    matched: u32,
    struck: u32,
}

impl Script {
    /// An empty script; chance follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { faults: Vec::new(), random: fastrand::Rng::with_seed(seed) }
    }

    /// Adds a fault behind the others.
    pub fn add(&mut self, fault: Fault) -> FaultId {
        self.faults.push(Armed { fault, on: true, matched: 0, struck: 0 });
        FaultId(self.faults.len() - 1)
    }

    /// Strikes no more.
    pub fn clear(&mut self) {
        self.faults.iter_mut().for_each(|armed| armed.on = false);
    }

    /// How often a fault has struck.
    #[must_use]
    pub fn struck(&self, fault: FaultId) -> u32 {
        self.faults.get(fault.0).map_or(0, |armed| armed.struck)
    }

    /// What becomes of a request that comes in.
    pub fn arriving(&mut self, asked: &Asked) -> Option<Spoil> {
        self.strike(asked, None)
    }

    /// What becomes of the answer `status` to a request that wasn't struck before.
    pub fn answered(&mut self, asked: &Asked, status: u16) -> Option<Spoil> {
        self.strike(asked, Some(status))
    }

    fn strike(&mut self, asked: &Asked, answered: Option<u16>) -> Option<Spoil> {
        for armed in self.faults.iter_mut().filter(|armed| armed.on) {
            let which = &armed.fault.which;
            let matches = which.operation.is_none_or(|operation| operation == asked.operation)
                && asked.key.contains(which.key)
                && which.answered == answered
                && armed.struck < which.times;
            if !matches {
                continue;
            }
            armed.matched += 1;
            if armed.matched >= which.first && self.random.f64() < which.chance {
                armed.struck += 1;
                return Some(armed.fault.spoil.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(operation: Operation, key: &str) -> Asked {
        Asked { operation, key: key.to_owned(), part: None }
    }

    fn script(faults: &[(Which, Spoil)]) -> Script {
        let mut script = Script::new(7);
        for (which, spoil) in faults {
            script.add(Fault { which: which.clone(), spoil: spoil.clone() });
        }
        script
    }

    #[test]
    fn a_fault_strikes_its_operation_and_key_from_its_first_match_on_and_so_often_as_it_says() {
        let put = Some(Operation::PutObject);
        let which = Which { operation: put, key: "segments/", first: 2, times: 2, ..Which::default() };
        let mut script = script(&[(which, Spoil::Cut)]);
        let ours = asked(Operation::PutObject, "p/segments/1");
        assert_eq!(script.arriving(&asked(Operation::HeadObject, "p/segments/1")), None);
        assert_eq!(script.arriving(&asked(Operation::PutObject, "p/status/gw.json")), None);
        let struck: Vec<bool> = (0..5).map(|_| script.arriving(&ours).is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
        assert_eq!(script.struck(FaultId(0)), 2);
    }

    #[test]
    fn faults_of_one_operation_strike_one_after_the_other_and_none_after_the_end() {
        let mut script = script(&[(Which::default(), Spoil::Cut), (Which::default(), Spoil::LoseReply)]);
        let any = asked(Operation::GetObject, "k");
        let struck: Vec<Option<Spoil>> = (0..3).map(|_| script.arriving(&any)).collect();
        assert_eq!(struck, [Some(Spoil::Cut), Some(Spoil::LoseReply), None]);
        script.add(Fault { which: Which::default(), spoil: Spoil::Cut });
        script.clear();
        assert_eq!(script.arriving(&any), None);
    }

    #[test]
    fn a_fault_that_waits_for_an_answer_strikes_only_that_answer() {
        let hidden = Spoil::After(Reply::bare(403));
        let which = Which { operation: Some(Operation::HeadObject), answered: Some(404), ..Which::default() };
        let mut script = script(&[(which, hidden.clone())]);
        let head = asked(Operation::HeadObject, "k");
        assert_eq!(script.arriving(&head), None);
        assert_eq!(script.answered(&head, 200), None);
        assert_eq!(script.answered(&head, 404), Some(hidden));
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed_and_near_what_was_asked() {
        let run = |seed| {
            let mut script = Script::new(seed);
            let which = Which { times: u32::MAX, chance: 0.3, ..Which::default() };
            script.add(Fault { which, spoil: Spoil::Cut });
            let any = asked(Operation::PutObject, "k");
            (0..1000).map(|_| script.arriving(&any).is_some()).collect::<Vec<bool>>()
        };
        let struck = run(3).iter().filter(|struck| **struck).count();
        assert!((200..400).contains(&struck), "{struck}");
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
