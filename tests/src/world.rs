//! A gateway, a broker, a bucket and a receiver on this machine, as real processes that are killed and started again.
//!
//! What comes in: what a test wants done. What goes out: what the programs answered, what the proxy saw acknowledged,
//! what is in the table. Agent and receiver are the programs as they are shipped; broker, proxy and bucket run here.
//! What survives a kill is in the world's folder, as on a gateway and in a cloud; the folder goes with the world.
//! Nothing here waits for a time to pass: [`until`] asks again until something is so, or fails with what it is instead.

pub mod ask;
pub mod broker;
pub mod load;
pub mod machine;
pub mod ports;
pub mod process;
pub mod programs;
pub mod publish;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tributary_contract::digest::Digest;
use tributary_contract::status::GatewayStatus;

use crate::faults::FaultProxy;
use crate::lake::{Copies, Files, Tables, Tally};
use crate::mqtt::Proxy;
use crate::s3::{Keys, S3Options, S3Server, client};
use crate::wait::GIVE_UP;
pub use crate::wait::until;
pub use broker::{Broker, Mosquitto, Saves};
pub use load::Load;
pub use machine::Machine;
pub use process::{Process, Signal};
pub use programs::{Programs, programs};

/// The one gateway of a world.
pub const GATEWAY: &str = "gw-1";
/// The bucket.
pub const BUCKET: &str = "lake";
/// The part of the bucket that both programs use.
pub const PREFIX: &str = "e2e";
/// The windows that its agent closes.
pub const WINDOWS: [&str; 1] = ["1m"];

const NAMESPACE: &str = "tributary";
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "E2E";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The MQTT that agent and broker speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mqtt {
    /// MQTT 5 with the broker inside this process.
    EmbeddedV5,
    /// MQTT 5 with Mosquitto.
    MosquittoV5(Saves),
    /// MQTT 3.1.1 with Mosquitto.
    MosquittoV4(Saves),
}

/// Everything that stands around the two programs, and their configuration.
pub struct World {
    folder: TempDir,
    /// The two programs.
    pub programs: Programs,
    /// The broker, behind the proxy.
    pub broker: Broker,
    /// What stands between broker and agent and knows what was acknowledged.
    pub proxy: Proxy,
    /// What stands between both programs and the bucket, where the world has it; the test itself goes past it.
    faults: Option<FaultProxy>,
    bucket: Option<S3Server>,
    bucket_port: u16,
    status_port: u16,
    fleet_port: u16,
    spare_port: u16,
}

/// How many messages and readings are where, once everything is in the table.
#[derive(Debug)]
pub struct Settled {
    /// The readings of the table.
    pub tally: Tally,
    /// The agent's last word.
    pub status: GatewayStatus,
}

impl World {
    /// A world whose broker, proxy and bucket run and whose programs don't.
    ///
    /// # Errors
    /// When the programs can't be found and built, or something can't be started.
    pub async fn start(mqtt: Mqtt) -> anyhow::Result<Self> {
        let mut world = Self::without_bucket(mqtt).await?;
        world.start_bucket().await?;
        Ok(world)
    }

    /// The same, with a proxy between both programs and the bucket, whose chance follows from `seed`.
    ///
    /// # Errors
    /// As [`World::start`].
    pub async fn with_faults(mqtt: Mqtt, seed: u64) -> anyhow::Result<Self> {
        let mut world = Self::without_bucket(mqtt).await?;
        world.start_bucket().await?;
        world.faults = Some(FaultProxy::start(local(0), local(world.bucket_port), seed).await?);
        world.configure(mqtt)?;
        Ok(world)
    }

    /// The same, but nothing answers where the bucket should be.
    ///
    /// # Errors
    /// As [`World::start`].
    pub async fn without_bucket(mqtt: Mqtt) -> anyhow::Result<Self> {
        let programs = programs().await?;
        let folder = tempfile::Builder::new().prefix("tributary-e2e-").tempdir()?;
        let [bucket_port, status_port, fleet_port, spare_port, broker_port] = ports::free()?;
        let broker = match mqtt {
            Mqtt::EmbeddedV5 => Broker::embedded().await?,
            Mqtt::MosquittoV5(saves) | Mqtt::MosquittoV4(saves) => {
                Broker::mosquitto(folder.path(), broker_port, saves).await?
            }
        };
        let upstream = broker.for_agents().to_string();
        let proxy = Proxy::start(local(0), &upstream, publish::number_of).await?;
        let bucket = None;
        let world = Self {
            folder,
            programs,
            broker,
            proxy,
            faults: None,
            bucket,
            bucket_port,
            status_port,
            fleet_port,
            spare_port,
        };
        world.configure(mqtt)?;
        Ok(world)
    }

