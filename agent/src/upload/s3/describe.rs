//! The SDK's errors as plain answers.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::upload::answer::{Answer, Code, Got, Operation, Transport};
use crate::upload::http::{Unconnected, causes, chain};

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
        SdkError::ConstructionFailure(_) => {
            (Got::Nothing(keys(&error).unwrap_or(Transport::NotBuilt)), reason(&error))
        }
        SdkError::DispatchFailure(failure) => {
            let transport = if let Some(keys) = keys(&error) {
                keys
            } else if failure.is_user() {
                // The one thing of ours that can fail while sending is the body, and it comes from a file.
                Transport::File
            } else {
                connection(&error)
            };
            (Got::Nothing(transport), reason(&error))
        }
        // A timeout of the SDK, or a kind that it grew since: the effect isn't known.
        _ => (Got::Nothing(Transport::NoReply), chain(&error)),
    };
    Answer { operation, got, detail: detail.chars().take(500).collect() }
}

/// What is wrong, without the SDK's own words around it, where it is something that we know.
fn reason(error: &(dyn Error + 'static)) -> String {
    let keys = causes(error).find(|e| e.is::<CredentialsError>()).and_then(Error::source);
    let connection = causes(error).find(|e| e.is::<Unconnected>());
    chain(keys.or(connection).unwrap_or(error))
}

/// What kept the keys away, if that is what is wrong.
fn keys(error: &(dyn Error + 'static)) -> Option<Transport> {
    Some(match causes(error).find_map(|e| e.downcast_ref::<CredentialsError>())? {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            Transport::NoCredentials
        }
        _ => Transport::NoCredentialsNow,
    })
}

/// How far a connection came. Where that isn't plain, the request counts as sent: the careful reading.
fn connection(error: &(dyn Error + 'static)) -> Transport {
    match causes(error).find_map(|e| e.downcast_ref::<Unconnected>()) {
        Some(Unconnected::NoAddress { .. }) => Transport::NoAddress,
        Some(Unconnected::NotReached { .. } | Unconnected::TooSlow { .. } | Unconnected::Proxy { .. }) => {
            Transport::NoConnection
        }
        Some(Unconnected::Tls { .. }) => Transport::Tls,
        None => Transport::NoReply,
    }
}
