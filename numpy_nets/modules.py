"""Every layer's forward and backward pass, written out by hand, one under the other.

The convention is that of CS231n: `f_forward(...) -> (out, cache)`, `f_backward(dout, cache) ->
gradients`, where `dout` is the gradient of the loss with respect to `out` and the cache holds what
the backward pass needs. The derivations, with the dimensions of all matrices, are in
docs/backprop.md.

Below the pairs stand the modules `Linear`, `ReLU`, ...: constructors of a `Module`, which binds a
pair to params, so that `serial` can apply several in sequence (`mlp_numpy.py`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from purenets.core import random
from purenets.core.arguments import ANY, expect_reals
from purenets.core.arrays import expect_plain, in_floats, is_full, widened
from purenets.core.base import UserError
from purenets.core.data.checks import are_class_indices, expect_distributions, expect_real_outputs
from purenets.core.memory import sized
from purenets.core.serial import (
    expect,
    expect_features,
    expect_named,
    expect_sizes,
    serial_apply,
    serial_init,
    serial_uses_key,
)
from purenets.numpy_nets.own_layers import checked

# --- linear ---------------------------------------------------------------------------------------


def linear_forward(x, weight, bias):
    """Return y = x W^T + b and the cache.

    x: (batch, in), weight: (out, in), bias: (out,) -> y: (batch, out).
    """
    y = x.dot(weight.T)
    y += bias
    return y, (x, weight)


def linear_backward(dout, cache):
    """Return dx = dout W, dW = dout^T x and db = the sum of the rows of dout.

    dout: (batch, out) -> dx: (batch, in), dW: (out, in), db: (out,).
    """
    _, weight = cache
    return dout.dot(weight), *linear_backward_params(dout, cache)


def linear_backward_params(dout, cache):
    """Return dW and db of `linear_backward`, for a first layer, whose dx nobody needs."""
    x, _ = cache
    return dout.T.dot(x), sum_of_rows(dout)


MANY = 10_000  # rows whose sum in float32 would lose more than two of its seven digits


def sum_of_rows(x):
    """Return the sum of the rows of x: NumPy adds one row after the other.

    The sum of MANY, or of half precision, is taken in float64.
    """
    if len(x) < MANY and x.itemsize > 2:
        return np.add.reduce(x, axis=0)
    return np.add.reduce(x, axis=0, dtype=np.float64).astype(x.dtype)


# --- activations ----------------------------------------------------------------------------------


def relu_forward(x):
    """Return y = max(0, x), of any shape, and the cache."""
    y = np.maximum(x, 0)
    return y, y


def relu_backward(dout, cache):
    """Return dx = dout where y > 0, else 0 (also at x = 0, as in PyTorch)."""
    return dout * np.sign(cache)  # 1 where y > 0, else 0: y is never negative


def tanh_forward(x):
    """Return y = tanh(x), of any shape, and the cache."""
    y = np.tanh(in_floats(x))
    return y, y


def tanh_backward(dout, cache):
    """Return dx = dout (1 - y^2)."""
    return dout * (1 - cache * cache)


def silu_forward(x):
    """Return y = x s with s = 1 / (1 + exp(-x)), of any shape, and the cache."""
    x = in_floats(x)
    s = sigmoid(x)
    return x * s, (x, s)


def silu_backward(dout, cache):
    """Return dx = dout (s + x s (1 - s))."""
    x, s = cache
    return dout * (s + x * s * (1 - s))


def sigmoid(x):
    """Return 1 / (1 + exp(-x)), computed from exp(-|x|), which cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


# --- dropout --------------------------------------------------------------------------------------


def dropout_forward(x, key, rate):
    """Return x with elements dropped with probability `rate`, and the cache.

    The others are divided by 1 - rate, so that the expectation stays x.
    """
    x = in_floats(x)
    mask = random.bernoulli(key, 1 - rate, x.shape) / x.dtype.type(1 - rate)
    return x * mask, mask


def dropout_backward(dout, cache):
    """Return dx = dout times the same mask."""
    return dout * cache


# --- softmax and cross-entropy --------------------------------------------------------------------


