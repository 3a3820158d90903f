//! The reverse proxy: takes requests, asks the script, passes on or spoils, and writes down what happened.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Sleep, sleep};

use super::operation::{Asked, Operation};
use super::script::{Fault, FaultId, Reply, Script, Spoil};

/// Bytes of a piece where bodies go in pieces.
const PIECE: usize = 2 * 1024;

/// One request, as the proxy saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What was asked.
    pub asked: Asked,
    /// HTTP method.
    pub method: Method,
    /// Bytes of the request's body.
    pub received: u64,
    /// What the server behind answered; none if it wasn't asked, or gave no answer.
    pub done: Option<u16>,
    /// What the client was told; none if its connection was closed instead, or in the middle of the answer.
    pub told: Option<u16>,
    /// Bytes of the answer's body that were to be sent.
    pub sent: u64,
    /// The fault that struck.
    pub spoil: Option<Spoil>,
}

/// A running proxy; dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    script: Script,
    seen: Vec<Seen>,
}

/// The connection is to be closed without a word.
#[derive(Debug, thiserror::Error)]
#[error("closed by script")]
struct Closed;

impl FaultProxy {
    /// Listens on `listen` (port 0 takes a free one) and passes requests to `upstream`. Chance follows from `seed`.
    ///
    /// # Errors
    /// When `listen` can't be bound.
    pub async fn start(listen: SocketAddr, upstream: SocketAddr, seed: u64) -> anyhow::Result<Self> {
        let state = Mutex::new(State { script: Script::new(seed), seen: Vec::new() });
        let shared = Arc::new(Shared { upstream, state });
        let listener = bind(listen).await?;
        let address = listener.local_addr()?;
        let accepting = Mutex::new(Some(tokio::spawn(accept(listener, Arc::clone(&shared)))));
        Ok(Self { address, shared, accepting })
    }

    /// The URL for clients.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a fault behind the others.
    pub fn add(&self, fault: Fault) -> FaultId {
        self.shared.state().script.add(fault)
    }

    /// From now on nothing is struck.
    pub fn clear(&self) {
        self.shared.state().script.clear();
    }

    /// How often a fault has struck.
    #[must_use]
    pub fn struck(&self, fault: FaultId) -> u32 {
        self.shared.state().script.struck(fault)
    }

    /// The requests that came to an end, in that order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How many of them were this operation on a key that holds `key`.
    #[must_use]
    pub fn count(&self, operation: Operation, key: &str) -> usize {
        let state = self.shared.state();
        state.seen.iter().filter(|s| s.asked.operation == operation && s.asked.key.contains(key)).count()
    }

    /// Refuses connections, and closes those that are open in the middle of whatever they do.
    pub async fn refuse(&self) {
        if let Some(accepting) = self.replace(None) {
            accepting.abort();
            // The listener is closed when the task is gone.
            let _ = accepting.await;
        }
    }

    /// Accepts connections again.
    ///
    /// # Errors
    /// When the port was taken meanwhile.
    pub async fn admit(&self) -> anyhow::Result<()> {
        self.refuse().await;
        let listener = bind(self.address).await?;
        self.replace(Some(tokio::spawn(accept(listener, Arc::clone(&self.shared)))));
        Ok(())
    }

    fn replace(&self, accepting: Option<JoinHandle<()>>) -> Option<JoinHandle<()>> {
        let mut place = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, accepting)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(accepting) = self.replace(None) {
            accepting.abort();
        }
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("the fault proxy can't listen on {address}"))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and then all connections end.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let handler = service_fn(move |request| handle(request, Arc::clone(&shared)));
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), handler);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the fault proxy ended early");
    }
}

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Pieces>, Closed> {
    let (head, body) = request.into_parts();
    let asked = Asked::of(&head.method, &head.uri);
    let spoil = shared.state().script.arriving(&asked);
    let pause = if let Some(Spoil::Slow(pause)) = &spoil { Some(*pause) } else { None };
    let body = collect(body, pause).await.map_err(|_| Closed)?;
    let mut seen = Seen {
        asked,
        method: head.method.clone(),
        received: body.len() as u64,
        done: None,
        told: None,
        sent: 0,
        spoil,
    };
    let answer = answer(Request::from_parts(head, body), &shared, &mut seen).await;
    shared.state().seen.push(seen);
    answer
}

