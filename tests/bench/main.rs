//! The bench: what durable ingest costs, beside programs that promise less, measured in turn in one run.
//!
//! Figures go to standard output, as a table or with `--json` one a line; what is going on goes to standard error. Each
//! figure is the median of its repetitions; its spread is the distance from the smallest to the greatest of them.

mod cost;
mod drain;
mod figures;
mod load;
mod parquet;
mod real;
mod side;
mod stages;
mod start;
mod subscriber;
mod windowing;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tributary_tests::world::World;

use crate::drain::Link;
use crate::figures::{Figure, Figures};
use crate::side::{Outcome, Side};
use crate::start::Backlog;
use crate::windowing::Took;

const USAGE: u8 = 64;

/// Measure what the agent costs, beside what it is compared with
#[derive(Debug, Parser)]
#[command(name = "tributary-bench")]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Messages a second that are offered, each a row of the table
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "10,100,1000,10000")]
    rates: Vec<u64>,
    /// For how long each side is offered them
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How often each side has its turn; figures are medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Series of the part that measures memory
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    series: u64,
    /// Minutes of readings of the part that measures windows
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Seconds from a reading of a series to its next, of the part that measures windows
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// MiB of backlog of the part that measures starts
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    backlog: u64,
    /// One link alone of the part that drains a backlog
    #[arg(long, value_name = "NAME", value_parser = ["16_kbit", "2_mbit", "100_mbit"])]
    link: Option<String>,
    /// One JSON object a figure
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Ingest alone
    Ingest,
    /// Memory alone
    Memory,
    /// Windows alone
    Windows,
    /// Starts alone
    Start,
    /// Draining a backlog over narrow links alone
    Drain,
    /// Sizes of segments alone
    Parquet,
    /// One side of the part that measures windows
    #[command(hide = true)]
    WindowingSide(windowing::Options),
    /// What the agent is compared with; the bench starts it
    #[command(hide = true)]
    Subscriber(subscriber::Options),
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(&args)),
        Err(error) => Err(error).context("no async runtime"),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    match &args.part {
        Some(Part::Subscriber(options)) => return subscriber::run(options).await,
        Some(Part::Ingest) => ingest(args, &mut figures).await?,
        Some(Part::WindowingSide(options)) => return windowing::side(options).await,
        Some(Part::Memory) => memory(args, &mut figures).await?,
        Some(Part::Windows) => windows(args, &mut figures).await?,
        Some(Part::Start) => starts(args, &mut figures).await?,
        Some(Part::Drain) => drains(args, &mut figures).await?,
        Some(Part::Parquet) => parquet::measure(&mut figures)?,
        None => {
            ingest(args, &mut figures).await?;
            memory(args, &mut figures).await?;
            windows(args, &mut figures).await?;
            starts(args, &mut figures).await?;
            drains(args, &mut figures).await?;
            parquet::measure(&mut figures)?;
        }
    }
    figures.print(args.json)
}

/// Each side at each rate, in turn.
async fn ingest(args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    for &rate in &args.rates {
        let mut outcomes: [Vec<Outcome>; 3] = Default::default();
        for turn in 1..=args.repeat {
            for (side, outcomes) in Side::ALL.into_iter().zip(&mut outcomes) {
                tell(&format!("{rate} messages a second, {} ({turn} of {})", side.name(), args.repeat));
                outcomes.push(side::ingest(side, rate, args.seconds).await?);
            }
        }
        let [agent, rows, noop] = &outcomes;
        for (side, outcomes) in Side::ALL.into_iter().zip(&outcomes) {
            let mut figure = |what: &str, unit, value: fn(&Outcome) -> Option<f64>| {
                let values: Vec<f64> = outcomes.iter().filter_map(value).collect();
                figures.add(Figure::of(format!("{what}@{rate}"), &values, unit, side.name()));
            };
            figure("stored_per_second", "msg/s", |o| Some(o.rate()));
            figure("commits_per_second", "1/s", |o| o.commits.map(|commits| commits as f64 / o.seconds));
            figure("flash_per_payload_byte", "B/B", Outcome::flash);
            figure("cpu_per_message", "µs", |o| Some(o.cpu_seconds / o.stored as f64 * 1e6));
        }
        for (name, other) in [("rows", rows), ("noop", noop)] {
            let pairs = agent.iter().zip(other);
            let (rates, costs): (Vec<f64>, Vec<f64>) = pairs
                .map(|(a, o)| {
                    let cpu = |o: &Outcome| o.cpu_seconds / o.stored as f64;
                    (a.rate() / o.rate(), cpu(a) / cpu(o))
                })
                .unzip();
            let against = if name == "rows" { Side::Rows } else { Side::Noop }.name();
            figures.add(Figure::of(format!("ingest_vs_{name}@{rate}"), &rates, "×", against));
            figures.add(Figure::of(format!("ingest_cpu_vs_{name}@{rate}"), &costs, "×", against));
        }
    }
    Ok(())
}

/// The agent with few series and with many.
async fn memory(args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    for series in [10, args.series] {
        let mut usages = Vec::new();
        for turn in 1..=args.repeat {
            tell(&format!("memory with {series} series in three windows ({turn} of {})", args.repeat));
            usages.push(side::memory(series).await?);
        }
        for (what, value) in [("idle_pss_mib", 0), ("pss_mib", 1), ("peak_rss_mib", 2)] {
            let values: Vec<f64> =
                usages.iter().map(|usage| usage[value] as f64 / (1 << 20) as f64).collect();
            figures.add(Figure::of(format!("{what}@{series}_series"), &values, "MiB", Side::Agent.name()));
        }
    }
    Ok(())
}

