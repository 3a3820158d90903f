//! Ledger and tables that came apart: the receiver stops with a sentence, the command it names makes rows whole again.

use std::fs;

use anyhow::{Context, ensure};
use aws_sdk_s3::primitives::ByteStream;
use rusqlite::Connection;
use serde_json::{Value, json};
use tributary_tests::world::process::command;
use tributary_tests::world::{BUCKET, Mqtt, World, until};

const READINGS: &str = "tributary.readings";

/// Runs `tributary-receiver ledger WORDS --json` and returns what it prints.
async fn ledger(world: &World, words: &[&str]) -> anyhow::Result<Value> {
    let config = world.path("receiver.toml").display().to_string();
    let arguments = [&["ledger"], words, &["--json", "--config", &config]].concat();
    let done = command(&world.programs.receiver, &arguments).await?;
    ensure!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// Runs `tributary-receiver audit` and returns the kinds of what it found.
async fn audit(world: &World) -> anyhow::Result<Vec<String>> {
    let config = world.path("receiver.toml").display().to_string();
    let done = command(&world.programs.receiver, &["audit", "--json", "--config", &config]).await?;
    let verdict: Value = serde_json::from_slice(&done.stdout)
        .with_context(|| String::from_utf8_lossy(&done.stderr).into_owned())?;
    let findings = verdict["findings"].as_array().context("no findings")?;
    ensure!(done.status.success() == findings.is_empty(), "{}: {verdict:#}", done.status);
    Ok(findings.iter().filter_map(|f| f["kind"].as_str().map(str::to_owned)).collect())
}

/// Waits until the running receiver says that the readings stand still, and returns the sentence.
async fn stopped(world: &World) -> anyhow::Result<String> {
    let sentence = |fleet: &Value| {
        let tables = fleet["tables"].as_array()?;
        let readings = tables.iter().find(|table| table["table"] == READINGS)?;
        readings["stopped"].as_str().map(str::to_owned)
    };
    let fleet = world.fleet_when("the table stands still", "/api/fleet", |f| sentence(f).is_some()).await?;
    sentence(&fleet).context("no sentence")
}

fn catalog(world: &World) -> anyhow::Result<Connection> {
    let catalog = Connection::open(world.path("catalog.db"))?;
    catalog.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(catalog)
}

/// Metadata of the readings, as JSON, with its key in the bucket.
async fn metadata(world: &World) -> anyhow::Result<(String, Value)> {
    let location = world.tables().location("readings")?.context("no table")?;
    let key = location.strip_prefix(&format!("s3://{BUCKET}/")).context(location.clone())?.to_owned();
    let object = world.bucket().get_object().bucket(BUCKET).key(&key).send().await?;
    let bytes = object.body.collect().await?.into_bytes();
    Ok((key, serde_json::from_slice(&bytes)?))
}

async fn head(world: &World) -> anyhow::Result<i64> {
    let (_, metadata) = metadata(world).await?;
    metadata["current-snapshot-id"].as_i64().context("no snapshot")
}

/// Moves `main` of the readings back to `snapshot`, as an engine's `rollback_to_snapshot` does.
async fn roll_back(world: &World, snapshot: i64) -> anyhow::Result<()> {
    let (key, mut metadata) = metadata(world).await?;
    metadata["current-snapshot-id"] = json!(snapshot);
    metadata["refs"]["main"]["snapshot-id"] = json!(snapshot);
    let at = metadata["last-updated-ms"].clone();
    if let Some(log) = metadata["snapshot-log"].as_array_mut() {
        log.push(json!({ "snapshot-id": snapshot, "timestamp-ms": at }));
    }
    let new = key.replace("/metadata/", "/metadata/9");
    let body = ByteStream::from(serde_json::to_vec(&metadata)?);
    world.bucket().put_object().bucket(BUCKET).key(&new).body(body).send().await?;
    let moved = catalog(world)?.execute(
        "UPDATE iceberg_tables SET metadata_location = ?1 WHERE table_name = 'readings' AND metadata_location = ?2",
        [format!("s3://{BUCKET}/{new}"), format!("s3://{BUCKET}/{key}")],
    )?;
    ensure!(moved == 1, "the receiver committed meanwhile");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_ledger_stops_the_receiver_until_it_is_rebuilt_and_each_row_is_there_once()
-> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let receiver = world.receiver()?;
    world.publish(1..=200).await?;
    world.settled(200).await?;
    receiver.stop().await?;
    fs::remove_dir_all(world.path("receiver"))?;
    world.publish(201..=300).await?;
    world.acknowledged(300).await?;
    let receiver = world.receiver()?;
    let sentence = stopped(&world).await?;
    ensure!(sentence.contains("belongs to ledger") && sentence.contains("`ledger rebuild`"), "{sentence}");
    let refused = ledger(&world, &["rebuild"]).await.unwrap_err().to_string();
    ensure!(refused.contains("in use by another receiver: stop that one"), "{refused}");
    receiver.stop().await?;
    let foreseen = ledger(&world, &["rebuild", "--dry-run"]).await?;
    let done = ledger(&world, &["rebuild"]).await?;
    ensure!(done["tables"].as_array().map(Vec::len) >= Some(2), "{done:#}");
    ensure!(foreseen["ledger"].is_null() && done["ledger"].is_string(), "{foreseen:#}\n{done:#}");
    let _receiver = world.receiver()?;
    world.settled(300).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_dropped_gets_everything_again_by_reregister() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let receiver = world.receiver()?;
    world.publish(1..=200).await?;
    world.settled(200).await?;
    catalog(&world)?.execute("DELETE FROM iceberg_tables WHERE table_name = 'readings'", [])?;
    world.publish(201..=300).await?;
    world.acknowledged(300).await?;
    let sentence = stopped(&world).await?;
    ensure!(sentence.contains("`ledger reregister tributary.readings`"), "{sentence}");
    receiver.stop().await?;
    let done = ledger(&world, &["reregister", READINGS]).await?;
    ensure!(done["tables"][0]["gone"] == json!([]), "{done:#}");
    let _receiver = world.receiver()?;
    world.settled(300).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_is_taken_back_by_reregister_or_kept_with_a_gap_by_accept_rollback() -> anyhow::Result<()>
{
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let _agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let receiver = world.receiver()?;
    world.publish(1..=100).await?;
    world.settled(100).await?;
    let hundred = head(&world).await?;
    let found = audit(&world).await?;
    ensure!(found.is_empty(), "everything is as it should be: {found:?}");
    world.publish(101..=200).await?;
    world.settled(200).await?;
    roll_back(&world, hundred).await?;
    world.publish(201..=300).await?;
    world.acknowledged(300).await?;
    let sentence = stopped(&world).await?;
    ensure!(sentence.contains("rolled back") && sentence.contains("`ledger reregister"), "{sentence}");
    receiver.stop().await?;
    let found = audit(&world).await?;
    ensure!(found.iter().any(|kind| kind == "removed"), "what a receipt granted is gone: {found:?}");
    let done = ledger(&world, &["reregister", READINGS]).await?;
    ensure!(done["tables"][0]["again"].as_array().is_some_and(|a| !a.is_empty()), "{done:#}");
    let receiver = world.receiver()?;
    world.settled(300).await?;

    let three_hundred = head(&world).await?;
    world.publish(301..=350).await?;
    world.settled(350).await?;
    roll_back(&world, three_hundred).await?;
    world.publish(351..=400).await?;
    world.acknowledged(400).await?;
    let sentence = stopped(&world).await?;
    ensure!(sentence.contains("`ledger accept-rollback tributary.readings`"), "{sentence}");
    receiver.stop().await?;
    ledger(&world, &["accept-rollback", READINGS]).await?;
    let _receiver = world.receiver()?;
    let tables = world.tables();
    until("what waited is in the table, and the gap too", async || {
        let tally = world.tally().await?;
        let kept = tally.rows == 350 && tally.numbers.missing(1, 300) + tally.numbers.missing(351, 400) == 0;
        let gaps = tables.load("gaps").await?.map_or(0, |state| state.rows());
        Ok((kept && gaps > 0).then_some(()))
    })
    .await
    .with_context(|| world.logs())?;
    world
        .status_when("the gateway has let go of everything", |s| {
            s.counters.readings.outstanding() == 0 && s.segments.unregistered == 0
        })
        .await?;
    let found = audit(&world).await?;
    ensure!(found.is_empty(), "what was left out is accounted for: {found:?}");
    Ok(())
}
