"""Convolution, pooling and BatchNorm, forward and backward by hand.

Images are (batch, channels, height, width). A convolution becomes one matrix product by im2col: every window of
the input is a row. Loops run over the k x k places of a window, never over pixels or samples. The derivations
are in docs/backprop.md.
"""

import math

import numpy as np

from purenets.core import random
from purenets.core.base import UserError
from purenets.core.serial import expect, expect_channels
from purenets.numpy_nets.modules import Linear, Module, ReLU

__all__ = ["BatchNorm", "Conv", "GlobalAvgPool", "Linear", "MaxPool", "ReLU"]

# --- windows ----------------------------------------------------------------------------------------------


def padded(x, padding, value=0.0):
    """x with `padding` more pixels of `value` on each side: (B, C, H, W) -> (B, C, H + 2p, W + 2p)."""
    width = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    return np.pad(x, width, constant_values=value)


def windows(x, size, stride):
    """All windows of padded images, a view: (B, C, H, W) -> (B, C, H', W', size, size)."""
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    return view[:, :, ::stride, ::stride]


def add_windows(parts, shape, size, stride, padding):
    """The adjoint of `windows` after `padded`: each pixel gets the sum over the windows that it lies in.

    parts: (B, C, H', W', size, size), or a function of the place (i, j) in the window to (B, C, H', W').
    shape: that of the images (B, C, H, W).
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


# --- convolution ------------------------------------------------------------------------------------------


def conv_forward(x, weight, bias, stride=1, padding=0):
    """y[b, o, i, j] = bias[o] + sum of weight[o] times the window of x[b] at (i, j).

    x: (B, C, H, W), weight: (O, C, k, k), bias: (O,) -> y: (B, O, H', W') with
    H' = (H + 2 padding - k) // stride + 1.
    As a matrix product: columns (B H' W', C k k) times weight (O, C k k) transposed.
    """
    size = weight.shape[-1]
    view = windows(padded(x, padding), size, stride)
    B, _, rows, columns = view.shape[:4]
    flat = view.transpose(0, 2, 3, 1, 4, 5).reshape(B * rows * columns, -1)
    y = flat @ weight.reshape(len(weight), -1).T + bias
    y = y.reshape(B, rows, columns, -1).transpose(0, 3, 1, 2)
    return y, (flat, weight, x.shape, stride, padding)


def conv_backward(dout, cache):
    """dout: (B, O, H', W') -> dx: (B, C, H, W), dweight: (O, C, k, k), dbias: (O,): the linear layer's
    formulas on the columns, and then every column added back to the pixels that it was read from."""
    flat, weight, shape, stride, padding = cache
    O, C, size, _ = weight.shape
    B, _, rows, columns = dout.shape
    dy = dout.transpose(0, 2, 3, 1).reshape(-1, O)
    dweight = (dy.T @ flat).reshape(weight.shape)
    dflat = (dy @ weight.reshape(O, -1)).reshape(B, rows, columns, C, size, size)
    dx = add_windows(dflat.transpose(0, 3, 1, 2, 4, 5), shape, size, stride, padding)
    return dx, dweight, dy.sum(axis=0)


# --- max pooling ------------------------------------------------------------------------------------------


def max_pool_forward(x, size, stride, padding=0):
    """The largest value of each window; of equal ones the first. (B, C, H, W) -> (B, C, H', W')."""
    view = windows(padded(x, padding, -np.inf), size, stride)
    flat = view.reshape(*view.shape[:4], size * size)
    place = flat.argmax(axis=-1)
    y = np.take_along_axis(flat, place[..., None], axis=-1)[..., 0]
    return y, (place, x.shape, size, stride, padding)


def max_pool_backward(dout, cache):
    """The gradient goes to the pixel that was the largest."""
    place, shape, size, stride, padding = cache
    return add_windows(lambda i, j: dout * (place == i * size + j), shape, size, stride, padding)


# --- global average pooling -------------------------------------------------------------------------------


def mean_forward(x):
    """The mean over all pixels: (B, C, H, W) -> (B, C)."""
    return x.mean(axis=(2, 3)), x.shape


def mean_backward(dout, cache):
    """Each pixel gets an equal part."""
    _, _, H, W = cache
    return np.broadcast_to((dout / (H * W))[:, :, None, None], cache)


# --- BatchNorm --------------------------------------------------------------------------------------------


def batch_norm_forward(x, weight, bias, eps=1e-5):
    """y = n weight + bias, n = (x - mean) / sqrt(var + eps), mean and var over batch and pixels, per channel.

    x: (B, C, H, W); weight, bias: (C,). Also returns mean and (biased) var: y, mean, var, cache.
    """
    axes, shape = (0, 2, 3), (1, -1, 1, 1)
    mean = x.mean(axis=axes)
    centered = x - mean.reshape(shape)
    var = (centered * centered).mean(axis=axes)
    inverse_deviation = 1 / np.sqrt(var + x.dtype.type(eps))
    n = centered * inverse_deviation.reshape(shape)
    return n * weight.reshape(shape) + bias.reshape(shape), mean, var, (n, weight, inverse_deviation)


def batch_norm_backward(dout, cache):
    """With dn = dout weight: dx = (dn - mean(dn) - n mean(dn n)) / sqrt(var + eps), with means over batch and
    pixels; dweight = sum(dout n), dbias = sum(dout)."""
    n, weight, inverse_deviation = cache
    axes, shape = (0, 2, 3), (1, -1, 1, 1)
    dbias, dweight = dout.sum(axis=axes), (dout * n).sum(axis=axes)
    count = n.size / n.shape[1]
    inner = dout - ((dbias.reshape(shape) + n * dweight.reshape(shape)) / n.dtype.type(count))
    return inner * (weight * inverse_deviation).reshape(shape), dweight, dbias


# --- modules ----------------------------------------------------------------------------------------------


def Conv(n_in: int, n_out: int, size: int = 3, *, stride: int = 1, padding: int = 0) -> Module:
    """(B, n_in, H, W) -> (B, n_out, H', W'). Weights and bias uniform within 1 / sqrt(n_in size^2), as in
    PyTorch, and drawn as `purenets.torch_nets.layers.Conv` draws them."""
    bound = 1 / math.sqrt(n_in * size * size)

    def init(key):
        weight_key, bias_key = random.split(key)
        weight = random.uniform(weight_key, (n_out, n_in, size, size), low=-bound, high=bound)
        return {"weight": weight, "bias": random.uniform(bias_key, (n_out,), low=-bound, high=bound)}, {}

    def forward(params, buffers, x, *, train=False, key=None):
        expect(params, {"weight": (n_out, n_in, size, size), "bias": (n_out,)})
        expect_channels(x, n_in)
        out, cache = conv_forward(x, params["weight"], params["bias"], stride, padding)
        return out, buffers, cache

    def backward(dout, cache):
        dx, dweight, dbias = conv_backward(dout, cache)
        return dx, {"weight": dweight, "bias": dbias}

    return Module(init, forward, backward, uses_key=False, kind="Conv")


def _fixed(kind, forward, backward, *arguments) -> Module:
    """A module without params."""

    def module_forward(params, buffers, x, *, train=False, key=None):
        expect(params, {})
        out, cache = forward(x, *arguments)
        return out, buffers, cache

    def module_backward(dout, cache):
        return backward(dout, cache), {}

    return Module(lambda key: ({}, {}), module_forward, module_backward, uses_key=False, kind=kind)


def MaxPool(size: int, *, stride: int, padding: int = 0) -> Module:
    """The largest value of each window; the padding never wins."""
    return _fixed("MaxPool", max_pool_forward, max_pool_backward, size, stride, padding)


def GlobalAvgPool() -> Module:
    """(B, C, H, W) -> (B, C): the mean over all pixels."""
    return _fixed("GlobalAvgPool", mean_forward, mean_backward)


def BatchNorm(n: int, *, momentum: float = 0.1, eps: float = 1e-5) -> Module:
    """BatchNorm with running statistics in the buffers, as `purenets.torch_nets.layers.BatchNorm`."""

    def init(key):
        params = {"weight": np.ones(n, np.float32), "bias": np.zeros(n, np.float32)}
        buffers = {"running_mean": np.zeros(n, np.float32), "running_var": np.ones(n, np.float32)}
        return params, buffers | {"num_batches_tracked": np.zeros((), np.int64)}

    def forward(params, buffers, x, *, train=False, key=None):
        expect(params, {"weight": (n,), "bias": (n,)})
        expect_channels(x, n)
        weight, bias = params["weight"], params["bias"]
        if not train:
            mean, var = (buffers[name].reshape(1, -1, 1, 1) for name in ("running_mean", "running_var"))
            scale = weight.reshape(1, -1, 1, 1) / np.sqrt(var + var.dtype.type(eps))
            return (x - mean) * scale + bias.reshape(1, -1, 1, 1), buffers, None
        out, mean, var, cache = batch_norm_forward(x, weight, bias, eps)
        return out, _moved(buffers, x, mean, var), cache

    def _moved(buffers, x, mean, var):
        count = x.size / n
        if count <= 1:
            raise UserError("input: BatchNorm in training needs more than one value in a channel")
        new = {"running_mean": mean, "running_var": var * (count / (count - 1))}  # unbiased, as in PyTorch
        moved = {
            name: (buffers[name] + momentum * (value - buffers[name])).astype(buffers[name].dtype)
            for name, value in new.items()
        }
        return moved | {"num_batches_tracked": buffers["num_batches_tracked"] + 1}

    def backward(dout, cache):
        dx, dweight, dbias = batch_norm_backward(dout, cache)
        return dx, {"weight": dweight, "bias": dbias}

    return Module(init, forward, backward, uses_key=False, kind="BatchNorm")