/// The same readings with three windows and without, in turn.
async fn windows(args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for turn in 1..=args.repeat {
        tell(&format!("{} series without windows and in three ({turn} of {})", args.series, args.repeat));
        without.push(windowing::measure(false, args.series, args.minutes, args.every).await?);
        with.push(windowing::measure(true, args.series, args.minutes, args.every).await?);
    }
    let against = "the same without windows";
    for (sides, of) in [(&with, "three windows"), (&without, against)] {
        let each: Vec<f64> = sides.iter().map(Took::each).collect();
        let peak: Vec<f64> = sides.iter().map(|took| took.peak as f64 / f64::from(1 << 20)).collect();
        figures.add(Figure::of(format!("cpu_per_reading@{}_series", args.series), &each, "µs", of));
        figures.add(Figure::of(format!("stages_peak_rss_mib@{}_series", args.series), &peak, "MiB", of));
    }
    let ratios: Vec<f64> = with.iter().zip(&without).map(|(a, b)| a.each() / b.each()).collect();
    figures.add(Figure::of(format!("windowing_cpu_vs_none@{}_series", args.series), &ratios, "×", against));
    Ok(())
}

/// Starts on an empty buffer and on great ones, in turn.
async fn starts(args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    let mqtt = tributary_tests::world::Mqtt::MosquittoV5(tributary_tests::world::Saves::AtStop);
    let world = World::without_bucket(mqtt).await?;
    let mut folders = Vec::new();
    for backlog in Backlog::ALL {
        tell(&format!("filling a buffer: {}", backlog.name()));
        folders.push((backlog, start::fill(&world, backlog, args.backlog << 20).await?, Vec::new()));
    }
    for turn in 1..=args.repeat {
        for (backlog, folder, took) in &mut folders {
            tell(&format!("a start with {} ({turn} of {})", backlog.name(), args.repeat));
            took.push(start::measure(&world, *backlog, folder).await?);
        }
    }
    let empty = folders.first().map(|(.., took)| took.clone()).unwrap_or_default();
    for (backlog, folder, took) in &folders {
        let mib = start::bytes(folder)? >> 20;
        figures.add(Figure::of(format!("start_ms@{mib}_mib"), took, "ms", backlog.name()));
        let ratios: Vec<f64> = took.iter().zip(&empty).map(|(a, b)| a / b).collect();
        figures.add(Figure::of(format!("start_vs_empty@{mib}_mib"), &ratios, "×", backlog.name()));
    }
    Ok(())
}

/// The same backlog over narrow links, by the agent and by bare PUTs, in turn.
async fn drains(args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    for link in Link::ALL.into_iter().filter(|link| args.link.as_ref().is_none_or(|name| link.name == name)) {
        let world = world().await?;
        let mut bytes = Vec::new();
        let (mut ours, mut one, mut four, mut peaks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for turn in 1..=args.repeat {
            let backlog = drain::fill(&world, link, turn).await?;
            tell(&format!("{} bytes over {} ({turn} of {})", backlog.bytes, link.name, args.repeat));
            bytes.push(backlog.bytes);
            let (took, peak) = drain::agent(&world, link, &backlog, turn).await?;
            ours.push(took);
            peaks.push(peak as f64 / f64::from(1 << 20));
            one.push(drain::puts(&world, link, &backlog, 1, turn).await?);
            four.push(drain::puts(&world, link, &backlog, 4, turn).await?);
        }
        figures.add(Figure::of(
            format!("drain_peak_rss_mib@{}", link.name),
            &peaks,
            "MiB",
            Side::Agent.name(),
        ));
        let sides =
            [(&ours, "the agent"), (&one, "bare PUTs, one by one"), (&four, "bare PUTs, four at once")];
        for (took, of) in sides {
            let turns = took.iter().zip(&bytes);
            let shares: Vec<f64> = turns.map(|(seconds, bytes)| link.needs(*bytes) / seconds).collect();
            figures.add(Figure::of(format!("share_of_line@{}", link.name), &shares, "", of));
        }
        for (puts, of) in [(&one, sides[1].1), (&four, sides[2].1)] {
            let ratios: Vec<f64> = puts.iter().zip(&ours).map(|(puts, ours)| puts / ours).collect();
            figures.add(Figure::of(format!("drain_vs_put@{}", link.name), &ratios, "×", of));
        }
    }
    Ok(())
}

/// A world whose Mosquitto has the window of the shipped lines, and no limit to its queue.
async fn world() -> anyhow::Result<World> {
    let mqtt = tributary_tests::world::Mqtt::MosquittoV5(tributary_tests::world::Saves::AtStop);
    let world = World::start(mqtt).await?;
    let lines = "allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000\n";
    world.broker.restartable()?.restart_with(lines).await?;
    Ok(world)
}

/// The agent's configuration with its own defaults of the buffer, and straight to the broker.
fn configuration(world: &World, more: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let (proxy, broker) = (world.proxy.address().to_string(), world.broker.for_agents().to_string());
    let mut changes = vec![
        (proxy.as_str(), broker.as_str()),
        ("commit_interval = \"20ms\"\n", ""),
        ("max_age = \"1s\"", "max_age = \"1m\""),
    ];
    changes.extend_from_slice(more);
    world.vary("agent.toml", "bench.toml", &changes)
}

fn tell(line: &str) {
    // Nobody may be listening, and the figures count.
    let _ = writeln!(std::io::stderr(), "{line}");
}
