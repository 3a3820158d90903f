//! The promises of the S3 server, each tried by the real SDK.

mod checksums;
mod crash;
mod hand;
mod lists;
mod objects;
mod parts;
mod sessions;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{S3Options, S3Server};

const BUCKET: &str = "plant";
const KEY: &str = "AKIATESTTESTTEST";
const SECRET: &str = "a secret of the tests";
const REGION: &str = "eu-central-1";
const PART: usize = 5 * 1024 * 1024;

fn options(dir: &Path) -> S3Options {
    S3Options {
        dir: dir.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        access_key_id: KEY.to_owned(),
        secret_access_key: SECRET.to_owned(),
        region: REGION.to_owned(),
        buckets: vec![BUCKET.to_owned()],
        access_log: None,
    }
}

fn client(endpoint: &str) -> Client {
    super::client::client(endpoint, REGION, KEY, SECRET)
}

/// A server on a folder of its own, and a client of it.
struct World {
    dir: tempfile::TempDir,
    server: S3Server,
    client: Client,
}

impl World {
    async fn start() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    async fn open(dir: tempfile::TempDir) -> Self {
        let server = S3Server::start(options(dir.path())).await.unwrap();
        let client = client(&server.endpoint());
        Self { dir, server, client }
    }

    /// Stops the server without a word, and starts another one on what it left.
    async fn restart(self) -> Self {
        drop(self.server);
        Self::open(self.dir).await
    }

    async fn put(&self, key: &str, body: &[u8]) -> String {
        let put = self.client.put_object().bucket(BUCKET).key(key).body(bytes(body)).send().await.unwrap();
        put.e_tag.unwrap()
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let got = self.client.get_object().bucket(BUCKET).key(key).send().await.unwrap();
        got.body.collect().await.unwrap().to_vec()
    }

    async fn is_absent(&self, key: &str) -> bool {
        let head = self.client.head_object().bucket(BUCKET).key(key).send().await;
        match head {
            Ok(_) => false,
            Err(error) => error.raw_response().unwrap().status().as_u16() == 404,
        }
    }

    /// Files that belong to no finished write.
    fn leftovers(&self) -> usize {
        std::fs::read_dir(self.dir.path().join(BUCKET).join("tmp")).unwrap().count()
    }
}

fn bytes(body: &[u8]) -> ByteStream {
    ByteStream::from(body.to_vec())
}

/// A body that the SDK must stream, and therefore sends with a trailing checksum.
async fn streamed(dir: &Path, body: &[u8]) -> ByteStream {
    let path = dir.join("to-be-streamed");
    std::fs::write(&path, body).unwrap();
    ByteStream::from_path(path).await.unwrap()
}

/// Status and code of a refusal.
fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata>(
    result: Result<T, SdkError<E, HttpResponse>>,
) -> (u16, String) {
    let error = result.expect_err("this request must be refused");
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    (status, error.code().unwrap_or_default().to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Sends bytes as they are, and returns what comes back until the server closes.
async fn raw(server: &S3Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.endpoint().trim_start_matches("http://")).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A wire that turns `from` into `to` on the way to the server, and remembers what the client sent.
async fn corrupting_wire(
    server: &S3Server,
    from: &'static [u8],
    to: &'static [u8],
) -> (String, Arc<Mutex<Vec<u8>>>) {
    assert_eq!(from.len(), to.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let target = server.endpoint().trim_start_matches("http://").to_owned();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let memory = sent.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&target).await.unwrap();
            let memory = memory.clone();
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let forth = async {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(read @ 1..) = near_read.read(&mut buffer).await {
                        let mut piece = buffer[..read].to_vec();
                        memory.lock().unwrap().extend_from_slice(&piece);
                        if let Some(at) = piece.windows(from.len()).position(|window| window == from) {
                            piece[at..at + to.len()].copy_from_slice(to);
                        }
                        if far_write.write_all(&piece).await.is_err() {
                            break;
                        }
                    }
                };
                let back = tokio::io::copy(&mut far_read, &mut near_write);
                tokio::select! { _ = forth => {}, _ = back => {} }
            });
        }
    });
    (endpoint, sent)
}
