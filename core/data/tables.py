"""Sets from CSV files: a row is an example, numbers and a label with a delimiter between."""

import csv
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from purenets.core import random
from purenets.core.arguments import (
    expect_flags,
    expect_integers,
    is_integer,
)
from purenets.core.base import Array, Batch, UserError
from purenets.core.data.labels import MISSING, expect_classes, number_labels, shown
from purenets.core.data.scaling import EXACT
from purenets.core.data.tasks import (
    Dataset,
    assemble,
    expect_float_name,
    expect_split,
    split,
)
from purenets.core.runs.notes import warn

Row = tuple[int, list[str]]  # the line of the file that it ends on, and its cells
NUMERAL = re.compile(r"[-+$€£]?[\d.,_'\s]*\d[\d.,_'\s]*[%$€£]?")  # a number, as somebody writes it
OTHER_DELIMITERS = ";\t|"
INTEGER = re.compile(r"0|[1-9]\d*")
NAMELESS = re.compile(r"|Unnamed: \d+")  # what pandas writes, and reads, for an index
CUT = re.compile(r"\d+[;\t]")  # how a label begins in a row that was cut at a decimal comma
MANY = 10  # rows from which on a column that counts them is no coincidence
# a label by its name is what the scripts can say too, as --label
HEADER_HINT = "; if this line names the columns, say header=True or name the column of the label"


class _Table(NamedTuple):
    """A file that was read: the names of its columns, None without a header, and its rows."""

    path: Path
    names: list[str] | None
    rows: list[Row]

    def place(self, row: int, column: int) -> str:
        """Return where a cell is, for a message."""
        name = f" ({self.names[column]})" if self.names else ""
        return f"{self.path}: line {self.rows[row][0]}, column {column + 1}{name}"


def from_csv(
    path: Path,
    key: Array | None = None,
    test_fraction: float | None = None,
    dtype: str = "float32",
    *,
    test: Path | None = None,
    label: str | int = -1,
    classes: Sequence[str | int] | None = None,
    header: bool | None = None,
    n_classes: int | None = None,
    delimiter: str = ",",
) -> Dataset:
    """Return the set of a CSV file: numbers, with the class in the last column.

    A row is an example: its features, which are numbers, and its class: an integer from 0 on, or a
    name. Names are numbered in alphabetical order; `task.classes` has them by class number. The set
    is split and standardized, as `prepare` does it. The text is UTF-8, with or without a byte order
    mark; cells may stand in double quotes; empty lines are skipped.

    Args:
        path: the path of the file.
        key: the key of the split; not needed with `test`.
        test_fraction: the share of the examples that becomes the test set; None for 0.2. Not with
            `test`.
        dtype: the dtype of the inputs: "float16", "float32" or "float64".
        test: the path of a file of test examples with the same columns. Then all of `path` is the
            training part, by which both are standardized; the classes are those of both files.
        label: the column of the class, its name or its position, counted from 0, or from the end
            by negative numbers.
        classes: the labels in the order of their numbers, names or integers, as [1, 2, 3]. None for
            class numbers, and for the names that there are.
        header: True if the first row names the columns, False if it is an example. None: it names
            them if none of its cells is a number; where the label is a name that no other row has,
            you are asked.
        n_classes: the number of classes; None if every class has an example.
        delimiter: the character between two cells, such as ";" or "\\t".

    Returns:
        A `Dataset`: train and test, inputs (n, features) and targets (n,) int64. Its `classes` are
        the labels by class number.

    Raises:
        UserError: one line that names the file, the line, the column and what is wrong. A class of
            a single example is warned of, unless `n_classes` or `classes` is given: the column may
            be a number to predict. So is a first column that counts the rows, as an index does.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from purenets import data, random
        >>> table = np.stack([np.arange(10) ** 2, np.arange(10), np.arange(10) % 2], axis=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "set.csv"
        ...     np.savetxt(path, table, fmt="%d", delimiter=",")
        ...     task = data.from_csv(path, random.key(0))
        ...     _ = path.write_text("kind,size\\ncat,4.1\\ndog,9.5\\ncat,3.8\\ndog,8.7\\n")
        ...     pets = data.from_csv(path, random.key(0), 0.5, label="kind")
        >>> task.train[0].shape, task.test[0].shape, task.n_classes
        ((8, 2), (2, 2), 2)
        >>> pets.classes
        ('cat', 'dog')
    """
    _expect_arguments(path, test, label, header, delimiter)
    header = header if header is None else bool(header)  # np.False_ is not False
    expect_float_name(dtype)
    if test is None:
        test_fraction = 0.2 if test_fraction is None else test_fraction
        random.check_key(key) if key is not None else None
    expect_split("from_csv", key, test_fraction, test)
    if n_classes is not None:
        expect_integers("from_csv", 1, n_classes=n_classes)
    if classes is not None:
        expect_classes("from_csv", classes, n_classes)
    tables = [_read(path, header, label, delimiter)]
    if test is not None:
        tables.append(_read(test, header, label, delimiter, tables[0]))
    inputs, labels, column = _columns(tables, label, delimiter)
    if classes is None:
        _expect_whole_rows(tables[0], labels, column, delimiter)
    numbers, names = _class_numbers(tables, labels, column, classes, n_classes, header)
    counted = n_classes is not None or classes is not None
    n_classes = _number_of(numbers, names, n_classes)
    _warn_of_an_index(tables[0], inputs[0], column)
    warned = _warn_of_rare_classes(tables, numbers, names or range(n_classes), counted)
    sets = list(zip(inputs, np.split(numbers, [len(inputs[0])]), strict=False))
    parts = sets if test is not None else split(sets[0], random.split(key)[1], test_fraction)
    warns = not (counted or warned)
    name = str(tables[-1].path)
    if test is not None:
        _warn_of_trained_rows(*parts, name)
    return assemble(*parts, dtype, n_classes, names, warns, name)


