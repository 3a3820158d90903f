//! How windows lie in time: cells of one step, of which so many in a row make a window.
//!
//! Tumbling windows are of one cell, hopping ones of several. A cell begins at a multiple of the step since
//! 1970-01-01T00:00 UTC; in a time zone, where the clock on the wall shows a multiple of it:
//! - A step below a day: whenever the clock shows a multiple of it, also for the second time in a night in which it is
//!   set back; and where it is set forward over one. The steps of such a night may be shorter or longer than others.
//! - A step of whole days: where the clock shows the midnight for the first time, or would. Days have 23 or 25 hours
//!   where they have.

use tributary_contract::time::{DAY_MICROS, Timestamp};

use crate::config::{Window, Zone};

/// The cells and windows of one definition. Steps below 1 count as 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    every: i64,
    cells: u32,
    zone: Option<Zone>,
}

impl Grid {
    /// The grid of a definition.
    pub fn of(window: &Window) -> Self {
        let every = window.every.max(1);
        let cells = u32::try_from(window.size / every).unwrap_or(1).max(1);
        Self { every, cells, zone: window.zone.clone() }
    }

    /// The cell `[start, end)` that holds `ts`; held at the ends of the range of time.
    pub fn cell(&self, ts: Timestamp) -> (Timestamp, Timestamp) {
        match &self.zone {
            None => {
                let start = ts.plus(-ts.0.rem_euclid(self.every));
                (start, start.plus(self.every))
            }
            Some(zone) if self.every >= DAY_MICROS => days(zone, self.every, ts),
            Some(zone) => (begin(zone, self.every, ts), end(zone, self.every, ts)),
        }
    }

    /// The windows `[start, end)` that hold `ts`, earliest first, into `out`, which is cleared.
    pub fn holding(&self, ts: Timestamp, out: &mut Vec<(Timestamp, Timestamp)>) {
        out.clear();
        let (mut start, mut end) = self.cell(ts);
        out.push((start, end));
        for _ in 1..self.cells {
            start = self.cell(start.plus(-1)).0;
            out.push((start, start));
        }
        out.reverse();
        // The earliest ends with the cell of `ts`, each next one a cell later.
        for window in out.iter_mut() {
            window.1 = end;
            end = self.cell(end).1;
        }
    }

    /// The end of the window that begins at `start`: its first instant no more.
    pub fn end_of(&self, start: Timestamp) -> Timestamp {
        (0..self.cells).fold(start, |end, _| self.cell(end).1)
    }

    /// One window's length before `start`: older readings hold no longer there.
    pub fn lookback(&self, start: Timestamp) -> Timestamp {
        self.back(start, self.cells)
    }

    /// The least start of the windows that haven't ended at `mark`.
    pub fn open_from(&self, mark: Timestamp) -> Timestamp {
        self.back(mark, self.cells - 1)
    }

    /// The start of the cell that lies `n` before that which holds `ts`.
    fn back(&self, ts: Timestamp, n: u32) -> Timestamp {
        let start = self.cell(ts).0;
        match &self.zone {
            None => start.plus(-self.every.saturating_mul(i64::from(n))),
            Some(_) => (0..n).fold(start, |start, _| self.cell(start.plus(-1)).0),
        }
    }
}

/// Whether a cell begins where the offset from UTC changes, at `at`.
fn is_border(every: i64, at: i64, before: i64, after: i64) -> bool {
    let (from, to) = (at.saturating_add(before), at.saturating_add(after));
    // What the clock shows from there, or, set forward, what it would have shown meanwhile.
    to.rem_euclid(every) == 0 || (to > from && to - to.rem_euclid(every) >= from)
}

fn begin(zone: &Zone, every: i64, ts: Timestamp) -> Timestamp {
    let (mut stretch, mut at) = (zone.stretch(ts), ts.0);
    loop {
        let start = at.saturating_sub(at.saturating_add(stretch.offset).rem_euclid(every));
        let Some(before) = stretch.place.checked_sub(1).and_then(|place| zone.at(place)) else {
            return Timestamp(start);
        };
        if start >= stretch.from {
            return Timestamp(start);
        }
        if is_border(every, stretch.from, before.offset, stretch.offset) {
            return Timestamp(stretch.from);
        }
        at = stretch.from.saturating_sub(1);
        stretch = before;
    }
}

fn end(zone: &Zone, every: i64, ts: Timestamp) -> Timestamp {
    let (mut stretch, mut at) = (zone.stretch(ts), ts.0);
    loop {
        let next = at.saturating_add(every - at.saturating_add(stretch.offset).rem_euclid(every));
        let Some(behind) = zone.at(stretch.place + 1).filter(|behind| next >= behind.from) else {
            return Timestamp(next);
        };
        if is_border(every, behind.from, stretch.offset, behind.offset) {
            return Timestamp(behind.from);
        }
        at = behind.from;
        stretch = behind;
    }
}

