//! Walks through the buffer page by page: batches with their readings, series, segments, rejects.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_contract::id::Epoch;

use super::access::{Access, AccessError};
use super::pick::Pick;
use crate::buffer::reader::{
    Ask, BatchFacts, EpochFacts, Facts, Fault, Page, RejectFacts, RowState, SegmentFacts,
};
use crate::buffer::row::{Row, SeriesEntry};

/// A reading with all that its table has of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Its batch.
    pub batch: i64,
    /// The epoch of its batch.
    pub epoch: Epoch,
    /// What became of it.
    pub state: RowState,
    /// The reading.
    pub row: Row,
    /// Its series.
    pub series: Arc<SeriesEntry>,
}

impl Reading {
    /// Whether it is picked; what another epoch took over stands there.
    pub fn is_in(&self, pick: &Pick) -> bool {
        self.state != RowState::Moved && pick.holds(&self.row) && pick.wants(&self.series)
    }
}

/// What is known of names: series and epochs, asked for as they turn up.
#[derive(Default)]
pub struct Names {
    series: HashMap<u32, Arc<SeriesEntry>>,
    epochs: HashMap<u32, Epoch>,
}

impl Names {
    /// All series that are known so far.
    pub fn all(&self) -> impl Iterator<Item = &Arc<SeriesEntry>> {
        self.series.values()
    }

    /// A series; none if it was never asked for, or can't be read.
    pub fn get(&self, key: u32) -> Option<&Arc<SeriesEntry>> {
        self.series.get(&key)
    }

    /// Asks for all series behind those that are known; tells what couldn't be read.
    ///
    /// # Errors
    /// The way to the buffer's.
    pub fn load(&mut self, access: &mut Access) -> Result<Vec<Fault>, AccessError> {
        let mut after = self.series.keys().max().map_or(-1, |key| i64::from(*key));
        let mut all = Vec::new();
        loop {
            let Page::Series { series, faults, next } = access.ask(&Ask::Series { after })? else {
                return Err(AccessError::Confused);
            };
            self.series.extend(series.iter().map(|s| (s.key, Arc::new(s.entry()))));
            all.extend(faults);
            match next {
                Some(next) => after = next,
                None => return Ok(all),
            }
        }
    }

    /// The readings of a batch with those series that can be found; the second are the rows whose series can't. The error
    /// says why the batch can't be read.
    ///
    /// # Errors
    /// The way to the buffer's.
    pub fn readings(
        &mut self,
        access: &mut Access,
        batch: &BatchFacts,
    ) -> Result<Result<(Vec<Reading>, u64), String>, AccessError> {
        let rows = match batch.read() {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(why)),
        };
        if rows.iter().any(|(_, row)| !self.series.contains_key(&row.series)) {
            self.load(access)?;
        }
        if !self.epochs.contains_key(&batch.epoch) {
            self.epochs = facts(access)?.epochs.iter().map(|e| (e.ordinal, e.epoch)).collect();
        }
        let Some(epoch) = self.epochs.get(&batch.epoch).copied() else {
            return Ok(Err(format!("its epoch, the {}th, isn't known", batch.epoch)));
        };
        let count = rows.len();
        let readings: Vec<Reading> = rows
            .into_iter()
            .filter_map(|(state, row)| {
                let series = Arc::clone(self.series.get(&row.series)?);
                Some(Reading { batch: batch.id, epoch, state, row, series })
            })
            .collect();
        let nameless = (count - readings.len()) as u64;
        Ok(Ok((readings, nameless)))
    }
}

/// The buffer as a whole.
///
/// # Errors
/// The way to the buffer's.
pub fn facts(access: &mut Access) -> Result<Facts, AccessError> {
    match access.ask(&Ask::Facts)? {
        Page::Facts(facts) => Ok(facts),
        _ => Err(AccessError::Confused),
    }
}

/// The current epoch, where one is known.
pub fn current(facts: &Facts) -> Option<&EpochFacts> {
    facts.epochs.last()
}

/// Batches that may hold readings of the range, oldest first, until `f` has had enough (false); what couldn't be read
/// comes back.
///
/// # Errors
/// The way to the buffer's, and those of `f`.
pub fn batches(
    access: &mut Access,
    pick: &Pick,
    mut after: i64,
    mut f: impl FnMut(&mut Access, BatchFacts) -> anyhow::Result<bool>,
) -> anyhow::Result<Vec<Fault>> {
    let mut all = Vec::new();
    loop {
        let ask = Ask::Batches { after, from: pick.from, to: pick.to };
        let Page::Batches { batches, faults, next } = access.ask(&ask)? else {
            return Err(AccessError::Confused.into());
        };
        all.extend(faults);
        for batch in batches {
            if !f(access, batch)? {
                return Ok(all);
            }
        }
        match next {
            Some(next) => after = next,
            None => return Ok(all),
        }
    }
}

/// All segments of the outbox, and what couldn't be read.
///
/// # Errors
/// The way to the buffer's.
pub fn segments(access: &mut Access) -> Result<(Vec<SegmentFacts>, Vec<Fault>), AccessError> {
    let (mut all, mut wrong, mut after) = (Vec::new(), Vec::new(), (0, 0));
    loop {
        let Page::Segments { segments, faults, next } = access.ask(&Ask::Segments { after })? else {
            return Err(AccessError::Confused);
        };
        all.extend(segments);
        wrong.extend(faults);
        match next {
            Some(next) => after = next,
            None => return Ok((all, wrong)),
        }
    }
}

/// All rejects, and what couldn't be read.
///
/// # Errors
/// The way to the buffer's.
pub fn rejects(access: &mut Access) -> Result<(Vec<RejectFacts>, Vec<Fault>), AccessError> {
    let (mut all, mut wrong, mut after) = (Vec::new(), Vec::new(), 0);
    loop {
        let Page::Rejects { rejects, faults, next } = access.ask(&Ask::Rejects { after })? else {
            return Err(AccessError::Confused);
        };
        all.extend(rejects);
        wrong.extend(faults);
        match next {
            Some(next) => after = next,
            None => return Ok((all, wrong)),
        }
    }
}
