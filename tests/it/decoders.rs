//! The commands that show what payloads become, and what arrives.

use std::process::{Output, Stdio};

use anyhow::{Context, ensure};
use tokio::io::AsyncWriteExt;
use tributary_tests::world::process::command;
use tributary_tests::world::{Mqtt, Saves, World};

async fn decode(world: &World, arguments: &[&str], input: &[u8]) -> anyhow::Result<Output> {
    let config = world.path("agent.toml").display().to_string();
    let mut program = tokio::process::Command::new(&world.programs.agent);
    program.args(["decode", "--config", &config]).args(arguments);
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(input).await?;
    drop(stdin);
    Ok(child.wait_with_output().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decode_shows_a_payload_as_rows_and_a_reject_with_its_reason() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let topic = ["--source", "plant", "--topic", "sensors/d1/temp"];
    let good = decode(&world, &topic, br#"{"ts":"2024-05-01T08:00:00Z","value":21.5,"n":7}"#).await?;
    let row: serde_json::Value = serde_json::from_slice(&good.stdout)?;
    ensure!(good.status.code() == Some(0) && good.stderr.is_empty(), "{good:?}");
    ensure!(row["ts"] == "2024-05-01T08:00:00Z" && row["device"] == "d1" && row["metric"] == "temp", "{row}");
    ensure!(row["value"] == 21.5 && row["tags"]["n"] == "7" && row["source"] == "plant", "{row}");
    let bad = decode(&world, &topic, b"{").await?;
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    ensure!(bad.status.code() == Some(1) && bad.stdout.is_empty(), "{bad:?}");
    ensure!(said.contains("rejected, malformed"), "{said}");
    let session = br#"{"topic":"sensors/d/t","payload":"{\"ts\":1,\"value\":2}"}
{"topic":"x","payload":""}
"#;
    let played = decode(&world, &["--session"], session).await?;
    let said = String::from_utf8_lossy(&played.stdout).into_owned();
    ensure!(played.status.code() == Some(0) && said.lines().count() == 2, "{played:?}");
    ensure!(said.contains("\"unmatched\":true"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tries_the_samples_of_the_configuration() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let sample = "[[source.sample]]\ntopic = \"sensors/d/t\"\npayload = '{\"ts\":1,\"value\":2}'\n\
                  expect = [{ device = \"d\", value = 3 }]\n\n[buffer]\n";
    let config = world.vary("agent.toml", "sampled.toml", &[("[buffer]\n", sample)])?.display().to_string();
    let run = command(&world.programs.agent, &["check", "--config", &config]).await?;
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    ensure!(run.status.code() == Some(1), "{run:?}");
    ensure!(said.contains("sample 1 (sensors/d/t): expected device d, value 3, got d t = 2"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_names_what_arrives_and_which_source_takes_it() -> anyhow::Result<()> {
    let world = World::start(Mqtt::MosquittoV4(Saves::AtStop)).await?;
    let config = world.path("agent.toml").display().to_string();
    let listen = ["topics", "--config", &config, "--seconds", "3", "--json"];
    let listening = command(&world.programs.agent, &listen);
    tokio::pin!(listening);
    let mut number = 0;
    let heard = loop {
        number += 1;
        tokio::select! {
            heard = &mut listening => break heard?,
            sent = world.publish(number..=number) => sent?,
        }
    };
    let said = String::from_utf8_lossy(&heard.stdout).into_owned();
    ensure!(heard.status.code() == Some(0), "{heard:?}");
    let row: serde_json::Value = serde_json::from_str(said.lines().next().context("nothing was heard")?)?;
    ensure!(row["source"] == "plant" && row["messages"].as_u64() > Some(0), "{row}");
    ensure!(row["readings"] == row["messages"], "{row}");
    Ok(())
}
