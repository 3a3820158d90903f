//! The default run of the simulation: the first seeds, and proof that a seed is the same run each time.

#![forbid(unsafe_code)]

use tributary_tests::sim::campaign::{Campaign, run_seed};

/// More or other seeds: `TRIBUTARY_SIM_SEEDS=A..B`.
#[test]
fn killing_anywhere_loses_nothing_and_doubles_nothing() {
    let seeds = std::env::var("TRIBUTARY_SIM_SEEDS").unwrap_or_else(|_| "0..10000".into());
    let seeds = Campaign::parse(&seeds).unwrap();
    let many = seeds.end - seeds.start >= 5_000;
    let workers = std::thread::available_parallelism().map_or(1, Into::into);
    let (sum, failures) = Campaign { seeds, workers, most_failures: 1 }.run(|_| {});
    if let Some(failure) = failures.first() {
        let seed = failure.seed;
        let tail = failure.trace.len().saturating_sub(60);
        panic!(
            "{}\nseed {seed}: {}\nagain, whole: tests/run sim --seeds {seed}..{}",
            failure.trace[tail..].join("\n"),
            failure.why,
            seed + 1
        )
    }
    // A campaign in which nothing went wrong would prove nothing.
    let often =
        ["agent kills", "receiver kills", "fault: reply lost", "connections cut", "redeliveries absorbed"];
    let seldom = [
        "agent deaths",
        "receiver deaths",
        "acknowledgements lost on their way",
        "sessions lost",
        "broker memories lost",
        "clock turns",
        "leases lost",
        "buffers removed or restored",
        "objects deleted",
        "names taken by others",
        "fault: effect late",
        "gaps",
        "windows compared",
    ];
    for name in often.iter().chain(seldom.iter().filter(|_| many)) {
        assert!(sum.get(name) > 0, "no seed had {name}: {sum}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..10 {
        let (first, again) = (run_seed(seed).unwrap(), run_seed(seed).unwrap());
        let differs = first.trace.iter().zip(&again.trace).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!((first.digest, first.counts), (again.digest, again.counts), "seed {seed}");
    }
}
