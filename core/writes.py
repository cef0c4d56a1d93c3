"""Notice a function of the user's that writes into its arguments.

`x += 1` makes a new array in JAX, and changes the old one in NumPy and torch: the data set, the
first carry of a loop, the state before a step. No error follows by itself, but wrong numbers.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from purenets.core.base import Array, UserError
from purenets.core.nested import iter_leaves
from purenets.core.serial import is_own

_marks: dict[type, Callable[[Array], Any]] = {np.ndarray: np.ndarray.tobytes}
_is_compiling: list[Callable[[], bool]] = [lambda: False]


def register_mark(kind: type, mark: Callable, is_compiling: Callable[[], bool]) -> None:
    """Let `watch` notice writes into arrays of a library.

    Args:
        kind: the type of its arrays.
        mark: returns what a write into an array changes.
        is_compiling: returns True where a compiler reads the code, which is not watched.
    """
    _marks[kind] = mark
    _is_compiling[:] = [is_compiling]


def watch(**given: Any) -> Callable[[], str | None]:
    """Return a function that returns the name of an argument that was written into meanwhile.

    Args:
        given: the arguments by name: arrays, or nested dicts, tuples and lists of them.
    """
    if _is_compiling[-1]():
        return lambda: None
    before = {name: _marked(part) for name, part in given.items()}

    def written() -> str | None:
        return next((name for name, leaves in before.items() if _differ(leaves, given[name])), None)

    return written


def _marked(part: Any) -> list[tuple[Any, list]]:
    """Return each leaf with what a write into it changes."""
    return [
        (x, [mark(x) for kind, mark in _marks.items() if isinstance(x, kind)])
        for x in iter_leaves(part)
    ]


def _differ(before: list[tuple[Any, list]], part: Any) -> bool:
    """Return True if a leaf was written into, replaced, added or left out."""
    now = _marked(part)
    if len(now) != len(before):
        return True
    return any(
        x is not y or mark != other for (x, mark), (y, other) in zip(before, now, strict=True)
    )


def watched(name: str, f: Callable, arguments: tuple[str, ...]) -> Callable:
    """Return `f`, a function of the user's, with its first call watched.

    Args:
        name: how the message begins.
        f: the function; one of the package is returned as it is.
        arguments: what the message calls its arguments.

    Returns:
        A function whose first call raises a UserError if it has written into an argument.
    """
    if not is_own(f):
        return f
    calls = []

    @functools.wraps(f)
    def first_watched(*given):
        if _is_compiling[-1]() or calls:  # in this order: nothing of a compiler's guards changes
            return f(*given)
        written = watch(**dict(zip(arguments, given, strict=False)))
        found = f(*given)
        if what := written():
            raise UserError(
                f"{name}: changes its {what} in place; return new arrays, as x + 1 in place of "
                "x += 1 or x.add_(1)"
            )
        calls.append(True)
        return found

    return first_watched
