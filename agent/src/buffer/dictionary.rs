//! The dictionary of series: what the numbers in the journal's blocks stand for; shared by all stages, grown by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use tributary_contract::id::Namespace;
use tributary_contract::series::{SeriesId, Tags};
use tributary_contract::time::{Day, Timestamp};

use super::row::SeriesEntry;
use crate::reading::{Reading, Value};

/// The dictionary; cheap to share by `Arc`.
#[derive(Debug, Default)]
pub struct Dictionary {
    inner: RwLock<Inner>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<u32, Known>,
    /// (hash, key): to find a key by what it stands for without holding that twice.
    index: BTreeSet<(u64, u32)>,
    per_source: HashMap<String, usize>,
    /// By hash of source and device.
    per_device: HashMap<u64, usize>,
    /// Keys that the lake isn't told of in this epoch, with a count of changes.
    untold: BTreeMap<u32, u64>,
    /// The same as it was when it was last handed out to be sealed.
    offered: BTreeMap<u32, u64>,
    next: u32,
}

#[derive(Debug)]
struct Known {
    entry: Arc<SeriesEntry>,
    span: (Timestamp, Timestamp),
    seen_in: u32,
}

/// What a reading belongs to, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ident<'a> {
    pub namespace: &'a str,
    pub source: &'a str,
    pub device: &'a str,
    pub metric: &'a str,
    pub tags: &'a Tags,
    pub unit: Option<&'a str>,
}

impl<'a> Ident<'a> {
    pub(super) fn of(reading: &'a Reading, namespace: &'a Namespace, source: &'a str) -> Self {
        Self {
            namespace: namespace.as_str(),
            source,
            device: &reading.device,
            metric: &reading.metric,
            tags: &reading.tags,
            unit: reading.unit.as_deref(),
        }
    }

    pub(super) fn of_entry(entry: &'a SeriesEntry) -> Self {
        Self {
            namespace: entry.namespace.as_str(),
            source: &entry.source,
            device: &entry.device,
            metric: &entry.metric,
            tags: &entry.tags,
            unit: entry.unit.as_deref(),
        }
    }
}

