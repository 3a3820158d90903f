//! Asks a running receiver for its fleet, or the ledger when none runs: the edge of `fleet list`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Fleet;
use super::roster;
use crate::config::Config;
use crate::dedupe::Ledger;
use crate::pipeline::run::now;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 256 << 20;

/// The fleet from the receiver at the configuration's address; if nothing listens there, from the ledger's file.
pub async fn ask(config: &Config, token: Option<&str>) -> anyhow::Result<Fleet> {
    let mut address = config.fleet.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    match tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address)).await {
        Ok(Ok(stream)) => from_receiver(stream, address, token)
            .await
            .with_context(|| format!("what listens at {address} isn't this receiver")),
        _ => from_ledger(config),
    }
}

async fn from_receiver(
    mut stream: TcpStream,
    address: SocketAddr,
    token: Option<&str>,
) -> anyhow::Result<Fleet> {
    let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    // HTTP/1.0: the answer isn't chunked and ends with the connection.
    let request = format!("GET /api/fleet HTTP/1.0\r\nHost: {address}\r\n{token}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut answered = stream.take(MAX_ANSWER);
    let read = answered.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(60), read).await.context("it doesn't answer")??;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("its answer isn't HTTP")?;
    let (head, body) = answer.split_at(end);
    let head = String::from_utf8_lossy(head);
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("it answered {status:?} to /api/fleet");
    }
    serde_json::from_slice(body.get(4..).unwrap_or_default()).context("its answer isn't a fleet")
}

fn from_ledger(config: &Config) -> anyhow::Result<Fleet> {
    if !config.ledger.exists() {
        bail!(
            "no receiver listens at {}, and there is no ledger {}: start one with `tributary-receiver run`",
            config.fleet.listen,
            config.ledger.display()
        );
    }
    let ledger = Ledger::peek(&config.ledger)?;
    let mut fleet = roster::fleet(ledger.gateways()?, ledger.tables()?, Vec::new(), ledger.strays()?, now());
    fleet.failing.push(format!("no receiver listens at {}: this is from the ledger", config.fleet.listen));
    Ok(fleet)
}
