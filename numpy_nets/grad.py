"""From a module to a model, and from a model to its gradient by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from purenets.core.arguments import expect_metrics, expect_models, shown
from purenets.core.arrays import expect_plain
from purenets.core.base import Apply, Batch, Buffers, GradFn, Init, Metrics, Params, UserError
from purenets.core.metrics import is_mean_of
from purenets.core.serial import is_own
from purenets.core.vector_dict import as_dict
from purenets.numpy_nets.losses import Loss, cross_entropy, expect_losses
from purenets.numpy_nets.modules import Module, params_backward
from purenets.numpy_nets.own_layers import checked, checked_loss

NUMBERS = "fiubc"  # dtype kinds that hold numbers
# what NumPy's operations raise for tensors
ERRORS = (TypeError, AttributeError, RuntimeError, ValueError)


class NumpyModel(NamedTuple):
    """A `Model` with its passes by hand: the fields of `Model` and of `modules.Module` together.

    Args:
        init, uses_key, kind, layers: as in `Model`.
        apply: `forward` without the cache, with checks of its arguments.
        forward, backward, backward_params: as in `modules.Module`.
    """

    init: Init
    apply: Apply
    forward: Callable
    backward: Callable
    uses_key: bool = True
    kind: str = ""
    layers: dict[str, Module] = {}  # noqa: RUF012 (a NamedTuple's default; never changed)
    backward_params: Callable | None = None


def model_from_module(module: Module) -> NumpyModel:
    """Return a module whose output is logits as a model.

    Args:
        module: one of `modules`, such as `serial(fc1=Linear(2, 3))`.

    Returns:
        A `NumpyModel` with the passes of the module.

    Raises:
        UserError: from the passes, params or input do not fit, or a layer of your own writes into
            its arguments or returns something else than it should; the message names it.

    Example:
        >>> from purenets.numpy_nets.grad import model_from_module
        >>> from purenets.numpy_nets.modules import Linear, ReLU, serial
        >>> model = model_from_module(serial(fc1=Linear(2, 8), relu=ReLU(), fc2=Linear(8, 3)))
        >>> list(model.layers)
        ['fc1', 'relu', 'fc2']
    """
    module = checked(module)

    def apply(params, buffers, x=None, *, train=False, key=None):
        if type(x) is not np.ndarray or x.dtype.kind not in NUMBERS:
            _expect_input(buffers, x)
        _expect_first_array(params)
        try:
            logits, buffers, _ = module.forward(params, buffers, x, train=train, key=key)
        except ERRORS:
            expect_array_params(params)
            raise
        return logits, buffers

    init, forward, backward, *about = module
    return NumpyModel(init, apply, forward, backward, *about)


def expect_given(buffers: Buffers, x: Any) -> None:
    """Raise a UserError for a call of `apply` whose input stands where the buffers belong."""
    if x is None and not isinstance(buffers, dict):
        raise UserError("apply: the input is missing; call apply(params, buffers, x)")


def _expect_input(buffers: Buffers, x: Any) -> None:
    """Raise a UserError for an input that is no plain array of numbers, or is missing."""
    expect_given(buffers, x)
    if not isinstance(x, np.ndarray):
        raise UserError(f"input: a {type(x).__name__}, needs a NumPy array")
    expect_plain("input", x)
    if x.dtype.kind not in NUMBERS:
        raise UserError(f"input: dtype is {x.dtype}, needs numbers, as x.astype('float32') of them")


def grad_fn(
    model: NumpyModel, loss: Loss = cross_entropy, metrics: dict[str, Callable] | None = None
) -> GradFn:
    """Return the gradient of a loss with respect to the params, by hand: forward, loss, backward.

    Args:
        model: one of `numpy_nets`, with `forward` and `backward`.
        loss: a `Loss`: one of `numpy_nets.losses`, or your own.
        metrics: functions `f(outputs, targets) -> scalar` by name, reported beside the "loss". None
            means the accuracy, if the loss defines one; {} means none.

    Returns:
        `grad(params, buffers, batch, key) -> (grads, (buffers, metrics))`.

    Raises:
        UserError: `model` has no such passes, `loss` is not one of them, or `metrics` is no dict of
            functions; from `grad`, the params or the batch do not fit the model, or a metric is no
            scalar.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets import MLP, grad_fn
        >>> model = MLP(2, [3], 2)
        >>> params, buffers = model.init(random.key(0))
        >>> batch = np.ones((4, 2), np.float32), np.array([0, 1, 1, 0])
        >>> grads, (buffers, metrics) = grad_fn(model)(params, buffers, batch, None)
        >>> grads["fc1.weight"].shape, sorted(metrics)
        ((3, 2), ['accuracy', 'loss'])
    """
    expect_models("grad_fn", ("forward", "backward"), model=model)
    expect_losses("grad_fn", loss=loss)
    loss, measured = checked_loss(loss), _measured(loss, metrics)

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        expect_arrays(params, batch)
        x, y = batch
        try:
            logits, buffers, cache = model.forward(as_dict(params), buffers, x, train=True, key=key)
        except ERRORS:
            expect_array_params(params)
            raise
        value, loss_cache = loss.forward(logits, y)
        grads = params_backward(model)(loss.backward(1.0, loss_cache), cache)
        return grads, (buffers, measured(value, logits, y, loss_cache))

    grad.uses_key = model.uses_key
    return grad


def _measured(loss: Loss, metrics: dict[str, Callable] | None) -> Callable[..., Metrics]:
    """Return the function of all metrics; by default the accuracy, if the loss defines one."""
    if metrics is not None:
        expect_metrics(metrics)
        return lambda value, outputs, targets, cache: {
            "loss": value,
            **{name: _value(name, f, outputs, targets) for name, f in metrics.items()},
        }
    if loss.accuracy is None:
        return lambda value, outputs, targets, cache: {"loss": value}
    return lambda value, outputs, targets, cache: {
        "loss": value,
        "accuracy": loss.accuracy(outputs, cache),
    }


def _value(name: str, f: Callable, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return a metric; a UserError for one of the user's that broadcasts, or is no scalar."""
    shapes = outputs.shape, targets.shape
    if is_own(f) and shapes[0] != shapes[1] and outputs.size == targets.size:
        raise UserError(
            f"metrics: {name}: outputs {shapes[0]} and targets {shapes[1]}, which NumPy would "
            "broadcast against each other; needs the same shape"
        )
    value = f(outputs, targets)
    if np.ndim(value):
        raise UserError(f"metrics: {name} returned {shown(value)}, needs a scalar")
    return value


