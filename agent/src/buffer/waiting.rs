//! What waits to be sealed, by namespace and day: an index in memory over the batches that have such rows.

use std::collections::BTreeMap;

use tributary_contract::id::Namespace;
use tributary_contract::time::{Day, Timestamp};

use super::block;
use super::dictionary::Dictionary;
use super::row::{BatchSpan, Row};

/// What could be sealed into segments of one namespace and day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToSeal {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Day of the event times.
    pub day: Day,
    /// Rows that wait.
    pub rows: u64,
    /// About how many bytes their segment would have.
    pub bytes: u64,
    /// Least event time.
    pub min_ts: Timestamp,
    /// Greatest event time.
    pub max_ts: Timestamp,
    /// Earliest receipt.
    pub oldest_received: Timestamp,
    /// Earliest commit.
    pub oldest_committed: Timestamp,
}

#[derive(Debug, Clone)]
struct Part {
    rows: u64,
    bytes: u64,
    min_ts: Timestamp,
    max_ts: Timestamp,
    received: Timestamp,
    committed: Timestamp,
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<(Namespace, Day), BTreeMap<i64, Part>>);

impl Waiting {
    /// Adds rows of one batch that wait.
    pub(super) fn add<'a>(
        &mut self,
        batch: &BatchSpan,
        rows: impl Iterator<Item = &'a Row>,
        dictionary: &Dictionary,
    ) {
        let mut names: BTreeMap<u32, Namespace> = BTreeMap::new();
        for row in rows {
            let namespace = names.entry(row.series).or_insert_with(|| {
                dictionary.get(row.series).map(|e| e.namespace.clone()).unwrap_or_default()
            });
            let group = self.0.entry((namespace.clone(), row.ts.day())).or_default();
            let part = group.entry(batch.id).or_insert(Part {
                rows: 0,
                bytes: 0,
                min_ts: row.ts,
                max_ts: row.ts,
                received: row.received_at,
                committed: batch.committed_at,
            });
            part.rows += 1;
            part.bytes += block::estimate(row);
            part.min_ts = part.min_ts.min(row.ts);
            part.max_ts = part.max_ts.max(row.ts);
            part.received = part.received.min(row.received_at);
        }
    }

    /// Forgets the rows of a batch that belong to one namespace and day.
    pub(super) fn remove_part(&mut self, namespace: &Namespace, day: Day, batch: i64) {
        let key = (namespace.clone(), day);
        if let Some(group) = self.0.get_mut(&key) {
            group.remove(&batch);
            if group.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Oldest batches of a group, whole, until one of the limits would be passed; the first one always.
    pub(super) fn pick(&self, namespace: &Namespace, day: Day, max_rows: u64, max_bytes: u64) -> Vec<i64> {
        let (mut rows, mut bytes) = (0u64, 0u64);
        let Some(group) = self.0.get(&(namespace.clone(), day)) else { return Vec::new() };
        let mut picked = Vec::new();
        for (id, part) in group {
            rows += part.rows;
            bytes += part.bytes;
            if !picked.is_empty() && (rows > max_rows || bytes > max_bytes) {
                break;
            }
            picked.push(*id);
        }
        picked
    }

    /// A summary of each group, in the order of namespace and day.
    pub(super) fn summary(&self) -> Vec<ToSeal> {
        let groups = self.0.iter().filter_map(|((namespace, day), parts)| {
            Some(ToSeal {
                namespace: namespace.clone(),
                day: *day,
                rows: parts.values().map(|p| p.rows).sum(),
                bytes: parts.values().map(|p| p.bytes).sum(),
                min_ts: parts.values().map(|p| p.min_ts).min()?,
                max_ts: parts.values().map(|p| p.max_ts).max()?,
                oldest_received: parts.values().map(|p| p.received).min()?,
                oldest_committed: parts.values().map(|p| p.committed).min()?,
            })
        });
        groups.collect()
    }

    /// How many rows wait.
    pub(super) fn rows(&self) -> u64 {
        self.0.values().flat_map(|g| g.values()).map(|p| p.rows).sum()
    }

    /// Least event time of what waits.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.0.values().flat_map(|g| g.values()).map(|p| p.min_ts).min()
    }
}
