"""Curvature of the loss, as functions over dicts: nothing larger than a few dicts of params is ever
built.

f = eval_loss_fn(model, buffers, (x, y))            # params -> the loss, in evaluation mode
hvp(f, params, v)                              # H v
lanczos(lambda v: hvp(f, params, v), params, key, 20)    # the largest and smallest eigenvalues of H
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from einops import einsum
from torch import Tensor
from torch.func import grad, jacrev, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from purenets.core import random, tree
from purenets.core.arguments import (
    FINITE,
    expect_dicts,
    expect_functions,
    expect_integers,
    expect_leaves,
    expect_models,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.batch import count_examples
from purenets.core.optim.internals.elementwise import apply_updates
from purenets.torch_nets.analysis.per_example import per_example_grads
from purenets.torch_nets.grad import expect_param_tensors
from purenets.torch_nets.losses import cross_entropy

Scalar = Callable[[Params], Tensor]  # a loss as a function of the params alone


def eval_loss_fn(
    model: Model, buffers: Buffers, batch: Batch, loss: Callable = cross_entropy
) -> Scalar:
    """The loss of a batch as a function of the params, in evaluation mode."""
    expect_models("eval_loss_fn", ("apply",), model=model)
    expect_functions("eval_loss_fn", loss=loss)
    count_examples(batch, "eval_loss_fn")
    x, y = batch
    return lambda params: loss(model.apply(params, buffers, x)[0], y)


def hvp(f: Scalar, params: Params, v: Params) -> Params:
    """Return H v, the Hessian of f times v: the derivative of the gradient along v (Pearlmutter
    1994).

    Forward over reverse; where an operation of f has no forward derivative, such as a fused LSTM,
    reverse over reverse, which gives the same as H is symmetric.
    """
    expect_functions("hvp", f=f)
    expect_dicts("hvp", params=params)
    v = _in_order(v, params)
    with _differentiable_attention():
        try:
            return jvp(grad(f), (params,), (v,))[1]
        except RuntimeError as error:
            with _fallback_of(error):
                return vjp(grad(f), params)[1](v)[0]


def _jvp(f: Callable, x, v) -> tuple:
    """Return f(x) and J v, by forward mode, or where there is none by two reverse passes."""
    with _differentiable_attention():
        try:
            return jvp(f, (x,), (v,))
        except RuntimeError as error:
            with _fallback_of(error):
                y, pull = vjp(f, x)  # pull(u) = u^T J is linear in u, its transpose is J
                return y, vjp(lambda u: pull(u)[0], torch.zeros_like(y))[1](v)[0]


def _differentiable_attention():
    """Choose the attention kernel that can be differentiated twice; fused ones cannot."""
    return sdpa_kernel(SDPBackend.MATH)


@contextlib.contextmanager
def _fallback_of(error: RuntimeError) -> Iterator[None]:
    """Turn off the fused recurrent kernels of CUDA; if that fails too, show the first error as
    well.
    """
    with torch.backends.cudnn.flags(enabled=False):
        try:
            yield
        except RuntimeError as second:
            raise second from error


def ggn_vp(outputs: Callable[[Params], Tensor], loss: Scalar, params: Params, v: Params) -> Params:
    """Return the Gauss-Newton matrix J^T H_out J times v (Schraudolph 2002).

    outputs(params) are logits and loss(logits) is a number. Positive semi-definite where the loss
    is convex in the logits.
    """
    expect_functions("ggn_vp", outputs=outputs, loss=loss)
    expect_leaves("ggn_vp", params=params)
    expect_param_tensors(params)
    logits, along = _jvp(outputs, params, _in_order(v, params))
    bent = jvp(grad(loss), (logits,), (along,))[1]
    with _differentiable_attention():
        return vjp(outputs, params)[1](bent)[0]


def fisher_diagonal(
    model: Model,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    loss: Callable = cross_entropy,
    chunk_size=None,
) -> Params:
    """The diagonal of the empirical Fisher matrix: the mean of the squared gradients of single
    examples.
    """
    expect_leaves("fisher_diagonal", params=params)
    expect_param_tensors(params)
    squares = per_example_grads(
        model,
        loss,
        chunk_size=chunk_size,
        reduce=lambda grads: tree.map(lambda g: torch.square(widened(g)), grads),
    )
    return tree.map(lambda g: g.mean(0), squares(params, buffers, batch)[0])


def lanczos(
    product: Callable[[Params], Params], params: Params, key: Tensor, iterations: int = 20
) -> tuple[Tensor, list[Params]]:
    """Ritz values (k,), rising, and the directions that belong to them, of the symmetric matrix
    whose `product(v)` is given (Lanczos 1950, with full orthogonalization). The extreme ones
    converge first.

    k: `iterations`, or less where the directions are exhausted: the number of params, or the rank.
    Half-precision params are multiplied in their dtype; all else is float32.
    """
    expect_functions("lanczos", product=product)
    expect_leaves("lanczos", params=params)
    expect_param_tensors(params)
    expect_integers("lanczos", 1, iterations=iterations)
    random.check_key(key)
    vector, unravel = tree.ravel(params)
    n, dtype = tree.size(params), widened(vector).dtype
    q = random.normal(key, (n,), str(dtype).split(".")[-1])
    basis, diagonal, side = [q / q.norm()], [], []
    for _ in range(min(iterations, n)):
        moved = product(unravel(basis[-1].to(vector.dtype)))
        w = widened(tree.ravel(_in_order(moved, params))[0])
        diagonal.append(w @ basis[-1])
        for _ in range(2):  # twice is enough (Kahan)
            span = torch.stack(basis)
            w = w - span.T @ (span @ w)
        side.append(w.norm())
        if float(side[-1]) <= 1e3 * torch.finfo(dtype).eps * max(float(abs(d)) for d in diagonal):
            break
        basis.append(w / side[-1])
    return _ritz(diagonal, side, basis, unravel)


def _ritz(diagonal, side, basis, unravel):
    k = len(diagonal)
    tridiagonal = torch.diag(torch.stack(diagonal))
    if k > 1:
        beside = torch.diag(torch.stack(side[: k - 1]), 1)
        tridiagonal = tridiagonal + beside + beside.T
    values, vectors = torch.linalg.eigh(tridiagonal)
    directions = vectors.T @ torch.stack(basis[:k])
    return values, [unravel(direction) for direction in directions]


def _in_order(leaves: Params, like: Params) -> Params:
    """Return the leaves in the order of `like`; torch.func compares dicts by their order too."""
    tree.check_names(leaves, like)
    return {name: leaves[name] for name in like}


def linearize(model: Model, params: Params) -> Model:
    """The model's first-order expansion around `params`, f(p0) + J (p - p0): a `Model` that is
    linear in its params and trains as the others do, the net itself in evaluation mode. `init`
    returns p0 and the model's buffers."""
    expect_models("linearize", model=model)
    expect_leaves("linearize", params=params)
    expect_param_tensors(params)

    def init(key):
        return dict(params), model.init(key)[1]

    def apply(now, buffers, x, *, train=False, key=None):
        moved = tree.map(lambda p0, p: p - p0, params, now)
        outputs, change = _jvp(lambda p: model.apply(p, buffers, x)[0], params, moved)
        return outputs + change, buffers

    return Model(init, apply, uses_key=False, kind="Linearized")


