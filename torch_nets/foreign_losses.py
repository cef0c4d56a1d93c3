"""A loss that is not of this package, called so that what is wrong with it ends in one line.

The losses of `torch_nets.losses` check their arguments themselves and are called as they are. Of
all others, shapes and dtypes are looked at; values never are where the loss is called.

`is_mean` knows which losses of torch are no mean over the examples: a sum, one with class weights,
and one that ignores a target. `loss_of_one` refuses what is another number for a batch of one than
its share of a mean: weights, which are divided out, and what declares itself to be no mean.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from purenets.core.arguments import attribute_of, expect_functions, within
from purenets.core.arrays import int64
from purenets.core.base import UserError
from purenets.core.metrics import is_mean_of
from purenets.torch_nets import losses
from purenets.torch_nets.default_metrics import CLASSES, NUMBERS, THRESHOLDS, kind_of_loss
from purenets.torch_nets.fast.tracing import is_torch_compiling, is_tracing
from purenets.torch_nets.own_layers import watch

MAKERS = (losses.label_smoothed, losses.focal, losses.binary_focal, losses.huber)
WEIGHTED = (F.cross_entropy, F.nll_loss)  # and divided by the sum of the weights
WEIGHTED_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss)
OF_LOG_PROBABILITIES = (F.nll_loss, nn.NLLLoss)
NO_MEAN = (
    "per-example gradients: loss.mean_over_examples is False, so the gradients of single examples "
    "do not average to that of the batch; needs a mean over the examples, such as (l * w).mean()"
)
ERRORS = (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError)


def checked_loss(function: str, loss: Callable) -> Callable:
    """Return a loss that says in one line what is wrong with it or with its arguments.

    Args:
        function: how a message begins.
        loss: `loss(outputs, targets) -> scalar`.

    Returns:
        The loss itself if it is one of this package, else a function of the same arguments.

    Raises:
        UserError: `loss` is not a function, is a class or a maker of losses that was not called, or
            returns a value for each example. When called: it fails, it returns no scalar of
            floating point, or it would pair each output with all targets.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.foreign_losses import checked_loss
        >>> loss = checked_loss("grad_fn", torch.nn.functional.mse_loss)
        >>> loss(torch.ones(3, 1), torch.zeros(3))
        Traceback (most recent call last):
        purenets.core.base.UserError: grad_fn: loss: outputs (3, 1) and targets (3,) of mse_loss ...
    """
    expect_functions(function, loss=loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    if isinstance(loss, type) or loss in MAKERS:
        raise UserError(f"{function}: loss is {name} itself, which makes a loss; call it: {name}()")
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", "mean") == "none":
        raise UserError(f"{function}: loss is {name} with reduction='none', needs 'mean' or 'sum'")
    kind = kind_of_loss(loss)
    if getattr(kind, "__module__", "") == losses.__name__:
        return loss

    def checked(outputs, targets):
        both = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
        if both and outputs.shape != targets.shape:
            _expect_shapes(function, kind, outputs, targets)
        given = {} if is_torch_compiling() else {"outputs": outputs, "targets": targets}
        expect_unchanged = watch(f"{function}: loss", **given)
        try:
            what = f"{function}: loss"
            value = unbroadcast(what, loss, outputs, targets) if both else loss(outputs, targets)
        except UserError:
            raise
        except ERRORS as error:
            if is_tracing():
                raise
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{function}: loss({_about(outputs)}, {_about(targets)}), its outputs and targets "
                f"in this order: {line}"
            ) from error
        _expect_scalar(function, value)
        expect_unchanged()
        return value

    return checked


def _expect_shapes(function: str, kind: Callable, outputs: Tensor, targets: Tensor) -> None:
    """Raise a UserError where torch's loss would broadcast, or has one class to choose from."""
    name = getattr(kind, "__name__", "loss")
    shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} of {name}"
    elementwise = kind in NUMBERS or kind in THRESHOLDS
    if elementwise and outputs.numel() == targets.numel():
        raise UserError(
            f"{function}: loss: {shapes} would be broadcast, each output with all targets; needs "
            "the same shape"
        )
    of_classes = kind in CLASSES and kind not in OF_LOG_PROBABILITIES
    if of_classes and outputs.ndim > 1 and outputs.shape[1] == 1:
        raise UserError(
            f"{function}: loss: {shapes}: one class, whose loss is 0 whatever the net does; one "
            "output takes binary_cross_entropy (yes or no) or mse (a number)"
        )


