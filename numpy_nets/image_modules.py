"""Convolution, pooling and BatchNorm, forward and backward by hand.

Images are (batch, channels, height, width), written "b c h w" where axes move. A convolution
becomes one matrix product by im2col: every window of the input is a row. Loops run over the k x k
places of a window, never over pixels or samples. The derivations are in docs/backprop.md.
"""

import math

import numpy as np
from einops import rearrange, reduce, repeat

from purenets.core import random
from purenets.core.arguments import FRACTION, NOT_NEGATIVE, expect_integers, expect_numbers
from purenets.core.arrays import in_floats, is_full, widened
from purenets.core.base import UserError
from purenets.core.memory import sized
from purenets.core.serial import (
    expect,
    expect_channels,
    expect_padding,
    expect_running,
    expect_sizes,
    expect_window,
)
from purenets.numpy_nets.modules import (
    Linear,
    Module,
    ReLU,
    as_precise_as,
    sum_of_rows,
    without_params,
)

__all__ = ["BatchNorm", "Conv", "GlobalAvgPool", "Linear", "MaxPool", "ReLU"]

# --- windows --------------------------------------------------------------------------------------


def padded(x, padding, value=0.0):
    """Return images with `padding` more pixels of `value` on each side.

    (B, C, H, W) -> (B, C, H + 2 padding, W + 2 padding).
    """
    width = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    return np.pad(x, width, constant_values=value)


def windows(x, size, stride):
    """Return all windows of padded images, as a view.

    (B, C, H, W) -> (B, C, H', W', size, size), with H' = (H - size) // stride + 1.
    """
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    return view[:, :, ::stride, ::stride]


def add_windows(parts, shape, size, stride, padding):
    """Return the sum, at each pixel, over the windows that it lies in: the adjoint of `windows`.

    parts: (B, C, H', W', size, size), or a function of the place (i, j) in the window that returns
    (B, C, H', W'). shape: that of the images before padding, (B, C, H, W), and of the result.
    """
    B, C, H, W = shape
    total = None
    for i in range(size):
        for j in range(size):
            part = parts(i, j) if callable(parts) else parts[..., i, j]
            if total is None:
                total = np.zeros((B, C, H + 2 * padding, W + 2 * padding), part.dtype)
            rows, columns = part.shape[2:]
            total[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride] += part
    return total[:, :, padding : padding + H, padding : padding + W]


# --- convolution ----------------------------------------------------------------------------------


def conv_forward(x, weight, bias, stride=1, padding=0):
    """Return y[b, o, i, j] = bias[o] + sum of weight[o] times the window of x[b] at (i, j).

    x: (B, C, H, W), weight: (O, C, k, k), bias: (O,) -> y: (B, O, H', W') with
    H' = (H + 2 padding - k) // stride + 1, and the cache for `conv_backward`.
    As a matrix product: `flat` (B H' W', C k k), a window in each row, times weight (O, C k k)
    transposed.
    """
    view = windows(padded(x, padding), weight.shape[-1], stride)
    rows, columns = view.shape[2:4]
    flat = rearrange(view, "b c h w kh kw -> (b h w) (c kh kw)")
    y = flat @ weight.reshape(len(weight), -1).T + bias
    y = rearrange(y, "(b h w) o -> b o h w", h=rows, w=columns)
    return y, (flat, weight, x.shape, stride, padding)


def conv_backward(dout, cache):
    """Return dx: (B, C, H, W), dweight: (O, C, k, k) and dbias: (O,) for dout: (B, O, H', W').

    These are the linear layer's formulas on `flat`; then each element of a window is added back to
    the pixel that it was read from.
    """
    _, weight, shape, stride, padding = cache
    size, (rows, columns) = weight.shape[-1], dout.shape[2:]
    dflat = rearrange(dout, "b o h w -> (b h w) o") @ weight.reshape(len(weight), -1)
    as_windows = "(b h w) (c kh kw) -> b c h w kh kw"
    dview = rearrange(dflat, as_windows, h=rows, w=columns, kh=size, kw=size)
    dx = add_windows(dview, shape, size, stride, padding)
    return dx, *conv_backward_params(dout, cache)


def conv_backward_params(dout, cache):
    """Return dweight and dbias of `conv_backward`, for a first layer, whose dx nobody needs."""
    flat, weight, *_ = cache
    dy = rearrange(dout, "b o h w -> (b h w) o")
    return (dy.T @ flat).reshape(weight.shape), sum_of_rows(dy)


# --- max pooling ----------------------------------------------------------------------------------


def max_pool_forward(x, size, stride, padding=0):
    """Return the largest value of each window, and the cache with its place: the first of equals.

    (B, C, H, W) -> (B, C, H', W').
    """
    wide = padded(in_floats(x), padding, -np.inf) if padding else x  # no integer is infinite
    view = windows(wide, size, stride)
    flat = rearrange(view, "b c h w kh kw -> b c h w (kh kw)")
    place = flat.argmax(axis=-1)
    y = np.take_along_axis(flat, place[..., None], axis=-1)[..., 0]
    return y, (place, x.shape, size, stride, padding)


