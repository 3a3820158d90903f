//! What the loops know together of the link: its policy, its books, its speed, what is new.

use serde::{Deserialize, Serialize};
use tributary_contract::id::{Epoch, Number};
use tributary_contract::status::{LinkPolicy, LinkStatus};
use tributary_contract::time::Timestamp;

use crate::config::{Config, Order};
use crate::upload::link::drain::{Load, drains_in};
use crate::upload::link::incoming::Incoming;
use crate::upload::link::order::Seals;
use crate::upload::link::pace;
use crate::upload::link::speed::Speed;
use crate::upload::link::spent::{Ledger, Spent};
use crate::upload::link::{Ask, Class, Permit, Policy, Why, wire};

/// The buffer's name for what is kept of the link.
pub(super) const KEPT: &str = "link";

/// What survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    /// What was spent of the budgets, and some ahead.
    spent: Option<Spent>,
    /// Bytes a second, as they were measured; 0 for unknown.
    speed: u64,
}

/// The link.
#[derive(Debug)]
pub struct Link {
    policy: Policy,
    ledger: Ledger,
    speed: Speed,
    incoming: Incoming,
    seals: Seals,
    /// The greatest segment and its greatest age, as configured.
    segment: (u64, i64),
    /// What of the bucket's count of bytes is in the books.
    counted: u64,
    /// The speed that is durable.
    kept_speed: u64,
    /// Bytes on the wire that were permitted and are on their way.
    pending: u64,
    /// Uploads on their way.
    on_the_way: usize,
    /// Until when something that was due had to wait, and why; none after a pass in which nothing had to.
    waits: Option<Permit>,
}

impl Link {
    /// A link of which nothing is known.
    pub fn new(config: &Config) -> Self {
        Self {
            policy: Policy::new(&config.link),
            ledger: Ledger::default(),
            speed: Speed::default(),
            incoming: Incoming::default(),
            seals: Seals::default(),
            segment: (config.segment.max_bytes, config.segment.max_age),
            counted: 0,
            kept_speed: 0,
            pending: 0,
            on_the_way: 0,
            waits: None,
        }
    }

    /// Takes over what an earlier life kept; what can't be read counts as nothing.
    pub fn restore(&mut self, kept: Option<&[u8]>) {
        let kept: Kept = kept.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        self.ledger = Ledger::new(kept.spent);
        self.speed = Speed::known(kept.speed);
        self.kept_speed = kept.speed;
    }

    /// From now on what the bucket counts beyond that is in the books.
    pub const fn counts_from(&mut self, traffic: u64) {
        self.counted = traffic;
    }

    /// Brings the books to `now` and to what the bucket has counted; gives what has to be made durable before more is
    /// sent, if anything. A clock that isn't `trusted` ends no day.
    pub fn account(&mut self, traffic: u64, now: Timestamp, trusted: bool) -> Option<Vec<u8>> {
        self.policy.roll(&mut self.ledger.spent, now, trusted);
        // Less than before: another bucket, with a count of its own.
        let new = if traffic >= self.counted { traffic - self.counted } else { traffic };
        self.counted = traffic;
        self.ledger.spent.book(new);
        let speed = self.speed.per_second().map_or(0, |s| s as u64);
        // Rarely: only when what was kept would mislead a start.
        let misleads = speed > 0 && (speed / 2 > self.kept_speed || speed < self.kept_speed / 2);
        let ahead =
            if self.policy.has_budget() { self.ledger.ahead(self.pending, self.budget()) } else { None };
        if ahead.is_none() && !misleads {
            return None;
        }
        let spent = ahead.or_else(|| self.ledger.written().cloned());
        if let Some(spent) = &spent {
            self.ledger.is_written(spent.clone());
        }
        self.kept_speed = if speed > 0 { speed } else { self.kept_speed };
        serde_json::to_vec(&Kept { spent, speed: self.kept_speed }).ok()
    }

    /// Whether something of that class, with a body of that many bytes, may go now. What may not is noted.
    pub fn permit(&mut self, class: Class, body: u64, now: Timestamp) -> Permit {
        let ask = Ask {
            class,
            bytes: wire::request(body),
            pending: self.pending,
            incoming: self.incoming.per_second(),
        };
        let permit = self.policy.permit(ask, &self.ledger.spent, now);
        if permit != Permit::Now {
            self.waits = Some(permit);
        }
        permit
    }

    /// A pass begins: nothing is known to wait.
    pub fn nothing_waits(&mut self) {
        self.waits = None;
    }

