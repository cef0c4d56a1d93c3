"""Tables of texts, for a terminal, Markdown, HTML and PDF."""

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A header and rows of texts."""

    rows: Sequence[Sequence[str]]
    caption: str = ""
    key: str = ""


def text_table(table: Sequence[Sequence[str]]) -> str:
    """The same table for a terminal, in columns; the first is flush left."""
    columns = range(len(table[0]))
    widths = [max(len(row[i]) for row in table) for i in columns]
    lines = [
        "  ".join(row[i].rjust(widths[i]) if i else row[i].ljust(widths[i]) for i in columns) for row in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
