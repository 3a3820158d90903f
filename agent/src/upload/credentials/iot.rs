//! Keys from the credentials provider of AWS IoT: given to the gateway's certificate over mutual TLS, for a role alias.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_smithy_types::body::SdkBody;
use hyper::{HeaderMap, Request, StatusCode};
use serde::Deserialize;
use tributary_contract::time::Timestamp;

use super::refresh;
use crate::config::{Iot, Proxy};
use crate::tls::Clock;
use crate::upload::http::{FetchError, Http, Trust};

/// How long the whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Such an answer has about two kilobytes.
const LONGEST_ANSWER: usize = 64 << 10;

/// Asks for keys, each time over a connection of its own: files of certificate and key are read anew for it.
pub(super) struct IotSource {
    iot: Iot,
    proxy: Proxy,
    clock: Clock,
}

/// Why there are no keys. Holds nothing of an answer that may have held some.
#[derive(Debug, thiserror::Error)]
pub(super) enum IotError {
    /// It says no: trying again at once is no use.
    #[error(
        "AWS IoT at {endpoint} gives no keys for role alias {alias}: {status}{said}; is the certificate active and \
         attached to thing {thing}, does its policy allow iot:AssumeRoleWithCertificate, and does the role trust \
         credentials.iot.amazonaws.com?"
    )]
    Refused {
        /// Whom we asked.
        endpoint: String,
        /// The role alias.
        alias: String,
        /// The thing.
        thing: String,
        /// HTTP status.
        status: StatusCode,
        /// Its message, if any.
        said: String,
    },
    /// It isn't well.
    #[error("AWS IoT at {endpoint} gives no keys now: {status}{said}")]
    Unwell {
        /// Whom we asked.
        endpoint: String,
        /// HTTP status.
        status: StatusCode,
        /// Its message, if any.
        said: String,
    },
    /// No keys in an answer that should hold some.
    #[error("what answers at {endpoint} isn't AWS IoT: expected JSON with credentials; is `endpoint` right?")]
    Content {
        /// Whom we asked.
        endpoint: String,
    },
    /// No answer.
    #[error("AWS IoT at {endpoint} doesn't answer")]
    Silent {
        /// Whom we asked.
        endpoint: String,
        /// Why.
        source: FetchError,
    },
    /// The names make no request.
    #[error("endpoint, role alias or thing name make no request")]
    NotBuilt(#[source] hyper::http::Error),
}