fn days(zone: &Zone, every: i64, ts: Timestamp) -> (Timestamp, Timestamp) {
    let local = ts.0.saturating_add(zone.stretch(ts).offset);
    let midnight = local.saturating_sub(local.rem_euclid(every));
    let border = |n: i64| first_showing(zone, midnight.saturating_add(every.saturating_mul(n)));
    let next = border(1);
    // Set back over a midnight, the clock shows the day before once more; that belongs to the day that has begun.
    if next <= ts { (next, border(2)) } else { (border(0), next) }
}

/// The first instant at which the clock shows `local` or later.
fn first_showing(zone: &Zone, local: i64) -> Timestamp {
    // No offset is as great as two days.
    let mut stretch = zone.stretch(Timestamp(local.saturating_sub(2 * DAY_MICROS)));
    loop {
        let at = local.saturating_sub(stretch.offset).max(stretch.from);
        match zone.at(stretch.place + 1) {
            Some(behind) if at >= behind.from => stretch = behind,
            _ => return Timestamp(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{HOUR, MINUTE};

    fn grid(size: i64, every: i64, zone: Option<&str>) -> Grid {
        let zone = zone.map(|name| Zone::read(name).unwrap());
        Grid::of(&Window { every, zone, ..Window::tumbling("w", size) })
    }

    fn utc(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_microsecond())
    }

    fn hours((start, end): (Timestamp, Timestamp)) -> f64 {
        end.since(start) as f64 / HOUR as f64
    }

    #[test]
    fn a_window_begins_at_a_multiple_of_its_size() {
        let table = [
            (0, MINUTE, 0),
            (MINUTE - 1, MINUTE, 0),
            (MINUTE, MINUTE, MINUTE),
            (-1, MINUTE, -MINUTE),
            (-MINUTE, MINUTE, -MINUTE),
            (-MINUTE - 1, MINUTE, -2 * MINUTE),
            (25 * HOUR + 1, 24 * HOUR, 24 * HOUR),
        ];
        for (ts, size, start) in table {
            let cell = grid(size, size, None).cell(Timestamp(ts));
            assert_eq!(cell.0, Timestamp(start), "{ts} in windows of {size}");
        }
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for zone in [None, Some("Europe/Berlin")] {
            for size in [1, HOUR, DAY_MICROS, 7 * DAY_MICROS] {
                let g = grid(size, size, zone);
                for ts in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
                    let (start, end) = g.cell(Timestamp(ts));
                    assert!(start <= end, "{zone:?} {size} {ts}");
                    g.holding(Timestamp(ts), &mut Vec::new());
                    g.lookback(Timestamp(ts));
                }
            }
        }
        assert_eq!(grid(0, 0, None).cell(Timestamp(5)).0, Timestamp(5));
    }

    #[test]
    fn hopping_windows_overlap_by_all_but_their_step() {
        let g = grid(5 * MINUTE, MINUTE, None);
        let mut windows = Vec::new();
        g.holding(Timestamp(7 * MINUTE + 1), &mut windows);
        let minutes: Vec<(i64, i64)> =
            windows.iter().map(|(start, end)| (start.0 / MINUTE, end.0 / MINUTE)).collect();
        assert_eq!(minutes, [(3, 8), (4, 9), (5, 10), (6, 11), (7, 12)]);
        assert_eq!(g.lookback(Timestamp(3 * MINUTE)), Timestamp(-2 * MINUTE));
        assert_eq!(g.open_from(Timestamp(8 * MINUTE)), Timestamp(4 * MINUTE));
    }

    #[test]
    fn a_local_day_has_23_24_or_25_hours() {
        let day = grid(DAY_MICROS, DAY_MICROS, Some("Europe/Berlin"));
        for (at, start, length) in [
            ("2024-03-31T12:00:00Z", "2024-03-30T23:00:00Z", 23.0),
            ("2024-07-01T22:00:00Z", "2024-07-01T22:00:00Z", 24.0),
            ("2024-10-27T01:30:00Z", "2024-10-26T22:00:00Z", 25.0),
            ("2024-10-27T22:59:59Z", "2024-10-26T22:00:00Z", 25.0),
            ("2024-12-31T23:00:00Z", "2024-12-31T23:00:00Z", 24.0),
        ] {
            let cell = day.cell(utc(at));
            assert_eq!((cell.0, hours(cell)), (utc(start), length), "{at}");
        }
        // Midnight didn't exist on that day: the clock went from 00:00 to 01:00.
        let sao_paulo = grid(DAY_MICROS, DAY_MICROS, Some("America/Sao_Paulo"));
        assert_eq!(hours(sao_paulo.cell(utc("2018-11-04T12:00:00Z"))), 23.0);
        // This one didn't exist at all: the clock went from the 29th to the 31st.
        let apia = grid(DAY_MICROS, DAY_MICROS, Some("Pacific/Apia"));
        let (last, next) = (utc("2011-12-30T09:59:59Z"), utc("2011-12-30T10:00:00Z"));
        assert_eq!((apia.cell(last).1, apia.cell(next).0), (next, next));
        assert_eq!((hours(apia.cell(last)), hours(apia.cell(next))), (24.0, 24.0));
    }

    #[test]
    fn local_hours_are_whole_and_shifts_follow_the_clock_on_the_wall() {
        let berlin = Some("Europe/Berlin");
        let hour = grid(HOUR, HOUR, berlin);
        for at in ["2024-10-27T00:10:00Z", "2024-10-27T01:10:00Z", "2024-03-31T00:10:00Z"] {
            assert_eq!(hours(hour.cell(utc(at))), 1.0, "{at}");
        }
        let shift = grid(6 * HOUR, 6 * HOUR, berlin);
        assert_eq!(hours(shift.cell(utc("2024-10-27T02:00:00Z"))), 7.0);
        assert_eq!(hours(shift.cell(utc("2024-03-31T02:00:00Z"))), 5.0);
        // Two o'clock doesn't exist in that night: the window begins where the clock jumped over it.
        let two = grid(2 * HOUR, 2 * HOUR, berlin);
        assert_eq!(two.cell(utc("2024-03-31T01:30:00Z")).0, utc("2024-03-31T01:00:00Z"));
        // Half an hour is set back here, into the middle of an hour.
        let howe = grid(HOUR, HOUR, Some("Australia/Lord_Howe"));
        let cell = howe.cell(utc("2024-04-06T14:45:00Z"));
        assert_eq!((cell.0, hours(cell)), (utc("2024-04-06T14:00:00Z"), 1.5));
        let kathmandu = grid(HOUR, HOUR, Some("Asia/Kathmandu"));
        assert_eq!(kathmandu.cell(utc("2024-01-01T00:20:00Z")).0, utc("2024-01-01T00:15:00Z"));
    }

    #[test]
    fn seven_local_days_each_day_are_seven_days_long_but_for_the_hour() {
        let week = grid(7 * DAY_MICROS, DAY_MICROS, Some("Europe/Berlin"));
        let mut windows = Vec::new();
        week.holding(utc("2024-03-31T12:00:00Z"), &mut windows);
        assert_eq!(windows.len(), 7);
        assert!(windows.iter().all(|w| hours(*w) == 167.0), "each has the day of 23 hours");
        week.holding(utc("2024-07-15T12:00:00Z"), &mut windows);
        assert!(windows.iter().all(|w| hours(*w) == 168.0));
    }

    const ZONES: [Option<&str>; 7] = [
        None,
        Some("Europe/Berlin"),
        Some("America/Sao_Paulo"),
        Some("Australia/Lord_Howe"),
        Some("Pacific/Apia"),
        Some("America/St_Johns"),
        Some("Africa/Casablanca"),
    ];
    const STEPS: [i64; 9] = [
        MINUTE,
        15 * MINUTE,
        HOUR,
        2 * HOUR,
        6 * HOUR,
        12 * HOUR,
        DAY_MICROS,
        3 * DAY_MICROS,
        7 * DAY_MICROS,
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_instant_lies_in_exactly_its_cell(
            ts in -2_000_000_000_000_000i64..4_000_000_000_000_000, zone in prop::sample::select(&ZONES),
            every in prop::sample::select(&STEPS), inside in 0.0..1.0f64,
        ) {
            let g = grid(every, every, zone);
            let (start, end) = g.cell(Timestamp(ts));
            prop_assert!(start.0 <= ts && ts < end.0, "{start:?} {end:?}");
            // All of the cell is in it, its neighbours begin and end with it.
            let other = start.plus((end.since(start) as f64 * inside) as i64).min(end.plus(-1));
            prop_assert_eq!(g.cell(other), (start, end));
            prop_assert_eq!(g.cell(start), (start, end));
            prop_assert_eq!(g.cell(end).0, end);
            prop_assert_eq!(g.cell(start.plus(-1)).1, start);
            // A clock is never set by more than a day.
            prop_assert!((end.since(start) - every).abs() <= DAY_MICROS.min(every), "{}", end.since(start));
        }

        #[test]
        fn windows_that_hold_an_instant_are_those_whose_ends_enclose_it(
            ts in 0i64..4_000_000_000_000_000, zone in prop::sample::select(&ZONES),
            every in prop::sample::select(&STEPS), cells in 1i64..9,
        ) {
            let g = grid(every * cells, every, zone);
            let (ts, mut windows) = (Timestamp(ts), Vec::new());
            g.holding(ts, &mut windows);
            prop_assert_eq!(windows.len() as i64, cells);
            for (start, end) in &windows {
                prop_assert!(*start <= ts && ts < *end);
                prop_assert_eq!(g.end_of(*start), *end);
                prop_assert!(g.lookback(*start) < *start);
            }
            prop_assert_eq!(g.open_from(ts), windows[0].0);
        }
    }
}
