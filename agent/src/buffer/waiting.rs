//! What waits to be sealed, by namespace and day: an index in memory over the batches that have such rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// Places of its sources in the index's list, each once.
    sources: Vec<u16>,
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    groups: BTreeMap<(Namespace, Day), BTreeMap<i64, Part>>,
    /// Names of sources.
    sources: Vec<String>,
    /// Sources whose readings aren't sealed.
    kept: BTreeSet<String>,
}

impl Waiting {
    /// Adds rows of one batch that wait.
    pub(super) fn add<'a>(
        &mut self,
        batch: &BatchSpan,
        rows: impl Iterator<Item = &'a Row>,
        dictionary: &Dictionary,
    ) {
        let mut names: BTreeMap<u32, (Namespace, u16)> = BTreeMap::new();
        for row in rows {
            let (namespace, source) = match names.get(&row.series) {
                Some(known) => known.clone(),
                None => {
                    let entry = dictionary.get(row.series);
                    let source = self.place_of(entry.as_ref().map_or("", |e| &e.source));
                    let name = (entry.map(|e| e.namespace.clone()).unwrap_or_default(), source);
                    names.insert(row.series, name.clone());
                    name
                }
            };
            let group = self.groups.entry((namespace, row.ts.day())).or_default();
            let part = group.entry(batch.id).or_insert(Part {
                rows: 0,
                bytes: 0,
                min_ts: row.ts,
                max_ts: row.ts,
                received: row.received_at,
                committed: batch.committed_at,
                sources: Vec::new(),
            });
            if !part.sources.contains(&source) {
                part.sources.push(source);
            }
            part.rows += 1;
            part.bytes += block::estimate(row);
            part.min_ts = part.min_ts.min(row.ts);
            part.max_ts = part.max_ts.max(row.ts);
            part.received = part.received.min(row.received_at);
        }
    }

    /// From now on the readings of these sources, and of no others, wait without being offered for sealing. Those that lie
    /// in one batch with others' go with them.
    pub(super) fn keep_back(&mut self, kept: BTreeSet<String>) {
        self.kept = kept;
    }

    fn is_kept(&self, part: &Part) -> bool {
        !self.kept.is_empty()
            && part
                .sources
                .iter()
                .all(|s| self.sources.get(usize::from(*s)).is_some_and(|name| self.kept.contains(name)))
    }

    /// Batches that hold nothing but kept readings and were committed before `at`, oldest first, at most `limit`.
    pub(super) fn kept_before(&self, at: Timestamp, limit: usize) -> Vec<i64> {
        let mut batches: BTreeMap<i64, bool> = BTreeMap::new();
        if !self.kept.is_empty() {
            for (batch, part) in self.groups.values().flatten() {
                *batches.entry(*batch).or_insert(true) &= part.committed < at && self.is_kept(part);
            }
        }
        batches.into_iter().filter(|(_, old)| *old).map(|(batch, _)| batch).take(limit).collect()
    }

    fn place_of(&mut self, source: &str) -> u16 {
        let known = self.sources.iter().position(|s| s == source).unwrap_or_else(|| {
            self.sources.push(source.to_owned());
            self.sources.len() - 1
        });
        u16::try_from(known).unwrap_or(u16::MAX)
    }

    /// Batches that have rows, those that are to go first before the others: what is only kept, then by priority and age. A
    /// batch that holds several priorities has the greatest.
    pub(super) fn first_to_go(&self, priority: &dyn Fn(&str) -> u8) -> Vec<(u8, i64)> {
        let priorities: Vec<u8> = self.sources.iter().map(|s| priority(s)).collect();
        let mut batches: HashMap<i64, u8> = HashMap::new();
        for (batch, part) in self.groups.values().flatten() {
            let of_part = part.sources.iter().filter_map(|s| priorities.get(usize::from(*s))).max();
            let of_part = of_part.filter(|_| !self.is_kept(part));
            let known = batches.entry(*batch).or_default();
            *known = (*known).max(of_part.copied().unwrap_or(0));
        }
        let mut order: Vec<(u8, i64)> =
            batches.into_iter().map(|(batch, priority)| (priority, batch)).collect();
        order.sort_unstable();
        order
    }

    /// Forgets all rows of a batch.
    pub(super) fn remove(&mut self, batch: i64) {
        self.groups.retain(|_, group| {
            group.remove(&batch);
            !group.is_empty()
        });
    }

    /// Forgets the rows of a batch that belong to one namespace and day.
    pub(super) fn remove_part(&mut self, namespace: &Namespace, day: Day, batch: i64) {
        let key = (namespace.clone(), day);
        if let Some(group) = self.groups.get_mut(&key) {
            group.remove(&batch);
            if group.is_empty() {
                self.groups.remove(&key);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.groups.clear();
    }

    /// Oldest batches of a group, whole, until one of the limits would be passed; the first one always.
    pub(super) fn pick(&self, namespace: &Namespace, day: Day, max_rows: u64, max_bytes: u64) -> Vec<i64> {
        let (mut rows, mut bytes) = (0u64, 0u64);
        let Some(group) = self.groups.get(&(namespace.clone(), day)) else { return Vec::new() };
        let mut picked = Vec::new();
        for (id, part) in group.iter().filter(|(_, part)| !self.is_kept(part)) {
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
        let groups = self.groups.iter().filter_map(|((namespace, day), parts)| {
            let parts = || parts.values().filter(|part| !self.is_kept(part));
            Some(ToSeal {
                namespace: namespace.clone(),
                day: *day,
                rows: parts().map(|p| p.rows).sum(),
                bytes: parts().map(|p| p.bytes).sum(),
                min_ts: parts().map(|p| p.min_ts).min()?,
                max_ts: parts().map(|p| p.max_ts).max()?,
                oldest_received: parts().map(|p| p.received).min()?,
                oldest_committed: parts().map(|p| p.committed).min()?,
            })
        });
        groups.collect()
    }

    /// How many rows wait.
    pub(super) fn rows(&self) -> u64 {
        self.groups.values().flat_map(|g| g.values()).map(|p| p.rows).sum()
    }

    /// Least event time of what waits to be sealed.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        let parts = self.groups.values().flat_map(|g| g.values());
        parts.filter(|part| !self.is_kept(part)).map(|p| p.min_ts).min()
    }
}
