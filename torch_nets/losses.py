"""Losses of logits and targets: scalars, the mean over the batch.

Shapes and dtypes are checked here, values are not read: on a device that would make every step
wait. A class that does not exist is refused by torch's kernel (on a CPU with one line, on a GPU by
a device assert); no class number is taken as "ignore this example".
"""

import functools
import re
from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core.arguments import ANY, expect_numbers
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
    logits = widened(logits)
    try:
        return torch.nn.functional.cross_entropy(
            logits,
            _classes_or_labels(logits, targets),
            ignore_index=NOTHING_IGNORED,
            label_smoothing=smoothing,
        )
    except (IndexError, RuntimeError) as error:
        if "out of bounds" not in str(error):
            raise
        wrong = re.search(r"-?\d+", str(error)).group()
        last = logits.shape[1] - 1
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
