//! The receiver's command line: arguments, exit codes, order of start and stop.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId, Namespace};
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;
use tributary_receiver::audit::gather::gather;
use tributary_receiver::audit::judge::judge;
use tributary_receiver::bucket::s3::S3Bucket;
use tributary_receiver::bucket::{Bucket, Query};
use tributary_receiver::catalog::{Lake, LakeSettings, S3Access, Secret};
use tributary_receiver::config::check::Problems;
use tributary_receiver::config::{Config, StaticKeys, files, show};
use tributary_receiver::dedupe::{Ledger, LedgerError, LedgerHandle};
use tributary_receiver::desired::{self, Wanted};
use tributary_receiver::fleet::server::{Shown, router, serve};
use tributary_receiver::fleet::{ask, text};
use tributary_receiver::pipeline::health::Health;
use tributary_receiver::pipeline::{Pipeline, Places, run};
use tributary_receiver::recover::Parts;
use tributary_receiver::recover::rebuild::rebuild;
use tributary_receiver::recover::table::{accept_rollback, reregister};
use tributary_receiver::telemetry;
use tributary_receiver::views::{self, Engine};

/// Bad usage, as sysexits has it.
const USAGE: u8 = 64;
/// Bad configuration.
const CONFIG: u8 = 78;

#[derive(Parser)]
#[command(name = "tributary-receiver", version, about = "Registers what gateways deliver in the lake, once.")]
struct Args {
    /// Configuration file; `conf.d/*.toml` beside it is laid over it.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/tributary/receiver.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM.
    Run,
    /// Print the configuration in effect and try bucket, catalog and ledger.
    Check,
    /// Bring ledger and tables together again, while no receiver runs.
    Ledger {
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Derive from the lake alone whether tables, receipts and gateways agree.
    Audit {
        /// One JSON object instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Print the definition of a view that shows each window once, in its newest revision. Needs no configuration.
    Views {
        /// For which engine.
        #[arg(long)]
        engine: Engine,
        /// Whose table.
        #[arg(long, default_value = "tributary")]
        namespace: Namespace,
        /// What the engine calls the table, where it isn't `namespace.aggregates` (for DuckDB that of the catalog attached
        /// as `lake`).
        #[arg(long, value_name = "NAME")]
        from: Option<String>,
    },
    /// How the gateways are.
    Fleet {
        #[command(subcommand)]
        command: FleetCommand,
    },
}

#[derive(Subcommand)]
enum LedgerCommand {
    /// The ledger was lost, or is older than the tables, or another one: make it anew from tables and receipts.
    Rebuild {
        #[command(flatten)]
        how: How,
    },
    /// A table was dropped and created again, or rolled back: register what it lacks again.
    Reregister {
        /// The table, as `namespace.table`.
        table: String,
        #[command(flatten)]
        how: How,
    },
    /// A table was rolled back on purpose: leave what it lacks out of it for good.
    AcceptRollback {
        /// The table, as `namespace.table`.
        table: String,
        #[command(flatten)]
        how: How,
    },
}

#[derive(clap::Args)]
struct How {
    /// Say what would happen and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum FleetCommand {
    /// One line a gateway, the worst first.
    List {
        /// One JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// One gateway with everything that is known of it.
    Show {
        /// The gateway.
        gateway: GatewayId,
        /// One JSON object instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Ask a gateway for readings that it kept back: `fleet show` says what came of it.
    Backfill {
        /// The gateway.
        gateway: GatewayId,
        /// Whose data.
        #[arg(long, default_value = "tributary")]
        namespace: Namespace,
        /// Only this device.
        #[arg(long)]
        device: Option<String>,
        /// Only this metric.
        #[arg(long)]
        metric: Option<String>,
        /// From this event time on: a day, an instant with its zone, or how long ago (-6h).
        #[arg(long, value_name = "T", allow_hyphen_values = true)]
        from: String,
        /// Before this event time, likewise.
        #[arg(long, value_name = "T", default_value = "now", allow_hyphen_values = true)]
        to: String,
        /// A name of its own for the request.
        #[arg(long)]
        id: Option<String>,
        /// One JSON object instead of a line.
        #[arg(long)]
        json: bool,
    },
    /// The gateway is no more: what hasn't arrived of this epoch never will. Gaps say so. While no receiver runs.
    CloseEpoch {
        /// The gateway.
        gateway: GatewayId,
        /// The epoch: 16 hex digits.
        epoch: Epoch,
        #[command(flatten)]
        how: How,
    },
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let asked = !e.use_stderr();
            // Nobody is left to tell if this can't be printed.
            let _ = e.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    telemetry::start();
    if let Command::Views { engine, namespace, from } = &args.command {
        return exit(print(&views::newest(*engine, namespace.as_str(), from.as_deref())));
    }
    let outcome = prepare(&args).and_then(|prepared| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(perform(args.command, prepared))
    });
    exit(outcome)
}

fn exit(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "tributary-receiver: {e:#}");
            ExitCode::from(if e.is::<Problems>() { CONFIG } else { 1 })
        }
    }
}