def _warn_of_trained_rows(train: Batch, test: Batch, name: str) -> None:
    """Warn of a test file of which at least half of the rows are in the training file too."""
    train_rows, rows = (
        [(row.tobytes(), int(label)) for row, label in zip(x, y, strict=True)]
        for x, y in (train, test)
    )
    known = set(train_rows)
    n = sum(row in known for row in rows)
    if 2 * n >= len(rows):
        warn(f"{name}: {n} of its {len(rows)} rows are in the training file too")


def _number_of(numbers: np.ndarray, names: tuple | None, n_classes: int | None) -> int:
    if names is not None:
        return len(names)
    return int(numbers.max()) + 1 if n_classes is None else n_classes


def _expect_arguments(path, test, label, header, delimiter) -> None:
    for name, value in (("path", path), ("test", path if test is None else test)):
        if not isinstance(value, str | os.PathLike):
            raise UserError(f"from_csv: {name} is {value!r}, needs the path of a file")
    if not isinstance(label, str) and not is_integer(label):
        raise UserError(f"from_csv: label is {label!r}, needs the name or position of a column")
    if header is not None:
        expect_flags("from_csv", header=header)
    if isinstance(label, str) and header is not None and not header:
        raise UserError(f"from_csv: label {label!r} is a name, but header=False: no row has names")
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n\0 ':
        raise UserError(f"from_csv: delimiter is {delimiter!r}, needs one character, such as ';'")


def _read(
    path: Path, header: bool | None, label: str | int, delimiter: str, like: _Table | None = None
) -> _Table:
    """Return the table of a file; `like` has the columns that it must have."""
    if isinstance(label, str):
        header = True
    rows = _rows(path, delimiter)
    names = _header(path, rows, header, label, delimiter)
    table = _Table(path, names, rows if names is None else rows[1:])
    if len(table.rows) < (2 if like is None else 1):
        least = "two rows" if like is None else "one row"
        raise UserError(f"{path}: needs at least {least} of numbers")
    if like is not None and names and like.names and names != like.names:
        raise UserError(
            f"{path}: the columns are {_shown(names)}, but {_shown(like.names)} in {like.path}"
        )
    return table


def _rows(path: Path, delimiter: str) -> list[Row]:
    """Return the rows of the file that are not empty."""
    text = io.StringIO(_text(path), newline="")
    reader = csv.reader(text, strict=True, delimiter=delimiter, skipinitialspace=True)
    rows: list[Row] = []
    try:
        for cells in reader:
            if any(map(str.strip, cells)) or len(cells) > 1:
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} cannot be read ({error})") from error
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
        raise UserError(f"{path}: cannot be read (line {row} is no UTF-8 text)") from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error})") from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}: line {row} holds a NUL character")
    return text


