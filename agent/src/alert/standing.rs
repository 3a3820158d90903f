//! Where one series stands by one rule: a small machine that is fed readings in the order of their times.

use tributary_contract::time::Timestamp;

use super::chart::Chart;
use crate::config::{Condition, SECOND};

/// What the machine remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is the matter.
    Calm,
    /// The condition holds since then, not yet for long enough.
    Holds(Timestamp),
    /// The alert is open.
    Open,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Whether it opened; else it closed.
    pub opened: bool,
    /// Event time.
    pub at: Timestamp,
    /// The value that did it: of a rule on the rate of change the rate, per second.
    pub value: Option<f64>,
    /// What it was compared with.
    pub expected: Option<f64>,
    /// How far it was from that, in standard deviations, where the rule asks for it.
    pub score: Option<f64>,
}

/// One reading as the machine sees it; `value` is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Event time.
    pub ts: Timestamp,
    /// Numeric view.
    pub value: f64,
}

impl Standing {
    /// Takes the next reading; `before` is the one before it, which is older. `hold`: how long the condition must hold,
    /// microseconds.
    pub fn take(
        &mut self,
        condition: &Condition,
        hold: i64,
        point: Point,
        before: Option<Point>,
        chart: &mut Chart,
    ) -> Option<Change> {
        let Judged { value, expected, score, holds, clears } = judge(condition, point, before, chart)?;
        let change = |opened| Some(Change { opened, at: point.ts, value: Some(value), expected, score });
        match (*self, holds) {
            (Self::Open, _) if clears => {
                *self = Self::Calm;
                change(false)
            }
            (Self::Open, _) => None,
            (Self::Calm | Self::Holds(_), false) => {
                *self = Self::Calm;
                None
            }
            (Self::Calm, true) if hold > 0 => {
                *self = Self::Holds(point.ts);
                None
            }
            (Self::Holds(since), true) if point.ts.since(since) < hold => None,
            (Self::Calm | Self::Holds(_), true) => {
                *self = Self::Open;
                change(true)
            }
        }
    }

    /// Takes a reading that was judged in an earlier life, with what came of it long durable: only since when the
    /// condition holds is found again. An open alert stays open, for that is kept.
    pub fn remember(
        &mut self,
        condition: &Condition,
        point: Point,
        before: Option<Point>,
        chart: &mut Chart,
    ) {
        let Some(judged) = judge(condition, point, before, chart) else { return };
        *self = match *self {
            Self::Open => Self::Open,
            Self::Holds(since) if judged.holds => Self::Holds(since),
            _ if judged.holds => Self::Holds(point.ts),
            _ => Self::Calm,
        };
    }

    /// Takes note that nothing was heard of the series for longer than the rule allows, which was so from `at` on.
    pub fn is_silent(&mut self, at: Timestamp) -> Option<Change> {
        if *self == Self::Open {
            return None;
        }
        *self = Self::Open;
        Some(Change { opened: true, at, value: None, expected: None, score: None })
    }

    /// Something was heard, at the event time `at`: silence is over.
    pub fn is_heard(&mut self, at: Timestamp, value: Option<f64>) -> Option<Change> {
        if *self != Self::Open {
            return None;
        }
        *self = Self::Calm;
        Some(Change { opened: false, at, value, expected: None, score: None })
    }
}

struct Judged {
    value: f64,
    expected: Option<f64>,
    score: Option<f64>,
    holds: bool,
    clears: bool,
}

