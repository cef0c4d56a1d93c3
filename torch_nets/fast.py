"""The eager training step of a tiny net in fewer operations than `core.train.make_step` takes."""

from collections.abc import Callable

import torch
from torch import Tensor

from core import optim
from core.base import Batch, Buffers, Model, Optimizer, Params, Step
from core.train import make_step
from core.vector import Places, vector_step
from torch_nets.grad import METRICS, grad_fn, is_plain
from torch_nets.losses import cross_entropy


def views(vector: Tensor, places: Places) -> Params:
    """The leaves as views of the vector, sooner than by slices."""
    parts = vector.split([place.stop - place.start for _, place, _ in places])
    return {name: part.view(shape) for part, (name, _, shape) in zip(parts, places, strict=True)}


def fast_step(
    model: Model,
    optimizer: Optimizer,
    loss: Callable = cross_entropy,
    metrics: dict[str, Callable] = METRICS,
) -> Step:
    """`core.vector.vector_step` of `grad_fn(model, loss, metrics)`; where torch.compile, a transform of torch.func
    or autograd looks on, `make_step` of it and of `optim.flat(optimizer)`, which is the same function."""
    grad = grad_fn(model, loss, metrics)

    def gradient(params: Params, buffers: Buffers, batch: Batch, key, places: Places):
        grads, rest = grad(params, buffers, batch, key)
        return torch.cat([grads[name].reshape(-1) for name, _, _ in places]), rest

    eager = vector_step(gradient, optimizer, model.draws, views)
    any_way = make_step(grad, optim.flat(optimizer))
    return lambda state, batch: (eager if is_plain(state.params) else any_way)(state, batch)
