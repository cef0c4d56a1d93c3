"""The outputs of one example, which can be differentiated within a vmap that is within another."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from purenets.core.base import Buffers, Model, Params
from purenets.core.batch import map_arrays


def single_output(model: Model, params: Params, buffers: Buffers, x) -> Tensor:
    """Return the outputs (...) of the example x, (...) or a tuple or dict of several inputs."""
    with _PReLUByFormula():
        return model.apply(params, buffers, map_arrays(lambda a: a[None], x))[0][0]


class _PReLUByFormula(TorchFunctionMode):
    """Within it `torch.prelu` is computed by its formula.

    torch 2.14's derivative of prelu by the weight is wrong under two vmaps: if their axes are
    equally long, it pairs examples with directions; else it fails.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.prelu:
            return _prelu(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _prelu(input: Tensor, weight: Tensor) -> Tensor:
    if weight.numel() > 1:  # one for each channel, which are the second axis
        weight = weight.reshape(-1, *[1] * (input.ndim - 2))
    return torch.where(input >= 0, input, weight * input)
