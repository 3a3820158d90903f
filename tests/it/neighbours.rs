//! Two programs where there may be one.

use std::fs;

use anyhow::{Context, ensure};
use tributary_tests::world::process::command;
use tributary_tests::world::{Mqtt, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_same_buffer_is_refused_with_a_sentence() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    world.status_when("the agent is connected", |s| s.brokers.iter().any(|b| b.connected)).await?;
    let (own, spare) = (world.status_address().to_string(), world.spare_address().to_string());
    let config = world.vary("agent.toml", "second.toml", &[(&own, &spare)])?;
    let status = world.run("second", &world.programs.agent, &config)?.ended().await?;
    let said = fs::read_to_string(world.path("second.log"))?;
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.contains("another agent works on this buffer; stop it first"), "{said}");
    world.status_when("the first one goes on", |s| s.brokers.iter().any(|b| b.connected)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_receiver_on_the_same_ledger_is_refused_with_a_sentence() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _receiver = world.receiver()?;
    world.fleet_when("the receiver answers", "/api/fleet", |_| true).await?;
    let (own, spare) = (world.fleet_address().to_string(), world.spare_address().to_string());
    let config = world.vary("receiver.toml", "second.toml", &[(&own, &spare)])?;
    let status = world.run("second", &world.programs.receiver, &config)?.ended().await?;
    let said = fs::read_to_string(world.path("second.log"))?;
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.contains("is in use by another receiver: stop that one"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_another_ledger_adds_no_rows_and_says_what_to_run() -> anyhow::Result<()> {
    const BEFORE: u64 = 200;
    const AFTER: u64 = 300;
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let receiver = world.receiver()?;
    world.publish(1..=BEFORE).await?;
    world.settled(BEFORE).await?;
    receiver.stop().await?;

    let ledger = world.path("receiver").display().to_string();
    let other = world.path("stranger").display().to_string();
    let (own, spare) = (world.fleet_address().to_string(), world.spare_address().to_string());
    let changes: [(&str, &str); 2] = [(&ledger, &other), (&own, &spare)];
    let config = world.vary("receiver.toml", "stranger.toml", &changes)?;
    let tables = world.tables();
    let location = tables.location("readings")?;
    let stranger = world.run("stranger", &world.programs.receiver, &config)?;
    let config = config.display().to_string();
    let arguments = ["fleet", "list", "--json", "--config", &config];
    tributary_tests::world::until("the table stands still", async || {
        let listed = command(&world.programs.receiver, &arguments).await?;
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
        let readings = listed["tables"].as_array().into_iter().flatten();
        let mut readings = readings.filter(|table| table["table"] == "tributary.readings");
        let stopped = readings.find_map(|table| table["stopped"].as_str());
        Ok(stopped
            .filter(|why| why.contains("belongs to ledger") && why.contains("`ledger rebuild`"))
            .map(drop))
    })
    .await
    .with_context(|| fs::read_to_string(world.path("stranger.log")).unwrap_or_default())?;
    world.publish(BEFORE + 1..=AFTER).await?;
    world.acknowledged(AFTER).await?;
    // The stranger's receipts are nothing the gateway could let go by.
    world
        .status_when("the new readings are delivered", |s| {
            s.counters.readings.sealed == AFTER && s.segments.undelivered == 0
        })
        .await?;
    ensure!(tables.location("readings")? == location, "a stranger committed");
    ensure!(world.tally().await?.rows == BEFORE);
    stranger.stop().await?;

    let _receiver = world.receiver()?;
    world.settled(AFTER).await?;
    Ok(())
}
