//! The demo: real data from an MQTT broker through agent, bucket and receiver into Iceberg tables, on one machine.
//!
//! Standard output gets one JSON line when everything sent is registered; all else goes to standard error.

mod config;
mod data;
mod home;
mod children;
mod chaos;
mod publisher;
mod replay;
mod progress;
mod count;
mod watch;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tributary_tests::mqtt::{EmbeddedBroker, NumberSet, Proxy};
use tributary_tests::s3::{S3Options, S3Server};

use crate::chaos::{Chaos, Kills, Servers, Told};
use crate::children::Children;
use crate::config::{BUCKET, Origin, REGION, WAREHOUSE};
use crate::count::Counts;
use crate::data::{Survey, gateway_name};
use crate::home::{Credentials, Home, Kept, Ports};
use crate::progress::{Lag, Progress, Screen};
use crate::publisher::Upstream;
use crate::watch::Watch;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an agent may take to subscribe before it is said that it hasn't.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(60);
/// Messages per second while programs are killed.
const CHAOS_RATE: f64 = 1_000.0;
const USAGE: u8 = 64;

/// Watch real sensor data go from an MQTT broker into an Iceberg table, each reading once
#[derive(Debug, Parser)]
#[command(name = "tributary-demo")]
struct Args {
    /// CSV file to replay, plain or .zst, header ts,device,metric,value, RFC 3339 time; may be given again
    /// [default: a day of a weather station]
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Number of agents the series are dealt out to
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    gateways: u16,
    /// Messages per second [default: as fast as it goes]
    #[arg(long, value_name = "MSGS_PER_S", value_parser = rate)]
    rate: Option<f64>,
    /// Read your own broker instead of a replay: mqtt://[user:password@]host[:port], plain TCP only
    #[arg(long, value_name = "URL", requires = "topic", conflicts_with_all = ["data", "rate", "gateways", "exit"])]
    broker: Option<String>,
    /// Topic filter to subscribe to at that broker
    #[arg(long, value_name = "FILTER", requires = "broker")]
    topic: Option<String>,
    /// Folder for everything, kept: a second start goes on where it was [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// First of consecutive fixed ports [default: free ports]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port_base: Option<u16>,
    /// Kill agent, receiver, S3 server and (where Mosquitto is installed) broker again and again meanwhile
    #[arg(long, conflicts_with = "broker")]
    chaos: bool,
    /// Leave when everything sent is registered, with status 1 if the counts don't agree
    #[arg(long)]
    exit: bool,
}

/// The line on standard output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    counts: Counts,
    #[serde(flatten)]
    places: &'a Places,
    /// Processes killed, with `--chaos`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kills: Option<usize>,
}

/// Where everything can be found.
#[derive(Clone, Debug, Serialize)]
struct Places {
    s3_endpoint: String,
    access_key_id: String,
    secret_access_key: String,
    region: &'static str,
    catalog_uri: String,
    rest_uri: String,
    warehouse: &'static str,
    page: String,
}

/// What is replayed, and how far it had come before.
struct Script {
    files: Vec<PathBuf>,
    survey: Survey,
    kept: Kept,
}

/// Somebody's own broker.
struct Foreign {
    upstream: String,
    origin: Origin,
    password: Option<String>,
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
    let mut screen = Screen::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(demo(&args, &mut screen));
            runtime.shutdown_timeout(Duration::from_secs(1));
            ended
        }
        Err(error) => Err(error).context("no async runtime"),
    };
    screen.clear();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            screen.say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Sets everything up, runs until it is done or stopped, and takes it down. False when the counts don't agree.
