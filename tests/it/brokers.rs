//! Connections as operators set them up, each against Mosquitto: TLS, logins, several brokers, lost sessions, limits.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use rumqttc::{Event, Packet, QoS};
use tokio::process::Command;
use tributary_tests::mqtt::EmbeddedBroker;
use tributary_tests::tls::Authority;
use tributary_tests::workspace;
use tributary_tests::world::ports;
use tributary_tests::world::publish::{Message, message, publish, publish_as};
use tributary_tests::world::{Load, Mqtt, Saves, World, until};

/// Mosquitto without limits on what waits for a client.
const OPEN: &str = "allow_anonymous true\npersistence true\nmax_queued_messages 0\n";

async fn run(folder: &Path, program: &str, arguments: &str) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    let output = command.args(arguments.split(' ')).current_dir(folder).output().await;
    let output = output.with_context(|| format!("{program} isn't installed"))?;
    ensure!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Has the agent connect to `url` instead, with more lines for its broker.
fn connect_to(world: &World, url: &str, lines: &str) -> anyhow::Result<std::path::PathBuf> {
    let own = format!("url = \"mqtt://{}\"\n", world.proxy.address());
    world.vary("agent.toml", "direct.toml", &[(&own, &format!("url = \"{url}\"\n{lines}"))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_tls_mutual_tls_and_a_password_from_its_file_each_bring_their_messages() -> anyhow::Result<()> {
    const EACH: u64 = 20;
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let folder = world.path("tls");
    let authority = Authority::new(folder.clone()).await?;
    for name in ["broker", "client"] {
        authority.sign(name, "IP:127.0.0.1", 2).await?;
    }
    world.write("tls/users", "gw:correct horse\n")?;
    run(&folder, "mosquitto_passwd", "-U users").await?;
    let [login, tls, mutual] = ports::free()?;
    let at = folder.display().to_string();
    let certified = format!("cafile {at}/ca.pem\ncertfile {at}/broker.pem\nkeyfile {at}/broker.key\n");
    let lines = format!(
        "{OPEN}listener {login} 127.0.0.1\nallow_anonymous false\npassword_file {at}/users\n\
         listener {tls} 127.0.0.1\nallow_anonymous true\n{certified}\
         listener {mutual} 127.0.0.1\nallow_anonymous true\n{certified}require_certificate true\n"
    );
    world.broker.restartable()?.restart_with(&lines).await?;
    let password = world.write("tls/password", "wrong\n")?.display().to_string();
    let user = format!("username = \"gw\"\npassword_file = \"{password}\"\n");
    let ca = format!("ca_file = \"{at}/ca.pem\"\n");
    let own = format!("{ca}cert_file = \"{at}/client.pem\"\nkey_file = \"{at}/client.key\"\n");
    let tcp = world.broker.for_agents().port();
    let ways = [
        (format!("mqtt://127.0.0.1:{tcp}"), String::new()),
        (format!("mqtt://127.0.0.1:{login}"), user),
        (format!("mqtts://127.0.0.1:{tls}"), ca.clone()),
        (format!("mqtts://127.0.0.1:{mutual}"), own),
    ];
    let _receiver = world.receiver()?;
    let mut published = 0;
    for version in ["5", "3.1.1"] {
        for (url, lines) in &ways {
            let config = connect_to(&world, url, lines)?;
            let spoken = std::fs::read_to_string(&config)?
                .replace("version = \"5\"", &format!("version = \"{version}\""));
            world.write("direct.toml", &spoken)?;
            world.write("tls/password", "wrong\n")?;
            let agent = world.run("agent", &world.programs.agent, &config)?;
            if lines.starts_with("username") {
                let said = world
                    .status_when("the agent says that its password is wrong", |s| {
                        s.brokers
                            .iter()
                            .any(|b| b.failing.as_ref().is_some_and(|why| why.contains("`password_file`")))
                    })
                    .await?;
                ensure!(!said.brokers[0].connected);
                world.write("tls/password", "correct horse\n")?;
            }
            world.status_when("it is connected", |s| s.brokers.iter().any(|b| b.connected)).await?;
            if published == 0 {
                until("it is subscribed", async || {
                    Ok(std::fs::read_to_string(world.path("agent.log"))?
                        .contains("subscribed filter")
                        .then_some(()))
                })
                .await
                .with_context(|| world.logs())?;
            }
            publish(world.broker.for_publishers(), (published + 1..=published + EACH).map(message)).await?;
            published += EACH;
            let status = world
                .status_when("its messages are stored", |s| s.counters.messages.accepted == published)
                .await
                .with_context(|| format!("{url} over {version}"))?;
            ensure!(status.brokers[0].protocol == version, "{:?}", status.brokers);
            ensure!(status.brokers[0].url == *url, "{:?}", status.brokers);
            let (ended, _) = agent.stop().await?;
            ensure!(ended.success(), "{ended}");
        }
    }
    let _agent = world.run("agent", &world.programs.agent, &world.path("direct.toml"))?;
    world.settled(published).await?;
    let log = std::fs::read_to_string(world.path("agent.log"))?;
    ensure!(!log.contains("correct horse") && !log.contains("wrong\n"), "a password is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_the_same_name_that_takes_the_session_over_costs_no_message() -> anyhow::Result<()> {
    const MESSAGES: u64 = 60;
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let mut options = rumqttc::MqttOptions::new("gw-1", "127.0.0.1", world.broker.for_agents().port());
    options.set_clean_session(false);
    let (client, mut events) = rumqttc::AsyncClient::new(options, 4);
    while !matches!(events.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
    client.try_disconnect()?;
    while events.poll().await.is_ok() {}
    world.publish(1..=MESSAGES).await?;
    world.acknowledged(MESSAGES).await?;
    world.settled(MESSAGES).await?;
    ensure!(world.proxy.counts().connections > 1, "{:?}", world.proxy.counts());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_broker_that_is_away_holds_no_other_up() -> anyhow::Result<()> {
    const EACH: u64 = 50;
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let second = EmbeddedBroker::start(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let more = format!(
        "[[broker]]\nurl = \"mqtt://{}\"\nclient_id = \"gw-1\"\n\n[[source]]\nname = \"plant\"\n",
        second.address_v5()
    );
    world.vary("agent.toml", "agent.toml", &[("[[source]]\nname = \"plant\"\n", &more)])?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world
        .status_when("both are connected and subscribed", |s| {
            s.brokers.len() == 2
                && s.brokers.iter().all(|b| b.connected)
                && world.proxy.counts().subscribed == 1
                && std::fs::read_to_string(world.path("agent.log"))
                    .is_ok_and(|log| log.matches("subscribed filter").count() >= 2)
        })
        .await?;
    publish(world.broker.for_publishers(), (1..=EACH).map(message)).await?;
    publish(second.address_v4(), (EACH + 1..=2 * EACH).map(message)).await?;
    world.status_when("both brought theirs", |s| s.counters.messages.accepted == 2 * EACH).await?;
    world.broker.restartable()?.stop().await?;
    world.status_when("one is away", |s| !s.brokers[0].connected && s.brokers[1].connected).await?;
    publish(second.address_v4(), (2 * EACH + 1..=3 * EACH).map(message)).await?;
    world.status_when("the other goes on", |s| s.counters.messages.accepted == 3 * EACH).await?;
    world.broker.restartable()?.start().await?;
    publish(world.broker.for_publishers(), (3 * EACH + 1..=4 * EACH).map(message)).await?;
    world.status_when("it is back", |s| s.counters.messages.accepted == 4 * EACH).await?;
    world.settled(4 * EACH).await?;
    Ok(())
}

/// What Mosquitto says of itself under `topic`.
async fn said(broker: SocketAddr, topic: &str) -> anyhow::Result<String> {
    let options = rumqttc::MqttOptions::new("observer", broker.ip().to_string(), broker.port());
    let (client, mut events) = rumqttc::AsyncClient::new(options, 4);
    client.try_subscribe(topic, QoS::AtMostOnce)?;
    loop {
        if let Event::Incoming(Packet::Publish(told)) = events.poll().await? {
            return Ok(String::from_utf8(told.payload.to_vec())?);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_expired_is_a_gap_and_the_next_one_goes_on() -> anyhow::Result<()> {
    const MESSAGES: u64 = 30;
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    world.broker.restartable()?.restart_with(&format!("{OPEN}sys_interval 1\n")).await?;
    world.vary(
        "agent.toml",
        "agent.toml",
        &[("client_id = \"gw-1\"\n", "client_id = \"gw-1\"\nsession_expiry = \"1s\"\n")],
    )?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=MESSAGES).await?;
    world.acknowledged(MESSAGES).await?;
    agent.stop().await?;
    let to = world.broker.for_publishers();
    until("the broker has forgotten the session", async || {
        Ok((said(to, "$SYS/broker/clients/expired").await? == "1").then_some(()))
    })
    .await?;
    let _agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(MESSAGES + 1..=2 * MESSAGES).await?;
    world.acknowledged(2 * MESSAGES).await?;
    world.settled(2 * MESSAGES).await?;
    let tables = world.tables();
    until("the loss is a row of the lake", async || {
        Ok(tables.load("gaps").await?.is_some_and(|gaps| gaps.rows() == 1).then_some(()))
    })
    .await
}

/// Numbered messages, then what no limit allows, then more of them.
async fn too_large(mqtt: Mqtt, rejected: u64) -> anyhow::Result<()> {
    const MESSAGES: u64 = 40;
    let world = World::start(mqtt).await?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=MESSAGES / 2).await?;
    let large = |size: usize| -> Message { ("sensors/device-1/image".to_owned(), vec![b'x'; size]) };
    // Above the limit on payloads, and above what an MQTT 5 broker is told to send.
    publish(world.broker.for_publishers(), [large(2 << 20), large(20 << 20)].into_iter()).await?;
    world.publish(MESSAGES / 2 + 1..=MESSAGES).await?;
    world.acknowledged(MESSAGES).await?;
    let settled = world.settled(MESSAGES).await?;
    ensure!(settled.status.counters.messages.rejected == rejected, "{:?}", settled.status.counters.messages);
    ensure!(settled.status.rejected["too-large"] == rejected, "{:?}", settled.status.rejected);
    ensure!(world.proxy.counts().connections == 1, "{:?}", world.proxy.counts());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_stops_nothing_over_mqtt_5() -> anyhow::Result<()> {
    too_large(Mqtt::MosquittoV5(Saves::AtStop), 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_stops_nothing_over_mqtt_3_1_1() -> anyhow::Result<()> {
    too_large(Mqtt::MosquittoV4(Saves::AtStop), 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_lines_for_mosquitto_keep_everything_while_the_agent_is_away_even_what_came_at_qos_0()
-> anyhow::Result<()> {
    // More than Mosquitto keeps by default.
    const MESSAGES: u64 = 3_000;
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let shipped = workspace::folder().join("config/mosquitto.conf");
    let shipped = std::fs::read_to_string(shipped)?;
    let mosquitto = world.broker.restartable()?;
    mosquitto
        .restart_with(&format!("allow_anonymous true\npersistence true\nsys_interval 1\n{shipped}"))
        .await?;
    let agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    agent.stop().await?;
    let to = world.broker.for_publishers();
    publish(to, (1..=MESSAGES - 200).map(message)).await?;
    publish_as(to, QoS::AtMostOnce, false, (MESSAGES - 199..=MESSAGES).map(message)).await?;
    // QoS 0 has no answer: the next message on another connection says nothing about it, so the broker is asked.
    until("the broker has taken all", async || {
        let waiting = said(to, "$SYS/broker/store/messages/count").await?;
        Ok(waiting.parse::<u64>().is_ok_and(|count| count >= MESSAGES).then_some(()))
    })
    .await?;
    mosquitto.stop().await?;
    mosquitto.start().await?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.acknowledged(MESSAGES).await?;
    world.settled(MESSAGES).await?;
    Ok(())
}

/// QoS 0: what was collected but not committed is gone with a kill, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_at_qos_0_what_was_not_committed_and_nothing_else() -> anyhow::Result<()> {
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    world.vary("agent.toml", "agent.toml", &[("commit_interval = \"20ms\"", "commit_interval = \"1s\"")])?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let to = world.broker.for_publishers();
    let (mut given, mut times) = (0, Vec::new());
    let committed = until("something is committed while more comes", async || {
        publish_as(to, QoS::AtMostOnce, false, (given + 1..=given + 100).map(message)).await?;
        given += 100;
        times.push((given, Instant::now()));
        let committed = world.status().await.map_or(0, |status| status.counters.messages.accepted);
        Ok((committed >= 500 && given > committed).then_some(committed))
    })
    .await?;
    agent.kill().await?;
    let killed = Instant::now();
    let _agent = world.agent()?;
    world.status_when("the agent is back", |s| s.brokers.iter().any(|b| b.connected)).await?;
    // One at QoS 1 behind them: when it is in the table, so is all that will ever be.
    let last = given + 1;
    publish(to, std::iter::once(message(last))).await?;
    let tally = until("the last message is in the table", async || {
        let tally = world.tally().await?;
        Ok(tally.numbers.contains(last).then_some(tally))
    })
    .await
    .with_context(|| world.logs())?;
    let kept = tally.numbers.ranges();
    ensure!(tally.rows == tally.numbers.len(), "QoS 0 is never doubled: {kept:?}");
    ensure!(tally.rows > committed, "{committed} messages were committed, {} are there", tally.rows);
    ensure!(tally.numbers.missing(1, committed) == 0, "a committed message is gone: {kept:?}");
    let first_lost = tally.rows;
    let since = times.iter().find(|(number, _)| *number >= first_lost).map(|(_, at)| killed - *at);
    println!(
        "QoS 0: of {given} messages given to the agent before the kill {} are lost, the first of them published {since:?} \
         before it: {kept:?}",
        last - tally.rows
    );
    Ok(())
}

/// A broker that lets nobody publish the marker: it costs a connection at most.
async fn no_marker_allowed(mqtt: Mqtt) -> anyhow::Result<()> {
    const MESSAGES: u64 = 60;
    let world = World::start(mqtt).await?;
    let list = world.write("acl", "topic readwrite sensors/#\n")?;
    let lines = format!("{OPEN}acl_file {}\n", list.display());
    world.broker.restartable()?.restart_with(&lines).await?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    world.publish(1..=MESSAGES / 3).await?;
    world.acknowledged(MESSAGES / 3).await?;
    agent.stop().await?;
    world.publish(MESSAGES / 3 + 1..=2 * MESSAGES / 3).await?;
    let _agent = world.agent()?;
    world.acknowledged(2 * MESSAGES / 3).await?;
    world.publish(2 * MESSAGES / 3 + 1..=MESSAGES).await?;
    world.acknowledged(MESSAGES).await?;
    world.settled(MESSAGES).await?;
    // Mosquitto 2.0.11 may end the connection for it; the next one goes without.
    ensure!(world.proxy.counts().connections <= 3, "{:?}\n{}", world.proxy.counts(), world.logs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses_the_marker_costs_no_message_over_mqtt_5() -> anyhow::Result<()> {
    no_marker_allowed(Mqtt::MosquittoV5(Saves::AtStop)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses_the_marker_costs_no_message_over_mqtt_3_1_1() -> anyhow::Result<()> {
    no_marker_allowed(Mqtt::MosquittoV4(Saves::AtStop)).await
}

/// The agent subscribes again at each start; with retain handling 1 that brings no retained message again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_come_with_a_new_subscription_only_over_mqtt_5() -> anyhow::Result<()> {
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let to = world.broker.for_publishers();
    publish_as(to, QoS::AtLeastOnce, true, std::iter::once(message(1))).await?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.acknowledged(1).await?;
    agent.stop().await?;
    let _agent = world.agent()?;
    until("the agent has subscribed again", async || {
        let log = std::fs::read_to_string(world.path("agent.log"))?;
        Ok((log.matches("subscribed filter").count() >= 2).then_some(()))
    })
    .await?;
    // What a SUBSCRIBE brings comes before it.
    world.publish(2..=2).await?;
    world.acknowledged(2).await?;
    let status = world.settled(2).await?.status;
    ensure!(status.counters.messages.redelivered == 0, "{:?}", status.counters.messages);
    Ok(())
}

/// What came while the agent was away is marked, what comes after it isn't: a marker tells one from the other.
async fn queued(mqtt: Mqtt) -> anyhow::Result<()> {
    let world = World::start(mqtt).await?;
    let mut load = Load::prepare(&world, "")?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    agent.stop().await?;
    load.publish(&world, 30).await?;
    let waited = load.timeless;
    let _agent = world.agent()?;
    let mut changes = world.proxy.changes();
    changes.wait_for(|counts| counts.publishes == 61 && counts.in_flight == 0).await?;
    load.publish(&world, 10).await?;
    load.acknowledged(&world).await?;
    let copies = load.settled(&world).await?;
    for (at, number) in load.timeless_from(1).enumerate() {
        let copies = &copies[&number];
        ensure!(copies.has("queued") == (at < waited as usize), "{number}: {copies:?}");
    }
    ensure!(
        (1..=load.timed).all(|number| !copies[&number].has("queued")),
        "a message with its own time is marked"
    );
    let status = world.status().await.context("the agent is gone")?;
    ensure!(status.brokers[0].unmatched == 0 && status.counters.messages.rejected == 0, "{status:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_at_the_broker_is_marked_queued_over_mqtt_5() -> anyhow::Result<()> {
    queued(Mqtt::MosquittoV5(Saves::AtStop)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_at_the_broker_is_marked_queued_over_mqtt_3_1_1() -> anyhow::Result<()> {
    queued(Mqtt::MosquittoV4(Saves::AtStop)).await
}
