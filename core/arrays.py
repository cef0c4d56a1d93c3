"""One vocabulary for NumPy arrays and torch tensors: the array API standard, by
array-api-compat.
"""

from collections.abc import Callable

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


def plain(x: Array) -> Array:
    """Return a torch.nn.Parameter as a plain tensor of its values, anything else as it is.

    A Parameter requires grad: each step of a training that began at it would hold on to the step
    before.
    """
    if isinstance(x, NUMPY):
        return x
    import torch

    return x.detach() if isinstance(x, torch.nn.Parameter) else x


def like(value, reference: Array) -> Array:
    """`value` as an array of the library, dtype and device of `reference`."""
    xp = namespace(reference)
    if xp is numpy_namespace:
        return np.asarray(value, dtype=reference.dtype)
    return xp.asarray(value, dtype=reference.dtype, device=reference.device)


def is_tracing() -> bool:
    """Return True under torch.compile or a torch.func transform, where no value of a tensor may be
    read.

    Without `purenets.torch_nets`, which knows, the answer is True: always right, and slower.
    """
    return _tracing_checks[-1]()


def register_tracing(check: Callable[[], bool]) -> None:
    """Let `is_tracing` ask `check`; called where `purenets.torch_nets` is imported."""
    _tracing_checks[:] = [check]


_tracing_checks: list[Callable[[], bool]] = [lambda: True]
