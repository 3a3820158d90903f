//! What the real SDK makes of real replies: a scripted responder on the loopback address, one reply a connection.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tributary_contract::key::Prefix;

use super::*;
use crate::clock::BUILT;
use crate::upload::classify::{Lost, Outcome, classify};

/// A bucket at an endpoint that gives these replies, one a connection; the handle gives the requests it got.
async fn bucket_that_replies(replies: Vec<String>) -> (S3Bucket, JoinHandle<Vec<String>>, tempfile::TempDir) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = tokio::spawn(async move {
        let mut requests = Vec::new();
        for reply in replies {
            let (mut stream, _) = listener.accept().await.unwrap();
            requests.push(request(&mut stream).await);
            stream.write_all(reply.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        requests
    });
    let (bucket, dir) = bucket_at(&endpoint).await;
    (bucket, requests, dir)
}

async fn bucket_at(endpoint: &str) -> (S3Bucket, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys.toml");
    std::fs::write(&keys, "access_key_id = \"id\"\nsecret_access_key = \"hush\"").unwrap();
    (S3Bucket::new(&settings(endpoint, keys), Arc::new(|| BUILT)).await, dir)
}

fn settings(endpoint: &str, keys: PathBuf) -> config::Bucket {
    config::Bucket {
        name: "lake".into(),
        prefix: Prefix::default(),
        endpoint: Some(endpoint.into()),
        region: "eu-central-1".into(),
        credentials: config::Credentials::File(keys),
        ca_file: None,
        proxy: config::Proxy::Off,
        part_size: 5 << 20,
    }
}

/// Reads one request, body included.
async fn request(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let n = stream.read(&mut piece).await.unwrap();
        got.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&got).to_string();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| {
                l.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(|n| n.trim().parse::<usize>().unwrap())
            });
            if n == 0 || body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        assert!(n > 0, "the request ends early: {text}");
    }
}

