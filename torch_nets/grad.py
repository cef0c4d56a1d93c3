"""The gradient of a model: by torch.func, or by autograd on leaves where that is faster."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purenets.core import tree
from purenets.core.arguments import expect_metrics, expect_models
from purenets.core.arrays import is_tracing
from purenets.core.base import Batch, Buffers, GradFn, Metrics, Model, Params, UserError
from purenets.core.data.checks import input_leaves
from purenets.core.serial import expect_keywords, expect_output, is_own
from purenets.core.vector_dict import ALL, from_vector, vector_of
from purenets.torch_nets import own_layers
from purenets.torch_nets.default_metrics import accuracy_for, kind_of_loss
from purenets.torch_nets.fast.backward import gradients
from purenets.torch_nets.fast.tracing import is_differentiated, is_torch_compiling
from purenets.torch_nets.foreign_losses import (
    checked_loss,
    expect_gradient,
    is_mean,
    unbroadcast,
)
from purenets.torch_nets.keys import key_like
from purenets.torch_nets.losses import cross_entropy

# the type of what a graph of autograd has in the place of a leaf
LEAF_NODE = type(torch.zeros(1, requires_grad=True).sum().grad_fn.next_functions[0][0])


def grad_fn(
    model: Model, loss: Callable = cross_entropy, metrics: dict[str, Callable] | None = None
) -> GradFn:
    """Return the function that computes the gradient of a model's loss by its params.

    It is all that `make_step` needs to know of a model. The model runs in training mode.

    Args:
        model: the network.
        loss: `loss(logits, targets) -> scalar`.
        metrics: functions `f(logits, targets) -> scalar` by name, reported beside the "loss". None
            means the accuracy, where loss and targets define one; {} means none.

    Returns:
        `f(params, buffers, batch, key) -> (grads, (buffers, metrics))`, with grads like the params.
        The returned gradients keep their graph for anything else that requires grad, such as the
        inputs or a temperature in the loss; under a transform of torch.func or `jvp` the metrics do
        so, too. A `torch.nn.Parameter` among the params is detached.

    Raises:
        UserError: `model`, `loss` or `metrics` is wrong. When called: params or batch are not
            tensors, or a param is one of integers.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import grad_fn, layers, losses
        >>> grad = grad_fn(layers.Linear(1, 1, bias=False), losses.mse)
        >>> params = {"weight": torch.tensor([[2.0]])}
        >>> batch = torch.tensor([[3.0]]), torch.tensor([[0.0]])  # the loss is (3 w)^2
        >>> grads, (buffers, metrics) = grad(params, {}, batch, None)
        >>> grads, metrics
        ({'weight': tensor([[36.]])}, {'loss': tensor(36.)})

    Source:
        torch.func.grad.
    """
    expect_models("grad_fn", ("apply",), model=model)
    forward = loss_fn(model, loss, metrics)
    by_func = torch.func.grad(_differentiable(forward), has_aux=True)

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        expect_tensors(params, batch)
        try:
            if not can_use_autograd(params):
                return by_func(_values(params), buffers, batch, key)
            return autograd_grads(forward, params, buffers, batch, key)
        except AttributeError:
            expect_param_tensors(params)
            raise
        except RuntimeError:
            expect_floating_params(params)
            raise

    grad.uses_key = model.uses_key
    grad.whole_only = no_means({"loss": loss, **metrics_or_default(metrics, loss)})
    return grad


def _differentiable(forward: Callable) -> Callable:
    """Return a `loss_fn` that refuses a loss without a gradient, as autograd does."""

    def checked(*args):
        value, aux = forward(*args)
        if not is_torch_compiling():
            expect_gradient(value)
        return value, aux

    return checked


def loss_fn(model: Model, loss: Callable, metrics: dict[str, Callable] | None) -> Callable:
    """Return the loss of a model as a function of its params, in training mode.

    Args:
        model: the network.
        loss: `loss(logits, targets) -> scalar`.
        metrics: as in `grad_fn`.

    Returns:
        `forward(params, buffers, batch, key) -> (loss, (buffers, metrics))`.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.grad import loss_fn
        >>> forward = loss_fn(layers.Linear(1, 1, bias=False), losses.mse, None)
        >>> batch = torch.tensor([[3.0]]), torch.tensor([[0.0]])
        >>> forward({"weight": torch.tensor([[2.0]])}, {}, batch, None)[0]
        tensor(36.)
    """
    checked = checked_loss("grad_fn", loss)
    metrics, loss, model = metrics_or_default(metrics, loss), checked, own_layers.checked(model)

    def forward(params: Params, buffers: Buffers, batch: Batch, key):
        x, y = batch
        key = key_like(key, params)
        try:
            found = model.apply(params, buffers, x, train=True, key=key)
        except TypeError:
            expect_keywords("model", "apply", model.apply)
            raise
        logits, buffers = expect_output(found)
        value = loss(logits, y)
        return value, (buffers, compute_metrics(value, logits, y, metrics))

    return forward


def autograd_grads(
    forward: Callable,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    key,
    create_graph: bool | None = None,
) -> tuple[Params, tuple[Buffers, Metrics]]:
    """Return the gradients of a `loss_fn` by autograd, with its buffers and metrics.

    Args:
        forward: what `loss_fn` returned.
        params: tensors by name.
        buffers: tensors by name.
        batch: (inputs, targets).
        key: for models that draw, else None.
        create_graph: True to make the gradients differentiable. None does so where autograd is on
            and the loss depends on something else that requires grad.

    Returns:
        (grads, (buffers, metrics)), as a gradient function returns them.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.grad import autograd_grads, loss_fn
        >>> forward = loss_fn(layers.Linear(1, 1, bias=False), losses.mse, None)
        >>> batch = torch.tensor([[3.0]]), torch.tensor([[0.0]])
        >>> autograd_grads(forward, {"weight": torch.tensor([[2.0]])}, {}, batch, None)[0]
        {'weight': tensor([[36.]])}
    """
    if not torch.is_grad_enabled():
        with torch.enable_grad():
            return autograd_grads(forward, params, buffers, batch, key, create_graph=False)
    vector = vector_of(params)
    if vector is None:
        inputs = leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    else:  # one input: its gradient is one vector
        inputs = {ALL: vector.detach().requires_grad_()}
        leaves = params.layout.split(inputs[ALL])
    value, (buffers, found) = forward(leaves, buffers, batch, key)
    if not value.requires_grad:
        expect_gradient(value)
    if create_graph is None:
        create_graph = _depends_on_others(value, inputs)
    grads = gradients(value, tuple(inputs.values()), create_graph)
    pairs = zip(inputs.items(), grads, strict=True)
    # zeros for a param that is not used
    grads = {name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in pairs}
    grads = grads if vector is None else from_vector(params.layout, grads[ALL])
    return grads, (buffers if create_graph else tree.map(torch.Tensor.detach, buffers), found)


def _depends_on_others(value: Tensor, leaves: Params) -> bool:
    """Return True if a value depends on a tensor that requires grad and is not one of the leaves.

    Closures hide what a loss depends on, so the graph itself is walked. That costs 2 us for an MLP
    of two layers and 0.1% of a gradient for a CNN.
    """
    known, seen = {id(leaf) for leaf in leaves.values()}, set()
    left = [value.grad_fn] if value.grad_fn is not None else []
    while left:
        for node, _ in left.pop().next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            if type(node) is not LEAF_NODE:
                left.append(node)
            elif id(node.variable) not in known:
                return True
    return False


def _values(params: Params) -> Params:
    """Return the params with each torch.nn.Parameter as a plain tensor of its values."""
    return {
        name: p.detach() if isinstance(p, torch.nn.Parameter) else p for name, p in params.items()
    }


def can_use_autograd(params: Params) -> bool:
    """Return True if autograd on leaves gives the same gradients as torch.func.

    It does if nothing differentiates the gradient by the params: no transform of torch.func, no
    torch.compile, no graph that they belong to. On tiny nets it takes half the time.

    Args:
        params: tensors by name.

    Returns:
        A bool.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.grad import can_use_autograd
        >>> can_use_autograd({"w": torch.ones(2)})
        True
    """
    if vector_of(params) is not None:
        return True
    return not is_tracing() and not any(
        p.requires_grad and not isinstance(p, torch.nn.Parameter) for p in params.values()
    )


def metrics_or_default(metrics: dict[str, Callable] | None, loss: Callable) -> dict[str, Callable]:
    """Return `metrics`, or the default metrics of a loss.

    Args:
        metrics: functions by name; None for the accuracy that fits the loss.
        loss: the loss.

    Returns:
        Functions `f(logits, targets)` by name.

    Raises:
        UserError: `metrics` is not a dict of functions by name, or one has the name "loss".

    Example:
        >>> from purenets.torch_nets.grad import metrics_or_default
        >>> from purenets.torch_nets.losses import mse
        >>> list(metrics_or_default(None, mse)), metrics_or_default({}, mse)
        (['accuracy'], {})
    """
    if metrics is None:
        return {"accuracy": accuracy_for(loss)}
    expect_metrics(metrics)
    return metrics


def compute_metrics(
    loss: Tensor, logits: Tensor, targets: Tensor, metrics: dict[str, Callable]
) -> Metrics:
    """Return the loss and each metric by its name, without those that are None.

    They have no graph of autograd, but under a transform of torch.func or `jvp` a derivative.

    Args:
        loss: the value of the loss.
        logits: what the model returned.
        targets: those of the batch.
        metrics: functions `f(logits, targets)` by name.

    Returns:
        A dict of scalars.

    Raises:
        UserError: a metric pairs each of the outputs (n, 1) with all targets (n,), or the reverse.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.grad import compute_metrics
        >>> metrics = {"mean": lambda logits, targets: logits.mean(), "none": lambda *_: None}
        >>> compute_metrics(torch.tensor(1.0), torch.ones(2), torch.ones(2), metrics)
        {'loss': tensor(1.), 'mean': tensor(1.)}
    """
    if not is_differentiated():
        loss, logits = loss.detach(), _detached(logits)
    found = {"loss": loss}
    for name, f in metrics.items():
        value = _measured(name, f, logits, targets, loss)
        if value is not None:
            found[name] = value
    return found


def _measured(name: str, f: Callable, logits: Any, targets: Tensor, loss: Tensor) -> Any:
    """Return the value of a metric; a UserError where one that a user wrote broadcasts."""
    if getattr(f, "takes_loss", False):
        return f(logits, targets, loss)
    both = isinstance(logits, Tensor) and isinstance(targets, Tensor)
    if not both or logits.ndim == targets.ndim or not is_own(kind_of_loss(f)):
        return f(logits, targets)
    return unbroadcast(f"metrics: {name}", f, logits, targets)


def _detached(outputs: Any) -> Any:
    """Return the outputs of a model without their graph: a tensor, or a tuple or dict of them."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, dict):
        return {name: _detached(part) for name, part in outputs.items()}
    return tuple(map(_detached, outputs)) if isinstance(outputs, tuple | list) else outputs


