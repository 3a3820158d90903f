//! A forward proxy as plants have them: requests and tunnels go through it, to hosts whose names only it knows.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The longest head of a request.
const LONGEST_HEAD: usize = 64 << 10;

/// What it lets through.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Host and port that it knows, and where that really is.
    pub host: (String, SocketAddr),
    /// The value of `Proxy-Authorization` without which it refuses; none: it asks for none.
    pub password: Option<String>,
}

/// A running proxy; dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl ForwardProxy {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start(rules: Rules) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn(accept(listener, rules, Arc::clone(&seen)));
        Ok(Self { address, seen, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first line of each connection.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, rules: Rules, seen: Arc<Mutex<Vec<String>>>) {
    let rules = Arc::new(rules);
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (rules, seen) = (Arc::clone(&rules), Arc::clone(&seen));
        connections.spawn(async move { pass(stream, &rules, &seen).await });
        while connections.try_join_next().is_some() {}
    }
}

/// One connection. A tunnel is opened; of what isn't one the first request says where all of them go, and they go on as
/// they come: a server must understand whole URLs.
async fn pass(mut client: TcpStream, rules: &Rules, seen: &Mutex<Vec<String>>) -> anyhow::Result<()> {
    let begun = head(&mut client).await?;
    let text = String::from_utf8_lossy(&begun).into_owned();
    let first = text.lines().next().unwrap_or_default();
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(first.to_owned());
    let target = first.split(' ').nth(1).unwrap_or_default();
    let is_tunnel = first.starts_with("CONNECT ");
    let wanted = target.strip_prefix("http://").map_or(target, |rest| rest.split('/').next().unwrap_or(rest));
    let allowed = rules.password.as_deref().is_none_or(|password| {
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .any(|(name, value)| name.eq_ignore_ascii_case("proxy-authorization") && value == password)
    });
    let (host, at) = &rules.host;
    let refusal = match (allowed, wanted == host) {
        (false, _) => Some("407 Proxy Authentication Required"),
        (_, false) => Some("502 Bad Gateway"),
        _ => None,
    };
    if let Some(status) = refusal {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        client.write_all(answer.as_bytes()).await?;
        return Ok(client.shutdown().await?);
    }
    let mut server = TcpStream::connect(at).await?;
    if is_tunnel {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    } else {
        server.write_all(&begun).await?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The head of the first request, and what came with it.
async fn head(client: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut begun = Vec::new();
    while !begun.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = client.read_buf(&mut begun).await?;
        anyhow::ensure!(read > 0 && begun.len() < LONGEST_HEAD, "no head of a request");
    }
    Ok(begun)
}

/// The value of `Proxy-Authorization` for a name and a password.
#[must_use]
pub fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
}
