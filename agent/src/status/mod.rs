//! Status: what the gateway knows about itself, judged in one word and in sentences.
//!
//! *In:* facts that the stages collect, as the contract's own structures. *Out:* the status object, its short form for
//! manifests, and what the local endpoint shows. *Survives a crash:* nothing; it is computed anew. *Absent:* history
//! and thresholds to tune; whoever watches many gateways has both.
//!
//! - **ok**: readings come in, are durable, reach the bucket, and receipts come back.
//! - **degraded**: nothing is being lost, but it isn't going as it should and a person should look: the link or a broker
//!   is away, the buffer fills up, segments were refused, receipts stopped or don't fit.
//! - **losing**: readings are being lost or can't be taken in now.

pub mod flash;
pub mod metrics;
pub mod server;
pub mod client;
pub mod text;

use std::collections::BTreeMap;

use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::Counters;
use tributary_contract::id::{Epoch, GatewayId, Namespace};
use tributary_contract::status::{
    BrokerStatus, BufferStatus, DesiredStatus, FlashStatus, GatewayStatus, Health, LinkStatus, ReceiptStatus,
    SegmentStatus, ShortStatus, SourceStatus,
};
use tributary_contract::time::Timestamp;

/// A failure of the link or a broker is nothing to look at before it has lasted this long, microseconds.
const PATIENCE: i64 = 600_000_000;

/// Share of the budget, in percent, above which the buffer counts as filling up.
const FILLING_PERCENT: u64 = 80;

/// What the stages know, collected at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Whose status.
    pub gateway: GatewayId,
    /// Current epoch.
    pub epoch: Epoch,
    /// The instant.
    pub at: Timestamp,
    /// When the agent started.
    pub started_at: Timestamp,
    /// Tags of the gateway.
    pub tags: BTreeMap<String, String>,
    /// Namespaces of its sources.
    pub namespaces: Vec<Namespace>,
    /// Both laws' counters.
    pub counters: Counters,
    /// Redelivered messages by rule.
    pub redelivered: BTreeMap<String, u64>,
    /// Rejected messages by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Readings too late for any correction.
    pub too_late: u64,
    /// Alerts that are open.
    pub alerts: u64,
    /// The buffer.
    pub buffer: BufferStatus,
    /// Segments by state.
    pub segments: SegmentStatus,
    /// The way to the bucket.
    pub link: LinkStatus,
    /// Broker connections.
    pub brokers: Vec<BrokerStatus>,
    /// Sources.
    pub sources: Vec<SourceStatus>,
    /// The last receipt.
    pub receipt: ReceiptStatus,
    /// What was written to flash.
    pub flash: Option<FlashStatus>,
    /// What came of what operators asked for.
    pub desired: Option<DesiredStatus>,
    /// Why nothing is taken in now (disk failed, budget full), if so.
    pub intake_stopped: Option<String>,
    /// Readings that this start of the agent found lost or had to shed, with the reason, if any.
    pub losses: Vec<String>,
    /// What else the operator should know: a refused store, a new epoch after damage, a rolled back setting.
    pub notices: Vec<String>,
}

/// The status that follows from the facts.
pub fn judge(facts: Facts) -> GatewayStatus {
    let (health, reasons) = health(&facts);
    let mut namespaces: Vec<String> = facts.namespaces.iter().map(Namespace::to_string).collect();
    namespaces.sort();
    namespaces.dedup();
    GatewayStatus {
        version: FORMAT_VERSION,
        gateway: facts.gateway,
        epoch: facts.epoch,
        at: facts.at,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: facts.started_at,
        health,
        reasons,
        tags: facts.tags,
        namespaces,
        counters: facts.counters,
        redelivered: facts.redelivered,
        rejected: facts.rejected,
        too_late: facts.too_late,
        alerts: facts.alerts,
        buffer: facts.buffer,
        segments: facts.segments,
        link: facts.link,
        brokers: facts.brokers,
        sources: facts.sources,
        receipt: facts.receipt,
        flash: facts.flash,
        desired: facts.desired,
    }
}

