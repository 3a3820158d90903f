//! Objects: conditional writes and reads, ranges, metadata, deletion, who may ask, and the log of it.

use aws_sdk_s3::types::{Delete, MetadataDirective, ObjectIdentifier};

use super::super::{Access, S3Server};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eight_racing_creates_exactly_one_wins() {
    let world = World::start().await;
    for round in 0..5 {
        let key = format!("race-{round}");
        let racers = (0..8).map(|racer| {
            let create = world.client.put_object().bucket(BUCKET).key(&key).if_none_match("*");
            create.body(bytes(format!("racer {racer}").as_bytes())).send()
        });
        let outcomes = futures::future::join_all(racers).await;
        let winners: Vec<usize> = outcomes
            .iter()
            .enumerate()
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(racer, _)| racer)
            .collect();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?} all believe that they created {key}");
        for outcome in outcomes.into_iter().filter(|outcome| outcome.is_err()) {
            assert_eq!(refusal(outcome), refused(412, "PreconditionFailed"));
        }
        assert_eq!(world.get(&key).await, format!("racer {}", winners[0]).into_bytes());
    }
    assert_eq!(world.leftovers(), 0);
}

#[tokio::test]
async fn a_create_of_an_existing_key_is_refused_and_changes_nothing() {
    let world = World::start().await;
    let first = world.client.put_object().bucket(BUCKET).key("k").if_none_match("*").body(bytes(b"first"));
    first.send().await.unwrap();
    let world = world.restart().await;
    let second = world.client.put_object().bucket(BUCKET).key("k").if_none_match("*").body(bytes(b"second"));
    assert_eq!(refusal(second.send().await), refused(412, "PreconditionFailed"));
    assert_eq!(world.get("k").await, b"first");
}

#[tokio::test]
async fn a_replace_needs_the_etag_that_stands() {
    let world = World::start().await;
    let replace = |etag: &str, body: &[u8]| {
        world.client.put_object().bucket(BUCKET).key("k").if_match(etag).body(bytes(body)).send()
    };
    assert_eq!(refusal(replace("\"0000\"", b"x").await), refused(404, "NoSuchKey"));
    let first = world.put("k", b"first").await;
    let second = replace(&first, b"second").await.unwrap().e_tag.unwrap();
    assert_ne!(first, second);
    assert_eq!(refusal(replace(&first, b"third").await), refused(412, "PreconditionFailed"));
    assert_eq!(world.get("k").await, b"second");
}

#[tokio::test]
async fn conditions_that_s3_does_not_know_are_refused_not_ignored() {
    let world = World::start().await;
    let etag = world.put("k", b"first").await;
    let put = || world.client.put_object().bucket(BUCKET).key("k").body(bytes(b"second"));
    assert_eq!(refusal(put().if_none_match(&etag).send().await), refused(501, "NotImplemented"));
    assert_eq!(
        refusal(put().if_match(&etag).if_none_match("*").send().await),
        refused(501, "NotImplemented")
    );
    assert_eq!(world.get("k").await, b"first");
}

#[tokio::test]
async fn reads_honour_their_conditions() {
    let world = World::start().await;
    let etag = world.put("k", b"value").await;
    let get = || world.client.get_object().bucket(BUCKET).key("k");
    assert_eq!(refusal(get().if_none_match(&etag).send().await).0, 304);
    assert_eq!(refusal(get().if_match("\"0000\"").send().await), refused(412, "PreconditionFailed"));
    assert!(get().if_match(&etag).send().await.is_ok());
    assert!(get().if_none_match("\"0000\"").send().await.is_ok());
    let modified = get().send().await.unwrap().last_modified.unwrap();
    assert_eq!(refusal(get().if_modified_since(modified).send().await).0, 304);
    assert!(get().if_unmodified_since(modified).send().await.is_ok());
    let head = world.client.head_object().bucket(BUCKET).key("k").if_none_match(&etag).send().await;
    assert_eq!(refusal(head).0, 304);
    assert_eq!(
        refusal(world.client.get_object().bucket(BUCKET).key("absent").send().await),
        refused(404, "NoSuchKey")
    );
    assert_eq!(
        refusal(world.client.get_object().bucket("elsewhere").key("k").send().await),
        refused(404, "NoSuchBucket")
    );
}

