"""How much of the campaign is run, and where its figures go.

`make test` runs a quick part. `make faults` runs all of it: PURENETS_FAULTS names the JSON file
that every test adds its figures to.
"""

import os
import tempfile
from pathlib import Path

from filelock import FileLock

from purenets import runs
from purenets.core.report.tables import Table, table_of
from scripts.shared import result_files
from scripts.shared.result_files import ORIGIN, origin_cells

FILE = os.environ.get("PURENETS_FAULTS")


def scaled(quick: int, full: int) -> int:
    """How many cases to try: `full` in the campaign."""
    return full if FILE else quick


def record(name: str, **figures) -> None:
    """Add the figures of a test to the campaign's file."""
    if not FILE:
        return
    path = Path(FILE)
    with FileLock(Path(tempfile.gettempdir()) / "purenets-faults.lock"):  # of several processes
        found = result_files.read(path, drafts=True) if path.exists() else {}
        found |= {"command": "make faults", **runs.environment(), **runs.machine()}
        found["figures"] = found.get("figures", {}) | {name: figures}
        found["origins"] = found.get("origins", {}) | {name: runs.origin()}
        result_files.write(path, found, table(found))


def table(found: dict) -> Table:
    """Return a row for each test of the campaign."""
    rows = []
    for name, values in sorted(found["figures"].items()):
        figures = "; ".join(f"{words(k)} {words(v)}" for k, v in values.items())
        rows.append((name, figures, *origin_cells([found.get("origins", {}).get(name, found)])))
    return table_of(("what", "figures", *ORIGIN), rows)


def words(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:,}" for k, v in sorted(value.items()))
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value.replace("_", " ")
