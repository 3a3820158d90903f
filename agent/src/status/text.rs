//! A status as text for people: what comes in, what waits, what is safe.

use tributary_contract::status::{DesiredStatus, GatewayStatus, LinkPolicy, RefusedSegment};

/// The status in about twenty lines, without control characters whatever a name holds.
pub fn render(s: &GatewayStatus) -> String {
    let mut lines = vec![
        format!("{:<12} {}  (epoch {}, agent {})", "gateway", s.gateway, s.epoch, s.agent),
        format!("{:<12} {}", "health", super::health_word(s.health)),
    ];
    lines.extend(s.reasons.iter().map(|r| format!("{:<12} - {r}", "")));
    for b in &s.brokers {
        let state =
            if b.connected { format!("connected, MQTT {}", b.protocol) } else { "not connected".into() };
        let why = b.failing.as_deref().map(|f| format!(": {f}")).unwrap_or_default();
        lines.push(format!("{:<12} {}  {state}{why}", "broker", b.url));
    }
    let (m, r) = (&s.counters.messages, &s.counters.readings);
    lines.push(format!(
        "{:<12} {} received = {} accepted + {} rejected + {} redelivered",
        "messages", m.received, m.accepted, m.rejected, m.redelivered
    ));
    lines.push(format!(
        "{:<12} {} journaled, {} waiting, {} sealed, {} registered, {} outstanding",
        "readings",
        r.journaled,
        r.waiting(),
        r.sealed,
        r.registered,
        r.outstanding()
    ));
    let lost = r.shed + r.expired + r.torn;
    if lost > 0 {
        lines.push(format!("{:<12} {} shed, {} expired, {} torn", "lost", r.shed, r.expired, r.torn));
    }
    let g = &s.segments;
    lines.push(format!(
        "{:<12} {} sealed, {} delivered, {} registered; {} to deliver ({})",
        "segments",
        g.sealed,
        g.delivered,
        g.registered,
        g.undelivered,
        bytesize::ByteSize(g.backlog_bytes).display().iec()
    ));
    for (what, n) in [("held", g.held), ("quarantined", g.quarantined), ("superseded", g.superseded)] {
        if n > 0 {
            lines.push(format!("{:<12} {n} {what}", ""));
        }
    }
    for refused in &g.refused {
        let RefusedSegment { epoch, number, state, reason } = refused;
        lines.push(format!("{:<12} - {state} {epoch}-{number}: {reason}", ""));
    }
    if let Some(wanted) = &s.desired {
        lines.extend(desired(wanted));
    }
    let b = &s.buffer;
    let sizes = (bytesize::ByteSize(b.bytes), bytesize::ByteSize(b.max_bytes));
    lines.push(format!("{:<12} {} of {}", "buffer", sizes.0.display().iec(), sizes.1.display().iec()));
    if let Some(f) = &s.flash {
        let size = |n: u64| bytesize::ByteSize(n).display().iec().to_string();
        let mut line = format!("{:<12} {} written by the agent today", "flash", size(f.today_bytes));
        if f.budget_per_day > 0 {
            line += &format!(" of {}, commits every {} ms", size(f.budget_per_day), f.commit_interval_ms);
        }
        if let Some(each) = f.device_per_payload.or(f.own_per_payload) {
            line += &format!("; {each:.2} bytes a payload byte");
        }
        if let Some(daily) = f.bytes_per_day {
            line += &format!("; {} a day", size(daily));
        }
        if let Some(days) = f.life_days {
            line += &format!("; lasts {:.1} years more", days / 365.25);
        }
        lines.push(line);
    }
    if let Some(oldest) = b.oldest_unsafe {
        lines.push(format!("{:<12} {oldest}", "oldest unsafe"));
    }
    match (&s.link.failing, s.link.last_success) {
        (Some(why), _) => lines.push(format!("{:<12} failing: {why}", "bucket")),
        (None, Some(at)) => lines.push(format!("{:<12} answered at {at}", "bucket")),
        (None, None) => {}
    }
    if let Some(policy) = &s.link.policy {
        lines.extend(link(policy, g.undelivered > 0));
    }
    let text = lines.join("\n") + "\n";
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// What operators asked for: a line for the document, one for each request, and one for each stretch of time of which
/// nothing is here.
fn desired(d: &DesiredStatus) -> Vec<String> {
    let mut lines = vec![format!("{:<12} revision {}", "desired", d.revision)];
    lines.extend(d.not_applied.iter().map(|what| format!("{:<12} - not applied: {what}", "")));
    for b in &d.backfills {
        let what = match &b.refused {
            Some(why) => format!("refused: {why}"),
            None if b.state == "pending" => b.state.clone(),
            None => {
                let mut counts = format!("{} asked for", b.asked);
                for (n, word) in [(b.waiting, "waiting"), (b.given_up, "given up")] {
                    if n > 0 {
                        counts += &format!(", {n} of them {word}");
                    }
                }
                format!("{}: {counts}; {} sent or on their way before", b.state, b.already)
            }
        };
        lines.push(format!("{:<12} - backfill {}: {what}", "", b.id));
        lines.extend(b.absent.iter().map(|(from, to)| format!("{:<12}   none here from {from} to {to}", "")));
    }
    if d.more_backfills > 0 {
        lines.push(format!("{:<12} - {} more backfills have ended", "", d.more_backfills));
    }
    lines
}

/// The link in a line or two: how fast it is, what is left of the budgets, when the backlog will be gone.
fn link(l: &LinkPolicy, backlog: bool) -> Vec<String> {
    let size = |n: u64| bytesize::ByteSize(n).display().iec().to_string();
    let mut parts = Vec::new();
    if l.profile != "default" {
        parts.push(l.profile.clone());
    }
    match (l.rate, l.max_rate) {
        (Some(rate), 0) => parts.push(format!("{} a second", size(rate))),
        (Some(rate), max) => parts.push(format!("{} a second, {} permitted", size(rate), size(max))),
        (None, 0) => {}
        (None, max) => parts.push(format!("{} a second permitted", size(max))),
    }
    let of = |max: u64| if max > 0 { format!(" of {}", size(max)) } else { String::new() };
    parts.push(format!("{}{} today", size(l.today_bytes), of(l.max_per_day)));
    parts.push(format!("{}{} this month", size(l.month_bytes), of(l.max_per_month)));
    let mut lines = vec![format!("{:<12} {}", "link", parts.join("; "))];
    if let Some(why) = &l.waits {
        lines.push(format!("{:<12} {why}", ""));
    }
    match l.drain_seconds {
        Some(seconds) if backlog => {
            // To the minute: nobody knows it better.
            let about = std::time::Duration::from_secs(seconds.div_ceil(60) * 60);
            lines.push(format!("{:<12} delivered in about {}", "", humantime::format_duration(about)));
        }
        None if backlog && l.rate.is_some() => {
            lines.push(format!("{:<12} more comes than the link carries, or may carry", ""));
        }
        Some(_) | None => {}
    }
    lines
}
