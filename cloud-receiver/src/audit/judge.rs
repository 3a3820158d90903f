//! Compares the evidence: what doesn't fit, and why.

use std::collections::{BTreeMap, BTreeSet};

use tributary_contract::counters::Counters;
use tributary_contract::id::{Epoch, GatewayId, Number, SegmentId};
use tributary_contract::manifest::Manifest;
use tributary_contract::range::Ranges;
use tributary_contract::table::Table;

use super::{Audited, Evidence, Finding, Kind, Verdict};

/// The verdict on `evidence`.
pub fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    let mut epochs: BTreeSet<(GatewayId, Epoch)> = BTreeSet::new();
    let segments = evidence.held.keys().chain(evidence.segments.keys());
    epochs.extend(segments.map(|id| (id.gateway.clone(), id.epoch)));
    for (gateway, receipt) in &evidence.receipts {
        epochs.extend(receipt.epochs.keys().map(|e| (gateway.clone(), *e)));
    }
    epochs.extend(evidence.statuses.values().map(|s| (s.gateway.clone(), s.epoch)));
    for (gateway, epoch) in epochs {
        let one = One::gather(evidence, &gateway, epoch);
        one.compare(&mut verdict.findings);
        verdict.epochs.push(one.audited());
    }
    for (gateway, epoch, seq) in &evidence.doubled {
        verdict.findings.push(Finding {
            gateway: Some(gateway.clone()),
            epoch: Some(*epoch),
            number: None,
            kind: Kind::Doubled,
            detail: format!("the reading with seq {seq} is in the table more than once"),
        });
    }
    for (table, rows) in evidence.foreign.iter().filter(|(_, rows)| **rows > 0) {
        verdict.findings.push(Finding {
            gateway: None,
            epoch: None,
            number: None,
            kind: Kind::Foreign,
            detail: format!("{table} has {rows} rows that name no segment that could exist"),
        });
    }
    verdict.findings.sort();
    verdict
}

/// Everything about one epoch.
struct One<'a> {
    gateway: &'a GatewayId,
    epoch: Epoch,
    evidence: &'a Evidence,
    /// Manifests in the order of their numbers.
    manifests: BTreeMap<u64, &'a Manifest>,
    unreadable: BTreeMap<u64, &'a str>,
    held: BTreeMap<u64, &'a BTreeMap<String, u64>>,
    receipt: Option<&'a tributary_contract::receipt::EpochReceipt>,
    left_out: Ranges,
}

impl<'a> One<'a> {
    fn gather(evidence: &'a Evidence, gateway: &'a GatewayId, epoch: Epoch) -> Self {
        let id = |number| SegmentId { gateway: gateway.clone(), epoch, number };
        let last = Number::new(Number::MAX).unwrap_or(Number::FIRST);
        let range = id(Number::FIRST)..=id(last);
        let receipt = evidence.receipts.get(gateway).and_then(|r| r.epochs.get(&epoch));
        let mut manifests = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        for (id, read) in evidence.segments.range(range.clone()) {
            match read {
                // What was refused vouches for nothing.
                _ if receipt.is_some_and(|r| r.quarantined.contains_key(&id.number.get())) => {}
                Ok(manifest) => {
                    manifests.insert(id.number.get(), manifest);
                }
                Err(why) => {
                    unreadable.insert(id.number.get(), why.as_str());
                }
            }
        }
        Self {
            gateway,
            epoch,
            evidence,
            manifests,
            unreadable,
            held: evidence.held.range(range).map(|(id, tables)| (id.number.get(), tables)).collect(),
            receipt,
            left_out: evidence.left_out.get(&(gateway.clone(), epoch)).cloned().unwrap_or_default(),
        }
    }

    fn audited(&self) -> Audited {
        let on_their_way = self.manifests.keys().filter(|n| !self.is_settled(**n));
        Audited {
            gateway: self.gateway.clone(),
            epoch: self.epoch,
            registered: self.held.len() as u64,
            readings: self.readings_held(),
            waiting: on_their_way.count() as u64,
        }
    }

    fn is_settled(&self, number: u64) -> bool {
        self.held.contains_key(&number)
            || self
                .receipt
                .is_some_and(|r| r.registered.contains(number) || r.quarantined.contains_key(&number))
    }

    fn readings_held(&self) -> u64 {
        let readings = |tables: &BTreeMap<String, u64>| {
            let of = tables.iter().filter(|(name, _)| name.ends_with(&format!(".{}", Table::Readings)));
            of.map(|(_, rows)| *rows).fold(0u64, u64::saturating_add)
        };
        self.held.values().map(|tables| readings(tables)).fold(0, u64::saturating_add)
    }

    fn compare(&self, findings: &mut Vec<Finding>) {
        let mut find = |number: Option<u64>, kind: Kind, detail: String| {
            findings.push(Finding {
                gateway: Some(self.gateway.clone()),
                epoch: Some(self.epoch),
                number,
                kind,
                detail,
            });
        };
        self.rows(&mut find);
        self.numbers(&mut find);
        self.counters(&mut find);
        self.status(&mut find);
    }

    /// Each segment in a table has the rows that its manifest counts, in one table.
    fn rows(&self, find: &mut impl FnMut(Option<u64>, Kind, String)) {
        for (number, tables) in &self.held {
            if tables.len() > 1 {
                let names = tables.keys().cloned().collect::<Vec<_>>().join(", ");
                find(Some(*number), Kind::Doubled, format!("the segment is in several tables: {names}"));
            }
            let Some(manifest) = self.manifests.get(number) else { continue };
            let rows = tables.values().copied().fold(0, u64::saturating_add);
            if rows > manifest.rows {
                let detail = format!("the table has {rows} rows of it, it has {}", manifest.rows);
                find(Some(*number), Kind::Doubled, detail);
            } else if rows < manifest.rows {
                let detail = format!("the table has {rows} rows of it, it has {}", manifest.rows);
                find(Some(*number), Kind::Rows, detail);
            }
        }
    }

