//! Puts the fleet together: facts of the ledger in, one row per gateway out, the worst first.

use tributary_contract::range::Ranges;
use tributary_contract::reject::QuarantineReason as Reason;
use tributary_contract::status::Health;
use tributary_contract::time::Timestamp;

use super::{EpochRow, Fleet, GatewayRow, TableRow, Word, readable};
use crate::dedupe::{EpochFacts, GatewayFacts, TableState};
use crate::pipeline::health::Failing;
use crate::receipt::missing;

const MINUTE: i64 = 60_000_000;
/// A gateway says something every 15 minutes, unless it was told otherwise: three times that is silence.
const SILENT_AFTER: i64 = 45 * MINUTE;
/// An hour-old reading that isn't in the table is behind.
const BEHIND_AFTER: i64 = 60 * MINUTE;
/// The most ranges of numbers that a text shows.
const RANGES_SHOWN: usize = 20;

/// The whole fleet at `now`.
pub fn fleet(
    gateways: Vec<GatewayFacts>,
    tables: Vec<TableState>,
    failing: Vec<Failing>,
    strays: u64,
    now: Timestamp,
) -> Fleet {
    let mut gateways: Vec<GatewayRow> = gateways.into_iter().map(|g| gateway(g, now)).collect();
    gateways.sort_by(|a, b| (a.health, &a.gateway).cmp(&(b.health, &b.gateway)));
    let failing = failing.iter().map(|f| format!("{}, since {} UTC", f.why, readable(&f.since))).collect();
    Fleet { at: now, gateways, tables: tables.into_iter().map(table).collect(), failing, strays }
}

fn table(state: TableState) -> TableRow {
    TableRow {
        table: format!("{}.{}", state.namespace, state.table),
        rows: state.rows,
        files: state.files,
        waiting: state.waiting,
        batch: state.batch,
        snapshot: state.snapshot,
        settled_at: state.settled_at,
        stopped: state.stopped,
    }
}

/// What a gateway says of itself, from whichever came last: its status object or its newest manifest.
struct Account {
    health: Health,
    oldest_unsafe: Option<Timestamp>,
    backlog_bytes: u64,
    buffer_bytes: u64,
    agent: String,
}

fn account(facts: &GatewayFacts) -> Option<Account> {
    let long = facts.status.as_ref().map(|s| {
        let account = Account {
            health: s.health,
            oldest_unsafe: s.buffer.oldest_unsafe,
            backlog_bytes: s.segments.backlog_bytes,
            buffer_bytes: s.buffer.bytes,
            agent: s.agent.clone(),
        };
        (s.at, account)
    });
    let short = facts.short.as_ref().map(|s| {
        let account = Account {
            health: s.health,
            oldest_unsafe: s.oldest_unsafe,
            backlog_bytes: s.backlog_bytes,
            buffer_bytes: s.buffer_bytes,
            agent: s.agent.clone(),
        };
        (s.at, account)
    });
    [long, short].into_iter().flatten().max_by_key(|(at, _)| *at).map(|(_, account)| account)
}

fn gateway(facts: GatewayFacts, now: Timestamp) -> GatewayRow {
    let account = account(&facts);
    let sum = |count: fn(&EpochFacts) -> u64| facts.epochs.values().map(count).fold(0, u64::saturating_add);
    let counters = [facts.status.as_ref().map(|s| s.counters), facts.counters];
    let lost = counters.iter().flatten().map(|c| c.readings.shed.saturating_add(c.readings.torn)).max();
    let (health, reasons) = verdict(&facts, account.as_ref(), now);
    let (tags, refused, desired) =
        facts.status.map(|s| (s.tags, s.segments.refused, s.desired)).unwrap_or_default();
    GatewayRow {
        gateway: facts.gateway.to_string(),
        health,
        reasons,
        oldest_unsafe: account.as_ref().and_then(|a| a.oldest_unsafe),
        backlog_bytes: account.as_ref().map(|a| a.backlog_bytes),
        buffer_bytes: account.as_ref().map(|a| a.buffer_bytes),
        registered: sum(|e| e.registered.len()),
        outstanding: sum(|e| e.present.len().saturating_add(missing(e).len())),
        quarantined: sum(|e| e.refused.len()),
        lost: lost.unwrap_or_default(),
        void: sum(|e| e.void.len()),
        last_seen: facts.last_seen,
        agent: account.map(|a| a.agent).filter(|v| !v.is_empty()),
        receipt_revision: facts.receipt_revision,
        tags,
        epochs: facts.epochs.into_iter().map(|(epoch, e)| epoch_row(epoch.to_string(), e)).collect(),
        refused,
        desired,
    }
}

/// The word, and a sentence for everything that isn't well.
fn verdict(facts: &GatewayFacts, account: Option<&Account>, now: Timestamp) -> (Word, Vec<String>) {
    let mut found: Vec<(Word, String)> = Vec::new();
    if account.is_some_and(|a| a.health == Health::Losing) {
        found.push((Word::Losing, "it says that it loses readings".to_owned()));
    }
    let refused = || facts.epochs.values().flat_map(|e| e.quarantined.values());
    let branches = refused().filter(|q| matches!(q.reason, Reason::Forked | Reason::Conflict)).count();
    if branches > 0 {
        let sentence =
            format!("{branches} of its segments belong to a second branch: is its buffer in use twice?");
        found.push((Word::Forked, sentence));
    }
    if facts.status.as_ref().is_some_and(|s| s.receipt.forked) {
        found.push((Word::Forked, "it was sent receipts for segments that it never sealed".to_owned()));
    }
    match facts.last_seen {
        Some(seen) if now.since(seen) > SILENT_AFTER => {
            found.push((Word::Silent, format!("nothing came from it since {} UTC", readable(&seen))));
        }
        Some(_) => {}
        None => found.push((Word::Silent, "nothing sound ever came from it".to_owned())),
    }
    if let Some(oldest) = account.and_then(|a| a.oldest_unsafe)
        && now.since(oldest) > BEHIND_AFTER
    {
        found.push((
            Word::Behind,
            format!("its oldest reading that isn't in the tables is of {} UTC", readable(&oldest)),
        ));
    }
    let refused = refused().count();
    if refused > 0 {
        found.push((Word::Behind, format!("{refused} of its segments are in quarantine")));
    }
    if account.is_some_and(|a| a.health == Health::Degraded) {
        found.push((Word::Behind, "it says that something needs a look".to_owned()));
    }
    let word = found.iter().map(|(w, _)| *w).min().unwrap_or(Word::Healthy);
    let own = facts.status.iter().flat_map(|s| s.reasons.iter().cloned());
    (word, found.into_iter().map(|(_, sentence)| sentence).chain(own).collect())
}

fn epoch_row(epoch: String, facts: EpochFacts) -> EpochRow {
    EpochRow {
        epoch,
        registered: ranges(&facts.registered),
        missing: ranges(&missing(&facts)),
        void: ranges(&facts.void),
        newest: facts.newest,
        closed: facts.closed_last.is_some(),
        quarantined: facts
            .quarantined
            .into_iter()
            .map(|(n, q)| (n, q.reason.code().to_owned(), format!("{} {}", q.reason.sentence(), q.detail)))
            .collect(),
    }
}

/// Ranges for people: `1–7, 9`.
fn ranges(set: &Ranges) -> String {
    let total = set.iter().count();
    let mut parts: Vec<String> = set
        .iter()
        .take(RANGES_SHOWN)
        .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}–{b}") })
        .collect();
    if total > RANGES_SHOWN {
        parts.push(format!("and {} more ranges", total - RANGES_SHOWN));
    }
    parts.join(", ")
}
