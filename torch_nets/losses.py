"""Losses of logits and integer targets: scalars, the mean over the batch."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of log sum_j exp(x_j) - x[target]. logits: (batch, classes); targets: (batch,) int, or (batch,
    classes) of rows that sum to 1."""
    return torch.nn.functional.cross_entropy(logits, targets)


def label_smoothed(amount: float) -> Callable[[Tensor, Tensor], Tensor]:
    """`cross_entropy` with `amount` of each target spread evenly over all classes (Szegedy et al. 2016)."""
    return functools.partial(torch.nn.functional.cross_entropy, label_smoothing=amount)
