"""Nested arguments and their tensors: descriptions, signatures and generated code.

A walk over a training state takes longer than many a compiled step. For a structure that is known,
one generated function reads all tensors and compares everything else in a single comparison.
"""

import functools
import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from enum import Enum
from math import isnan
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from purenets.core import tree
from purenets.core.base import UserError


class TensorSpec(NamedTuple):
    """Describe a tensor: what compiled code relies on."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Returned(NamedTuple):
    """Stand for the tensor at `index` among those that a compiled function returns."""

    index: int


class Unsupported(Exception):
    """A function or its arguments cannot be compiled; the message says why, in one line."""


PLAIN = (int, bool, str, type(None))
FIXED = (type, types.FunctionType, types.ModuleType, Enum, Tensor, torch.Generator)


def like(value: Any) -> Any:
    """Return the same dicts, tuples and lists with a `TensorSpec` for each tensor."""
    if isinstance(value, Tensor):
        return TensorSpec(tuple(value.shape), value.stride(), value.dtype, value.device)
    return map_parts(like, value)


def map_parts(f: Callable, value: Any) -> Any:
    """Return a container of the same kind with `f` of each part; anything else as it is."""
    if isinstance(value, dict):
        return {name: f(part) for name, part in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*map(f, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(f, value))
    return value


def is_container(part: Any) -> bool:
    """Return True for a dict, list or tuple, but not for the description of a tensor."""
    return isinstance(part, (dict, list, tuple)) and type(part) not in (TensorSpec, Returned)


def iter_nodes(expected: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield (path, part) for each part, a container before what is in it.

    A path is a tuple of (key, name): what to index by, and what to call it in a message.
    """
    yield path, expected
    if isinstance(expected, dict):
        keys = zip(expected, expected, expected.values(), strict=True)
    elif is_container(expected):
        names = getattr(expected, "_fields", range(len(expected)))
        keys = zip(itertools.count(), names, expected, strict=False)
    else:
        return
    for key, name, part in keys:
        yield from iter_nodes(part, (*path, (key, name)))


def argument_name(path: tuple) -> str:
    """Return the name of a part of (args, kwargs), such as "argument/0/params/fc1.bias"."""
    return "/".join(["argument", *(str(name) for _, name in path[1:])])


# --- signatures: what one compilation is valid for ------------------------------------------------


def signature(value: Any) -> tuple[Any, tuple]:
    """Return a hashable description: the structure with its tensors, and the values of all else.

    Raises:
        Unsupported: an array of NumPy, a tensor that is not strided, a value that cannot be
            hashed, or an object whose attributes may change without a change of its hash.
    """
    values: list = []
    return _structure(value, values), tuple(values)


