//! The agent's tools for looking into its buffer, while it runs and while it doesn't: the same answers both ways.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, ensure};
use arrow::array::{Array as _, Float64Array, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value as Json;
use tributary_tests::world::process::command;
use tributary_tests::world::publish::publish;
use tributary_tests::world::{Mqtt, Process, Saves, World, until};

const MESSAGES: u64 = 300;

/// A command of the agent on the world's configuration.
async fn tool(world: &World, arguments: &[&str]) -> anyhow::Result<Output> {
    tool_with(world, "agent.toml", arguments).await
}

async fn tool_with(world: &World, config: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let config = world.path(config).display().to_string();
    command(&world.programs.agent, &[arguments, &["--config", &config]].concat()).await
}

/// What a command that must do well printed.
async fn said(world: &World, arguments: &[&str]) -> anyhow::Result<String> {
    let ended = tool(world, arguments).await?;
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success(), "{arguments:?}: {}: {errors}\n{}", ended.status, world.logs());
    Ok(String::from_utf8(ended.stdout)?)
}

fn json(text: &str) -> anyhow::Result<Json> {
    serde_json::from_str(text).with_context(|| text.to_owned())
}

/// The numbers in the tags `n` of JSON lines.
fn numbers(lines: &str) -> anyhow::Result<Vec<u64>> {
    let number = |line: &str| -> anyhow::Result<u64> {
        Ok(json(line)?["tags"]["n"].as_str().context("no n")?.parse()?)
    };
    lines.lines().map(number).collect()
}

/// What each tool says of `MESSAGES` messages whose journal is whole.
async fn look(world: &World, runs: bool) -> anyhow::Result<()> {
    let sum = said(world, &["buffer", "verify"]).await?;
    ensure!(
        sum.contains(&format!("with {MESSAGES} readings")) && sum.contains("all as it should be"),
        "{sum}"
    );

    let stats = json(&said(world, &["buffer", "stats", "--json"]).await?)?;
    ensure!(stats["agent_runs"] == runs && stats["gateway"] == "gw-1", "{stats:#}");
    let plant = &stats["sources"][0];
    ensure!(plant["source"] == "plant" && plant["readings"] == MESSAGES, "{stats:#}");
    ensure!(stats["devices"].as_array().context("devices")?.len() == 5, "{stats:#}");
    let one = json(&said(world, &["buffer", "stats", "--json", "--device", "device-1"]).await?)?;
    ensure!(one["sources"][0]["readings"] == MESSAGES / 5, "{one:#}");
    let table = said(world, &["buffer", "stats"]).await?;
    ensure!(table.contains("device-4") && table.contains("database"), "{table}");

    let lines = said(world, &["buffer", "export", "--format", "jsonl"]).await?;
    let exported: BTreeSet<u64> = numbers(&lines)?.into_iter().collect();
    ensure!(exported == (1..=MESSAGES).collect() && lines.lines().count() as u64 == MESSAGES, "{exported:?}");
    // Messages 40 to 79: four readings a second from 2026-03-01T00:00:00.25 on.
    let range = ["--from", "2026-03-01T00:00:10Z", "--to", "2026-03-01T00:00:20Z"];
    let some = said(world, &[&["buffer", "export", "--format", "jsonl"][..], &range].concat()).await?;
    let mut some = numbers(&some)?;
    some.sort_unstable();
    ensure!(some == (40..80).collect::<Vec<_>>(), "{some:?}");
    let csv = said(world, &[&["buffer", "export", "--format", "csv"][..], &range].concat()).await?;
    ensure!(csv.starts_with("ts,device,metric,value,") && csv.lines().count() == 41, "{csv}");

    let newest = said(world, &["tail", "-n", "3", "--json"]).await?;
    ensure!(numbers(&newest)? == [MESSAGES - 2, MESSAGES - 1, MESSAGES], "{newest}");
    let of_one = said(world, &["tail", "-n", "2", "--json", "--device", "*-0"]).await?;
    ensure!(numbers(&of_one)? == [MESSAGES - 5, MESSAGES], "{of_one}");
    let text = said(world, &["tail", "-n", "1"]).await?;
    ensure!(text.contains("plant  device-0  temperature  0.5"), "{text}");

    let last = json(newest.lines().next_back().context("a line")?)?;
    let name = last["series"].as_str().context("a series")?;
    let series = json(&said(world, &["buffer", "inspect", "series", name, "--json"]).await?)?;
    ensure!(series["device"] == "device-0" && series["newest"] == last["ts"], "{series:#}");
    let text = said(world, &["buffer", "inspect", "series", name]).await?;
    ensure!(text.contains("device-0") && text.contains("temperature"), "{text}");
    Ok(())
}

