"""Curvature of the loss, as functions over dicts.

    f = eval_loss_fn(model, buffers, (x, y))                 # params -> loss, in evaluation
    hvp(f, params, v)                                        # H v
    lanczos(lambda v: hvp(f, params, v), params, key, 20)    # extreme eigenvalues of H

No matrix is ever built.
"""

import contextlib
import math
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
from purenets.core.serial import expect_output, own_or_drawn_leaves
from purenets.torch_nets.analysis.operators import in_order_of
from purenets.torch_nets.analysis.per_example import per_example_grads
from purenets.torch_nets.analysis.single_output import single_output
from purenets.torch_nets.foreign_losses import checked_loss
from purenets.torch_nets.grad import expect_param_tensors
from purenets.torch_nets.keys import key_like
from purenets.torch_nets.losses import cross_entropy

Scalar = Callable[[Params], Tensor]  # a loss as a function of the params alone


def eval_loss_fn(
    model: Model, buffers: Buffers, batch: Batch, loss: Callable = cross_entropy
) -> Scalar:
    """Return the loss of a batch as a function of the params alone, in evaluation mode.

    Args:
        model: the network.
        buffers: tensors by name.
        batch: (inputs, targets).
        loss: `loss(logits, targets) -> scalar`.

    Returns:
        `f(params) -> scalar`, for `hvp` and `landscape`.

    Raises:
        UserError: an argument is wrong, or the batch is empty.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.curvature import eval_loss_fn
        >>> batch = torch.tensor([[3.0]]), torch.tensor([[0.0]])
        >>> f = eval_loss_fn(layers.Linear(1, 1, bias=False), {}, batch, losses.mse)
        >>> f({"weight": torch.tensor([[2.0]])})
        tensor(36.)
    """
    expect_models("eval_loss_fn", ("apply",), model=model)
    loss = checked_loss("eval_loss_fn", loss)
    count_examples(batch, "eval_loss_fn")
    x, y = batch
    return lambda params: loss(expect_output(model.apply(params, buffers, x))[0], y)


