"""The trace of a linear operator from a few products with it.

All three estimates are unbiased. The error of Hutchinson's falls as 1 / sqrt(num_matvecs), that of
the other two faster where the spectrum decays, as that of a Hessian or Gauss-Newton matrix does.

    product = lambda v: ggn_vp(outputs, loss, params, v)
    xtrace(product, params, key, 20)                    # a scalar
    torch.func.vmap(lambda k: xtrace(product, params, k, 20))(random.split(key, 8))
"""

import torch
from torch import Tensor

from purenets.core import random
from purenets.core.arguments import expect_integers
from purenets.core.base import Params, UserError
from purenets.torch_nets.analysis.operators import Product, draw_probes, matrix_product
from purenets.torch_nets.keys import key_like


def hutchinson_trace(
    product: Product,
    params: Params,
    key: Tensor,
    num_matvecs: int,
    *,
    distribution: str = "rademacher",
    chunk_size: int | None = 1,
) -> Tensor:
    """Return Hutchinson's estimate of the trace of an operator: the mean of v^T A v over random v.

    Its error falls as 1 / sqrt(num_matvecs).

    Args:
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        key: of the random v.
        num_matvecs: products with A.
        distribution: of the elements of v, "rademacher" (random signs, which has the smaller
            variance) or "normal".
        chunk_size: products at a time: 1 for a loop, more under torch.func.vmap, None for all.

    Returns:
        A scalar, an unbiased estimate.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.trace import hutchinson_trace
        >>> product = lambda v: {"w": torch.tensor([1.0, 2.0, 3.0]) * v["w"]}
        >>> key = torch.as_tensor(random.key(0))
        >>> hutchinson_trace(product, {"w": torch.zeros(3)}, key, 2)  # exact for a diagonal A
        tensor(6.)

    Source:
        Girard 1989; Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix".
    """
    expect_integers("hutchinson_trace", 1, num_matvecs=num_matvecs)
    A = matrix_product("hutchinson_trace", product, params, chunk_size)
    V = draw_probes("hutchinson_trace", key, A, num_matvecs, distribution)
    return (V * A.apply(V)).sum() / num_matvecs


def hutchpp_trace(
    product: Product,
    params: Params,
    key: Tensor,
    num_matvecs: int,
    *,
    distribution: str = "rademacher",
    chunk_size: int | None = 1,
) -> Tensor:
    """Return Hutch++'s estimate of the trace of an operator.

    It is the trace within the range of A S, exactly, and Hutchinson's estimate of the rest. It is
    exact for an A of low rank, and good where the spectrum decays.

    Args:
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        key: of the random S and v.
        num_matvecs: products with A, a multiple of 3: a third each for the basis, the exact and the
            random part.
        distribution: of the random elements, "rademacher" (random signs) or "normal".
        chunk_size: products at a time: 1 for a loop, more under torch.func.vmap, None for all.

    Returns:
        A scalar, an unbiased estimate.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.trace import hutchpp_trace
        >>> u = torch.tensor([1.0, 2.0, 4.0])  # A = u u^T
        >>> product = lambda v: {"w": u * (u @ v["w"])}
        >>> key = torch.as_tensor(random.key(0))
        >>> hutchpp_trace(product, {"w": torch.zeros(3)}, key, 3).round(decimals=3)
        tensor(21.)

    Source:
        Meyer et al. 2021, arXiv 2010.09649, algorithm 1.
    """
    k = check_parts("hutchpp_trace", num_matvecs, 3)
    A = matrix_product("hutchpp_trace", product, params, chunk_size)
    S, G = (
        draw_probes("hutchpp_trace", part, A, k, distribution)
        for part in random.split(key_like(key, params), 2).unbind(0)
    )
    Q, _ = torch.linalg.qr(A.apply(S))
    rest = G - Q @ (Q.T @ G)
    return (Q * A.apply(Q)).sum() + (rest * A.apply(rest)).sum() / k


