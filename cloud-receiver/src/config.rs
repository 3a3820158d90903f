//! The receiver's configuration: values with their defaults, read from TOML text; `config/receiver.toml` shows every key.

pub mod check;
pub mod files;
pub mod show;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::{Table, Value};
use tributary_contract::key::Prefix;

use check::{Problems, Section, got};

/// Everything an operator can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder of ledger and catalog.
    pub state_dir: PathBuf,
    /// The bucket that gateways write to.
    pub bucket: BucketConfig,
    /// SQLite file of the catalog.
    pub catalog_db: PathBuf,
    /// The warehouse, `s3://bucket/prefix/lake`.
    pub warehouse: String,
    /// SQLite file of the ledger.
    pub ledger: PathBuf,
    /// How often the bucket is listed.
    pub list_every: Duration,
    /// When a batch is full.
    pub register: RegisterConfig,
    /// Size, in bytes, that merged data files will have; in-place registration keeps segments as they are.
    pub target_file_size: u64,
    /// The page and its neighbours.
    pub fleet: FleetConfig,
}

/// Where the bucket is and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketConfig {
    /// The bucket's name.
    pub name: String,
    /// Our part of it.
    pub prefix: Prefix,
    /// Address of an S3 API other than AWS's; path-style addressing follows from it.
    pub endpoint: Option<String>,
    /// Region.
    pub region: String,
    /// Where credentials come from.
    pub credentials: Credentials,
}

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The AWS default chain: environment, profile, container, instance.
    Default,
    /// A TOML file with `access_key_id`, `secret_access_key` and perhaps `session_token`.
    File(PathBuf),
}

/// When a batch of checked segments is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterConfig {
    /// As soon as so many segments of one table wait.
    pub max_files: usize,
    /// As soon as the oldest has waited so long.
    pub max_wait: Duration,
}

/// The fleet page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    /// Address of page, API and REST catalog.
    pub listen: SocketAddr,
    /// File with the token that callers must show; needed off loopback.
    pub token_file: Option<PathBuf>,
}

/// Static keys. Debug shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticKeys {
    /// Id of the key; no secret.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// Token of a temporary key.
    pub session_token: Option<String>,
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKeys").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// One text of TOML and the name by which messages call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name of the file.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Config {
    /// Reads `sources`, later ones laid over earlier ones, with `${NAME}` expanded by `env`. All problems at once.
    pub fn parse(sources: &[Source], env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut all = Table::new();
        for Source { name, text } in sources {
            match text.parse::<Table>() {
                Ok(table) => check::merge(&mut all, table),
                Err(e) => problems.add(name, one_line(&e.to_string()), "correct the TOML of this file"),
            }
        }
        let mut root = Value::Table(all);
        check::expand("", &mut root, env, &mut problems);
        let Value::Table(all) = root else { return Err(problems) };
        let config = read(all, &mut problems);
        match config {
            Some(config) if problems.0.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }

    /// `s3://bucket/key`: how catalogs name an object of our bucket.
    pub fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket.name)
    }
}

fn read(all: Table, problems: &mut Problems) -> Option<Config> {
    let mut top = Section::new("", all, problems);
    let state_dir = top
        .text("state_dir", "a path such as \"/var/lib/tributary-receiver\"")
        .map_or_else(|| PathBuf::from("/var/lib/tributary-receiver"), PathBuf::from);
    let tables =
        ["bucket", "catalog", "ledger", "arrivals", "register", "table", "fleet"].map(|t| top.table(t));
    top.done();
    let [bucket, catalog, ledger, arrivals, register, table, fleet] = tables;

    let bucket = read_bucket(bucket, problems);

    let mut s = Section::new("catalog", catalog, problems);
    only(&mut s, "kind", "sql", "this version keeps the catalog in SQLite: write \"sql\"");
    let catalog_db = s
        .parsed("uri", "an absolute path: \"sqlite:///var/lib/tributary-receiver/catalog.db\"", sqlite_path)
        .unwrap_or_else(|| state_dir.join("catalog.db"));
    let warehouse = s.parsed("warehouse", "\"s3://BUCKET/PREFIX/lake\"", |text| {
        s3_url(text).map(|_| text.trim_end_matches('/').to_owned())
    });
    s.done();

    let mut s = Section::new("ledger", ledger, problems);
    let hint = "an absolute path: \"sqlite:///var/lib/tributary-receiver/ledger.db\"";
    let ledger = s.parsed("url", hint, sqlite_path).unwrap_or_else(|| state_dir.join("ledger.db"));
    s.done();

    let mut s = Section::new("arrivals", arrivals, problems);
    if s.text("queue_url", "leave it out").is_some() {
        s.problem(
            "queue_url",
            "this version finds arrivals by listing only",
            "leave it out and set `list_every`",
        );
    }
    let list_every = s.duration("list_every", Duration::from_secs(30), Duration::from_millis(100));
    s.done();

    let mut s = Section::new("register", register, problems);
    only(
        &mut s,
        "mode",
        "in-place",
        "this version registers segments as they are: write \"in-place\" (\"merged\" isn't built yet)",
    );
    let register = RegisterConfig {
        max_files: s.count("max_files", 500, 1, 100_000),
        max_wait: s.duration("max_wait", Duration::from_secs(300), Duration::ZERO),
    };
    s.done();

    let mut s = Section::new("table", table, problems);
    if s.text("retain", "leave it out").is_some() {
        s.problem("retain", "this version drops no days from tables", "leave it out: everything is kept");
    }
    let target_file_size = s.bytes("target_file_size", 128 << 20);
    s.done();

    let fleet = read_fleet(fleet, problems);

    let bucket = bucket?;
    let warehouse = warehouse.unwrap_or_else(|| format!("s3://{}/{}", bucket.name, bucket.prefix.lake()));
    let config = Config {
        state_dir,
        bucket,
        catalog_db,
        warehouse,
        ledger,
        list_every,
        register,
        target_file_size,
        fleet,
    };
    Some(config)
}

