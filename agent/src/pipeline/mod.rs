//! The shell around the stages: order of start and stop, five loops, and what calls what.
//!
//! *Intake* takes events of the connections, commits batches, acknowledges. *Announce* tells closed windows on the broker.
//! *Sealing* reads back, closes windows, makes segments. *Delivery* sends them, reads receipts, lets go. *Report* tells how that goes. Each loop waits, calls the
//! body of its pass, and repeats; loops wake each other, but hand nothing over except through the buffer.
//!
//! One *life* of the pipeline is one opening of the buffer. Whatever fails in it (a full disk, a broken card, a fork)
//! ends that life: connections are dropped, nothing that wasn't durable was acknowledged, and the next life begins by
//! opening the buffer as after a crash. So there is one way to start, and it is used often enough to be trusted.
//! Stopping is in order: intake commits what it has and acknowledges it; sealing and delivery end after their step;
//! the buffer is closed with the mark of a clean stop. Nothing needs the clean stop to be right.

mod alerts;
mod announce;
mod clock;
mod counters;
mod delivery;
mod folding;
mod intake;
mod link;
mod report;
pub mod retry;
mod room;
mod sealing;
mod tools;
mod shared;
mod thinning;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tributary_contract::id::Epoch;
use tributary_contract::status::{BrokerStatus, GatewayStatus, SourceStatus};
use tributary_contract::time::Timestamp;

pub use alerts::alert;
pub use announce::announce;
pub use clock::{Clock, SystemClock};
pub use delivery::Deliverer;
pub use intake::{Intake, Turn, subscribed_key};
pub use report::report;
pub use sealing::Sealer;
pub use shared::{Live, Shared, Stages, StartAgain};

use crate::buffer::{Buffer, BufferThread, Dictionary, Faults, NoFaults, OpenError, OpenEvent, OpenSettings};
use crate::config::{Config, Upload, load};
use crate::ingest::mqtt::{self, EventReceiver, Handle, QUEUE_BYTES, QUEUE_EVENTS, queue};
use crate::ingest::redelivery;
use crate::ingest::stage::Stage;
use crate::offload::offload;
use crate::status::server;
use crate::upload::s3::S3Bucket;
use crate::window::{Decided, Windows};

/// Pauses between lives that failed: from the first, doubled, to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest one while the disk is full: whoever made room wants to see that it helped.
const LONGEST_WHILE_FULL: Duration = Duration::from_secs(5);
/// How much longer a start may last, as systemd is asked again and again while it goes on.
const MORE_TIME: Duration = Duration::from_secs(60);
/// How often the status is collected.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long a loop may take to end its step when told to stop.
const GRACE: Duration = Duration::from_secs(20);
/// Windows are told at least this often.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// Sealing looks for due segments at least this often.
const SEAL_EVERY: Duration = Duration::from_secs(1);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// Only what no waiting mends: the status address is taken, another agent has the buffer, or the buffer is another
/// gateway's. All else is retried for ever, and shown.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let stop = CancellationToken::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let live = Arc::new(Mutex::new(new_live(&config, clock.now())));
    let (status, shown) = watch::channel(Arc::new(first_status(&config, &*clock)));
    info!(gateway = %config.gateway, version = env!("CARGO_PKG_VERSION"), "starting");
    let endpoint = match config.status.listen {
        Some(address) => {
            let listener = server::listen(address).await?;
            info!("status on http://{address}/status");
            let stopped = stop.clone();
            Some(tokio::spawn(server::serve(listener, shown, async move { stopped.cancelled().await })))
        }
        None => None,
    };
    let signals = tokio::spawn(wait_for_signal(stop.clone()));
    let ended = lives(&config, &live, &status, &clock, &stop).await;
    stop.cancel();
    if let Some(endpoint) = endpoint {
        // A client that holds its connection open doesn't hold us.
        let _ = timeout(Duration::from_secs(1), endpoint).await;
    }
    signals.abort();
    ended
}