def _header(
    path: Path, rows: list[Row], header: bool | None, label: str | int, delimiter: str
) -> list[str] | None:
    """Return the names of the columns, None if the first row is an example."""
    if not rows or header is False:
        return None
    number, names = rows[0]
    if header is None and _is_example(names, label):
        _expect_no_column_numbers(path, rows)
        return None
    for i, name in enumerate(names):
        if NAMELESS.fullmatch(name) and name != label:
            raise UserError(
                f"{path}: line {number} names no column {i + 1}: {_shown(names)}; "
                "remove that column (an index is no feature), or name it"
            )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: line {number} names two columns {twice!r}")
    if len(rows) > 1 and len(rows[1][1]) != len(names):
        raise UserError(
            f"{path}: line {number} names {len(names)} columns, line {rows[1][0]} has "
            f"{len(rows[1][1])}: {_shown(rows[1][1])}{_delimiter_hint(rows[1][1], delimiter)}"
        )
    return names


def _is_example(cells: list[str], label: int) -> bool:
    """Return True for a first row with a number, or in which all but the label is missing."""
    features = cells[:label] + cells[label:][1:]
    missing = all(cell.lower() in MISSING for cell in features)
    return missing or any(map(_is_like_a_number, cells))


def _expect_no_column_numbers(path: Path, rows: list[Row]) -> None:
    """Raise a UserError for a first row that may be the numbers of the columns, as pandas names
    them: 0,1,2,..., four or more of them in any order, or a rising part of them above numbers with
    a decimal point."""
    number, cells = rows[0]
    if len(cells) < 2 or not all(map(INTEGER.fullmatch, cells)):
        return
    numbers = [int(cell) for cell in cells]
    all_of_them, rise = list(range(len(numbers))), numbers == sorted(set(numbers))
    mixed = len(numbers) > 3 and sorted(numbers) == all_of_them
    part = len(numbers) > 2 and rise and _has_decimals(rows[1:])
    if numbers == all_of_them or mixed or part:
        raise UserError(
            f"{path}: line {number} is {_shown(cells)}: an example, or the numbers of the "
            "columns? Remove it or give the columns names; if it is an example, say header=False "
            "or write 0.0 for 0"
        )


def _has_decimals(rows: list[Row]) -> bool:
    """Return True if a column holds nothing but numbers with a decimal point."""
    columns = zip(*(cells for _, cells in rows), strict=False)
    return any(all("." in cell for cell in column) for column in columns)


def _is_like_a_number(cell: str) -> bool:
    try:
        float(cell)  # takes nan, inf and 1_000 too: a row of these is no row of names
    except ValueError:
        return False
    return True


# --- cells ----------------------------------------------------------------------------------------


def _columns(
    tables: list[_Table], label: str | int, delimiter: str
) -> tuple[list[np.ndarray], list[str], int]:
    """Return the features of each table, all labels as they are written, and their column."""
    width = len(tables[0].rows[0][1]) if tables[0].names is None else len(tables[0].names)
    column = _label_column(tables[0], label, width, delimiter)
    inputs, labels = [], []
    for table in tables:
        features = []
        for i, (number, cells) in enumerate(table.rows):
            if len(cells) != width:
                raise UserError(
                    f"{table.path}: line {number} has {len(cells)} columns, needs {width}: "
                    f"{_shown(cells)}{_delimiter_hint(cells, delimiter)}"
                )
            numbers = [_number(table, i, j, delimiter) for j in range(width) if j != column]
            features.append(numbers)
            labels.append(_label(table, i, column))
        inputs.append(np.array(features))
        _warn_of_large_integers(table, inputs[-1], column)
    return inputs, labels, column


def _warn_of_large_integers(table: _Table, features: np.ndarray, label: int) -> None:
    """Warn of the first integer that is too large for float64."""
    for row, at in np.argwhere(np.abs(features) > EXACT):
        column = int(at + (at >= label))
        cell = table.rows[row][1][column]
        if re.fullmatch(r"[-+]?\d+", cell) and int(cell) != int(features[row, at]):
            warn(
                f"{table.place(row, column)}: {cell}: integers above 2**53 are rounded, so close "
                "ones become equal",
                "leave the column out if it is an id; else subtract its first value before",
            )
            return


def _label_column(table: _Table, label: str | int, width: int, delimiter: str) -> int:
    number, cells = table.rows[0]
    if width < 2:
        raise UserError(
            f"{table.path}: line {number} has 1 column, needs features and a label: "
            f"{_shown(cells)}{_delimiter_hint(cells, delimiter)}"
        )
    if isinstance(label, str):
        if label not in table.names:
            raise UserError(
                f"{table.path}: no column is named {label!r}; the columns are {_shown(table.names)}"
            )
        return table.names.index(label)
    if not -width <= label < width:
        raise UserError(f"{table.path}: label is column {label}, but there are {width} columns")
    return label % width