def unbroadcast(what: str, f: Callable, outputs: Tensor, targets: Tensor) -> Any:
    """Return f(outputs, targets); a UserError that begins with `what` where it broadcasts (n, 1)
    with (n,).
    """
    a, b = tuple(outputs.shape), tuple(targets.shape)
    column = a == (*b, 1) or b == (*a, 1)
    if not column or outputs.numel() < 2 or is_torch_compiling():
        return f(outputs, targets)
    with _NoBroadcast(what, a, b):
        return f(outputs, targets)


class _NoBroadcast(TorchFunctionMode):
    """Raise a UserError where an operation pairs each element of one shape with all of another."""

    def __init__(self, what: str, a: tuple, b: tuple):
        super().__init__()
        self.what, self.shapes = what, (a, b)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)][:2]
        pair = len(given) == 2 and {tuple(x.shape) for x in given} == {*self.shapes}
        if pair and (function in NUMBERS or function in THRESHOLDS):
            self.refuse()
        found = function(*args, **(kwargs or {}))
        if pair and isinstance(found, Tensor) and found.numel() > given[0].numel():
            self.refuse()
        return found

    def refuse(self) -> None:
        """Raise the UserError that names the two shapes."""
        a, b = self.shapes
        raise UserError(
            f"{self.what}: outputs {a} and targets {b} are broadcast, each output with all targets;"
            " needs the same shape"
        )


# --- means over the examples ----------------------------------------------------------------------


def is_mean(f: Callable, targets: Any) -> bool:
    """Return True for a loss or a metric that is the mean of its values on equal parts of a set.

    Args:
        f: `f(outputs, targets) -> scalar`. What is neither torch's nor the package's is assumed to
            be a mean unless its attribute `mean_over_examples` is False, or a function of the
            targets that returns False.
        targets: those of the set. Their values are read, except under a trace.

    Returns:
        A bool.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.foreign_losses import is_mean
        >>> loss = torch.nn.CrossEntropyLoss()
        >>> is_mean(loss, torch.tensor([0, 1])), is_mean(loss, torch.tensor([0, -100]))
        (True, False)
    """
    given = _settings(f)
    weight = given.get("weight") if "ignore_index" in given else None
    if given.get("reduction") == "sum" or _is_divided(weight, targets):
        return False
    ignored = None if is_tracing() else _ignored(given, targets)
    if ignored is not None and bool(ignored.any()):
        return False
    return is_mean_of(f, targets)


def loss_of_one(loss: Callable) -> Callable:
    """Return a loss for batches of one example, in which class weights raise a UserError.

    So does a loss whose attribute `mean_over_examples` is False.
    """
    if not attribute_of(loss, "mean_over_examples", True):
        raise UserError(NO_MEAN)
    if getattr(kind_of_loss(loss), "__module__", "") == losses.__name__:
        return loss

    def checked(outputs, targets):
        if is_torch_compiling():
            return loss(outputs, targets)
        with _NoWeights():
            return loss(outputs, targets)

    return checked


def expect_counted(loss: Callable, targets: Any) -> None:
    """Raise a UserError for targets of which a loss is no mean, where looking costs no waiting.

    The mean over none is NaN, and that over all targets is no mean over the examples where these
    count different numbers of targets.
    """
    if not isinstance(targets, Tensor) or not targets.is_cpu or is_tracing():
        return
    rule = attribute_of(loss, "mean_over_examples", True)
    if callable(rule) and not rule(targets):
        raise UserError(NO_MEAN)
    given = _settings(loss)
    ignored = None if given.get("reduction") == "sum" else _ignored(given, targets)
    if ignored is None:
        return
    counts = (~ignored).reshape(len(targets), -1).sum(1)
    if bool((lost := counts == 0).any()):
        raise UserError(
            f"per-example gradients: all targets of example {int(lost.nonzero()[0])} are "
            f"{given['ignore_index']}, which the loss ignores, so its mean is NaN; leave such "
            "examples out"
        )
    if bool((counts != counts[0]).any()):
        raise UserError(
            f"per-example gradients: loss: the examples have {int(counts.min())} to "
            f"{int(counts.max())} targets that are not {given['ignore_index']}, so the mean over "
            "all of them is no mean over the examples; needs one, such as cross_entropy(z, y, "
            "reduction='none').sum(1).mean()"
        )


def may_be_no_mean(loss: Callable) -> bool:
    """Return True for a loss that is not of this package, where its values may be read."""
    own = getattr(kind_of_loss(loss), "__module__", "") == losses.__name__
    return not (own or is_tracing() or _settings(loss).get("reduction") == "sum")


