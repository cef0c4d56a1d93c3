"""Prodigy: Adam that finds its learning rate, by a faster estimate than D-Adaptation's.

Run it with a rate of 1, under a schedule where one is wanted. Numbers, names and defaults are those
of the authors' package.

Source: Mishchenko and Defazio 2023, arXiv 2306.06101.
"""

import math

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    expect_flags,
    expect_hypers,
    expect_numbers,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import (
    add_square,
    at_most,
    copies,
    dot,
    full_like,
    maximum,
    nonzero,
)
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    is_zero,
    next_count,
    resolve_hyper,
    zero_count,
)
from purenets.core.optim.internals.order import TURNS, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only
from purenets.core.optim.methods.d_adaptation import (
    MEANS,
    absolute_sum,
    adam_correction,
    decayed_sum,
    expect_estimate,
    split_decay,
    with_decay,
)
from purenets.core.optim.transforms import chain


def prodigy(
    lr: Hyper = 1.0,
    betas=(0.9, 0.999),
    beta3: Hyper | None = None,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    decoupled_weight_decay: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = math.inf,
) -> Optimizer:
    """Return Prodigy: Adam that finds its learning rate, faster than D-Adaptation does.

    It estimates from the gradients and the way gone so far how far the solution lies from the first
    params; the estimate d only grows, and multiplies the rate.

    Args:
        lr: a factor of the rate that is found; leave it at 1, or give a schedule from 1.
        betas: (b1, b2), the decay rates of the running means of g and g^2.
        beta3: the decay rate of the sums of the estimate; sqrt(b2) by default.
        eps: added to the root, times the estimate.
        weight_decay: decoupled weight decay, or an L2 penalty if not decoupled_weight_decay.
        decoupled_weight_decay: subtract rate * weight_decay * p in the step, with the rate found.
        use_bias_correction: correct the means for their bias toward zero, as Adam does.
        safeguard_warmup: leave lr out of the sums of the estimate, for schedules with a warm-up.
        d0: the first estimate of the distance; smaller than the true one.
        d_coef: a factor of the estimate; tune this one, not lr.
        growth_rate: the largest factor by which the estimate grows in an update; 1 or more.

    Returns:
        An optimizer for real params; its state has the entry "d" (the estimate) beside the means.

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas or beta3 are not numbers
            in [0, 1), d0 or d_coef is not a finite number above 0, growth_rate is below 1, or a
            flag is not a bool; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.prodigy(), {"w": np.zeros(2)}
        >>> state = optimizer.init(params)
        >>> for _ in range(300):
        ...     grads = {"w": params["w"] - 10.0}  # of the loss |w - 10|^2 / 2
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"].round(2)  # without a learning rate that fits the distance of 10
        array([10., 10.])

    Source:
        Mishchenko and Defazio 2023, arXiv 2306.06101; numbers and defaults of the authors' package.
    """
    _expect_prodigy(lr, betas, beta3, eps, weight_decay, d0, d_coef, growth_rate)
    flags = {"decoupled_weight_decay": decoupled_weight_decay}
    flags |= {"use_bias_correction": use_bias_correction, "safeguard_warmup": safeguard_warmup}
    expect_flags("prodigy", **flags)
    decoupled, before = split_decay(weight_decay, decoupled_weight_decay)

    def init(params):
        number = count_to_dtype(zero_count(params), params)
        scalars = {"d": number + d0, "d_max": number + d0, "numerator": number}
        means = {name: tree.zeros_like(params) for name in MEANS}
        counts = first_count(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        return {**counts, **scalars, "p0": copies(params), **means}

    def update(grads, state, params):
        rate, b1, b2, e = [resolve_hyper(value, state, grads) for value in (lr, *betas, eps)]
        b3 = b2**0.5 if beta3 is None else resolve_hyper(beta3, state, grads)
        d, counts = state["d"], next_count(state)
        dlr = d * rate * adam_correction(b1, b2, counts["count"], grads, use_bias_correction)
        way = tree.map(lambda first, p: first - p, state["p0"], params)
        numerator = b3 * state["numerator"] + (d / d0) * dlr * dot(grads, way)
        weight = (d / d0) * (d if safeguard_warmup else dlr)
        s = decayed_sum(b3, state["s"], weight, grads)
        found = d_coef * numerator / nonzero(absolute_sum(s))
        first = namespace(d).where(d == full_like(d, d0), maximum(d, found), d)
        d_max = maximum(state["d_max"], found)
        new_d = at_most(d_max, growth_rate * first)
        m = decayed_sum(b1, state["exp_avg"], (1 - b1) * d, grads)
        v = tree.map(
            lambda v, g: add_square(b2 * v, g, d * d * (1 - b2)), state["exp_avg_sq"], grads
        )
        updates = tree.map(lambda m, v: -dlr * m / (sqrt(v) + new_d * e), m, v)
        new = {"p0": state["p0"], "exp_avg": m, "exp_avg_sq": v, "s": s}
        scalars = {"d": new_d, "d_max": d_max, "numerator": numerator}
        return with_decay(updates, decoupled, dlr, state, params), {**counts, **scalars, **new}

    order = TURNS._replace(penalizes=not is_zero(decoupled))
    step = with_order(order, Optimizer(init, update))
    return real_only("prodigy", chain(*before, any_dtype(step)))


prodigy.only_at_init = ("d0",)


def _expect_prodigy(
    lr: Hyper,
    betas: tuple,
    beta3: Hyper | None,
    eps: Hyper,
    weight_decay: Hyper,
    d0: float,
    d_coef: float,
    growth_rate: float,
) -> None:
    """Raise a UserError that names the number that is wrong."""
    expect_hypers("prodigy", NOT_NEGATIVE, lr=lr, eps=eps, weight_decay=weight_decay)
    expect_estimate("prodigy", betas, d0, growth_rate)
    expect_numbers("prodigy", POSITIVE, d_coef=d_coef)
    if beta3 is not None:
        expect_hypers("prodigy", DECAY, beta3=beta3)
