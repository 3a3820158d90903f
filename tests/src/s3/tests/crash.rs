//! What a kill left behind, and clients that leave halfway; the kills themselves are in `tests/it/bucket_kills.rs`.

use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;

use super::*;

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
