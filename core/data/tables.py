"""Sets from a CSV file: numbers with commas between, the class in the last column."""

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from purenets.core import random
from purenets.core.arguments import (
    expect_flags,
    expect_integers,
)
from purenets.core.base import Array, UserError
from purenets.core.data.tasks import Dataset, prepare
from purenets.core.runs.notes import warn

Row = tuple[int, list[str]]  # the line of the file that it ends on, and its cells


def from_csv(
    path: Path,
    key: Array,
    test_fraction: float = 0.2,
    dtype: str = "float32",
    *,
    header: bool | None = None,
    n_classes: int | None = None,
) -> Dataset:
    """Return the set of a CSV file: numbers, with the class in the last column.

    A row is an example: its features, then its class, an integer from 0 on. The set is split and
    standardized, as `prepare` does it. The text is UTF-8, with or without a byte order mark; cells
    may stand in double quotes; empty lines are skipped.

    Args:
        path: the path of the file.
        key: the key of the split.
        test_fraction: the share of the examples that becomes the test set.
        dtype: the dtype of the inputs, "float32" or "float64".
        header: True if the first row names the columns, False if it holds numbers. None: it names
            them if none of its cells is a number.
        n_classes: the number of classes; None if every class has an example.

    Returns:
        A `Dataset`: train and test, inputs (n, features) and targets (n,) int64.

    Raises:
        UserError: one line that names the file, the row and what is wrong. A class of a single
            example is warned of, unless `n_classes` is given: the column may be a number to
            predict.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from purenets import data, random
        >>> table = np.stack([np.arange(10), np.arange(10) ** 2, np.arange(10) % 2], axis=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "set.csv"
        ...     np.savetxt(path, table, fmt="%d", delimiter=",")
        ...     task = data.from_csv(path, random.key(0))
        >>> task.train[0].shape, task.test[0].shape, task.n_classes
        ((8, 2), (2, 2), 2)
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"from_csv: path is {path!r}, needs the path of a file")
    if header is not None:
        expect_flags("from_csv", header=header)
    if n_classes is not None:
        expect_integers("from_csv", 1, n_classes=n_classes)
    random.check_key(key)
    rows = _without_header(path, _rows(path), header)
    if len(rows) < 2:
        raise UserError(f"{path}: needs at least two rows of numbers")
    width = max(len(rows[0][1]), 2)
    table = np.array([_numbers(path, row, width) for row in rows])
    y = _classes(path, table[:, -1], [number for number, _ in rows], n_classes)
    _expect_examples_of_classes(path, y, n_classes)
    return prepare((table[:, :-1], y), random.split(key)[1], test_fraction, dtype, n_classes)


def _rows(path: Path) -> list[Row]:
    """Return the rows of the file that are not empty."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[Row] = []
    try:
        for cells in reader:
            if any(map(str.strip, cells)) or len(cells) > 1:
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise UserError(f"{path}: row {reader.line_num} cannot be read ({error})") from error
    return rows


def _text(path: Path) -> str:
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise UserError(f"{path}: cannot be read (no regular file)")
        content = Path(path).read_bytes()
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{path}: cannot be read (UTF-16 text); save it as UTF-8")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: cannot be read (row {row} is no UTF-8 text)") from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error})") from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}: row {row} holds a NUL character")
    return text


def _without_header(path: Path, rows: list[Row], header: bool | None) -> list[Row]:
    """Return the rows of numbers; a UserError where the first row may be either."""
    if not rows or header is False:
        return rows
    number, names = rows[0]
    if header is None:
        if len(names) < 2 or any(map(_is_like_a_number, names)):
            _expect_no_column_numbers(path, rows[0])
            return rows
        header = True
    if "" in names:
        raise UserError(
            f"{path}: row {number} names no column {names.index('') + 1}: {_shown(names)}; "
            "remove that column "
            "(an index is no feature), or name it"
        )
    if len(rows) > 1 and len(rows[1][1]) != len(names):
        raise UserError(
            f"{path}: row {number} names {len(names)} columns, row {rows[1][0]} has "
            f"{len(rows[1][1])}: "
            f"{_shown(rows[1][1])}"
        )
    return rows[1:]


