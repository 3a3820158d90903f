//! What a broker doesn't allow, or ends by itself: it is said with what to do, and tried again without a person.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tributary_contract::status::GatewayStatus;
use tributary_tests::world::{Load, Mqtt, Process, Saves, World, until};

/// Messages of each sort.
const EACH: u64 = 20;

/// Everybody may read `plain` and `tributary`, nobody anything else, until a command on `$CONTROL` says otherwise.
const RIGHTS: &str = r#"{
  "defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true},
  "anonymousGroup": "all",
  "clients": [],
  "groups": [{"groupname": "all", "roles": [{"rolename": "all"}], "clients": []}],
  "roles": [{"rolename": "all", "acls": [
    {"acltype": "subscribePattern", "topic": "plain/#", "allow": true},
    {"acltype": "subscribePattern", "topic": "tributary/#", "allow": true},
    {"acltype": "publishClientSend", "topic": "$CONTROL/#", "allow": true}
  ]}]
}"#;
const ALLOW: &str = r#"{"commands":[{"command":"addRoleACL","rolename":"all","acltype":"subscribePattern","topic":"sensors/#","allow":true}]}"#;

/// The lines that load Mosquitto's own plugin for rights, which ships with it.
fn guarded(world: &World) -> anyhow::Result<String> {
    let plugin = std::fs::read_dir("/usr/lib")?
        .filter_map(|entry| Some(entry.ok()?.path().join("mosquitto_dynamic_security.so")))
        .find(|path| path.is_file())
        .context("mosquitto's plugin dynamic-security isn't installed")?;
    let rights = world.write("rights.json", RIGHTS)?;
    Ok(format!(
        "allow_anonymous true\npersistence true\nmax_queued_messages 0\nplugin {}\nplugin_opt_config_file {}\n",
        plugin.display(),
        rights.display()
    ))
}

/// Publishes one message at QoS 0 and returns when it is written: what it does may end the connection.
async fn command(world: &World, topic: &str, payload: &str) -> anyhow::Result<()> {
    let broker = world.broker.for_publishers();
    let options = MqttOptions::new("operator", broker.ip().to_string(), broker.port());
    let (client, mut events) = AsyncClient::new(options, 4);
    client.try_publish(topic, QoS::AtMostOnce, false, payload)?;
    while !matches!(events.poll().await?, Event::Outgoing(Outgoing::Publish(_))) {}
    Ok(())
}

fn refused(status: &GatewayStatus) -> Option<&String> {
    status.reasons.iter().find(|why| why.contains("refuses the subscription"))
}

async fn logged(world: &World, log: &str, what: &str) -> anyhow::Result<()> {
    let found =
        until(what, async || Ok(std::fs::read_to_string(world.path(log))?.contains(what).then_some(())));
    found.await.with_context(|| world.logs())
}

