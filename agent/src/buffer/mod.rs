//! The durable buffer.

pub mod entry;
