//! HTTP faults: a reverse proxy before the S3 server that spoils requests by script, and records what it saw.
//!
//! What comes in: requests of the programs, signed for the proxy's address; they are passed on with their `Host`, so the
//! signature holds. What goes out: the server's answers, or what a [`Fault`] makes of them. A fault is data: [`Which`]
//! requests it strikes, and how ([`Spoil`], which says too whether the server did what was asked). What was asked, done
//! and told stands in a record ([`Seen`]). What survives a crash: nothing; the server behind keeps what it did.

pub mod operation;
pub mod script;
mod proxy;
#[cfg(test)]
mod tests;

pub use operation::{Asked, Operation};
pub use proxy::{FaultProxy, Seen};
pub use script::{Fault, Reply, Spoil, Which};
