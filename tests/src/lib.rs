//! Stand-ins, oracles and faults with which both programs are run and broken together.

pub mod wait;
pub mod workspace;
pub mod folder;
pub mod mqtt;
pub mod s3;
pub mod faults;
pub mod tls;
pub mod keys;
pub mod forward;
pub mod narrow;
pub mod lake;
pub mod world;
pub mod crash;
pub mod sim;
