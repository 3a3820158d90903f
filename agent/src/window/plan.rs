//! What is handed from the open windows to the fold: which windows may close, and where their readings lie.

use std::collections::BTreeSet;
use std::sync::Arc;

use tributary_contract::id::Namespace;
use tributary_contract::series::SeriesId;
use tributary_contract::time::Timestamp;

use super::decision::{DecisionKey, Seen};
use super::definition::Definition;

/// Windows that may close now, and where their readings lie in the journal. Owns all that folding needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is known, to be kept with the decisions.
    pub seen: Seen,
    /// `settled` and `open_from` as they were before: what a crash in the middle of the plan must find.
    pub before: Seen,
    /// The windows.
    pub windows: Vec<DueWindow>,
    /// Series of the windows.
    pub series: Vec<PlanSeries>,
    /// The definitions.
    pub definitions: Arc<[Definition]>,
    /// Sources whose readings are in none of them.
    pub without: Arc<BTreeSet<String>>,
    /// Readings of which folding may hold the values at once; a third of them, where it must hold the readings.
    pub most_held: u64,
    /// The first and the last instant between which readings of open windows were shed.
    pub holes: Option<(Timestamp, Timestamp)>,
}

/// One window of one series that may close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueWindow {
    /// Place in the plan's `definitions`.
    pub definition: u16,
    /// Place in the plan's `series`.
    pub series: u32,
    /// First instant.
    pub start: Timestamp,
    /// First instant behind it.
    pub end: Timestamp,
    /// From which instant on a reading may still hold at its start.
    pub from: Timestamp,
    /// Whether it was closed before: then an earlier decision may be known.
    pub late: bool,
    /// Whether it was frozen before: then an earlier decision is known.
    pub frozen: bool,
}

/// A series of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSeries {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Device.
    pub device: Arc<str>,
    /// Series.
    pub id: SeriesId,
}

impl Plan {
    /// The name of one of its windows, as decisions have it.
    pub fn key(&self, window: &DueWindow) -> Option<DecisionKey> {
        let series = self.series.get(window.series as usize)?;
        let definition = self.definitions.get(usize::from(window.definition))?;
        Some(DecisionKey {
            namespace: series.namespace.clone(),
            window: Arc::clone(&definition.name),
            series: series.id,
            start: window.start,
        })
    }
}
