"""docs/toolbox.md: its code runs from top to bottom, and its tables are what it prints."""

import re
import subprocess
import sys
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "docs" / "toolbox.md").read_text()


def test_the_code_runs_and_prints_the_tables():
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    warn = (
        "-W",
        "error",
        "-W",
        "ignore::FutureWarning",
        "-W",
        "ignore::DeprecationWarning",
    )  # torch has its own
    command = [sys.executable, *warn, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| layer | operation |")
    tables = re.split(r"\n(?=\| layer )", done.stdout)
    assert len(tables) == 2
    assert all(table.strip() in TEXT for table in tables)