def _structure(value: Any, values: list) -> Any:
    """Return the kinds and names of containers, and tensors without strides; append the values."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            kind = str(value.layout).removeprefix("torch.")
            raise Unsupported(f"a {kind} tensor is among the arguments")
        return tuple(value.shape), value.dtype, value.device
    if isinstance(value, dict):
        return dict, exact(tuple(value)), tuple(_structure(part, values) for part in value.values())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_structure(part, values) for part in value)
    if isinstance(value, (np.ndarray, np.generic)):
        raise Unsupported("an array of NumPy is among the arguments, needs tensors")
    try:
        hash(value)
    except TypeError:
        raise Unsupported(f"an argument of type {type(value).__name__} cannot be hashed") from None
    if may_change(value):
        kind = type(value).__name__
        raise Unsupported(
            f"an argument of type {kind} has attributes, which may change; pass them in a dict "
            "or a frozen dataclass"
        )
    found = exact(value)
    try:
        hash(found)
    except TypeError:
        found = value  # a dataclass with a hash of its own
    values.append(found)
    return type(value)


def exact(value: Any) -> Any:
    """Return what is equal for values that are the same only: 1, 1.0 and True are not.

    Nor are 0.0 and -0.0; NaN, which is not even equal to itself, is the same as NaN.

    >>> exact((1, 0.0)) == exact((1, 0.0)), exact((1, 0.0)) == exact((True, -0.0))
    (True, False)
    """
    kind = type(value)
    if kind in (float, complex, range, Decimal):
        return kind, repr(value)
    if isinstance(value, tuple):
        return kind, tuple(map(exact, value))
    if isinstance(value, frozenset):
        return kind, frozenset(map(exact, value))
    if isinstance(value, functools.partial):
        return kind, exact((value.func, *value.args, *value.keywords.items()))
    if getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
        return kind, tuple(exact(getattr(value, name)) for name in kind.__dataclass_fields__)
    return kind, value


def may_change(value: Any) -> bool:
    """Return True for an object whose attributes can be set while it stays equal to itself.

    Python compares such an object by its identity, so nothing tells what it was compiled for.
    """
    if isinstance(value, FIXED):
        return False
    if isinstance(value, types.MethodType):
        return may_change(value.__self__)
    if isinstance(value, functools.partial):
        return any(map(may_change, (value.func, *value.args, *value.keywords.values())))
    if isinstance(value, tuple | frozenset):
        return any(map(may_change, value))
    kind = type(value)
    if getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
        return any(may_change(getattr(value, name)) for name in kind.__dataclass_fields__)
    has_slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    return kind.__hash__ is object.__hash__ and (has_slots or hasattr(value, "__dict__"))


def tensors(value: Any) -> list[Tensor]:
    """Return all tensors of `value`, in order."""
    if isinstance(value, Tensor):
        return [value]
    if not is_container(value):
        return []
    parts = value.values() if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in tensors(part)]


# --- generated code -------------------------------------------------------------------------------


class _Source:
    """Collect the lines of a generated function and the values that it refers to."""

    def __init__(self):
        self.names: dict[str, Any] = {"exact": exact}
        self.lines: list[str] = []

    def name(self, value: Any) -> str:
        """Return an expression for a value: a literal, or a name that is bound to it."""
        if type(value) in (int, str):
            return repr(value)
        self.names[f"value{len(self.names)}"] = value
        return f"value{len(self.names) - 1}"


def _function_of(source: _Source) -> Callable:
    """Return the function `read(given)` of which `source` has the lines."""
    exec("def read(given):\n" + "\n".join(f"    {line}" for line in source.lines), source.names)
    return source.names["read"]


def flatten_fn(expected: tuple) -> Callable[[tuple], list[Tensor] | None]:
    """Return the function that reads the tensors of arguments like `expected`, None of others."""
    source, leaves, found, known = _Source(), [], [], []

    def compare(expression: str, value: Any) -> None:
        found.append(expression)
        known.append(value)

    def visit(part: Any, at: str) -> None:
        if type(part) is TensorSpec:
            leaves.append(at)
            return
        if not is_container(part):
            compare(f"type({at})", type(part))
            by_value = type(part) in PLAIN or (type(part) is float and part and not isnan(part))
            compare(*((at, part) if by_value else (f"exact({at})", exact(part))))
            if hasattr(part, "__dict__") and not isinstance(part, FIXED):
                compare(f"hash({at})", hash(part))  # it may have changed since
            return
        here = f"part{len(source.lines)}"
        source.lines.append(f"{here} = {at}")
        if isinstance(part, dict):  # the order of names too: what f does may depend on it
            names, read = tuple(part), f"tuple({here})"
            if not all(type(name) is str for name in names):
                names, read = exact(names), f"exact({read})"
            compare(f"isinstance({here}, dict) and {read}", names)
        else:
            compare(f"(type({here}), len({here}))", (type(part), len(part)))
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
            visit(inner, f"{here}[{source.name(key)}]")

    visit(expected, "given")
    source.lines.append(f"return [{', '.join(leaves)}], ({', '.join(found)},)")
    read, wanted = _function_of(source), tuple(known)

    def take(given: tuple) -> list[Tensor] | None:
        try:
            tensors, values = read(given)
            return tensors if values == wanted else None
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return None

    return take


def unflatten_fn(expected: Any) -> Callable[[Sequence], Any]:
    """Return the function that puts a sequence of tensors where `expected` has descriptions.

    Args:
        expected: nested dicts, tuples and lists. Each `TensorSpec` takes the next tensor, each
            `Returned` the one of its index; anything else is returned as it is.
    """
    source, leaves = _Source(), itertools.count()

    def written(part: Any) -> str:
        if type(part) in (TensorSpec, Returned):
            return f"given[{next(leaves) if type(part) is TensorSpec else part.index}]"
        if isinstance(part, dict):
            items = (f"{source.name(key)}: {written(inner)}" for key, inner in part.items())
            return f"{{{', '.join(items)}}}"
        if not is_container(part):
            return source.name(part)
        inner = "".join(f"{written(inner)}, " for inner in part)
        if type(part) is tuple:
            return f"({inner})"
        return f"{source.name(type(part))}({inner if hasattr(part, '_fields') else f'[{inner}]'})"

    return eval(f"lambda given: {written(expected)}", source.names)


# --- checks that name what differs ----------------------------------------------------------------


def check_arguments(expected: tuple, given: tuple) -> None:
    """Raise a UserError that names the first part of the arguments that differs from `expected`.

    Args:
        expected: what `like((args, kwargs))` returned.
        given: (args, kwargs).
    """
    for path, part in iter_nodes(expected):
        value = functools.reduce(lambda inner, step: inner[step[0]], path, given)
        different = difference(part, value)
        if different:
            raise UserError(f"{argument_name(path)}: {different}")


def difference(expected: Any, value: Any) -> str | None:
    """Return what differs from one part of what `like` made; strides may."""
    if type(expected) is TensorSpec:
        if not isinstance(value, Tensor):
            return f"is {value!r:.40}, expected a tensor"
        pairs = zip(TensorSpec._fields, like(value), expected, strict=True)
        different = [
            f"{what} is {a}, compiled for {b}"
            for what, a, b in pairs
            if a != b and what != "strides"
        ]
        return different[0] if different else None
    if isinstance(expected, dict):
        try:
            tree.check_names(value, expected)
        except UserError as error:
            return str(error)
        in_order = list(value) == list(expected)
        return (
            None
            if in_order
            else f"has the names {list(value)}, compiled for the order {list(expected)}"
        )
    if is_container(expected):
        same = type(value) is type(expected) and len(value) == len(expected)
        kind = type(expected).__name__
        return None if same else f"is {value!r:.40}, compiled for a {kind} of {len(expected)} parts"
    equal = value == expected or (value != value and expected != expected)  # NaN is not to itself
    same = value is expected or (type(value) is type(expected) and equal)
    return None if same else f"is {value!r:.40}, compiled for {expected!r:.40}"
