//! `sources`, `devices` and `metrics`: which series something is of.

use serde::{Deserialize, Serialize};

use super::section::Section;

/// Those series whose source, device and metric all match.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Globs of sources; none for all.
    pub sources: Vec<String>,
    /// Globs of devices, likewise.
    pub devices: Vec<String>,
    /// Globs of metrics, likewise.
    pub metrics: Vec<String>,
}

impl Selection {
    /// Reads its three keys.
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self { sources: s.strings("sources"), devices: s.strings("devices"), metrics: s.strings("metrics") }
    }

    /// Its keys, with their globs.
    pub(super) const fn keys(&self) -> [(&'static str, &Vec<String>); 3] {
        [("sources", &self.sources), ("devices", &self.devices), ("metrics", &self.metrics)]
    }
}
