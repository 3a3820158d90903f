//! Kills without warning while messages flow.

use anyhow::ensure;
use tributary_tests::world::{Mqtt, Saves, World};

/// Messages of one run, in portions that are published one after the other.
const MESSAGES: u64 = 1_500;
const PORTION: u64 = 50;
/// Messages that may be published and not acknowledged, so that kills hit a stream and not its end.
const AHEAD: u64 = 150;

/// Publishes everything, kills the agent at each sixth of it, and the receiver at every other time.
async fn survive(mqtt: Mqtt) -> anyhow::Result<()> {
    let world = World::start(mqtt).await?;
    let mut agent = world.agent()?;
    let mut receiver = world.receiver()?;
    // A session must exist before the first message, else nobody is owed it.
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let publishing = async {
        let mut changes = world.proxy.changes();
        for first in (1..=MESSAGES).step_by(PORTION as usize) {
            changes.wait_for(|counts| counts.acknowledged + AHEAD >= first).await?;
            world.publish(first..=first + PORTION - 1).await?;
        }
        anyhow::Ok(())
    };
    let killing = async {
        let mut changes = world.proxy.changes();
        for kill in 1..=5 {
            changes.wait_for(|counts| counts.acknowledged >= kill * MESSAGES / 6).await?;
            agent.kill().await?;
            agent = world.agent()?;
            if kill % 2 == 1 {
                receiver.kill().await?;
                receiver = world.receiver()?;
            }
        }
        anyhow::Ok((agent, receiver))
    };
    let both = async { tokio::try_join!(publishing, killing) };
    let lost = async {
        // What the broker loses is noticed while the others wait for it.
        world.acknowledged(MESSAGES).await
    };
    let ((_, running), ()) = tokio::try_join!(both, lost)?;
    let settled = world.settled(MESSAGES).await?;
    let counters = settled.status.counters;
    ensure!(counters.messages.accepted == MESSAGES, "{counters:#?}");
    ensure!(counters.readings.registered == MESSAGES, "{counters:#?}");
    ensure!(settled.status.buffer.ordinal == 0, "a kill began a new epoch: {:?}", settled.status.reasons);
    ensure!(world.proxy.counts().connections >= 6, "the agent connected less often than it was started");
    drop(running);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_message_is_in_the_table_once_however_often_both_programs_are_killed()
-> anyhow::Result<()> {
    survive(Mqtt::EmbeddedV5).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_for_mqtt_3_1_1_and_mosquitto() -> anyhow::Result<()> {
    survive(Mqtt::MosquittoV4(Saves::AtStop)).await
}
