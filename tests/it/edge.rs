//! What a gateway tells on its own broker while nothing else can be reached.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::Value;
use tributary_tests::world::publish::publish;
use tributary_tests::world::{GATEWAY, Mqtt, Saves, World, until};

const MESSAGES: u64 = 500;
/// When message 600 was taken: four are taken a second.
const SIXTH_HUNDRED: &str = "2026-03-01T00:02:30";

/// Somebody on the site who wants to know what the gateway makes of it.
struct Listener {
    events: EventLoop,
    _client: AsyncClient,
    /// The newest word on each window of each device.
    heard: BTreeMap<(String, String), Value>,
}

impl Listener {
    async fn connect(world: &World, what: &str) -> anyhow::Result<Self> {
        let address = world.broker.for_publishers();
        let mut options = MqttOptions::new("listener", address.ip().to_string(), address.port());
        // It listens now and then.
        options.set_keep_alive(Duration::from_mins(30));
        let (client, events) = AsyncClient::new(options, 16);
        client.try_subscribe(format!("tributary/{GATEWAY}/{what}/#"), QoS::AtMostOnce)?;
        let mut listener = Self { events, _client: client, heard: BTreeMap::new() };
        while !matches!(listener.events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        Ok(listener)
    }

    /// The next word, with its topic.
    async fn next(&mut self) -> anyhow::Result<(String, Value)> {
        loop {
            if let Event::Incoming(Packet::Publish(told)) = self.events.poll().await? {
                return Ok((told.topic, serde_json::from_slice(&told.payload)?));
            }
        }
    }

    /// Listens until what was heard of windows is enough; gives the last word.
    async fn until(&mut self, enough: impl Fn(&Self) -> bool) -> anyhow::Result<Value> {
        loop {
            let (topic, word) = self.next().await?;
            let text = |name: &str| word[name].as_str().unwrap_or_default().to_owned();
            let levels: Vec<&str> = topic.split('/').collect();
            ensure!(levels[3..] == ["1m", &text("device"), "temperature"], "{topic} of {word}");
            self.heard.insert((text("device"), text("window_start")), word.clone());
            if enough(self) {
                return Ok(word);
            }
        }
    }

    fn samples(&self) -> u64 {
        self.heard.values().filter_map(|word| word["samples"].as_u64()).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_windows_are_told_on_the_broker_without_a_bucket_and_never_taken_in() -> anyhow::Result<()> {
    let world = World::without_bucket(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let told = "name = \"1m\"\nfunctions = [\"max\", \"sum\"]\n\
                publish = \"tributary/{gateway}/windows/{window}/{device}/{metric}\"\n";
    let curious = "[[source]]\nname = \"all\"\ntopics = [\"tributary/#\"]\n\n[buffer]\n";
    world.vary("agent.toml", "agent.toml", &[("name = \"1m\"\n", told), ("[buffer]\n", curious)])?;
    let _agent = world.agent()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let mut listener = Listener::connect(&world, "windows").await?;

    // Two minutes and some seconds of five devices: the last window is closed by their silence.
    world.publish(1..=MESSAGES).await?;
    listener.until(|l| l.samples() == MESSAGES).await.with_context(|| world.logs())?;
    ensure!(listener.heard.len() == 15, "{:?}", listener.heard.keys());
    for ((device, start), word) in &listener.heard {
        let number: u64 = device.trim_start_matches("device-").parse()?;
        // Four a second from midnight, of which each device has every fifth.
        let minute: u64 = start[14..16].parse()?;
        let own =
            (minute * 240..(minute + 1) * 240).filter(|n| (1..=MESSAGES).contains(n) && n % 5 == number);
        let values: Vec<f64> = own.map(|n| (n % 100) as f64 + 0.5).collect();
        ensure!(word["samples"] == values.len(), "{word}");
        ensure!(word["value_max"] == values.iter().copied().fold(0.0, f64::max), "{word}");
        ensure!(word["value_sum"] == values.iter().sum::<f64>() && word["value_min"].is_null(), "{word}");
    }

    let late = (
        "sensors/device-1/temperature".to_owned(),
        br#"{"ts":"2026-03-01T00:00:30.100Z","value":1000.5,"n":501}"#.to_vec(),
    );
    publish(world.broker.for_publishers(), std::iter::once(late)).await?;
    let word = listener.until(|l| l.samples() > MESSAGES).await?;
    ensure!(word["value_max"] == 1000.5 && word["late"] == 1, "{word}");
    ensure!(word["window_start"] == "2026-03-01T00:00:00Z", "{word}");

    let status = world.status_when("it is stored", |s| s.counters.readings.journaled == MESSAGES + 1).await?;
    let all = status.sources.iter().find(|s| s.name == "all").context("the source has a status")?;
    ensure!(all.messages == 0, "the agent took in what it told itself: {all:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_open_and_close_once_each_in_the_table_whenever_the_agent_is_killed() -> anyhow::Result<()> {
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let rules = "[[alert]]\nname = \"high\"\nseverity = \"critical\"\nabove = 90\nclear = 50\n\
                 publish = \"tributary/{gateway}/alerts/{rule}/{device}\"\n\n[segment]\n";
    world.vary("agent.toml", "agent.toml", &[("[segment]\n", rules)])?;
    let _receiver = world.receiver()?;
    let mut listener = Listener::connect(&world, "alerts").await?;
    let mut heard: BTreeMap<String, u64> = BTreeMap::new();

    // The value of message n is n % 100 and a half: each of five devices is above 90 at the end of each hundred.
    const HUNDREDS: u64 = 6;
    const DEVICES: u64 = 5;
    const KILLED: u64 = HUNDREDS * 100 - 1;
    for first in (1..=KILLED).step_by(75) {
        let agent = world.agent()?;
        world.publish(first..=KILLED.min(first + 74)).await?;
        world.acknowledged(KILLED.min(first + 74)).await?;
        agent.kill().await?;
    }
    // The last one lives on: what opens in it is told, whenever that is.
    const ALL: u64 = KILLED + 100;
    let _agent = world.agent()?;
    world.publish(KILLED + 1..=ALL).await?;
    let (opened, closed) = ((HUNDREDS + 1) * DEVICES, HUNDREDS * DEVICES);
    let status =
        world.status_when("all is stored", |s| s.counters.readings.journaled == ALL && s.alerts == DEVICES);
    status.await?;
    let rows = until("every alert is in the table", async || {
        let alerts = world.tables().load("alerts").await?;
        Ok(alerts.map(|state| state.rows()).filter(|rows| *rows >= opened + closed))
    });
    ensure!(rows.await.with_context(|| world.logs())? == opened + closed);

    // What was made durable in the instant before a kill may not have been told; nothing may be told twice.
    let mut told_at_last = 0;
    while told_at_last < DEVICES {
        let (topic, word) = listener.next().await?;
        let text = |name: &str| word[name].as_str().unwrap_or_default().to_owned();
        ensure!(topic == format!("tributary/{GATEWAY}/alerts/high/{}", text("device")), "{topic} of {word}");
        *heard.entry(format!("{} {} {}", text("device"), text("ts"), text("state"))).or_default() += 1;
        told_at_last += u64::from(text("state") == "open" && text("ts").as_str() >= SIXTH_HUNDRED);
    }
    let end = format!("tributary/{GATEWAY}/alerts/end");
    publish(world.broker.for_publishers(), std::iter::once((end.clone(), b"{}".to_vec()))).await?;
    let (topic, word) = listener.next().await?;
    ensure!(topic == end, "more was told than opened and closed: {topic} of {word}");
    ensure!(heard.values().all(|times| *times == 1), "told twice: {heard:?}");
    ensure!(heard.len() as u64 <= opened + closed, "{heard:?}");
    Ok(())
}
