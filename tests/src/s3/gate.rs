//! Who may pass: requests signed for our region with a key whose session goes on.

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

use super::keys::Keys;

/// Refuses anonymous requests, signatures made for another region, and sessions that have ended.
pub struct Gate {
    /// The region of this server.
    pub region: String,
    /// The keys that it knows.
    pub keys: Keys,
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = cx.credentials() else {
            return Err(s3_error!(AccessDenied, "Access Denied: this request isn't signed"));
        };
        let token = cx.headers().get("x-amz-security-token").and_then(|value| value.to_str().ok());
        self.keys.check(&credentials.access_key, token)?;
        // The signature itself was verified before; only its scope is left to judge.
        let header = cx.headers().get("authorization").and_then(|value| value.to_str().ok());
        let query = cx.uri().query().map(super::percent::decode);
        let scope = header.and_then(|text| text.split_once("Credential=")).map(|(_, rest)| rest.to_owned());
        let scope =
            scope.or_else(|| query.and_then(|text| Some(text.split_once("X-Amz-Credential=")?.1.to_owned())));
        match scope.as_deref().and_then(|scope| scope.split('/').nth(2)) {
            Some(region) if region == self.region => Ok(()),
            Some(region) => Err(s3_error!(
                AuthorizationHeaderMalformed,
                "The authorization header is malformed; the region '{region}' is wrong; expecting '{}'",
                self.region
            )),
            None => Err(s3_error!(
                InvalidRequest,
                "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
            )),
        }
    }
}
