//! Edge: asks the running agent for its status over its local endpoint.

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tributary_contract::status::GatewayStatus;

use crate::config::Config;

/// The longest answer that is read, bytes.
const LONGEST: u64 = 8 << 20;

/// The status as the running agent gives it. Fails when none runs, or its endpoint is off.
pub async fn fetch(config: &Config) -> anyhow::Result<GatewayStatus> {
    let Some(address) = config.status.listen else {
        bail!(
            "the local endpoint is off; set `[status] listen = \"127.0.0.1:9617\"` and start the agent again"
        );
    };
    let body = get(address, "/status").await.with_context(|| {
        format!("no agent answers on {address}; is it running? (systemctl status tributary-agent)")
    })?;
    serde_json::from_slice(&body).with_context(|| format!("what answers on {address} is no agent"))
}

/// One GET, the connection closed behind it: all that asking our own loopback endpoint needs.
async fn get(address: std::net::SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("the answer is no HTTP")?;
    let (head, body) = answer.split_at(end + 4);
    let head = String::from_utf8_lossy(head);
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_vec()),
        other => bail!("it answered {}", other.unwrap_or("nothing")),
    }
}
