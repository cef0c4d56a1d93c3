"""Adan: Adam with Nesterov's momentum, taken from the differences of gradients.

Source: Xie et al. 2022, arXiv 2208.06677; numbers, names and defaults of the authors' package.
"""

from purenets.core import tree
from purenets.core.arrays import namespace
from purenets.core.base import Optimizer
from purenets.core.optim.arithmetic import (
    bias_correction,
    running_mean,
    running_mean_of_squares,
    sqrt,
)
from purenets.core.optim.checks import check_hyper
from purenets.core.optim.elementwise import elementwise
from purenets.core.optim.hyper import (
    Hyper,
    check_decays,
    count_to_dtype,
    init_count,
    is_zero,
    next_count,
    resolve_hyper,
    zero_count,
)
from purenets.core.optim.transforms import add_decayed_weights, chain, scale_by_learning_rate


def adan(
    lr: Hyper = 1e-3,
    betas=(0.98, 0.92, 0.99),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    proximal: bool = True,
) -> Optimizer:
    """Return Adan.

    Args:
        lr: the learning rate.
        betas: decays of the means of g, of the differences of g, and of the squares.
        eps: added to the root.
        weight_decay: decoupled, times lr.
        proximal: divide the params by 1 + lr weight_decay after the step, as the paper does, in
            place of the step along -lr weight_decay p.
    """
    check_hyper("adan: weight_decay", weight_decay, least=0)
    if is_zero(weight_decay):
        return chain(scale_by_adan(betas, eps), scale_by_learning_rate(lr))
    if proximal:
        return chain(scale_by_adan(betas, eps), proximal_step(lr, weight_decay))
    decay = add_decayed_weights(weight_decay)
    return chain(scale_by_adan(betas, eps), decay, scale_by_learning_rate(lr))


def scale_by_adan(betas=(0.98, 0.92, 0.99), eps: Hyper = 1e-8) -> Optimizer:
    """Return (m + b2 d) / (sqrt(n) + eps): m, d and n the means of g, g - g' and (g + b2 (g -
    g'))^2, each without its bias to zero; g' is the gradient before."""
    check_decays(*betas)
    names = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad")

    def init(params):
        return {"count": zero_count(params), **{name: tree.zeros_like(params) for name in names}}

    def update(grads, state, params):
        b1, b2, b3, e = [resolve_hyper(value, state, grads) for value in (*betas, eps)]
        counts = next_count(state)
        count, first = count_to_dtype(counts["count"], grads), state["count"] == 0
        diff = tree.map(
            lambda g, old: namespace(g).where(first, namespace(g).zeros_like(g), g - old),
            grads,
            state["previous_grad"],
        )
        m = running_mean(b1, state["exp_avg"], grads)
        d = running_mean(b2, state["exp_avg_diff"], diff)
        ahead = tree.map(lambda g, change: g + b2 * change, grads, diff)
        n = running_mean_of_squares(b3, state["exp_avg_sq"], ahead)
        c1, c2, c3 = (bias_correction(b, count) for b in (b1, b2, b3))
        updates = tree.map(
            lambda m, d, n: (m / c1 + d * (b2 / c2)) / (sqrt(n) / c3**0.5 + e), m, d, n
        )
        return updates, {**counts, **dict(zip(names, (m, d, n, grads), strict=True))}

    return elementwise(Optimizer(init, update))


def proximal_step(lr: Hyper, weight_decay: Hyper) -> Optimizer:
    """Return the way from p to (p - lr g) / (1 + lr weight_decay)."""

    def update(grads, state, params):
        rate, decay = (resolve_hyper(value, state, grads) for value in (lr, weight_decay))
        pull = rate * decay
        updates = tree.map(lambda g, p: -(rate * g + pull * p) / (1 + pull), grads, params)
        return updates, next_count(state)

    return elementwise(Optimizer(lambda params: init_count(params, lr, weight_decay), update))
