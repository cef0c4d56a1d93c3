"""The common start of every notebook: its mode, the results of full runs, and their display.

mode = notebook.start()                      # prints whether trainings are short or full
steps = mode.steps(10_000)                   # few of them in quick mode
found = notebook.results("part1_sets")
notebook.show(compare_mlps.table(found["rows"]), notebook.source("part1_sets"))
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from purenets import runs
from purenets.core.report.tables import Table, to_markdown
from scripts.shared import result_files
from scripts.shared.result_files import origin_cells
from scripts.shared.schemas import of_results
from scripts.shared.sweeps import images_of

ROOT = Path(__file__).parents[2]
CIFAR10_FOLDER = "cifar-10-batches-py"  # as torchvision unpacks it
FEW = 40  # steps of a training in quick mode


class Mode(NamedTuple):
    """How long a notebook trains, and on which images.

    Args:
        quick: whether trainings are short.
        digits: whether scikit-learn's digits replace CIFAR-10.
    """

    quick: bool
    digits: bool

    def steps(self, full: int, few: int = FEW) -> int:
        """Return the number of training steps: `full`, or at most `few` in quick mode."""
        return min(few, full) if self.quick else full


def start(images: bool = False) -> Mode:
    """Return the mode, and print what it means.

    Quick mode is on with PURENETS_QUICK=1 in the environment; in a notebook on images also if
    CIFAR-10 is not in data/.
    """
    asked = os.environ.get("PURENETS_QUICK") == "1"
    missing = images and not (ROOT / "data" / CIFAR10_FOLDER).exists()
    mode = Mode(asked or missing, images and (asked or missing))
    why = "PURENETS_QUICK=1" if asked else "CIFAR-10 is not in data/"
    print(f"{in_words(mode, why)} Machine: {runs.machine()['machine']}.")
    return mode


def in_words(mode: Mode, why: str) -> str:
    """Return what a mode means, as a text; `why` is the reason for quick mode."""
    if not mode.quick:
        return "Full mode: what is trained here is trained at full length."
    on = ", on scikit-learn's digits" if mode.digits else ""
    return (
        f"Quick mode ({why}): what is trained here is trained for a moment{on}, so that its "
        "numbers say little. What is read from results/ is of full runs."
    )


def results(name: str) -> dict:
    """Return what a full run found: the content of results/NAME.json."""
    return result_files.read(path_of(name), of_results(name))


def has(name: str) -> bool:
    """Return whether results/NAME.json exists."""
    return path_of(name).exists()


def path_of(name: str) -> Path:
    """Return the path of a file of results."""
    return ROOT / "results" / f"{name}.json"


def source(name: str) -> str:
    """Return where the numbers of results/NAME.json come from, as a line of Markdown."""
    found = result_files.read(path_of(name))
    rows = found.get("rows") or found.get("cells") or [found]
    commits, machines = origin_cells(rows)
    one = found.get("command")
    ran = f"`{one}`, n = {found['n']}" if one else f"each row has its command; {images_of(rows)}"
    return f"*results/{name}.json: {ran}; {machines}; commit {commits}.*"


def show(*parts: Any) -> None:
    """Display figures, tables and lines of Markdown below each other."""
    from IPython.display import Markdown, display

    for part in parts:
        if isinstance(part, Table):
            display(Markdown(to_markdown(part)))
        elif isinstance(part, str):
            display(Markdown(part))
        elif isinstance(part, Figure):
            display(part)
        else:
            raise TypeError(f"show: a {type(part).__name__}, needs a Figure, a Table or a text")
