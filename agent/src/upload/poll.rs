//! When to ask for the receipt: only while something is outstanding, and less and less often while nothing comes.

use tributary_contract::time::Timestamp;

/// The rhythm of asking, and the version last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// The first pause after a delivery, microseconds.
    first: i64,
    /// The longest pause, microseconds.
    longest: i64,
    pause: i64,
    next_at: Timestamp,
    etag: Option<String>,
}

impl Poll {
    /// Begins at `now`: the first question may be asked at once. Pauses are from `first` to `longest` microseconds.
    pub const fn new(first: i64, longest: i64, now: Timestamp) -> Self {
        Self { first, longest, pause: first, next_at: now, etag: None }
    }

    /// When to ask next; never while nothing is outstanding: a receipt could say nothing that matters.
    pub const fn due(&self, outstanding: bool) -> Option<Timestamp> {
        if outstanding { Some(self.next_at) } else { None }
    }

    /// Nothing waits longer than the longest pause, whatever the clock did meanwhile.
    pub fn not_beyond(&mut self, now: Timestamp) {
        self.next_at = self.next_at.min(now.plus(self.longest));
    }

    /// What to name in the question, so that an unchanged receipt costs no body.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// A segment was delivered: its receipt may come soon.
    pub fn delivered(&mut self, now: Timestamp) {
        self.pause = self.first;
        self.next_at = self.next_at.min(now.plus(self.first));
    }

    /// A receipt came that was new.
    pub fn changed(&mut self, etag: Option<String>, now: Timestamp) {
        self.etag = etag;
        self.pause = self.first;
        self.next_at = now.plus(self.first);
    }

    /// The receipt is still the same, or there is none, or the question failed.
    pub fn nothing_new(&mut self, now: Timestamp) {
        self.next_at = now.plus(self.pause);
        self.pause = (self.pause * 2).min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn nothing_is_asked_while_nothing_is_outstanding() {
        let poll = Poll::new(SECOND, 300 * SECOND, Timestamp(0));
        assert_eq!(poll.due(false), None);
        assert_eq!(poll.due(true), Some(Timestamp(0)));
    }

    #[test]
    fn pauses_grow_to_five_minutes_and_begin_again_with_a_delivery_or_a_new_receipt() {
        let mut poll = Poll::new(SECOND, 300 * SECOND, Timestamp(0));
        let mut now = Timestamp(0);
        let mut pauses = Vec::new();
        for _ in 0..11 {
            poll.nothing_new(now);
            let next = poll.due(true).unwrap();
            pauses.push(next.since(now) / SECOND);
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        poll.nothing_new(now);
        poll.delivered(now);
        assert_eq!(poll.due(true), Some(now.plus(SECOND)));
        poll.nothing_new(now);
        poll.changed(Some("tag".into()), now);
        assert_eq!((poll.due(true), poll.etag()), (Some(now.plus(SECOND)), Some("tag")));
    }

    #[test]
    fn a_delivery_never_puts_a_question_off() {
        let mut poll = Poll::new(SECOND, 300 * SECOND, Timestamp(0));
        poll.delivered(Timestamp(5 * SECOND));
        assert_eq!(poll.due(true), Some(Timestamp(0)));
    }
}
