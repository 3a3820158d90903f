//! The in-flight window: commits come when half of it is full, so that no broker waits for us while we wait for it.
//!
//! The commit interval is a minute: what is acknowledged at once was acknowledged because the window was half full.

use anyhow::ensure;
use tributary_tests::mqtt::Behaviour;
use tributary_tests::world::{Mqtt, Saves, World};

async fn flows(
    mqtt: Mqtt,
    mosquitto: &str,
    agent: &str,
    strict: Option<u16>,
    messages: u64,
) -> anyhow::Result<()> {
    let world = World::start(mqtt).await?;
    let open = format!("allow_anonymous true\npersistence true\n{mosquitto}");
    world.broker.restartable()?.restart_with(&open).await?;
    world.proxy.behave(Behaviour { window: strict, ..Behaviour::default() });
    let client = "client_id = \"gw-1\"\n";
    let broker = format!("{client}{agent}");
    let changes = [(client, broker.as_str()), ("commit_interval = \"20ms\"", "commit_interval = \"1m\"")];
    world.vary("agent.toml", "agent.toml", &changes)?;
    let agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=messages).await?;
    world.acknowledged(messages).await?;
    let (status, _) = agent.stop().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_as_it_is_installed_never_waits_for_the_commit_interval() -> anyhow::Result<()> {
    flows(Mqtt::MosquittoV4(Saves::AtStop), "", "", None, 400).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_does_a_broker_of_20_that_is_strict() -> anyhow::Result<()> {
    flows(Mqtt::MosquittoV4(Saves::AtStop), "", "", Some(20), 400).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_does_one_with_a_larger_window_over_mqtt_5() -> anyhow::Result<()> {
    flows(Mqtt::MosquittoV5(Saves::AtStop), "max_inflight_messages 1000\n", "", Some(1000), 1000).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_does_one_with_a_larger_window_over_mqtt_3_1_1() -> anyhow::Result<()> {
    flows(
        Mqtt::MosquittoV4(Saves::AtStop),
        "max_inflight_messages 200\n",
        "inflight_window = 200\n",
        Some(200),
        1000,
    )
    .await
}

/// Told a thousand, this broker sends twenty: at one commit a second that would be twenty a second, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_a_smaller_window_than_it_was_told_is_found_out() -> anyhow::Result<()> {
    const MESSAGES: u64 = 3_000;
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    world.proxy.behave(Behaviour { window: Some(20), ..Behaviour::default() });
    world.vary("agent.toml", "agent.toml", &[("commit_interval = \"20ms\"", "commit_interval = \"1s\"")])?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=MESSAGES).await?;
    world.acknowledged(MESSAGES).await?;
    world.settled(MESSAGES).await?;
    let log = std::fs::read_to_string(world.path("agent.log"))?;
    ensure!(
        log.contains("the broker's in-flight window seems to be smaller") && log.contains("window=20"),
        "{log}"
    );
    Ok(())
}
