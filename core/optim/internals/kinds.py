"""States that tell their kind, where two optimizers keep entries of the same names and shapes.

Adam's means and RAdam's have the same names, those of torch.optim. A state of the one would be
taken by the other, and mean something else. So the rarer one adds an empty entry, which holds no
array: it changes no number, and checkpoints from before it was added are restored as they were.
"""

from typing import Any

from purenets.core.base import Optimizer, Params
from purenets.core.optim.internals.order import keep_order


def with_kind(kind: str, optimizer: Optimizer) -> Optimizer:
    """Return a transform whose state has the empty entry `kind`.

    Its update adds the entry to a state without it, by which a step tells that it is of another.
    """

    def init(params):
        return {**optimizer.init(params), kind: {}}

    def update(grads, state, params):
        updates, new = optimizer.update(grads, state, params)
        return updates, {**new, kind: {}}

    keep_order(optimizer.update, update)
    return Optimizer(init, update)


def same_entries(a: dict, b: dict) -> bool:
    """Return True if two states have the same entries, by the names of plain dicts."""
    if a.keys() != b.keys():
        return False
    for name, inner in a.items():  # no generator: this is a part of every step
        if type(inner) is dict:
            other = b[name]
            if not isinstance(other, dict) or not same_entries(inner, other):
                return False
    return True


def is_of_leaves(part: Any, params: Params) -> bool:
    """Return True for an entry of a state that is a dict with an array for each of the params.

    A dict of states may have the same names: those of a chain are "0", "1", ..., as params may be.
    """
    if not isinstance(part, dict) or part.keys() != params.keys():
        return False
    return not any(isinstance(leaf, dict) for leaf in part.values())