async fn demo(args: &Args, screen: &mut Screen) -> anyhow::Result<bool> {
    let mut stop = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let home = Home::open(args.dir.as_deref())?;
    log_to(&home)?;
    let foreign = args.broker.as_deref().map(|url| foreign(url, args.topic.as_deref())).transpose()?;
    let gateways = usize::from(args.gateways);
    let script = if foreign.is_some() { None } else { Some(script(args, &home, gateways).await?) };
    screen.clear();
    let programs = tokio::select! {
        programs = children::programs() => programs?,
        () = stopped(&mut stop) => return Ok(true),
    };

    children::stop_all_left_behind(&home, gateways).await?;
    let credentials = home.credentials()?;
    let ports = home.ports(args.port_base, gateways)?;
    let mut servers = Servers::default();
    let mut s3 = None;
    if args.chaos {
        servers = Servers::start(&home, &ports, &programs.s3)?;
        servers.all_answer().await?;
    } else {
        s3 = Some(S3Server::start(s3_options(&home, &ports, &credentials)?).await?);
    }
    let s3_endpoint = format!("http://{}", local(ports.s3));
    let places = places(&home, &ports, &credentials, s3_endpoint.clone());
    let (origin, upstream, broker) = match foreign {
        Some(foreign) => {
            if let Some(password) = &foreign.password {
                home.write("broker-password", password)?;
            }
            (foreign.origin, foreign.upstream, None)
        }
        None if servers.broker => {
            let broker = local(ports.broker);
            (Origin::Replay, broker.to_string(), Some(broker))
        }
        None => {
            let broker = EmbeddedBroker::start(local(ports.broker)).await?;
            (Origin::Replay, broker.address_v5().to_string(), Some(broker.address_v4()))
        }
    };
    let proxies = proxies(&ports, &upstream).await?;

    let mut children = Children::default();
    let config = home.write("receiver.toml", &config::receiver(&home, &ports, &s3_endpoint)?)?;
    children.start(&home, "receiver", &programs.receiver, &config)?;
    for (gateway, &gateway_ports) in ports.gateways.iter().enumerate() {
        let name = gateway_name(gateway);
        home.folder(&name)?;
        let text = config::agent(&home, gateway, &origin, gateway_ports, &s3_endpoint)?;
        let config = home.write(&format!("{name}/agent.toml"), &text)?;
        children.start(&home, &name, &programs.agent, &config)?;
    }
    *screen = Screen::new();
    screen.say(&introduction(&home, &places, args.dir.is_none()));
    if args.chaos && !servers.broker {
        screen.say("mosquitto isn't installed (apt-get install mosquitto): the broker isn't killed\n");
    }

    let tables = count::tables(&home, s3_endpoint, &credentials);
    let before = script.as_ref().map(|script| NumberSet::from_ranges(&script.kept.acknowledged));
    let before = before.unwrap_or_default();
    let kept = script.as_ref().map(|script| script.kept.clone());
    let watch = Watch::new(tables, ports, Arc::clone(&proxies), before.clone());
    let (chaos, told, lives) = Chaos::new();
    let upstream = broker.map(|broker| match servers.broker {
        true => Upstream { broker, lives: Some(lives) },
        false => Upstream::for_ever(broker),
    });
    let told = args.chaos.then_some(told);
    let run = Run { args, home: &home, places: &places, screen, watch, proxies: Arc::clone(&proxies), told };
    let watched = async {
        if args.chaos {
            chaos.reign(&mut children, &mut servers, Arc::clone(&proxies)).await
        } else {
            anyhow::anyhow!("{}", children.ended().await)
        }
    };
    let ended = tokio::select! {
        done = run.until_done(script, upstream, before.clone()) => done,
        ended = watched => Err(ended),
        () = stopped(&mut stop) => Ok(true),
    };
    screen.clear();
    screen.say("stopping …");
    let mut killed = children.stop().await;
    // Only now: the programs' last words go to them.
    killed.extend(servers.children.stop().await);
    for name in killed {
        screen.say(&format!("{name} didn't stop within 15 seconds and was killed"));
    }
    // Now that the agents have stopped, nothing more is acknowledged.
    if let Some(kept) = kept {
        home.keep(&kept, &watch::acknowledged(&before, &proxies))?;
    }
    if let Some(s3) = s3 {
        s3.stop().await;
    }
    ended
}

/// Everything that happens while the children run.
struct Run<'a> {
    args: &'a Args,
    home: &'a Home,
    places: &'a Places,
    screen: &'a mut Screen,
    watch: Watch,
    proxies: Arc<Vec<Proxy>>,
    /// What is told of the kills, with `--chaos`.
    told: Option<Told>,
}

