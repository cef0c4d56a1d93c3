"""Patterns of names (`named`, `not_named`) beside the names of the leaves that there are.

A pattern that fits no leaf is most often a name without its layer: "bias" for "*.bias". Nothing
would be masked, in silence, so `init` refuses it. A recipe for many nets may name what only some of
them have: a pattern with a wildcard may fit nothing, if another one of the same mask fits a leaf.
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase

from purenets.core.arrays import kind_of
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals.hyper import first_leaf, is_concrete

# Of all params, while an optimizer of a part of them makes its state
_ALL_NAMES: ContextVar[tuple[str, ...] | None] = ContextVar("all_names", default=None)
MAX_SHOWN = 6  # names in a message


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return True for a name that one of the patterns matches as a whole."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def picks(function: str, where: Callable, name: str, leaf: Array, argument: str = "where") -> bool:
    """Return `where(name, leaf)`; a UserError, which begins with `function`, for no truth value.

    A text or a number would count as True, and None, of a function without `return`, as False.
    """
    found = where(name, leaf)
    if found is True or found is False:
        return found
    is_one = getattr(found, "shape", None) == () and kind_of(found) == "b"
    if not is_one:
        kind = type(found).__name__
        what = "None" if found is None else f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
        raise UserError(
            f"{function}: {argument} returned {what}, needs a bool (of the leaf {name})"
        )
    return bool(found)


def with_patterns(patterns: tuple[str, ...], where: Callable) -> Callable:
    """Return the predicate `where(name, leaf)`, with the patterns that it looks for."""
    where.patterns = patterns
    return where


def checking_patterns(function: str, where: Callable, optimizer: Optimizer) -> Optimizer:
    """Return `optimizer`, whose `init` raises a UserError for patterns of `where` that fit no leaf.

    `function` begins the message.
    """
    patterns = getattr(where, "patterns", ())
    if not patterns:
        return optimizer

    def init(params):
        if is_concrete(first_leaf(params)):
            expect_matches(function, patterns, _ALL_NAMES.get() or tuple(params))
        return optimizer.init(params)

    return optimizer._replace(init=init)


@contextmanager
def names_of(params: Params):
    """Let optimizers of a part of the params, in this context, know the names of all of them."""
    token = _ALL_NAMES.set(_ALL_NAMES.get() or tuple(params))
    try:
        yield
    finally:
        _ALL_NAMES.reset(token)


def expect_matches(function: str, patterns: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Raise a UserError for a pattern that matches no name, unless that may be meant."""
    unused = [pattern for pattern in patterns if not _is_used(pattern, names)]
    for pattern in unused:
        wider = (f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")
        near = [other for other in wider if _is_used(other, names)]
        is_name = not set(pattern) & set("*?[")
        if near or is_name or len(unused) == len(patterns):
            hint = f" as a whole, {near[0]!r} does" if near else ""
            shown = ", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "")
            raise UserError(
                f"{function}: pattern {pattern!r} matches no leaf{hint}; the names are {shown}"
            )


def _is_used(pattern: str, names: tuple[str, ...]) -> bool:
    return any(matches(name, (pattern,)) for name in names)
