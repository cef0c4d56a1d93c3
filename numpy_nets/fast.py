"""The training step of an MLP in as few NumPy calls as there can be: the same step in half the time on tiny nets.

`fast_step(model, optimizer)` is `make_step(grad_fn(model), optim.flat(optimizer))` of a row of Linear, ReLU and
Tanh, written out as one function. On nets of some dozen units a NumPy call costs more than its arithmetic: so the
gradient is written into one vector, sums over the batch are products with ones, and the optimiser moves all params
at once. The face is as pure as any step's.
"""

import functools

import numpy as np

from core import tree
from core.base import Batch, Metrics, Optimizer, Params, Step, TrainState, UserError
from core.layers import expect_features
from numpy_nets.grad import HandModel

KNOWN = ("linear", "relu", "tanh")
Places = tuple[tuple[str, slice, tuple[int, ...]], ...]  # of the leaves in the vector of all


def fast_step(model: HandModel, optimizer: Optimizer) -> Step:
    """`step(state, batch) -> (state, metrics)` as `core.train.make_step` makes it, for `optimizer` on the vector
    of all params (`core.optim.flat` says for which optimisers that is the same); the state is that of
    `optim.flat(optimizer)`.

    A UserError names the layer that is not of KNOWN.
    """
    layers = tuple((name, module.kind) for name, module in (model.row or {}).items())
    for name, kind in layers or (("the model", ""),):
        if kind not in KNOWN:
            raise UserError(f"fast_step: {name} is no row of layers or none of {', '.join(KNOWN)}")
    last: list = [{}, None]  # the params that the last call returned, and the vector that they are views of

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        params, (views, vector) = state.params, last
        places = _places(layers, tuple((name, leaf.shape) for name, leaf in params.items()))
        grad, metrics = _pass(layers, places, params, *batch)
        if any(leaf is not views.get(name) for name, leaf in params.items()):
            vector = np.concatenate([leaf.reshape(-1) for leaf in params.values()])
        updates, opt_state = optimizer.update({"all": grad}, state.opt_state, {"all": vector})
        vector = vector + updates["all"]
        params = {name: vector[place].reshape(shape) for name, place, shape in places}
        last[:] = dict(params), vector
        return TrainState(params, state.buffers, opt_state, state.key, state.step + 1), metrics

    return step


@functools.lru_cache(maxsize=64)
def _places(layers: tuple, shapes: tuple) -> Places:
    """A UserError names the leaves that are missing or unknown, or the one that is misshapen."""
    expected = {
        f"{name}.{leaf}": 0 for name, kind in layers if kind == "linear" for leaf in ("weight", "bias")
    }
    tree.check_names(dict(shapes), expected)
    for name, shape in shapes:
        if len(shape) != (2 if name.endswith(".weight") else 1):
            raise UserError(f"{name}: shape is {shape}, expected that of a matrix or its bias")
    ends = np.cumsum([int(np.prod(shape)) for _, shape in shapes]).tolist()
    return tuple(
        (name, slice(begin, end), shape)
        for (name, shape), begin, end in zip(shapes, [0, *ends], ends, strict=False)
    )


def _pass(layers: tuple, places: Places, params: Params, x, y) -> tuple[np.ndarray, Metrics]:
    """Forward, loss and backward: the gradient of all params as one vector, and the metrics."""
    ones, rows = _counted(len(x), x.dtype)
    kept = []  # what each layer needs to go back: its input, or its output
    for name, kind in layers:
        if kind == "linear":
            expect_features(x, params[f"{name}.weight"].shape[1])
            kept.append(x)
            x = x @ params[f"{name}.weight"].T
            x += params[f"{name}.bias"]
        else:
            x = np.maximum(x, 0) if kind == "relu" else np.tanh(x)
            kept.append(x)
    dout, metrics = _loss(x, y, ones, rows)
    grad = np.empty(places[-1][1].stop, x.dtype)
    place_of = {name: grad[place].reshape(shape) for name, place, shape in places}
    for (name, kind), before in zip(reversed(layers), reversed(kept), strict=True):
        if kind == "linear":
            np.matmul(dout.T, before, out=place_of[f"{name}.weight"])
            np.matmul(ones, dout, out=place_of[f"{name}.bias"])
            if name != layers[0][0]:  # nobody needs the gradient by the batch
                dout = dout @ params[f"{name}.weight"]
        else:
            dout *= before > 0 if kind == "relu" else 1 - before * before
    return grad, metrics


def _loss(
    logits: np.ndarray, y: np.ndarray, ones: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, Metrics]:
    """The gradient by the logits, (p - onehot) / n, made in their place; the mean loss, and the accuracy."""
    n = len(rows)
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
