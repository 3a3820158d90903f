//! A gateway's weeks by a hand-turned clock: a week of backlog goes over a link while new readings come.
//!
//! The link is a number of bytes a second, shared as the throttle shares it: what is urgent first, backlog creeps. All
//! that decides is the policy's own code.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use tributary_contract::time::Timestamp;

use super::calendar::Calendar;
use super::drain::{Load, drains_in};
use super::incoming::Incoming;
use super::order::may_begin;
use super::pace;
use super::speed::Speed;
use super::spent::Ledger;
use super::{Ask, Class, Permit, Policy, wire};
use crate::config::{HOUR, Hours, Link, MINUTE, SECOND, Zone};

/// 2026-03-27T12:00:00 UTC: two days before the clocks of Europe go forward.
const BEGIN: Timestamp = Timestamp(1_774_612_800_000_000);
/// How far the clock is turned at once.
const TICK: i64 = 5 * SECOND;
/// When it is asked how long it will take.
const AFTER: i64 = 4 * HOUR;
/// How often new readings are sealed.
const MAX_AGE: i64 = 15 * MINUTE;

struct Transfer {
    class: Class,
    body: u64,
    left: f64,
    began: Timestamp,
    sealed: Timestamp,
}

struct Gateway {
    policy: Policy,
    ledger: Ledger,
    speed: Speed,
    incoming: Incoming,
    /// What the link really carries, bytes a second.
    carries: f64,
    new: VecDeque<(Class, u64, Timestamp)>,
    backlog: VecDeque<u64>,
    on_the_way: Vec<Transfer>,
    pending: u64,
    now: Timestamp,
    /// What an observer saw: bytes by local day, the longest that a new segment took, whether backlog began out of hours.
    by_day: BTreeMap<i64, f64>,
    longest: i64,
    out_of_hours: u64,
}

impl Gateway {
    fn new(link: Link, carries: f64, segments: usize, each: u64) -> Self {
        Self {
            policy: Policy::new(&link),
            ledger: Ledger::new(None),
            speed: Speed::default(),
            incoming: Incoming::default(),
            carries,
            new: VecDeque::new(),
            backlog: std::iter::repeat_n(each, segments).collect(),
            on_the_way: Vec::new(),
            pending: 0,
            now: BEGIN,
            by_day: BTreeMap::new(),
            longest: 0,
            out_of_hours: 0,
        }
    }

    fn seal(&mut self, class: Class, body: u64) {
        self.new.push_back((class, body, self.now));
        self.incoming.add(wire::request(body), self.now);
    }

    fn begin(&mut self) {
        self.policy.roll(&mut self.ledger.spent, self.now, true);
        loop {
            let (class, body, sealed) = match (self.new.front(), self.backlog.front()) {
                (Some(next), _) => *next,
                (None, Some(body)) => (Class::Backlog, *body, self.now),
                (None, None) => return,
            };
            let others: Vec<Class> = self.on_the_way.iter().map(|t| t.class).collect();
            let at_once = pace::at_once(self.speed.lasting(), self.policy.link().uploads);
            let incoming = self.incoming.per_second();
            let ask = Ask { class, bytes: wire::request(body), pending: self.pending, incoming };
            if !may_begin(class, &others, at_once)
                || self.policy.permit(ask, &self.ledger.spent, self.now) != Permit::Now
            {
                return;
            }
            if class == Class::Backlog {
                self.backlog.pop_front();
                let open = Calendar::new(self.policy.link().zone.clone());
                self.out_of_hours += u64::from(!open.is_open(&self.policy.link().hours, self.now));
            } else {
                self.new.pop_front();
            }
            let whole = wire::request(body);
            self.pending += whole;
            self.speed.begins(self.now);
            self.on_the_way.push(Transfer { class, body, left: whole as f64, began: self.now, sealed });
        }
    }

    /// The link carries what it can until the next tick, or until something has arrived.
    fn carry(&mut self) {
        let max = self.policy.link().max_rate;
        let rate = if max > 0 { self.carries.min(max as f64) } else { self.carries };
        self.on_the_way.sort_by_key(|t| t.class);
        let ends = self.on_the_way.first().map_or(TICK, |t| (t.left / rate * 1e6).ceil() as i64);
        let step = TICK.min(ends.max(1));
        let day = self.policy.calendar().day(self.now);
        self.now = self.now.plus(step);
        // The most urgent has the link for itself.
        if let Some(transfer) = self.on_the_way.first_mut() {
            let goes = transfer.left.min(rate * step as f64 / 1e6);
            transfer.left -= goes;
            *self.by_day.entry(day).or_default() += goes;
        }
        let (now, on_the_way) = (self.now, std::mem::take(&mut self.on_the_way));
        for t in on_the_way {
            if t.left > 0.01 {
                self.on_the_way.push(t);
                continue;
            }
            self.speed.ends(t.began, wire::message(t.body), now);
            self.pending -= wire::request(t.body);
            self.ledger.spent.book(wire::request(t.body));
            if !t.class.is_backlog() {
                self.longest = self.longest.max(now.since(t.sealed));
            }
        }
    }