fn reply(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

fn error(status: u16, code: &str) -> String {
    let xml = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>words</Message></Error>");
    reply(status, "content-type: application/xml\r\n", &xml)
}

fn content() -> (Content, Digest) {
    (Content::Bytes(Bytes::from_static(b"bytes")), Digest::of(b"bytes"))
}

async fn ask(bucket: &S3Bucket, operation: Operation) -> Answer {
    let (content, digest) = content();
    let failed = match operation {
        Operation::PutNew => bucket.put_new("k", content, digest).await,
        Operation::CreateMultipart => bucket.create_multipart("k", digest).await.map(drop),
        Operation::UploadPart => bucket.upload_part("k", "u", 1, content).await.map(drop),
        Operation::ListParts => bucket.list_parts("k", "u").await.map(drop),
        Operation::Complete => bucket.complete("k", "u", &[]).await,
        Operation::Head => bucket.head("k").await.map(drop),
        Operation::Get => bucket.get("k", None, 100).await.map(drop),
        Operation::PutReplace => bucket.put_replace("k", Bytes::new()).await,
    };
    failed.expect_err(&format!("{operation} took the reply for a success"))
}

#[tokio::test]
async fn every_failure_of_the_real_client_is_classified_as_it_should() {
    use Operation::*;
    let table: Vec<(Operation, String, Outcome)> = vec![
        (PutNew, error(412, "PreconditionFailed"), Outcome::Conflict),
        (PutNew, error(409, "ConditionalRequestConflict"), Outcome::Again),
        (PutNew, error(400, "BadDigest"), Outcome::Again),
        (PutNew, error(400, "EntityTooLarge"), Outcome::Refused),
        (PutNew, error(400, "RequestTimeout"), Outcome::Later),
        (PutNew, error(403, "AccessDenied"), Outcome::Stop),
        (PutNew, error(403, "SignatureDoesNotMatch"), Outcome::Stop),
        (PutNew, error(403, "RequestTimeTooSkewed"), Outcome::Later),
        (PutNew, error(400, "ExpiredToken"), Outcome::Later),
        (PutNew, error(404, "NoSuchBucket"), Outcome::Stop),
        (PutNew, error(301, "PermanentRedirect"), Outcome::Stop),
        (PutNew, error(500, "InternalError"), Outcome::LookFirst(Lost::Reply)),
        (PutNew, error(503, "SlowDown"), Outcome::Later),
        (PutNew, reply(502, "", "<html>bad gateway</html>"), Outcome::LookFirst(Lost::Reply)),
        (PutNew, reply(400, "", "<html>log in first</html>"), Outcome::Later),
        (PutNew, "not HTTP at all\r\n\r\n".into(), Outcome::LookFirst(Lost::Reply)),
        (PutNew, "HTTP/1.1 200 OK\r\ncontent-le".into(), Outcome::LookFirst(Lost::Reply)),
        (PutNew, String::new(), Outcome::LookFirst(Lost::Reply)),
        (Complete, error(404, "NoSuchUpload"), Outcome::LookFirst(Lost::Upload)),
        (Complete, error(409, "ConditionalRequestConflict"), Outcome::LookFirst(Lost::Reply)),
        (Complete, error(412, "PreconditionFailed"), Outcome::Conflict),
        (Complete, error(200, "InternalError"), Outcome::LookFirst(Lost::Reply)),
        (Complete, error(400, "InvalidPart"), Outcome::LookFirst(Lost::Reply)),
        (Complete, error(400, "EntityTooSmall"), Outcome::Refused),
        (Complete, String::new(), Outcome::LookFirst(Lost::Reply)),
        (UploadPart, error(404, "NoSuchUpload"), Outcome::LookFirst(Lost::Upload)),
        (UploadPart, error(400, "XAmzContentChecksumMismatch"), Outcome::Again),
        (UploadPart, String::new(), Outcome::Later),
        (ListParts, error(404, "NoSuchUpload"), Outcome::LookFirst(Lost::Upload)),
        (Complete, reply(200, "", ""), Outcome::LookFirst(Lost::Reply)),
        (Complete, reply(200, "", "<CompleteMultipartUploadResult>"), Outcome::LookFirst(Lost::Reply)),
        (ListParts, reply(200, "", "garbage"), Outcome::Later),
        (CreateMultipart, error(403, "AccessDenied"), Outcome::Stop),
        (Head, reply(404, "", ""), Outcome::Absent),
        (Head, reply(403, "", ""), Outcome::Unknown),
        (Head, reply(400, "", ""), Outcome::Later),
        (Head, reply(503, "", ""), Outcome::Later),
        (Head, String::new(), Outcome::Later),
        (Get, error(404, "NoSuchKey"), Outcome::Absent),
        (Get, error(403, "AccessDenied"), Outcome::Unknown),
        (Get, reply(200, "", &"x".repeat(101)), Outcome::Later),
        (Get, "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort".into(), Outcome::Later),
        (PutReplace, error(403, "AccessDenied"), Outcome::Stop),
    ];
    for (operation, reply, expected) in table {
        let (bucket, requests, _dir) = bucket_that_replies(vec![reply.clone()]).await;
        let answer = ask(&bucket, operation).await;
        assert_eq!(classify(&answer), expected, "{operation}, {reply:?}: {answer:?}");
        assert_eq!(requests.await.unwrap().len(), 1, "the client asked again behind our back");
    }
}

#[tokio::test]
async fn what_never_left_the_machine_is_not_taken_for_a_lost_reply() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (bucket, _dir) = bucket_at(&format!("http://127.0.0.1:{port}")).await;
    let answer = ask(&bucket, Operation::PutNew).await;
    assert_eq!(answer.got, Got::Nothing(Transport::NoConnection), "{answer:?}");

    let (bucket, _dir) = bucket_at("http://no-such-host.invalid").await;
    let answer = ask(&bucket, Operation::PutNew).await;
    assert_eq!(answer.got, Got::Nothing(Transport::NoAddress), "{answer:?}");

    // Something that speaks, but not TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Waits until the other side has given up.
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    let (bucket, _dir) = bucket_at(&format!("https://{address}")).await;
    let answer = ask(&bucket, Operation::PutNew).await;
    assert_eq!(answer.got, Got::Nothing(Transport::Tls), "{answer:?}");
    plain.await.unwrap();

    let (bucket, dir) = bucket_at("http://127.0.0.1:1").await;
    std::fs::remove_file(dir.path().join("keys.toml")).unwrap();
    let answer = ask(&bucket, Operation::PutNew).await;
    assert_eq!(answer.got, Got::Nothing(Transport::NoCredentials), "{answer:?}");
}

