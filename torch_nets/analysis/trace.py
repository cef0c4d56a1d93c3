"""The trace of a linear operator from a few products with it.

All three estimates are unbiased; the error of Hutchinson's falls as 1 / sqrt(num_matvecs), that of
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


def hutchinson_trace(
    product: Product,
    params: Params,
    key: Tensor,
    num_matvecs: int,
    *,
    distribution: str = "rademacher",
    chunk_size: int | None = 1,
) -> Tensor:
    """Return the mean of v^T A v over random v, an estimate of tr A.

    Args:
        product: v -> A v over dicts like `params`.
        params: for names, shapes and dtype.
        key: of the draws.
        num_matvecs: products with A.
        distribution: of the elements of v, "rademacher" (signs, the smaller variance) or "normal".
        chunk_size: products at a time: 1 for a loop, more under `torch.func.vmap`, None for all.

    Source: Girard 1989; Hutchinson 1989.
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
    """Return Hutch++'s estimate of tr A: the trace within the range of A S, exactly, and
    Hutchinson's estimate of the rest.

    Args:
        num_matvecs: products with A, a multiple of 3: for the basis, the exact and the random part.

    Source: Meyer, Musco, Musco and Woodruff 2021, algorithm 1.
    """
    k = _parts("hutchpp_trace", num_matvecs, 3)
    A = matrix_product("hutchpp_trace", product, params, chunk_size)
    S, G = (
        draw_probes("hutchpp_trace", part, A, k, distribution)
        for part in random.split(key, 2).unbind(0)
    )
    Q, _ = torch.linalg.qr(A.apply(S))
    rest = G - Q @ (Q.T @ G)
    return (Q * A.apply(Q)).sum() + (rest * A.apply(rest)).sum() / k


def xtrace(
    product: Product, params: Params, key: Tensor, num_matvecs: int, *, chunk_size: int | None = 1
) -> Tensor:
    """Return XTrace's estimate of tr A: the mean over i of Hutch++'s with one test vector w_i and
    the basis of all others.

    The test vectors are uniform on a sphere, and w_i is scaled to its radius again after the
    projection (section 2.3), which suits flat and steep spectra alike.

    Args:
        num_matvecs: products with A, even: m = num_matvecs / 2 test vectors and a basis of m.

    Raises:
        UserError: for more test vectors than params.

    Source: Epperly, Tropp and Webber 2024, algorithm 1.2.
    """
    m = _parts("xtrace", num_matvecs, 2)
    A = matrix_product("xtrace", product, params, chunk_size)
    if m > A.n:
        raise UserError(f"xtrace: num_matvecs is {num_matvecs}, needs at most {2 * A.n} of {A.n}")
    W = sphere_columns(draw_probes("xtrace", key, A, m, "normal"))
    Q, R = torch.linalg.qr(A.apply(W))
    S, AQ = left_out_directions(R), A.apply(Q)
    within = (Q * AQ).sum() - (S * (Q.T @ AQ @ S)).sum(0)  # (m,): tr of A in each basis Q_i
    QW = Q.T @ W
    rest = W - Q @ (QW - S * (S * QW).sum(0))  # (I - Q_i Q_i^T) w_i, column by column
    moved = Q @ R - AQ @ (QW - S * (S * QW).sum(0))  # A of that, without another product
    scale = (A.n - m + 1) / (rest * rest).sum(0)
    return (within + scale * (rest * moved).sum(0)).mean()


def _parts(function: str, num_matvecs: int, parts: int) -> int:
    """Return num_matvecs / parts; a UserError unless it is a positive integer."""
    expect_integers(function, 1, num_matvecs=num_matvecs)
    if num_matvecs % parts:
        raise UserError(f"{function}: num_matvecs is {num_matvecs}, needs a multiple of {parts}")
    return num_matvecs // parts


def sphere_columns(V: Tensor) -> Tensor:
    """Return columns (n, k) of normal draws scaled to the length sqrt(n)."""
    return V * (V.shape[0] ** 0.5 / V.norm(dim=0))


def left_out_directions(R: Tensor) -> Tensor:
    """Return unit columns s_i (m, m), for A W = Q R, such that Q (I - s_i s_i^T) Q^T projects onto
    the range of all columns of A W but the i-th.

    They are the normalized rows of R^-1. Where A W has a lower rank than m, the zeros on the
    diagonal of R are lifted to rounding level: any such s_i spans what the others do not reach.
    """
    R64 = R.double()
    d = R64.diagonal()
    least = torch.finfo(R.dtype).eps * d.abs().amax()
    least = torch.where(least > 0, least, 1.0)
    lift = torch.where(d.abs() < least, torch.where(d < 0, -least, least) - d, 0.0)
    eye = torch.eye(R.shape[0], dtype=R64.dtype, device=R.device)
    inverse = torch.linalg.solve_triangular(R64 + torch.diag(lift), eye, upper=True)
    return (inverse / inverse.norm(dim=1, keepdim=True)).T.to(R.dtype)