/// One life of the pipeline after another, until told to stop.
async fn lives(
    config: &Arc<Config>,
    live: &Arc<Mutex<Live>>,
    status: &watch::Sender<Arc<GatewayStatus>>,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut pause = FIRST_PAUSE;
    let mut first = true;
    loop {
        let began = tokio::time::Instant::now();
        let failure = match one_life(config, live, status, clock, stop).await {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        if let Some(open) = failure.downcast_ref::<OpenError>()
            && !open.may_mend()
            && (first || !matches!(open, OpenError::Locked { .. }))
        {
            return Err(failure);
        }
        // From now on what holds the lock may be a late task of our own.
        first = false;
        if let Some(StartAgain(why)) = failure.downcast_ref::<StartAgain>() {
            info!("starting again: {why}");
            continue;
        }
        error!("{failure:#}");
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let mut reasons = vec![format!("nothing is taken in: {failure:#}")];
        if room::is_full(&failure) {
            pause = pause.min(LONGEST_WHILE_FULL);
            if room::give_up_ballast(&config.state_dir, live, clock.now()).await {
                pause = FIRST_PAUSE;
                reasons.push(room::GIVEN_UP.to_owned());
            }
        }
        shared::lock(live).intake_stopped = Some(format!("{failure:#}"));
        status.send_modify(|s| {
            let s = Arc::make_mut(s);
            s.at = clock.now();
            s.health = tributary_contract::status::Health::Losing;
            s.reasons = reasons;
        });
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// From opening the buffer to closing it.
async fn one_life(
    config: &Arc<Config>,
    live: &Arc<Mutex<Live>>,
    status: &watch::Sender<Arc<GatewayStatus>>,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (shared, stage) = patiently(open(config, live, status, clock, Seams::default())).await?;
    let shared = Arc::new(shared);
    report(&shared, clock.now()).await?;
    let time = Arc::clone(clock);
    let bucket = S3Bucket::new(&config.bucket, Arc::new(move || time.now())).await;
    let bucket = Arc::new(bucket.with_rate(config.link.max_rate));
    let (handles, events) = connect(&shared).await?;
    if let Some(first) = handles.first() {
        shared.publisher.get_or_init(|| first.publisher());
    }
    // Ends the loops of this life, whether told from outside or because one of them failed.
    let end = stop.child_token();
    let intake = spawn("intake", &end, {
        let end = end.clone();
        let intake = Intake::new(Arc::clone(&shared), stage, handles);
        async move { intake.run(events, end).await }
    });
    let sealing = spawn("sealing", &end, seal_loop(Arc::clone(&shared), Arc::clone(&bucket), end.clone()));
    let delivery = spawn("delivery", &end, deliver_loop(Arc::clone(&shared), bucket, end.clone()));
    let telling = spawn("announce", &end, announce_loop(Arc::clone(&shared), end.clone()));
    let reporting = spawn("report", &end, report_loop(Arc::clone(&shared), end.clone()));
    let asked = spawn("tools", &end, tools::answer_loop(Arc::clone(&shared), end.clone()));
    tell_systemd(&[sd_notify::NotifyState::Ready]);
    end.cancelled().await;
    if stop.is_cancelled() {
        info!("stopping");
        tell_systemd(&[sd_notify::NotifyState::Stopping]);
    }
    let mut failure = None;
    for (name, task) in [
        ("intake", intake),
        ("sealing", sealing),
        ("delivery", delivery),
        ("announce", telling),
        ("report", reporting),
        ("tools", asked),
    ] {
        match finish(name, task).await {
            Ok(()) => {}
            // A new epoch, or a full disk, is the reason even where another loop stumbled over it.
            Err(e) if failure.as_ref().is_none_or(|known| rank(&e) > rank(known)) => failure = Some(e),
            Err(e) => warn!("{e:#}"),
        }
    }
    let shared = Arc::into_inner(shared);
    if failure.is_none() && !stop.is_cancelled() {
        failure = Some(anyhow!("a loop ended that nobody told to"));
    }
    match (failure, shared) {
        (Some(failure), Some(shared)) => {
            // The next life can't open it before this one has let go of it.
            shared.buffer.close().await;
            Err(failure)
        }
        (Some(failure), None) => Err(failure),
        (None, Some(shared)) => Ok(shared.buffer.stop().await?),
        // A task that was late still holds it; the next start is one after a crash.
        (None, None) => Ok(()),
    }
}

/// How much a failure says of what follows.
fn rank(failure: &anyhow::Error) -> u8 {
    if failure.is::<StartAgain>() { 2 } else { u8::from(room::is_full(failure)) }
}

/// Where a simulation takes hold of a life of the pipeline; the default is what runs in earnest.
pub struct Seams {
    /// Where the buffer may die.
    pub faults: Arc<dyn Faults>,
    /// Who owns the buffer: a thread of its own, or [`BufferThread::here`].
    pub buffer: fn(Buffer) -> std::io::Result<BufferThread>,
    /// What tells this machine from others.
    pub fingerprint: fn() -> String,
}

impl Default for Seams {
    fn default() -> Self {
        Self { faults: Arc::new(NoFaults), buffer: BufferThread::start, fingerprint }
    }
}

/// Opens the buffer and folds what it holds into the stages' memories.
///
/// # Errors
/// The buffer's, and sources that can't be used.
pub async fn open(
    config: &Arc<Config>,
    live: &Arc<Mutex<Live>>,
    status: &watch::Sender<Arc<GatewayStatus>>,
    clock: &Arc<dyn Clock>,
    seams: Seams,
) -> anyhow::Result<(Shared, Stage)> {
    let settings = OpenSettings {
        dir: config.state_dir.clone(),
        gateway: config.gateway.clone(),
        now: clock.now(),
        fingerprint: (seams.fingerprint)(),
        faults: seams.faults,
    };
    let opened = offload(move || Buffer::open(&settings)).await.context("opening the buffer")??;
    let past_in_doubt = note_events(&opened.events, live, clock.now());
    let mut buffer = opened.buffer;
    let dictionary = buffer.dictionary();
    buffer.keep_back(uploading(config, Upload::Aggregates));
    let buffer = (seams.buffer)(buffer)?;
    if let Some(newest) = buffer.run(|b| b.newest()).await?? {
        clock.has_seen(newest);
    }
    let moment = clock.moment();
    if !moment.synced {
        // The system's own clock stood at the start; this one will be set right with all that it showed.
        let mut live = shared::lock(live);
        live.started_at = live.started_at.max(moment.wall);
    }

    let mut stage = Stage::new(config).map_err(|e| anyhow!("{e}"))?;
    stage.clock_is(moment.synced);
    // What a clock that isn't synchronised calls an hour ago may be any time.
    let since =
        if moment.synced { clock.now().plus(-config.buffer.dedupe_window) } else { Timestamp(i64::MIN) };
    let in_flight = in_flight(config);
    for memory in buffer.run(move |b| b.memories(since, in_flight)).await?? {
        match redelivery::decode(&memory) {
            Ok(remembered) => stage.restore(&remembered),
            Err(e) => {
                warn!("memory of redeliveries: {e}");
                stage.doubt_past();
            }
        }
    }
    if past_in_doubt {
        stage.doubt_past();
    }
    for (at, source) in config.sources.iter().enumerate() {
        let key = intake::decoder_key(&source.name);
        if let Some(kept) = buffer.run(move |b| b.setting(&key)).await?? {
            stage.restore_decoder(at, &kept);
        }
    }

    let (now, names, of) = (clock.now(), Arc::clone(&dictionary), Arc::clone(config));
    let windows = buffer.run(move |b| windows_of(b, &of, &names, now)).await??;
    let (names, of) = (Arc::clone(&dictionary), Arc::clone(config));
    let alerts = buffer.run(move |b| alerts::alerts_of(b, &of, &names, now)).await??;
    // Of another life.
    shared::lock(live).alerts_kept = None;
    let shared = Shared::new(
        Arc::clone(config),
        buffer,
        dictionary,
        Stages { windows, alerts },
        Arc::clone(live),
        status.clone(),
        Arc::clone(clock),
    );
    Ok((shared, stage))
}

/// The window stage as the buffer's decisions and readings have it: at the start, and when rows moved to other seqs.
fn windows_of(
    b: &mut Buffer,
    config: &Config,
    names: &Dictionary,
    now: Timestamp,
) -> anyhow::Result<Windows> {
    let mut windows = Windows::new(&config.windows, b.ordinal())
        .without(uploading(config, Upload::Readings))
        .at_most(config.limits.open_windows);
    if let Some(holes) = thinning::known_holes(b)? {
        windows.hollow(holes);
    }
    b.each_decision(Timestamp(i64::MIN), |bytes| {
        if let Some(decided) = decoded(bytes) {
            windows.restore(&decided);
        }
    })?;
    // What is beyond correction must be known before the first late reading: its decisions may be forgotten, and it would
    // be emitted as if for the first time.
    windows.due(now, false);
    let lookup = |key| names.get(key);
    let wanted = b.batches(|span| windows.must_observe_again(span))?;
    b.scan_batches(&wanted, |_, rows| windows.observe(rows, &lookup, now))?;
    Ok(windows)
}

/// Names of the sources of which that is uploaded.
pub fn uploading(config: &Config, upload: Upload) -> BTreeSet<String> {
    config.sources.iter().filter(|s| s.upload == upload).map(|s| s.name.clone()).collect()
}

/// How many messages all brokers may have on the way to us: so many come again at the worst.
fn in_flight(config: &Config) -> usize {
    config.brokers.iter().map(|b| usize::from(b.inflight_window)).sum()
}

/// Kept decisions; none where damage made them unreadable: without them windows may be emitted once more, and that is
/// better than an agent that never starts again.
fn decoded(kept: &[u8]) -> Option<Decided> {
    Decided::decode(kept).inspect_err(|e| warn!("decisions of the window stage are passed over: {e}")).ok()
}

/// Logs what opening found; true if the buffer may have forgotten messages that it once stored.
fn note_events(events: &[OpenEvent], live: &Mutex<Live>, now: Timestamp) -> bool {
    let mut live = shared::lock(live);
    live.intake_stopped = None;
    // The connections of the life before are gone.
    live.drained.fill(false);
    live.brokers.iter_mut().for_each(|broker| broker.connected = false);
    let mut doubt = false;
    for event in events {
        match event {
            OpenEvent::Created => info!("buffer created"),
            OpenEvent::Clean => info!("buffer opened"),
            OpenEvent::Unclean => info!("buffer opened after a stop that wasn't clean"),
            OpenEvent::LeaseLost(why) => warn!("the lease can't be read: {why}"),
            OpenEvent::Damaged { why, aside } => {
                doubt = true;
                let kept =
                    aside.as_ref().map(|p| format!("; it is kept in {}", p.display())).unwrap_or_default();
                warn!("the buffer is damaged: {why}{kept}");
                live.losses.push(format!("the buffer was damaged: {why}{kept}"));
            }
            OpenEvent::Salvaged { batches, lost } => {
                warn!(batches, lost, "salvaged what had a right checksum");
                if *lost > 0 {
                    live.losses.push(format!("{lost} rows of the damaged buffer could not be read"));
                }
            }
            OpenEvent::NewEpoch { epoch, why } => {
                doubt = true;
                warn!(%epoch, "new epoch: {why}");
                live.notices.insert("epoch", format!("epoch {epoch} began: {why}"));
            }
            OpenEvent::Migrated { from, to } => {
                info!(from, to, "the buffer's tables were brought to this version")
            }
            OpenEvent::BallastGivenUp(bytes) => room::note_given_up(*bytes, &mut live, now),
            OpenEvent::ReadbackPending(n) => info!(segments = n, "to be read back before anything is sealed"),
        }
    }
    doubt
}

/// Starts the connections.
async fn connect(shared: &Arc<Shared>) -> anyhow::Result<(Vec<Handle>, EventReceiver)> {
    let config = &shared.config;
    let filters = mqtt::filters(config).map_err(|e| anyhow!("{e}"))?;
    let start = shared.buffer.run(count_start).await??;
    let (sender, events) = queue(QUEUE_EVENTS, QUEUE_BYTES);
    let mut handles = Vec::with_capacity(config.brokers.len());
    for (broker, connection) in config.brokers.iter().enumerate() {
        let key = intake::subscribed_key(broker);
        let subscribed = shared.buffer.run(move |b| b.setting(&key)).await??;
        let clock = Arc::clone(&shared.clock);
        let settings = mqtt::Settings {
            broker,
            connection: connection.clone(),
            filters: filters.clone(),
            payload_limit: config.limits.payload,
            commit_interval: config.buffer.commit_interval,
            start,
            subscribed: subscribed.and_then(|bytes| String::from_utf8(bytes).ok()),
            clock: Arc::new(move || clock.now()),
        };
        let handle = mqtt::start(settings, sender.clone()).with_context(|| format!("broker[{broker}]"))?;
        handles.push(handle);
    }
    Ok((handles, events))
}

/// Generations of connections must grow over restarts: each start has a number of its own.
///
/// # Errors
/// The buffer's.
pub fn count_start(b: &mut Buffer) -> anyhow::Result<u32> {
    const KEY: &str = "starts";
    let before = b.setting(KEY)?.and_then(|v| v.try_into().ok()).map_or(0, u32::from_le_bytes);
    let now = before.wrapping_add(1);
    b.set_setting(KEY, &now.to_le_bytes())?;
    Ok(now)
}

async fn seal_loop(shared: Arc<Shared>, bucket: Arc<S3Bucket>, end: CancellationToken) -> anyhow::Result<()> {
    let mut sealer = Sealer::new(Arc::clone(&shared));
    while !end.is_cancelled() {
        sealer.pass(&*bucket, shared.now()).await?;
        tokio::select! {
            () = end.cancelled() => break,
            () = sleep(SEAL_EVERY) => {}
        }
    }
    Ok(())
}

async fn announce_loop(shared: Arc<Shared>, end: CancellationToken) -> anyhow::Result<()> {
    let tells = shared.config.windows.iter().any(|w| w.publish.is_some());
    if !tells && shared.alerts().is_idle() {
        end.cancelled().await;
    }
    while !end.is_cancelled() {
        alert(&shared, shared.now()).await?;
        announce(&shared, shared.now()).await?;
        tokio::select! {
            () = end.cancelled() => break,
            () = shared.committed.notified() => {}
            // Of a device that fell silent nothing is committed.
            () = sleep(ANNOUNCE_EVERY) => {}
        }
    }
    Ok(())
}

async fn deliver_loop(
    shared: Arc<Shared>,
    bucket: Arc<S3Bucket>,
    end: CancellationToken,
) -> anyhow::Result<()> {
    let mut deliverer = Deliverer::new(Arc::clone(&shared), bucket);
    loop {
        // Dropping a request halfway is safe: what it did is found out after the next start.
        let wait = tokio::select! {
            () = end.cancelled() => return Ok(()),
            wait = deliverer.pass(shared.now()) => wait?,
        };
        tokio::select! {
            () = end.cancelled() => return Ok(()),
            () = shared.sealed.notified() => {}
            () = sleep(wait) => {}
        }
    }
}

async fn report_loop(shared: Arc<Shared>, end: CancellationToken) -> anyhow::Result<()> {
    loop {
        report(&shared, shared.now()).await?;
        tell_systemd(&[sd_notify::NotifyState::Watchdog]);
        tokio::select! {
            () = end.cancelled() => return Ok(()),
            () = sleep(REPORT_EVERY) => {}
        }
    }
}

/// Starts a loop; its end, well or not, ends the others.
fn spawn(
    name: &'static str,
    end: &CancellationToken,
    body: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> JoinHandle<anyhow::Result<()>> {
    let end = end.clone();
    tokio::spawn(async move {
        let _guard = end.drop_guard();
        body.await.with_context(|| name)
    })
}

/// Waits for a loop to end within its grace.
async fn finish(name: &str, mut task: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    match timeout(GRACE, &mut task).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(e)) => Err(anyhow!("{name} ended early: {e}")),
        Err(_) => {
            warn!("{name} didn't end within {} s", GRACE.as_secs());
            task.abort();
            // What it holds is free only once it is gone.
            let _ = timeout(Duration::from_secs(1), task).await;
            Ok(())
        }
    }
}

/// Both signals mean the same: stop.
async fn wait_for_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals can't be listened to; only SIGKILL will stop this process");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    stop.cancel();
}

/// Asks systemd for more time as long as `opening` goes on: after a power cut a great buffer is read from end to end.
async fn patiently<T>(opening: impl Future<Output = T>) -> T {
    tokio::pin!(opening);
    loop {
        tell_systemd(&[sd_notify::NotifyState::ExtendTimeoutUsec(MORE_TIME.as_micros() as u32)]);
        tokio::select! {
            opened = &mut opening => return opened,
            () = sleep(MORE_TIME / 3) => {}
        }
    }
}

/// Says so to systemd, where it asked to be told; elsewhere nothing happens.
fn tell_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(false, states) {
        warn!("systemd can't be told: {e}");
    }
}

