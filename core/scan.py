"""`scan` as in JAX: a loop over the leading axis of arrays, as a function of (carry, x).

    state, metrics = scan(step, state, (xs, ys))      # a training step is such a function

The plain Python loop serves NumPy arrays and torch tensors. Importing `purenets.torch_nets`
registers a loop whose body is compiled once, for use under `jit`.
"""

from collections.abc import Callable
from typing import Any

from purenets.core.arguments import expect_call, expect_flags
from purenets.core.arrays import kind_of, namespace
from purenets.core.base import Array, UserError
from purenets.core.nested import (
    iter_leaves,
    iter_leaves_as,
    iter_named,
    kinds,
    map_leaves,
    with_leaves,
)
from purenets.core.writes import watched


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    *,
    reverse: bool = False,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """Return (carry, ys) of `carry, y = f(carry, x)` for each x along the leading axis of `xs`.

    The result is that of this loop:

        carry, ys = init, []
        for x in xs:
            carry, y = f(carry, x)
            ys.append(y)
        return carry, stack(ys)

    Under `torch_nets.jit` the loop is compiled as a loop, in a time that does not grow with its
    length. It can be differentiated and vmapped; `jit` then writes the plain loop out.

    Args:
        f: a pure function `(carry, x) -> (carry, y)`. The carry keeps its structure, shapes and
            dtypes.
        init: the first carry, an array or nested dicts, tuples and lists of them. A number in it
            may become an array of shape () in the first iteration.
        xs: arrays with a leading axis of `length`, nested in the same way; None if `f` takes no x.
        length: the number of iterations; needed where `xs` has no arrays.
        reverse: go from the last x to the first. `ys` are in the order of `xs` nevertheless.
        unroll: iterations in the body of a compiled loop. The result stays; compiling takes longer.

    Returns:
        The last carry, and the y of each iteration stacked along a new leading axis.

    Raises:
        UserError: the lengths differ or none is given, or `f` returns a carry of another structure,
            shape or dtype, or writes into its arguments (`carry += x` does).

    Example:
        >>> import numpy as np
        >>> from purenets import scan
        >>> def add(total, x):
        ...     return total + x, total + x
        >>> scan(add, np.array(0.0), np.array([1.0, 2.0, 3.0]))
        (np.float64(6.0), array([1., 3., 6.]))

    Source:
        jax.lax.scan, with the same arguments.
    """
    expect_call("scan", ("carry", "x"), f=f)
    expect_flags("scan", reverse=reverse)
    n = scan_length(xs, length)
    if type(unroll) is not int or unroll < 1:
        raise UserError(f"scan: unroll is {unroll}, needs a positive integer")
    if n == 0:
        return init, _empty_ys(f, init, xs)
    compiled = _compiled_loops[-1](f, init, xs, n, reverse, unroll)
    return plain_loop(f, init, xs, n, reverse) if compiled is None else compiled


def register_loop(loop: Callable) -> None:
    """Let `scan` try `loop(f, init, xs, n, reverse, unroll)` first, which returns None where it
    does not apply.

    Called where `purenets.torch_nets` is imported.
    """
    _compiled_loops[:] = [loop]


_compiled_loops: list[Callable] = [lambda *arguments: None]


def plain_loop(f: Callable, init: Any, xs: Any, n: int, reverse: bool = False) -> tuple[Any, Any]:
    """Return `scan` as a Python loop of `n` iterations, at least one."""
    f = watched("scan: f", f, ("carry", "x"))
    columns = [unstack(leaf) for leaf in iter_leaves(xs)]
    carry, rows = init, []
    for i in reversed(range(n)) if reverse else range(n):
        new, y = result_pair(f(carry, with_leaves(xs, [column[i] for column in columns])))
        if not rows:
            check_carry(new, carry)
            first, containers, like = y, kinds(y), _shapes_of(new)
        elif _shapes_of(new) != like:
            check_carry(new, carry)
        elif kinds(y) != containers:
            raise UserError("scan: f returned a y of another structure than at first")
        carry = new
        rows.append(list(iter_leaves_as(y, first)))
    rows = rows[::-1] if reverse else rows
    beside = carry, xs
    return carry, with_leaves(first, [stack(column, beside) for column in zip(*rows, strict=True)])


def _shapes_of(carry: Any) -> list:
    """Return what must stay the same in all iterations, for a fast comparison."""
    return [(getattr(x, "shape", ()), getattr(x, "dtype", None)) for x in iter_leaves(carry)]


