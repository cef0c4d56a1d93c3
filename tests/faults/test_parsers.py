"""Coverage-guided fuzzing of all that reads a file, where atheris is installed."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.record import record, scaled

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not importlib.util.find_spec("atheris"),
    reason='atheris is not installed: pip install -e ".[fuzz]"',
)
@pytest.mark.parametrize("name", ["checkpoint", "config", "history", "table"])
def test_bytes_that_lead_to_new_code_are_taken_or_refused(name, tmp_path):
    runs = scaled(2_000, 100_000)
    command = [sys.executable, "-m", "tests.faults.parsers", name, str(runs), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"DONE +cov: [1-9]", done.stderr), "nothing of purenets is instrumented"
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["tried"] == runs
    record(f"coverage-guided: {name}", **counts, other=runs - counts["taken"] - counts["refused"])
