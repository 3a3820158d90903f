//! Sessions begin and end while the server runs, and it says which it was.

use aws_sdk_s3::config::Credentials;

use super::*;

fn session(world: &World, token: Option<&str>) -> Client {
    let keys = Credentials::new("ASIA", "secret", token.map(str::to_owned), None, "test");
    super::super::client::client_of(&world.server.endpoint(), REGION, keys)
}

async fn said(client: &Client) -> String {
    match client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"b")).send().await {
        Ok(_) => "done".into(),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}

#[tokio::test]
async fn a_session_signs_with_its_token_from_its_beginning_to_its_end() {
    let world = World::start().await;
    let keys = world.server.keys();
    let ours = session(&world, Some("token"));
    assert_eq!(said(&ours).await, "InvalidAccessKeyId");
    keys.admit("ASIA", "secret", Some("token"));
    assert_eq!(said(&ours).await, "done");
    assert_eq!(said(&session(&world, Some("another"))).await, "InvalidToken");
    assert_eq!(said(&session(&world, None)).await, "InvalidToken");
    keys.expire("ASIA");
    assert_eq!(said(&ours).await, "ExpiredToken");
    let head = ours.head_object().bucket(BUCKET).key("k").send().await;
    assert_eq!(head.unwrap_err().raw_response().map(|r| r.status().as_u16()), Some(400));
    assert_eq!(keys.used("ASIA"), 1);
    keys.remove("ASIA");
    assert_eq!(said(&ours).await, "InvalidAccessKeyId");
    assert_eq!(said(&world.client).await, "done", "the others go on");
}