impl Run<'_> {
    /// Replays `script`, if there is one, watches, and reports. Returns only with `--exit` or an error.
    async fn until_done(
        mut self,
        script: Option<Script>,
        upstream: Option<Upstream>,
        before: NumberSet,
    ) -> anyhow::Result<bool> {
        let (Some(script), Some(upstream)) = (script, upstream) else {
            return self.watch_only().await;
        };
        self.wait_for_agents().await?;
        let total = script.survey.total;
        let sent = Arc::new(AtomicU64::new(before.len()));
        let readings = data::readings(script.files.clone(), script.kept.gateways);
        let proxies = Arc::clone(&self.proxies);
        // As fast as it goes would be over before much was killed.
        let rate = self.args.rate.or(self.told.is_some().then_some(CHAOS_RATE));
        let replay = replay::replay(readings, upstream, proxies, before, rate, Arc::clone(&sent));
        let mut replay = Some(tokio::spawn(replay));
        let (mut lag, mut kept, mut printed) = (Lag::default(), 0, false);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut silence_told = false;
        loop {
            self.wait_and_tell(&mut ticks).await;
            if replay.as_ref().is_some_and(tokio::task::JoinHandle::is_finished)
                && let Some(ended) = replay.take()
            {
                ended.await.context("the replay broke off")??;
                if let Some(told) = &self.told {
                    told.acknowledged.send_replace(true);
                }
            }
            let acknowledged = self.watch.acknowledged();
            if acknowledged.len() != kept {
                self.home.keep(&script.kept, &acknowledged)?;
                kept = acknowledged.len();
            }
            let seen = match self.watch.look().await {
                Ok(seen) => seen,
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), "can't look at the tables now");
                    continue;
                }
            };
            let (now, sent) = (Instant::now(), sent.load(Ordering::Relaxed));
            let progress = Progress {
                sent: Some(sent),
                total: Some(total),
                acknowledged: seen.acknowledged,
                agents: seen.agents,
                registered: seen.registered,
                lag: Some(lag.note(now, sent, seen.registered)),
            };
            self.screen.show(now, progress);
            if printed || !self.is_peaceful() {
                continue;
            }
            let mut counts = None;
            if replay.is_none() && (self.watch.is_worth_counting(total) || seen.stalled) {
                match self.watch.count(total, script.survey.beyond_horizon).await {
                    Ok(counted) => counts = Some(counted),
                    Err(error) => {
                        tracing::warn!(error = %format!("{error:#}"), "can't count the tables now");
                    }
                }
            }
            if let Some((counts, true)) = counts {
                self.print("registered", counts)?;
                if self.args.exit {
                    return Ok(counts.agree());
                }
                self.screen.say("everything sent is registered; Ctrl-C stops");
                printed = true;
            } else if seen.stalled && !silence_told {
                silence_told = true;
                self.screen.say(&format!(
                    "nothing has moved for five minutes; see the logs in {}",
                    self.home.dir().display()
                ));
                if self.args.exit {
                    let counts = match counts {
                        Some((counts, _)) => counts,
                        None => self.watch.count(sent, 0).await.map(|counted| counted.0).unwrap_or_default(),
                    };
                    self.print("incomplete", counts)?;
                    return Ok(false);
                }
            }
        }
    }

    /// Shows what comes from somebody's own broker, for ever.
    async fn watch_only(mut self) -> anyhow::Result<bool> {
        self.wait_for_agents().await?;
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.watch.look().await {
                Ok(seen) => {
                    let progress = Progress {
                        acknowledged: seen.acknowledged,
                        agents: seen.agents,
                        registered: seen.registered,
                        ..Progress::default()
                    };
                    self.screen.show(Instant::now(), progress);
                }
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), "can't look at the tables now");
                }
            }
        }
    }

    /// Waits until every agent has subscribed, saying each minute which hasn't.
    async fn wait_for_agents(&mut self) -> anyhow::Result<()> {
        for (gateway, proxy) in self.proxies.iter().enumerate() {
            let mut changes = proxy.changes();
            loop {
                let subscribed = changes.wait_for(|counts| counts.subscribed > 0);
                match tokio::time::timeout(SUBSCRIBE_WITHIN, subscribed).await {
                    Ok(subscribed) => {
                        subscribed.context("the proxy has stopped")?;
                        break;
                    }
                    Err(_) => {
                        let name = gateway_name(gateway);
                        let log = self.home.path(&format!("{name}.log"));
                        self.screen.say(&format!("{name} hasn't subscribed yet; see {}", log.display()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the next tick, and shows each kill when it happens.
    async fn wait_and_tell(&mut self, ticks: &mut tokio::time::Interval) {
        loop {
            let Some(told) = &mut self.told else {
                ticks.tick().await;
                return;
            };
            tokio::select! {
                biased;
                Some(line) = told.lines.recv() => self.screen.say(&line),
                _ = ticks.tick() => return,
            }
        }
    }

    /// Whether nothing is killed, or nothing is any more.
    fn is_peaceful(&self) -> bool {
        self.told.as_ref().is_none_or(|told| told.ended.borrow().is_some())
    }

    fn print(&mut self, event: &'static str, counts: Counts) -> anyhow::Result<()> {
        while let Some(line) = self.told.as_mut().and_then(|told| told.lines.try_recv().ok()) {
            self.screen.say(&line);
        }
        self.screen.clear();
        let kills = self.told.as_ref().and_then(|told| told.ended.borrow().clone());
        if let Some(kills) = &kills {
            self.screen.say(&format!(
                "after {kills}: {} sent, missing: {}, duplicates: {}",
                counts.sent, counts.missing, counts.duplicates
            ));
        }
        let kills = kills.as_ref().map(Kills::all);
        let line = serde_json::to_string(&Line { event, counts, places: self.places, kills })?;
        let mut output = std::io::stdout().lock();
        writeln!(output, "{line}").and_then(|()| output.flush()).context("can't write to standard output")?;
        if !self.args.exit {
            *self.screen = Screen::new();
        }
        Ok(())
    }
}

async fn stopped(stop: &mut (tokio::signal::unix::Signal, tokio::signal::unix::Signal)) {
    tokio::select! {
        _ = stop.0.recv() => {}
        _ = stop.1.recv() => {}
    }
}

/// Reads the data once, and what an earlier start into the folder came to.
async fn script(args: &Args, home: &Home, gateways: usize) -> anyhow::Result<Script> {
    let mut files = args.data.clone();
    if files.is_empty() {
        files.push(home.write(data::CARRIED.0, data::CARRIED.1)?);
    }
    let surveyed = files.clone();
    let survey = tokio::task::spawn_blocking(move || data::survey(&surveyed, gateways)).await??;
    let kept = home.kept(&survey, gateways)?;
    Ok(Script { files, survey, kept })
}

fn s3_options(home: &Home, ports: &Ports, credentials: &Credentials) -> anyhow::Result<S3Options> {
    Ok(S3Options {
        dir: home.folder("s3")?,
        listen: local(ports.s3),
        access_key_id: credentials.access_key_id.clone(),
        secret_access_key: credentials.secret_access_key.clone(),
        region: REGION.to_owned(),
        buckets: vec![BUCKET.to_owned()],
        access_log: Some(home.path("s3-access.jsonl")),
    })
}

async fn proxies(ports: &Ports, upstream: &str) -> anyhow::Result<Arc<Vec<Proxy>>> {
    let mut proxies = Vec::new();
    for &(port, _) in &ports.gateways {
        proxies.push(Proxy::start(local(port), upstream, data::number_of).await?);
    }
    Ok(Arc::new(proxies))
}

/// The broker at `url`: where it is, and what the agent must know.
fn foreign(url: &str, topic: Option<&str>) -> anyhow::Result<Foreign> {
    let topic = topic.context("--broker needs --topic")?.to_owned();
    let Some(rest) = url.strip_prefix("mqtt://").or_else(|| url.strip_prefix("tcp://")) else {
        bail!("--broker {url}: the demo speaks plain TCP only; write mqtt://host:1883");
    };
    let rest = rest.trim_end_matches('/');
    let (user, address) = match rest.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, rest),
    };
    ensure!(!address.is_empty() && !address.contains('/'), "--broker {url}: write mqtt://host:1883");
    let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        Some((name, "")) => (Some(name.to_owned()), None),
        Some((name, password)) => (Some(name.to_owned()), Some(password.to_owned())),
        None => (None, None),
    };
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        (host.ends_with(']') || !host.contains(':')) && port.parse::<u16>().is_ok()
    });
    let upstream = if has_port { address.to_owned() } else { format!("{address}:1883") };
    let origin = Origin::Broker { topic, username, password: password.is_some() };
    Ok(Foreign { upstream, origin, password })
}

fn places(home: &Home, ports: &Ports, credentials: &Credentials, s3_endpoint: String) -> Places {
    let page = format!("http://127.0.0.1:{}", ports.fleet);
    Places {
        s3_endpoint,
        access_key_id: credentials.access_key_id.clone(),
        secret_access_key: credentials.secret_access_key.clone(),
        region: REGION,
        catalog_uri: config::catalog_uri(home),
        rest_uri: format!("{page}/iceberg"),
        warehouse: WAREHOUSE,
        page,
    }
}

fn introduction(home: &Home, places: &Places, temporary: bool) -> String {
    let Places {
        s3_endpoint,
        access_key_id,
        secret_access_key,
        region,
        catalog_uri,
        rest_uri,
        warehouse,
        page,
    } = places;
    let folder = home.dir().display().to_string();
    let folder =
        if temporary { format!("{folder} (removed at the end; --dir DIR keeps one)") } else { folder };
    format!(
        r#"
  fleet page    {page}
  REST catalog  {rest_uri}
  S3 endpoint   {s3_endpoint}
  folder        {folder}

  Query the tables with pyiceberg, from the SQL catalog:
    from pyiceberg.catalog.sql import SqlCatalog
    s3 = {{"s3.endpoint": "{s3_endpoint}", "s3.access-key-id": "{access_key_id}", "s3.secret-access-key": "{secret_access_key}", "s3.region": "{region}"}}
    lake = SqlCatalog("tributary", uri="{catalog_uri}", warehouse="{warehouse}", **s3)
  or from the REST catalog:
    from pyiceberg.catalog.rest import RestCatalog
    lake = RestCatalog("tributary", uri="{rest_uri}", **s3)
  then:
    readings = lake.load_table("tributary.readings").scan().to_arrow()
  and with DuckDB over that:
    import duckdb
    duckdb.sql("SELECT device, metric, count(*), avg(value) FROM readings GROUP BY ALL ORDER BY ALL").show()
"#
    )
}

/// The demo's own log: broker and proxies tell there what went wrong.
fn log_to(home: &Home) -> anyhow::Result<()> {
    let path = home.path("demo.log");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("can't open {}", path.display()))?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn,rumqttd=error"))
        .with_writer(std::sync::Mutex::new(file))
        .with_ansi(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("can't log to {}: {error}", path.display()))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.001 => Ok(rate),
        _ => Err("write messages per second, 0.001 or more".to_owned()),
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_hold_together() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        for wrong in [
            vec!["--broker", "mqtt://h"],
            vec!["--topic", "#"],
            vec!["--broker", "mqtt://h", "--topic", "#", "--exit"],
            vec!["--gateways", "0"],
            vec!["--rate", "0"],
            vec!["--rate", "fast"],
            vec!["--chaos", "--broker", "mqtt://h", "--topic", "#"],
        ] {
            let words = ["tributary-demo"].iter().chain(&wrong);
            assert!(Args::try_parse_from(words).is_err(), "{wrong:?}");
        }
        let args =
            Args::try_parse_from(["tributary-demo", "--data", "a.csv", "--data", "b.csv.zst"]).unwrap();
        assert_eq!((args.data.len(), args.gateways), (2, 1));
        Args::try_parse_from(["tributary-demo", "--broker", "mqtt://h", "--topic", "#"]).unwrap();
    }

    #[test]
    fn a_brokers_url_is_taken_apart_and_tls_is_refused_with_the_reason() {
        let plain = foreign("mqtt://plant", Some("a/#")).unwrap();
        assert_eq!((plain.upstream.as_str(), plain.password), ("plant:1883", None));
        let full = foreign("mqtt://reader:se:cret@10.0.0.7:2883/", Some("#")).unwrap();
        assert_eq!((full.upstream.as_str(), full.password.as_deref()), ("10.0.0.7:2883", Some("se:cret")));
        let Origin::Broker { username, password, .. } = full.origin else { panic!("not a broker") };
        assert_eq!((username.as_deref(), password), (Some("reader"), true));
        assert_eq!(foreign("mqtt://[::1]", Some("#")).unwrap().upstream, "[::1]:1883");
        assert_eq!(foreign("mqtt://[::1]:99", Some("#")).unwrap().upstream, "[::1]:99");
        let refused = foreign("mqtts://plant:8883", Some("#")).err().unwrap().to_string();
        assert!(refused.contains("plain TCP only"), "{refused}");
    }

    #[test]
    fn the_line_has_the_promised_fields_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let ports = Ports { s3: 1, fleet: 2, broker: 3, gateways: vec![(5, 6)] };
        let credentials = Credentials { access_key_id: "A".into(), secret_access_key: "S".into() };
        let places = places(&home, &ports, &credentials, "http://127.0.0.1:1".into());
        let line = Line {
            event: "registered",
            counts: Counts { sent: 7, ..Counts::default() },
            places: &places,
            kills: None,
        };
        let text = serde_json::to_string(&line).unwrap();
        let start = r#"{"event":"registered","sent":7,"acknowledged":0,"registered":0,"distinct":0,"missing":0,"duplicates":0,"rejected":0,"s3_endpoint":"http://127.0.0.1:1","access_key_id":"A","secret_access_key":"S","region":"us-east-1","catalog_uri":"sqlite:///"#;
        assert!(text.starts_with(start), "{text}");
        let end = r#""rest_uri":"http://127.0.0.1:2/iceberg","warehouse":"s3://lake/demo/lake","page":"http://127.0.0.1:2"}"#;
        assert!(text.ends_with(end), "{text}");
        let introduction = introduction(&home, &places, false);
        assert!(
            introduction.contains("http://127.0.0.1:2/iceberg")
                && introduction.contains(r#"{"s3.endpoint": "#)
        );
    }
}
