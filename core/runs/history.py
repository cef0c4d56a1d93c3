"""The history of a run: a list of rows, dicts of numbers; to CSV and back without loss."""

import csv
import io
from pathlib import Path

from purenets.core.base import History, UserError
from purenets.core.runs.files import write_atomically


def to_csv(rows: History) -> str:
    """The rows as CSV with a header; floats keep all their digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: repr(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def write_csv(path: Path, rows: History) -> None:
    write_atomically(path, to_csv(rows).encode())


def read_csv(path: Path) -> History:
    """The rows of `write_csv`; cells without a value are left out.

    A UserError if it is no such file.
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
    """The steps and the values of a column, as for a plot."""
    kept = [row for row in rows if name in row]
    return [row["step"] for row in kept], [row[name] for row in kept]


def _number(cell: str) -> float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)
