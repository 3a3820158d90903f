//! A client of the S3 API for the harness: the real SDK against a local server.

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};

/// A path-style client without TLS; `endpoint` is a URL such as `http://127.0.0.1:9000`.
pub fn client(
    endpoint: &str,
    region: &str,
    access_key_id: &str,
    secret_access_key: &str,
) -> aws_sdk_s3::Client {
    let credentials = Credentials::new(access_key_id, secret_access_key, None, None, "tributary-tests");
    client_of(endpoint, region, credentials)
}

/// The same, with keys that may be a session's.
pub fn client_of(endpoint: &str, region: &str, credentials: Credentials) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new(region.to_owned()))
        .credentials_provider(credentials)
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}
