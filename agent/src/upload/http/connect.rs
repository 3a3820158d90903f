//! One connection: through a proxy or not, with TLS or not, and how far it came where it failed.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::proxy::Proxies;
use super::trust::Trust;

/// How long a connection may take, TLS and proxy included.
const CONNECT: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no connection. In no case was a request sent.
#[derive(Debug, thiserror::Error)]
pub enum Unconnected {
    /// The name has no address.
    #[error("no address for {host}")]
    NoAddress {
        /// The name.
        host: String,
        /// The resolver's word.
        source: BoxError,
    },
    /// Refused or unreachable.
    #[error("no connection to {host}")]
    NotReached {
        /// Host, and port where it was said.
        host: String,
        /// The system's word.
        source: BoxError,
    },
    /// It took too long.
    #[error("no connection to {host} within {} s", CONNECT.as_secs())]
    TooSlow {
        /// Host, and port where it was said.
        host: String,
    },
    /// The proxy can't be reached, or makes no connection.
    #[error("the proxy {proxy} makes no connection to {host}")]
    Proxy {
        /// Host and port of the proxy.
        proxy: String,
        /// Host, and port where it was said.
        host: String,
        /// Its word.
        source: BoxError,
    },
    /// No TLS, or nobody to trust.
    #[error("TLS with {host}{hint}")]
    Tls {
        /// Host, and port where it was said.
        host: String,
        /// What to do about it, where that is known.
        hint: &'static str,
        /// What is wrong.
        source: BoxError,
    },
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    trust: Arc<Trust>,
    proxies: Proxies,
}

impl Connector {
    pub(super) fn new(trust: Trust, proxies: Proxies) -> Self {
        let mut tcp = HttpConnector::new();
        // `https` is ours to do.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, trust: Arc::new(trust), proxies }
    }

    async fn connect(self, to: Uri) -> Result<Conn, Unconnected> {
        let host = to.authority().map(ToString::to_string).unwrap_or_default();
        let secure = to.scheme_str() == Some("https");
        let proxy = self.proxies.before(&to);
        let stream = match &proxy {
            None => ask(self.tcp, to.clone()).await.map_err(|error| unreached(&host, error))?,
            Some(proxy) => {
                let (through, name) = (through(self.tcp, proxy, secure, to.clone()), authority(proxy.uri()));
                through.await.map_err(|source| Unconnected::Proxy {
                    proxy: name,
                    host: host.clone(),
                    source,
                })?
            }
        };
        if !secure {
            return Ok(Conn { stream: Stream::Plain(stream), proxied: proxy.is_some() });
        }
        let refused = |hint, source| Unconnected::Tls { host: host.clone(), hint, source };
        let config = self.trust.config().map_err(|e| refused("", e.into()))?;
        let name = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|e| refused("", e.into()))?;
        match TlsConnector::from(config).connect(name, stream.into_inner()).await {
            Ok(tls) => Ok(Conn { stream: Stream::Tls(Box::new(TokioIo::new(tls))), proxied: false }),
            Err(error) => {
                self.trust.doubt();
                Err(refused(hint(&error), error.into()))
            }
        }
    }
}

/// A service may be called only when it says that it is ready.
async fn ask<S: Service<Uri>>(mut service: S, to: Uri) -> Result<S::Response, S::Error> {
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(to).await
}

/// A connection to the proxy; `secure`: on which it speaks no more and passes everything on.
async fn through(
    tcp: HttpConnector,
    proxy: &Intercept,
    secure: bool,
    to: Uri,
) -> Result<TokioIo<TcpStream>, BoxError> {
    let uri = proxy.uri().clone();
    if uri.scheme_str() != Some("http") {
        return Err("only proxies whose URL begins with http:// are spoken to".into());
    }
    if !secure {
        return Ok(ask(tcp, uri).await?);
    }
    let mut tunnel = Tunnel::new(uri, tcp);
    if let Some(password) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(password.clone());
    }
    Ok(ask(tunnel, to).await?)
}

/// Host and port: a URL may hold a password.
fn authority(uri: &Uri) -> String {
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", uri.host().unwrap_or_default())
}

fn unreached(host: &str, error: impl std::error::Error + Send + Sync + 'static) -> Unconnected {
    let host = host.to_owned();
    // The library's words are all there is to tell one from the other.
    if error.to_string().starts_with("dns error") {
        Unconnected::NoAddress { host, source: error.into() }
    } else {
        Unconnected::NotReached { host, source: error.into() }
    }
}

/// What an operator can do about a handshake that failed.
fn hint(error: &std::io::Error) -> &'static str {
    let certificate = match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(certificate)) => certificate,
        _ => return "",
    };
    match certificate {
        // A bad signature: of one who bears the name of somebody that is trusted.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            " (nobody that is trusted has signed its certificate: set `ca_file` to who did, or find out who stands \
             between)"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => " (is this machine's clock right?)",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            " (its certificate is another host's: is the endpoint right?)"
        }
        _ => "",
    }
}

impl Service<Uri> for Connector {
    type Response = Conn;
    type Error = Unconnected;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, Unconnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unconnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let slow =
                Unconnected::TooSlow { host: to.authority().map(ToString::to_string).unwrap_or_default() };
            tokio::time::timeout(CONNECT, connector.connect(to)).await.unwrap_or(Err(slow))
        })
    }
}

/// A connection that carries requests.
pub(super) struct Conn {
    stream: Stream,
    /// The proxy reads the requests, and needs whole URLs in them.
    proxied: bool,
}

enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

/// Passes a call on to the stream, whichever it is.
macro_rules! pass_on {
    ($conn:ident, $call:ident($($argument:expr),*)) => {
        match &mut $conn.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).$call($($argument),*),
            Stream::Tls(stream) => Pin::new(&mut **stream).$call($($argument),*),
        }
    };
}

impl Read for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        pass_on!(self, poll_read(cx, into))
    }
}

impl Write for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<std::io::Result<usize>> {
        pass_on!(self, poll_write(cx, from))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        pass_on!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        pass_on!(self, poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        pass_on!(self, poll_write_vectored(cx, from))
    }
}
