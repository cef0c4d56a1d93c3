"""Stochastic Lanczos quadrature: traces of functions of an operator, and its spectral density.

    density = spectral_measure(product, params, key, 30, num_probes=8)
    density.mean(torch.log)                        # log det A / n
    spectral_density(density, grid, sigma=0.01)    # a smooth curve

Of the operator only products are needed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from purenets.core.arguments import POSITIVE, expect_functions, expect_integers, expect_numbers
from purenets.core.base import Params, UserError
from purenets.torch_nets.analysis.operators import (
    MatrixProduct,
    Product,
    draw_probes,
    matrix_product,
)


class SpectralMeasure(NamedTuple):
    """Point masses that stand for the eigenvalues of an operator.

    Args:
        nodes: (probes, k) Ritz values.
        weights: (probes, k), each row of sum 1.
    """

    nodes: Tensor
    weights: Tensor

    def mean(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean of f over the eigenvalues: an estimate of tr f(A) / n."""
        parts = torch.where(self.weights > 0, self.weights * f(self.nodes), 0.0)  # no 0 * infinity
        return parts.sum(1).mean()


def spectral_measure(
    product: Product,
    params: Params,
    key: Tensor,
    iterations: int = 20,
    *,
    num_probes: int = 1,
    distribution: str = "rademacher",
) -> SpectralMeasure:
    """Return point masses that stand for the eigenvalues of a symmetric operator.

    For each probe v, nodes and weights form a Gaussian quadrature rule: sum w f(node) = v^T f(A) v
    / |v|^2, exactly for polynomials of degree up to 2 iterations - 1. It takes iterations *
    num_probes products with A.

    Args:
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        key: of the probes.
        iterations: steps of Lanczos' method for each probe, with full orthogonalization; at most
            the number of params.
        num_probes: random directions; the error falls as 1 / sqrt(num_probes).
        distribution: of the elements of a probe, "rademacher" (random signs) or "normal".

    Returns:
        A `SpectralMeasure`, whose `mean(f)` estimates tr f(A) / n.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.quadrature import spectral_measure
        >>> product = lambda v: {"w": torch.tensor([1.0, 2.0, 6.0]) * v["w"]}
        >>> key = torch.as_tensor(random.key(0))
        >>> measure = spectral_measure(product, {"w": torch.zeros(3)}, key, 3)
        >>> measure.nodes.round(decimals=3), measure.mean(lambda values: values).round(decimals=3)
        (tensor([[1., 2., 6.]]), tensor(3.))

    Source:
        Ubaru, Chen and Saad 2017, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature";
        Ghorbani et al. 2019, arXiv 1901.10159.
    """
    name = "spectral_measure"
    expect_integers(name, 1, iterations=iterations, num_probes=num_probes)
    A = matrix_product(name, product, params)
    V = draw_probes(name, key, A, num_probes, distribution)
    pairs = [_quadrature(A, v, min(iterations, A.n)) for v in V.unbind(1)]
    return SpectralMeasure(*map(torch.stack, zip(*pairs, strict=True)))


def slq_trace(
    f: Callable[[Tensor], Tensor],
    product: Product,
    params: Params,
    key: Tensor,
    iterations: int = 20,
    *,
    num_probes: int = 1,
    distribution: str = "rademacher",
) -> Tensor:
    """Return an estimate of tr f(A) by stochastic Lanczos quadrature.

    With `torch.log` for f it is log det A.

    Args:
        f: a function of the eigenvalues, element by element.
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        key: of the probes.
        iterations: steps of Lanczos' method for each probe.
        num_probes: random directions; the error falls as 1 / sqrt(num_probes).
        distribution: of the elements of a probe, "rademacher" (random signs) or "normal".

    Returns:
        A scalar.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.quadrature import slq_trace
        >>> product = lambda v: {"w": torch.tensor([1.0, 2.0, 6.0]) * v["w"]}
        >>> key = torch.as_tensor(random.key(0))
        >>> slq_trace(torch.log, product, {"w": torch.zeros(3)}, key, 3).round(decimals=3)  # log 12
        tensor(2.4850)

    Source:
        Ubaru, Chen and Saad 2017, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature".
    """
    expect_functions("slq_trace", f=f)
    measure = spectral_measure(
        product, params, key, iterations, num_probes=num_probes, distribution=distribution
    )
    return sum(leaf.numel() for leaf in params.values()) * measure.mean(f)