def _number(table: _Table, row: int, column: int, delimiter: str) -> float:
    """Return the number of a cell."""
    cell = table.rows[row][1][column]
    try:  # float() alone would take 1_000, and digits of other scripts
        value = float(cell) if cell.isascii() and "_" not in cell else None
    except ValueError:
        value = None
    if value is None:
        raise UserError(
            f"{table.place(row, column)}: {_what_is_wrong(table, row, cell, delimiter)}"
        )
    if not math.isfinite(value):
        raise UserError(f"{table.place(row, column)}: not finite: {cell}")
    return value


MAKE_NUMBERS = "; docs/how_to/own_data.md makes numbers of categories and gaps"


def _what_is_wrong(table: _Table, row: int, cell: str, delimiter: str) -> str:
    """Return what is wrong with a cell that is no number."""
    if not cell:
        return f"empty; fill it in, or remove the line{MAKE_NUMBERS}"
    if cell.lower() in MISSING:
        return f"{cell!r} is a missing value; fill it in, or remove the line{MAKE_NUMBERS}"
    hint = _delimiter_hint(table.rows[row][1], delimiter)
    if not hint and row == 0 and table.names is None:
        hint = HEADER_HINT
    if not hint and re.fullmatch(r"[-+]?\d+,\d+", cell):
        hint = "; write decimals with a point, as 1.5"
    return f"{cell!r} is not a number{hint or MAKE_NUMBERS}"


def _delimiter_hint(cells: Sequence[str], delimiter: str) -> str:
    """Return how to say by which other character the columns seem to be separated."""
    text = "".join(cells)
    found = next((c for c in OTHER_DELIMITERS if c in text and c != delimiter), None)
    if found is None and len(cells) == 1 and delimiter != "," and "," in text:
        found = ","
    if found is None:
        return ""
    commas = "" if found == "," else ", or save the file with commas"
    return f"; if columns are separated by {found!r}, say delimiter={found!r}{commas}"


# --- labels ---------------------------------------------------------------------------------------


def _label(table: _Table, row: int, column: int) -> str:
    """Return a label as it is written; a UserError where there is none."""
    cell = table.rows[row][1][column]
    if not cell:
        raise UserError(f"{table.place(row, column)}: empty, needs a label")
    if _is_like_a_number(cell) and not math.isfinite(float(cell)):
        raise UserError(f"{table.place(row, column)}: not finite: {cell}")
    if NUMERAL.fullmatch(cell) and (
        not _is_like_a_number(cell) or "_" in cell or not cell.isascii()
    ):
        raise UserError(f"{table.place(row, column)}: {cell!r} is neither a number nor a name")
    return cell


def _class_numbers(
    tables: list[_Table],
    labels: list[str],
    column: int,
    classes: Sequence | None,
    n_classes: int | None,
    header: bool | None,
) -> tuple[np.ndarray, tuple | None]:
    """Return the class number of each row, and the labels by class number; None for numbers."""
    first = len(tables[0].rows)

    def place(i: int) -> str:
        return tables[i >= first].place(i - first * (i >= first), column)

    are_numbers = [_is_like_a_number(label) for label in labels]
    if classes is not None:
        return number_labels(labels, classes, place)
    if all(are_numbers):
        return _whole_numbers(np.array(labels, float), n_classes, place), None
    firsts = [0, first][: len(tables)]
    doubtful = [i for i in firsts if tables[i >= first].names is None and header is None]
    _expect_names(labels, are_numbers, place, firsts, doubtful)
    numbers, names = number_labels(labels, None, place)
    expect_classes("from_csv", names, n_classes)
    return numbers, names


