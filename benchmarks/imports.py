"""Seconds to import the doors of the package, in new processes.

    python -m benchmarks.imports            # writes results/benchmarks_imports.json

`purenets` includes NumPy; `purenets.torch_nets` is what it takes beyond `import torch`. One import
before the first that counts brings the files into the system's cache.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import write
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive

AT_MOST = {"purenets": 0.4, "purenets.torch_nets": 0.3}
CODE = """
import json, time
begin = time.perf_counter()
import purenets
first = time.perf_counter()
import torch
second = time.perf_counter()
import purenets.torch_nets
third = time.perf_counter()
print(json.dumps({
    "purenets": first - begin, "torch": second - first, "purenets.torch_nets": third - second
}))
"""


@dataclass(frozen=True)
class Config(Options):
    """Time imports."""

    processes: int = option(11, "processes that import", positive)
    results: str = option("results/benchmarks_imports.json", "JSON file for the numbers")


def seconds() -> dict[str, float]:
    """Return the seconds of each import in a new process."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(config: Config) -> dict:
    seconds()
    rows = [seconds() for _ in range(config.processes)]
    found = {
        "command": "python -m benchmarks.imports",
        "n": config.processes,
        "seconds": {name: [row[name] for row in rows] for name in rows[0]},
    }
    write(config.results, found, table(found))
    return found


def table(found: dict) -> Table:
    """Return a row for each import: median, quartiles and target."""
    rows = []
    for name, values in found["seconds"].items():
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        most = f"{AT_MOST[name]:g}" if name in AT_MOST else ""
        rows.append((name, f"{median:.2f} ({low:.2f} to {high:.2f})", most, found["n"]))
    return table_of(("import", "seconds (quartiles)", "target", "n"), rows)


if __name__ == "__main__":
    command(Config, main)
