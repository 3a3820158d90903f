//! What is in force, as lines of `key = value` for people.

use std::time::Duration;

use super::{Config, Credentials};

/// The effective configuration, one key a line. Names files that hold secrets, never the secrets.
pub fn show(c: &Config) -> String {
    let mut lines = vec![
        line("state_dir", &quote(&c.state_dir.display().to_string())),
        line("bucket.url", &quote(&format!("s3://{}/{}", c.bucket.name, c.bucket.prefix.as_str()))),
    ];
    if let Some(endpoint) = &c.bucket.endpoint {
        lines.push(line("bucket.endpoint", &quote(endpoint)));
    }
    let credentials = match &c.bucket.credentials {
        Credentials::Default => quote("default"),
        Credentials::File(path) => format!("{{ file = {} }}", quote(&path.display().to_string())),
    };
    lines.extend([
        line("bucket.region", &quote(&c.bucket.region)),
        line("bucket.credentials", &credentials),
        line("catalog.uri", &quote(&format!("sqlite://{}", c.catalog_db.display()))),
        line("catalog.warehouse", &quote(&c.warehouse)),
        line("ledger.url", &quote(&format!("sqlite:{}", c.ledger.display()))),
        line("arrivals.list_every", &duration(c.list_every)),
        line("register.mode", &quote("in-place")),
        line("register.max_files", &c.register.max_files.to_string()),
        line("register.max_wait", &duration(c.register.max_wait)),
        line("fleet.listen", &quote(&c.fleet.listen.to_string())),
    ]);
    if let Some(file) = &c.fleet.token_file {
        lines.push(line("fleet.token_file", &quote(&file.display().to_string())));
    }
    lines.concat()
}

fn line(key: &str, value: &str) -> String {
    format!("{key} = {value}\n")
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn duration(duration: Duration) -> String {
    quote(&humantime::format_duration(duration).to_string())
}
