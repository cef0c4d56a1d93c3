"""Sparse weights: an optimizer that leaves few of them."""

from purenets.core import tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    expect_call,
    expect_numbers,
    expect_optimizers,
)
from purenets.core.arrays import namespace
from purenets.core.base import (
    Array,
    Optimizer,
    Params,
)
from purenets.core.optim.internals.arithmetic import sign
from purenets.core.optim.internals.extra_args import like_inner
from purenets.core.optim.internals.order import (
    expect_descent,
    expect_no_average,
    expect_no_penalized_search,
    order_of_wrapper,
    with_order,
)
from purenets.core.optim.internals.patterns import (
    checking_patterns,
    picks,
)
from purenets.core.optim.internals.precision import any_dtype, own_leaves, real_only
from purenets.core.optim.wrappers import Predicate, is_matrix


def beta_lasso(
    optimizer: Optimizer, lam: float, beta: float = 50.0, where: Predicate = is_matrix
) -> Optimizer:
    """Return an optimizer that sets small weights to 0: an L1 penalty and a threshold.

    The gradient gets lam * sign(p), and a weight that ends within beta * lam of 0 is set to 0. It
    comes back only if a single update lifts it over the threshold.

    Args:
        optimizer: the optimizer to wrap.
        lam: the factor of the L1 penalty.
        beta: the threshold, in units of lam.
        where: `where(name, leaf) -> bool`, the leaves that become sparse; matrices by default.

    Returns:
        An optimizer for real params, with the state of the one it wraps.

    Raises:
        UserError: optimizer is not an Optimizer, averages the params (`ema`, `swa`), has no
            learning rate or is a line search (add the penalty to its loss), lam or beta is negative
            or not finite, or where is not a function; from `init`: a leaf is complex, or a pattern
            of `named` or `not_named` matches no leaf.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.beta_lasso(optim.sgd(0.1), lam=0.01, beta=50)
        >>> params, grads = {"w": np.array([[1.0, 0.3]])}, {"w": np.zeros((1, 2))}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> optim.apply_updates(params, updates)["w"]  # 0.299 is below 50 * 0.01
        array([[0.999, 0.   ]])

    Source:
        Neyshabur 2020, arXiv 2007.13657, algorithm 1.
    """
    expect_optimizers("beta_lasso", optimizer=optimizer)
    expect_numbers("beta_lasso", NOT_NEGATIVE, lam=lam, beta=beta)
    expect_call("beta_lasso", ("name", "leaf"), where=where)
    expect_no_average("beta_lasso", optimizer)
    expect_descent("beta_lasso", optimizer=optimizer)
    if lam:
        expect_no_penalized_search("beta_lasso", optimizer)

    def chosen(params: Params) -> Params:
        own = own_leaves(params)
        picked = [name for name in params if picks("beta_lasso", where, name, own[name])]
        return {name: params[name] for name in picked}

    def init(params):
        chosen(params)  # refuses what is no predicate
        return optimizer.init(params)

    def update(grads, state, params, **extra):
        picked = chosen(params)
        pulled = {name: grads[name] + lam * sign(p) for name, p in picked.items()}
        updates, state = optimizer.update(grads | pulled, state, params, **extra)
        return updates | tree.map(cut, picked, {name: updates[name] for name in picked}), state

    def cut(p: Array, u: Array) -> Array:
        return namespace(p).where(abs(p + u) < beta * lam, -p, u)

    inner = Optimizer(init, like_inner(update, [optimizer]))
    order = order_of_wrapper([optimizer])._replace(penalizes=lam > 0)
    sparse = any_dtype(with_order(order, inner))
    return real_only("beta_lasso", checking_patterns("beta_lasso", where, sparse))