def stack(arrays: tuple[Array, ...], beside: Any = None) -> Array:
    """Return arrays, or numbers, along a new leading axis.

    Numbers become arrays of the library of the others; where there are only numbers, of the first
    array in `beside`.
    """
    among = [x for x in arrays if not is_number(x)]
    dtype = among[0].dtype if among and hasattr(among[0], "dtype") else None
    first = next((x for x in (*among, *iter_leaves(beside)) if not is_number(x)), arrays[0])
    try:
        return namespace(first).stack([_as_array(x, first, dtype) for x in arrays])
    except TypeError as error:
        kinds = ", ".join(dict.fromkeys(type(array).__name__ for array in arrays))
        raise UserError(f"scan: f returned a y of {kinds}, needs arrays of one library") from error
    except (ValueError, RuntimeError) as error:
        shapes = {tuple(getattr(x, "shape", ())) for x in arrays}
        if len(shapes) < 2:
            raise
        found = " and ".join(map(str, sorted(shapes)[:2]))
        raise UserError(f"scan: f returned a y of the shapes {found}, needs one shape") from error


def is_number(x: Any) -> bool:
    """Return True for a number of Python, which belongs to no library."""
    return isinstance(x, int | float)


def _as_array(x: Array | float, first: Array, dtype: Any) -> Array:
    """Return a number as an array of the library of `first`, of the dtype if that can hold it."""
    if not is_number(x) or not hasattr(first, "device"):
        return x
    kind = "" if dtype is None else kind_of(namespace(first).empty((), dtype=dtype))
    holds = kind in ("f", "c") or (kind == "i" and type(x) is int)
    return namespace(first).asarray(x, dtype=dtype if holds else None, device=first.device)


def unstack(x: Array):
    """Return what has the i-th slice along the leading axis at [i].

    Indexing a tensor once for each step would make the backward pass quadratic in the number of
    steps.
    """
    return x.unbind(0) if hasattr(x, "unbind") else x


# --- what the arguments and results must be like --------------------------------------------------


def scan_length(xs: Any, length: int | None) -> int:
    """Return the number of iterations; a UserError names the leaf that has another length."""
    if length is not None and (type(length) is not int or length < 0):
        raise UserError(f"scan: length is {length!r}, needs an integer, 0 or larger")
    first = None if length is None else ("length", length)
    for name, leaf in iter_named(xs, "xs"):
        if not getattr(leaf, "shape", ()):
            raise UserError(f"scan: {name} has no leading axis to go along")
        here = (name, leaf.shape[0])
        first = first or here
        if here[1] != first[1]:
            raise UserError(f"scan: {name} has {here[1]} slices, but {first[0]} is {first[1]}")
    if first is None:
        raise UserError("scan: xs has no arrays, so it needs a length")
    return int(first[1])


def result_pair(result: Any) -> tuple[Any, Any]:
    """Return what `f` returned; a UserError if that is no pair."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise UserError(f"scan: f returned a {type(result).__name__}, needs (carry, y)")
    return result


def check_carry(new: Any, old: Any) -> None:
    """Raise a UserError that names the structure, shape or dtype that differs."""
    before, after = dict(iter_named(old, "carry")), dict(iter_named(new, "carry"))
    if kinds(new) != kinds(old):
        lacks = ", ".join(sorted({*before} ^ {*after})) or "a container"
        raise UserError(
            f"scan: f returned a carry of another structure than it was given: {lacks} differs"
        )
    for name, leaf in before.items():
        for what in ("shape", "dtype"):
            was, now = getattr(leaf, what, None), getattr(after[name], what, None)
            was = () if what == "shape" and is_number(leaf) else was
            if was is not None and now is not None and was != now:
                raise UserError(
                    f"scan: {name}: f returned the {what} {_text(now)}, was given {_text(was)}"
                )


def _text(shape_or_dtype) -> str:
    return str(tuple(shape_or_dtype) if isinstance(shape_or_dtype, tuple) else shape_or_dtype)


def _empty_ys(f: Callable, init: Any, xs: Any) -> Any:
    """Return the ys of no iterations; what they are like shows a call of `f` with zeros."""
    _, y = result_pair(f(init, map_leaves(_zeros_of_a_slice, xs)))
    return map_leaves(lambda leaf: stack((leaf,))[:0], y)


def _zeros_of_a_slice(x: Array) -> Array:
    return namespace(x).zeros(tuple(x.shape[1:]), dtype=x.dtype, device=x.device)