def metrics_fn(
    model: NumpyModel, loss: Loss = cross_entropy, metrics: dict[str, Callable] | None = None
) -> Callable[[Params, Buffers, Batch], Metrics]:
    """Return the function that evaluates a model: its loss and metrics in evaluation mode.

    Args:
        model: one of `numpy_nets`.
        loss: a `Loss`: one of `numpy_nets.losses`, or your own.
        metrics: as in `grad_fn`.

    Returns:
        `f(params, buffers, batch) -> metrics`, scalars by name, "loss" among them.
        `purenets.evaluate` takes it.

    Raises:
        UserError: `model` has no `apply`, `loss` is not one of them, or `metrics` is no dict of
            functions; from `f`, the params or the batch do not fit the model, or a metric is no
            scalar.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets import MLP, losses, metrics_fn
        >>> model = MLP(2, [], 1)
        >>> params, buffers = model.init(random.key(0))
        >>> batch = np.zeros((4, 2), np.float32), np.full((4, 1), 2.0, np.float32)
        >>> metrics_fn(model, losses.mse)(params, buffers, batch)  # the output is 0 for inputs 0
        {'loss': np.float32(4.0)}
    """
    expect_models("metrics_fn", ("apply",), model=model)
    expect_losses("metrics_fn", loss=loss)
    measured = _measured(loss, metrics)
    default = {"accuracy": loss.accuracy} if loss.accuracy else {}
    reported = {"loss": loss.forward, **(default if metrics is None else metrics)}
    loss = checked_loss(loss)

    def measure(params: Params, buffers: Buffers, batch: Batch) -> Metrics:
        expect_arrays(params, batch)
        x, y = batch
        logits, _ = model.apply(params, buffers, x)
        value, loss_cache = loss.forward(logits, y)
        return measured(value, logits, y, loss_cache)

    measure.whole_only = lambda targets: tuple(
        name for name, f in reported.items() if not is_mean_of(f, targets)
    )
    return measure


def _expect_first_array(params: Params) -> None:
    """Check the first leaf only, which is cheap; if one leaf is a tensor, all are."""
    first = next(iter(params.values()), None) if isinstance(params, dict) else None
    if first is not None and type(first) is not np.ndarray:
        expect_array_params(params)


def expect_array_params(params: Params) -> None:
    """Raise a UserError that names the leaf that is no NumPy array, such as a tensor."""
    for name, leaf in params.items() if isinstance(params, dict) else ():
        if not isinstance(leaf, np.ndarray | np.generic):
            kind = type(leaf).__name__
            raise UserError(f"params[{name!r}]: a {kind}, needs a NumPy array; see to_numpy")
        expect_plain(f"params[{name!r}]", leaf)


def expect_arrays(params: Params, batch: Batch) -> None:
    """Raise a UserError for params that are no dict, or a batch of anything but NumPy arrays."""
    if not isinstance(params, dict):
        raise UserError(f"params: a {type(params).__name__}, needs a dict of arrays by name")
    _expect_first_array(params)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(f"batch: a {type(batch).__name__}, needs a pair (inputs, targets)")
    for name, part in zip(("inputs", "targets"), batch, strict=True):
        if type(part) is not np.ndarray:
            if not isinstance(part, np.ndarray):
                kind = type(part).__name__
                hint = "; torch_nets.to_numpy makes them" if kind == "Tensor" else ""
                raise UserError(f"batch: the {name} are a {kind}, needs NumPy arrays{hint}")
            expect_plain(f"batch: the {name}", part)
        if part.dtype.kind not in NUMBERS:
            raise UserError(f"batch: the {name} are {part.dtype}, needs numbers; see data.prepare")
