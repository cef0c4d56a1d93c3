"""What a table is made of: cells, rows, sections."""

from collections.abc import Callable
from typing import NamedTuple


class Cell(NamedTuple):
    """What a library has.

    Args:
        name: where it is in the library, a dotted name.
        make: an expression of `lr` that makes it, for the probe of the library; "" for `name(lr)`.
        vmap: what the library's vmap maps over: "rates" (each member has its own learning rate),
            "params" (all have one rate), "members" (the arguments of `members`), "draws" (the same,
            with one draw for all members) or "" for nothing.
        members: returns f and its arguments, each with a leading axis of three members, for what is
            no optimizer; None where nothing is run.
    """

    name: str
    make: str = ""
    vmap: str = "rates"
    members: Callable[[], tuple] | None = None


class Row(NamedTuple):
    """One line of a table.

    Args:
        what: its first column.
        words: no name of a library without a cell is one of these (without case and "_").
        cells: by library.
    """

    what: str
    words: tuple[str, ...]
    cells: dict[str, Cell]


class Section(NamedTuple):
    """A table.

    Args:
        title: its heading.
        text: what stands above it.
        libraries: its columns, keys of `LIBRARIES`.
        rows: its lines.
    """

    title: str
    text: str
    libraries: tuple[str, ...]
    rows: list[Row]


def row(what: str, words: str, **cells: Cell | str) -> Row:
    """Return a row.

    Args:
        what: its first column.
        words: those of the row, with blanks between them.
        **cells: by library; a cell that is a text is the name of an optimizer or schedule.

    Returns:
        The row.
    """
    named = {key: Cell(cell) if isinstance(cell, str) else cell for key, cell in cells.items()}
    return Row(what, tuple(words.split()), named)


def named(name: str) -> Cell:
    """Return the cell of what is not run under vmap: a class, or a function of a whole module."""
    return Cell(name, vmap="")


def mapped(name: str, members: Callable[[], tuple], vmap: str = "members") -> Cell:
    """Return the cell of a function that is run.

    Args:
        name: where it is in the library.
        members: returns f and its arguments, each with a leading axis of three members.
        vmap: "members"; "draws" where it needs one draw for all; "" where it must fail under vmap.

    Returns:
        The cell.
    """
    return Cell(name, vmap=vmap, members=members)
