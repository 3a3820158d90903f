//! Where a test may let the buffer die, and what it draws: each durable step passes a named point before and after.

use std::fs::File;
use std::io::{self, Read as _};

/// Asked at each point; an error there is taken as a crash: the buffer refuses everything until it is opened again.
pub trait Faults: Send + Sync {
    /// Passes the point, or dies there.
    fn hit(&self, point: &'static str) -> io::Result<()>;

    /// 64 random bits, for the name of an epoch: the operating system's, unless a test wants to see the same again.
    fn random(&self) -> io::Result<u64> {
        let mut bits = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut bits)?;
        Ok(u64::from_le_bytes(bits))
    }
}

/// No faults: what runs in earnest.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn hit(&self, _: &'static str) -> io::Result<()> {
        Ok(())
    }
}