fn read_bucket(table: Table, problems: &mut Problems) -> Option<BucketConfig> {
    let mut s = Section::new("bucket", table, problems);
    let hint = "\"s3://BUCKET/PREFIX\", the same as in the gateways' configuration";
    let url = match s.value("url") {
        None => {
            s.problem("url", "is missing", hint);
            None
        }
        Some(Value::String(text)) => match s3_url(&text) {
            Ok(parts) => Some(parts),
            Err(why) => {
                s.problem("url", &format!("got {text:?}: {why}"), hint);
                None
            }
        },
        Some(other) => {
            s.problem("url", &got(&other), hint);
            None
        }
    };
    let endpoint = s.parsed("endpoint", "an address such as \"https://s3.example.org:9000\"", |text| {
        if text.starts_with("http://") || text.starts_with("https://") {
            Ok(text.trim_end_matches('/').to_owned())
        } else {
            Err("it begins with neither http:// nor https://".to_owned())
        }
    });
    let region =
        s.text("region", "a region such as \"eu-central-1\"").unwrap_or_else(|| "us-east-1".to_owned());
    let hint = "\"default\" for the AWS default chain, or { file = \"/PATH/credentials.toml\" }";
    let credentials = match s.value("credentials") {
        None => Some(Credentials::Default),
        Some(Value::String(word)) if word == "default" => Some(Credentials::Default),
        Some(Value::Table(mut t)) if t.len() == 1 => match t.remove("file") {
            Some(Value::String(path)) if !path.is_empty() => Some(Credentials::File(path.into())),
            _ => None,
        },
        Some(_) => None,
    };
    // What was got may be a secret in the wrong place, so it isn't repeated.
    if credentials.is_none() {
        s.problem("credentials", "isn't one of its two forms", hint);
    }
    s.done();
    let (name, prefix) = url?;
    Some(BucketConfig { name, prefix, endpoint, region, credentials: credentials? })
}

fn read_fleet(table: Table, problems: &mut Problems) -> FleetConfig {
    let mut s = Section::new("fleet", table, problems);
    let listen = s
        .parsed("listen", "an address and a port, such as \"127.0.0.1:8070\"", |text| {
            text.parse::<SocketAddr>().map_err(|e| e.to_string())
        })
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8070)));
    let token_file = s.text("token_file", "a path").map(PathBuf::from);
    if !listen.ip().is_loopback() && token_file.is_none() {
        s.problem(
            "listen",
            &format!("{listen} can be reached from other machines, and no `token_file` is set"),
            "set `token_file`, or listen on 127.0.0.1",
        );
    }
    s.done();
    FleetConfig { listen, token_file }
}

/// Takes `key` and refuses all but `word`.
fn only(section: &mut Section<'_>, key: &'static str, word: &str, hint: &str) {
    section.parsed(
        key,
        hint,
        |text| if text == word { Ok(()) } else { Err("not in this version".to_owned()) },
    );
}

/// Reads `s3://bucket/prefix`.
fn s3_url(text: &str) -> Result<(String, Prefix), String> {
    let rest = text.strip_prefix("s3://").ok_or("it doesn't begin with s3://")?;
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if !(3..=255).contains(&name.len()) || !name.bytes().all(good) {
        return Err(format!("{name:?} is no name of a bucket"));
    }
    let prefix = Prefix::new(prefix).map_err(|e| e.to_string())?;
    Ok((name.to_owned(), prefix))
}

/// Reads `sqlite:///absolute/path`, with three slashes or, as SQLAlchemy writes it, four.
fn sqlite_path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with("postgres:") || text.starts_with("postgresql:") {
        return Err("this version keeps it in SQLite".to_owned());
    }
    let rest = text.strip_prefix("sqlite:").ok_or("it doesn't begin with sqlite:")?;
    let path = rest.trim_start_matches('/');
    if !rest.starts_with('/') || path.is_empty() {
        return Err("the path isn't absolute".to_owned());
    }
    Ok(PathBuf::from(format!("/{path}")))
}

/// Reads the file that `credentials = { file = … }` names; errors repeat nothing of its text.
pub fn read_keys(text: &str) -> Result<StaticKeys, String> {
    let mut table: Table = text.parse().map_err(|_| "it isn't TOML".to_owned())?;
    let mut take = |key: &str| match table.remove(key) {
        Some(Value::String(s)) if !s.is_empty() => Ok(Some(s)),
        None => Ok(None),
        Some(_) => Err(format!("`{key}` must be a text that isn't empty")),
    };
    let need = |key: &str, value: Option<String>| value.ok_or_else(|| format!("`{key}` is missing"));
    let id = take("access_key_id")?;
    let secret = take("secret_access_key")?;
    let session_token = take("session_token")?;
    Ok(StaticKeys {
        access_key_id: need("access_key_id", id)?,
        secret_access_key: need("secret_access_key", secret)?,
        session_token,
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
