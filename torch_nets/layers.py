"""Layers as in JAX's stax: a constructor returns a `Model`, two pure functions.

    init(key) -> (params, buffers)
    apply(params, buffers, x, *, train=False, key=None) -> (y, buffers)

`serial(fc1=Linear(2, 20), relu1=ReLU(), ...)` puts them in a row and is a layer itself. Params are float32
tensors on the CPU, drawn as PyTorch's modules draw theirs.
"""

import math
from collections.abc import Callable

import torch

from core import random
from core.base import Model, UserError
from core.layers import draws_in_a_row, expect, expect_features, init_in_a_row, run_in_a_row


def Linear(n_in: int, n_out: int) -> Model:
    """y = x W^T + b: (..., n_in) -> (..., n_out). W and b uniform within 1 / sqrt(n_in), as nn.Linear."""

    def init(key):
        weight_key, bias_key = random.split(torch.as_tensor(key))
        bound = 1 / math.sqrt(n_in)
        weight = random.uniform(weight_key, (n_out, n_in), low=-bound, high=bound)
        return {"weight": weight, "bias": random.uniform(bias_key, (n_out,), low=-bound, high=bound)}, {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, weight=(n_out, n_in), bias=(n_out,))
        expect_features(x, n_in)
        return torch.nn.functional.linear(x, params["weight"], params["bias"]), buffers

    return Model(init, apply, draws=False)


def elementwise(f: Callable) -> Model:
    """A layer without params: y = f(x)."""

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params)
        return f(x), buffers

    return Model(lambda key: ({}, {}), apply, draws=False)


def ReLU() -> Model:
    """max(0, x)."""
    return elementwise(torch.relu)


def Tanh() -> Model:
    """tanh(x)."""
    return elementwise(torch.tanh)


ACTIVATIONS = {"relu": ReLU, "tanh": Tanh}


def Flatten() -> Model:
    """(batch, ...) -> (batch, features)."""
    return elementwise(lambda x: x.flatten(start_dim=1))


def Dropout(rate: float) -> Model:
    """Zeros with probability `rate` when training, else x / (1 - rate); needs a key then."""
    if not 0 <= rate < 1:
        raise UserError(f"dropout: rate {rate} is not from 0 to below 1")

    def apply(params, buffers, x, *, train=False, key=None):
        if not train or rate == 0:
            return x, buffers
        if key is None:
            raise UserError("dropout: training needs a key")
        kept = random.bernoulli(key, 1 - rate, x.shape)
        return x * (kept.to(x.dtype) / (1 - rate)), buffers

    return Model(lambda key: ({}, {}), apply)


def serial(**layers: Model) -> Model:
    """Layers in a row; the params of `fc1=Linear(...)` are named "fc1.weight" and "fc1.bias"."""

    def apply(params, buffers, x, *, train=False, key=None):
        def call(layer, mine, state, x, key):
            return layer.apply(mine, state, x, train=train, key=key)

        x, buffers, _ = run_in_a_row(layers, call, params, buffers, x, key)
        return x, buffers

    return Model(init_in_a_row(layers), apply, draws_in_a_row(layers))
