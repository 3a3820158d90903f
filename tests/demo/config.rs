//! The config files of both programs, as the demo writes them into its folder.

use serde::Serialize;
use tributary_agent::config::{Function, Zone};
use tributary_tests::mqtt::broker::IN_FLIGHT;

use crate::data::gateway_name;
use crate::home::{Home, Ports};

/// The bucket that everything lives in.
pub(crate) const BUCKET: &str = "lake";
/// Where the objects of the contract live.
pub(crate) const BUCKET_URL: &str = "s3://lake/demo";
/// The Iceberg warehouse.
pub(crate) const WAREHOUSE: &str = "s3://lake/demo/lake";
/// Region that the local S3 server goes by.
pub(crate) const REGION: &str = "us-east-1";
/// Namespace of all tables.
pub(crate) const NAMESPACE: &str = "tributary";
/// The windows the demo has: name, length, from one begin to the next, time zone (that of the carried data's station).
const WINDOWS: [(&str, &str, &str, &str); 4] = [
    ("1m", "1m", "1m", "UTC"),
    ("1h", "1h", "1h", "UTC"),
    ("15m every 5m", "15m", "5m", "UTC"),
    ("local day", "1d", "1d", ZONE),
];
const ZONE: &str = "America/Denver";
/// The window that has every statistic there is.
const WHOLE: &str = "1h";

/// The rules that the demo has: they look at every series, so that each has something to tell.
const ALERTS: [Alert; 2] = [
    Alert { name: "above ten", above: Some(10.0), clear: Some(8.0), changes: None },
    Alert { name: "leaps", above: None, clear: None, changes: Some(0.01) },
];

/// Whether a window can be had here: some machines know no time zones.
fn is_possible(zone: &str) -> bool {
    zone == "UTC" || Zone::read(zone).is_some()
}

/// Names of the windows, each as often as one of them holds the same reading.
pub(crate) fn holding() -> Vec<&'static str> {
    let mut names = vec!["1m", "1h", "15m every 5m", "15m every 5m", "15m every 5m"];
    names.extend(is_possible(ZONE).then_some("local day"));
    names
}

/// Where an agent's messages come from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The replay over the embedded broker.
    Replay,
    /// Somebody's own broker, through the proxy.
    Broker {
        /// The filter to subscribe to.
        topic: String,
        /// User name, when the URL has one.
        username: Option<String>,
        /// Whether the URL has a password, which stands in `broker-password`.
        password: bool,
    },
}

#[derive(Serialize)]
struct Agent {
    gateway: String,
    state_dir: String,
    broker: Vec<Broker>,
    source: Vec<Source>,
    buffer: Buffer,
    window: Vec<Window>,
    alert: [Alert; 2],
    segment: Segment,
    bucket: Bucket,
    status: Status,
}

#[derive(Serialize)]
struct Broker {
    url: String,
    client_id: String,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    inflight_window: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<String>,
}

#[derive(Serialize)]
struct Source {
    name: &'static str,
    topics: Vec<String>,
    decoder: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_tags: Option<RowTags>,
    namespace: &'static str,
}

#[derive(Serialize)]
struct RowTags {
    n: &'static str,
}

#[derive(Serialize)]
struct Buffer {
    commit_interval: &'static str,
}

#[derive(Serialize)]
struct Window {
    name: &'static str,
    size: &'static str,
    every: &'static str,
    time_zone: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    functions: Option<Vec<&'static str>>,
    lateness: &'static str,
    idle: &'static str,
}

#[derive(Serialize)]
struct Alert {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    above: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clear: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<f64>,
}

#[derive(Serialize)]
struct Segment {
    max_age: &'static str,
}

#[derive(Clone, Serialize)]
struct Bucket {
    url: &'static str,
    endpoint: String,
    region: &'static str,
    credentials: CredentialsFile,
}

#[derive(Clone, Serialize)]
struct CredentialsFile {
    file: String,
}

#[derive(Serialize)]
struct Status {
    listen: String,
}

#[derive(Serialize)]
struct Receiver {
    state_dir: String,
    bucket: Bucket,
    catalog: Catalog,
    arrivals: Arrivals,
    register: Register,
    fleet: Fleet,
}

#[derive(Serialize)]
struct Catalog {
    kind: &'static str,
    uri: String,
    warehouse: &'static str,
}

#[derive(Serialize)]
struct Arrivals {
    list_every: &'static str,
}

#[derive(Serialize)]
struct Register {
    mode: &'static str,
    max_wait: &'static str,
    max_files: u32,
}

#[derive(Serialize)]
struct Fleet {
    listen: String,
}

