"""The demo while its programs are killed again and again: each reading is in the table once all the same."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest

from demo import PROGRAMS



class Chaos(unittest.TestCase):
    def test_nothing_is_missing_and_nothing_twice_however_often_everything_is_killed(self):
        scratch = tempfile.mkdtemp(prefix="tributary-chaos-")
        command = [PROGRAMS / "tributary-demo", "--chaos", "--exit", "--rate", "3000", "--dir", os.path.join(scratch, "demo")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=420)
        told = f"{done.stderr}\nits folder is {scratch}"
        self.assertEqual(done.returncode, 0, told)
        said = json.loads(done.stdout)
        self.assertEqual((said["missing"], said["duplicates"], said["rejected"]), (0, 0, 0), told)
        self.assertEqual([said[key] for key in ("sent", "acknowledged", "registered", "distinct")], [27_360] * 4, told)
        lines = [line for line in done.stderr.splitlines() if line.startswith("killed ")]
        self.assertGreaterEqual(said["kills"], 12, told)
        self.assertEqual(len(lines), said["kills"], told)
        for name in ("the agent of gw-1", "the receiver", "the S3 server", "the broker"):
            self.assertTrue(any(name in line and "; back after " in line for line in lines), f"{name}: {told}")
        self.assertIn("27360 sent, missing: 0, duplicates: 0", done.stderr)
        shutil.rmtree(scratch)


if __name__ == "__main__":
    unittest.main()
