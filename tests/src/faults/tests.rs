//! The promises of the fault proxy, tried by the real SDK against the strict server.

use std::net::SocketAddr;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::*;
use crate::s3::{S3Options, S3Server, client};

const BUCKET: &str = "plant";

struct World {
    _dir: tempfile::TempDir,
    _server: S3Server,
    proxy: FaultProxy,
    /// Goes through the proxy and tries nothing twice.
    client: Client,
    /// Goes past it.
    aside: Client,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = S3Options {
        dir: dir.path().to_owned(),
        listen,
        access_key_id: "KEY".to_owned(),
        secret_access_key: "a secret of the tests".to_owned(),
        region: "eu-central-1".to_owned(),
        buckets: vec![BUCKET.to_owned()],
        access_log: None,
    };
    let server = S3Server::start(options).await.unwrap();
    let upstream = server.endpoint().trim_start_matches("http://").parse().unwrap();
    let proxy = FaultProxy::start(listen, upstream, 1).await.unwrap();
    let at = |endpoint: &str| client::client(endpoint, "eu-central-1", "KEY", "a secret of the tests");
    let once = at(&proxy.endpoint()).config().to_builder().retry_config(RetryConfig::disabled()).build();
    let (client, aside) = (Client::from_conf(once), at(&server.endpoint()));
    World { _dir: dir, _server: server, proxy, client, aside }
}

/// What a client heard: a status, or nothing whole.
fn heard<T, E>(answer: Result<T, SdkError<E>>) -> (Option<u16>, Option<String>)
where
    E: ProvideErrorMetadata,
{
    match answer {
        Ok(_) => (Some(200), None),
        Err(error @ SdkError::ServiceError(_)) => {
            (error.raw_response().map(|r| r.status().as_u16()), error.code().map(str::to_owned))
        }
        Err(_) => (None, None),
    }
}

impl World {
    async fn put(&self, key: &str, body: &'static [u8]) -> (Option<u16>, Option<String>) {
        let put = self.client.put_object().bucket(BUCKET).key(key).if_none_match("*");
        heard(put.body(ByteStream::from_static(body)).send().await)
    }

    async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let got = self.client.get_object().bucket(BUCKET).key(key).send().await.ok()?;
        Some(got.body.collect().await.ok()?.to_vec())
    }

    async fn is_there(&self, key: &str) -> bool {
        self.aside.head_object().bucket(BUCKET).key(key).send().await.is_ok()
    }

    fn fault(&self, operation: Operation, spoil: Spoil) {
        self.proxy.add(Fault { which: Which { operation: Some(operation), ..Which::default() }, spoil });
    }
}

#[tokio::test]
async fn what_is_not_struck_passes_unchanged_with_its_signature_and_is_recorded() {
    let world = world().await;
    assert_eq!(world.put("a b/ü=1", b"hello").await.0, Some(200));
    assert_eq!(world.get("a b/ü=1").await.unwrap(), b"hello");
    let head = world.client.head_object().bucket(BUCKET).key("a b/ü=1").send().await.unwrap();
    assert_eq!(head.content_length, Some(5), "of a body that isn't sent");
    let opened = world.client.create_multipart_upload().bucket(BUCKET).key("m").send().await.unwrap();
    let id = opened.upload_id.unwrap();
    let part = world.client.upload_part().bucket(BUCKET).key("m").upload_id(&id).part_number(1);
    let part = part.body(ByteStream::from_static(b"part")).send().await.unwrap();
    let listed = world.client.list_parts().bucket(BUCKET).key("m").upload_id(&id).send().await.unwrap();
    assert_eq!(listed.parts().len(), 1);
    let done = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag).build();
    let done = CompletedMultipartUpload::builder().parts(done).build();
    let complete = world.client.complete_multipart_upload().bucket(BUCKET).key("m").upload_id(&id);
    complete.multipart_upload(done).send().await.unwrap();
    let page = world.client.list_objects_v2().bucket(BUCKET).prefix("a b/").send().await.unwrap();
    assert_eq!(page.contents().len(), 1);

    use Operation::*;
    let seen = world.proxy.seen();
    let said: Vec<_> = seen.iter().map(|s| (s.asked.operation, s.asked.key.as_str(), s.asked.part)).collect();
    let expected = [
        (PutObject, "a b/ü=1", None),
        (GetObject, "a b/ü=1", None),
        (HeadObject, "a b/ü=1", None),
        (CreateMultipartUpload, "m", None),
        (UploadPart, "m", Some(1)),
        (ListParts, "m", None),
        (CompleteMultipartUpload, "m", None),
        (ListObjects, "a b/", None),
    ];
    assert_eq!(said, expected);
    assert!(seen.iter().all(|s| s.done == Some(200) && s.told == s.done && s.spoil.is_none()), "{seen:#?}");
    assert!(seen[0].received >= 5 && seen[1].sent == 5, "{seen:#?}");
    assert_eq!(world.proxy.count(UploadPart, "m"), 1);
}

