//! Logs go to standard error, as much of them as `TRIBUTARY_LOG` or `RUST_LOG` says; what fails in them fails alone.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged while nothing is said: our own words, and warnings of the libraries; but not each retry of a read,
/// which comes with a backtrace, and whose failure in the end is ours to tell.
const DEFAULT: &str = "warn,tributary_receiver=info,opendal=error";

/// Starts logging. A filter that can't be read is reported and replaced by the default.
pub fn start() {
    let wanted = ["TRIBUTARY_LOG", "RUST_LOG"].into_iter().find_map(|name| std::env::var(name).ok());
    let parsed = wanted.as_deref().map(str::parse::<EnvFilter>);
    let (filter, complaint) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(e)) => (EnvFilter::new(DEFAULT), Some(e)),
        None => (EnvFilter::new(DEFAULT), None),
    };
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    if let (Ok(()), Some(e)) = (started, complaint) {
        tracing::warn!("log filter: {e}; using {DEFAULT:?}");
    }
}