def expect_mean_of_examples(loss: Callable, outputs: Any, targets: Any, values: Tensor) -> None:
    """Raise a UserError unless a loss is the mean of those of single examples.

    Weights of the examples that it closes over make it none: (n,) times the loss of a batch of one
    is broadcast. Looked at only where that costs no waiting. Losses of this package are means; one
    of torch that was made as a sum is taken for the sum that it says it is.

    Args:
        loss: `loss(outputs, targets) -> scalar`.
        outputs: of the model for a batch, (n, ...); None if they are not known.
        targets: of the batch.
        values: the loss of each example, (n,).
    """
    if outputs is None or not values.is_cpu or not may_be_no_mean(loss):
        return
    try:
        with torch.no_grad():
            whole = float(loss(outputs, targets))
    except ERRORS as error:
        raise UserError(
            f"per-example gradients: loss fails for a batch of {len(values)}, though not for one "
            f"example: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    mean, size = float(values.double().mean()), float(values.double().abs().mean())
    least = max(torch.finfo(values.dtype).eps ** 0.5, 1e-4) * size
    if math.isfinite(whole) and abs(whole - mean) > least:
        raise UserError(
            f"per-example gradients: loss is {whole:.6g} for the batch, but {mean:.6g} on average "
            "for its examples one by one; needs a mean over the examples. Weights of examples "
            "belong to the targets: (x, (y, w)), and loss(outputs, (y, w))"
        )


def _settings(f: Callable) -> dict[str, Any]:
    """Return what a loss of torch was made with: attributes of a module, keywords of a partial.

    It has an "ignore_index" only if the loss is one that ignores targets.
    """
    given: dict[str, Any] = {}
    for part in within(f):
        if isinstance(part, nn.Module):
            given = {**vars(part), "weight": getattr(part, "weight", None), **given}
        elif isinstance(part, functools.partial):
            given = {**part.keywords, **given}
        inner = part
    if inner in WEIGHTED or isinstance(inner, WEIGHTED_MODULES):
        return {"ignore_index": -100, **given}
    return {name: value for name, value in given.items() if name != "ignore_index"}


def _is_divided(weight: Tensor | None, targets: Any) -> bool:
    """Return True for class numbers, whose mean is divided by the sum of their class weights."""
    of_classes = isinstance(targets, Tensor) and not targets.is_floating_point()
    return weight is not None and of_classes


def _ignored(given: dict[str, Any], targets: Any) -> Tensor | None:
    """Return which targets a loss does not count; None where it counts all."""
    of_classes = isinstance(targets, Tensor) and not targets.is_floating_point()
    return (
        int64(targets) == given["ignore_index"] if "ignore_index" in given and of_classes else None
    )


class _NoWeights(TorchFunctionMode):
    """Raise a UserError for class weights in a mean, which divides them out of a batch of one."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_mean = function in WEIGHTED and kwargs.get("reduction", "mean") == "mean"
        if is_mean and _is_divided(kwargs.get("weight"), args[1]):
            raise UserError(
                f"per-example gradients: loss: the mean of {function.__name__} divides the class "
                "weights of one example out; needs (weight[y] * cross_entropy(z, y, "
                "reduction='none')).mean()"
            )
        return function(*args, **kwargs)


def _expect_scalar(function: str, value) -> None:
    """Raise a UserError for what is no scalar that can be differentiated."""
    if not isinstance(value, Tensor):
        raise UserError(
            f"{function}: loss returned a {type(value).__name__}, needs a scalar tensor"
        )
    if value.numel() != 1:
        raise UserError(
            f"{function}: loss returned shape {tuple(value.shape)}, needs a scalar: the mean over "
            "the batch (reduction='mean')"
        )
    if not value.is_floating_point():
        raise UserError(
            f"{function}: loss returned {str(value.dtype).removeprefix('torch.')}, needs floating "
            "point; what counts errors has no gradient and is one of the metrics"
        )


def expect_gradient(value: Tensor) -> None:
    """Raise a UserError for a loss that does not depend on the params by what autograd sees."""
    if not value.requires_grad:
        raise UserError(
            "grad_fn: loss does not depend on the params: it is detached (by .detach(), .item(), "
            "argmax or a comparison), or the model uses none of them"
        )


def _about(x) -> str:
    if not isinstance(x, Tensor):
        return type(x).__name__
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
