//! When what was collected is due for its commit.
//!
//! Due when the oldest has waited `commit_interval`, when the payloads reach 1 MiB, or when the unacknowledged messages
//! of one broker reach half of its in-flight window. A broker may have a smaller window than we were told: it then
//! stalls until the interval ends, commit after commit at the same count, and goes on right after each acknowledgement.
//! Where that is seen the window is lowered to the count. Sensors that all report once in an interval look the same, so
//! the lowering is on trial: if it doesn't bring more messages, or if more than that were ever under way, it is undone.

use tributary_contract::time::Timestamp;

/// Payload bytes at which a batch is due.
pub const MAX_BYTES: usize = 1 << 20;
/// So many commits in a row must look stalled before the window is lowered, and so many intervals is the trial.
const PROOF: u32 = 3;
/// After a lowering was undone, so many intervals pass before the next try.
const PAUSE: i64 = 300;

/// When a commit is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// At that instant, if nothing comes before.
    At(Timestamp),
    /// Nothing is collected.
    Never,
}

/// Counts what is collected, and decides when it is due.
#[derive(Debug, Clone)]
pub struct Collect {
    interval: i64,
    oldest: Option<Timestamp>,
    bytes: usize,
    forced: bool,
    windows: Vec<Window>,
}

#[derive(Debug, Clone)]
struct Window {
    configured: u32,
    lowered: Option<Lowered>,
    /// Unacknowledged messages of the batch being collected.
    unacknowledged: u32,
    /// When the last batch went, with its acknowledgements.
    last_drain: Option<Timestamp>,
    /// First and last arrival in this batch.
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// Commits in a row that found the same stalled count.
    stalled: Option<(u32, u32)>,
    paused_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Lowered {
    to: u32,
    since: Timestamp,
    /// Messages since; `None` once the trial is won.
    arrived: Option<u32>,
}

impl Collect {
    /// Nothing collected. `interval` in microseconds; `windows` are the brokers' in-flight windows in order.
    pub fn new(interval: i64, windows: &[u16]) -> Self {
        let window = |&configured: &u16| Window {
            configured: u32::from(configured.max(1)),
            lowered: None,
            unacknowledged: 0,
            last_drain: None,
            first: None,
            last: None,
            stalled: None,
            paused_until: None,
        };
        Self {
            interval,
            oldest: None,
            bytes: 0,
            forced: false,
            windows: windows.iter().map(window).collect(),
        }
    }

    /// How long a message may wait from now on, microseconds. Nothing else changes: bytes and in-flight windows still make a
    /// batch due.
    pub fn set_interval(&mut self, interval: i64) {
        self.interval = interval;
    }

    /// A message was collected: `bytes` of topic and payload. One of QoS 0 waits for no acknowledgement.
    pub fn arrived(&mut self, broker: usize, bytes: usize, acknowledged_later: bool, at: Timestamp) {
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
        self.bytes = self.bytes.saturating_add(bytes);
        if let (true, Some(window)) = (acknowledged_later, self.windows.get_mut(broker)) {
            window.arrived(at);
        }
    }

    /// Something must be made durable at once, whatever else is collected.
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// When the batch is due. A clock that stepped back makes it due at once.
    pub fn due(&self, now: Timestamp) -> Due {
        if self.forced || self.bytes >= MAX_BYTES || self.windows.iter().any(Window::is_half_full) {
            return Due::Now;
        }
        match self.oldest {
            None => Due::Never,
            Some(oldest) if now < oldest || now.since(oldest) >= self.interval => Due::Now,
            Some(oldest) => Due::At(oldest.plus(self.interval)),
        }
    }

    /// The batch was handed over for its commit; its acknowledgements follow.
    pub fn drained(&mut self, now: Timestamp) {
        for window in &mut self.windows {
            window.drained(now, self.interval);
        }
        self.oldest = None;
        self.bytes = 0;
        self.forced = false;
    }

