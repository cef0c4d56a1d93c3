"""The diagonal of an operator from a few products; that of the Gauss-Newton matrix exactly."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jacrev, vjp, vmap

from purenets.core import tree
from purenets.core.arguments import expect_integers
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.torch_nets.analysis.operators import Product, draw_probes, expect_net, matrix_product
from purenets.torch_nets.analysis.per_example import check_chunk
from purenets.torch_nets.analysis.single_output import single_output
from purenets.torch_nets.analysis.trace import check_parts, left_out_directions
from purenets.torch_nets.foreign_losses import (
    expect_mean_of_examples,
    loss_of_one,
    may_be_no_mean,
)
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
    """Return Hutchinson's estimate of the diagonal of an operator, sum v * A v / sum v * v.

    Args:
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        key: of the random v.
        num_matvecs: products with A.
        distribution: of the elements of v, "rademacher" (random signs) or "normal".
        chunk_size: products at a time: 1 for a loop, more under torch.func.vmap, None for all.

    Returns:
        A dict like the params.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.diagonal import hutchinson_diag
        >>> product = lambda v: {"w": torch.tensor([1.0, 2.0, 3.0]) * v["w"]}
        >>> key = torch.as_tensor(random.key(0))
        >>> hutchinson_diag(product, {"w": torch.zeros(3)}, key, 2)  # exact for a diagonal A
        {'w': tensor([1., 2., 3.])}

    Source:
        Bekas, Kokiopoulou and Saad 2007, "An estimator for the diagonal of a matrix".
    """
    expect_integers("hutchinson_diag", 1, num_matvecs=num_matvecs)
    A = matrix_product("hutchinson_diag", product, params, chunk_size)
    V = draw_probes("hutchinson_diag", key, A, num_matvecs, distribution)
    return A.unravel((V * A.apply(V)).sum(1) / (V * V).sum(1))


def xdiag(
    product: Product, params: Params, key: Tensor, num_matvecs: int, *, chunk_size: int | None = 1
) -> Params:
    """Return XDiag's estimate of the diagonal of a symmetric operator.

    It is the mean over i of diag(P_i A), exactly, and w_i * (I - P_i) A w_i, where P_i projects
    onto the range of A W without its column i. It is exact for an A of low rank, and good where the
    spectrum decays.

    Args:
        product: v -> A v over dicts like `params`.
        params: a dict that gives names, shapes and dtype.
        key: of the test vectors w_i.
        num_matvecs: products with A, an even number: one half for test vectors, one for the basis.
        chunk_size: products at a time: 1 for a loop, more under torch.func.vmap, None for all.

    Returns:
        A dict like the params.

    Raises:
        UserError: an argument is wrong, or there are more test vectors than params.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.diagonal import xdiag
        >>> u = torch.tensor([1.0, 2.0, 4.0])  # A = u u^T
        >>> product = lambda v: {"w": u * (u @ v["w"])}
        >>> key = torch.as_tensor(random.key(0))
        >>> xdiag(product, {"w": torch.zeros(3)}, key, 4)["w"].round(decimals=3)
        tensor([ 1.,  4., 16.])

    Source:
        Epperly, Tropp and Webber 2024, arXiv 2301.07825, algorithm 4.1.
    """
    m = check_parts("xdiag", num_matvecs, 2)
    A = matrix_product("xdiag", product, params, chunk_size)
    if m > A.n:
        raise UserError(f"xdiag: num_matvecs is {num_matvecs}, needs at most 2 * {A.n} params")
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
    """Return the exact diagonal of the Gauss-Newton matrix of the mean loss, in evaluation mode.

    It takes one backward pass for each output of each example.

    Args:
        model: the network.
        params: tensors by name.
        buffers: tensors by name.
        batch: (inputs, targets).
        loss: `loss(logits, targets) -> scalar`, a mean over examples, convex in the logits.
        chunk_size: examples at a time, which limits the memory; None for all.

    Returns:
        A dict like the params.

    Raises:
        UserError: an argument is wrong, or the batch is empty.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.diagonal import ggn_diagonal
        >>> model, params = layers.Linear(2, 1, bias=False), {"weight": torch.zeros(1, 2)}
        >>> batch = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 1)  # G = 2 x x^T
        >>> ggn_diagonal(model, params, {}, batch, losses.mse)["weight"].round(decimals=3)
        tensor([[2., 8.]])

    Source:
        DiagGGNExact of BackPACK: Dangel et al. 2020, arXiv 1912.10985.
    """
    expect_net("ggn_diagonal", model, params, buffers, batch, loss)
    check_chunk(chunk_size)
    expect_mean_loss(loss, lambda: model.apply(params, buffers, batch[0])[0], batch[1])

    def one(x, y):
        logits, pull = vjp(lambda p: single_output(model, p, buffers, x), params)
        (rows,) = vmap(pull)(loss_hessian_sqrt(loss, logits, y).to(logits.dtype))
        return tree.map(lambda r: widened(r).square().sum(0), rows)

    squares = vmap(one, chunk_size=chunk_size)(*batch)
    return tree.map(lambda d: d.mean(0), squares)


def expect_mean_loss(loss: Callable, logits: Callable[[], Tensor], targets: Tensor) -> None:
    """Raise a UserError for a loss of a batch that is not the mean of those of its examples.

    Args:
        loss: `loss(logits, targets) -> scalar`.
        logits: a function that returns them, (n, ...); called where they are needed.
        targets: (n, ...).
    """
    if not may_be_no_mean(loss):
        return
    with torch.no_grad():
        outputs, of_one = logits(), loss_of_one(loss)
        values = vmap(lambda z, y: of_one(z[None], y[None]))(outputs, targets)
    expect_mean_of_examples(loss, outputs, targets, values)


def loss_hessian_sqrt(loss: Callable, logits: Tensor, y: Tensor) -> Tensor:
    """Return a square root of the Hessian of one example's loss by its logits.

    Negative curvature, which a convex loss has by rounding only, is cut off.

    Args:
        loss: `loss(logits, targets) -> scalar`.
        logits: of one example, C elements.
        y: the target of that example.

    Returns:
        s, (C, *logits.shape), with sum_c s_c s_c^T the Hessian.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import losses
        >>> from purenets.torch_nets.analysis.diagonal import loss_hessian_sqrt
        >>> s = loss_hessian_sqrt(losses.cross_entropy, torch.zeros(2), torch.tensor(0))
        >>> (s.T @ s).round(decimals=3)  # diag(p) - p p^T
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]])
    """
    of_one = loss_of_one(loss)
    H = jacrev(grad(lambda z: of_one(z[None], y[None])))(widened(logits))  # jit traces no jvp here
    size = logits.numel()
    return hessian_sqrt(H.reshape(size, size)).reshape(size, *logits.shape)


def hessian_sqrt(H: Tensor) -> Tensor:
    """Return rows s_c with sum_c s_c s_c^T = H, for a positive semi-definite H.

    Args:
        H: (C, C).

    Returns:
        A tensor (C, C).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.diagonal import hessian_sqrt
        >>> hessian_sqrt(torch.diag(torch.tensor([4.0, 9.0]))).abs()
        tensor([[2., 0.],
                [0., 3.]])
    """
    values, vectors = torch.linalg.eigh(H)
    return (vectors * values.clamp_min(0).sqrt()).T