def max_pool_backward(dout, cache):
    """Return dx: the gradient of each window goes to the pixel that was the largest."""
    place, shape, size, stride, padding = cache
    return add_windows(lambda i, j: dout * (place == i * size + j), shape, size, stride, padding)


# --- global average pooling -----------------------------------------------------------------------


def global_avg_pool_forward(x):
    """Return the mean over all pixels, (B, C, H, W) -> (B, C), and the cache."""
    return reduce(in_floats(x), "b c h w -> b c", "mean"), x.shape


def global_avg_pool_backward(dout, cache):
    """Return dx: (B, C, H, W) for dout: (B, C); each pixel gets an equal part."""
    _, _, H, W = cache
    return repeat(dout / (H * W), "b c -> b c h w", h=H, w=W)


# --- BatchNorm ------------------------------------------------------------------------------------


def over_pixels(per_channel):
    """Return (C,) as (1, C, 1, 1), which broadcasts over batch and pixels."""
    return per_channel.reshape(1, -1, 1, 1)  # called often: rearrange would show in small nets


def batch_norm_forward(x, weight, bias, eps=1e-5):
    """Return y = n weight + bias with n = (x - mean) / sqrt(var + eps), mean, var and a cache.

    x, y: (B, C, H, W); weight, bias: (C,). mean and (biased) var: (C,), over batch and pixels.
    Half precision is computed in float32, as in PyTorch.
    """
    x = in_floats(x)
    dtype, x = x.dtype, widened(x)
    mean = reduce(x, "b c h w -> c", "mean")
    centered = x - over_pixels(mean)
    var = reduce(centered * centered, "b c h w -> c", "mean")
    inverse_deviation = 1 / np.sqrt(var + x.dtype.type(eps))
    n = centered * over_pixels(inverse_deviation)
    y = n * over_pixels(weight) + over_pixels(bias)
    return y.astype(dtype, copy=False), mean, var, (n, weight, inverse_deviation)


def batch_norm_backward(dout, cache):
    """Return dx: (B, C, H, W), dweight = sum(dout n): (C,) and dbias = sum(dout): (C,).

    With dn = dout weight: dx = (dn - mean(dn) - n mean(dn n)) / sqrt(var + eps). Sums and means
    are over batch and pixels.
    """
    n, weight, inverse_deviation = cache
    dbias = reduce(dout, "b c h w -> c", "sum")
    dweight = reduce(dout * n, "b c h w -> c", "sum")
    count = n.dtype.type(n.size / n.shape[1])
    inner = dout - (over_pixels(dbias) + n * over_pixels(dweight)) / count
    return inner * over_pixels(weight * inverse_deviation), dweight, dbias


# --- modules --------------------------------------------------------------------------------------


def Conv(n_in: int, n_out: int, size: int = 3, *, stride: int = 1, padding: int = 0) -> Module:
    """Return a convolution: (B, n_in, H, W) -> (B, n_out, H', W').

    H' = (H + 2 padding - size) // stride + 1, and W' in the same way. The params are "weight"
    (n_out, n_in, size, size) and "bias" (n_out,), drawn uniformly within 1 / sqrt(n_in size^2), as
    those of torch.nn.Conv2d.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        size: height and width of the kernel.
        stride: pixels from one window to the next.
        padding: pixels of zeros on each side.

    Returns:
        A module with params.

    Raises:
        UserError: a size is not a positive integer, or `padding` is negative; from its passes, the
            params or the input do not fit.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets.image_modules import Conv
        >>> layer = Conv(3, 8, 3, padding=1)
        >>> params, buffers = layer.init(random.key(0))
        >>> layer.forward(params, buffers, np.zeros((2, 3, 32, 32), np.float32))[0].shape
        (2, 8, 32, 32)
    """
    expect_sizes("Conv", n_in=n_in, n_out=n_out, size=size, stride=stride)
    expect_integers("Conv", 0, padding=padding)
    n_in, n_out, size, stride, padding = map(int, (n_in, n_out, size, stride, padding))
    bound = 1 / math.sqrt(n_in * size * size)

    def init(key):
        weight_key, bias_key = random.split(key)
        weight = random.uniform(weight_key, (n_out, n_in, size, size), low=-bound, high=bound)
        return {
            "weight": weight,
            "bias": random.uniform(bias_key, (n_out,), low=-bound, high=bound),
        }, {}

    def forward(params, buffers, x, *, train=False, key=None):
        expect(params, {"weight": (n_out, n_in, size, size), "bias": (n_out,)})
        expect_channels(x, n_in)
        expect_window(x, size, padding)
        weight = params["weight"]
        x = x if x.dtype is weight.dtype else as_precise_as(weight, x)
        out, cache = conv_forward(x, weight, params["bias"], stride, padding)
        return out, buffers, cache

    def backward(dout, cache):
        dx, dweight, dbias = conv_backward(dout, cache)
        return dx, {"weight": dweight, "bias": dbias}

    def backward_params(dout, cache):
        return dict(zip(("weight", "bias"), conv_backward_params(dout, cache), strict=True))

    init = sized(init, {"weight": (n_out, n_in, size, size), "bias": (n_out,)})
    return Module(init, forward, backward, False, "Conv", backward_params=backward_params)


