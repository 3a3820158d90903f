//! Campaigns of crashes: rounds of kills, stops and cuts against the real programs, counted, and gone on with later.
//!
//! Standard output gets a line of counts a round and their sums; all else goes to standard error.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tributary_tests::crash::record::Record;
use tributary_tests::crash::round::Site;
use tributary_tests::crash::schedule::{Schedule, mqtt};

const USAGE: u8 = 64;
const INTERRUPTED: u8 = 130;

/// Kill agent, receiver, broker and S3 server at random moments, and count what is in the table after each round
#[derive(Debug, Parser)]
#[command(name = "tributary-crash")]
struct Args {
    /// Rounds of the campaign; those that its log says have passed aren't run again
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// From which everything random is drawn [default: a random one, which is printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Rounds of one world after the other before a fresh one
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    per_world: u64,
    /// Run just these rounds, whatever the log says, and log nothing: FIRST..LAST, both included
    #[arg(long, value_name = "FIRST..LAST", value_parser = range, conflicts_with_all = ["rounds", "log"])]
    only: Option<(u64, u64)>,
    /// Log, a JSON line a round [default: tributary/crash.jsonl in the cache folder]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Printing can only fail where nobody listens.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(until_stopped(&args)),
        Err(error) => Err(error).context("no async runtime"),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The campaign; Ctrl-C leaves it, ends what it started, and the same command goes on later.
async fn until_stopped(args: &Args) -> anyhow::Result<ExitCode> {
    let mut stop = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        ended = campaign(args) => ended,
        _ = stop.0.recv() => Ok(ExitCode::from(INTERRUPTED)),
        _ = stop.1.recv() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

async fn campaign(args: &Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let path = args.log.clone().map_or_else(default_log, Ok)?;
    let mut record = Record::open(&path, seed)?;
    let (first, last) = args.only.unwrap_or((1, args.rounds));
    let passed = if args.only.is_some() { Default::default() } else { record.passed() };
    say(&format!("seed {seed}, rounds {first} to {last}, {} of them passed before", passed.len()))?;
    let mut site: Option<(u64, Site)> = None;
    for round in (first..=last).filter(|round| !passed.contains(round)) {
        let number = (round - 1) / args.per_world;
        let outcome = one(&mut site, number, seed, round).await;
        match outcome {
            Ok(counts) => {
                say(&format!("round {round}: {counts}"))?;
                if args.only.is_none() {
                    record.append(round, format!("{:?}", mqtt(number)), Ok(counts))?;
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                tell(&format!("round {round} of seed {seed} failed: {error}"));
                if let Some((_, mut site)) = site {
                    tell(&format!("its world is kept in {}", site.keep().display()));
                }
                let begin = number * args.per_world + 1;
                let options = format!("--seed {seed} --only {begin}..{round} --per-world {}", args.per_world);
                tell(&format!("to run it again: tests/run crash {options}"));
                if args.only.is_none() {
                    let why = error.lines().next().unwrap_or_default().to_owned();
                    record.append(round, format!("{:?}", mqtt(number)), Err(why))?;
                }
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    if args.only.is_none() {
        let (rounds, failed) = (record.passed().len(), record.failed());
        say(&format!(
            "seed {seed}, {rounds} rounds passed, {failed} failures on the way: {}",
            record.sums()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One round, in the world with this number: the one that runs, or a fresh one.
async fn one(
    site: &mut Option<(u64, Site)>,
    number: u64,
    seed: u64,
    round: u64,
) -> anyhow::Result<tributary_tests::crash::counts::Counts> {
    if site.as_ref().is_none_or(|(running, _)| *running != number) {
        drop(site.take());
        *site = Some((number, Site::start(number).await?));
    }
    let (_, site) = site.as_mut().context("no world")?;
    site.round(&Schedule::of(seed, round)).await
}

fn default_log() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set: name a --log")?.join("tributary/crash.jsonl"))
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let ends = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match ends {
        Some((first, last)) if 1 <= first && first <= last => Ok((first, last)),
        _ => Err("write FIRST..LAST, such as 4..6".to_owned()),
    }
}

/// Standard output is for data: a line of counts.
fn say(line: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("can't write to standard output")
}

fn tell(text: &str) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_hold_together() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        let args = Args::try_parse_from(["tributary-crash", "--seed", "7", "--only", "4..6"]).unwrap();
        assert_eq!((args.seed, args.only), (Some(7), Some((4, 6))));
        for wrong in [["--only", "6..4"], ["--only", "4"], ["--rounds", "0"], ["--seed", "x"]] {
            assert!(Args::try_parse_from(["tributary-crash"].iter().chain(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
