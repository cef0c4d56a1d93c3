"""The multi-layer perceptron of the assignment, as two pure functions and as a module."""

import functools
from collections.abc import Sequence

from torch import Tensor

from purenets.core.architectures import mlp_layers
from purenets.core.base import Model
from purenets.torch_nets import layers
from purenets.torch_nets.to_module import Net, with_leaves


def MLP(
    n_inputs: int,
    n_hidden: Sequence[int],
    n_classes: int,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
) -> Model:
    """Return a multi-layer perceptron: linear layers with an activation between them.

    There is no softmax at the end; the loss has it.

    Args:
        n_inputs: features of an input.
        n_hidden: units of each hidden layer, as [100, 50]; [] for a linear classifier.
        n_classes: classes, one logit each.
        activation: "relu", "tanh" or "silu".
        dropout: the probability to drop a hidden unit in training.

    Returns:
        A model (batch, n_inputs) -> logits (batch, n_classes). Params: "fc1.weight" (n_hidden[0],
        n_inputs), "fc1.bias" (n_hidden[0],), "fc2.weight" and so on.

    Raises:
        UserError: a size is not a positive integer, `activation` is another name, or `dropout` is
            out of range.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import MLP
        >>> model = MLP(2, [20], 3)
        >>> params, buffers = model.init(random.key(0))
        >>> list(params)
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
        >>> logits, _ = model.apply(params, buffers, torch.zeros(5, 2))
        >>> logits.shape
        torch.Size([5, 3])
    """
    return layers.serial(**mlp_layers(layers, n_inputs, n_hidden, n_classes, activation, dropout))


class MLPModule(Net):
    """The MLP as a torch.nn.Module, called as the assignment's skeleton calls it.

    It computes what `MLP` does, by `to_module`. Its params are drawn from torch's generator.

    Args:
        n_inputs: features of an input.
        n_hidden: units of each hidden layer.
        n_classes: of the logits.

    Example:
        >>> import torch
        >>> model = MLPModule(2, [20], 2)
        >>> model(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    """

    def __init__(self, n_inputs: int, n_hidden: Sequence[int], n_classes: int):
        make = functools.partial(MLP, n_inputs, n_hidden, n_classes)
        super().__init__(*with_leaves(make()), make)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (batch, n_classes) of x: (batch, n_inputs)."""
        return super().forward(x)