def expect_tensors(params: Params, batch: Batch) -> None:
    """Raise a UserError for params that are no dict and a batch that is not of tensors."""
    if not isinstance(params, dict):
        raise UserError(f"params: a {type(params).__name__}, needs a dict of tensors by name")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(f"batch: a {type(batch).__name__}, needs a pair (inputs, targets)")
    if isinstance(batch[0], Tensor) and isinstance(batch[1], Tensor):
        return
    for name, part in zip(("inputs", "targets"), batch, strict=True):
        for array in input_leaves(part):
            alone = array is part  # among several inputs there may be numbers
            if isinstance(array, np.ndarray | np.generic | list) or (
                alone and not isinstance(array, Tensor)
            ):
                kind = type(array).__name__
                raise UserError(f"batch: the {name} are a {kind}, needs tensors; see to_torch")


def expect_param_tensors(params: Params) -> None:
    """Raise a UserError that names the leaf that is no tensor."""
    for name, leaf in params.items():
        if not isinstance(leaf, Tensor):
            kind = type(leaf).__name__
            raise UserError(f"params[{name!r}]: a {kind}, needs a tensor; see to_torch")


def expect_floating_params(params: Params) -> None:
    """Raise a UserError that names the leaf of integers or truth values: it has no gradient."""
    for name, leaf in params.items():
        if isinstance(leaf, Tensor) and not (leaf.is_floating_point() or leaf.is_complex()):
            dtype = str(leaf.dtype).removeprefix("torch.")
            raise UserError(
                f"params[{name!r}]: {dtype} has no gradient, needs floats; make it a buffer"
            )


