"""Tables of texts, printed for a terminal and as Markdown; `html` and `typst` show them, too.

A function returns its results as a `Table`; one function for each format prints it:

>>> table = table_of(["set", "n"], [["moons", 5], ["digits", 10]])
>>> print(to_text(table))
set      n
----------
moons    5
digits  10
>>> print(to_markdown(table), end="")
| set | n |
|---|---:|
| moons | 5 |
| digits | 10 |
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

COMMIT = r"(?=\d*[a-f])[0-9a-f]{10}\b"  # ten digits of a commit are no number
NUMBER = re.compile(rf"(?!{COMMIT})[-+<]?(\.?\d|nan\b|inf\b)")  # how a cell with a number begins

SHAPE = re.compile(
    r"\d [x\u00d7] \d+(?!.*[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b])"
)  # no power
WHOLE = re.compile(r"^[-+<]?[\d,]*")  # of a number: its sign and its whole digits


class Table(NamedTuple):
    """A header and rows of texts, all of the same length.

    caption: the text above it. key: the name by which a document's text refers to it, as in @key.
    """

    rows: Sequence[Sequence[str]]
    caption: str = ""
    key: str = ""


def table_of(header: Iterable, rows: Iterable[Iterable], caption: str = "", key: str = "") -> Table:
    """Return a Table of any values, each converted by `str`.

    Raises:
        ValueError: If a row is longer or shorter than the header.
    """
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    for row in texts:
        if len(row) != len(texts[0]):
            raise ValueError(f"a row of {len(row)} cells below a header of {len(texts[0])}: {row}")
    return Table(texts, caption, key)


def shortened(table: Table, first: int, last: int) -> Table:
    """Return the table with its first and last rows only, and dots between them.

    >>> table = table_of(["layer", "n"], [[name, 1] for name in "abcde"])
    >>> print(to_text(shortened(table, 1, 2)))
    layer  n
    --------
    a      1
    ...
    d      1
    e      1
    """
    head, *body = table.rows
    if first + last >= len(body):
        return table
    dots = ["...", *[""] * (len(head) - 1)]
    return table._replace(rows=[head, *body[:first], dots, *body[len(body) - last :]])


def numeric_columns(table: Table) -> list[bool]:
    """Return for each column whether it holds numbers and is therefore aligned to the right.

    A column holds numbers if all its cells below the header begin with one, apart from empty cells.
    The first column names the rows and is always aligned to the left.
    """
    _, *body = table.rows
    filled = [[cell for cell in column if cell] for column in zip(*body, strict=True)]
    numeric = [bool(cells) and all(map(NUMBER.match, cells)) for cells in filled]
    return [False, *numeric[1:]] if body else [False] * len(table.rows[0])


def to_text(table: Table) -> str:
    """Return the table in columns for a terminal, below its caption if it has one."""
    widths = [max(map(len, column)) for column in zip(*table.rows, strict=True)]
    justify = [str.rjust if right else str.ljust for right in numeric_columns(table)]

    def line(row: Sequence[str]) -> str:
        return "  ".join(f(c, n) for f, c, n in zip(justify, row, widths, strict=True)).rstrip()

    head, *body = map(line, table.rows)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([*_caption_lines(table), head, rule, *body])


def to_markdown(table: Table) -> str:
    """Return the table as GitHub's Markdown, below its caption if it has one.

    The text ends with a newline. In cells, `|` is escaped and a line break becomes a space.
    """
    head, *body = ["| " + " | ".join(map(_escaped, row)) + " |" for row in table.rows]
    rule = "|" + "".join("---:|" if right else "---|" for right in numeric_columns(table))
    return "\n".join([*_caption_lines(table), head, rule, *body]) + "\n"


def _caption_lines(table: Table) -> list[str]:
    return [table.caption, ""] if table.caption else []


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").splitlines())


def decimal_tails(table: Table) -> list[list[str]]:
    """Return for each cell below the header what is missing behind its number's last whole digit.

    With these texts behind them, unseen, the numbers of a column have their decimal points below
    each other. They are empty in columns without numbers, whose text begins at the left.

    >>> decimal_tails(table_of(["n", "accuracy"], [["a", "9.25 ± 0.10"], ["b", "88.1"]]))
    [['', ''], ['', '5 ± 0.10']]
    """
    _, *body = table.rows
    if not body:
        return []
    columns = zip(zip(*body, strict=True), numeric_columns(table), strict=True)
    missing = [_missing(column) if numeric else [""] * len(body) for column, numeric in columns]
    return [list(row) for row in zip(*missing, strict=True)]


def _missing(column: Sequence[str]) -> list[str]:
    """Return for each cell of a column the end of the longest tail, which its own tail has not."""
    if any(map(SHAPE.search, column)):  # of several numbers, none of which is the first
        return [""] * len(column)
    tails = [WHOLE.sub("", cell) for cell in column]
    longest = max(tails, key=len)
    filled = zip(column, tails, strict=True)
    return [longest[len(tail) :] if cell else "" for cell, tail in filled]
