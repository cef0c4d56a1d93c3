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
from purenets.torch_nets.grad import expect_param_tensors, expect_tensors

Product = Callable[[Params], Params]  # v -> A v
DISTRIBUTIONS = ("rademacher", "normal")


class MatrixProduct(NamedTuple):
    """A linear operator as a function of matrices.

    Args:
        apply: (n, k) -> (n, k), the product with each column.
        n: the number of params.
        dtype: of the columns, float32 at least.
        unravel: (n,) -> the dict.
    """

    apply: Callable[[Tensor], Tensor]
    n: int
    dtype: torch.dtype
    unravel: Callable[[Tensor], Params]


def matrix_product(
    function: str, product: Product, params: Params, chunk_size: int | None = 1
) -> MatrixProduct:
    """Return the product of an operator over dicts like `params` with the columns of a matrix.

    Half-precision params are multiplied in their dtype; the result is float32.

    Args:
        function: what error messages begin with.
        chunk_size: columns at a time: 1 for a loop, more under `torch.func.vmap`, None for all.
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

    return MatrixProduct(apply, vector.shape[0], dtype, unravel)


def in_order_of(params: Params, leaves: Params) -> Params:
    """Return `leaves` in the order of `params`; a UserError names a leaf that differs."""
    tree.check_names(leaves, params)
    return {name: leaves[name] for name in params}


def expect_net(
    function: str, model: Model, params: Params, buffers: Buffers, batch: Batch, loss: Callable
) -> int:
    """Raise a UserError for an argument that is wrong, and return the number of examples."""
    expect_models(function, ("apply",), model=model)
    expect_functions(function, loss=loss)
    expect_dicts(function, params=params, buffers=buffers)
    expect_tensors(params, batch)
    expect_param_tensors(tree.flatten(params))
    return count_examples(batch, function)


def to_dense(product: Product, params: Params, *, chunk_size: int | None = None) -> Tensor:
    """Return the matrix (n, n) of an operator, one product for each of its n columns."""
    A = matrix_product("to_dense", product, params, chunk_size)
    return A.apply(torch.eye(A.n, dtype=A.dtype, device=device_of(params)))


def damped(product: Product, damping: float | Tensor) -> Product:
    """Return v -> (A + damping I) v."""
    expect_functions("damped", product=product)
    expect_numbers("damped", NOT_NEGATIVE, damping=damping)
    return lambda v: tree.map(lambda Av, leaf: Av + damping * leaf, product(v), v)


def draw_probes(function: str, key: Tensor, A: MatrixProduct, k: int, distribution: str) -> Tensor:
    """Return k random columns (n, k) with E[v v^T] = I: "rademacher" signs or "normal" draws."""
    expect_choice(function, DISTRIBUTIONS, distribution=distribution)
    random.check_key(key)
    if distribution == "normal":
        return random.normal(key, (A.n, k), str(A.dtype).removeprefix("torch."))
    return 2 * random.bernoulli(key, 0.5, (A.n, k)).to(A.dtype) - 1


def device_of(params: Params) -> torch.device:
    """Return the device of the params."""
    return next(iter(params.values())).device