/// A world without bucket, whose agent has all messages in its buffer.
async fn filled() -> anyhow::Result<(World, Process)> {
    let mut world = World::start(Mqtt::EmbeddedV5).await?;
    world.stop_bucket().await;
    let agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=MESSAGES).await?;
    world.acknowledged(MESSAGES).await?;
    Ok((world, agent))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tools_say_the_same_of_a_running_agent_and_of_a_stopped_one() -> anyhow::Result<()> {
    let (world, agent) = filled().await?;
    world.status_when("everything is sealed", |s| s.counters.readings.sealed == MESSAGES).await?;
    look(&world, true).await?;

    let segments = json(&said(&world, &["buffer", "stats", "--json"]).await?)?["segments"].clone();
    let rows = segments.as_array().context("segments")?.iter().filter(|s| s["table"] == "readings");
    ensure!(rows.map(|s| s["rows"].as_u64().unwrap_or(0)).sum::<u64>() == MESSAGES, "{segments:#}");
    let segment = json(&said(&world, &["buffer", "inspect", "segment", "1", "--json"]).await?)?;
    ensure!(segment["number"] == 1 && segment["file"] == segment["size"], "{segment:#}");

    let (status, _) = agent.stop().await?;
    ensure!(status.success(), "{status}");
    let before = contents(&world.path("agent"))?;
    look(&world, false).await?;
    ensure!(contents(&world.path("agent"))? == before, "looking changes nothing");
    Ok(())
}