impl IotError {
    /// Whether only a person can help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            IotError::Refused { .. } | IotError::NotBuilt(_) => true,
            IotError::Unwell { .. } | IotError::Content { .. } | IotError::Silent { .. } => false,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    credentials: Keys,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl IotSource {
    pub(super) fn new(iot: Iot, proxy: Proxy, clock: Clock) -> Self {
        Self { iot, proxy, clock }
    }

    /// Keys, and for how long they are valid.
    pub(super) async fn fetch(&self) -> Result<(Credentials, Duration), IotError> {
        let Iot { endpoint, role_alias, thing_name, cert_file, key_file, ca_file } = &self.iot;
        let own = (cert_file.clone(), key_file.clone());
        let trust = Trust::new(ca_file.clone(), Some(own), self.clock.clone());
        let http = Http::new(trust, &self.proxy);
        let request = Request::get(format!("https://{endpoint}/role-aliases/{role_alias}/credentials"))
            .header("x-amzn-iot-thingname", thing_name)
            .body(SdkBody::empty())
            .map_err(IotError::NotBuilt)?;
        let answer = http.fetch(request, LONGEST_ANSWER, PATIENCE).await;
        let answer = answer.map_err(|source| IotError::Silent { endpoint: endpoint.clone(), source })?;
        self.read(answer.status(), answer.headers(), answer.body())
    }

    fn read(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(Credentials, Duration), IotError> {
        let endpoint = self.iot.endpoint.clone();
        if status != StatusCode::OK {
            let said = said(body);
            let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
            if !status.is_client_error() || later {
                return Err(IotError::Unwell { endpoint, status, said });
            }
            let (alias, thing) = (self.iot.role_alias.clone(), self.iot.thing_name.clone());
            return Err(IotError::Refused { endpoint, alias, thing, status, said });
        }
        // The parser's own message quotes values, secrets too: it is dropped.
        let keys = serde_json::from_slice::<Answer>(body).ok().map(|answer| answer.credentials);
        let keys = keys.filter(|k| !k.access_key_id.is_empty() && !k.secret_access_key.is_empty());
        let expires = keys.as_ref().and_then(|k| k.expiration.parse::<jiff::Timestamp>().ok());
        let (Some(keys), Some(expires)) = (keys, expires) else { return Err(IotError::Content { endpoint }) };
        let date = headers.get("date").and_then(|date| jiff::fmt::rfc2822::parse(date.to_str().ok()?).ok());
        let shown = date.map_or_else(|| (self.clock)(), |date| Timestamp(date.timestamp().as_microsecond()));
        let lifetime = refresh::lifetime(Timestamp(expires.as_microsecond()), shown);
        let Keys { access_key_id, secret_access_key, session_token, .. } = keys;
        Ok((Credentials::new(access_key_id, secret_access_key, Some(session_token), None, "iot"), lifetime))
    }
}

/// The message of a refusal, as the end of a sentence.
fn said(body: &[u8]) -> String {
    let message = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.message).unwrap_or_default();
    let plain: String = message.chars().filter(|c| !c.is_control()).take(200).collect();
    if plain.is_empty() { plain } else { format!(": {plain}") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn source() -> IotSource {
        let iot = Iot {
            endpoint: "h".into(),
            role_alias: "a".into(),
            thing_name: "t".into(),
            cert_file: "/c".into(),
            key_file: "/k".into(),
            ca_file: None,
        };
        // Years behind.
        IotSource::new(iot, Proxy::Off, Arc::new(|| Timestamp(5_000_000)))
    }

    fn body(expiration: &str) -> String {
        format!(
            "{{\"credentials\":{{\"accessKeyId\":\"id\",\"secretAccessKey\":\"hush\",\"sessionToken\":\"hush\",\
             \"expiration\":\"{expiration}\"}}}}"
        )
    }

    #[test]
    fn keys_last_from_the_server_s_date_to_their_expiration_whatever_the_clock_shows_here() {
        let mut headers = HeaderMap::new();
        headers.insert("date", "Thu, 18 Jan 2018 08:18:06 GMT".parse().unwrap());
        let answer = body("2018-01-18T09:18:06Z");
        let (keys, lifetime) = source().read(StatusCode::OK, &headers, answer.as_bytes()).unwrap();
        assert_eq!(
            (keys.access_key_id(), keys.session_token(), lifetime.as_secs()),
            ("id", Some("hush"), 3600)
        );
        assert_eq!(keys.expiry(), None, "nobody may judge it by the time of day");
        let (_, undated) = source().read(StatusCode::OK, &HeaderMap::new(), answer.as_bytes()).unwrap();
        assert_eq!(undated.as_secs(), 12 * 3600);
    }

    #[test]
    fn an_answer_without_keys_is_no_success_and_shows_nothing_of_itself() {
        let whole = body("2018-01-18T09:18:06Z");
        let texts = [
            String::new(),
            "<html>hush</html>".into(),
            whole.replace("\"id\"", "7"),
            whole.replace("\"id\"", "\"\""),
            whole.replace("2018", "hush"),
            whole.replace("\"secretAccessKey\":\"hush\",", ""),
            whole[..whole.len() - 1].to_owned(),
        ];
        for text in texts {
            let error = source().read(StatusCode::OK, &HeaderMap::new(), text.as_bytes()).unwrap_err();
            assert!(matches!(error, IotError::Content { .. }) && !error.is_final(), "{text}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn a_refusal_needs_a_person_and_an_outage_only_time() {
        let read = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            source().read(status, &HeaderMap::new(), b"{\"message\":\"Access\\n Denied\"}").unwrap_err()
        };
        for status in [400, 403, 404] {
            let error = read(status);
            assert!(error.is_final() && error.to_string().contains(": Access Denied; is the"), "{error}");
        }
        for status in [408, 429, 500, 503, 302] {
            assert!(!read(status).is_final(), "{status}");
        }
    }
}
