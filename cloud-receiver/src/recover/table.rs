//! `ledger reregister` and `ledger accept-rollback`: what the ledger had in a table that doesn't hold it any more.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use futures::{StreamExt, TryStreamExt};
use tributary_contract::id::{Epoch, GatewayId, Namespace, SegmentId};
use tributary_contract::key::SegmentKey;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::{Numbers, Parts, Report, found, insert, read_again, table_report};
use crate::arrival::EpochFolder;
use crate::arrival::listing::arrivals;
use crate::catalog::{Holdings, Look};
use crate::dedupe::own_gaps::gap_id;
use crate::dedupe::{Again, Booked, Ledger, OwnGap, OwnReason};

/// Segments read at a time.
const READS: usize = 4;

/// What the ledger has in a table, compared with what the table holds.
struct Compared {
    look: Look,
    held: Holdings,
    own_gaps: Vec<String>,
    /// What the ledger has and the table doesn't.
    lost: Vec<Booked>,
    /// Rows of an open batch that the table has: nobody heard of its commit.
    kept: Vec<i64>,
}

/// What the table lacks goes into it again, once: the segments that still lie in the bucket wait for their next batch.
pub async fn reregister(
    ledger: &mut Ledger,
    parts: &Parts<'_>,
    namespace: &Namespace,
    table: Table,
    now: Timestamp,
) -> anyhow::Result<Report> {
    let mut report = Report { command: "reregister", dry_run: parts.dry_run, ..Report::default() };
    let compared = compare(ledger, parts, namespace, table).await?;
    let mut wanted = BTreeMap::new();
    for Booked { object_key, id, digest, .. } in &compared.lost {
        wanted.insert(id.clone(), (object_key.clone(), *digest));
    }
    for (key, object_key) in known_by_number(ledger, parts, namespace, table).await? {
        if !compared.held.segments.contains_key(&key.id) {
            wanted.entry(key.id).or_insert((object_key, None));
        }
    }
    let read: Vec<(SegmentId, Result<Again, String>)> = futures::stream::iter(wanted)
        .map(|(id, (object_key, digest))| async move {
            let key = SegmentKey::parse(parts.prefix, &object_key)?;
            let read = read_again(parts.bucket, &object_key, &key, digest).await?;
            anyhow::Ok((id, read.map_err(|why| format!("{object_key}: {why}"))))
        })
        .buffered(READS)
        .try_collect()
        .await?;
    let (mut again, mut gone) = (Vec::new(), Vec::new());
    let mut told = table_report(&compared.look, &compared.held);
    for (id, read) in read {
        match read {
            Ok(segment) => {
                told.again.push(segment.object_key.clone());
                again.push(segment);
            }
            Err(why) => {
                told.gone.push(why);
                gone.push(id);
            }
        }
    }
    report.tables.push(told);
    if !gone.is_empty() {
        report.notes.push(
            "what can't be registered again counts as not arrived: a gateway that still has it sends it again"
                .to_owned(),
        );
    }
    report.ledger = Some(ledger.id().to_string());
    if !parts.dry_run {
        let table = found(&compared.look, compared.own_gaps);
        ledger.reregister(&table, &again, &gone, &compared.kept, now)?;
    }
    Ok(report)
}

/// What the table lacks stays out of it for good. Gateways keep being told that it is registered, and rows of `gaps` name
/// what is missing.
pub async fn accept_rollback(
    ledger: &mut Ledger,
    parts: &Parts<'_>,
    namespace: &Namespace,
    table: Table,
    now: Timestamp,
) -> anyhow::Result<Report> {
    let mut report = Report { command: "accept-rollback", dry_run: parts.dry_run, ..Report::default() };
    let compared = compare(ledger, parts, namespace, table).await?;
    let gaps = gaps(parts, namespace, table, &compared.lost, compared.look.snapshot, now)?;
    let mut told = table_report(&compared.look, &compared.held);
    told.left_out = compared.lost.iter().map(|b| b.object_key.clone()).collect();
    report.tables.push(told);
    if !gaps.is_empty() {
        let verb = if parts.dry_run { "would say" } else { "will say" };
        report.notes.push(format!("{} rows of {namespace}.gaps {verb} so", gaps.len()));
    }
    report.ledger = Some(ledger.id().to_string());
    if !parts.dry_run {
        let table = found(&compared.look, compared.own_gaps);
        ledger.accept_rollback(&table, &compared.lost, &gaps, &compared.kept, now)?;
    }
    Ok(report)
}

