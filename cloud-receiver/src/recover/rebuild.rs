//! `ledger rebuild`: a ledger that was lost, or is older than the tables, or another one, is made anew from the lake.

use std::collections::BTreeMap;

use tributary_contract::id::{Epoch, GatewayId, SegmentId};
use tributary_contract::key::SegmentKey;
use tributary_contract::range::Ranges;
use tributary_contract::receipt::Receipt;
use tributary_contract::time::Timestamp;

use super::{Numbers, Parts, Report, found, read_again, table_report};
use crate::bucket::{Extent, Got, Query};
use crate::catalog::{Holdings, Look};
use crate::dedupe::own_gaps::gap_numbers;
use crate::dedupe::recover::Counts;
use crate::dedupe::{FoundReceipt, Ledger, Rebuilt};
use crate::receipt::write::{MAX_BYTES, revision_of};
use crate::validate::Accepted;

/// Its name.
pub const COMMAND: &str = "rebuild";

/// So many of an epoch's newest segments are looked for until one is found that vouches for those before it.
const VOUCHERS: usize = 8;

/// Makes the ledger anew. First every table gets the new id by an append that moves `main`, so that a receiver with the
/// old ledger, wherever it still runs, can land nothing any more; what the tables hold after that is what counts.
pub async fn rebuild(ledger: &mut Ledger, parts: &Parts<'_>, now: Timestamp) -> anyhow::Result<Report> {
    let new = if parts.dry_run { None } else { Some(ledger.begin_rebuild()?.to_string()) };
    let mut report = Report { command: COMMAND, dry_run: parts.dry_run, ..Report::default() };
    let mut rebuilt = Rebuilt::default();
    let mut newest: BTreeMap<(GatewayId, Epoch), Vec<SegmentKey>> = BTreeMap::new();
    for (namespace, table) in parts.lake.names().await? {
        let look = match &new {
            Some(id) => parts.lake.fence(&namespace, table, id).await?,
            None => match parts.lake.peek(&namespace, table).await? {
                Some(look) => look,
                None => continue,
            },
        };
        let held = look.holdings().await?;
        note_foreign(&mut report, &look, &held);
        let own = look.own_gaps().await?;
        for gap in &own {
            let Some((reason, first, last)) = gap_numbers(&gap.id) else { continue };
            let numbers = if reason.leaves_out() { &mut rebuilt.left_out } else { &mut rebuilt.void };
            numbers.entry((gap.gateway.clone(), gap.epoch)).or_default().insert_range(first, last);
        }
        report.tables.push(table_report(&look, &held));
        let keys = |(id, h): (&SegmentId, &crate::catalog::Held)| {
            let (namespace, day) = (namespace.clone(), h.day);
            (SegmentKey { id: id.clone(), namespace, table, day }, h.rows)
        };
        let segments: Vec<(SegmentKey, u64)> = held.segments.iter().map(keys).collect();
        for (key, _) in &segments {
            let all = newest.entry((key.id.gateway.clone(), key.id.epoch)).or_default();
            all.push(key.clone());
            if all.len() > 4 * VOUCHERS {
                keep_newest(all);
            }
        }
        let ids = own.into_iter().map(|gap| gap.id).collect();
        rebuilt.tables.push((found(&look, ids), segments));
    }
    rebuilt.receipts = receipts(parts, &mut report).await?;
    report.receipts = rebuilt.receipts.len() as u64;
    for mut keys in newest.into_values() {
        keep_newest(&mut keys);
        if let Some(accepted) = voucher(parts, &keys, &rebuilt).await? {
            rebuilt.vouchers.push(accepted);
        }
    }
    let counts = match &new {
        Some(_) => ledger.finish_rebuild(parts.prefix, &rebuilt, now)?,
        None => foresee(&rebuilt),
    };
    report.left_out = counts.left_out;
    report.ledger = new;
    Ok(report)
}

fn note_foreign(report: &mut Report, look: &Look, held: &Holdings) {
    if held.foreign > 0 {
        report.notes.push(format!(
            "{}: {} rows name no segment that could exist: another writer's",
            look.name(),
            held.foreign
        ));
    }
}

/// The newest few, the newest first.
fn keep_newest(keys: &mut Vec<SegmentKey>) {
    keys.sort_by_key(|k| std::cmp::Reverse(k.id.number));
    keys.truncate(VOUCHERS);
}

/// Reads an epoch's newest registered segment again. Its digest is what gateways compare: without one they let nothing
/// go, with another one than theirs neither. None if a receipt has a newer one, or if the bucket has none of them.
async fn voucher(
    parts: &Parts<'_>,
    keys: &[SegmentKey],
    rebuilt: &Rebuilt,
) -> anyhow::Result<Option<Accepted>> {
    for key in keys {
        let of_receipt = rebuilt.receipts.iter().find(|r| r.gateway == key.id.gateway);
        let highest = of_receipt.and_then(|r| r.epochs.get(&key.id.epoch)).and_then(|e| e.highest);
        if highest.is_some_and(|h| h.number >= key.id.number) {
            return Ok(None);
        }
        match read_again(parts.bucket, &key.object_key(parts.prefix), key, None).await? {
            Ok(again) => return Ok(Some(again.accepted)),
            Err(why) => tracing::info!(segment = %key.id, %why, "can't vouch"),
        }
    }
    Ok(None)
}

/// All receipts that lie in the bucket.
async fn receipts(parts: &Parts<'_>, report: &mut Report) -> anyhow::Result<Vec<FoundReceipt>> {
    let folder = parts.prefix.receipts();
    let mut query = Query { prefix: folder.clone(), limit: 1000, ..Query::default() };
    let mut all = Vec::new();
    loop {
        let page = parts.bucket.list(&query).await?;
        for listed in page.objects {
            let name = listed.key.strip_prefix(&folder).and_then(|n| n.strip_suffix(".json"));
            let Some(gateway) = name.and_then(|n| n.parse::<GatewayId>().ok()) else { continue };
            let Got::Object(object) =
                parts.bucket.get(&listed.key, Extent::Whole { limit: MAX_BYTES }).await?
            else {
                continue;
            };
            let epochs = match Receipt::from_json(&object.bytes, &gateway) {
                Ok(receipt) => receipt.epochs,
                Err(e) => {
                    report.notes.push(format!("receipt of {gateway}: {e}; only its revision is taken over"));
                    BTreeMap::new()
                }
            };
            let revision = revision_of(&object.bytes);
            all.push(FoundReceipt { gateway, revision, etag: object.etag, epochs });
        }
        match page.next {
            Some(next) => query.page = Some(next),
            None => return Ok(all),
        }
    }
}

/// What a rebuild would count, without what the ledger itself knows.
fn foresee(rebuilt: &Rebuilt) -> Counts {
    let mut held = Numbers::new();
    for (key, _) in rebuilt.tables.iter().flat_map(|(_, segments)| segments) {
        super::insert(&mut held, &key.id);
    }
    let mut all = held.clone();
    for receipt in &rebuilt.receipts {
        for (epoch, said) in &receipt.epochs {
            all.entry((receipt.gateway.clone(), *epoch)).or_default().union(&said.registered);
        }
    }
    for (of, numbers) in &rebuilt.left_out {
        all.entry(of.clone()).or_default().union(numbers);
    }
    let count = |numbers: &Numbers| numbers.values().map(Ranges::len).fold(0, u64::saturating_add);
    let registered = count(&held);
    Counts { registered, left_out: count(&all).saturating_sub(registered), waiting: 0 }
}
