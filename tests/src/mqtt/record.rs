//! What an agent was given and what it acknowledged, worked out from the packets of both directions.
//!
//! Pure: packets in, counts and log entries out. Packets are those that the agent sees: under the ids that it knows, and
//! its PUBACKs whether or not they reach the broker: what it acknowledged it must have. A PUBACK counts only when it answers a QoS 1 PUBLISH that the
//! same connection carried towards the agent and that is still unanswered; packet ids of one connection say
//! nothing about another.

use std::collections::HashMap;

use serde::Serialize;

use super::numbers::NumberSet;
use super::wire::{self, Frame, Packet, Version, WireError};

/// Finds the running number in a message: (topic, payload) to number, or `None` for a message without one.
pub type Extractor = fn(&str, &[u8]) -> Option<u64>;

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sender {
    /// The broker, towards the agent.
    Broker,
    /// The agent, towards the broker.
    Agent,
}

/// Sums over the life of a proxy, but for those from `live` on, which are of this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections opened by the agent.
    pub connections: u64,
    /// PUBLISH packets passed towards the agent.
    pub publishes: u64,
    /// Those of them that carried DUP.
    pub duplicates: u64,
    /// Distinct numbers acknowledged.
    pub acknowledged: u64,
    /// PUBACKs that answered a PUBLISH of their connection, whether it had a number or not.
    pub answered: u64,
    /// PUBACKs that answered nothing on their connection: the agent acknowledged what it hadn't been given there.
    pub unmatched: u64,
    /// PUBACKs with a reason of 0x80 or above: the message was refused, not acknowledged.
    pub refused: u64,
    /// Of the PUBLISH packets, those that the proxy sent on its own command.
    pub injected: u64,
    /// PUBACKs of the agent that were lost on command.
    pub lost: u64,
    /// Connections cut because their bytes weren't MQTT.
    pub unreadable: u64,
    /// Times that all connections were cut.
    pub cuts: u64,
    /// Connections open now.
    pub live: u64,
    /// Open connections with a subscription: granted on them, or kept with a session the broker still had.
    pub subscribed: u64,
    /// QoS 1 messages passed to the agent on open connections and unanswered there.
    pub in_flight: u64,
    /// PUBLISH packets that the proxy keeps back.
    pub kept_back: u64,
    /// PUBACKs of the agent that the proxy keeps back.
    pub acknowledgements_kept_back: u64,
}

/// One recorded packet, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Number of the connection, from 1.
    pub connection: u64,
    /// Who sent it.
    pub from: Sender,
    /// `connect`, `connack`, `publish`, `puback`, `subscribe` or `suback`.
    pub packet: &'static str,
    /// Packet id, where the packet has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Quality of service of a PUBLISH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    /// DUP of a PUBLISH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dup: Option<bool>,
    /// Retain of a PUBLISH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// Session present of a CONNACK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_present: Option<bool>,
    /// Return code of a CONNACK or reason of a PUBACK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The message's running number; of a PUBACK, that of the PUBLISH it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The id that the broker knows the message by, where the agent was given another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brokers_id: Option<u16>,
    /// What the proxy did to it: `injected` (a PUBLISH of its own), `lost` or `kept` (a PUBACK that the broker doesn't
    /// get: lost on command, or the answer to a PUBLISH that wasn't the broker's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<&'static str>,
}

/// The record of one proxy.
#[derive(Debug)]
pub struct Record {
    extractor: Extractor,
    acknowledged: NumberSet,
    open: HashMap<u64, Connection>,
    counts: Counts,
}

#[derive(Debug)]
struct Connection {
    version: Version,
    subscribed: bool,
    /// Topics behind the broker's aliases; only filled when the extractor may need them.
    aliases: HashMap<u16, String>,
    /// Unanswered QoS 1 messages: packet id to running number and to how often it was sent.
    in_flight: HashMap<u16, (Option<u64>, u64)>,
}

impl Record {
    /// An empty record that finds numbers with `extractor`.
    #[must_use]
    pub fn new(extractor: Extractor) -> Self {
        Self { extractor, acknowledged: NumberSet::new(), open: HashMap::new(), counts: Counts::default() }
    }

    /// Begins a connection and returns its number, from 1.
    pub fn open(&mut self) -> u64 {
        self.counts.connections += 1;
        let connection = Connection {
            version: Version::V3,
            subscribed: false,
            aliases: HashMap::new(),
            in_flight: HashMap::new(),
        };
        self.open.insert(self.counts.connections, connection);
        self.counts.connections
    }

    /// Ends a connection; what is unanswered on it stays unacknowledged.
    pub fn close(&mut self, connection: u64) {
        self.open.remove(&connection);
    }

