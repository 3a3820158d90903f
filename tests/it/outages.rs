//! The bucket and the broker go away and come back.

use anyhow::ensure;
use tributary_tests::world::{Mqtt, Saves, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_away_at_the_start_and_in_the_middle_costs_time_only() -> anyhow::Result<()> {
    const FIRST: u64 = 200;
    const SECOND: u64 = 400;
    const ALL: u64 = 600;
    let mut world = World::without_bucket(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=FIRST).await?;
    world.acknowledged(FIRST).await?;
    let away = |status: &tributary_contract::status::GatewayStatus| {
        status.link.failing.is_some() && status.link.failing_since.is_some()
    };
    world.status_when("the agent says that the bucket is away", away).await?;
    let failing = |health: &serde_json::Value| health["failing"].as_array().is_some_and(|f| !f.is_empty());
    world.fleet_when("the receiver says that the bucket is away", "/api/health", failing).await?;
    world.start_bucket().await?;
    let status = world.settled(FIRST).await?.status;
    ensure!(status.link.failing.is_none(), "{:?}", status.link);

    world.stop_bucket().await;
    world.publish(FIRST + 1..=SECOND).await?;
    world.acknowledged(SECOND).await?;
    world.status_when("the agent says so again", away).await?;
    world.fleet_when("the receiver says so again", "/api/health", failing).await?;
    world.publish(SECOND + 1..=ALL).await?;
    world.acknowledged(ALL).await?;
    world.start_bucket().await?;
    world.settled(ALL).await?;
    world.fleet_when("the receiver is well again", "/api/health", |health| health["ok"] == true).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_restarted_still_owes_what_it_was_given() -> anyhow::Result<()> {
    const FIRST: u64 = 200;
    const SECOND: u64 = 500;
    const ALL: u64 = 700;
    let world = World::start(Mqtt::MosquittoV4(Saves::AtStop)).await?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=FIRST).await?;
    world.acknowledged(FIRST).await?;
    world.broker.restartable()?.stop().await?;
    let gone = |status: &tributary_contract::status::GatewayStatus| {
        status.brokers.iter().all(|b| !b.connected && b.failing.is_some())
    };
    world.status_when("the agent says that the broker is gone", gone).await?;
    world.broker.restartable()?.start().await?;
    world.status_when("the agent is back", |s| s.brokers.iter().all(|b| b.connected)).await?;

    // Messages that wait at the broker while the agent is away outlive the broker, too.
    agent.kill().await?;
    world.publish(FIRST + 1..=SECOND).await?;
    world.broker.restartable()?.stop().await?;
    world.broker.restartable()?.start().await?;
    let _agent = world.agent()?;
    world.publish(SECOND + 1..=ALL).await?;
    world.acknowledged(ALL).await?;
    world.settled(ALL).await?;
    Ok(())
}
