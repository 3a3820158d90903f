//! Asks a program's HTTP endpoint on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const LIMIT: u64 = 16 << 20;

/// The JSON at `path`, whatever the status code, or `None` when there is none.
pub async fn json(address: SocketAddr, path: &str) -> Option<serde_json::Value> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, get(address, path)).await.ok()?.ok()?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    serde_json::from_slice(answer.get(body..)?).ok()
}

/// The text at `path`, whatever the status code, or `None` when there is none.
pub async fn text(address: SocketAddr, path: &str) -> Option<String> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, get(address, path)).await.ok()?.ok()?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    String::from_utf8(answer.get(body..)?.to_vec()).ok()
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the answer comes unchunked and ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LIMIT).read_to_end(&mut answer).await?;
    Ok(answer)
}
