"""Layers as in JAX's stax: a constructor returns a `Model`, two pure functions.

    init(key) -> (params, buffers)
    apply(params, buffers, x, *, train=False, key=None) -> (y, buffers)

`serial(fc1=Linear(2, 20), relu1=ReLU(), ...)` puts them in a row and is a layer itself. Params are
float32 tensors on the CPU, drawn as PyTorch's modules draw theirs.
"""

import math
from collections.abc import Callable

import torch
from einops import rearrange, reduce
from torch import Tensor

from purenets.core import random
from purenets.core.arguments import (
    ANY,
    FINITE,
    FRACTION,
    NOT_NEGATIVE,
    expect_flags,
    expect_functions,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Model, UserError
from purenets.core.kernel_rules import product_rule
from purenets.core.memory import sized
from purenets.core.serial import (
    expect,
    expect_batch,
    expect_channels,
    expect_features,
    expect_padding,
    expect_sizes,
    serial_apply,
    serial_init,
    serial_uses_key,
)
from purenets.torch_nets.fast import matmul
from purenets.torch_nets.layer_calls import library_calls_only

MAX_MULTIPLIES_INLINE = 4096  # up to here torch.compile does better without a library


def Linear(n_in: int, n_out: int, *, bias: bool = True, bound: float | None = None) -> Model:
    """y = x W^T + b: (..., n_in) -> (..., n_out). W and b uniform within `bound`, by default 1 /
    sqrt(n_in), as nn.Linear."""
    expect_sizes("Linear", n_in=n_in, n_out=n_out)
    expect_flags("Linear", bias=bias)
    if bound is not None:
        expect_numbers("Linear", NOT_NEGATIVE, bound=bound)
    shapes = {"weight": (n_out, n_in)} | ({"bias": (n_out,)} if bias else {})
    bound = 1 / math.sqrt(n_in) if bound is None else bound

    def init(key):
        draws = zip(shapes.items(), random.split(torch.as_tensor(key), 2), strict=False)
        return {
            name: random.uniform(k, shape, low=-bound, high=bound) for (name, shape), k in draws
        }, {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        _expect_tensor(x)
        expect_features(x, n_in)
        return _product(x, params["weight"], params.get("bias")), buffers

    return Model(sized(init, shapes), apply, uses_key=False, kind="Linear")


def _expect_tensor(x: Tensor) -> None:
    """Raise a UserError for an input that is no tensor."""
    if not isinstance(x, Tensor):
        raise UserError(f"input: a {type(x).__name__}, needs a tensor; see to_torch")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b. A tiny one under torch.compile is written as multiplications and sums, which
    become one loop with what stands around them: to call a library for it would take longer. A
    large one may be for oneDNN."""
    if library_calls_only():
        return torch.nn.functional.linear(x, weight, bias)
    multiplications = x.numel() * weight.shape[0]
    least = product_rule().min_multiplies_operation
    if 0 < multiplications <= MAX_MULTIPLIES_INLINE and torch.compiler.is_compiling() and x.is_cpu:
        y = (x.unsqueeze(-2) * weight).sum(-1)
    elif multiplications >= least and matmul.onednn_supports(x, weight):
        y = matmul.product(x.reshape(-1, x.shape[-1]), weight.mT).reshape(*x.shape[:-1], -1)
    else:
        return torch.nn.functional.linear(x, weight, bias)
    return y if bias is None else y + bias


def FixedLinear(weight: Tensor, bias: Tensor) -> Model:
    """y = x W^T + b with given W (n_out, n_in) and b (n_out,), which are buffers and not trained:
    (..., n_in) -> (..., n_out)."""
    given = {"weight": weight, "bias": bias}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, {})
        expect_features(x, weight.shape[1])
        fixed = {name: buffers[name].to(x.dtype) for name in given}
        return _product(x, fixed["weight"], fixed["bias"]), buffers

    return Model(lambda key: ({}, given), apply, uses_key=False, kind="FixedLinear")


def elementwise(f: Callable[[Tensor], Tensor], kind: str = "") -> Model:
    """Return a layer without params, y = f(x); `kind` is its name in a table."""
    expect_functions("elementwise", f=f)

    def apply(params, buffers, x, *, train=False, key=None):
        if params:
            expect(params, {})
        return f(x), buffers

    return Model(lambda key: ({}, {}), apply, uses_key=False, kind=kind)


def ReLU() -> Model:
    """max(0, x)."""
    return elementwise(torch.relu, "ReLU")


def Tanh() -> Model:
    """tanh(x)."""
    return elementwise(torch.tanh, "Tanh")


def GELU() -> Model:
    """x Phi(x), Phi the normal distribution function, in its tanh form (Hendrycks, Gimpel 2016)."""
    return elementwise(lambda x: torch.nn.functional.gelu(x, approximate="tanh"), "GELU")


def Scale(factor: float) -> Model:
    """factor * x."""
    expect_numbers("Scale", FINITE, factor=factor)
    return elementwise(lambda x: factor * x, "Scale")


ACTIVATIONS = {"relu": ReLU, "tanh": Tanh}


def Flatten() -> Model:
    """(batch, ...) -> (batch, features)."""

    def flat(x):
        expect_batch(x)
        return x.flatten(start_dim=1)

    return elementwise(flat, "Flatten")


def Dropout(rate: float) -> Model:
    """Zeros with probability `rate` when training, else x / (1 - rate); needs a key then."""
    expect_numbers("dropout", ANY, rate=rate)
    if not 0 <= rate < 1:
        raise UserError(f"dropout: rate {rate} is not from 0 to below 1")

    def apply(params, buffers, x, *, train=False, key=None):
        if not train or rate == 0:
            return x, buffers
        if key is None:
            raise UserError("dropout: training needs a key")
        kept = random.bernoulli(key, 1 - rate, x.shape)
        return x * (kept.to(x.dtype) / (1 - rate)), buffers

    return Model(lambda key: ({}, {}), apply, kind="Dropout")


def LayerNorm(n: int, *, eps: float = 1e-5) -> Model:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis of n features (Ba et al.

    2016).
    """
    expect_sizes("LayerNorm", n=n)
    expect_numbers("LayerNorm", NOT_NEGATIVE, eps=eps)

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, {"weight": (n,), "bias": (n,)})
        _expect_tensor(x)
        expect_features(x, n)
        return torch.nn.functional.layer_norm(
            x, (n,), params["weight"], params["bias"], eps
        ), buffers

    def init(key):
        return {"weight": torch.ones(n), "bias": torch.zeros(n)}, {}

    init = sized(init, {"weight": (n,), "bias": (n,)})
    return Model(init, apply, uses_key=False, kind="LayerNorm")


def residual(**layers: Model) -> Model:
    """x + f(x) of layers in a row f (He et al. 2016); f's params are named as in `serial`."""
    inner = serial(**layers)

    def apply(params, buffers, x, *, train=False, key=None):
        y, buffers = inner.apply(params, buffers, x, train=train, key=key)
        return x + y, buffers

    return inner._replace(apply=apply, kind="Residual")


def serial(**layers: Model) -> Model:
    """Layers in a row; the params of `fc1=Linear(...)` are named "fc1.weight" and "fc1.bias"."""

    run = serial_apply(layers, "apply")

    def apply(params, buffers, x, *, train=False, key=None):
        return run(params, buffers, x, train=train, key=key)[:2]

    return Model(serial_init(layers), apply, serial_uses_key(layers), "Serial", layers)


# --- images: (batch, channels, height, width) -----------------------------------------------------


def Conv(
    n_in: int,
    n_out: int,
    size: int = 3,
    *,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    dirac: bool = False,
) -> Model:
    """Cross-correlation with (n_out, n_in, size, size) weights; drawn as nn.Conv2d: uniform within
    1 / sqrt(n_in size^2). dirac: the first n_in filters let their channel pass as it is, at the
    start."""
    expect_sizes("Conv", n_in=n_in, n_out=n_out, size=size, stride=stride)
    expect_integers("Conv", 0, padding=padding)
    expect_flags("Conv", bias=bias, dirac=dirac)
    shapes = {"weight": (n_out, n_in, size, size)} | ({"bias": (n_out,)} if bias else {})
    bound = 1 / math.sqrt(n_in * size * size)

    def init(key):
        keys = random.split(torch.as_tensor(key), 2)
        draws = zip(shapes.items(), keys, strict=False)
        params = {
            name: random.uniform(k, shape, low=-bound, high=bound) for (name, shape), k in draws
        }
        if dirac:
            identity = torch.nn.init.dirac_(torch.empty(min(n_in, n_out), n_in, size, size))
            params["weight"] = torch.cat([identity, params["weight"][n_in:]])
        return params, {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        _expect_tensor(x)
        expect_channels(x, n_in)
        weight, offset = params["weight"], params.get("bias")
        if (
            (size, stride, padding) == (3, 1, 1)
            and max(x.shape[2:]) <= 2
            and x.device.type == "cpu"
            and not library_calls_only()
        ):
            return _conv_of_few_pixels(x, weight, offset), buffers
        return torch.nn.functional.conv2d(x, weight, offset, stride, padding), buffers

    return Model(sized(init, shapes), apply, uses_key=False, kind="Conv")


def _conv_of_few_pixels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution, stride and padding 1, of images of at most 2x2 pixels: each pixel sees all
    others, so it is one matrix product, without the taps that would only meet the padding (on 2x2:
    4 of 9 are left)."""
    height, width = x.shape[2:]
    taps = rearrange(weight, "o i kh kw -> o kh kw i")  # channels come last, as they lie in memory
    pixels = [(row, column) for row in range(height) for column in range(width)]
    seen = [taps[:, 1 - i : 1 - i + height, 1 - j : 1 - j + width] for i, j in pixels]
    matrix = rearrange(seen, "pixel o h w i -> (pixel o) (h w i)")
    y = torch.nn.functional.linear(rearrange(x, "b i h w -> b (h w i)"), matrix)
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
        _expect_tensor(x)
        expect_channels(x, shape[1])
        weight = buffers["weight"].to(x.dtype)
        return torch.nn.functional.conv2d(x, weight, params.get("bias")), buffers

    def init(key):
        return {name: torch.zeros(n) for name, n in shapes.items()}, {"weight": filters}

    return Model(init, apply, uses_key=False, kind="FixedConv")


def BatchNorm(
    n: int,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    scale: bool = True,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Model:
    """Normalize each channel of images, or each feature of (batch, n), over the batch
    (nn.BatchNorm2d).

    y = (x - mean) / sqrt(var + eps) * weight + bias (Ioffe and Szegedy 2015). Training takes mean
    and variance of the batch and returns the running ones, moved by `momentum`, in `buffers`;
    evaluation takes the running ones.

    Args:
        n: the number of channels or features.
        scale: whether there is a weight; without it, it is 1.
        total: the sum over all processes that share a batch (`torch_nets.distributed.total`); then
            mean and variance are those of the whole batch.
    """
    expect_sizes("BatchNorm", n=n)
    expect_numbers("BatchNorm", FRACTION, momentum=momentum)
    expect_numbers("BatchNorm", NOT_NEGATIVE, eps=eps)
    expect_flags("BatchNorm", scale=scale)
    expect_functions("BatchNorm", **({} if total is None else {"total": total}))
    shapes = {"weight": (n,), "bias": (n,)} if scale else {"bias": (n,)}

    def init(key):
        params = {name: torch.ones(n) if name == "weight" else torch.zeros(n) for name in shapes}
        buffers = {"running_mean": torch.zeros(n), "running_var": torch.ones(n)}
        return params, buffers | {"num_batches_tracked": torch.zeros((), dtype=torch.int64)}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        _expect_tensor(x)
        expect_features(x, n) if x.ndim == 2 else expect_channels(x, n)
        bias = params["bias"]
        weight = params["weight"] if scale else torch.ones_like(bias)
        if not train:
            running = buffers["running_mean"], buffers["running_var"]
            return torch.nn.functional.batch_norm(
                x, *running, weight, bias, False, 0.0, eps
            ), buffers
        y, count, mean, var = _batch_normalized(x, weight, bias, eps, total)
        return y, _running_statistics(buffers, count, mean, var, momentum)

    return Model(sized(init, shapes), apply, uses_key=False, kind="BatchNorm")


def _batch_normalized(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Callable | None
) -> tuple:
    """Return the normalized batch, the number of values a channel, and their mean and (biased)
    variance.
    """
    if total:
        return _batch_normalized_by_total(x, weight, bias, eps, total)
    if x.numel() == x.shape[1]:
        raise UserError(
            f"batch of {x.shape[0]} with one value a channel: BatchNorm trains on two or more"
        )
    y, mean, inverse_deviation = torch.native_batch_norm(
        x, weight, bias, None, None, True, 0.0, eps
    )
    return y, x.numel() / x.shape[1], mean, inverse_deviation.detach() ** -2 - eps


def _batch_normalized_by_total(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Callable[[Tensor], Tensor]
) -> tuple:
    """Return what `_batch_normalized` returns, of a batch that several processes share."""

    def channels(v):
        return v.view(-1, *[1] * (x.ndim - 2))

    wide = widened(x.to(weight.dtype))
    count = total(wide.new_full((), x.numel() / x.shape[1]))
    others = [axis for axis in range(x.ndim) if axis != 1]
    mean = total(wide.sum(dim=others)) / count
    var = total(((wide - channels(mean)) ** 2).sum(dim=others)) / count
    scale = weight / torch.sqrt(var + eps)
    y = wide * channels(scale) + channels(bias - mean * scale)
    return y.to(x.dtype), count, mean, var.detach()


def _running_statistics(buffers, count, mean: Tensor, var: Tensor, momentum: float) -> dict:
    """Return the buffers with the running statistics moved towards those of a batch."""
    var = var * (count / (count - 1))  # unbiased, as in PyTorch
    moved = {
        name: torch.lerp(buffers[name], value.to(buffers[name].dtype), momentum)
        for name, value in (("running_mean", mean.detach()), ("running_var", var))
    }
    return moved | {"num_batches_tracked": buffers["num_batches_tracked"] + 1}


def MaxPool(size: int, *, stride: int, padding: int = 0) -> Model:
    """The largest value of each window; the padding never wins."""
    expect_sizes("MaxPool", size=size, stride=stride)
    expect_padding("MaxPool", padding, size)
    return elementwise(
        lambda x: torch.nn.functional.max_pool2d(x, size, stride, padding), "MaxPool"
    )


def GlobalAvgPool() -> Model:
    """(batch, channels, height, width) -> (batch, channels): the mean over all pixels."""
    return elementwise(lambda x: reduce(x, "b c h w -> b c", "mean"), "GlobalAvgPool")