async fn compare(
    ledger: &Ledger,
    parts: &Parts<'_>,
    namespace: &Namespace,
    table: Table,
) -> anyhow::Result<Compared> {
    ensure!(!ledger.is_rebuilding()?, "a rebuild of this ledger was interrupted: run `ledger rebuild` again");
    let own = ledger.id().to_string();
    let look = match parts.lake.peek(namespace, table).await? {
        Some(look) => look,
        None if ledger.booked(namespace, table)?.is_empty() => {
            bail!("table {namespace}.{table} isn't in the catalog, and the ledger has nothing of it")
        }
        None if parts.dry_run => bail!(
            "table {namespace}.{table} isn't in the catalog: without --dry-run it is created and gets what is registered"
        ),
        None => parts.lake.look(namespace, table, &own).await?,
    };
    if look.ledger.as_deref() != Some(own.as_str()) {
        let owner = look.ledger.as_deref().unwrap_or("(none)");
        bail!(
            "table {} belongs to ledger {owner}, this is ledger {own}: run `ledger rebuild` first",
            look.name()
        );
    }
    let known = ledger.known(namespace, table)?;
    let open = ledger.open_batch(namespace, table)?.map(|b| b.n);
    let same = known.uuid.is_none_or(|uuid| uuid == look.uuid);
    if same && look.batch > open.unwrap_or(known.batch) {
        bail!(
            "ledger is older than the table: {} has batch {}, the ledger is at batch {}: run `ledger rebuild`",
            look.name(),
            look.batch,
            known.batch
        );
    }
    let held = look.holdings().await?;
    let own_gaps = look.own_gaps().await?.into_iter().map(|gap| gap.id).collect();
    let (mut lost, mut kept) = (Vec::new(), Vec::new());
    for booked in ledger.booked(namespace, table)? {
        match (booked.open, held.segments.contains_key(&booked.id)) {
            (None, true) => {}
            (Some(_), true) => kept.push(booked.row),
            (None, false) => lost.push(booked),
            // The table had that batch and lost it again.
            (Some(n), false) if same && look.batch >= n => lost.push(booked),
            // It was never in the table: it waits, in its batch or for the next one.
            (Some(_), false) => {}
        }
    }
    Ok(Compared { look, held, own_gaps, lost, kept })
}

/// Objects of this table whose numbers only receipts call registered.
async fn known_by_number(
    ledger: &Ledger,
    parts: &Parts<'_>,
    namespace: &Namespace,
    table: Table,
) -> anyhow::Result<Vec<(SegmentKey, String)>> {
    let mut all = Vec::new();
    for ((gateway, epoch), numbers) in ledger.known_by_number()? {
        let first = numbers.iter().next().map_or(0, |(first, _)| first.saturating_sub(1));
        let folder = EpochFolder { gateway, epoch };
        let mut page = None;
        loop {
            let listed = arrivals(parts.bucket, parts.prefix, &folder, first, page).await?;
            for object in listed.objects {
                let Ok(key) = SegmentKey::parse(parts.prefix, &object.key) else { continue };
                if key.namespace == *namespace && key.table == table && numbers.contains(key.id.number.get())
                {
                    all.push((key, object.key));
                }
            }
            page = listed.next;
            if page.is_none() {
                break;
            }
        }
    }
    Ok(all)
}

/// One row for each run of numbers of one epoch and day.
fn gaps(
    parts: &Parts<'_>,
    namespace: &Namespace,
    table: Table,
    lost: &[Booked],
    snapshot: Option<i64>,
    now: Timestamp,
) -> anyhow::Result<Vec<OwnGap>> {
    let mut days: BTreeMap<tributary_contract::time::Day, (Numbers, BTreeMap<SegmentId, Option<u64>>)> =
        BTreeMap::new();
    for booked in lost {
        let day = SegmentKey::parse(parts.prefix, &booked.object_key)?.day;
        let (numbers, rows) = days.entry(day).or_default();
        insert(numbers, &booked.id);
        rows.insert(booked.id.clone(), booked.rows);
    }
    let mut gaps = Vec::new();
    for (day, (numbers, rows)) in days {
        for ((gateway, epoch), numbers) in numbers {
            for run in numbers.iter() {
                let readings = match table {
                    Table::Readings => rows_of(&rows, &gateway, epoch, run),
                    _ => None,
                };
                let to = snapshot.map(|s| format!(" to snapshot {s}")).unwrap_or_default();
                gaps.push(OwnGap {
                    id: gap_id(OwnReason::Rollback, &format!("{namespace}.{table}"), &gateway, epoch, run),
                    namespace: namespace.clone(),
                    gateway: gateway.clone(),
                    epoch,
                    from_ts: day.start(),
                    to_ts: day.start().plus(tributary_contract::time::DAY_MICROS - 1),
                    reason: OwnReason::Rollback.code().to_owned(),
                    readings,
                    detail: format!(
                        "segments {} to {} were in {namespace}.{table}; it was rolled back{to}, and that was accepted",
                        run.0, run.1
                    ),
                    recorded_at: now,
                });
            }
        }
    }
    Ok(gaps)
}

/// The rows of these numbers together, if all are known.
fn rows_of(
    rows: &BTreeMap<SegmentId, Option<u64>>,
    gateway: &GatewayId,
    epoch: Epoch,
    (first, last): (u64, u64),
) -> Option<u64> {
    let of = rows.iter().filter(|(id, _)| {
        id.gateway == *gateway && id.epoch == epoch && (first..=last).contains(&id.number.get())
    });
    of.map(|(_, rows)| *rows).try_fold(0u64, |sum, rows| Some(sum.saturating_add(rows?)))
}
