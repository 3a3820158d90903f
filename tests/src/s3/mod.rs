//! A strict S3 API server on local files.
//!
//! It refuses what S3 refuses: creates of existing keys, bodies that differ from their checksums, parts that are
//! missing, changed, unordered or too small, anonymous requests, signatures for another region, sessions that have ended. An answered write
//! survives a kill at any moment, and a write that wasn't answered is there whole or not at all; half-done uploads
//! survive too. Deliberately absent: versions, access lists, tags, encryption, S3's eventual 409s and its 200
//! answers with an error inside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub mod access;
mod api;
mod shape;
mod gate;
pub mod keys;
mod condition;
mod multipart;
mod sums;
mod store;
mod model;
mod page;
mod disk;
mod body;
pub(crate) mod percent;
pub mod client;

#[cfg(test)]
mod tests;

pub use access::Access;
pub use keys::Keys;

/// How long a stop waits for requests under way.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A back-off: after so long the next connection is tried where one couldn't be taken. Nothing tells when somebody else
/// gives a file descriptor back.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Where everything is kept; made if missing.
    pub dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The access key that may sign requests from the start.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// The region that signatures must name.
    pub region: String,
    /// Buckets to make if missing.
    pub buckets: Vec<String>,
    /// Where the access log is appended, a JSON line a request.
    pub access_log: Option<PathBuf>,
}

/// A running server; dropping it stops it at once, in the middle of whatever it does.
pub struct S3Server {
    address: SocketAddr,
    log: Arc<access::Log>,
    keys: Keys,
    stop: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl S3Server {
    /// Opens the folder, makes the buckets, and serves.
    ///
    /// # Errors
    /// A folder that can't be read or written, a damaged file, a bucket name that S3 wouldn't take, an address in use.
    pub async fn start(options: S3Options) -> anyhow::Result<Self> {
        let opened = options.clone();
        let (store, log) = tokio::task::spawn_blocking(move || open(&opened)).await??;
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("the S3 server can't listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let mut service =
            S3ServiceBuilder::new(api::Api { store: Arc::new(store), region: options.region.clone() });
        let keys = Keys::default();
        keys.admit(&options.access_key_id, &options.secret_access_key, None);
        service.set_auth(keys.clone());
        service.set_access(gate::Gate { region: options.region, keys: keys.clone() });
        let log = Arc::new(log);
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, service.build(), log.clone(), stopped));
        Ok(Self { address, log, keys, stop, accepting: Some(accepting) })
    }

    /// The URL for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The keys that may sign requests; whoever has them changes the server's.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// The newest requests, oldest first, at most [`access::KEPT`].
    pub fn log(&self) -> Vec<Access> {
        self.log.snapshot()
    }

    /// Takes no new connections, lets the requests under way end (for at most five seconds), and stops.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(mut accepting) = self.accepting.take()
            && tokio::time::timeout(STOP_WITHIN, &mut accepting).await.is_err()
        {
            accepting.abort();
            tracing::warn!(address = %self.address, "requests were cut off by the stop of the S3 server");
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

fn open(options: &S3Options) -> anyhow::Result<(store::Store, access::Log)> {
    let dir = options.dir.display();
    let store =
        store::Store::open(&options.dir).with_context(|| format!("the S3 folder {dir} can't be opened"))?;
    for bucket in &options.buckets {
        anyhow::ensure!(
            s3s::path::check_bucket_name(bucket),
            "invalid bucket name {bucket:?}: use 3 to 63 of a-z, 0-9, dot and dash"
        );
        store.create_bucket(bucket).with_context(|| format!("bucket {bucket} can't be made in {dir}"))?;
    }
    let log = access::Log::open(options.access_log.as_deref()).context("the access log can't be opened")?;
    Ok((store, log))
}

async fn accept(
    listener: TcpListener,
    service: S3Service,
    log: Arc<access::Log>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, service.clone(), log.clone(), stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the S3 server couldn't take a connection");
                    // The end of one of our own gives a descriptor back, and says so.
                    tokio::select! {
                        _ = stopped.changed() => break,
                        Some(_) = connections.join_next() => {}
                        () = tokio::time::sleep(TRY_AGAIN) => {}
                    }
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(
    stream: TcpStream,
    service: S3Service,
    log: Arc<access::Log>,
    mut stopped: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small answers will wait for acknowledgements");
    }
    let handler = service_fn(move |request: Request<Incoming>| {
        let (pending, request) = log.begin(request);
        let service = service.clone();
        async move {
            let response = service.call(request.map(s3s::Body::http_body)).await?;
            Ok::<_, s3s::HttpError>(pending.answer(response))
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), handler);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the S3 server ended early");
    }
}
