"""Linear operators as plain functions v -> A v over dicts of params, and as matrices.

    product = lambda v: hvp(f, params, v)
    to_dense(product, params)            # (n, n), for a small net
    product = damped(product, 1e-3)      # (A + 1e-3 I) v

The estimators of `trace`, `diagonal` and `quadrature` read an operator through `matrix_product`:
columns of a matrix (n, k) in, columns out.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from purenets.core import random, tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    expect_choice,
    expect_dicts,
    expect_functions,
    expect_models,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.batch import count_examples
from purenets.torch_nets.foreign_losses import is_mean
from purenets.torch_nets.grad import expect_param_tensors, expect_tensors
from purenets.torch_nets.keys import key_like

Product = Callable[[Params], Params]  # v -> A v
DISTRIBUTIONS = ("rademacher", "normal")


class MatrixProduct(NamedTuple):
    """A linear operator as a function of matrices.

    Args:
        apply: (n, k) -> (n, k), the product with each column.
        n: the number of params.
        dtype: of the columns, float32 at least.
        unravel: (n,) -> the dict.
        device: of the columns.
    """

    apply: Callable[[Tensor], Tensor]
    n: int
    dtype: torch.dtype
    unravel: Callable[[Tensor], Params]
    device: torch.device


def matrix_product(
    function: str, product: Product, params: Params, chunk_size: int | None = 1
) -> MatrixProduct:
    """Return an operator over dicts as a function of the columns of a matrix.

    Half-precision params are multiplied in their dtype; the result is float32.

    Args:
        function: the name that error messages begin with.
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        chunk_size: columns at a time: 1 for a loop, more under torch.func.vmap, None for all.

    Returns:
        A `MatrixProduct`, with `apply` from columns (n, k) to columns (n, k).

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.operators import matrix_product
        >>> params = {"w": torch.zeros(2)}
        >>> A = matrix_product("example", lambda v: {"w": 3 * v["w"]}, params)
        >>> A.apply(torch.eye(2))
        tensor([[3., 0.],
                [0., 3.]])
    """
    expect_functions(function, product=product)
    expect_dicts(function, params=params)
    expect_param_tensors(tree.flatten(params))
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise UserError(f"{function}: chunk_size is {chunk_size!r}, needs a positive integer")
    vector, unravel = tree.ravel(params)
    dtype = widened(vector).dtype

    def one(column: Tensor) -> Tensor:
        moved = product(unravel(column.to(vector.dtype)))
        return widened(tree.ravel(in_order_of(params, moved))[0])

    def apply(columns: Tensor) -> Tensor:
        rows = columns.T
        if chunk_size == 1:
            return torch.stack([one(row) for row in rows.unbind(0)], dim=1)
        return torch.func.vmap(one, chunk_size=chunk_size)(rows).T

    return MatrixProduct(apply, vector.shape[0], dtype, unravel, vector.device)


def in_order_of(params: Params, leaves: Params) -> Params:
    """Return leaves in the order of params; raise a UserError that names a leaf that differs.

    Args:
        params: the dict that gives names, shapes and order.
        leaves: a dict of floating-point tensors with the same names and shapes.

    Returns:
        The leaves, in that order.

    Raises:
        UserError: the names or shapes differ, or a leaf is no such tensor.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.operators import in_order_of
        >>> a, b = torch.zeros(1), torch.ones(1)
        >>> list(in_order_of({"a": a, "b": b}, {"b": b, "a": a}))
        ['a', 'b']
    """
    tree.check_names(leaves, params)
    return {name: _fitting(name, like, leaves[name]) for name, like in params.items()}


def _fitting(name: str, like: Tensor | Params, leaf: Tensor | Params) -> Tensor | Params:
    """Return a leaf; a UserError unless it is a tensor of the shape of `like`."""
    if isinstance(like, dict):
        return in_order_of(like, leaf)
    if not isinstance(leaf, Tensor):
        raise UserError(f"{name}: a {type(leaf).__name__}, needs a tensor; see to_torch")
    if leaf.shape != like.shape:
        shapes = f"{tuple(leaf.shape)}, expected {tuple(like.shape)}"
        raise UserError(f"{name}: shape is {shapes}, that of the params")
    if not leaf.is_floating_point():
        dtype = str(leaf.dtype).removeprefix("torch.")
        raise UserError(f"{name}: dtype is {dtype}, needs a floating-point dtype")
    return leaf


def expect_net(
    function: str, model: Model, params: Params, buffers: Buffers, batch: Batch, loss: Callable
) -> int:
    """Raise a UserError for an argument that is wrong, and return the number of examples."""
    expect_models(function, ("apply",), model=model)
    expect_functions(function, loss=loss)
    expect_dicts(function, params=params, buffers=buffers)
    expect_tensors(params, batch)
    expect_param_tensors(tree.flatten(params))
    n = count_examples(batch, function)
    if not is_mean(loss, batch[1]):
        raise UserError(
            f"{function}: loss is no mean over the examples (a sum, class weights, ignored targets)"
            ", needs one, such as (weight[y] * cross_entropy(z, y, reduction='none')).mean()"
        )
    return n


def to_dense(product: Product, params: Params, *, chunk_size: int | None = None) -> Tensor:
    """Return an operator as a matrix, by one product for each of its columns.

    Args:
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        chunk_size: products at a time under torch.func.vmap; 1 for a loop, None for all.

    Returns:
        The matrix (n, n), with n the number of params, in the order of the dict.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.curvature import hvp
        >>> from purenets.torch_nets.analysis.operators import to_dense
        >>> f = lambda p: p["w"][0] ** 2 + p["w"][0] * p["w"][1]
        >>> params = {"w": torch.zeros(2)}
        >>> to_dense(lambda v: hvp(f, params, v), params)
        tensor([[2., 1.],
                [1., 0.]])
    """
    A = matrix_product("to_dense", product, params, chunk_size)
    return A.apply(torch.eye(A.n, dtype=A.dtype, device=device_of(params)))


def damped(product: Product, damping: float | Tensor) -> Product:
    """Return the operator v -> (A + damping I) v.

    Args:
        product: v -> A v over dicts.
        damping: added to the diagonal, 0 or more.

    Returns:
        A function over the same dicts.

    Raises:
        UserError: `product` is not a function, or `damping` is negative.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.operators import damped
        >>> damped(lambda v: {"w": 2 * v["w"]}, 0.5)({"w": torch.ones(2)})
        {'w': tensor([2.5000, 2.5000])}
    """
    expect_functions("damped", product=product)
    expect_numbers("damped", NOT_NEGATIVE, damping=damping)
    return lambda v: tree.map(lambda Av, leaf: Av + damping * leaf, product(v), v)


def draw_probes(function: str, key: Tensor, A: MatrixProduct, k: int, distribution: str) -> Tensor:
    """Return k random columns v with E[v v^T] = I.

    Args:
        function: the name that error messages begin with.
        key: the source of the draws.
        A: the operator, for the number and dtype of its params.
        k: how many columns.
        distribution: "rademacher" for random signs, or "normal".

    Returns:
        A tensor (n, k).

    Raises:
        UserError: `distribution` is another name, or `key` is not a key.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.operators import draw_probes, matrix_product
        >>> A = matrix_product("example", lambda v: v, {"w": torch.zeros(100)})
        >>> key = torch.as_tensor(random.key(0))
        >>> draw_probes("example", key, A, 3, "rademacher").unique()
        tensor([-1.,  1.])
    """
    expect_choice(function, DISTRIBUTIONS, distribution=distribution)
    key = random.check_key(key_like(key, A.device))
    if distribution == "normal":
        return random.normal(key, (A.n, k), str(A.dtype).removeprefix("torch."))
    return 2 * random.bernoulli(key, 0.5, (A.n, k)).to(A.dtype) - 1


def device_of(params: Params) -> torch.device:
    """Return the device of params, that of the first leaf.

    Args:
        params: tensors by name.

    Returns:
        The device.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.operators import device_of
        >>> device_of({"w": torch.zeros(2)})
        device(type='cpu')
    """
    return next(iter(params.values())).device
