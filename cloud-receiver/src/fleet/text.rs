//! Draws the fleet for a terminal. Texts from gateways are shown with control characters escaped.

use tributary_contract::status::{BackfillStatus, RefusedSegment};
use tributary_contract::time::Timestamp;

use super::{Fleet, GatewayRow, page};

fn clean(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().collect() } else { vec![c] };
    text.chars().flat_map(shown).collect()
}

/// The roster.
pub fn table(fleet: &Fleet) -> String {
    let mut lines = vec![
        ["GATEWAY", "HEALTH", "REGISTERED", "OUTSTANDING", "REFUSED", "BACKLOG", "LAST SEEN", "WHY"]
            .map(str::to_owned),
    ];
    for g in &fleet.gateways {
        lines.push([
            clean(&g.gateway),
            g.health.text().to_owned(),
            g.registered.to_string(),
            g.outstanding.to_string(),
            g.quarantined.to_string(),
            page::size(&g.backlog_bytes),
            page::ago(&g.last_seen, &fleet.at),
            clean(&g.reasons.join("; ")),
        ]);
    }
    let mut widths = [0; 8];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let row = |line: &[String; 8]| {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let notes = fleet.failing.iter().chain(fleet.tables.iter().filter_map(|t| t.stopped.as_ref()));
    lines.iter().map(row).chain(notes.map(|n| format!("! {}", clean(n)))).collect::<Vec<_>>().join("\n")
}

/// One gateway.
pub fn detail(g: &GatewayRow, now: &Timestamp) -> String {
    let mut lines = vec![
        format!("{:<12} {}", "gateway", clean(&g.gateway)),
        format!("{:<12} {}", "health", g.health.text()),
    ];
    lines.extend(g.reasons.iter().map(|why| format!("{:<12} - {}", "", clean(why))));
    lines.push(format!("{:<12} {}", "last seen", page::ago(&g.last_seen, now)));
    lines.push(format!(
        "{:<12} {} registered, {} outstanding, {} refused, {} void; backlog {}",
        "segments",
        g.registered,
        g.outstanding,
        g.quarantined,
        g.void,
        page::size(&g.backlog_bytes)
    ));
    for e in &g.epochs {
        for (number, code, detail) in &e.quarantined {
            lines.push(format!(
                "{:<12} - {}-{number} is in quarantine: {code}: {}",
                "",
                e.epoch,
                clean(detail)
            ));
        }
    }
    for RefusedSegment { epoch, number, state, reason } in &g.refused {
        lines.push(format!(
            "{:<12} - {}-{number} is {} there: {}",
            "",
            clean(epoch),
            clean(state),
            clean(reason)
        ));
    }
    if let Some(desired) = &g.desired {
        lines.push(format!("{:<12} revision {}", "desired", desired.revision));
        let said = desired.refused.iter().chain(&desired.not_applied);
        lines.extend(said.map(|what| format!("{:<12} - not applied: {}", "", clean(what))));
        for b in &desired.backfills {
            lines.push(format!("{:<12} - backfill {}: {}", "", clean(&b.id), clean(&outcome(b))));
            lines.extend(
                b.absent.iter().map(|(from, to)| format!("{:<12}   none there from {from} to {to}", "")),
            );
        }
        if desired.more_backfills > 0 {
            lines.push(format!("{:<12} - {} more backfills have ended", "", desired.more_backfills));
        }
    }
    lines.join("\n")
}

/// What came of a backfill, in a line.
pub fn outcome(b: &BackfillStatus) -> String {
    match (&b.refused, b.state.as_str()) {
        (Some(why), _) => format!("refused: {why}"),
        (None, "pending") => "pending".into(),
        (None, state) => format!(
            "{state}: {} asked for, {} of them waiting, {} given up; {} sent or on their way before",
            b.asked, b.waiting, b.given_up, b.already
        ),
    }
}
