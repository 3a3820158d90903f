//! What waits to be sealed, by namespace and day: an index in memory over the batches that have such rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use smallvec::SmallVec;
use tributary_contract::id::Namespace;
use tributary_contract::time::{Day, Timestamp};

use super::backfill::Wish;
use super::block;
use super::dictionary::Dictionary;
use super::outline::{Outline, outline};
use super::row::{BatchSpan, Row, SeriesEntry};

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
    /// Least event time of those that nobody had to ask for.
    pub owed_from: Option<Timestamp>,
    /// Earliest commit.
    pub oldest_committed: Timestamp,
}

#[derive(Debug, Clone)]
struct Part {
    rows: u64,
    bytes: u64,
    min_ts: Timestamp,
    max_ts: Timestamp,
    committed: Timestamp,
    /// Places in the index's list of the sources of rows that lie in no deadband, each once.
    sources: SmallVec<[u16; 4]>,
    /// Rows that wishes mean, if they are kept back; one entry a key of those wishes.
    wished: Vec<Wished>,
}

/// Rows of a part that wishes of one key mean before all others.
#[derive(Debug, Clone, Copy)]
struct Wished {
    key: u32,
    rows: u64,
    /// About how many.
    bytes: u64,
}

impl Part {
    fn count_wished(&mut self, key: u32, bytes: u64) {
        match self.wished.iter_mut().find(|wished| wished.key == key) {
            Some(wished) => (wished.rows, wished.bytes) = (wished.rows + 1, wished.bytes + bytes),
            None => self.wished.push(Wished { key, rows: 1, bytes }),
        }
    }

    fn wished_rows(&self) -> u64 {
        self.wished.iter().map(|wished| wished.rows).sum()
    }
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    groups: BTreeMap<(Namespace, Day), BTreeMap<i64, Part>>,
    /// Names of sources.
    sources: Vec<String>,
    /// Sources whose readings aren't sealed.
    kept: BTreeSet<String>,
    /// What of that which isn't sealed is wished for.
    wishes: Vec<Wish>,
}

