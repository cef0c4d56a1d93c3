"""A smaller rate where the loss no longer falls."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from purenets.core.arguments import (
    FRACTION,
    NOT_NEGATIVE,
    OPEN_FRACTION,
    expect_choice,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Array, Optimizer
from purenets.core.optim.internals.arithmetic import at_least, choose, full_like, scaled
from purenets.core.optim.internals.extra_args import loss_value
from purenets.core.optim.internals.hyper import count_to_dtype, zero_count
from purenets.core.optim.internals.order import (
    SCALES,
    with_order,
)
from purenets.core.optim.internals.precision import any_dtype

THRESHOLD_MODES = {
    "rel": lambda best, threshold: threshold * abs(best),
    "abs": lambda best, threshold: full_like(best, threshold),
}


OBSERVED = ("best", "bad", "cooldown", "scale")


class Rule(NamedTuple):
    """When the scale is reduced, and by how much."""

    factor: float
    patience: int
    margin: Callable[[Array], Array]  # of the best loss, by which a better one lies under it
    cooldown: int
    min_scale: float

    def observe(self, loss: Array, best: Array, bad: Array, cooldown: Array, scale: Array) -> dict:
        """Return best, bad, cooldown and scale after a loss."""
        xp = namespace(loss)
        known = xp.where(xp.isfinite(best), best, xp.zeros_like(best))
        least = xp.where(xp.isfinite(best), known - self.margin(known), best)
        better = loss < least
        bad = xp.where(better | (cooldown > 0), 0 * bad, bad + 1)
        reduce = bad > self.patience
        rest = xp.clip(cooldown - 1, 0, None)
        return {
            "best": xp.where(better, loss, best),
            "bad": xp.where(reduce, 0 * bad, bad),
            "cooldown": xp.where(reduce, full_like(cooldown, self.cooldown), rest),
            "scale": xp.where(reduce, at_least(scale * self.factor, self.min_scale), scale),
        }


def reduce_on_plateau(
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_scale: float = 0.0,
    every: int = 1,
) -> Optimizer:
    """Return a transform that scales the updates down while the loss is on a plateau.

    Put it at the end of a chain. As in torch, the scale of an update depends only on the losses
    before it. Unlike in torch, a negative loss must fall too: a loss is better than the best one if
    it is less than best - threshold * |best|.

    Args:
        factor: the factor of the scale at each reduction, between 0 and 1.
        patience: observations in a row without a better loss that cause no reduction yet.
        threshold: how much less a better loss is.
        threshold_mode: "rel" for a fraction of the best loss, "abs" for a difference.
        cooldown: observations after a reduction that are not counted as bad.
        min_scale: the smallest scale, from 0 to 1.
        every: updates whose mean loss is one observation, such as those of an epoch.

    Returns:
        A transform for `chain`. Its `update` needs the loss as `value` (`make_step` passes it); its
        state has the entry "scale".

    Raises:
        UserError: factor is not between 0 and 1, threshold is negative or not finite, min_scale is
            not in [0, 1], patience or cooldown is not a non-negative integer, every is not a
            positive integer, or threshold_mode is unknown; from `update`: value is missing.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.chain(optim.sgd(1.0), optim.reduce_on_plateau(factor=0.5, patience=1))
        >>> params, grads = {"w": np.zeros(1)}, {"w": np.ones(1)}
        >>> state, steps = optimizer.init(params), []
        >>> for loss in (3.0, 2.0, 2.0, 2.0, 2.0):  # the fourth is the second bad one in a row
        ...     updates, state = optimizer.update(grads, state, params, value=loss)
        ...     steps.append(float(updates["w"][0]))
        >>> steps
        [-1.0, -1.0, -1.0, -1.0, -0.5]

    Source:
        torch.optim.lr_scheduler.ReduceLROnPlateau.
    """
    name = "reduce_on_plateau"
    expect_numbers(name, OPEN_FRACTION, factor=factor)
    expect_numbers(name, NOT_NEGATIVE, threshold=threshold)
    expect_numbers(name, FRACTION, min_scale=min_scale)
    expect_integers(name, 0, patience=patience, cooldown=cooldown)
    expect_integers(name, 1, every=every)
    expect_choice(name, THRESHOLD_MODES, threshold_mode=threshold_mode)
    margin = partial(THRESHOLD_MODES[threshold_mode], threshold=threshold)
    rule = Rule(factor, patience, margin, cooldown, min_scale)

    def init(params):
        zero = zero_count(params)
        number = count_to_dtype(zero, params)
        numbers = {"sum": number, "best": number + math.inf, "scale": number + 1}
        return {**numbers, "count": zero, "bad": zero, "cooldown": zero}

    def update(updates, state, params, *, value=None, value_and_grad_fn=None):
        loss = loss_value(name, value, value_and_grad_fn, params)
        count, total = state["count"] + 1, state["sum"] + loss
        old = {name: state[name] for name in OBSERVED}
        due = count >= every  # above it in a state of a larger `every`
        mean = total / count_to_dtype(at_least(count, every), params)
        new = {**rule.observe(mean, **old), "sum": namespace(total).zeros_like(total)}
        kept = choose(due, new, {**old, "sum": total})
        return scaled(updates, state["scale"]), {**kept, "count": count * ~due}

    return any_dtype(with_order(SCALES, Optimizer(init, update)))