def metrics_fn(
    model: Model, loss: Callable = cross_entropy, metrics: dict[str, Callable] | None = None
) -> Callable[[Params, Buffers, Batch], Metrics]:
    """Return the function that evaluates a model: its loss and metrics in evaluation mode.

    Args:
        model: the network.
        loss: `loss(logits, targets) -> scalar`.
        metrics: as in `grad_fn`; by default the accuracy, where loss and targets define one.

    Returns:
        `f(params, buffers, batch) -> metrics`, scalars by name, "loss" among them.

    Raises:
        UserError: `model`, `loss` or `metrics` is wrong. When called: params or batch are not
            tensors.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, metrics_fn
        >>> measure = metrics_fn(layers.Linear(2, 2, bias=False))
        >>> batch = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
        >>> measure({"weight": torch.zeros(2, 2)}, {}, batch)
        {'loss': tensor(0.6931), 'accuracy': tensor(1.)}
    """
    expect_models("metrics_fn", ("apply",), model=model)
    checked = checked_loss("metrics_fn", loss)
    metrics = metrics_or_default(metrics, loss)
    means, loss, model = {"loss": loss, **metrics}, checked, own_layers.checked(model)

    def measure(params: Params, buffers: Buffers, batch: Batch) -> Metrics:
        expect_tensors(params, batch)
        x, y = batch
        with contextlib.nullcontext() if is_differentiated() else torch.no_grad():
            logits, _ = expect_output(model.apply(params, buffers, x))
            return compute_metrics(loss(logits, y), logits, y, metrics)

    measure.whole_only = no_means(means)
    return measure


def no_means(functions: dict[str, Callable]) -> Callable[[Any], tuple[str, ...]]:
    """Return the function from targets to the names of the loss and metrics that are no mean.

    Of these the mean over parts of a batch is not the value of the whole.

    Args:
        functions: the loss and the metrics by name.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.grad import no_means
        >>> no_means({"loss": torch.nn.MSELoss(reduction="sum")})(torch.zeros(2))
        ('loss',)
    """
    return lambda targets: tuple(name for name, f in functions.items() if not is_mean(f, targets))
