//! Logging set-up: lines on standard error, level by `TRIBUTARY_LOG` (the syntax of `tracing`'s filters), `info` else.
//!
//! Error: a person must act. Warn: unusual, still working. Info: what an operator would tell another. Debug: decisions.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging; call once, from `main`.
pub fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("TRIBUTARY_LOG")
        .from_env_lossy();
    // Under systemd the journal already writes the time.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if journal {
        builder.without_time().init();
    } else {
        builder.init();
    }
}
