//! What the commands say, and with which exit code.

use std::time::Duration;

use anyhow::ensure;
use tributary_tests::world::process::command;
use tributary_tests::world::{Mqtt, World};

const WRONG_USAGE: Option<i32> = Some(64);
const WRONG_CONFIG: Option<i32> = Some(78);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_configuration_is_refused_with_all_its_problems_named() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let agent = [
        ("url = \"mqtt://", "url = \"amqp://"),
        ("decoder = \"json\"", "decoder = \"xml\""),
        ("commit_interval = \"20ms\"", "commit_interval = \"soon\"\nmax_bites = 1"),
    ];
    let agent = world.vary("agent.toml", "broken-agent.toml", &agent)?.display().to_string();
    let receiver = [
        ("kind = \"sql\"", "kind = \"paper\""),
        ("list_every = \"1s\"", "list_every = \"often\""),
        ("max_files = 200", "max_files = 200\nmax_fils = 1"),
    ];
    let receiver = world.vary("receiver.toml", "broken-receiver.toml", &receiver)?.display().to_string();
    let named = [
        (
            &world.programs.agent,
            &agent,
            ["broker[0].url", "decoder", "buffer.commit_interval", "buffer.max_bites"],
        ),
        (
            &world.programs.receiver,
            &receiver,
            ["catalog.kind", "paper", "arrivals.list_every", "register.max_fils"],
        ),
    ];
    for (program, config, words) in named {
        let run = command(program, &["run", "--config", config]).await?;
        let said = String::from_utf8_lossy(&run.stderr);
        ensure!(run.status.code() == WRONG_CONFIG && run.stdout.is_empty(), "{}: {said}", run.status);
        for word in words {
            ensure!(said.contains(word), "{word} isn't named: {said}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_command_and_a_missing_file_have_their_own_exit_codes() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let absent = world.path("absent.toml").display().to_string();
    for program in [&world.programs.agent, &world.programs.receiver] {
        for arguments in [&["fly"][..], &[][..], &["run", "--fast"][..]] {
            let ended = command(program, arguments).await?;
            ensure!(
                ended.status.code() == WRONG_USAGE && ended.stdout.is_empty(),
                "{arguments:?}: {ended:?}"
            );
        }
        let ended = command(program, &["run", "--config", &absent]).await?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(
            ended.status.code() == WRONG_CONFIG && said.contains("absent.toml"),
            "{}: {said}",
            ended.status
        );
        let ended = command(program, &["--version"]).await?;
        ensure!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    }
    let config = world.path("agent.toml").display().to_string();
    let status = command(&world.programs.agent, &["status", "--config", &config]).await?;
    ensure!(status.status.code() == Some(1) && !status.stderr.is_empty(), "nobody runs: {status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_programs_stop_cleanly_and_the_next_start_goes_on_in_the_same_epoch() -> anyhow::Result<()> {
    const BEFORE: u64 = 150;
    const AFTER: u64 = 250;
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let agent = world.agent()?;
    let receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=BEFORE).await?;
    world.acknowledged(BEFORE).await?;
    let first = world.settled(BEFORE).await?.status;
    world
        .status_when("the last acknowledgements are counted too", |status| {
            status.brokers.iter().any(|broker| broker.acknowledged >= BEFORE)
        })
        .await?;

    let config = world.path("agent.toml").display().to_string();
    let status = command(&world.programs.agent, &["status", "--config", &config]).await?;
    let said = String::from_utf8(status.stdout)?;
    ensure!(status.status.success() && status.stderr.is_empty(), "{}", status.status);
    ensure!(
        said.contains(&format!("{BEFORE} received = {BEFORE} accepted + 0 rejected + 0 redelivered")),
        "{said}"
    );
    ensure!(
        said.contains(&format!("{BEFORE} journaled, 0 waiting, {BEFORE} sealed, {BEFORE} registered")),
        "{said}"
    );

    for program in [agent, receiver] {
        let (status, took) = program.stop().await?;
        ensure!(status.code() == Some(0), "{status}\n{}", world.logs());
        ensure!(took < Duration::from_secs(10), "took {took:?}\n{}", world.logs());
    }

    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.publish(BEFORE + 1..=AFTER).await?;
    world.acknowledged(AFTER).await?;
    let second = world.settled(AFTER).await?.status;
    ensure!(second.epoch == first.epoch && second.buffer.ordinal == 0, "{:?}", second.reasons);
    let log = std::fs::read_to_string(world.path("agent.log"))?;
    ensure!(log.contains("buffer opened") && !log.contains("wasn't clean"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_without_an_end_is_refused_instead_of_filling_the_memory() -> anyhow::Result<()> {
    let programs = tributary_tests::world::programs().await?;
    for program in [&programs.agent, &programs.receiver] {
        for endless in ["/dev/zero", "/dev/urandom"] {
            let output = command(program, &["run", "--config", endless]).await?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(78), "{}: {said}", output.status);
            ensure!(said.contains(endless) && said.contains("can't be read"), "{said}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_gives_its_allocator_the_settings_that_keep_it_small_unless_it_has_others()
-> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let heaps = |environ: &str| -> Vec<String> {
        environ.split('\0').filter(|pair| pair.starts_with("MALLOC_")).map(str::to_owned).collect()
    };
    let mut seen = Vec::new();
    for own in [&[][..], &[("MALLOC_ARENA_MAX", "3")], &[("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")]] {
        let agent = world.agent_with(own)?;
        world.status_when("the agent runs", |_| true).await?;
        let of = |file: &str| {
            std::fs::read_to_string(format!("/proc/{}/{file}", agent.id()?)).map_err(anyhow::Error::from)
        };
        ensure!(of("comm")?.trim() == "tributary-agent" && of("cmdline")?.contains("\0run\0--config\0"));
        seen.push(heaps(&of("environ")?));
        agent.stop().await?;
    }
    let small = ["MALLOC_MMAP_THRESHOLD_=131072", "MALLOC_TRIM_THRESHOLD_=131072"];
    let with = |arenas: &str| -> Vec<String> {
        let mut all: Vec<String> = small.iter().map(ToString::to_string).collect();
        all.insert(0, format!("MALLOC_ARENA_MAX={arenas}"));
        all
    };
    seen.iter_mut().for_each(|heaps| heaps.sort());
    ensure!(seen == [with("1"), with("3"), Vec::new()], "{seen:?}");
    Ok(())
}
