"""Optimizers that find their learning rate: D-Adaptation, Prodigy and DoG.

All of them estimate how far the solution lies from the first params, from what they have seen. They
look at all leaves together, and are run with a rate of 1, under a schedule where one is wanted.
Numbers, names and defaults are those of the authors' packages.
"""

import math

from purenets.core import tree
from purenets.core.arrays import namespace
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.arithmetic import (
    add_square,
    at_most,
    bias_correction,
    dot,
    full_like,
    maximum,
    nonzero,
    running_mean_of_squares,
    scaled,
    sqrt,
)
from purenets.core.optim.checks import check_hyper
from purenets.core.optim.hyper import (
    Hyper,
    check_decays,
    count_to_dtype,
    init_count,
    next_count,
    resolve_hyper,
    unless_zero,
    zero_count,
)
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
    """Return Adam with D-Adaptation (Defazio and Mishchenko 2023, arXiv 2301.07733).

    Args:
        lr: a factor of the rate that is found; leave it at 1.
        betas: decays of the means of g and g^2.
        eps: added to the root.
        weight_decay: added to the gradient, or to the step if `decoupled_weight_decay`.
        decoupled_weight_decay: as in AdamW.
        use_bias_correction: as in Adam.
        d0: the first estimate of the distance, smaller than it is.
        growth_rate: the largest factor by which the estimate grows in an update.
    """
    _check("dadapt_adam", betas, d0, growth_rate)
    decoupled, before = _split_decay(weight_decay, decoupled_weight_decay)

    def init(params):
        number = count_to_dtype(zero_count(params), params)
        scalars = {"d": number + d0, "numerator": number}
        means = {name: tree.zeros_like(params) for name in MEANS}
        return {"count": zero_count(params), **scalars, **means}

    def update(grads, state, params):
        rate, b1, b2, e = [resolve_hyper(value, state, grads) for value in (lr, *betas, eps)]
        d, counts, root = state["d"], next_count(state), b2**0.5
        dlr = d * rate * _adam_correction(b1, b2, counts["count"], grads, use_bias_correction)
        ratios = tree.map(lambda s, v: s / (sqrt(v) + e), state["s"], state["exp_avg_sq"])
        numerator = root * state["numerator"] + (1 - root) * dlr * dot(grads, ratios)
        s = _decayed_sum(root, state["s"], (1 - root) * dlr, grads)
        length = absolute_sum(s)
        found = numerator / ((1 - root) * nonzero(length))
        new_d = maximum(d, at_most(found, growth_rate * d))
        m = _decayed_sum(b1, state["exp_avg"], (1 - b1) * dlr, grads)
        v = running_mean_of_squares(b2, state["exp_avg_sq"], grads)
        updates = tree.map(lambda m, v: -m / (sqrt(v) + e), m, v)
        new = {"exp_avg": m, "exp_avg_sq": v, "s": s}
        scalars = {"d": namespace(d).where(length > 0, new_d, d), "numerator": numerator}
        return _with_decay(updates, decoupled, dlr, state, params), {**counts, **scalars, **new}

    return chain(*before, Optimizer(init, update))


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
    """Return Prodigy (Mishchenko and Defazio 2023, arXiv 2306.06101): Adam with a faster estimate.

    Args:
        lr: a factor of the rate that is found; leave it at 1 or give a schedule from 1.
        betas: decays of the means of g and g^2.
        beta3: decay of the sums of the estimate, the root of the second beta by default.
        eps: added to the root, times the estimate.
        weight_decay: added to the step, or to the gradient if not `decoupled_weight_decay`.
        decoupled_weight_decay: as in AdamW.
        use_bias_correction: as in Adam.
        safeguard_warmup: leave the rate out of the sums, for a warm-up.
        d0: the first estimate of the distance, smaller than it is.
        d_coef: a factor of the estimate, the right place to tune.
        growth_rate: the largest factor by which the estimate grows in an update.
    """
    _check("prodigy", betas, d0, growth_rate)
    check_hyper("prodigy: d_coef", d_coef, least=0, open_ends=True)
    decoupled, before = _split_decay(weight_decay, decoupled_weight_decay)

    def init(params):
        number = count_to_dtype(zero_count(params), params)
        scalars = {"d": number + d0, "d_max": number + d0, "numerator": number}
        means = {name: tree.zeros_like(params) for name in MEANS}
        return {"count": zero_count(params), **scalars, "p0": params.copy(), **means}

    def update(grads, state, params):
        rate, b1, b2, e = [resolve_hyper(value, state, grads) for value in (lr, *betas, eps)]
        b3 = b2**0.5 if beta3 is None else resolve_hyper(beta3, state, grads)
        d, counts = state["d"], next_count(state)
        dlr = d * rate * _adam_correction(b1, b2, counts["count"], grads, use_bias_correction)
        way = tree.map(lambda first, p: first - p, state["p0"], params)
        numerator = b3 * state["numerator"] + (d / d0) * dlr * dot(grads, way)
        weight = (d / d0) * (d if safeguard_warmup else dlr)
        s = _decayed_sum(b3, state["s"], weight, grads)
        length = absolute_sum(s)
        found = d_coef * numerator / nonzero(length)
        first = namespace(d).where(d == full_like(d, d0), maximum(d, found), d)
        d_max = maximum(state["d_max"], found)
        new_d = at_most(d_max, growth_rate * first)
        m = _decayed_sum(b1, state["exp_avg"], (1 - b1) * d, grads)
        v = tree.map(
            lambda v, g: add_square(b2 * v, g, d * d * (1 - b2)), state["exp_avg_sq"], grads
        )
        updates = tree.map(lambda m, v: -dlr * m / (sqrt(v) + new_d * e), m, v)
        new = {"p0": state["p0"], "exp_avg": m, "exp_avg_sq": v, "s": s}
        scalars = {"d": new_d, "d_max": d_max, "numerator": numerator}
        return _with_decay(updates, decoupled, dlr, state, params), {**counts, **scalars, **new}

    return chain(*before, Optimizer(init, update))


