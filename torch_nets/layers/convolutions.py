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
from purenets.core.serial import expect, expect_channels, expect_padding, expect_sizes
from purenets.torch_nets.layers.basic import elementwise, expect_tensor, uniform_init


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
    """Cross-correlation with (n_out, n_in / groups, size, size) weights; drawn as nn.Conv2d.

    Weights and bias are uniform within 1 / sqrt(n_in / groups size^2).

    Args:
        padding: zeros on each side.
        dilation: the distance of the places that a filter sees.
        groups: channels are divided into so many parts, each with filters of its own.
        dirac: the first n_in filters let their channel pass as it is, at the start.
    """
    sizes = {"size": size, "stride": stride, "dilation": dilation}
    _check("Conv", n_in, n_out, groups, padding, bias, sizes)
    expect_flags("Conv", dirac=dirac)
    shapes = {"weight": (n_out, n_in // groups, size, size)} | ({"bias": (n_out,)} if bias else {})
    draw = uniform_init(shapes, _bound(shapes))
    if dirac and groups > 1:
        raise UserError("Conv: dirac needs groups of 1")

    def init(key):
        params, _ = draw(key)
        if dirac:
            identity = torch.nn.init.dirac_(torch.empty(min(n_in, n_out), n_in, size, size))
            params["weight"] = torch.cat([identity, params["weight"][n_in:]])
        return params, {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_channels(x, n_in)
        weight, offset = params["weight"], params.get("bias")
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
    """`Conv` along one axis, as nn.Conv1d: (batch, n_in, length) -> (batch, n_out, length')."""
    sizes = {"size": size, "stride": stride, "dilation": dilation}
    _check("Conv1d", n_in, n_out, groups, padding, bias, sizes)
    shapes = {"weight": (n_out, n_in // groups, size)} | ({"bias": (n_out,)} if bias else {})

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_channels(x, n_in, ("length",))
        weight, offset = params["weight"], params.get("bias")
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
    """The transpose of `Conv(n_out, n_in, ...)`, as nn.ConvTranspose2d: it enlarges images.

    (batch, n_in, H, W) -> (batch, n_out, H', W') with H' = (H - 1) stride - 2 padding + size +
    output_padding. Weights (n_in, n_out, size, size), uniform within 1 / sqrt(n_out size^2).
    """
    sizes = {"size": size, "stride": stride}
    _check("ConvTranspose", n_in, n_out, 1, padding, bias, sizes)
    shapes = {"weight": (n_in, n_out, size, size)} | ({"bias": (n_out,)} if bias else {})
    expect_integers("ConvTranspose", 0, output_padding=output_padding)
    if output_padding >= stride:
        text = f"needs an integer below the stride, {stride}"
        raise UserError(f"ConvTranspose: output_padding is {output_padding}, {text}")

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_channels(x, n_in)
        weight, offset = params["weight"], params.get("bias")
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


@torch.overrides.wrap_torch_function(lambda x, weight, *rest: (x, weight))
def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`; of images of at most 2x2 pixels as one matrix product.

    It is one operation for modes of torch, such as that of `analysis.ghost`.
    """
    plain = (*weight.shape[2:], stride, padding, dilation, groups) == (3, 3, 1, 1, 1, 1)
    plain = plain and not torch.compiler.is_exporting()
    if plain and max(x.shape[2:]) <= 2 and x.device.type == "cpu":
        return _conv_of_few_pixels(x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _conv_of_few_pixels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution, stride and padding 1, of images of at most 2x2 pixels: each pixel sees all
    others, so it is one matrix product, without the taps that would only meet the padding (on 2x2:
    4 of 9 are left)."""
    height, width = x.shape[2:]
    taps = rearrange(weight, "o i kh kw -> o kh kw i")  # channels come last, as they lie in memory
    pixels = [(row, column) for row in range(height) for column in range(width)]
    seen = [taps[:, 1 - i : 1 - i + height, 1 - j : 1 - j + width] for i, j in pixels]
    matrix = rearrange(seen, "pixel o h w i -> (pixel o) (h w i)")
    y = F.linear(rearrange(x, "b i h w -> b (h w i)"), matrix)
    y = rearrange(y, "b (h w o) -> b o h w", h=height, w=width)
    return y if bias is None else y + bias.view(-1, 1, 1)


def FixedConv(filters: Tensor, *, bias: bool = True) -> Model:
    """Cross-correlation with given (n_out, n_in, height, width) filters, which are a buffer and not
    trained, plus a bias that is, 0 at the start.

    Without the bias nothing before the next layer is trained, and its gradient by its input is not
    computed.
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
        weight = buffers["weight"].to(x.dtype)
        return F.conv2d(x, weight, params.get("bias")), buffers

    def init(key):
        return {name: torch.zeros(n) for name, n in shapes.items()}, {"weight": filters}

    return Model(init, apply, uses_key=False, kind="FixedConv")


def MaxPool(size: int, *, stride: int, padding: int = 0) -> Model:
    """The largest value of each window; the padding never wins."""
    expect_sizes("MaxPool", size=size, stride=stride)
    expect_padding("MaxPool", padding, size)

    def pooled(x):
        expect_tensor(x)
        if x.ndim != 4:
            shape = tuple(x.shape)
            raise UserError(f"input: shape is {shape}, expected (batch, channels, height, width)")
        return F.max_pool2d(x, size, stride, padding)

    return elementwise(pooled, "MaxPool")


def GlobalAvgPool() -> Model:
    """(batch, channels, ...) -> (batch, channels): the mean over all pixels or steps."""

    def averaged(x):
        expect_tensor(x)
        if x.ndim < 3:
            raise UserError(f"input: shape is {tuple(x.shape)}, expected (batch, channels, ...)")
        return reduce(x, "b c ... -> b c", "mean")

    return elementwise(averaged, "GlobalAvgPool")
