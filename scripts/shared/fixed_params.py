"""Params whose rate is 0 from some step on, for which nothing is computed then.

The params of the training are the same bits as without it; where the first layer stands still, its
backward pass is left out.
"""

from collections.abc import Callable
from typing import NamedTuple

from purenets import Model, Step


class Fixed(NamedTuple):
    """Params that stand still.

    Args:
        names: of the params.
        begin: the first step at which their rate is 0.
    """

    names: tuple[str, ...]
    begin: int


def with_fixed(make: Callable[[Model], Step], model: Model, fixed: Fixed | None) -> Step:
    """Return the step that `make` returns for `model`, and for the same with constant params from
    `fixed.begin` on."""
    first = make(model)
    if fixed is None:
        return first
    later = make(with_constants(model, fixed.names))

    def step(state, batch):
        return (first if int(state.step) < fixed.begin else later)(state, batch)

    return step


def with_constants(model: Model, names: tuple[str, ...]) -> Model:
    """Return the model whose gradient by some params is zero."""

    def apply(params, buffers, x, *, train=False, key=None):
        constants = {name: params[name].detach() for name in names}
        return model.apply({**params, **constants}, buffers, x, train=train, key=key)

    return model._replace(apply=apply, layers={})
