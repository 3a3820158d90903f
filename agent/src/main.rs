//! `tributary-agent`: arguments and exit codes; everything else is in the library.
//!
//! Exit codes: 0 done, 1 failed, 64 wrong usage, 78 wrong configuration.

#![forbid(unsafe_code)]

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tributary_agent::buffer::Backfill;
use tributary_agent::command::{self, Said, check};
use tributary_agent::config::load::{self, LoadError};
use tributary_agent::config::{Config, Selection, show};
use tributary_agent::tools::access::Access;
use tributary_agent::tools::pick::Pick;
use tributary_agent::tools::rejects::Choice;
use tributary_agent::tools::{self, Found};
use tributary_agent::{heap, pipeline, status, telemetry};
use tributary_contract::time::Timestamp;

#[derive(Parser)]
#[command(
    name = "tributary-agent",
    version,
    about = "Collects MQTT sensor data on a gateway and delivers it to the lake, each reading once.",
    after_help = "Data goes to standard output, everything else to standard error. TRIBUTARY_LOG sets the log level \
                  (error, warn, info, debug, trace).\nExit codes: 0 done, 1 failed, 64 wrong usage, 78 wrong configuration."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Collect and deliver until told to stop (SIGTERM or Ctrl-C).
    Run(File),
    /// Name every problem of the configuration, show what is in force, and try brokers, disk, bucket and clock.
    Check {
        #[command(flatten)]
        file: File,
        /// Print a JSON object a finding, and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// Show how the running agent is.
    Status {
        #[command(flatten)]
        file: File,
        /// Print the whole status as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a payload on standard input would become: each reading a line of JSON.
    Decode {
        #[command(flatten)]
        file: File,
        /// The source that reads it; without, the first that takes the topic.
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// The topic that it came on.
        #[arg(long, value_name = "TOPIC", required_unless_present = "session", conflicts_with = "session")]
        topic: Option<String>,
        /// Read lines {"topic": …, "payload": … or "payload_base64": …} instead, in order, with one decoder state.
        #[arg(long)]
        session: bool,
    },
    /// Look into the buffer, whether the agent runs or not.
    #[command(subcommand)]
    Buffer(BufferCommand),
    /// The newest readings of the buffer, oldest first.
    Tail {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        names: NameArguments,
        /// How many.
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
        count: usize,
        /// Go on with what comes, until Ctrl-C.
        #[arg(short, long)]
        follow: bool,
        /// Print a JSON object a reading, with the columns of the table `readings`.
        #[arg(long)]
        json: bool,
    },
    /// Send readings after all that are kept back (`upload = "aggregates"`, `deadband`), as far as they are still here.
    Backfill {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        range: RangeArguments,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Messages that couldn't be decoded, until the lake has them.
    #[command(subcommand)]
    Rejects(RejectsCommand),
    /// Listen to the brokers for a while: what arrives, and what no source takes.
    Topics {
        #[command(flatten)]
        file: File,
        /// How long, seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        seconds: u64,
        /// What to subscribe.
        #[arg(long, value_name = "FILTER", default_value = "#")]
        filter: Vec<String>,
        /// Print a JSON object a topic.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum BufferCommand {
    /// Read and compare everything: a line a finding, and a sum. Exit code 1 when anything is wrong.
    Verify {
        #[command(flatten)]
        file: File,
        /// Have SQLite look at the structure of its file, too: of a stopped agent, which can't start meanwhile.
        #[arg(long)]
        structure: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// How much lies there, since when, by source, device and state.
    Stats {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        range: RangeArguments,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Everything about one batch, segment or series.
    Inspect {
        #[command(flatten)]
        file: File,
        /// batch, segment or series.
        kind: String,
        /// Id of a batch; NUMBER or EPOCH-NUMBER of a segment; 16 hex digits or key of a series.
        name: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write the readings of a range of time with the columns of the table `readings`.
    Export {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        range: RangeArguments,
        /// parquet, csv or jsonl.
        #[arg(long, value_name = "FORMAT", value_parser = |s: &str| s.parse::<tools::export::Format>())]
        format: tools::export::Format,
        /// A file that isn't there yet; without, standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum RejectsCommand {
    /// A line each.
    List {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        choice: ChoiceArguments,
        /// Print a JSON object a reject, payload included.
        #[arg(long)]
        json: bool,
    },
    /// One with its payload.
    Show {
        #[command(flatten)]
        file: File,
        /// Its id, as `rejects list` shows it.
        id: i64,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Try them again with the present configuration, and put what they hold into the buffer, once.
    Retry {
        #[command(flatten)]
        file: File,
        /// Ids, as `rejects list` shows them; without, all that are chosen and were kept whole.
        ids: Vec<i64>,
        #[command(flatten)]
        choice: ChoiceArguments,
        /// Print a JSON object a reject.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct NameArguments {
    /// Of this source only.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Of these devices only; `*` stands for any letters.
    #[arg(long, value_name = "GLOB")]
    device: Option<String>,
    /// Of these metrics only; `*` stands for any letters.
    #[arg(long, value_name = "GLOB")]
    metric: Option<String>,
}

#[derive(clap::Args)]
struct RangeArguments {
    /// Earliest event time: 2026-03-01, 2026-03-01T12:00:00Z, or -6h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// First event time beyond.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    #[command(flatten)]
    names: NameArguments,
}

#[derive(clap::Args)]
struct ChoiceArguments {
    /// Of this source only.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Of this reason only.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
}

impl NameArguments {
    fn pick(self) -> Pick {
        Pick { source: self.source, device: self.device, metric: self.metric, ..Pick::default() }
    }
}

impl RangeArguments {
    fn pick(self) -> Result<Pick, String> {
        let at = |text: Option<String>, none| {
            text.map_or(Ok(none), |text| Timestamp::from_words(&text, now()).map_err(|e| e.to_string()))
        };
        let everything = Pick::default();
        let (from, to) = (at(self.from, everything.from)?, at(self.to, everything.to)?);
        if to <= from {
            return Err(format!("nothing lies between --from {from} and --to {to}: name a later --to"));
        }
        Ok(Pick { from, to, ..self.names.pick() })
    }
}

impl RangeArguments {
    /// Of a year of readings nobody wants all by mistake, so that the earliest must be named.
    fn backfill(self) -> Result<Backfill, String> {
        if self.from.is_none() {
            return Err("name the earliest event time: --from 2026-03-01, or --from -6h".into());
        }
        let Pick { from, to, source, device, metric } = self.pick()?;
        let list = |glob: Option<String>| glob.into_iter().collect();
        let of = Selection { sources: list(source), devices: list(device), metrics: list(metric) };
        Ok(Backfill { of, from, to })
    }
}

impl ChoiceArguments {
    fn choice(self) -> Choice {
        Choice { source: self.source, reason: self.reason }
    }
}

#[derive(clap::Args)]
struct File {
    /// The configuration; files in `conf.d/` beside it are merged over it.
    #[arg(long, value_name = "FILE", default_value = "/etc/tributary/agent.toml")]
    config: PathBuf,
}

const FAILED: u8 = 1;
const USAGE: u8 = 64;
const CONFIG: u8 = 78;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if matches!(arguments.command, Command::Run(_)) {
        heap::keep_small();
    }
    // One loop thread, few for disk and encoding: each thread costs memory on a small board.
    let runtime =
        match tokio::runtime::Builder::new_current_thread().max_blocking_threads(4).enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return fail(&format!("can't start: {e}")),
        };
    match arguments.command {
        Command::Run(file) => with_config(&file.config, |config| {
            telemetry::start();
            match runtime.block_on(pipeline::run(config)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => fail(&format!("{e:#}")),
            }
        }),
        Command::Check { file, json } => with_config(&file.config, |config| {
            if !json {
                say(&show::show(&config));
            }
            let findings = runtime.block_on(check::check(&config));
            for finding in &findings {
                say(&if json { format!("{}\n", finding.json()) } else { format!("{finding}\n") });
            }
            if findings.iter().any(check::Finding::is_failure) {
                ExitCode::from(FAILED)
            } else {
                ExitCode::SUCCESS
            }
        }),
        Command::Status { file, json } => {
            with_config(&file.config, |config| match runtime.block_on(status::client::fetch(&config)) {
                Ok(status) if json => {
                    say(&format!("{}\n", serde_json::to_string_pretty(&status).unwrap_or_default()));
                    ExitCode::SUCCESS
                }
                Ok(status) => {
                    say(&status::text::render(&status));
                    ExitCode::SUCCESS
                }
                Err(e) => fail(&format!("{e:#}")),
            })
        }
        Command::Decode { file, source, topic, session: _ } => {
            with_config(&file.config, |config| decode(&config, source.as_deref(), topic.as_deref()))
        }
        Command::Buffer(command) => buffer(command),
        Command::Tail { file, names, count, follow, json } => with_config(&file.config, |config| {
            let (mut access, pick) = (Access::new(&config), names.pick());
            let out = &mut std::io::stdout().lock();
            told(tools::tail::tail(&mut access, &pick, count, follow, json, out, note))
        }),
        Command::Backfill { file, range, json } => {
            with_config(&file.config, |config| match range.backfill() {
                Ok(what) => {
                    let out = &mut std::io::stdout();
                    told(command::backfill::backfill(&config, what, json, out, note))
                }
                Err(why) => misused(&why),
            })
        }
        Command::Rejects(command) => rejects(command),
        Command::Topics { file, seconds, filter, json } => with_config(&file.config, |config| {
            let time = Duration::from_secs(seconds);
            ended(runtime.block_on(command::topics::topics(&config, &filter, time, json, now)))
        }),
    }
}

fn buffer(command: BufferCommand) -> ExitCode {
    let out = &mut std::io::stdout();
    match command {
        BufferCommand::Verify { file, structure, json } => with_config(&file.config, |config| {
            told(tools::verify::verify(&mut Access::new(&config), structure, json, out, note))
        }),
        BufferCommand::Stats { file, range, json } => {
            with_config(&file.config, |config| match range.pick() {
                Ok(pick) => told(tools::stats::stats(&mut Access::new(&config), &pick, json, out, note)),
                Err(why) => misused(&why),
            })
        }
        BufferCommand::Inspect { file, kind, name, json } => {
            with_config(&file.config, |config| match tools::inspect::parse(&kind, &name) {
                Ok(what) => told(tools::inspect::inspect(&mut Access::new(&config), &what, json, out)),
                Err(why) => misused(&why),
            })
        }
        BufferCommand::Export { file, range, format, output } => {
            let to_terminal = output.is_none() && std::io::stdout().is_terminal();
            if to_terminal && format == tools::export::Format::Parquet {
                return misused("Parquet is nothing for a terminal: name a file with --output");
            }
            with_config(&file.config, |config| match range.pick() {
                Ok(pick) => {
                    let (access, to) = (&mut Access::new(&config), output.as_deref());
                    let mut out = std::io::BufWriter::new(out);
                    let exported = tools::export::export(access, &pick, format, to, &mut out, note);
                    told(exported.and_then(|found| Ok(out.flush().map(|()| found)?)))
                }
                Err(why) => misused(&why),
            })
        }
    }
}

fn rejects(command: RejectsCommand) -> ExitCode {
    let out = &mut std::io::stdout();
    match command {
        RejectsCommand::List { file, choice, json } => with_config(&file.config, |config| {
            told(tools::rejects::list(&mut Access::new(&config), &choice.choice(), json, out, note))
        }),
        RejectsCommand::Show { file, id, json } => with_config(&file.config, |config| {
            told(tools::rejects::show(&mut Access::new(&config), id, json, out))
        }),
        RejectsCommand::Retry { file, ids, choice, json } => with_config(&file.config, |config| {
            told(command::retry::retry_rejects(&config, &ids, &choice.choice(), json, out, note))
        }),
    }
}

/// How a tool ended. A pipe that was closed has what it wanted.
fn told(ended: anyhow::Result<Found>) -> ExitCode {
    match ended {
        Ok(Found::Well) => ExitCode::SUCCESS,
        Ok(Found::Faults) => ExitCode::from(FAILED),
        Err(e) if is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("{e:#}")),
    }
}

fn is_closed_pipe(e: &anyhow::Error) -> bool {
    let io = e.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn misused(why: &str) -> ExitCode {
    complain(&format!("tributary-agent: {why}"));
    ExitCode::from(USAGE)
}

fn note(text: &str) {
    complain(&format!("tributary-agent: {text}"));
}

/// One payload, or a session of them, from standard input.
fn decode(config: &Config, source: Option<&str>, topic: Option<&str>) -> ExitCode {
    let mut input = Vec::new();
    if let Err(e) = std::io::stdin().read_to_end(&mut input) {
        return fail(&format!("standard input can't be read: {e}"));
    }
    ended(match topic {
        Some(topic) => command::decode::one(config, source, topic, &input, now()),
        None => command::decode::session(config, source, &String::from_utf8_lossy(&input), now()),
    })
}

fn ended(said: Said) -> ExitCode {
    say(&said.data);
    for note in &said.notes {
        complain(&format!("tributary-agent: {note}"));
    }
    if said.failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS }
}

/// Whole milliseconds, as a message's time of receipt is.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX / 1000))
}

fn with_config(file: &Path, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match load::load(file) {
        Ok(config) => then(config),
        Err(LoadError::Unreadable(message)) => {
            complain(&message);
            ExitCode::from(CONFIG)
        }
        Err(LoadError::Problems(problems)) => {
            complain(&format!("{}: {} problem(s)", file.display(), problems.len()));
            for problem in problems {
                complain(&format!("  {problem}"));
            }
            ExitCode::from(CONFIG)
        }
    }
}

fn fail(message: &str) -> ExitCode {
    complain(&format!("tributary-agent: {message}"));
    ExitCode::from(FAILED)
}

/// Data, to standard output; a closed pipe is nobody's fault.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// All else, to standard error.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
