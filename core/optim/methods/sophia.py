"""Sophia: steps divided by a running estimate of the diagonal of the Hessian, each clipped.

The estimate is Hutchinson's, u * (H u) for random signs u; H u is the difference of two gradients
of the same batch, so that it needs no second derivative and runs on both backends.

Source: Liu et al. 2023, arXiv 2305.14342 (Sophia-H).
"""

from collections.abc import Callable

from purenets.core import random, tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    POSITIVE,
    expect_betas,
    expect_functions,
    expect_hypers,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import like, namespace
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import at_least, choose, running_mean
from purenets.core.optim.internals.extra_args import need_value_and_grad_fn
from purenets.core.optim.internals.hyper import (
    Hyper,
    is_readable,
    resolve_hyper,
    unless_zero,
    zero_count,
)
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
from purenets.core.optim.transforms import add_decayed_weights, chain, scale_by_learning_rate

# f(value_and_grad_fn, params, key) -> an estimate of the diagonal of the Hessian, as the params
Diagonal = Callable[[Callable, Params, Array], Params]


def sophia(
    lr: Hyper = 1e-4,
    betas=(0.965, 0.99),
    gamma: Hyper = 0.01,
    eps: Hyper = 1e-12,
    weight_decay: Hyper = 0.1,
    every: int = 10,
    seed: int = 0,
    diagonal: Diagonal | None = None,
) -> Optimizer:
    """Return Sophia, which needs `value_and_grad_fn`.

    Args:
        lr: the learning rate, and the largest step of an element.
        betas: decays of the means of g and of the diagonal of the Hessian.
        gamma: how many of the elements are clipped: fewer with a larger one.
        eps: the smallest gamma h to divide by.
        weight_decay: decoupled, times lr.
        every: updates from one estimate to the next. Compiled or vmapped, the gradients of the
            estimate are computed in each update, since nothing can be left out there.
        seed: of the random signs.
        diagonal: another estimate, such as Gauss-Newton-Bartlett's; `hutchinson_diagonal()` by
            default.
    """
    expect_hypers("sophia", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    _expect_sophia("sophia", betas, gamma, eps, every, seed, diagonal)
    optimizer = chain(
        scale_by_sophia(betas, gamma, eps, every, seed, diagonal),
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_learning_rate(lr),
    )
    return real_only("sophia", optimizer)


def _expect_sophia(name: str, betas, gamma, eps, every, seed, diagonal) -> None:
    expect_betas(name, betas)
    expect_hypers(name, POSITIVE, gamma=gamma)
    expect_hypers(name, NOT_NEGATIVE, eps=eps)
    expect_integers(name, 1, every=every)
    expect_integers(name, 0, seed=seed)
    if diagonal is not None:
        expect_functions(name, diagonal=diagonal)


def scale_by_sophia(
    betas=(0.965, 0.99),
    gamma: Hyper = 0.01,
    eps: Hyper = 1e-12,
    every: int = 10,
    seed: int = 0,
    diagonal: Diagonal | None = None,
) -> Optimizer:
    """Return m / max(gamma h, eps) within [-1, 1]: m and h the running means of g and of the
    diagonal of the Hessian."""
    _expect_sophia("scale_by_sophia", betas, gamma, eps, every, seed, diagonal)
    estimate, key = diagonal or hutchinson_diagonal(), random.key(seed)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "hessian")}
        return {"count": zero_count(params), **means}

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        evaluate = need_value_and_grad_fn("sophia", value_and_grad_fn)
        b1, b2, scale, e = [resolve_hyper(v, state, grads) for v in (*betas, gamma, eps)]
        count, old = state["count"], state["hessian"]

        def fresh():
            drawn = random.fold_in(like(key, count), count)
            return running_mean(b2, old, estimate(evaluate, params, drawn))

        due = count % every == 0
        unused = is_readable(count) and not due  # nothing looks on: leave out what is not used
        h = old if unused else choose(due, fresh(), old)
        m = running_mean(b1, state["exp_avg"], grads)

        def leaf(m, h):
            return namespace(m).clip(m / at_least(scale * h, e), -1.0, 1.0)

        return tree.map(leaf, m, h), {"count": count + 1, "exp_avg": m, "hessian": h}

    scale = Optimizer(init, update)
    return any_dtype(scale, refusing("scale_by_sophia", scale))


def hutchinson_diagonal(step: float = 1e-3) -> Diagonal:
    """Return the estimate u * (g(p + step u) - g(p - step u)) / (2 step) with random signs u.

    Args:
        step: half the distance of the two points, in each element; the estimate errs by its square
            times the fourth derivative of the loss, and by the rounding of g over it.
    """
    expect_numbers("hutchinson_diagonal", POSITIVE, step=step)

    def estimate(value_and_grad_fn, params, key):
        signs = random_signs(key, params)
        ahead, behind = (
            value_and_grad_fn(tree.map(lambda p, u, s=s: p + s * u, params, signs))[1]
            for s in (step, -step)
        )
        return tree.map(lambda u, a, b: u * (a - b) / (2 * step), signs, ahead, behind)

    return estimate


def random_signs(key: Array, params: Params) -> Params:
    """Return 1 or -1 for each element, by one draw for all leaves."""
    places = tree.views_at(tree.flat_layout(params))
    drawn = places(random.bernoulli(key, 0.5, (tree.size(params),)))

    def signs(p, positive):
        one = namespace(p).ones_like(p)
        return namespace(p).where(positive, one, -one)

    return tree.map(signs, params, drawn)
