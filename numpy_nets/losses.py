"""Losses with hand-written gradients, under the names of `torch_nets.losses`.

Each is a `Loss`, a pair of functions as in `modules.py`: forward returns the mean over the batch
and a cache, backward the gradient with respect to the outputs.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from purenets.core.arguments import POSITIVE, expect_numbers
from purenets.core.arrays import expect_plain, widened
from purenets.core.base import UserError
from purenets.core.data.checks import expect_real_outputs, expect_yes_or_no
from purenets.core.metrics import binary_accuracy, class_accuracy
from purenets.numpy_nets.modules import (
    sigmoid,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)


class Loss(NamedTuple):
    """A loss with its gradient by hand.

    Args:
        forward: `forward(outputs, targets) -> (value, cache)`.
        backward: `backward(dout, cache) -> gradient with respect to the outputs`.
        accuracy: `accuracy(outputs, cache)`; None where an accuracy has no meaning.
    """

    forward: Callable
    backward: Callable
    accuracy: Callable | None = None


def expect_losses(function: str, **values: Loss) -> None:
    """Raise a UserError for an argument that is no `Loss`."""
    for name, value in values.items():
        if not isinstance(value, Loss):
            called = getattr(value, "__name__", "")
            hint = f"; call it: {called}(...)" if value is huber else ""
            kind = type(value).__name__
            raise UserError(f"{function}: {name} is a {kind}, needs one of numpy_nets.losses{hint}")


# --- classification -------------------------------------------------------------------------------


def _accuracy(logits: np.ndarray, cache: tuple) -> np.float32:
    """Return the fraction of examples whose largest logit is that of the target."""
    _, targets, places, best = cache
    if places is None:
        return class_accuracy(logits, targets)
    return np.float32(np.count_nonzero(best == places) / len(places))


cross_entropy = Loss(softmax_cross_entropy_forward, softmax_cross_entropy_backward, _accuracy)


def binary_cross_entropy_forward(x, targets):
    """Return the mean of -t log s - (1 - t) log(1 - s) = max(x, 0) - x t + log(1 + exp(-|x|))."""
    x, t = alike("binary_cross_entropy", x, targets)
    expect_yes_or_no("binary_cross_entropy", t)
    losses = np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
    return losses.mean(), (x, t)


def binary_cross_entropy_backward(dout, cache):
    """Return dx = dout (s - t) / n with s = sigmoid(x)."""
    x, t = cache
    return (sigmoid(x) - t) * (dout / x.dtype.type(x.size))


binary_cross_entropy = Loss(
    binary_cross_entropy_forward,
    binary_cross_entropy_backward,
    lambda logits, cache: binary_accuracy(logits, cache[1]),
)


# --- regression -----------------------------------------------------------------------------------


def mse_forward(y, targets):
    """Return the mean of (y - t)^2 over all elements."""
    y, t = alike("mse", y, targets)
    r = y - t
    return (r * r).mean(), r


def mse_backward(dout, cache):
    """Return dy = 2 dout (y - t) / n."""
    r = cache
    return r * (2 * dout / r.dtype.type(r.size))


mse = Loss(mse_forward, mse_backward)


def huber_forward(y, targets, delta):
    """Return the mean of r^2 / 2 where |r| < delta, else delta (|r| - delta / 2), r = y - t."""
    y, t = alike("huber", y, targets)
    r, delta = y - t, y.dtype.type(delta)
    size = np.abs(r)
    held = np.minimum(size, delta)  # whose square is finite
    losses = held * (size - held / 2)
    return losses.mean(), (r, delta)


def huber_backward(dout, cache):
    """Return dy = dout r / n, with r held within delta."""
    r, delta = cache
    return np.clip(r, -delta, delta) * (dout / r.dtype.type(r.size))


def huber(delta: float = 1.0) -> Loss:
    """Return the Huber loss: quadratic for small errors, linear for large ones.

    The mean of r^2 / 2 where |r| < delta, else of delta (|r| - delta / 2), with r = output -
    target.

    Args:
        delta: where the parabola becomes a straight line.

    Returns:
        A `Loss` of outputs and targets of the same shape.

    Raises:
        UserError: `delta` is not positive; from the loss, the shapes differ.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets import losses
        >>> value, cache = losses.huber(1.0).forward(np.array([0.5, 3.0]), np.zeros(2))
        >>> float(value)  # the mean of 0.125 and 2.5
        1.3125
        >>> losses.huber(1.0).backward(1.0, cache)
        array([0.25, 0.5 ])

    Source:
        Huber 1964, doi 10.1214/aoms/1177703732; torch.nn.HuberLoss.
    """
    expect_numbers("huber", POSITIVE, delta=delta)
    return Loss(lambda y, targets: huber_forward(y, targets, delta), huber_backward)


def alike(name: str, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both in the shape and the dtype of the outputs, half precision as float32.

    (batch,) and (batch, 1) go together.
    """
    if type(outputs) is not np.ndarray or type(targets) is not np.ndarray:
        expect_plain(f"{name}: outputs", outputs)
        expect_plain(f"{name}: targets", targets)
    expect_real_outputs(name, outputs)
    outputs = widened(outputs)
    a, b = outputs.shape, targets.shape
    if a != b and a != (*b, 1) and b != (*a, 1):
        raise UserError(f"{name}: outputs {a} and targets {b}, needs the same shape")
    if 0 in a:
        raise UserError(f"{name}: an empty batch has no mean")
    if targets.dtype.kind == "c":
        raise UserError(f"{name}: the targets are {targets.dtype}, needs real numbers")
    return outputs, targets.reshape(a).astype(outputs.dtype, copy=False)