    fn configure(&self, mqtt: Mqtt) -> anyhow::Result<()> {
        let version = match mqtt {
            Mqtt::EmbeddedV5 | Mqtt::MosquittoV5(_) => "5",
            Mqtt::MosquittoV4(_) => "3.1.1",
        };
        let keys = format!("access_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \"{SECRET}\"\n");
        self.write("credentials.toml", &keys)?;
        self.write("agent.toml", &self.agent_config(version))?;
        self.write("receiver.toml", &self.receiver_config())?;
        Ok(())
    }

    /// The proxy before the bucket.
    ///
    /// # Errors
    /// When the world has none.
    pub fn faults(&self) -> anyhow::Result<&FaultProxy> {
        self.faults.as_ref().context("this world has no proxy before its bucket")
    }

    /// The keys that the bucket takes; they last as long as it runs.
    ///
    /// # Errors
    /// When the bucket doesn't run in this process.
    pub fn keys_of_bucket(&self) -> anyhow::Result<Keys> {
        Ok(self.bucket.as_ref().context("the bucket doesn't run here")?.keys())
    }

    /// Where the bucket listens.
    #[must_use]
    pub const fn bucket_address(&self) -> SocketAddr {
        local(self.bucket_port)
    }

    /// Starts the bucket with what it held before.
    ///
    /// # Errors
    /// When its port was taken meanwhile.
    pub async fn start_bucket(&mut self) -> anyhow::Result<()> {
        self.bucket = Some(self.open_bucket(self.bucket_port).await?);
        Ok(())
    }

    /// Puts an object into the bucket while it is away for everybody else. Its metadata say its digest.
    ///
    /// # Errors
    /// When the bucket runs, or doesn't take the object.
    pub async fn put_aside(&self, key: &str, body: &'static [u8]) -> anyhow::Result<()> {
        ensure!(self.bucket.is_none(), "the bucket runs");
        let aside = self.open_bucket(self.spare_port).await?;
        let client = client::client(&aside.endpoint(), REGION, ACCESS_KEY, SECRET);
        let put = client.put_object().bucket(BUCKET).key(key).body(body.to_vec().into());
        put.metadata(Digest::METADATA_KEY, Digest::of(body).to_string()).send().await?;
        aside.stop().await;
        Ok(())
    }

