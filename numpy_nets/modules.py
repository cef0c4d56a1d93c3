"""Every layer's forward and backward pass, written out by hand, one under the other.

The convention is that of CS231n: `f_forward(...) -> (out, cache)`, `f_backward(dout, cache) ->
gradients`, where `dout` is the gradient of the loss by `out` and the cache holds what the backward
pass needs. The derivations, with the dimensions of all matrices, are in docs/backprop.md.

Below the pairs stand the modules `Linear`, `ReLU`, ...: constructors of a `Module`, which binds a
pair to params, so that modules can be put in a row (`mlp_numpy.py`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from purenets.core import random
from purenets.core.arguments import (
    ANY,
    expect_reals,
)
from purenets.core.arrays import widened
from purenets.core.base import UserError
from purenets.core.data.checks import are_class_indices
from purenets.core.memory import sized
from purenets.core.serial import (
    expect,
    expect_features,
    expect_sizes,
    serial_apply,
    serial_init,
    serial_uses_key,
)

# --- linear ---------------------------------------------------------------------------------------


def linear_forward(x, weight, bias):
    """y = x W^T + b. x: (batch, in), weight: (out, in), bias: (out,) -> y: (batch, out)."""
    y = x.dot(weight.T)
    y += bias
    return y, (x, weight)


def linear_backward(dout, cache):
    """dout: (batch, out) -> dx = dout W: (batch, in), dW = dout^T x: (out, in), db = sum of rows:
    (out,).
    """
    _, weight = cache
    return dout.dot(weight), *linear_backward_params(dout, cache)


def linear_backward_params(dout, cache):
    """dW and db of `linear_backward`."""
    x, _ = cache
    return dout.T.dot(x), np.add.reduce(dout, axis=0)


# --- activations ----------------------------------------------------------------------------------


def relu_forward(x):
    """y = max(0, x), any shape."""
    y = np.maximum(x, 0)
    return y, y


def relu_backward(dout, cache):
    """dx = dout where y > 0, else 0 (also at x = 0, as in PyTorch)."""
    return dout * np.sign(cache)  # y is not negative


def tanh_forward(x):
    """y = tanh(x), any shape."""
    y = np.tanh(x)
    return y, y


def tanh_backward(dout, cache):
    """dx = dout (1 - y^2)."""
    return dout * (1 - cache * cache)


def silu_forward(x):
    """y = x s with s = 1 / (1 + exp(-x)), any shape."""
    s = sigmoid(x)
    return x * s, (x, s)


def silu_backward(dout, cache):
    """dx = dout (s + x s (1 - s))."""
    x, s = cache
    return dout * (s + x * s * (1 - s))


def sigmoid(x):
    """Return 1 / (1 + exp(-x)), by the exponential of what is not positive: it cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


# --- dropout --------------------------------------------------------------------------------------


def dropout_forward(x, key, rate):
    """Each element is 0 with probability `rate`, else x / (1 - rate): the expectation stays x."""
    mask = random.bernoulli(key, 1 - rate, x.shape) / x.dtype.type(1 - rate)
    return x * mask, mask


def dropout_backward(dout, cache):
    """dx = dout times the same mask."""
    return dout * cache


# --- softmax and cross-entropy --------------------------------------------------------------------


