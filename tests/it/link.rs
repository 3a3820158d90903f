//! The policy of the link, with the real agent before a recording proxy: rate, budget, order and pause, by counts.

use std::time::Instant;

use anyhow::{Context, ensure};
use tributary_contract::status::GatewayStatus;
use tributary_tests::faults::Operation;
use tributary_tests::world::publish::{padded, publish};
use tributary_tests::world::{Mqtt, Process, World};

/// Letters of a message that makes segments great.
const LETTERS: usize = 1_200;

/// The agent with a section `[link]`, and a status object that is rare.
fn agent(world: &World, link: &str, changes: &[(&str, &str)]) -> anyhow::Result<Process> {
    let link = format!("[link]\n{link}\n[status]\n");
    let mut all = vec![("[status]\n", link.as_str()), ("every = \"1s\"", "every = \"1h\"")];
    all.extend_from_slice(changes);
    let config = world.vary("agent.toml", "link.toml", &all)?;
    world.run("agent", &world.programs.agent, &config)
}

async fn subscribed(world: &World) -> anyhow::Result<()> {
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await.map(drop)
}

const PADS: (&str, &str) = ("row_tags = { n = \"n\" }", "row_tags = { n = \"n\", pad = \"pad\" }");

async fn publish_great(world: &World, count: u64) -> anyhow::Result<()> {
    let messages = (1..=count).map(|number| padded(number, LETTERS));
    publish(world.broker.for_publishers(), messages).await?;
    world.acknowledged(count).await
}

/// Bytes of bodies that the proxy has seen, both ways. No receiver runs: all of them are the agent's.
fn bodies(world: &World) -> anyhow::Result<u64> {
    Ok(world.faults()?.seen().iter().map(|seen| seen.received + seen.sent).sum())
}

fn waits_for(status: &GatewayStatus, words: &str) -> bool {
    let waits = status.link.policy.as_ref().and_then(|p| p.waits.as_deref());
    waits.is_some_and(|why| why.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_sent_than_the_rate_gives_in_the_time() -> anyhow::Result<()> {
    const RATE: u64 = 32 << 10;
    const MESSAGES: u64 = 400;
    let world = World::with_faults(Mqtt::EmbeddedV5, 31).await?;
    let began = Instant::now();
    let agent = agent(&world, "max_rate = \"32KiB\"", &[PADS])?;
    subscribed(&world).await?;
    publish_great(&world, MESSAGES).await?;
    let delivered = |s: &GatewayStatus| {
        s.counters.readings.waiting() == 0 && s.segments.undelivered == 0 && s.segments.delivered > 0
    };
    let status = world.status_when("everything is delivered", delivered).await?;
    // Counted first: what comes between counts for the agent.
    let sent = bodies(&world)?;
    let permitted = (began.elapsed().as_secs_f64() + 1.0) * RATE as f64 + 8192.0;
    ensure!(sent as f64 <= permitted, "{sent} bytes were sent, {permitted} are permitted\n{}", world.logs());
    ensure!(sent > MESSAGES * LETTERS as u64 / 2, "{sent} bytes are too few to say anything");
    let policy = status.link.policy.context("no policy in the status")?;
    ensure!(policy.today_bytes >= sent, "{} were counted of {sent}", policy.today_bytes);
    ensure!(policy.today_bytes < sent + sent / 2, "{} were counted of {sent}", policy.today_bytes);
    ensure!(agent.stop().await?.0.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_holds_over_a_kill_and_the_rest_waits() -> anyhow::Result<()> {
    const BUDGET: u64 = 256 << 10;
    const MESSAGES: u64 = 500;
    let world = World::with_faults(Mqtt::EmbeddedV5, 32).await?;
    let today = || jiff::Timestamp::now().as_second() / 86_400;
    let day = today();
    let link = "max_per_day = \"256KiB\"";
    let first = agent(&world, link, &[PADS])?;
    subscribed(&world).await?;
    publish_great(&world, MESSAGES).await?;
    let spent = |s: &GatewayStatus| waits_for(s, "max_per_day") && s.segments.undelivered > 0;
    let before = world.status_when("the budget is spent", spent).await?;
    ensure!(before.segments.delivered > 0, "nothing was sent\n{}", world.logs());
    let sent = bodies(&world)?;
    ensure!(sent <= BUDGET || today() != day, "{sent} bytes were sent of {BUDGET}");
    first.kill().await?;
    let again = agent(&world, link, &[PADS])?;
    let status = world.status_when("the budget is known to be spent", spent).await?;
    let sent = bodies(&world)?;
    ensure!(sent <= BUDGET || today() != day, "{sent} bytes were sent of {BUDGET}, by two lives");
    let count = |s: &GatewayStatus| s.link.policy.as_ref().map_or(0, |p| p.today_bytes);
    ensure!(count(&status) >= count(&before) || today() != day, "the second life counts anew");
    ensure!(again.stop().await?.0.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_stops_all_but_the_status_and_the_backlog_then_goes_in_the_order_that_is_asked_for()
-> anyhow::Result<()> {
    const EACH: u64 = 20;
    const PORTIONS: u64 = 4;
    let world = World::with_faults(Mqtt::EmbeddedV5, 33).await?;
    let paused = agent(&world, "paused = true", &[])?;
    subscribed(&world).await?;
    for portion in 1..=PORTIONS {
        let before = world.status_when("the agent answers", |_| true).await?.counters.readings.sealed;
        world.publish((portion - 1) * EACH + 1..=portion * EACH).await?;
        world.acknowledged(portion * EACH).await?;
        // A segment of its own for each portion.
        let is = |s: &GatewayStatus| {
            s.counters.readings.sealed > before && s.counters.readings.sealed == portion * EACH
        };
        world.status_when("the portion is sealed", is).await?;
    }
    let status = world.status_when("the status says that it is paused", |s| waits_for(s, "paused")).await?;
    ensure!(status.segments.delivered == 0 && status.segments.undelivered >= PORTIONS, "{status:#?}");
    ensure!(paused.stop().await?.0.success());
    let asked = world.faults()?.seen();
    ensure!(asked.iter().all(|s| s.asked.key.contains("/status/")), "more than the status: {asked:#?}");
    ensure!(!asked.is_empty(), "no status was written\n{}", world.logs());
    let last = status.segments.last_number;

    let _agent = agent(&world, "order = \"newest-first\"\nuploads = 1", &[])?;
    let _receiver = world.receiver()?;
    world.settled(PORTIONS * EACH).await?;
    let mut numbers = Vec::new();
    for seen in world.faults()?.seen() {
        let key = &seen.asked.key;
        let readings = key.contains("/segments/") && key.contains(".readings-");
        if readings && seen.asked.operation == Operation::PutObject {
            numbers.push(number(key)?);
        }
    }
    let waited: Vec<u64> = numbers.into_iter().filter(|n| *n <= last).collect();
    ensure!(waited.len() >= PORTIONS as usize, "{waited:?}");
    ensure!(waited.is_sorted_by(|a, b| a > b), "not the newest first: {waited:?}");
    Ok(())
}

/// The number in a segment's key.
fn number(key: &str) -> anyhow::Result<u64> {
    let name = key.rsplit('/').next().unwrap_or_default();
    let digits = name.split('-').next().unwrap_or_default();
    digits.parse().with_context(|| format!("no number in {key}"))
}
