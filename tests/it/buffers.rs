//! What befalls the buffer's folder between two lives of the agent: the real programs, and the table at the end.
//!
//! The same stories in process, with more of them and each of their moments: `agent/src/pipeline/tests/stories.rs`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use tributary_contract::id::Epoch;
use tributary_tests::folder::copy;
use tributary_tests::world::process::Process;
use tributary_tests::world::{Mqtt, World, until};

/// Messages that are registered and let go of before anything happens.
const BEFORE: u64 = 100;
/// Up to here only the buffer has them: the bucket was away.
const KEPT: u64 = 200;
/// Up to here they come afterwards.
const ALL: u64 = 300;

fn folder(world: &World) -> PathBuf {
    world.path("agent")
}

/// A world whose first messages are in the table, with its receiver, and an agent that waits for more.
async fn begun() -> anyhow::Result<(World, Process, Process)> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let agent = world.agent()?;
    let receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=BEFORE).await?;
    world.acknowledged(BEFORE).await?;
    world.settled(BEFORE).await?;
    Ok((world, agent, receiver))
}

/// Some more that no bucket took: acknowledged, and nowhere but in the buffer.
async fn kept(world: &mut World) -> anyhow::Result<()> {
    world.stop_bucket().await;
    world.publish(BEFORE + 1..=KEPT).await?;
    world.acknowledged(KEPT).await
}

async fn epoch(world: &World) -> anyhow::Result<Epoch> {
    Ok(world.status_when("the agent answers", |_| true).await?.epoch)
}

/// Publishes the last ones and waits until every message is in the table; those up to `sure` must be there once and
/// without a doubt, the others at most once without one: an agent that can't vouch for its past doubts what comes first.
async fn ends_well(world: &World, sure: u64) -> anyhow::Result<()> {
    world.publish(KEPT + 1..=ALL).await?;
    world.acknowledged(ALL).await?;
    let copies = until("every message is in the table", async || {
        let copies = world.copies().await?;
        Ok((1..=ALL).all(|number| copies.contains_key(&number)).then_some(copies))
    });
    let copies = copies.await.with_context(|| world.logs())?;
    world
        .status_when("nothing is outstanding", |status| {
            let readings = &status.counters.readings;
            readings.waiting() + readings.outstanding() == 0 && status.segments.undelivered == 0
        })
        .await?
        .counters
        .check()?;
    for (number, found) in &copies {
        ensure!(if *number <= sure { found.is_single() } else { found.is_honest() }, "{number}: {found:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_database_costs_its_epoch_and_is_told_in_the_table_of_gaps() -> anyhow::Result<()> {
    let (world, agent, _receiver) = begun().await?;
    let before = epoch(&world).await?;
    agent.kill().await?;
    for name in ["buffer.db", "buffer.db-wal", "buffer.db-shm"] {
        let path = folder(&world).join(name);
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    let _agent = world.agent()?;
    world.publish(BEFORE + 1..=KEPT).await?;
    world.acknowledged(KEPT).await?;
    ends_well(&world, KEPT).await?;
    ensure!(epoch(&world).await? != before, "the epoch went on");
    let told = until("the gap is in its table", async || {
        Ok(world.tables().load("gaps").await?.filter(|gaps| gaps.rows() >= 1))
    });
    told.await.map(drop).with_context(|| world.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_begins_an_epoch_in_which_what_waited_arrives() -> anyhow::Result<()> {
    let (mut world, agent, _receiver) = begun().await?;
    let before = epoch(&world).await?;
    kept(&mut world).await?;
    agent.kill().await?;
    fs::remove_file(folder(&world).join("lease"))?;
    world.start_bucket().await?;
    let _agent = world.agent()?;
    ends_well(&world, BEFORE).await?;
    ensure!(epoch(&world).await? != before, "the epoch went on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_buffer_sends_nothing_twice_unmarked() -> anyhow::Result<()> {
    let (mut world, agent, _receiver) = begun().await?;
    let before = epoch(&world).await?;
    kept(&mut world).await?;
    agent.stop().await?;
    let aside = world.path("aside");
    copy(&folder(&world), &aside)?;
    world.start_bucket().await?;
    // The life that the copy doesn't know: everything is delivered and let go of.
    let agent = world.agent()?;
    world.settled(KEPT).await?;
    agent.kill().await?;
    fs::remove_dir_all(folder(&world))?;
    copy(&aside, &folder(&world))?;
    let _agent = world.agent()?;
    ends_well(&world, BEFORE).await?;
    ensure!(epoch(&world).await? != before, "the epoch went on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_card_sends_what_waited_once_more_and_marked() -> anyhow::Result<()> {
    let (mut world, agent, _receiver) = begun().await?;
    let before = epoch(&world).await?;
    kept(&mut world).await?;
    agent.kill().await?;
    let (card, clone) = (folder(&world), world.path("clone"));
    copy(&card, &clone)?;
    world.start_bucket().await?;
    let agent = world.agent()?;
    world.settled(KEPT).await?;
    agent.kill().await?;
    let changes = [(&*card.display().to_string(), &*clone.display().to_string())];
    let config = world.vary("agent.toml", "clone.toml", &changes)?;
    let _clone = world.run("agent", &world.programs.agent, &config)?;
    ends_well(&world, BEFORE).await?;
    ensure!(epoch(&world).await? != before, "two cards share an epoch");
    Ok(())
}
