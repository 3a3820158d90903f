//! A link of 16 kbit/s with round trips of two seconds: slow, but nothing collapses.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use tributary_contract::status::GatewayStatus;
use tributary_tests::faults::Operation;
use tributary_tests::narrow::{NarrowLink, Width};
use tributary_tests::world::publish::{padded, publish};
use tributary_tests::world::{Mqtt, World, until};

/// Messages, of which the second half comes while segments of the first are on their way.
const MESSAGES: u64 = 800;
const LETTERS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_16_kbit_with_round_trips_of_two_seconds_each_segment_is_sent_once() -> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 61).await?;
    let width = Width { rate: 2000.0, delay: Duration::from_secs(1), queue: Duration::from_secs(2) };
    let before: SocketAddr = world.faults()?.endpoint().trim_start_matches("http://").parse()?;
    let narrow = NarrowLink::start(before, width).await?;
    let (before, behind) = (before.to_string(), narrow.address().to_string());
    let changes = [
        ("row_tags = { n = \"n\" }", "row_tags = { n = \"n\", pad = \"pad\" }"),
        (before.as_str(), behind.as_str()),
        ("every = \"1s\"", "every = \"1h\""),
        ("max_age = \"1s\"", "max_age = \"2s\""),
    ];
    let config = world.vary("agent.toml", "narrow.toml", &changes)?;
    let agent = world.run("agent", &world.programs.agent, &config)?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let some = |numbers: std::ops::RangeInclusive<u64>| numbers.map(|number| padded(number, LETTERS));
    publish(world.broker.for_publishers(), some(1..=MESSAGES / 2)).await?;
    until("a segment is on its way", async || {
        let began = world.faults()?.count(Operation::PutObject, "/segments/");
        Ok((began > 0).then_some(()))
    })
    .await?;
    publish(world.broker.for_publishers(), some(MESSAGES / 2 + 1..=MESSAGES)).await?;
    world.acknowledged(MESSAGES).await?;
    let delivered = |s: &GatewayStatus| {
        s.counters.readings.waiting() == 0 && s.segments.undelivered == 0 && s.segments.delivered > 0
    };
    world.status_when("everything is delivered", delivered).await?;
    let faults = world.faults()?;
    let segments: Vec<String> =
        world.keys("segments/").await?.into_iter().filter(|key| key.ends_with(".parquet")).collect();
    ensure!(!segments.is_empty(), "nothing arrived\n{}", world.logs());
    for key in &segments {
        let sent = faults.count(Operation::PutObject, key);
        ensure!(sent == 1, "{key} was sent {sent} times\n{}", world.logs());
    }
    let bytes: u64 = faults.seen().iter().map(|seen| seen.received).sum();
    ensure!(bytes > 8000, "{bytes} bytes are too few to say anything");
    ensure!(agent.stop().await?.0.success());
    Ok(())
}
