//! Readings that stay at the gateway because their aggregates are in the lake, and are sent when somebody asks.

use anyhow::{Context, ensure};
use tributary_contract::status::BackfillStatus;
use tributary_tests::world::process::command;
use tributary_tests::world::publish::{Message, message, publish};
use tributary_tests::world::{GATEWAY, Mqtt, Process, Saves, World, until};

const MESSAGES: u64 = 500;

/// The message with this number, taken in the last minutes: later than any correction nothing is kept back.
fn recent(number: u64, begin: jiff::Timestamp) -> anyhow::Result<Message> {
    let (topic, payload) = message(number);
    let mut json: serde_json::Value = serde_json::from_slice(&payload)?;
    let at = begin + std::time::Duration::from_millis(number * 250);
    json["ts"] = at.to_string().into();
    Ok((topic, serde_json::to_vec(&json)?))
}

/// How many readings a backfill of that device asks for.
async fn ask(world: &World, device: &str) -> anyhow::Result<u64> {
    let config = world.path("agent.toml").display().to_string();
    let arguments = ["backfill", "--from", "-1d", "--device", device, "--json", "--config", &config];
    let ended = command(&world.programs.agent, &arguments).await?;
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success(), "{}: {errors}\n{}", ended.status, world.logs());
    let said: serde_json::Value = serde_json::from_slice(&ended.stdout)?;
    said["readings"].as_u64().with_context(|| said.to_string())
}

/// Has the receiver's command ask for what the gateway kept back of a device; gives the request's name.
async fn ask_from_the_cloud(world: &World, device: &str, id: &str) -> anyhow::Result<()> {
    let config = world.path("receiver.toml").display().to_string();
    let ask = ["fleet", "backfill", GATEWAY, "--namespace", "tributary", "--from", "-1d", "--json"];
    let more = ["--device", device, "--id", id, "--config", &config];
    let ended = command(&world.programs.receiver, &[&ask[..], &more[..]].concat()).await?;
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success(), "{}: {errors}\n{}", ended.status, world.logs());
    let said: serde_json::Value = serde_json::from_slice(&ended.stdout)?;
    ensure!(said["id"] == id, "{said}");
    Ok(())
}

/// What the gateway says of a request, once that is in a state.
async fn request(world: &World, id: &str, state: &str) -> anyhow::Result<BackfillStatus> {
    let of = |s: &tributary_contract::status::GatewayStatus| {
        let backfills = s.desired.as_ref().map(|d| d.backfills.clone()).unwrap_or_default();
        backfills.into_iter().find(|b| b.id == id && b.state == state)
    };
    let status = world.status_when(&format!("request {id} is {state}"), |s| of(s).is_some()).await?;
    of(&status).context("it just was")
}

/// The rows of `readings`, once there are as many.
async fn rows(world: &World, enough: u64) -> anyhow::Result<u64> {
    let rows = until("the table has its rows", async || {
        let state = world.tables().load("readings").await?;
        Ok(state.map(|state| state.rows()).filter(|rows| *rows >= enough))
    });
    rows.await.with_context(|| world.logs())
}

