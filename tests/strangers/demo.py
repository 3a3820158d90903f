"""A running demo, and what it says of itself."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from pyiceberg.catalog import load_catalog

PROGRAMS = pathlib.Path(os.environ["CARGO_TARGET_DIR"]) / "release"


class Demo:
    """Started in a scratch folder of its own; it is there once everything that it sent is registered."""

    def __init__(self, name: str, *arguments: str, rows=None):
        """`rows` are (ts, device, metric, value) to send instead of the carried data."""
        self.scratch = tempfile.mkdtemp(prefix=f"tributary-{name}-")
        self.home = os.path.join(self.scratch, "demo")
        command = [PROGRAMS / "tributary-demo", "--dir", self.home, *arguments]
        if rows is not None:
            data = os.path.join(self.scratch, "data.csv")
            with open(data, "w") as file:
                file.write("ts,device,metric,value\n")
                file.writelines(",".join(map(str, row)) + "\n" for row in rows)
            command += ["--data", data]
        self.log = open(os.path.join(self.scratch, "demo.log"), "w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            ended = self.process.wait()
            raise RuntimeError(f"the demo ended with {ended} and printed:\n{self.log.read()[-5000:]}")
        self.said = json.loads(line)
        s3 = {
            "s3.endpoint": self.said["s3_endpoint"],
            "s3.access-key-id": self.said["access_key_id"],
            "s3.secret-access-key": self.said["secret_access_key"],
            "s3.region": self.said["region"],
        }
        place = {"uri": self.said["catalog_uri"], "warehouse": self.said["warehouse"]}
        self.sql = load_catalog("tributary", type="sql", **place, **s3)
        self.rest = load_catalog("tributary", type="rest", uri=self.said["rest_uri"], **s3)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self.process.stdout.close()
        self.log.close()
        if not os.environ.get("TRIBUTARY_KEEP"):
            shutil.rmtree(self.scratch, ignore_errors=True)
