"""Convolutions and pooling; images are (batch, channels, height, width)."""

import math

import torch
import torch.nn.functional as F
import torch.overrides
from einops import rearrange, reduce
from torch import Tensor

from purenets.core.arguments import expect_flags, expect_integers
from purenets.core.base import Model, UserError
from purenets.core.memory import sized
from purenets.core.serial import (
    expect,
    expect_channels,
    expect_padding,
    expect_sizes,
    expect_window,
)
from purenets.torch_nets.layers.basic import (
    elementwise,
    expect_dtype,
    expect_floats,
    expect_tensor,
    uniform_init,
)


def Conv(
    n_in: int,
    n_out: int,
    size: int = 3,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    dirac: bool = False,
) -> Model:
    """Return a 2-D convolution (a cross-correlation, as in PyTorch) of images.

    Args:
        n_in, n_out: channels of the inputs and of the outputs.
        size: height and width of a filter.
        stride: pixels from one window to the next.
        padding: zeros on each side.
        dilation: pixels from one tap of a filter to the next.
        groups: channels are divided into so many groups, each with filters of its own.
        bias: False for a layer without a bias.
        dirac: True to let the first n_in filters begin as the identity: each passes its channel on.
            The other filters are drawn.

    Returns:
        A layer (batch, n_in, H, W) -> (batch, n_out, H', W'), with
        H' = floor((H + 2 padding - dilation (size - 1) - 1) / stride) + 1 and W' alike.
        Params: "weight" (n_out, n_in / groups, size, size) and "bias" (n_out,), drawn uniform
        within 1 / sqrt(n_in / groups size^2).

    Raises:
        UserError: a size is not a positive integer, the groups do not divide the channels, or
            `dirac` is used with groups. When applied: params or inputs have other shapes, or the
            inputs another dtype.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import Conv
        >>> layer = Conv(3, 16, size=3, stride=2, padding=1)
        >>> params, buffers = layer.init(random.key(0))
        >>> params["weight"].shape
        torch.Size([16, 3, 3, 3])
        >>> layer.apply(params, buffers, torch.zeros(1, 3, 32, 32))[0].shape
        torch.Size([1, 16, 16, 16])

    Source:
        torch.nn.Conv2d; for `dirac` torch.nn.init.dirac_.
    """
    sizes = {"size": size, "stride": stride, "dilation": dilation}
    _check("Conv", n_in, n_out, groups, padding, bias, sizes)
    expect_flags("Conv", dirac=dirac)
    n_in, n_out, groups, padding = map(int, (n_in, n_out, groups, padding))
    size, stride, dilation = map(int, sizes.values())  # integers of 8 bits would overflow
    shapes = {"weight": (n_out, n_in // groups, size, size)} | ({"bias": (n_out,)} if bias else {})
    draw = uniform_init(shapes, _bound(shapes))
    if dirac and groups > 1:
        raise UserError(f"Conv: dirac=True needs groups=1, not {groups}")

    def init(key):
        params, _ = draw(key)
        if dirac:
            filters = torch.empty(min(n_in, n_out), n_in, size, size, dtype=torch.float32)
            identity = torch.nn.init.dirac_(filters)
            params["weight"] = torch.cat([identity, params["weight"][n_in:]])
        return params, {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_channels(x, n_in)
        expect_window(x, size, padding, dilation)
        weight, offset = params["weight"], params.get("bias")
        expect_dtype(x, weight)
        return conv2d(x, weight, offset, stride, padding, dilation, groups), buffers

    return Model(sized(init, shapes), apply, uses_key=False, kind="Conv")


def Conv1d(
    n_in: int,
    n_out: int,
    size: int = 3,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> Model:
    """Return a 1-D convolution (a cross-correlation, as in PyTorch) of sequences.

    Args:
        n_in, n_out: channels of the inputs and of the outputs.
        size: length of a filter.
        stride: steps from one window to the next.
        padding: zeros on each side.
        dilation: steps from one tap of a filter to the next.
        groups: channels are divided into so many groups, each with filters of its own.
        bias: False for a layer without a bias.

    Returns:
        A layer (batch, n_in, length) -> (batch, n_out, length'), with
        length' = floor((length + 2 padding - dilation (size - 1) - 1) / stride) + 1.
        Params: "weight" (n_out, n_in / groups, size) and "bias" (n_out,), drawn uniform within
        1 / sqrt(n_in / groups size).

    Raises:
        UserError: a size is not a positive integer, or the groups do not divide the channels. When
            applied: params or inputs have other shapes, or the inputs another dtype.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import Conv1d
        >>> layer = Conv1d(8, 16, size=5, padding=2)
        >>> params, buffers = layer.init(random.key(0))
        >>> layer.apply(params, buffers, torch.zeros(2, 8, 100))[0].shape
        torch.Size([2, 16, 100])

    Source:
        torch.nn.Conv1d.
    """
    sizes = {"size": size, "stride": stride, "dilation": dilation}
    _check("Conv1d", n_in, n_out, groups, padding, bias, sizes)
    n_in, n_out, groups, padding = map(int, (n_in, n_out, groups, padding))
    size, stride, dilation = map(int, sizes.values())
    shapes = {"weight": (n_out, n_in // groups, size)} | ({"bias": (n_out,)} if bias else {})

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_channels(x, n_in, ("length",))
        expect_window(x, size, padding, dilation)
        weight, offset = params["weight"], params.get("bias")
        expect_dtype(x, weight)
        return F.conv1d(x, weight, offset, stride, padding, dilation, groups), buffers

    return Model(uniform_init(shapes, _bound(shapes)), apply, uses_key=False, kind="Conv1d")


def ConvTranspose(
    n_in: int,
    n_out: int,
    size: int = 3,
    *,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    bias: bool = True,
) -> Model:
    """Return the transpose of `Conv(n_out, n_in, ...)`, a convolution that enlarges images.

    Args:
        n_in, n_out: channels of the inputs and of the outputs.
        size: height and width of a filter.
        stride: the factor by which images are enlarged.
        padding: rows and columns that are cut off on each side of the output.
        output_padding: rows and columns added at the lower and right side, fewer than `stride`.
        bias: False for a layer without a bias.

    Returns:
        A layer (batch, n_in, H, W) -> (batch, n_out, H', W'), with
        H' = (H - 1) stride - 2 padding + size + output_padding and W' alike.
        Params: "weight" (n_in, n_out, size, size) and "bias" (n_out,), drawn uniform within
        1 / sqrt(n_out size^2).

    Raises:
        UserError: a size is not a positive integer, or `output_padding` is not below the stride.
            When applied: params or inputs have other shapes, or the inputs another dtype.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import ConvTranspose
        >>> layer = ConvTranspose(16, 3, size=4, stride=2, padding=1)
        >>> params, buffers = layer.init(random.key(0))
        >>> layer.apply(params, buffers, torch.zeros(1, 16, 8, 8))[0].shape
        torch.Size([1, 3, 16, 16])

    Source:
        torch.nn.ConvTranspose2d.
    """
    sizes = {"size": size, "stride": stride}
    _check("ConvTranspose", n_in, n_out, 1, padding, bias, sizes)
    expect_integers("ConvTranspose", 0, output_padding=output_padding)
    n_in, n_out, size, stride = map(int, (n_in, n_out, size, stride))
    padding, output_padding = int(padding), int(output_padding)
    shapes = {"weight": (n_in, n_out, size, size)} | ({"bias": (n_out,)} if bias else {})
    if output_padding >= stride:
        text = f"needs an integer below the stride, {stride}"
        raise UserError(f"ConvTranspose: output_padding is {output_padding}, {text}")

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_channels(x, n_in)
        if (min(x.shape[2:]) - 1) * stride - 2 * padding + size + output_padding < 1:
            shape = tuple(x.shape)
            raise UserError(f"input: shape is {shape}, a padding of {padding} leaves nothing of it")
        weight, offset = params["weight"], params.get("bias")
        expect_dtype(x, weight)
        return F.conv_transpose2d(x, weight, offset, stride, padding, output_padding), buffers

    return Model(uniform_init(shapes, _bound(shapes)), apply, uses_key=False, kind="ConvTranspose")


def _check(
    kind: str, n_in: int, n_out: int, groups: int, padding: int, bias: bool, sizes: dict[str, int]
) -> None:
    """Raise a UserError that names the argument of a convolution that is wrong."""
    expect_sizes(kind, n_in=n_in, n_out=n_out, groups=groups, **sizes)
    expect_integers(kind, 0, padding=padding)
    expect_flags(kind, bias=bias)
    if n_in % groups or n_out % groups:
        raise UserError(f"{kind}: {n_in} and {n_out} channels do not divide into {groups} groups")


def _bound(shapes: dict[str, tuple[int, ...]]) -> float:
    """Return 1 / sqrt(inputs of one output), within which PyTorch draws."""
    return 1 / math.sqrt(math.prod(shapes["weight"][1:]))


@torch.overrides.wrap_torch_function(lambda x, weight, *rest, **options: (x, weight))
def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 2-D convolution of images; those of at most 2x2 pixels take one matrix product.

    Modes of torch, such as the one of `analysis.ghost`, see a single operation.

    Args:
        x: images, (batch, n_in, H, W).
        weight: filters, (n_out, n_in / groups, height, width).
        bias: (n_out,), or None.
        stride, padding, dilation, groups: as in `Conv`.

    Returns:
        A tensor (batch, n_out, H', W').

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers.convolutions import conv2d
        >>> x, weight = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)
        >>> conv2d(x, weight, None, 1, 1)  # stride and padding
        tensor([[[[4., 4.],
                  [4., 4.]]]])

    Source:
        torch.nn.functional.conv2d.
    """
    plain = (*weight.shape[2:], stride, padding, dilation, groups) == (3, 3, 1, 1, 1, 1)
    plain = plain and not torch.compiler.is_exporting()
    if plain and max(x.shape[2:]) <= 2 and x.device.type == "cpu":
        return _conv_of_few_pixels(x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _conv_of_few_pixels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a 3x3 convolution, stride and padding 1, of images of at most 2x2 pixels.

    Each pixel sees all others, so the convolution is one matrix product, without the taps that
    would only meet the padding (on 2x2 pixels, 4 of 9 remain).
    """
    height, width = x.shape[2:]
    taps = rearrange(weight, "o i kh kw -> o kh kw i")  # channels come last, as they lie in memory
    pixels = [(row, column) for row in range(height) for column in range(width)]
    seen = [taps[:, 1 - i : 1 - i + height, 1 - j : 1 - j + width] for i, j in pixels]
    matrix = rearrange(seen, "pixel o h w i -> (pixel o) (h w i)")
    y = F.linear(rearrange(x, "b i h w -> b (h w i)"), matrix)
    y = rearrange(y, "b (h w o) -> b o h w", h=height, w=width)
    return y if bias is None else y + bias.view(-1, 1, 1)


def FixedConv(filters: Tensor, *, bias: bool = True) -> Model:
    """Return a convolution with given filters that are not trained, plus a bias that is trained.

    The filters are a buffer. Without a bias nothing up to this layer is trained, and the gradient
    by its input is not computed.

    Args:
        filters: (n_out, n_in, height, width).
        bias: False for a layer without a bias.

    Returns:
        A layer (batch, n_in, H, W) -> (batch, n_out, H - height + 1, W - width + 1) with the buffer
        "weight" and the param "bias" (n_out,), which begins at 0.

    Raises:
        UserError: `filters` is not a tensor of four axes. When applied: params or inputs have other
            shapes, or the inputs another dtype.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import FixedConv
        >>> edges = FixedConv(torch.tensor([[[[-1.0, 1.0]]]]), bias=False)
        >>> params, buffers = edges.init(None)
        >>> edges.apply(params, buffers, torch.tensor([[[[0.0, 0.0, 5.0, 5.0]]]]))[0]
        tensor([[[[0., 5., 0.]]]])
    """
    if not isinstance(filters, Tensor) or filters.ndim != 4:
        raise UserError("FixedConv: filters: needs a tensor (n_out, n_in, height, width)")
    expect_flags("FixedConv", bias=bias)
    shape = tuple(filters.shape)
    shapes = {"bias": (shape[0],)} if bias else {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_channels(x, shape[1])
        if bias:
            expect_dtype(x, params["bias"])
        expect_floats(x)
        if x.shape[2] < shape[2] or x.shape[3] < shape[3]:
            raise UserError(
                f"input: shape is {tuple(x.shape)}; a filter needs {shape[2]} x {shape[3]} pixels"
            )
        weight = buffers["weight"].to(x.dtype)
        return F.conv2d(x, weight, params.get("bias")), buffers

    def init(key):
        params = {name: torch.zeros(n, dtype=torch.float32) for name, n in shapes.items()}
        return params, {"weight": filters}

    return Model(init, apply, uses_key=False, kind="FixedConv")


def MaxPool(size: int, *, stride: int | None = None, padding: int = 0) -> Model:
    """Return the layer that takes the largest value of each window of an image.

    Args:
        size: height and width of a window.
        stride: pixels from one window to the next; None for `size`.
        padding: pixels on each side, at most half of `size`; they never are the largest value.

    Returns:
        A layer (batch, channels, H, W) -> (batch, channels, H', W') without params, with
        H' = floor((H + 2 padding - size) / stride) + 1 and W' alike.

    Raises:
        UserError: `size` or `stride` is not a positive integer, or `padding` is over half of
            `size`. When applied: the input does not have four axes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import MaxPool
        >>> x = torch.arange(16.0).view(1, 1, 4, 4)
        >>> MaxPool(2).apply({}, {}, x)[0]
        tensor([[[[ 5.,  7.],
                  [13., 15.]]]])

    Source:
        torch.nn.MaxPool2d.
    """
    stride = size if stride is None else stride
    expect_sizes("MaxPool", size=size, stride=stride)
    expect_padding("MaxPool", padding, size)
    size, stride, padding = int(size), int(stride), int(padding)

    def pooled(x):
        expect_tensor(x)
        expect_channels(x)
        expect_window(x, size, padding)
        return F.max_pool2d(x, size, stride, padding)

    return elementwise(pooled, "MaxPool")


def GlobalAvgPool() -> Model:
    """Return the layer that averages each channel over all pixels or steps.

    Returns:
        A layer (batch, channels, ...) -> (batch, channels) without params.

    Raises:
        UserError: when applied: the input has fewer than three axes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import GlobalAvgPool
        >>> GlobalAvgPool().apply({}, {}, torch.arange(8.0).view(1, 2, 2, 2))[0]
        tensor([[1.5000, 5.5000]])

    Source:
        torch.nn.AdaptiveAvgPool2d(1).
    """

    def averaged(x):
        expect_tensor(x)
        if x.ndim < 3:
            raise UserError(f"input: shape is {tuple(x.shape)}, expected (batch, channels, ...)")
        expect_floats(x)
        return reduce(x, "b c ... -> b c", "mean")

    return elementwise(averaged, "GlobalAvgPool")
