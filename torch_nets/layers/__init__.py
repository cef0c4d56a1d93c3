"""Layers as in JAX's stax: a constructor returns a `Model`, two pure functions.

    init(key) -> (params, buffers)
    apply(params, buffers, x, *, train=False, key=None) -> (y, buffers)

`serial(fc1=Linear(2, 20), relu1=ReLU(), ...)` applies layers in sequence and is a layer itself.
Params are float32 tensors on the CPU, drawn as PyTorch's modules draw theirs and named as in their
`state_dict`, so the state of a torch module is the params of the same layer here.

One file for each idea: basic (linear, activations, dropout, sequences), convolutions, norms,
recurrent, attention, lazy (sizes that are read from an example).
"""

from typing import NoReturn

from purenets.core.other_names import refuse_name
from purenets.torch_nets.layers.attention import MultiheadAttention, TransformerBlock
from purenets.torch_nets.layers.basic import (
    ACTIVATIONS,
    GELU,
    Dropout,
    Embedding,
    FixedLinear,
    Flatten,
    Linear,
    ReLU,
    Scale,
    SiLU,
    Tanh,
    elementwise,
    residual,
    serial,
)
from purenets.torch_nets.layers.convolutions import (
    Conv,
    Conv1d,
    ConvTranspose,
    FixedConv,
    GlobalAvgPool,
    MaxPool,
)
from purenets.torch_nets.layers.lazy import lazy
from purenets.torch_nets.layers.norms import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from purenets.torch_nets.layers.recurrent import GRU, LSTM, RNN, LastStep

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm",
    "Conv",
    "Conv1d",
    "ConvTranspose",
    "Dropout",
    "Embedding",
    "FixedConv",
    "FixedLinear",
    "Flatten",
    "GlobalAvgPool",
    "GroupNorm",
    "LastStep",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "MultiheadAttention",
    "RMSNorm",
    "ReLU",
    "Scale",
    "SiLU",
    "Tanh",
    "TransformerBlock",
    "elementwise",
    "lazy",
    "residual",
    "serial",
]


def __getattr__(name: str) -> NoReturn:
    """Raise the AttributeError of a name that is not here; it says what a name of Flax is here."""
    refuse_name("layers", name)
