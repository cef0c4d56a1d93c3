"""A `Model` as a torch.nn.Module, for torch.export, ONNX, Lightning, hooks.

    module = to_module(model, state.params, state.buffers)
    module.state_dict().keys()                # the names of params and buffers: "fc1.weight", ...
    program = torch.export.export(module.eval(), (x,))
    torch.onnx.export(module.eval(), (x,), "net.onnx", dynamo=True)

It behaves as modules do: params and buffers are its own and change in place, training mode is an
attribute, and draws come from torch's generator. `from_module` is the inverse.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from purenets.core import random
from purenets.core.arguments import expect_leaves, expect_models
from purenets.core.base import Buffers, Model, Params, UserError
from purenets.core.serial import own_or_drawn_leaves, takes_example
from purenets.torch_nets.grad import expect_param_tensors


def to_module(model: Model, params: Params, buffers: Buffers | None = None) -> nn.Module:
    """Return a torch.nn.Module that computes what the model does, with copies of its params.

    `forward` takes one input, several inputs or keyword inputs. It applies the model in the mode
    that `train()` and `eval()` set, and writes the new buffers into those of the module. Save its
    `state_dict`: `torch.save` of the module itself fails, since pickle takes no functions that are
    made by functions, as those of a model are.

    Args:
        model: the network.
        params: tensors by name.
        buffers: tensors by name; none by default.

    Returns:
        A module. Its `state_dict` has the names of params and buffers, and is that of the
        equivalent torch.nn module where there is one.

    Raises:
        UserError: an argument is wrong, a leaf is missing or unknown, or torch's modules do not
            allow its name.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import MLP, to_module
        >>> model = MLP(2, [3], 2)
        >>> module = to_module(model, *model.init(random.key(0)))
        >>> module
        Serial(
          (fc1): Linear(weight: (3, 2), bias: (3,))
          (relu1): ReLU()
          (fc2): Linear(weight: (2, 3), bias: (2,))
        )
        >>> module(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """
    buffers = {} if buffers is None else buffers
    expect_models("to_module", ("apply",), model=model)
    expect_leaves("to_module", params=params, buffers=buffers)
    expect_param_tensors(params | buffers)
    _expect_leaves_of(model, params, buffers)
    return Net(model, params, buffers)


def _expect_leaves_of(model: Model, params: Params, buffers: Buffers) -> None:
    """Raise a UserError that names a leaf which the model's own `init` lacks, or has beyond these.

    Lazily sized layers cannot be asked without an example; they find out when they are applied.
    """
    if not callable(getattr(model, "init", None)) or takes_example(model):
        return
    key = random.key(0)
    for what, given, own in zip(
        ("params", "buffers"), (params, buffers), own_or_drawn_leaves(model, key), strict=True
    ):
        missing = [name for name in own if name not in given]
        if missing:
            raise UserError(f"to_module: {', '.join(missing)}: missing in {what}")
        unknown = [name for name in given if name not in own]
        if unknown:
            known = ", ".join(own) or "none"
            raise UserError(
                f"to_module: {', '.join(unknown)}: unknown in {what}; the model has {known}"
            )


class _Leaves(nn.Module):
    """The leaves of a layer, and the layers within it, by name."""

    def __init__(self, model: Model | None, params: Params, buffers: Buffers):
        super().__init__()
        self._kind = model.kind if model is not None else ""
        parts = [_by_child(leaves) for leaves in (params, buffers)]
        layers = model.layers if model is not None else {}
        for name in {**layers, **parts[0], **parts[1]}:
            own = [part.get(name, {}) for part in parts]
            if any(own) or not hasattr(self, name):  # a layer without leaves is there to be printed
                self._add(name, layers.get(name), *own)

    def _add(self, name: str, layer: Model | None, params: Params, buffers: Buffers) -> None:
        """Register what is called `name`: a leaf, which has the name "" there, or a layer."""
        try:
            if "" not in {**params, **buffers}:
                self.add_module(name, _Leaves(layer, params, buffers))
            elif len(params) + len(buffers) > 1:
                raise KeyError("is a leaf and a layer")
            elif params:
                value = params[""].detach().clone()
                self.register_parameter(
                    name, nn.Parameter(value, value.is_floating_point() or value.is_complex())
                )
            else:
                self.register_buffer(name, buffers[""].detach().clone())
        except KeyError as error:
            reason = error.args[0]
            raise UserError(f"{name}: no name for a part of a torch.nn.Module: {reason}") from None

    def _get_name(self) -> str:
        return self._kind or "Leaves"

    def extra_repr(self) -> str:
        """Return the shapes of the leaves, counters apart, which `print` shows."""
        leaves = dict(self.named_parameters(recurse=False))
        leaves |= {name: leaf for name, leaf in self.named_buffers(recurse=False) if leaf.ndim}
        return ", ".join(f"{name}: {tuple(leaf.shape)}" for name, leaf in leaves.items())


class Net(_Leaves):
    """The module that `to_module` returns.

    Args:
        model, params, buffers: as for `to_module`.
        make: a function that returns the model and that pickle takes, or None; with it, pickle
            takes the module too.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        buffers: Buffers,
        make: Callable[[], Model] | None = None,
    ):
        super().__init__(model, params, buffers)
        self._model, self._make = model, copy.deepcopy(make)  # its arguments may be lists
        self._places = [[self._place(name) for name in part] for part in (params, buffers)]

    def _place(self, name: str) -> tuple[str, nn.Module, str]:
        """Return the name of a leaf, the module that holds it, and its name there."""
        owner, _, leaf = name.rpartition(".")
        return name, self.get_submodule(owner), leaf

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"_model": None} if self._make else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._make:
            self._model = self._make()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the output of the model on one input, several inputs, or keyword inputs."""
        x = named if named else inputs[0] if len(inputs) == 1 else inputs
        params, buffers = (
            {name: getattr(owner, leaf) for name, owner, leaf in part} for part in self._places
        )
        y, new = self._model.apply(params, buffers, x, train=self.training, key=self._key())
        for name, value in new.items():
            if value is not buffers[name]:
                buffers[name].copy_(value.detach())
        return y

    def _key(self) -> Tensor | None:
        """Return a key from torch's generator, for models that draw in training."""
        return draw_key() if self.training and self._model.uses_key else None


