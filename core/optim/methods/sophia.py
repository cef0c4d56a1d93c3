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
    expect_call,
    expect_hypers,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import like, namespace, widened
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import at_least, choose, running_mean
from purenets.core.optim.internals.extra_args import need_value_and_grad_fn
from purenets.core.optim.internals.hyper import (
    Hyper,
    first_count,
    is_readable,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.order import KEEPS, with_order
from purenets.core.optim.internals.precision import any_dtype, own_leaves, real_only, refusing
from purenets.core.optim.transforms import add_decayed_weights, chain, scale_by_learning_rate

UNITS = 8  # in the last place of a param, which it is moved by at least

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
    """Return Sophia: steps divided by an estimate of the diagonal of the Hessian, and clipped.

        p = p - lr * (clip(m / max(gamma * h, eps), -1, 1) + weight_decay * p)

    Here m is the running mean of g, and h that of the estimates of the diagonal.

    Args:
        lr: the learning rate, which is also the largest step of an element.
        betas: (b1, b2), the decay rates of m and h.
        gamma: how many elements are clipped: fewer with a larger gamma.
        eps: the smallest gamma * h to divide by.
        weight_decay: decoupled weight decay; each step also subtracts lr * weight_decay * p.
        every: updates from one estimate to the next. Under torch.compile and vmap estimates are
            computed in each update, and those not due are discarded.
        seed: the seed of the random signs of the estimates.
        diagonal: `f(value_and_grad_fn, params, key) -> estimate`; `hutchinson_diagonal()` by
            default.

    Returns:
        An optimizer for real params. Its `update` needs `value_and_grad_fn` (`make_step` passes
        it); its state has the entries "exp_avg" (m) and "hessian" (h).

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not a pair of numbers
            in [0, 1), gamma is not a finite number above 0, every is not a positive integer, seed
            is not a non-negative integer, or diagonal is not a function; from `init`: a leaf is
            complex; from `update`: value_and_grad_fn is missing.

    Example:
        Curvatures 1 and 100 give gradients that differ 100 times, and the same step.

        >>> import numpy as np
        >>> from purenets import optim
        >>> def value_and_grad(params):
        ...     grad = np.array([1.0, 100.0]) * params["w"]
        ...     return (grad * params["w"]).sum() / 2, {"w": grad}
        >>> optimizer, params = optim.sophia(lr=1.0, weight_decay=0), {"w": np.full(2, 1e-3)}
        >>> value, grads = value_and_grad(params)
        >>> updates, _ = optimizer.update(
        ...     grads, optimizer.init(params), params, value=value, value_and_grad_fn=value_and_grad
        ... )
        >>> updates["w"].round(3)
        array([-0.35, -0.35])

    Source:
        Liu et al. 2023, arXiv 2305.14342 (Sophia-H).
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
        expect_call(name, ("value_and_grad_fn", "params", "key"), diagonal=diagonal)


def scale_by_sophia(
    betas=(0.965, 0.99),
    gamma: Hyper = 0.01,
    eps: Hyper = 1e-12,
    every: int = 10,
    seed: int = 0,
    diagonal: Diagonal | None = None,
) -> Optimizer:
    """Return a transform that divides the mean gradient by the diagonal of the Hessian, and clips.

        updates = clip(m / max(gamma * h, eps), -1, 1)

    Here m is the running mean of g, and h that of the estimates of the diagonal.

    Args:
        betas: (b1, b2), the decay rates of m and h.
        gamma: how many elements are clipped: fewer with a larger gamma.
        eps: the smallest gamma * h to divide by.
        every: updates from one estimate to the next. Under torch.compile and vmap estimates are
            computed in each update, and those not due are discarded.
        seed: the seed of the random signs of the estimates.
        diagonal: `f(value_and_grad_fn, params, key) -> estimate`; `hutchinson_diagonal()` by
            default.

    Returns:
        A transform for `chain`. Its `update` needs `value_and_grad_fn` (`make_step` passes it); its
        state has the entries "exp_avg" (m) and "hessian" (h).

    Raises:
        UserError: betas is not a pair of numbers in [0, 1), gamma is not a finite number above 0,
            eps is negative or not finite, every is not a positive integer, seed is not an integer
            from 0 on, or diagonal is not a function; from `init`: a leaf is complex; from `update`:
            value_and_grad_fn is missing.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> def value_and_grad(params):
        ...     grad = np.array([1.0, 100.0]) * params["w"]
        ...     return (grad * params["w"]).sum() / 2, {"w": grad}
        >>> transform, params = optim.scale_by_sophia(), {"w": np.array([1e-3, 1.0])}
        >>> value, grads = value_and_grad(params)
        >>> updates, _ = transform.update(
        ...     grads, transform.init(params), params, value=value, value_and_grad_fn=value_and_grad
        ... )
        >>> updates["w"].round(3)  # the second element is clipped
        array([0.35, 1.  ])

    Source:
        Liu et al. 2023, arXiv 2305.14342 (Sophia-H).
    """
    _expect_sophia("scale_by_sophia", betas, gamma, eps, every, seed, diagonal)
    estimate, key = diagonal or hutchinson_diagonal(), random.key(seed)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "hessian")}
        return {**first_count(params, betas=betas, gamma=gamma, eps=eps), **means}

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

    scale = with_order(KEEPS, Optimizer(init, update))
    return any_dtype(scale, refusing("scale_by_sophia", scale))


def hutchinson_diagonal(step: float = 1e-3) -> Diagonal:
    """Return Hutchinson's estimate of the diagonal of a Hessian, from differences of gradients.

        u * (g(p + step * u) - g(p - step * u)) / (2 * step),  u random signs

    Exact for a quadratic loss with a diagonal Hessian; for other Hessians right in the mean over u.

    Each element is moved by 8 units in its last place where that is more than step, and what is
    divided by is the distance that the rounded points have.

    Args:
        step: half the distance of the two points in each element. The estimate errs by about step^2
            times fourth derivatives of the loss, and by the rounding of g over step.

    Returns:
        A function `(value_and_grad_fn, params, key) -> estimate`, a dict shaped as the params, for
        `sophia(diagonal=...)`.

    Raises:
        UserError: step is not a finite number above 0.

    Example:
        >>> import numpy as np
        >>> from purenets import optim, random
        >>> def value_and_grad(params):
        ...     grad = np.array([1.0, 100.0]) * params["w"]
        ...     return (grad * params["w"]).sum() / 2, {"w": grad}
        >>> estimate = optim.hutchinson_diagonal()
        >>> estimate(value_and_grad, {"w": np.ones(2)}, random.key(0))["w"].round(3)
        array([  1., 100.])

    Source:
        Liu et al. 2023, arXiv 2305.14342, algorithm 1.
    """
    expect_numbers("hutchinson_diagonal", POSITIVE, step=step)

    def estimate(value_and_grad_fn, params, key):
        signs = random_signs(key, params)
        return _between_rounded(value_and_grad_fn, params, signs, own_leaves(params), step)

    return estimate


def _between_rounded(f: Callable, params: Params, signs: Params, own: Params, step: float):
    """Return the estimate for params that f rounds to the dtypes of `own`."""

    def point(sign):
        def leaf(p, u, narrow):
            xp = namespace(narrow)
            limits = xp.finfo(narrow.dtype)
            least = max(step, float(limits.smallest_normal))
            move = at_least(UNITS * float(limits.eps) * abs(p), least)
            return widened(xp.astype(p + sign * move * u, narrow.dtype))

        return tree.map(leaf, params, signs, {name: own[name] for name in params})

    points = point(1.0), point(-1.0)
    slopes = [f(at)[1] for at in points]
    return tree.map(lambda a, b, p, q: (a - b) / (p - q), *slopes, *points)


def random_signs(key: Array, params: Params) -> Params:
    """Return 1 or -1 for each element, by one draw for all leaves."""
    places = tree.views_at(tree.flat_layout(params))
    drawn = places(random.bernoulli(key, 0.5, (tree.size(params),)))

    def signs(p, positive):
        one = namespace(p).ones_like(p)
        return namespace(p).where(positive, one, -one)

    return tree.map(signs, params, drawn)
