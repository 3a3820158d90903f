//! Payloads nobody can decode, and objects that no gateway made.

use anyhow::{Context, ensure};
use tributary_tests::world::process::command;
use tributary_tests::world::publish::publish;
use tributary_tests::world::{BUCKET, GATEWAY, Mqtt, PREFIX, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecodable_payload_is_acknowledged_and_becomes_a_reject() -> anyhow::Result<()> {
    const MESSAGES: u64 = 100;
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let rubbish: [&[u8]; 3] =
        [b"{\"ts\":", b"\xff\xfe\x00", b"{\"ts\":\"2026-03-01T00:00:00Z\",\"value\":1} x"];
    let rubbish = rubbish.map(|payload| ("sensors/device-1/temperature".to_owned(), payload.to_vec()));
    publish(world.broker.for_publishers(), rubbish.into_iter()).await?;
    world.publish(1..=MESSAGES).await?;
    world.acknowledged(MESSAGES).await?;
    let mut changes = world.proxy.changes();
    changes.wait_for(|counts| counts.answered == MESSAGES + 3).await?;
    let settled = world.settled(MESSAGES).await?;
    let messages = settled.status.counters.messages;
    ensure!(messages.rejected == 3 && messages.accepted == MESSAGES, "{messages:?}");
    ensure!(messages.received == MESSAGES + 3, "{messages:?}");
    tributary_tests::world::until("the rejects are in their table", async || {
        Ok((world.rejects().await? == 3).then_some(()))
    })
    .await
    .with_context(|| world.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_object_is_quarantined_with_its_reason_and_the_rest_is_registered() -> anyhow::Result<()> {
    const MESSAGES: u64 = 200;
    let world = World::start(Mqtt::EmbeddedV5).await?;
    // An epoch that this gateway never had: what a stranger with its credentials would write.
    let epoch = "00000000deadbeef";
    let broken =
        format!("{PREFIX}/segments/{GATEWAY}/{epoch}/0000000001-tributary.readings-2026-03-01.parquet");
    let stray = format!("{PREFIX}/segments/{GATEWAY}/notes.txt");
    for (key, body) in [(&broken, &b"PAR1 this is no Parquet PAR1"[..]), (&stray, &b"a note"[..])] {
        let put = world.bucket().put_object().bucket(BUCKET).key(key);
        put.body(body.to_vec().into()).send().await?;
    }
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=MESSAGES).await?;
    world.acknowledged(MESSAGES).await?;
    world.settled(MESSAGES).await?;

    let config = world.path("receiver.toml").display().to_string();
    let listed = command(&world.programs.receiver, &["fleet", "list", "--json", "--config", &config]).await?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let fleet: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    let gateway = &fleet["gateways"][0];
    ensure!(gateway["gateway"] == GATEWAY && gateway["quarantined"] == 1, "{fleet:#}");
    let epochs = gateway["epochs"].as_array().context("no epochs")?;
    let named = epochs.iter().find(|known| known["epoch"] == epoch).context("the epoch isn't shown")?;
    let (number, code) = (&named["quarantined"][0][0], &named["quarantined"][0][1]);
    ensure!(number == 1 && code.as_str().is_some_and(|code| !code.is_empty()), "{fleet:#}");
    ensure!(fleet["strays"] == 1, "{fleet:#}");
    let beside = world.keys("quarantine/").await?;
    ensure!(beside.iter().any(|key| key.ends_with(".parquet")), "{beside:?}");
    ensure!(beside.iter().any(|key| key.ends_with(".parquet.reason.json")), "{beside:?}");
    ensure!(world.keys("segments/").await?.contains(&broken), "what lies in the bucket is never deleted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_holds_the_name_of_a_segment_costs_an_epoch_and_no_reading() -> anyhow::Result<()> {
    const BEFORE: u64 = 100;
    const AFTER: u64 = 250;
    let mut world = World::start(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    let receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=BEFORE).await?;
    let first = world.settled(BEFORE).await?.status;
    receiver.stop().await?;
    world.stop_bucket().await;
    world.publish(BEFORE + 1..=AFTER).await?;
    world.acknowledged(AFTER).await?;
    world.status_when("everything is sealed", |s| s.counters.readings.sealed == AFTER).await?;
    let log = std::fs::read_to_string(world.path("agent.log"))?;
    let mut sealed = log.lines().filter(|line| line.contains("sealed segment=")).filter_map(|line| {
        line.split("segment=").nth(1)?.split(' ').next().filter(|name| name.contains("tributary.readings"))
    });
    let name = sealed.next_back().context("no segment of readings was sealed")?;
    let key = format!("{PREFIX}/segments/{GATEWAY}/{}/{name}", first.epoch);
    world.put_aside(&key, b"not what was sealed under this name").await?;
    world.start_bucket().await?;
    let epoch = first.epoch;
    let moved = world.status_when("a new epoch has begun", |s| s.epoch != epoch).await?;
    ensure!(moved.buffer.ordinal == 1, "{moved:#?}");
    let _receiver = world.receiver()?;
    world.settled(AFTER).await?;
    let said = world
        .status_when("the agent's status says so", |s| {
            s.segments.superseded == 1 && s.reasons.iter().any(|why| why.contains("another object holds"))
        })
        .await?;
    ensure!(said.epoch == moved.epoch && said.counters.readings.superseded == 0, "{said:#?}");

    // The fleet is told, too, in the gateway's own words, on the page and by the command.
    let told = |fleet: &serde_json::Value| {
        let gateway = &fleet["gateways"][0];
        let reasons = gateway["reasons"].as_array().into_iter().flatten();
        gateway["health"] != "healthy"
            && reasons.filter_map(|r| r.as_str()).any(|why| why.contains("another object holds the name"))
    };
    world.fleet_when("the fleet page tells of it", "/api/fleet", told).await?;
    let config = world.path("receiver.toml").display().to_string();
    let listed = command(&world.programs.receiver, &["fleet", "list", "--json", "--config", &config]).await?;
    let fleet: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    ensure!(told(&fleet), "{fleet:#}");
    Ok(())
}
