"""The diagonal of a linear operator from a few products with it, and that of the Gauss-Newton
matrix exactly.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jacrev, vjp, vmap

from purenets.core import tree
from purenets.core.arguments import expect_integers
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.batch import map_arrays
from purenets.torch_nets.analysis.operators import Product, draw_probes, expect_net, matrix_product
from purenets.torch_nets.analysis.per_example import check_chunk
from purenets.torch_nets.analysis.trace import _parts, left_out_directions
from purenets.torch_nets.losses import cross_entropy


def hutchinson_diag(
    product: Product,
    params: Params,
    key: Tensor,
    num_matvecs: int,
    *,
    distribution: str = "rademacher",
    chunk_size: int | None = 1,
) -> Params:
    """Return sum v * A v / sum v * v over random v, an estimate of the diagonal of A, as a dict.

    Args:
        product: v -> A v over dicts like `params`.
        num_matvecs: products with A.
        distribution: of the elements of v, "rademacher" (signs) or "normal".
        chunk_size: products at a time: 1 for a loop, more under `torch.func.vmap`, None for all.

    Source: Bekas, Kokiopoulou and Saad 2007.
    """
    expect_integers("hutchinson_diag", 1, num_matvecs=num_matvecs)
    A = matrix_product("hutchinson_diag", product, params, chunk_size)
    V = draw_probes("hutchinson_diag", key, A, num_matvecs, distribution)
    return A.unravel((V * A.apply(V)).sum(1) / (V * V).sum(1))


def xdiag(
    product: Product, params: Params, key: Tensor, num_matvecs: int, *, chunk_size: int | None = 1
) -> Params:
    """Return XDiag's estimate of the diagonal of a symmetric A: the mean over i of diag(P_i A),
    exactly, and w_i * (I - P_i) A w_i, where P_i projects onto the range of A W without column i.

    Args:
        num_matvecs: products with A, even: m = num_matvecs / 2 test vectors and a basis of m.

    Raises:
        UserError: for more test vectors than params.

    Source: Epperly, Tropp and Webber 2024, algorithm 4.1.
    """
    m = _parts("xdiag", num_matvecs, 2)
    A = matrix_product("xdiag", product, params, chunk_size)
    if m > A.n:
        raise UserError(f"xdiag: num_matvecs is {num_matvecs}, needs at most {2 * A.n} of {A.n}")
    W = draw_probes("xdiag", key, A, m, "rademacher")
    Q, R = torch.linalg.qr(A.apply(W))
    S, AQ = left_out_directions(R), A.apply(Q)
    within = (Q * AQ).sum(1) - ((Q @ S) * (AQ @ S)).mean(1)
    rest = Q @ (S * (S * R).sum(0))  # (I - P_i) A w_i, column by column
    return A.unravel(within + (W * rest).mean(1))


def ggn_diagonal(
    model: Model,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    loss: Callable = cross_entropy,
    *,
    chunk_size: int | None = None,
) -> Params:
    """Return the diagonal of the Gauss-Newton matrix of the mean loss, exactly, in evaluation mode.

    One backward pass for each output of each example (BackPACK's DiagGGNExact).

    Args:
        loss: `loss(logits, targets)`, a mean over examples, convex in the logits.
        chunk_size: examples at a time, None for all; it limits the memory.
    """
    expect_net("ggn_diagonal", model, params, buffers, batch, loss)
    check_chunk(chunk_size)

    def one(x, y):
        logits, pull = vjp(lambda p: _single_output(model, p, buffers, x), params)
        (rows,) = vmap(pull)(loss_hessian_sqrt(loss, logits, y).to(logits.dtype))
        return tree.map(lambda r: widened(r).square().sum(0), rows)

    squares = vmap(one, chunk_size=chunk_size)(*batch)
    return tree.map(lambda d: d.mean(0), squares)


def _single_output(model: Model, params: Params, buffers: Buffers, x) -> Tensor:
    """Return the outputs of one example."""
    return model.apply(params, buffers, map_arrays(lambda a: a[None], x))[0][0]


def loss_hessian_sqrt(loss: Callable, logits: Tensor, y: Tensor) -> Tensor:
    """Return s_c (C, *logits.shape), with sum_c s_c s_c^T the Hessian of one example's loss by its
    C logits.

    logits and y are those of the example. Negative curvature, which a convex loss has by rounding
    only, is cut off.
    """
    H = jacrev(grad(lambda z: loss(z[None], y[None])))(widened(logits))  # jit traces no jvp here
    size = logits.numel()
    return hessian_sqrt(H.reshape(size, size)).reshape(size, *logits.shape)


def hessian_sqrt(H: Tensor) -> Tensor:
    """Return rows s_c (C, C) with sum_c s_c s_c^T = H, for a positive semi-definite H."""
    values, vectors = torch.linalg.eigh(H)
    return (vectors * values.clamp_min(0).sqrt()).T