def hvp(f: Scalar, params: Params, v: Params) -> Params:
    """Return H v, the product of the Hessian of f with a vector, without the Hessian.

    It is the derivative of the gradient along v: forward mode over reverse mode, or where an
    operation of f has no forward derivative, such as a fused LSTM, reverse over reverse. The result
    is the same.

    Args:
        f: `f(params) -> scalar`, such as `eval_loss_fn(...)`.
        params: where the Hessian is taken.
        v: a dict with the same names and shapes.

    Returns:
        A dict like the params.

    Raises:
        UserError: `f` is not a function, or names or shapes of v differ.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.curvature import hvp
        >>> f = lambda p: p["x"] ** 3 + p["x"] * p["y"]  # H = [[6 x, 1], [1, 0]]
        >>> params = {"x": torch.tensor(1.0), "y": torch.tensor(0.0)}
        >>> hvp(f, params, {"x": torch.tensor(1.0), "y": torch.tensor(0.0)})
        {'x': tensor(6.), 'y': tensor(1.)}

    Source:
        Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    expect_functions("hvp", f=f)
    expect_dicts("hvp", params=params)
    return _hessian_product(f, params, in_order_of(params, v))


def _hessian_product(f: Callable, x, v):
    """Return H v, by forward over reverse mode, or where there is none by two reverse passes."""
    with _differentiable_attention():
        try:
            return jvp(grad(f), (x,), (v,))[1]
        except RuntimeError as error:
            with _fallback_of(error):
                return vjp(grad(f), x)[1](v)[0]


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
    """Return the product of the Gauss-Newton matrix J^T H_out J with a vector, without the matrix.

    J is the Jacobian of the logits, H_out the Hessian of the loss by them. The matrix is positive
    semi-definite where the loss is convex in the logits, and equals the Fisher matrix for a
    cross-entropy.

    Args:
        outputs: `outputs(params) -> logits`.
        loss: `loss(logits) -> scalar`.
        params: where the matrix is taken.
        v: a dict with the same names and shapes.

    Returns:
        A dict like the params.

    Raises:
        UserError: an argument is wrong, or the names of v differ.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.curvature import ggn_vp
        >>> outputs = lambda p: p["w"] ** 2  # J = 2 w
        >>> loss = lambda z: (z**2).sum()  # H_out = 2
        >>> ggn_vp(outputs, loss, {"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])})
        {'w': tensor([72.])}

    Source:
        Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent".
    """
    expect_functions("ggn_vp", outputs=outputs, loss=loss)
    expect_leaves("ggn_vp", params=params)
    expect_param_tensors(params)
    logits, along = _jvp(outputs, params, in_order_of(params, v))
    bent = _hessian_product(loss, logits, along)
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
    """Return the diagonal of the empirical Fisher matrix, the mean of squared gradients.

    The gradients are those of single examples.

    Args:
        model: the network.
        params: tensors by name.
        buffers: tensors by name.
        batch: (inputs, targets).
        loss: `loss(logits, targets) -> scalar`, a mean over the examples, called with batches of
            one.
        chunk_size: examples at a time, which limits the memory; None for all.

    Returns:
        A dict like the params, in float32 for half-precision params.

    Raises:
        UserError: an argument is wrong, or the batch is empty.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.curvature import fisher_diagonal
        >>> model, params = layers.Linear(1, 1, bias=False), {"weight": torch.tensor([[1.0]])}
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)  # the gradients are 2 and 8
        >>> fisher_diagonal(model, params, {}, batch, losses.mse)
        {'weight': tensor([[34.]])}

    Source:
        Kirkpatrick et al. 2017, arXiv 1612.00796; its limits: Kunstner et al. 2019, arXiv
        1905.12558.
    """
    expect_leaves("fisher_diagonal", params=params)
    expect_param_tensors(params)
    squares = per_example_grads(
        model,
        loss,
        chunk_size=chunk_size,
        reduce=lambda grads: tree.map(_squared, grads),
    )
    return tree.map(lambda g: g.mean(0), squares(params, buffers, batch)[0])


def _squared(g: Tensor) -> Tensor:
    """Return |g|^2 of each element: real, in float32 at least."""
    g = widened(g)
    return (g * g.conj()).real if g.is_complex() else torch.square(g)


def lanczos(
    product: Callable[[Params], Params], params: Params, key: Tensor, iterations: int = 20
) -> tuple[Tensor, list[Params]]:
    """Return approximate eigenvalues and eigenvectors of a symmetric operator.

    It is Lanczos' method with full orthogonalization, from a random direction. The largest and the
    smallest eigenvalues converge first, within few products.

    Args:
        product: v -> A v over dicts like `params`, such as `lambda v: hvp(f, params, v)`.
        params: a dict that gives names, shapes and dtype.
        key: of the first direction.
        iterations: products with A, k. Fewer are made where the directions are exhausted, by the
            number of params or the rank. Half-precision params are multiplied in their dtype; all
            else is float32.

    Returns:
        The Ritz values (k,) in ascending order, and a list of the k directions, dicts like the
        params.

    Raises:
        UserError: an argument is wrong, or a product is not finite.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.curvature import lanczos
        >>> product = lambda v: {"w": torch.tensor([1.0, 2.0, 5.0]) * v["w"]}
        >>> key = torch.as_tensor(random.key(0))
        >>> values, directions = lanczos(product, {"w": torch.zeros(3)}, key, 3)
        >>> values.round(decimals=3)
        tensor([1., 2., 5.])

    Source:
        Lanczos 1950, "An iteration method for the solution of the eigenvalue problem".
    """
    expect_functions("lanczos", product=product)
    expect_leaves("lanczos", params=params)
    expect_param_tensors(params)
    expect_integers("lanczos", 1, iterations=iterations)
    key = random.check_key(key_like(key, params))
    vector, unravel = tree.ravel(params)
    n, dtype = tree.size(params), widened(vector).dtype
    q = random.normal(key, (n,), str(dtype).split(".")[-1])
    basis, diagonal, side = [q / q.norm()], [], []
    for _ in range(min(iterations, n)):
        moved = product(unravel(basis[-1].to(vector.dtype)))
        w = widened(tree.ravel(in_order_of(params, moved))[0])
        diagonal.append(w @ basis[-1])
        for _ in range(2):  # twice is enough (Kahan)
            span = torch.stack(basis)
            w = w - span.T @ (span @ w)
        side.append(w.norm())
        if not math.isfinite(float(side[-1])):
            raise UserError(
                f"lanczos: product {len(diagonal)} is not finite; are params, batch and loss?"
            )
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


def linearize(model: Model, params: Params) -> Model:
    """Return the first-order expansion of a model around given params, f(p0) + J (p - p0).

    It is a model that is linear in its params, and trains as any other. The net runs in evaluation
    mode.

    Args:
        model: the network.
        params: p0.

    Returns:
        A model with params and buffers like those of `model`; `init` returns p0.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.analysis.curvature import linearize
        >>> net = layers.serial(fc=layers.Linear(1, 1, bias=False), tanh=layers.Tanh())
        >>> linear = linearize(net, {"fc.weight": torch.tensor([[0.0]])})  # tanh(w x) = w x + ...
        >>> linear.apply({"fc.weight": torch.tensor([[2.0]])}, {}, torch.ones(1, 1))[0]
        tensor([[2.]])

    Source:
        Lee et al. 2019, arXiv 1902.06720.
    """
    expect_models("linearize", model=model)
    expect_leaves("linearize", params=params)
    expect_param_tensors(params)

    def init(key):
        return dict(params), own_or_drawn_leaves(model, key)[1]

    def apply(now, buffers, x, *, train=False, key=None):
        moved = tree.map(lambda p0, p: p - p0, params, in_order_of(params, now))
        outputs, change = _jvp(lambda p: model.apply(p, buffers, x)[0], params, moved)
        return outputs + change, buffers

    return Model(init, apply, uses_key=False, kind="Linearized")


def ntk(model: Model, params: Params, buffers: Buffers, x1: Tensor, x2: Tensor) -> Tensor:
    """Return the empirical neural tangent kernel J(x1) J(x2)^T.

    J is the Jacobian of the logits by the params, in evaluation mode.

    Args:
        model: the network.
        params: tensors by name.
        buffers: tensors by name.
        x1: inputs (n1, ...).
        x2: inputs (n2, ...).

    Returns:
        A tensor (n1, n2, classes, classes); for outputs (batch, *shape) it is (n1, n2, *shape,
        *shape), such as (n1, n2) where an example has one number.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.analysis.curvature import ntk
        >>> model, params = layers.Linear(2, 1, bias=False), {"weight": torch.zeros(1, 2)}
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> ntk(model, params, {}, x, x)[:, :, 0, 0]  # of a linear net: x1 . x2
        tensor([[5., 3.],
                [3., 9.]])

    Source:
        Jacot et al. 2018, arXiv 1806.07572.
    """
    expect_models("ntk", ("apply",), model=model)
    expect_leaves("ntk", params=params)
    expect_param_tensors(params)
    for name, x in (("x1", x1), ("x2", x2)):
        if not isinstance(x, Tensor) or not x.ndim or not len(x):
            raise UserError(f"ntk: {name}: needs a tensor of one example or more, (n, ...)")

    def jacobian(x):
        one = lambda params, x: single_output(model, params, buffers, x)
        return vmap(jacrev(one), (None, 0))(params, x)

    j1, j2 = jacobian(x1), jacobian(x2)
    name, p = next(iter(params.items()))
    shapes = [part[name].shape[1 : part[name].ndim - p.ndim] for part in (j1, j2)]
    as_matrix = lambda j, p: widened(j).reshape(len(j), -1, p.numel())  # (n, outputs, params)
    j1, j2 = (tree.map(as_matrix, part, params) for part in (j1, j2))
    pattern = "n1 a param, n2 b param -> n1 n2 a b"
    parts = [einsum(j1[name], j2[name], pattern) for name in params]
    return torch.stack(parts).sum(0).reshape(len(x1), len(x2), *shapes[0], *shapes[1])


def filter_normalized_direction(params: Params, key: Tensor) -> Params:
    """Return a random direction for `landscape`, each row with the norm of that of the params.

    A row holds the weights of one output. So the scale of the layers does not show in a landscape.
    Leaves with one axis (biases) get 0.

    Args:
        params: tensors by name.
        key: the source of the draws.

    Returns:
        A dict like the params.

    Raises:
        UserError: `params` is not a dict of tensors.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.curvature import filter_normalized_direction
        >>> params = {"weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "bias": torch.ones(2)}
        >>> direction = filter_normalized_direction(params, torch.as_tensor(random.key(0)))
        >>> direction["weight"].norm(dim=1).round(decimals=3), direction["bias"]
        (tensor([5., 1.]), tensor([0., 0.]))

    Source:
        Li et al. 2018, arXiv 1712.09913.
    """
    expect_leaves("filter_normalized_direction", params=params)
    expect_param_tensors(params)
    key = key_like(key, params)

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
    """Return a loss on a plane through the params: f(params + a d1 + b d2) for all a and b.

    Args:
        f: `f(params) -> scalar`, such as `eval_loss_fn(...)`.
        params: the origin of the plane.
        directions: d1 and d2, dicts like the params.
        steps: the values of a and of b.

    Returns:
        A NumPy array (steps, steps), with a along the rows.

    Raises:
        UserError: an argument is wrong: not two directions like the params, or no steps.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.curvature import landscape
        >>> f = lambda p: (p["w"] ** 2).sum()
        >>> directions = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}
        >>> landscape(f, {"w": torch.zeros(2)}, directions, [-1.0, 0.0, 1.0])
        array([[2., 1., 2.],
               [1., 0., 1.],
               [2., 1., 2.]])

    Source:
        Li et al. 2018, arXiv 1712.09913.
    """
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

    for direction in directions:
        in_order_of(params, direction)

    def at(a, b):
        move = tree.map(lambda d, e: a * d + b * e, *directions)
        with torch.no_grad():
            return float(f(apply_updates(params, move)))

    return np.array([[at(a, b) for b in steps] for a in steps])