/// The configuration with the secrets that it names.
struct Prepared {
    config: Config,
    keys: Option<StaticKeys>,
    token: Option<String>,
}

fn prepare(args: &Args) -> anyhow::Result<Prepared> {
    let config = files::load(&args.config)?;
    let (keys, token) = match (files::keys(&config), files::token(&config)) {
        (Ok(keys), Ok(token)) => (keys, token),
        (keys, token) => {
            let mut all = Problems::default();
            all.0.extend(keys.err().into_iter().chain(token.err()).flat_map(|p| p.0));
            return Err(all.into());
        }
    };
    Ok(Prepared { config, keys, token })
}

async fn perform(command: Command, prepared: Prepared) -> anyhow::Result<()> {
    match command {
        Command::Run => run_until_told(prepared).await,
        Command::Check => check(prepared).await,
        Command::Audit { json } => audit(json, prepared).await,
        // Answered before the configuration was read.
        Command::Views { .. } => Ok(()),
        Command::Ledger { command } => recover(command, prepared).await,
        Command::Fleet { command: FleetCommand::List { json } } => {
            let fleet = ask::ask(&prepared.config, prepared.token.as_deref()).await?;
            print(&if json { serde_json::to_string(&fleet)? } else { text::table(&fleet) })
        }
        Command::Fleet { command: FleetCommand::Show { gateway, json } } => {
            let fleet = ask::ask(&prepared.config, prepared.token.as_deref()).await?;
            let row = fleet.gateways.iter().find(|g| g.gateway == gateway.as_str());
            let row = row.with_context(|| format!("no gateway {gateway} has delivered anything"))?;
            print(&if json { serde_json::to_string(row)? } else { text::detail(row, &fleet.at) })
        }
        Command::Fleet {
            command: FleetCommand::Backfill { gateway, namespace, device, metric, from, to, id, json },
        } => {
            let now = run::now();
            let (from, to) = (Timestamp::from_words(&from, now)?, Timestamp::from_words(&to, now)?);
            let wanted = Wanted { id, namespace, device, metric, from, to };
            backfill(&prepared, &gateway, &wanted, json).await
        }
        Command::Fleet { command: FleetCommand::CloseEpoch { gateway, epoch, how } } => {
            close_epoch(&prepared.config, &gateway, epoch, &how)
        }
    }
}

/// The one place that writes to standard output. A reader that went away ends the command quietly.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}

async fn open_lake(config: &Config, keys: Option<&StaticKeys>) -> anyhow::Result<Lake> {
    let s3 = S3Access {
        endpoint: config.bucket.endpoint.clone(),
        region: config.bucket.region.clone(),
        access_key_id: keys.map(|k| k.access_key_id.clone()),
        secret_access_key: keys.map(|k| Secret::new(k.secret_access_key.clone())),
        session_token: keys.and_then(|k| k.session_token.clone()).map(Secret::new),
    };
    let catalog_db = config.catalog_db.clone();
    Lake::open(LakeSettings { catalog_db, warehouse: config.warehouse.clone(), s3 }).await.context("catalog")
}

