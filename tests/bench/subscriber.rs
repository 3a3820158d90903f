//! What the agent is compared with: a subscriber that acknowledges at once, or when its row is durable in SQLite.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rusqlite::{Connection, params};
use tokio::sync::mpsc;

/// As many on the way as the agent takes.
const IN_FLIGHT: u16 = 1000;

/// What it is started with.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    broker: SocketAddr,
    /// Where its rows go; nowhere without it
    #[arg(long)]
    database: Option<PathBuf>,
}

/// Says `0` once it is subscribed, then, to each line on standard input, how many messages it has acknowledged; ends with
/// its input.
///
/// # Errors
/// When the connection breaks or the database fails.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let rows = options.database.as_deref().map(Connection::open).transpose()?;
    if let Some(rows) = &rows {
        // What gives each acknowledged message the agent's own promise.
        rows.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        rows.pragma_update(None, "synchronous", "FULL")?;
        rows.execute_batch(
            "CREATE TABLE message (id INTEGER PRIMARY KEY, received_at INTEGER, topic TEXT, payload BLOB)",
        )?;
    }
    let broker = options.broker;
    let mut mqtt = MqttOptions::new("bench-subscriber", broker.ip().to_string(), broker.port());
    mqtt.set_manual_acks(true).set_receive_maximum(Some(IN_FLIGHT)).set_clean_start(true);
    // Mosquitto may send more than was agreed; each must find room for its acknowledgement.
    let (client, mut events) = AsyncClient::new(mqtt, 1 << 20);
    client.subscribe("sensors/#", QoS::AtLeastOnce).await?;
    let mut asked = asked();
    let mut stored: u64 = 0;
    loop {
        tokio::select! {
            event = events.poll() => match event.context("the subscriber's connection")? {
                Event::Incoming(Packet::Publish(publish)) => {
                    if let Some(rows) = &rows {
                        let topic = String::from_utf8_lossy(&publish.topic);
                        let at = jiff::Timestamp::now().as_millisecond();
                        let mut insert = rows.prepare_cached(
                            "INSERT INTO message (received_at, topic, payload) VALUES (?1, ?2, ?3)",
                        )?;
                        insert.execute(params![at, topic, publish.payload.as_ref()])?;
                    }
                    if client.try_ack(&publish).is_err() {
                        bail!("an acknowledgement found no room");
                    }
                    stored += 1;
                }
                Event::Incoming(Packet::SubAck(_)) => {
                    say(0)?;
                }
                _ => {}
            },
            question = asked.recv() => match question {
                Some(()) => say(stored)?,
                None => return Ok(()),
            },
        }
    }
}

/// A question for each line on standard input, until its end.
fn asked() -> mpsc::UnboundedReceiver<()> {
    let (ask, asked) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines();
        lines.map_while(Result::ok).take_while(|_| ask.send(()).is_ok()).for_each(drop);
    });
    asked
}

fn say(count: u64) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{count}").and_then(|()| output.flush()).context("the bench doesn't listen")
}