    /// Counts a connection whose bytes couldn't be read.
    pub fn unreadable(&mut self) {
        self.counts.unreadable += 1;
    }

    /// PUBACKs that answered something, refusals included.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.counts.answered + self.counts.refused
    }

    /// Counts a PUBLISH, already noted, that the proxy sent on its own command.
    pub fn injected(&mut self) {
        self.counts.injected += 1;
    }

    /// Counts a PUBACK, already noted, that was lost on command.
    pub fn lost(&mut self) {
        self.counts.lost += 1;
    }

    /// Counts a cut of all connections.
    pub fn cut(&mut self) {
        self.counts.cuts += 1;
    }

    /// Takes in one packet of an open connection and returns its log entry, if it is of a kind that is logged.
    ///
    /// # Errors
    /// When the packet breaks the rules of MQTT.
    pub fn note(
        &mut self,
        connection: u64,
        from: Sender,
        frame: Frame<'_>,
    ) -> Result<Option<Entry>, WireError> {
        let Some(open) = self.open.get_mut(&connection) else { return Ok(None) };
        let packet = wire::decode(frame, open.version)?;
        let mut entry = Entry {
            connection,
            from,
            packet: "",
            id: None,
            qos: None,
            dup: None,
            retain: None,
            session_present: None,
            code: None,
            number: None,
            brokers_id: None,
            done: None,
        };
        match packet {
            Packet::Connect { version, .. } => {
                open.version = version;
                entry.packet = "connect";
            }
            Packet::Connack { session_present, code } => {
                open.subscribed |= session_present;
                entry = Entry {
                    packet: "connack",
                    session_present: Some(session_present),
                    code: Some(code),
                    ..entry
                };
            }
            Packet::Publish { dup, qos, retain, topic, alias, packet_id, payload, .. } => {
                entry = Entry {
                    packet: "publish",
                    id: packet_id,
                    qos: Some(qos),
                    dup: Some(dup),
                    retain: Some(retain),
                    ..entry
                };
                if from == Sender::Broker {
                    entry.number = open.number_of(topic, alias, payload, self.extractor);
                    self.counts.publishes += 1;
                    self.counts.duplicates += u64::from(dup);
                    if let (1, Some(id)) = (qos, packet_id) {
                        let (number, sent) = open.in_flight.entry(id).or_default();
                        (*number, *sent) = (entry.number, *sent + 1);
                    }
                }
            }
            Packet::Puback { packet_id, reason } => {
                entry = Entry { packet: "puback", id: Some(packet_id), code: Some(reason), ..entry };
                if from == Sender::Agent {
                    let answered = open.in_flight.get_mut(&packet_id).map(|(number, sent)| {
                        *sent -= 1;
                        (*number, *sent)
                    });
                    if let Some((_, 0)) = answered {
                        open.in_flight.remove(&packet_id);
                    }
                    match answered {
                        None => self.counts.unmatched += 1,
                        Some((number, _)) => {
                            entry.number = number;
                            if reason >= 0x80 {
                                self.counts.refused += 1;
                            } else {
                                self.counts.answered += 1;
                                if let Some(number) = number {
                                    self.acknowledged.insert(number);
                                }
                            }
                        }
                    }
                }
            }
            Packet::Subscribe { packet_id } => {
                entry = Entry { packet: "subscribe", id: Some(packet_id), ..entry };
            }
            Packet::Suback { packet_id, granted } => {
                open.subscribed |= granted;
                entry = Entry { packet: "suback", id: Some(packet_id), ..entry };
            }
            Packet::Other => return Ok(None),
        }
        Ok(Some(entry))
    }

    /// The sums so far and the state of this moment.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { acknowledged: self.acknowledged.len(), ..self.counts };
        for open in self.open.values() {
            counts.live += 1;
            counts.subscribed += u64::from(open.subscribed);
            counts.in_flight += open.in_flight.values().map(|(_, sent)| sent).sum::<u64>();
        }
        counts
    }

    /// The distinct numbers acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> &NumberSet {
        &self.acknowledged
    }
}

impl Connection {
    fn number_of(
        &mut self,
        topic: &str,
        alias: Option<u16>,
        payload: &[u8],
        extractor: Extractor,
    ) -> Option<u64> {
        match alias {
            Some(alias) if topic.is_empty() => {
                let topic = self.aliases.get(&alias).map_or("", String::as_str);
                extractor(topic, payload)
            }
            Some(alias) => {
                self.aliases.insert(alias, topic.to_owned());
                extractor(topic, payload)
            }
            None => extractor(topic, payload),
        }
    }
}
