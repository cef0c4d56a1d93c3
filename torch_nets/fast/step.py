"""The eager training step of a tiny net in fewer operations than `make_step` takes."""

from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core import optim
from purenets.core.base import Batch, Buffers, Model, Optimizer, Params, Step
from purenets.core.train import make_step
from purenets.core.tree import Layout
from purenets.core.vector import vector_step
from purenets.torch_nets.grad import METRICS, autograd_grads, can_use_autograd, grad_fn, loss_fn
from purenets.torch_nets.losses import cross_entropy


def views_at(places: Layout) -> Callable[[Tensor], Params]:
    """As `purenets.core.tree.views_at`, in one operation for each leaf, of a vector that begins its storage."""
    geometries = {
        name: (shape, torch.empty(shape, device="meta").stride(), place.start)
        for name, place, shape in places
    }
    return lambda vector: {name: vector.as_strided(*geometry) for name, geometry in geometries.items()}


def fast_step(
    model: Model,
    optimizer: Optimizer,
    loss: Callable = cross_entropy,
    metrics: dict[str, Callable] = METRICS,
) -> Step:
    """`vector_step` of `grad_fn(model, loss, metrics)`; where torch.compile, a transform of torch.func
    or autograd looks on, `make_step` of it and of `optim.flat(optimizer)`, which is the same function."""
    forward = loss_fn(model, loss, metrics)

    def gradient(params: Params, buffers: Buffers, batch: Batch, key, places: Layout):
        grads, found = autograd_grads(forward, params, buffers, batch, key)
        return torch.cat([*map(torch.ravel, grads)]), found

    eager = vector_step(gradient, optimizer, model.uses_key, views_at)
    any_way = make_step(grad_fn(model, loss, metrics), optim.flat(optimizer))
    return lambda state, batch: (eager if can_use_autograd(state.params) else any_way)(state, batch)
