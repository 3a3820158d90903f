//! Multipart uploads: parts, their order and sums, and a Complete that may be repeated.

use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart,
};
use base64::Engine as _;

use super::*;

fn body_of(part: i32, size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + part as usize * 7) as u8).collect()
}

async fn create(world: &World, key: &str) -> String {
    let created = world.client.create_multipart_upload().bucket(BUCKET).key(key).metadata("digest", "0f1e");
    created.send().await.unwrap().upload_id.unwrap()
}

async fn send(world: &World, key: &str, upload: &str, number: i32, body: &[u8]) -> CompletedPart {
    let part = world.client.upload_part().bucket(BUCKET).key(key).upload_id(upload).part_number(number);
    let part = part.body(bytes(body)).send().await.unwrap();
    let named = CompletedPart::builder().part_number(number).set_e_tag(part.e_tag);
    named.set_checksum_crc32(part.checksum_crc32).build()
}

type Complete =
    aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder;

fn complete(world: &World, key: &str, upload: &str, parts: &[CompletedPart]) -> Complete {
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
    world.client.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(upload).multipart_upload(parts)
}

#[tokio::test]
async fn parts_become_one_object_in_the_order_of_their_numbers() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    let last = send(&world, "k", &upload, 7, b"the end").await;
    let first = send(&world, "k", &upload, 2, &body_of(2, PART)).await;
    let done = complete(&world, "k", &upload, &[first, last]).send().await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-2\""), "{done:?}");
    assert!(world.get("k").await == [body_of(2, PART), b"the end".to_vec()].concat());
    let head = world.client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(head.metadata().unwrap().get("digest").map(String::as_str), Some("0f1e"));
    assert!(world.client.list_parts().bucket(BUCKET).key("k").upload_id(&upload).send().await.is_err());
}

#[tokio::test]
async fn a_half_done_upload_goes_on_after_a_restart() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    let first = send(&world, "k", &upload, 1, &body_of(1, PART)).await;
    let world = world.restart().await;
    let listed = world.client.list_parts().bucket(BUCKET).key("k").upload_id(&upload).send().await.unwrap();
    let [part] = listed.parts() else { panic!("one part was stored: {listed:?}") };
    assert_eq!((part.part_number(), part.size()), (Some(1), Some(PART as i64)));
    assert_eq!((part.e_tag(), part.checksum_crc32()), (first.e_tag(), first.checksum_crc32()));
    let second = send(&world, "k", &upload, 2, b"rest").await;
    complete(&world, "k", &upload, &[first, second]).send().await.unwrap();
    assert!(world.get("k").await == [body_of(1, PART), b"rest".to_vec()].concat());
}

#[tokio::test]
async fn a_part_sent_again_replaces_the_first() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    let old = send(&world, "k", &upload, 1, b"old").await;
    let new = send(&world, "k", &upload, 1, b"new").await;
    assert_eq!(refusal(complete(&world, "k", &upload, &[old]).send().await), refused(400, "InvalidPart"));
    complete(&world, "k", &upload, &[new]).send().await.unwrap();
    assert_eq!(world.get("k").await, b"new");
}

#[tokio::test]
async fn lists_of_parts_that_are_wrong_complete_nothing() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    let first = send(&world, "k", &upload, 1, &body_of(1, PART)).await;
    let small = send(&world, "k", &upload, 2, b"small").await;
    let third = send(&world, "k", &upload, 3, b"third").await;
    let renamed = CompletedPart::builder().part_number(1).set_e_tag(small.e_tag.clone());
    let renamed = renamed.set_checksum_crc32(small.checksum_crc32.clone()).build();
    let unstored = CompletedPart::builder().part_number(9).set_e_tag(small.e_tag.clone()).build();
    let bare = CompletedPart::builder().part_number(1).set_e_tag(first.e_tag.clone()).build();
    let missummed = CompletedPart::builder().part_number(1).set_e_tag(first.e_tag.clone());
    let missummed = missummed.set_checksum_crc32(small.checksum_crc32.clone()).build();
    for (parts, code) in [
        (vec![renamed, third.clone()], "InvalidPart"),
        (vec![first.clone(), unstored], "InvalidPart"),
        (vec![missummed], "InvalidPart"),
        (vec![third.clone(), first.clone()], "InvalidPartOrder"),
        (vec![first.clone(), first.clone()], "InvalidPartOrder"),
        (vec![first.clone(), small.clone(), third.clone()], "EntityTooSmall"),
        (vec![bare], "InvalidRequest"),
        (vec![], "MalformedXML"),
    ] {
        assert_eq!(
            refusal(complete(&world, "k", &upload, &parts).send().await),
            refused(400, code),
            "{parts:?}"
        );
    }
    assert!(world.is_absent("k").await);
    assert_eq!(world.leftovers(), 0);
    complete(&world, "k", &upload, &[first, third]).send().await.unwrap();
}