#[tokio::test]
async fn a_range_returns_its_bytes_and_says_which() {
    let world = World::start().await;
    let body: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    world.put("k", &body).await;
    for (range, expected, says) in [
        ("bytes=0-0", &body[..1], "bytes 0-0/4000000"),
        ("bytes=999999-2000000", &body[999_999..2_000_001], "bytes 999999-2000000/4000000"),
        ("bytes=3999990-", &body[3_999_990..], "bytes 3999990-3999999/4000000"),
        ("bytes=-5", &body[3_999_995..], "bytes 3999995-3999999/4000000"),
        ("bytes=3999999-9999999", &body[3_999_999..], "bytes 3999999-3999999/4000000"),
    ] {
        let got = world.client.get_object().bucket(BUCKET).key("k").range(range).send().await.unwrap();
        assert_eq!(got.content_range(), Some(says));
        assert!(got.body.collect().await.unwrap().to_vec() == expected, "{range} returned other bytes");
    }
    let beyond = world.client.get_object().bucket(BUCKET).key("k").range("bytes=4000000-").send().await;
    assert_eq!(refusal(beyond), refused(416, "InvalidRange"));
    assert!(world.get("k").await == body, "the whole body came back changed");
}

#[tokio::test]
async fn metadata_comes_back_as_it_was_given_after_a_restart_too() {
    let world = World::start().await;
    let put = world.client.put_object().bucket(BUCKET).key("k").body(bytes(b"value"));
    let put =
        put.content_type("application/vnd.apache.parquet").cache_control("no-store").content_encoding("zstd");
    put.metadata("digest", "0f1e").metadata("number", "7").send().await.unwrap();
    world.put("plain", b"").await;
    let world = world.restart().await;
    let head = world.client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(head.content_type(), Some("application/vnd.apache.parquet"));
    assert_eq!(head.cache_control(), Some("no-store"));
    assert_eq!(head.content_encoding(), Some("zstd"));
    assert_eq!(head.content_length(), Some(5));
    let metadata = head.metadata().unwrap();
    assert_eq!(metadata.get("digest").map(String::as_str), Some("0f1e"));
    assert_eq!(metadata.get("number").map(String::as_str), Some("7"));
    let plain = world.client.get_object().bucket(BUCKET).key("plain").send().await.unwrap();
    assert_eq!(plain.content_length(), Some(0));
    let too_much = world.client.put_object().bucket(BUCKET).key("k").metadata("a", "x".repeat(2048));
    assert_eq!(refusal(too_much.body(bytes(b"x")).send().await), refused(400, "MetadataTooLarge"));
}

#[tokio::test]
async fn a_streamed_body_keeps_no_trace_of_its_transfer_coding() {
    let world = World::start().await;
    let files = tempfile::tempdir().unwrap();
    let body = streamed(files.path(), b"streamed value").await;
    world.client.put_object().bucket(BUCKET).key("k").body(body).send().await.unwrap();
    let head = world.client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!((head.content_length(), head.content_encoding()), (Some(14), None));
    assert_eq!(world.get("k").await, b"streamed value");
}

#[tokio::test]
async fn deleted_objects_stay_deleted() {
    let world = World::start().await;
    for key in ["a", "b", "c", "d"] {
        world.put(key, key.as_bytes()).await;
    }
    world.client.delete_object().bucket(BUCKET).key("a").send().await.unwrap();
    world.client.delete_object().bucket(BUCKET).key("never was").send().await.unwrap();
    let stale = world.client.delete_object().bucket(BUCKET).key("b").if_match("\"0000\"").send().await;
    assert_eq!(refusal(stale), refused(412, "PreconditionFailed"));
    let named = ["c", "d"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(named.to_vec())).build().unwrap();
    let deleted = world.client.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
    assert_eq!(deleted.deleted().len(), 2);
    let world = world.restart().await;
    for key in ["a", "c", "d"] {
        assert!(world.is_absent(key).await, "{key} came back");
    }
    assert_eq!(world.get("b").await, b"b");
}

#[tokio::test]
async fn a_copy_is_an_object_of_its_own() {
    let world = World::start().await;
    let put = world.client.put_object().bucket(BUCKET).key("from here").metadata("digest", "0f1e");
    put.body(bytes(b"value")).send().await.unwrap();
    let copy = |to: &str| {
        world.client.copy_object().bucket(BUCKET).key(to).copy_source(format!("{BUCKET}/from%20here"))
    };
    copy("to").send().await.unwrap();
    world.put("from here", b"changed").await;
    assert_eq!(world.get("to").await, b"value");
    let head = world.client.head_object().bucket(BUCKET).key("to").send().await.unwrap();
    assert_eq!(head.metadata().unwrap().get("digest").map(String::as_str), Some("0f1e"));
    assert_eq!(refusal(copy("from here").send().await), refused(400, "InvalidRequest"));
    let replaced = copy("from here").metadata_directive(MetadataDirective::Replace).metadata("digest", "new");
    replaced.send().await.unwrap();
    let head = world.client.head_object().bucket(BUCKET).key("from here").send().await.unwrap();
    assert_eq!(head.metadata().unwrap().get("digest").map(String::as_str), Some("new"));
}