def softmax_forward(x):
    """Return p_k = exp(x_k) / sum_j exp(x_j) along the last axis, and the cache.

    The largest x is subtracted first, which leaves p the same and keeps exp from overflowing.
    """
    x = in_floats(x)
    wide = widened(x)
    e = np.exp(wide - wide.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p.astype(x.dtype, copy=False), p


def softmax_backward(dout, cache):
    """Return dx = p (dout - sum_j dout_j p_j): the Jacobian diag(p) - p p^T, never built."""
    p = cache
    return p * (dout - (dout * p).sum(axis=-1, keepdims=True))


def cross_entropy_forward(p, targets):
    """Return the mean of -log p[target] and the cache.

    p: (batch, classes), each row a distribution. targets: (batch,) int, or (batch, classes) labels
    t, one-hot or soft; then it is the mean of -sum_k t_k log p_k.
    """
    p = widened(p)
    targets = classes_or_labels(p, targets)
    if targets.ndim == 2:
        log_p = np.log(np.where(targets == 0, 1, p))  # where t_k = 0, p_k may be 0 too
        return -(targets * log_p).sum(axis=1).mean(), (p, targets)
    rows = np.arange(len(targets))
    return -np.log(p[rows, targets]).mean(), (p, targets)


def cross_entropy_backward(dout, cache):
    """Return dp = -dout / (batch p) at the target, else 0; for labels t, -dout t / (batch p)."""
    p, targets = cache
    if targets.ndim == 2:
        return -dout * targets / (len(targets) * np.where(targets == 0, 1, p))
    rows = np.arange(len(targets))
    dp = np.zeros_like(p)
    dp[rows, targets] = -dout / (len(targets) * p[rows, targets])
    return dp


def softmax_cross_entropy_forward(logits, targets):
    """Return the mean of log sum_j exp(x_j) - x[target] and the cache: softmax and loss in one.

    It is finite for all finite logits. targets: (batch,) int, or (batch, classes) labels, one-hot
    or soft. For half-precision logits the loss and the gradient are in float32. The cache also
    holds the places of the targets and of the largest logits, for the accuracy.
    """
    logits = widened(logits)
    targets = classes_or_labels(logits, targets)
    if targets.ndim == 2:
        return _softmax_labels_forward(logits, targets)
    n, n_classes = logits.shape
    begins = np.arange(0, n * n_classes, n_classes)  # of the rows, in the order of memory
    places = begins + targets  # places[i] is the index of logits[i, targets[i]] in the flat array
    best = begins + logits.argmax(axis=1)
    largest = logits.take(best)  # half the time of logits.max(axis=1)
    shifted = logits - largest[:, None]
    e = np.exp(shifted)
    total = np.add.reduce(e, axis=1, keepdims=True)
    losses = np.log(total[:, 0]) - shifted.take(places)
    e /= total
    loss = np.add.reduce(losses) / losses.dtype.type(n)
    if loss != loss:  # the largest of a row with a NaN is that NaN, which is no class
        best = np.where(np.isnan(largest), -1, best)
    return loss, (e, targets, places, best)


def softmax_cross_entropy_backward(dout, cache):
    """Return dx = dout (p - onehot(target)) / batch."""
    p, targets, places, _ = cache
    if places is None:
        return _softmax_labels_backward(dout, p, targets)
    dx = p.copy()
    dx.put(places, dx.take(places) - 1)
    dx *= dout / len(targets)
    return dx


def _softmax_labels_forward(logits, t):
    """Return the mean of sum_k t_k (log sum_j exp(x_j) - x_k), and the cache."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=-1, keepdims=True)
    log_p = np.where(t == 0, 0, shifted - np.log(total))  # where t_k = 0, x_k may be -inf
    return -(t * log_p).sum(axis=1).mean(), (e / total, t, None, None)


def _softmax_labels_backward(dout, p, t):
    """Return dx = dout (p sum_k t_k - t) / batch; the labels of a row need not sum to 1."""
    return (p * t.sum(axis=1, keepdims=True) - t) * (dout / len(t))


def classes_or_labels(logits, targets):
    """Return the targets as class numbers (batch,) int64, or as labels (batch, classes).

    Args:
        logits: (batch, classes).
        targets: class numbers (batch,), or one-hot or soft labels (batch, classes), of any dtype.

    Returns:
        The class numbers, or the labels in the dtype of the logits.

    Raises:
        UserError: the targets are neither, a class number is none of the classes, or an array has
            a mask.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets.modules import classes_or_labels
        >>> classes_or_labels(np.zeros((2, 3)), np.array([2, 0], np.int8))
        array([2, 0])
    """
    if type(targets) is not np.ndarray or type(logits) is not np.ndarray:
        expect_plain("cross_entropy: logits", logits)
        expect_plain("cross_entropy: targets", targets)
        targets = np.asarray(targets)
    n_classes = logits.shape[-1]
    expect_real_outputs("cross_entropy", logits)
    if logits.ndim > 2:
        raise UserError(f"cross_entropy: logits of shape {logits.shape}, needs (batch, classes)")
    if not are_class_indices(logits, targets, targets.dtype.kind in "iub"):
        return _checked_labels(targets).astype(logits.dtype, copy=False)
    if targets.dtype != np.int64:
        targets = targets.astype(np.int64)
    # as uint64, a negative target is a large one
    if np.maximum.reduce(targets.view(np.uint64)) >= n_classes:
        wrong = targets[(targets < 0) | (targets >= n_classes)][0]
        raise UserError(
            f"cross_entropy: target {wrong} is none of the classes 0 to {n_classes - 1}"
        )
    return targets


def _checked_labels(labels):
    if labels.dtype.kind not in "biuf":
        raise UserError(f"cross_entropy: labels must be numbers, got {labels.dtype}")
    expect_distributions(labels, labels.dtype.kind in "biu")
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
    """Return a linear layer, y = x W^T + b: (batch, n_in) -> (batch, n_out).

    The weights "weight" (n_out, n_in) begin as normal draws of standard deviation 1 / sqrt(n_in),
    the bias "bias" (n_out,) as 0.

    Args:
        n_in: features of the input.
        n_out: features of the output.

    Returns:
        A module with params.

    Raises:
        UserError: a size is not a positive integer; from its passes, the params or the input do not
            fit.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets.modules import Linear
        >>> layer = Linear(3, 2)
        >>> params, buffers = layer.init(random.key(0))
        >>> out, buffers, cache = layer.forward(params, buffers, np.ones((4, 3), np.float32))
        >>> dx, grads = layer.backward(out, cache)
        >>> out.shape, dx.shape, grads["weight"].shape
        ((4, 2), (4, 3), (2, 3))
    """
    expect_sizes("Linear", n_in=n_in, n_out=n_out)

    shapes = {"weight": (n_out, n_in), "bias": (n_out,)}

    def init(key):
        weight = random.normal(key, (n_out, n_in)) / np.float32(math.sqrt(n_in))
        return {"weight": weight, "bias": np.zeros(n_out, np.float32)}, {}

    def forward(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_features(x, n_in)
        if x.ndim != 2:
            raise UserError(f"input: shape is {x.shape}, expected (batch, {n_in})")
        weight = params["weight"]
        x = x if x.dtype is weight.dtype else as_precise_as(weight, x)
        out, cache = linear_forward(x, weight, params["bias"])
        return out, buffers, cache

    def backward(dout, cache):
        dx, dweight, dbias = linear_backward(dout, cache)
        return dx, {"weight": dweight, "bias": dbias}

    def backward_params(dout, cache):
        dweight, dbias = linear_backward_params(dout, cache)
        return {"weight": dweight, "bias": dbias}

    init = sized(init, shapes)
    return Module(init, forward, backward, False, "Linear", backward_params=backward_params)


def as_precise_as(weight, x):
    """Return an input in the dtype of a weight of float32 or float64; a complex one as it is.

    Integers and float64 would make all that is computed from float32 params float64 else, and the
    gradients too.
    """
    kept = not is_full(weight.dtype) or x.dtype.kind == "c"
    return x if kept else x.astype(weight.dtype, copy=False)


def without_params(forward: Callable, backward: Callable, kind: str = "") -> Module:
    """Return a module without params from a forward and a backward pass."""

    def module_forward(params, buffers, x, *, train=False, key=None):
        expect(params, {})
        out, cache = forward(x)
        return out, buffers, cache

    def module_backward(dout, cache):
        return backward(dout, cache), {}

    return Module(lambda key: ({}, {}), module_forward, module_backward, False, kind)


def ReLU() -> Module:
    """Return the module y = max(0, x), of any shape.

    Returns:
        A module without params.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets.modules import ReLU
        >>> out, buffers, cache = ReLU().forward({}, {}, np.array([[-1.0, 2.0]]))
        >>> ReLU().backward(np.ones((1, 2)), cache)
        (array([[0., 1.]]), {})
    """
    return without_params(relu_forward, relu_backward, "ReLU")


def Tanh() -> Module:
    """Return the module y = tanh(x), of any shape.

    Returns:
        A module without params.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets.modules import Tanh
        >>> out, buffers, cache = Tanh().forward({}, {}, np.array([0.0, 1.0]))
        >>> out.round(3)
        array([0.   , 0.762])
    """
    return without_params(tanh_forward, tanh_backward, "Tanh")


def SiLU() -> Module:
    """Return the module y = x sigmoid(x), of any shape.

    Returns:
        A module without params.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets.modules import SiLU
        >>> out, buffers, cache = SiLU().forward({}, {}, np.array([0.0, 1.0]))
        >>> out.round(3)
        array([0.   , 0.731])

    Source:
        Elfwing et al. 2018, arXiv 1702.03118; torch.nn.SiLU.
    """
    return without_params(silu_forward, silu_backward, "SiLU")


ACTIVATIONS = {"relu": ReLU, "tanh": Tanh, "silu": SiLU}


def SoftMax() -> Module:
    """Return the module that makes probabilities of scores: softmax along the last axis.

    Returns:
        A module without params.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets.modules import SoftMax
        >>> out, buffers, cache = SoftMax().forward({}, {}, np.log(np.array([[1.0, 3.0]])))
        >>> out.round(3)
        array([[0.25, 0.75]])
    """
    return without_params(softmax_forward, softmax_backward, "SoftMax")


def Dropout(rate: float) -> Module:
    """Return a module that sets elements to 0 in training; it needs a key then.

    What is left is divided by 1 - rate, so that the expectation stays. In evaluation nothing
    changes.

    Args:
        rate: the probability of dropping an element, from 0 to below 1.

    Returns:
        A module without params.

    Raises:
        UserError: `rate` is no such number; from `forward` in training, there is no key.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets.modules import Dropout
        >>> x = np.ones(1000, np.float32)
        >>> out, *_ = Dropout(0.5).forward({}, {}, x, train=True, key=random.key(0))
        >>> sorted(set(out.tolist()))
        [0.0, 2.0]

    Source:
        Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """
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


def serial(*unnamed: Module, **modules: Module) -> Module:
    """Return modules in sequence as one module.

    The params of `fc1=Linear(...)` are named "fc1.weight" and "fc1.bias". `backward` goes through
    the modules in the opposite order: the chain rule.

    Args:
        unnamed: refused; each module needs a name.
        modules: the modules by name, in order.

    Returns:
        A module with the params and buffers of all.

    Raises:
        UserError: an argument is not a module or has no name; from `init` and the passes, the name
            of the leaf or layer that is wrong. A module of your own must not write into its
            arguments, and must return gradients in the shapes of its input and params.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets.modules import Linear, ReLU, serial
        >>> net = serial(fc1=Linear(2, 8), relu=ReLU(), fc2=Linear(8, 3))
        >>> params, buffers = net.init(random.key(0))
        >>> list(params)
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
        >>> net.forward(params, buffers, np.zeros((5, 2), np.float32))[0].shape
        (5, 3)
    """

    expect_named(unnamed)
    used = {name: checked(module) for name, module in modules.items()}

    def backward(dout, caches):
        parts = []
        for name, module in backwards:
            dout, mine = _step_back(name, module.backward, dout, caches)
            parts.append((name, mine))
        return dout, _joined(parts)

    def backward_params(dout, caches):
        parts = []
        for name, module in backwards[:-1]:
            dout, mine = _step_back(name, module.backward, dout, caches)
            parts.append((name, mine))
        for name, module in backwards[-1:]:
            parts.append((name, _step_back(name, params_backward(module), dout, caches)))
        return _joined(parts)

    forward = serial_apply(used, "forward")
    backwards = list(reversed(used.items()))
    uses_key = serial_uses_key(modules)
    return Module(
        serial_init(modules), forward, backward, uses_key, "Serial", modules, backward_params
    )


def _step_back(name: str, backward: Callable, dout: np.ndarray, caches: dict) -> Any:
    """Return what the backward pass of a layer returns; a UserError begins with its name."""
    try:
        return backward(dout, *caches[name])
    except UserError as error:
        raise UserError(f"{name}.{error.args[0]}") from error


def _joined(parts: list[tuple[str, dict]]) -> dict:
    """Return the gradients of layers, last layer first, by name, in the order of the params."""
    return {f"{name}.{leaf}": g for name, mine in reversed(parts) for leaf, g in mine.items()}