impl Waiting {
    /// Adds the rows of one batch that wait, of which none is here.
    pub(super) fn add<'a>(
        &mut self,
        batch: &BatchSpan,
        rows: impl Iterator<Item = &'a Row> + Clone,
        dictionary: &Dictionary,
    ) {
        self.add_outlined(batch, &outline(rows.clone(), |key| dictionary.get(key)), dictionary);
        self.count_wished(batch, rows, dictionary);
    }

    /// Counts which of the rows of a batch that is here are wished for.
    pub(super) fn count_wished<'a>(
        &mut self,
        batch: &BatchSpan,
        rows: impl Iterator<Item = &'a Row>,
        dictionary: &Dictionary,
    ) {
        if self.wishes.is_empty() {
            return;
        }
        for row in rows {
            let Some(entry) = dictionary.get(row.series) else { continue };
            let Some(wish) = self.wishes.iter().find(|wish| wish.means(row, &entry)) else { continue };
            let group = self.groups.get_mut(&(entry.namespace.clone(), row.ts.day()));
            if let Some(part) = group.and_then(|group| group.get_mut(&batch.id)) {
                part.count_wished(wish.key, block::estimate(row));
            }
        }
    }

    /// Adds the rows of one batch that wait, of which none is here; which of them are wished for isn't counted.
    pub(super) fn add_outlined(&mut self, batch: &BatchSpan, outline: &[Outline], dictionary: &Dictionary) {
        for &Outline { rows, bytes, min_ts, max_ts, of, ref sent, .. } in outline {
            let source = |key: &u32| dictionary.get(*key).map_or_else(String::new, |e| e.source.clone());
            let sources = sent.iter().map(|key| self.place_of(&source(key))).collect();
            let namespace = dictionary.get(of).map(|e| e.namespace.clone()).unwrap_or_default();
            let committed = batch.committed_at;
            let part = Part { rows, bytes, min_ts, max_ts, committed, sources, wished: Vec::new() };
            self.groups.entry((namespace, min_ts.day())).or_default().insert(batch.id, part);
        }
    }

    /// From now on the readings of these sources, and of no others, wait without being offered for sealing, as those do that
    /// lie in a deadband. Those that lie in one batch with others' go with them.
    pub(super) fn keep_back(&mut self, kept: BTreeSet<String>) {
        self.kept = kept;
    }

    /// Whether nothing of a part is sent unless somebody wishes it.
    fn is_kept(&self, part: &Part) -> bool {
        let kept =
            |place: &u16| self.sources.get(usize::from(*place)).is_some_and(|name| self.kept.contains(name));
        part.sources.iter().all(kept)
    }

    /// How many rows of a part may be sealed, and about how many bytes these have.
    fn offered(&self, part: &Part) -> (u64, u64) {
        if self.is_kept(part) {
            (part.wished_rows(), part.wished.iter().map(|wished| wished.bytes).sum())
        } else {
            (part.rows, part.bytes)
        }
    }

    /// From now on these wishes stand, and no others. Rows that are here were added under those before.
    pub(super) fn wish(&mut self, wishes: Vec<Wish>) {
        self.wishes = wishes;
    }

    /// The wishes that stand.
    pub(super) fn wishes(&self) -> &[Wish] {
        &self.wishes
    }

    /// Whether any wish stands.
    pub(super) fn has_wishes(&self) -> bool {
        !self.wishes.is_empty()
    }

    /// How many rows are kept back and wished for.
    pub(super) fn wished(&self) -> u64 {
        let parts = self.groups.values().flat_map(|group| group.values());
        parts.filter(|part| self.is_kept(part)).map(Part::wished_rows).sum()
    }

    /// The same by the key of the wish; nothing of those of which none is left.
    pub(super) fn wished_by_key(&self) -> BTreeMap<u32, u64> {
        let parts = self.groups.values().flat_map(|group| group.values());
        let mut rows = BTreeMap::new();
        for wished in parts.filter(|part| self.is_kept(part)).flat_map(|part| &part.wished) {
            *rows.entry(wished.key).or_default() += wished.rows;
        }
        rows
    }

    /// How many rows of a batch are kept back and wished for, by the key of the wish.
    pub(super) fn wished_of(&self, batch: i64) -> Vec<(u32, u64)> {
        let parts = self.groups.values().filter_map(|group| group.get(&batch));
        let wished = parts.filter(|part| self.is_kept(part)).flat_map(|part| &part.wished);
        wished.map(|wished| (wished.key, wished.rows)).collect()
    }

    /// Whether something of a batch is kept back.
    pub(super) fn keeps(&self, batch: i64) -> bool {
        self.groups.values().filter_map(|group| group.get(&batch)).any(|part| self.is_kept(part))
    }

    /// Batches of which something was wished for when they were looked at.
    pub(super) fn wished_batches(&self) -> BTreeSet<i64> {
        let parts = self.groups.values().flatten();
        parts.filter(|(_, part)| !part.wished.is_empty()).map(|(batch, _)| *batch).collect()
    }

    /// Batches of which something is kept back between `from` and `to`.
    pub(super) fn kept_between(&self, from: Timestamp, to: Timestamp) -> BTreeSet<i64> {
        let meets = |part: &Part| part.max_ts >= from && part.min_ts < to && self.is_kept(part);
        self.groups.values().flatten().filter(|(_, part)| meets(part)).map(|(batch, _)| *batch).collect()
    }

    /// Whether a row of a part may be sealed.
    pub(super) fn offers(
        &self,
        namespace: &Namespace,
        day: Day,
        batch: i64,
    ) -> impl Fn(&Row, &SeriesEntry) -> bool {
        let part = self.groups.get(&(namespace.clone(), day)).and_then(|group| group.get(&batch));
        let kept = part.is_some_and(|part| self.is_kept(part));
        move |row, entry| !kept || self.wishes.iter().any(|wish| wish.means(row, entry))
    }

    /// Batches that hold nothing but kept readings and were committed before `at`, oldest first, at most `limit`.
    pub(super) fn kept_before(&self, at: Timestamp, limit: usize) -> Vec<i64> {
        let mut batches: BTreeMap<i64, bool> = BTreeMap::new();
        for (batch, part) in self.groups.values().flatten() {
            *batches.entry(*batch).or_insert(true) &= part.committed < at && self.is_kept(part);
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
        let offered = group.iter().map(|(id, part)| (id, self.offered(part)));
        for (id, offered) in offered.filter(|(_, (rows, _))| *rows > 0) {
            rows += offered.0;
            bytes += offered.1;
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
            let parts = || parts.values().filter(|part| self.offered(part).0 > 0);
            Some(ToSeal {
                namespace: namespace.clone(),
                day: *day,
                rows: parts().map(|p| self.offered(p).0).sum(),
                bytes: parts().map(|p| self.offered(p).1).sum(),
                owed_from: parts().filter(|p| !self.is_kept(p)).map(|p| p.min_ts).min(),
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
