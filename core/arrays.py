"""One vocabulary for NumPy arrays and torch tensors: the array API standard, by array-api-compat."""

import array_api_compat.numpy as numpy_namespace
import numpy as np

from core.base import Array


def namespace(x: Array):
    """The array API namespace of `x`. torch is imported only when `x` is one of its tensors.

    (`array_api_compat.array_namespace` does the same, but torch.compile warns about its caches.)
    """
    if isinstance(x, (np.ndarray, np.generic, int, float)):
        return numpy_namespace
    import array_api_compat.torch as torch_namespace

    return torch_namespace


def to_host(x: Array) -> np.ndarray:
    """`x` as a NumPy array; a tensor is copied from its device."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def like(value, reference: Array) -> Array:
    """`value` as an array of the library, dtype and device of `reference`."""
    xp = namespace(reference)
    if xp is numpy_namespace:
        return np.asarray(value, dtype=reference.dtype)
    return xp.asarray(value, dtype=reference.dtype, device=reference.device)


def number(x: Array) -> float | None:
    """The value of a scalar array where reading it waits for nothing and nothing looks on: one of NumPy, or a
    tensor on the CPU outside of torch.compile and of torch.func's transforms. None elsewhere."""
    if namespace(x) is numpy_namespace:
        return float(x)
    return float(x) if x.device.type == "cpu" and not traced() else None


def traced() -> bool:
    """Whether torch.compile or a transform of torch.func looks on."""
    import torch

    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def lerp(a: Array, b: Array, weight: float | Array) -> Array:
    """a + weight (b - a)."""
    xp = namespace(a)
    if xp is numpy_namespace or not isinstance(weight, float) or a.dtype != b.dtype:
        return (1 - weight) * a + weight * b
    return xp.lerp(a, b, weight)  # one pass


def add_square(a: Array, b: Array, weight: float | Array) -> Array:
    """a + weight b^2."""
    xp = namespace(a)
    if xp is numpy_namespace or not isinstance(weight, float) or a.dtype != b.dtype:
        return a + weight * (b * b)
    return xp.addcmul(a, b, b, value=weight)  # one pass