async fn rights_are_missing_and_come(mqtt: Mqtt) -> anyhow::Result<()> {
    let world = World::start(mqtt).await?;
    let mut load = Load::prepare(&world, "")?;
    direct(&world)?;
    let mosquitto = world.broker.restartable()?;
    mosquitto.restart_with(&guarded(&world)?).await?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    let status = world.status_when("the agent says what is refused", |s| refused(s).is_some()).await?;
    let said = refused(&status).cloned().unwrap_or_default();
    ensure!(said.contains("\"sensors/+/+\"") && !said.contains("plain"), "{said}");
    ensure!(said.contains("let this client read it"), "{said}");
    // What it may read goes on meanwhile, on the same connection.
    load.publish(&world, EACH).await?;
    let plain = load.timeless;
    world.status_when("the others are stored", |s| s.counters.messages.accepted >= plain).await?;

    command(&world, "$CONTROL/dynamic-security/v1", ALLOW).await?;
    if matches!(mqtt, Mqtt::MosquittoV5(_)) {
        // Mosquitto ends the connections of those whose rights change; not each of its versions says why.
        logged(&world, "agent.log", "disconnected: ").await?;
    }
    world
        .status_when("nothing is refused any more", |s| s.brokers[0].connected && refused(s).is_none())
        .await?;
    // The first ones had no reader: only what comes now can arrive.
    load.timed = 0;
    load.publish(&world, EACH).await?;
    let stored = plain + 2 * EACH;
    world.status_when("all of it is stored", |s| s.counters.messages.accepted >= stored).await?;
    load.settled(&world).await?;
    mosquitto.stop().await?;
    world.status_when("it is disconnected", |s| !s.brokers[0].connected).await?;
    mosquitto.start().await?;
    world.status_when("it is connected again", |s| s.brokers[0].connected).await?;
    load.publish(&world, EACH).await?;
    let stored = stored + 2 * EACH;
    world.status_when("the rest is stored", |s| s.counters.messages.accepted >= stored).await?;
    load.settled(&world).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_without_rights_is_named_and_read_once_the_rights_come_over_mqtt_5() -> anyhow::Result<()> {
    rights_are_missing_and_come(Mqtt::MosquittoV5(Saves::AtStop)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_without_rights_is_named_and_read_once_the_rights_come_over_mqtt_3_1_1() -> anyhow::Result<()>
{
    rights_are_missing_and_come(Mqtt::MosquittoV4(Saves::AtStop)).await
}

/// Has the agent connect to the broker itself: what a broker says last may be lost in a proxy between them.
fn direct(world: &World) -> anyhow::Result<()> {
    let (proxy, broker) = (world.proxy.address().to_string(), world.broker.for_agents().to_string());
    world.vary("agent.toml", "agent.toml", &[(&proxy, &broker)]).map(drop)
}

async fn two_of_one_name(mqtt: Mqtt, meaning: &str) -> anyhow::Result<()> {
    let world = World::start(mqtt).await?;
    direct(&world)?;
    let own = world.status_address().to_string();
    let state = world.path("agent").display().to_string();
    let other = world.path("other").display().to_string();
    let changes = [
        (own.as_str(), &*world.spare_address().to_string()),
        (state.as_str(), other.as_str()),
        ("gateway = \"gw-1\"", "gateway = \"gw-2\""),
    ];
    world.vary("agent.toml", "other.toml", &changes)?;
    let agent = world.agent()?;
    let second: Process = world.run("other", &world.programs.agent, &world.path("other.toml"))?;
    // Their status says so too, but only until each is back and throws the other out.
    for log in ["agent.log", "other.log"] {
        logged(&world, log, meaning).await?;
        logged(&world, log, "each gateway needs its own").await?;
    }
    second.stop().await?;
    world.status_when("the first is alone", |s| s.brokers[0].connected).await?;
    let _receiver = world.receiver()?;
    world.publish(1..=EACH).await?;
    world.settled(EACH).await?;
    agent.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_with_one_client_id_both_say_so_and_one_alone_goes_on() -> anyhow::Result<()> {
    // Where the broker says it (Mosquitto does from 2.0.15 on), and where it can only be guessed.
    two_of_one_name(Mqtt::MosquittoV5(Saves::AtStop), "the same `client_id`").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_with_one_client_id_suspect_it_where_mqtt_3_1_1_has_no_reasons() -> anyhow::Result<()> {
    let meaning = "perhaps another client uses the same `client_id`";
    two_of_one_name(Mqtt::MosquittoV4(Saves::AtStop), meaning).await
}

/// What a scripted broker does with a SUBSCRIBE.
#[derive(Clone, Copy)]
enum Mood {
    /// Refuses all filters but the first, so many times.
    Refuses(usize),
    /// Ends the connection with this reason, so many times; then grants.
    Ends(u8, usize),
}

/// What a scripted broker was asked.
#[derive(Default)]
struct Heard {
    connections: AtomicUsize,
    /// Filters of each SUBSCRIBE.
    asked: std::sync::Mutex<Vec<Vec<String>>>,
}

/// The filters of a SUBSCRIBE, and the id that its answer bears.
fn filters(body: &[u8], v5: bool) -> Option<([u8; 2], Vec<String>)> {
    let id = [*body.first()?, *body.get(1)?];
    // The length of the properties is one byte here.
    let mut rest = body.get(if v5 { 3 + usize::from(*body.get(2)?) } else { 2 }..)?;
    let mut filters = Vec::new();
    while let [high, low, behind @ ..] = rest {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        filters.push(String::from_utf8(behind.get(..size)?.to_vec()).ok()?);
        rest = behind.get(size + 1..)?;
    }
    Some((id, filters))
}

async fn serve(mut stream: TcpStream, v5: bool, mood: Mood, heard: Arc<Heard>) -> Option<()> {
    loop {
        // Each packet is short enough here: its length is one byte.
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.ok()?;
        let mut body = vec![0; usize::from(head[1])];
        stream.read_exact(&mut body).await.ok()?;
        let answer = match head[0] >> 4 {
            1 if v5 => vec![0x20, 3, 0, 0, 0],
            1 => vec![0x20, 2, 0, 0],
            3 => continue,
            8 => {
                let (id, filters) = filters(&body, v5)?;
                let round = heard.asked.lock().ok()?.len();
                let refusal = if v5 { 0x87 } else { 0x80 };
                let codes = (0..filters.len()).map(|at| match mood {
                    Mood::Refuses(times) if round < times && (round > 0 || at > 0) => refusal,
                    _ => 1,
                });
                let codes: Vec<u8> = codes.collect();
                heard.asked.lock().ok()?.push(filters);
                match mood {
                    Mood::Ends(reason, times) if round < times => {
                        stream.write_all(&[0xe0, 2, reason, 0]).await.ok()?;
                        return None;
                    }
                    _ => {}
                }
                let properties: &[u8] = if v5 { &[0] } else { &[] };
                let size = u8::try_from(2 + properties.len() + codes.len()).ok()?;
                [&[0x90, size], &id[..], properties, &codes].concat()
            }
            12 => vec![0xd0, 0],
            _ => return None,
        };
        stream.write_all(&answer).await.ok()?;
    }
}

/// An agent that is connected to a scripted broker.
async fn scripted(v5: bool, mood: Mood) -> anyhow::Result<(World, Process, Arc<Heard>)> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    Load::prepare(&world, "")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let heard = Arc::new(Heard::default());
    let shared = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, v5, mood, Arc::clone(&shared)));
        }
    });
    let version = if v5 { "version = \"5\"" } else { "version = \"3.1.1\"" };
    let proxy = world.proxy.address().to_string();
    world.vary("agent.toml", "agent.toml", &[(&proxy, &address), ("version = \"5\"", version)])?;
    let agent = world.agent()?;
    Ok((world, agent, heard))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_asked_for_again_alone_and_on_the_same_connection() -> anyhow::Result<()> {
    for v5 in [true, false] {
        let (world, _agent, heard) = scripted(v5, Mood::Refuses(3)).await?;
        let status = world.status_when("it says what is refused", |s| refused(s).is_some()).await?;
        let said = refused(&status).cloned().unwrap_or_default();
        world
            .status_when("nothing is refused any more", |s| s.brokers[0].connected && refused(s).is_none())
            .await?;
        let asked = heard.asked.lock().ok().context("the broker panicked")?.clone();
        ensure!(asked.len() == 4 && asked[0].len() == 3, "{asked:?}");
        ensure!(
            said.contains(&format!("{:?}", asked[0][1])) && !said.contains(&asked[0][0]),
            "{said}: {asked:?}"
        );
        // The marker isn't worth asking for again.
        ensure!(asked[1..].iter().all(|again| again[..] == asked[0][1..2]), "{asked:?}");
        ensure!(heard.connections.load(Ordering::SeqCst) == 1, "it was connected again");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_had_enough_is_tried_again_until_it_lets_us_be() -> anyhow::Result<()> {
    for (reason, meaning) in [(0x97, "the broker has had too much of this client"), (0x9c, "change `url`")] {
        const TIMES: usize = 3;
        let (world, _agent, heard) = scripted(true, Mood::Ends(reason, TIMES)).await?;
        // The status says so too, but only until the next attempt.
        logged(&world, "agent.log", meaning).await?;
        logged(&world, "agent.log", "subscribed filter").await?;
        // One attempt for each refusal, and the one that lasts.
        ensure!(heard.connections.load(Ordering::SeqCst) == TIMES + 1);
    }
    Ok(())
}
