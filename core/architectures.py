"""The layer lists of the reduced VGG, the RNN and the MLP, for the NumPy and the torch backend."""

import itertools
from collections.abc import Callable, Sequence

from purenets.core.arguments import (
    ANY,
    POSITIVE,
    expect_functions,
    expect_integers,
    expect_reals,
    expect_units,
)
from purenets.core.base import UserError

VGG = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def reduced_vgg(
    backend,
    n_channels: int,
    n_classes: int,
    width: float = 1.0,
    norm: Callable | None = None,
    conv: Callable | None = None,
) -> dict:
    """Return the layers of the assignment's reduced VGG by name: "conv1", "norm1", ..., "fc".

    A convolution is 3x3 with stride 1 and padding 1, followed by BatchNorm and ReLU; a pooling
    takes the maximum of 3x3 with stride 2 and padding 1. Each pooling comes before the ReLU, where
    the assignment has it after: max(relu(x)) = relu(max(x)), with the same gradient, and this ReLU
    then sees a quarter of the pixels.

    Args:
        backend: a module with the layers Conv, BatchNorm, ReLU, MaxPool, GlobalAvgPool and Linear.
        n_channels: the channels of the images.
        n_classes: outputs.
        width: a factor of the channels of all convolutions.
        norm, conv: constructors in place of BatchNorm and Conv.

    Returns:
        The layers, in order.

    Raises:
        UserError: an argument has the wrong type or value.
    """
    expect_integers("CNN", 1, n_channels=n_channels, n_classes=n_classes)
    expect_reals("CNN", POSITIVE, width=width)
    norm = backend.BatchNorm if norm is None else norm
    conv = backend.Conv if conv is None else conv
    expect_functions("CNN", norm=norm, conv=conv)
    layers, convolutions, pools, channels = {}, 0, 0, n_channels
    for what, then in itertools.pairwise((*VGG, None)):
        if what == "pool":
            continue
        convolutions += 1
        more = max(1, round(what * width))
        layers[f"conv{convolutions}"] = conv(channels, more, 3, padding=1)
        layers[f"norm{convolutions}"] = norm(more)
        if then == "pool":
            pools += 1
            layers[f"pool{pools}"] = backend.MaxPool(3, stride=2, padding=1)
        layers[f"relu{convolutions}"] = backend.ReLU()
        channels = more
    return layers | {"mean": backend.GlobalAvgPool(), "fc": backend.Linear(channels, n_classes)}


# How W_hh begins, and how a training step computes equation (1): in torch_nets/vanilla_rnn.py
RNN_INITS = ("default", "orthogonal", "identity")
RNN_RECURRENCES = ("loop", "fused")


def rnn_shapes(input_dim: int, num_hidden: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the vanilla RNN's params by their names in equations (1) and (2)."""
    return {
        "W_hx": (num_hidden, input_dim),
        "W_hh": (num_hidden, num_hidden),
        "b_h": (num_hidden,),
        "W_ph": (num_classes, num_hidden),
        "b_o": (num_classes,),
    }


def mlp_layers(
    backend, n_inputs: int, n_hidden: Sequence[int], n_classes: int, activation: str, dropout: float
) -> dict:
    """Return the layers of a multi-layer perceptron by name: "fc1", "relu1", ..., "fc2".

    Args:
        backend: a module with the layers Linear and Dropout and the table ACTIVATIONS.
        n_inputs: features of an example.
        n_hidden: units of each hidden layer.
        n_classes: outputs.
        activation: one of ACTIVATIONS.
        dropout: the probability of dropping a hidden unit; 0 for no such layers.

    Returns:
        The layers, in order.

    Raises:
        UserError: an argument has the wrong type or value.
    """
    if not isinstance(activation, str) or activation not in backend.ACTIVATIONS:
        raise UserError(
            f"activation: unknown {activation!r}, choose from {', '.join(backend.ACTIVATIONS)}"
        )
    expect_reals("MLP", ANY, dropout=dropout)
    expect_integers("MLP", 1, n_inputs=n_inputs, n_classes=n_classes)
    expect_units("MLP", "[20]", n_hidden=n_hidden)
    layers, width = {}, n_inputs
    for i, units in enumerate(n_hidden, start=1):
        layers[f"fc{i}"] = backend.Linear(width, units)
        layers[f"{activation}{i}"] = backend.ACTIVATIONS[activation]()
        if dropout:
            layers[f"dropout{i}"] = backend.Dropout(dropout)
        width = units
    return layers | {f"fc{len(n_hidden) + 1}": backend.Linear(width, n_classes)}
