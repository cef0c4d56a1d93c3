"""Linear layers, activations, dropout, embeddings, and layers in a row."""

import math
from collections.abc import Callable

import torch
import torch.overrides
from torch import Tensor

from purenets.core import random
from purenets.core.arguments import (
    ANY,
    FINITE,
    NOT_NEGATIVE,
    expect_choice,
    expect_flags,
    expect_functions,
    expect_integers,
    expect_numbers,
    expect_reals,
)
from purenets.core.base import Model, UserError
from purenets.core.kernel_rules import product_rule
from purenets.core.memory import sized
from purenets.core.serial import (
    expect,
    expect_batch,
    expect_features,
    expect_sizes,
    serial_apply,
    serial_init,
    serial_uses_key,
)
from purenets.torch_nets.fast import matmul

MAX_MULTIPLIES_INLINE = 4096  # up to here torch.compile does better without a library


def uniform_init(shapes: dict[str, tuple[int, ...]], bound: float) -> Callable:
    """Return `init(key)`, which draws every leaf uniform within `bound`, and knows its size."""

    def init(key):
        keys = random.split(torch_key(key), len(shapes))
        draws = zip(shapes.items(), keys, strict=True)
        return {
            name: random.uniform(k, shape, low=-bound, high=bound) for (name, shape), k in draws
        }, {}

    return sized(init, shapes)


def torch_key(key) -> Tensor:
    """Return a key as a tensor; a UserError if it is none."""
    return torch.as_tensor(random.check_key(key))


def expect_tensor(x: Tensor) -> None:
    """Raise a UserError for an input that is no tensor."""
    if not isinstance(x, Tensor):
        raise UserError(f"input: a {type(x).__name__}, needs a tensor; see to_torch")


def Linear(n_in: int, n_out: int, *, bias: bool = True, bound: float | None = None) -> Model:
    """y = x W^T + b: (..., n_in) -> (..., n_out). W and b uniform within `bound`, by default 1 /
    sqrt(n_in), as nn.Linear."""
    expect_sizes("Linear", n_in=n_in, n_out=n_out)
    expect_flags("Linear", bias=bias)
    if bound is not None:
        expect_numbers("Linear", NOT_NEGATIVE, bound=bound)
    shapes = {"weight": (n_out, n_in)} | ({"bias": (n_out,)} if bias else {})
    bound = 1 / math.sqrt(n_in) if bound is None else bound

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_features(x, n_in)
        return linear(x, params["weight"], params.get("bias")), buffers

    return Model(uniform_init(shapes, bound), apply, uses_key=False, kind="Linear")


@torch.overrides.wrap_torch_function(lambda x, weight, bias: (x, weight))
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b. A tiny one under torch.compile is written as multiplications and sums, which
    become one loop with what stands around them: to call a library for it would take longer. A
    large one may be for oneDNN. Under torch.export, where sizes may be open, it is neither.

    It is one operation for modes of torch, such as that of `analysis.ghost`.
    """
    if torch.compiler.is_exporting():
        return torch.nn.functional.linear(x, weight, bias)
    multiplications = x.numel() * weight.shape[0]
    least = product_rule().min_multiplies_operation
    if 0 < multiplications <= MAX_MULTIPLIES_INLINE and torch.compiler.is_compiling() and x.is_cpu:
        y = (x.unsqueeze(-2) * weight).sum(-1)
    elif multiplications >= least and matmul.onednn_supports(x, weight):
        y = matmul.product(x.reshape(-1, x.shape[-1]), weight.mT).reshape(*x.shape[:-1], -1)
    else:
        return torch.nn.functional.linear(x, weight, bias)
    return y if bias is None else y + bias


def FixedLinear(weight: Tensor, bias: Tensor) -> Model:
    """y = x W^T + b with given W (n_out, n_in) and b (n_out,), which are buffers and not trained:
    (..., n_in) -> (..., n_out)."""
    given = {"weight": weight, "bias": bias}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, {})
        expect_features(x, weight.shape[1])
        fixed = {name: buffers[name].to(x.dtype) for name in given}
        return linear(x, fixed["weight"], fixed["bias"]), buffers

    return Model(lambda key: ({}, given), apply, uses_key=False, kind="FixedLinear")


def elementwise(f: Callable[[Tensor], Tensor], kind: str = "") -> Model:
    """Return a layer without params, y = f(x); `kind` is its name in a table."""
    expect_functions("elementwise", f=f)

    def apply(params, buffers, x, *, train=False, key=None):
        if type(params) is not dict or params:
            expect(params, {})
        try:
            return f(x), buffers
        except (TypeError, AttributeError):
            expect_tensor(x)
            raise

    return Model(lambda key: ({}, {}), apply, uses_key=False, kind=kind)


def ReLU() -> Model:
    """max(0, x)."""
    return elementwise(torch.relu, "ReLU")


def Tanh() -> Model:
    """tanh(x)."""
    return elementwise(torch.tanh, "Tanh")


def SiLU() -> Model:
    """x sigmoid(x) (Elfwing et al. 2018; also called swish)."""
    return elementwise(torch.nn.functional.silu, "SiLU")


def GELU(*, approximate: str = "tanh") -> Model:
    """x Phi(x), Phi the normal distribution function (Hendrycks, Gimpel 2016): in its tanh form, or
    exactly with approximate="none", nn.GELU's default."""
    expect_choice("GELU", ("tanh", "none"), approximate=approximate)
    return elementwise(lambda x: torch.nn.functional.gelu(x, approximate=approximate), "GELU")