    /// A broker may have so many messages on the way to us from now on.
    pub fn set_window(&mut self, broker: usize, configured: u16) {
        if let Some(window) = self.windows.get_mut(broker) {
            window.configured = u32::from(configured.max(1));
            window.lowered = window.lowered.filter(|lowered| lowered.to < window.configured);
        }
    }

    /// A broker was connected anew: what was unacknowledged on the old connection comes again.
    pub fn connected(&mut self, broker: usize) {
        if let Some(window) = self.windows.get_mut(broker) {
            window.unacknowledged = 0;
            window.last_drain = None;
            window.stalled = None;
        }
    }

    /// The in-flight window that counts for a broker at present.
    pub fn window(&self, broker: usize) -> u32 {
        self.windows.get(broker).map_or(0, Window::size)
    }
}

impl Window {
    fn size(&self) -> u32 {
        self.lowered.map_or(self.configured, |lowered| lowered.to)
    }

    fn is_half_full(&self) -> bool {
        self.unacknowledged > 0 && self.unacknowledged >= (self.size() / 2).max(1)
    }

    fn arrived(&mut self, at: Timestamp) {
        self.unacknowledged += 1;
        self.first.get_or_insert(at);
        self.last = Some(at);
        if let Some(lowered) = &mut self.lowered {
            lowered.arrived = lowered.arrived.map(|n| n + 1);
            if self.unacknowledged > lowered.to {
                self.lowered = None;
            }
        }
    }

    fn drained(&mut self, now: Timestamp, interval: i64) {
        let count = std::mem::take(&mut self.unacknowledged);
        let (first, last) = (self.first.take(), self.last.take());
        let before = self.last_drain.replace(now);
        self.judge_trial(now, interval);
        // Stalled: it began right after the last acknowledgements, ended soon, and then nothing more came.
        let stalled = match (before, first, last) {
            (Some(before), Some(first), Some(last)) => {
                let soon = interval / 4;
                (0..soon).contains(&first.since(before))
                    && (0..soon).contains(&last.since(first))
                    && now.since(first) >= interval
            }
            _ => false,
        };
        let paused = self.paused_until.is_some_and(|until| now < until);
        if !stalled || paused || count >= self.size() {
            self.stalled = None;
            return;
        }
        let times = match self.stalled {
            Some((same, times)) if same == count => times + 1,
            Some(_) | None => 1,
        };
        self.stalled = Some((count, times));
        if times >= PROOF {
            self.stalled = None;
            self.lowered = Some(Lowered { to: count, since: now, arrived: Some(0) });
        }
    }