/// The short form of a status.
pub fn short(status: &GatewayStatus) -> ShortStatus {
    ShortStatus {
        at: status.at,
        agent: status.agent.clone(),
        health: status.health,
        oldest_unsafe: status.buffer.oldest_unsafe,
        buffer_bytes: status.buffer.bytes,
        backlog_bytes: status.segments.backlog_bytes,
        receipt_revision: status.receipt.revision,
    }
}

/// The name of a health as status, metrics and page spell it.
pub const fn health_word(health: Health) -> &'static str {
    match health {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Losing => "losing",
    }
}

/// The word and its reasons, the worst first.
fn health(facts: &Facts) -> (Health, Vec<String>) {
    let mut found: Vec<(Health, String)> = Vec::new();
    let mut losing = |why: String| found.push((Health::Losing, why));
    if let Some(why) = &facts.intake_stopped {
        losing(format!("no readings are taken in: {why}"));
    }
    facts.losses.iter().for_each(|why| losing(why.clone()));

    let mut degraded = |why: String| found.push((Health::Degraded, why));
    for broker in &facts.brokers {
        let since = broker.since.filter(|t| !broker.connected && lasted(facts.at, *t));
        if let Some(since) = since {
            let why = broker.failing.as_deref().unwrap_or("no reason known");
            degraded(format!("broker {} is away since {since}: {why}", broker.url));
        }
    }
    if let (Some(why), Some(since)) = (&facts.link.failing, facts.link.failing_since)
        && lasted(facts.at, since)
    {
        degraded(format!("the bucket can't be reached since {since}: {why}"));
    }
    let buffer = &facts.buffer;
    let in_use = buffer.bytes.saturating_sub(buffer.reusable);
    if buffer.max_bytes > 0 && in_use >= buffer.max_bytes / 100 * FILLING_PERCENT {
        let (bytes, max) = (bytesize::ByteSize(in_use), bytesize::ByteSize(buffer.max_bytes));
        degraded(format!("the buffer holds {bytes} of {max}"));
    }
    let segments = &facts.segments;
    let counted = [
        (segments.held, "refused by the bucket and held on disk"),
        (segments.quarantined, "quarantined by the receiver"),
        (segments.superseded, "superseded: another object holds their names"),
    ];
    for (count, what) in counted {
        if count > 0 {
            degraded(format!("segments {what}: {count}"));
        }
    }
    if facts.receipt.forked {
        degraded(
            "a receipt names segments that this buffer never sealed: a copy of it is or was running".into(),
        );
    }
    if facts.receipt.stale {
        degraded(
            "receipts have had old revisions for ten minutes: the receiver may have lost its ledger".into(),
        );
    }
    if let Some(why) = facts.desired.as_ref().and_then(|desired| desired.refused.clone()) {
        degraded(why);
    }
    facts.notices.iter().for_each(|why| degraded(why.clone()));

    found.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
    let worst = found.first().map_or(Health::Ok, |(health, _)| *health);
    (worst, found.into_iter().map(|(_, why)| why).collect())
}

