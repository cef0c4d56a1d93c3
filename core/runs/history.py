"""The history of a run: a list of rows, dicts of numbers; to CSV and back without loss."""

import csv
import io
import itertools
from pathlib import Path
from typing import Any

from purenets.core.base import History, UserError
from purenets.core.runs.files import write_atomically
from purenets.core.runs.schema import mismatch

# what the best row is chosen by: columns of the validation set, and the sign that is better
VALIDATION = (("valid_accuracy", 1), ("valid_loss", -1))


def check_rows(value: Any) -> str | None:
    """Check rows that are read back (a schema of `schema.py`)."""
    wrong = mismatch(value, [{"step": int}]) or mismatch(value, [{str: float}])
    steps = [] if wrong else [row["step"] for row in value]
    if any(step < 0 for step in steps) or any(a >= b for a, b in itertools.pairwise(steps)):
        return "the steps do not rise"
    return wrong


def best_step(rows: History) -> int | None:
    """Return the step of the best row by validation: its accuracy, then its loss, then the first.

    None where nothing is validated.
    """
    names = [(name, sign) for name, sign in VALIDATION if any(name in row for row in rows)]
    kept = [row for row in rows if row["step"] > 0 and all(name in row for name, _ in names)]
    if not names or not kept:
        return None
    return max(kept, key=lambda row: [sign * row[name] for name, sign in names])["step"]


def to_csv(rows: History) -> str:
    """Return the rows as CSV with a header; floats keep all their digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: repr(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def write_csv(path: Path, rows: History) -> None:
    """Write rows as CSV, whole or not at all."""
    write_atomically(path, to_csv(rows).encode())


def read_csv(path: Path) -> History:
    """Return the rows that `write_csv` wrote; cells without a value are left out.

    Raises:
        UserError: the file is missing or no such CSV.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return [
                {name: _number(cell) for name, cell in row.items() if cell != ""}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a history ({error})") from error


def column(rows: History, name: str) -> tuple[list[float], list[float]]:
    """Return the steps and the values of a column, as for a plot."""
    kept = [row for row in rows if name in row]
    return [row["step"] for row in kept], [row[name] for row in kept]


def _number(cell: str) -> float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)