    fn judge_trial(&mut self, now: Timestamp, interval: i64) {
        let Some(Lowered { to, since, arrived: Some(arrived) }) = self.lowered else { return };
        if now.since(since) < interval.saturating_mul(i64::from(PROOF)) {
            return;
        }
        // Stalled, `to` came in each interval; freed, at least half as many again must.
        if arrived.saturating_mul(2) >= to.saturating_mul(PROOF).saturating_mul(3) {
            self.lowered = Some(Lowered { to, since, arrived: None });
        } else {
            self.lowered = None;
            self.paused_until = Some(now.plus(interval.saturating_mul(PAUSE)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// A broker that has at most `window` under way and `rate` messages a second to send, against the rule, for some
    /// seconds. Gives the number of messages and of commits.
    fn run(collect: &mut Collect, seconds: i64, window: u32, arrivals: impl Fn(i64) -> u32) -> (u32, u32) {
        let (mut waiting, mut under_way, mut messages, mut commits) = (0, 0, 0, 0);
        for ms in 0..seconds * 1000 {
            waiting += arrivals(ms);
            while waiting > 0 && under_way < window {
                (waiting, under_way, messages) = (waiting - 1, under_way + 1, messages + 1);
                collect.arrived(0, 100, true, at(ms));
            }
            if collect.due(at(ms)) == Due::Now {
                collect.drained(at(ms));
                (under_way, commits) = (0, commits + 1);
            }
        }
        (messages, commits)
    }

    #[test]
    fn a_batch_is_due_when_its_oldest_has_waited() {
        let mut c = Collect::new(SECOND, &[1000]);
        assert_eq!(c.due(at(0)), Due::Never);
        c.arrived(0, 10, true, at(5));
        c.arrived(0, 10, true, at(900));
        assert_eq!(c.due(at(900)), Due::At(at(1005)));
        assert_eq!(c.due(at(1005)), Due::Now);
        c.drained(at(1005));
        assert_eq!(c.due(at(1005)), Due::Never);
    }

    #[test]
    fn a_batch_is_due_at_its_bytes_at_half_the_window_when_forced_and_when_the_clock_steps_back() {
        let mut c = Collect::new(SECOND, &[1000, 20]);
        c.arrived(0, MAX_BYTES, false, at(0));
        assert_eq!(c.due(at(0)), Due::Now);
        c.drained(at(0));
        for n in 1..=10 {
            assert_ne!(c.due(at(0)), Due::Now, "{n}");
            c.arrived(1, 1, true, at(0));
        }
        assert_eq!(c.due(at(0)), Due::Now);
        c.drained(at(0));
        (0..100).for_each(|_| c.arrived(1, 1, false, at(0)));
        assert_eq!(c.due(at(0)), Due::At(at(1000)), "QoS 0 fills no window");
        assert_eq!(c.due(at(-1)), Due::Now);
        c.drained(at(0));
        c.force();
        assert_eq!(c.due(at(0)), Due::Now);
    }

    #[test]
    fn an_interval_lengthened_by_a_flash_budget_keeps_no_half_full_window_and_no_mebibyte_waiting() {
        let mut c = Collect::new(SECOND, &[20]);
        c.set_interval(20 * SECOND);
        for n in 1..=10 {
            assert_ne!(c.due(at(2000)), Due::Now, "{n}");
            c.arrived(0, 1, true, at(0));
        }
        assert_eq!(c.due(at(2000)), Due::Now, "half the window");
        c.drained(at(2000));
        c.arrived(0, 1, true, at(2000));
        assert_eq!(c.due(at(2000)), Due::At(at(22_000)));
        c.arrived(0, MAX_BYTES, true, at(2000));
        assert_eq!(c.due(at(2000)), Due::Now, "a mebibyte");
        // A broker of a smaller window than we were told is found out all the same.
        let mut c = Collect::new(SECOND, &[1000]);
        c.set_interval(20 * SECOND);
        let (messages, _) = run(&mut c, 300, 10, |_| 1);
        assert_eq!(c.window(0), 10);
        assert!(messages > 200_000, "{messages} of 300000");
    }

    #[test]
    fn a_broker_with_a_smaller_window_is_found_out_and_stalls_no_more() {
        let mut c = Collect::new(SECOND, &[1000]);
        let (messages, _) = run(&mut c, 30, 10, |_| 1);
        assert_eq!(c.window(0), 10);
        assert!(messages > 20_000, "{messages} of 30000; stalled it would be 300");
    }

    #[test]
    fn ten_readings_a_second_cost_one_commit_a_second() {
        let mut c = Collect::new(SECOND, &[1000]);
        let (messages, commits) = run(&mut c, 60, 1000, |ms| u32::from(ms % 100 == 0));
        assert_eq!((messages, c.window(0)), (600, 1000));
        assert!(commits <= 60, "{commits}");
    }

    #[test]
    fn sensors_that_report_together_do_not_lower_the_window_for_long() {
        for phase in [0, 1, 50, 999] {
            let mut c = Collect::new(SECOND, &[1000]);
            let (_, commits) = run(&mut c, 600, 1000, |ms| if ms % 1000 == phase { 10 } else { 0 });
            assert!(commits <= 640, "phase {phase}: {commits}");
            assert_eq!(c.window(0), 1000);
        }
    }

    #[test]
    fn more_under_way_than_the_lowered_window_undoes_it() {
        let mut c = Collect::new(SECOND, &[1000]);
        run(&mut c, 30, 10, |_| 1);
        (0..11).for_each(|_| c.arrived(0, 1, true, at(40_000)));
        assert_eq!(c.window(0), 1000);
    }
}
