//! Redeliveries: which arriving message is a copy of one that is already stored, or collected to be.
//!
//! Two rules recognise a copy, each where it can. *By the session*, for messages without a time of their own: DUP, and
//! the same packet id and hash as a remembered message of this session. *By content*, for messages that carry their
//! own time: the same connection name, topic and payload; each remembered message absorbs at most one copy per later
//! connection, and on the same connection only with DUP, or where the broker is declared to send again on a live one.
//! DUP and id aren't asked across connections: rumqttd and AWS IoT Core redeliver under new ids without DUP.
//!
//! Where neither rule can decide, the message is stored and marked, never dropped:
//! - it says DUP, and what this session delivered before isn't remembered (the journal lost it);
//! - it says DUP and agrees with a remembered message, but this broker hands out the same ids again after few messages:
//!   then it may be a later message, sent for the first time into a connection that had just broken;
//! - it comes at the head of a later connection, without DUP and without own time, and equals one of the last messages
//!   of an earlier connection. The head ends with the first message that can't be a copy, or the first DUP of what an
//!   earlier connection brought, which shows that this broker marks its copies;
//! - it has no own time, equals a message whose acknowledgement may not have reached the broker yet, and this broker is
//!   declared to send again on a live connection.
//!
//! What may be unacknowledged is what the in-flight window holds, and at least the last two batches and the one being
//! collected: a broker's window can be larger than we were told.
//!
//! Memory is bounded by count and time. Time counts from the connect where that is later, and the last two in-flight
//! windows are always kept: after an outage longer than `dedupe_window` the broker still sends its copies first.

use sha2::{Digest as _, Sha256};
use tributary_contract::time::Timestamp;

mod codec;
mod connection;
mod ids;
#[cfg(test)]
mod tests;

pub use codec::{MemoryError, decode, encode, moved};
use connection::Connection;

/// By which rule a copy was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// By packet id and DUP.
    Session,
    /// By topic and payload.
    Content,
}

impl Rule {
    /// Both, in the order in which they are counted.
    pub const ALL: [Rule; 2] = [Rule::Session, Rule::Content];

    /// The code, as status and metrics have it.
    pub const fn code(self) -> &'static str {
        match self {
            Rule::Session => "session",
            Rule::Content => "content",
        }
    }
}

/// What is thought of an arriving message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// New.
    Fresh,
    /// A copy of a message that is stored or collected: to be counted and acknowledged, not stored.
    Redelivered(Rule),
    /// Perhaps a copy: to be stored and marked.
    PossibleDuplicate,
}

/// What a remembered message is recognised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has no time of its own: by packet id and DUP, within the session.
    Session,
    /// It has its own time: by content.
    Content,
    /// No message: the broker had no session, so what is remembered by id ends here.
    SessionBegan,
}

/// One message as the journal remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// Which broker, by position.
    pub connection: u16,
    /// The connection that brought it.
    pub generation: u64,
    /// Packet id.
    pub packet_id: u16,
    /// What it is recognised by.
    pub kind: Kind,
    /// [`hash`] of it.
    pub hash: u64,
    /// When it was received; whole milliseconds.
    pub at: Timestamp,
}

/// A message of QoS 1 that is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arriving {
    /// Which broker, by position.
    pub connection: u16,
    /// The connection that brought it.
    pub generation: u64,
    /// Packet id.
    pub packet_id: u16,
    /// Whether the broker says that it sent it before.
    pub dup: bool,
    /// Whether all its readings have a time of their own.
    pub own_time: bool,
    /// [`hash`] of it.
    pub hash: u64,
    /// When it was received; whole milliseconds.
    pub at: Timestamp,
}

/// The first eight bytes of a SHA-256 over connection name, topic and payload, each after its length.
pub fn hash(connection_name: &str, topic: &str, payload: &[u8]) -> u64 {
    let mut sha = Sha256::new();
    for part in [connection_name.as_bytes(), topic.as_bytes(), payload] {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&sha.finalize()[..8]);
    u64::from_be_bytes(first)
}

/// What the memory must know of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerTraits {
    /// Whether it sends unacknowledged messages again on the live connection.
    pub resends: bool,
    /// How many messages it may have on the way to us.
    pub inflight_window: u16,
}