def MaxPool(size: int, *, stride: int | None = None, padding: int = 0) -> Module:
    """Return a pooling that keeps the largest value of each window: (B, C, H, W) -> (B, C, H', W').

    H' = (H + 2 padding - size) // stride + 1, and W' in the same way. The padding is never the
    largest.

    Args:
        size: height and width of a window.
        stride: pixels from one window to the next; None for `size`.
        padding: pixels on each side, half of `size` at most.

    Returns:
        A module without params.

    Raises:
        UserError: a size is not a positive integer, or the padding is too large.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets.image_modules import MaxPool
        >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
        >>> MaxPool(2).forward({}, {}, x)[0]
        array([[[[ 5.,  7.],
                 [13., 15.]]]])

    Source:
        torch.nn.MaxPool2d.
    """
    stride = size if stride is None else stride
    expect_sizes("MaxPool", size=size, stride=stride)
    expect_padding("MaxPool", padding, size)

    def forward(x):
        expect_channels(x)
        expect_window(x, size, padding)
        return max_pool_forward(x, size, stride, padding)

    return without_params(forward, max_pool_backward, "MaxPool")


def GlobalAvgPool() -> Module:
    """Return the module of the mean over all pixels: (B, C, H, W) -> (B, C).

    Returns:
        A module without params.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets.image_modules import GlobalAvgPool
        >>> GlobalAvgPool().forward({}, {}, np.arange(8.0).reshape(1, 2, 2, 2))[0]
        array([[1.5, 5.5]])
    """

    def forward(x):
        expect_channels(x)
        return global_avg_pool_forward(x)

    return without_params(forward, global_avg_pool_backward, "GlobalAvgPool")


def BatchNorm(n: int, *, momentum: float = 0.1, eps: float = 1e-5) -> Module:
    """Return a batch normalization over batch and pixels: (B, n, H, W) -> the same shape.

    In training each channel is normalized by its own mean and variance, which move the running
    statistics in the buffers; in evaluation by those. The params are "weight" and "bias", (n,).

    Args:
        n: channels.
        momentum: how far the running statistics move towards those of a batch, from 0 to 1.
        eps: added to the variance.

    Returns:
        A module with params and buffers.

    Raises:
        UserError: an argument is not a number or is out of range; from `forward` in training, a
            channel has one value only.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets.image_modules import BatchNorm
        >>> layer = BatchNorm(1)
        >>> x = np.array([1.0, 3.0], np.float32).reshape(2, 1, 1, 1)
        >>> out, buffers, cache = layer.forward(*layer.init(random.key(0)), x, train=True)
        >>> out.ravel().round(3), buffers["running_mean"].round(3)  # 0.1 of the way from 0 to 2
        (array([-1.,  1.], dtype=float32), array([0.2], dtype=float32))

    Source:
        Ioffe and Szegedy 2015, arXiv 1502.03167; torch.nn.BatchNorm2d.
    """
    expect_sizes("BatchNorm", n=n)
    expect_numbers("BatchNorm", FRACTION, momentum=momentum)
    expect_numbers("BatchNorm", NOT_NEGATIVE, eps=eps)

    def init(key):
        params = {"weight": np.ones(n, np.float32), "bias": np.zeros(n, np.float32)}
        buffers = {"running_mean": np.zeros(n, np.float32), "running_var": np.ones(n, np.float32)}
        return params, buffers | {"num_batches_tracked": np.zeros((), np.int64)}

    def forward(params, buffers, x, *, train=False, key=None):
        expect(params, {"weight": (n,), "bias": (n,)})
        expect_channels(x, n)
        x = in_floats(x)
        weight, bias = params["weight"], params["bias"]
        expect_running(buffers, n)
        if not train:
            mean, var = widened(buffers["running_mean"]), widened(buffers["running_var"])
            scale = weight / np.sqrt(var + var.dtype.type(eps))
            y = (x - over_pixels(mean)) * over_pixels(scale) + over_pixels(bias)
            return (y if is_full(x.dtype) else y.astype(x.dtype)), buffers, None
        out, mean, var, cache = batch_norm_forward(x, weight, bias, eps)
        return out, _moved(buffers, x, mean, var), cache

    def _moved(buffers, x, mean, var):
        count = x.size / n
        if count <= 1:
            raise UserError("input: BatchNorm in training needs more than one value in a channel")
        new = {"running_mean": mean, "running_var": var * (count / (count - 1))}  # unbiased
        moved = {
            name: (buffers[name] + momentum * (value - buffers[name])).astype(buffers[name].dtype)
            for name, value in new.items()
        }
        return moved | {"num_batches_tracked": buffers["num_batches_tracked"] + 1}

    def backward(dout, cache):
        dx, dweight, dbias = batch_norm_backward(dout, cache)
        return dx, {"weight": dweight, "bias": dbias}

    init = sized(init, {"weight": (n,), "bias": (n,)})
    return Module(init, forward, backward, uses_key=False, kind="BatchNorm")