const fn lasted(at: Timestamp, since: Timestamp) -> bool {
    at.since(since) >= PATIENCE
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A gateway that is well.
    pub(crate) fn facts() -> Facts {
        Facts {
            gateway: GatewayId::new("gw-1").unwrap(),
            epoch: Epoch(7),
            at: Timestamp(10_000_000_000),
            started_at: Timestamp(0),
            tags: BTreeMap::new(),
            namespaces: vec![Namespace::default(), Namespace::default()],
            counters: Counters::default(),
            redelivered: BTreeMap::new(),
            rejected: BTreeMap::new(),
            too_late: 0,
            alerts: 0,
            buffer: BufferStatus { max_bytes: 1_000_000, bytes: 10_000, ..Default::default() },
            segments: SegmentStatus::default(),
            link: LinkStatus::default(),
            brokers: vec![BrokerStatus { connected: true, since: Some(Timestamp(0)), ..Default::default() }],
            sources: Vec::new(),
            receipt: ReceiptStatus::default(),
            flash: None,
            desired: None,
            intake_stopped: None,
            losses: Vec::new(),
            notices: Vec::new(),
        }
    }

    #[test]
    fn a_gateway_that_works_is_ok_and_gives_no_reasons() {
        let status = judge(facts());
        assert_eq!((status.health, status.reasons), (Health::Ok, Vec::new()));
        assert_eq!(status.namespaces, ["tributary"]);
    }

    #[test]
    fn each_trouble_has_its_word_and_its_sentence() {
        let away = |f: &mut Facts| {
            f.brokers = vec![BrokerStatus {
                url: "mqtt://plant".into(),
                since: Some(Timestamp(0)),
                failing: Some("refused".into()),
                ..Default::default()
            }];
        };
        let cut = |f: &mut Facts| {
            f.link.failing = Some("no connection".into());
            f.link.failing_since = Some(Timestamp(0));
        };
        type Change<'a> = &'a dyn Fn(&mut Facts);
        let refused = |f: &mut Facts| {
            let why = Some("desired/gw-1.json isn't taken: it isn't readable".to_owned());
            f.desired = Some(DesiredStatus { refused: why, ..Default::default() });
        };
        let table: [(Change<'_>, Health, &str); 12] = [
            (&|f| f.intake_stopped = Some("disk is full".into()), Health::Losing, "disk is full"),
            (&|f| f.losses.push("shed 3 readings".into()), Health::Losing, "shed 3"),
            (&away, Health::Degraded, "mqtt://plant is away"),
            (&cut, Health::Degraded, "no connection"),
            (&|f| f.buffer.bytes = 800_000, Health::Degraded, "the buffer holds"),
            (&|f| f.segments.held = 1, Health::Degraded, "held on disk: 1"),
            (&|f| f.segments.quarantined = 2, Health::Degraded, "quarantined by the receiver: 2"),
            (&|f| f.segments.superseded = 3, Health::Degraded, "hold"),
            (&|f| f.receipt.forked = true, Health::Degraded, "copy"),
            (&|f| f.receipt.stale = true, Health::Degraded, "ledger"),
            (&refused, Health::Degraded, "desired/gw-1.json"),
            (&|f| f.notices.push("new epoch".into()), Health::Degraded, "new epoch"),
        ];
        for (change, health, words) in table {
            let mut troubled = facts();
            change(&mut troubled);
            let status = judge(troubled);
            assert_eq!((status.health, status.reasons.len()), (health, 1), "{words}: {:?}", status.reasons);
            assert!(status.reasons[0].contains(words), "{words}: {:?}", status.reasons);
        }
    }

    #[test]
    fn a_short_absence_of_broker_or_bucket_is_no_trouble() {
        let mut brief = facts();
        let recent = Some(brief.at.plus(1 - PATIENCE));
        brief.brokers[0] = BrokerStatus { connected: false, since: recent, ..Default::default() };
        brief.link.failing = Some("no connection".into());
        brief.link.failing_since = recent;
        assert_eq!(judge(brief).health, Health::Ok);
    }

    #[test]
    fn the_worst_reason_stands_first_and_the_short_form_agrees() {
        let mut bad = facts();
        bad.segments.held = 1;
        bad.segments.backlog_bytes = 5;
        bad.intake_stopped = Some("disk is full".into());
        let status = judge(bad);
        assert!(status.reasons[0].contains("disk") && status.reasons[1].contains("held"));
        let short = short(&status);
        assert_eq!((short.health, short.backlog_bytes, short.buffer_bytes), (Health::Losing, 5, 10_000));
    }
}
