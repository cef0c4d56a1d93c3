"""The multi-layer perceptron of the assignment, as two pure functions."""

from collections.abc import Sequence

from purenets.core.architectures import mlp_layers
from purenets.core.base import Model
from purenets.torch_nets import layers


def MLP(
    n_inputs: int,
    n_hidden: Sequence[int],
    n_classes: int,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
) -> Model:
    """x: (batch, n_inputs) -> logits: (batch, n_classes), through hidden layers of `n_hidden` units
    each.

    No softmax at the end: the loss has it. Params: "fc1.weight" (n_hidden[0], n_inputs),
    "fc1.bias", ...
    """
    return layers.serial(**mlp_layers(layers, n_inputs, n_hidden, n_classes, activation, dropout))
