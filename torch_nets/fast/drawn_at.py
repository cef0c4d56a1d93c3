"""Resets of layers at chosen points of the distributions that they draw from."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class DrawnAt(TorchDispatchMode):
    """Fill a tensor with a constant where it would be drawn from a uniform or normal distribution.

    That is the lower bound or the mean; with `high` the upper bound or a deviation above the mean.

    Args:
        high: whether the tensors get the higher of the two values.

    Attributes:
        kinds: "uniform" or "normal" for the id of each tensor that was filled.
    """

    def __init__(self, high: bool):
        super().__init__()
        self.high, self.kinds = high, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs: dict[str, Any] | None = None):
        if func is aten.uniform_.default:
            tensor, low, high = (*args, *(0.0, 1.0)[len(args) - 1 :])
            self.kinds[id(tensor)] = "uniform"
            return tensor.fill_(high if self.high else low)
        if func is aten.normal_.default:
            tensor, mean, deviation = (*args, *(0.0, 1.0)[len(args) - 1 :])
            self.kinds[id(tensor)] = "normal"
            return tensor.fill_(mean + deviation * self.high)
        return func(*args, **(kwargs or {}))
