"""Updates of large leaves block by block: one pass over memory instead of one an operation.

An update of a leaf that no cache holds passes through memory once for each of its operations. For
an optimizer that treats every element alone, the leaf can be cut into blocks, and all operations
done on a block while it is in cache. What comes out is written into new arrays.
"""

from collections.abc import Callable, Iterator
from math import prod

import numpy as np

from purenets.core.arrays import NUMPY, is_tracing, namespace, real_dtype
from purenets.core.base import Array, Params
from purenets.core.optim.internals.kinds import is_of_leaves, same_entries
from purenets.core.vector_dict import ALL

# Elements: what an update reads and writes of a block fits into the caches of a core, and torch
# shares no operation on so few among threads, which would wait for each other
BLOCK = 1 << 15


class _Leaves(dict):
    """An entry of a state that has an array for each of the params; any other dict has entries."""


def advance_in_blocks(advance: Callable, grads: Params, state: dict, params: Params):
    """Return `advance(grads, state, params) -> (params, state)`, computed block by block, or None
    where it must see the leaves whole.

    Args:
        advance: treats every element alone; of the state it may change scalars too, in the same
            way for each block.
    """
    state = _marked(state, params)
    if not _can_be_cut(params, grads, state):
        return None
    new = {name: _empty_like(p) for name, p in params.items()}
    new_state = _empty_state(state)
    for name, p in params.items():
        size = prod(p.shape)
        for begin in range(0, size, BLOCK):
            at = slice(begin, begin + BLOCK)
            block, others = {ALL: _cut(p, at)}, _block_of_state(state, name, at)
            block, new_others = advance({ALL: _cut(grads[name], at)}, others, block)
            if not same_entries(new_others, others):
                return None  # the state is of another optimizer, which the step tells
            _cut(new[name], at)[...] = block[ALL]
            _write(new_state, new_others, name, at)
    return new, new_state


def _can_be_cut(params: Params, grads: Params, state: dict) -> bool:
    """Return True for dicts of contiguous arrays of the params' names and shapes that nothing
    differentiates, maps or traces."""
    if grads.keys() != params.keys():
        return False
    first = next(iter(params.values()))
    if not isinstance(first, NUMPY) and (type(first).__name__ != "Tensor" or is_tracing()):
        return False
    if any(real_dtype(p) != real_dtype(first) for p in params.values()):
        return False  # the scalars of the state have one dtype
    dicts = [params, grads, *_dicts_of_leaves(state)]
    return all(_is_plain(part[name], p) for part in dicts for name, p in params.items())


def _is_plain(leaf: Array, like: Array) -> bool:
    if type(leaf) is not type(like) or leaf.shape != like.shape:
        return False
    if isinstance(leaf, NUMPY):  # a number that NumPy made of an array without axes has no blocks
        return isinstance(leaf, np.ndarray) and leaf.flags.c_contiguous
    return not leaf.requires_grad and leaf.device == like.device and leaf.is_contiguous()


def _marked(state: dict, params: Params) -> dict:
    """Return a state whose dicts of leaves are told by their type."""
    new = {}
    for name, part in state.items():
        if is_of_leaves(part, params):
            part = _Leaves(part)
        elif isinstance(part, dict):
            part = _marked(part, params)
        new[name] = part
    return new


def _dicts_of_leaves(state: dict) -> Iterator[dict]:
    """Yield the dicts in a nested state that have a leaf for each of the params."""
    for part in state.values():
        if type(part) is _Leaves:
            yield part
        elif isinstance(part, dict):
            yield from _dicts_of_leaves(part)


def _empty_like(leaf: Array) -> Array:
    return namespace(leaf).empty_like(leaf)


def _cut(leaf: Array, at: slice) -> Array:
    return leaf.reshape(-1)[at]


def _empty_state(state: dict) -> dict:
    """Return the state with new arrays for its leaves."""
    new = {}
    for name, part in state.items():
        if type(part) is _Leaves:
            part = {leaf: _empty_like(array) for leaf, array in part.items()}
        elif isinstance(part, dict):
            part = _empty_state(part)
        new[name] = part
    return new


def _block_of_state(state: dict, leaf: str, at: slice) -> dict:
    """Return the state with the block of one leaf, under ALL, for each dict of leaves."""
    new = {}
    for name, part in state.items():
        if type(part) is _Leaves:
            part = {ALL: _cut(part[leaf], at)}
        elif isinstance(part, dict):
            part = _block_of_state(part, leaf, at)
        new[name] = part
    return new


def _write(state: dict, block: dict, leaf: str, at: slice) -> None:
    """Write a block of a new state, and its scalars, into `state`."""
    for name, part in block.items():
        if not isinstance(part, dict):
            state[name] = part
        elif ALL in part:
            _cut(state[name][leaf], at)[...] = part[ALL]
        else:
            _write(state[name], part, leaf, at)
