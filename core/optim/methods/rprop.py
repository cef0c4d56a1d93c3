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
from purenets.core.optim.internals.hyper import (
    Hyper,
    first_count,
    resolve_hyper,
)
from purenets.core.optim.internals.order import TURNS, with_order
from purenets.core.optim.internals.precision import in_pairs


def rprop(
    lr: Hyper = 1e-2,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50.0),
) -> Optimizer:
    """Return Rprop, which uses only the signs of the gradient and has a step size for each element.

    A step size grows while its gradient keeps its sign; where the sign changes, it shrinks and the
    element waits for one update. For gradients of the whole data set, not of mini-batches.

    Args:
        lr: the first step size; of a schedule only the first value counts, as in torch.
        etas: the factors by which a step size shrinks (between 0 and 1) and grows (above 1).
        step_sizes: the smallest and the largest step size.

    Returns:
        An optimizer; its state has the entries "prev" (the last gradient) and "step_size".

    Raises:
        UserError: lr is negative or not finite, or etas or step_sizes is not a pair as described.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.rprop(lr=0.1), {"w": np.zeros(2)}
        >>> state = optimizer.init(params)
        >>> _, state = optimizer.update({"w": np.array([5.0, 5.0])}, state, params)
        >>> _, state = optimizer.update({"w": np.array([5.0, -5.0])}, state, params)
        >>> state["step_size"]["w"]  # the second gradient has changed its sign
        array([0.12, 0.05])

    Source:
        torch.optim.Rprop; Riedmiller and Braun 1993, "A direct adaptive method for faster
        backpropagation learning: the RPROP algorithm".
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
        first = resolve_hyper(lr, first_count(params, lr=lr), params)
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

    return elementwise(in_pairs(with_order(TURNS, Optimizer(init, update))))


rprop.only_at_init = ("lr",)
