//! Kills: what was answered is there, what wasn't is there whole or not at all.

use std::process::Stdio;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use tokio::io::AsyncBufReadExt as _;

use super::*;

const DIR_OF_CHILD: &str = "TRIBUTARY_TEST_S3_DIR";

/// Not a test by itself: the process that the kill test kills. It ends with its parent, whose pipe it reads.
#[test]
#[ignore = "runs only as the child of the kill test"]
fn the_server_to_be_killed() {
    let Ok(dir) = std::env::var(DIR_OF_CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start(options(Path::new(&dir)))).unwrap();
    println!("\nserving {}", server.endpoint());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

async fn child(dir: &Path) -> (tokio::process::Child, Client) {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "s3::tests::crash::the_server_to_be_killed", "--ignored", "--nocapture"]);
    command.env(DIR_OF_CHILD, dir).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(endpoint) = line.strip_prefix("serving ") {
            let client = client(endpoint);
            // The pipe must stay open, or the child fails when it prints.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (child, client);
        }
    }
    panic!("the server to be killed ended before it served");
}

fn content(writer: usize, number: usize) -> Vec<u8> {
    format!("{writer}/{number} ").into_bytes().repeat(1 + (writer * 7919 + number * 104_729) % 60_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_writes_survive_a_kill_and_others_are_whole_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = std::collections::BTreeSet::new();
    for round in 0..3 {
        let (mut child, client) = child(dir.path()).await;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for number in 1000 * round.. {
                        let put = client.put_object().bucket(BUCKET).key(format!("{writer}/{number}"));
                        let put = put.if_none_match("*").body(bytes(&content(writer, number)));
                        let once = aws_sdk_s3::config::retry::RetryConfig::disabled();
                        let put =
                            put.customize().config_override(aws_sdk_s3::Config::builder().retry_config(once));
                        match put.send().await {
                            Ok(_) => done.push((writer, number)),
                            Err(_) => break,
                        }
                    }
                    done
                })
            })
            .collect();
        let upload = client.create_multipart_upload().bucket(BUCKET).key("big").send().await.unwrap();
        let upload = upload.upload_id.unwrap();
        let part = client.upload_part().bucket(BUCKET).key("big").upload_id(&upload).part_number(1);
        let part = part.body(bytes(&vec![round as u8; PART])).send().await.unwrap();
        child.kill().await.unwrap();
        for writer in writers {
            answered.extend(writer.await.unwrap());
        }
        let server = S3Server::start(options(dir.path())).await.unwrap();
        let client = super::client(&server.endpoint());
        let named = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag);
        let named = named.set_checksum_crc32(part.checksum_crc32).build();
        let parts = CompletedMultipartUpload::builder().parts(named).build();
        let complete = client.complete_multipart_upload().bucket(BUCKET).key("big").upload_id(&upload);
        complete.multipart_upload(parts).send().await.unwrap();
        server.stop().await;
    }
    assert!(!answered.is_empty());
    let server = S3Server::start(options(dir.path())).await.unwrap();
    let client = client(&server.endpoint());
    let mut found = std::collections::BTreeSet::new();
    let mut pages = client.list_objects_v2().bucket(BUCKET).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            let Some((writer, number)) = object.key().unwrap().split_once('/') else { continue };
            let (writer, number) = (writer.parse().unwrap(), number.parse().unwrap());
            let got = client.get_object().bucket(BUCKET).key(object.key().unwrap()).send().await.unwrap();
            let body = got.body.collect().await.unwrap().to_vec();
            assert!(body == content(writer, number), "{writer}/{number} came back changed");
            found.insert((writer, number));
        }
    }
    let lost: Vec<_> = answered.difference(&found).collect();
    assert!(lost.is_empty(), "answered, but lost: {lost:?}");
    assert!(found.len() <= answered.len() + 12, "more objects than answers and requests under way");
}

#[tokio::test]
async fn a_write_whose_client_leaves_halfway_leaves_nothing() {
    let world = World::start().await;
    let lifetime = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let presigned = world.client.put_object().bucket(BUCKET).key("k").presigned(lifetime).await.unwrap();
    let uri: hyper::Uri = presigned.uri().parse().unwrap();
    let mut headers = String::new();
    for (name, value) in presigned.headers() {
        headers.push_str(&format!("{name}: {value}\r\n"));
    }
    let host = uri.authority().unwrap();
    let path = uri.path_and_query().unwrap();
    let mut stream = TcpStream::connect(host.as_str()).await.unwrap();
    let request = format!("PUT {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: 1000000\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(&vec![1; 500_000]).await.unwrap();
    while world.server.log().last().map(|access| access.received) != Some(500_000) {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.leftovers(), 1, "the half of the body that came is on disk");
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    drop(stream);
    assert!(world.is_absent("k").await);
    let World { dir, server, .. } = world;
    server.stop().await;
    let world = World {
        client: client("http://127.0.0.1:1"),
        server: S3Server::start(options(dir.path())).await.unwrap(),
        dir,
    };
    assert_eq!(world.leftovers(), 0);
    let client = client(&world.server.endpoint());
    let listed = client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert!(listed.contents().is_empty());
}

#[tokio::test]
async fn what_a_kill_left_unfinished_is_swept_at_the_start() {
    let world = World::start().await;
    world.put("k", b"value").await;
    let bucket = world.dir.path().join(BUCKET);
    std::fs::write(bucket.join("tmp").join("half"), b"half a body").unwrap();
    std::fs::create_dir(bucket.join("uploads").join("never-answered")).unwrap();
    let world = world.restart().await;
    assert_eq!(world.leftovers(), 0);
    assert_eq!(world.get("k").await, b"value");
    let uploads = world.client.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
    assert!(uploads.uploads().is_empty());
}

#[tokio::test]
async fn a_damaged_object_stops_the_start_and_is_named() {
    let world = World::start().await;
    world.put("k", b"value").await;
    let World { dir, server, .. } = world;
    drop(server);
    let objects = dir.path().join(BUCKET).join("objects");
    let file = std::fs::read_dir(objects).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let error = S3Server::start(options(dir.path())).await.err().expect("a damaged object must be reported");
    assert!(format!("{error:#}").contains(file.to_str().unwrap()), "{error:#}");
}