    /// Each number up to the newest is in a table, on its way, or accounted for.
    fn numbers(&self, find: &mut impl FnMut(Option<u64>, Kind, String)) {
        for (number, why) in &self.unreadable {
            find(Some(*number), Kind::Unreadable, format!("its object can't be read: {why}"));
        }
        let mut accounted: Ranges = self.held.keys().copied().collect();
        accounted.union(&self.left_out);
        let registered = self.receipt.map(|r| r.registered.clone()).unwrap_or_default();
        for (first, last) in registered.without(&accounted).iter() {
            let which = if first == last { format!("{first}") } else { format!("{first} to {last}") };
            let number = (first == last).then_some(first);
            find(number, Kind::Removed, format!("{which}: registered by its receipt, and in no table"));
        }
        accounted.union(&registered);
        accounted.union(&self.manifests.keys().chain(self.unreadable.keys()).copied().collect());
        if let Some(receipt) = self.receipt {
            accounted.union(&receipt.void);
            accounted.union(&receipt.missing);
            accounted.union(&receipt.quarantined.keys().copied().collect());
        }
        for manifest in self.manifests.values() {
            accounted.union(&manifest.void);
        }
        if let Some(void) = self.evidence.void.get(&(self.gateway.clone(), self.epoch)) {
            accounted.union(void);
        }
        let Some((newest, manifest)) = self.manifests.last_key_value() else { return };
        accounted.union(&manifest.outstanding);
        let mut all = Ranges::new();
        all.insert_range(1, *newest);
        for (first, last) in all.without(&accounted).iter() {
            let which = if first == last { format!("{first}") } else { format!("{first} to {last}") };
            let detail = format!(
                "{which}: neither in a table nor in the bucket, not void, not refused, and its gateway doesn't call it \
                 outstanding"
            );
            find((first == last).then_some(first), Kind::Hole, detail);
        }
    }

    /// From each manifest to the next, counters grow, and `sealed` grows by the rows sealed in between.
    fn counters(&self, find: &mut impl FnMut(Option<u64>, Kind, String)) {
        let mut before: Option<(u64, &Manifest)> = None;
        for (&number, manifest) in &self.manifests {
            let rows = if manifest.table == Table::Readings { manifest.rows } else { 0 };
            let sealed = manifest.counters.readings.sealed;
            let (earlier, counters) = before.map_or((0, Counters::default()), |(n, m)| (n, m.counters));
            if !manifest.counters.grew_from(&counters) {
                find(Some(number), Kind::Counter, format!("a counter is smaller than in {earlier}"));
            }
            let expected = counters.readings.sealed.saturating_add(rows);
            let next_in_line = match (before, manifest.previous) {
                (Some((n, _)), Some(previous)) => previous.number.get() == n,
                (None, None) => true,
                (_, _) => false,
            };
            if next_in_line && sealed != expected {
                let detail = format!(
                    "its manifest counts {sealed} sealed readings; {} before it and {rows} in it are {expected}",
                    counters.readings.sealed
                );
                find(Some(number), Kind::Counter, detail);
            } else if sealed < expected {
                let detail =
                    format!("its manifest counts {sealed} sealed readings, {expected} are in segments");
                find(Some(number), Kind::Counter, detail);
            }
            before = Some((number, manifest));
        }
    }

    /// The status keeps the laws, lies not behind the newest manifest, and claims no more than the table holds.
    fn status(&self, find: &mut impl FnMut(Option<u64>, Kind, String)) {
        let status = self.evidence.statuses.get(self.gateway).filter(|s| s.epoch == self.epoch);
        let Some(status) = status else { return };
        let said = &status.counters;
        if let Err(law) = said.check() {
            find(None, Kind::Counter, format!("its status breaks a law: {law}"));
        }
        // A status that is older than the newest manifest can't know of it.
        let known = self.manifests.values().rfind(|m| m.number.get() <= status.segments.last_number);
        if let Some(manifest) = known.filter(|m| !said.grew_from(&m.counters)) {
            let number = manifest.number;
            find(None, Kind::Counter, format!("a counter of its status is smaller than in segment {number}"));
        }
        let sealed = self.manifests.range(..=status.segments.last_number);
        let readings = sealed.filter(|(_, m)| m.table == Table::Readings).map(|(_, m)| m.rows);
        let readings = readings.fold(0, u64::saturating_add);
        if said.readings.sealed < readings {
            let detail = format!(
                "its status counts {} sealed readings, segments have {readings}",
                said.readings.sealed
            );
            find(None, Kind::Counter, detail);
        }
        let held = self.readings_held();
        let left_out = self.manifests.iter().filter(|(n, m)| {
            m.table == Table::Readings && self.left_out.contains(**n) && !self.held.contains_key(n)
        });
        let granted = left_out.map(|(_, m)| m.rows).fold(held, u64::saturating_add);
        if said.readings.registered > granted {
            let detail = format!(
                "its status counts {} registered readings, the table has {held}{}",
                said.readings.registered,
                if granted > held { format!(" and {} were left out", granted - held) } else { String::new() }
            );
            find(None, Kind::Counter, detail);
        }
    }
}
