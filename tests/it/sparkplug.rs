//! Sparkplug B over a real broker: a node that lost a message on its way is asked for its birth, once, and answers.

use anyhow::{Context, ensure};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tributary_tests::world::{Mqtt, Saves, World, until};

const NODE: &str = "boiler-house";
const MILLIS: u64 = 1_772_323_200_000;

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn number(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

fn bytes(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A metric of type Int64: by name and alias in a birth, by alias in data.
fn metric(name: &str, alias: u64, value: u64) -> Vec<u8> {
    let name = if name.is_empty() { Vec::new() } else { bytes(1, name.as_bytes()) };
    bytes(2, &[name, number(2, alias), number(4, 4), number(11, value)].concat())
}

fn payload(seq: u64, metrics: &[Vec<u8>]) -> Vec<u8> {
    [number(1, MILLIS + seq), metrics.concat(), number(3, seq)].concat()
}

/// A node with its own connection, and the commands that it was sent.
struct Node {
    client: AsyncClient,
    events: EventLoop,
    commands: Vec<Vec<u8>>,
}

impl Node {
    async fn connect(world: &World) -> anyhow::Result<Self> {
        let address = world.broker.for_publishers();
        let (client, events) =
            AsyncClient::new(MqttOptions::new(NODE, address.ip().to_string(), address.port()), 16);
        client.try_subscribe(format!("spBv1.0/plant/NCMD/{NODE}"), QoS::AtLeastOnce)?;
        let mut node = Self { client, events, commands: Vec::new() };
        while !matches!(node.next().await?, Packet::SubAck(_)) {}
        Ok(node)
    }

    async fn next(&mut self) -> anyhow::Result<Packet> {
        loop {
            if let Event::Incoming(packet) = self.events.poll().await? {
                if let Packet::Publish(command) = &packet {
                    self.commands.push(command.payload.to_vec());
                }
                return Ok(packet);
            }
        }
    }

    /// Publishes, and returns when the broker has it.
    async fn says(&mut self, kind: &str, payload: Vec<u8>) -> anyhow::Result<()> {
        let device = if kind.starts_with('D') { "/pump" } else { "" };
        let topic = format!("spBv1.0/plant/{kind}/{NODE}{device}");
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload)?;
        while !matches!(self.next().await?, Packet::PubAck(_)) {}
        Ok(())
    }

    async fn is_born(&mut self, session: u64) -> anyhow::Result<()> {
        self.says("NBIRTH", payload(0, &[metric("bdSeq", 0, session), metric("Supply", 1, 24)])).await?;
        self.says("DBIRTH", payload(1, &[metric("Flow", 2, 5), metric("Level", 3, 80)])).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_asked_for_its_birth_once_after_a_gap_and_all_its_data_is_in_the_table()
-> anyhow::Result<()> {
    let world = World::start(Mqtt::MosquittoV5(Saves::AtStop)).await?;
    let source =
        "[[source]]\nname = \"spb\"\ntopics = [\"spBv1.0/#\"]\ndecoder = \"sparkplug-b\"\n\n[buffer]\n";
    world.vary("agent.toml", "agent.toml", &[("[buffer]\n", source)])?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let mut node = Node::connect(&world).await?;

    node.is_born(1).await?;
    node.says("DDATA", payload(2, &[metric("", 2, 6)])).await?;
    // What had number 3 never arrived.
    node.says("DDATA", payload(4, &[metric("", 2, 7)])).await?;
    while node.commands.is_empty() {
        node.next().await?;
    }
    let name = b"Node Control/Rebirth";
    let asks = |command: &Vec<u8>| command.windows(name.len()).any(|at| at == name);
    ensure!(asks(&node.commands[0]), "{:?}", node.commands);
    // Before it answers, more of its data goes missing.
    node.says("DDATA", payload(6, &[metric("", 3, 81)])).await?;
    node.is_born(2).await?;
    node.says("DDATA", payload(2, &[metric("", 2, 8), metric("", 3, 82)])).await?;
    node.says("NDATA", payload(3, &[metric("", 1, 25)])).await?;

    // Both births: Supply and online, Flow, Level and online. Then six values.
    const READINGS: u64 = 2 * 5 + 6;
    world.status_when("all of it is stored", |s| s.counters.readings.journaled >= READINGS).await?;
    let rows = until("all of it is in the table", async || {
        let readings = world.tables().load("readings").await?;
        Ok(readings.map(|state| state.rows()).filter(|rows| *rows >= READINGS))
    });
    ensure!(rows.await.with_context(|| world.logs())? == READINGS);
    // What the agent would have asked since is on its way before this: it was acknowledged later.
    node.says("NDATA", payload(4, &[metric("", 1, 26)])).await?;
    world.status_when("it is stored", |s| s.counters.readings.journaled == READINGS + 1).await?;
    node.says("NCMD", b"the end".to_vec()).await?;
    while node.commands.last().is_none_or(|command| command != b"the end") {
        node.next().await?;
    }
    ensure!(node.commands.len() == 2, "asked more than once: {:?}", node.commands);
    let status = world.status_when("it has a status", |_| true).await?;
    ensure!(status.counters.messages.rejected == 0, "{:?}", status.rejected);
    Ok(())
}