def with_leaves(model: Model) -> tuple[Model, Params, Buffers]:
    """Return a model with its params and buffers, drawn by a key from torch's generator.

    Args:
        model: the network.

    Returns:
        (model, params, buffers), the arguments of `to_module`.

    Raises:
        UserError: `model` is not a model.

    Example:
        >>> from purenets.torch_nets import MLP
        >>> from purenets.torch_nets.to_module import with_leaves
        >>> model, params, buffers = with_leaves(MLP(2, [3], 2))
        >>> params["fc1.weight"].shape
        torch.Size([3, 2])
    """
    expect_models("with_leaves", model=model)
    return model, *model.init(draw_key())


def draw_key() -> Tensor:
    """Return a key from torch's generator, which `torch.manual_seed` seeds.

    Returns:
        A key, int64 (2,).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.to_module import draw_key
        >>> with torch.random.fork_rng():
        ...     _ = torch.manual_seed(0)
        ...     draw_key().shape
        torch.Size([2])
    """
    return torch.randint(0, 1 << 32, (2,), dtype=torch.int64)


def _by_child(leaves: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return {"fc1": {"weight": ...}, "scale": {"": ...}} of "fc1.weight" and "scale"."""
    children: dict[str, dict[str, Tensor]] = {}
    for name, leaf in leaves.items():
        child, _, rest = name.partition(".")
        children.setdefault(child, {})[rest] = leaf
    return children
