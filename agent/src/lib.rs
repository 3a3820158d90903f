//! The agent: takes MQTT readings into a durable buffer on a gateway and delivers them to the lake's bucket.
//!
//! The modules stand in the order in which a reading passes them; an import may only point back up this list:
//! a reading is taken in (`ingest`), made durable (`buffer`), folded into windows (`window`), judged by rules (`alert`),
//! sealed into a segment (`segment`) and delivered (`upload`); `status` says how that goes, `tools` lets people look into the buffer, and
//! `pipeline` is the only place that calls one stage after the other. `command` holds further commands.

#![forbid(unsafe_code)]

pub mod config;
pub mod reading;
pub mod clock;
pub mod tls;
pub mod offload;
pub mod heap;
pub mod ingest;
pub mod buffer;
pub mod window;
pub mod alert;
pub mod segment;
pub mod upload;
pub mod status;
pub mod telemetry;
pub mod tools;
pub mod pipeline;
pub mod command;
