"""Nets without convolution or patches for images: every unit of the first layer sees every pixel,
and nothing tells the net which pixels are neighbors. x: (batch, ...) -> logits: (batch,
n_classes)."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from purenets.core.arguments import (
    ANY,
    NOT_NEGATIVE,
    expect_functions,
    expect_numbers,
    expect_reals,
    expect_units,
)
from purenets.core.base import Model, UserError
from purenets.core.serial import expect_sizes
from purenets.torch_nets import layers
from purenets.torch_nets.pytorch_mlp import MLP


def plain_mlp(
    n_inputs: int, n_hidden: Sequence[int], n_classes: int, *, dropout: float = 0.0
) -> Model:
    """The assignment's MLP on flattened images."""
    return layers.serial(
        flatten=layers.Flatten(), mlp=MLP(n_inputs, n_hidden, n_classes, dropout=dropout)
    )


def _expect_hidden(function: str, n_inputs, n_hidden, n_classes, dropout, norm) -> None:
    expect_sizes(function, n_inputs=n_inputs, n_classes=n_classes)
    expect_units(function, "[20]", n_hidden=n_hidden)
    expect_reals(function, ANY, dropout=dropout)
    expect_functions(function, norm=norm)


def batch_norm_mlp(
    n_inputs: int,
    n_hidden: Sequence[int],
    n_classes: int,
    *,
    dropout: float = 0.0,
    norm: Callable[[int], Model] = layers.BatchNorm,
) -> Model:
    """Linear, BatchNorm, ReLU for each hidden layer (Ioffe and Szegedy 2015).

    norm: the constructor of BatchNorm, from the number of units.
    """
    _expect_hidden("batch_norm_mlp", n_inputs, n_hidden, n_classes, dropout, norm)
    row, width = {"flatten": layers.Flatten()}, n_inputs
    for i, units in enumerate(n_hidden, start=1):
        row[f"fc{i}"] = layers.Linear(width, units, bias=False)
        row[f"norm{i}"] = norm(units)
        row[f"relu{i}"] = layers.ReLU()
        if dropout:
            row[f"dropout{i}"] = layers.Dropout(dropout)
        width = units
    return layers.serial(**row, fc=layers.Linear(width, n_classes))


def residual_mlp(
    n_inputs: int,
    width: int,
    depth: int,
    n_classes: int,
    *,
    expansion: int = 4,
    dropout: float = 0.0,
    norm: Callable[[int], Model] = layers.LayerNorm,
) -> Model:
    """A linear embedding, then `depth` inverted bottlenecks x + W2 gelu(W1 norm(x)) with
    `expansion` times `width` units inside (Bachmann et al. 2023, "Scaling MLPs", arXiv 2306.13575).

    norm: the constructor of the normalization, from the number of units; LayerNorm in the paper.
    """
    expect_sizes("residual_mlp", width=width, depth=depth, expansion=expansion)
    expect_reals("residual_mlp", ANY, dropout=dropout)
    expect_functions("residual_mlp", norm=norm)
    row = {"flatten": layers.Flatten(), "embed": layers.Linear(n_inputs, width)}
    for i in range(1, depth + 1):
        block = {
            "norm": norm(width),
            "fc1": layers.Linear(width, expansion * width),
            "gelu": layers.GELU(),
            "fc2": layers.Linear(expansion * width, width),
        }
        if dropout:
            block["dropout"] = layers.Dropout(dropout)
        row[f"block{i}"] = layers.residual(**block)
    return layers.serial(**row, norm=norm(width), fc=layers.Linear(width, n_classes))


def bottleneck_mlp(
    n_inputs: int,
    n_hidden: Sequence[int],
    bottleneck: int,
    n_classes: int,
    *,
    dropout: float = 0.0,
    norm: Callable[[int], Model] = layers.BatchNorm,
) -> Model:
    """Hidden layers as in `batch_norm_mlp`, with `bottleneck` linear units between each two of
    them: the matrix between two wide layers has few params and no nonlinearity inside (Z. Lin, R.
    Memisevic and K. Konda 2015, "How far can we go without convolution", arXiv 1511.02580)."""
    _expect_hidden("bottleneck_mlp", n_inputs, n_hidden, n_classes, dropout, norm)
    row, width = {"flatten": layers.Flatten()}, n_inputs
    for i, units in enumerate(n_hidden, start=1):
        if i > 1:
            row[f"narrow{i}"] = layers.Linear(width, bottleneck, bias=False)
            width = bottleneck
        row[f"fc{i}"] = layers.Linear(width, units, bias=False)
        row[f"norm{i}"] = norm(units)
        row[f"relu{i}"] = layers.ReLU()
        if dropout:
            row[f"dropout{i}"] = layers.Dropout(dropout)
        width = units
    return layers.serial(**row, fc=layers.Linear(width, n_classes))


def s_fc(
    n_inputs: int, alpha: int, n_classes: int, *, norm: Callable[[int], Model] = layers.BatchNorm
) -> Model:
    """The fully connected net of B. Neyshabur 2020, "Towards learning convolutions from scratch"
    (arXiv 2007.13657): hidden layers of 256 alpha and 24 alpha units with BatchNorm and ReLU. It is
    meant to be trained with `optim.beta_lasso`, which leaves few weights of the first layer, and
    those local."""
    expect_sizes("s_fc", alpha=alpha)
    return batch_norm_mlp(n_inputs, (256 * alpha, 24 * alpha), n_classes, norm=norm)


def whitened(model: Model, weight: Tensor, bias: Tensor) -> Model:
    """Return `model` on inputs that a fixed linear map (`whitening_map`) takes to its inputs."""
    first = layers.FixedLinear(weight, bias)
    return layers.serial(flatten=layers.Flatten(), whiten=first, net=model)


def whitening_map(parts: Iterable[Tensor], n: int, eps: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Return the map from flattened images to their first `n` principal components, of variance 1.

    Args:
        parts: normalized images (m, C, H, W) of the training set, in parts that fit into memory.
        n: the number of components, those of the largest variance.
        eps: what is added to the variances, so that directions in which images hardly differ are
            not magnified.

    Returns:
        W (n, C H W) and b (n,), float32: the components are x W^T + b.
    """
    expect_sizes("whitening_map", n=n)
    expect_numbers("whitening_map", NOT_NEGATIVE, eps=eps)
    if isinstance(parts, str | dict | Tensor) or not hasattr(parts, "__iter__"):
        raise UserError(f"whitening_map: parts: a {type(parts).__name__}, needs a list of tensors")
    count, total, products = 0, 0.0, 0.0
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim < 2:
            raise UserError(
                f"whitening_map: parts: holds a {type(part).__name__}, needs tensors (m, C, H, W)"
            )
        x = part.flatten(1)
        count, total = count + len(x), total + x.sum(dim=0, dtype=torch.float64)
        products = products + (x.T @ x).to(torch.float64)
    if count == 0 or not 0 < n <= len(total):
        raise UserError(f"whitening_map: {n} components of {count} images")
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    rows = (directions / torch.sqrt(variances.clamp(min=0) + eps)).T.flip(0)[:n]
    return rows.float().contiguous(), -(rows @ mean).float()
