"""A public function that is called wrongly says so in one line."""

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.record import record

ROOT = Path(__file__).parents[2]


def test_wrong_calls_end_in_one_line():
    command = [sys.executable, "-m", "tests.faults.wrong_calls", str(10**6)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    record("wrong calls", **found["counts"], of=found["of"], raw_errors=len(found["wrong"]))
    assert found["wrong"] == []
