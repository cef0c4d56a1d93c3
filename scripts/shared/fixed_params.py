"""Params whose rate is 0 from some step on, after which no gradient is computed for them.

The training computes the same bits as it does otherwise. If the first layer is fixed, its backward
pass is left out.
"""

from collections.abc import Callable
from typing import NamedTuple

from purenets import Model, Step


class Fixed(NamedTuple):
    """Params that are fixed from some step on.

    Args:
        names: names of the params.
        begin: the first step at which their rate is 0.
    """

    names: tuple[str, ...]
    begin: int


def with_fixed(make: Callable[[Model], Step], model: Model, fixed: Fixed | None) -> Step:
    """Return the step of `model`, in which the fixed params are constants from `fixed.begin` on.

    Args:
        make: returns the step of a model.
        model: the model to train.
        fixed: the params, or None for none.
    """
    first = make(model)
    if fixed is None:
        return first
    later = make(with_constants(model, fixed.names))

    def step(state, batch):
        return (first if int(state.step) < fixed.begin else later)(state, batch)

    return step


def with_constants(model: Model, names: tuple[str, ...]) -> Model:
    """Return the model with some params as constants, whose gradients are zero."""

    def apply(params, buffers, x, *, train=False, key=None):
        constants = {name: params[name].detach() for name in names}
        return model.apply({**params, **constants}, buffers, x, train=train, key=key)

    return model._replace(apply=apply, layers={})
