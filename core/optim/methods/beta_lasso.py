"""Sparse weights: an optimizer that leaves few of them."""

from purenets.core import tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    expect_functions,
    expect_numbers,
    expect_optimizers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Array, Optimizer
from purenets.core.optim.internals.arithmetic import sign
from purenets.core.optim.internals.extra_args import like_inner
from purenets.core.optim.internals.precision import any_dtype, real_only
from purenets.core.optim.wrappers import Predicate, is_matrix


def beta_lasso(
    optimizer: Optimizer, lam: float, beta: float = 50.0, where: Predicate = is_matrix
) -> Optimizer:
    """Return `optimizer` for the loss plus lam |p|_1 that sets all weights below beta lam to 0.

    Both for the leaves that `where(name, leaf)` picks. A weight at 0 comes back
    where a single update lifts it over the threshold.

    Source: B. Neyshabur 2020, arXiv 2007.13657, algorithm 1.
    """
    expect_optimizers("beta_lasso", optimizer=optimizer)
    expect_numbers("beta_lasso", NOT_NEGATIVE, lam=lam, beta=beta)
    expect_functions("beta_lasso", where=where)

    def update(grads, state, params, **extra):
        picked = {name: p for name, p in params.items() if where(name, p)}
        pulled = {name: grads[name] + lam * sign(p) for name, p in picked.items()}
        updates, state = optimizer.update(grads | pulled, state, params, **extra)
        return updates | tree.map(cut, picked, {name: updates[name] for name in picked}), state

    def cut(p: Array, u: Array) -> Array:
        return namespace(p).where(abs(p + u) < beta * lam, -p, u)

    sparse = any_dtype(Optimizer(optimizer.init, like_inner(update, [optimizer])))
    return real_only("beta_lasso", sparse)
