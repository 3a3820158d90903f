//! The S3 server that all else is tested with: what it answered survives its kill, what it didn't is whole or not at all.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use tributary_tests::world::{BUCKET, Mqtt, World, until};

const ROUNDS: usize = 3;
const WRITERS: usize = 4;
/// The least that S3 takes as a part that isn't the last.
const PART: usize = 5 * 1024 * 1024;

fn content(writer: usize, number: usize) -> Vec<u8> {
    format!("{writer}/{number} ").into_bytes().repeat(1 + (writer * 7919 + number * 104_729) % 60_000)
}

/// Writes until the server is gone; the names of what was answered.
async fn write(client: Client, writer: usize, first: usize) -> Vec<(usize, usize)> {
    let mut answered = Vec::new();
    for number in first.. {
        let put = client.put_object().bucket(BUCKET).key(format!("{writer}/{number}"));
        let put = put.if_none_match("*").body(ByteStream::from(content(writer, number)));
        let once = aws_sdk_s3::Config::builder().retry_config(RetryConfig::disabled());
        match put.customize().config_override(once).send().await {
            Ok(_) => answered.push((writer, number)),
            Err(_) => break,
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_writes_survive_a_kill_and_others_are_whole_or_absent() -> anyhow::Result<()> {
    let mut world = World::without_bucket(Mqtt::EmbeddedV5).await?;
    let mut answered = BTreeSet::new();
    for round in 0..ROUNDS {
        let server = world.bucket_process()?;
        let client = world.bucket();
        until("the server answers", async || {
            Ok(client.head_bucket().bucket(BUCKET).send().await.ok().map(drop))
        })
        .await?;
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| tokio::spawn(write(client.clone(), writer, 1000 * round))).collect();
        let upload = client.create_multipart_upload().bucket(BUCKET).key("big").send().await?;
        let upload = upload.upload_id.context("an upload has an id")?;
        let part = client.upload_part().bucket(BUCKET).key("big").upload_id(&upload).part_number(1);
        let part = part.body(ByteStream::from(vec![round as u8; PART])).send().await?;
        server.kill().await?;
        for writer in writers {
            answered.extend(writer.await?);
        }
        world.start_bucket().await?;
        let named = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag);
        let named = named.set_checksum_crc32(part.checksum_crc32).build();
        let parts = CompletedMultipartUpload::builder().parts(named).build();
        let complete = client.complete_multipart_upload().bucket(BUCKET).key("big").upload_id(&upload);
        complete.multipart_upload(parts).send().await?;
        world.stop_bucket().await;
    }
    ensure!(!answered.is_empty());
    world.start_bucket().await?;
    let client = world.bucket();
    let mut found = BTreeSet::new();
    let mut pages = client.list_objects_v2().bucket(BUCKET).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page?.contents() {
            let key = object.key().context("an object has a key")?;
            let Some((writer, number)) = key.split_once('/') else { continue };
            let (writer, number) = (writer.parse()?, number.parse()?);
            let got = client.get_object().bucket(BUCKET).key(key).send().await?;
            let body = got.body.collect().await?.to_vec();
            ensure!(body == content(writer, number), "{key} came back changed");
            found.insert((writer, number));
        }
    }
    let lost: Vec<_> = answered.difference(&found).collect();
    ensure!(lost.is_empty(), "answered, but lost: {lost:?}");
    ensure!(
        found.len() <= answered.len() + ROUNDS * WRITERS,
        "more objects than answers and requests under way"
    );
    Ok(())
}
