"""From a model to its gradient: by torch.func, or by autograd on leaves where that gives the same sooner."""

from collections.abc import Callable

import torch
from torch import Tensor

from core import tree
from core.arrays import traced
from core.base import Batch, Buffers, GradFn, Metrics, Model, Params, UserError
from core.metrics import accuracy
from torch_nets.losses import cross_entropy

METRICS = {
    "accuracy": accuracy
}  # f(logits, targets) -> a scalar, by name; "loss" is there without being asked


def grad_fn(model: Model, loss: Callable = cross_entropy, metrics: dict[str, Callable] = METRICS) -> GradFn:
    """The gradient of `loss(logits, targets)` by the params, in training mode, with `metrics` of the batch."""

    def forward(params: Params, buffers: Buffers, batch: Batch, key):
        x, y = batch
        logits, buffers = model.apply(params, buffers, x, train=True, key=key)
        value = loss(logits, y)
        return value, (buffers, measured(value.detach(), logits.detach(), y, metrics))

    by_func = torch.func.grad(forward, has_aux=True)

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        by = on_leaves if is_plain(params) else by_func
        return by(params, buffers, batch, key)

    def on_leaves(params: Params, buffers: Buffers, batch: Batch, key):
        with torch.enable_grad():
            leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
            value, (buffers, found) = forward(leaves, buffers, batch, key)
            grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, grads, strict=True)), (tree.map(torch.Tensor.detach, buffers), found)

    return grad


def is_plain(params: Params) -> bool:
    """Whether nothing looks into the gradient: no transform of torch.func, no torch.compile, no graph that
    the params belong to. Then autograd on leaves gives the same in half the time on tiny nets."""
    return not traced() and not any(p.requires_grad for p in params.values())


def measured(loss: Tensor, logits: Tensor, targets: Tensor, metrics: dict[str, Callable]) -> Metrics:
    """The loss, and each metric by its name, which must not be "loss"."""
    if "loss" in metrics:
        raise UserError("metrics: the loss is always there; choose another name than 'loss'")
    return {"loss": loss, **{name: f(logits, targets) for name, f in metrics.items()}}


def metrics_fn(
    model: Model, loss: Callable = cross_entropy, metrics: dict[str, Callable] = METRICS
) -> Callable[[Params, Buffers, Batch], Metrics]:
    """The loss and `metrics` of a batch in evaluation mode."""

    @torch.no_grad()
    def measure(params: Params, buffers: Buffers, batch: Batch) -> Metrics:
        x, y = batch
        logits, _ = model.apply(params, buffers, x)
        return measured(loss(logits, y), logits, y, metrics)

    return measure
