//! An HTTP client around the SDK's own that counts heads and small bodies, and lets no request begin above the rate.
//!
//! It stands between the signed request and the connection. Bodies that are streamed count themselves
//! ([`Moving`](super::movement::Moving)). What is asked of those who give keys goes by another client, and isn't counted.

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_types::config_bag::ConfigBag;
use std::sync::Arc;

use super::throttle::Throttle;

/// What an answer of unknown length is taken for, bytes: lists and errors are about as long.
const ANSWER: u64 = 1024;
/// What the first line of an answer takes, bytes.
const STATUS_LINE: u64 = 17;

/// The client.
#[derive(Debug)]
pub(super) struct Counting {
    inner: SharedHttpClient,
    throttle: Arc<Throttle>,
}

impl Counting {
    pub(super) fn around(inner: SharedHttpClient, throttle: &Arc<Throttle>) -> SharedHttpClient {
        SharedHttpClient::new(Self { inner, throttle: Arc::clone(throttle) })
    }
}

impl HttpClient for Counting {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(Connector { inner, throttle: Arc::clone(&self.throttle) })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.inner.connector_metadata()
    }
}

#[derive(Debug)]
struct Connector {
    inner: SharedHttpConnector,
    throttle: Arc<Throttle>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (inner, throttle) = (self.inner.clone(), Arc::clone(&self.throttle));
        HttpConnectorFuture::new(async move {
            while let Some(wait) = throttle.wait() {
                tokio::time::sleep(wait).await;
            }
            throttle.request_begins(request.uri().starts_with("https:"));
            throttle.passed(sent(&request));
            let only_head = request.method() == "HEAD";
            let answered = inner.call(request).await;
            if let Ok(response) = &answered {
                throttle.passed(received(response, only_head));
            }
            throttle.request_ends();
            answered
        })
    }
}

/// Bytes of a request, without a body that is streamed.
fn sent(request: &HttpRequest) -> u64 {
    let line = request.method().len() + request.uri().len() + " HTTP/1.1\r\n\r\n".len() + 1;
    let headers = lines(request.headers().iter());
    line as u64 + headers + request.body().bytes().map_or(0, |bytes| bytes.len() as u64)
}

/// Bytes of an answer, by what its head says of the body.
fn received(response: &HttpResponse, only_head: bool) -> u64 {
    let length = response.headers().get("content-length").and_then(|n| n.parse::<u64>().ok());
    let body = if only_head || response.status().as_u16() == 304 { 0 } else { length.unwrap_or(ANSWER) };
    STATUS_LINE + lines(response.headers().iter()) + body
}

fn lines<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> u64 {
    headers.map(|(name, value)| (name.len() + value.len() + ": \r\n".len()) as u64).sum()
}
