//! What a gateway tells on its own broker while nothing else can be reached.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::Value;
use tributary_tests::world::publish::publish;
use tributary_tests::world::{GATEWAY, Mqtt, Saves, World};

const MESSAGES: u64 = 500;

/// Somebody on the site who wants to know of windows.
struct Listener {
    events: EventLoop,
    _client: AsyncClient,
    /// The newest word on each window of each device.
    heard: BTreeMap<(String, String), Value>,
}

impl Listener {
    async fn connect(world: &World) -> anyhow::Result<Self> {
        let address = world.broker.for_publishers();
        let options = MqttOptions::new("listener", address.ip().to_string(), address.port());
        let (client, events) = AsyncClient::new(options, 16);
        client.try_subscribe(format!("tributary/{GATEWAY}/windows/#"), QoS::AtMostOnce)?;
        let mut listener = Self { events, _client: client, heard: BTreeMap::new() };
        while !matches!(listener.events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        Ok(listener)
    }

    /// Listens until what was heard is enough; gives the last word.
    async fn until(&mut self, enough: impl Fn(&Self) -> bool) -> anyhow::Result<Value> {
        loop {
            let Event::Incoming(Packet::Publish(told)) = self.events.poll().await? else { continue };
            let word: Value = serde_json::from_slice(&told.payload)?;
            let text = |name: &str| word[name].as_str().unwrap_or_default().to_owned();
            let levels: Vec<&str> = told.topic.split('/').collect();
            ensure!(levels[3..] == ["1m", &text("device"), "temperature"], "{} of {word}", told.topic);
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
    let mut listener = Listener::connect(&world).await?;

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