/// A world whose agent was given [`MESSAGES`] of a plant with a deadband, with the agent, the receiver, and how many readings were
/// sent: the others are kept back.
async fn kept_back() -> anyhow::Result<(World, Process, Process, u64)> {
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    // The values of a device are 5 apart: of two in a row one says enough.
    let band = "name = \"plant\"\ndeadband = { temperature = 6 }\n";
    world.vary("agent.toml", "agent.toml", &[("name = \"plant\"\n", band)])?;
    let receiver = world.receiver()?;
    let agent = world.agent()?;
    // What it was never given would come again with the times of other tests.
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let begin = jiff::Timestamp::now() - std::time::Duration::from_millis(MESSAGES * 250);
    let messages = (1..=MESSAGES).map(|n| recent(n, begin)).collect::<anyhow::Result<Vec<_>>>()?;
    publish(world.broker.for_publishers(), messages.into_iter()).await?;
    world.acknowledged(MESSAGES).await?;
    let status = world.status_when("all that is to be sent is registered", |s| {
        let readings = &s.counters.readings;
        readings.journaled == MESSAGES
            && readings.sealed > 0
            && readings.outstanding() == 0
            && s.buffer.oldest_unsafe.is_none()
    });
    let sent = status.await?.counters.readings.sealed;
    Ok((world, agent, receiver, sent))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_a_deadband_comes_once_when_it_is_asked_for_though_the_agent_is_killed()
-> anyhow::Result<()> {
    let (world, agent, _receiver, sent) = kept_back().await?;
    ensure!((MESSAGES / 3..MESSAGES * 2 / 3).contains(&sent), "{sent}");
    ensure!(rows(&world, sent).await? == sent);

    let asked = ask(&world, "device-1").await?;
    ensure!((20..MESSAGES / 5).contains(&asked), "{asked}");
    ensure!(ask(&world, "device-1").await? == 0, "it is asked for already, or sent");
    agent.kill().await?;
    let more = ask(&world, "device-2").await?;
    ensure!((20..MESSAGES / 5).contains(&more), "of a stopped agent's buffer: {more}");
    let _agent = world.agent()?;
    let all = sent + asked + more;
    ensure!(rows(&world, all).await? == all);
    let ended = world.status_when("nothing is under way", |s| {
        s.counters.readings.sealed >= all && s.counters.readings.outstanding() == 0
    });
    let readings = ended.await?.counters.readings;
    ensure!(readings.sealed == all && readings.waiting() == MESSAGES - all, "{readings:?}");
    ensure!(rows(&world, all).await? == all);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_from_the_cloud_is_in_the_table_once_though_the_agent_is_killed()
-> anyhow::Result<()> {
    let (world, agent, _receiver, sent) = kept_back().await?;
    ensure!(rows(&world, sent).await? == sent);

    ask_from_the_cloud(&world, "device-1", "one").await?;
    agent.kill().await?;
    // The same again, and another, while nobody is there.
    ask_from_the_cloud(&world, "device-1", "again").await?;
    ask_from_the_cloud(&world, "device-2", "two").await?;
    let agent = world.agent()?;
    let [one, again] = [request(&world, "one", "done").await?, request(&world, "again", "done").await?];
    let two = request(&world, "two", "done").await?;
    ensure!(
        (20..MESSAGES / 5).contains(&one.asked) && (20..MESSAGES / 5).contains(&two.asked),
        "{one:?} {two:?}"
    );
    ensure!(again.asked == 0 && again.already == one.asked + one.already, "{again:?} after {one:?}");
    ensure!(one.waiting + one.given_up + two.waiting + two.given_up == 0, "{one:?} {two:?}");
    ensure!(!one.absent.is_empty(), "of most of the day there is nothing: {one:?}");
    let all = sent + one.asked + two.asked;
    ensure!(rows(&world, all).await? == all);

    // A kill after everything is done begins nothing anew.
    agent.kill().await?;
    let _agent = world.agent()?;
    request(&world, "two", "done").await?;
    let readings = world.status_when("nothing is under way", |s| s.counters.readings.outstanding() == 0);
    let readings = readings.await?.counters.readings;
    ensure!(readings.sealed == all && readings.waiting() == MESSAGES - all, "{readings:?}");
    ensure!(rows(&world, all).await? == all);
    let tally = world.copies().await?;
    ensure!(
        tally.len() as u64 == all && tally.values().all(tributary_tests::lake::Copies::is_single),
        "{tally:?}"
    );

    let config = world.path("receiver.toml").display().to_string();
    let shown = until("the fleet shows what came of it", async || {
        let ended =
            command(&world.programs.receiver, &["fleet", "show", GATEWAY, "--config", &config]).await?;
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        Ok(Some(text).filter(|text| text.contains("backfill two: done")))
    });
    let shown = shown.await.with_context(|| world.logs())?;
    ensure!(shown.contains("revision 3") && shown.contains(&format!("{} asked for", one.asked)), "{shown}");
    let config = world.path("agent.toml").display().to_string();
    let ended = command(&world.programs.agent, &["status", "--config", &config]).await?;
    let text = String::from_utf8_lossy(&ended.stdout);
    ensure!(text.contains("backfill again: done: 0 asked for") && text.contains("none here from"), "{text}");
    Ok(())
}