def dog(
    lr: Hyper = 1.0,
    reps_rel: float = 1e-6,
    eps: float = 1e-8,
    weight_decay: Hyper = 0,
    layerwise: bool = False,
) -> Optimizer:
    """Return DoG (Ivgi et al. 2023, arXiv 2302.12022): SGD whose rate is distance over gradients.

    The rate is the largest distance from the first params so far, over the root of the sum of all
    |g|^2. It does not decay: evaluate an average of the params (`ema`, `swa`).

    Args:
        lr: a factor of the rate; leave it at 1.
        reps_rel: the first distance, relative to 1 + |p|; 1e-4 with batch normalization.
        eps: added to the sum.
        weight_decay: added to the gradient.
        layerwise: a rate for each leaf (LDoG).
    """
    check_hyper("dog: reps_rel", reps_rel, least=0, open_ends=True)
    check_hyper("dog: eps", eps, least=0, open_ends=True)

    def measured(leaves: Params) -> dict[str, Array]:
        """Return the norm of each leaf, or of all together."""
        if layerwise:
            return {name: tree.norm({name: leaf}) for name, leaf in leaves.items()}
        return {"all": tree.norm(leaves)}

    def init(params):
        sizes = measured(params)
        return {
            **init_count(params, lr),
            "rbar": {name: reps_rel * (1 + size) for name, size in sizes.items()},
            "sum": {name: full_like(size, eps) for name, size in sizes.items()},
            "p0": params.copy(),
        }

    def update(grads, state, params):
        rate = resolve_hyper(lr, state, grads)
        way = measured(tree.map(lambda p, first: p - first, params, state["p0"]))
        rbar = tree.map(maximum, state["rbar"], way)
        total = tree.map(lambda s, norm: s + norm * norm, state["sum"], measured(grads))
        etas = tree.map(lambda r, s: rate * r / sqrt(s), rbar, total)
        updates = {n: -etas[n if layerwise else "all"] * g for n, g in grads.items()}
        return updates, {**next_count(state), "rbar": rbar, "sum": total, "p0": state["p0"]}

    return chain(*unless_zero(weight_decay, add_decayed_weights), Optimizer(init, update))


# --- what they share ------------------------------------------------------------------------------


def _check(name: str, betas, d0: float, growth_rate: float) -> None:
    check_decays(*betas)
    check_hyper(f"{name}: d0", d0, least=0, open_ends=True)
    check_hyper(f"{name}: growth_rate", growth_rate, least=1)


def _split_decay(weight_decay: Hyper, decoupled: bool) -> tuple[Hyper, tuple[Optimizer, ...]]:
    """Return the decay of the step, and the transforms that add that of the gradient."""
    if decoupled:
        return weight_decay, ()
    return 0, unless_zero(weight_decay, add_decayed_weights)


def _with_decay(updates: Params, decay: Hyper, dlr: Array, state: dict, params: Params) -> Params:
    """Return the updates with -dlr decay p."""
    if type(decay) in (int, float) and decay == 0:
        return updates
    factor = dlr * resolve_hyper(decay, state, params)
    return tree.map(lambda u, p: u - factor * p, updates, params)


def _adam_correction(b1, b2, count: Array, grads: Params, wanted: bool) -> float | Array:
    """Return sqrt(1 - b2^t) / (1 - b1^t), or 1 if it is not wanted."""
    if not wanted:
        return 1.0
    count = count_to_dtype(count, grads)
    return sqrt(bias_correction(b2, count)) / bias_correction(b1, count)


def _decayed_sum(beta: float | Array, total: Params, weight: Array, new: Params) -> Params:
    """Return beta total + weight new."""
    return tree.map(lambda t, n: t + n, scaled(total, beta), scaled(new, weight))


def absolute_sum(a: Params) -> Array:
    """Return the sum of the absolute values of all elements."""
    return sum(tree.leaves(tree.map(lambda x: abs(x).sum(), a)))