#[tokio::test]
async fn each_fault_of_a_put_strikes_at_its_moment_and_the_client_hears_what_the_script_says() {
    let unavailable = Reply::error(503, "SlowDown");
    let internal = Reply::error(500, "InternalError");
    let table = [
        (Spoil::Cut, None, None),
        (Spoil::CutBody, None, None),
        (Spoil::Instead(unavailable), Some(503), Some("SlowDown")),
        (
            Spoil::Instead(Reply::error(409, "ConditionalRequestConflict")),
            Some(409),
            Some("ConditionalRequestConflict"),
        ),
        (Spoil::Instead(Reply::error(412, "PreconditionFailed")), Some(412), Some("PreconditionFailed")),
        (Spoil::After(internal), Some(500), Some("InternalError")),
        (Spoil::LoseReply, None, None),
        (Spoil::ShortReply, None, None),
        (Spoil::Slow(Duration::from_millis(1)), Some(200), None),
    ];
    let world = world().await;
    for (i, (spoil, status, code)) in table.into_iter().enumerate() {
        let key = format!("k{i}");
        world.fault(Operation::PutObject, spoil.clone());
        let heard = world.put(&key, b"twelve bytes").await;
        assert_eq!(heard, (status, code.map(str::to_owned)), "{spoil:?}");
        assert_eq!(world.is_there(&key).await, spoil.has_effect(), "{spoil:?}");
        let seen = world.proxy.seen().pop().unwrap();
        assert_eq!((seen.told, seen.done.is_some()), (status, spoil.has_effect()), "{spoil:?}");
        assert_eq!(seen.spoil, Some(spoil));
    }
}

#[tokio::test]
async fn a_bit_that_changes_on_the_way_is_refused_by_the_server_and_leaves_nothing() {
    let world = world().await;
    world.fault(Operation::PutObject, Spoil::FlipBit);
    let (status, code) = world.put("k", b"twelve bytes").await;
    assert_eq!(status, Some(400), "{code:?}");
    assert!(!world.is_there("k").await);
    assert_eq!(world.put("k", b"twelve bytes").await.0, Some(200));
    assert_eq!(world.get("k").await.unwrap(), b"twelve bytes");
}

#[tokio::test]
async fn a_read_may_end_early_or_trickle_and_a_complete_may_fail_with_200() {
    let world = world().await;
    static BODY: [u8; 10_000] = [7; 10_000];
    world.put("k", &BODY).await;
    world.fault(Operation::GetObject, Spoil::ShortReply);
    assert_eq!(world.get("k").await, None, "half of a body is no body");
    world.fault(Operation::GetObject, Spoil::Slow(Duration::from_millis(1)));
    assert_eq!(world.get("k").await.unwrap(), BODY);

    let which = Which {
        operation: Some(Operation::HeadObject),
        answered: Some(404),
        times: u32::MAX,
        ..Which::default()
    };
    world.proxy.add(Fault { which, spoil: Spoil::After(Reply::bare(403)) });
    let head = |key: &'static str| world.client.head_object().bucket(BUCKET).key(key).send();
    assert_eq!(heard(head("absent").await).0, Some(403));
    assert_eq!(heard(head("k").await).0, Some(200));

    let opened = world.client.create_multipart_upload().bucket(BUCKET).key("m").send().await.unwrap();
    let id = opened.upload_id.unwrap();
    world.fault(Operation::CompleteMultipartUpload, Spoil::Instead(Reply::error(200, "InternalError")));
    let complete = world.client.complete_multipart_upload().bucket(BUCKET).key("m").upload_id(&id);
    let (_, code) = heard(complete.send().await);
    assert_eq!(code.as_deref(), Some("InternalError"), "an error in a 200");
    assert!(!world.is_there("m").await);
}

#[tokio::test]
async fn a_proxy_that_refuses_answers_nobody_until_it_admits_again() {
    let world = world().await;
    assert_eq!(world.put("a", b"1").await.0, Some(200));
    world.proxy.refuse().await;
    assert_eq!(world.put("b", b"2").await.0, None);
    assert!(!world.is_there("b").await);
    world.proxy.admit().await.unwrap();
    assert_eq!(world.put("b", b"2").await.0, Some(200));
}
