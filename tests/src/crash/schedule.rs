//! What happens in a round and when, drawn from a seed.

use std::time::Duration;

use fastrand::Rng;

use crate::world::{Mqtt, Saves};

/// One of the four processes that are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// `tributary-agent`.
    Agent,
    /// `tributary-receiver`.
    Receiver,
    /// Mosquitto.
    Broker,
    /// The S3 server.
    Bucket,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Receiver, Self::Broker, Self::Bucket];

    /// Its word in logs and counts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Receiver => "receiver",
            Self::Broker => "broker",
            Self::Bucket => "s3",
        }
    }
}

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL, after SIGSTOP `frozen` before if that isn't zero; started again after `away`.
    Kill {
        /// How long it stands still before.
        frozen: Duration,
        /// How long it is gone.
        away: Duration,
    },
    /// SIGSTOP, and SIGCONT after so long.
    Stop {
        /// How long it stands still.
        still: Duration,
    },
}

/// A blow and its moment since the round began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When; a process that isn't back yet is struck as soon as it is.
    pub at: Duration,
    /// What.
    pub blow: Blow,
}

/// A round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Messages that are published.
    pub messages: u64,
    /// Pause between two of them.
    pub between: Duration,
    /// What each process suffers, in the order of [`Victim::ALL`], each in order of time.
    pub blows: [Vec<Moment>; 4],
    /// When all connections between broker and agent are cut.
    pub cuts: Vec<Duration>,
}

/// How long faults go on.
const SPAN: Duration = Duration::from_millis(3_500);
/// Fewest and most kills of each process in a round, in the order of [`Victim::ALL`]: twelve at least in all.
const KILLS: [(u64, u64); 4] = [(4, 6), (4, 6), (2, 3), (2, 4)];

impl Schedule {
    /// The round with this number, from 1, of the campaign with this seed.
    #[must_use]
    pub fn of(seed: u64, round: u64) -> Self {
        let mut rng = rng(seed, round);
        // From slower than the agent's commits to far faster.
        let messages = rng.u64(150..=600);
        let between = SPAN / u32::try_from(messages).unwrap_or(1);
        let blows = KILLS.map(|(fewest, most)| {
            let mut moments: Vec<Moment> = Vec::new();
            for _ in 0..rng.u64(fewest..=most) {
                let frozen = if rng.u8(..) < 50 { millis(&mut rng, 300) } else { Duration::ZERO };
                let away = millis(&mut rng, 300);
                moments.push(Moment { at: within(&mut rng, SPAN), blow: Blow::Kill { frozen, away } });
            }
            if rng.bool() {
                let still = millis(&mut rng, 800);
                moments.push(Moment { at: within(&mut rng, SPAN), blow: Blow::Stop { still } });
            }
            moments.sort_by_key(|moment| moment.at);
            moments
        });
        let mut cuts: Vec<_> = (0..rng.u64(0..=3)).map(|_| within(&mut rng, SPAN)).collect();
        cuts.sort();
        Self { messages, between, blows, cuts }
    }

    /// How often a process is killed.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let kill = |moment: &&Moment| matches!(moment.blow, Blow::Kill { .. });
        self.blows.iter().flatten().filter(kill).count() as u64
    }
}

/// The MQTT of the world with this number, from 0: both versions in turn, each with a broker that has forgotten
/// everything after a kill, and with one that has kept what was so a moment before.
#[must_use]
pub fn mqtt(world: u64) -> Mqtt {
    match world % 4 {
        0 => Mqtt::MosquittoV5(Saves::EachSecond),
        1 => Mqtt::MosquittoV4(Saves::AtStop),
        2 => Mqtt::MosquittoV5(Saves::AtStop),
        _ => Mqtt::MosquittoV4(Saves::EachSecond),
    }
}

/// Rounds of one seed share nothing but the seed: each can be drawn alone.
fn rng(seed: u64, round: u64) -> Rng {
    Rng::with_seed(seed ^ round.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Up to so many milliseconds, short ones more often.
fn millis(rng: &mut Rng, most: u64) -> Duration {
    let (one, two) = (rng.u64(0..=most), rng.u64(0..=most));
    Duration::from_millis(one.min(two))
}

fn within(rng: &mut Rng, span: Duration) -> Duration {
    Duration::from_micros(rng.u64(0..u64::try_from(span.as_micros()).unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_drawn_from_its_seed_alone() {
        assert_eq!(Schedule::of(7, 3), Schedule::of(7, 3));
        assert_ne!(Schedule::of(7, 3), Schedule::of(7, 4));
        assert_ne!(Schedule::of(7, 3), Schedule::of(8, 3));
    }

    #[test]
    fn each_round_kills_each_process_and_at_least_a_dozen_in_all() {
        for round in 1..200 {
            let schedule = Schedule::of(round * 31, round);
            assert!(schedule.kills() >= 12, "{schedule:?}");
            for blows in &schedule.blows {
                assert!(blows.iter().any(|moment| matches!(moment.blow, Blow::Kill { .. })), "{schedule:?}");
                assert!(blows.is_sorted_by_key(|moment| moment.at) && blows.iter().all(|m| m.at < SPAN));
            }
        }
    }

    #[test]
    fn four_worlds_have_both_versions_and_both_ways_of_saving() {
        let kinds: Vec<String> = (0..4).map(|world| format!("{:?}", mqtt(world))).collect();
        let distinct: std::collections::BTreeSet<_> = kinds.iter().collect();
        assert_eq!(distinct.len(), 4, "{kinds:?}");
        assert!(matches!((mqtt(0), mqtt(1)), (Mqtt::MosquittoV5(_), Mqtt::MosquittoV4(_))));
    }
}
