"""An engine that knows nothing of our code works on the tables: compaction, expiry, a rollback, deleted rows.

Runs the demo, lets pyiceberg rewrite the readings and expire their history, and gives the lake to a receiver with a new
ledger: `ledger rebuild` finds every segment in the rewritten files, nothing is registered a second time, `audit` agrees,
and finds what pyiceberg then takes out.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tomllib
import unittest
import urllib.request

from demo import PROGRAMS, Demo
from waiting import until

READINGS = "tributary.readings"
READINGS_SENT = 1500


def ask(url: str):
    """The JSON at `url`; none while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def spare() -> str:
    """An address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


class Recovery(unittest.TestCase):
    def setUp(self):
        moment = lambda i: f"2026-03-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z"
        rows = [(moment(i), f"device-{i % 3}", "temperature", i / 10) for i in range(READINGS_SENT)]
        self.demo = Demo("recovery", "--rate", "500", rows=rows)
        self.scratch, self.catalog = self.demo.scratch, self.demo.sql
        [config] = pathlib.Path(self.demo.home).rglob("receiver.toml")
        told = tomllib.loads(config.read_text())
        text = config.read_text().replace(told["state_dir"], os.path.join(self.scratch, "new"))
        self.page = spare()
        text = text.replace(told["fleet"]["listen"], self.page)
        self.config = os.path.join(self.scratch, "receiver.toml")
        pathlib.Path(self.config).write_text(text)

    def tearDown(self):
        self.demo.stop()

    def receiver(self, *words: str) -> tuple[int, dict]:
        """Runs a command of the receiver on the new ledger."""
        command = [PROGRAMS / "tributary-receiver", *words, "--json", "--config", self.config]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertTrue(done.stdout, done.stderr)
        return done.returncode, json.loads(done.stdout)

    def rows(self):
        return self.catalog.load_table(READINGS).scan().to_arrow()

    def registered(self, segments: int) -> list:
        """Runs a receiver until it knows of that many registered segments; why its tables stand still."""
        with open(os.path.join(self.scratch, "receiver.log"), "a") as log:
            command = [PROGRAMS / "tributary-receiver", "run", "--config", self.config]
            running = subprocess.Popen(command, stderr=log, stdout=log)
        try:

            def look():
                fleet = ask(f"http://{self.page}/api/fleet")
                known = fleet and sum(g["registered"] for g in fleet["gateways"])
                return fleet if known and known >= segments else None

            fleet = until(f"{segments} segments are registered", look)
            return [t["stopped"] for t in fleet["tables"] if t["stopped"]]
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60)

    def test_a_new_ledger_over_rewritten_and_expired_tables_registers_nothing_twice(self):
        before = self.rows()
        self.assertEqual(before.num_rows, READINGS_SENT)
        table = self.catalog.load_table(READINGS)
        table.overwrite(before)
        table = self.catalog.load_table(READINGS)
        head = table.current_snapshot().snapshot_id
        old = [s.snapshot_id for s in table.snapshots() if s.snapshot_id != head]
        table.maintenance.expire_snapshots().by_ids(old).commit()
        self.assertEqual(len(self.catalog.load_table(READINGS).snapshots()), 1)

        code, report = self.receiver("ledger", "rebuild")
        self.assertEqual(code, 0)
        [readings] = [t for t in report["tables"] if t["table"] == READINGS]
        origin = zip(*(before.column(c).to_pylist() for c in ("gateway", "buffer_epoch", "segment_number")))
        self.assertEqual((readings["segments"], readings["rows"]), (len(set(origin)), before.num_rows))
        self.assertEqual(report["left_out"], 0)
        self.assertGreater(report["receipts"], 0)
        total = sum(t["segments"] for t in report["tables"])

        self.assertEqual(self.registered(total), [])
        self.assertEqual(self.rows().num_rows, before.num_rows)
        numbers = [dict(tags)["n"] for tags in self.rows().column("tags").to_pylist()]
        self.assertEqual(len(set(numbers)), before.num_rows)
        code, verdict = self.receiver("audit")
        self.assertEqual((code, verdict["findings"]), (0, []))

        # The engine takes a segment out: it is named, and comes back by command, once.
        number = before.column("segment_number")[0].as_py()
        self.catalog.load_table(READINGS).delete(f"segment_number == {number}")
        code, verdict = self.receiver("audit")
        self.assertEqual(code, 1)
        self.assertIn(("removed", number), [(f["kind"], f["number"]) for f in verdict["findings"]])
        code, report = self.receiver("ledger", "reregister", READINGS)
        self.assertEqual((code, len(report["tables"][0]["again"])), (0, 1))
        self.assertEqual(self.registered(total), [])
        self.assertEqual(self.rows().num_rows, before.num_rows)
        self.assertEqual(self.receiver("audit")[1]["findings"], [])
