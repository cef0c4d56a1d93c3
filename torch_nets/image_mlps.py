"""Nets for images without convolutions or patches.

Every unit of the first layer sees every pixel, and nothing tells the net which pixels are
neighbors. x: (batch, ...) -> logits: (batch, n_classes).
"""

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
    """Return the assignment's MLP on flattened images.

    Args:
        n_inputs: pixels times channels.
        n_hidden: units of each hidden layer.
        n_classes: classes, one logit each.
        dropout: the probability to drop a hidden unit in training.

    Returns:
        A model (batch, ...) -> logits (batch, n_classes).

    Raises:
        UserError: an argument is out of range.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.image_mlps import plain_mlp
        >>> model = plain_mlp(3 * 8 * 8, [16], 10)
        >>> model.apply(*model.init(random.key(0)), torch.zeros(2, 3, 8, 8))[0].shape
        torch.Size([2, 10])
    """
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
    """Return an MLP on flattened images with BatchNorm before each ReLU.

    Args:
        n_inputs: pixels times channels.
        n_hidden: units of each hidden layer.
        n_classes: classes, one logit each.
        dropout: the probability to drop a hidden unit in training.
        norm: the constructor of the normalization, from the number of units to a layer.

    Returns:
        A model (batch, ...) -> logits (batch, n_classes).

    Raises:
        UserError: an argument is out of range.

    Example:
        >>> from purenets.torch_nets.image_mlps import batch_norm_mlp
        >>> list(batch_norm_mlp(192, [16], 10).layers)
        ['flatten', 'fc1', 'norm1', 'relu1', 'fc']

    Source:
        Ioffe and Szegedy 2015, arXiv 1502.03167.
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
    """Return an MLP of residual blocks, x + W2 gelu(W1 norm(x)), on flattened images.

    Args:
        n_inputs: pixels times channels.
        width: units between the blocks.
        depth: the number of blocks.
        n_classes: classes, one logit each.
        expansion: a block has expansion * width units inside.
        dropout: the probability to drop an output of a block in training.
        norm: the constructor of the normalization, from the number of units to a layer; LayerNorm
            in the paper.

    Returns:
        A model (batch, ...) -> logits (batch, n_classes).

    Raises:
        UserError: an argument is out of range.

    Example:
        >>> from purenets.torch_nets.image_mlps import residual_mlp
        >>> list(residual_mlp(192, width=16, depth=2, n_classes=10).layers)
        ['flatten', 'embed', 'block1', 'block2', 'norm', 'fc']

    Source:
        Bachmann et al. 2023, "Scaling MLPs", arXiv 2306.13575.
    """
    expect_sizes("residual_mlp", width=width, depth=depth, expansion=expansion)
    expect_reals("residual_mlp", ANY, dropout=dropout)
    expect_functions("residual_mlp", norm=norm)
    inner = int(expansion) * int(width)
    row = {"flatten": layers.Flatten(), "embed": layers.Linear(n_inputs, width)}
    for i in range(1, depth + 1):
        block = {
            "norm": norm(width),
            "fc1": layers.Linear(width, inner),
            "gelu": layers.GELU(approximate="tanh"),
            "fc2": layers.Linear(inner, width),
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
    """Return a `batch_norm_mlp` with a narrow linear layer between each two hidden layers.

    So the matrix between two wide layers has few params, and no nonlinearity inside.

    Args:
        n_inputs: pixels times channels.
        n_hidden: units of each hidden layer.
        bottleneck: units of the narrow layers.
        n_classes: classes, one logit each.
        dropout: the probability to drop a hidden unit in training.
        norm: the constructor of the normalization, from the number of units to a layer.

    Returns:
        A model (batch, ...) -> logits (batch, n_classes).

    Raises:
        UserError: an argument is out of range.

    Example:
        >>> from purenets.torch_nets.image_mlps import bottleneck_mlp
        >>> list(bottleneck_mlp(192, [64, 64], 8, 10).layers)
        ['flatten', 'fc1', 'norm1', 'relu1', 'narrow2', 'fc2', 'norm2', 'relu2', 'fc']

    Source:
        Lin, Memisevic and Konda 2015, arXiv 1511.02580.
    """
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
    """Return the fully connected net S-FC: hidden layers of 256 alpha and 24 alpha units.

    It is meant to be trained with `optim.beta_lasso`, which leaves few weights of the first layer,
    and those local.

    Args:
        n_inputs: pixels times channels.
        alpha: the width.
        n_classes: classes, one logit each.
        norm: the constructor of the normalization, from the number of units to a layer.

    Returns:
        A model (batch, ...) -> logits (batch, n_classes).

    Raises:
        UserError: an argument is out of range.

    Example:
        >>> from purenets import random
        >>> from purenets.torch_nets.image_mlps import s_fc
        >>> params, _ = s_fc(192, 1, 10).init(random.key(0))
        >>> params["fc1.weight"].shape, params["fc2.weight"].shape
        (torch.Size([256, 192]), torch.Size([24, 256]))

    Source:
        Neyshabur 2020, arXiv 2007.13657.
    """
    expect_sizes("s_fc", alpha=alpha)
    return batch_norm_mlp(n_inputs, (256 * int(alpha), 24 * int(alpha)), n_classes, norm=norm)


def whitened(model: Model, weight: Tensor, bias: Tensor) -> Model:
    """Return a model whose flattened inputs go through a fixed linear map first.

    Args:
        model: a model of inputs (batch, n).
        weight: (n, C H W), as `whitening_map` returns it.
        bias: (n,), as `whitening_map` returns it.

    Returns:
        A model (batch, C, H, W) -> logits. The map is in the buffers.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import MLP
        >>> from purenets.torch_nets.image_mlps import whitened, whitening_map
        >>> x = random.normal(torch.as_tensor(random.key(0)), (50, 3, 4, 4))
        >>> model = whitened(MLP(8, [16], 10), *whitening_map([x], 8))
        >>> model.apply(*model.init(random.key(1)), x)[0].shape
        torch.Size([50, 10])
    """
    first = layers.FixedLinear(weight, bias)
    return layers.serial(flatten=layers.Flatten(), whiten=first, net=model)


def whitening_map(parts: Iterable[Tensor], n: int, eps: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Return the map from flattened images to their first principal components, of variance 1.

    Args:
        parts: images (m, C, H, W) of the training set, in parts that fit into memory. Best
            normalized; where float32 would round visibly, as for large means, and for integers
            and half precision, sums are taken in float64, around the mean of the first part
            if that part needs it.
        n: the number of components, those of the largest variance.
        eps: added to the variances, so that directions in which images hardly differ are not
            magnified.

    Returns:
        W (n, C H W) and b (n,), float32; the components are x W^T + b.

    Raises:
        UserError: an argument is wrong, there are fewer than n pixels or no images, a value is not
            finite, or with an `eps` of 0 a component does not vary.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.image_mlps import whitening_map
        >>> x = random.normal(torch.as_tensor(random.key(0)), (100, 1, 2, 2))
        >>> W, b = whitening_map([x[:50], x[50:]], n=2, eps=0.0)
        >>> torch.cov((x.flatten(1) @ W.T + b).T, correction=0).round(decimals=3).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """
    expect_sizes("whitening_map", n=n)
    expect_numbers("whitening_map", NOT_NEGATIVE, eps=eps)
    if isinstance(parts, str | dict | Tensor) or not hasattr(parts, "__iter__"):
        raise UserError(f"whitening_map: parts: a {type(parts).__name__}, needs a list of tensors")
    count, total, products, shift = 0, 0.0, 0.0, 0.0
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim < 2 or part.is_complex():
            raise UserError(
                f"whitening_map: parts: holds a {type(part).__name__}, needs tensors (m, C, H, W)"
            )
        x = part.flatten(1)
        if count == 0 and len(x):
            shift = 0.0 if float32_suffices(x, eps) else x.double().mean(dim=0)
        if isinstance(shift, Tensor) or not float32_suffices(x, eps):
            x = x.double() - shift
        count, total = count + len(x), total + x.sum(dim=0, dtype=torch.float64)
        products = products + (x.T @ x).to(torch.float64)
    if count == 0:
        raise UserError("whitening_map: parts: holds no images")
    if n > len(total):
        raise UserError(
            f"whitening_map: n is {n}, needs at most the {len(total)} numbers of an image"
        )
    if not products.isfinite().all():
        raise UserError("whitening_map: parts: a value is not finite")
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    rounding = len(variances) * torch.finfo(torch.float64).eps * variances[-1]
    if eps == 0 and variances[-n] <= rounding:
        varying = int((variances > rounding).sum())
        raise UserError(
            f"whitening_map: {n} components, but the images vary in {varying}; needs fewer "
            "components or an eps above 0"
        )
    rows = (directions / torch.sqrt(variances.clamp(min=0) + eps)).T.flip(0)[:n]
    return rows.float().contiguous(), -(rows @ (mean + shift)).float()


def float32_suffices(x: Tensor, eps: float) -> bool:
    """Return True for float32 rows whose mean squares round by less than 1 / 500 of `eps`.

    Then sums of their products need no more digits: what they lose does not show beside `eps`.

    Args:
        x: rows (m, features).
        eps: what is added to the variances.

    Returns:
        The answer; False for other dtypes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.image_mlps import float32_suffices
        >>> x = torch.ones(4, 2)
        >>> float32_suffices(x, 1e-2), float32_suffices(x + 1000, 1e-2), float32_suffices(x, 0.0)
        (True, False, False)
    """
    if x.dtype != torch.float32 or x.numel() == 0:
        return False
    rounding = torch.finfo(torch.float32).eps
    return bool(rounding * x.square().mean(dim=0).max() <= 2e-3 * eps)
