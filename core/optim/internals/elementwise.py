"""Optimizers that treat every element alone: their arithmetic once on the vector of all leaves.

`elementwise(optimizer)` declares that an update reads of the leaves their elements only, whichever
leaf they are in, and of the state arrays shaped as the params, and scalars. What is not declared,
an optimizer that looks at a leaf's norm or shape, gets plain leaves. So the declaration decides
about time alone: where params have no vector (`core.vector_dict`), or something traces, declared
updates take the leaves too.
"""

from collections.abc import Callable

from purenets.core import tree
from purenets.core.arguments import expect_dicts
from purenets.core.arrays import kind_of, namespace
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.blocks import advance_in_blocks
from purenets.core.optim.internals.extra_args import MISSING, expect_given
from purenets.core.optim.internals.kernels import advance_by_kernel, rule_of
from purenets.core.optim.internals.kinds import is_of_leaves
from purenets.core.optim.internals.order import keep_order
from purenets.core.optim.internals.precision import (
    ERRORS,
    any_dtype,
    expect_entries_kept,
    expect_like,
    expect_update_of,
    for_full,
)
from purenets.core.vector_dict import (
    ALL,
    VectorDict,
    are_large,
    from_vector,
    packed,
    vector_of,
)


class _NoVectorError(Exception):
    """A part of the state that should be one vector cannot be."""


def elementwise(optimizer: Optimizer) -> Optimizer:
    """Return the same optimizer, declared to treat every element alone, so that it runs faster.

    `optim.elementwise` (`internals.declared`) is this with a trial of the declaration.
    """
    optimizer = any_dtype(optimizer)
    plain, full = optimizer.update, for_full(optimizer.update)

    def update(grads, state, params=MISSING):
        expect_given(params)
        try:
            result = on_vectors(plain, grads, state, params)
        except ERRORS:
            expect_update_of(optimizer.init, grads, state, params)
            raise
        expect_entries_kept(optimizer.init, result, grads, state, params)
        return result

    update.on_leaves = plain
    update.full = lambda grads, state, params: on_vectors(full, grads, state, params)
    keep_order(plain, update)
    return Optimizer(optimizer.init, update)


def elementwise_as(inner: Optimizer, optimizer: Optimizer) -> Optimizer:
    """Return `optimizer`, declared elementwise if `inner`, which it wraps, is."""
    return elementwise(optimizer) if is_elementwise(inner) else any_dtype(optimizer)


def is_elementwise(optimizer: Optimizer) -> bool:
    """Return True if `optimizer` was declared by `elementwise`."""
    return hasattr(optimizer.update, "on_leaves")


def on_leaves(optimizer: Optimizer) -> Callable:
    """Return the update that takes the dicts as they are."""
    return getattr(optimizer.update, "on_leaves", optimizer.update)


def on_vectors(f: Callable, grads: Params, state: dict, params: Params) -> tuple[Params, dict]:
    """Return `f(grads, state, params) -> (params, state)` of vectors, where all dicts of leaves
    have one.

    f: treats every element alone.
    """
    vector = vector_of(params)
    if vector is None:
        return f(grads, state, params)
    layout = params.layout
    grad = packed(layout, grads)
    try:
        vectors = _packed_state(layout, state)
    except _NoVectorError:
        grad = None
    if grad is None:
        return f(grads, state, params)
    new, state = f({ALL: grad}, vectors, {ALL: vector})
    return from_vector(layout, new[ALL]), _unpacked_state(layout, state)


def _packed_state(layout, state: dict) -> dict:
    """Return a state with the vector of each dict of leaves, under ALL, in its place."""
    new = {}
    for name, part in state.items():
        if type(part) is VectorDict or is_of_leaves(part, layout.keys):
            vector = packed(layout, part)
            if vector is None:
                raise _NoVectorError
            part = {ALL: vector}
        elif isinstance(part, dict):
            part = _packed_state(layout, part)
        new[name] = part
    return new


def _unpacked_state(layout, state: dict) -> dict:
    """Return the inverse of `_packed_state`."""
    new = {}
    for name, part in state.items():
        if isinstance(part, dict):
            part = from_vector(layout, part[ALL]) if ALL in part else _unpacked_state(layout, part)
        new[name] = part
    return new


def apply_updates(params: Params, updates: Params) -> Params:
    """Return params + updates, each leaf in its own dtype.

    The sign is already in the updates. Half-precision leaves are added in float32 and rounded once.

    Args:
        params: a dict of arrays.
        updates: a dict of arrays of the same names and shapes, as `Optimizer.update` returns it.

    Returns:
        A new dict of the params' names, shapes and dtypes.

    Raises:
        UserError: params or updates is not a dict, or names, shapes or libraries do not match, or
            an update is complex and its param real, or of floating point and its param integer.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> params, updates = {"w": np.ones(2, np.float32)}, {"w": np.array([0.5, -0.5])}
        >>> optim.apply_updates(params, updates)["w"]
        array([1.5, 0.5], dtype=float32)

    Source:
        optax.apply_updates.
    """
    expect_dicts("apply_updates", params=params, updates=updates)
    return on_vectors(_added, updates, {}, params)[0]


def _added(updates: Params, state: dict, params: Params) -> tuple[Params, dict]:
    return added(params, updates), state


def added(params: Params, updates: Params) -> Params:
    """Return `params + updates` leaf by leaf."""
    try:
        return tree.map(_sum, params, updates)
    except ERRORS:  # costs nothing where there is none
        expect_like("updates", updates, params)
        raise


def _sum(param: Array, update: Array) -> Array:
    if update.shape != param.shape:
        raise ValueError("one of them would be repeated")
    new = param + update
    if new.dtype == param.dtype:
        return new
    if kind_of(new) != kind_of(param):
        raise ValueError("the imaginary part, or the fraction, would be dropped")
    return namespace(param).astype(new, param.dtype)


def advance_fn(optimizer: Optimizer) -> Callable:
    """Return `advance(grads, opt_state, params, **extra) -> (params, opt_state)`: an update,
    applied.
    """
    if hasattr(optimizer.update, "advance"):
        return optimizer.update.advance
    if not is_elementwise(optimizer):

        def advance(grads, state, params, **extra):
            updates, state = optimizer.update(grads, state, params, **extra)
            return apply_updates(params, updates), state

        return advance
    update, rule = on_leaves(optimizer), rule_of(optimizer)

    def advance_leaves(grads, state, params):
        updates, state = update(grads, state, params)
        return added(params, updates), state

    def advance_elementwise(grads, state, params):
        done = rule and advance_by_kernel(rule, grads, state, params)
        if not done and type(params) is dict and are_large(params):
            done = advance_in_blocks(advance_leaves, grads, state, params)
        return done or on_vectors(advance_leaves, grads, state, params)

    return advance_elementwise