def ntk(model: Model, params: Params, buffers: Buffers, x1: Tensor, x2: Tensor) -> Tensor:
    """Return the empirical neural tangent kernel J(x1) J(x2)^T: (n1, n2, classes, classes).

    Source: Jacot et al. 2018.
    """
    expect_models("ntk", ("apply",), model=model)
    expect_leaves("ntk", params=params)
    expect_param_tensors(params)
    for name, x in (("x1", x1), ("x2", x2)):
        if not isinstance(x, Tensor) or not x.ndim or not len(x):
            raise UserError(f"ntk: {name}: needs a tensor of one example or more, (n, ...)")

    def jacobian(x):
        one = lambda params, x: model.apply(params, buffers, x[None])[0][0]
        return vmap(jacrev(one), (None, 0))(params, x)

    j1, j2 = jacobian(x1), jacobian(x2)
    pattern = "n1 a param, n2 b param -> n1 n2 a b"
    j1, j2 = (tree.map(lambda j: widened(j).flatten(2), part) for part in (j1, j2))
    parts = [einsum(j1[name], j2[name], pattern) for name in params]
    return torch.stack(parts).sum(0)


def filter_normalized_direction(params: Params, key: Tensor) -> Params:
    """A random direction, each row (an output's weights) as long as that of the params, vectors
    left at zero: the scale of a net's layers does not show in a landscape (Li et al. 2018)."""
    expect_leaves("filter_normalized_direction", params=params)
    expect_param_tensors(params)

    def one(i, p):
        if p.ndim < 2:
            return torch.zeros_like(p)
        dtype, p = p.dtype, widened(p)
        d = random.normal(random.fold_in(key, i), p.shape, str(p.dtype).split(".")[-1])
        rows = d.flatten(1).norm(dim=1).clamp_min(1e-12)
        d = d * (p.flatten(1).norm(dim=1) / rows).reshape(-1, *[1] * (p.ndim - 1))
        return d.to(dtype)

    return {name: one(i, p) for i, (name, p) in enumerate(params.items())}


def landscape(
    f: Scalar, params: Params, directions: Sequence[Params], steps: Sequence[float]
) -> np.ndarray:
    """f(params + a d1 + b d2) for all a and b of `steps`: (steps, steps), a along the rows."""
    expect_functions("landscape", f=f)
    expect_dicts("landscape", params=params)
    if not isinstance(directions, list | tuple):
        raise UserError("landscape: directions: needs a list of two dicts")
    if len(directions) != 2:
        raise UserError(f"landscape: {len(directions)} directions, a plane needs two")
    is_listed = hasattr(steps, "__len__") and getattr(steps, "ndim", 1) == 1
    if not is_listed or isinstance(steps, str | dict):
        raise UserError(f"landscape: steps is {steps!r}, needs a list of numbers")
    if len(steps) == 0:
        raise UserError("landscape: no steps, needs one or more")
    for step in steps:
        expect_numbers("landscape", FINITE, steps=step)

    def at(a, b):
        move = tree.map(lambda d, e: a * d + b * e, *directions)
        with torch.no_grad():
            return float(f(apply_updates(params, move)))

    return np.array([[at(a, b) for b in steps] for a in steps])
