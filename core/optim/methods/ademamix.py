"""AdEMAMix: Adam with a second, much slower mean of the gradient.

Source: Pagliardini et al. 2024, arXiv 2409.03137.
"""

import math

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    NOT_NEGATIVE,
    expect_hypers,
    expect_integers,
    expect_several,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Array, Optimizer
from purenets.core.optim.internals.arithmetic import (
    bias_correction,
    running_mean,
    running_mean_of_squares,
)
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    next_count,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.order import NORMALIZES, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
from purenets.core.optim.transforms import add_decayed_weights, chain, scale_by_learning_rate


def ademamix(
    lr: Hyper = 1e-3,
    betas=(0.9, 0.999, 0.9999),
    alpha: Hyper = 5.0,
    warmup_steps: int | None = None,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
) -> Optimizer:
    """Return AdEMAMix: Adam with a second, much slower mean of the gradient.

        p = p - lr * ((m1 + alpha * m2) / (sqrt(v) + eps) + weight_decay * p)

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2, b3), the decay rates of the fast mean m1, of the mean square v and of the
            slow mean m2.
        alpha: the weight of the slow mean.
        warmup_steps: updates in which alpha rises from 0, and b3 from b1, as in the paper; None for
            constant values.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: decoupled weight decay; each step also subtracts lr * weight_decay * p.

    Returns:
        An optimizer for real params; its state has the entries "exp_avg", "exp_avg_slow" and
        "exp_avg_sq".

    Raises:
        UserError: lr, alpha, eps or weight_decay is negative or not finite, betas is not three
            numbers in [0, 1), or warmup_steps is not a positive integer; from `init`: a leaf is
            complex.

    Example:
        The first step is Adam's, which is lr long, and alpha * (1 - b3) = 0.0005 of it more.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.ademamix(lr=0.1), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([2.0, -0.5])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(5)
        array([-0.10005,  0.10005])

    Source:
        Pagliardini et al. 2024, arXiv 2409.03137.
    """
    expect_hypers("ademamix", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    _expect_ademamix("ademamix", betas, alpha, warmup_steps, eps)
    optimizer = chain(
        scale_by_ademamix(betas, alpha, warmup_steps, eps),
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_learning_rate(lr),
    )
    return real_only("ademamix", optimizer)


def _expect_ademamix(name: str, betas, alpha: Hyper, warmup_steps: int | None, eps: Hyper) -> None:
    expect_several(name, ("three decays", (0.9, 0.999, 0.9999)), betas=betas)
    for beta in betas:
        expect_hypers(name, DECAY, betas=beta)
    expect_hypers(name, NOT_NEGATIVE, alpha=alpha, eps=eps)
    if warmup_steps is not None:
        expect_integers(name, 1, warmup_steps=warmup_steps)


def scale_by_ademamix(
    betas=(0.9, 0.999, 0.9999),
    alpha: Hyper = 5.0,
    warmup_steps: int | None = None,
    eps: Hyper = 1e-8,
) -> Optimizer:
    """Return a transform with a fast and a slow mean of g over the root of the mean of g^2.

        updates = (m1 + alpha * m2) / (sqrt(v) + eps)

    The fast mean m1 and v are corrected for their bias toward zero, the slow mean m2 is not.

    Args:
        betas: (b1, b2, b3), the decay rates of m1, v and m2.
        alpha: the weight of the slow mean.
        warmup_steps: updates in which alpha rises from 0, and b3 from b1; None for constant values.
        eps: added to the root, so that nothing is divided by 0.

    Returns:
        A transform for `chain`; its state has the entries "exp_avg" (m1), "exp_avg_slow" (m2) and
        "exp_avg_sq" (v).

    Raises:
        UserError: betas is not three numbers in [0, 1), alpha or eps is negative or not finite, or
            warmup_steps is not a positive integer; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_ademamix(), {"w": np.array([2.0, -0.5])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"].round(4)  # 1 + alpha * (1 - b3)
        array([ 1.0005, -1.0005])

    Source:
        Pagliardini et al. 2024, arXiv 2409.03137.
    """
    _expect_ademamix("scale_by_ademamix", betas, alpha, warmup_steps, eps)
    names = ("exp_avg", "exp_avg_slow", "exp_avg_sq")

    def init(params):
        means = {name: tree.zeros_like(params) for name in names}
        return {**first_count(params, betas=betas, eps=eps), **means}

    def update(grads, state, params):
        b1, b2, b3, a, e = [resolve_hyper(value, state, grads) for value in (*betas, alpha, eps)]
        counts = next_count(state)
        count = count_to_dtype(counts["count"], grads)
        if warmup_steps is not None:
            part = namespace(count).clip(count / warmup_steps, None, 1.0)
            a, b3 = part * a, slow_decay(b1, b3, part)
        m1 = running_mean(b1, state["exp_avg"], grads)
        m2 = running_mean(b3, state["exp_avg_slow"], grads)
        v = running_mean_of_squares(b2, state["exp_avg_sq"], grads)
        c1, c2 = bias_correction(b1, count), bias_correction(b2, count)
        updates = tree.map(
            lambda m1, m2, v: (m1 / c1 + a * m2) / (sqrt(v) / c2**0.5 + e), m1, m2, v
        )
        return updates, {**counts, **dict(zip(names, (m1, m2, v), strict=True))}

    scale = with_order(NORMALIZES, Optimizer(init, update))
    return elementwise(any_dtype(scale, refusing("scale_by_ademamix", scale)))


def slow_decay(begin: float | Array, end: float | Array, part: Array) -> Array:
    """Return the decay rate at a fraction `part` of the warm-up from `begin` to `end`.

    Its half-life rises linearly:
    exp(log(begin) log(end) / ((1 - part) log(end) + part log(begin))), equation 5 of the paper;
    for a `begin` of 0 its limit, exp(log(end) / part).
    """
    first, last = _log(begin), _log(end)
    return namespace(part).exp(1 / ((1 - part) / first + part / last))


def _log(beta: float | Array) -> float | Array:
    if type(beta) in (int, float):
        return math.log(beta) if beta else -math.inf
    return namespace(beta).log(beta)