/// What tells this machine from others; the buffer adds the inode of its file.
pub fn fingerprint() -> String {
    let of = |fact: Option<String>| fact.unwrap_or_else(|| "unknown".into());
    format!("{} {}", of(load::machine_id()), of(load::board_serial()))
}

/// What a running agent knows before anything has happened.
pub fn new_live(config: &Config, now: Timestamp) -> Live {
    let broker = |b: &crate::config::Broker| BrokerStatus {
        url: format!("{}://{}:{}", if b.tls { "mqtts" } else { "mqtt" }, b.host, b.port),
        since: Some(now),
        ..BrokerStatus::default()
    };
    Live {
        started_at: now,
        brokers: config.brokers.iter().map(broker).collect(),
        drained: vec![false; config.brokers.len()],
        sources: config
            .sources
            .iter()
            .map(|s| SourceStatus { name: s.name.clone(), ..Default::default() })
            .collect(),
        ..Live::default()
    }
}

/// Before the buffer is open nothing is known but who we are.
pub fn first_status(config: &Config, clock: &dyn Clock) -> GatewayStatus {
    let facts = crate::status::Facts {
        gateway: config.gateway.clone(),
        epoch: Epoch(0),
        at: clock.now(),
        started_at: clock.now(),
        tags: config.tags.clone(),
        namespaces: config.namespaces(),
        counters: Default::default(),
        redelivered: Default::default(),
        rejected: Default::default(),
        too_late: 0,
        alerts: 0,
        buffer: Default::default(),
        segments: Default::default(),
        link: Default::default(),
        brokers: Vec::new(),
        sources: Vec::new(),
        receipt: Default::default(),
        flash: None,
        desired: None,
        intake_stopped: None,
        losses: Vec::new(),
        notices: vec!["the buffer is being opened".into()],
    };
    crate::status::judge(facts)
}
