"""From a model to its gradient: by torch.func, or by autograd on leaves where that gives the same sooner."""

from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core import tree
from purenets.core.arrays import is_tracing
from purenets.core.base import Batch, Buffers, GradFn, Metrics, Model, Params, UserError
from purenets.core.metrics import accuracy
from purenets.core.vector_dict import ALL, from_vector, vector_of
from purenets.torch_nets.fast.backward import gradients
from purenets.torch_nets.losses import cross_entropy

METRICS = {
    "accuracy": accuracy
}  # f(logits, targets) -> a scalar, by name; "loss" is there without being asked


def grad_fn(model: Model, loss: Callable = cross_entropy, metrics: dict[str, Callable] = METRICS) -> GradFn:
    """The gradient of `loss(logits, targets)` by the params, in training mode, with `metrics` of the batch."""
    forward = loss_fn(model, loss, metrics)
    by_func = torch.func.grad(forward, has_aux=True)

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        if not can_use_autograd(params):
            return by_func(params, buffers, batch, key)
        return autograd_grads(forward, params, buffers, batch, key)

    grad.uses_key = model.uses_key
    return grad


def loss_fn(model: Model, loss: Callable, metrics: dict[str, Callable]) -> Callable:
    """`forward(params, buffers, batch, key) -> (loss, (buffers, metrics))` in training mode."""
    expect_no_loss(metrics)

    def forward(params: Params, buffers: Buffers, batch: Batch, key):
        x, y = batch
        logits, buffers = model.apply(params, buffers, x, train=True, key=key)
        value = loss(logits, y)
        return value, (buffers, compute_metrics(value.detach(), logits, y, metrics))

    return forward


def autograd_grads(
    forward: Callable, params: Params, buffers: Buffers, batch: Batch, key
) -> tuple[Params, tuple[Buffers, Metrics]]:
    """Return the gradients of a `loss_fn` by autograd, and its (buffers, metrics)."""
    if not torch.is_grad_enabled():
        with torch.enable_grad():
            return autograd_grads(forward, params, buffers, batch, key)
    vector = vector_of(params)
    if vector is None:
        inputs = leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    else:  # one input: its gradient is one vector
        inputs = {ALL: vector.detach().requires_grad_()}
        leaves = params.layout.split(inputs[ALL])
    value, (buffers, found) = forward(leaves, buffers, batch, key)
    grads = gradients(value, tuple(inputs.values()))
    pairs = zip(inputs.items(), grads, strict=True)
    grads = {name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in pairs}  # if not used
    grads = grads if vector is None else from_vector(params.layout, grads[ALL])
    return grads, (tree.map(torch.Tensor.detach, buffers), found)


def can_use_autograd(params: Params) -> bool:
    """Whether nothing looks into the gradient: no transform of torch.func, no torch.compile, no graph that
    the params belong to. Then autograd on leaves gives the same in half the time on tiny nets."""
    if is_tracing():
        return False
    return vector_of(params) is not None or not any(p.requires_grad for p in params.values())


def expect_no_loss(metrics: dict[str, Callable]) -> None:
    """Raise a UserError if one of the metrics has the name of the loss."""
    if "loss" in metrics:
        raise UserError("metrics: the loss is always there; choose another name than 'loss'")


def compute_metrics(loss: Tensor, logits: Tensor, targets: Tensor, metrics: dict[str, Callable]) -> Metrics:
    """The loss, and each metric by its name."""
    found = {"loss": loss}
    for name, f in metrics.items():
        found[name] = f(logits.detach(), targets)
    return found


def metrics_fn(
    model: Model, loss: Callable = cross_entropy, metrics: dict[str, Callable] = METRICS
) -> Callable[[Params, Buffers, Batch], Metrics]:
    """The loss and `metrics` of a batch in evaluation mode."""
    expect_no_loss(metrics)

    @torch.no_grad()
    def measure(params: Params, buffers: Buffers, batch: Batch) -> Metrics:
        x, y = batch
        logits, _ = model.apply(params, buffers, x)
        return compute_metrics(loss(logits, y), logits, y, metrics)

    return measure
