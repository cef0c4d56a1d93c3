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
    """Return a multi-layer perceptron with the backward pass by hand.

    Its params are "fc1.weight" (n_hidden[0], n_inputs), "fc1.bias" (n_hidden[0],), and so on for
    "fc2", ... There is no softmax at the end: the loss has it.

    Args:
        n_inputs: features of an example.
        n_hidden: the units of each hidden layer; [] for a linear classifier.
        n_classes: outputs.
        activation: "relu", "tanh" or "silu", after each hidden layer.
        dropout: the probability of dropping a hidden unit in training.

    Returns:
        A model from x: (batch, n_inputs) to logits: (batch, n_classes).

    Raises:
        UserError: a size is not a positive integer, `activation` is unknown, or `dropout` is not
            from 0 to below 1.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets import MLP
        >>> model = MLP(2, [20], 3)
        >>> params, buffers = model.init(random.key(0))
        >>> logits, buffers = model.apply(params, buffers, np.zeros((5, 2), np.float32))
        >>> logits.shape, params["fc1.weight"].shape
        ((5, 3), (20, 2))
    """
    layers = mlp_layers(modules, n_inputs, n_hidden, n_classes, activation, dropout)
    return model_from_module(modules.serial(**layers))
