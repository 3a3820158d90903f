//! Which protocol the next attempt speaks, and how long it waits.

use std::time::Duration;

use crate::config::MqttVersion;

/// Why a connection failed, as far as the next attempt cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// For people.
    pub(super) text: String,
    /// What it says about the protocol.
    pub(super) cause: Cause,
}

/// What a failure says about the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The broker refused this protocol by name.
    ProtocolRefused,
    /// The broker closed, or answered what can't be read: some refuse a protocol so.
    NoAnswer,
    /// Another client took the session over.
    TakenOver,
    /// The broker answered nothing for one and a half keep-alives; it may have been gone for as long.
    Silent,
    /// Anything else: no network, a refusal for another reason.
    Other,
}

/// Sentences for reasons that both protocols know.
pub(super) mod reason {
    pub(crate) const PROTOCOL: &str = "the broker doesn't speak this version of MQTT";
    pub(crate) const CLIENT_ID: &str = "the broker doesn't take `client_id`: choose another one";
    pub(crate) const UNAVAILABLE: &str = "the broker can't serve now; it is tried again later";
    pub(crate) const LOGIN: &str = "the broker doesn't know this user with this password: look at `username` and \
                                    `password_file`";
    pub(crate) const NOT_AUTHORIZED: &str = "the broker doesn't let us in: look at `username`, `password_file`, the \
                                             client certificate, and what the broker allows this client";
    pub(crate) const SHORT_LIVED: &str = "again and again soon after it was connected: perhaps another client uses the \
                                          same `client_id`; each gateway needs its own";
    pub(crate) const TAKEN_OVER: &str =
        "another client connected with the same `client_id`; each gateway needs its own";
}

impl Failure {
    pub(super) fn other(text: impl Into<String>) -> Self {
        Self { text: text.into(), cause: Cause::Other }
    }
}

/// MQTT 5 first, where it is wanted, and 3.1.1 where the broker doesn't speak it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Protocol {
    wanted: MqttVersion,
    refused: bool,
    /// The last attempt with MQTT 5 got no answer, and it never worked before.
    doubtful: bool,
    worked: bool,
}

impl Protocol {
    pub(super) const fn new(wanted: MqttVersion) -> Self {
        Self { wanted, refused: false, doubtful: false, worked: false }
    }

    /// The protocol of the next attempt.
    pub(super) const fn next(&self) -> MqttVersion {
        match self.wanted {
            MqttVersion::V5 if !self.refused && !self.doubtful => MqttVersion::V5,
            MqttVersion::V5 | MqttVersion::V311 => MqttVersion::V311,
        }
    }

    /// Takes note of how an attempt ended. Without answer the two alternate, until MQTT 5 worked once: a broker that
    /// was just starting isn't taken for an old one.
    pub(super) fn failed(&mut self, version: MqttVersion, failure: &Failure, connected: bool) {
        match (version, failure.cause) {
            (MqttVersion::V5, _) if connected => self.worked = true,
            (MqttVersion::V5, Cause::ProtocolRefused) => self.refused = true,
            (MqttVersion::V5, Cause::NoAnswer) => self.doubtful = !self.worked,
            (MqttVersion::V5, Cause::TakenOver | Cause::Silent | Cause::Other) => {}
            (MqttVersion::V311, _) => self.doubtful = false,
        }
    }
}

/// The number of the attempt that follows on a connection that `lasted`, or brought `progress` (it acknowledged
/// something), or neither. With progress the pause stays short, since what comes again is done; but it isn't left out, or
/// two clients of one name would throw each other out as fast as they can.
pub(super) const fn attempt_after(attempt: u32, lasted: bool, progress: bool) -> u32 {
    match (lasted, progress) {
        (true, _) => 0,
        (false, true) if attempt >= 1 => 2,
        (false, true | false) => attempt.saturating_add(1),
    }
}

/// The pause before an attempt: doubling from a quarter of a second to a minute, and between half and all of that by
/// `random` (0 to 1), so that a fleet doesn't come back at once.
pub(super) fn backoff(attempt: u32, random: f64) -> Duration {
    let full = Duration::from_millis(250).saturating_mul(1 << attempt.saturating_sub(1).min(8));
    full.min(Duration::from_secs(60)).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// The pause before a refused subscription is asked for again, on the same connection: doubling from a second to five
/// minutes, and between half and all of that by `random` (0 to 1).
pub(super) fn ask_again(refusals: u32, random: f64) -> Duration {
    let full = Duration::from_secs(1).saturating_mul(1 << refusals.saturating_sub(1).min(9));
    full.min(Duration::from_secs(300)).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(cause: Cause) -> Failure {
        Failure { text: String::new(), cause }
    }

    #[test]
    fn a_refusal_by_name_falls_back_for_good() {
        let mut p = Protocol::new(MqttVersion::V5);
        assert_eq!(p.next(), MqttVersion::V5);
        p.failed(MqttVersion::V5, &failure(Cause::ProtocolRefused), false);
        assert_eq!(p.next(), MqttVersion::V311);
        p.failed(MqttVersion::V311, &failure(Cause::NoAnswer), true);
        assert_eq!(p.next(), MqttVersion::V311);
    }

    #[test]
    fn without_answer_both_are_tried_in_turn_until_mqtt_5_worked() {
        let mut p = Protocol::new(MqttVersion::V5);
        p.failed(MqttVersion::V5, &failure(Cause::Other), false);
        assert_eq!(p.next(), MqttVersion::V5, "no network says nothing about the protocol");
        p.failed(MqttVersion::V5, &failure(Cause::NoAnswer), false);
        assert_eq!(p.next(), MqttVersion::V311);
        p.failed(MqttVersion::V311, &failure(Cause::NoAnswer), false);
        assert_eq!(p.next(), MqttVersion::V5);
        p.failed(MqttVersion::V5, &failure(Cause::NoAnswer), true);
        p.failed(MqttVersion::V5, &failure(Cause::NoAnswer), false);
        assert_eq!(p.next(), MqttVersion::V5);
        assert_eq!(Protocol::new(MqttVersion::V311).next(), MqttVersion::V311);
    }

    #[test]
    fn the_pause_stays_short_while_something_is_acknowledged_on_each_connection() {
        let mut attempt = 0;
        for _ in 0..1000 {
            attempt = attempt_after(attempt, false, true);
            assert!(backoff(attempt, 1.0) <= Duration::from_millis(500));
        }
        for expected in 3..10 {
            attempt = attempt_after(attempt, false, false);
            assert_eq!(attempt, expected);
        }
        assert_eq!(attempt_after(attempt, false, true), 2);
        assert_eq!(attempt_after(attempt, true, false), 0);
    }

    #[test]
    fn a_refused_subscription_is_asked_for_less_and_less_often_and_at_least_each_five_minutes() {
        let seconds: Vec<u64> = (1..=11).map(|n| ask_again(n, 1.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(ask_again(1, 0.0), Duration::from_millis(500));
        assert_eq!(ask_again(u32::MAX, 0.0), Duration::from_secs(150));
    }

    #[test]
    fn the_pause_doubles_from_a_quarter_second_to_a_minute() {
        assert_eq!(backoff(0, 1.0), Duration::from_millis(250));
        assert_eq!(backoff(1, 1.0), Duration::from_millis(250));
        assert_eq!(backoff(2, 1.0), Duration::from_millis(500));
        assert_eq!(backoff(2, 0.0), Duration::from_millis(250));
        assert_eq!(backoff(9, 1.0), Duration::from_secs(60));
        assert_eq!(backoff(u32::MAX, 0.0), Duration::from_secs(30));
    }
}