    /// Starts the bucket as a process of its own, which can be killed, with what it held before.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn bucket_process(&self) -> anyhow::Result<Process> {
        ensure!(self.bucket.is_none(), "the bucket runs in this process");
        let arguments = [
            "--dir".into(),
            self.path("s3"),
            "--listen".into(),
            local(self.bucket_port).to_string().into(),
            "--credentials".into(),
            self.path("credentials.toml"),
            "--region".into(),
            REGION.into(),
            "--bucket".into(),
            BUCKET.into(),
        ];
        Process::start(&self.programs.s3, arguments, &self.path("s3.log"))
    }

    async fn open_bucket(&self, port: u16) -> anyhow::Result<S3Server> {
        let options = S3Options {
            dir: self.path("s3"),
            listen: local(port),
            access_key_id: ACCESS_KEY.to_owned(),
            secret_access_key: SECRET.to_owned(),
            region: REGION.to_owned(),
            buckets: vec![BUCKET.to_owned()],
            access_log: None,
        };
        S3Server::start(options).await
    }

    /// Takes the bucket away; what it holds stays.
    pub async fn stop_bucket(&mut self) {
        if let Some(bucket) = self.bucket.take() {
            bucket.stop().await;
        }
    }

    /// A client of the bucket.
    #[must_use]
    pub fn bucket(&self) -> aws_sdk_s3::Client {
        client::client(&self.endpoint(), REGION, ACCESS_KEY, SECRET)
    }

    /// The same, where something that listens at `address` stands before the bucket.
    #[must_use]
    pub fn bucket_behind(&self, address: SocketAddr) -> aws_sdk_s3::Client {
        client::client(&format!("http://{address}"), REGION, ACCESS_KEY, SECRET)
    }

    /// Keys in the bucket that begin with `folder` under the world's prefix.
    ///
    /// # Errors
    /// When the bucket doesn't answer.
    pub async fn keys(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let prefix = format!("{PREFIX}/{folder}");
        let mut pages = self.bucket().list_objects_v2().bucket(BUCKET).prefix(prefix).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(page?.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
        }
        Ok(keys)
    }

    /// A path in the world's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Leaves the folder where it is when the world ends, for a person to look into, and returns its path.
    pub fn keep(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    /// Writes a file into the world's folder, readable by its owner only.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        use std::io::Write as _;
        let path = self.path(name);
        let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("can't write {}", path.display()))?;
        Ok(path)
    }

    /// The configuration `name` once more as `other`, with each (`from`, `to`) replaced in it.
    ///
    /// # Errors
    /// When `from` isn't in it, or a file can't be read or written.
    pub fn vary(&self, name: &str, other: &str, changes: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
        let mut text = fs::read_to_string(self.path(name))?;
        for (from, to) in changes {
            ensure!(text.contains(from), "{name} holds no {from:?}");
            text = text.replace(from, to);
        }
        self.write(other, &text)
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn agent(&self) -> anyhow::Result<Process> {
        self.run("agent", &self.programs.agent, &self.path("agent.toml"))
    }

    /// Starts the agent with nothing in its environment but that.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn agent_with(&self, environment: &[(&str, &str)]) -> anyhow::Result<Process> {
        // It becomes the agent, and keeps the process id.
        let mut arguments = vec!["-i".to_owned()];
        arguments.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
        let (agent, config) = (self.programs.agent.display(), self.path("agent.toml"));
        arguments.extend([agent.to_string(), "run".into(), "--config".into(), config.display().to_string()]);
        Process::start(Path::new("env"), arguments, &self.path("agent.log"))
    }

    /// Starts the receiver.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn receiver(&self) -> anyhow::Result<Process> {
        self.run("receiver", &self.programs.receiver, &self.path("receiver.toml"))
    }

    /// Starts `program run --config CONFIG`; its output goes to `NAME.log` in the world's folder.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn run(&self, name: &str, program: &Path, config: &Path) -> anyhow::Result<Process> {
        let arguments = [Path::new("run"), Path::new("--config"), config];
        Process::start(program, arguments, &self.path(&format!("{name}.log")))
    }

    /// Where the agent serves its status.
    #[must_use]
    pub fn status_address(&self) -> SocketAddr {
        local(self.status_port)
    }

    /// Where the receiver serves its page.
    #[must_use]
    pub fn fleet_address(&self) -> SocketAddr {
        local(self.fleet_port)
    }

    /// An address that nothing listens on, for one more program.
    #[must_use]
    pub fn spare_address(&self) -> SocketAddr {
        local(self.spare_port)
    }

    /// The running agent's status, or `None` while it doesn't answer.
    pub async fn status(&self) -> Option<GatewayStatus> {
        serde_json::from_value(ask::json(self.status_address(), "/status").await?).ok()
    }

    /// The running receiver's fleet, or `None` while it doesn't answer.
    pub async fn fleet(&self) -> Option<serde_json::Value> {
        ask::json(self.fleet_address(), "/api/fleet").await
    }

    /// Waits until the agent's status is as wanted, and returns it.
    ///
    /// # Errors
    /// With the last status, when that doesn't happen.
    pub async fn status_when(
        &self,
        what: &str,
        is: impl Fn(&GatewayStatus) -> bool,
    ) -> anyhow::Result<GatewayStatus> {
        let mut last = None;
        let found = until(what, async || {
            last = self.status().await;
            Ok(last.clone().filter(&is))
        });
        found.await.with_context(|| format!("the agent's status was {last:#?}\n{}", self.logs()))
    }

    /// Waits until the receiver's answer to `path` is as wanted, and returns it.
    ///
    /// # Errors
    /// With the last answer, when that doesn't happen.
    pub async fn fleet_when(
        &self,
        what: &str,
        path: &str,
        is: impl Fn(&serde_json::Value) -> bool,
    ) -> anyhow::Result<serde_json::Value> {
        let mut last = None;
        let found = until(what, async || {
            last = ask::json(self.fleet_address(), path).await;
            Ok(last.clone().filter(&is))
        });
        found.await.with_context(|| format!("{path} was {last:#?}\n{}", self.logs()))
    }

    /// The tables as they are now.
    #[must_use]
    pub fn tables(&self) -> Tables {
        let files = Files {
            endpoint: self.endpoint(),
            region: REGION.to_owned(),
            access_key_id: ACCESS_KEY.to_owned(),
            secret_access_key: SECRET.to_owned(),
        };
        Tables::new(self.path("catalog.db"), NAMESPACE, &files)
    }

    /// The table of readings, counted now.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn tally(&self) -> anyhow::Result<Tally> {
        let tables = self.tables();
        match tables.load("readings").await? {
            Some(state) => tables.tally(&state).await,
            None => Ok(Tally::default()),
        }
    }

    /// Each message number in the table of readings with its copies, counted now.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn copies(&self) -> anyhow::Result<BTreeMap<u64, Copies>> {
        let tables = self.tables();
        match tables.load("readings").await? {
            Some(state) => tables.copies(&state).await,
            None => Ok(BTreeMap::new()),
        }
    }

    /// Rejected messages in their table, counted now.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn rejects(&self) -> anyhow::Result<u64> {
        let tables = self.tables();
        match tables.load("rejects").await? {
            Some(state) => tables.rejected(&state).await,
            None => Ok(0),
        }
    }

    /// Publishes `numbers` and waits until the broker has taken each.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn publish(&self, numbers: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
        publish::publish(self.broker.for_publishers(), numbers.map(publish::message)).await
    }

    /// Waits until the proxy saw `count` distinct numbers acknowledged. What the broker lost is published again.
    ///
    /// # Errors
    /// When that doesn't happen.
    pub async fn acknowledged(&self, count: u64) -> anyhow::Result<()> {
        let done = publish::acknowledged(&self.proxy, self.broker.for_publishers(), count, GIVE_UP);
        done.await.with_context(|| self.logs())
    }

    /// Waits until the messages 1 to `count` are in the table and in the windows, and the agent has let go of them;
    /// fails if one is there twice. Checks both laws in the agent's last status.
    ///
    /// # Errors
    /// With what there is instead.
    pub async fn settled(&self, count: u64) -> anyhow::Result<Settled> {
        let tables = self.tables();
        let (mut seen, mut windowed) = (None, None);
        let found = until("every message is in the table", async || {
            let Some(state) = tables.load("readings").await? else { return Ok(None) };
            if state.rows() < count {
                return Ok(None);
            }
            let tally = tables.tally(&state).await?;
            seen = Some((tally.rows, tally.numbers.ranges()));
            Ok((tally.numbers.missing(1, count) == 0).then_some(tally))
        });
        let tally = found.await.with_context(|| format!("rows and numbers: {seen:?}\n{}", self.logs()))?;
        ensure!(
            tally.rows == count && tally.numbers.len() == count,
            "sent {count} messages; the table has {} rows with {} numbers\n{}",
            tally.rows,
            tally.numbers.len(),
            self.logs()
        );
        let found = until("every message is in its window", async || {
            let Some(state) = tables.load("aggregates").await? else { return Ok(None) };
            let sum = tables.windowed(&state, &WINDOWS).await?;
            windowed = Some(sum);
            Ok(sum.is_complete(tally.numeric).then_some(()))
        });
        found.await.with_context(|| format!("windows: {windowed:?}\n{}", self.logs()))?;
        let status = self
            .status_when("nothing is outstanding", |status| {
                let readings = &status.counters.readings;
                let segments = &status.segments;
                readings.waiting() + readings.outstanding() == 0
                    && segments.undelivered + segments.unregistered == 0
            })
            .await?;
        status.counters.check().with_context(|| format!("{:#?}", status.counters))?;
        Ok(Settled { tally, status })
    }

    /// The ends of both programs' logs, for the message of a failed test.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["agent.log", "receiver.log"] {
            text.push_str(&format!("--- {name}\n{}\n", process::last_lines(&self.path(name))));
        }
        text
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.bucket_port)
    }

    fn agent_config(&self, version: &str) -> String {
        format!(
            r#"gateway = "{GATEWAY}"
state_dir = "{state}"

[[broker]]
url = "mqtt://{proxy}"
client_id = "{GATEWAY}"
version = "{version}"

[[source]]
name = "plant"
topics = ["sensors/{{device}}/{{metric}}"]
decoder = "json"
time = "ts"
value = "value"
row_tags = {{ n = "n" }}
namespace = "{NAMESPACE}"

[buffer]
commit_interval = "20ms"

[[window]]
name = "1m"
size = "1m"
lateness = "1s"
idle = "1s"

[segment]
max_age = "1s"

{bucket}
[status]
listen = "{status}"
every = "1s"
"#,
            state = self.path("agent").display(),
            proxy = self.proxy.address(),
            bucket = self.bucket_config(),
            status = self.status_address(),
        )
    }

    fn receiver_config(&self) -> String {
        format!(
            r#"state_dir = "{state}"

{bucket}
[catalog]
kind = "sql"
uri = "sqlite:///{catalog}"
warehouse = "s3://{BUCKET}/{PREFIX}/lake"

[arrivals]
list_every = "1s"

[register]
mode = "in-place"
max_wait = "1s"
max_files = 200

[fleet]
listen = "{fleet}"
"#,
            state = self.path("receiver").display(),
            bucket = self.bucket_config(),
            catalog = self.path("catalog.db").display(),
            fleet = self.fleet_address(),
        )
    }

    fn bucket_config(&self) -> String {
        format!(
            "[bucket]\nurl = \"s3://{BUCKET}/{PREFIX}\"\nendpoint = \"{}\"\nregion = \"{REGION}\"\n\
             credentials = {{ file = \"{}\" }}\n",
            self.faults.as_ref().map_or_else(|| self.endpoint(), FaultProxy::endpoint),
            self.path("credentials.toml").display()
        )
    }
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
