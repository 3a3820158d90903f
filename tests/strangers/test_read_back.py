"""The whole road, read back by programs that know nothing of our code.

Runs the demo on the carried data and, while its servers stand, reads `readings` and `aggregates` with pyiceberg (SQL
catalog and REST catalog) and DuckDB, in a time zone that is not UTC. What must be there is computed from the CSV by
plain Python arithmetic.
"""

import bisect
import csv
import io
import math
import os
import pathlib
import statistics
import subprocess
import time
import unittest
from collections import defaultdict
from datetime import datetime, timezone
from fractions import Fraction

os.environ["TZ"] = "America/Denver"
time.tzset()

import duckdb
import polars
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from demo import PROGRAMS, Demo
from waiting import until

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "surfrad-alamosa.csv.zst"
WINDOWS = {"1m": 60_000_000, "1h": 3_600_000_000}


def micros(text: str) -> int:
    """RFC 3339 to microseconds since 1970, in whole numbers."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    delta = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def sent_rows() -> list[tuple[int, str, str, str]]:
    """(ts, device, metric, value as text) of every row that the demo sends, in file order."""
    text = pyarrow.input_stream(str(DATA), compression="zstd").read().decode()
    rows = csv.DictReader(io.StringIO(text))
    return [(micros(r["ts"]), r["device"], r["metric"], r["value"]) for r in rows if r["value"] not in ("", "NA")]


def percentile(values: list[float], q: float) -> float:
    """Type 7 of Hyndman and Fan, on sorted values."""
    at = q * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


class ReadBack(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.demo = Demo("strangers")
        cls.scratch, cls.said = cls.demo.scratch, cls.demo.said
        cls.sql, cls.rest = cls.demo.sql, cls.demo.rest
        cls.rows = sent_rows()
        cls.readings = cls.sql.load_table("tributary.readings").scan().to_arrow()
        cls.aggregates = cls.sql.load_table("tributary.aggregates").scan().to_arrow()

    @classmethod
    def tearDownClass(cls):
        cls.demo.stop()

    def test_the_demo_counts_each_message_once(self):
        self.assertEqual(self.said["event"], "registered")
        self.assertEqual(self.said["sent"], len(self.rows))
        self.assertEqual(self.said["acknowledged"], len(self.rows))
        self.assertEqual(self.said["registered"], len(self.rows))
        self.assertEqual(self.said["distinct"], len(self.rows))
        self.assertEqual((self.said["missing"], self.said["duplicates"], self.said["rejected"]), (0, 0, 0))

    def test_every_row_of_the_csv_is_in_the_table_once_with_its_value(self):
        expected = sorted((d, m, t, float(v)) for t, d, m, v in self.rows)
        columns = [self.readings.column(c).to_pylist() for c in ("device", "metric", "value")]
        times = self.readings.column("ts").cast(pyarrow.int64()).to_pylist()
        got = sorted((d, m, t, v) for d, m, v, t in zip(*columns, times))
        self.assertEqual(got, expected)

    def test_each_message_number_stands_in_the_tags_once(self):
        numbers = [dict(tags)["n"] for tags in self.readings.column("tags").to_pylist()]
        self.assertEqual(len(numbers), len(self.rows))
        self.assertEqual(len(set(numbers)), len(self.rows))

    def test_sql_catalog_and_rest_catalog_show_the_same_table(self):
        by_rest = self.rest.load_table("tributary.readings").scan().to_arrow()
        self.assertEqual(by_rest.num_rows, self.readings.num_rows)
        self.assertEqual(
            sorted(by_rest.column("seq").to_pylist()), sorted(self.readings.column("seq").to_pylist())
        )

    def files(self, table) -> list[str]:
        """The data files that a table has, as files on this machine."""
        paths = []
        for number, task in enumerate(table.scan().plan_files()):
            paths.append(os.path.join(self.scratch, f"{table.name()[-1]}-{number}.parquet"))
            with table.io.new_input(task.file.file_path).open() as source, open(paths[-1], "wb") as file:
                file.write(source.read())
        return paths

    def test_pyarrow_duckdb_and_polars_read_the_files_themselves_as_pyiceberg_reads_the_table(self):
        """Each by the Parquet reader of its own; a file may lack columns that came later and hold nothing in it."""

        def by_duckdb(path):
            told = duckdb.sql(f"select * from read_parquet('{path}')")
            return [dict(zip(told.columns, row)) for row in told.fetchall()]

        readers = {
            "pyarrow": lambda path: pyarrow.parquet.ParquetFile(path).read().to_pylist(),
            "duckdb": by_duckdb,
            "polars": lambda path: polars.read_parquet(path).to_dicts(),
        }

        def plain(value):
            """Maps come as dictionaries, as pairs and as structs."""
            if not isinstance(value, list):
                return value
            return dict((pair["key"], pair["value"]) if isinstance(pair, dict) else pair for pair in value)

        compared = set()
        for name in ("readings", "aggregates", "series", "alerts"):
            table = self.sql.load_table(f"tributary.{name}")
            columns, paths = [field.name for field in table.schema().fields], self.files(table)
            rows = table.scan().to_arrow().to_pylist()
            expected = sorted(repr([plain(row[c]) for c in columns]) for row in rows)
            for engine, read in readers.items():
                found = [row for path in paths for row in read(path)]
                got = sorted(repr([plain(row.get(c)) for c in columns]) for row in found)
                self.assertEqual(len(got), len(expected), f"{engine}: {name}")
                wrong = [pair for pair in zip(got, expected) if pair[0] != pair[1]]
                self.assertEqual(wrong[:3], [], f"{engine}: {name}")
                compared.add((engine, name))
            self.assertGreater(len(expected), 10, name)
        self.assertEqual(len(compared), 12)

    def test_each_file_says_how_it_is_sorted_and_where_pages_begin(self):
        """What engines skip by: the order, statistics of each row group, and the page index."""
        columns = 0
        for path in self.files(self.sql.load_table("tributary.readings")):
            footer = pyarrow.parquet.ParquetFile(path).metadata
            for group in map(footer.row_group, range(footer.num_row_groups)):
                chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
                names = list(chunks)
                order = [names[column.column_index] for column in group.sorting_columns]
                self.assertEqual(order, ["gateway", "device", "metric", "ts"])
                for name, chunk in chunks.items():
                    self.assertTrue(chunk.has_offset_index, name)
                    self.assertTrue(chunk.is_stats_set, name)
                    columns += 1
                for name in ("device", "metric", "ts"):
                    self.assertTrue(chunks[name].has_column_index, name)
        self.assertGreaterEqual(columns, 18)

    def test_duckdb_sums_each_series_as_plain_arithmetic_does(self):
        readings = self.readings  # DuckDB finds the Arrow table by this name.
        got = {
            (d, m): (n, s)
            for d, m, n, s in duckdb.sql(
                "select device, metric, count(*), sum(value) from readings group by all"
            ).fetchall()
        }
        expected = defaultdict(list)
        for _, device, metric, value in self.rows:
            expected[device, metric].append(float(value))
        self.assertEqual(got.keys(), expected.keys())
        for key, values in expected.items():
            self.assertEqual(got[key][0], len(values), key)
            self.assertAlmostEqual(got[key][1], math.fsum(values), delta=1e-9 * math.fsum(map(abs, values)) + 1e-12)

    def test_a_query_of_one_day_prunes_by_partition(self):
        table = self.sql.load_table("tributary.readings")
        days = {datetime.fromtimestamp(t / 1e6, timezone.utc).date() for t, _, _, _ in self.rows}
        nothing = list(table.scan(row_filter="ts < '2015-12-31T00:00:00'").plan_files())
        self.assertEqual(nothing, [])
        self.assertEqual(len(days), 1)
        files = list(table.scan(row_filter="ts >= '2016-01-01T00:00:00'").plan_files())
        self.assertEqual(sum(f.file.record_count for f in files), len(self.rows))

    def test_window_aggregates_equal_plain_arithmetic_on_the_csv(self):
        windows = defaultdict(list)
        for name, size in WINDOWS.items():
            for order, (ts, device, metric, value) in enumerate(self.rows):
                windows[name, device, metric, ts // size * size].append((ts, order, float(value)))
        newest = {}
        for row in self.aggregates.to_pylist():
            if row["window_name"] not in WINDOWS:
                continue
            start = micros(row["window_start"].replace(tzinfo=timezone.utc).isoformat())
            key = (row["window_name"], row["device"], row["metric"], start)
            if key not in newest or newest[key]["revision"] < row["revision"]:
                newest[key] = row
        self.assertEqual(newest.keys(), windows.keys())
        for key, points in windows.items():
            self.compare(key, newest[key], [v for _, _, v in sorted(points)])

    def compare(self, key, row, values):
        """One window's row against its values in order of time."""
        scale = math.fsum(map(abs, values)) or 1.0
        ordered = sorted(values)
        self.assertEqual(row["samples"], len(values), key)
        self.assertEqual((row["value_min"], row["value_max"]), (ordered[0], ordered[-1]), key)
        self.assertEqual((row["value_first"], row["value_last"]), (values[0], values[-1]), key)
        self.assertAlmostEqual(row["value_sum"], float(sum(map(Fraction, values))), delta=1e-9 * scale, msg=str(key))
        self.assertAlmostEqual(row["value_mean"], statistics.fmean(values), delta=1e-9 * scale, msg=str(key))
        if len(values) > 1:
            self.assertAlmostEqual(row["value_stddev"], statistics.stdev(values), delta=1e-9 * scale, msg=str(key))
        else:
            self.assertIsNone(row["value_stddev"], key)
        for column, q in (("value_p50", 0.50), ("value_p95", 0.95), ("value_p99", 0.99)):
            self.assertAlmostEqual(row[column], percentile(ordered, q), delta=1e-9 * scale, msg=str(key))

    def newest_by_hand(self):
        """(gateway, window, series, start) to revision, of the newest revisions."""
        newest = {}
        for row in self.aggregates.to_pylist():
            key = tuple(row[k] for k in ("gateway", "window_name", "series", "window_start"))
            newest[key] = max(newest.get(key, 0), row["revision"])
        return newest

    def views(self, engine):
        arguments = ["views", "--engine", engine, "--from", "revisions_of_windows"]
        return subprocess.run(
            [PROGRAMS / "tributary-receiver", *arguments], check=True, capture_output=True, text=True
        ).stdout

    def revised(self):
        """The table, and once more the rows of some windows as a revision that is a million greater."""
        again = self.aggregates.slice(0, 50)
        place = again.schema.get_field_index("revision")
        greater = pyarrow.compute.add(again.column("revision"), 1_000_000).cast(again.schema.field(place).type)
        return pyarrow.concat_tables([self.aggregates, again.set_column(place, again.schema.field(place), greater)])

    def expected_newest(self):
        again = self.aggregates.slice(0, 50).to_pylist()
        newest = self.newest_by_hand()
        for row in again:
            key = tuple(row[k] for k in ("gateway", "window_name", "series", "window_start"))
            newest[key] = max(newest[key], row["revision"] + 1_000_000)
        return newest

    def test_the_duckdb_view_shows_each_window_once_in_its_newest_revision(self):
        database = duckdb.connect()
        database.register("revisions_of_windows", self.revised())
        database.execute(self.views("duckdb").replace("create or replace view", "create or replace temp view"))
        got = database.sql(
            "select gateway, window_name, series, window_start, revision from aggregates_newest"
        ).fetchall()
        self.assertEqual({tuple(row[:4]): row[4] for row in got}, self.expected_newest())
        self.assertEqual(len(got), len(self.expected_newest()))
        columns = [d[0] for d in database.sql("select * from aggregates_newest limit 0").description]
        self.assertEqual(columns, self.aggregates.column_names)

    def test_the_polars_view_shows_each_window_once_in_its_newest_revision(self):
        told = {}
        exec(self.views("polars"), told)
        lazy = polars.from_arrow(self.revised()).lazy()
        columns = ["gateway", "window_name", "series", "window_start", "revision"]
        got = told["aggregates_newest"](lazy).select(columns).collect().rows()
        self.assertEqual({tuple(row[:4]): row[4] for row in got}, self.expected_newest())
        self.assertEqual(len(got), len(self.expected_newest()))

    def test_polars_computes_every_aggregate_again_from_the_raw_readings(self):
        told = {}
        exec(self.views("polars"), told)
        newest = told["aggregates_newest"](polars.from_arrow(self.aggregates).lazy()).collect()
        value = polars.col("value")
        compared = 0
        minutes = [polars.duration(minutes=m) for m in (0, 5, 10)]
        local = polars.col("ts").dt.replace_time_zone("UTC").dt.convert_time_zone("America/Denver").dt.truncate("1d")
        starts = {
            "1m": [polars.col("ts").dt.truncate("1m")],
            "1h": [polars.col("ts").dt.truncate("1h")],
            "15m every 5m": [polars.col("ts").dt.truncate("5m") - back for back in minutes],
            "local day": [local.dt.convert_time_zone("UTC").dt.replace_time_zone(None)],
        }
        self.assertEqual(set(newest["window_name"]), set(starts))
        for name, of_one in starts.items():
            windows = (
                polars.from_arrow(self.readings)
                .select("series", "ts", "seq", "value")
                .with_columns(polars.concat_list(of_one).alias("window_start"))
                .explode("window_start")
                .sort("ts", "seq")
                .group_by("series", "window_start", maintain_order=True)
                .agg(
                    polars.len().cast(polars.Int64).alias("samples"),
                    value.min().alias("value_min"),
                    value.max().alias("value_max"),
                    value.first().alias("value_first"),
                    value.last().alias("value_last"),
                    polars.col("ts").first().alias("first_ts"),
                    polars.col("ts").last().alias("last_ts"),
                    value.sum().alias("value_sum"),
                    value.mean().alias("value_mean"),
                    value.std(ddof=1).alias("value_stddev"),
                    *(
                        value.quantile(q, interpolation="linear").alias(column)
                        for column, q in (("value_p50", 0.5), ("value_p95", 0.95), ("value_p99", 0.99))
                    ),
                    value.abs().sum().alias("scale"),
                )
            )
            ours = newest.filter(polars.col("window_name") == name)
            both = windows.join(ours, on=["series", "window_start"], how="full", suffix="_ours", coalesce=True)
            self.assertEqual((both.height, both["samples_ours"].null_count()), (windows.height, 0))
            self.assertEqual(ours.height, windows.height)
            for column in ("samples", "value_min", "value_max", "value_first", "value_last", "first_ts", "last_ts"):
                wrong = both.filter(polars.col(column).ne_missing(polars.col(f"{column}_ours")))
                self.assertEqual(wrong.height, 0, f"{name} {column}: {wrong.head(3)}")
            for column in ("value_sum", "value_mean", "value_stddev", "value_p50", "value_p95", "value_p99"):
                near = (polars.col(column) - polars.col(f"{column}_ours")).abs() <= 1e-9 * polars.col("scale")
                both_null = polars.col(column).is_null() & polars.col(f"{column}_ours").is_null()
                wrong = both.filter(~(near | both_null).fill_null(False))
                self.assertEqual(wrong.height, 0, f"{name} {column}: {wrong.head(3)}")
            compared += both.height
        self.assertGreater(compared, 10_000)

    def test_alerts_are_what_the_rules_say_of_the_csv(self):
        """`above ten` (clears at 8) and `leaps` (more than 0.01 a second), on each series in the order of time."""
        series = defaultdict(list)
        for ts, device, metric, value in self.rows:
            series[device, metric].append((ts, float(value)))
        expected = set()
        for (device, metric), points in series.items():
            high = leaps = False
            for (ts, value), before in zip(points, [None, *points]):
                if (not high and value > 10) or (high and value <= 8):
                    high = not high
                    expected.add(("above ten", device, metric, ts, high))
                if before and leaps != (abs(value - before[1]) / ((ts - before[0]) / 1e6) > 0.01):
                    leaps = not leaps
                    expected.add(("leaps", device, metric, ts, leaps))

        def all_alerts():
            if not self.rest.table_exists("tributary.alerts"):
                return None
            alerts = self.rest.load_table("tributary.alerts").scan().to_arrow().to_pylist()
            return alerts if len(alerts) >= len(expected) else None

        got = [
            (
                row["rule"], row["device"], row["metric"],
                micros(row["ts"].replace(tzinfo=timezone.utc).isoformat()), row["state"] == "open",
            )
            for row in until("the alerts are registered", all_alerts)
        ]
        self.assertEqual(len(got), len(set(got)), "one is there twice")
        self.assertEqual(set(got), expected)
        self.assertGreater(len(expected), 100)

    def test_increases_rates_and_changes_follow_their_definition(self):
        """From each reading to the next, a fall taken for a start from 0; from the last one before the window too."""
        series = defaultdict(list)
        for ts, device, metric, value in self.rows:
            series[device, metric].append((ts, float(value)))
        size, checked, resets = WINDOWS["1h"], 0, 0
        for row in self.aggregates.to_pylist():
            if row["window_name"] != "1h":
                self.assertIsNone(row["value_increase"], "it wasn't chosen")
                continue
            start = micros(row["window_start"].replace(tzinfo=timezone.utc).isoformat())
            points = series[row["device"], row["metric"]]
            times = [t for t, _ in points]
            first, behind = bisect.bisect_left(times, start), bisect.bisect_left(times, start + size)
            carries = first > 0 and times[first - 1] >= start - size
            values = [v for _, v in points[first - carries : behind]]
            pairs = list(zip(values, values[1:]))
            if not pairs:
                self.assertEqual((row["value_increase"], row["value_changes"]), (None, None))
                continue
            grown = math.fsum(b - a if b >= a else max(b, 0.0) for a, b in pairs)
            resets += sum(b < a for a, b in pairs)
            scale = math.fsum(map(abs, values)) or 1.0
            self.assertAlmostEqual(row["value_increase"], grown, delta=1e-9 * scale)
            known = row["coverage"] * size / 1e6
            self.assertAlmostEqual(row["value_rate"] * known, grown, delta=1e-9 * scale)
            self.assertEqual(row["value_changes"], sum(a != b for a, b in pairs))
            checked += 1
        self.assertGreater(checked, 400)
        self.assertGreater(resets, 400)

    def test_time_weighted_means_follow_their_definition(self):
        """Each value holds until the next reading of its series, or the window's end; carried over from before."""
        series = defaultdict(list)
        for ts, device, metric, value in self.rows:
            series[device, metric].append((ts, float(value)))
        checked = 0
        for row in self.aggregates.to_pylist():
            if row["window_name"] != "1h":
                continue
            start = micros(row["window_start"].replace(tzinfo=timezone.utc).isoformat())
            end = start + WINDOWS["1h"]
            points = series[row["device"], row["metric"]]
            times = [t for t, _ in points]
            inside = points[bisect.bisect_left(times, start) : bisect.bisect_left(times, end)]
            before = points[: bisect.bisect_left(times, start)]
            steps = ([(start, before[-1][1])] if before and inside[0][0] > start else []) + inside
            held = [(t, n - t, v) for (t, v), n in zip(steps, [t for t, _ in steps[1:]] + [end])]
            known = sum(h for _, h, _ in held)
            mean = float(sum(Fraction(v) * h for _, h, v in held) / known)
            scale = max(abs(v) for _, _, v in held) or 1.0
            self.assertAlmostEqual(row["time_weighted_mean"], mean, delta=1e-9 * scale)
            self.assertAlmostEqual(row["coverage"], known / WINDOWS["1h"], delta=1e-9)
            checked += 1
        self.assertGreater(checked, 400)


if __name__ == "__main__":
    unittest.main()