def softmax_forward(x):
    """p_k = exp(x_k) / sum_j exp(x_j), along the last axis; the largest x is subtracted first,
    which changes nothing but keeps exp from overflowing."""
    wide = widened(x)
    e = np.exp(wide - wide.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p.astype(x.dtype, copy=False), p


def softmax_backward(dout, cache):
    """dx = p (dout - sum_j dout_j p_j): the Jacobian diag(p) - p p^T applied, never built."""
    p = cache
    return p * (dout - (dout * p).sum(axis=-1, keepdims=True))


def cross_entropy_forward(p, targets):
    """The mean of -log p[target]. p: (batch, classes), each row a distribution; targets: (batch,)
    int, or (batch, classes) labels t, one-hot or soft: then the mean of -sum_k t_k log p_k."""
    p = widened(p)
    targets = classes_or_labels(p, targets)
    if targets.ndim == 2:
        log_p = np.log(np.where(targets == 0, 1, p))  # where t_k = 0, p_k may be 0 too
        return -(targets * log_p).sum(axis=1).mean(), (p, targets)
    rows = np.arange(len(targets))
    return -np.log(p[rows, targets]).mean(), (p, targets)


def cross_entropy_backward(dout, cache):
    """dp = -dout / (batch p) at the target, 0 elsewhere; for labels t: dp = -dout t / (batch p)."""
    p, targets = cache
    if targets.ndim == 2:
        return -dout * targets / (len(targets) * np.where(targets == 0, 1, p))
    rows = np.arange(len(targets))
    dp = np.zeros_like(p)
    dp[rows, targets] = -dout / (len(targets) * p[rows, targets])
    return dp


def softmax_cross_entropy_forward(logits, targets):
    """Both at once: the mean of log sum_j exp(x_j) - x[target]; finite for any finite logits.

    targets: (batch,) int, or (batch, classes) labels, one-hot or soft. Of half-precision logits
    the loss and the gradient are in float32. The cache has the places of the targets and of the
    largest logits too, for the accuracy.
    """
    logits = widened(logits)
    targets = classes_or_labels(logits, targets)
    if targets.ndim == 2:
        return _softmax_labels_forward(logits, targets)
    n, n_classes = logits.shape
    begins = np.arange(0, n * n_classes, n_classes)  # of the rows, in the order of memory
    places = begins + targets
    best = begins + logits.argmax(axis=1)
    largest = logits.take(best)  # half the time of logits.max(axis=1)
    shifted = logits - largest[:, None]
    e = np.exp(shifted)
    total = np.add.reduce(e, axis=1, keepdims=True)
    losses = np.log(total[:, 0]) - shifted.take(places)
    e /= total
    return np.add.reduce(losses) / losses.dtype.type(n), (e, targets, places, best)


def softmax_cross_entropy_backward(dout, cache):
    """dx = dout (p - onehot(target)) / batch."""
    p, targets, places, _ = cache
    if places is None:
        return _softmax_labels_backward(dout, p, targets)
    dx = p.copy()
    dx.put(places, dx.take(places) - 1)
    dx *= dout / len(targets)
    return dx


def _softmax_labels_forward(logits, t):
    """The mean of sum_k t_k (log sum_j exp(x_j) - x_k)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=-1, keepdims=True)
    log_p = np.where(t == 0, 0, shifted - np.log(total))  # where t_k = 0, x_k may be -inf
    return -(t * log_p).sum(axis=1).mean(), (e / total, t, None, None)


def _softmax_labels_backward(dout, p, t):
    """dx = dout (p sum_k t_k - t) / batch: the labels of a row need not sum to 1."""
    return (p * t.sum(axis=1, keepdims=True) - t) * (dout / len(t))


def classes_or_labels(logits, targets):
    """Return the targets as class numbers (batch,) int64, or as labels (batch, classes) like the
    logits.

    Args:
        logits: (batch, classes).
        targets: class numbers (batch,), or one-hot or soft labels (batch, classes), of any dtype.

    Raises:
        UserError: the targets are neither, or a class number is none of the classes.
    """
    targets, n_classes = np.asarray(targets), logits.shape[-1]
    if logits.ndim > 2:
        raise UserError(f"cross_entropy: logits of shape {logits.shape}, needs (batch, classes)")
    if not are_class_indices(logits, targets, targets.dtype.kind in "iub"):
        return _checked_labels(targets).astype(logits.dtype, copy=False)
    if targets.dtype != np.int64:
        targets = targets.astype(np.int64)
    if (
        np.maximum.reduce(targets.view(np.uint64)) >= n_classes
    ):  # a negative one is a large one there
        wrong = targets[(targets < 0) | (targets >= n_classes)][0]
        raise UserError(
            f"cross_entropy: target {wrong} is none of the classes 0 to {n_classes - 1}"
        )
    return targets


def _checked_labels(labels):
    if labels.dtype.kind not in "biuf":
        raise UserError(f"cross_entropy: labels must be numbers, got {labels.dtype}")
    if labels.dtype.kind in "iu" and not ((labels >= 0).all() and (labels.sum(axis=1) == 1).all()):
        raise UserError("cross_entropy: integer labels (batch, classes) must be one-hot")
    return labels


# --- modules --------------------------------------------------------------------------------------


class Module(NamedTuple):
    """A layer with params and a hand-written backward pass.

    Args:
        init: `init(key) -> (params, buffers)`.
        forward: `forward(params, buffers, x, *, train=False, key=None) -> (out, buffers, cache)`.
        backward: `backward(dout, cache) -> (dx, grads)`, grads by the names of the params.
        uses_key: False if `forward` never draws from its key.
        kind: its name in a table, such as "Linear".
        layers: the modules it applies in sequence, by name.
        backward_params: `backward_params(dout, cache) -> grads`, `backward` without dx, which
            nobody needs of the first layer; None where that saves nothing.
    """

    init: Callable
    forward: Callable
    backward: Callable
    uses_key: bool = True
    kind: str = ""
    layers: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default; never changed)
    backward_params: Callable | None = None


def params_backward(module) -> Callable:
    """Return `f(dout, cache) -> grads` of a module or a model, without dx if possible."""
    return module.backward_params or (lambda dout, cache: module.backward(dout, cache)[1])


def Linear(n_in: int, n_out: int) -> Module:
    """x: (batch, n_in) -> (batch, n_out).

    Small normal weights of deviation 1 / sqrt(n_in), zero bias.
    """
    expect_sizes("Linear", n_in=n_in, n_out=n_out)

    shapes = {"weight": (n_out, n_in), "bias": (n_out,)}

    def init(key):
        weight = random.normal(key, (n_out, n_in)) / np.float32(math.sqrt(n_in))
        return {"weight": weight, "bias": np.zeros(n_out, np.float32)}, {}

    def forward(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_features(x, n_in)
        out, cache = linear_forward(x, params["weight"], params["bias"])
        return out, buffers, cache

    def backward(dout, cache):
        dx, dweight, dbias = linear_backward(dout, cache)
        return dx, {"weight": dweight, "bias": dbias}

    def backward_params(dout, cache):
        dweight, dbias = linear_backward_params(dout, cache)
        return {"weight": dweight, "bias": dbias}

    init = sized(init, shapes)
    return Module(init, forward, backward, False, "Linear", backward_params=backward_params)


def _without_params(forward: Callable, backward: Callable, kind: str = "") -> Module:
    def module_forward(params, buffers, x, *, train=False, key=None):
        expect(params, {})
        out, cache = forward(x)
        return out, buffers, cache

    def module_backward(dout, cache):
        return backward(dout, cache), {}

    return Module(lambda key: ({}, {}), module_forward, module_backward, False, kind)


def ReLU() -> Module:
    """max(0, x)."""
    return _without_params(relu_forward, relu_backward, "ReLU")


def Tanh() -> Module:
    """tanh(x)."""
    return _without_params(tanh_forward, tanh_backward, "Tanh")


def SiLU() -> Module:
    """x sigmoid(x)."""
    return _without_params(silu_forward, silu_backward, "SiLU")


ACTIVATIONS = {"relu": ReLU, "tanh": Tanh, "silu": SiLU}


def SoftMax() -> Module:
    """softmax along the last axis."""
    return _without_params(softmax_forward, softmax_backward, "SoftMax")


def Dropout(rate: float) -> Module:
    """Zeros with probability `rate` when training; needs a key then."""
    expect_reals("dropout", ANY, rate=rate)
    if not 0 <= rate < 1:
        raise UserError(f"dropout: rate {rate} is not from 0 to below 1")

    def forward(params, buffers, x, *, train=False, key=None):
        if not train or rate == 0:
            return x, buffers, None
        if key is None:
            raise UserError("dropout: training needs a key")
        out, cache = dropout_forward(x, key, rate)
        return out, buffers, cache

    def backward(dout, cache):
        return (dout if cache is None else dropout_backward(dout, cache)), {}

    return Module(lambda key: ({}, {}), forward, backward, kind="Dropout")


def serial(**modules: Module) -> Module:
    """Modules in a row; the params of `fc1=Linear(...)` are named "fc1.weight" and "fc1.bias".

    Backward goes through them in the opposite order: the chain rule.
    """

    def backward(dout, caches):
        parts = []
        for name, module in backwards:
            dout, mine = module.backward(dout, *caches[name])
            parts.append((name, mine))
        return dout, _joined(parts)

    def backward_params(dout, caches):
        parts = []
        for name, module in backwards[:-1]:
            dout, mine = module.backward(dout, *caches[name])
            parts.append((name, mine))
        for name, module in backwards[-1:]:
            parts.append((name, params_backward(module)(dout, *caches[name])))
        return _joined(parts)

    backwards, forward = list(reversed(modules.items())), serial_apply(modules, "forward")
    uses_key = serial_uses_key(modules)
    return Module(
        serial_init(modules), forward, backward, uses_key, "Serial", modules, backward_params
    )


def _joined(parts: list[tuple[str, dict]]) -> dict:
    """Return the gradients of layers, last layer first, by name, in the order of the params."""
    return {f"{name}.{leaf}": g for name, mine in reversed(parts) for leaf, g in mine.items()}
