//! Checksums: what a request states of its body is checked before anything is kept.

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use base64::Engine as _;

use super::*;

/// The standard check input of CRC catalogues, and its sums.
const CHECK: &[u8] = b"123456789";

fn base64(hex: &str) -> String {
    let raw: Vec<u8> =
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    base64::engine::general_purpose::STANDARD.encode(raw)
}

fn catalogue() -> [(ChecksumAlgorithm, String); 5] {
    [
        (ChecksumAlgorithm::Crc32, base64("cbf43926")),
        (ChecksumAlgorithm::Crc32C, base64("e3069283")),
        (ChecksumAlgorithm::Crc64Nvme, base64("ae8b14860a799888")),
        (ChecksumAlgorithm::Sha1, base64("f7c3bc1d808e04732adf679965ccc34ca7ae3441")),
        (
            ChecksumAlgorithm::Sha256,
            base64("15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ),
    ]
}

macro_rules! state {
    ($request:expr, $algorithm:expr, $value:expr) => {
        match $algorithm {
            ChecksumAlgorithm::Crc32 => $request.checksum_crc32($value),
            ChecksumAlgorithm::Crc32C => $request.checksum_crc32_c($value),
            ChecksumAlgorithm::Crc64Nvme => $request.checksum_crc64_nvme($value),
            ChecksumAlgorithm::Sha1 => $request.checksum_sha1($value),
            ChecksumAlgorithm::Sha256 => $request.checksum_sha256($value),
            other => panic!("no such algorithm in this test: {other}"),
        }
    };
}

#[tokio::test]
async fn right_checksums_are_taken_and_echoed() {
    let world = World::start().await;
    for (algorithm, value) in catalogue() {
        let put = world.client.put_object().bucket(BUCKET).key(algorithm.as_str()).body(bytes(CHECK));
        state!(put, algorithm, &value).send().await.unwrap_or_else(|e| panic!("{algorithm}: {e:?}"));
        let head = world.client.head_object().bucket(BUCKET).key(algorithm.as_str());
        let head = head.checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
        let echoed = [
            head.checksum_crc32(),
            head.checksum_crc32_c(),
            head.checksum_crc64_nvme(),
            head.checksum_sha1(),
            head.checksum_sha256(),
        ];
        assert_eq!(echoed.into_iter().flatten().collect::<Vec<_>>(), [value]);
    }
    let md5 = world.client.put_object().bucket(BUCKET).key("md5").body(bytes(CHECK));
    md5.content_md5(base64("25f9e794323b453885f5181f1b624d0b")).send().await.unwrap();
}

#[tokio::test]
async fn wrong_checksums_are_refused_and_nothing_is_kept() {
    let world = World::start().await;
    let created = world.client.create_multipart_upload().bucket(BUCKET).key("k").customize();
    let created = created.mutate_request(|request| {
        request.headers_mut().remove("x-amz-checksum-algorithm");
    });
    let upload = created.send().await.unwrap().upload_id.unwrap();
    let part = || world.client.upload_part().bucket(BUCKET).key("k").upload_id(&upload).part_number(1);
    let put = || world.client.put_object().bucket(BUCKET).key("k");
    for (algorithm, value) in catalogue() {
        let other = b"123456780";
        let refused_put = state!(put().body(bytes(other)), algorithm, &value).send().await;
        assert_eq!(refusal(refused_put), refused(400, "BadDigest"), "{algorithm}");
        let refused_part = state!(part().body(bytes(other)), algorithm, &value).send().await;
        assert_eq!(refusal(refused_part), refused(400, "BadDigest"), "{algorithm} of a part");
        let malformed = state!(put().body(bytes(CHECK)), algorithm, "AAA=").send().await;
        assert_eq!(refusal(malformed), refused(400, "InvalidRequest"), "{algorithm} malformed");
    }
    let md5 = base64("25f9e794323b453885f5181f1b624d0b");
    assert_eq!(
        refusal(put().content_md5(&md5).body(bytes(b"other")).send().await),
        refused(400, "BadDigest")
    );
    assert_eq!(
        refusal(part().content_md5(&md5).body(bytes(b"other")).send().await),
        refused(400, "BadDigest")
    );
    assert_eq!(
        refusal(put().content_md5("x").body(bytes(CHECK)).send().await),
        refused(400, "InvalidDigest")
    );
    assert!(world.is_absent("k").await);
    let parts = world.client.list_parts().bucket(BUCKET).key("k").upload_id(&upload).send().await.unwrap();
    assert!(parts.parts().is_empty());
    assert_eq!(world.leftovers(), 0);
}

#[tokio::test]
async fn a_replacement_with_a_wrong_checksum_leaves_the_old_object() {
    let world = World::start().await;
    world.put("k", b"old").await;
    let wrong = world.client.put_object().bucket(BUCKET).key("k").checksum_crc32(base64("cbf43926"));
    assert_eq!(refusal(wrong.body(bytes(b"new")).send().await), refused(400, "BadDigest"));
    assert_eq!(world.get("k").await, b"old");
}

#[tokio::test]
async fn trailing_checksums_of_every_algorithm_are_taken() {
    let world = World::start().await;
    let files = tempfile::tempdir().unwrap();
    for (algorithm, value) in catalogue() {
        let body = streamed(files.path(), CHECK).await;
        let put = world.client.put_object().bucket(BUCKET).key("k").checksum_algorithm(algorithm.clone());
        let put = put.body(body).send().await.unwrap_or_else(|e| panic!("{algorithm}: {e:?}"));
        let echoed = [
            put.checksum_crc32(),
            put.checksum_crc32_c(),
            put.checksum_crc64_nvme(),
            put.checksum_sha1(),
            put.checksum_sha256(),
        ];
        assert_eq!(echoed.into_iter().flatten().collect::<Vec<_>>(), [value]);
        assert_eq!(world.get("k").await, CHECK);
    }
}

#[tokio::test]
async fn a_byte_changed_on_the_way_is_found_by_the_trailing_checksum() {
    let world = World::start().await;
    let (endpoint, sent) = corrupting_wire(&world.server, b"the true value", b"the fake value").await;
    let files = tempfile::tempdir().unwrap();
    let body = streamed(files.path(), b"the true value").await;
    let put = client(&endpoint).put_object().bucket(BUCKET).key("k").body(body).send().await;
    assert_eq!(refusal(put), refused(400, "BadDigest"));
    let sent = String::from_utf8_lossy(&sent.lock().unwrap()).to_lowercase();
    assert!(
        sent.contains("x-amz-trailer: x-amz-checksum-crc32"),
        "the SDK sent no trailing checksum: {sent}"
    );
    assert!(sent.contains("\r\nx-amz-checksum-crc32:"), "{sent}");
    assert!(world.is_absent("k").await);
}

#[tokio::test]
async fn a_byte_changed_on_the_way_is_found_by_the_signature() {
    let world = World::start().await;
    let (endpoint, sent) = corrupting_wire(&world.server, b"the true value", b"the fake value").await;
    let put = client(&endpoint).put_object().bucket(BUCKET).key("k").body(bytes(b"the true value"));
    let put = put.send().await;
    assert_eq!(refusal(put), refused(400, "XAmzContentSHA256Mismatch"));
    let sent = String::from_utf8_lossy(&sent.lock().unwrap()).to_lowercase();
    assert!(!sent.contains("unsigned-payload"), "the SDK didn't sign this body: {sent}");
    assert!(world.is_absent("k").await);
}

#[tokio::test]
async fn an_announced_checksum_that_never_comes_is_refused() {
    let world = World::start().await;
    let (endpoint, _) =
        corrupting_wire(&world.server, b"\r\nx-amz-checksum-crc32:", b"\r\nx-amz-notachecksum12:").await;
    let files = tempfile::tempdir().unwrap();
    let body = streamed(files.path(), b"value").await;
    let put = client(&endpoint).put_object().bucket(BUCKET).key("k").body(body).send().await;
    assert_eq!(refusal(put), refused(400, "InvalidRequest"));
    assert!(world.is_absent("k").await);
}