    /// What the status would say, microseconds.
    fn drain(&self) -> Option<i64> {
        let waits: u64 = self.backlog.iter().map(|b| wire::request(*b)).sum();
        let on_the_way: f64 = self.on_the_way.iter().map(|t| t.left).sum();
        let rate = pace::speed(self.speed.per_second(), self.policy.link().max_rate)?;
        let load = Load { backlog: waits + on_the_way as u64, rate, incoming: self.incoming.per_second()? };
        drains_in(&self.policy, &self.ledger.spent, load, self.now)
    }
}

/// Lets weeks pass until the backlog is gone; checks what is promised on the way. Gives hours: what was said after a while,
/// and what it then took.
fn drain(link: Link, carries: f64, segments: usize, each: u64, new: u64) -> (f64, f64) {
    let (per_day, zone) = (link.max_per_day, link.zone.clone());
    let mut g = Gateway::new(link, carries, segments, each);
    let mut said: Option<(Timestamp, i64)> = None;
    let mut sealed_at = BEGIN;
    while !g.backlog.is_empty() || g.on_the_way.iter().any(|t| t.class.is_backlog()) {
        if g.now.since(sealed_at) >= MAX_AGE {
            sealed_at = g.now;
            g.seal(Class::Aggregates, new / 4);
            g.seal(Class::Live, new);
        }
        g.begin();
        g.carry();
        if said.is_none() && g.now.since(BEGIN) >= AFTER {
            said = g.drain().map(|d| (g.now, d));
        }
        assert!(g.now.since(BEGIN) < 90 * 24 * HOUR, "{} segments are left after 90 days", g.backlog.len());
    }
    assert!(g.longest <= MINUTE, "a new reading took {} s more than its age", g.longest / SECOND);
    assert_eq!(g.out_of_hours, 0);
    if per_day > 0 {
        let calendar = Calendar::new(zone);
        for (day, bytes) in &g.by_day {
            // An upload that began before midnight may end after it; it was within the budget of its day.
            assert!(*bytes <= (per_day + wire::request(each)) as f64, "{bytes} on day {day}");
        }
        assert!(calendar.day(g.now) >= calendar.day(BEGIN));
    }
    assert!(said.is_some() || g.now.since(BEGIN) <= AFTER + HOUR, "it was never said how long it takes");
    let (at, said) = said.unwrap_or((g.now, 0));
    (said as f64 / HOUR as f64, g.now.since(at) as f64 / HOUR as f64)
}

fn is_near(said: f64, took: f64) -> bool {
    (said - took).abs() <= 0.2 * took
}

fn berlin() -> Option<Zone> {
    Zone::read("Europe/Berlin")
}

#[test]
fn a_week_of_backlog_drains_over_16_kbit_while_new_readings_keep_their_bound() {
    let (said, took) = drain(Link::default(), 2000.0, 168, 200_000, 20_000);
    assert!(is_near(said, took), "said {said} h, took {took} h");
}

#[test]
fn at_night_only() {
    let hours = vec![Hours { from: 22 * HOUR, to: 6 * HOUR }];
    let link = Link { hours, zone: berlin(), ..Link::default() };
    let (said, took) = drain(link, 4000.0, 400, 600_000, 30_000);
    assert!(is_near(said, took), "said {said} h, took {took} h");
}

#[test]
fn within_a_budget_of_a_day_and_below_a_rate() {
    let link = Link { max_per_day: 12 << 20, max_rate: 3000, zone: berlin(), ..Link::default() };
    let (said, took) = drain(link, 50_000.0, 150, 300_000, 20_000);
    assert!(is_near(said, took), "said {said} h, took {took} h");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_the_link_new_readings_keep_their_bound_and_the_end_is_foretold(
        carries in 2_500.0f64..40_000.0, segments in 100usize..300, each in 100_000u64..500_000,
        new in 2_000u64..25_000, from in 0i64..24, length in 5i64..20, budget in prop::bool::ANY, night in prop::bool::ANY,
    ) {
        let mut link = Link { zone: berlin(), ..Link::default() };
        if night {
            link.hours = vec![Hours { from: from * HOUR, to: (from + length) % 24 * HOUR }];
        }
        if budget {
            link.max_per_day = 16 << 20;
        }
        let (said, took) = drain(link, carries, segments, each, new);
        // Where the last bytes just miss the end of a day or of the hours, they go when the next ones begin.
        let misses = if budget || night { 24.0 } else { 0.0 };
        let near = is_near(said, took) || (said - took).abs() <= misses || took < 6.0;
        prop_assert!(near, "said {said} h, took {took} h");
    }
}