async fn run_until_told(prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { config, keys, token } = prepared;
    // Before anything else: a second receiver on this ledger ends here.
    let mut ledger = Ledger::open(&config.ledger)?;
    if ledger.is_rebuilding()? {
        return Err(LedgerError::Rebuilding(config.ledger).into());
    }
    ledger.clear_stops()?;
    let ledger_id = ledger.id().to_string();
    let ledger = LedgerHandle::new(ledger);
    let listener = TcpListener::bind(config.fleet.listen)
        .await
        .with_context(|| format!("fleet.listen: can't listen on {}", config.fleet.listen))?;
    let lake = open_lake(&config, keys.as_ref()).await?;
    let bucket: Arc<dyn Bucket> = Arc::new(S3Bucket::new(&config.bucket, keys.as_ref()).await);
    let places = Places { prefix: config.bucket.prefix.clone(), uri_base: config.uri("") };
    let catalog = lake.router();
    let pipeline = Arc::new(Pipeline::new(
        bucket,
        Arc::new(lake),
        ledger.clone(),
        ledger_id.clone(),
        places,
        config.register,
    ));
    let token = token.map(|t| Digest::of(t.as_bytes()));
    let shown = Shown { ledger, health: pipeline.health.clone(), token };
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, router(shown, catalog), stop.clone()));
    let watched = tokio::spawn(feed_watchdog(pipeline.health.clone(), stop.clone()));
    tracing::info!(ledger = %ledger_id, page = %format!("http://{}", config.fleet.listen), "running");
    notify(&[sd_notify::NotifyState::Ready]);
    let loops = tokio::spawn(run::run(pipeline, config.list_every, stop.clone()));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    loops.await?;
    watched.await?;
    // A client that keeps its connection open doesn't keep the receiver.
    if let Ok(ended) = tokio::time::timeout(Duration::from_secs(5), server).await {
        ended?.context("fleet page")?;
    }
    Ok(())
}

/// Runs one of the commands that need the ledger for themselves.
async fn recover(command: LedgerCommand, prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { config, keys, .. } = prepared;
    let named = match &command {
        LedgerCommand::Rebuild { .. } => None,
        LedgerCommand::Reregister { table, .. } | LedgerCommand::AcceptRollback { table, .. } => {
            Some(table_name(table)?)
        }
    };
    // Refused while a receiver has it.
    let mut ledger = Ledger::open(&config.ledger)?;
    let lake = open_lake(&config, keys.as_ref()).await?;
    let bucket = S3Bucket::new(&config.bucket, keys.as_ref()).await;
    let (LedgerCommand::Rebuild { how }
    | LedgerCommand::Reregister { how, .. }
    | LedgerCommand::AcceptRollback { how, .. }) = &command;
    let parts = Parts { lake: &lake, bucket: &bucket, prefix: &config.bucket.prefix, dry_run: how.dry_run };
    let now = run::now();
    let report = match (&command, named) {
        (LedgerCommand::Reregister { .. }, Some((namespace, table))) => {
            reregister(&mut ledger, &parts, &namespace, table, now).await?
        }
        (LedgerCommand::AcceptRollback { .. }, Some((namespace, table))) => {
            accept_rollback(&mut ledger, &parts, &namespace, table, now).await?
        }
        (_, _) => rebuild(&mut ledger, &parts, now).await?,
    };
    print(&if how.json { serde_json::to_string(&report)? } else { report.text() })
}

/// Asks a gateway for readings that it kept back.
async fn backfill(
    prepared: &Prepared,
    gateway: &GatewayId,
    wanted: &Wanted,
    json: bool,
) -> anyhow::Result<()> {
    let bucket = S3Bucket::new(&prepared.config.bucket, prepared.keys.as_ref()).await;
    let written = desired::write::ask(&bucket, &prepared.config.bucket.prefix, gateway, wanted).await?;
    if !written.known {
        let _ = writeln!(
            std::io::stderr(),
            "note: no status of {gateway} lies in the bucket: it learns of this when it comes"
        );
    }
    let (id, revision) = (&written.id, written.revision);
    if json {
        return print(&serde_json::json!({"gateway": gateway, "id": id, "revision": revision}).to_string());
    }
    print(&format!("{gateway} is asked for {} to {} as {id}, in revision {revision}", wanted.from, wanted.to))
}

