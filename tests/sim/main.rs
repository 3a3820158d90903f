//! `tests/run sim --seeds A..B`: a campaign of simulations; one line of counts a chunk, then their sum.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tributary_tests::sim::campaign::{Campaign, Failure, run_seed};

/// Kill anywhere, in process: each seed is a run of both programs in a world of faults, the same each time.
#[derive(Parser)]
struct Args {
    /// From the first seed to before the last. One seed alone prints its trace.
    #[arg(long, value_name = "A..B", default_value = "0..10000")]
    seeds: String,
    /// Show what the programs log, on standard error, for one seed alone (levels as in `RUST_LOG`).
    #[arg(long, value_name = "LEVELS")]
    log: Option<String>,
    /// Go on after a failure, until so many seeds have failed; the first one's trace is printed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    failures: usize,
    /// Threads; default: one a processor.
    #[arg(long)]
    workers: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match Campaign::parse(&args.seeds) {
        Ok(seeds) => seeds,
        Err(e) => {
            say(&mut std::io::stderr(), &format!("--seeds: {e}"));
            return ExitCode::from(64);
        }
    };
    if let Some(levels) = &args.log {
        tracing_subscriber::fmt().with_env_filter(levels.as_str()).with_writer(std::io::stderr).init();
    }
    let began = Instant::now();
    if seeds.end - seeds.start == 1 {
        return match run_seed(seeds.start) {
            Ok(passed) => {
                passed.trace.iter().for_each(|step| say(&mut std::io::stdout(), step));
                let summary =
                    format!("seed {}: digest {:016x}: {}", seeds.start, passed.digest, passed.counts);
                say(&mut std::io::stdout(), &summary);
                ExitCode::SUCCESS
            }
            Err(failure) => failed(&failure),
        };
    }
    let workers = args.workers.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let campaign =
        Campaign { seeds: seeds.clone(), workers: workers.unwrap_or(1), most_failures: args.failures };
    let (sum, failures) = campaign.run(|line| say(&mut std::io::stdout(), line));
    let seconds = began.elapsed().as_secs_f64();
    let summary = format!("all {}..{} in {seconds:.0} s: {sum}", seeds.start, seeds.end);
    say(&mut std::io::stdout(), &summary);
    failures.first().map_or(ExitCode::SUCCESS, failed)
}

fn failed(failure: &Failure) -> ExitCode {
    let Failure { seed, why, trace } = failure;
    trace.iter().for_each(|step| say(&mut std::io::stdout(), step));
    say(&mut std::io::stdout(), &format!("seed {seed} FAILED: {why}"));
    let again = format!("again: tests/run sim --seeds {seed}..{}", seed + 1);
    say(&mut std::io::stdout(), &again);
    ExitCode::FAILURE
}

fn say(out: &mut impl std::io::Write, line: &str) {
    // A reader that went away wants no more lines.
    let _ = writeln!(out, "{line}");
}
