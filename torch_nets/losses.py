"""Losses of outputs and targets: scalars, the mean over the batch.

    classes      cross_entropy, label_smoothed(amount), focal(gamma)
    yes or no    binary_cross_entropy, binary_focal(gamma)
    numbers      mse, huber(delta)

Shapes and dtypes are checked here, values are not read: on a device that would make every step
wait. A class that does not exist is refused by torch's kernel (on a CPU with one line, on a GPU by
a device assert); no class number is taken as "ignore this example".
"""

import functools
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from purenets.core.arguments import (
    ANY,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    expect_numbers,
    expect_reals,
)
from purenets.core.arrays import widened
from purenets.core.base import UserError
from purenets.core.data.checks import are_class_indices
from purenets.torch_nets.fast.tracing import is_tracing

NOTHING_IGNORED = torch.iinfo(torch.int64).min  # torch's default, -100, would drop those examples


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of log sum_j exp(x_j) - x[target].

    For labels t: the mean of sum_k t_k (log sum_j exp(x_j) - x_k).

    Args:
        logits: x, (batch, classes), or (batch, classes, ...) with a target for each position.
        targets: class numbers (batch, ...) of any integer dtype, or one-hot or soft labels t like
            the logits, of any dtype, whose classes sum to 1.

    Raises:
        UserError: the targets are neither, or (on a CPU, in eager mode) a class that does not
            exist.
    """
    return smoothed_cross_entropy(logits, targets, 0.0)


def label_smoothed(amount: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `cross_entropy` with `amount` of each target spread evenly over all classes.

    Source: Szegedy et al. 2016.
    """
    expect_numbers("label_smoothed", ANY, amount=amount)
    if not 0 <= amount <= 1:
        raise UserError(f"label_smoothed: amount {amount} is not from 0 to 1")
    return functools.partial(smoothed_cross_entropy, smoothing=amount)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return `cross_entropy` with `smoothing` of each target spread evenly over all classes.

    Of half-precision logits in float32: in their own dtype the mean of large losses overflows.
    """
    expect_reals("smoothed_cross_entropy", FRACTION, smoothing=smoothing)
    _expect_tensors("cross_entropy", logits, targets)
    logits = widened(logits)
    try:
        return F.cross_entropy(
            logits,
            _classes_or_labels(logits, targets),
            ignore_index=NOTHING_IGNORED,
            label_smoothing=smoothing,
        )
    except (IndexError, RuntimeError) as error:
        _name_class(error, logits)
        raise


def _name_class(error: Exception, logits: Tensor) -> None:
    """Raise a UserError if torch's kernel has found a class that does not exist."""
    if "out of bounds" in str(error):
        wrong, last = re.search(r"-?\d+", str(error)).group(), logits.shape[1] - 1
        raise UserError(
            f"cross_entropy: target {wrong} is none of the classes 0 to {last}"
        ) from error


def _classes_or_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the targets in a dtype that torch takes: int64, or floating point."""
    integers = not (targets.is_floating_point() or targets.is_complex())
    if are_class_indices(logits, targets, integers):
        return targets.long()
    if not integers:
        return targets
    _expect_one_hot(targets)
    return targets.to(logits.dtype)


def _expect_one_hot(labels: Tensor) -> None:
    """Raise a UserError for integer labels that are not one-hot, where looking costs no waiting."""
    if not labels.is_cpu or is_tracing():
        return
    if labels.dtype != torch.bool and not bool(((labels >= 0) & (labels.sum(1, True) == 1)).all()):
        raise UserError("cross_entropy: integer labels (batch, classes) must be one-hot")


# --- classes that are easy, yes or no -------------------------------------------------------------


def focal(gamma: float = 2.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the focal loss of classes, for `loss=`: what is easy counts less.

    The mean of -(1 - p)^gamma log p with p the probability of the target; gamma = 0 is
    `cross_entropy`. For labels t: the mean of -sum_k t_k (1 - p_k)^gamma log p_k.

    Source: Lin et al. 2017, "Focal loss for dense object detection".
    """
    expect_numbers("focal", NOT_NEGATIVE, gamma=gamma)
    return functools.partial(focal_cross_entropy, gamma=gamma)