/// The type of a series that had `before` and now gets `value`.
pub(super) fn widen(before: &'static str, value: &Value) -> &'static str {
    match (before, value.type_name()) {
        (a, b) if a == b => a,
        ("double", "long") | ("long", "double") => "double",
        _ => "mixed",
    }
}

impl Dictionary {
    /// What `key` stands for; its event times are those of when it was loaded or last changed.
    pub fn get(&self, key: u32) -> Option<Arc<SeriesEntry>> {
        self.read(|i| i.entries.get(&key).map(|k| k.entry.clone()))
    }

    /// What `key` stands for, with the event times seen so far.
    pub fn snapshot(&self, key: u32) -> Option<SeriesEntry> {
        self.read(|i| {
            let known = i.entries.get(&key)?;
            Some(SeriesEntry { first_ts: known.span.0, last_ts: known.span.1, ..(*known.entry).clone() })
        })
    }

    /// What all keys stand for, in no order.
    pub fn entries(&self) -> Vec<Arc<SeriesEntry>> {
        self.read(|i| i.entries.values().map(|k| Arc::clone(&k.entry)).collect())
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.read(|i| i.entries.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The namespaces of all series.
    pub fn namespaces(&self) -> BTreeSet<Namespace> {
        self.read(|i| i.entries.values().map(|k| k.entry.namespace.clone()).collect())
    }

    pub(super) fn find(&self, ident: &Ident<'_>) -> Option<Arc<SeriesEntry>> {
        let hash = self.hasher.hash_one(ident);
        self.read(|i| {
            let mut same = i.index.range((hash, 0)..=(hash, u32::MAX));
            same.find_map(|(_, key)| {
                let known = i.entries.get(key)?;
                (Ident::of_entry(&known.entry) == *ident).then(|| known.entry.clone())
            })
        })
    }

    pub(super) fn count_of(&self, source: &str) -> usize {
        self.read(|i| i.per_source.get(source).copied().unwrap_or(0))
    }

    pub(super) fn count_of_device(&self, source: &str, device: &str) -> usize {
        let hash = self.hasher.hash_one((source, device));
        self.read(|i| i.per_device.get(&hash).copied().unwrap_or(0))
    }

    pub(super) fn next_key(&self) -> u32 {
        self.read(|i| i.next)
    }

    /// Whether every key below the next stands for something.
    pub(super) fn is_dense(&self) -> bool {
        self.read(|i| i.entries.len() == i.next as usize)
    }

    pub(super) fn seen_in(&self, key: u32) -> Option<u32> {
        self.read(|i| i.entries.get(&key).map(|k| k.seen_in))
    }

    /// Adds a series or replaces what is known of it.
    pub(super) fn put(&self, entry: SeriesEntry, seen_in: u32, untold: bool) {
        let hash = self.hasher.hash_one(Ident::of_entry(&entry));
        let of_device = self.hasher.hash_one((entry.source.as_str(), entry.device.as_str()));
        self.write(|i| {
            let key = entry.key;
            let span = (entry.first_ts, entry.last_ts);
            let source = entry.source.clone();
            if i.index.insert((hash, key)) {
                *i.per_source.entry(source).or_default() += 1;
                *i.per_device.entry(of_device).or_default() += 1;
            }
            i.next = i.next.max(key.saturating_add(1));
            if untold {
                *i.untold.entry(key).or_default() += 1;
            }
            i.entries.insert(key, Known { entry: Arc::new(entry), span, seen_in });
        });
    }

    /// Notes event times.
    pub(super) fn observe(&self, seen: &[(u32, Timestamp)]) {
        self.write(|i| {
            for (key, ts) in seen {
                if let Some(known) = i.entries.get_mut(key) {
                    known.span = (known.span.0.min(*ts), known.span.1.max(*ts));
                }
            }
        });
    }

    /// Whether the lake isn't told of some series.
    pub(super) fn has_untold(&self) -> bool {
        self.read(|i| !i.untold.is_empty())
    }

    /// How many series the lake isn't told of, by namespace and the day of their first reading.
    pub(super) fn waiting(&self) -> BTreeMap<(Namespace, Day), u64> {
        self.read(|i| {
            let mut counts = BTreeMap::new();
            for known in i.untold.keys().filter_map(|key| i.entries.get(key)) {
                *counts.entry((known.entry.namespace.clone(), known.span.0.day())).or_default() += 1;
            }
            counts
        })
    }

    /// Series that the lake isn't told of, as they are now.
    pub(super) fn offer(&self) -> Vec<SeriesEntry> {
        let keys: Vec<u32> = self.write(|i| {
            i.offered = i.untold.clone();
            i.offered.keys().copied().collect()
        });
        keys.into_iter().filter_map(|key| self.snapshot(key)).collect()
    }

    /// Whether `key` hasn't changed since it was offered.
    pub(super) fn is_as_offered(&self, key: u32) -> bool {
        self.read(|i| i.offered.contains_key(&key) && i.offered.get(&key) == i.untold.get(&key))
    }

    /// The lake was told of `key`.
    pub(super) fn told(&self, key: u32) {
        self.write(|i| i.untold.remove(&key));
    }

    /// A new epoch tells the lake of each series again when it is seen.
    pub(super) fn forget_told(&self) {
        self.write(|i| {
            i.untold.clear();
            i.offered.clear();
        });
    }

    /// Keys of the series with that name.
    pub(super) fn keys_of(&self, ids: &BTreeSet<SeriesId>) -> Vec<u32> {
        self.read(|i| i.entries.values().filter(|k| ids.contains(&k.entry.id)).map(|k| k.entry.key).collect())
    }

    fn read<T>(&self, f: impl FnOnce(&Inner) -> T) -> T {
        f(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }
}
