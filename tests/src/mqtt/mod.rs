//! MQTT: the embedded broker, and the proxy that records what an agent was given and what it acknowledged.
//!
//! What comes in: a broker's packets towards an agent and the agent's packets back. What goes out: the same packets,
//! unless a test commands faults ([`behaviour`]), and a record of each PUBLISH and each PUBACK. The record is the oracle for "acknowledged": it is
//! written before the bytes are passed on, so it never knows less than either side. What survives a crash:
//! nothing but the log file, if one was asked for; the demo keeps the acknowledged numbers itself.

pub mod broker;
pub mod numbers;
pub mod behaviour;
pub mod wire;
pub mod record;
pub mod relay;
pub mod proxy;
#[cfg(test)]
mod tests;

pub use behaviour::{Behaviour, Cut, Redelivery};
pub use broker::EmbeddedBroker;
pub use numbers::NumberSet;
pub use proxy::Proxy;