def _expect_names(
    labels: list[str], are_numbers: list[bool], place, firsts: list[int], doubtful: list[int]
) -> None:
    """Raise a UserError for names among numbers, and a first name that may be that of a column.

    Args:
        labels: those of all rows.
        are_numbers: which of them are.
        place: from the index of a label to the words that begin a message about it.
        firsts: the rows that a file begins with.
        doubtful: those of them of which nobody has said that they are examples.
    """
    if any(are_numbers):
        rare = sum(are_numbers) * 2 < len(labels)  # what there is less of is what is wrong
        i = are_numbers.index(rare)
        other = labels[are_numbers.index(not rare)]
        is_header = i in doubtful and are_numbers.count(rare) <= len(firsts)
        raise UserError(
            f"{place(i)}: {labels[i]!r} is a label beside {other!r}: needs names in all rows or "
            f"numbers in all{HEADER_HINT if is_header else ', or classes=[...]'}"
        )
    others = {label for i, label in enumerate(labels) if i not in firsts}  # both may have names
    for i in doubtful:
        if labels[i] not in others and len(labels) > 2:
            raise UserError(
                f"{place(i)}: no other row has the label {labels[i]!r}{HEADER_HINT}; if it is an "
                "example, say header=False or classes=[...]"
            )


def _expect_whole_rows(table: _Table, labels: list[str], column: int, delimiter: str) -> None:
    """Raise a UserError for "1,5;2,5;cat" read with commas: '5;cat' would be a class."""
    hint = _delimiter_hint(labels[:1], delimiter)
    if hint and all(map(CUT.match, labels)):
        raise UserError(
            f"{table.place(0, column)}: {labels[0]!r} is no class{hint}; write decimals with a "
            "point, as 1.5"
        )


def _whole_numbers(y: np.ndarray, n_classes: int | None, place) -> np.ndarray:
    """Return the labels as class numbers."""
    last = 2**31 - 1 if n_classes is None else n_classes - 1
    right = (y == np.floor(y)) & (y >= 0) & (y <= last)
    if not right.all():
        i = int(np.argmin(right))
        range_of = "from 0 on" if n_classes is None else f"from 0 to {last}"
        raise UserError(
            f"{place(i)}: the label must be a class, an integer {range_of} or a name, not {y[i]:g}"
        )
    y = y.astype(np.int64)
    present = np.unique(y)
    if n_classes is None and len(present) <= present[-1]:
        missing = int(np.argmax(present != np.arange(len(present))))
        i = int(np.argmax(y > missing))
        many = "; labels are classes: for a regression read the columns with np.loadtxt"
        hint = f" or classes={shown(present.tolist())}" if len(present) <= 10 else many
        raise UserError(
            f"{place(i)}: class {y[i]}, but no row has class {missing}; number the classes from 0 "
            f"without a gap, or say n_classes{hint}"
        )
    return y


def _warn_of_an_index(table: _Table, x: np.ndarray, column: int) -> None:
    """Warn of a first column that counts the rows: from it a net learns their order."""
    counts = x[:, 0] - x[0, 0] == np.arange(len(x))
    if column != 0 and x.shape[1] > 1 and len(x) >= MANY and x[0, 0] in (0, 1) and counts.all():
        warn(
            f"{table.place(0, 0)}: this column counts the rows; if it is an index, it is no "
            "feature: remove it"
        )


def _warn_of_rare_classes(
    tables: list[_Table], y: np.ndarray, names: Sequence, counted: bool
) -> bool:
    """Warn of classes that have one example each, and return True if there are some.

    Integers of a regression look like these: (nearly) every row is a class of its own.

    Raises:
        UserError: there is a single class.
    """
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) == 1 and (not counted or len(names) == 1):
        raise UserError(
            f"{tables[0].path}: all rows are of class {names[classes[0]]}, needs two classes or "
            "more"
        )
    if counted or counts.min() > 1:
        return False
    first = len(tables[0].rows)
    of_lone = np.flatnonzero(np.isin(y, classes[counts < 2]))  # rows, those of the test file last
    for table, begin, end in ((tables[0], 0, first), (tables[-1], first, len(y))):
        lone = [(names[y[i]], table.rows[i - begin][0]) for i in of_lone if begin <= i < end]
        if lone:
            _warn_of_lone(table.path, sorted(lone), len(classes))
    return True


def _warn_of_lone(path: Path, lone: list[tuple], n_classes: int) -> None:
    """Warn of classes that have one example; `lone` are their labels, with the lines in `path`."""
    some = ", ".join(f"{label} in line {line}" for label, line in lone[:3])
    warn(
        f"{path}: {len(lone)} of {n_classes} classes have a single example "
        f"({some}{', ...' if len(lone) > 3 else ''}): the label is the class, not a number to "
        "predict",
        "n_classes or classes says that this is meant",
    )


def _shown(cells: Sequence[str], most: int = 80) -> str:
    text = ",".join(cells)
    return text if len(text) <= most else text[:most] + "..."
