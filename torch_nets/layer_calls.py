"""The inputs of a model's linear layers and convolutions, and gradients by their outputs.

A mode of torch watches the calls of torch's functions, so any model will do, including a
`torch.nn.Module` by `from_module`. A leaf of the params is recognized by its identity.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from purenets.core.base import Buffers, Model, Params, UserError
from purenets.torch_nets.layers.basic import linear
from purenets.torch_nets.layers.convolutions import conv2d


class LayerCall(NamedTuple):
    """One call of a linear layer or a convolution.

    Args:
        weight: the name of its weight (out, in, ...).
        bias: that of its bias, None without one.
        inputs: (batch, positions, in): what the weight, as a matrix (out, in), multiplies.
        output: what it returned, (batch, ..., out) or (batch, out, height, width).
    """

    weight: str
    bias: str | None
    inputs: Tensor
    output: Tensor

    def by_position(self, grad: Tensor) -> Tensor:
        """Return a gradient by the output as (batch, positions, out)."""
        if self.output.ndim == 4 and self.is_conv:
            return grad.flatten(2).transpose(1, 2)
        return grad.reshape(grad.shape[0], -1, grad.shape[-1])

    is_conv: bool = False


def watch_layers(
    apply: Callable[[], Tensor], params: Params, offsets: Params | None = None
) -> tuple[Tensor, dict[str, LayerCall]]:
    """Return `apply()`, and the calls of its linear layers and convolutions.

    Args:
        apply: calls the model with the very leaves of `params`.
        params: tensors by name.
        offsets: added to the output of each layer, by the name of its weight. A derivative by them
            is one by the outputs.

    Returns:
        The outputs, and the `LayerCall` of each layer by the name of its weight.

    Raises:
        UserError: a weight is read by two calls, or by a convolution with groups.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.layer_calls import watch_layers
        >>> model, params = layers.Linear(2, 1, bias=False), {"weight": torch.ones(1, 2)}
        >>> y, calls = watch_layers(lambda: model.apply(params, {}, torch.eye(2))[0], params)
        >>> calls["weight"].inputs.shape
        torch.Size([2, 1, 2])
    """
    with _Watch(params, offsets or {}) as watch:
        outputs = apply()
    return outputs, watch.calls


def eval_layers(
    model: Model, params: Params, buffers: Buffers, x, offsets: Params | None = None
) -> tuple[Tensor, dict[str, LayerCall]]:
    """Return `watch_layers` of a model in evaluation mode.

    Args:
        model: the network.
        params: tensors by name.
        buffers: tensors by name.
        x: inputs (batch, ...).
        offsets: added to the output of each layer, by the name of its weight.

    Returns:
        The outputs, and the `LayerCall` of each layer by the name of its weight.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.layer_calls import eval_layers
        >>> model, params = layers.Linear(2, 1, bias=False), {"weight": torch.ones(1, 2)}
        >>> y, calls = eval_layers(model, params, {}, torch.eye(2))
        >>> calls["weight"].output
        tensor([[1.],
                [1.]])
    """
    return watch_layers(lambda: model.apply(params, buffers, x)[0], params, offsets)


class _Watch(TorchFunctionMode):
    """Record calls of a linear layer or a convolution whose weight is a leaf of the params."""

    def __init__(self, params: Params, offsets: Params):
        super().__init__()
        self.names = {id(leaf): name for name, leaf in params.items()}
        self.offsets, self.calls = offsets, {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        y = function(*args, **kwargs)
        read = READERS.get(function)
        if read is None:
            return y
        weight = self.names.get(id(kwargs.get("weight", args[1] if len(args) > 1 else None)))
        if weight is None:
            return y
        if weight in self.calls:
            raise UserError(f"{weight}: two layers read it, needs one for a Kronecker factor")
        inputs, bias = read(*args, **kwargs)
        y = y + self.offsets[weight] if weight in self.offsets else y
        bias = self.names.get(id(bias)) if bias is not None else None
        self.calls[weight] = LayerCall(weight, bias, inputs, y, read is _read_conv)
        return y


def _read_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple:
    return input.reshape(input.shape[0], -1, input.shape[-1]), bias


def _read_conv(
    input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> tuple:
    if groups != 1 or isinstance(padding, str):
        raise UserError("Conv: groups or a padding by name; needs groups=1 and padding in pixels")
    patches = F.unfold(input, tuple(weight.shape[2:]), dilation, padding, stride)
    return patches.transpose(1, 2), bias


READERS = {
    **dict.fromkeys((F.linear, linear), _read_linear),
    **dict.fromkeys((F.conv2d, torch.conv2d, conv2d), _read_conv),
}
