//! Taking in: MQTT messages become readings, rejects or recognised copies, and are acknowledged once that is durable.
//!
//! *What comes in:* publishes at QoS 0 and 1 from persistent sessions ([`mqtt`]), one task a broker. Each carries the
//! generation of the connection that brought it.
//!
//! *What goes out:* [`stage`] decides everything about one message without touching anything: which source takes it
//! ([`topic`]), what it says ([`decode`]), whether it is a copy of one that is stored ([`redelivery`]), and when what was
//! collected is due for its commit ([`collect`]). What says hardly more than the reading before it is marked to
//! stay here ([`deadband`]). The pipeline commits a collected batch in one durable transaction, and
//! only then hands its acknowledgements back to the connections, in the order of arrival.
//!
//! *What survives a crash:* at each instant an unacknowledged message is at the broker, which sends it again. What was
//! committed but not acknowledged comes again too, and is recognised: the memory of redeliveries is part of the batch
//! that holds the messages, and is restored from the journal's tail before the first connection. Messages of QoS 0 that
//! were collected and not committed are gone; nothing can bring them back.
//!
//! *What waited at a broker:* after a connection that found its session, a marker that we publish behind it tells when it has
//! come ([`backlog`]); readings without own time that come before it, after an absence longer than the lateness, are marked
//! `queued` and enter no window.
//!
//! *What is deliberately absent:* QoS 2 subscriptions (the library can't keep such a session over a restart), shared
//! subscriptions (a copy could reach another client), and unsubscribing by silence: a source that leaves the
//! configuration is unsubscribed by name when the session is next resumed.

pub mod topic;
pub mod decode;
pub mod redelivery;
pub mod collect;
pub mod backlog;
pub mod deadband;
pub mod stage;
pub mod mqtt;

use bytes::Bytes;
use tributary_contract::time::Timestamp;

/// One PUBLISH as a broker sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Which broker of the configuration, by position.
    pub broker: usize,
    /// Generation of the connection: grows with each CONNACK, over restarts too.
    pub generation: u64,
    /// Packet id; 0 at QoS 0.
    pub packet_id: u16,
    /// QoS it was delivered with.
    pub qos: u8,
    /// Whether the broker says that it sent it before.
    pub dup: bool,
    /// Whether it is a retained message.
    pub retain: bool,
    /// Topic.
    pub topic: String,
    /// Payload; only its first KiB where the message is beyond [`crate::config::Limits::payload`].
    pub payload: Bytes,
    /// Bytes of the whole payload.
    pub size: usize,
    /// When it was received: whole milliseconds.
    pub received_at: Timestamp,
}

/// An acknowledgement that may be sent: what it acknowledges is durable, or needs no keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Which broker, by position.
    pub broker: usize,
    /// The connection that brought the message; on any other the id means another message.
    pub generation: u64,
    /// Packet id.
    pub packet_id: u16,
    /// QoS it was delivered with.
    pub qos: u8,
}

/// What the broker knew of us when it answered a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// It kept our session.
    Present,
    /// It has none, and we never had one here.
    New,
    /// It has none, though we had one: what it held for us is lost.
    Lost,
}
