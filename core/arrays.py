"""One vocabulary for NumPy arrays and torch tensors: the array API standard, by array-api-compat."""

import array_api_compat.numpy as numpy_namespace
import numpy as np

from purenets.core.base import Array

NUMPY = (np.ndarray, np.generic, int, float)  # the types of NumPy's arrays, and of numbers


def namespace(x: Array):
    """The array API namespace of `x`. torch is imported only when `x` is one of its tensors.

    (`array_api_compat.array_namespace` does the same, but torch.compile warns about its caches.)
    """
    if isinstance(x, NUMPY):
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


def is_tracing() -> bool:
    """Whether torch.compile or a transform of torch.func looks on."""
    import torch

    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
