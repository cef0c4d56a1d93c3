"""A loss that is not of this package, called so that what is wrong with it ends in one line.

The losses of `torch_nets.losses` check their arguments themselves and are called as they are. Of
all others, shapes and dtypes are looked at; values never are.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from purenets.core.arguments import expect_functions
from purenets.core.base import UserError
from purenets.torch_nets import losses
from purenets.torch_nets.default_metrics import CLASSES, NUMBERS, THRESHOLDS, kind_of_loss
from purenets.torch_nets.fast.tracing import is_torch_compiling, is_tracing
from purenets.torch_nets.own_layers import watch

MAKERS = (losses.label_smoothed, losses.focal, losses.binary_focal, losses.huber)
OF_LOG_PROBABILITIES = (F.nll_loss, nn.NLLLoss)
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
            value = _watched(function, loss, outputs, targets) if both else loss(outputs, targets)
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


def _watched(function: str, loss: Callable, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss; a UserError where it broadcasts (n, 1) with (n,)."""
    a, b = tuple(outputs.shape), tuple(targets.shape)
    column = a == (*b, 1) or b == (*a, 1)
    if not column or outputs.numel() < 2 or is_torch_compiling():
        return loss(outputs, targets)
    with _NoBroadcast(function, a, b):
        return loss(outputs, targets)


class _NoBroadcast(TorchFunctionMode):
    """Raise a UserError where an operation pairs each element of one shape with all of another."""

    def __init__(self, function: str, a: tuple, b: tuple):
        super().__init__()
        self.function, self.shapes = function, (a, b)

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
            f"{self.function}: loss: outputs {a} and targets {b} are broadcast, each output with "
            "all targets; needs the same shape"
        )


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
