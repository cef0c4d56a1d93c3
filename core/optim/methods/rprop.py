"""Resilient backpropagation (Riedmiller and Braun 1993), as in torch.optim.Rprop."""

from math import inf

from purenets.core import tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    OPEN_FRACTION,
    POSITIVE,
    Range,
    expect_hypers,
    expect_numbers,
    expect_several,
)
from purenets.core.arrays import namespace
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import sign
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import Hyper, resolve_hyper, zero_count
from purenets.core.optim.internals.precision import in_pairs


def rprop(
    lr: Hyper = 1e-2,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50.0),
) -> Optimizer:
    """Return Rprop: steps along the signs of the gradient, each element with a size of its own.

    A step grows while the gradient keeps its sign and shrinks where that changes. For gradients of
    the whole data set, not of mini-batches.

    Args:
        lr: the first step size; of a schedule only the first value counts, as in torch.
        etas: the factors by which a step shrinks and grows.
        step_sizes: the smallest and the largest step.
    """
    expect_hypers("rprop", NOT_NEGATIVE, lr=lr)
    expect_several("rprop", ("a pair", (0.5, 1.2)), etas=etas)
    expect_several("rprop", ("a pair", (1e-6, 50.0)), step_sizes=step_sizes)
    (shrink, grow), (least, most) = etas, step_sizes
    expect_numbers("rprop", OPEN_FRACTION, etas=shrink)
    expect_numbers("rprop", Range("a finite number above 1", lambda v: 1 < v < inf), etas=grow)
    expect_numbers("rprop", NOT_NEGATIVE, step_sizes=least)
    above = Range(f"a number from {least} on", lambda v: v >= least)
    expect_numbers("rprop", above if isinstance(least, int | float) else POSITIVE, step_sizes=most)

    def init(params):
        first = resolve_hyper(lr, {"count": zero_count(params)}, params)
        sizes = tree.map(lambda p: namespace(p).zeros_like(p) + first, params)
        return {"prev": tree.zeros_like(params), "step_size": sizes}

    def update(grads, state, params):
        def leaf(g, before, size):
            xp, agreement = namespace(g), g * before
            one = xp.ones_like(g)
            grown = xp.where(agreement > 0, grow * one, one)
            factor = xp.where(agreement < 0, shrink * one, grown)
            size = xp.clip(size * factor, least, most)
            g = xp.where(agreement < 0, namespace(g).zeros_like(g), g)
            return -sign(g) * size, g, size

        parts = tree.map_to_several(leaf, 3, grads, state["prev"], state["step_size"])
        return parts[0], {"prev": parts[1], "step_size": parts[2]}

    return elementwise(in_pairs(Optimizer(init, update)))