#[tokio::test]
async fn part_numbers_end_at_ten_thousand() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    for number in [0, 10_001, -1] {
        let part = world.client.upload_part().bucket(BUCKET).key("k").upload_id(&upload).part_number(number);
        assert_eq!(refusal(part.body(bytes(b"x")).send().await), refused(400, "InvalidArgument"));
    }
    send(&world, "k", &upload, 10_000, b"x").await;
}

#[tokio::test]
async fn a_complete_whose_reply_was_lost_answers_the_same_again() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    let parts = [
        send(&world, "k", &upload, 1, &body_of(1, PART)).await,
        send(&world, "k", &upload, 2, b"rest").await,
    ];
    let done = complete(&world, "k", &upload, &parts).if_none_match("*").send().await.unwrap();
    let again = complete(&world, "k", &upload, &parts).if_none_match("*").send().await.unwrap();
    assert_eq!(again.e_tag(), done.e_tag());
    let world = world.restart().await;
    let after = complete(&world, "k", &upload, &parts).if_none_match("*").send().await.unwrap();
    assert_eq!(after.e_tag(), done.e_tag());
    let others = complete(&world, "k", &upload, &parts[..1]).send().await;
    assert_eq!(refusal(others), refused(404, "NoSuchUpload"));
    world.put("k", b"overwritten").await;
    let late = complete(&world, "k", &upload, &parts).send().await;
    assert_eq!(refusal(late), refused(404, "NoSuchUpload"));
    assert_eq!(world.get("k").await, b"overwritten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_completes_that_create_one_wins_and_the_others_uploads_stay() {
    let world = World::start().await;
    let mut uploads = Vec::new();
    for racer in 0..4 {
        let upload = create(&world, "k").await;
        let part = send(&world, "k", &upload, 1, format!("racer {racer}").as_bytes()).await;
        uploads.push((upload, part));
    }
    let racers = uploads.iter().map(|(upload, part)| {
        complete(&world, "k", upload, std::slice::from_ref(part)).if_none_match("*").send()
    });
    let outcomes = futures::future::join_all(racers).await;
    let winner = outcomes.iter().position(|outcome| outcome.is_ok()).unwrap();
    for (racer, outcome) in outcomes.into_iter().enumerate().filter(|(racer, _)| *racer != winner) {
        assert_eq!(refusal(outcome), refused(412, "PreconditionFailed"), "racer {racer} besides {winner}");
        let parts =
            world.client.list_parts().bucket(BUCKET).key("k").upload_id(&uploads[racer].0).send().await;
        assert_eq!(parts.unwrap().parts().len(), 1);
    }
    assert_eq!(world.get("k").await, format!("racer {winner}").into_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_completes_of_one_upload_at_once_both_succeed_with_one_object() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    let parts = [
        send(&world, "k", &upload, 1, &body_of(1, PART)).await,
        send(&world, "k", &upload, 2, b"rest").await,
    ];
    let both = (0..2).map(|_| complete(&world, "k", &upload, &parts).if_none_match("*").send());
    let etags: Vec<_> =
        futures::future::join_all(both).await.into_iter().map(|done| done.unwrap().e_tag.unwrap()).collect();
    assert_eq!(etags[0], etags[1]);
}

#[tokio::test]
async fn an_aborted_upload_is_gone() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    let part = send(&world, "k", &upload, 1, b"x").await;
    let abort = || world.client.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(&upload).send();
    abort().await.unwrap();
    let gone = refused(404, "NoSuchUpload");
    let again = world.client.upload_part().bucket(BUCKET).key("k").upload_id(&upload).part_number(1);
    assert_eq!(refusal(again.body(bytes(b"x")).send().await), gone);
    assert_eq!(
        refusal(world.client.list_parts().bucket(BUCKET).key("k").upload_id(&upload).send().await),
        gone
    );
    assert_eq!(refusal(complete(&world, "k", &upload, &[part]).send().await), gone);
    assert_eq!(refusal(abort().await), gone);
    let world = world.restart().await;
    let listed = world.client.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
    assert!(listed.uploads().is_empty());
}

#[tokio::test]
async fn parts_are_listed_page_by_page() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    for number in [1, 2, 3, 5, 8] {
        send(&world, "k", &upload, number, format!("part {number}").as_bytes()).await;
    }
    let (mut marker, mut numbers, mut pages) = (None, Vec::new(), 0);
    loop {
        let list = world.client.list_parts().bucket(BUCKET).key("k").upload_id(&upload).max_parts(2);
        let page = list.set_part_number_marker(marker).send().await.unwrap();
        assert!(page.parts().len() <= 2);
        for part in page.parts() {
            let number = part.part_number().unwrap();
            assert_eq!(part.size(), Some(6));
            assert!(part.checksum_crc32().is_some() && part.e_tag().is_some());
            numbers.push(number);
        }
        pages += 1;
        if page.is_truncated() != Some(true) {
            break;
        }
        marker = page.next_part_number_marker;
    }
    assert_eq!((numbers, pages), (vec![1, 2, 3, 5, 8], 3));
}

