//! `tributary-agent`: arguments and exit codes; everything else is in the library.
//!
//! Exit codes: 0 done, 1 failed, 64 wrong usage, 78 wrong configuration.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tributary_agent::command::{self, Said};
use tributary_agent::config::load::{self, LoadError};
use tributary_agent::config::{Config, show};
use tributary_agent::{check, pipeline, status, telemetry};
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
    /// Name every problem of the configuration, show what is in force, and try broker, bucket and disk.
    Check(File),
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
        Command::Check(file) => with_config(&file.config, |config| {
            say(&show::show(&config));
            let findings = runtime.block_on(check::check(&config));
            for finding in &findings {
                say(&format!("{finding}\n"));
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
        Command::Topics { file, seconds, filter, json } => with_config(&file.config, |config| {
            let time = Duration::from_secs(seconds);
            ended(runtime.block_on(command::topics::topics(&config, &filter, time, json, now)))
        }),
    }
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