/// Names and bytes of all files of a folder.
fn contents(folder: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(contents(&path)?);
        } else {
            all.push((path.display().to_string(), std::fs::read(&path)?));
        }
    }
    all.sort();
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_a_parquet_file_of_the_table_s_columns_and_never_half_a_file() -> anyhow::Result<()> {
    let (world, agent) = filled().await?;
    let file = world.path("readings.parquet");
    let name = file.display().to_string();
    let export = ["buffer", "export", "--format", "parquet", "--output", &name];
    said(&world, &export).await?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file)?)?.build()?;
    let (mut rows, mut sum) = (0, 0.0);
    for batch in reader {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        let values = batch.column_by_name("value").context("no value")?;
        sum +=
            values.as_any().downcast_ref::<Float64Array>().context("doubles")?.iter().flatten().sum::<f64>();
        let gateways = batch.column_by_name("gateway").context("no gateway")?;
        let gateways = gateways.as_any().downcast_ref::<StringArray>().context("texts")?;
        ensure!(gateways.iter().all(|g| g == Some("gw-1")) && gateways.null_count() == 0);
    }
    let expected: f64 = (1..=MESSAGES).map(|n| (n % 100) as f64 + 0.5).sum();
    ensure!((rows, sum) == (MESSAGES, expected), "{rows} rows, {sum}");

    let again = tool(&world, &export).await?;
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(again.status.code() == Some(1) && why.contains("exists"), "{why}");
    let nowhere = world.path("absent/readings.parquet").display().to_string();
    let failed = tool(&world, &["buffer", "export", "--format", "csv", "--output", &nowhere]).await?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    agent.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_by_verify_and_the_rest_is_exported() -> anyhow::Result<()> {
    let (world, agent) = filled().await?;
    world.status_when("everything is sealed", |s| s.counters.readings.sealed == MESSAGES).await?;
    agent.stop().await?;

    let database = world.path("agent/buffer.db");
    let sql = rusqlite::Connection::open(&database)?;
    let (id, rows): (i64, u64) =
        sql.query_row("SELECT id, rows FROM batch WHERE rows > 0 ORDER BY id LIMIT 1", [], |r| {
            Ok((r.get(0)?, r.get::<_, i64>(1)? as u64))
        })?;
    sql.execute("UPDATE batch SET block = zeroblob(20) WHERE id = ?1", [id])?;
    drop(sql);
    let segment = std::fs::read_dir(world.path("agent/segments"))?.next().context("no segment")??.path();
    std::fs::write(&segment, b"PAR1 this is none")?;

    let verify = tool(&world, &["buffer", "verify"]).await?;
    let text = String::from_utf8(verify.stdout)?;
    ensure!(verify.status.code() == Some(1), "{text}");
    ensure!(text.contains(&format!("batch {id}: its checksum is wrong")), "{text}");
    ensure!(text.lines().any(|l| l.starts_with("segment ") && l.contains("its file has 17 bytes")), "{text}");
    ensure!(text.lines().next_back().is_some_and(|l| l.contains("finding(s)")), "{text}");
    let verify = tool(&world, &["buffer", "verify", "--structure", "--json"]).await?;
    let sum = json(&String::from_utf8(verify.stdout)?)?;
    ensure!(sum["faults"].as_array().is_some_and(|f| f.len() >= 2), "{sum:#}");

    let export = tool(&world, &["buffer", "export", "--format", "jsonl"]).await?;
    let lines = String::from_utf8(export.stdout)?;
    let why = String::from_utf8_lossy(&export.stderr).into_owned();
    ensure!(export.status.code() == Some(1) && why.contains(&format!("batch {id} is left out")), "{why}");
    ensure!(lines.lines().count() as u64 == MESSAGES - rows, "{why}");
    let inspect = tool(&world, &["buffer", "inspect", "batch", &id.to_string()]).await?;
    let text = String::from_utf8(inspect.stdout)?;
    ensure!(inspect.status.code() == Some(1) && text.contains("DAMAGED"), "{text}");

    // Whatever the file is: a sentence, never a panic.
    for rubbish in [&b""[..], b"SQLite format 3\0", &[0xff; 5000]] {
        std::fs::write(&database, rubbish)?;
        for arguments in [
            &["buffer", "verify"][..],
            &["buffer", "stats"],
            &["buffer", "export", "--format", "csv"],
            &["buffer", "inspect", "series", "1"],
            &["tail"],
            &["rejects", "list"],
        ] {
            let ended = tool(&world, arguments).await?;
            let why = String::from_utf8_lossy(&ended.stderr).into_owned();
            ensure!(
                ended.status.code() == Some(1) && why.starts_with("tributary-agent: "),
                "{arguments:?}: {why}"
            );
            ensure!(!why.contains("panicked"), "{arguments:?}: {why}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_arguments_and_an_absent_buffer_get_a_sentence() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    for (arguments, code, word) in [
        (&["buffer", "stats"][..], 1, "no buffer lies in"),
        (&["tail"], 1, "no buffer lies in"),
        (&["rejects", "retry", "1"], 1, "no buffer lies in"),
        (&["buffer", "export", "--format", "xml"], 64, "parquet, csv or jsonl"),
        (&["buffer", "export", "--format", "csv", "--from", "noon"], 64, "2026-03-01T12:00:00Z"),
        (&["buffer", "export", "--format", "csv", "--from", "-1h", "--to", "-2h"], 64, "name a later --to"),
        (&["buffer", "inspect", "batch", "x"], 64, "the id of a batch"),
        (&["buffer", "inspect", "page", "1"], 64, "batch, segment or series"),
        (&["rejects", "show", "first"], 64, "invalid value"),
        (&["buffer"], 64, "Usage"),
    ] {
        let ended = tool(&world, arguments).await?;
        let why = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(
            ended.status.code() == Some(code) && why.contains(word),
            "{arguments:?}: {}: {why}",
            ended.status
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_follows_what_comes_also_over_a_restart_of_the_agent() -> anyhow::Result<()> {
    let mut world = World::start(Mqtt::EmbeddedV5).await?;
    world.stop_bucket().await;
    let agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=10).await?;
    world.acknowledged(10).await?;
    let (log, config) = (world.path("tail.log"), world.path("agent.toml").display().to_string());
    let arguments = ["tail", "--follow", "--json", "-n", "4", "--config", &config];
    let mut tail = Process::start(&world.programs.agent, arguments, &log)?;
    let shown = || -> anyhow::Result<Vec<u64>> {
        let text = std::fs::read_to_string(&log)?;
        let lines: String = text.lines().filter(|l| l.ends_with('}')).map(|l| format!("{l}\n")).collect();
        numbers(&lines)
    };
    let until_shown = async |wanted: std::ops::RangeInclusive<u64>| {
        until("tail shows what came", async || {
            Ok((shown()? == wanted.clone().collect::<Vec<_>>()).then_some(()))
        })
        .await
    };
    until_shown(7..=10).await?;
    world.publish(11..=15).await?;
    until_shown(7..=15).await?;
    agent.stop().await?;
    until("tail says that no agent runs", async || {
        Ok(std::fs::read_to_string(&log)?.contains("no agent runs").then_some(()))
    })
    .await?;
    let agent = world.agent()?;
    world.publish(16..=20).await?;
    until_shown(7..=20).await?;
    tail.still_runs()?;
    tail.kill().await?;
    agent.stop().await?;
    Ok(())
}

/// Two rejects of payloads that name their value otherwise than the source expects, one twice; and one that nothing reads.
async fn publish_rejects(world: &World) -> anyhow::Result<()> {
    let payloads = [
        r#"{"ts":"2026-03-01T00:00:00Z","v":1.5,"n":901}"#,
        r#"{"ts":"2026-03-01T00:00:00Z","v":1.5,"n":901}"#,
        r#"{"ts":"2026-03-01T00:00:01Z","v":2.5,"n":902}"#,
        "no json at all",
    ];
    let messages = payloads.map(|p| ("sensors/device-9/temperature".to_owned(), p.as_bytes().to_vec()));
    publish(world.broker.for_publishers(), messages.into_iter()).await?;
    world.proxy.changes().wait_for(|counts| counts.answered == 4).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_are_listed_shown_and_tried_again_by_a_running_agent_and_in_a_stopped_one()
-> anyhow::Result<()> {
    for running in [true, false] {
        let world = World::start(Mqtt::EmbeddedV5).await?;
        let agent = world.agent()?;
        world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
        publish_rejects(&world).await?;
        let list = said(&world, &["rejects", "list", "--json"]).await?;
        let rows: Vec<Json> = list.lines().map(json).collect::<Result<_, _>>()?;
        ensure!(rows.len() == 3 || rows.len() == 4, "{list}");
        let occurrences: u64 = rows.iter().filter_map(|r| r["occurrences"].as_u64()).sum();
        ensure!(occurrences == 4, "{list}");
        let none = said(&world, &["rejects", "list", "--json", "--reason", "malformed"]).await?;
        ensure!(none.lines().count() == 1, "{none}");
        let id = rows[0]["id"].to_string();
        let shown = said(&world, &["rejects", "show", &id]).await?;
        ensure!(shown.contains("missing-field") && shown.contains("\"v\":1.5"), "{shown}");

        // With the configuration as it is, all stay what they are.
        let same = tool(&world, &["rejects", "retry", "--json"]).await?;
        let text = String::from_utf8(same.stdout)?;
        ensure!(same.status.code() == Some(1) && text.lines().count() == rows.len(), "{text}");
        ensure!(text.contains("rejected again, missing-field"), "{text}");

        agent.stop().await?;
        world.vary("agent.toml", "agent.toml", &[("value = \"value\"", "value = \"v\"")])?;
        let mut agent = None;
        if running {
            agent = Some(world.agent()?);
            world.status_when("the agent runs again", |s| s.brokers.iter().any(|b| b.connected)).await?;
        }
        let retried = tool(&world, &["rejects", "retry", "--json"]).await?;
        let text = String::from_utf8(retried.stdout)?;
        let results: Vec<Json> = text.lines().map(json).collect::<Result<_, _>>()?;
        let readings: u64 = results.iter().filter_map(|r| r["readings"].as_u64()).sum();
        let folded = rows.len() as u64 - 1;
        ensure!(readings == folded && retried.status.code() == Some(1), "{text}");
        // A second time nothing is put in.
        let again = tool(&world, &["rejects", "retry", &id]).await?;
        let text = String::from_utf8(again.stdout)?;
        ensure!(again.status.code() == Some(1) && text.contains("it was retried before"), "{text}");
        let list = said(&world, &["rejects", "list"]).await?;
        ensure!(list.lines().filter(|l| l.contains("retried")).count() as u64 == folded, "{list}");
        let sum = said(&world, &["buffer", "verify"]).await?;
        ensure!(sum.contains("all as it should be"), "{sum}");

        let agent = match agent {
            Some(agent) => agent,
            None => world.agent()?,
        };
        let _receiver = world.receiver()?;
        until("the readings are in the table", async || {
            let tally = world.tally().await?;
            Ok((tally.rows == folded && tally.numbers.contains(901) && tally.numbers.contains(902))
                .then_some(()))
        })
        .await
        .with_context(|| world.logs())?;
        let status = world.status_when("nothing waits", |s| s.counters.readings.waiting() == 0).await?;
        status.counters.check()?;
        let (messages, readings) = (status.counters.messages, status.counters.readings);
        ensure!((messages.received, messages.rejected, messages.accepted) == (4, 4, 0), "{messages:?}");
        ensure!(readings.journaled == folded, "{readings:?}");
        agent.stop().await?;
    }
    Ok(())
}

/// Findings of `check --json` as (result, text), and the exit code.
async fn check(world: &World, config: &str) -> anyhow::Result<(Vec<(String, String)>, Option<i32>)> {
    let ended = tool_with(world, config, &["check", "--json"]).await?;
    let text = String::from_utf8(ended.stdout)?;
    let finding = |line: &str| -> anyhow::Result<(String, String)> {
        let finding = json(line)?;
        let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        Ok((word("result"), word("text")))
    };
    Ok((text.lines().map(finding).collect::<Result<_, _>>()?, ended.status.code()))
}

fn has(findings: &[(String, String)], result: &str, text: &str) -> anyhow::Result<()> {
    ensure!(
        findings.iter().any(|(r, t)| r == result && t.contains(text)),
        "no {result} says {text:?}: {findings:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tries_each_part_and_a_dead_one_hides_no_other() -> anyhow::Result<()> {
    let mut world = World::start(Mqtt::MosquittoV5(Saves::Never)).await?;
    let [port, ..] = tributary_tests::world::ports::free::<1>()?;
    // A second Mosquitto that knows one user and grants QoS 0 at most.
    let folder = world.path("guarded");
    std::fs::create_dir_all(&folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    std::fs::write(at("passwords"), PASSWORDS)?;
    let settings = format!(
        "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\nmax_qos 0\npersistence false\n\
         user root\n",
        at("passwords")
    );
    std::fs::write(at("mosquitto.conf"), settings)?;
    let program = tributary_tests::world::broker::mosquitto_program().context("mosquitto isn't installed")?;
    let guarded = Process::start(&program, ["-c", &at("mosquitto.conf")], &folder.join("log"))?;
    until("the guarded broker answers", async || {
        Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop))
    })
    .await?;
    world.write("password", "secret\n")?;
    world.write("wrong-password", "public\n")?;

    let (findings, code) = check(&world, "agent.toml").await?;
    ensure!(code == Some(0), "{findings:#?}");
    has(&findings, "ok", "lets us in, with MQTT 5")?;
    has(&findings, "ok", "\"sensors/+/+\" comes at QoS 1")?;
    has(&findings, "warn", "isn't there yet; the agent makes it")?;
    has(&findings, "ok", "holds no receipt for this gateway yet")?;
    has(&findings, "ok", "honours If-None-Match")?;
    has(&findings, "ok", "clock: it agrees with the bucket's")?;
    let status = world.keys("status/").await?;
    ensure!(status.len() == 1, "{status:?}");

    let broker = format!("mqtt://{}\"", world.proxy.address());
    let more = |password: &str| {
        format!(
            "mqtt://127.0.0.1:{port}\"\nusername = \"agent\"\npassword_file = \"{}\"",
            world.path(password).display()
        )
    };
    // An interval for which any disk is quick enough, however much else it has to do.
    let patient = ("commit_interval = \"20ms\"", "commit_interval = \"10s\"");
    world.vary("agent.toml", "guarded.toml", &[(&broker, &more("password")), patient])?;
    let agent = world.agent()?;
    // The proxy has seen the check's own subscription: only the agent knows of its.
    world.status_when("the agent is connected", |s| s.brokers.iter().any(|b| b.connected)).await?;
    let (findings, code) = check(&world, "guarded.toml").await?;
    ensure!(code == Some(0), "{findings:#?}");
    has(&findings, "warn", "\"sensors/+/+\" is granted at QoS 0 only, asked was 1")?;
    has(&findings, "ok", "a block is durable within")?;
    has(&findings, "ok", "honours If-None-Match")?;
    check(&world, "agent.toml").await?;
    let status = world.status_when("the agent runs", |_| true).await?;
    let broker_status = &status.brokers[0];
    ensure!(
        broker_status.connected && broker_status.connects == 1,
        "its session isn't touched: {broker_status:?}"
    );
    agent.stop().await?;

    world.vary("agent.toml", "stranger.toml", &[(&broker, &more("wrong-password"))])?;
    let (findings, _) = check(&world, "stranger.toml").await?;
    has(&findings, "fail", "check username")?;
    has(&findings, "ok", "honours If-None-Match")?;

    let refusing = refusing_broker().await?;
    let refused = format!("mqtt://{refusing}\"");
    world.vary(
        "agent.toml",
        "refused.toml",
        &[(&broker, &refused), ("version = \"5\"", "version = \"3.1.1\"")],
    )?;
    let (findings, code) = check(&world, "refused.toml").await?;
    ensure!(code == Some(1), "{findings:#?}");
    has(&findings, "fail", "\"sensors/+/+\" is refused")?;

    // Nobody where broker and bucket should be, keys that aren't, a folder that is a file.
    guarded.kill().await?;
    world.stop_bucket().await;
    let state = format!("state_dir = \"{}\"", world.path("agent").display());
    let file = format!("state_dir = \"{}\"", world.path("agent.toml").display());
    world.vary("guarded.toml", "dead.toml", &[(&state, &file)])?;
    let (findings, code) = check(&world, "dead.toml").await?;
    ensure!(code == Some(1), "{findings:#?}");
    has(&findings, "fail", "is it running, is the port right")?;
    has(&findings, "fail", "bucket s3://lake/e2e")?;
    has(&findings, "fail", "is no folder")?;
    world.write("credentials.toml", "access_key_id = \"hush\"")?;
    let (findings, _) = check(&world, "dead.toml").await?;
    has(&findings, "fail", "credentials of bucket")?;
    ensure!(findings.iter().all(|(_, text)| !text.contains("hush")), "{findings:?}");
    Ok(())
}

/// What mosquitto_passwd makes of user `agent` and password `secret`.
const PASSWORDS: &str = "agent:$7$101$jJUvr7gUyJ0KtOhj$KEI73XO8/PqjpGxLpG862EZpHq8FZ+VV34jss01aV27KqmvsR7Sv8Czu+Brg9kKk134QV3/2tEmw+ujeYROX2Q==\n";

/// A broker that lets everybody in and refuses each subscription, which Mosquitto does only with a plugin.
async fn refusing_broker() -> anyhow::Result<std::net::SocketAddr> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Both packets are short: their length is one byte.
            let mut head = [0; 2];
            while stream.read_exact(&mut head).await.is_ok() {
                let mut body = vec![0; usize::from(head[1])];
                let answer = match (stream.read_exact(&mut body).await, head[0] >> 4, &body[..]) {
                    (Ok(_), 1, _) => vec![0x20, 2, 0, 0],
                    (Ok(_), 8, [high, low, ..]) => vec![0x90, 3, *high, *low, 0x80],
                    _ => break,
                };
                if stream.write_all(&answer).await.is_err() {
                    break;
                }
            }
        }
    });
    Ok(address)
}