def spectral_density(measure: SpectralMeasure, grid: Tensor, sigma: float | Tensor) -> Tensor:
    """Return the density of the eigenvalues on a grid, smoothed by a normal kernel.

    Args:
        measure: what `spectral_measure` returned.
        grid: the points, (points,).
        sigma: the standard deviation of the kernel, in the units of the eigenvalues.

    Returns:
        A tensor (points,), whose integral is 1.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.quadrature import SpectralMeasure, spectral_density
        >>> measure = SpectralMeasure(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, 0.5]]))
        >>> grid = torch.linspace(-1.0, 5.0, 601)
        >>> density = spectral_density(measure, grid, sigma=0.2)
        >>> torch.trapezoid(density, grid).round(decimals=3)
        tensor(1.)

    Source:
        Ghorbani et al. 2019, arXiv 1901.10159.
    """
    expect_numbers("spectral_density", POSITIVE, sigma=sigma)
    if not isinstance(measure, SpectralMeasure) or not isinstance(grid, Tensor) or grid.ndim != 1:
        raise UserError("spectral_density: needs a spectral_measure(...) and a grid (points,)")
    z = (grid[:, None, None] - measure.nodes) / sigma
    kernel = torch.exp(-z * z / 2) / (sigma * (2 * torch.pi) ** 0.5)
    return (measure.weights * kernel).sum(2).mean(1)


def lanczos_tridiagonal(A: MatrixProduct, v: Tensor, k: int) -> Tensor:
    """Return the matrix of A in an orthonormal basis of its Krylov space at v.

    There is no branch on a value, so it runs under vmap and `jit`: where the space is exhausted the
    basis goes on with zeros, which separate what follows from what counts.

    Args:
        A: the operator, symmetric.
        v: the first direction, (n,).
        k: the dimension of the space.

    Returns:
        A tridiagonal matrix (k, k).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.operators import matrix_product
        >>> from purenets.torch_nets.analysis.quadrature import lanczos_tridiagonal
        >>> diagonal = torch.tensor([1.0, 3.0])
        >>> A = matrix_product("A", lambda v: {"w": diagonal * v["w"]}, {"w": torch.zeros(2)})
        >>> lanczos_tridiagonal(A, torch.ones(2), 2).round(decimals=3)
        tensor([[2., 1.],
                [1., 2.]])
    """
    zero = torch.zeros_like(v)
    basis, diagonal, side = [v / v.norm()], [], []
    left = torch.ones((), dtype=torch.bool, device=v.device)
    for _ in range(k):
        w = A.apply(basis[-1][:, None])[:, 0]
        # where no direction is left, a number among the eigenvalues instead of a 0 below them
        diagonal.append(torch.where(left, w @ basis[-1], diagonal[0] if diagonal else 0.0))
        span = torch.stack(basis)
        for _ in range(2):  # twice is enough (Kahan)
            w = w - span.T @ (span @ w)
        length = w.norm()
        scale = torch.stack(diagonal).abs().amax()
        left = length > 1e3 * torch.finfo(w.dtype).eps * scale
        side.append(torch.where(left, length, 0.0))
        basis.append(torch.where(left, w / torch.where(left, length, 1.0), zero))
    matrix = torch.diag(torch.stack(diagonal))
    if k == 1:
        return matrix
    beside = torch.diag(torch.stack(side[:-1]), 1)
    return matrix + beside + beside.T


def _quadrature(A: MatrixProduct, v: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the nodes and weights (k,) of the measure of A at v."""
    values, vectors = torch.linalg.eigh(lanczos_tridiagonal(A, v, k))
    return values, vectors[0] ** 2
