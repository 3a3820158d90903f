//! The receiver: what gateways delivered to the bucket goes into the lake's tables, each segment once.
//!
//! One object's journey is the order of the modules. The bucket is listed ([`arrival`]); what is new is read and
//! believed or refused ([`validate`]); the ledger knows it from then on ([`dedupe`]); a batch of a table's segments
//! becomes one commit of the catalog ([`catalog`]); the gateway learns of it by its receipt ([`receipt`]), and of what operators
//! ask of it by its desired document ([`desired`]). Where ledger and
//! tables have come apart, a person has them brought together ([`recover`]), and may ask whether all of it fits ([`audit`]). [`pipeline`] calls the stages one after the
//! other, [`fleet`] shows how every gateway is, and [`views`] says how engines show the newest revisions. What is durable stands in the bucket, the
//! ledger and the tables only: every pass may die anywhere and the next one goes on.

#![forbid(unsafe_code)]

pub mod config;
pub mod offload;
pub mod bucket;
pub mod arrival;
pub mod validate;
pub mod dedupe;
pub mod catalog;
pub mod receipt;
pub mod desired;
pub mod recover;
pub mod audit;
pub mod pipeline;
pub mod fleet;
pub mod telemetry;
pub mod views;

#[cfg(test)]
mod fixture;
