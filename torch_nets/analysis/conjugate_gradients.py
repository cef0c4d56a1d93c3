"""Conjugate gradients over dicts of params, and with them Gauss-Newton steps without a matrix.

x, info = cg(damped(lambda v: ggn_vp(outputs, loss, params, v), 1e-3), grads, maxiter=50)

grad_fn = gauss_newton_grad_fn(model, damping=1e-3)    # as any grad_fn
step = make_step(grad_fn, optim.sgd(1.0))
"""

from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core import tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    expect_dicts,
    expect_functions,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import is_tracing, widened
from purenets.core.base import Batch, Buffers, GradFn, Model, Params
from purenets.core.scan import scan
from purenets.torch_nets.analysis.curvature import ggn_vp
from purenets.torch_nets.analysis.operators import Product, damped, in_order_of
from purenets.torch_nets.grad import grad_fn
from purenets.torch_nets.losses import cross_entropy


def cg(
    A: Product,
    b: Params,
    x0: Params | None = None,
    *,
    tol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Product | None = None,
) -> tuple[Params, dict[str, Tensor]]:
    """Solve A x = b for a positive definite A by conjugate gradients; arguments as in
    `jax.scipy.sparse.linalg.cg`.

    It ends where |b - A x| <= max(tol |b|, atol), or after `maxiter` products. Where a value may
    not be read (under `torch.func.vmap` or `jit`) all `maxiter` iterations are computed, and what
    has converged stays as it is.

    Args:
        A: v -> A v over dicts like `b`.
        b: the right-hand side.
        x0: where to begin, 0 by default.
        maxiter: 10 times the number of elements by default.
        M: v -> an approximation of A^-1 v, the preconditioner.

    Returns:
        x, and a dict: "residual", the norm of b - A x as the recursion has it, and "iterations".

    Source: Hestenes and Stiefel 1952.
    """
    _check(A, b, tol, atol, M)
    maxiter = 10 * tree.size(b) if maxiter is None else maxiter
    expect_integers("cg", 1, maxiter=maxiter)
    vector, unravel = tree.ravel(b)
    wide = widened(vector)

    def on_vectors(product: Product) -> Callable[[Tensor], Tensor]:
        return lambda v: widened(
            tree.ravel(in_order_of(b, product(unravel(v.to(vector.dtype)))))[0]
        )

    multiply = on_vectors(A)
    precondition = on_vectors(M) if M else lambda r: r
    if x0 is None:
        x, r = torch.zeros_like(wide), wide
    else:
        x = widened(tree.ravel(in_order_of(b, x0))[0])
        r = wide - multiply(x)
    limit = torch.clamp_min(tol * wide.norm(), atol)
    carry = _loop(_iteration(multiply, precondition, limit), _begin(x, r, precondition), maxiter)
    return unravel(carry["x"].to(vector.dtype)), {
        "residual": carry["r"].norm(),
        "iterations": carry["iterations"],
    }


def _check(A, b, tol, atol, M) -> None:
    expect_functions("cg", A=A, **({} if M is None else {"M": M}))
    expect_dicts("cg", b=b)
    expect_numbers("cg", NOT_NEGATIVE, tol=tol, atol=atol)


def _begin(x: Tensor, r: Tensor, precondition: Callable) -> dict[str, Tensor]:
    z = precondition(r)
    count = torch.zeros((), dtype=torch.int64, device=x.device)
    return {"x": x, "r": r, "p": z, "rz": r @ z, "iterations": count}


def _iteration(multiply: Callable, precondition: Callable, limit: Tensor) -> Callable:
    """Return the function from a carry to the next, which stays the same once it has converged."""

    def iteration(carry: dict[str, Tensor], _=None):
        x, r, p, rz = (carry[name] for name in ("x", "r", "p", "rz"))
        active = r.norm() > limit
        Ap = multiply(p)
        bend = p @ Ap
        alpha = torch.where(active, rz / torch.where(active, bend, 1.0), 0.0)
        r_new = r - alpha * Ap
        z = precondition(r_new)
        rz_new = r_new @ z
        beta = rz_new / torch.where(active, rz, 1.0)
        new = {"x": x + alpha * p, "r": r_new, "p": z + beta * p, "rz": rz_new}
        new = {name: torch.where(active, leaf, carry[name]) for name, leaf in new.items()}
        return {**new, "iterations": carry["iterations"] + active}, active

    iteration.is_active = lambda carry: bool(carry["r"].norm() > limit)
    return iteration


def _loop(iteration: Callable, carry: dict[str, Tensor], maxiter: int) -> dict[str, Tensor]:
    """Return the carry after `maxiter` iterations, or sooner where values may be read."""
    if is_tracing():
        return scan(iteration, carry, None, maxiter)[0]
    for _ in range(maxiter):
        if not iteration.is_active(carry):
            break
        carry, _ = iteration(carry)
    return carry


def gauss_newton_grad_fn(
    model: Model,
    loss: Callable = cross_entropy,
    metrics: dict[str, Callable] | None = None,
    *,
    damping: float | Tensor = 1e-3,
    tol: float = 1e-5,
    maxiter: int = 20,
) -> GradFn:
    """Return the grad_fn of (G + damping I)^-1 g, with G the Gauss-Newton matrix of the batch.

    With `optim.sgd(1.0)` a step is one of Gauss-Newton (Hessian-free optimization, Martens 2010);
    for a cross-entropy it is that of the natural gradient.

    Args:
        loss: `loss(logits, targets)`, convex in the logits.
        metrics: as those of `grad_fn`.
        damping: added to the diagonal of G.
        tol, maxiter: of `cg`.
    """
    expect_numbers("gauss_newton_grad_fn", NOT_NEGATIVE, damping=damping, tol=tol)
    expect_integers("gauss_newton_grad_fn", 1, maxiter=maxiter)
    plain = grad_fn(model, loss, metrics)

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        grads, (new, found) = plain(params, buffers, batch, key)
        x, y = batch
        outputs = lambda p: model.apply(p, buffers, x, train=True, key=key)[0]
        product = lambda v: ggn_vp(outputs, lambda logits: loss(logits, y), params, v)
        solved, _ = cg(damped(product, damping), grads, tol=tol, maxiter=maxiter)
        return solved, (new, found)

    grad.uses_key = model.uses_key
    return grad
