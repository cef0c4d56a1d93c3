"""D-Adaptation: Adam that finds its learning rate.

It estimates how far the solution lies from the first params, from what it has seen. It looks at all
leaves together, and is run with a rate of 1, under a schedule where one is wanted. Numbers, names
and defaults are those of the authors' package.

Source: Defazio and Mishchenko 2023, arXiv 2301.07733.
"""

import math

from purenets.core import tree
from purenets.core.arguments import (
    FROM_1,
    NOT_NEGATIVE,
    POSITIVE,
    expect_betas,
    expect_flags,
    expect_hypers,
    expect_numbers,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import (
    at_most,
    bias_correction,
    dot,
    maximum,
    nonzero,
    running_mean_of_squares,
    scaled,
)
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    is_zero,
    next_count,
    resolve_hyper,
    unless_zero,
    zero_count,
)
from purenets.core.optim.internals.order import TURNS, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only
from purenets.core.optim.transforms import add_decayed_weights, chain

MEANS = ("exp_avg", "exp_avg_sq", "s")


def dadapt_adam(
    lr: Hyper = 1.0,
    betas=(0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    decoupled_weight_decay: bool = False,
    use_bias_correction: bool = False,
    d0: float = 1e-6,
    growth_rate: float = math.inf,
) -> Optimizer:
    """Return Adam that finds its learning rate by D-Adaptation.

    It estimates from the gradients how far the solution lies from the first params; the estimate d
    only grows, and multiplies the rate.

    Args:
        lr: a factor of the rate that is found; leave it at 1, or give a schedule from 1.
        betas: (b1, b2), the decay rates of the running means of g and g^2.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: L2 penalty, added to the gradient; decoupled weight decay if
            decoupled_weight_decay.
        decoupled_weight_decay: subtract rate * weight_decay * p in the step, with the rate found.
        use_bias_correction: correct the means for their bias toward zero, as Adam does.
        d0: the first estimate of the distance; smaller than the true one.
        growth_rate: the largest factor by which the estimate grows in an update; 1 or more.

    Returns:
        An optimizer for real params; its state has the entry "d" (the estimate) beside the means.

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not a pair of numbers
            in [0, 1), d0 is not a finite number above 0, growth_rate is below 1, or a flag is not a
            bool; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.dadapt_adam(), {"w": np.zeros(2)}
        >>> state = optimizer.init(params)
        >>> for _ in range(300):
        ...     grads = {"w": params["w"] - 10.0}  # of the loss |w - 10|^2 / 2
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"].round(2)  # without a learning rate that fits the distance of 10
        array([10., 10.])

    Source:
        Defazio and Mishchenko 2023, arXiv 2301.07733; numbers and defaults of the authors' package.
    """
    expect_hypers("dadapt_adam", NOT_NEGATIVE, lr=lr, eps=eps, weight_decay=weight_decay)
    decoupled = {"decoupled_weight_decay": decoupled_weight_decay}
    expect_flags("dadapt_adam", **decoupled, use_bias_correction=use_bias_correction)
    expect_estimate("dadapt_adam", betas, d0, growth_rate)
    decoupled, before = split_decay(weight_decay, decoupled_weight_decay)

    def init(params):
        number = count_to_dtype(zero_count(params), params)
        scalars = {"d": number + d0, "numerator": number}
        means = {name: tree.zeros_like(params) for name in MEANS}
        counts = first_count(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        return {**counts, **scalars, **means}

    def update(grads, state, params):
        rate, b1, b2, e = [resolve_hyper(value, state, grads) for value in (lr, *betas, eps)]
        d, counts, root = state["d"], next_count(state), b2**0.5
        dlr = d * rate * adam_correction(b1, b2, counts["count"], grads, use_bias_correction)
        ratios = tree.map(lambda s, v: s / (sqrt(v) + e), state["s"], state["exp_avg_sq"])
        numerator = root * state["numerator"] + (1 - root) * dlr * dot(grads, ratios)
        s = decayed_sum(root, state["s"], (1 - root) * dlr, grads)
        length = absolute_sum(s)
        found = numerator / ((1 - root) * nonzero(length))
        new_d = maximum(d, at_most(found, growth_rate * d))
        m = decayed_sum(b1, state["exp_avg"], (1 - b1) * dlr, grads)
        v = running_mean_of_squares(b2, state["exp_avg_sq"], grads)
        updates = tree.map(lambda m, v: -m / (sqrt(v) + e), m, v)
        new = {"exp_avg": m, "exp_avg_sq": v, "s": s}
        scalars = {"d": namespace(d).where(length > 0, new_d, d), "numerator": numerator}
        return with_decay(updates, decoupled, dlr, state, params), {**counts, **scalars, **new}

    order = TURNS._replace(penalizes=not is_zero(decoupled))
    step = with_order(order, Optimizer(init, update))
    return real_only("dadapt_adam", chain(*before, any_dtype(step)))


dadapt_adam.only_at_init = ("d0",)


# --- what Prodigy shares --------------------------------------------------------------------------


def expect_estimate(name: str, betas, d0: float, growth_rate: float) -> None:
    """Raise a UserError for a wrong argument of an optimizer that estimates a distance."""
    expect_betas(name, betas)
    expect_numbers(name, POSITIVE, d0=d0)
    expect_numbers(name, FROM_1, growth_rate=growth_rate)


def split_decay(weight_decay: Hyper, decoupled: bool) -> tuple[Hyper, tuple[Optimizer, ...]]:
    """Return the decay of the step, and the transforms that add that of the gradient."""
    if decoupled:
        return weight_decay, ()
    return 0, unless_zero(weight_decay, add_decayed_weights)


def with_decay(updates: Params, decay: Hyper, dlr: Array, state: dict, params: Params) -> Params:
    """Return the updates with -dlr decay p."""
    if is_zero(decay):
        return updates
    factor = dlr * resolve_hyper(decay, state, params)
    return tree.map(lambda u, p: u - factor * p, updates, params)


def adam_correction(b1, b2, count: Array, grads: Params, wanted: bool) -> float | Array:
    """Return sqrt(1 - b2^t) / (1 - b1^t), or 1 if it is not wanted."""
    if not wanted:
        return 1.0
    count = count_to_dtype(count, grads)
    return sqrt(bias_correction(b2, count)) / bias_correction(b1, count)


def decayed_sum(beta: float | Array, total: Params, weight: Array, new: Params) -> Params:
    """Return beta total + weight new."""
    return tree.map(lambda t, n: t + n, scaled(total, beta), scaled(new, weight))


def absolute_sum(a: Params) -> Array:
    """Return the sum of the absolute values of all elements."""
    return sum(tree.leaves(tree.map(lambda x: abs(x).sum(), a)))
