//! Requests written and signed by hand, for what the SDK never sends over plain HTTP.

use s3s::crypto::{Checksum as _, Sha256};

use super::super::sums::hex;
use super::*;

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::checksum(&[block.map(|b| b ^ 0x36).as_slice(), message].concat());
    Sha256::checksum(&[block.map(|b| b ^ 0x5c).as_slice(), &inner].concat())
}

/// Sends one request with a version 4 signature over all of `headers`, and returns the whole answer.
pub async fn send(
    server: &S3Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> String {
    let host = server.endpoint().trim_start_matches("http://").to_owned();
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &time[..8];
    let mut headers = headers.to_vec();
    headers.extend([("host", host.as_str()), ("x-amz-date", &time)]);
    headers.sort_unstable();
    let payload = headers.iter().find(|(name, _)| *name == "x-amz-content-sha256").unwrap().1;
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{payload}");
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let to_sign =
        format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::checksum(canonical.as_bytes())));
    let mut key = hmac(format!("AWS4{SECRET}").as_bytes(), day.as_bytes());
    for step in [REGION, "s3", "aws4_request"] {
        key = hmac(&key, step.as_bytes());
    }
    let signature = hex(&hmac(&key, to_sign.as_bytes()));
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{lines}authorization: AWS4-HMAC-SHA256 Credential={KEY}/{scope}, \
         SignedHeaders={names}, Signature={signature}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    raw(server, &request).await
}
