"""Losses of logits and integer targets: scalars, the mean over the batch."""

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of log sum_j exp(x_j) - x[target]. logits: (batch, classes), targets: (batch,) int."""
    return torch.nn.functional.cross_entropy(logits, targets)
