"""Conjugate gradients over dicts of params, and Gauss-Newton steps without a matrix.

    x, info = cg(damped(lambda v: ggn_vp(outputs, loss, params, v), 1e-3), grads, maxiter=50)

    grad_fn = gauss_newton_grad_fn(model, damping=1e-3)    # as any grad_fn
    step = make_step(grad_fn, optim.sgd(1.0))

Operators are functions v -> A v over dicts like the params.
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
    """Return the solution of A x = b for a positive definite operator A, by conjugate gradients.

    It stops where |b - A x| <= max(tol |b|, atol), or after `maxiter` products. Where values cannot
    be read (under torch.func.vmap or `jit`) it makes all `maxiter` iterations, and what has
    converged stays as it is.

    Args:
        A: v -> A v over dicts like `b`.
        b: the right-hand side, a nested dict of tensors.
        x0: where to begin; 0 by default.
        tol: the tolerance relative to |b|.
        atol: the absolute tolerance.
        maxiter: the most iterations; 10 times the number of elements by default.
        M: the preconditioner, v -> an approximation of A^-1 v.

    Returns:
        x, a dict like `b`, and the dict of "residual", the norm of b - A x as the recursion tracks
        it, and "iterations".

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.conjugate_gradients import cg
        >>> A = lambda v: {"w": torch.tensor([1.0, 2.0]) * v["w"]}
        >>> x, info = cg(A, {"w": torch.tensor([1.0, 4.0])})
        >>> x["w"].round(decimals=3), int(info["iterations"])
        (tensor([1., 2.]), 2)

    Source:
        Hestenes and Stiefel 1952, "Methods of conjugate gradients for solving linear systems";
        jax.scipy.sparse.linalg.cg.
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
    residual = carry["r"].norm()
    x = torch.where(residual.isfinite(), carry["x"], torch.nan)  # of a b that is not finite
    info = {"residual": residual, "iterations": carry["iterations"]}
    return unravel(x.to(vector.dtype)), info


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
    """Return the gradient function of Gauss-Newton steps, (G + damping I)^-1 g.

    G is the Gauss-Newton matrix of the batch, g the gradient; the system is solved by `cg`. With
    `optim.sgd(1.0)` a step is one of Hessian-free optimization, and of the natural gradient for a
    cross-entropy.

    Args:
        model: the network.
        loss: `loss(logits, targets) -> scalar`, convex in the logits.
        metrics: as in `grad_fn`.
        damping: added to the diagonal of G.
        tol, maxiter: those of `cg`.

    Returns:
        A gradient function, `f(params, buffers, batch, key) -> (grads, (buffers, metrics))`.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.analysis.conjugate_gradients import gauss_newton_grad_fn
        >>> model = layers.Linear(1, 1, bias=False)
        >>> loss = lambda z, y: ((z - y) ** 2).mean()
        >>> grad = gauss_newton_grad_fn(model, loss, damping=0.0)
        >>> batch = torch.tensor([[2.0]]), torch.tensor([[6.0]])
        >>> params = {"weight": torch.tensor([[1.0]])}  # the optimum is 3: a step of 2
        >>> grad(params, {}, batch, None)[0]["weight"].round(decimals=3)
        tensor([[-2.]])

    Source:
        Martens 2010, "Deep learning via Hessian-free optimization".
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
