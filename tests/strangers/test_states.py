"""States of real data, as texts and as booleans, through the whole road and back.

From the zenith angle of the weather station's day come the states `night`, `twilight` and `day`, and whether the sun is up. The
demo sends them; what the table of aggregates says of them is compared with plain arithmetic.
"""

import csv
import io
import pathlib
import unittest
from collections import defaultdict
from datetime import datetime, timezone

import pyarrow
from demo import Demo

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "surfrad-alamosa.csv.zst"
HOUR = 3_600_000_000
NUMBERS = (
    "value_min value_max value_sum value_mean value_stddev value_first value_last value_p50 value_p95 value_p99 "
    "time_weighted_mean value_increase value_rate"
).split()


def micros(moment: datetime) -> int:
    delta = moment.replace(tzinfo=timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def states() -> dict[str, list[tuple[str, str]]]:
    """By metric the (time, state) of each minute: of texts every one, of booleans every second one."""
    text = pyarrow.input_stream(str(DATA), compression="zstd").read().decode()
    angles = [(r["ts"], float(r["value"])) for r in csv.DictReader(io.StringIO(text)) if r["metric"] == "solar_zenith"]
    name = lambda angle: "day" if angle < 90 else "twilight" if angle < 102 else "night"
    return {
        "light": [(ts, name(angle)) for ts, angle in angles],
        "sun_is_up": [(ts, str(angle < 90).lower()) for ts, angle in angles[::2]],
    }


class States(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sent = states()
        rows = sorted((ts, "alamosa", metric, state) for metric, points in cls.sent.items() for ts, state in points)
        cls.demo = Demo("states", rows=rows)
        read = lambda name: cls.demo.rest.load_table(f"tributary.{name}").scan().to_arrow().to_pylist()
        cls.readings, cls.aggregates = read("readings"), read("aggregates")

    @classmethod
    def tearDownClass(cls):
        cls.demo.stop()

    def points(self, metric):
        """(event time, state) in the order of time."""
        return [(micros(datetime.fromisoformat(ts.replace("Z", "+00:00"))), state) for ts, state in self.sent[metric]]

    def newest(self, metric):
        """By start, the newest revision of each window of an hour."""
        rows = {}
        for row in self.aggregates:
            if (row["window_name"], row["metric"]) == ("1h", metric):
                start = micros(row["window_start"])
                if start not in rows or rows[start]["revision"] < row["revision"]:
                    rows[start] = row
        return rows

    def hours(self, metric):
        """By start, (the last point before it, if it lies within an hour, else none; the points in it)."""
        hours = defaultdict(list)
        for ts, state in self.points(metric):
            hours[ts // HOUR * HOUR].append((ts, state))
        before = lambda start: [p for p in self.points(metric) if start - HOUR <= p[0] < start][-1:]
        return {start: (before(start), points) for start, points in hours.items()}

    def test_each_state_is_in_the_table_once_as_what_it_is(self):
        column = {"light": "value_text", "sun_is_up": "value_bool"}
        for metric, name in column.items():
            spoken = (lambda v: v) if metric == "light" else (lambda v: str(v).lower())
            got = sorted((micros(r["ts"]), spoken(r[name])) for r in self.readings if r["metric"] == metric)
            self.assertEqual(got, self.points(metric))
        self.assertEqual(len({state for _, state in self.points("light")}), 3)

    def test_of_texts_a_window_has_the_last_one_and_how_often_it_changed(self):
        rows, hours, changed = self.newest("light"), self.hours("light"), 0
        self.assertEqual(rows.keys(), hours.keys())
        for start, (before, points) in hours.items():
            row, texts = rows[start], [state for _, state in before + points]
            self.assertEqual((row["samples"], row["value_last_text"]), (len(points), texts[-1]))
            self.assertEqual((row["first_ts"], micros(row["last_ts"])), (None, points[-1][0]))
            changes = sum(a != b for a, b in zip(texts, texts[1:]))
            self.assertEqual(row["value_changes"], changes)
            self.assertEqual([row[column] for column in NUMBERS], [None] * len(NUMBERS))
            changed += changes
        self.assertEqual(changed, 4, "night, twilight, day, twilight, night")
        others = [r for r in self.aggregates if r["metric"] == "light" and r["window_name"] != "1h"]
        self.assertEqual(others, [], "texts enter only where they were chosen")

    def test_of_booleans_the_means_are_the_shares_of_readings_and_of_time(self):
        rows, hours = self.newest("sun_is_up"), self.hours("sun_is_up")
        self.assertEqual(rows.keys(), hours.keys())
        mixed = 0
        for start, (before, points) in hours.items():
            row, values = rows[start], [state == "true" for _, state in points]
            self.assertEqual(row["samples"], len(values))
            self.assertAlmostEqual(row["value_mean"], sum(values) / len(values), delta=1e-12)
            self.assertEqual((row["value_min"], row["value_max"]), (min(values), max(values)))
            held = [(start, before[0][1])] * (points[0][0] > start) if before else []
            steps = held + points
            ends = [ts for ts, _ in steps[1:]] + [start + HOUR]
            true = sum(end - ts for (ts, state), end in zip(steps, ends) if state == "true")
            known = start + HOUR - steps[0][0]
            self.assertAlmostEqual(row["time_weighted_mean"], true / known, delta=1e-12)
            self.assertAlmostEqual(row["coverage"], known / HOUR, delta=1e-12)
            mixed += 0 < sum(values) < len(values)
        self.assertEqual(mixed, 2, "sunrise and sunset")


if __name__ == "__main__":
    unittest.main()