    /// When it is worth asking again for what had to wait; none where nothing waits for a time.
    pub fn waits_until(&self) -> Option<Timestamp> {
        match self.waits {
            Some(Permit::At(at, _)) => Some(at),
            Some(Permit::Now | Permit::Never(_)) | None => None,
        }
    }

    /// Whether anything waits for the policy.
    pub fn has_to_wait(&self) -> bool {
        self.waits.is_some()
    }

    /// A body of that many bytes sets out.
    pub fn begins(&mut self, body: u64, now: Timestamp) {
        self.on_the_way += 1;
        self.pending = self.pending.saturating_add(wire::request(body));
        self.speed.begins(now);
    }

    /// A body of that many bytes that began then has arrived, or hasn't.
    pub fn ends(&mut self, began: Timestamp, body: u64, arrived: bool, now: Timestamp) {
        self.on_the_way = self.on_the_way.saturating_sub(1);
        self.pending = self.pending.saturating_sub(wire::request(body));
        self.speed.ends(began, if arrived { wire::message(body) } else { 0 }, now);
    }

    /// The link failed.
    pub fn failed(&mut self) {
        self.speed.failed();
    }

    /// Whether an upload is on its way.
    pub const fn is_busy(&self) -> bool {
        self.on_the_way > 0
    }

    /// How many uploads at once.
    pub fn at_once(&self) -> usize {
        pace::at_once(self.speed.lasting(), self.policy.link().uploads)
    }

    /// A segment of that many bytes was sealed.
    pub fn sealed(&mut self, epoch: Epoch, number: Number, bytes: u64, now: Timestamp) {
        self.seals.add(epoch, number, now);
        self.incoming.add(wire::request(bytes), now);
    }

    /// What an earlier life sealed from there on counts as new.
    pub fn found_new(&mut self, epoch: Epoch, number: Number, now: Timestamp) {
        self.seals.add(epoch, number, now);
    }

    /// The first segment that counts as new; what was sealed before it is backlog.
    pub fn new_from(&mut self, now: Timestamp) -> Option<(Epoch, Number)> {
        self.seals.new_from(self.segment.1, now)
    }

    /// Which of the backlog goes first.
    pub const fn order(&self) -> Order {
        self.policy.link().order
    }

    /// The greatest segment to make now, bytes.
    pub fn segment_bytes(&self) -> u64 {
        let speed = pace::speed(self.speed.per_second(), self.policy.link().max_rate);
        pace::segment_bytes(self.segment.0, speed, self.budget())
    }

    /// The smaller budget, 0 for none.
    fn budget(&self) -> u64 {
        let link = self.policy.link();
        [link.max_per_day, link.max_per_month].into_iter().filter(|b| *b > 0).min().unwrap_or(0)
    }

    /// `seen` with what is known here, for segments of `backlog` bytes in `segments` pieces.
    pub fn status(&self, seen: LinkStatus, backlog: u64, segments: u64, now: Timestamp) -> LinkStatus {
        let link = self.policy.link();
        let mut spent = self.ledger.spent.clone();
        self.policy.roll(&mut spent, now, true);
        let rate = pace::speed(self.speed.per_second(), link.max_rate);
        let drain = rate.and_then(|rate| {
            let backlog = wire::message(backlog).saturating_add(wire::request(0).saturating_mul(segments));
            let incoming = self.incoming.per_second().unwrap_or(0.0);
            let load = Load { backlog, rate, incoming };
            drains_in(&self.policy, &spent, load, now)
        });
        let waits = match self.waits {
            Some(Permit::At(at, why)) => Some(format!("{why}: more goes at {at}")),
            Some(Permit::Never(why)) => Some(why.to_string()),
            Some(Permit::Now) | None => link.paused.then(|| Why::Paused.to_string()),
        };
        LinkStatus {
            policy: Some(LinkPolicy {
                profile: link.profile.name().to_owned(),
                paused: link.paused,
                rate: self.speed.per_second().map(|s| s as u64),
                max_rate: link.max_rate,
                today_bytes: spent.sent_today(),
                max_per_day: link.max_per_day,
                month_bytes: spent.month(),
                max_per_month: link.max_per_month,
                segment_bytes: self.segment_bytes(),
                uploads: self.at_once() as u64,
                waits,
                drain_seconds: drain.and_then(|t| u64::try_from(t / 1_000_000).ok()),
            }),
            ..seen
        }
    }
}
