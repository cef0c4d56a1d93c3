"""A small convolutional net that learns CIFAR-10 fast, after the public speed records.

It follows K. Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498),
which builds on those of D. Page and T. Balsam: fixed whitening filters, three groups of 3x3
convolutions that begin as the identity as far as they can, BatchNorm without a weight, GELU, and
logits scaled down.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from purenets.core.arguments import (
    FRACTION,
    POSITIVE,
    expect_functions,
    expect_reals,
    expect_units,
    is_integer,
)
from purenets.core.base import Model, UserError
from purenets.core.serial import expect_sizes
from purenets.torch_nets import layers
from purenets.torch_nets.image_mlps import float32_suffices


def FastCNN(
    n_channels: int,
    n_classes: int,
    *,
    filters: Tensor | None = None,
    widths: Sequence[int] = (64, 256, 256),
    depth: int = 2,
    dirac: bool = True,
    momentum: float = 0.4,
    logit_scale: float = 1.0,
    norm: Callable[..., Model] = layers.BatchNorm,
    first_bias: bool = True,
) -> Model:
    """Return a small convolutional net that learns CIFAR-10 within seconds on a GPU.

    The first layer has 2x2 filters; then come three groups of 3x3 convolutions, each with a
    pooling, BatchNorm without a weight and GELU. The logits are the mean over the last features,
    times weights of variance 1, times `logit_scale`.

    Args:
        n_channels: channels of the images, which are normalized and 25 to 48 pixels high and wide.
        n_classes: classes, one logit each.
        filters: fixed filters of the first layer, from `whitening_filters`; None for filters that
            are trained.
        widths: channels of the groups.
        depth: convolutions of a group, 2 or 3; with 3 the second and the third are a residual
            branch.
        dirac: True to let convolutions begin as the identity (see `layers.Conv`).
        momentum: how far BatchNorm's running statistics move at each step.
        logit_scale: a factor for the logits.
        norm: the constructor of BatchNorm.
        first_bias: whether the layer of `filters` has a bias, which is trained.

    Returns:
        A model (batch, n_channels, H, W) -> logits (batch, n_classes).

    Raises:
        UserError: an argument is out of range.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.fast_cnn import FastCNN
        >>> model = FastCNN(3, 10, widths=(8, 16, 16))
        >>> params, buffers = model.init(random.key(0))
        >>> model.apply(params, buffers, torch.zeros(2, 3, 32, 32))[0].shape
        torch.Size([2, 10])

    Source:
        Jordan 2024, arXiv 2404.00498.
    """
    expect_sizes("FastCNN", n_channels=n_channels, n_classes=n_classes)
    expect_units("FastCNN", "(64, 256, 256)", widths=widths)
    expect_functions("FastCNN", norm=norm)
    expect_reals("FastCNN", POSITIVE, logit_scale=logit_scale)
    if not is_integer(depth) or depth not in (2, 3):
        raise UserError(f"FastCNN: depth is {depth!r}, needs 2 or 3")
    if filters is not None and not (isinstance(filters, Tensor) and filters.ndim == 4):
        raise UserError("FastCNN: filters: needs a tensor (n_out, n_in, height, width)")
    norm = functools.partial(norm, scale=False, momentum=momentum, eps=1e-12)
    n_in = 8 * int(n_channels) if filters is None else len(filters)
    first = layers.Conv(n_channels, n_in, 2)
    if filters is not None:
        first = layers.FixedConv(filters, bias=first_bias)
    row = {"first": first, "gelu": layers.GELU(approximate="tanh")}
    for i, n_out in enumerate(widths, start=1):
        row[f"group{i}"] = _group(n_in, n_out, depth, dirac, norm)
        n_in = n_out
    head = {"pool": layers.MaxPool(3, stride=3), "flatten": layers.Flatten()}
    fc = layers.Linear(n_in, n_classes, bias=False, bound=math.sqrt(3))  # variance 1
    return layers.serial(**row, **head, fc=fc, scale=layers.Scale(logit_scale / n_in))


def _group(n_in: int, n_out: int, depth: int, dirac: bool, norm: Callable[[int], Model]) -> Model:
    def conv(n):
        return layers.Conv(n, n_out, 3, padding=1, bias=False, dirac=dirac)

    first = {
        "conv1": conv(n_in),
        "pool": layers.MaxPool(2, stride=2),
        "norm1": norm(n_out),
        "gelu1": layers.GELU(approximate="tanh"),
    }
    second = {"conv2": conv(n_out), "norm2": norm(n_out)}
    if depth == 2:
        return layers.serial(**first, **second, gelu2=layers.GELU(approximate="tanh"))
    third = {"gelu2": layers.GELU(approximate="tanh"), "conv3": conv(n_out), "norm3": norm(n_out)}
    return layers.serial(
        **first, branch=layers.residual(**second, **third), gelu3=layers.GELU(approximate="tanh")
    )


def whitening_filters(x: Tensor, size: int = 2, eps: float = 5e-4) -> Tensor:
    """Return filters whose outputs on the patches of images are uncorrelated and of variance 1.

    Args:
        x: normalized images (n, C, H, W), at least one.
        size: height and width of a filter.
        eps: added to the variances.

    Returns:
        Filters (2 C size^2, C, size, size): each one, and each with the opposite sign. float32, or
        float64 for images of it.

    Raises:
        UserError: `x` is not a tensor of four axes or holds no images, `size` exceeds the images,
            `eps` is out of range, a value is not finite, or `eps` is 0 and the numbers of a patch
            are linearly dependent.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.fast_cnn import whitening_filters
        >>> x = random.normal(torch.as_tensor(random.key(0)), (50, 3, 8, 8))
        >>> filters = whitening_filters(x)
        >>> filters.shape, torch.equal(filters[:12], -filters[12:])
        (torch.Size([24, 3, 2, 2]), True)

    Source:
        Jordan 2024, arXiv 2404.00498.
    """
    if not isinstance(x, Tensor) or x.ndim != 4 or x.is_complex() or len(x) == 0:
        raise UserError("whitening_filters: x: needs a tensor of images (n, C, H, W)")
    expect_sizes("whitening_filters", size=size)
    expect_reals("whitening_filters", FRACTION, eps=eps)
    if size > min(x.shape[2:]):
        raise UserError(f"whitening_filters: size is {size}, images are {tuple(x.shape[2:])}")
    wide = x if float32_suffices(x.flatten(1), eps) else x.double()
    unfolded = torch.nn.functional.unfold(wide, size)
    patches = rearrange(unfolded, "n features places -> (n places) features")  # features: (C kh kw)
    products = patches.T @ patches / len(patches)
    if not products.isfinite().all():
        raise UserError("whitening_filters: x: a value is not finite")
    variances, directions = torch.linalg.eigh(products)
    rounding = len(variances) * torch.finfo(torch.float64).eps * variances[-1]
    if eps == 0 and variances[0] <= rounding:
        raise UserError(
            "whitening_filters: eps is 0, but the numbers of a patch are linearly dependent; needs "
            "an eps above 0"
        )
    columns = directions / torch.sqrt(variances + eps)
    filters = rearrange(columns, "(c kh kw) o -> o c kh kw", kh=size, kw=size).contiguous()
    filters = torch.cat([filters, -filters])
    return filters if x.dtype == torch.float64 else filters.float()
