"""From a module to a model, and from a model to its gradient by hand."""

from collections.abc import Callable
from typing import NamedTuple

from purenets.core.base import Apply, Batch, Buffers, GradFn, Init, Metrics, Params
from purenets.core.metrics import accuracy
from purenets.core.vector_dict import as_plain
from purenets.numpy_nets.modules import (
    Module,
    params_backward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)


class NumpyModel(NamedTuple):
    """A `Model` with its forward and backward passes: the fields of `Model` and of `Module` together."""

    init: Init
    apply: Apply
    forward: Callable
    backward: Callable
    uses_key: bool = True
    kind: str = ""
    layers: dict[str, Module] = {}  # noqa: RUF012 (a NamedTuple's default; never changed)
    backward_params: Callable | None = None


def model_from_module(module: Module) -> NumpyModel:
    """Return a module whose output is logits as a model."""

    def apply(params, buffers, x, *, train=False, key=None):
        logits, buffers, _ = module.forward(params, buffers, x, train=train, key=key)
        return logits, buffers

    init, forward, backward, *about = module
    return NumpyModel(init, apply, forward, backward, *about)


def grad_fn(model: NumpyModel) -> GradFn:
    """The gradient of the mean cross-entropy: forward, loss, and back by hand."""

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        x, y = batch
        logits, buffers, cache = model.forward(as_plain(params), buffers, x, train=True, key=key)
        loss, loss_cache = softmax_cross_entropy_forward(logits, y)
        grads = params_backward(model)(softmax_cross_entropy_backward(1.0, loss_cache), cache)
        return grads, (buffers, {"loss": loss, "accuracy": accuracy(logits, y)})

    grad.uses_key = model.uses_key
    return grad


def metrics_fn(model: NumpyModel) -> Callable[[Params, Buffers, Batch], Metrics]:
    """Loss and accuracy of a batch in evaluation mode."""

    def metrics(params: Params, buffers: Buffers, batch: Batch) -> Metrics:
        x, y = batch
        logits, _ = model.apply(params, buffers, x)
        return {"loss": softmax_cross_entropy_forward(logits, y)[0], "accuracy": accuracy(logits, y)}

    return metrics
