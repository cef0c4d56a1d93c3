"""Dicts of arrays across the border between NumPy and torch."""

import numpy as np
import torch

from purenets.core import tree
from purenets.core.arrays import to_host
from purenets.core.base import UserError


def to_torch(params: dict, *, device=None, dtype=None) -> dict:
    """Every leaf as a tensor of its own memory; floating-point leaves as `dtype` if one is
    given.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise UserError(f"to_torch: dtype: {dtype!r} is none of torch's, such as torch.float32")

    if device is not None:
        expect_device("to_torch", device)

    def one(leaf):
        if not isinstance(leaf, torch.Tensor | np.ndarray | np.generic | int | float):
            raise UserError(f"to_torch: a leaf is a {type(leaf).__name__}, needs an array")
        tensor = leaf.detach().clone() if isinstance(leaf, torch.Tensor) else torch.tensor(leaf)
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    return tree.map(one, params)


def to_numpy(params: dict) -> dict:
    """Every leaf as a NumPy array of its own memory (bfloat16, which NumPy lacks, as float32)."""
    return tree.map(lambda leaf: to_host(leaf).copy(), params)


def expect_device(function: str, device) -> None:
    """Raise a UserError for what is no device, or is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{function}: device is {device!r}, which is not available here") from error


def device_from_name(name: str) -> torch.device:
    """The device called `name` ("auto" is CUDA where there is one);

    a UserError if it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"--device {name}: not available here, try cpu") from error
    return torch.device(name)
