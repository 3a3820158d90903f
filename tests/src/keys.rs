//! Who gives keys: the credentials provider of AWS IoT, and the endpoint of a container as Greengrass has it. Neither has
//! TLS here; [`crate::tls`] puts it before the first.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// The role alias that it knows.
pub const ROLE_ALIAS: &str = "tributary-gateway";
/// The thing that it knows.
pub const THING: &str = "gw-1";
/// What a container must show.
pub const CONTAINER_TOKEN: &str = "token-of-the-container";

/// A session's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Session token.
    pub token: String,
}

impl Session {
    /// Keys of that name; secret and token hold it.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            id: format!("ASIA{name}"),
            secret: format!("secret-key-of-{name}"),
            token: format!("session-token-of-{name}"),
        }
    }
}

/// What is given to whoever may ask.
#[derive(Debug, Clone)]
pub enum Given {
    /// Keys that are valid for so long.
    Keys(Session, Duration),
    /// A status, and why.
    Refusal(u16, &'static str),
}

type Giver = Arc<dyn Fn() -> Given + Send + Sync>;

/// A running server; dropping it stops it.
pub struct KeyServer {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

struct State {
    giver: Giver,
    /// How often keys were given.
    given: usize,
    /// How often none were.
    refused: usize,
}

impl fmt::Debug for KeyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyServer({})", self.address)
    }
}

impl KeyServer {
    /// Listens on a free port and gives what `giver` says at each request.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(giver: impl Fn() -> Given + Send + Sync + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(State { giver: Arc::new(giver), given: 0, refused: 0 }));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Gives something else from now on.
    pub fn give(&self, giver: impl Fn() -> Given + Send + Sync + 'static) {
        locked(&self.shared).giver = Arc::new(giver);
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that a container is told.
    #[must_use]
    pub fn container_url(&self) -> String {
        format!("http://{}/container", self.address)
    }

    /// How often it gave keys.
    #[must_use]
    pub fn given(&self) -> usize {
        locked(&self.shared).given
    }

    /// How often it gave none.
    #[must_use]
    pub fn refused(&self) -> usize {
        locked(&self.shared).refused
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn locked(shared: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<State>>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let handler = service_fn(move |request| {
            let answer = answer(&request, &shared);
            async move { Ok::<_, Infallible>(answer) }
        });
        // It sets the header Date by itself, as AWS does.
        connections.spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), handler),
        );
        while connections.try_join_next().is_some() {}
    }
}

fn answer<B>(request: &Request<B>, shared: &Mutex<State>) -> Response<String> {
    let shows = |name: &str, value: &str| request.headers().get(name).is_some_and(|v| v == value);
    let path = request.uri().path();
    let iot = path == format!("/role-aliases/{ROLE_ALIAS}/credentials");
    let container = path == "/container";
    let allowed = request.method() == Method::GET
        && (iot && shows("x-amzn-iot-thingname", THING)
            || container && shows(AUTHORIZATION.as_str(), CONTAINER_TOKEN));
    // The giver may ask others: nothing is locked meanwhile.
    let giver = Arc::clone(&locked(shared).giver);
    let given = if allowed { giver() } else { Given::Refusal(403, "Access Denied") };
    let mut state = locked(shared);
    let (status, body) = match given {
        Given::Keys(keys, lifetime) => {
            state.given += 1;
            (200, if iot { iot_json(&keys, lifetime) } else { container_json(&keys, lifetime) })
        }
        Given::Refusal(status, message) => {
            state.refused += 1;
            (status, serde_json::json!({ "message": message }))
        }
    };
    let mut response = Response::new(body.to_string());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn iot_json(keys: &Session, lifetime: Duration) -> serde_json::Value {
    serde_json::json!({ "credentials": {
        "accessKeyId": keys.id, "secretAccessKey": keys.secret, "sessionToken": keys.token,
        "expiration": expiration(lifetime),
    }})
}

fn container_json(keys: &Session, lifetime: Duration) -> serde_json::Value {
    serde_json::json!({
        "AccessKeyId": keys.id, "SecretAccessKey": keys.secret, "Token": keys.token, "Expiration": expiration(lifetime),
    })
}

/// In whole seconds, as AWS gives it.
fn expiration(lifetime: Duration) -> String {
    let end = jiff::Timestamp::now().as_second() + i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2);
    jiff::Timestamp::from_second(end).unwrap_or(jiff::Timestamp::MAX).to_string()
}