#[tokio::test]
async fn only_our_key_signed_for_our_region_may_pass() {
    let world = World::start().await;
    let endpoint = world.server.endpoint();
    world.put("k", b"value").await;
    let ask = async |region, key, secret| {
        let client = super::super::client::client(&endpoint, region, key, secret);
        refusal(client.get_object().bucket(BUCKET).key("k").send().await)
    };
    assert_eq!(ask(REGION, KEY, "another secret").await, refused(403, "SignatureDoesNotMatch"));
    assert_eq!(ask(REGION, "AKIAUNKNOWN", SECRET).await.0, 403);
    assert_eq!(ask("us-east-1", KEY, SECRET).await, refused(400, "AuthorizationHeaderMalformed"));
    let anonymous = raw(
        &world.server,
        &format!("GET /{BUCKET}/k HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
    )
    .await;
    assert!(anonymous.starts_with("HTTP/1.1 403"), "{anonymous}");
    assert!(!anonymous.contains("value"), "{anonymous}");
}

#[tokio::test]
async fn buckets_are_made_once_and_stay() {
    let world = World::start().await;
    world.client.create_bucket().bucket("second").send().await.unwrap();
    let again = world.client.create_bucket().bucket("second").send().await;
    assert_eq!(refusal(again), refused(409, "BucketAlreadyOwnedByYou"));
    let world = world.restart().await;
    let listed = world.client.list_buckets().send().await.unwrap();
    let names: Vec<_> = listed.buckets().iter().filter_map(|bucket| bucket.name()).collect();
    assert_eq!(names, [BUCKET, "second"]);
    world.client.head_bucket().bucket("second").send().await.unwrap();
    assert_eq!(refusal(world.client.head_bucket().bucket("third").send().await).0, 404);
}

#[tokio::test]
async fn keys_of_1024_bytes_and_any_characters_are_kept() {
    let world = World::start().await;
    let long = "a/".repeat(512);
    for key in [long.as_str(), "ü ß %2F+&=?#", "gw:1/1f-00/0000000001-tributary.readings-2026-01-01.parquet"]
    {
        world.put(key, key.as_bytes()).await;
        assert_eq!(world.get(key).await, key.as_bytes());
    }
    let too_long =
        world.client.put_object().bucket(BUCKET).key("a".repeat(1025)).body(bytes(b"x")).send().await;
    assert_eq!(refusal(too_long), refused(400, "KeyTooLongError"));
    let world = world.restart().await;
    assert_eq!(world.get(&long).await, long.as_bytes());
}

#[tokio::test]
async fn the_log_tells_what_was_asked_answered_and_carried() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.jsonl");
    let mut options = options(&dir.path().join("s3"));
    options.access_log = Some(file.clone());
    let server = S3Server::start(options).await.unwrap();
    let client = client(&server.endpoint());
    client.put_object().bucket(BUCKET).key("a b").body(bytes(&[7; 1000])).send().await.unwrap();
    client.get_object().bucket(BUCKET).key("a b").send().await.unwrap().body.collect().await.unwrap();
    let part =
        client.upload_part().bucket(BUCKET).key("k").part_number(3).upload_id("none").body(bytes(b"x"));
    assert_eq!(refusal(part.send().await), refused(404, "NoSuchUpload"));
    let log = server.log();
    let told: Vec<_> =
        log.iter().map(|a| (a.method.as_str(), a.bucket.as_deref(), a.key.as_deref(), a.status)).collect();
    assert_eq!(
        told,
        [
            ("PUT", Some(BUCKET), Some("a b"), Some(200)),
            ("GET", Some(BUCKET), Some("a b"), Some(200)),
            ("PUT", Some(BUCKET), Some("k"), Some(404)),
        ]
    );
    assert_eq!((log[0].received, log[1].sent), (1000, 1000));
    assert_eq!(log[2].query.get("partNumber").map(String::as_str), Some("3"));
    assert_eq!(log[2].query.get("uploadId").map(String::as_str), Some("none"));
    server.stop().await;
    let lines = std::fs::read_to_string(file).unwrap();
    let lines: Vec<Access> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, log);
}