/// What a condition says of a reading; none where it says nothing: of the first one a rate, of the first ones a deviation.
fn judge(condition: &Condition, point: Point, before: Option<Point>, chart: &mut Chart) -> Option<Judged> {
    let (value, score) = (point.value, None);
    Some(match *condition {
        Condition::Above { threshold, clear } => Judged {
            value,
            expected: Some(threshold),
            score,
            holds: value > threshold,
            clears: value <= clear,
        },
        Condition::Below { threshold, clear } => Judged {
            value,
            expected: Some(threshold),
            score,
            holds: value < threshold,
            clears: value >= clear,
        },
        Condition::Changes { per_second } => {
            let before = before?;
            let rate = (value - before.value) / (point.ts.since(before.ts).max(1) as f64 / SECOND as f64);
            let holds = rate.abs() > per_second;
            Judged { value: rate, expected: Some(per_second), score, holds, clears: !holds }
        }
        Condition::Deviates { deviations, readings } => {
            let (score, mean) = chart.take(value, readings)?;
            let holds = score > deviations;
            Judged { value, expected: Some(mean), score: Some(score), holds, clears: !holds }
        }
        Condition::Silent { .. } => return None,
    })
    .filter(|judged| judged.value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MINUTE;

    fn play(condition: Condition, hold: i64, values: &[(i64, f64)]) -> Vec<(i64, bool, f64)> {
        let (mut standing, mut before, mut out) = (Standing::Calm, None, Vec::new());
        let mut chart = Chart::default();
        for (seconds, value) in values {
            let point = Point { ts: Timestamp(seconds * SECOND), value: *value };
            if let Some(change) = standing.take(&condition, hold, point, before, &mut chart) {
                out.push((change.at.0 / SECOND, change.opened, change.value.unwrap()));
            }
            before = Some(point);
        }
        out
    }

    #[test]
    fn a_threshold_opens_above_and_closes_only_at_its_clear_value() {
        let above = Condition::Above { threshold: 80.0, clear: 75.0 };
        let values = [(0, 80.0), (1, 80.5), (2, 79.0), (3, 90.0), (4, 75.5), (5, 75.0), (6, 78.0), (7, 81.0)];
        assert_eq!(play(above, 0, &values), [(1, true, 80.5), (5, false, 75.0), (7, true, 81.0)]);
        let below = Condition::Below { threshold: 5.0, clear: 6.0 };
        let values = [(0, 5.0), (1, 4.0), (2, 5.5), (3, 6.0)];
        assert_eq!(play(below, 0, &values), [(1, true, 4.0), (3, false, 6.0)]);
    }

    #[test]
    fn what_must_hold_opens_with_the_first_reading_that_shows_it_did() {
        let above = Condition::Above { threshold: 80.0, clear: 80.0 };
        let values = [(0, 81.0), (29, 81.0), (30, 70.0), (40, 82.0), (69, 83.0), (75, 84.0), (80, 80.0)];
        assert_eq!(play(above, 30 * SECOND, &values), [(75, true, 84.0), (80, false, 80.0)]);
    }

    #[test]
    fn a_rate_is_that_from_the_reading_before_in_either_direction() {
        let changes = Condition::Changes { per_second: 2.0 };
        let values = [(0, 100.0), (10, 120.0), (11, 117.0), (13, 117.0), (14, f64::MAX), (15, -f64::MAX)];
        let played = play(changes, 0, &values);
        assert_eq!(played[..2], [(11, true, -3.0), (13, false, 0.0)]);
        assert_eq!(played[2].0, 14);
        assert_eq!(played.len(), 3, "a rate beyond a double says nothing");
    }

    #[test]
    fn what_deviates_is_open_until_a_reading_does_not() {
        let odd = Condition::Deviates { deviations: 8.0, readings: 200.0 };
        let mut values: Vec<(i64, f64)> = (0..100).map(|n| (n, (n % 5) as f64)).collect();
        values.extend([(100, 90.0), (101, 2.0), (102, 3.0)]);
        assert_eq!(play(odd, 0, &values), [(100, true, 90.0), (101, false, 2.0)]);
    }

    #[test]
    fn silence_opens_once_and_ends_with_the_first_word() {
        let mut standing = Standing::Calm;
        assert_eq!(standing.is_heard(Timestamp(1), None), None);
        assert!(standing.is_silent(Timestamp(MINUTE)).is_some_and(|c| c.opened && c.at == Timestamp(MINUTE)));
        assert_eq!(standing.is_silent(Timestamp(2 * MINUTE)), None);
        assert!(standing.is_heard(Timestamp(3 * MINUTE), Some(1.0)).is_some_and(|c| !c.opened));
        assert_eq!(standing, Standing::Calm);
    }
}
