"""The training step of an MLP in as few NumPy calls as there can be: the same step in half the time on tiny nets.

`fast_step(model, optimizer)` is `make_step(grad_fn(model), optim.flat(optimizer))` of a row of Linear, ReLU and
Tanh, written out as one function. On nets of some dozen units a NumPy call costs more than its arithmetic: so the
gradient is written into one vector, sums over the batch are products with ones, and the optimizer moves all params
at once. The face is as pure as any step's.
"""

import functools

import numpy as np

from purenets.core import tree
from purenets.core.base import Batch, Buffers, Metrics, Optimizer, Params, Step, UserError
from purenets.core.metrics import accuracy
from purenets.core.serial import expect_features
from purenets.core.tree import Layout
from purenets.core.vector import vector_step
from purenets.numpy_nets.grad import NumpyModel
from purenets.numpy_nets.modules import (
    classes_or_labels,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)

KNOWN = ("Linear", "ReLU", "Tanh")


def fast_step(model: NumpyModel, optimizer: Optimizer) -> Step:
    """The `vector_step` of a row of layers.

    A UserError names the layer that is not of KNOWN.
    """
    layers = tuple((name, module.kind) for name, module in model.layers.items())
    for name, kind in layers or (("the model", ""),):
        if kind not in KNOWN:
            raise UserError(f"fast_step: {name} is no row of layers or none of {', '.join(KNOWN)}")
    expected = {
        f"{name}.{leaf}": 0 for name, kind in layers if kind == "Linear" for leaf in ("weight", "bias")
    }

    def gradient(params: Params, buffers: Buffers, batch: Batch, key, places: Layout):
        tree.check_names(params, expected)
        for name, leaf in params.items():
            if leaf.ndim != (2 if name.endswith(".weight") else 1):
                raise UserError(f"{name}: shape is {leaf.shape}, expected that of a matrix or its bias")
        grad, metrics = _pass(layers, places, params, *batch)
        return grad, (buffers, metrics)

    return vector_step(gradient, optimizer)


def _pass(layers: tuple, places: Layout, params: Params, x, y) -> tuple[np.ndarray, Metrics]:
    """Forward, loss and backward: the gradient of all params as one vector, and the metrics."""
    ones, rows = _counted(len(x), x.dtype)
    kept = []  # what each layer needs to go back: its input, or its output
    for name, kind in layers:
        if kind == "Linear":
            expect_features(x, params[f"{name}.weight"].shape[1])
            kept.append(x)
            x = x @ params[f"{name}.weight"].T
            x += params[f"{name}.bias"]
        else:
            x = np.maximum(x, 0) if kind == "ReLU" else np.tanh(x)
            kept.append(x)
    dout, metrics = _loss(x, y, ones, rows)
    grad = np.empty(places[-1][1].stop, x.dtype)
    place_of = {name: grad[place].reshape(shape) for name, place, shape in places}
    for (name, kind), before in zip(reversed(layers), reversed(kept), strict=True):
        if kind == "Linear":
            np.matmul(dout.T, before, out=place_of[f"{name}.weight"])
            np.matmul(ones, dout, out=place_of[f"{name}.bias"])
            if name != layers[0][0]:  # nobody needs the gradient by the batch
                dout = dout @ params[f"{name}.weight"]
        else:
            dout *= before > 0 if kind == "ReLU" else 1 - before * before
    return grad, metrics


def _loss(
    logits: np.ndarray, y: np.ndarray, ones: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, Metrics]:
    """The gradient by the logits, (p - onehot) / n, made in their place; the mean loss, and the accuracy."""
    n, y = len(rows), classes_or_labels(logits, y)
    if y.ndim == 2:
        loss, cache = softmax_cross_entropy_forward(logits, y)
        return softmax_cross_entropy_backward(1.0, cache), {"loss": loss, "accuracy": accuracy(logits, y)}
    right = np.count_nonzero(logits.argmax(axis=1) == y)
    logits -= np.maximum.reduce(logits, axis=1, keepdims=True)
    picked = logits[rows, y]
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1)
    loss = (ones @ np.log(sums) - ones @ picked) / n
    logits /= sums[:, None]
    logits[rows, y] -= 1
    logits /= n
    return logits, {"loss": loss, "accuracy": np.float32(right / n)}


@functools.lru_cache(maxsize=64)
def _counted(n: int, dtype) -> tuple[np.ndarray, np.ndarray]:
    return np.ones(n, dtype), np.arange(n)