#[tokio::test]
async fn a_file_that_is_gone_or_too_short_is_no_fault_of_the_link() {
    let (bucket, dir) = bucket_at("http://127.0.0.1:1").await;
    let short = dir.path().join("short");
    std::fs::write(&short, "1234").unwrap();
    for path in [dir.path().join("absent"), short] {
        let content = Content::File { path, offset: 0, length: 5, gives_way: false };
        for answer in [
            bucket.put_new("k", content.clone(), Digest::of(b"x")).await.unwrap_err(),
            bucket.upload_part("k", "u", 1, content.clone()).await.unwrap_err(),
        ] {
            assert_eq!(answer.got, Got::Nothing(Transport::File), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    let (bucket, _dir) = bucket_at(&endpoint).await;
    let bucket = bucket.with_stall_limit(Duration::from_millis(500));
    let answer = ask(&bucket, Operation::PutNew).await;
    assert_eq!(classify(&answer), Outcome::LookFirst(Lost::Reply), "{answer:?}");
    drop(bucket);
    silent.await.unwrap();
}

#[tokio::test]
async fn a_segment_is_put_once_with_condition_checksum_and_digest_and_its_bytes_come_from_the_file() {
    let (bucket, requests, dir) = bucket_that_replies(vec![reply(200, "etag: \"e\"\r\n", "")]).await;
    let path = dir.path().join("segment");
    std::fs::write(&path, "..the bytes..").unwrap();
    let digest = Digest::of(b"the bytes");
    bucket
        .put_new("segments/gw-1/k", Content::File { path, offset: 2, length: 9, gives_way: true }, digest)
        .await
        .unwrap();
    let requests = requests.await.unwrap();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("PUT /lake/segments/gw-1/k"), "{head}");
    for line in [
        "if-none-match: *".to_owned(),
        "content-length: 9".to_owned(),
        format!("x-amz-meta-tributary-digest: {digest}"),
        format!("x-amz-checksum-sha256: {}", BASE64.encode(digest.0)),
    ] {
        assert!(head.lines().any(|l| l.eq_ignore_ascii_case(&line)), "no {line} in {head}");
    }
    assert_eq!(body, "the bytes");
    assert!(!requests[0].contains("hush"));
}

#[tokio::test]
async fn parts_are_sent_listed_and_completed_with_their_checksums() {
    let sum = BASE64.encode(Digest::of(b"bytes").0);
    let opened = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    let page = |n: u32, more: bool| {
        let xml = format!(
            "<ListPartsResult><IsTruncated>{more}</IsTruncated><NextPartNumberMarker>{n}</NextPartNumberMarker><Part>\
             <PartNumber>{n}</PartNumber><ETag>\"e{n}\"</ETag><Size>5</Size><ChecksumSHA256>{sum}</ChecksumSHA256>\
             </Part></ListPartsResult>"
        );
        reply(200, "", &xml)
    };
    let (bucket, requests, _dir) = bucket_that_replies(vec![
        reply(200, "", opened),
        reply(200, "etag: \"e1\"\r\n", ""),
        page(1, true),
        page(2, false),
        reply(200, "", "<CompleteMultipartUploadResult><ETag>\"x-2\"</ETag></CompleteMultipartUploadResult>"),
    ])
    .await;
    let (content, digest) = content();
    assert_eq!(bucket.create_multipart("k", digest).await.unwrap(), "u");
    let part = |number| PartDone { number, size: 5, etag: format!("\"e{number}\""), checksum: sum.clone() };
    assert_eq!(bucket.upload_part("k", "u", 1, content).await.unwrap(), part(1));
    let parts = bucket.list_parts("k", "u").await.unwrap();
    assert_eq!(parts, [part(1), part(2)]);
    bucket.complete("k", "u", &parts).await.unwrap();
    let requests = requests.await.unwrap();
    assert!(requests[0].contains(&format!("x-amz-meta-tributary-digest: {digest}")), "{}", requests[0]);
    assert!(requests[1].contains(&format!("x-amz-checksum-sha256: {sum}")), "{}", requests[1]);
    assert!(requests[3].contains("part-number-marker=1"), "{}", requests[3]);
    let complete = &requests[4];
    assert!(complete.to_ascii_lowercase().contains("if-none-match: *"), "{complete}");
    assert_eq!(complete.matches(&sum).count(), 2, "{complete}");
}

#[tokio::test]
async fn a_look_takes_the_digest_from_metadata_or_from_a_checksum_over_the_whole() {
    let digest = Digest::of(b"bytes");
    let whole = BASE64.encode(digest.0);
    let table = [
        (format!("x-amz-meta-tributary-digest: {digest}\r\n"), Some(digest)),
        (format!("x-amz-checksum-sha256: {whole}\r\n"), Some(digest)),
        // Over parts: says nothing about the whole.
        (format!("x-amz-checksum-sha256: {whole}-3\r\n"), None),
        ("x-amz-meta-tributary-digest: nonsense\r\n".to_owned(), None),
        (String::new(), None),
    ];
    for (headers, expected) in table {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n{headers}\r\n");
        let (bucket, _requests, _dir) = bucket_that_replies(vec![head]).await;
        assert_eq!(bucket.head("k").await.unwrap(), Found { digest: expected, size: 5 }, "{headers}");
    }
}

#[tokio::test]
async fn an_unchanged_object_costs_no_body() {
    let unchanged = "HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_owned();
    let (bucket, requests, _dir) =
        bucket_that_replies(vec![reply(200, "etag: \"e\"\r\n", "{}"), unchanged]).await;
    let Fetched::Body { bytes, etag } = bucket.get("k", None, 100).await.unwrap() else { panic!("no body") };
    assert_eq!((&bytes[..], etag.as_deref()), (&b"{}"[..], Some("\"e\"")));
    assert_eq!(bucket.get("k", etag.as_deref(), 100).await.unwrap(), Fetched::Unchanged);
    assert!(requests.await.unwrap()[1].to_ascii_lowercase().contains("if-none-match: \"e\""));
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_from_the_servers_date() {
    let date = "date: Thu, 01 Jan 2015 00:00:00 GMT\r\n";
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>words</Message></Error>";
    let (bucket, requests, _dir) =
        bucket_that_replies(vec![reply(403, date, skewed), reply(200, date, "")]).await;
    let (content, digest) = content();
    let answer = bucket.put_new("k", content.clone(), digest).await.unwrap_err();
    assert_eq!(classify(&answer), Outcome::Later, "{answer:?}");
    bucket.put_new("k", content, digest).await.unwrap();
    let signed = &requests.await.unwrap()[1];
    assert!(signed.contains("x-amz-date: 20150101T") || signed.contains("x-amz-date: 20141231T"), "{signed}");
}

#[tokio::test]
async fn what_a_request_takes_on_the_wire_is_counted_from_its_bytes() {
    let (bucket, requests, dir) = bucket_that_replies(vec![reply(200, "etag: \"e\"\r\n", ""); 2]).await;
    assert_eq!(bucket.traffic(), 0);
    let path = dir.path().join("segment");
    std::fs::write(&path, vec![7; 100_000]).unwrap();
    let content = Content::File { path, offset: 0, length: 100_000, gives_way: false };
    bucket.put_new("segments/gw-1/k", content, Digest::of(&[7; 100_000])).await.unwrap();
    let first = bucket.traffic();
    bucket.put_replace("status/gw-1.json", Bytes::from_static(&[b'x'; 5000])).await.unwrap();
    let second = bucket.traffic() - first;
    let seen: Vec<u64> = requests.await.unwrap().iter().map(|r| r.len() as u64).collect();
    // Each with its answer, what packets add, and one connection.
    for (counted, seen) in [(first, seen[0]), (second, seen[1])] {
        assert!(counted > seen && counted < seen + seen / 10 + 1500, "{counted} were counted, {seen} came");
    }
}

#[tokio::test]
async fn a_body_is_held_to_the_rate_and_loses_no_byte_by_it() {
    let (bucket, requests, dir) = bucket_that_replies(vec![reply(200, "etag: \"e\"\r\n", "")]).await;
    let bucket = bucket.with_rate(1 << 20);
    let path = dir.path().join("segment");
    let bytes: Vec<u8> = (0..200_000u32).map(|n| b'a' + (n % 26) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let content = Content::File { path, offset: 0, length: 200_000, gives_way: true };
    bucket.put_new("segments/gw-1/k", content, Digest::of(&bytes)).await.unwrap();
    let requests = requests.await.unwrap();
    assert!(requests[0].as_bytes().ends_with(&bytes));
}
