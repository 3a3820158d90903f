//! The local endpoint: status, health and metrics over HTTP on the loopback address.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tributary_contract::status::{GatewayStatus, Health};

use super::{health_word, metrics};

/// What the endpoint shows: always the newest status.
pub type Shared = watch::Receiver<Arc<GatewayStatus>>;

/// Why the endpoint can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Not a loopback address.
    #[error(
        "status.listen = {0}: the endpoint has no password, so it listens on this machine only; use 127.0.0.1 or [::1]"
    )]
    NotLoopback(SocketAddr),
    /// The address can't be had.
    #[error("status.listen = {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Takes the address, so that a wrong one is known before anything else starts.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    if !address.ip().is_loopback() {
        return Err(ServerError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
}

/// Answers until `stop` is done.
pub async fn serve(
    listener: TcpListener,
    status: Shared,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(status)).with_graceful_shutdown(stop).await
}

/// `GET /status`: the status as JSON. `GET /health`: its word, 200 or (losing) 503, and the reasons. `GET /metrics`: for
/// Prometheus.
pub fn router(status: Shared) -> Router {
    Router::new()
        .route("/status", get(show_status))
        .route("/health", get(show_health))
        .route("/metrics", get(show_metrics))
        .layer(from_fn(only_local_hosts))
        .with_state(status)
}

async fn show_status(State(status): State<Shared>) -> Json<GatewayStatus> {
    Json(newest(&status).as_ref().clone())
}

async fn show_health(State(status): State<Shared>) -> (StatusCode, String) {
    let status = newest(&status);
    let code = match status.health {
        Health::Ok | Health::Degraded => StatusCode::OK,
        Health::Losing => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut lines = vec![health_word(status.health).to_owned()];
    lines.extend(status.reasons.iter().cloned());
    (code, lines.join("\n") + "\n")
}

async fn show_metrics(State(status): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&newest(&status)))
}

fn newest(status: &Shared) -> Arc<GatewayStatus> {
    status.borrow().clone()
}

/// Refuses requests under another name than this machine's own. A web page may have its own host name resolve to
/// 127.0.0.1 and so read the answers in a visitor's browser; the name in `Host` gives it away.
async fn only_local_hosts(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    if host.is_some_and(is_local) {
        next.run(request).await
    } else {
        let hint = "this endpoint answers to localhost, 127.0.0.1 and [::1] only\n";
        (StatusCode::MISDIRECTED_REQUEST, hint).into_response()
    }
}

/// Whether a `Host` header names this machine: `localhost` or a loopback address, with or without a port.
fn is_local(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::status::{judge, tests::facts};

    async fn ask(address: SocketAddr, path: &str, host: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    #[tokio::test]
    async fn the_endpoint_shows_the_newest_status_and_stops_when_told() {
        let (publish, shared) = watch::channel(Arc::new(judge(facts())));
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, shared, async { drop(stopped.await) }));

        let health = ask(address, "/health", "localhost").await;
        assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("\r\n\r\nok\n"), "{health}");
        let mut bad = facts();
        bad.intake_stopped = Some("disk is full".into());
        publish.send(Arc::new(judge(bad.clone()))).unwrap();
        let health = ask(address, "/health", "localhost").await;
        assert!(
            health.starts_with("HTTP/1.1 503")
                && health.contains("losing\n")
                && health.contains("disk is full")
        );

        let status = ask(address, "/status", &address.to_string()).await;
        let body = status.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(serde_json::from_str::<GatewayStatus>(body).unwrap(), judge(bad));
        let metrics = ask(address, "/metrics", "[::1]:9617").await;
        assert!(metrics.contains("tributary_health{health=\"losing\"} 1"), "{metrics}");

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_request_under_a_foreign_name_is_refused() {
        let (_publish, shared) = watch::channel(Arc::new(judge(facts())));
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, shared, std::future::pending()));
        for host in
            ["evil.example", "evil.example:9617", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil", ""]
        {
            let reply = ask(address, "/status", host).await;
            assert!(reply.starts_with("HTTP/1.1 421") && !reply.contains("gw-1"), "{host}: {reply}");
        }
    }

    #[tokio::test]
    async fn the_endpoint_never_listens_beyond_this_machine() {
        let refused = listen("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
        assert!(refused.to_string().contains("127.0.0.1"), "{refused}");
    }
}