#[tokio::test]
async fn uploads_are_listed_page_by_page_by_key_and_time() {
    let world = World::start().await;
    let mut expected = Vec::new();
    for key in ["a", "b", "b", "b", "c", "other"] {
        expected.push((key.to_owned(), create(&world, key).await));
    }
    expected.pop();
    expected.sort();
    let (mut key, mut id, mut seen) = (None, None, Vec::new());
    loop {
        let list = world.client.list_multipart_uploads().bucket(BUCKET).max_uploads(2);
        let page = list.set_key_marker(key).set_upload_id_marker(id).send().await.unwrap();
        let told =
            page.uploads().iter().map(|u| (u.key().unwrap().to_owned(), u.upload_id().unwrap().to_owned()));
        seen.extend(told.filter(|(key, _)| key != "other"));
        if page.is_truncated() != Some(true) {
            break;
        }
        (key, id) = (page.next_key_marker, page.next_upload_id_marker);
    }
    assert_eq!(seen, expected);
    let only = world.client.list_multipart_uploads().bucket(BUCKET).prefix("o").send().await.unwrap();
    assert_eq!(only.uploads().len(), 1);
}

#[tokio::test]
async fn a_checksum_over_the_whole_object_is_verified_at_the_end() {
    let world = World::start().await;
    let body = [body_of(1, PART), b"rest".to_vec()].concat();
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &body);
    let right = base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes());
    let wrong = base64::engine::general_purpose::STANDARD.encode((crc ^ 1).to_be_bytes());
    let created = world.client.create_multipart_upload().bucket(BUCKET).key("k");
    let created = created.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).send().await.unwrap();
    assert_eq!(created.checksum_type(), Some(&ChecksumType::FullObject));
    let upload = created.upload_id.unwrap();
    let mut parts = Vec::new();
    for (number, bytes) in [(1, &body[..PART]), (2, &body[PART..])] {
        let part = world.client.upload_part().bucket(BUCKET).key("k").upload_id(&upload).part_number(number);
        let part = part.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).body(super::bytes(bytes));
        let stored = part.send().await.unwrap();
        parts.push(CompletedPart::builder().part_number(number).set_e_tag(stored.e_tag).build());
    }
    let complete = || complete(&world, "k", &upload, &parts);
    assert_eq!(refusal(complete().checksum_crc64_nvme(wrong).send().await), refused(400, "BadDigest"));
    let typed = complete().checksum_type(ChecksumType::Composite).send().await;
    assert_eq!(refusal(typed), refused(400, "InvalidRequest"));
    let sized = complete().mpu_object_size(5).send().await;
    assert_eq!(refusal(sized), refused(400, "InvalidRequest"));
    assert!(world.is_absent("k").await);
    let done =
        complete().checksum_crc64_nvme(&right).mpu_object_size(body.len() as i64).send().await.unwrap();
    assert_eq!(
        (done.checksum_crc64_nvme(), done.checksum_type()),
        (Some(right.as_str()), Some(&ChecksumType::FullObject))
    );
}

#[tokio::test]
async fn a_checksum_of_checksums_is_verified_at_the_end() {
    let world = World::start().await;
    let upload = create(&world, "k").await;
    let part = send(&world, "k", &upload, 1, b"123456789").await;
    // CRC-32 of the four bytes cb f4 39 26, which are the CRC-32 of the body.
    let inner = crc32fast::hash(&0xcbf4_3926_u32.to_be_bytes()).to_be_bytes();
    let value = base64::engine::general_purpose::STANDARD.encode(inner);
    let complete = || complete(&world, "k", &upload, std::slice::from_ref(&part));
    let wrong = complete().checksum_crc32(part.checksum_crc32().unwrap()).send().await;
    assert_eq!(refusal(wrong), refused(400, "BadDigest"));
    let done = complete().checksum_crc32(&value).send().await.unwrap();
    assert_eq!(done.checksum_crc32(), Some(format!("{value}-1").as_str()));
    let head = world.client.head_object().bucket(BUCKET).key("k").checksum_mode(ChecksumMode::Enabled);
    let head = head.send().await.unwrap();
    assert_eq!(head.checksum_type(), Some(&ChecksumType::Composite));
    assert_eq!(head.checksum_crc32(), Some(format!("{value}-1").as_str()));
}

#[tokio::test]
async fn a_part_with_another_algorithm_than_agreed_is_refused() {
    let world = World::start().await;
    let created = world.client.create_multipart_upload().bucket(BUCKET).key("k");
    let created = created.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await.unwrap();
    let part = world
        .client
        .upload_part()
        .bucket(BUCKET)
        .key("k")
        .upload_id(created.upload_id.unwrap())
        .part_number(1);
    let part = part.checksum_algorithm(ChecksumAlgorithm::Crc32).body(bytes(b"x")).send().await;
    assert_eq!(refusal(part), refused(400, "InvalidRequest"));
    let impossible = world.client.create_multipart_upload().bucket(BUCKET).key("k");
    let impossible =
        impossible.checksum_algorithm(ChecksumAlgorithm::Sha256).checksum_type(ChecksumType::FullObject);
    assert_eq!(refusal(impossible.send().await), refused(400, "InvalidRequest"));
}
