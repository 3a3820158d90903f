//! Many seeds on all processors: each runs alone on one thread, counts add up, the first failure comes with its trace.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::counts::Counts;
use super::world::World;

/// Seeds that make one line of a campaign's report.
const CHUNK: u64 = 500;

/// A seed that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// What doesn't hold.
    pub why: String,
    /// Every step.
    pub trace: Vec<String>,
}

/// What a seed that passed came to.
#[derive(Debug, Clone)]
pub struct Passed {
    /// What happened.
    pub counts: Counts,
    /// Digest of the trace: the same for the same seed.
    pub digest: u64,
    /// Every step.
    pub trace: Vec<String>,
}

/// Runs one seed.
///
/// # Errors
/// What doesn't hold, with the trace.
pub fn run_seed(seed: u64) -> Result<Passed, Box<Failure>> {
    let failure = |why: String, trace| Box::new(Failure { seed, why, trace });
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| failure(e.to_string(), Vec::new()))?;
    // Nothing is spawned on it; that it has one thread is what makes the receiver work where it is polled.
    let _here = runtime.enter();
    tributary_agent::offload::stay_here();
    let mut world = World::new(seed).map_err(|e| failure(format!("{e:#}"), Vec::new()))?;
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    let (trace, digest) = world.trace();
    match ran {
        Ok(Ok(counts)) => Ok(Passed { counts, digest, trace }),
        Ok(Err(why)) => Err(failure(why, trace)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(failure(format!("panic: {text}"), trace))
        }
    }
}

/// A range of seeds.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// From the first to before the last.
    pub seeds: Range<u64>,
    /// Threads.
    pub workers: usize,
    /// After so many failures no new seed begins.
    pub most_failures: usize,
}

impl Campaign {
    /// Reads `A..B`.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub fn parse(text: &str) -> Result<Range<u64>, String> {
        let expected = || format!("got {text:?}, expected seeds as A..B, such as 0..10000");
        let (from, to) = text.split_once("..").ok_or_else(expected)?;
        let (from, to) = (from.trim().parse(), to.trim().parse());
        match (from, to) {
            (Ok(from), Ok(to)) if from < to => Ok(from..to),
            _ => Err(expected()),
        }
    }

    /// Runs all seeds; `line` is given a line for each chunk that ended and each seed that failed. Gives the sum of what
    /// passed, and the failures by seed.
    pub fn run(&self, line: impl Fn(&str) + Sync) -> (Counts, Vec<Failure>) {
        let next = AtomicU64::new(self.seeds.start);
        let done = Mutex::new((Counts::default(), Vec::<Failure>::new()));
        let done = || done.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = || done().1.len() >= self.most_failures.max(1);
        std::thread::scope(|scope| {
            for _ in 0..self.workers.max(1) {
                scope.spawn(|| {
                    loop {
                        let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                        if from >= self.seeds.end || enough() {
                            return;
                        }
                        let chunk = from..(from + CHUNK).min(self.seeds.end);
                        let mut counts = Counts::default();
                        for seed in chunk.clone() {
                            match run_seed(seed) {
                                Ok(passed) => counts.merge(&passed.counts),
                                Err(failure) => {
                                    line(&format!("seed {seed} FAILED: {}", failure.why));
                                    done().1.push(*failure);
                                }
                            }
                            if enough() {
                                break;
                            }
                        }
                        line(&format!("{}..{}: {counts}", chunk.start, chunk.end));
                        done().0.merge(&counts);
                    }
                });
            }
        });
        let (counts, mut failures) = std::mem::take(&mut *done());
        failures.sort_by_key(|f| f.seed);
        (counts, failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_seeds_are_read_or_refused_with_a_sentence() {
        assert_eq!(Campaign::parse("3..5"), Ok(3..5));
        for wrong in ["", "5", "5..5", "5..3", "a..b", "-1..2"] {
            assert!(Campaign::parse(wrong).unwrap_err().contains("A..B"), "{wrong}");
        }
    }
}
