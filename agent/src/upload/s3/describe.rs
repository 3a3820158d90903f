//! The SDK's errors as plain answers.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::upload::answer::{Answer, Code, Got, Operation, Transport};

/// The SDK's error as an answer.
pub(super) fn describe<E>(operation: Operation, error: SdkError<E, HttpResponse>) -> Answer
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let (got, detail) = match &error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code().map(Code::parse);
            (Got::Reply { status, code }, service.err().message().unwrap_or_default().to_owned())
        }
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            (Got::Reply { status, code: None }, chain(&error))
        }
        SdkError::ConstructionFailure(_) => (Got::Nothing(unsent(&error)), chain(&error)),
        SdkError::DispatchFailure(failure) => {
            let transport = if has::<CredentialsError>(&error) {
                Transport::NoCredentials
            } else if failure.is_user() {
                // The one thing of ours that can fail while sending is the body, and it comes from a file.
                Transport::File
            } else if failure.is_timeout() {
                // The only timeout that is set is that of connecting.
                Transport::NoConnection
            } else {
                connection(&error)
            };
            (Got::Nothing(transport), chain(&error))
        }
        // A timeout of the SDK, or a kind that it grew since: the effect isn't known.
        _ => (Got::Nothing(Transport::NoReply), chain(&error)),
    };
    Answer { operation, got, detail: detail.chars().take(500).collect() }
}

fn unsent(error: &(dyn Error + 'static)) -> Transport {
    if has::<CredentialsError>(error) { Transport::NoCredentials } else { Transport::NotBuilt }
}

/// How far a connection came. Where that isn't plain, the request counts as sent: the careful reading.
fn connection(error: &(dyn Error + 'static)) -> Transport {
    // The connector's own error type is private; its words are all there is to tell connecting from sending.
    let says = |words: &str| causes(error).any(|e| e.to_string().starts_with(words));
    if says("dns error") || says("failed to resolve") {
        Transport::NoAddress
    } else if says("TLS handshake failed") || causes(error).any(|e| e.is::<rustls::Error>() || wraps_tls(e)) {
        Transport::Tls
    } else if says("client error (Connect)") || says("tcp connect error") {
        Transport::NoConnection
    } else {
        Transport::NoReply
    }
}

/// An I/O error may carry the TLS error inside instead of naming it as its source.
fn wraps_tls(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

fn has<T: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|e| e.is::<T>())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
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
