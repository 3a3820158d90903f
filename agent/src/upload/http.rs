//! HTTP/1.1 to the bucket and to those who give keys for it: the SDK's requests and a few of our own, over connections
//! that are kept for the next one.
//!
//! Not the SDK's own client, because that one takes neither a certificate of ours, nor the agent's time to judge the
//! certificates of others by.

mod connect;
mod proxy;
mod trust;

use std::error::Error;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::BytesMut;
use hyper::body::{Body as _, Incoming};
use hyper::header::PROXY_AUTHORIZATION;
use hyper::{Request, Response};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use self::connect::Connector;
pub use self::connect::Unconnected;
use self::proxy::Proxies;
pub use self::trust::Trust;
use crate::config::Proxy;

/// A client with its connections; clones share them.
#[derive(Clone)]
pub struct Http {
    client: Client<Connector, SdkBody>,
    proxies: Proxies,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

/// Why a small answer couldn't be had. Holds nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("{}", chain(.0))]
    Client(#[from] ClientError),
    /// It broke in the middle of the answer.
    #[error("the answer broke off: {0}")]
    Body(hyper::Error),
    /// More came than such an answer ever has.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// Nothing came for too long.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
}

impl Http {
    /// A client without connections. Reads no file yet: whatever is wrong with one is the answer to the requests that
    /// need it, for as long as it is wrong.
    pub fn new(trust: Trust, proxy: &Proxy) -> Self {
        let proxies = Proxies::new(proxy);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new());
        Self { client: builder.build(Connector::new(trust, proxies.clone())), proxies }
    }

    async fn send(&self, mut request: Request<SdkBody>) -> Result<Response<Incoming>, ClientError> {
        if let Some(password) = self.proxies.authorization(request.uri()) {
            request.headers_mut().entry(PROXY_AUTHORIZATION).or_insert(password);
        }
        self.client.request(request).await
    }

    /// The answer to a request, its body at most `limit` bytes, within `patience`.
    ///
    /// # Errors
    /// When there is none, or more.
    pub async fn fetch(
        &self,
        request: Request<SdkBody>,
        limit: usize,
        patience: Duration,
    ) -> Result<Response<BytesMut>, FetchError> {
        let exchange = async {
            let (head, body) = self.send(request).await?.into_parts();
            let mut body = pin!(body);
            let mut whole = BytesMut::new();
            while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                if let Ok(piece) = frame.map_err(FetchError::Body)?.into_data() {
                    if whole.len() + piece.len() > limit {
                        return Err(FetchError::TooLong(limit));
                    }
                    whole.extend_from_slice(&piece);
                }
            }
            Ok(Response::from_parts(head, whole))
        };
        tokio::time::timeout(patience, exchange).await.unwrap_or(Err(FetchError::Silent(patience)))
    }
}

impl HttpClient for Http {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let within =
            settings.read_timeout().map(|read| read + settings.connect_timeout().unwrap_or_default());
        SharedHttpConnector::new(Limited { http: self.clone(), within })
    }
}

/// As the SDK asks: its requests to the bucket have no limit as a whole, those for keys have one.
#[derive(Debug)]
struct Limited {
    http: Http,
    within: Option<Duration>,
}

impl HttpConnector for Limited {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (http, within) = (self.http.clone(), self.within);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|e| ConnectorError::user(e.into()))?;
            let sent = http.send(request);
            let answer = match within {
                None => sent.await,
                Some(limit) => {
                    tokio::time::timeout(limit, sent).await.map_err(|e| ConnectorError::timeout(e.into()))?
                }
            };
            let response = answer.map_err(failed)?.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|e| ConnectorError::other(e.into(), None))
        })
    }
}

/// Our own fault is a body that can't be read; all else is the connection's.
fn failed(error: ClientError) -> ConnectorError {
    let ours = causes(&error).filter_map(|e| e.downcast_ref::<hyper::Error>()).any(hyper::Error::is_user);
    if ours { ConnectorError::user(error.into()) } else { ConnectorError::io(error.into()) }
}

/// An error and its causes.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

/// An error and its causes, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        if !words.iter().any(|earlier| earlier.contains(&text)) {
            words.push(text);
        }
    }
    words.join(": ")
}
