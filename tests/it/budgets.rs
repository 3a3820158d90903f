//! A small file system that is really full, filled by a stranger and by ourselves: the agent stays up, says so, and goes on.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use tributary_contract::status::{GatewayStatus, Health};
use tributary_tests::world::process::command;
use tributary_tests::world::{Mqtt, World, ask, publish, until};

/// A small file system of its own: ext4 in a file, where there are loop devices, else in memory; taken away when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it at `disk` in the world's folder.
    #[expect(clippy::print_stderr, reason = "which of the two it was is of interest where the test fails")]
    fn mount(world: &World, mebibytes: u64) -> anyhow::Result<Self> {
        let at = world.path("disk");
        fs::create_dir_all(&at)?;
        if let Err(why) = Self::loopback(&world.path("disk.ext4"), &at, mebibytes) {
            eprintln!("the disk is one in memory, because a loop device can't be had: {why:#}");
            let size = format!("size={mebibytes}m");
            done(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at))?;
        }
        Ok(Self(at))
    }

    fn loopback(image: &Path, at: &Path, mebibytes: u64) -> anyhow::Result<()> {
        File::create(image)?.set_len(mebibytes << 20)?;
        done(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-O", "^has_journal"]).arg(image))?;
        done(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))
    }
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let said = command.output().with_context(|| format!("{:?} is missing", command.get_program()))?;
    ensure!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr).trim());
    Ok(())
}

/// Set where a test runs once more, in namespaces of its own.
const INSIDE: &str = "TRIBUTARY_TEST_MAY_MOUNT";

/// Whether the test `name` has just run in namespaces of its own, because only there it may mount a file system.
fn ran_inside(name: &str) -> anyhow::Result<bool> {
    let root = fs::read_to_string("/proc/self/status")?
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        // CAP_SYS_ADMIN
        .is_some_and(|bits| bits & 1 << 21 != 0);
    if root || std::env::var_os(INSIDE).is_some() {
        return Ok(false);
    }
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--mount"]).arg(std::env::current_exe()?).env(INSIDE, "1");
    again.args(["--exact", &format!("budgets::{name}"), "--nocapture", "--test-threads=1"]);
    let said = again.output().context("`unshare`, of util-linux, is missing")?;
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    ensure!(
        said.status.success() && text.contains("1 passed"),
        "a small file system can't be filled here: run the tests as root, or permit user namespaces \
         (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns = 0)\n{text}"
    );
    Ok(true)
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
    if ran_inside("a_stranger_who_fills_the_disk_costs_time_only_and_nothing_is_acknowledged_meanwhile")? {
        return Ok(());
    }
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _disk = Disk::mount(&world, 48)?;
    // Without any: its room would be enough for all of this.
    on_disk(&world, "ballast = \"0B\"\n")?;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_the_disk_has_no_room_for_costs_the_ballast_and_no_message() -> anyhow::Result<()> {
    const EACH: u64 = 3000;
    if ran_inside("a_commit_that_the_disk_has_no_room_for_costs_the_ballast_and_no_message")? {
        return Ok(());
    }
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _disk = Disk::mount(&world, 48)?;
    on_disk(&world, "")?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let (stranger, ballast) = (world.path("disk/stranger"), world.path("disk/agent/ballast"));
    let gone = |s: &GatewayStatus| s.reasons.iter().any(|r| r.contains("the ballast was given up"));
    // Where intake rests before a commit finds the disk full, once more.
    for all in (1..=8).map(|round| round * EACH) {
        let publisher = world.broker.for_publishers();
        let numbers = (all - EACH + 1..=all).map(publish::message);
        let publishing = tokio::spawn(publish::publish(publisher, numbers));
        world.acknowledged(all - EACH + 100).await?;
        fill(&stranger)?;
        let status = world.status_when("the agent sees a full disk", |s| gone(s) || rests(s)).await?;
        ensure!(status.health != Health::Ok, "{status:#?}");
        fs::remove_file(&stranger)?;
        world.acknowledged(all).await?;
        publishing.await??;
        if gone(&status) {
            world.status_when("the ballast is taken back", |s| !gone(s) && !rests(s)).await?;
            ensure!(fs::metadata(&ballast)?.len() == 8 << 20);
            let status = world.settled(all).await?.status;
            ensure!(status.counters.readings.shed + status.counters.readings.summarised == 0, "{status:#?}");
            let (ended, _) = agent.stop().await?;
            ensure!(ended.success(), "{ended}\n{}", world.logs());
            return Ok(());
        }
    }
    bail!("no commit ever found the disk full\n{}", world.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_we_fill_ourselves_without_a_bucket_ends_in_rows_and_gaps_for_all_that_was_acknowledged()
-> anyhow::Result<()> {
    const FLOOD: u64 = 9_500;
    const ALL: u64 = FLOOD + 500;
    if ran_inside(
        "a_disk_that_we_fill_ourselves_without_a_bucket_ends_in_rows_and_gaps_for_all_that_was_acknowledged",
    )? {
        return Ok(());
    }
    let mut world = World::without_bucket(Mqtt::EmbeddedV5).await?;
    let _disk = Disk::mount(&world, 20)?;
    // More than the disk has: the budget never helps.
    on_disk(&world, "max_bytes = \"1GiB\"\nballast = \"4MiB\"\n")?;
    world.vary("agent.toml", "agent.toml", &[("{ n = \"n\" }", "{ n = \"n\", pad = \"pad\" }")])?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let flood = |numbers: std::ops::RangeInclusive<u64>| {
        publish::publish(world.broker.for_publishers(), numbers.map(|number| publish::padded(number, 1760)))
    };
    flood(1..=FLOOD).await?;
    world.acknowledged(FLOOD).await?;
    let thinned = |s: &GatewayStatus| s.counters.readings.summarised + s.counters.readings.shed > 0;
    let status = world.status_when("readings had to go", thinned).await?;
    ensure!(status.health != Health::Ok && status.reasons.iter().any(|r| r.contains("full")), "{status:#?}");
    ensure!(status.counters.readings.registered == 0, "{status:#?}");
    flood(FLOOD + 1..=ALL).await?;

    world.start_bucket().await?;
    world.acknowledged(ALL).await?;
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
    // The receiver sees the same, and derives both laws from the lake alone.
    let shows = |fleet: &serde_json::Value| fleet["gateways"][0]["lost"] == readings.shed;
    world.fleet_when("the fleet shows what was shed", "/api/fleet", shows).await?;
    let config = world.path("receiver.toml").display().to_string();
    let mut found = String::new();
    until("the audit finds nothing", async || {
        let done = command(&world.programs.receiver, &["audit", "--config", &config]).await?;
        found = String::from_utf8_lossy(&done.stdout).into_owned();
        Ok(done.status.success().then_some(()))
    })
    .await
    .with_context(|| found)?;
    let (ended, _) = agent.stop().await?;
    ensure!(ended.success(), "{ended}\n{}", world.logs());
    Ok(())
}
