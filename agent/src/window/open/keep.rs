//! Which readings and decisions open windows, and those that may be corrected, need kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use tributary_contract::time::Timestamp;

use super::Windows;
use crate::window::decision::{Decided, Decision};
use crate::window::needed::{Needed, Retention};
use crate::window::watermark::Standing;

impl Windows {
    /// Whether these decisions may be dropped, but for what [`Windows::still_needed`] keeps of them: none of their windows
    /// can be corrected any more, as of the last [`Windows::due`]. Dropped earlier, a correction would begin again with
    /// the first revision.
    pub fn may_drop(&self, decided: &Decided) -> bool {
        decided.decisions.iter().all(|decision| {
            let name = (decision.namespace.clone(), Arc::clone(&decision.device));
            let definition = self.number_of(&decision.window);
            let device = self.device_numbers.get(&name).and_then(|&n| self.devices.get(n as usize));
            match (definition, device) {
                (Some(definition), Some(device)) => device
                    .closings
                    .get(definition)
                    .is_some_and(|closing| closing.standing(decision.end) == Standing::Settled),
                (None, _) => true,
                (Some(_), None) => false,
            }
        })
    }

    /// Of decisions that are about to be dropped for their age, those that still say up to where a device's windows are
    /// closed: without them a silent device that comes back would have windows emitted as if for the first time.
    pub fn still_needed(&self, decided: &Decided) -> Option<Decided> {
        let mut kept: BTreeMap<(usize, u32), &Decision> = BTreeMap::new();
        for decision in &decided.decisions {
            let name = (decision.namespace.clone(), Arc::clone(&decision.device));
            let definition = self.number_of(&decision.window);
            if let (Some(definition), Some(&device)) = (definition, self.device_numbers.get(&name))
                && let Some(closing) =
                    self.devices.get(device as usize).and_then(|d| d.closings.get(definition))
                && closing.until() == Some(decision.end)
            {
                kept.insert((definition, device), decision);
            }
        }
        let decisions: Vec<_> = kept.into_values().cloned().collect();
        (!decisions.is_empty()).then_some(Decided { seen: decided.seen, decisions })
    }

    /// What of the journal windows need that aren't closed, or have late readings that no decision covers: where there is
    /// no room for corrections to come. Of a frozen window that is what came after it was frozen.
    pub fn needed_now(&self) -> Needed {
        let mut stretches: BTreeMap<u64, Vec<(Timestamp, Timestamp)>> = BTreeMap::new();
        for (unit, waiting) in &self.waiting {
            let Some(definition) = self.definitions.get(usize::from(unit.definition)) else { continue };
            let frozen = self.frozen.get(unit).copied().filter(|_| !waiting.late).unwrap_or(0);
            let stretch = (definition.grid.lookback(unit.start), definition.grid.end_of(unit.start));
            stretches.entry(frozen).or_default().push(stretch);
        }
        let after = stretches.into_iter().map(|(seq, s)| (seq, Retention::of(s)));
        Needed::of(self.ordinal, after.collect())
    }

    /// The first and the last instant between which windows will have lost readings that they weren't frozen with, once
    /// those from `from` to `to` are shed: what [`Windows::hollow`] is to be told, as soon as it is durable.
    pub fn holes_with(&self, from: Timestamp, to: Timestamp) -> (Timestamp, Timestamp) {
        let reaches = |until: Timestamp| self.waiting.keys().any(|unit| unit.start <= until);
        let known = self.holes.filter(|(_, until)| reaches(*until));
        known.map_or((from, to), |(first, last)| (first.min(from), last.max(to)))
    }

    /// Takes note that readings of open windows were or will be shed: what is emitted of these is partial.
    pub fn hollow(&mut self, holes: (Timestamp, Timestamp)) {
        self.holes = Some(holes);
    }

    /// What of the journal windows may still need.
    pub fn retention(&self) -> Retention {
        let open = self.waiting.keys().filter_map(|unit| {
            let grid = &self.definitions.get(usize::from(unit.definition))?.grid;
            Some((grid.lookback(unit.start), grid.end_of(unit.start)))
        });
        let closed = self.devices.iter().flat_map(|device| {
            device.closings.iter().zip(self.definitions.iter()).filter_map(|(closing, definition)| {
                // The least of them may be only the end of what is beyond correction: windows that hop begin before it.
                let (from, to) = closing.correctable()?;
                Some((definition.grid.lookback(definition.grid.open_from(from)), to))
            })
        });
        Retention::of(open.chain(closed).collect())
    }
}
