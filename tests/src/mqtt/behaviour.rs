//! What the proxy does to the traffic on command, as data.
//!
//! A [`Behaviour`] holds until another is set; a [`Cut`] strikes once; a [`Redelivery`] is one act on what is live.
//! None of them lets the broker learn of a message that it didn't send, or the agent's id of one that it did.

use std::time::Duration;

/// How the proxy passes on what both sides send. The default passes everything at once and unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// When a PUBLISH goes on towards the agent.
    pub publishes: Pace,
    /// When a PUBACK goes on towards the broker.
    pub acknowledgements: Pace,
    /// Which of the agent's PUBACKs the broker never sees.
    pub lost_acknowledgements: Lost,
    /// How messages are named that the broker sends.
    pub names: Names,
    /// Unanswered messages that the agent is given at most on a connection, whatever the broker's own window is; the
    /// agent's receive maximum (MQTT 5) is never exceeded in any case.
    pub window: Option<u16>,
    /// Whether the broker sends retained messages at each SUBSCRIBE, though the agent asked it not to (MQTT 5; a
    /// 3.1.1 broker always does): the retain handling is taken out of the SUBSCRIBE.
    pub retained_at_each_subscribe: bool,
}

/// When a packet goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    #[default]
    AtOnce,
    /// So long after it was read.
    After(Duration),
    /// Not before the behaviour changes; what is still held when its connection ends is lost.
    Held,
}

/// Which acknowledgements are lost on the way to the broker: for the broker the message is unacknowledged, for the agent
/// it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lost {
    /// None.
    #[default]
    None,
    /// One in so many; 1 loses all.
    Every(u64),
}

/// How messages of the broker are named towards the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// As the broker does: Mosquitto sends a message again under its old id with DUP.
    #[default]
    Brokers,
    /// New ids from 1 on each connection, never DUP: rumqttd, AWS IoT Core, a broker that lost its memory.
    NewWithoutDup,
}

/// When all connections are cut. Counted from the command, over all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After so many more PUBLISH packets were passed to the agent.
    AfterPublishes(u64),
    /// In the middle of a PUBLISH, after so many whole ones.
    WithinPublish(u64),
    /// When so many more PUBACKs were read from the agent that the broker waits for; the last of them isn't passed on.
    BeforeAcknowledgement(u64),
    /// When so many more were passed to the broker.
    AfterAcknowledgement(u64),
}

/// Messages that the agent was given are given once more on its live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redelivery {
    /// How many, the newest ones; they are sent in the order in which they were sent first.
    pub messages: usize,
    /// Which.
    pub of: Of,
    /// Under which id.
    pub id: Id,
    /// Whether with DUP.
    pub dup: bool,
}

/// Which messages are redelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Those that the agent hasn't answered on this connection: what EMQX and NATS do after a while.
    Unanswered,
    /// Those that it has answered, on this connection or an earlier one: the acknowledgement was lost.
    Answered,
}

/// Under which id a message is redelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// The one that it had. Left out where that id now names another unanswered message.
    Old,
    /// Another one.
    New,
}