/// `agent.toml` of the gateway with this index; `proxy` and `status` are ports on 127.0.0.1.
pub(crate) fn agent(
    home: &Home,
    gateway: usize,
    origin: &Origin,
    (proxy, status): (u16, u16),
    s3_endpoint: &str,
) -> anyhow::Result<String> {
    let name = gateway_name(gateway);
    let (username, password_file, source) = match origin {
        Origin::Replay => (None, None, replayed(&name)),
        Origin::Broker { topic, username, password } => {
            let file = password.then(|| text(&home.path("broker-password")));
            (username.clone(), file, foreign(topic))
        }
    };
    let replay = matches!(origin, Origin::Replay);
    let windows = WINDOWS.into_iter().filter(|(.., zone)| is_possible(zone));
    let window = |(name, size, every, time_zone)| {
        let functions = (name == WHOLE).then(|| Function::ALL.map(Function::name).to_vec());
        Window { name, size, every, time_zone, functions, lateness: "10s", idle: "2s" }
    };
    let config = Agent {
        gateway: name.clone(),
        state_dir: text(&home.path(&name).join("state")),
        broker: vec![Broker {
            url: format!("mqtt://127.0.0.1:{proxy}"),
            client_id: name,
            version: "5",
            inflight_window: replay.then_some(IN_FLIGHT),
            username,
            password_file,
        }],
        source: vec![source],
        buffer: Buffer { commit_interval: "200ms" },
        window: windows.map(window).collect(),
        alert: ALERTS,
        segment: Segment { max_age: "1s" },
        bucket: bucket(home, s3_endpoint),
        status: Status { listen: format!("127.0.0.1:{status}") },
    };
    Ok(toml::to_string(&config)?)
}

/// `receiver.toml`.
pub(crate) fn receiver(home: &Home, ports: &Ports, s3_endpoint: &str) -> anyhow::Result<String> {
    let config = Receiver {
        state_dir: text(&home.path("receiver")),
        bucket: bucket(home, s3_endpoint),
        catalog: Catalog { kind: "sql", uri: catalog_uri(home), warehouse: WAREHOUSE },
        arrivals: Arrivals { list_every: "1s" },
        register: Register { mode: "in-place", max_wait: "2s", max_files: 200 },
        fleet: Fleet { listen: format!("127.0.0.1:{}", ports.fleet) },
    };
    Ok(toml::to_string(&config)?)
}

/// The SQLite catalog as a URI that pyiceberg and the receiver both take.
pub(crate) fn catalog_uri(home: &Home) -> String {
    // Python takes what follows the third slash as the path, so an absolute one makes it four.
    format!("sqlite:///{}", text(&home.path("catalog.db")))
}

fn replayed(gateway: &str) -> Source {
    Source {
        name: "demo",
        topics: vec![format!("{gateway}/sensors/{{device}}/{{metric}}")],
        decoder: "json",
        time: Some("ts"),
        value: Some("value"),
        row_tags: Some(RowTags { n: "n" }),
        namespace: NAMESPACE,
    }
}

fn foreign(topic: &str) -> Source {
    Source {
        name: "demo",
        topics: vec![topic.to_owned()],
        decoder: "auto",
        time: None,
        value: None,
        row_tags: None,
        namespace: NAMESPACE,
    }
}

fn bucket(home: &Home, endpoint: &str) -> Bucket {
    Bucket {
        url: BUCKET_URL,
        endpoint: endpoint.to_owned(),
        region: REGION,
        credentials: CredentialsFile { file: text(&home.path("credentials.toml")) },
    }
}

fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_config_names_everything_by_its_key_and_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let secret = home.credentials().unwrap().secret_access_key;
        let text = agent(&home, 1, &Origin::Replay, (1883, 8080), "http://127.0.0.1:9000").unwrap();
        assert!(!text.contains(&secret));
        let config: toml::Table = text.parse().unwrap();
        assert_eq!(config["gateway"].as_str(), Some("gw-2"));
        assert_eq!(config["broker"][0]["url"].as_str(), Some("mqtt://127.0.0.1:1883"));
        assert_eq!(config["source"][0]["topics"][0].as_str(), Some("gw-2/sensors/{device}/{metric}"));
        assert_eq!(config["source"][0]["row_tags"]["n"].as_str(), Some("n"));
        assert_eq!(config["window"][0]["idle"].as_str(), Some("2s"));
        let credentials = config["bucket"]["credentials"]["file"].as_str().unwrap();
        assert!(std::fs::read_to_string(credentials).unwrap().contains(&secret));
    }

    #[test]
    fn a_foreign_broker_is_read_with_auto_and_its_password_stays_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let origin =
            Origin::Broker { topic: "plant/#".into(), username: Some("reader".into()), password: true };
        let text = agent(&home, 0, &origin, (1883, 8080), "http://127.0.0.1:9000").unwrap();
        let config: toml::Table = text.parse().unwrap();
        assert_eq!(config["source"][0]["topics"][0].as_str(), Some("plant/#"));
        assert_eq!(config["source"][0]["decoder"].as_str(), Some("auto"));
        assert!(config["source"][0].get("row_tags").is_none());
        assert_eq!(config["broker"][0]["username"].as_str(), Some("reader"));
        assert!(config["broker"][0]["password_file"].as_str().unwrap().ends_with("broker-password"));
    }

    #[test]
    fn the_receiver_keeps_its_catalog_where_the_demo_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let ports = Ports { s3: 1, fleet: 2, broker: 3, gateways: vec![] };
        let config: toml::Table = receiver(&home, &ports, "http://127.0.0.1:1").unwrap().parse().unwrap();
        let uri = config["catalog"]["uri"].as_str().unwrap();
        assert_eq!(uri.strip_prefix("sqlite:///").unwrap(), home.path("catalog.db").to_str().unwrap());
        assert_eq!(config["register"]["mode"].as_str(), Some("in-place"));
        assert_eq!(config["fleet"]["listen"].as_str(), Some("127.0.0.1:2"));
    }
}
