"""The inputs of a model's linear layers and convolutions, and gradients by their outputs.

A mode of torch watches the calls of torch's functions, so any model will do, including a
`torch.nn.Module` by `from_module`. A leaf of the params is recognized by its identity; a clone
of it bears its name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from purenets.core.base import Buffers, Model, Params, UserError
from purenets.core.nested import iter_leaves
from purenets.torch_nets.fast.tracing import is_differentiated, is_torch_compiling
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
        UserError: a weight or a bias is read by two calls, or by another function too; or a
            convolution has groups.

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
    read = {name for call in watch.calls.values() for name in (call.weight, call.bias)}
    for name in read & watch.others.keys():
        raise UserError(
            f"{name}: a layer and {watch.others[name]} read it, needs one layer alone for a "
            "Kronecker factor"
        )
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


def expect_all_watched(model: Model, params: Params, buffers: Buffers, x) -> None:
    """Raise a UserError where a model reads a leaf in a way that `watch_layers` cannot see.

    Such as within a transform of torch.func or a torch.jit.script function of the model's own.
    Autograd sees it: the layers get constants here, so a gradient of a leaf is that of another use.
    Nothing is checked where kfac itself is transformed by torch.func.

    Args:
        model: the network, which is run in evaluation mode.
        params: tensors by name.
        buffers: tensors by name.
        x: inputs (batch, ...).
    """
    if is_differentiated() or is_torch_compiling():
        return
    leaves = {name: leaf.detach() for name, leaf in params.items()}
    for leaf in leaves.values():
        leaf.requires_grad_(leaf.is_floating_point() or leaf.is_complex())
    with torch.enable_grad(), _Watch(leaves, {}, as_constants=True):
        outputs = model.apply(leaves, buffers, x)[0]
    asked = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    if not (asked and outputs.requires_grad):
        return
    grads = torch.autograd.grad(outputs.sum(), list(asked.values()), allow_unused=True)
    for name, grad in zip(asked, grads, strict=True):
        if grad is not None:
            raise UserError(
                f"{name}: also read within a transform of torch.func, or by a function that hides "
                "what it does; needs one layer alone for a Kronecker factor"
            )


class _Watch(TorchFunctionMode):
    """Record calls of a linear layer or a convolution whose weight is a leaf of the params.

    With `as_constants` their weights and biases have no gradient.

    Attributes:
        names: those of the leaves and of their clones, by identity.
        calls: the calls of layers, by the name of the weight.
        others: the name of another function that reads a leaf, by the name of the leaf.
    """

    def __init__(self, params: Params, offsets: Params, as_constants: bool = False):
        super().__init__()
        self.names = {id(leaf): name for name, leaf in params.items()}
        self.clones: list[Tensor] = []  # kept, so that no other tensor takes their identity
        self.offsets, self.as_constants = offsets, as_constants
        self.calls, self.others = {}, {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        y = function(*args, **kwargs)
        known = [id(x) for x in iter_leaves((args, kwargs)) if id(x) in self.names]
        if not known:
            return y
        if function in CLONES:
            self.names[id(y)] = self.names[known[0]]
            self.clones.append(y)
            return y
        weight = id(kwargs.get("weight", args[1] if len(args) > 1 else None))
        if function in READERS and weight in known:
            known.remove(weight)
            y = self._called(function, args, kwargs, self.names[weight], known, y)
        if known and _depends_on_values(function, args, y, self.names):
            name = resolve_name(function) or getattr(function, "__name__", "another function")
            self.others |= {self.names[leaf]: name for leaf in known}
        return y

    def _called(self, function, args, kwargs, weight: str, known: list, y: Tensor) -> Tensor:
        """Record a call of a layer, and return its output; remove its bias from what is `known`."""
        read = READERS[function]
        inputs, given = read(*args, **kwargs)
        bias = self.names.get(id(given)) if given is not None else None
        if self.as_constants:
            y = self._of_constants(function, args, kwargs)
        if bias is not None:
            known.remove(id(given))
        taken = {leaf for call in self.calls.values() for leaf in (call.weight, call.bias)}
        for name in (weight, bias):
            if name is not None and name in taken:
                raise UserError(f"{name}: two layers read it, needs one for a Kronecker factor")
        y = y + self.offsets[weight] if weight in self.offsets else y
        self.calls[weight] = LayerCall(weight, bias, inputs, y, read is _read_conv)
        return y

    def _of_constants(self, function: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Return the output of a layer whose leaves have no gradient."""
        constant = lambda x: x.detach() if id(x) in self.names else x
        return function(*map(constant, args), **{k: constant(x) for k, x in kwargs.items()})


def _depends_on_values(function: Callable, args: tuple, y: Any, names: dict[int, str]) -> bool:
    """Return True if the result `y` of a function has a derivative by the leaves that it takes."""
    name = getattr(function, "__name__", "")
    if function == Tensor.data.__get__ or name in CONSTANT:
        return False
    if name in AS_ANOTHER and id(args[0]) not in names:
        return False
    if name == "__setitem__":
        return True
    parts = [x for x in iter_leaves(y) if isinstance(x, Tensor) and id(x) not in names]
    return any(x.is_floating_point() or x.is_complex() for x in parts)


def _read_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple:
    if input.ndim < 2:
        raise UserError(f"Linear: an input of shape {tuple(input.shape)} has no axis of examples")
    return input.reshape(input.shape[0], -1, input.shape[-1]), bias


def _read_conv(
    input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> tuple:
    if groups != 1 or isinstance(padding, str):
        raise UserError("Conv: groups or a padding by name; needs groups=1 and padding in pixels")
    if input.ndim < 4:
        raise UserError(f"Conv: an input of shape {tuple(input.shape)} has no axis of examples")
    patches = F.unfold(input, tuple(weight.shape[2:]), dilation, padding, stride)
    return patches.transpose(1, 2), bias


READERS = {
    **dict.fromkeys((F.linear, linear), _read_linear),
    **dict.fromkeys((F.conv2d, torch.conv2d, conv2d), _read_conv),
}
CLONES = {torch.clone, Tensor.clone, Tensor.contiguous}  # of the same values and derivative
CONSTANT = {  # have no derivative by what they take
    *("detach", "detach_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like"),
    *("randn_like", "randint_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
}
AS_ANOTHER = {"to", "type_as", "view_as", "reshape_as", "expand_as"}  # of the first argument alone
