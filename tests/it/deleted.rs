//! Segments that vanish from the bucket before anyone registered them.

use anyhow::ensure;
use tributary_tests::world::{BUCKET, Mqtt, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_deleted_before_their_registration_are_sent_again() -> anyhow::Result<()> {
    const FIRST: u64 = 200;
    const ALL: u64 = 300;
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=FIRST).await?;
    world.acknowledged(FIRST).await?;
    world
        .status_when("everything is delivered and nothing is known as registered", |s| {
            let readings = &s.counters.readings;
            readings.sealed == FIRST && readings.registered == 0 && s.segments.undelivered == 0
        })
        .await?;
    let segments = world.keys("segments/").await?;
    ensure!(!segments.is_empty());
    for key in &segments {
        world.bucket().delete_object().bucket(BUCKET).key(key).send().await?;
    }
    let _receiver = world.receiver()?;
    world.fleet_when("the receiver answers", "/api/fleet", |_| true).await?;
    // The manifest of what comes next names what is outstanding, and so what is missing.
    world.publish(FIRST + 1..=ALL).await?;
    world.acknowledged(ALL).await?;
    world.settled(ALL).await?;
    let again = world.keys("segments/").await?;
    ensure!(segments.iter().all(|key| again.contains(key)), "sent again under the same names: {again:?}");
    Ok(())
}
