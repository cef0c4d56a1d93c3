"""The multi-layer perceptron of the assignment, with the backward pass by hand."""

from collections.abc import Sequence

from purenets.core.architectures import mlp_layers
from purenets.numpy_nets import modules
from purenets.numpy_nets.grad import NumpyModel, model_from_module


def MLP(
    n_inputs: int,
    n_hidden: Sequence[int],
    n_classes: int,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
) -> NumpyModel:
    """x: (batch, n_inputs) -> logits: (batch, n_classes), through hidden layers of `n_hidden` units
    each.

    No softmax at the end: the loss has it. Params: "fc1.weight" (n_hidden[0], n_inputs),
    "fc1.bias", ...
    """
    layers = mlp_layers(modules, n_inputs, n_hidden, n_classes, activation, dropout)
    return model_from_module(modules.serial(**layers))