def Scale(factor: float) -> Model:
    """factor * x."""
    expect_numbers("Scale", FINITE, factor=factor)
    return elementwise(lambda x: factor * x, "Scale")


ACTIVATIONS = {"relu": ReLU, "tanh": Tanh, "silu": SiLU}


def Flatten() -> Model:
    """(batch, ...) -> (batch, features)."""

    def flat(x):
        expect_batch(x)
        return x.flatten(start_dim=1)

    return elementwise(flat, "Flatten")


def Dropout(rate: float) -> Model:
    """Zeros with probability `rate` when training, else x / (1 - rate); needs a key then."""
    expect_reals("dropout", ANY, rate=rate)
    if not 0 <= rate < 1:
        raise UserError(f"dropout: rate {rate} is not from 0 to below 1")

    def apply(params, buffers, x, *, train=False, key=None):
        if not train or rate == 0:
            return x, buffers
        if key is None:
            raise UserError("dropout: training needs a key")
        kept = random.bernoulli(key, 1 - rate, x.shape)
        return x * (kept.to(x.dtype) / (1 - rate)), buffers

    return Model(lambda key: ({}, {}), apply, kind="Dropout")


def Embedding(n_tokens: int, n_features: int, *, padding: int | None = None) -> Model:
    """Rows of a table: integers (...) from 0 to n_tokens - 1 -> (..., n_features). As nn.Embedding:
    weights standard normal; padding: the token whose row is 0 at the start and gets no gradient."""
    expect_sizes("Embedding", n_tokens=n_tokens, n_features=n_features)
    shapes = {"weight": (n_tokens, n_features)}
    if padding is not None:
        expect_integers("Embedding", 0, padding=padding)
        if padding >= n_tokens:
            raise UserError(f"Embedding: padding is {padding}, the last token is {n_tokens - 1}")

    def init(key):
        weight = random.normal(torch_key(key), shapes["weight"])
        if padding is not None:
            weight = weight * (torch.arange(n_tokens) != padding)[:, None]
        return {"weight": weight}, {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise UserError(f"input: {str(x.dtype).removeprefix('torch.')}, needs integers")
        return torch.nn.functional.embedding(x, params["weight"], padding), buffers

    return Model(sized(init, shapes), apply, uses_key=False, kind="Embedding")


def residual(**layers: Model) -> Model:
    """x + f(x) of layers in a row f (He et al. 2016); f's params are named as in `serial`."""
    inner = serial(**layers)

    def apply(params, buffers, x, *, train=False, key=None):
        y, buffers = inner.apply(params, buffers, x, train=train, key=key)
        return x + y, buffers

    return inner._replace(apply=apply, kind="Residual")


def serial(**layers: Model) -> Model:
    """Layers in a row; the params of `fc1=Linear(...)` are named "fc1.weight" and "fc1.bias"."""

    run = serial_apply(layers, "apply")

    def apply(params, buffers, x, *, train=False, key=None):
        return run(params, buffers, x, train=train, key=key)[:2]

    return Model(serial_init(layers), apply, serial_uses_key(layers), "Serial", layers)
