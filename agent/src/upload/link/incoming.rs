//! How much is sealed in the mean: what new readings will take of the link.

use tributary_contract::time::Timestamp;

/// Time in which two thirds of what was are forgotten, microseconds.
const MEMORY: f64 = 6.0 * 3600.0 * 1e6;
/// Less time than this says nothing, microseconds.
const LEAST: f64 = 3600e6;

/// Bytes sealed, the older the less they count.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Incoming {
    at: Option<Timestamp>,
    bytes: f64,
    time: f64,
}

impl Incoming {
    /// So much was sealed.
    pub fn add(&mut self, bytes: u64, now: Timestamp) {
        let passed = self.at.map_or(0, |at| now.since(at)).clamp(0, 24 * 3_600_000_000) as f64;
        let kept = (-passed / MEMORY).exp();
        self.bytes = self.bytes * kept + bytes as f64;
        self.time = self.time * kept + passed;
        self.at = Some(now);
    }

    /// Bytes a second; none before that is known.
    pub fn per_second(&self) -> Option<f64> {
        (self.time >= LEAST).then(|| self.bytes / self.time * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_is_measured_and_a_flood_is_forgotten() {
        let mut incoming = Incoming::default();
        let mut now = Timestamp(0);
        for _ in 0..200 {
            now = now.plus(900_000_000);
            incoming.add(90_000, now);
        }
        assert!((incoming.per_second().unwrap() - 100.0).abs() < 5.0, "{:?}", incoming.per_second());
        incoming.add(50_000_000, now);
        for _ in 0..200 {
            now = now.plus(900_000_000);
            incoming.add(90_000, now);
        }
        assert!((incoming.per_second().unwrap() - 100.0).abs() < 10.0, "{:?}", incoming.per_second());
        assert_eq!(Incoming::default().per_second(), None);
    }
}
