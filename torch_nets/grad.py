"""From a model to its gradient by torch.func."""

from collections.abc import Callable

import torch

from core.base import Batch, Buffers, GradFn, Metrics, Model, Params
from core.metrics import accuracy
from torch_nets.losses import cross_entropy


def grad_fn(model: Model, loss: Callable = cross_entropy) -> GradFn:
    """The gradient of `loss(logits, targets)` by the params, in training mode."""

    def forward(params: Params, buffers: Buffers, batch: Batch, key):
        x, y = batch
        logits, buffers = model.apply(params, buffers, x, train=True, key=key)
        value = loss(logits, y)
        return value, (buffers, {"loss": value.detach(), "accuracy": accuracy(logits.detach(), y)})

    return torch.func.grad(forward, has_aux=True)


def metrics_fn(model: Model, loss: Callable = cross_entropy) -> Callable[[Params, Buffers, Batch], Metrics]:
    """Loss and accuracy of a batch in evaluation mode."""

    @torch.no_grad()
    def metrics(params: Params, buffers: Buffers, batch: Batch) -> Metrics:
        x, y = batch
        logits, _ = model.apply(params, buffers, x)
        return {"loss": loss(logits, y), "accuracy": accuracy(logits, y)}

    return metrics
