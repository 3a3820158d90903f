//! The strict S3 server as a program of its own, so that it can be killed.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tributary_tests::s3::{S3Options, S3Server};

/// Serve S3's API from a local folder, strictly: an answered write survives a kill at any moment
#[derive(Debug, Parser)]
#[command(name = "tributary-s3")]
struct Args {
    /// Folder that everything is kept in
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// TOML file with access_key_id and secret_access_key
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    /// Region that signatures must name
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: String,
    /// Bucket to make if it is missing; may be given again
    #[arg(long, value_name = "NAME")]
    bucket: Vec<String>,
    /// File to which each request is appended, a JSON line each
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
}

#[derive(serde::Deserialize)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let mut stop = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let file = args.credentials.display();
    let text = std::fs::read_to_string(&args.credentials).with_context(|| format!("can't read {file}"))?;
    // The error of the parser would show the text, which is secret.
    let keys: Credentials = toml::from_str(&text)
        .map_err(|_| anyhow::anyhow!("{file} must hold access_key_id and secret_access_key"))?;
    let server = S3Server::start(S3Options {
        dir: args.dir,
        listen: args.listen,
        access_key_id: keys.access_key_id,
        secret_access_key: keys.secret_access_key,
        region: args.region,
        buckets: args.bucket,
        access_log: args.access_log,
    })
    .await?;
    tracing::info!(endpoint = server.endpoint(), "serving");
    tokio::select! {
        _ = stop.0.recv() => {}
        _ = stop.1.recv() => {}
    }
    server.stop().await;
    Ok(())
}