/// Declares what hasn't arrived of an epoch void.
fn close_epoch(config: &Config, gateway: &GatewayId, epoch: Epoch, how: &How) -> anyhow::Result<()> {
    let mut ledger = Ledger::open(&config.ledger)?;
    if ledger.is_rebuilding()? {
        return Err(LedgerError::Rebuilding(config.ledger.clone()).into());
    }
    let closed = ledger.closing(&config.bucket.prefix, gateway, epoch, run::now())?;
    let closed = closed.with_context(|| format!("the ledger knows no epoch {epoch} of gateway {gateway}"))?;
    if !how.dry_run {
        ledger.close_epoch(gateway, epoch, &closed)?;
    }
    if how.json {
        let line = serde_json::json!({
            "command": "close-epoch", "dry_run": how.dry_run, "gateway": gateway, "epoch": epoch,
            "last": closed.last, "lost": closed.lost, "gaps": closed.gaps,
        });
        return print(&line.to_string());
    }
    let will = if how.dry_run { "would be" } else { "is" };
    let lost = closed.lost.iter().map(|(a, b)| format!("{a} to {b}")).collect::<Vec<_>>().join(", ");
    let lost = if lost.is_empty() { "nothing".to_owned() } else { lost };
    print(&format!("{gateway} {epoch} {will} closed with {}; declared void: {lost}", closed.last))
}

/// Compares what lake, receipts and gateways say; fails if something doesn't fit.
async fn audit(json: bool, prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { config, keys, .. } = prepared;
    let lake = open_lake(&config, keys.as_ref()).await?;
    let bucket = S3Bucket::new(&config.bucket, keys.as_ref()).await;
    let verdict = judge(&gather(&lake, &bucket, &config.bucket.prefix).await?);
    print(&if json { serde_json::to_string(&verdict)? } else { verdict.text() })?;
    anyhow::ensure!(verdict.findings.is_empty(), "{} findings", verdict.findings.len());
    Ok(())
}

/// `namespace.table`, read.
fn table_name(text: &str) -> anyhow::Result<(Namespace, Table)> {
    let read = || {
        let (namespace, table) = text.split_once('.')?;
        Some((Namespace::new(namespace).ok()?, table.parse().ok()?))
    };
    read().with_context(|| {
        format!("invalid table {text:?}: expected `namespace.table`, as in `tributary.readings`")
    })
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(false, state) {
        tracing::warn!("service manager: {e}");
    }
}

/// Feeds the service manager's watchdog as long as the loops get on.
async fn feed_watchdog(health: Health, stop: CancellationToken) {
    let mut micros = 0;
    if !sd_notify::watchdog_enabled(false, &mut micros) {
        return;
    }
    let mut beats = health.beats();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_micros(micros / 2)) => {}
        }
        let now = health.beats();
        if now != beats {
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
        beats = now;
    }
}

/// Prints what is in effect, then tries everything and says of each how it went.
async fn check(prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { config, keys, .. } = prepared;
    print(show::show(&config).trim_end())?;
    let mut faults = 0;
    let mut tell = |what: &str, went: Result<String, String>| match went {
        Ok(how) => print(&format!("ok    {what}: {how}")),
        Err(why) => {
            faults += 1;
            print(&format!("FAIL  {what}: {}", brief(&why)))
        }
    };
    let bucket = S3Bucket::new(&config.bucket, keys.as_ref()).await;
    let query = Query { prefix: config.bucket.prefix.segments(), limit: 1, ..Query::default() };
    let answers = bucket.list(&query).await;
    let reached = answers.is_ok();
    tell("bucket", answers.map(|_| "answers".into()).map_err(|e| e.why))?;
    let catalog = match open_lake(&config, keys.as_ref()).await {
        // Its metadata lies in the bucket.
        Ok(_) if !reached => Err("its tables can't be read while the bucket doesn't answer".into()),
        Ok(lake) => lake.tables().await.map(|t| format!("{} tables", t.len())).map_err(|e| format!("{e:#}")),
        Err(e) => Err(format!("{e:#}")),
    };
    tell("catalog", catalog)?;
    let ledger = if config.ledger.exists() {
        Ledger::peek(&config.ledger).map(|_| "can be read".into()).map_err(|e| e.to_string())
    } else {
        Ok("isn't there yet; the receiver makes it at its first start".into())
    };
    tell("ledger", ledger)?;
    anyhow::ensure!(faults == 0, "{faults} of 3 checks failed");
    Ok(())
}

/// The beginning of a foreign error's first line: libraries say the same thing many times over.
fn brief(text: &str) -> String {
    const LONGEST: usize = 300;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or(line)),
        None => line.to_owned(),
    }
}