def xtrace(
    product: Product, params: Params, key: Tensor, num_matvecs: int, *, chunk_size: int | None = 1
) -> Tensor:
    """Return XTrace's estimate of the trace of an operator, which makes the most of each product.

    It is the mean over i of Hutch++'s estimate with one test vector w_i and the basis of all
    others. The test vectors are uniform on a sphere, and w_i is scaled to its radius again after
    the projection (section 2.3), which suits flat and steep spectra alike.

    Args:
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        key: of the test vectors.
        num_matvecs: products with A, an even number: one half for test vectors, one for the basis.
        chunk_size: products at a time: 1 for a loop, more under torch.func.vmap, None for all.

    Returns:
        A scalar, an unbiased estimate.

    Raises:
        UserError: an argument is wrong, or there are more test vectors than params.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.trace import xtrace
        >>> u = torch.tensor([1.0, 2.0, 4.0])  # A = u u^T
        >>> product = lambda v: {"w": u * (u @ v["w"])}
        >>> key = torch.as_tensor(random.key(0))
        >>> xtrace(product, {"w": torch.zeros(3)}, key, 4).round(decimals=3)
        tensor(21.)

    Source:
        Epperly, Tropp and Webber 2024, arXiv 2301.07825, algorithm 1.2.
    """
    m = check_parts("xtrace", num_matvecs, 2)
    A = matrix_product("xtrace", product, params, chunk_size)
    if m > A.n:
        raise UserError(f"xtrace: num_matvecs is {num_matvecs}, needs at most 2 * {A.n} params")
    W = sphere_columns(draw_probes("xtrace", key, A, m, "normal"))
    Q, R = torch.linalg.qr(A.apply(W))
    S, AQ = left_out_directions(R), A.apply(Q)
    within = (Q * AQ).sum() - (S * (Q.T @ AQ @ S)).sum(0)  # (m,): tr of A in each basis Q_i
    QW = Q.T @ W
    rest = W - Q @ (QW - S * (S * QW).sum(0))  # (I - Q_i Q_i^T) w_i, column by column
    moved = Q @ R - AQ @ (QW - S * (S * QW).sum(0))  # A of that, without another product
    scale = (A.n - m + 1) / (rest * rest).sum(0)
    return (within + scale * (rest * moved).sum(0)).mean()


def check_parts(function: str, num_matvecs: int, parts: int) -> int:
    """Return num_matvecs / parts; a UserError unless it is a positive integer."""
    expect_integers(function, 1, num_matvecs=num_matvecs)
    if num_matvecs % parts:
        raise UserError(f"{function}: num_matvecs is {num_matvecs}, needs a multiple of {parts}")
    return num_matvecs // parts


def sphere_columns(V: Tensor) -> Tensor:
    """Return columns scaled to the length sqrt(n).

    Args:
        V: normal draws, (n, k).

    Returns:
        A tensor (n, k), uniform on a sphere.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.trace import sphere_columns
        >>> sphere_columns(torch.ones(4, 1) * 3).norm(dim=0)
        tensor([2.])
    """
    return V * (V.shape[0] ** 0.5 / V.norm(dim=0))


def left_out_directions(R: Tensor) -> Tensor:
    """Return unit columns s_i such that Q (I - s_i s_i^T) Q^T leaves out column i of A W = Q R.

    It projects onto the range of all other columns. The s_i are the normalized rows of R^-1. Where
    A W has a lower rank than m, the zeros on the diagonal of R are lifted to rounding level: any
    such s_i spans what the others do not reach.

    Args:
        R: the upper triangular factor, (m, m).

    Returns:
        A tensor (m, m) with the columns s_i.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.trace import left_out_directions
        >>> left_out_directions(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    R64 = R.double()
    d = R64.diagonal()
    least = torch.finfo(R.dtype).eps * d.abs().amax()
    least = torch.where(least > 0, least, 1.0)
    lift = torch.where(d.abs() < least, torch.where(d < 0, -least, least) - d, 0.0)
    eye = torch.eye(R.shape[0], dtype=R64.dtype, device=R.device)
    inverse = torch.linalg.solve_triangular(R64 + torch.diag(lift), eye, upper=True)
    return (inverse / inverse.norm(dim=1, keepdim=True)).T.to(R.dtype)
