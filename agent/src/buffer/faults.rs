//! Where a test may let the buffer die: each durable step passes a named point before and after.

use std::io;

/// Asked at each point; an error there is taken as a crash: the buffer refuses everything until it is opened again.
pub trait Faults: Send + Sync {
    /// Passes the point, or dies there.
    fn hit(&self, point: &'static str) -> io::Result<()>;
}

/// No faults: what runs in earnest.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn hit(&self, _: &'static str) -> io::Result<()> {
        Ok(())
    }
}
