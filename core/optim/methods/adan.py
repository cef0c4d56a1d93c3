"""Adan: Adam with Nesterov's momentum, taken from the differences of gradients.

Source: Xie et al. 2022, arXiv 2208.06677; numbers, names and defaults of the authors' package.
"""

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    NOT_NEGATIVE,
    expect_flags,
    expect_hypers,
    expect_several,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import (
    bias_correction,
    running_mean,
    running_mean_of_squares,
)
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    init_count,
    is_zero,
    next_count,
    resolve_hyper,
    unless_zero,
    zero_count,
)
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
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
    expect_hypers("adan", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    _expect_adan("adan", betas, eps)
    expect_flags("adan", proximal=proximal)
    if proximal and not is_zero(weight_decay):
        optimizer = chain(scale_by_adan(betas, eps), proximal_step(lr, weight_decay))
    else:
        decay = unless_zero(weight_decay, add_decayed_weights)
        optimizer = chain(scale_by_adan(betas, eps), *decay, scale_by_learning_rate(lr))
    return real_only("adan", optimizer)


def _expect_adan(name: str, betas, eps: Hyper) -> None:
    expect_several(name, ("three decays", (0.98, 0.92, 0.99)), betas=betas)
    for beta in betas:
        expect_hypers(name, DECAY, betas=beta)
    expect_hypers(name, NOT_NEGATIVE, eps=eps)


def scale_by_adan(betas=(0.98, 0.92, 0.99), eps: Hyper = 1e-8) -> Optimizer:
    """Return (m + b2 d) / (sqrt(n) + eps): m, d and n the means of g, g - g' and (g + b2 (g -
    g'))^2, each without its bias to zero; g' is the gradient before."""
    _expect_adan("scale_by_adan", betas, eps)
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

    scale = Optimizer(init, update)
    return elementwise(any_dtype(scale, refusing("scale_by_adan", scale)))


def proximal_step(lr: Hyper, weight_decay: Hyper) -> Optimizer:
    """Return the way from p to (p - lr g) / (1 + lr weight_decay)."""
    expect_hypers("proximal_step", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)

    def update(grads, state, params):
        rate, decay = (resolve_hyper(value, state, grads) for value in (lr, weight_decay))
        pull = rate * decay
        updates = tree.map(lambda g, p: -(rate * g + pull * p) / (1 + pull), grads, params)
        return updates, next_count(state)

    return elementwise(Optimizer(lambda params: init_count(params, lr, weight_decay), update))
