"""The accuracy that fits a loss: of classes, of yes-or-no targets, or none.

Shapes and dtypes do not tell a regression of one number from a binary classification by one logit,
nor soft labels from a regression of several numbers. The loss does, if it is one of torch's or of
this package. For any other loss there is an accuracy for class numbers only, rather than a number
without meaning.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purenets.core.arguments import within
from purenets.core.arrays import int64
from purenets.core.metrics import (
    accuracy,
    binary_accuracy,
    class_accuracy,
    means_classes,
    means_one_hot,
    none_ignored,
)
from purenets.torch_nets import losses
from purenets.torch_nets.fast.tracing import is_tracing

IGNORED = -100  # the target that losses of torch leave out by default
OURS = (  # which ignore no target
    losses.cross_entropy,
    losses.smoothed_cross_entropy,
    losses.focal_cross_entropy,
)
CLASSES = (
    F.cross_entropy,
    F.nll_loss,
    F.multi_margin_loss,
    nn.CrossEntropyLoss,
    nn.NLLLoss,
    nn.MultiMarginLoss,
)
THRESHOLDS = {  # between no and yes
    losses.binary_cross_entropy: 0.0,
    losses.focal_binary_cross_entropy: 0.0,
    F.binary_cross_entropy_with_logits: 0.0,
    F.soft_margin_loss: 0.0,
    F.multilabel_soft_margin_loss: 0.0,
    F.binary_cross_entropy: 0.5,
    nn.BCEWithLogitsLoss: 0.0,
    nn.SoftMarginLoss: 0.0,
    nn.MultiLabelSoftMarginLoss: 0.0,
    nn.BCELoss: 0.5,
}
NUMBERS = (
    losses.mse,
    losses.huber_loss,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.poisson_nll_loss,
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.PoissonNLLLoss,
)


def accuracy_for(loss: Callable) -> Callable[[Tensor, Tensor], Tensor | None]:
    """Return the accuracy that fits a loss, or a function that returns None where there is none.

    | loss                         | targets                                 | accuracy          |
    |------------------------------|-----------------------------------------|-------------------|
    | binary cross-entropy         | as the logits                           | `binary_accuracy` |
    | cross-entropy, nll           | class numbers, one-hot or soft labels   | `accuracy`        |
    | mse, l1, huber, poisson      | any                                     | none              |
    | any other                    | class numbers of two or more classes    | `accuracy`        |
    | any other                    | any other                               | none              |

    There is none either for outputs that are not one tensor, and for logits (batch, n, n) with
    targets (batch, n) under any other loss, which may have the classes on either axis.

    Args:
        loss: a loss of `torch_nets.losses` or of torch, or any other.

    Returns:
        `f(logits, targets) -> scalar`, or None.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import losses
        >>> from purenets.torch_nets.default_metrics import accuracy_for
        >>> logits = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> accuracy_for(losses.cross_entropy)(logits, torch.tensor([1, 1]))
        tensor(0.5000)
        >>> accuracy_for(losses.mse)(logits, logits) is None
        True
    """
    kind = kind_of_loss(loss)
    if kind in NUMBERS:
        return lambda logits, targets: None
    if kind in THRESHOLDS:
        return functools.partial(binary_accuracy, threshold=THRESHOLDS[kind])

    if kind in OURS:
        return _of_checked_classes
    if kind in CLASSES:
        return _without(_ignore_index(loss))
    return _of_unknown_loss


def _ignore_index(loss: Callable) -> int:
    """Return the class number that a loss of torch leaves out: of a module, or of a partial."""
    for part in within(loss):
        if isinstance(part, nn.Module):
            return getattr(part, "ignore_index", IGNORED)
        if isinstance(part, functools.partial) and "ignore_index" in part.keywords:
            return part.keywords["ignore_index"]
    return IGNORED


def _without(index: int) -> Callable[[Tensor, Tensor], Tensor | None]:
    """Return the accuracy over the targets that are not `index`, nor below 0."""
    if index < 0:
        return _of_classes

    def kept(targets):
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            return targets  # probabilities
        return torch.where(targets == index, IGNORED, int64(targets))

    def of_others(logits: Tensor, targets: Tensor) -> Tensor | None:
        return _of_classes(logits, kept(targets))

    of_others.mean_over_examples = lambda targets: none_ignored(kept(targets))
    return of_others


def _are_tensors(*parts: Any) -> bool:
    return all(isinstance(part, Tensor) for part in parts)


def _of_unknown_loss(logits: Tensor, targets: Tensor) -> Tensor | None:
    if not _are_tensors(logits, targets) or not means_classes(logits, targets):
        return None
    classes, *positions = logits.shape[1:]
    return None if classes in positions else accuracy(logits, targets)


def _of_checked_classes(logits: Tensor, targets: Tensor, loss: Tensor | None = None) -> Tensor:
    """Return the accuracy, in fewer operations, where the loss has checked the targets already.

    A NaN among the logits makes the loss NaN: where a loss is a number, which costs little to see
    on a CPU, nobody need look for one. In compiled code the accuracy is NaN too then.
    """
    if targets.shape == logits.shape:
        return class_accuracy(logits, targets)
    hits = logits.argmax(1) == targets.long()
    if loss is not None and torch.compiler.is_compiling():
        # no look at the logits again, which would change the bits of the loops it is fused with
        return torch.where(loss == loss, hits.mean(dtype=torch.float32), torch.nan)
    if loss is None or not loss.is_cpu or is_tracing() or math.isnan(loss.item()):
        largest = logits.amax(1)  # NaN if a logit is; then argmax is no class
        hits = hits & (largest == largest)
    return hits.mean(dtype=torch.float32)


_of_checked_classes.takes_loss = True


def _of_classes(logits: Tensor, targets: Tensor) -> Tensor | None:
    """Return the accuracy for a loss of torch, which takes more shapes, and ignores targets of
    -100.
    """
    if not _are_tensors(logits, targets):
        return None
    if means_classes(logits, targets) or means_one_hot(logits, targets):
        return accuracy(logits, targets)
    return None


_of_unknown_loss.mean_over_examples = _of_classes.mean_over_examples = none_ignored


def kind_of_loss(loss: Callable) -> Callable:
    """Return the function that a `functools.partial` is of, and the class of a module of torch."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return type(loss) if isinstance(loss, nn.Module) else loss