def focal_cross_entropy(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Return the focal loss of logits (batch, classes, ...) and targets as in `cross_entropy`."""
    expect_reals("focal_cross_entropy", NOT_NEGATIVE, gamma=gamma)
    _expect_tensors("focal", logits, targets)
    logits = widened(logits)
    targets = _classes_or_labels(logits, targets)
    log_p = F.log_softmax(logits, 1)
    weighted = (-torch.expm1(log_p)) ** gamma * log_p if gamma else log_p
    if targets.is_floating_point():
        return -(targets * weighted).sum(1).mean()
    try:
        return F.nll_loss(weighted, targets, ignore_index=NOTHING_IGNORED)
    except (IndexError, RuntimeError) as error:
        _name_class(error, logits)
        raise


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -t log s - (1 - t) log(1 - s), s the sigmoid of the logits.

    Args:
        logits: (batch, ...), one for each yes or no.
        targets: from 0 to 1, of the same shape and any dtype; (batch,) and (batch, 1) go together.

    Source: nn.BCEWithLogitsLoss.
    """
    return F.binary_cross_entropy_with_logits(*_alike("binary_cross_entropy", logits, targets))


def binary_focal(
    gamma: float = 2.0, alpha: float | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the focal loss of yes or no, for `loss=`.

    The mean of -(1 - p)^gamma log p, p the probability of the target, as torchvision's
    sigmoid_focal_loss; alpha: the weight of a yes, that of a no is 1 - alpha.

    Source: Lin et al. 2017, "Focal loss for dense object detection".
    """
    expect_numbers("binary_focal", NOT_NEGATIVE, gamma=gamma)
    if alpha is not None:
        expect_numbers("binary_focal", FRACTION, alpha=alpha)
    return functools.partial(focal_binary_cross_entropy, gamma=gamma, alpha=alpha)


def focal_binary_cross_entropy(
    logits: Tensor, targets: Tensor, gamma: float, alpha: float | None = None
) -> Tensor:
    """Return the focal loss of logits and targets as in `binary_cross_entropy`."""
    expect_reals("focal_binary_cross_entropy", NOT_NEGATIVE, gamma=gamma)
    expect_reals(
        "focal_binary_cross_entropy", FRACTION, **({} if alpha is None else {"alpha": alpha})
    )
    x, t = _alike("binary_focal", logits, targets)
    losses = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    miss = torch.sigmoid(x) * (1 - t) + torch.sigmoid(-x) * t  # 1 - p
    losses = miss**gamma * losses if gamma else losses
    return (losses if alpha is None else (alpha * t + (1 - alpha) * (1 - t)) * losses).mean()


# --- numbers --------------------------------------------------------------------------------------


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of (output - target)^2 over all elements.

    targets: the shape of the outputs; (batch,) and (batch, 1) go together.
    """
    return F.mse_loss(*_alike("mse", outputs, targets))


def huber(delta: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the Huber loss, for `loss=`: r^2 / 2 of a residual r within `delta`, else
    delta (|r| - delta / 2), so that outliers pull no harder than those at `delta`.

    Source: Huber 1964; nn.HuberLoss.
    """
    expect_numbers("huber", POSITIVE, delta=delta)
    return functools.partial(huber_loss, delta=delta)


def huber_loss(outputs: Tensor, targets: Tensor, delta: float) -> Tensor:
    """Return the Huber loss of outputs and targets as in `mse`."""
    expect_reals("huber_loss", POSITIVE, delta=delta)
    return F.huber_loss(*_alike("huber", outputs, targets), delta=delta)


def _expect_tensors(name: str, outputs: Tensor, targets: Tensor) -> None:
    for what, value in (("outputs", outputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise UserError(f"{name}: the {what} are a {type(value).__name__}, needs tensors")


def _alike(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in one shape and dtype: broadcasting (batch, 1) with (batch,) would pair all.

    Half precision comes back as float32, as in `smoothed_cross_entropy`.
    """
    _expect_tensors(name, outputs, targets)
    outputs = widened(outputs)
    a, b = tuple(outputs.shape), tuple(targets.shape)
    if a != b and a != (*b, 1) and b != (*a, 1):
        raise UserError(f"{name}: outputs {a} and targets {b}, needs the same shape")
    if 0 in a:
        raise UserError(f"{name}: an empty batch has no mean")
    return outputs, targets.reshape(a).to(outputs.dtype)
