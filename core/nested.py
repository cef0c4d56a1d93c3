"""Functions over nested dicts, tuples, NamedTuples and lists of arrays: what `scan` carries.

A leaf is whatever is none of these; None holds no leaves. (`purenets.core.tree` knows dicts alone.)
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def parts_of(value: Any) -> list[tuple[Any, Any]] | None:
    """Return (name, part) for each part of a dict, tuple or list, [] for None; None for a leaf."""
    if value is None:
        return []
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    return None


def iter_named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, leaf) for all leaves, such as ("carry/params/fc1.bias", array)."""
    parts = parts_of(value)
    if parts is None:
        yield name, value
    for key, part in parts or ():
        yield from iter_named(part, f"{name}/{key}")


def iter_leaves(value: Any) -> Iterator[Any]:
    """Yield all leaves, in order."""
    return (leaf for _, leaf in iter_named(value, ""))


def iter_leaves_as(value: Any, like: Any) -> Iterator[Any]:
    """Yield all leaves of `value` in the order of `like`, which has the same containers."""
    parts = parts_of(like)
    if parts is None:
        yield value
    elif isinstance(like, dict):
        for key, part in parts:
            yield from iter_leaves_as(value[key], part)
    else:
        for own, (_, part) in zip(value or (), parts, strict=True):
            yield from iter_leaves_as(own, part)


def map_leaves(f: Callable, value: Any) -> Any:
    """Return the same nested containers with `f` of each leaf, called in order."""
    parts = parts_of(value)
    if parts is None:
        return f(value)
    if isinstance(value, dict):
        return {key: map_leaves(f, part) for key, part in parts}
    new = [map_leaves(f, part) for _, part in parts]
    if value is None:
        return None
    return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)


def with_leaves(value: Any, leaves: Iterable[Any]) -> Any:
    """Return the same nested containers with other leaves, in the order of `iter_leaves`."""
    leaves = iter(leaves)
    return map_leaves(lambda _: next(leaves), value)


def kinds(value: Any) -> Any:
    """Return the containers alone, for a comparison; the order of a dict's names does not count."""
    parts = parts_of(value)
    if parts is None:
        return "leaf"
    if isinstance(value, dict):
        return {key: kinds(part) for key, part in parts}
    return type(value), [kinds(part) for _, part in parts]
