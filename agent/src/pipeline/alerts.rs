//! Alerts: judged with each commit, made durable, told on the broker.

use std::sync::Arc;

use serde::Serialize;
use tributary_contract::time::Timestamp;

use super::shared::Shared;
use crate::alert::Alerts;
use crate::buffer::{ALERT_STATE, AlertRow, Buffer, Dictionary};
use crate::config::{Config, HOUR, MINUTE, Names};
use crate::ingest::decode::Outgoing;

/// How often it is kept up to where the journal was judged, while nothing opens or closes, microseconds: so much is judged
/// again after a crash.
const KEEP_EVERY: i64 = MINUTE;

/// Alerts that wait to be told while there is no connection, the newest.
const UNTOLD: usize = 1000;

/// How far back, beyond the longest time for which a condition must hold, readings are remembered at a start, microseconds.
const REMEMBER: i64 = HOUR;

/// The alerts as the buffer's state and readings have them.
pub(super) fn alerts_of(
    b: &mut Buffer,
    config: &Config,
    names: &Dictionary,
    now: Timestamp,
) -> anyhow::Result<Alerts> {
    let mut alerts = Alerts::new(&config.alerts, b.ordinal());
    let kept = b.setting(ALERT_STATE)?.filter(|state| !state.is_empty());
    let had = kept.is_some();
    let after = alerts.restore(kept.as_deref(), b.newest_seq(), now);
    if config.alerts.is_empty() {
        if had {
            // Rules that come later begin with what comes after them.
            let (closed, _) = alerts.take(true).unwrap_or_default();
            b.save_alerts(&closed, &[])?;
        }
        return Ok(alerts);
    }
    if alerts.looks_for_silence() {
        names.entries().iter().for_each(|entry| alerts.follow(entry, now));
    }
    let lookup = |key| names.get(key);
    match after {
        Some(after) => {
            let (ordinal, since) = (b.ordinal(), now.plus(-(alerts.longest_hold() + REMEMBER)));
            let wanted = b.batches(|span| {
                let end = span.first_seq.saturating_add(u64::from(span.rows));
                span.epoch == ordinal && (end > after.saturating_add(1) || span.committed_at >= since)
            })?;
            b.scan_batches(&wanted, |_, rows| {
                let (judged, new) = rows.split_at(rows.partition_point(|row| row.seq <= after));
                alerts.remember(judged, &lookup, now);
                alerts.observe(new, &lookup, now);
            })?;
        }
        None => {
            let (closed, state) = alerts.take(true).unwrap_or_default();
            b.save_alerts(&closed, &state)?;
        }
    }
    Ok(alerts)
}

/// Makes durable what opened and closed, and tells it; the number of both.
///
/// # Errors
/// The buffer's: then nothing of it was told, and the next life judges it again.
pub async fn alert(shared: &Arc<Shared>, now: Timestamp) -> anyhow::Result<usize> {
    // Not behind what is to be saved now: what is durable needs no other write to be told.
    tell_what_waits(shared);
    let listening = {
        let live = shared.live();
        live.clock_synced && live.drained.iter().all(|d| *d) && live.brokers.iter().all(|b| b.connected)
    };
    let taken = {
        let mut alerts = shared.alerts();
        alerts.tick(now, listening);
        let through = alerts.through();
        let mut live = shared.live();
        if let Some((muted, rule)) = alerts.muted() {
            let why = format!(
                "{muted} changes of alerts since the start were too many to be noted, last of the rule {rule:?}: give it \
                 `hold`, or a `clear` further away"
            );
            live.notices.insert("alerts", why);
        }
        let (at, kept) = live.alerts_kept.unwrap_or((now, through));
        let stale = kept != through && !(0..KEEP_EVERY).contains(&now.since(at));
        let taken = alerts.take(stale);
        if taken.is_some() || live.alerts_kept.is_none() {
            live.alerts_kept = Some((now, through));
        }
        taken
    };
    let mut count = 0;
    if let Some((changes, state)) = taken {
        count = changes.len();
        let changes = Arc::new(changes);
        let saved = Arc::clone(&changes);
        shared.buffer.run(move |b| b.save_alerts(&saved, &state)).await??;
        shared.live().untold.extend(Arc::unwrap_or_clone(changes));
    }
    tell_what_waits(shared);
    Ok(count)
}

/// Tells what is durable, where there is a connection. What came of a start, before there was one, waits for it.
fn tell_what_waits(shared: &Shared) {
    let waiting = {
        let mut live = shared.live();
        let too_many = live.untold.len().saturating_sub(UNTOLD);
        live.untold.drain(..too_many);
        let connected = live.brokers.first().is_some_and(|b| b.connected);
        if connected { std::mem::take(&mut live.untold) } else { Vec::new() }
    };
    waiting.iter().for_each(|change| tell(shared, change));
}

#[derive(Serialize)]
struct Message<'a> {
    ts: String,
    device: &'a str,
    metric: &'a str,
    series: String,
    rule: &'a str,
    severity: &'a str,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    gateway: &'a str,
}

fn tell(shared: &Shared, change: &AlertRow) {
    let rule = shared.config.alerts.iter().find(|r| r.name == change.rule);
    let (Some(topic), Some(publisher)) = (rule.and_then(|r| r.publish.as_ref()), shared.publisher.get())
    else {
        return;
    };
    let gateway = shared.config.gateway.as_str();
    let topic = topic.topic(&Names {
        gateway,
        definition: &change.rule,
        namespace: change.namespace.as_str(),
        source: "",
        device: &change.device,
        metric: &change.metric,
    });
    let message = Message {
        ts: change.ts.to_string(),
        device: &change.device,
        metric: &change.metric,
        series: change.series.to_string(),
        rule: &change.rule,
        severity: &change.severity,
        state: change.state(),
        value: change.value,
        expected: change.expected,
        score: change.score,
        gateway,
    };
    // Texts and finite numbers: nothing in it can fail to be JSON.
    publisher.publish(Outgoing { topic, payload: serde_json::to_vec(&message).unwrap_or_default() });
}