/// The memory of all connections.
#[derive(Debug, Clone)]
pub struct Memory {
    connections: Vec<Connection>,
    /// What was remembered since the last [`Memory::export`].
    collected: Vec<Remembered>,
    window: i64,
    messages: usize,
}

impl Memory {
    /// An empty memory for those brokers, in the order of the configuration, that keeps messages for `window`
    /// microseconds and at most `messages` of each broker.
    pub fn new(brokers: &[BrokerTraits], window: i64, messages: usize) -> Self {
        let connections = brokers.iter().map(|traits| Connection::new(*traits)).collect();
        Self { connections, collected: Vec::new(), window, messages }
    }

    /// Takes up what the journal remembers of one batch, oldest first. Call it before the first connection.
    pub fn restore(&mut self, remembered: impl IntoIterator<Item = Remembered>) {
        for r in remembered {
            let limit = self.messages;
            if let Some(connection) = self.connections.get_mut(usize::from(r.connection)) {
                connection.restore(&r, limit);
            }
        }
        self.connections.iter_mut().for_each(Connection::hand_over);
    }

    /// The journal lost some of its past: until a session begins anew, what a broker calls DUP can't be told apart.
    pub fn doubt_past(&mut self) {
        self.connections.iter_mut().for_each(Connection::doubt_past);
    }

    /// How many messages a broker may have on the way to us from now on.
    pub fn set_window(&mut self, connection: u16, inflight_window: u16) {
        if let Some(c) = self.connections.get_mut(usize::from(connection)) {
            c.set_window(inflight_window);
        }
    }

    /// A connection was made and the broker kept the session; all that is remembered is now of an earlier one.
    pub fn new_connection(&mut self, connection: u16, generation: u64, at: Timestamp) {
        if let Some(c) = self.connections.get_mut(usize::from(connection)) {
            c.connect(generation, at);
        }
    }

    /// A connection was made, and the broker had no session: ids mean nothing any more, content still does.
    pub fn session_lost(&mut self, connection: u16, generation: u64, at: Timestamp) {
        if let Some(c) = self.connections.get_mut(usize::from(connection)) {
            c.connect(generation, at);
            c.begin_session();
            self.collected.push(Remembered {
                connection,
                generation,
                packet_id: 0,
                kind: Kind::SessionBegan,
                hash: 0,
                at: whole_ms(at),
            });
        }
    }

    /// Judges a message of QoS 1. A copy is noted as absorbed; anything else is to be [`Memory::remember`]ed once it is
    /// collected.
    pub fn judge(&mut self, arriving: &Arriving) -> Judgement {
        match self.connections.get_mut(usize::from(arriving.connection)) {
            Some(connection) => connection.judge(arriving),
            None => Judgement::Fresh,
        }
    }

    /// Remembers a message that is collected to be stored, as readings or as a reject.
    pub fn remember(&mut self, arriving: &Arriving) {
        let Some(connection) = self.connections.get_mut(usize::from(arriving.connection)) else { return };
        let kind = if arriving.own_time { Kind::Content } else { Kind::Session };
        let remembered = Remembered {
            connection: arriving.connection,
            generation: arriving.generation,
            packet_id: arriving.packet_id,
            kind,
            hash: arriving.hash,
            at: arriving.at,
        };
        connection.remember(&remembered);
        connection.trim(arriving.at, self.window, self.messages);
        self.collected.push(remembered);
    }

    /// The wall clock stepped by `by` microseconds: how long ago a message came stays what it was.
    pub fn clock_stepped(&mut self, by: i64) {
        for c in &mut self.connections {
            c.clock_stepped(by);
        }
        self.collected.iter_mut().for_each(|r| r.at = whole_ms(r.at.plus(by)));
    }

    /// An id came that isn't stored (no source takes the topic): what was remembered under it is acknowledged.
    pub fn forget_id(&mut self, connection: u16, packet_id: u16) {
        if let Some(c) = self.connections.get_mut(usize::from(connection)) {
            c.forget_id(packet_id);
        }
    }

    /// Hands over what was remembered since the last call, for the batch that holds the messages.
    pub fn export(&mut self) -> Vec<Remembered> {
        self.connections.iter_mut().for_each(Connection::hand_over);
        std::mem::take(&mut self.collected)
    }

    /// How many messages are remembered.
    pub fn len(&self) -> usize {
        self.connections.iter().map(Connection::len).sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// As it can be written down.
fn whole_ms(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.micros().div_euclid(1000))
}