def _expect_no_column_numbers(path: Path, row: Row) -> None:
    """Raise a UserError for a first row 0,1,2,...: names that pandas gives, or an example."""
    number, cells = row
    if len(cells) > 1 and cells == [str(i) for i in range(len(cells))]:
        raise UserError(
            f"{path}: row {number} is {_shown(cells)}: an example, or the numbers of the "
            "columns? Remove it or "
            "give the columns names; if it is an example, say header=False or write 0.0 for 0"
        )


def _is_like_a_number(cell: str) -> bool:
    try:
        float(cell)  # takes nan, inf and 1_000 too: a row of these is no row of names
    except ValueError:
        return False
    return True


def _is_text(cell: str) -> bool:
    """Return True for the name of a class, such as dog: text that is no number."""
    return any(map(str.isalpha, cell)) and not _is_like_a_number(cell)


def _numbers(path: Path, row: Row, width: int) -> list[float]:
    number, cells = row
    try:
        # float() alone would take 1_000, and digits of other scripts
        numbers = [float(cell) for cell in cells if cell.isascii() and "_" not in cell]
    except ValueError:
        numbers = []
    if len(numbers) != width or len(cells) != width:
        hint = next(
            (f"; columns are separated by commas, not {c!r}" for c in ";\t" if c in "".join(cells)),
            "",
        )
        if not hint and _is_text(cells[-1]) and len(cells) == width:
            hint = f"; class names must be numbered from 0, and {cells[-1]!r} is a name"
        raise UserError(f"{path}: row {number} is not {width} numbers: {_shown(cells)}{hint}")
    if not all(map(math.isfinite, numbers)):
        wrong = next(
            cell for cell, value in zip(cells, numbers, strict=True) if not math.isfinite(value)
        )
        raise UserError(f"{path}: row {number} has a value that is not finite: {wrong}")
    return numbers


def _classes(path: Path, y: np.ndarray, rows: Sequence[int], n_classes: int | None) -> np.ndarray:
    """Return the last column as class numbers."""
    last = 2**31 - 1 if n_classes is None else n_classes - 1
    right = (y == np.floor(y)) & (y >= 0) & (y <= last)
    if not right.all():
        i = int(np.argmin(right))
        range_of = "from 0 on" if n_classes is None else f"from 0 to {last}"
        raise UserError(
            f"{path}: row {rows[i]}: the last column must be the class, an integer {range_of}, "
            f"not {y[i]:g}"
        )
    y = y.astype(np.int64)
    present = np.unique(y)
    if n_classes is None and len(present) <= present[-1]:
        missing = int(np.argmax(present != np.arange(len(present))))
        i = int(np.argmax(y > missing))
        raise UserError(
            f"{path}: row {rows[i]} has class {y[i]}, but none has class {missing}; number the "
            "classes from 0 "
            "without a gap, or say n_classes"
        )
    return y


def _expect_examples_of_classes(path: Path, y: np.ndarray, n_classes: int | None) -> None:
    """Raise a UserError for a single class, and warn of classes that have one example each.

    Integers of a regression look like these: (nearly) every row is a class of its own.
    """
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) == 1 and (n_classes is None or n_classes == 1):
        raise UserError(
            f"{path}: all rows are of class {classes[0]}, needs two classes or more in the last "
            "column"
        )
    lone = classes[counts < 2]
    if n_classes is None and len(lone):
        names = ", ".join(map(str, lone[:3])) + (", ..." if len(lone) > 3 else "")
        warn(
            f"{path}: {len(lone)} of {len(classes)} classes have a single example ({names}): the "
            "last column is the class, not a number to predict; n_classes says that this is meant"
        )


def _shown(cells: Sequence[str], most: int = 80) -> str:
    text = ",".join(cells)
    return text if len(text) <= most else text[:most] + "..."
