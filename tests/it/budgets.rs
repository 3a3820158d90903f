//! A small file system that is really full, filled by a stranger and by ourselves: the agent stays up, says so, and goes on.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tributary_contract::status::{GatewayStatus, Health};
use tributary_tests::world::{Mqtt, World, ask, publish, until};

/// A file system in memory of a given size; taken away when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it; says so where that isn't permitted, and gives none.
    fn mount(at: &Path, mebibytes: u64) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o"]).arg(format!("size={mebibytes}m")).arg("tmpfs").arg(at);
        let said = mount.output();
        if said.as_ref().is_ok_and(|said| said.status.success()) {
            return Ok(Some(Self(at.to_owned())));
        }
        let why = said.map_or_else(|e| e.to_string(), |s| String::from_utf8_lossy(&s.stderr).into_owned());
        eprintln!("NOT RUN: a file system can't be mounted here, so none could be filled: {}", why.trim());
        Ok(None)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Writes a file until not a byte is left.
fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![7_u8; 64 << 10];
    let mut size = piece.len();
    while size > 0 {
        match file.write(&piece[..size]) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::StorageFull => size /= 2,
            Err(e) => return Err(e).context("can't fill the disk"),
        }
    }
    Ok(())
}

/// An agent whose buffer lies in a folder of `disk`.
fn on_disk(world: &World, more: &str) -> anyhow::Result<()> {
    let (own, small) = (world.path("agent").display().to_string(), world.path("disk/agent"));
    let (own, small) = (format!("state_dir = \"{own}\""), format!("state_dir = \"{}\"", small.display()));
    let buffer = format!("[buffer]\nmin_free = \"0B\"\n{more}");
    world.vary("agent.toml", "agent.toml", &[(&own, &small), ("[buffer]\n", &buffer)])?;
    Ok(())
}

fn rests(status: &GatewayStatus) -> bool {
    status.health == Health::Losing && status.reasons.iter().any(|r| r.contains("nothing is taken in"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_fills_the_disk_costs_time_only_and_nothing_is_acknowledged_meanwhile()
-> anyhow::Result<()> {
    const FIRST: u64 = 200;
    const ALL: u64 = 900;
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let Some(_disk) = Disk::mount(&world.path("disk"), 48)? else { return Ok(()) };
    on_disk(&world, "")?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=FIRST).await?;
    world.settled(FIRST).await?;

    let stranger = world.path("disk/stranger");
    fill(&stranger)?;
    world.status_when("the agent says that the disk is full", rests).await?;
    world.publish(FIRST + 1..=ALL).await?;
    // Two more looks at itself: it is up, and still says so.
    for _ in 0..2 {
        let at = world.status_when("the agent answers", |_| true).await?.at;
        world.status_when("the agent looks again", |s| s.at > at && rests(s)).await?;
    }
    ensure!(world.proxy.acknowledged() == FIRST, "{} were acknowledged", world.proxy.acknowledged());
    let health = ask::text(world.status_address(), "/health").await.unwrap_or_default();
    ensure!(health.starts_with("losing\n") && health.contains("nothing is taken in"), "{health}");

    fs::remove_file(&stranger)?;
    world.acknowledged(ALL).await?;
    let status = world.settled(ALL).await?.status;
    ensure!(status.counters.readings.shed + status.counters.readings.summarised == 0, "{status:#?}");
    let (ended, _) = agent.stop().await?;
    ensure!(ended.success(), "{ended}\n{}", world.logs());
    Ok(())
}

/// A message that no compression makes small.
fn great(number: u64) -> publish::Message {
    let (topic, payload) = publish::message(number);
    let mut random = fastrand::Rng::with_seed(number);
    let pad: String = (0..110).map(|_| format!("{:016x}", random.u64(..))).collect();
    let mut text = String::from_utf8_lossy(&payload).into_owned();
    text.truncate(text.len().saturating_sub(1));
    (topic, format!("{text},\"pad\":\"{pad}\"}}").into_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_we_fill_ourselves_without_a_bucket_ends_in_rows_and_gaps_for_all_that_was_acknowledged()
-> anyhow::Result<()> {
    const ALL: u64 = 24_000;
    let mut world = World::without_bucket(Mqtt::EmbeddedV5).await?;
    let Some(_disk) = Disk::mount(&world.path("disk"), 28)? else { return Ok(()) };
    // More than the disk has: the budget never helps.
    on_disk(&world, "max_bytes = \"1GiB\"\nballast = \"4MiB\"\n")?;
    world.vary("agent.toml", "agent.toml", &[("{ n = \"n\" }", "{ n = \"n\", pad = \"pad\" }")])?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    publish::publish(world.broker.for_publishers(), (1..=ALL).map(great)).await?;
    world.acknowledged(ALL).await?;
    let thinned = |s: &GatewayStatus| s.counters.readings.summarised + s.counters.readings.shed > 0;
    world.status_when("readings had to go", thinned).await?;

    world.start_bucket().await?;
    let drained = |s: &GatewayStatus| {
        let (readings, segments) = (&s.counters.readings, &s.segments);
        readings.waiting() + readings.outstanding() + segments.undelivered + segments.unregistered == 0
    };
    let status = world.status_when("nothing is outstanding", drained).await?;
    let readings = status.counters.readings;
    status.counters.check()?;
    let given_up = readings.summarised + readings.shed;
    ensure!(readings.registered + given_up == ALL, "{readings:#?}\n{}", world.logs());
    let tables = world.tables();
    let mut seen = None;
    until("gaps and rows are what was acknowledged", async || {
        let Some(gaps) = tables.load("gaps").await? else { return Ok(None) };
        let (tally, gaps) = (world.tally().await?, tables.missing(&gaps).await?);
        seen = Some((tally.rows, tally.numbers.len(), gaps));
        Ok((tally.rows + gaps == ALL && tally.numbers.len() == tally.rows && gaps == given_up).then_some(()))
    })
    .await
    .with_context(|| format!("{seen:?} of {ALL}, {given_up} given up\n{}", world.logs()))?;
    let (ended, _) = agent.stop().await?;
    ensure!(ended.success(), "{ended}\n{}", world.logs());
    Ok(())
}
