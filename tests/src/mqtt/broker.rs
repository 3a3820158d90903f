//! An MQTT broker inside the process: rumqttd on 127.0.0.1, one port for MQTT 3.1.1 and one for MQTT 5.
//!
//! It keeps sessions and messages in memory only, and drops, without telling anyone, what a subscriber is too slow
//! to fetch from its log: whoever publishes must bound what is outstanding (see [`MAX_OUTSTANDING_BYTES`]).

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use anyhow::{Context, bail};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::TcpStream;

use crate::wait::until;

/// Largest payload a client may publish, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Bytes of topics and payloads per subscription filter that may be outstanding without any being dropped.
pub const MAX_OUTSTANDING_BYTES: usize = LOG_SEGMENT * (LOG_SEGMENTS - 1);

/// Unacknowledged messages that a subscriber may have: rumqttd's own limit.
pub const IN_FLIGHT: usize = 100;

const LOG_SEGMENT: usize = 8 << 20;
const LOG_SEGMENTS: usize = 8;

/// A running broker. rumqttd can't be stopped: it runs until the process ends.
#[derive(Debug)]
pub struct EmbeddedBroker {
    v4: SocketAddr,
    v5: SocketAddr,
}

impl EmbeddedBroker {
    /// Starts a broker: MQTT 3.1.1 on `listen`, MQTT 5 on the port after it. With port 0 both ports are free ones.
    /// Returns when both ports answer.
    ///
    /// # Errors
    /// When a port is taken or the broker stops or doesn't answer.
    pub async fn start(listen: SocketAddr) -> anyhow::Result<Self> {
        let (v4, v5) = addresses(listen)?;
        let mut broker = Broker::new(config(v4, v5));
        let running = thread::Builder::new()
            .name("mqtt-broker".to_owned())
            .spawn(move || broker.start().map_err(|error| error.to_string()))
            .context("MQTT broker: can't start its thread")?;
        for address in [v4, v5] {
            until("the MQTT broker answers", async || {
                let over = running.is_finished() || TcpStream::connect(address).await.is_ok();
                Ok(over.then_some(()))
            })
            .await?;
            if running.is_finished() {
                let ended = running.join();
                bail!("MQTT broker: stopped at once: {ended:?}");
            }
        }
        Ok(Self { v4, v5 })
    }

    /// Where MQTT 3.1.1 is spoken.
    #[must_use]
    pub fn address_v4(&self) -> SocketAddr {
        self.v4
    }

    /// Where MQTT 5 is spoken.
    #[must_use]
    pub fn address_v5(&self) -> SocketAddr {
        self.v5
    }

    /// Port on which MQTT 3.1.1 is spoken.
    #[must_use]
    pub fn port_v4(&self) -> u16 {
        self.v4.port()
    }

    /// Port on which MQTT 5 is spoken.
    #[must_use]
    pub fn port_v5(&self) -> u16 {
        self.v5.port()
    }
}

/// The two addresses, each seen to be free. rumqttd logs a taken port and goes on without it, so it is asked here.
fn addresses(listen: SocketAddr) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let taken = |address: SocketAddr| format!("MQTT broker: can't listen on {address}; choose another port");
    let next = match listen.port() {
        0 => 0,
        port => port.checked_add(1).context("MQTT broker: no port after 65535; choose a lower one")?,
    };
    // Both are held until both are known, so that two free ports can't be the same one.
    let v4 = TcpListener::bind(listen).with_context(|| taken(listen))?;
    let second = SocketAddr::new(listen.ip(), next);
    let v5 = TcpListener::bind(second).with_context(|| taken(second))?;
    Ok((v4.local_addr()?, v5.local_addr()?))
}

fn config(v4: SocketAddr, v5: SocketAddr) -> Config {
    let server = |name: &str, listen| ServerSettings {
        name: name.to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: MAX_PAYLOAD + (64 << 10), // the limit counts the whole packet, topic included
            max_inflight_count: IN_FLIGHT,
            auth: None,
            external_auth: None,
            dynamic_filters: true, // publishing where nobody subscribed yet is no error
        },
    };
    Config {
        id: 0,
        router: RouterConfig {
            max_connections: 1_000,
            max_outgoing_packet_count: 1_000,
            max_segment_size: LOG_SEGMENT,
            max_segment_count: LOG_SEGMENTS,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("v4".to_owned(), server("mqtt-v4", v4))])),
        v5: Some(HashMap::from([("v5".to_owned(), server("mqtt-v5", v5))])),
        ..Config::default()
    }
}