/// The answer to a request, and in `seen` what happened.
async fn answer(
    request: Request<Bytes>,
    shared: &Shared,
    seen: &mut Seen,
) -> Result<Response<Pieces>, Closed> {
    let method = request.method().clone();
    let reply = match seen.spoil.clone() {
        Some(Spoil::Cut) => return Err(Closed),
        Some(Spoil::CutBody) => {
            let half = request.body().len() / 2;
            let broken = request.map(|body| Pieces::half(body.slice(..half)));
            let _ = forward(broken, shared.upstream).await;
            return Err(Closed);
        }
        Some(Spoil::Instead(reply)) => reply,
        Some(Spoil::FlipBit | Spoil::After(_) | Spoil::LoseReply | Spoil::ShortReply | Spoil::Slow(_))
        | None => {
            let request = changed(request, seen.spoil.as_ref());
            let done = forward(request.map(Pieces::whole), shared.upstream).await.map_err(|_| Closed)?;
            let (head, body) = done.into_parts();
            let status = head.status.as_u16();
            seen.done = Some(status);
            if seen.spoil.is_none() {
                seen.spoil = shared.state().script.answered(&seen.asked, status);
            }
            let pieces = match &seen.spoil {
                None | Some(Spoil::FlipBit) => Pieces::whole(body.clone()),
                Some(Spoil::Slow(pause)) => Pieces::slow(body.clone(), *pause),
                Some(Spoil::ShortReply) => return short(head, body, &method, seen),
                Some(Spoil::LoseReply | Spoil::Cut | Spoil::CutBody) => return Err(Closed),
                Some(Spoil::After(reply) | Spoil::Instead(reply)) => return told(*reply, &method, seen),
            };
            (seen.told, seen.sent) = (seen.done, body.len() as u64);
            return Ok(Response::from_parts(head, pieces));
        }
    };
    told(reply, &method, seen)
}

/// The request as it goes on to the server.
fn changed(request: Request<Bytes>, spoil: Option<&Spoil>) -> Request<Bytes> {
    if spoil != Some(&Spoil::FlipBit) {
        return request;
    }
    request.map(|body| {
        let mut bytes = body.to_vec();
        let middle = bytes.len() / 2;
        bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 0x10);
        bytes.into()
    })
}

/// The answer that a script gives.
fn told(reply: Reply, method: &Method, seen: &mut Seen) -> Result<Response<Pieces>, Closed> {
    let body = if *method == Method::HEAD { Bytes::new() } else { Bytes::from(reply.body()) };
    (seen.told, seen.sent) = (Some(reply.status), body.len() as u64);
    let mut response = Response::new(Pieces::whole(body.clone()));
    *response.status_mut() = StatusCode::from_u16(reply.status).map_err(|_| Closed)?;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok(response)
}

/// The head of an answer and half of its body. Where there is none, the head promises one.
fn short(
    mut head: hyper::http::response::Parts,
    body: Bytes,
    method: &Method,
    seen: &mut Seen,
) -> Result<Response<Pieces>, Closed> {
    if *method == Method::HEAD {
        return Err(Closed);
    }
    let promised = if body.is_empty() { 1 } else { body.len() };
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(promised));
    let half = body.slice(..body.len() / 2);
    seen.sent = half.len() as u64;
    Ok(Response::from_parts(head, Pieces::half(half)))
}

/// Asks the server behind over a connection of its own; the answer is read whole.
async fn forward(request: Request<Pieces>, upstream: SocketAddr) -> anyhow::Result<Response<Bytes>> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        anyhow::Ok(Response::from_parts(head, collect(body, None).await?))
    };
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    tokio::select! {
        done = exchange.as_mut() => done,
        ended = connection.as_mut() => {
            ended?;
            exchange.await
        }
    }
}

/// Reads a body whole, with a pause before each piece of it.
async fn collect(body: Incoming, pause: Option<Duration>) -> hyper::Result<Bytes> {
    let mut body = pin!(body);
    let mut whole = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Some(pause) = pause {
            sleep(pause).await;
        }
        if let Ok(piece) = frame?.into_data() {
            whole.extend_from_slice(&piece);
        }
    }
    Ok(whole.into())
}

/// A body that is sent in pieces, and may end before its end.
struct Pieces {
    left: VecDeque<Bytes>,
    breaks: bool,
    pause: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Pieces {
    fn whole(body: Bytes) -> Self {
        let left = if body.is_empty() { VecDeque::new() } else { VecDeque::from([body]) };
        Self { left, breaks: false, pause: None }
    }

    fn half(body: Bytes) -> Self {
        Self { breaks: true, ..Self::whole(body) }
    }

    fn slow(mut body: Bytes, pause: Duration) -> Self {
        let mut left = VecDeque::new();
        while !body.is_empty() {
            left.push_back(body.split_to(PIECE.min(body.len())));
        }
        Self { left, breaks: false, pause: Some((pause, Box::pin(sleep(pause)))) }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Closed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Closed>>> {
        if let Some((every, pause)) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            *pause = Box::pin(sleep(*every));
        }
        Poll::Ready(match self.left.pop_front() {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.breaks => Some(Err(Closed)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && !self.breaks
    }
}
