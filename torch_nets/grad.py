"""From a model to its gradient: by torch.func, or by autograd on leaves where that gives the same sooner."""

from collections.abc import Callable

import torch

from core import tree
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

    by_func = torch.func.grad(forward, has_aux=True)

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        by = on_leaves if is_plain(params) else by_func
        return by(params, buffers, batch, key)

    def on_leaves(params: Params, buffers: Buffers, batch: Batch, key):
        with torch.enable_grad():
            leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
            value, (buffers, metrics) = forward(leaves, buffers, batch, key)
            grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, grads, strict=True)), (tree.map(torch.Tensor.detach, buffers), metrics)

    return grad


def is_plain(params: Params) -> bool:
    """Whether nothing looks into the gradient: no transform of torch.func, no torch.compile, no graph that
    the params belong to. Then autograd on leaves gives the same in half the time on tiny nets."""
    if torch.compiler.is_compiling() or any(p.requires_grad for p in params.values()):
        return False
    return torch._C._functorch.peek_interpreter_stack() is None


def metrics_fn(model: Model, loss: Callable = cross_entropy) -> Callable[[Params, Buffers, Batch], Metrics]:
    """Loss and accuracy of a batch in evaluation mode."""

    @torch.no_grad()
    def metrics(params: Params, buffers: Buffers, batch: Batch) -> Metrics:
        x, y = batch
        logits, _ = model.apply(params, buffers, x)
        return {"loss": loss(logits, y), "accuracy": accuracy(logits, y)}

    return metrics
